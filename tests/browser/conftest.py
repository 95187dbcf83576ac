"""Chromium, and the page from both of its servers: a static folder, and ``bitsr serve``."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from bitsr import serve
from bitsr.serve.server import PageServer

ARGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="session")
def chromium():
    api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGS))
        yield browser
        browser.close()


class _Files(http.server.SimpleHTTPRequestHandler):
    """Static files as they are, counted, and nothing said."""

    sent = 0

    def log_message(self, *_):
        pass

    def copyfile(self, source, outputfile):
        data = source.read()
        type(self).sent += len(data)
        outputfile.write(data)


def _running(server):
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="session")
def static(tmp_path_factory):
    """The exported page under a plain server of files. url; sent(): bytes of its answers so far."""
    folder = tmp_path_factory.mktemp("static") / "page"
    serve.export(folder)
    handler = functools.partial(_Files, directory=str(folder))
    with _running(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield SimpleNamespace(
            url=f"http://127.0.0.1:{server.server_port}/", sent=lambda: _Files.sent, folder=folder
        )
        server.shutdown()


@pytest.fixture(scope="session")
def native():
    """``bitsr serve`` with the native engine."""
    with _running(PageServer(threads=1)) as server:
        yield server
        server.shutdown()


@pytest.fixture
def visit(chromium):
    """A function that opens an address in a browser of its own, options as for a new context. At the end no
    page had an error, and none had asked anybody but its own server."""
    contexts, faults, asked, homes = [], [], [], set()

    def visit(url: str, **options):
        context = chromium.new_context(accept_downloads=True, **options)
        contexts.append(context)
        homes.add(url)
        context.on("request", lambda request: asked.append(request.url))
        context.on("weberror", lambda error: faults.append(str(error.error)))
        context.on(
            "console", lambda message: faults.append(message.text) if message.type == "error" else None
        )
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    strangers = [url for url in asked if not url.startswith((*homes, *(f"blob:{home}" for home in homes)))]
    assert not strangers
    wanted = ("ERR_INTERNET_DISCONNECTED", "elsewhere.example")  # what tests bring about themselves
    assert not [fault for fault in faults if not any(text in fault for text in wanted)]


@pytest.fixture
def repository() -> Path:
    return Path(__file__).resolve().parents[2]
