"""``bitsr upscale``: files and folders, the flags people know, and one line for every mistake."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image

import bitsr
from bitsr.cli.main import main
from bitsr.files import PREFIX
from bitsr.photo.write import chunk


def image(path, height=11, width=9, bands=3, **save):
    rng = np.random.default_rng(height * width)
    array = rng.integers(0, 256, (height, width, bands)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    pyvips.Image.new_from_array(array).write_to_file(str(path), **save)
    return path


def size(path):
    image = pyvips.Image.new_from_file(str(path))
    return image.width, image.height


@pytest.fixture
def run(net_file, tmp_path, monkeypatch, capsys):
    """Run ``upscale`` in tmp_path with the test net; gives (code, lines on stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*args, net=net_file):
        code = main(["upscale", *(["-n", str(net)] if net else []), "-j", "1", *map(str, args)])
        assert not list(tmp_path.rglob(f"{PREFIX}*"))
        return code, capsys.readouterr().err.splitlines()

    return run


def start(*args, **more):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "bitsr", "upscale", *map(str, args)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **more)


# ---- what is written where --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "args", "result"),
    [
        ("a.png", [], "a_x4.png"),
        ("a.jpeg", [], "a_x4.jpeg"),
        ("a.gif", [], "a_x4.png"),
        ("a.png", ["-f", "jpg"], "a_x4.jpg"),
        ("a.png", ["-o", "b.WEBP"], "b.WEBP"),
        ("a.png", ["-o", "b.tif", "-f", "tiff"], "b.tif"),
        ("a.png", ["-o", "b", "-f", "webp"], "b"),
        ("a.png", ["-o", "folder"], "folder/a.png"),
        ("a.png", ["-o", "new/", "--ext", "jpg"], "new/a.jpg"),
        ("a.png", ["-t", "3", "-x", "-g", "-1", "-v", "-s", "4"], "a_x4.png"),
        ("an image[1].png", ["-j", "1:2:2", "-q", "50"], "an image[1]_x4.png"),
    ],
)
def test_one_image(run, tmp_path, source, args, result):
    image(tmp_path / "in.png").rename(tmp_path / "in.png")
    pyvips.Image.new_from_file("in.png").write_to_file("x" + Path(source).suffix)
    Path("x" + Path(source).suffix).rename(source)
    (tmp_path / "folder").mkdir()
    code, err = run("-i", source, *args)
    assert code == 0
    assert size(tmp_path / result) == (36, 44)
    assert "1 image" in err[-1] and "MP/s" in err[-1]


def test_rgb_runs_the_net_on_each_channel(run, tmp_path, net_file):
    image(tmp_path / "a.png")
    assert run("-i", "a.png", "-o", "b.png", "--rgb", "-t", "3")[0] == 0
    pixels = pyvips.Image.new_from_file(str(tmp_path / "a.png")).numpy()
    made = pyvips.Image.new_from_file(str(tmp_path / "b.png")).numpy()
    np.testing.assert_array_equal(made, bitsr.load(net_file)(pixels, rgb=True))
    assert (made != bitsr.load(net_file)(pixels)).any()


def test_folder_is_mirrored_and_failures_are_listed(run, tmp_path):
    for name in ("a.png", "b.jpg", "sub/c.tif", "sub/deep/d.webp", "out/old.png"):
        image(tmp_path / "in" / name)
    for name in ("broken.png", "sub/broken.jpg", "notes.txt", "._a.png"):
        (tmp_path / "in" / name).write_text("text")
    code, err = run("-i", "in", "-o", "in/out", "-r")
    assert code == 1
    made = {p.relative_to(tmp_path / "in/out").as_posix() for p in (tmp_path / "in/out").rglob("*.*")}
    assert made == {"old.png", "a.png", "b.jpg", "sub/c.tif", "sub/deep/d.webp"}
    assert err[:2] == [
        f"bitsr: {Path('in/broken.png')}: not an image in a known format",
        f"bitsr: {Path('in/sub/broken.jpg')}: not an image in a known format",
    ]
    assert "4 images" in err[2] and len(err) == 3


def test_folder_with_defaults(run, tmp_path):
    for name in ("a.png", "a.gif", "sub/c.png"):
        image(tmp_path / "in" / name)
    assert run("-i", "in")[0] == 0
    assert {p.name for p in (tmp_path / "in_x4").iterdir()} == {"a.png", "a.gif.png"}


@pytest.mark.parametrize("names", [("a.jpg", "a.jpg.png", "a.png"), ("a.gif", "a.gif.png", "a.png")])
def test_two_inputs_of_one_output_are_refused_before_any_work(run, tmp_path, names):
    for name in names:
        image(tmp_path / "in" / name)
    code, err = run("-i", "in", "-o", "out", "-f", "png")
    first, second, _ = (Path("in") / name for name in names)
    assert code == 1 and not (tmp_path / "out").exists()
    assert err == [f"bitsr: {first} and {second} would both be written to {Path('out') / names[1]}"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX links")
def test_outputs_that_are_one_file_by_a_link_are_refused(run, tmp_path):
    for name in ("a.png", "b.png"):
        image(tmp_path / "in" / name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.png").symlink_to("b.png")
    code, err = run("-i", "in", "-o", "out")
    assert code == 1 and "would both be written to" in err[0] and len(err) == 1
    assert not (tmp_path / "out/b.png").exists()


def test_skip_existing(run, tmp_path):
    for name in ("a.png", "b.png"):
        image(tmp_path / "in" / name)
    (tmp_path / "in_x4").mkdir()
    (tmp_path / "in_x4/a.png").write_text("kept")
    code, err = run("-i", "in", "--skip-existing")
    assert code == 0 and "1 image," in err[-1]
    assert (tmp_path / "in_x4/a.png").read_text() == "kept"
    assert run("-i", "in", "--skip-existing") == (0, [])


def test_strips_and_threads_change_no_byte(run, tmp_path):
    image(tmp_path / "a.png", 61, 23, 4)
    for i, args in enumerate(([], ["-t", "1"], ["-t", "7"], ["-j", "3"], ["-j", "2:2:2", "-t", "40"])):
        assert run("-i", "a.png", "-o", f"out{i}.png", *args)[0] == 0
    assert len({p.read_bytes() for p in tmp_path.glob("out*.png")}) == 1


def test_notes(run, tmp_path):
    image(tmp_path / "clear.png", bands=4)
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    frames[0].save("pages.gif", save_all=True, append_images=frames[1:])
    code, err = run("-i", "clear.png", "-o", "flat.jpg")
    assert code == 0 and err[0] == "bitsr: clear.png: note: JPEG has no transparency: laid over white"
    code, err = run("-i", "pages.gif", "--first")
    assert code == 0 and err[0] == "bitsr: pages.gif: note: first of 2 pages taken"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
def test_the_output_and_nothing_else_is_written(run, tmp_path):
    image(tmp_path / "a.png")
    other = image(tmp_path / "b.png").rename(tmp_path / "o.png.part").read_bytes()
    (tmp_path / "o.png").write_bytes(b"old")
    (tmp_path / "o.png").chmod(0o600)
    (tmp_path / "link.png").symlink_to("o.png")
    assert run("-i", "a.png", "-o", "link.png")[0] == 0
    assert (tmp_path / "link.png").is_symlink() and size(tmp_path / "o.png") == (36, 44)
    assert (tmp_path / "o.png").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "o.png.part").read_bytes() == other
    assert run("-i", "o.png.part", "-o", "o.png")[0] == 0
    assert (tmp_path / "o.png.part").read_bytes() == other
    os.mkfifo(tmp_path / "pipe.png")
    for name, kind in (("pipe.png", "a pipe"), ("/dev/null", "a device")):
        code, err = run("-i", "a.png", "-o", name, "-f", "png")
        assert code == 1 and err == [f"bitsr: a.png: {name}: is {kind}; an output is a file"]
    assert (tmp_path / "pipe.png").is_fifo() and Path("/dev/null").is_char_device()


# ---- mistakes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ("", "name an image or a folder"),
        ("-i a.png --bogus", "No such option"),
        ("-i a.png -s x", "Invalid value for '-s'"),
        ("-i a.png -s nan", "a scale is from 1 to 64, not nan"),
        ("-i a.png -s 0.5", "a scale is from 1 to 64, not 0.5"),
        ("-i a.png -s 65", "a scale is from 1 to 64, not 65"),
        ("-i a.png --width 0", "a side of an image is from 1 to"),
        ("-i a.png --max-side -5", "a side of an image is from 1 to"),
        ("-i a.png --height 99999999999", "a side of an image is from 1 to"),
        ("-i a.png --width 100 -s 2", "a scale, or a width, height or longest side, not both"),
        ("-i a.png --width 100 --max-side 50", "the longest side, or width and height, not both"),
        ("-i a.png --width 600", "9 x 11 pixels to 600 x 733 is more than 64 times as large"),
        ("-i a.png --compression 10", "Invalid value for '--compression'"),
        ("-i a.png --dpi 0", "dpi must be 1 to 65535"),
        ("-i a.png --suffix a/b", "a suffix is a part of a name, not 'a/b'"),
        ("-i a.png --suffix _x -o b.png", "--suffix is for names that bitsr makes; -o names this one"),
        ("-i a.png --suffix @", "--suffix wants a value, not an empty one"),
        ("-i a.png --overwrite --skip-existing", "--overwrite, --skip-existing or --fail-existing"),
        ("-i a.png -o link.png --fail-existing", "would overwrite"),
        ("-i text.png a.png -o hard.png", "hard.png: is a file; several inputs want a folder"),
        ("-i a.png a.png -o out", "a.png and a.png would both be written to out/a.png"),
        ("-i a.png folder/c.png -o - -f png", "standard output takes one image"),
        ("-i folder -o - -f png", "folder: is a folder; standard output takes one image"),
        ("-i a.png -o - --json", "--json and -o - both want standard output"),
        ("-i - -o -", "standard input has no name that tells a format: give -f"),
        ("-i - -f png", "standard input: is no file beside which an output could lie; give -o"),
        ("-i - -o folder", "standard input has no name to be written by: give -o a file"),
        ("-i - - -o b.png", "standard input"),
        ("-i a.png -t -1", "Invalid value for '-t'"),
        ("-i a.png -q 0", "Invalid value for '-q'"),
        ("-i a.png -j two", "-j wants N or load:proc:save, not 'two'"),
        ("-i a.png -j 100000", "threads must be from 1 to 1024, not 100000"),
        ("-i a.png -j 1:2", "-j wants N or load:proc:save"),
        ("-i a.png -m bitsr-s-x2", "bitsr-s-x2: no such folder; -n names a net"),
        ("-i", "requires an argument"),
        ("-i @", "-i wants a value, not an empty one"),
        ("-i a.png -o @", "-o wants a value, not an empty one"),
        ("-i a.png --output=", "--output wants a value, not an empty one"),
        ("-i /dev/null -o b.png", "/dev/null: is a device; an input is a file or a pipe"),
        ("-i /dev/null", "/dev/null: is no file beside which an output could lie; give -o"),
        ("-i a.png -f bmp", "no output format bmp; there are auto, png"),
        ("-i a.png -o b.bmp", "b.bmp: name it .png, .jpg, .webp or .tif, or give -f"),
        ("-i a.png -o b.png -f jpg", "b.png: its suffix says png, -f says jpg"),
        ("-i missing.png", "missing.png: No such file"),
        ("-i missing/ -o out", "missing: No such file"),
        ("-i a.png -o no/b.png", "no/b.png: No such file"),
        ("-i a.png -o a.png/b.png", "a.png/b.png: "),
        ("-i a.png -o a.png/", "a.png"),
        ("-i a.png -o /proc/b.png", "/proc/b.png: "),
        ("-i a.png -o a.png", "would overwrite"),
        ("-i a.png -o link.png", "would overwrite"),
        ("-i a.png -o .", "would overwrite"),
        ("-i a.png -o hard.png", "would overwrite"),
        ("-i folder -o a.png", "a.png: the input is a folder, so the output must be one"),
        ("-i folder -o folder", "would overwrite"),
        ("-i empty", "empty: no images in this folder"),
        ("-i text.png", "text.png: not an image in a known format"),
        ("-i wide.png -o b.webp", "too large for webp, at most 16383 pixels a side"),
        ("-i wide.png -o " + "n" * 252 + ".png", "File name too long"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="the system's words are those of POSIX")
def test_a_mistake_is_one_line(run, tmp_path, args, text):
    image(tmp_path / "a.png")
    image(tmp_path / "folder/c.png")
    image(tmp_path / "wide.png", 1, 5000, 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link.png").symlink_to("a.png")
    os.link(tmp_path / "a.png", tmp_path / "hard.png")
    (tmp_path / "text.png").write_text("text")
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    code, err = run(*("" if word == "@" else word for word in args.split()))
    assert code == 1
    assert len(err) == 1 and err[0].startswith("bitsr: ") and text in err[0]
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


def test_a_folder_without_a_default_net(run, tmp_path):
    image(tmp_path / "a.png")
    (tmp_path / "nets").mkdir()
    code, err = run("-i", "a.png", "-m", "nets", net=None)
    assert code == 1 and err == ["bitsr: no net for x4 where none is named; there are: none"]


def hostile(whole: bytes):
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])

    def rewritten(change):
        copy = json.loads(json.dumps(header))
        change(copy)
        text = json.dumps(copy).encode()
        return len(text).to_bytes(8, "little") + text + whole[8 + length :]

    yield b""
    yield b"text"
    yield whole[:100]
    yield whole[:-1]
    yield whole + b"x"
    yield b"\xff" * len(whole)
    yield (2**63).to_bytes(8, "little") + whole[8:]
    yield rewritten(lambda h: h["c0.weight"].update(shape=[2**31, 2**31, 2**31]))
    yield rewritten(lambda h: h["c0.weight"].update(data_offsets=[0, 2**62]))
    yield rewritten(lambda h: h["__metadata__"].update(ops="conv a lr c0\n" * 10**5))
    yield rewritten(lambda h: h["__metadata__"].update(ops="bogus a b"))
    yield rewritten(lambda h: h["__metadata__"].update(format="bitsr 999"))
    yield rewritten(lambda h: h.pop("__metadata__"))


def test_hostile_nets(run, net_file, tmp_path):
    image(tmp_path / "a.png")
    for data in hostile(net_file.read_bytes()):
        (tmp_path / "bad.bsr").write_bytes(data)
        code, err = run("-i", "a.png", net="bad.bsr")
        assert code == 1
        assert len(err) == 1 and err[0].startswith("bitsr: ") and "internal" not in err[0]
    (tmp_path / "dir.bsr").mkdir()
    for name in ("missing.bsr", "dir.bsr"):
        code, err = run("-i", "a.png", net=name)
        assert code == 1 and len(err) == 1 and err[0].startswith(f"bitsr: {name}: ")


STOPS = [(number, 128 + number) for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", 1))]


# ---- the world --------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), STOPS)
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_interrupted(net_file, tmp_path, number, code, suffix):
    image(tmp_path / "a.png", 1500, 1000)
    # a shell's job in the background would hand down that SIGINT is ignored
    heard = partial(signal.signal, number, signal.SIG_DFL)
    out = tmp_path / f"b.{suffix}"
    process = start("-i", tmp_path / "a.png", "-o", out, "-n", net_file, preexec_fn=heard)
    until = time.monotonic() + 20
    while not list(tmp_path.glob(f"{PREFIX}*")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=40)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def _full_disk(folder: Path) -> bool:
    folder.mkdir()
    return (
        shutil.which("mount") is not None
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], stderr=subprocess.DEVNULL
        ).returncode
    )


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
@pytest.mark.parametrize("how", ["full disk", "file size limit"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_no_room_for_the_output(net_file, tmp_path, how, suffix):
    import resource

    image(tmp_path / "a.png", 150, 150)
    folder, limit, text = tmp_path / "disk", None, "No space left on device"
    if how == "full disk":
        if not _full_disk(folder):
            pytest.skip("a file system cannot be mounted here")
    else:
        folder.mkdir()
        text = "File too large"

        def small_files():
            resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))

        limit = small_files

    try:
        args = ("-i", tmp_path / "a.png", "-o", folder / f"b.{suffix}", "-n", net_file)
        process = start(*args, preexec_fn=limit)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 1
        assert err.count("\n") == 1 and err.startswith("bitsr: ") and text in err
        assert str(folder / f"b.{suffix}") in err
        assert list(folder.iterdir()) == []
    finally:
        if how == "full disk":
            subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(run, tmp_path):
    image(tmp_path / "a.png")
    (tmp_path / "locked").mkdir(mode=0o555)
    code, err = run("-i", "a.png", "-o", "locked/b.png")
    assert code == 1 and err == [f"bitsr: a.png: {Path('locked/b.png')}: Permission denied"]


PEAK = """
import sys
from pathlib import Path
from bitsr.cli.main import main
from bitsr.files import PREFIX
from bitsr.photo.write import chunk
code = main(sys.argv[1:])
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_memory_follows_the_width(net_file, tmp_path, suffix):
    peaks = []
    for height in (2500, 10000):
        source, out = tmp_path / f"{height}.{suffix}", tmp_path / f"{height}_sr.{suffix}"
        noise = pyvips.Image.gaussnoise(400, height, mean=128).cast("uchar")
        noise.bandjoin([noise, noise]).copy(interpretation="srgb").write_to_file(str(source))
        # Not ru_maxrss of the child, which starts from the size of this process.
        args = ["upscale", "-i", source, "-o", out, "-n", net_file]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *map(str, args)], capture_output=True, text=True, check=True
        )
        assert size(out) == (1600, 4 * height)
        peaks.append(int(done.stdout))
    # What Python and the libraries take differs from machine to machine. The SR pixels have become 144 MB more; queues
    # between threads hold a part of the image, more or less of it.
    assert peaks[1] - peaks[0] < 72 * 1024


def test_an_old_name_is_said_once_and_gives_the_same_bytes(run, tmp_path):
    picture = image(tmp_path / "a.png")
    assert run("-i", picture, "-o", "new.png", net="bitsr-xl-x2")[0] == 0
    code, err = run("-i", picture, "-o", "old.png", net="house-best-x2")
    assert code == 0 and (tmp_path / "old.png").read_bytes() == (tmp_path / "new.png").read_bytes()
    assert err[0].startswith("bitsr: note: house-best-x2 is now called bitsr-xl-x2") and len(err) == 2


COMMANDS = (
    *("upscale", "models", "recipes", "info", "train", "pack", "export"),
    *("evaluate", "shrink", "degrade", "table", "bench", "zoo build"),
)


@pytest.mark.parametrize("command", ["", "zoo", *COMMANDS])
def test_help_of_every_command(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert f"bitsr {command}".rstrip() in out and "icture" not in out


def test_images_has_an_older_spelling(tmp_path, capsys):
    for option in ("--images", "--pictures"):
        assert main(["pack", str(tmp_path / "no.pt"), "-o", str(tmp_path / "n.bsr"), option, "."]) == 1
        assert "no.pt: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("odd"), ValueError("odd\nand long")])
def test_an_error_of_ours_is_one_line_too(error, monkeypatch, capsys):
    monkeypatch.setattr("bitsr.zoo.models", lambda *_: (x for x in ()).throw(error))
    assert main(["models"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"bitsr: internal error, {type(error).__name__}: odd") and err.count("\n") == 1


def test_main_without_arguments_and_version(capsys):
    assert main([]) == 0 and "upscale" in capsys.readouterr().out
    assert main(["--version"]) == 0 and capsys.readouterr().out.startswith("bitsr ")
    assert main(["bogus"]) == 1 and capsys.readouterr().err == "bitsr: No such command 'bogus'.\n"


def shell(folder, line):
    """A line of the shell, in which ``bitsr`` is the command."""
    bitsr = f"{sys.executable} -m bitsr"
    line = line.replace("bitsr ", f"{bitsr} ", 1)
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], cwd=folder, capture_output=True, text=True, timeout=120
    )


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells")
@pytest.mark.parametrize("args", ["-i clear.png -o out.jpg -v", "-i missing.png"])
@pytest.mark.parametrize("where", ["2>&-", "2>&- >&- <&-", "2>/dev/full", "2>&1 >/dev/null | true"])
def test_a_stderr_that_takes_nothing_costs_no_image(net_file, tmp_path, args, where):
    image(tmp_path / "clear.png", bands=4)  # a note is said before the work, a line after it
    done = shell(tmp_path, f"bitsr upscale -n {net_file} {args} {where}")
    good = "out" in args
    assert (done.returncode, done.stdout, done.stderr) == (0 if good else 1, "", "")
    assert {p.name for p in tmp_path.iterdir()} == {"clear.png", *(["out.jpg"] if good else [])}
    assert not good or size(tmp_path / "out.jpg") == (36, 44)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells")
def test_a_closed_pipe_on_stdout_is_no_error_and_a_full_disk_is(net_file, tmp_path):
    for args in (f"info {net_file}", "--help"):
        done = shell(tmp_path, f"bitsr {args} | true")
        assert (done.returncode, done.stderr) == (0, "")
        done = shell(tmp_path, f"bitsr {args} > /dev/full")
        assert (done.returncode, done.stderr) == (1, "bitsr: standard output: No space left on device\n")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells")
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("how", ["< {}", "< <(cat {})"])
def test_standard_input(net_file, tmp_path, name, how):
    image(tmp_path / name)
    done = shell(tmp_path, f"bitsr upscale -n {net_file} -i /dev/stdin -o b.png {how.format(name)}")
    assert done.returncode == 0, done.stderr
    run_on_file = shell(tmp_path, f"bitsr upscale -n {net_file} -i {name} -o c.png")
    assert run_on_file.returncode == 0
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_lie_about_the_width_is_refused_before_memory_is_touched(net_file, tmp_path):
    x = tmp_path / "wide.png"
    header = struct.pack(">IIBBBBB", 2**20, 25, 8, 2, 0, 0, 0)
    x.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x\x9c" + bytes(90)))
    args = ["upscale", "-i", x, "-o", tmp_path / "o.png", "-n", "bitsr-l-x4", "-j", "2"]
    done = subprocess.run([sys.executable, "-c", PEAK, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 1 and "too wide" in done.stderr and done.stderr.count("\n") == 1
    assert int(done.stdout) < 300 * 1024
