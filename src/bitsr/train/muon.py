"""Muon for the weights of convolutions inside the net, Adam for all else: ``train.optimiser = "muon"``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
RMS = 0.3
"""Of an update's numbers, in units of the learning rate: about Adam's, where gradients are mostly noise."""
FLOAT_RMS = 0.1
"""The same where the weight itself counts, not its sign."""
_LIFT, _POLISH = (3.4445, -4.7750, 2.0315), (1.875, -1.25, 0.375)


def orthogonalised(x: Tensor) -> Tensor:
    """(L, O, N), O at most N -> the same shape: (X X^T)^(-1/2) X for each X, whose singular values are 1, or less where
    X's are below about 1e-4 of its norm. Where all is 0 the result is 0.

    On a CPU from the eigenvectors of X X^T. Elsewhere, where those would wait for the device, by the iteration
    X <- a X + b (X X^T) X + c (X X^T)^2 X on the matrices X X^T alone: eight steps as Jordan et al. (2024) have them
    lift small singular values (five, as there, leave too many small: nothing was gained over Adam), three with
    Newton-Schulz's own numbers bring all to 1.
    """
    gram = x @ x.mT
    size = gram.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=1e-30)[:, None, None]
    gram = gram / size
    if x.device.type == "cpu":
        values, vectors = torch.linalg.eigh(gram)
        root = (vectors * values.clamp(min=1e-9).rsqrt()[:, None]) @ vectors.mT
    else:
        root = iterated(gram)
    return root @ x * size.rsqrt()


def iterated(gram: Tensor) -> Tensor:
    """(L, O, O), symmetric, of trace 1 -> its power -1/2, without eigenvectors."""
    one = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    total = one.expand_as(gram)
    for a, b, c in (*[_LIFT] * 8, *[_POLISH] * 3):
        by = a * one + b * gram + c * (gram @ gram)
        total, gram = by @ total, by @ gram @ by
    return total


class Muon(torch.optim.Adam):
    """Adam on ``others``, orthogonalised momentum on ``latents`` and ``floats``, (O, I, k, k) each.

    latents: of binary convolutions; floats: of float ones that are neither the net's first nor its last. The update of
    a latent weight is -0.3 lr U, of a float one -0.1 lr U, where U, with an rms of 1, has the row and column spaces of
    the momentum and all its singular values about equal: no direction waits for its gradient to grow. Adam keeps the
    sign of a weight's gradient and little else, which suits noise; where targets have little of it (``data.teachers``)
    this comes further in as many iterations (docs/ablation.md). Source: Jordan et al. 2024, "Muon: an optimizer for
    hidden layers in neural networks". The rest of Adam's settings, and one learning rate for both, are the loop's.

    Raises ValueError without any of the two.
    """

    def __init__(
        self, latents: Iterable[Tensor], others: Iterable[Tensor], floats: Iterable[Tensor] = (), **adam: Any
    ) -> None:
        self.rms = {**dict.fromkeys(latents, RMS), **dict.fromkeys(floats, FLOAT_RMS)}
        if not self.rms:
            raise ValueError("muon is for weights of convolutions inside the net, and this one has none")
        super().__init__([{"params": list(others)}, {"params": list(self.rms)}], **adam)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        lr = self.param_groups[1]["lr"]
        alike: dict[tuple[torch.Size, float], list[Tensor]] = defaultdict(list)
        for p, rms in self.rms.items():
            if p.grad is not None:
                alike[p.shape, rms].append(p)
        for (shape, rms), some in alike.items():
            momenta = [self._momentum(p) for p in some]
            grads = [p.grad for p in some]
            torch._foreach_lerp_(momenta, grads, 1 - MOMENTUM)  # pyright: ignore
            ahead = torch._foreach_lerp(grads, momenta, MOMENTUM)  # pyright: ignore
            x = torch.stack(ahead).flatten(2)
            tall = x.shape[1] > x.shape[2]
            u = orthogonalised(x.mT).mT if tall else orthogonalised(x)
            u = u * (rms * max(u.shape[1:]) ** 0.5)
            for p, update in zip(some, u.unflatten(2, shape[1:]), strict=True):
                p.sub_(update * lr)
                p.grad = None  # seen to: Adam leaves it alone
        return super().step(closure)

    def _momentum(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), device=p.device)  # Adam wants one in each state that it loads
            state["momentum"] = torch.zeros_like(p)
        return state["momentum"]
