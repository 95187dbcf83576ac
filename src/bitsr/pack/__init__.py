"""From a trained net to a model file.

``calibrate`` runs the net on images and finds the units of its integers, ``emit`` writes the
operations with their tensors (``fold`` has the arithmetic), ``check`` compares the result with the
float net, ``onnx`` writes a file of another kind. The formulas are those of csrc/include/bitsr.h.
"""

from .check import pack_checkpoint
from .emit import pack
from .fold import PackError

__all__ = ["PackError", "pack", "pack_checkpoint"]
