"""Networks in PyTorch: ``NETS`` is the one place to add a net.

A net is an ``nn.Module`` class called as ``cls(scale=4, **args)`` that maps Y in [0, 255],
(N, 1, h, w) -> (N, 1, scale*h, scale*w). Its file names the source. One line below makes it
trainable by name. Other packages add theirs by the entry point group "bitsr.nets" (``plugins``).
"""

from __future__ import annotations

from torch import nn

from ..plugins import Registry
from .e2fif_ablation import RCANAblation, RDNAblation, SRResNetAblation
from .float_backbones import FloatEDSR, FloatRCAN, FloatRDN
from .lapsrn import LapSRN
from .msrresnet import MSRResNet
from .plain import Plain
from .rcan import RCAN
from .rdn import RDN
from .small import ESPCN, FSRCNN
from .srgan import LedigSRResNet
from .srresnet import EDSR, SRResNet

NETS: Registry[type[nn.Module]] = Registry(
    "bitsr.nets",
    nn.Module,
    {
        "srresnet": SRResNet,
        "edsr": EDSR,
        "rcan": RCAN,
        "rdn": RDN,
        "msrresnet": MSRResNet,
        "fsrcnn": FSRCNN,
        "espcn": ESPCN,
        "plain": Plain,
        "ledig-srresnet": LedigSRResNet,
        "lapsrn": LapSRN,
        "srresnet-ablation": SRResNetAblation,
        "rcan-ablation": RCANAblation,
        "rdn-ablation": RDNAblation,
        "edsr-float": FloatEDSR,
        "rdn-float": FloatRDN,
        "rcan-float": FloatRCAN,
    },
)
