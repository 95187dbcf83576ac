"""The benchmarks run, at the smallest size; their figures are not tested."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "bench").is_dir():
    pytest.skip("no bench folder in a source distribution", allow_module_level=True)
sys.path.insert(0, str(ROOT))

import bitsr
from bench import colour, sizes
from bench import race as module
from bench.contenders import NETS, Contender, Run, contenders
from bench.nets import layers, random_int8, random_packed, random_row
from bench.task import Task
from bitsr.engine import Engine, isas
from bitsr.errors import BitsrError
from bitsr.eval.complexity import count
from bitsr.zoo import find


def task(tmp_path, **kw) -> Task:
    return Task(16, 12, cache=str(tmp_path), **kw)


def test_the_list_of_contenders():
    every = contenders(isas())
    names = [c.name for c in every]
    assert len(set(names)) == len(names) and names[0] == f"bitsr {isas()[0]}"
    assert {c.net for c in every} == set(NETS)
    for name in NETS.values():
        assert count(layers(name, 4)).at()[1] > 0
    assert count(layers("srresnet-binary", 4)).binary_weights == 32 * 64 * 64 * 9
    assert count(layers("srresnet", 4)).binary_macs == 0


def test_the_random_net_runs_on_the_engine():
    packed = random_packed(3, 64, 2)
    sr = Engine(packed, threads=1).run(np.zeros((5, 7), np.int16))
    assert sr.shape == (15, 21) and sr.dtype == np.int16
    for one_bit in (True, False):
        assert Engine(random_int8(64, 1, 9, one_bit, 2), threads=1).run(np.zeros((5, 7), np.int16)).shape == (
            5,
            7,
        )
    assert Engine(random_row(16, 2), threads=1).run(np.zeros((5, 7), np.int16)).shape == (5, 7)


def test_the_packed_plain_net_is_the_one_that_others_run(tmp_path):
    """The same net in float, as int8 and packed: images alike, and unlike the bicubic base."""
    torch = pytest.importorskip("torch")
    from bench.nets import torch_net
    from bench.prepare import make_bsr

    t = task(tmp_path)
    make_bsr(tmp_path / "net.bsr", "plain-16x10-int8", t)
    y = t.luma()
    sr = Engine(tmp_path / "net.bsr", threads=1).run(np.floor(128 * (y - 127.5) + 0.5).astype(np.int16))
    with torch.no_grad():
        net, x = torch_net("plain-16x10", 4), torch.from_numpy(y[None, None])
        other = net(x)[0, 0].numpy()
        net.state_dict()["tail.weight"].zero_()
        base = net(x)[0, 0].numpy()
    off, own = (np.sqrt(np.mean((sr / 128 + 127.5 - a) ** 2)) for a in (other, base))
    assert off < 1 and own > 5 * off


@pytest.mark.slow
def test_front(tmp_path, monkeypatch):
    """A packed net and a float one in its engines, each judged by its own images."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from bench.pareto import pareto
    from bitsr.nets.small import ESPCN
    from bitsr.pack.onnx import to_onnx

    monkeypatch.setenv("BITSR_DATA", str(tmp_path))
    rng = np.random.default_rng(0)
    for name in ("valid", "Some"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (40, 44, 3), np.uint8)).save(tmp_path / name / f"{i}.png")
    random_packed(2, 64, 1).write(tmp_path / "bits.bsr")
    torch.manual_seed(0)
    to_onnx(ESPCN(2, 8, 1).eval(), tmp_path / "small.onnx")  # pyright: ignore[reportArgumentType]
    nets = [str(tmp_path / "bits.bsr"), str(tmp_path / "small.onnx")]
    pareto(nets, ["Some"], task(tmp_path, threads=1), 1, 0.0, tmp_path / "out")
    with (tmp_path / "out" / "pareto.csv").open(newline="") as f:
        rows = {(r["net"], r["engine"]): r for r in csv.DictReader(f)}
    assert {("bits", "bitsr"), ("small", "ONNX Runtime float32"), ("small", "ONNX Runtime int8")} <= set(rows)
    assert all(float(r["ms"]) > 0 and float(r["Some"]) > 0 for r in rows.values())
    assert len({r["Some"] for r in rows.values()}) > 1
    assert (tmp_path / "out" / "pareto.png").stat().st_size > 0


def test_sizes():
    text = sizes.report([(16, 12), (33, 7)], [1, 2], 1)
    rows = [line for line in text.splitlines() if line.startswith(("| 16x12", "| 33x7"))]
    assert [line.split(" | ")[:2] for line in rows] == [
        [f"| {s}", n] for s in ("16x12", "33x7") for n in ("1", "2")
    ]
    assert all(float(cell.rstrip(" |%")) >= 0 for line in rows for cell in line.split(" | ")[1:])


def test_colour():
    text = colour.report("bitsr-s-x2", (33, 7), 2)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.endswith("% |")]
    assert [name for name, *_ in rows] == [
        "the net", "RGB", "RGB, chroma smoothed", "RGB of 16 bits", "grey",
    ]  # fmt: skip
    assert rows[0][2] == "100.0%" and all(float(ms) >= 0 for _, ms, _ in rows)


def never(task: Task) -> Run:
    raise AssertionError


@pytest.mark.slow
def test_a_race(tmp_path, monkeypatch):
    absent = Contender("absent", next(iter(NETS)), "no_such_library", never)
    broken = Contender("OpenVINO broken", next(iter(NETS)), "bitsr", never)  # unknown to the worker
    monkeypatch.setattr(module, "lineup", lambda task, paths: [*contenders(paths), absent, broken])
    said = []
    wanted = ["bitsr scalar", "absent", "OpenVINO broken"]
    result = module.race(task(tmp_path), [1, 2], 2, wanted, 0.0, said.append)
    assert [(e.contender.name, e.task.threads, len(e.seconds)) for e in result.entries] == [
        ("bitsr scalar", 1, 2),
        ("bitsr scalar", 2, 2),
    ]
    assert all(e.process.returncode == 0 for e in result.entries)
    assert [name for name, _ in result.skipped] == [f"{n} ({i})" for n in wanted[1:] for i in (1, 2)]
    assert "no_such_library is not installed" in result.skipped[0][1]

    module.write_csv(result, tmp_path / "race.csv")
    with (tmp_path / "race.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 4 and all(float(r["seconds"]) > 0 for r in rows) and rows[0]["width"] == "16"
    text = module.markdown(result)
    assert "## 2 threads" in text and "| bitsr scalar |" in text and "- absent (1): " in text
    assert not list(tmp_path.glob("image-*"))


def test_a_worker_answers_errors_in_json(tmp_path):
    command = [sys.executable, "-m", "bench.worker", "bitsr mmx", task(tmp_path).json()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input="")
    assert "mmx" in json.loads(done.stdout)["error"]


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    result = module.race(task(tmp_path), [1], 1, ["bitsr scalar"], 0.0)
    module.plot(result, tmp_path / "race.png")
    assert (tmp_path / "race.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")
def test_ceilings():
    from bench.kernel import ceilings

    top = ceilings(rounds=1, seconds=0.002)
    assert top["clock"][0] == "cycle" and all(rate > 0 for _, rate in top.values())


def test_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("lightning_fabric")
    from bench import train

    for role in ("train", "valid"):
        (tmp_path / role).mkdir()
        noise = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
        pyvips.Image.new_from_array(noise).write_to_file(str(tmp_path / role / f"{role}.png"))
    monkeypatch.setenv("BITSR_DATA", str(tmp_path))
    monkeypatch.setenv("BITSR_CACHE", str(tmp_path / "cache"))

    small = "net.args={channels = 8, blocks = 1, method = 'e2fif'}"
    monkeypatch.setattr(train, "SETTINGS", {k: train.SETTINGS[k] for k in ("float32", "int8")})
    monkeypatch.setattr(train.torch, "set_num_threads", lambda n: None)
    text = train.report("ranking-x4", [small, "data.patch=8", "train.compile=false"], 1, 1, steps=1)
    assert "| float32 |" in text and "| int8 |" in text


@pytest.mark.skipif(sys.platform == "win32", reason="needs wait4")
def test_memory():
    from bench.memory import measure

    seconds, peak = measure([sys.executable, "-c", "x = bytes(50 << 20)"])
    assert seconds > 0 and peak > 50
    with pytest.raises(RuntimeError, match="ended with 3: sorry"):
        measure([sys.executable, "-c", "import sys; print('sorry', file=sys.stderr); sys.exit(3)"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
def test_batch(monkeypatch):
    from bench import batch

    monkeypatch.setattr(batch, "_TASKS", 100)
    monkeypatch.setattr(batch.importlib.util, "find_spec", lambda name: None)  # Ray takes too long
    lines = list(batch.report(12, (8, 8), None, 1, [2], 10))
    rows = {line.split(" | ")[0]: line for line in lines if line.startswith("| ")}
    assert {"| one process", "| -j 2"} <= set(rows) and not any("failed" in line for line in lines)
    assert lines[-2].startswith("\nThe command remembers ")


def test_an_unknown_size_is_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--lr", "big"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode and "WIDTHxHEIGHT" in done.stderr and "Traceback" not in done.stderr


def small_images(folder: Path, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(2):
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{i}.png")


def test_faults(tmp_path):
    from bench.faults import report
    from bitsr.eval.evaluate import evaluate

    small_images(tmp_path / "set", (187, 190, 3))
    text = report(["bitsr-s-x2"], [str(tmp_path / "set")], ["clean", "noise8"])
    rows = [line.strip("| ").replace("*", "").split(" | ") for line in text.splitlines()]
    mean = evaluate(Engine(find("bitsr-s-x2")), [str(tmp_path / "set")]).means()[0]
    clean = [row for row in rows if row[0] == "clean"]
    assert [cell.split(" / ")[0] for cell in clean[0][1:]] == [f"{mean.bicubic_psnr:.2f}", f"{mean.psnr:.2f}"]
    assert [cell.split(" / ")[0] for cell in clean[1][1:]] == [f"{mean.bicubic_ssim:.4f}", f"{mean.ssim:.4f}"]
    with pytest.raises(BitsrError, match="one scale"):
        report(["bitsr-s-x2", "bitsr-s-x4"], [str(tmp_path / "set")], ["clean"])


def test_sheet(tmp_path):
    """The crop is that of the whole image."""
    from bench.sheet import AROUND, places, strip
    from bench.sheet import write as sheet

    small_images(tmp_path / "in", (30, 41, 3))
    paths = sheet(tmp_path / "in", ["bitsr-s-x2"], tmp_path / "out", 16, 2, "png")
    assert [path.name for path in paths] == ["0.png", "1.png"]
    with Image.open(paths[0]) as made:
        assert made.size == (2 * 64 + 8, 2 * (64 + 22))
    net = bitsr.load("bitsr-s-x2")
    image = np.random.default_rng(0).integers(0, 256, (2 * AROUND + 40, 60, 3), np.uint8)
    place = AROUND + 8, 20
    crop = strip(image, place, 16, [net], 1)
    assert (crop[:, -32:] == net(image)[2 * place[0] :][:32, 40:72]).all()
    assert len(places(image, 16)) == 2 and len(places(image, 500)) == 1


def test_response():
    from bench.response import report

    lines = report(["bitsr-s-x2"]).splitlines()
    assert len(lines) == 4 and all(float(cell) >= 0 for cell in lines[-1].strip("| ").split(" | ")[1:])
    assert lines[2].startswith("| bicubic x2 | 0.8") and lines[2].endswith("| 12.3 | 0.0 |")


def test_restorers_without_models(tmp_path):
    """Each that is absent is skipped, with the file that it wants."""
    result = module.race(replace(task(tmp_path), models=str(tmp_path)), [1], 1, ["*cunet*"], 0.0)
    assert not result.entries and len(result.skipped) == 1
    assert all("is not in --models" in why or "ncnn is not installed" in why for _, why in result.skipped)
