"""``train.optimiser = "muon"``: Muon for convolutions inside the net, Adam for all else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..symmetry import ORIENTATIONS, expand_symmetric
from .equivariance import flat, shaped

MOMENTUM = 0.95
RMS = 0.3
"""Of an update's numbers, in units of the learning rate: about Adam's, where gradients are mostly
noise."""
FLOAT_RMS = 0.1
"""The same where the weight itself counts, not its sign."""
_LIFT, _POLISH = (3.4445, -4.7750, 2.0315), (1.875, -1.25, 0.375)


def orthogonalised(x: Tensor) -> Tensor:
    """(L, O, N) -> the same shape: (X X^T)^(-1/2) X for each X; X (X^T X)^(-1/2) where O > N.

    Its singular values are 1, or less where X's are below about 1e-4 of its norm. Where all is 0
    the result is 0.
    """
    if x.shape[1] > x.shape[2]:
        return orthogonalised(x.mT).mT
    y = _exact(x)
    gram = y @ y.mT
    size = _not_zero(gram.diagonal(dim1=-2, dim2=-1).sum(-1))
    return (_root(gram / size) * size.rsqrt()).to(x.dtype) @ x


def orthogonalised_tied(x: Tensor) -> Tensor:
    """(L, 8 F, N) -> (L, F, N): the rows of the first orientation of ``orthogonalised`` x.

    The rows of x come in fields of eight orientations and are tied over them
    (``train.equivariance``). X X^T then commutes with the group, so that its first rows are all of
    it: k_fg(h) = (row of f) (row of g moved by h). The sums over h of k_fg(h) R(h) multiply as such
    matrices do, for each irreducible representation R (Serre 1977, "Linear representations of
    finite groups", 6.2): four of F x F and one of 2 F x 2 F have all its eigenvalues.
    """
    if x.shape[1] > x.shape[2]:
        return orthogonalised(x)[:, ::8]
    f = x.shape[1] // 8
    y = _exact(x)
    gram = (y[:, ::8] @ y.mT).unflatten(2, (f, 8))
    size = _not_zero(8 * gram[..., 0].diagonal(dim1=-2, dim2=-1).sum(-1))
    forth, back = _representations(y.dtype, x.device)
    parts = (gram / size[..., None]) @ forth  # (L, f, g, 8)
    ones = _root(parts[..., :4].permute(0, 3, 1, 2))
    twos = _root(parts[..., 4:].unflatten(3, (2, 2)).permute(0, 1, 3, 2, 4).reshape(-1, 2 * f, 2 * f))
    twos = twos.view(-1, f, 2, f, 2).permute(0, 1, 3, 2, 4).flatten(3)
    root = torch.cat([ones.permute(0, 2, 3, 1), twos], 3) @ back
    return (root.flatten(2) * size.rsqrt()).to(x.dtype) @ x


def _exact(x: Tensor) -> Tensor:
    """x as its product with itself is wanted by ``_root``: for ``iterated`` in float64. An
    eigenvalue that rounding has left below zero grows without end there: in float32 it comes to
    NaN."""
    return x if x.device.type == "cpu" else x.double()


@cache
def _representations(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """(8, 8) each: by orientations, the four representations of one dimension and the four numbers
    of the one of two, the matrix itself; and the way back from sums with them."""
    matrix = torch.tensor(ORIENTATIONS, dtype=dtype, device=device)
    a, b, c, d = matrix.T
    proper, straight = a * d - b * c, a * a - b * b
    forth = torch.stack([torch.ones_like(a), proper, straight, proper * straight, a, b, c, d], 1)
    return forth, (forth * torch.tensor([1, 1, 1, 1, 2, 2, 2, 2]).to(forth) / 8).T


def _not_zero(size: Tensor) -> Tensor:
    return size.clamp(min=1e-30)[:, None, None]


def _root(gram: Tensor) -> Tensor:
    """(..., O, O), symmetric, of trace 1 or less -> its power -1/2.

    On a CPU from the eigenvectors. Elsewhere, where those would wait for the device, by the
    iteration X <- a X + b (X X^T) X + c (X X^T)^2 X on the matrices X X^T alone: eight steps as
    Jordan et al. (2024) have them lift small singular values (five, as there, leave too many small:
    nothing was gained over Adam), three with Newton-Schulz's own numbers bring all to 1.
    """
    if gram.device.type == "cpu":
        values, vectors = torch.linalg.eigh(gram)
        return (vectors * values.clamp(min=1e-9).rsqrt()[..., None, :]) @ vectors.mT
    return iterated(gram)


def iterated(gram: Tensor) -> Tensor:
    """(..., O, O), symmetric, of trace 1 or less -> its power -1/2, without eigenvectors."""
    one = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    total = one.expand_as(gram)
    for a, b, c in (*[_LIFT] * 8, *[_POLISH] * 3):
        by = a * one + b * gram + c * (gram @ gram)
        total, gram = by @ total, by @ gram @ by
    return total


class Muon(torch.optim.Adam):
    """Adam on ``others``, orthogonalised momentum on ``latents`` and ``floats``, (O, I, k, k) each.

    latents: of binary convolutions; floats: of those whose weights count by value, of 4 or 8 bits
    or float, but for the net's first and last where these are plain convolutions. The update of a
    latent weight is -0.3 lr U, of a float one -0.1 lr U, where U, with an rms of 1, has the row and
    column spaces of the momentum and all its singular values about equal: no direction waits for
    its gradient to grow. Adam keeps the sign of a weight's gradient and little else, which suits
    noise; where targets have little of it (``data.teachers``) this comes further in as many
    iterations (docs/experiments/distillation.md). Source: Jordan et al. 2024, "Muon: an optimizer
    for hidden layers in neural networks". The rest of Adam's settings, and one learning rate for
    both, are the loop's.

    tied: latents and floats, and their gradients, are tied over eight orientations
    (``train.equivariance``). The updates are made for the first and are the same numbers for the
    others, so that the weights stay tied bit for bit.

    Raises ValueError without any of the two.
    """

    def __init__(
        self,
        latents: Iterable[Tensor],
        others: Iterable[Tensor],
        floats: Iterable[Tensor] = (),
        tied: bool = False,
        **adam: Any,
    ) -> None:
        self.tied = tied
        self.places: dict[torch.Size, Tensor] = {}
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
            x = torch.stack([flat(a) for a in ahead]).unflatten(1, (shape[0], -1))
            updates = self._updates(x, shape, rms * lr * max(x.shape[1:]) ** 0.5)
            for p, update in zip(some, updates, strict=True):
                p.sub_(shaped(update.flatten(), p))
                p.grad = None  # seen to: Adam leaves it alone
        return super().step(closure)

    def _updates(self, x: Tensor, shape: torch.Size, size: float | Tensor) -> Tensor:
        """(L, O, k k I) -> the same: x orthogonalised, times ``size``; of tied filters bit for bit
        alike."""
        if not self.tied:
            return orthogonalised(x) * size
        own = orthogonalised_tied(x) * size
        if shape not in self.places:
            o, i, *k = shape
            places = expand_symmetric(np.arange(o // 8 * x.shape[2], dtype=np.int32).reshape(o // 8, *k, i))
            self.places[shape] = torch.from_numpy(places.ravel()).to(x.device)
        return own.flatten(1).index_select(1, self.places[shape]).view_as(x)

    def _momentum(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), device=p.device)  # Adam wants one in each state that it loads
            state["momentum"] = torch.zeros_like(p)
        return state["momentum"]
