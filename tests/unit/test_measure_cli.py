"""`bitsr info`, `bitsr evaluate` and `bitsr bench`, and the packed net that they share with the engine."""

import csv
import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import pyvips
from test_complexity import tiny
from test_evaluate import image, save

from bitsr.cli.main import main
from bitsr.engine import Engine, EngineError, isas
from bitsr.eval.about import FAMILIES
from bitsr.eval.complexity import packed_radius
from bitsr.eval.evaluate import evaluate, read_hr
from bitsr.eval.metrics import psnr
from bitsr.eval.speed import Timing, measure, sentence, speed_table, thread_counts
from bitsr.imresize import imresize
from bitsr.zoo import ZOO


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "tiny.bsr"
    tiny().write(path)
    return path


def test_counting_and_engine_agree_on_the_radius():
    packed = tiny()
    assert Engine(packed).radius == packed_radius(packed)


def test_evaluate_an_engine(tmp_path):
    save(image(48, 60), tmp_path / "A" / "x.png")
    table = evaluate(Engine(tiny()), ["A"], data=tmp_path)
    # All weights are zero: mid-grey, the luma that int16 zero stands for.
    y = evaluate(Grey(), ["A"], data=tmp_path)
    assert table.rows[0].psnr == y.rows[0].psnr and table.scale == 4


class Grey:
    scale = 4

    def run(self, lr):
        return np.zeros((lr.shape[0] * 4, lr.shape[1] * 4), np.int16)


def test_info_command(net, capsys):
    assert main(["info", str(net)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "tiny: unknown net, x4" and len(lines) <= 12
    assert f"{net.stat().st_size / 1024:.0f} KiB" in out and "not recorded" in out and "not measured" in out
    assert main(["info", str(net), "--layers"]) == 0
    assert "| total |" in capsys.readouterr().out
    assert main(["info", str(net), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["bytes"] == net.stat().st_size and body["metadata"]["name"] == "tiny"
    assert [layer["name"] for layer in body["layers"]] == ["head", "unit0", "unit1", "tail", "last"]
    assert main(["info", str(net), "--json", "--card"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["info", str(net.with_name("none.bsr"))]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("spelling", [["--sets", "A", "B"], ["A", "B"], ["--sets", "A", "--sets", "B"]])
def test_evaluate_command(net, tmp_path, capsys, spelling):
    for place in ("A/x.png", "B/HR/y.png"):
        save(image(48, 60), tmp_path / place)
    files = ["--csv", str(tmp_path / "t.csv"), "--json", str(tmp_path / "t.json")]
    code = main(["evaluate", str(net), *spelling, "--data", str(tmp_path), "--protocol", "rgb", "-x", *files])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert "Protocol rgb: " in out and "self-ensemble x8" in out
    assert "| A | mean of 1 |" in out and "| B | mean of 1 |" in out and "| x |" not in out
    with (tmp_path / "t.csv").open() as f:
        assert [row["image"] for row in csv.DictReader(f)] == ["x", "y", "mean of 1", "mean of 1"]
    assert json.loads((tmp_path / "t.json").read_text())["net"] == "tiny"


def test_evaluate_command_errors(net, tmp_path, capsys):
    assert main(["evaluate", str(net), "Nope", "--data", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "'Nope'" in err and err.count("\n") == 1
    assert main(["evaluate", str(net), "--protocol", "y"]) == 1
    assert "known: matlab-y" in capsys.readouterr().err


def test_selfbench():
    assert thread_counts(1) == [1] and thread_counts(6) == [1, 2, 4, 6] and thread_counts(8) == [1, 2, 4, 8]
    seen = []
    timings = measure(tiny(), width=20, height=10, threads=2, rounds=2, progress=lambda: seen.append(1))
    assert [(t.isa, t.threads) for t in timings] == [(isa, n) for isa in isas() for n in (1, 2)]
    assert all(t.ms > 0 and t.runs == 2 for t in timings) and len(seen) == 3 * len(timings)
    assert timings[0].speed == pytest.approx(20 * 10 * 16 / 1e3 / timings[0].ms)
    assert speed_table(timings).count("\n") == 2 + len(timings)
    with pytest.raises(EngineError, match="'mmx'"):
        measure(tiny(), paths=["mmx"])
    with pytest.raises(EngineError, match="at least 1"):
        measure(tiny(), rounds=0)


def test_bench_command(net, capsys):
    assert main(["bench", str(net), "--size", "16x12", "-j", "1", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("tiny, x4, LR 16x12") and "| scalar | 1 |" in out
    assert "A 12-megapixel photo from 0.75 megapixels takes about " in out.splitlines()[-1]
    assert " with 1 thread" in out.splitlines()[-1]
    assert main(["bench", str(net), "--size", "big"]) == 1
    assert "WIDTHxHEIGHT" in capsys.readouterr().err


def test_degrade(tmp_path, capsys):
    hr = image(52, 40)
    save(hr, tmp_path / "hr.png")
    for name, options in {
        "a": [],
        "b": [],
        "c": ["--as", "jpeg40"],
        "d": ["--as", "noise8", "--seed", "3"],
    }.items():
        out = tmp_path / f"{name}.png"
        assert main(["degrade", str(tmp_path / "hr.png"), str(out), "-s", "2", *options]) == 0
        assert pyvips.Image.new_from_file(str(out)).height == 26
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "c.png").read_bytes() != (tmp_path / "d.png").read_bytes()
    assert main(["degrade", str(tmp_path / "hr.png"), str(tmp_path / "e.png"), "--as", "rain"]) == 1
    assert main(["degrade", str(tmp_path / "hr.png"), str(tmp_path / "e.png"), "-s", "64"]) == 1
    assert not (tmp_path / "e.png").exists()
    assert all(line.startswith("bitsr: ") for line in capsys.readouterr().err.splitlines())


def test_the_sentence_of_a_bench():
    slow, fast = Timing("scalar", 1, 2000, 0.5, 3), Timing("avx2", 2, 750, 4 / 3, 3)
    assert sentence([slow, fast], 2).startswith("A 12-megapixel photo from 3 megapixels takes about 9.0 s")
    assert "with 2 threads" in sentence([fast, slow], 2) and "24 s" in sentence([slow], 3)


def test_shrink(tmp_path, capsys):
    """Bit for bit the LR images that `evaluate` makes; nothing is lost by a clash of names."""
    colour, grey = image(52, 40)[:51, :38], image(40, 48)[:, :47, 1]
    save(colour, tmp_path / "hr" / "a.png")
    save(grey, tmp_path / "hr" / "b.png")
    assert main(["shrink", str(tmp_path / "hr"), str(tmp_path / "lr"), "-s", "3"]) == 0
    assert main(["shrink", str(tmp_path / "hr" / "a.png"), str(tmp_path / "one.png"), "-s", "3"]) == 0
    for hr, place in (
        (colour[:51, :36], "lr/a.png"),
        (colour[:51, :36], "one.png"),
        (grey[:39, :45], "lr/b.png"),
    ):
        np.testing.assert_array_equal(read_hr(tmp_path / place), imresize(hr, Fraction(1, 3)))
    before = (tmp_path / "hr" / "a.png").read_bytes()
    save(colour, tmp_path / "hr" / "b.tif")
    capsys.readouterr()
    for source, target, word in (
        ("hr", "lr2", "b.tif: b.png goes to"),
        ("hr/a.png", "hr/a.png", "would replace"),
        ("hr/a.png", "a.jpg", "ends in .png"),
        ("lr3", "lr4.png", "lr3"),
    ):
        assert main(["shrink", str(tmp_path / source), str(tmp_path / target), "-s", "3"]) == 1
        err = capsys.readouterr().err
        assert word in err and err.count("\n") == 1
    assert (tmp_path / "hr" / "a.png").read_bytes() == before and not (tmp_path / "lr2").exists()


@pytest.mark.parametrize("protocol", ["matlab-y", "rgb", "srcnn"])
def test_evaluate_saves_what_it_measures(net, tmp_path, capsys, protocol):
    """PSNR of the saved image is that of the table, to what 8 bits of RGB leave of luma."""
    hr = image(48, 64)[:, :61]
    save(hr, tmp_path / "A" / "x.png")
    save(hr[..., 0], tmp_path / "A" / "y.png")
    options = ["--data", str(tmp_path), "--protocol", protocol, "--save", str(tmp_path / "sr")]
    assert main(["evaluate", str(net), "A", *options, "--json", str(tmp_path / "t.json")]) == 0
    colour, grey = json.loads((tmp_path / "t.json").read_text())["images"]
    found = read_hr(tmp_path / "sr" / "A" / "x.png"), read_hr(tmp_path / "sr" / "A" / "y.png")
    assert found[0].shape == (48, 60, 3) and found[1].shape == (48, 60)
    assert psnr(found[1], hr[:, :60, 0], crop=4) == pytest.approx(grey["psnr"], abs=1e-6)
    if protocol == "rgb":
        assert psnr(found[0], hr[:, :60], crop=4) == pytest.approx(colour["psnr"], abs=1e-6)


def test_models_and_their_page(capsys):
    assert main(["models", "--json"]) == 0
    nets = json.loads(capsys.readouterr().out)
    assert {net["name"] for net in nets} == {path.stem for path in ZOO.glob("*.bsr")}
    assert all(net["set5"] > 30 and net["use"] and net["time"] for net in nets)
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("bitsr-m-x4 "))
    assert line.split()[:5] == ["bitsr-m-x4", "x4", "79", "31.45", "1"]
    page = Path(__file__).parents[2] / "docs" / "which-net.md"
    rows = (re.split(r" *\| *", line)[1:-1] for line in page.read_text(encoding="utf-8").splitlines())
    told: dict[str, str] = {}
    for row in rows:  # the first table
        if len(row) == 4:
            told.setdefault(row[0].strip("*`"), row[2])
    for name, kind in FAMILIES.items():
        cell = told[name]
        numbers = re.findall(r"[0-9.]+", cell.replace("half", "0.5"))
        assert "-".join(numbers) == kind.time, name


def test_info_tells_a_net_that_ships(capsys):
    assert main(["info", "bitsr-photo-m-x4"]) == 0
    out = capsys.readouterr().out
    assert "JPEG artefacts" in out and "Set5" in out and "PSNR" not in out.splitlines()[0]
    assert len(out.splitlines()) <= 14


def test_a_checkpoint_is_to_be_packed_first(tmp_path, capsys):
    (path := tmp_path / "best.pt").write_bytes(b"weights")
    for command in (["upscale", "-i", "a.png", "-n", str(path)], ["bench", str(path)]):
        assert main(command) == 1
        err = capsys.readouterr().err
        assert f"pack it first: bitsr pack {path} -o best.bsr" in err and err.count("\n") == 1


BROKEN = {
    "recipe": ["[1]", "5", "{", '{"net": 5}', '{"net": {"args": {"act": []}}}', "[" * 10**5],
    "evaluation": [
        '{"x": 1}',
        "[1]",
        '{"protocol": "p", "means": 3}',
        '{"protocol": "p", "means": [{"set": 1}]}',
    ],
    "check": ["[1]", '{"packed_psnr": "x", "float_psnr": 1}', '"text"'],
    "provenance": ["5", "[5]", '[{"bitsr": 1}]'],
    "radius": ["nan", "-1", "x", "1e400", "9" * 500],
}


@pytest.mark.parametrize(("key", "text"), [(key, text) for key in BROKEN for text in BROKEN[key]])
@pytest.mark.parametrize("card", [[], ["--card"]])
def test_info_of_broken_metadata_is_one_line(tmp_path, capsys, key, text, card):
    model = tiny()
    model.metadata[key] = text
    model.write(path := tmp_path / "bad.bsr")
    assert main(["info", str(path), *card]) == 1
    out, err = capsys.readouterr()
    assert not out and err.startswith(f"bitsr: {path}: ") and err.count("\n") == 1
    assert key in err and "internal" not in err


@pytest.mark.parametrize("key", BROKEN)
@pytest.mark.parametrize("form", ["--layers", "--json"])
def test_no_form_of_info_takes_broken_metadata(tmp_path, capsys, key, form):
    test_info_of_broken_metadata_is_one_line(tmp_path, capsys, key, BROKEN[key][0], [form])


@pytest.mark.parametrize("card", [[], ["--card"]])
def test_info_refuses_what_the_engine_refuses(tmp_path, capsys, card):
    """Files that can be counted, or end in an error of ours, and are no model."""
    for change in (
        lambda m: m.ops.pop(0),
        lambda m: m.ops.append(m.ops[-1]),
        lambda m: m.ops[-1].attrs.update(scale=0),
        lambda m: m.ops[-1].attrs.update(scale=3),
        lambda m: m.ops[0].attrs.update(shift=99),
    ):
        model = tiny()
        change(model)
        path = tmp_path / "bad.bsr"
        path.write_bytes(model.to_bytes())
        with pytest.raises(EngineError) as refused:
            Engine(path)
        assert main(["info", str(path), *card]) == 1
        assert capsys.readouterr() == ("", f"bitsr: {path}: {refused.value}\n")


@pytest.mark.parametrize("card", [[], ["--card"], ["--layers"], ["--json"]])
def test_text_of_a_file_rules_no_terminal(tmp_path, capsys, card):
    model = tiny()
    model.metadata |= {
        "name": "\x1b]0;owned\x07r\u202ed",
        "net": "a\x9b2Jb",
        "training": "c\x08d",
        "\x1be": "f",
    }
    model.metadata["recipe"] = json.dumps({"source": "g\x1bh", "net": {"name": "i\x7fj"}})
    model.write(path := tmp_path / "bad.bsr")
    assert main(["info", str(path), *card]) == 0
    out, err = capsys.readouterr()
    assert not err and all(c == "\n" or c.isprintable() for c in out)
    if card in ([], ["--card"]):
        assert "\\x1b]0;owned\\x07r\\u202ed" in out and "a\\x9b2Jb" in out
    if card == ["--json"]:
        assert json.loads(out)["metadata"] == model.metadata | {
            "recipe": json.loads(model.metadata["recipe"])
        }
    assert main(["info", f"{tmp_path}/\x1b[31m\udcff.bsr"]) == 1
    assert "/\\x1b[31m\\udcff.bsr: No such file" in capsys.readouterr().err
