"""Recipes: every packaged one builds, and every mistake is one line that names the file and the key."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pydantic")

from bitsr.methods import METHODS
from bitsr.train import recipe as recipes
from bitsr.train.build import build
from bitsr.train.recipe import RecipeError, load

MINIMAL = """
scale = 4
[net]
name = "srresnet"
args = { channels = 8, blocks = 1 }
[train]
iterations = 100
lr = 1e-3
"""


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "minimal.toml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize("name", recipes.names())
def test_packaged(name: str) -> None:
    """Loading makes the whole net; its initial values and ties are those of one of fewer blocks."""
    recipe = load(name)
    assert recipe.source
    if "blocks" in recipe.net.args:
        recipe = load(name, ["net.args.blocks=1"])
    with torch.device("meta"):  # the shapes alone
        net = build(recipe)
    assert sum(p.numel() for p in net.parameters()) > 0


def test_published_settings() -> None:
    """E2FIF, released train.sh: HR patch 192, batch 16, 300 epochs of 1000, Adam 2e-4 halved at epoch 200,
    L1."""
    nets = {"srresnet": (64, 16), "edsr": (256, 32), "rcan": (64, 5), "rdn": (64, 8)}
    for scale, name in itertools.product((2, 3, 4), nets):
        r = load(f"e2fif-{name}-x{scale}")
        assert (r.scale, r.scale * r.data.patch, r.data.batch) == (scale, 192, 16)
        assert (r.iterations, r.train.betas, r.train.eps, r.train.loss) == (300_000, (0.9, 0.999), 1e-8, "l1")
        assert (r.net.name, r.net.args["channels"], r.net.args["blocks"]) == (name, *nets[name])
        (stage,) = r.stages
        rates = [r.rate(stage, i) for i in (0, 199_999, 200_000, 299_999)]
        assert rates == pytest.approx([2e-4, 2e-4, 1e-4, 1e-4])
        assert not r.train.ema and r.train.precision == "32"


def test_changed_settings_are_told_in_place_of_the_source(tmp_path: Path) -> None:
    plain = load("e2fif-srresnet-x4")
    assert plain.source.endswith("settings from the released code") and not plain.overrides
    free = ["data.root=/elsewhere", "train.log_every=7", "train.max_minutes=3"]
    assert load("e2fif-srresnet-x4", free).source == plain.source
    same = load("e2fif-srresnet-x4", ["train.lr=2e-4"])
    assert same.source == plain.source and not same.overrides
    changed = load("e2fif-srresnet-x4", [*free, "train.iterations=9", "net.args.blocks=3"])
    assert changed.overrides == {"net.args.blocks": 3, "train.iterations": 9}
    assert changed.source.startswith(
        "recipe e2fif-srresnet-x4 with net.args.blocks = 3, train.iterations = 9"
    )
    assert "Lang et al. (2023)" in changed.source and "settings" not in changed.source
    # a file that extends a packaged recipe, on top of another one
    (tmp_path / "mine.toml").write_text('extends = "e2fif-rdn-x3"\n[train]\nlr = 0.5\n')
    (tmp_path / "again.toml").write_text('extends = "mine.toml"\n[data]\nbatch = 2\n')
    mine = load(tmp_path / "again.toml")
    assert mine.overrides == {"data.batch": 2, "train.lr": 0.5}
    assert mine.source.startswith("recipe e2fif-rdn-x3 with data.batch = 2, train.lr = 0.5;")
    # whoever names a source of his own speaks of his own settings
    (tmp_path / "own.toml").write_text('source = "me"\nextends = "e2fif-rdn-x3"\n[train]\nlr = 0.5\n')
    assert load(tmp_path / "own.toml").source == "me" and not load(tmp_path / "own.toml").overrides
    assert (
        load(tmp_path / "own.toml", ["train.lr=1"]).source
        == "recipe own with train.lr = 1.0; the recipe is after me"
    )
    assert load("e2fif-rdn-x3", ["train.lr=1", "source=me"]).source == "me"


@pytest.mark.parametrize("name", recipes.names())
def test_a_packaged_recipe_changes_nothing(name: str) -> None:
    assert not load(name).overrides and not load(name).source.startswith("recipe ")


def test_two_stages_share_their_keys() -> None:
    r = load("e2fif-srresnet-x4-two-stage", ["net.args.channels=4", "net.args.blocks=1"])
    first, second = (build(r, stage) for stage in r.stages)
    assert first.state_dict().keys() == second.state_dict().keys()
    assert [m.weight_mode for m in first.modules() if hasattr(m, "weight_mode")] == ["float"] * 2
    assert [m.weight_mode for m in second.modules() if hasattr(m, "weight_mode")] == ["ste_sign"] * 2


@pytest.mark.parametrize("method", METHODS)
def test_the_ranking_takes_every_method(method: str) -> None:
    r = load("ranking-x4", [f"net.args.method={method}"])
    assert r.net.args == {"method": method, "channels": 64, "blocks": 16} and len(r.stages) == 1


def test_schedules(minimal: Path) -> None:
    r = load(minimal, ["train.schedule=cosine", "train.warmup=10"])
    (stage,) = r.stages
    rates = [r.rate(stage, i) for i in range(100)]
    assert rates[0] == pytest.approx(1e-4, rel=1e-3) and max(rates) == pytest.approx(1e-3, rel=0.05)
    assert rates[10:] == sorted(rates[10:], reverse=True) and 0 < rates[-1] < 1e-6
    r = load(minimal, ["train.schedule=step", "train.milestones=[50, 80]", "train.gamma=0.1"])
    assert [r.rate(stage, i) for i in (49, 50, 80)] == pytest.approx([1e-3, 1e-4, 1e-5])


def test_assignments(minimal: Path) -> None:
    r = load(minimal, ["train.lr=5e-4", "data.root=/some/where", "net.args.binary=false", "train.ema=0.99"])
    assert load(minimal, ["train.precision=32"]).train.precision == "32"
    assert (r.train.lr, r.data.root, r.net.args["binary"], r.train.ema) == (5e-4, "/some/where", False, 0.99)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("train.lrr=1", "train.lrr: unknown key"),
        ("train.lr=-1", "train.lr: "),
        ("train.lr=fast", "train.lr: "),
        ("train.lr=nan", "train.lr: "),
        ("train.loss=ssim", "unknown loss 'ssim'"),
        ("train.schedule=step", "wants milestones"),
        ("train.milestones=[5]", "milestones"),
        ("train.precision=16", "train.precision: "),
        ("train.ema=1", "train.ema: "),
        ("train.betas=[0.9, 1.0]", "betas"),
        ("train.stages=[{iterations=1, lr=1.0}]", "either stages or"),
        ("scale=0", "scale: "),
        ("net.name=vgg", "unknown net 'vgg'"),
        ("net.args.depth=3", "net arguments: "),
        ("net.args.blocks=0", "net arguments: "),
        ("net.args.blocks=many", "net arguments: "),
        ("data.patch=0", "data.patch: "),
        ("data.hr_scales=[0.5, 1.5]", "data.hr_scales.1: "),
        ("data.degrade=-1", "data.degrade: "),
        ("net.symmetry=3", "net.symmetry: "),
        ("data.valid_crop=2", "valid_crop"),
        ("data.hr_weight=0.5", "hr_weight has no meaning without teachers"),
        ("train.lr", "--set wants key=value"),
        ("scale.x=1", "is a value, not a section"),
    ],
)
def test_mistakes(minimal: Path, assignment: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(minimal, [assignment])
    message = str(caught.value)
    assert words in message and "\n" not in message
    assert str(minimal) in message or "--set" in message


def test_the_objective_names_the_teachers() -> None:
    teachers = '["some/where/one.latent.safetensors", "two"]'
    objective = lambda *sets: load("bitsr-m-x4", sets).objective  # noqa: E731
    assert objective() == "l1"
    assert objective('data.teachers=["two"]') == "l1 from what two makes of LR"
    assert (
        objective(f"data.teachers={teachers}", "data.hr_weight=0.25")
        == "l1 from what one, two make of LR, mixed with 0.25 of HR"
    )
    assert objective('data.teachers=["two"]', "data.degrade=2") == "l1 from what two makes of clean LR"


def test_an_adversary_wants_no_teacher() -> None:
    with pytest.raises(RecipeError, match="wants images, not"):
        load("ma-srgan-x4", ['data.teachers=["bitsr-m-x4"]'])


def test_extending_a_recipe(tmp_path: Path, minimal: Path) -> None:
    """What a recipe leaves out comes from the one that it extends, key by key; assignments come last."""
    middle, top = tmp_path / "middle.toml", tmp_path / "top.toml"
    middle.write_text('extends = "minimal.toml"\nscale = 2\nnet.args.blocks = 3\ndata.hr_scales = [0.5]\n')
    top.write_text('extends = "middle.toml"\ntrain.lr = 1e-4\n')
    r = load(top, ["net.args.channels=4"])
    assert (r.scale, r.net.args, r.train.lr) == (2, {"channels": 4, "blocks": 3}, 1e-4)
    assert (r.train.iterations, r.data.hr_scales) == (100, [0.5])
    top.write_text('extends = "e2fif-srresnet-x4"\n')
    assert load(top) == load("e2fif-srresnet-x4")
    minimal.write_text('extends = "top.toml"\n' + MINIMAL)
    for wrong, words in (
        ("middle.toml", "leads back"),
        ("absent", "no such recipe file"),
        (3, "name of a recipe"),
    ):
        top.write_text(f"extends = {wrong!r}\n")
        with pytest.raises(RecipeError, match=words):
            load(top)


def test_mistakes_in_the_file(tmp_path: Path, minimal: Path) -> None:
    with pytest.raises(RecipeError, match=r"packaged recipes: .*e2fif-srresnet-x4"):
        load("e2fif-srresnet-x5")
    with pytest.raises(RecipeError, match="no such recipe"):
        load(tmp_path / "absent.toml")
    minimal.write_text("scale = ")
    with pytest.raises(RecipeError, match=r"minimal\.toml"):
        load(minimal)
    minimal.write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"minimal\.toml"):
        load(minimal)
    minimal.write_text(MINIMAL.replace("lr = 1e-3", ""))
    with pytest.raises(RecipeError, match="iterations and lr are wanted"):
        load(minimal)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("house-fast-x3", "bitsr-s-x3"),
        ("house-srresnet-x4-cpu", "bitsr-m-x4-cpu"),
        ("house-best-x4", "bitsr-l-x4"),
        ("house-best-x2-cpu", "bitsr-xl-x2-cpu"),
    ],
)
def test_old_names_go_on_loading(old: str, new: str) -> None:
    names = [name.removesuffix("-cpu") for name in (old, new)]
    with pytest.warns(DeprecationWarning, match="{} is now called {}".format(*names)):
        assert load(old) == load(new)


def test_blocks_of_the_nets_that_ship() -> None:
    """One rule for the sizes, the same for every scale, on a CPU and a GPU."""
    for size, blocks in {"s": 8, "m": 16, "l": 32}.items():
        for scale in (2, 3, 4):
            for cpu in ("", "-cpu"):
                r = load(f"bitsr-{size}-x{scale}{cpu}")
                assert (r.scale, r.net.args["blocks"], r.net.symmetry) == (scale, blocks, 8)
    assert load("bitsr-xl-x2").net.args["blocks"] == load("bitsr-xl-x2-cpu").net.args["blocks"] == 48


TABLES = Path(__file__).resolve().parents[2] / "examples" / "tables"


@pytest.mark.skipif(not TABLES.is_dir(), reason="no examples in this tree")
def test_the_recipes_of_the_tables_differ_in_what_their_names_say() -> None:
    """One budget for all; 8 methods on 4 backbones; each a net that can be made."""
    made = {f"{path.parent.name}/{path.stem}": load(path) for path in TABLES.glob("[!s]*/*.toml")}
    assert len({r.data.model_dump_json() for r in made.values()}) == 1
    assert {(r.scale, r.iterations, r.train.schedule, r.train.seed) for r in made.values()} == {
        (4, 2000, "cosine", 0)
    }
    methods = {
        tuple(name.removeprefix("methods/").split("-")) for name in made if name.startswith("methods/")
    }
    assert methods == set(itertools.product({b for b, _ in methods}, {m for _, m in methods}))
    assert len(methods) == 32
    for backbone, method in methods:
        net = made[f"methods/{backbone}-{method}"].net
        assert (net.name, net.args["method"]) == (backbone, method)
    for name in ("srresnet", "lapsrn", "srgan"):
        real, binary = made[f"ma/{name}-float"], made[f"ma/{name}"]
        assert real.net.args.pop("binary") is False and real.net == binary.net
        assert (real.train.lr, real.train.loss) == (binary.train.lr, binary.train.loss)
