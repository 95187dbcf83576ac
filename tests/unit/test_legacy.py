"""Recipes and weights of older versions: read as today's, or refused in one line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pydantic")

from safetensors import safe_open

from bitsr.nets import NETS
from bitsr.train import checkpoint, legacy, recipe
from bitsr.train.recipe import RecipeError

CHECKPOINTS = sorted((Path(__file__).parents[2] / "checkpoints").glob("*.safetensors"))
TINY = {"channels": 8, "blocks": 1}


def old(args: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    """A stored recipe of a small SRResNet with these arguments and sections."""
    return {
        "scale": 2,
        "net": {"name": "srresnet", "args": {**TINY, **(args or {})}},
        "train": {"iterations": 1, "lr": 1e-3},
        **sections,
    }


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda p: p.name)
def test_checkpoints_of_the_repository(path: Path) -> None:
    with safe_open(path, "pt") as file:
        table = json.loads(file.metadata()["recipe"])
    before = copy.deepcopy(table)
    r = legacy.parse(table, path.name)
    assert table == before
    if "hr_scales" in table["data"]:  # of today already
        assert r.model_dump(mode="json") == table
        return
    if path.name.startswith("e2fif"):
        assert "method" not in r.net.args and (r.net.symmetry, r.net.args["act"]) == (1, "approx_sign")
        return
    assert r.net.args["method"] == "bitsr" and "options" not in r.net.args
    assert r.net.args["skip_path"] in ("bicubic", "back-projection") and r.net.symmetry == 8
    assert (r.data.crop_candidates, r.data.patch) == (4, table["data"]["patch"])
    assert r.data.hr_scales == table["data"]["shrink"] and r.data.hr_weight == table["data"]["truth"]
    assert (r.net.stream_init_scale, r.net.latent_init_scale) == (0.25, table["net"]["latent"])
    assert r.iterations == table["train"]["iterations"]


@pytest.mark.parametrize("name", recipe.names())
def test_recipes_of_today_stay_as_they_are(name: str) -> None:
    r = recipe.load(name)
    assert legacy.parse(r.model_dump(mode="json"), name) == r


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"base": False}, {"skip_path": "none"}),
        ({"base": True}, {"skip_path": "bicubic"}),
        ({"base": "consistent"}, {"skip_path": "back-projection"}),
        ({"mean": 127.5, "tail": "light"}, {}),
        ({"act": "triangle", "weight": "identity"}, {"act": "approx_sign", "weight": "ste_sign"}),
        ({"act": "identity", "weight": "mean"}, {"act": "ste_sign", "weight": "magnitude_aware"}),
        ({"act": "clip", "weight": "clip"}, {"act": "clipped_ste", "weight": "clipped_ste"}),
        ({"act": "half", "weight": "mean-clip"}, {"act": "abc_half", "weight": "reactnet"}),
        ({"act": "step", "weight": "layer"}, {"act": "dorefa", "weight": "dorefa"}),
        ({"act": "ede", "weight": "mean-long"}, {"act": "ede", "weight": "btm"}),
        ({"weight": "triangle"}, {"weight": "approx_sign"}),
        ({"weight": "xnor"}, {"weight": "xnor"}),
        ({"act": "float", "weight": "libra"}, {"act": "float", "weight": "libra"}),
        (
            {"method": "xnor", "options": {"maps": False}},
            {"method": "xnor", "options": {"scale_map": False}},
        ),
        (
            {"method": "house", "options": {"maps": 8, "norm": True, "inner": False, "slope": 1.0}},
            {"method": "bitsr"},
        ),
        ({"method": "house", "binarized": "none"}, {"method": "bitsr", "binarized": "none"}),
    ],
)
def test_arguments(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert legacy.parse(old(before), "old").net.args == {**TINY, **after}


def test_arguments_of_stages() -> None:
    stages = [{"iterations": 1, "lr": 1.0, "args": {"act": "clip"}}]
    table = {**old(), "train": {"stages": stages}}
    assert legacy.parse(table, "old").stages[0].args == {"act": "clipped_ste"}


@pytest.mark.parametrize(
    ("net", "args"),
    [
        ("srresnet", {"tail": "repeat"}),
        ("rcan", {"variant": "variant1", "wiring": "corrected"}),
        ("rcan", {"wiring": "released"}),
        ("rdn", {"variant": "bireal"}),
    ],
)
def test_steps_of_the_ablation_are_nets_of_their_own(net: str, args: dict[str, Any]) -> None:
    r = legacy.parse({**old(), "net": {"name": net, "args": args}}, "old")
    usual = legacy.ABLATIONS[net]
    assert r.net.name == f"{net}-ablation" in NETS and r.net.args == {**usual, **args}
    r = legacy.parse({**old(), "net": {"name": net, "args": dict(usual)}}, "old")
    assert (r.net.name, r.net.args) == (net, {})


DEAD = {
    "data": {"repeats": [], "turned": [], "phases": False, "layout": "auto", "colour": "y"},
    "train": {"iterations": 1, "lr": 1.0, "clip": 0.0, "freeze_bn": 0, "bn_batches": 32},
}
"""Keys that are no more, at their defaults."""


def test_dead_keys_at_their_defaults_are_dropped() -> None:
    r = legacy.parse(old(**DEAD), "old")
    assert r.data == recipe.Data() and r.train == recipe.Train(iterations=1, lr=1.0)
    adversarial = {"layer": "relu5_4", "lr_ratio": 1.0, "channels": 64, "weight": 0.5}
    table = {**old(), "train": {**DEAD["train"], "adversarial": adversarial}}
    assert legacy.parse(table, "old").train.adversarial == recipe.Adversarial(weight=0.5)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("data", "turned", [[5, 0.75]]),
        ("data", "phases", True),
        ("data", "repeats", [2]),
        ("train", "freeze_bn", 100),
        ("train", "clip", 1.0),
        ("net.args", "act", "blocked"),
        ("net.args", "act", "wide"),
        ("net.args", "method", "scales"),
        ("net.args", "mean", 100.0),
    ],
)
def test_what_is_gone_is_refused(section: str, key: str, value: Any) -> None:
    table = old()
    place = table
    for part in section.split("."):
        place = place.setdefault(part, {})
    place[key] = value
    with pytest.raises(RecipeError) as caught:
        legacy.parse(table, "some/last.pt")
    message = str(caught.value)
    assert message == f"some/last.pt: {section}.{key} = {value!r} is no longer supported"


@pytest.mark.parametrize(
    ("options", "key"),
    [({}, "slope"), ({"maps": 1, "norm": True, "inner": False, "slope": 1.0}, "maps")],
)
def test_other_nets_of_the_house_are_refused(options: dict[str, Any], key: str) -> None:
    with pytest.raises(RecipeError, match=rf"^old: net\.args\.options\.{key} = .* no longer supported$"):
        legacy.parse(old({"method": "house", "options": options}), "old")


def test_a_fault_is_still_named() -> None:
    for wrong, words in (
        ({**old(), "net": 3}, "old: net: "),
        ({**old(), "data": {"shrink": "no"}}, "old: data.hr_scales: "),
        (old({"depth": 3}), "old: net arguments: "),
        ({**old(), "train": {"lrr": 1}}, "old: train.lrr: unknown key"),
    ):
        with pytest.raises(RecipeError) as caught:
            legacy.parse(wrong, "old")
        assert str(caught.value).startswith(words)


def test_an_old_training_file_loads(tmp_path: Path) -> None:
    """Recipe and state dict under their old names; the net's weights are those of the file."""
    options = {"maps": 8, "norm": True, "inner": False, "slope": 1.0}
    table = old({"method": "house", "base": "consistent", "options": options})
    from bitsr.train.build import build

    torch.manual_seed(0)
    net = build(legacy.parse(table, "old"))
    state = {key.replace("scale_map.", "size."): value for key, value in net.state_dict().items()}
    assert state.keys() != net.state_dict().keys()
    facts = {"recipe": table, "stage": 0, "iteration": 3}
    torch.save({"net": state, "average": state, **facts}, tmp_path / "last.pt")
    loaded, found = checkpoint.load_net(tmp_path / "last.pt")
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in loaded.state_dict().items())
    assert found["recipe"] == table  # as stored: a packed file says what the net came from
    content = checkpoint.load(tmp_path / "last.pt")
    assert content["average"].keys() == net.state_dict().keys()
