"""Model cards say what the metadata holds, and own up to what it does not."""

from __future__ import annotations

import json

from random_nets import srresnet

from bitsr.eval.card import ADVERSARIAL, FAITHFUL, PROTOCOL, card


def test_a_bare_net_has_a_card():
    text = card(srresnet(blocks=1, scale=3), 12345)
    assert text.startswith("# random\n") and "x3" in text and "12 KiB" in text
    assert "Unknown." in text and "Not measured." in text
    assert PROTOCOL in text and FAITHFUL not in text and ADVERSARIAL not in text


def test_what_an_adversarial_net_draws_is_called_invented():
    packed = srresnet(blocks=1)
    for adversarial, said, other in (({"weight": 1}, ADVERSARIAL, FAITHFUL), (None, FAITHFUL, ADVERSARIAL)):
        train = {"adversarial": adversarial}
        packed.metadata["recipe"] = json.dumps({"net": {"name": "srresnet"}, "train": train})
        text = card(packed, 1)
        assert said in text and other not in text


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
    assert "trained by" not in text
    facts = {
        "bitsr": "9.8",
        "torch": "7.6",
        "machine": "a slow one",
        "data": {"train": "12ab", "valid": "34cd"},
    }
    packed.metadata["provenance"] = json.dumps([{**facts, "overrides": {"train.lr": 0.5}}])
    told = card(packed, 1)
    assert (
        "- trained by bitsr 9.8 with torch 7.6 on a slow one;" in told and "12ab" in told and "34cd" in told
    )
    assert "- changed against the recipe: train.lr = 0.5\n" in told
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


def test_recipes_of_older_files_are_told_in_todays_words():
    packed = srresnet(blocks=1)
    options = {"maps": 8, "norm": True, "inner": False, "slope": 1.0}
    args = {"blocks": 8, "method": "house", "base": "consistent", "options": options}
    today = {"blocks": 8, "method": "bitsr", "skip_path": "back-projection"}
    texts = []
    for net, tries in ((args, "tries"), (today, "crop_candidates")):
        recipe = {"net": {"name": "srresnet", "args": net}, "data": {tries: 4}}
        packed.metadata["recipe"] = json.dumps(recipe)
        texts.append(card(packed, 1))
    assert texts[0] == texts[1]
    assert "(blocks = 8, method = bitsr, skip_path = back-projection)" in texts[0]
    assert "crop_candidates 4" in texts[0]
    packed.metadata["recipe"] = json.dumps({"net": {"args": {**args, "options": {**options, "slope": 0.1}}}})
    assert "slope = 0.1" in card(packed, 1)


def test_the_field_of_view_is_whole_pixels():
    """Also where the file tells it."""
    model = srresnet(blocks=1)
    computed = card(model, 1000)
    model.metadata["radius"] = "34"
    assert "sees 69 x 69 LR pixels" in card(model, 1000)
    assert ".0 x" not in computed
