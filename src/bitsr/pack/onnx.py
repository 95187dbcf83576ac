"""A net as an ONNX file: the float simulation, for runtimes that know no bits.

The file computes what torch computes in evaluation mode: signs as +-1 in float32, sign(0) = +1
(comparison and selection; ONNX's Sign gives 0 there), weights binarized beforehand. Batch, height
and width are free. It is neither small nor fast; the packed file is.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from typing import Any

import torch

from ..files import NewFile
from ..layers.ops import Net
from ..train.checkpoint import load_net

OPSET = 18


def to_onnx(net: Net, path: str | os.PathLike[str], facts: dict[str, Any] | None = None) -> None:
    """Write ``net`` to ``path``: input "lr" float32 (N, 1, h, w), Y in [0, 255]; output "sr" (N, 1,
    scale*h, scale*w).

    facts go into the file's metadata as JSON. Signs of values within a rounding of 0 may differ
    between torch and a runtime, which moves single pixels. Raises ImportError where onnx or
    onnxscript is missing.
    """
    try:
        # torch's exporter wants it too, and says so late and in many lines.
        import onnx  # noqa: F401 # pyright: ignore[reportUnusedImport]
        from onnxscript import optimizer
    except ImportError as error:
        raise ImportError(f"{error}; exporting wants: pip install 'bitsr[onnx]'") from error
    example = torch.full((2, 1, 7, 6), 100.0)  # no size is 1, which would be taken for a constant
    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # of torchvision's operations
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(  # pyright: ignore[reportUnknownMemberType]
            net.eval(),
            (example,),
            input_names=["lr"],
            output_names=["sr"],
            opset_version=OPSET,
            dynamic_shapes=(sizes,),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        # Binarized weights are constants whatever their size: without the limit the file would do
        # the binarizing.
        optimizer.optimize_ir(program.model, input_size_limit=2**31, output_size_limit=2**31)
    program.model.doc_string = (
        f"bitsr: float simulation of {type(net).__name__}, x{net.scale}; luma in [0, 255]"
    )
    program.model.metadata_props.update({k: json.dumps(v) for k, v in (facts or {}).items()})
    with NewFile(path) as new:
        program.save(new.part, external_data=False)  # pyright: ignore[reportUnknownMemberType]


def export_checkpoint(checkpoint: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """The net of a checkpoint to an ONNX file. Raises CheckpointError, ImportError or OSError."""
    net, facts = load_net(checkpoint)
    to_onnx(net, path, facts)  # type: ignore[arg-type]
