"""Model cards say what the metadata holds, and own up to what it does not."""

from __future__ import annotations

import json

from random_nets import srresnet

from bitsr.eval.card import LIMITS, card


def test_a_bare_net_has_a_card():
    text = card(srresnet(blocks=1, scale=3), 12345)
    assert text.startswith("# random\n") and "x3" in text and "12 KiB" in text
    assert "Unknown." in text and "Not measured." in text
    assert all(limit in text for limit in LIMITS)


def test_metadata_is_told():
    packed = srresnet(blocks=1)
    mean = {"set": "SetX", "psnr": 31.234, "ssim": 0.87654, "bicubic_psnr": 28.4, "bicubic_ssim": 0.81}
    packed.metadata |= {
        "training": "Ten minutes on a slow machine.",
        "iteration": "77",
        "recipe": json.dumps({"source": "a paper", "net": {"name": "srresnet"}, "train": {"lr": 0.5}}),
        "evaluation": json.dumps({"protocol": "of mine", "means": [mean]}),
        "check": json.dumps({"images": 3, "float_psnr": 30.0, "packed_psnr": 29.99}),
    }
    text = card(packed, 1)
    for part in (
        "Ten minutes",
        "77",
        "a paper",
        "lr 0.5",
        "of mine",
        "| SetX | 31.23 | 0.8765 |",
        "29.990 dB",
    ):
        assert part in text
    assert "Unknown" not in text and "Not measured" not in text
