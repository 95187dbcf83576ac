"""Nets for tests: small random ones, packed on the spot."""

from __future__ import annotations

import numpy as np
import pytest


def random_net(scale: int = 4, seed: int = 0, channels: int = 64):
    """A packed net of one binary convolution, with random weights; radius 3."""
    from bitsr.packed import Op, Packed

    rng = np.random.default_rng(seed)
    tensors = {
        "head.weight": rng.integers(-3000, 3000, (channels, 3, 3, 1)).astype(np.int16),
        "head.bias": rng.integers(-9000, 9000, channels).astype(np.int32),
        "body.weight": rng.integers(0, 2**64, (channels, 3, 3, channels // 64), np.uint64),
        "body.mul": rng.integers(500, 1500, channels).astype(np.int16),
        "body.add": rng.integers(-200, 200, channels).astype(np.int16),
        "tail.weight": rng.integers(-700, 700, (scale**2, 3, 3, channels)).astype(np.int16),
        "tail.bias": rng.integers(-9000, 9000, scale**2).astype(np.int32),
    }
    ops = [
        "conv a lr head shift=14",
        "sign b a",
        "bconv c b body shift=4 skip=a",
        "conv d c tail shift=13",
        f"shuffle sr d scale={scale}",
    ]
    return Packed(tensors, [Op.parse(line) for line in ops], {"name": f"random-x{scale}"})


@pytest.fixture(scope="session")
def net_file(tmp_path_factory):
    """The .bsr file of a random x4 net."""
    path = tmp_path_factory.mktemp("net") / "random-x4.bsr"
    random_net().write(path)
    return path
