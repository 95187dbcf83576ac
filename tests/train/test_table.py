"""The comparison table: equal budgets, going on, what packs and what does not, published rows marked as such."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")
Image = pytest.importorskip("PIL.Image")

from bitsr.cli.main import main
from bitsr.eval.table import (
    ADVERSARIAL,
    BACKBONES,
    FAILED,
    IN_PRINT,
    PACKED,
    PUBLISHED,
    SIMULATED,
    Row,
    Table,
    TableError,
    _backbone,
    _method,
    compare,
    parse_budget,
    parse_rates,
    published,
    with_budget,
    with_rate,
)
from bitsr.model_file import ModelFile
from bitsr.nets import NETS
from bitsr.pack import check as pack
from bitsr.train import checkpoint, recipe

RECIPE = """
scale = 2
[net]
name = "srresnet"
args = {{ channels = 8, blocks = 1, {args} }}
[data]
patch = 8
batch = 4
[train]
iterations = 90_000
lr = {lr}
validate_every = 4
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Data: two images a folder, of odd sizes; three recipes beside them."""
    rng = np.random.default_rng(0)
    for name in ("train", "valid", "Set5", "Mine"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(2):
            coarse = rng.integers(0, 256, (6 + i, 7, 3), np.uint8)
            Image.fromarray(coarse).resize((51 + 4 * i, 43), Image.BICUBIC).save(
                tmp_path / f"data/{name}/{i}.png"
            )
    (tmp_path / "e2fif.toml").write_text(RECIPE.format(args='method = "e2fif"', lr=1e-3))
    (tmp_path / "twin.toml").write_text(RECIPE.format(args="binary = false", lr=1e-3))
    (tmp_path / "wild.toml").write_text(RECIPE.format(args='method = "bnn"', lr=1e30))
    monkeypatch.setenv("BITSR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("BITSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pack, "TOLERANCE", 1.0)  # 6 iterations make a net of coarse steps
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_train_measure_and_go_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    recipes = [str(tmp_path / f"{name}.toml") for name in ("e2fif", "wild", "twin")]
    command = ["table", *recipes, "-o", str(out), "--sets", "Set5,Mine", "--set", "train.seed=7", "-j", "1"]
    assert main([*command, "--train", "6"]) == 1  # one of them diverges
    text, err = capsys.readouterr()
    assert err == "" and text == (out / "table.md").read_text()
    budget = "of 6, batch 4, patch 8, seed 7"
    e2fif, wild, twin = (line for line in text.splitlines() if "| x2 |" in line and "*" not in line)
    assert (
        e2fif.startswith("| e2fif | srresnet | x2 |")
        and f"| {PACKED}: iteration " in e2fif
        and budget in e2fif
    )
    assert twin.startswith("| float |") and f"{SIMULATED}: " in twin and "(1 + 32 bit) | - |" in twin
    assert "not binary" in twin and budget in twin
    assert wild.startswith("| wild |") and f"{FAILED}: the loss is " in wild
    with (out / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["from"] for row in rows[:3]] == [PACKED, FAILED, SIMULATED]
    assert {row["from"] for row in rows[3:]} == {IN_PRINT}
    packed = ModelFile.read(out / "e2fif.bsr")
    assert float(rows[0]["kib"]) == pytest.approx(len(packed.to_bytes()) / 1024, rel=1e-4)
    assert float(rows[0]["ms"]) > 0 and rows[2]["ms"] == ""
    assert 0 < float(rows[0]["sharpness"]) < 3 and rows[3]["sharpness"] == rows[3]["validation"] == ""
    assert float(rows[0]["validation"]) == pytest.approx(
        checkpoint.load(out / "e2fif/best.pt")["psnr"], abs=1e-3
    )
    assert 5 < float(rows[0]["Mine_psnr"]) < 60 and float(rows[2]["ops_g"]) > float(rows[0]["ops_g"])
    assert any(row["Set5_psnr"] == "37.44" and row["method"] == "BBCU-M" for row in rows)

    before = (out / "e2fif" / "last.pt").stat().st_mtime_ns
    again = compare([recipes[0]], out, sets=["Mine"])  # without a budget: what is there is measured
    assert (out / "e2fif" / "last.pt").stat().st_mtime_ns == before
    assert again.rows[0].figures["Mine"][0] == pytest.approx(float(rows[0]["Mine_psnr"]), abs=1e-4)
    assert not [row for row in again.lines() if row.how == IN_PRINT]  # nothing is published on these images
    content = checkpoint.load(out / "e2fif" / "best.pt")
    both = compare([str(out / "e2fif.bsr"), str(out / "twin" / "best.pt")], tmp_path / "other", sets=["Mine"])
    assert both.rows[0].figures == again.rows[0].figures and both.rows[0].about == again.rows[0].about
    assert f"iteration {content['iteration']} {budget}" in both.rows[0].about
    assert both.rows[1].how == SIMULATED


def test_the_best_learning_rate_counts(tmp_path: Path) -> None:
    """Each factor has a run of its own; the best on validation is the row; one that diverges is passed over."""
    out, source = tmp_path / "out", str(tmp_path / "e2fif.toml")
    (row,) = compare([source], out, sets=["Mine"], budget="6", rates=[1, 0.1, 1e30]).rows
    psnr = {p.name: checkpoint.load(p / "best.pt")["psnr"] for p in (out / "e2fif", out / "e2fif-rate0.1")}
    best = max(psnr, key=lambda name: psnr[name])
    assert row.valid == psnr[best] and f"learning rate {1e-3 if best == 'e2fif' else 1e-4}" in row.about
    assert not (out / "e2fif-rate1e+30" / "best.pt").exists()
    (again,) = compare([source], out, sets=["Mine"], rates=[1, 0.1]).rows  # of what is there
    assert again.figures == row.figures and again.about == row.about
    (wild,) = compare([source], out, sets=["Mine"], budget="6", rates=[1e30]).rows
    assert wild.how == FAILED and "the loss is" in wild.about
    two = with_rate(recipe.load("e2fif-srresnet-x4-two-stage"), 3, "two")
    assert [s.lr for s in two.stages] == pytest.approx([6e-4, 1.2e-3])
    assert parse_rates("0.3,1,3") == (0.3, 1, 3)
    for text in ("", "x", "1,1", "0", "-1", "inf", "1;2"):
        with pytest.raises(TableError, match=r"such as 0\.3,1,3"):
            parse_rates(text)


def test_the_simulation_is_measured_as_packed_bits_are(tmp_path: Path) -> None:
    """The same net by both ways: PSNR within what the packer's own check allows."""
    out = tmp_path / "out"
    compare([str(tmp_path / "e2fif.toml")], out, sets=["Mine"], budget="6")
    from bitsr.eval.evaluate import evaluate
    from bitsr.eval.simulation import Simulation

    net, _ = checkpoint.load_net(out / "e2fif" / "best.pt")
    packed = compare([str(out / "e2fif.bsr")], tmp_path / "b", sets=["Mine"]).rows[0]
    (mean,) = evaluate(Simulation(net, 2), ["Mine"]).means()
    assert mean.psnr == pytest.approx(packed.figures["Mine"][0], abs=0.1)


def test_what_is_wrong_is_told_before_training(tmp_path: Path) -> None:
    good, out = str(tmp_path / "e2fif.toml"), tmp_path / "out"
    (tmp_path / "bird.png").touch()
    for sources, message, more in (
        ([good, good], "e2fif is there twice", {"budget": "5"}),
        ([good], "no trained net of", {}),
        ([good, "no-such-net"], "no net or recipe named no-such-net", {"budget": "5"}),
        ([good], "'Set99'", {"budget": "5", "sets": ["Set99"]}),
        ([good], "set without a name", {"budget": "5", "sets": [""]}),
        ([good], "set without a name", {"budget": "5", "sets": ["Mine", ""]}),
        ([str(tmp_path / "bird.png")], r"bird\.png: no net file; those end in \.bsr", {}),
        ([good], "unknown protocol 'y'", {"budget": "5", "protocol": "y"}),
        ([good], "train.lr", {"budget": "5", "assignments": ["train.lr=-1"]}),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            compare(sources, out, **{"sets": ["Mine"], **more})
    assert not out.exists()


def test_budgets() -> None:
    assert parse_budget("3000") == (3000, None) and parse_budget("30m") == (None, 30.0)
    for text in ("", "m", "0", "-5", "1.5", "10h"):
        with pytest.raises(TableError, match="such as 3000"):
            parse_budget(text)
    assert with_budget(recipe.load("e2fif-srresnet-x4"), 123, "e2fif").iterations == 123
    two = recipe.load("e2fif-srresnet-x4-two-stage")
    for n in (7, 100, 3001):
        cut = with_budget(two, n, "two")
        assert cut.iterations == n and len(cut.stages) == 2
        for a, b in zip(cut.stages, two.stages, strict=True):
            assert a.iterations == pytest.approx(n * b.iterations / two.iterations, abs=1) and a.lr == b.lr


def test_a_budget_scales_the_schedule() -> None:
    """The learning rate at a share of the run is that of the whole run at this share."""
    steps = ["train.schedule=step", "train.milestones=[50_000, 75_000]", "train.warmup=1000"]
    for more in (steps, ["train.schedule=cosine", "train.milestones=[]", "train.warmup=2000"]):
        whole = recipe.load("e2fif-srresnet-x4", [*more, "train.iterations=100_000"])
        cut = with_budget(whole, 1000, "e2fif")
        (a,), (b,) = whole.stages, cut.stages
        for i in range(0, 1000, 7):
            assert cut.rate(b, i) == pytest.approx(whole.rate(a, 100 * i + 99), abs=0.01 * a.lr)
    tiny = with_budget(recipe.load("e2fif-srresnet-x4", [*steps, "train.iterations=100_000"]), 3, "e2fif")
    assert tiny.train.milestones == sorted(set(tiny.train.milestones)) and len(tiny.train.milestones) == 2
    assert tiny.overrides["train.iterations"] == 3 and tiny.overrides["train.milestones"] == [2, 3]
    assert tiny.source.startswith("recipe e2fif with ") and tiny.source.count("the recipe is after") == 1


def test_published_rows() -> None:
    rows = published()
    assert len(rows) > 90 and len({(r.method, r.backbone, r.scale, r.about) for r in rows}) == len(rows)
    for row in rows:
        assert row.how == IN_PRINT and row.scale in (2, 3, 4) and row.figures and row.about
        assert all(15 < psnr < 40 and 0.1 < ssim < 1 for psnr, ssim in row.figures.values())
    (best,) = (r for r in rows if r.method == "BBCU-L" and r.scale == 4)
    assert (
        [str(x) for x in best.figures["Set5"]] == ["31.79", "0.8905"]
        and best.ops == 79.20
        and "Table 1" in best.about
    )


def test_a_figure_without_a_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = PUBLISHED.read_text().splitlines()
    for bad in (
        "E2FIF,SRResNet,4,W1A1,,,31.33/0.880,,,,,M,memory",
        "E2FIF,SRResNet,4,W1A1,,,31.33/0.880,,,,,P,",
    ):
        (tmp_path / "p.csv").write_text("\n".join([*lines[:6], bad]))
        monkeypatch.setattr("bitsr.eval.table.PUBLISHED", tmp_path / "p.csv")
        with pytest.raises(ValueError, match="no grade or source"):
            published.__wrapped__()


def test_rows_stand_by_backbone_and_scale() -> None:
    mine = [Row("a", "edsr", 2, PACKED), Row("b", "srresnet", 4, PACKED), Row("c", "edsr", 2, PACKED)]
    lines = list(Table(tuple(mine), ("Set5",), "matlab-y").lines())
    assert [r.method for r in lines[:2]] == ["a", "c"]
    places = [(r.backbone.lower().removesuffix(" without bn"), r.scale) for r in lines]
    assert places == sorted(places) and set(places) == {("edsr", 2), ("srresnet", 4)}
    text = Table(tuple(mine), ("Set5",), "matlab-y").markdown()
    assert text.count("| *BBCU-L* | *SRResNet without BN* | *x4* | - | *31.79 / 0.8905* |") == 1
    assert "*30.34 / 0.864*" in text  # the digits that were printed


@pytest.mark.parametrize(
    ("name", "changes", "method"),
    [
        ("e2fif-srresnet-x4", (), "e2fif"),
        ("ma-srresnet-x4", (), "Ma et al."),
        ("ma-lapsrn-x4", (), "Ma et al."),
        ("ma-srresnet-x4", ["net.args.binary=false"], "float"),
        ("bitsr-xs-x4", (), "int8"),
        ("float-espcn-x4", (), "float"),
    ],
)
def test_a_row_names_its_method(name: str, changes: list[str], method: str) -> None:
    made = recipe.load(name, changes)
    assert _method(made, len(made.stages) - 1) == method


def beside(name: str) -> set[str]:
    """The published methods and backbones beside a packaged recipe."""
    made = recipe.load(name)
    lines = Table((Row("m", _backbone(made), made.scale, PACKED),), ("Set5",), "matlab-y").lines()
    return {f"{row.method} {row.backbone}" for row in lines if row.how == IN_PRINT}


def test_published_rows_stand_beside_their_own_backbone() -> None:
    """And only there: SRGAN's beside SRGAN, those of a net without batch norm not beside Ledig's with it."""
    assert beside("ma-srgan-x4") == {"Ma et al. SRGAN"}
    ma, bbcu, e2fif = beside("ma-srresnet-x4"), beside("bbcu-m-x4"), beside("e2fif-srresnet-x4")
    assert {"Ma et al. SRResNet", "BAM SRResNet"} <= ma and all(x.endswith(" SRResNet") for x in ma)
    assert {"BBCU-M SRResNet without BN", "float SRResNet-Lite"} <= bbcu and not bbcu & ma
    assert ma < e2fif and "BBCU-M SRResNet without BN" in e2fif
    assert "IBTM EDSR" in beside("e2fif-edsr-x4")
    assert beside("e2fif-rdn-x4") == beside("float-espcn-x4") == beside("ma-lapsrn-x4") == set()
    assert set(BACKBONES) <= NETS.keys() | {f"{name}{ADVERSARIAL}" for name in NETS}
    assert {name for names in BACKBONES.values() for name in names} <= {row.backbone for row in published()}
