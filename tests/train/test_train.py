"""The loop on tiny images and nets: exact resuming, clean stops, stages, averaging, checkpoints."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")
pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

from lightning_fabric import Fabric
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bitsr.eval.metrics import psnr, to_8bit
from bitsr.folders import data_folder
from bitsr.layers.ops import Net
from bitsr.nets.srresnet import SRResNet
from bitsr.train import checkpoint, data, recipe
from bitsr.train.build import build
from bitsr.train.checkpoint import CheckpointError
from bitsr.train.crops import Crops
from bitsr.train.log import COLUMNS
from bitsr.train.muon import FLOAT_RMS, Muon
from bitsr.train.run import load_data, train
from bitsr.train.trainer import Trainer, TrainError
from bitsr.train.validate import estimate_bn, validate

SRC = Path(__file__).parents[2] / "src"
BASE = {
    "scale": 2,
    "net": {"name": "srresnet", "args": {"channels": 8, "blocks": 1}, "stream_init_scale": 0.1},
    "data": {"patch": 8, "batch": 4},
    "train": {"iterations": 12, "lr": 1e-3, "log_every": 3, "validate_every": 6, "checkpoint_every": 5},
}


STOP: dict[str, Any] = {
    "device": "cpu",
    "report": lambda i, row: os.kill(os.getpid(), signal.SIGINT) if i == 7 else None,
}
"""Arguments of a run that is interrupted after its 8th iteration."""


@pytest.fixture(scope="module", autouse=True)
def images(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Smooth random images: train/ and valid/, of differing sizes; the cache goes to the same place."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for role, count in (("train", 3), ("valid", 2)):
        (root / role).mkdir()
        for i in range(count):
            coarse = rng.integers(0, 256, (6 + i, 7, 3), np.uint8)
            Image.fromarray(coarse).resize((50 + 3 * i, 44), Image.BICUBIC).save(root / role / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITSR_DATA", str(root))
        patch.setenv("BITSR_CACHE", str(root / "cache"))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # nets this small gain nothing from more, and lose much on a busy machine
        yield root
        torch.set_num_threads(threads)


def make(**changes: Any) -> recipe.Recipe:
    """BASE with ``section__key=value`` changes; None removes a key."""
    table = {k: dict(v) if isinstance(v, dict) else v for k, v in BASE.items()}
    for name, value in changes.items():
        section, _, key = name.partition("__")
        place, key = (table[section], key) if key else (table, section)
        place.pop(key, None) if value is None else place.update({key: value})
    return recipe.parse(table, "test")


def log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def losses(folder: Path) -> list[tuple[str, ...]]:
    return [(row["iteration"], row["stage"], row["lr"], row["loss"], row["psnr_y"]) for row in log(folder)]


def test_a_run(tmp_path: Path) -> None:
    seen = []
    r = make(train__iterations=60, train__validate_every=20, train__lr=5e-3)
    outcome = train(r, tmp_path / "run", device="cpu", report=lambda i, row: seen.append((i, row)))
    assert outcome.iteration == 60 and outcome.complete
    assert [i for i, _ in seen] == list(range(1, 61)) and sum(row is not None for _, row in seen) == 22
    rows = log(tmp_path / "run")
    assert tuple(rows[0]) == COLUMNS
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    scores = [float(row["psnr_y"]) for row in rows if row["psnr_y"]]
    assert len(scores) == 3 and max(scores) == pytest.approx(outcome.best)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "recipe.json", "log.csv", "log.png", "last.pt", "best.pt", "latent.safetensors", ".lock",
    }  # fmt: skip
    net, facts = checkpoint.load_net(tmp_path / "run" / "best.pt")
    assert facts["psnr"] == outcome.best and facts["iteration"] in (20, 40, 60)
    pairs = data.load_pairs(data.find_pairs(data_folder(), ["auto"], "valid", 2)[0], 2)
    assert validate(net, pairs) == pytest.approx(outcome.best, abs=1e-4)


def test_validation_psnr_is_the_metric(tmp_path: Path) -> None:
    """On the device as in ``metrics``: 8-bit rounding of both, crop = scale, mean over images."""
    net = build(make()).eval()
    pairs = data.load_pairs(data.find_pairs(data_folder(), ["auto"], "valid", 2)[0], 2)
    whole, central = [], []
    for i in range(len(pairs)):
        lr, hr = pairs.image(i)
        with torch.no_grad():
            sr = net(lr[None, None])[0, 0]
        whole.append(psnr(to_8bit(sr.numpy()), to_8bit(hr.numpy()), crop=2))
        h, w = lr.shape
        y, x = (h - 10) // 2, (w - 10) // 2
        with torch.no_grad():
            sr = net(lr[None, None, y : y + 10, x : x + 10])[0, 0]
        part = hr[2 * y : 2 * y + 20, 2 * x : 2 * x + 20]
        central.append(psnr(to_8bit(sr.numpy()), to_8bit(part.numpy()), crop=2))
    assert validate(net, pairs) == pytest.approx(np.mean(whole), abs=1e-5)
    assert validate(net, pairs, 10) == pytest.approx(np.mean(central), abs=1e-5)


KILLED = """
import os, signal, sys
from pathlib import Path
from bitsr.train import recipe, run
r = recipe.load(sys.argv[1])
die = lambda i, row: os.kill(os.getpid(), signal.SIGKILL) if i == int(sys.argv[3]) else None
run.train(r, Path(sys.argv[2]), device="cpu", threads=1, report=die)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_and_resumed_is_the_same_run(tmp_path: Path) -> None:
    """Two stages, averaging, killed in the second one between log rows: equal losses, PSNR and weights."""
    (tmp_path / "r.toml").write_text(
        """
scale = 2
[net]
name = "srresnet"
args = { channels = 8, blocks = 1 }
stream_init_scale = 0.1
[data]
patch = 8
batch = 4
[train]
ema = 0.9
log_every = 4
validate_every = 6
checkpoint_every = 5
[[train.stages]]
iterations = 8
lr = 1e-3
args = { binary = "activations" }
[[train.stages]]
iterations = 12
lr = 2e-3
"""
    )
    r = recipe.load(tmp_path / "r.toml")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(r, whole, device="cpu")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "r.toml"), str(cut), "17"]
    died = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(SRC)}, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert int(log(cut)[-1]["iteration"]) == 16 and checkpoint.load(cut / "last.pt")["iteration"] == 15
    outcome = train(r, cut, resume=True, device="cpu")
    assert outcome.complete and outcome.iteration == 20
    assert losses(cut) == losses(whole)
    for file in ("last.pt", "best.pt"):
        a, b = checkpoint.load(whole / file)["net"], checkpoint.load(cut / file)["net"]
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_annealing_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """IR-Net's gradient follows the progress of the stage, also after a resumption."""
    r = make(net__args={"channels": 8, "blocks": 1, "method": "irnet"})
    train(r, tmp_path / "whole", device="cpu")
    assert train(r, tmp_path / "cut", **STOP).iteration == 8
    train(r, tmp_path / "cut", device="cpu")
    assert losses(tmp_path / "cut")[-1] == losses(tmp_path / "whole")[-1]
    a, b = (checkpoint.load(tmp_path / name / "last.pt")["net"] for name in ("whole", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_with_a_teacher(tmp_path: Path) -> None:
    """It is told of, once, and resumes exactly; a teacher that does not count changes nothing."""
    said: list[str] = []
    r = make(data__teachers=["bitsr-m-x2"], train__lr=5e-3)
    whole = train(r, tmp_path / "whole", device="cpu", say=said.append)
    upscaling = [line for line in said if "decoding" not in line]
    assert len(upscaling) == 1 and upscaling[0].startswith("bitsr-m-x2: upscaling 3 ")
    said.clear()
    assert train(r, tmp_path / "cut", **STOP, say=said.append).iteration == 8 and not said
    assert train(r, tmp_path / "cut", device="cpu", say=said.append).complete
    assert said == [f"{tmp_path / 'cut'}: going on from iteration 8"]
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole") and whole.complete
    for name, changes in {
        "hr": {},
        "weight": {"data__teachers": r.data.teachers, "data__hr_weight": 1.0},
    }.items():
        train(make(train__iterations=3, train__lr=5e-3, **changes), tmp_path / name, device="cpu")
    assert losses(tmp_path / "hr") == losses(tmp_path / "weight") != losses(tmp_path / "whole")[:1]


STAGES = [{"iterations": 6, "lr": 5e-3, "args": {"binary": "activations"}}, {"iterations": 6, "lr": 5e-3}]
"""The first with float weights."""


@pytest.mark.parametrize(
    "schedule",
    [{"train__lr": 5e-3}, {"train__stages": STAGES, "train__iterations": None, "train__lr": None}],
    ids=["one stage", "two"],
)
def test_muon_resumes_exactly(tmp_path: Path, schedule: dict[str, Any]) -> None:
    r = make(train__optimiser="muon", **schedule)
    assert (
        train(r, tmp_path / "cut", **STOP).iteration == 8
        and train(r, tmp_path / "cut", device="cpu").complete
    )
    train(r, tmp_path / "whole", device="cpu")
    train(make(**schedule), tmp_path / "adam", device="cpu")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole") != losses(tmp_path / "adam")


def test_muon_refuses_a_net_without_convolutions_inside(tmp_path: Path) -> None:
    r = make(train__optimiser="muon", net__name="espcn", net__args={}, net__stream_init_scale=1.0)
    with pytest.raises(TrainError, match="this one has none"):
        train(r, tmp_path, device="cpu")


@pytest.mark.parametrize("quantised", [True, False])
def test_muon_takes_the_convolutions_of_int8_nets(tmp_path: Path, quantised: bool) -> None:
    """All singular values of an update are alike, which Adam's are not."""
    args = {"channels": 16, "layers": 2, "quantised": quantised}
    r = make(
        train__optimiser="muon",
        train__iterations=1,
        net__name="plain",
        net__args=args,
        net__stream_init_scale=1.0,
    )
    torch.manual_seed(r.train.seed)
    before = build(r).state_dict()
    train(r, tmp_path, device="cpu")
    trained = checkpoint.load(tmp_path / "last.pt")["net"]
    for name in ("body.0.weight", "body.1.weight", "tail.weight"):
        step = (trained[name] - before[name]).flatten(1)
        size = FLOAT_RMS * r.rate(r.stages[0], 0) * max(step.shape) ** 0.5
        torch.testing.assert_close(
            torch.linalg.svdvals(step), torch.full((len(step),), size), rtol=0.02, atol=0
        )


@pytest.mark.parametrize("binarized", ["body", "none"])
def test_muon_leaves_tied_weights_tied(tmp_path: Path, binarized: str) -> None:
    """Bit for bit: eigenvectors are not those of a flipped matrix flipped."""
    args = {"channels": 16, "blocks": 2, "binarized": binarized}
    r = make(train__optimiser="muon", train__lr=5e-3, net__args=args, net__symmetry=8)
    train(r, tmp_path, device="cpu")
    trained = checkpoint.load(tmp_path / "last.pt")["net"]
    net = checkpoint.load_net(tmp_path / "last.pt")[0]  # which ties it
    assert all(torch.equal(v, trained[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    ("args", "convs"),
    [
        ({"binarized": "none"}, ["conv1", "conv2"]),
        ({"binary": "activations"}, ["unit1.conv", "unit2.conv"]),
        ({"binary": False}, ["unit1.conv", "unit2.conv"]),
    ],
)
def test_muon_takes_the_float_weights_inside(args: dict[str, Any], convs: list[str]) -> None:
    """All of the body's but biases, in steps for floats; head and tail are Adam's."""
    r = make(train__optimiser="muon", net__args={"channels": 8, "blocks": 2, **args})
    net = build(r)
    muon = Trainer(Fabric(accelerator="cpu"), r, net, crops=None).adam  # type: ignore[arg-type]
    assert isinstance(muon, Muon)
    names = {id(p): name for name, p in net.named_parameters()}
    assert {names[id(p)] for p in muon.rms} == {f"body.{i}.{conv}.weight" for i in range(2) for conv in convs}
    assert set(muon.rms.values()) == {FLOAT_RMS}


def test_progress_reaches_the_binarizers(tmp_path: Path) -> None:
    r = make(net__args={"channels": 8, "blocks": 1, "method": "irnet"})
    crops, _ = load_data(r, torch.device("cpu"))
    trainer = Trainer(Fabric(accelerator="cpu"), r, build(r), crops)
    for progress in (0.0, 0.75):
        trainer.step(0, 1e-3, progress)
        read = [float(m.get_buffer("progress")) for m in trainer.net.modules() if hasattr(m, "progress")]
        assert read == [progress] * 2


def test_shrunk_images_are_training_images_alone() -> None:
    crops, valid = load_data(make(data__hr_scales=[0.7]), torch.device("cpu"))
    assert len(crops.pairs) == 3 * 2 and len(valid) == 2
    places = (crops.pairs.sizes - 8 + 1).clamp(min=0).prod(1)
    assert crops.ends.diff(prepend=torch.tensor([0])).tolist() == places.tolist()


def test_the_average_has_the_buffers_that_no_batch_norm_owns(tmp_path: Path) -> None:
    """PAMS keeps the range of the first batch in one."""
    train(
        make(net__args={"channels": 8, "blocks": 1, "method": "pams"}, train__ema=0.5), tmp_path, device="cpu"
    )
    best, last = (checkpoint.load(tmp_path / f"{name}.pt")["net"] for name in ("best", "last"))
    starts = [k for k in last if k.endswith(".start")]
    assert len(starts) == 2 and all(torch.equal(best[k], last[k]) and last[k] > 0 for k in starts)


@pytest.mark.skipif(os.name != "posix", reason="needs gloo")
def test_two_devices_share_a_batch(tmp_path: Path) -> None:
    """DDP over two processes: the losses of one, but for batch norm over half of the batch each."""
    (tmp_path / "run.py").write_text(
        "import json, sys\nfrom bitsr.train import recipe, run\n"
        "r = recipe.parse(json.load(open(sys.argv[1])), 'test')\n"
        "run.train(r, sys.argv[2], device='cpu', devices=2, threads=1)\n"
    )
    r = make(train__iterations=4, train__log_every=2, data__patch=16)
    (tmp_path / "r.json").write_text(r.model_dump_json(exclude_defaults=True))
    command = [sys.executable, *(str(tmp_path / name) for name in ("run.py", "r.json", "two"))]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(SRC)}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    train(r, tmp_path / "one", device="cpu")
    one, two = ([float(row["loss"]) for row in log(tmp_path / name)] for name in ("one", "two"))
    assert one == pytest.approx(two, rel=0.01) and len(two) == 2
    with pytest.raises(TrainError, match="does not divide"):
        load_data(r, torch.device("cpu"), 0, 3)


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", 1)])
def test_signal_leaves_a_checkpoint(tmp_path: Path, number: int, request: pytest.FixtureRequest) -> None:
    # under nohup, which these tests may run under, SIGHUP is ignored, and a run leaves it so
    was = signal.signal(number, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(number, was))
    before = signal.getsignal(number)
    r = make()
    outcome = train(
        r, tmp_path, device="cpu", report=lambda i, row: os.kill(os.getpid(), number) if i == 4 else None
    )
    assert not outcome.complete and outcome.iteration == 5 and outcome.signal == number
    assert checkpoint.load(tmp_path / "last.pt")["iteration"] == 5
    assert signal.getsignal(number) is before
    assert train(r, tmp_path, device="cpu").complete
    again = train(r, tmp_path, device="cpu")  # a finished run has nothing left to do
    assert again.complete and again.iteration == 12
    assert [int(row["iteration"]) for row in log(tmp_path)] == [3, 6, 9, 12]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_a_run_under_nohup_goes_on(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    was = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, was))
    outcome = train(
        make(),
        tmp_path,
        device="cpu",
        report=lambda i, row: os.kill(os.getpid(), signal.SIGHUP) if i == 4 else None,
    )
    assert outcome.complete and not outcome.signal


def test_files_say_what_made_the_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    r = make(train__iterations=4, train__log_every=1)
    origin = make(train__iterations=5, train__log_every=3)
    r = r.changed(origin, "another")
    assert r.overrides == {"train.iterations": 4}
    train(
        r,
        tmp_path,
        device="cpu",
        report=lambda i, row: os.kill(os.getpid(), signal.SIGINT) if i == 2 else None,
    )
    (first,) = checkpoint.load(tmp_path / "last.pt")["provenance"]
    assert first["overrides"] == {"train.iterations": 4} and first["torch"] == torch.__version__
    assert first["machine"] and first["bitsr"] and first["data"]["train"] != first["data"]["valid"]
    assert len({*first["data"].values()} | {""}) == 3
    monkeypatch.setattr("bitsr.train.provenance._machine", lambda device: "elsewhere")
    # a resumed run is the same whatever its source says
    assert train(r.model_copy(update={"source": "older words"}), tmp_path, device="cpu").complete
    expected = [first, {**first, "machine": "elsewhere"}]
    for name in ("last.pt", "latent.safetensors"):
        assert checkpoint.load_net(tmp_path / name)[1]["provenance"] == expected
    assert train(r, tmp_path, device="cpu").complete
    assert checkpoint.load_net(tmp_path / "last.pt")[1]["provenance"] == expected


def test_time_budget_validates_and_stops(tmp_path: Path) -> None:
    outcome = train(make(train__iterations=10**6), tmp_path, device="cpu", max_minutes=1e-6)
    assert not outcome.complete and outcome.iteration == 1 and outcome.best > 0
    assert (tmp_path / "latent.safetensors").exists()


def test_resuming_is_checked(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"nothing to resume"):
        train(make(), tmp_path / "run", resume=True, device="cpu")
    train(make(train__iterations=3), tmp_path / "run", device="cpu")
    with pytest.raises(TrainError, match="holds a run already"):
        train(make(train__iterations=3), tmp_path / "run", resume=False, device="cpu")
    with pytest.raises(TrainError, match=r"the run has train.lr = 0.001, the recipe 0.002"):
        train(make(train__iterations=3, train__lr=2e-3), tmp_path / "run", device="cpu")
    train(make(train__iterations=3, train__log_every=7), tmp_path / "run", device="cpu")  # changes no weight
    (tmp_path / "run" / "last.pt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"last\.pt: not a checkpoint"):
        train(make(train__iterations=3), tmp_path / "run", device="cpu")


def test_faults_are_named(tmp_path: Path, images: Path) -> None:
    with pytest.raises(TrainError, match="loss is nan at iteration"):
        train(make(train__lr=1e30), tmp_path / "a", device="cpu")
    with pytest.raises(data.DataError, match="both a training and a validation image"):
        train(make(data__valid=["train"]), tmp_path / "b", device="cpu")
    with pytest.raises(TrainError, match="cpu, cuda or auto"):
        train(make(), tmp_path / "c", device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(TrainError, match=r"1 CUDA device\(s\) wanted, 0 found"):
            train(make(), tmp_path / "d", device="cuda")
    with pytest.raises(FileNotFoundError):
        train(make(train__init_from=str(tmp_path / "absent.pt")), tmp_path / "e", device="cpu")


def test_patterns_leave_parameters_fresh() -> None:
    """A net of method bitsr from one of E2FIF: all that both have is taken, the rest stays."""
    plain, ours = (SRResNet(2, channels=8, blocks=1, method=m) for m in ("e2fif", "bitsr"))
    fresh = ["*.norm.*", "*.scale_map.*"]
    before = ours.state_dict()["body.0.unit1.scale_map.weight"].clone()
    checkpoint.initialise(ours, plain.state_dict(), ["*.threshold", *fresh], "plain")
    key = "body.0.unit2.conv.weight"
    assert torch.equal(ours.state_dict()[key], plain.state_dict()[key])
    assert torch.equal(ours.state_dict()["body.0.unit1.scale_map.weight"], before)
    with pytest.raises(CheckpointError, match=r"plain: has no body\.0\.unit1\.threshold"):
        checkpoint.initialise(ours, plain.state_dict(), fresh, "plain")


def test_new_blocks_start_as_the_identity(tmp_path: Path) -> None:
    """A deeper net that starts from a trained one is that net, and then learns in all its blocks."""

    def deep(file: Path, **changes: Any) -> recipe.Recipe:
        args = {**args_of(3), **changes}
        return make(net={"name": "srresnet", "args": args}, train__init_from=str(file), train__init_grow=True)

    def args_of(blocks: int) -> dict[str, Any]:
        return {"channels": 8, "blocks": blocks, "method": "bitsr"}

    shallow = make(net={"name": "srresnet", "args": args_of(1)}, train__iterations=3)
    train(shallow, tmp_path / "shallow", device="cpu")
    file = tmp_path / "shallow" / "best.pt"
    before, _ = checkpoint.load_net(file)
    net, weights = build(deep(file), deep(file).stages[0]), checkpoint.load(file)["net"]
    checkpoint.initialise(net, weights, checkpoint.blank(net, weights, "best.pt"), "best.pt")
    y = torch.linspace(0, 255, 15 * 17).view(15, 17)
    assert isinstance(net, Net) and isinstance(before, Net)
    assert torch.equal(net.upscale(y), before.upscale(y))
    train(deep(file), tmp_path / "deep", device="cpu")
    found = checkpoint.load(tmp_path / "deep" / "last.pt")["net"]
    assert all(found[f"body.{i}.unit{u}.bn.weight"].any() for i in range(3) for u in (1, 2))
    with pytest.raises(CheckpointError, match=r"best\.pt: the net has no blocks beyond those there"):
        train(deep(file, blocks=1), tmp_path / "x", device="cpu")
    with pytest.raises(CheckpointError, match=r"body\.1 has no batch norm to start as the identity"):
        train(deep(file, binarized="none"), tmp_path / "x", device="cpu")


@pytest.mark.parametrize("loss", ["l1", "mse", "psnr", "charbonnier"])
def test_options_train(tmp_path: Path, loss: str) -> None:
    r = make(train__loss=loss, train__precision="bf16", train__schedule="cosine", train__warmup=3)
    assert train(r, tmp_path, device="cpu").complete


def test_start_from_another_scale(tmp_path: Path) -> None:
    """x4 starts from the x2 body with a fresh tail, from any kind of file."""
    train(make(train__iterations=2), tmp_path / "x2", device="cpu")
    source = checkpoint.load(tmp_path / "x2" / "last.pt")["net"]
    torch.save({"net": source, "it": 2, "args": {"lr": 1e-3}}, tmp_path / "plain.pt")
    for file in (tmp_path / "plain.pt", tmp_path / "x2" / "best.pt", tmp_path / "x2" / "latent.safetensors"):
        r = make(
            scale=4,
            data__patch=4,
            train__lr=1e-12,
            train__iterations=1,
            train__init_from=str(file),
            train__init_skip=["tail"],
        )
        run = tmp_path / f"x4-{file.name}"
        train(r, run, device="cpu")
        state = checkpoint.load(run / "last.pt")["net"]
        torch.testing.assert_close(state["head.weight"], source["head.weight"])
        assert torch.equal(state["body.0.unit1.conv.weight"] < 0, source["body.0.unit1.conv.weight"] < 0)
        assert state["tail.weight"].shape[0] == 16
    with pytest.raises(
        CheckpointError, match=r"tail\.weight is \(4, 8, 3, 3\), the net wants \(16, 8, 3, 3\)"
    ):
        train(make(scale=4, data__patch=4, train__init_from=str(tmp_path / "plain.pt")), tmp_path / "x")
    torch.save({"net": {**source, "more": source["tail.bias"]}}, tmp_path / "more.pt")
    with pytest.raises(CheckpointError, match=r"more\.pt: the net has no more"):
        train(make(train__init_from=str(tmp_path / "more.pt")), tmp_path / "y")


def test_latent_file_keeps_every_sign(tmp_path: Path) -> None:
    r = make(net__args={"channels": 16, "blocks": 2})
    net = build(r)
    weight = net.get_parameter("body.0.unit1.conv.weight")
    with torch.no_grad():
        weight.view(-1)[:4] = torch.tensor([1e-20, -1e-20, 0.0, -1e-7])
        net.get_buffer("body.0.unit1.bn.running_var").fill_(331_776.0)  # 576^2, past the range of float16
    content = {
        "net": net.state_dict(),
        "recipe": r.model_dump(mode="json"),
        "stage": 0,
        "iteration": 5,
        "psnr": 30.5,
    }
    path = tmp_path / "latent.safetensors"
    checkpoint.export_latent(path, content)
    loaded, facts = checkpoint.load_net(path)
    assert (facts["iteration"], facts["psnr"]) == (5, 30.5) and not loaded.training
    state = loaded.state_dict()
    for key, value in net.state_dict().items():
        if key.endswith("conv.weight"):
            assert torch.equal(state[key] >= 0, value >= 0)
        else:
            assert torch.equal(state[key], value)
    x = torch.rand(1, 1, 9, 8) * 255
    with torch.no_grad():
        assert torch.equal(loaded(x), net.eval()(x))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"latent\.safetensors: not a latent checkpoint"):
        checkpoint.load_net(path)


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"net": 1})

    def fail(content: dict[str, Any], file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, {"net": 2})
    assert checkpoint.load(path) == {"net": 1} and [p.name for p in tmp_path.iterdir()] == ["last.pt"]


FULL = """
import resource, signal, sys, torch
from pathlib import Path
from bitsr.train import checkpoint
from bitsr.train.log import Log
folder = Path(sys.argv[1])
log = Log(folder, 0, "title")
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
for write in (
    lambda: checkpoint.save(folder / "last.pt", {"net": torch.zeros(10000)}),
    lambda: [log.write({"iteration": i, "loss": 0.5}) for i in range(100)],
    lambda: log.draw(every=0),
):
    try:
        write()
    except Exception as error:
        print(repr(error), error.filename)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True)
    names = ("last.pt", "log.csv", "log.png")
    assert done.stdout.splitlines() == [
        f"OSError(27, 'File too large') {tmp_path / name}" for name in names
    ], done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["log.csv"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks")
def test_one_run_at_a_time_in_a_folder(tmp_path: Path) -> None:
    folder, seen = tmp_path / "run", []

    def second(iteration: int, row: object) -> None:
        with pytest.raises(TrainError, match=f"^{folder}: another run is at work in this folder$"):
            train(make(), folder, device="cpu")
        seen.append(iteration)

    train(make(train__iterations=2, train__log_every=1), folder, device="cpu", report=second)
    assert seen == [1, 2]
    # the lock ends with the run, also one that fails
    with pytest.raises(TrainError, match="holds a run already"):
        train(make(train__iterations=2, train__log_every=1), folder, device="cpu", resume=False)
    assert train(make(train__iterations=2, train__log_every=1), folder, device="cpu").complete


def test_average_has_its_own_statistics() -> None:
    """EMA: weights by the recurrence; batch norm statistics are the mean over training batches."""
    torch.manual_seed(0)
    norm = nn.Sequential(nn.BatchNorm2d(1, momentum=0.1))
    mean, var = norm.get_buffer("0.running_mean"), norm.get_buffer("0.running_var")
    mean.fill_(1e6)
    root = data_folder()
    pairs = data.load_pairs(data.find_pairs(root, ["auto"], "train", 2)[0], 2)
    crops = Crops(pairs, 8, 4, seed=0)
    estimate_bn(norm.eval(), crops, 3)
    batches = [crops(torch.tensor(2**31 + i))[0] for i in range(3)]
    assert mean.item() == pytest.approx(np.mean([b.mean().item() for b in batches]), rel=1e-5)
    assert var.item() == pytest.approx(np.mean([b.var().item() for b in batches]), rel=1e-5)
    assert norm[0].momentum == 0.1 and not norm.training


def test_average_follows_the_recurrence(tmp_path: Path) -> None:
    r = make(train__ema=0.75, train__lr=1e-2)
    torch.manual_seed(0)
    pairs = data.load_pairs(data.find_pairs(data_folder(), ["auto"], "train", 2)[0], 2)
    net = build(r)
    expected = net.get_parameter("head.weight").detach().clone()
    trainer = Trainer(Fabric(accelerator="cpu"), r, net, Crops(pairs, 8, 4, seed=0))
    for i in range(3):
        trainer.step(i, 1e-2, 0.0)
        expected = 0.75 * expected + 0.25 * net.get_parameter("head.weight").detach()
    assert trainer.average is not None
    torch.testing.assert_close(trainer.average.get_parameter("head.weight"), expected)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_iterations_leave_no_memory_behind() -> None:
    """A training has hundreds of thousands of them."""

    def anonymous() -> int:  # KiB; pages of the mapped images are no part of it
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    r = make(train__ema=0.5, train__int8=True)
    crops, _ = load_data(r, torch.device("cpu"))
    trainer = Trainer(Fabric(accelerator="cpu"), r, build(r), crops)
    for i in range(1300):
        trainer.step(i, 1e-3, 0.0)
        if i == 300:
            before = anonymous()
    assert anonymous() - before < 2048  # KiB; 7000 were lost here once


def test_step_is_adam_on_the_mean_loss() -> None:
    """The fused, channels-last step against a plain one written out."""
    r = make(train__lr=1e-2)
    torch.manual_seed(0)
    net = build(r)
    twin = build(r)
    twin.load_state_dict(net.state_dict())
    pairs = data.load_pairs(data.find_pairs(data_folder(), ["auto"], "train", 2)[0], 2)
    crops = Crops(pairs, 8, 4, seed=0)
    trainer = Trainer(Fabric(accelerator="cpu"), r, net, crops)
    adam = torch.optim.Adam(twin.parameters(), 1e-2, betas=(0.9, 0.999), eps=1e-8)
    total = 0.0
    for i in range(2):
        trainer.step(i, 1e-2, 0.0)
        lr, hr = crops(torch.tensor(i))
        loss = (twin(lr) - hr).abs().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        total += loss.item()
    assert trainer.read_loss(2) == pytest.approx(total / 2, rel=1e-5)
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


class Waits(TorchDispatchMode):
    """Notes every operation whose result, or its size, the host would have to wait for on a GPU."""

    WAITING = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.WAITING:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimiser", ["adam", "muon"])
@pytest.mark.parametrize("binarized", ["body", "none"])
def test_an_iteration_waits_for_no_device(optimiser: str, binarized: str) -> None:
    """Nothing in a step of the recipes of bitsr, teachers and all, is read.

    So a GPU is never idle for it, and a CUDA graph holds it."""
    sets = [f"net.args.binarized={binarized}", f"train.optimiser={optimiser}", "net.args.blocks=1"]
    r = recipe.load("bitsr-m-x4", [*sets, "data.patch=8", "data.batch=2", "train.compile=false"])
    fabric = Fabric(accelerator="cpu", devices=1)
    crops, _ = load_data(r, fabric.device)
    crops.pairs = replace(crops.pairs, soft=crops.pairs.hr)
    trainer = Trainer(fabric, r, build(r), crops)
    trainer.step(0, 1e-3, 0.0)  # makes the optimiser's state
    with Waits() as waits:
        trainer.step(1, 1e-3, 0.5)
        assert not waits.seen
        trainer.read_loss(2)
        assert waits.seen == ["_local_scalar_dense"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_cuda_graph_is_the_same_training(tmp_path: Path, compiled: bool) -> None:
    runs = []
    for graph in (False, True):
        folder = tmp_path / str(graph)
        r = make(train__iterations=20, train__graph=graph, train__compile=compiled, train__ema=0.9)
        train(r, folder, device="cuda")
        runs.append([float(row["loss"]) for row in log(folder)])
    assert runs[0] == pytest.approx(runs[1], rel=1e-2)


def test_training_needs_no_engine() -> None:
    """A machine without the compiled library trains: nothing here imports the engine."""
    code = "import sys, bitsr.train.run; print([m for m in sys.modules if 'bitsr.engine' in m])"
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stderr


def test_latents_are_halved_with_their_signs() -> None:
    """4 bits of mantissa, no weight on the other side of zero, none at zero: sign(0) is +1."""
    x = torch.cat([torch.tensor([0.0, -0.0, 1e-9, -1e-9, 1e6, -1e6]), torch.randn(5000) * 0.05])
    half = checkpoint._half(x)
    assert half.dtype == torch.float16 and half.isfinite().all() and (half != 0).all()
    assert torch.equal(half < 0, x < 0)
    usual = (x.abs() > 1e-3) & (x.abs() < 6e4)
    assert ((half.float() - x).abs() <= x.abs() / 31)[usual].all()
    assert len(half[usual].abs().view(torch.int16).remainder(64).unique()) == 1
