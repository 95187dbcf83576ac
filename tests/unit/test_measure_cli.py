"""`bitsr info`, `bitsr evaluate` and `bitsr bench`, and the packed net that they share with the engine."""

import csv
import json

import numpy as np
import pytest
import pyvips
from test_complexity import tiny
from test_evaluate import image, save

from bitsr.cli.main import main
from bitsr.engine import Engine, EngineError, isas
from bitsr.eval.complexity import packed_radius
from bitsr.eval.evaluate import evaluate
from bitsr.eval.speed import measure, speed_table, thread_counts


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
    assert "- name: tiny" in out and f"{net.stat().st_size:,} bytes" in out and "| total |" in out
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


@pytest.mark.parametrize("card", [[], ["--card"]])
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
    assert "\\x1b]0;owned\\x07r\\u202ed" in out and "a\\x9b2Jb" in out
    assert main(["info", f"{tmp_path}/\x1b[31m\udcff.bsr"]) == 1
    assert "/\\x1b[31m\\udcff.bsr: No such file" in capsys.readouterr().err
