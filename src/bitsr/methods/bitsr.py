"""The method of the nets that ship."""

from __future__ import annotations

import torch
from torch import nn

from ..layers.convs import BinaryConv2d, RunningNorm
from ..layers.ops import Ops, V
from .base import Unit

SCALE_MAPS = 8


class Bitsr(Unit):
    """bn(K * conv(sign(norm(x) - threshold), sign(w))) + skip, no other activation.

    Activations: gradient g * max(0, 2 - 2|x|); weights: no scale, gradient g, both from E2FIF
    (arXiv 2207.06893), whose batch norm and skip over each convolution stay. Around them:

    - norm: x less the mean of its channel, over its standard deviation (``layers.RunningNorm``).
      Thresholds and the window of the gradient are in those units, so that the gradient passes
      through streams of any size. Packed, it becomes part of the threshold.
    - threshold: learned for each channel (RSign of ReActNet, arXiv 2003.03488).
    - K: eight maps, of which output channel c takes number c % 8. Each is sum_c v_c |x_c| at a
      pixel of the input, v learned from 1/C. It restores what the sign removes: how large the
      input is where. In XNOR-Net (arXiv 1603.05279) K is the mean of |x| over channels and 3x3
      pixels; learned weights are ours. Where weights are tied (``train.equivariance``) the maps
      are one for each orientation.
    """

    def __init__(self, cin: int, cout: int, k: int = 3) -> None:
        super().__init__(cin, cout, k)
        self.conv = BinaryConv2d(cin, cout, k, act="approx_sign", weight="ste_sign")
        self.bn = nn.BatchNorm2d(cout)
        self.norm = RunningNorm(cin)
        self.scale_map = nn.Conv2d(cin, SCALE_MAPS, 1, bias=False)
        nn.init.constant_(self.scale_map.weight, 1 / cin)
        self.threshold = nn.Parameter(torch.zeros(cin))

    def build(self, ops: Ops[V], x: V, name: str, *, skip: V | None = None, act: bool = True) -> V:
        twin = self.conv.act == "float"
        return ops.bconv(
            name,
            self.conv,
            x,
            bn=self.bn,
            norm=None if twin else self.norm,
            threshold=self.threshold,
            skip=skip,
            # "size" is the name of these tensors in the model file.
            scale_map=None if twin else ops.scale_map(f"{name}.size", self.scale_map, x),
        )
