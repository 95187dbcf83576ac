"""``bitsr serve``: what it gives, and what it refuses."""

from __future__ import annotations

import http.client
import json
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from bitsr import serve
from bitsr.cli.main import main
from bitsr.errors import BitsrError
from bitsr.serve import server as module
from bitsr.serve.server import PageServer
from bitsr.upscaler import load


@pytest.fixture(scope="module")
def server():
    with PageServer(threads=1) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(
    server, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of an answer; headers: with _ for -, None leaves one out."""
    own = {"Host": f"127.0.0.1:{server.server_port}", "Origin": f"http://127.0.0.1:{server.server_port}"}
    own |= {name.replace("_", "-"): value for name, value in headers.items()}
    if method == "POST" and "Content-Length" not in own:
        own["Content-Length"] = str(len(body))
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in own.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    out = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return out


def test_every_file_of_the_page_is_served(server) -> None:
    for name, path in serve.files().items():
        status, body, headers = ask(server, "GET", f"/{name}")
        assert status == 200 and headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert name == "index.html" or body == path.read_bytes()
    index = ask(server, "GET", "/")[1]
    assert b"native" in index and index == ask(server, "GET", "/index.html")[1]
    status, body, headers = ask(server, "HEAD", "/")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(index)))


@pytest.mark.parametrize(
    "path", ["/../server.py", "/..%2fserver.py", "/nets/e2fif-srresnet-x4.bsr", "//etc/passwd", "/native"]
)
def test_nothing_else_is(server, path: str) -> None:
    assert ask(server, "GET", path)[0] == 404


@pytest.mark.parametrize("shape", [(17, 23, 3), (9, 31, 1), (16, 8, 4)])
def test_native_engine_gives_the_bytes_of_the_library(server, shape) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    height, width, channels = shape
    path = f"/native?net=bitsr-s-x2&width={width}&height={height}&channels={channels}"
    status, body, _ = ask(server, "POST", path, image.tobytes())
    assert status == 200 and body == load("bitsr-s-x2")(image).tobytes()


PATH = "/native?net=bitsr-s-x2&width=4&height=2&channels=3"


@pytest.mark.parametrize(
    "path, headers, status",
    [
        (PATH, {"Host": "rebound.example"}, 421),
        (PATH, {"Host": None}, 421),
        (PATH, {"Origin": "http://elsewhere.example"}, 403),
        (PATH, {"Origin": None}, 403),
        (PATH, {"Origin": "null"}, 403),
        ("/index.html", {}, 404),
        (PATH.replace("bitsr-s-x2", "../zoo/bitsr-s-x2"), {}, 400),
        (PATH.replace("bitsr-s-x2", "e2fif-srresnet-x4"), {}, 400),
        (PATH.replace("width=4", "width=-4"), {}, 400),
        (PATH.replace("width=4", "width=4e0"), {}, 400),
        (PATH.replace("channels=3", "channels=5"), {}, 400),
        (PATH.replace("&height=2", ""), {}, 400),
        (PATH, {"Content_Length": "23"}, 400),
        (PATH, {"Content_Length": "many"}, 400),
        (PATH.replace("width=4", "width=99999999"), {}, 413),
    ],
)
def test_what_is_refused_is_one_line(server, path: str, headers: dict[str, str], status: int) -> None:
    got, body, _ = ask(server, "POST", path, b"" if "Content_Length" in headers else bytes(24), **headers)
    assert got == status and body.endswith(b"\n") and body.count(b"\n") == 1


def test_other_hosts_get_no_page(server) -> None:
    assert ask(server, "GET", "/", Host="rebound.example")[0] == 421
    assert ask(server, "GET", "/", Host=f"localhost:{server.server_port}")[0] == 200
    assert server.server_address[0] == "127.0.0.1"


def test_without_native_there_is_the_page_alone() -> None:
    with PageServer(native=False) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert b'content="wasm"' in ask(server, "GET", "/")[1]
        assert ask(server, "POST", PATH, bytes(24))[0] == 400
        server.shutdown()


def test_a_port_that_is_taken(server, capsys) -> None:
    assert main(["serve", "--no-open", "--port", str(server.server_port)]) == 1
    assert "--port 0" in capsys.readouterr().err
    with pytest.raises(BitsrError, match="65535"):
        PageServer(65536)


def test_export(tmp_path, capsys) -> None:
    assert main(["serve", "--export", str(tmp_path / "a" / "page")]) == 0
    for name, path in serve.files().items():
        assert (tmp_path / "a" / "page" / name).read_bytes() == path.read_bytes()
    assert main(["serve", "--export", str(tmp_path / "a")]) == 1
    assert "not empty" in capsys.readouterr().err


def test_the_manifest_names_icons_of_their_size() -> None:
    files = serve.files()
    icons = json.loads(files["manifest.webmanifest"].read_text(encoding="utf-8"))["icons"]
    for icon in icons:
        width, _, _ = icon["sizes"].partition("x")
        if icon["type"] == "image/png":  # IHDR: width, height
            assert files[icon["src"]].read_bytes()[16:24] == struct.pack(">II", int(width), int(width))
        else:
            assert icon["src"] in files


def test_limits_are_those_that_the_page_knows() -> None:
    text = (Path(__file__).parents[2] / "web/src/engines.ts").read_text(encoding="utf-8")
    assert f"2 ** {module.MOST_BYTES.bit_length() - 1};" in text
