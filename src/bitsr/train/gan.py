"""SRGAN's objective (Ledig et al., CVPR 2017, arXiv 1609.04802): pixel, perceptual and adversarial
loss.

A step first trains the discriminator to tell real images from the net's, then the net to pass for
real. The perceptual loss wants the weights of VGG-19, which are not ours to ship: without a path to
them it is left out, and the recipe's ``objective`` says so wherever it is printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from ..nets.srgan import Discriminator
from .checkpoint import CheckpointError
from .recipe import Adversarial, Recipe

VGG_LAYER = "relu5_4"
"""SRGAN's VGG54: of the fifth block the fourth convolution, after its activation."""
CHANNELS = 64
"""Width of the discriminator's first convolution."""
BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Width and number of the convolutions before each pooling of VGG-19 (Simonyan and Zisserman 2015,
table 1, E)."""


def vgg_layers(layer: str) -> nn.Sequential:
    """VGG-19 up to a layer, under torchvision's numbers.

    layer: such as "conv5_4", before the activation, or "relu5_4", after it.
    """
    layers: list[nn.Module] = []
    cin, last, convs_of_last = 3, int(layer[4]), int(layer[6])
    for block, (width, convs) in enumerate(BLOCKS[:last], 1):
        for _ in range(convs_of_last if block == last else convs):
            layers += [nn.Conv2d(cin, width, 3, padding=1), nn.ReLU()]
            cin = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers[: -2 if layer.startswith("conv") else -1])


def _vgg_weights(path: str | Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a torchvision state dict with the names (below ``features``) and shapes of
    ``wanted``."""
    try:
        state = torch.load(Path(path).expanduser(), map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises many types on a bad file
        raise CheckpointError(f"{path}: not a PyTorch state dict") from error
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: not a PyTorch state dict")
    for key, value in wanted.items():
        found = state.get(f"features.{key}")
        if not isinstance(found, Tensor):
            raise CheckpointError(f"{path}: has no features.{key}, it is not torchvision's VGG-19")
        if found.shape != value.shape:
            shapes = f"{tuple(found.shape)}, torchvision's VGG-19 has {tuple(value.shape)}"
            raise CheckpointError(f"{path}: features.{key} is {shapes}")
    return {key: state[f"features.{key}"] for key in wanted}


class VGG(nn.Module):
    """VGG-19 up to one layer: Y in [0, 255], (N, 1, h, w) -> (N, C, h / 2^b, w / 2^b), b the
    poolings before it.

    weights: a state dict as torchvision's (``features.0.weight`` ...), read with ``weights_only``.
    layer: see ``vgg_layers``. Luma stands in for all three colours, normalised as torchvision's
    weights want it. Raises OSError, and CheckpointError for a file that is none or lacks these
    layers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str | Path, layer: str) -> None:
        super().__init__()
        self.features = vgg_layers(layer)
        self.features.load_state_dict(_vgg_weights(weights, self.features.state_dict()))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, y: Tensor) -> Tensor:
        return self.features((y / 255 - self.mean) / self.std)


class Adversary:
    """The discriminator with its optimiser, and the objective that it gives the net.

    Images are Y in [0, 255], (N, 1, H, W).
    """

    def __init__(self, fabric: Fabric, recipe: Recipe) -> None:
        t, device = recipe.train, fabric.device
        self.fabric, self.settings = fabric, cast(Adversarial, t.adversarial)
        net = Discriminator(recipe.data.patch * recipe.scale, CHANNELS)
        self.net: nn.Module = net.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.adam = torch.optim.Adam(self.net.parameters(), lr=0.0, betas=t.betas, eps=t.eps, fused=True)
        self.model, self.optimiser = fabric.setup(self.net, self.adam)
        self.vgg = VGG(self.settings.vgg, VGG_LAYER).to(device) if self.settings.vgg else None
        self.loss_sum = torch.zeros((), device=device)

    def _judge(self, images: Tensor) -> Tensor:
        """Logits (N,) float32."""
        return self.model(images / 127.5 - 1).float()

    def learn(self, sr: Tensor, hr: Tensor, lr: float) -> None:
        """One step of the discriminator: -log D(hr) - log(1 - D(sr)), lr being the net's rate."""
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.net.requires_grad_(True)
        loss = F.softplus(-self._judge(hr)).mean() + F.softplus(self._judge(sr.detach())).mean()
        self.fabric.backward(loss)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.loss_sum.add_(loss.detach())

    def parts(self, sr: Tensor, hr: Tensor, pixel: Tensor) -> dict[str, Tensor]:
        """The weighted terms of the net's objective, 0-dim float32; pixel is ``train.loss``."""
        a = self.settings
        self.net.requires_grad_(False)  # these gradients are the net's
        parts = {"pixel": a.pixel * pixel, "adversarial": a.weight * F.softplus(-self._judge(sr)).mean()}
        if self.vgg is not None:
            with torch.no_grad():
                real = self.vgg(hr).float()
            parts["perceptual"] = a.perceptual * F.mse_loss(self.vgg(sr).float(), real)
        return parts

    def read_loss(self, count: int) -> float:
        """Mean loss of the discriminator over the last ``count`` steps; clears the sum.

        Waits for the device.
        """
        mean = float(self.loss_sum) / count
        self.loss_sum.zero_()
        return mean

    def state(self) -> dict[str, Any]:
        """All that resuming needs, for ``load``."""
        return {
            "net": self.net.state_dict(),
            "optimiser": self.adam.state_dict(),
            "loss_sum": self.loss_sum,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.adam.load_state_dict(state["optimiser"])
        self.loss_sum.copy_(state["loss_sum"])
