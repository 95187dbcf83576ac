"""Rendered images: a function of their key, with edges and both kinds of light, and part of a training set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

from bitsr.train.data import load_pairs
from bitsr.train.rendered import SIDE, render


def test_the_key_decides() -> None:
    first = [render([0, i]) for i in range(6)]
    assert all(np.array_equal(a, render([0, i])) for i, a in enumerate(first))
    assert not any(np.array_equal(first[0], other) for other in first[1:])


def test_images_are_full_size_and_have_edges() -> None:
    for i in range(12):
        x = render([i])
        assert x.shape == (SIDE, SIDE, 3) and x.dtype == np.uint8
        luma = x.astype(float) @ (0.299, 0.587, 0.114)
        steps = np.abs(np.diff(luma, axis=1))
        assert steps.max() > 40, "strokes stand out from the paper"
        assert np.mean(steps < 12) > 0.5, "most of a page is smooth"


@pytest.mark.parametrize("degrade", [0, 2])
def test_they_follow_the_images_of_the_files(tmp_path: Path, degrade: int) -> None:
    file = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    Image.fromarray(noise).save(file)
    alone = load_pairs([(file, None)], 4, tmp_path / "cache", degrade=degrade)
    more = load_pairs([(file, None)], 4, tmp_path / "cache", degrade=degrade, rendered=3)
    assert len(more) == len(alone) + 3
    assert all(torch.equal(a, b) for a, b in zip(more.image(0), alone.image(0), strict=True))
    assert more.sizes[1:].tolist() == [[SIDE // 4, SIDE // 4]] * 3
    assert len({more.image(i)[1].sum().item() for i in (1, 2, 3)}) == 3
