"""What Windows lacks is missed by nothing: the command line without it gives the same bytes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bitsr
from bitsr.cli import streams

WITHOUT = """
import os, signal, sys
import numpy, pyvips, rich.progress, tempfile, typer  # they may have what they find
for module in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[module] = None
for name in ("fork", "register_at_fork", "sched_getaffinity", "getuid", "fchmod", "O_NOFOLLOW",
             "O_CLOEXEC", "O_DIRECTORY", "O_NONBLOCK", "mkfifo", "sysconf", "statvfs", "uname"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGKILL", "SIGQUIT", "SIGCHLD"):
    if hasattr(signal, name):
        delattr(signal, name)
import bitsr.cli.main
sys.exit(bitsr.cli.main.main(sys.argv[1:]))
"""


def test_upscale_without_what_windows_lacks(tmp_path: Path, net_file: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a4.png").touch()  # one that is replaced
    for command in (
        ["upscale", "-i", "a.png", "-o", "a4.png", "-n", str(net_file)],
        ["models"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT, *command],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(Path(bitsr.__file__).parents[1])},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    bitsr.upscale(tmp_path / "a.png", tmp_path / "b4.png", net=net_file)
    assert (tmp_path / "a4.png").read_bytes() == (tmp_path / "b4.png").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "a4.png", "b4.png"}


def test_a_pipe_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows calls it an invalid argument."""
    broken, invalid = BrokenPipeError(errno.EPIPE, "broken"), OSError(errno.EINVAL, "invalid")
    full = OSError(errno.ENOSPC, "full")
    assert [streams._closed_pipe(e) for e in (broken, invalid, full)] == [True, os.name == "nt", False]
    with monkeypatch.context() as patch:
        patch.setattr(streams.os, "name", "nt")
        told = [streams._closed_pipe(e) for e in (broken, invalid, full)]
    assert told == [True, True, False]
