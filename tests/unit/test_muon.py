"""The optimiser of latent weights: its updates, and Adam for all else."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, memory_format, nn

from bitsr.symmetry import expand_symmetric
from bitsr.train.muon import (
    FLOAT_RMS,
    MOMENTUM,
    RMS,
    Muon,
    iterated,
    orthogonalised,
    orthogonalised_tied,
)


@pytest.mark.parametrize("shape", [(3, 8, 72), (1, 64, 576), (2, 5, 5)])
def test_singular_values_become_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape) * torch.logspace(0, -1.5, shape[1])[:, None]
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    assert s.amin(-1).lt(0.1 * s.amax(-1)).all()
    y = orthogonalised(x)
    torch.testing.assert_close(y, u @ v, atol=2e-3, rtol=0)
    torch.testing.assert_close(orthogonalised(x * 1e-6), y, rtol=1e-3, atol=1e-4)  # of any size
    assert orthogonalised(torch.zeros(shape)).abs().max() == 0


def test_the_iteration_comes_to_the_same() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 64, 576) * torch.logspace(0, -2.5, 64)[:, None]
    gram = x @ x.mT
    size = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    torch.testing.assert_close(iterated(gram / size) @ x * size.rsqrt(), orthogonalised(x), atol=3e-3, rtol=0)
    assert iterated(torch.zeros(1, 4, 4)).isfinite().all()


@pytest.mark.parametrize("n", [8, 64, 128])
@pytest.mark.parametrize("smallest", [-2.0, -4.0, -6.0, -9.0])
def test_the_iteration_stays_small(n: int, smallest: float) -> None:
    """In float64, which a GPU is given: no direction that is nearly missing grows, and the others are whole."""
    torch.manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(4, m, n))[0] for m in (n, 9 * n))
    x = u * torch.logspace(0, smallest, n) @ v.mT
    x /= x.square().sum((1, 2), keepdim=True).sqrt()
    y = x.double()
    s = torch.linalg.svdvals(iterated(y @ y.mT).float() @ x)
    assert s.max() < 1.01 and s[:, : n // 4].min() > 0.99


@pytest.mark.parametrize("make", [orthogonalised, orthogonalised_tied])
def test_a_device_without_eigenvectors(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU, on filters of which a few directions are all there is, as in a gradient of one picture."""
    torch.manual_seed(0)
    few = (torch.randn(8, 2) @ torch.randn(2, 576)).view(8, 3, 3, 64)
    x = (
        torch.from_numpy(expand_symmetric((few + 1e-6 * torch.randn(few.shape)).numpy()))
        .permute(0, 3, 1, 2)
        .flatten(1)[None]
    )
    usual = make(x)
    monkeypatch.setattr("bitsr.train.muon._root", iterated)
    monkeypatch.setattr("bitsr.train.muon._exact", torch.Tensor.double)
    found = make(x)
    assert found.dtype == x.dtype and found.shape == usual.shape
    assert torch.linalg.svdvals(found).max() < 1.01
    _, s, v = torch.linalg.svd(x, full_matrices=False)
    assert (s > 1e-3 * s.max()).sum() == 16  # of 64
    strong = v[:, :16]
    torch.testing.assert_close(found @ strong.mT, usual @ strong.mT, atol=3e-3, rtol=0)


def tied(o: int, i: int, k: int) -> Tensor:
    """Random filters (o, i, k, k), tied over eight orientations."""
    own = torch.randn(o // 8, k, k, i) * torch.logspace(0, -1, o // 8)[:, None, None, None]
    return torch.from_numpy(expand_symmetric(own.numpy())).permute(0, 3, 1, 2)


@pytest.mark.parametrize("o, i, k", [(8, 8, 3), (64, 64, 3), (24, 40, 1), (16, 8, 3)])
def test_of_tied_filters_the_first_orientation_is_enough(o: int, i: int, k: int) -> None:
    torch.manual_seed(0)
    x = torch.stack([tied(o, i, k) for _ in range(3)]).flatten(2)
    exact = orthogonalised(x.double())[:, ::8]
    torch.testing.assert_close(orthogonalised_tied(x.double()), exact)
    for y in (x, x * 1e-6):
        torch.testing.assert_close(orthogonalised_tied(y), exact.float(), atol=2e-3, rtol=0)
    assert orthogonalised_tied(torch.zeros_like(x)).abs().max() == 0


@pytest.mark.parametrize("shape", [(16, 16, 3), (64, 8, 1), (64, 64, 3)])  # (64, 8, 1) is tall
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_tied_weights_stay_tied(shape: tuple[int, int, int], layout: memory_format) -> None:
    """Bit for bit, where the updates of those that are taken for free ones are tied to within rounding."""
    torch.manual_seed(0)
    first = tied(*shape)
    weights = [nn.Parameter(first.clone(memory_format=layout)) for _ in range(2)]
    muons = [
        Muon([w], [], tied=of_fields, lr=0.01) for w, of_fields in zip(weights, (True, False), strict=True)
    ]
    for _ in range(5):
        gradient = tied(*shape)
        for weight, muon in zip(weights, muons, strict=True):
            weight.grad = gradient.clone(memory_format=layout)
            muon.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-5)
    assert (weights[0] - first).abs().max() > 0.01
    flat = weights[0].detach().permute(0, 2, 3, 1)
    assert torch.equal(flat, torch.from_numpy(expand_symmetric(flat[::8].numpy())))


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (64, 2, 3, 3)])  # wide and tall
def test_updates(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    latent = nn.Parameter(torch.randn(shape).contiguous(memory_format=torch.channels_last))
    other, twin = (nn.Parameter(torch.ones(5)) for _ in range(2))
    muon = Muon([latent], [other], lr=0.01, fused=True)
    adam = torch.optim.Adam([twin], lr=0.01, fused=True)
    momentum = torch.zeros(shape)
    for lr in (0.01, 0.002):
        for group in (*muon.param_groups, *adam.param_groups):
            group["lr"] = lr
        before, gradient = latent.detach().clone(), torch.randn(shape)
        latent.grad = gradient.contiguous(memory_format=torch.channels_last)
        other.grad = twin.grad = torch.arange(5.0) - 2
        muon.step()
        adam.step()
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        ahead = (MOMENTUM * momentum + (1 - MOMENTUM) * gradient).flatten(1)
        u, _, v = torch.linalg.svd(ahead, full_matrices=False)
        update = (before - latent.detach()) / lr
        expected = RMS * max(ahead.shape) ** 0.5 * (u @ v)
        torch.testing.assert_close(update.flatten(1), expected, atol=1e-2, rtol=0)
        assert float(expected.square().mean().sqrt()) == pytest.approx(RMS)
        assert torch.equal(other, twin)


def test_updates_of_float_weights_are_smaller() -> None:
    torch.manual_seed(0)
    latent, floating, other = (nn.Parameter(torch.randn(8, 4, 3, 3)) for _ in range(3))
    before = latent.detach().clone(), floating.detach().clone()
    latent.grad = floating.grad = gradient = torch.randn_like(latent)
    other.grad = gradient.clone()
    Muon([latent], [other], [floating], lr=0.01).step()
    for p, old, rms in zip((latent, floating), before, (RMS, FLOAT_RMS), strict=True):
        assert float((old - p.detach()).square().mean().sqrt()) == pytest.approx(0.01 * rms, rel=1e-3)


def test_state_comes_back() -> None:
    """Two halves with the state saved between them are the whole, bit for bit."""

    def run(cut: bool) -> nn.Parameter:
        torch.manual_seed(0)
        latent, other = nn.Parameter(torch.randn(8, 4, 3, 3)), nn.Parameter(torch.randn(3))
        muon = Muon([latent], [other], lr=0.01)
        for i in range(6):
            if cut and i == 3:
                state = muon.state_dict()
                muon = Muon([latent], [other], lr=0.01)
                muon.load_state_dict(state)
            torch.manual_seed(i)
            latent.grad, other.grad = torch.randn_like(latent), torch.randn_like(other)
            muon.step()
        return torch.cat([latent.flatten(), other])

    assert torch.equal(run(False), run(True))


def test_without_latents() -> None:
    with pytest.raises(ValueError, match="this one has none"):
        Muon([], [nn.Parameter(torch.ones(1))])
