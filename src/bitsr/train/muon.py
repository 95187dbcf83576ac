"""Muon for latent weights, Adam for all else: ``train.optimiser = "muon"``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
RMS = 0.3
"""Of an update's numbers, in units of the learning rate: about Adam's, where gradients are mostly noise."""
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalised(x: Tensor, steps: int = 5) -> Tensor:
    """(L, O, N), O at most N -> the same shape: (X X^T)^(-1/2) X for each X, roughly: singular values s become 0.7 to
    1.2, those below 0.002 of X's norm less.

    The Newton-Schulz iteration X <- a X + b (X X^T) X + c (X X^T)^2 X of Jordan et al. (2024), by the O x O matrices
    X X^T alone: for 64 x 576 a ninth of the work. Where all is 0 the result is 0.
    """
    gram = x @ x.mT
    size = gram.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=1e-30)[:, None, None]
    gram = gram / size
    one = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    a, b, c = _QUINTIC
    total = one.expand_as(gram)
    for _ in range(steps):
        by = a * one + b * gram + c * (gram @ gram)
        total, gram = by @ total, by @ gram @ by
    return total @ x * size.rsqrt()


class Muon(torch.optim.Adam):
    """Adam on ``others``, orthogonalised momentum on ``latents``, (O, I, k, k) each.

    The update of a latent weight is -0.3 lr U, where U, with an rms of 1, has the row and column spaces of the
    momentum and all its singular values about equal: no direction waits for its gradient to grow. Adam keeps the sign
    of a weight's gradient and little else, which suits noise; where targets have little of it (``data.teachers``) this
    comes further in as many iterations (docs/ablation.md). Source: Jordan et al. 2024, "Muon: an optimizer for hidden
    layers in neural networks". The rest of Adam's settings, and one learning rate for both, are the loop's.

    Raises ValueError without latents.
    """

    def __init__(self, latents: Iterable[Tensor], others: Iterable[Tensor], **adam: Any) -> None:
        self.latents = list(latents)
        if not self.latents:
            raise ValueError("muon is for latent weights, and the net has none")
        super().__init__([{"params": list(others)}, {"params": self.latents}], **adam)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        lr = self.param_groups[1]["lr"]
        alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for p in self.latents:
            if p.grad is not None:
                alike[p.shape].append(p)
        for shape, some in alike.items():
            momenta = [self._momentum(p) for p in some]
            grads = [p.grad for p in some]
            torch._foreach_lerp_(momenta, grads, 1 - MOMENTUM)  # pyright: ignore
            ahead = torch._foreach_lerp(grads, momenta, MOMENTUM)  # pyright: ignore
            x = torch.stack(ahead).flatten(2)
            tall = x.shape[1] > x.shape[2]
            u = orthogonalised(x.mT).mT if tall else orthogonalised(x)
            u = u * (RMS * max(u.shape[1:]) ** 0.5)
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
