"""Equivariant nets: weights tied over the symmetries of the square.

Group-equivariant convolutions (Cohen and Welling 2016, arXiv 1602.07576) by tying the weights of an
ordinary net: its channels come in fields of ``order``, channel order * f + i of a layer being what
field f sees in the i-th orientation. Let T be an element of the group (flips and transposition) and
P its permutation of the orientations. Then net(T x) = T net(x), for every layer has

    W[P o, P i, T t] = W[o, i, t]        for output channel o, input channel i, tap t

and every number of a channel is that of its field. In the tail T also moves the scale x scale
pixels that one LR pixel becomes. So each free weight stands in ``order`` places, a gradient is the
mean over as many, and a packed net upscales a flipped image to the flipped result, bit for bit. The
operations are those of any net.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..symmetry import ORIENTATIONS, Matrix, fields, points


def flat(x: Tensor) -> Tensor:
    """(numel,), of weights in the order (O, k, k, I), in which they lie while they train."""
    return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).reshape(-1)


def shaped(x: Tensor, like: Tensor) -> Tensor:
    """The other way, to the shape of ``like``."""
    if like.ndim != 4:
        return x.view(like.shape)
    o, i, *k = like.shape
    return x.view(o, *k, i).permute(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class _Tied:
    """A tensor's orbits. orbits: (order, n), places in ``flat`` of each orbit, its first place
    first; whose: (numel,), the orbit of each place. Both int32, which torch takes faster than
    int64."""

    orbits: Tensor
    whose: Tensor

    def free(self, x: Tensor) -> Tensor:
        """The free numbers, (n,): that of each orbit's first place."""
        return flat(x).index_select(0, self.orbits[0])

    def spread(self, free: Tensor) -> Tensor:
        """(..., n) -> (..., numel)"""
        return free.index_select(-1, self.whose)

    def mean(self, x: Tensor) -> Tensor:
        """(L, numel) -> the same with each number replaced by its orbit's mean: equal at all
        places, bit for bit."""
        return self.spread(x.index_select(1, self.orbits.flatten()).unflatten(1, self.orbits.shape).mean(1))


def _tie(moves: list[NDArray[np.int64]], device: torch.device) -> _Tied:
    """moves: where each of the group's elements, the identity first, takes the places of a
    tensor."""
    places = np.stack(moves)
    first, whose = np.unique(places.min(0), return_inverse=True)
    # in C order, so that ``mean`` flattens it without a copy
    return _Tied(
        *(torch.from_numpy(x.astype(np.int32, "C")).to(device) for x in (places[:, first], whose.ravel()))
    )


class Symmetry:
    """The ties of a net's numbers under a group of ``order`` orientations: 2 (left and right), 4
    (and top and bottom) or 8 (and transposed).

    Raises ValueError for a net whose ties are not known (those of nets with ``symmetric`` are), or
    whose channels do not come in fields.
    """

    def __init__(self, net: nn.Module, order: int) -> None:
        if not getattr(net, "symmetric", False):
            raise ValueError(f"no symmetry is known for this {type(net).__name__}")
        self.order, self.group = order, ORIENTATIONS[:order]
        self.ties: dict[str, _Tied] = {}
        cache: dict[tuple[tuple[int, ...], int], _Tied] = {}
        for name, x in self._numbers(net):
            scale = int(net.scale) if name.startswith("tail.") else 0  # type: ignore[arg-type]
            key = tuple(x.shape), scale
            if key not in cache:
                cache[key] = self._ties(x, scale)
            self.ties[name] = cache[key]

    @staticmethod
    def _numbers(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """All that is tied. The fixed convolutions of the skip path, ``base*``, are symmetric as
        they are."""
        for name, x in (*net.named_parameters(), *net.named_buffers()):
            if x.ndim and not name.startswith("base"):
                yield name, x

    def _ties(self, x: Tensor, scale: int) -> _Tied:
        """scale: of the tail, whose output channels are the pixels that one LR pixel becomes; else
        0."""

        def channels(n: int, m: Matrix) -> NDArray[np.int64]:
            if n == 1:  # a map, or the image
                return np.zeros(1, np.int64)
            if n % self.order:
                raise ValueError(f"{n} channels are no fields of {self.order} orientations")
            return fields(n, self.order, m)

        moves = []
        for m in self.group:
            move = points(scale, m) if scale else channels(x.shape[0], m)
            if x.ndim == 4:
                for then in (points(x.shape[-1], m), channels(x.shape[1], m)):
                    move = (move[:, None] * len(then) + then).ravel()
            moves.append(move)
        return _tie(moves, x.device)

    def tie(self, net: nn.Module) -> None:
        """``hold`` all numbers of a net."""
        self.hold(self._numbers(net))

    @torch.no_grad()
    def hold(self, numbers: Iterable[tuple[str, Tensor]]) -> None:
        """Give every place of an orbit the number of its first, in tensors under their names."""
        for name, x in numbers:
            tied = self.ties[name]
            x.copy_(shaped(tied.spread(tied.free(x)), x))

    @torch.no_grad()
    def gather(self, numbers: Iterable[tuple[str, Tensor | None]]) -> None:
        """Replace tensors by their means over orbits: gradients, or the statistics of batch norm,
        under the names of what they belong to. What is not tied, or None, stays."""
        alike: dict[_Tied, list[Tensor]] = defaultdict(list)
        for name, x in numbers:
            if x is not None and name in self.ties:
                alike[self.ties[name]].append(x)
        for tied, xs in alike.items():
            # small ones together, for so many calls would take longer than their work; on a GPU all
            # are small
            together = len(xs) if xs[0].is_cuda or xs[0].numel() <= 4096 else 1
            for some in (xs[i : i + together] for i in range(0, len(xs), together)):
                means = tied.mean(torch.stack([flat(x) for x in some]))
                like = [shaped(mean, x) for mean, x in zip(means, some, strict=True)]
                torch._foreach_copy_(some, like)  # pyright: ignore[reportPrivateImportUsage]

    def free(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict with the free numbers alone, (n,) each, of all that is tied."""
        return {k: self.ties[k].free(v) if k in self.ties else v for k, v in state.items()}

    def spread(self, state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
        """The state dict of ``net`` that ``free`` made this of. Raises ValueError where the numbers
        are not as many."""
        out, own = dict(state), net.state_dict()
        for key, tied in self.ties.items():
            if key in out and key in own:
                if out[key].shape != tied.orbits.shape[1:]:
                    raise ValueError(f"{key} has {out[key].numel()} free numbers, not {tied.orbits.shape[1]}")
                out[key] = shaped(tied.spread(out[key]), own[key]).contiguous()
        return out
