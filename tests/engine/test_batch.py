"""``bitsr batch``: the bytes of ``bitsr upscale``, one result an image whatever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import pyvips

from bitsr import load
from bitsr.auto import choose
from bitsr.cli.main import main
from bitsr.cluster import Worker, plan, pool, run
from bitsr.cluster.manifest import Manifest
from bitsr.cluster.plan import FOLDER
from bitsr.errors import BitsrError
from bitsr.photo import Encoding
from bitsr.pipeline import Settings
from bitsr.sizes import Size
from bitsr.zoo import ZOO


def image(path, seed=0, height=11, width=9):
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    pyvips.Image.new_from_array(array).write_to_file(str(path))
    return path


def files(folder):
    """Relative names and bytes of what a folder holds, but for what is bitsr's own."""
    found = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in found}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(f"{FOLDER}/")}


@pytest.fixture
def source(tmp_path):
    """A folder of images: two of one stem, a sub-folder, odd sizes, and what is no image."""
    folder = tmp_path / "in"
    for seed, name in enumerate(["a.png", "b.jpg", "b.gif", "c d.webp", "sub/a.png", "sub/deep/e.tif"]):
        image(folder / name, seed, 5 + 4 * seed, 17 - 2 * seed)
    image(folder / ".hidden.png")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def expected(source, net_file, tmp_path):
    """What ``bitsr upscale`` makes of the folder."""
    folder = tmp_path / "expected"
    assert main(["upscale", "-i", str(source), "-o", str(folder), "-r", "-n", str(net_file), "-j", "1"]) == 0
    return files(folder)


@pytest.fixture
def command(net_file, capsys):
    """Run ``batch`` with the test net; gives (code, lines on stderr)."""

    def run(*args, net=net_file):
        code = main(["batch", "-n", str(net), "-j", "1", *map(str, args)])
        return code, capsys.readouterr().err.splitlines()

    return run


@pytest.fixture
def serial(net_file):
    """Run a batch within this process; gives the statuses by name."""

    def go(source, output, options=None, limit=None, **more):
        todo = plan(str(source), str(output), **more)
        worker = Worker(choose(net_file, threads=1), options or Settings(), todo.output)
        rows = run(todo, worker, lambda tasks, worker: (worker(task) for task in tasks))
        found = {}
        for status, row in rows:
            found[row.name] = status
            if len(found) == limit:
                rows.close()
        return found

    return go


def start(*args):
    """The command in a process of its own."""
    line = [sys.executable, "-m", "bitsr", "batch", *map(str, args)]
    return subprocess.Popen(line, stderr=subprocess.PIPE, text=True)


# ---- one image, one result -----------------------------------------------------------------------------


def test_the_bytes_are_those_of_upscale(source, expected, command, tmp_path):
    code, lines = command(source, tmp_path / "out", "-j", "2", "--report", tmp_path / "report.jsonl")
    assert code == 0 and lines[-1].startswith("6 images, ")
    assert files(tmp_path / "out") == expected
    rows = {
        row["output"]: row for row in map(json.loads, (tmp_path / "report.jsonl").read_text().splitlines())
    }
    assert set(rows) == {str(tmp_path / "out" / name) for name in expected}
    for name, data in expected.items():
        row = rows[str(tmp_path / "out" / name)]
        made = pyvips.Image.new_from_buffer(data, "")
        assert (row["width"], row["height"]) == (made.width, made.height)
        assert row["output_bytes"] == len(data) and row["status"] == "made" and not row["error"]
        assert row["input_bytes"] == Path(row["input"]).stat().st_size and row["seconds"] > 0


def test_a_second_run_makes_what_is_new(source, expected, serial, tmp_path):
    out = tmp_path / "out"
    assert set(serial(source, out).values()) == {"made"}
    before = {name: (out / name).stat().st_mtime_ns for name in expected}
    assert set(serial(source, out).values()) == {"kept"}
    assert before == {name: (out / name).stat().st_mtime_ns for name in expected}
    # A changed input, an output that is gone, one that is another file now.
    image(source / "a.png", seed=9)
    (out / "sub/a.png").unlink()
    (out / "c d.webp").write_bytes(b"another")
    made = {name for name, status in serial(source, out).items() if status == "made"}
    assert made == {"a.png", "sub/a.png", "c d.webp"}
    assert {name for name, data in files(out).items() if data != expected[name]} == {"a.png"}
    # Other options, and then the first ones again: nothing is taken for what it is not.
    assert set(serial(source, out, Settings(encoding=Encoding(50))).values()) == {"made"}
    assert files(out)["b.jpg"] != expected["b.jpg"]
    assert set(serial(source, out).values()) == {"made"}
    assert files(out)["b.jpg"] == expected["b.jpg"]


def test_another_scale_is_another_result():
    """x1, x2 and x8 begin with the same net."""
    scales = (1, 2, 8)
    assert len({Worker(choose(None, s, threads=1), Settings(), "").made_by() for s in scales}) == 3


def test_another_net_of_a_chain_is_another_result(tmp_path):
    """x8 is two nets, a size in pixels may be any of them; other nets of the folder do not count."""
    marks = []
    for names in (("m-x2", "m-x4"), ("m-x2", "s-x4"), ("s-x2", "m-x4"), ("m-x2", "m-x4", "m-x3")):
        folder = tmp_path / "_".join(names)
        folder.mkdir()
        for name in names:
            shutil.copy(ZOO / f"bitsr-{name}.bsr", folder / f"bitsr-m-{name[-2:]}.bsr")
        x8 = Worker(choose("bitsr-m", 8, folder=folder, threads=1), Settings(), "")
        wide = Worker(choose("bitsr-m", folder=folder, threads=1), Settings(size=Size(width=99)), "")
        marks.append((x8.made_by(), wide.made_by()))
    assert len({x8 for x8, _ in marks}) == 3 and marks[0][0] == marks[3][0]
    assert len({wide for _, wide in marks}) == 4


def test_a_run_that_is_left_goes_on(source, expected, serial, tmp_path):
    assert len(serial(source, tmp_path / "out", limit=2)) == 2
    second = list(serial(source, tmp_path / "out").values())
    assert second.count("kept") == 2 and second.count("made") == 4
    assert files(tmp_path / "out") == expected


def test_nothing_is_said_to_be_done_while_it_is_made_anew(source, serial, tmp_path):
    """Killed between an output and its row, a run leaves no row of the output before it."""
    out = str(tmp_path / "out")
    serial(source, out)
    todo = plan(str(source), out)
    seen = []

    def work(tasks, worker):
        seen.append(Manifest(out, "").load())
        return (row for row in ())

    net = choose("bitsr-s-x4", threads=1)
    assert list(run(todo, Worker(net, Settings(), out), work)) == [] and seen == [{}]


def test_failures_are_lines_and_the_others_go_on(source, expected, command, tmp_path):
    (source / "bad.png").write_bytes((source / "a.png").read_bytes()[:100])
    (tmp_path / "out" / "sub" / "a.png").mkdir(parents=True)
    report = tmp_path / "report.jsonl"
    for made in ("5 images", "0 images"):
        code, lines = command(source, tmp_path / "out", "--report", report)
        assert code == 1 and lines[-1].startswith(made) and lines[-1].endswith("; 2 failed")
        assert any(str(source / "bad.png") in line for line in lines)
        assert f"bitsr: {tmp_path}/out/sub/a.png: is a folder; an output is a file" in lines
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert sorted(row["status"] for row in rows) == ["failed"] * 2 + ["kept"] * 5
    assert all(bool(row["error"]) == (row["status"] == "failed") for row in rows)
    del expected["sub/a.png"]
    assert files(tmp_path / "out") == expected


# ---- what a source may be ------------------------------------------------------------------------------


def test_patterns_lists_and_single_images(source, expected, serial, tmp_path):
    assert set(serial(f"{source}/**/*.png", tmp_path / "1")) == {"a.png", "sub/a.png"}
    assert set(serial(source / "a.png", tmp_path / "2")) == {"a.png"}
    assert files(tmp_path / "2") == {"a.png": expected["a.png"]}
    image(source / "f[1].png")
    assert set(serial(source / "f[1].png", tmp_path / "2b")) == {"f[1].png"}
    names = source / "names"
    names.write_text(f"sub/a.png\n\n{source}/a.png\nfile://{source}/b.jpg\nnone.png\n")
    whole = source.as_posix().lstrip("/")
    statuses = serial(names, tmp_path / "3")
    assert statuses == {
        "sub/a.png": "made",
        f"{whole}/a.png": "made",
        f"{whole}/b.jpg": "made",
        "none.png": "failed",
    }
    assert files(tmp_path / "3")["sub/a.png"] == expected["sub/a.png"]
    made = set(serial(source / "sub", tmp_path / "4", format="jpeg"))
    assert made == {"a.jpg", "deep/e.jpg"} == set(files(tmp_path / "4"))


def test_a_list_is_a_text_of_files(source, command, serial, tmp_path):
    names = source / "names"
    for data, text in (
        (b"\0\1\2", "neither an image nor a text file of paths"),
        (b".\n", ".: a folder; a list is of files"),
    ):
        names.write_bytes(data)
        code, lines = command(names, tmp_path / "out")
        assert code == 1 and lines == [f"bitsr: {names}: {text}"]
    (source / "a.cr2").write_bytes(b"a camera's own")
    code, lines = command(source / "a.cr2", tmp_path / "out")
    assert code == 1 and len(lines) == 1 and "does not read: 1 .cr2" in lines[0]
    names.write_bytes(b"\xef\xbb\xbfa.png\r\n./a.png\r\nsub//a.png\r\n")  # as Windows writes it
    assert serial(names, tmp_path / "out") == {"a.png": "made", "sub/a.png": "made"}


def test_sizes_are_those_of_upscale(source, command, net_file, tmp_path):
    for number, size in enumerate((["-s", "2.5"], ["--max-side", "20"], ["--width", "5"])):
        one, other = tmp_path / f"a{number}", tmp_path / f"b{number}"
        assert (
            main(["upscale", str(source), "-o", str(one), "-r", "-n", str(net_file), "-j", "1", *size]) == 0
        )
        assert command(source, other, *size)[0] == 0 and files(one) == files(other)
    # Nothing of another size is taken for done.
    code, lines = command(source, tmp_path / "b2", "--width", "6")
    assert code == 0 and lines[-1].startswith("6 images, ")


def test_earlier_results_are_no_input(source, expected, serial):
    serial(source, source / "out")
    assert set(serial(source, source / "out").values()) == {"kept"}
    assert files(source / "out") == expected


@pytest.mark.parametrize("links", [False, True])
def test_what_cannot_be_meant_is_refused_before_work(source, command, tmp_path, links):
    out = tmp_path / "out"
    image(source / "a.gif.png")
    image(source / "a.gif")
    cases = [
        ((source, source), "the output folder is the input folder"),
        ((source, out), "a.gif.png would both be written"),
        ((source, out, "-f", "bmp"), "no output format bmp"),
        ((tmp_path / "none", out), "No such file"),
        ((source / "sub", out, "--report", out / "r.csv"), "a report is a .jsonl or a .parquet"),
        ((source / "sub", "", "-s", "4"), "wants a value"),
    ]
    if links:
        out.mkdir()
        (out / "sub").symlink_to(source / "sub")
        (source / "a.gif").unlink()
        image(out / "d.png")
        (source / "d.png").symlink_to(out / "d.png")
        text = "the output would overwrite an input"
        cases = [((source, out), text), ((f"{source}/d*.png", out), text)]
    before = files(source)
    for args, text in cases:
        code, lines = command(*args)
        assert code == 1 and len(lines) == 1 and text in lines[0], lines
    assert files(source) == before and (links or not out.exists())
    (source / "names").write_text("../x.png\n")
    with pytest.raises(BitsrError, match="outside the output folder"):
        plan(str(source / "names"), str(out))


def test_an_input_that_an_output_links_to_stays(source, serial, tmp_path):
    before = (source / "a.png").read_bytes()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").symlink_to(source / "a.png")
    serial(source / "a.png", tmp_path / "out")
    assert (source / "a.png").read_bytes() == before


def test_one_run_at_a_time(source, net_file, tmp_path):
    pytest.importorskip("fcntl")
    todo = plan(str(source), str(tmp_path / "out"))
    worker = Worker(choose(net_file, threads=1), Settings(), todo.output)
    rows = run(todo, worker, lambda tasks, worker: (worker(task) for task in tasks))
    next(rows)
    with pytest.raises(BitsrError, match="another run is at work"):
        next(run(todo, worker, lambda tasks, worker: (worker(task) for task in tasks)))
    rows.close()


# ---- stores --------------------------------------------------------------------------------------------


def test_a_store_of_objects(source, expected, serial):
    """By one request an object: the name is there with all its bytes, or not at all."""
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.rm("/", recursive=True) if store.ls("/") else None
    for name, data in files(source).items():
        store.pipe_file(f"/in/{name}", data)
    assert set(serial("memory://in", "memory://out/x").values()) == {"made"}
    assert {name: store.cat_file(f"/out/x/{name}") for name in expected} == expected
    own = [name for name in store.find("/out/x") if FOLDER in name]
    assert len(own) == 1 and own[0].endswith(".jsonl")
    assert set(serial("memory://in", "memory://out/x").values()) == {"kept"}
    store.pipe_file("/in/a.png", (source / "sub/a.png").read_bytes())
    store.pipe_file("/in/b.jpg", b"no image")
    statuses = serial("memory://in/*.*", "memory://out/x")
    assert statuses["a.png"] == "made" and statuses["b.jpg"] == "failed" and statuses["b.png"] == "kept"
    store.pipe_file("/in/names", b"memory://in/sub/a.png\nsub/a.png")
    assert set(serial("memory://in/names", "memory://list")) == {"in/sub/a.png", "sub/a.png"}


def test_what_a_store_is_called_stays_in_the_output_folder(source, tmp_path):
    """A store's names are any text, "../x.png" too."""
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.pipe_file("/up/../../x.png", (source / "a.png").read_bytes())
    with pytest.raises(BitsrError, match="outside the output folder"):
        plan("memory://up", str(tmp_path / "out"))


def test_errors_of_a_store_are_one_line_with_its_name(source, command, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem

    class Broken(MemoryFileSystem):
        protocol = "broken"

        def isdir(self, path, **_):  # pyright: ignore[reportIncompatibleMethodOverride]
            raise RuntimeError("no\ncredentials")

        glob = isdir  # pyright: ignore[reportAssignmentType]

    fsspec.register_implementation("broken", Broken, clobber=True)
    for args, text in (
        (("broken://bucket/in", tmp_path / "out"), "broken://bucket/in: no credentials"),
        ((source, "broken://bucket/out"), f"broken://bucket/out/{FOLDER}/tried: no credentials"),
        (("memory://none/x", tmp_path / "out"), "memory:///none/x: No such file or directory"),
        (("memory://", tmp_path / "out"), "memory://: names no place"),
    ):
        code, lines = command(*args)
        assert code == 1 and lines == [f"bitsr: {text}"]
    assert not (tmp_path / "out").exists()


@pytest.fixture
def server():
    """A store whose URLs name a server, as those of FTP and SFTP do: server://HOST/FOLDER/NAME. It is
    to be told the host, its own names have none, and folders do not come by themselves."""
    fsspec = pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem

    class Server(MemoryFileSystem):
        protocol = "server"
        store, pseudo_dirs, asked = {}, [""], []

        def __init__(self, host, **more):
            super().__init__(**more)
            self.host = host

        def __del__(self):
            assert self.host  # as FTP's closes what it has not opened

        @classmethod
        def _strip_protocol(cls, path):
            path = path.partition("://")[2].partition("/")[2] if "://" in path else path
            return "/" + path.strip("/")

        @staticmethod
        def _get_kwargs_from_urls(path):
            host = path.partition("://")[2].partition("/")[0]
            return {"host": host} if host else {}

        def makedirs(self, path, exist_ok=False):
            super().makedirs(path, exist_ok=True)
            if path not in self.asked:  # another process was faster
                self.asked.append(path)
                raise FileExistsError(path)

        def get_file(self, path, *args, **more):  # pyright: ignore[reportIncompatibleMethodOverride]
            assert path.startswith("/")
            super().get_file(path, *args, **more)

    fsspec.register_implementation("server", Server, clobber=True)
    return fsspec.filesystem("server", host="h")


def test_a_server_is_named_by_its_url(source, expected, serial, server, tmp_path):
    for name, data in files(source).items():
        server.pipe_file(f"/in/{name}", data)
    for status in ("made", "kept"):
        found = serial("server://h/in", "SERVER://h/out/x")
        assert set(found) == set(expected) and set(found.values()) == {status}
    assert {name: server.cat_file(f"/out/x/{name}") for name in expected} == expected
    (done,) = server.glob(f"/out/x/{FOLDER}/*.jsonl")
    rows = [json.loads(line) for line in server.cat_file(done).splitlines()]
    assert {row["input"] for row in rows} >= {"server://h/in/a.png", "server://h/in/sub/a.png"}
    assert {row["output"] for row in rows} == {f"server://h/out/x/{name}" for name in expected}
    assert set(serial("server://h/in/**/*.png", tmp_path / "1")) == {"a.png", "sub/a.png"}
    assert files(tmp_path / "1")["sub/a.png"] == expected["sub/a.png"]
    (source / "list").write_text("server://h/in/a.png\na.png\n")
    assert set(serial(source / "list", tmp_path / "2").values()) == {"made"}
    for output in ("server://h/in", "server://h/in/"):
        with pytest.raises(BitsrError, match="is the input folder"):
            plan("server://h/in", output)
    with pytest.raises(BitsrError, match="overwrite an input"):
        plan("server://h/in/a.png", "server://h/in", format="png")


def test_ftp(source, expected, command, tmp_path):
    handlers = pytest.importorskip("pyftpdlib.handlers")
    who = pytest.importorskip("pyftpdlib.authorizers").DummyAuthorizer()
    who.add_user("me", "", str(tmp_path), perm="elradfmwMT")
    Handler = type("Handler", (handlers.FTPHandler,), {"authorizer": who})
    ftp = pytest.importorskip("pyftpdlib.servers").FTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=ftp.serve_forever, kwargs={"handle_exit": False})
    thread.start()
    try:
        url = f"ftp://me@127.0.0.1:{ftp.address[1]}"
        for end in ("", "6 were done"):
            code, lines = command(f"{url}/in", f"{url}/out", "-j", "3")
            assert code == 0 and lines[-1].endswith(end), lines
        assert files(tmp_path / "out") == expected
    finally:
        ftp.close_all()
        thread.join()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("ftp://127.0.0.1:1/x", "ftp://127.0.0.1:1: Connection refused"),
        ("FTP://127.0.0.1:1/x", "ftp://127.0.0.1:1: Connection refused"),
        ("ftp://", "ftp://: "),
        ("ftp://h:abc/x", "ftp://h:abc: Port "),
        ("http://127.0.0.1:1/x", "http://127.0.0.1:1/x"),
        ("http://", "http://: names no place"),
        ("none://x/y", "none://x: Protocol not known"),
        ("server:///x", "server://: "),
        ("zip://a/b", "zip://a: "),
        ("data://x", "data://x"),
        ("filecache::ftp://x/y", "filecache::ftp://x/y: not a URL of the form NAME://PLACE"),
    ],
)
def test_a_server_that_is_not_there_is_one_line(url, text, source, server, command, tmp_path):
    """As a source and as an output; nothing is made, and no package prints what is its own."""
    pytest.importorskip("aiohttp")
    for args in ((url, tmp_path / "out"), (source, url)):
        code, lines = command(*args)
        assert code == 1 and len(lines) == 1 and lines[0].startswith(f"bitsr: {text}"), lines
    assert not (tmp_path / "out").exists()


def test_a_list_goes_on_without_a_server(source, serial, tmp_path):
    pytest.importorskip("aiohttp")
    (source / "list").write_text("a.png\nhttp://127.0.0.1:1/b.png\n")
    statuses = serial(source / "list", tmp_path / "out")
    assert statuses == {"a.png": "made", "127.0.0.1:1/b.png": "failed"}


def test_an_output_that_takes_nothing_is_refused_before_work(source, serial, command):
    pytest.importorskip("fsspec")
    with pytest.raises(BitsrError, match=r"^data://1,x/\.bitsr/tried: Read only"):
        serial(source, "data://1,x")
    code, lines = command(source, "memory://out")
    assert code == 1 and lines == [
        "bitsr: memory:///out: what is there ends with the command; give another output"
    ]


def test_a_store_with_names_to_change(source, expected, command, tmp_path):
    """fsspec's own files: sent under another name and then moved; in other processes, too."""
    pytest.importorskip("fsspec")
    code, lines = command(f"local://{source}", f"local://{tmp_path}/out")
    assert code == 0, lines
    assert files(tmp_path / "out") == expected
    assert not list((tmp_path / "out" / FOLDER / "parts").iterdir())
    code, lines = command(f"local://{source}", f"local://{tmp_path}/out")
    assert code == 0 and lines[-1].endswith("6 were done")


def test_s3(source, expected, command, tmp_path, monkeypatch):
    s3fs = pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    try:
        store = s3fs.S3FileSystem(endpoint_url=f"http://{host}:{port}", skip_instance_cache=True)
        store.mkdir("bucket")
        for name, data in files(source).items():
            store.pipe_file(f"bucket/in/{name}", data)
        for end in ("6 were done", None):
            code, lines = command("s3://bucket/in/", "s3://bucket/out", "-j", "1")
            assert code == 0, lines
            if end is None:
                assert lines[-1].endswith("6 were done")
        store.invalidate_cache()
        assert {name: store.cat_file(f"bucket/out/{name}") for name in expected} == expected
        store.pipe_file("bucket/in/a.png", files(source)["sub/a.png"])
        code, lines = command("s3://bucket/in/", "s3://bucket/out")
        assert lines[-1].startswith("1 image, ") and lines[-1].endswith("5 were done")
    finally:
        server.stop()


def test_a_store_that_is_not_installed_is_one_line(command, tmp_path, monkeypatch):
    from bitsr.cluster import stores

    stores._remote.cache_clear()
    monkeypatch.setitem(sys.modules, "fsspec", None)
    code, lines = command("s3://bucket/in", tmp_path)
    assert code == 1 and len(lines) == 1 and "pip install 'bitsr[s3]'" in lines[0]
    monkeypatch.setitem(sys.modules, "ray", None)
    image(tmp_path / "in" / "a.png")
    code, lines = command(tmp_path / "in", tmp_path / "out", "--ray", "local")
    assert code == 1 and len(lines) == 1 and "pip install 'bitsr[ray]'" in lines[0]


def test_a_parquet_report(source, command, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    (source / "bad.png").write_text("bad")
    command(source, tmp_path / "out", "--report", tmp_path / "report.parquet")
    table = parquet.read_table(tmp_path / "report.parquet").to_pylist()
    assert len(table) == 7 and sum(bool(row["error"]) for row in table) == 1
    assert all(row["height"] % 4 == 0 for row in table)


# ---- what is killed ------------------------------------------------------------------------------------


class Deadly(Worker):
    """A worker whose process does not survive some images, or some not the first time."""

    def __call__(self, task):
        if task.name == "a.png":
            os.kill(os.getpid(), signal.SIGKILL)
        once = Path(self.output).with_name("once")
        if task.name == "b.jpg" and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(task)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM that is caught")
def test_a_process_that_is_told_to_end_many_times_says_nothing(source, net_file, tmp_path, capfd):
    """As by its pool and by ``timeout``, which tells all processes of a command."""
    todo = plan(str(source), str(tmp_path / "out"))
    isolated = pool.Isolated(Worker(choose(net_file, threads=1), Settings(), todo.output))
    isolated(todo.tasks[0])
    process = isolated._process
    assert process
    while process.poll() is None:
        process.terminate()
        time.sleep(0.001)
    assert process.returncode == 143 and not capfd.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_an_image_that_kills_its_process_fails_alone(source, expected, net_file, tmp_path):
    todo = plan(str(source), str(tmp_path / "out"))
    worker = Deadly(choose(net_file, threads=1), Settings(), todo.output)
    rows = {row.name: row for row in pool.work(todo.tasks, worker, 2)}
    assert rows.pop("a.png").error == f"{source}/a.png: {pool.TRIES} processes ended at work on it"
    assert not any(row.error for row in rows.values())
    del expected["a.png"]
    assert files(tmp_path / "out") == expected


def children(pid):
    """The processes that a process has started."""
    return [int(n) for p in Path(f"/proc/{pid}/task").glob("*/children") for n in p.read_text().split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_that_is_killed_goes_on(net_file, tmp_path, number):
    """Its processes end with it, and a second command makes the rest: every image once."""
    source, out = tmp_path / "in", tmp_path / "out"
    for i in range(30):
        image(source / f"{i}.png", i, 12, 10 + i)
    first = start(source, out, "-n", net_file, "-j", "2")
    while len(files(out) if out.exists() else ()) < 5 and first.poll() is None:
        time.sleep(0.01)
    workers = children(first.pid)
    first.send_signal(number)
    _, text = first.communicate()
    assert first.returncode == (-9 if number == signal.SIGKILL else 143) and workers and not text
    end = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < end:
        time.sleep(0.01)
    made = files(out)
    assert 5 <= len(made) < 30
    second = start(source, out, "-n", net_file, "-j", "2")
    _, text = second.communicate()
    assert second.returncode == 0, text
    up = load(net_file, threads=1)
    found = files(out)
    assert len(found) == 30 and not list(out.rglob(".bitsr-*")) and not (out / FOLDER / "parts").exists()
    for name, data in found.items():
        lr, sr = (pyvips.Image.new_from_buffer(d, "").numpy() for d in ((source / name).read_bytes(), data))
        assert np.array_equal(up(lr), sr)
    assert all(found[name] == data for name, data in made.items())
    assert set(Manifest(str(out), "").load()) == set(found)
