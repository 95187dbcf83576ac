"""The optimiser of latent weights: its updates, and Adam for all else."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from bitsr.train.muon import MOMENTUM, RMS, Muon, orthogonalised  # noqa: E402


@pytest.mark.parametrize("shape", [(3, 8, 72), (1, 64, 576), (2, 5, 5)])
def test_singular_values_come_together(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape) * torch.logspace(0, -1.5, shape[1])[:, None]
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    y = orthogonalised(x)
    mine = u.mT @ y @ v.mT  # diagonal, where the spaces have stayed
    values = mine.diagonal(dim1=-2, dim2=-1)
    assert s.amin(-1).lt(0.1 * s.amax(-1)).all()
    assert values.min() > 0.6 and values.max() < 1.3
    assert (mine - torch.diag_embed(values)).abs().max() < 1e-3
    torch.testing.assert_close(orthogonalised(x * 1e-6), y, rtol=1e-3, atol=1e-4)  # of any size
    assert orthogonalised(torch.zeros(shape)).abs().max() == 0


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
        assert float(update.square().mean().sqrt()) == pytest.approx(RMS, rel=0.25)
        assert torch.nn.functional.cosine_similarity(update.flatten(), (u @ v).flatten(), 0) > 0.95
        assert torch.equal(other, twin)


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
    with pytest.raises(ValueError, match="the net has none"):
        Muon([], [nn.Parameter(torch.ones(1))])
