"""A packed net as a module of PyTorch, for pipelines. It runs its bits on the CPU, whatever the device
of its input; ``bitsr.load_torch`` gives the net as it was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .errors import BitsrError
from .upscaler import Upscaler, load

_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Upscale(nn.Module):
    """The packed net ``net`` on tensors: (..., C, H, W) -> (..., C, scale H, scale W).

    net: as in ``bitsr.load``, or an Upscaler. C: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
    Samples are uint8 in [0, 255], or floats in [0, ``range``], which pass the net as 16-bit integers;
    what lies outside is clipped. The result has the dtype and device of the input and no gradient.
    Pickling and ``copy.deepcopy`` work; a state dict is empty, for there is nothing to learn.
    Raises BitsrError for a net that is not there, and from ``forward`` for a tensor of another kind.
    """

    def __init__(
        self,
        net: str | Path | Upscaler | None = None,
        scale: int | None = None,
        *,
        range: float = 1.0,
        threads: int | None = None,
        ensemble: bool = False,
    ):
        super().__init__()
        self.upscaler = net if isinstance(net, Upscaler) else load(net, scale, threads=threads)
        self.scale, self.range, self.ensemble = self.upscaler.scale, float(range), ensemble

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 3 or x.dtype not in _DTYPES:
            raise BitsrError(
                f"a tensor must be (..., C, H, W) uint8 or float, not {x.dtype} {tuple(x.shape)}"
            )
        *lead, channels, height, width = x.shape
        host = x.detach().cpu()
        if x.dtype in (torch.float16, torch.bfloat16):
            host = host.float()
        images = host.reshape(-1, channels, height, width).permute(0, 2, 3, 1).numpy()
        scale_of_samples = None if x.dtype == torch.uint8 else self.range
        out = self.upscaler(images, range=scale_of_samples, ensemble=self.ensemble)
        sr = torch.from_numpy(np.ascontiguousarray(out.transpose(0, 3, 1, 2)))
        return sr.reshape(*lead, *sr.shape[1:]).to(x.device, x.dtype)

    def extra_repr(self) -> str:
        return f"{self.upscaler.name!r}, scale={self.scale}, range={self.range:g}"
