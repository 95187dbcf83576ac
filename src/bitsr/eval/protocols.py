"""The named protocols under which PSNR and SSIM are quoted (numpy alone)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from numpy.typing import ArrayLike

from ..degrade import check_setting
from ..errors import BitsrError
from .metrics import psnr, ssim


@dataclass(frozen=True)
class Protocol:
    """How LR images are made and SR images compared; a PSNR means nothing without its protocol.

    Common to all: HR is cropped to multiples of the scale; the net works on luma; the SR image is
    clipped and rounded to 8 bit; ``scale`` pixels of every border are left out. A grey file gives
    its levels as Y.
    """

    name: str
    source: str
    colour: Literal["y", "rgb"] = "y"
    """What is compared: luma, or RGB as ``bitsr upscale`` makes it."""
    lr_from: Literal["rgb", "y"] = "rgb"
    """What bicubic shrinks: the 8-bit RGB image into an 8-bit one, or the 8-bit luma into real
    numbers."""
    round_hr: bool = True
    """Whether HR luma is rounded to 8 bit. Rounding costs about 0.03 dB at 38 dB, 0.01 dB at 32
    dB."""
    sample_covariance: bool = False
    """SSIM as scikit-image computes it by default."""
    self_ensemble: bool = False
    """Mean of the net over the 8 flips and quarter rotations (Timofte et al., CVPR 2016): 8 times
    the work."""

    degrade: str = ""
    """What is done to LR images: a key of ``bitsr.degrade.SETTINGS``; empty: nothing."""

    def with_degradation(self, setting: str) -> Protocol:
        """The same on degraded LR images. Raises BitsrError for an unknown setting."""
        check_setting(setting)
        if self.lr_from != "rgb":
            raise BitsrError(f"the protocol {self.name} shrinks luma, and degradations want RGB")
        return replace(self, degrade=setting)

    def with_self_ensemble(self) -> Protocol:
        return replace(self, self_ensemble=True)

    def __str__(self) -> str:
        """The one line that stands beside every figure."""
        lr = "8-bit RGB" if self.lr_from == "rgb" else "8-bit luma, not rounded"
        if self.colour == "rgb":
            compared = "RGB (net on luma, chroma guided by it)"
        else:
            compared = "Y (BT.601, 16-235)" + ("" if self.round_hr else ", HR not rounded")
        lr += f", then {self.degrade}" if self.degrade else ""
        ensemble = "; self-ensemble x8" if self.self_ensemble else ""
        return (
            f"{self.name}: LR by MATLAB bicubic from {lr}; {compared}; SR rounded to 8 bit;"
            f" border crop = scale{ensemble}"
        )

    def score(self, sr: ArrayLike, hr: ArrayLike, scale: int) -> tuple[float, float]:
        """(PSNR in dB, SSIM) of an SR image, rounded already, against HR: both (H, W) or (H, W,
        3)."""
        return (
            psnr(sr, hr, crop=scale),
            ssim(sr, hr, crop=scale, sample_covariance=self.sample_covariance),
        )


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol("matlab-y", "MATLAB rgb2ycbcr and imresize on uint8, as in EDSR's and RCAN's evaluation"),
        Protocol(
            "e2fif",
            "released code of E2FIF (arXiv 2207.06893): HR luma unrounded, SSIM by scikit-image; its authors"
            " also pick the best epoch on Set5, which no protocol can undo",
            round_hr=False,
            sample_covariance=True,
        ),
        Protocol(
            "srcnn",
            "released code of SRCNN (Dong et al. 2014); gives the published bicubic rows (Set5 x2: 33.66 dB)",
            lr_from="y",
        ),
        Protocol("rgb", "BasicSR without test_y_channel", colour="rgb"),
    )
}
"""The one place to add a protocol; the first is the default."""


def protocol(name: str) -> Protocol:
    """A protocol by name. Raises BitsrError for an unknown one."""
    if name not in PROTOCOLS:
        raise BitsrError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
