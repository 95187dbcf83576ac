"""A server of the page on the loopback address, with the native engine behind it.

It serves the files of ``files()``, read when it starts, and ``POST /native``: samples in, samples out. No
path, header or name that a client sends is ever opened. Requests of other origins are refused, and so are
those that name another host: a page elsewhere could reach this address by a name of its own (DNS
rebinding).
"""

from __future__ import annotations

import socketserver
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from ..errors import BitsrError
from ..upscaler import Upscaler, load
from . import files, media_type, nets

HOST = "127.0.0.1"
MOST_BYTES = 1 << 28
"""Of an image that is sent to the native engine: 89 megapixels of RGB. web/src/engines.ts knows it too."""
_MARK = b'name="bitsr-serve" content=""'
_IDLE = 60.0
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class PageServer(ThreadingHTTPServer):
    """The server of one page. port: 0 takes a free one; ``url`` tells it.

    native: whether the native engine answers, else the page is as it is on a server of static files.
    threads: of the native engine, None or 0 for every CPU this process may use.
    Raises BitsrError for a port that is taken or not to be had.
    """

    daemon_threads = True

    def __init__(self, port: int = 0, *, native: bool = True, threads: int | None = None) -> None:
        pages = {name: path.read_bytes() for name, path in files().items()}
        self._nets = nets() if native else {}
        self._cpus = threads
        self._loaded: dict[str, Upscaler] = {}
        # One image at a time has the CPUs, and its samples the memory.
        self.working = threading.Lock()
        engine = "wasm"
        if native:
            first = self.upscaler(next(iter(self._nets))).engine
            engine = f"native {first.isa}, {first.threads} thread{'s' * (first.threads > 1)}"
        if pages["index.html"].count(_MARK) != 1:
            raise BitsrError("the page has no place for the name of the engine")
        pages["index.html"] = pages["index.html"].replace(_MARK, _MARK[:-1] + engine.encode() + b'"')
        self.pages = {f"/{name}": (media_type(name), data) for name, data in pages.items()}
        self.pages["/"] = self.pages["/index.html"]
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            text = f"port {port}: {error.strerror}; --port 0 takes a free one"
            raise BitsrError(text) from None
        except OverflowError:
            raise BitsrError(f"a port is from 0 to 65535, not {port}") from None
        self.names = {f"{HOST}:{self.server_port}", f"localhost:{self.server_port}"}

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks the network for the name of this machine.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.socket.getsockname()[1]

    def upscaler(self, net: str) -> Upscaler:
        """A net that the page offers, by its name. Raises BitsrError for another."""
        if net not in self._nets:
            raise BitsrError("no such net")
        if net not in self._loaded:
            self._loaded[net] = load(self._nets[net], threads=self._cpus)
        return self._loaded[net]

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):  # a client may go away
            print(f"bitsr: {type(error).__name__}: {error}", file=sys.stderr)


class _Refused(Exception):
    """A request that gets a status and one line."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: PageServer  # pyright: ignore[reportIncompatibleVariableOverride] (of what made it)
    protocol_version = "HTTP/1.1"
    server_version = "bitsr"
    sys_version = ""
    timeout = _IDLE

    def do_GET(self) -> None:
        try:
            self._check_host()
            kind, data = self.server.pages.get(urlsplit(self.path).path, ("", b""))
            if not kind:
                raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
        except _Refused as refused:
            return self._refuse(refused)
        self._head(HTTPStatus.OK, kind, len(data))
        if self.command != "HEAD":
            self.wfile.write(data)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        try:
            self._check_host()
            if self.headers.get("Origin") not in {f"http://{name}" for name in self.server.names}:
                raise _Refused(HTTPStatus.FORBIDDEN, "requests of other origins are refused")
            if urlsplit(self.path).path != "/native":
                raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
            with self.server.working:
                self._enlarge()
        except _Refused as refused:
            self._refuse(refused)

    def _enlarge(self) -> None:
        """The samples of the body, (height, width, channels) uint8, and back those of the enlarged image."""
        asked = dict(parse_qsl(urlsplit(self.path).query))
        try:
            upscaler = self.server.upscaler(asked.get("net", ""))
            shape = tuple(int(asked.get(name, "")) for name in ("height", "width", "channels"))
            length = int(self.headers.get("Content-Length", ""))
        except ValueError as error:
            text = (
                str(error) if isinstance(error, BitsrError) else "height, width, channels are whole numbers"
            )
            raise _Refused(HTTPStatus.BAD_REQUEST, text) from None
        height, width, channels = shape
        if not (height > 0 and width > 0 and 1 <= channels <= 4):
            raise _Refused(HTTPStatus.BAD_REQUEST, "an image has pixels of 1 to 4 channels")
        if height * width * channels > MOST_BYTES:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"an image has at most {MOST_BYTES} bytes")
        if length != height * width * channels:
            raise _Refused(HTTPStatus.BAD_REQUEST, "the body has not the bytes of such an image")
        body = self.rfile.read(length)
        if len(body) != length:
            raise ConnectionError("the client went away")
        pixels = np.frombuffer(body, np.uint8).reshape(shape)
        n = upscaler.strip(width, channels, 8)
        rows = upscaler.rows((pixels[y : y + n] for y in range(0, height, n)), height, width)
        try:
            first = next(rows)  # an image that is too wide is refused before anything is said
        except BitsrError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, str(error)) from None
        self._head(HTTPStatus.OK, "application/octet-stream", upscaler.scale**2 * length)
        self.wfile.write(first.data)
        for strip in rows:
            self.wfile.write(strip.data)

    def _check_host(self) -> None:
        if self.headers.get("Host") not in self.server.names:
            raise _Refused(HTTPStatus.MISDIRECTED_REQUEST, f"this is {self.server.url}")

    def _head(self, status: HTTPStatus, kind: str, length: int) -> None:
        self.send_response(status)
        for name, value in (*_HEADERS.items(), ("Content-Type", kind), ("Content-Length", str(length))):
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def _refuse(self, refused: _Refused) -> None:
        self.close_connection = True  # a body that was not read is no next request
        text = f"{refused}\n".encode()
        self._head(refused.status, "text/plain; charset=utf-8", len(text))
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is the user's."""
