"""`bitsr zoo build`: a chain of trainings becomes a packed net, and what is wrong is told before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")
Image = pytest.importorskip("PIL.Image")

from bitsr.cli.main import main
from bitsr.engine import Engine
from bitsr.eval.evaluate import evaluate
from bitsr.model_file import ModelFile
from bitsr.pack import check
from bitsr.train import checkpoint
from bitsr.train.recipe import net_name
from bitsr.zoo import ZOO
from bitsr.zoo.build import ChainError, build, chains

ROOT = Path(__file__).parents[2]
RECIPE = """
scale = 2
[net]
name = "srresnet"
args = { channels = 8, blocks = 1, method = "e2fif" }
[data]
patch = 8
batch = 2
[train]
iterations = 4
lr = 1e-3
validate_every = 2
"""
CHAIN = '''
[tiny]
history = """
It was made
by hand.
"""
[[tiny.steps]]
recipe = "{0}/tiny.toml"
[[tiny.steps]]
recipe = "{0}/tiny.toml"
set = ["train.iterations=3", "train.lr=2e-3"]
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    rng = np.random.default_rng(0)
    for name in ("train", "valid"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(2):
            coarse = rng.integers(0, 256, (6, 7, 3), np.uint8)
            file = tmp_path / "data" / name / f"{i}.png"
            Image.fromarray(coarse).resize((52, 44), Image.BICUBIC).save(file)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    (tmp_path / "chains.toml").write_text(CHAIN.format(tmp_path))
    monkeypatch.setenv("BITSR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("BITSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(check, "TOLERANCE", 1.0)  # 7 iterations make a net of coarse steps
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def test_a_chain_becomes_a_net(place: Path, capsys: pytest.CaptureFixture) -> None:
    out, runs = place / "out", place / "runs"
    command = ["zoo", "build", "tiny", "-o", str(out), "--chains", str(place / "chains.toml")]
    assert main([*command, "--runs", str(runs), "--device", "cpu", "-j", "1"]) == 0
    text, err = capsys.readouterr()
    assert "note: the tiny that ships was made otherwise: It was made by hand." in err
    assert "tiny: step 2 of 2, recipe" in err and "| valid |" in text
    assert {p.name for p in out.iterdir()} == {"tiny.bsr", "tiny.latent.safetensors"}

    first, second = (checkpoint.load(runs / "tiny" / str(i) / "last.pt") for i in (1, 2))
    assert (first["iteration"], second["iteration"]) == (4, 3)
    assert second["recipe"]["train"]["init_from"] == str(runs / "tiny" / "1" / "latent.safetensors")
    assert (out / "tiny.latent.safetensors").read_bytes() == (
        runs / "tiny" / "2" / "latent.safetensors"
    ).read_bytes()
    model = ModelFile.read(out / "tiny.bsr")
    assert model.name == "tiny" and "train.iterations=3" in model.metadata["training"]
    (made,) = json.loads(model.metadata["provenance"])
    assert made["overrides"]["train.iterations"] == 3 and made["torch"] == torch.__version__
    (told,) = json.loads(model.metadata["evaluation"])["means"]
    (mean,) = evaluate(Engine(model), ["valid"]).means()
    assert (told["set"], told["psnr"]) == ("valid", mean.psnr)

    before = (out / "tiny.bsr").read_bytes()
    again = build(chains(place / "chains.toml")["tiny"], out, runs=runs, device="cpu", threads=1)
    assert again.done and (out / "tiny.bsr").read_bytes() == before  # nothing was left to train


def test_the_second_step_starts_from_the_first(place: Path) -> None:
    """With a rate that moves nothing the second step ends where the first did."""
    file = place / "chains.toml"
    file.write_text(file.read_text().replace("train.lr=2e-3", "train.lr=1e-30"))
    build(chains(file)["tiny"], place / "out", runs=place / "runs", device="cpu", threads=1)
    one, two = (checkpoint.load_any(place / f"runs/tiny/{i}/latent.safetensors")["net"] for i in (1, 2))
    weights = [key for key in one if key.endswith("weight")]
    assert weights and all(torch.equal(one[key], two[key]) for key in weights)


def test_a_stopped_chain_writes_no_net(place: Path) -> None:
    chain = chains(place / "chains.toml")["tiny"]
    made = build(chain, place / "out", runs=place / "runs", device="cpu", threads=1, max_minutes=1e-9)
    assert not made.done and made.model is None and not (place / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[n]\nsteps = []", "at least one step"),
        ("[n]\nstep = 1", "steps and history, and nothing else"),
        ("n = 1", "steps and history, and nothing else"),
        ("[[n.steps]]\nset = []", "recipe and init_from are text"),
        ('[[n.steps]]\nrecipe = "a"\nset = "b"', "set is a list"),
        ('[[n.steps]]\nrecipe = "a"\nlr = 1', "recipe, set and init_from, and nothing else"),
        ("[", "chains.toml: "),
    ],
)
def test_a_wrong_chain_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "chains.toml").write_text(text)
    with pytest.raises(ChainError, match=message) as error:
        chains(tmp_path / "chains.toml")
    assert "\n" not in str(error.value)


def test_wrong_steps_are_told_before_training(place: Path, capsys: pytest.CaptureFixture) -> None:
    file = place / "chains.toml"
    file.write_text(file.read_text().replace("train.lr=2e-3", "train.lr=-1"))
    runs = ["-o", str(place / "out"), "--chains", str(file), "--runs", str(place / "runs")]
    for name, message in (("tiny", "train.lr"), ("none", "no chain named none; there are: tiny")):
        assert main(["zoo", "build", name, *runs]) == 1
        err = capsys.readouterr().err.splitlines()
        assert message in err[-1]
    assert not (place / "runs").exists()


CHAINS = chains()


def test_every_net_that_ships_has_a_chain() -> None:
    assert set(CHAINS) == {path.stem for path in ZOO.glob("*.bsr")}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_makes_its_net(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its recipes load, its files are there, and the last step's net has the shape of the one that ships."""
    monkeypatch.chdir(ROOT)
    recipes = [step.load() for step in CHAINS[name].steps]
    for step, recipe in zip(CHAINS[name].steps, recipes, strict=True):
        files = [*recipe.data.teachers, *([step.init_from] if step.init_from else [])]
        # Nets of others, which do not come with bitsr, are to lie in teachers.
        files = [file for file in files if "/" in file and not file.startswith("teachers/")]
        if any((ROOT / "checkpoints").glob("*.safetensors")):  # none in a source archive
            assert all((ROOT / file).is_file() for file in files), files
        assert all(net_name(file).endswith(f"x{recipe.scale}") for file in recipe.data.teachers)
    model = ModelFile.read(ZOO / f"{name}.bsr")
    kind, args = ("qconv", "layers") if recipes[-1].net.name == "plain" else ("bconv", "blocks")
    made, wanted = sum(op.kind == kind for op in model.ops), recipes[-1].net.args[args]
    assert (recipes[-1].scale, wanted + 1 if kind == "qconv" else 2 * wanted) == (model.scale, made)
    assert (recipes[-1].net.symmetry == 8) == model.equivariant
