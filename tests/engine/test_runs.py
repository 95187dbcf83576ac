"""``bitsr upscale`` on many images: sizes, lists, streams, reports, threads that overlap, two runs at a time."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from random_nets import srresnet
from test_cli_upscale import PREFIX, _full_disk, image, shell, size, start
from test_cli_upscale import run as run  # the fixture

import bitsr
from bitsr import batch, photo
from bitsr.auto import Chooser
from bitsr.files import Claim
from bitsr.pipeline import Settings
from bitsr.reduce import reduced
from bitsr.sizes import Size

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells, locks and signals")


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """A folder with random default nets of x2, x3 and x4."""
    folder = tmp_path_factory.mktemp("nets")
    for scale in (2, 3, 4):
        srresnet(blocks=1, scale=scale, seed=scale).write(folder / f"bitsr-m-x{scale}.bsr")
    return folder


def rows_of(path):
    opened = photo.read(path)
    return np.concatenate(list(opened.rows(64)))


# ---- sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "name", "want"),
    [
        ("-s 1.5", "a_x1.5.png", (14, 17)),
        ("-s 1", "a_x1.png", (9, 11)),
        ("-s 3.5", "a_x3.5.png", (32, 39)),
        ("-s 8", "a_x8.png", (72, 88)),
        ("-s 16", "a_x16.png", (144, 176)),
        ("--width 20", "a_20w.png", (20, 24)),
        ("--height 100", "a_100h.png", (82, 100)),
        ("--width 50 --height 50", "a_50x50.png", (41, 50)),
        ("--max-side 40", "a_max40.png", (33, 40)),
        ("--max-side 5 -v", "a_max5.png", (4, 5)),
        ("-s 2.5 --suffix _big", "a_big.png", (23, 28)),
    ],
)
def test_sizes(run, nets, tmp_path, args, name, want):
    image(tmp_path / "a.png")
    code, err = run("a.png", *args.split(), "-m", nets, net=None)
    assert code == 0 and size(tmp_path / name) == want
    assert ("no smaller than the size asked for" in " ".join(err)) == ("max-side 5" in args)


@pytest.mark.parametrize("bands", [3, 4])
@pytest.mark.parametrize(("scale", "chain"), [(3.5, (4,)), (8, (2, 4)), (7, (2, 4))])
def test_a_chain_is_the_nets_one_after_the_other_and_a_reduction(nets, tmp_path, scale, chain, bands):
    """Also by strips of a few rows."""
    image(tmp_path / "a.png", 37, 23, bands)
    want = rows_of(tmp_path / "a.png")
    for k in chain:
        want = bitsr.load(nets / f"bitsr-m-x{k}.bsr")(want)
    want = np.concatenate(list(reduced([want], want.shape[:2], Size(scale=scale).of(37, 23))))
    chooser = Chooser(scale, folder=nets, threads=1)
    for tile in (0, 3):
        job = batch.Job(tmp_path / "a.png", tmp_path / f"{tile}.png", "png")
        (result,) = batch.run([job], chooser, settings=Settings(tile=tile))
        assert not result.error and (rows_of(job.output) == want).all()
        assert result.net == ", ".join(f"bitsr-m-x{k}" for k in chain)
        assert result.source == (37, 23) and (result.height, result.width) == want.shape[:2]


def test_the_function_has_the_same_sizes(nets, tmp_path):
    image(tmp_path / "a.png", 16)
    given = {"format": "png", "threads": 1}
    net = nets / "bitsr-m-x4.bsr"
    assert bitsr.upscale(tmp_path / "a.png", tmp_path / "b", 2.5, net, **given) == (40, 23)
    assert bitsr.upscale(tmp_path / "a.png", tmp_path / "b", net=net, width=18, **given) == (32, 18)
    assert bitsr.upscale(tmp_path / "a.png", tmp_path / "b", net=net, **given) == (64, 36)
    with pytest.raises(bitsr.BitsrError, match="a scale, or"):
        bitsr.upscale(tmp_path / "a.png", tmp_path / "b", 2, net, max_side=18, **given)


# ---- lists, names, streams --------------------------------------------------------------------------------


def test_lists_of_inputs(run, tmp_path):
    for name in ("a.png", "b.jpg", "in/c.png", "in/sub/d.png", "more/c.png"):
        image(tmp_path / name)
    code, err = run("a.png", "in", "-i", "b.jpg", "-i", "more", "-o", "out", "-r", "--suffix", "_big")
    assert code == 0 and "5 images" in err[-1]
    made = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert made == {"a_big.png", "b_big.jpg", "in/c_big.png", "in/sub/d_big.png", "more/c_big.png"}
    assert run("a.png", "b.jpg")[0] == 0
    assert (tmp_path / "a_x4.png").exists() and (tmp_path / "b_x4.jpg").exists()


def test_names_that_a_suffix_brings_together_are_refused(run, tmp_path):
    for name in ("a.png", "a_x4.png", "sub/a.png", "other/a.png"):
        image(tmp_path / name)
    code, err = run("a.png", "-f", "png")
    assert code == 0
    code, err = run("a.png", "a_x4.png")
    assert code == 1 and err == ["bitsr: a_x4.png: the output would overwrite an input"]
    code, err = run("sub/a.png", "other/a.png", "-o", "out", "--suffix", "_y")
    both = f"{Path('sub/a.png')} and {Path('other/a.png')} would both be written to {Path('out/a_y.png')}"
    assert code == 1 and err == [f"bitsr: {both}"] and not (tmp_path / "out").exists()
    image(tmp_path / "a.jpg")
    assert run("a.png", "a.jpg", "-f", "webp")[0] == 0
    assert (tmp_path / "a.png_x4.webp").exists() and (tmp_path / "a.jpg_x4.webp").exists()


@POSIX
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_standard_input_to_standard_output(net_file, tmp_path, suffix):
    image(tmp_path / "a.png", bands=4)
    done = shell(tmp_path, f"bitsr upscale - -o - -f {suffix} -n {net_file} < a.png > piped")
    assert done.returncode == 0, done.stderr
    assert shell(tmp_path, f"bitsr upscale a.png -o file.{suffix} -n {net_file}").returncode == 0
    assert (tmp_path / "piped").read_bytes() == (tmp_path / f"file.{suffix}").read_bytes()
    assert not list(Path(os.environ.get("TMPDIR", "/tmp")).glob("bitsr-*/output"))


@POSIX
@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("- -o - -f png < /dev/null > out", "standard input: the file is empty"),
        ("- -o - -f png < text > out", "standard input: not an image in a known format"),
        ("- -o - -f png <&- > out", "standard input: the file is empty"),
        ("a.png -o - >&-", "standard output: Bad file descriptor"),
        ("a.png -o - > /dev/full", "standard output: No space left on device"),
        ("a.png -o - | true", "standard output: Broken pipe"),
        ("a.png --json > /dev/full", "standard output: No space left on device"),
    ],
)
def test_streams_that_fail(net_file, tmp_path, line, text):
    image(tmp_path / "a.png", 150, 200)
    (tmp_path / "text").write_text("text")
    done = shell(tmp_path, f"bitsr upscale -n {net_file} {line}")
    assert done.returncode == 1 and text in done.stderr and done.stderr.count("bitsr: ") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists() or not (tmp_path / "out").stat().st_size


# ---- reports and what is there already --------------------------------------------------------------------


def test_json_and_dry_run(run, tmp_path, capsys, monkeypatch):
    image(tmp_path / "a.png", bands=4)
    (tmp_path / "b.png").write_text("text")
    image(tmp_path / "c.png")
    (tmp_path / "c.jpg").write_text("here")
    lines = []
    monkeypatch.setattr("builtins.print", partial(_kept, lines, print))
    args = ("a.png", "b.png", "c.png", "--suffix", "", "-f", "jpg", "--skip-existing", "--json")
    args = tuple(x for x in args if x not in ("--suffix", ""))
    (tmp_path / "c_x4.jpg").write_text("here")
    for dry in (["--dry-run"], []):
        lines.clear()
        code, err = run(*args, *dry)
        assert code == 1 and any("b.png: not an image" in line for line in err)
        made, failed, skipped = map(json.loads, lines)
        assert (made["input"], made["output"], made["error"]) == ("a.png", "a_x4.jpg", None)
        assert made["status"] == ("planned" if dry else "made")
        assert made["input_size"] == [9, 11] and made["output_size"] == [36, 44]
        assert made["net"] == ["random-x4"] and made["notes"] == ["JPEG has no transparency: laid over white"]
        assert (made["seconds"] > 0) == (not dry)
        assert failed["status"] == "failed" and failed["error"] == "not an image in a known format"
        assert skipped["status"] == "skipped" and skipped["why"] == "its output is there"
        assert (tmp_path / "a_x4.jpg").exists() == (not dry)
    assert (tmp_path / "c_x4.jpg").read_text() == "here"


def _kept(lines, real, *args, **more):
    if "file" in more:
        return real(*args, **more)
    lines.append(" ".join(map(str, args)))
    return None


def test_dry_run_says_what_it_would_make(nets, tmp_path, capsys, monkeypatch):
    from bitsr.cli.main import main

    monkeypatch.chdir(tmp_path)
    image(tmp_path / "in/a.png")
    assert main(["upscale", "in", "-s", "5", "--dry-run", "-m", str(nets)]) == 0
    out = capsys.readouterr().out.strip()
    target = (tmp_path / "in_x5" / "a.png").resolve()
    assert out == f"{Path('in/a.png')} -> {target}, 9 x 11 to 45 x 55, bitsr-m-x2, bitsr-m-x3"
    assert not (tmp_path / "in_x5").exists()


def test_fail_existing(run, tmp_path):
    for name in ("a.png", "b.png"):
        image(tmp_path / "in" / name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b.png").write_text("here")
    code, err = run("in", "-o", "out", "--fail-existing")
    assert code == 1 and err == [f"bitsr: {Path('out/b.png')}: is there"]
    assert not (tmp_path / "out/a.png").exists() and (tmp_path / "out/b.png").read_text() == "here"
    assert run("in", "-o", "out", "--overwrite")[0] == 0 and size(tmp_path / "out/b.png") == (36, 44)


def test_metadata_options(run, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    Image.fromarray(np.zeros((6, 5, 3), np.uint8)).save(tmp_path / "a.png", exif=exif, dpi=(72, 72))
    os.utime(tmp_path / "a.png", ns=(10**18, 10**18))
    (tmp_path / "a.png").chmod(0o600)
    assert run("a.png", "-o", "b.png", "--strip-metadata", "--dpi", "300", "--preserve")[0] == 0
    with Image.open(tmp_path / "b.png") as made:
        assert not made.getexif() and [round(x) for x in made.info["dpi"]] == [300, 300]
    assert (tmp_path / "b.png").stat().st_mtime_ns == 10**18
    assert sys.platform == "win32" or (tmp_path / "b.png").stat().st_mode & 0o777 == 0o600
    assert run("a.png", "-o", "c.png")[0] == 0
    with Image.open(tmp_path / "c.png") as made:
        assert made.getexif()[0x010F] == "Maker" and round(made.info["dpi"][0]) == 72


def test_lossless_webp_stays_lossless(run, tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 8, 3)).astype(np.uint8))
    noise.save(tmp_path / "a.webp", lossless=True)
    assert run("a.webp", "-o", "kept.webp")[0] == 0 and run("a.webp", "-o", "want.png")[0] == 0
    assert (rows_of(tmp_path / "kept.webp") == rows_of(tmp_path / "want.png")).all()
    assert run("a.webp", "-o", "lossy.webp", "--lossy")[0] == 0
    assert not photo.read(tmp_path / "lossy.webp").lossless
    assert run("want.png", "-o", "b.webp", "--lossless")[0] == 0
    assert photo.read(tmp_path / "b.webp").lossless


@pytest.mark.parametrize(
    ("source", "target"), [("png", "png"), ("gif", "png"), ("png", "webp"), ("png", "gif")]
)
def test_animations_keep_their_frames(run, tmp_path, source, target):
    frames = [Image.fromarray(np.full((6, 7, 3), 60 * i, np.uint8)) for i in range(1, 4)]
    frames[0].save(
        tmp_path / f"a.{source}", save_all=True, append_images=frames[1:], duration=[70, 150, 30], loop=0
    )
    code, err = run(f"a.{source}", "-o", f"b.{target}")
    assert code == 0 and not any("first of" in line for line in err)
    again = photo.read(tmp_path / f"b.{target}", frames=True)
    assert (again.frames, again.height, again.width) == (3, 72, 28) and again.delays == [70, 150, 30]


def test_pages_are_no_animation(run, tmp_path):
    frames = [Image.fromarray(np.full((6, 7, 3), 60 * i, np.uint8)) for i in range(1, 4)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    code, err = run("a.tif", "-o", "b.png")
    assert code == 0 and err[0] == "bitsr: a.tif: note: first of 3 pages taken"
    assert photo.read(tmp_path / "b.png", frames=True).frames == 1


# ---- threads ----------------------------------------------------------------------------------------------


def folder_of_images(path, count=7):
    for i in range(count):
        suffix = ("png", "jpg", "webp", "tif")[i % 4]
        image(path / f"{i}.{suffix}", 40 + 13 * i, 100 - 7 * i, 3 + (i % 4 != 1 and i % 2))


def test_the_bytes_are_those_of_one_after_the_other(net_file, tmp_path):
    folder_of_images(tmp_path / "in")
    (tmp_path / "in/3b.png").write_bytes((tmp_path / "in/4.png").read_bytes()[:-200])
    jobs = batch.plan(tmp_path / "in", tmp_path / "out")
    upscaler = bitsr.load(net_file, threads=1)
    results = list(batch.run(jobs, upscaler, settings=Settings(tile=5)))
    assert [result.job for result in results] == jobs
    assert [result.job.input.name for result in results if result.error] == ["3b.png"]
    for result in results:
        if result.error:
            assert not result.job.output.exists() and "damaged" not in result.net
            continue
        assert 0 < result.net_seconds <= result.seconds
        alone = tmp_path / f"alone{result.job.output.suffix}"
        bitsr.upscale(result.job.input, alone, net=upscaler)
        assert alone.read_bytes() == result.job.output.read_bytes()
    assert not list((tmp_path / "out").glob(f"{PREFIX}*"))


def test_images_overlap(net_file, tmp_path, monkeypatch):
    """The next image is read, and the one before is still being encoded, while the net is at work."""
    folder_of_images(tmp_path / "in", 4)
    events = []
    ends = photo.Writer.__exit__

    def slow_end(self, *args):
        events.append(f"end {self.path.stem}")
        time.sleep(0.5)
        ends(self, *args)
        events.append(f"there {self.path.stem}")

    monkeypatch.setattr(photo.Writer, "__exit__", slow_end)
    begun = batch.run(
        batch.plan(tmp_path / "in", tmp_path / "out"),
        bitsr.load(net_file, threads=1),
        savers=2,
        begin=lambda job: events.append(f"begin {job.input.stem}"),
    )
    assert len(list(begun)) == 4
    assert events.index("begin 1") < events.index("there 0")
    assert events.index("there 0") < events.index("begin 2")  # two outputs at a time, no more


def test_memory_between_the_threads_is_bounded(net_file, tmp_path, monkeypatch):
    """While the net does not take rows, the reader waits."""
    image(tmp_path / "a.png", 300, 20)
    taken, go = [], threading.Event()
    rows = photo.Photo.rows

    def counted(self, *args):
        for strip in rows(self, *args):
            taken.append(len(strip))
            yield strip

    monkeypatch.setattr(photo.Photo, "rows", counted)
    upscaler = bitsr.load(net_file, threads=1)
    merged = type(upscaler).rows

    def waiting(self, *args, **more):
        go.wait(20)
        yield from merged(self, *args, **more)

    monkeypatch.setattr(type(upscaler), "rows", waiting)
    job = batch.Job(tmp_path / "a.png", tmp_path / "b.png", "png")
    results = batch.run([job], upscaler, settings=Settings(tile=1), begin=lambda job: None)
    thread = threading.Thread(target=lambda: list(results))
    thread.start()
    time.sleep(1)
    ahead = len(taken)
    go.set()
    thread.join(20)
    assert ahead <= 10 and len(taken) == 300


def test_closing_a_run_leaves_nothing(net_file, tmp_path):
    folder_of_images(tmp_path / "in")
    image(tmp_path / "in/1a.png", 800, 500)
    jobs = batch.plan(tmp_path / "in", tmp_path / "out")
    before = threading.active_count()
    results = batch.run(jobs, bitsr.load(net_file, threads=1))
    assert next(results).job == jobs[0]
    results.close()
    assert threading.active_count() == before
    assert not list((tmp_path / "out").glob(f"{PREFIX}*"))
    for path in (tmp_path / "out").iterdir():  # what is there is whole
        rows_of(path)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_cancelling_one_image_leaves_what_was_there(net_file, tmp_path, suffix):
    image(tmp_path / "a.png", 40, 30)
    out, asked = tmp_path / f"b.{suffix}", list[int]()
    out.write_bytes(b"earlier")

    def cancel():
        asked.append(0)
        return len(asked) == 3

    with pytest.raises(bitsr.Cancelled):
        bitsr.upscale(tmp_path / "a.png", out, net=net_file, tile=8, cancel=cancel)
    assert len(asked) == 3 and out.read_bytes() == b"earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", out.name]
    bitsr.upscale(tmp_path / "a.png", out, net=net_file, cancel=lambda: False)
    rows_of(out)


def test_cancelling_a_run_keeps_and_tells_what_is_finished(net_file, tmp_path):
    folder_of_images(tmp_path / "in")
    jobs = batch.plan(tmp_path / "in", tmp_path / "out", 2)
    stop, told = threading.Event(), list[Path]()
    with pytest.raises(bitsr.Cancelled):
        for result in batch.run(
            jobs, bitsr.load(net_file, threads=1), settings=Settings(tile=2), cancel=stop.is_set
        ):
            assert result.error is None
            told.append(result.job.output)
            stop.set()
    assert 1 <= len(told) < len(jobs)
    assert sorted((tmp_path / "out").iterdir()) == sorted(told)
    for path in told:
        rows_of(path)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bitsr")]


@pytest.mark.parametrize("where", ["begin", "progress", "note"])
def test_an_error_of_the_caller_ends_a_run(net_file, tmp_path, where):
    image(tmp_path / "a.png", 200, 200, 4)
    job = batch.Job(tmp_path / "a.png", tmp_path / "b.jpg", "jpg")

    def fail(*_):
        raise RuntimeError("of the caller")

    more: Any = {where: fail}
    with pytest.raises(RuntimeError, match="of the caller"):
        list(batch.run([job], bitsr.load(net_file, threads=1), **more))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_an_error_of_ours_ends_a_run(net_file, tmp_path, monkeypatch):
    image(tmp_path / "a.png")
    upscaler = bitsr.load(net_file, threads=1)
    monkeypatch.setattr(type(upscaler), "rows", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(batch.run([batch.Job(tmp_path / "a.png", tmp_path / "b.png", "png")], upscaler))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


# ---- two runs ---------------------------------------------------------------------------------------------


@POSIX
def test_an_output_is_one_run_s(tmp_path):
    one, two, other = (Claim(tmp_path / name) for name in ("a.png", "a.png", "b.png"))
    assert one.take() and not two.take() and other.take()
    other.release()
    one.release()
    one.release()
    assert two.take()
    two.release()
    assert not list(tmp_path.glob(f"{PREFIX}*"))
    (lock,) = _left_by_a_killed_run(tmp_path)
    assert one.take()  # a lock ends with its process
    one.release()
    assert not lock.exists()


def _left_by_a_killed_run(folder):
    code = f"from bitsr.files import Claim; import os; Claim({str(folder / 'a.png')!r}).take(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    return list(folder.glob(f"{PREFIX}*"))


@POSIX
def test_two_runs_share_a_folder(net_file, tmp_path):
    folder_of_images(tmp_path / "in", 12)
    runs = [
        start(
            "in",
            "-o",
            "out",
            "--skip-existing",
            "--json",
            "-n",
            net_file,
            "-j",
            "1",
            cwd=tmp_path,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    status = {}
    for process in runs:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        for line in map(json.loads, out.splitlines()):
            status.setdefault(line["input"], []).append(line["status"])
    assert len(status) == 12
    assert all(sorted(found) == ["made", "skipped"] for found in status.values()), status
    assert len(list((tmp_path / "out").iterdir())) == 12  # and no lock


# ---- the world --------------------------------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_a_folder(net_file, tmp_path, times):
    for i in range(4):
        image(tmp_path / f"in/{i}.png", 500, 400)
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    args = (tmp_path / "in", "-o", tmp_path / "out", "-n", net_file, "-j", "1")
    process = start(*args, preexec_fn=heard)
    until = time.monotonic() + 30
    while not list(tmp_path.glob("out/*.png")) and time.monotonic() < until:
        time.sleep(0.01)
    began = time.monotonic()
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    _, err = process.communicate(timeout=40)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert time.monotonic() - began < 20
    assert not list(tmp_path.rglob(f"{PREFIX}*"))
    for path in (tmp_path / "out").iterdir():
        assert size(path) == (1600, 2000)


def test_ctrl_c_after_the_run_is_no_traceback(monkeypatch):
    from bitsr.cli.main import main

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bitsr.cli.streams._Steady.flush", interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert main(["models"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)


@POSIX
def test_killed_and_taken_up_again(net_file, tmp_path):
    folder_of_images(tmp_path / "in", 9)
    args = ("in", "-o", "out", "--skip-existing", "-n", net_file, "-j", "1")
    process = start(*args, cwd=tmp_path)
    until = time.monotonic() + 30
    while not list(tmp_path.glob("out/[0-9]*")) and time.monotonic() < until:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    there = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("out/[0-9]*")}
    assert start(*args, cwd=tmp_path).wait(60) == 0
    for name, time_ns in there.items():
        assert (tmp_path / "out" / name).stat().st_mtime_ns == time_ns
    made = list(tmp_path.glob("out/[0-9]*"))
    assert len(made) == 9
    for path in made:
        rows_of(path)


@POSIX
@pytest.mark.parametrize("suffix", ["avif", "jxl", "png"])
def test_no_room_for_other_formats(net_file, tmp_path, suffix):
    if suffix == "jxl":
        pytest.importorskip("pillow_jxl", reason="pillow-jxl-plugin is not installed")
    frames = [
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (90, 90, 3)).astype(np.uint8))
        for i in (1, 2)
    ]
    frames[0].save(tmp_path / "a.png", save_all=suffix == "png", append_images=frames[1:])
    if not _full_disk(tmp_path / "disk"):
        pytest.skip("a file system cannot be mounted here")
    try:
        out = tmp_path / "disk" / f"b.{suffix}"
        process = start(tmp_path / "a.png", "-o", out, "-n", net_file, "-j", "1")
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1 and "Traceback" not in err
        assert err.splitlines()[-1].startswith("bitsr: ") and f"{out}: No space left on device" in err
        assert list((tmp_path / "disk").iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path / "disk"], check=True)


def test_an_image_in_memory_is_no_input(net_file, tmp_path):
    with pytest.raises(TypeError):
        bitsr.upscale(io.BytesIO(b"x"), tmp_path / "b.png", net=net_file)  # pyright: ignore[reportArgumentType]
