"""Video: where the time goes, what unchanged regions save, which net suits compressed clips, memory."""

from __future__ import annotations

import io
import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from bitsr import colour, video
from bitsr.engine import Engine
from bitsr.imresize import imresize
from bitsr.upscaler import load
from bitsr.video.formats import Encoding
from bitsr.video.frames import FrameNet
from bitsr.video.pixels import Layout, Planes, views
from bitsr.video.run import Behind, ahead, planes_of
from bitsr.video.sink import Sink
from bitsr.video.source import Group, Source

from . import machine

RATE = 25
LAYOUT = Layout(8, 2, 2)
PRESET = "medium"


def av() -> Any:
    import av

    return av


def film(n: int, width: int, height: int) -> Iterator[list[np.ndarray]]:
    """Everything changes in every frame: FFmpeg's mandelbrot, which zooms in."""
    graph = av().filter.Graph()
    source = graph.add("mandelbrot", f"size={width}x{height}:rate={RATE}:start_scale=0.8")
    graph.link_nodes(source, graph.add("format", LAYOUT.name), graph.add("buffersink"))
    for _ in range(n):
        yield [plane.copy() for plane in views(graph.vpull(), LAYOUT)]


def screen(n: int, width: int, height: int) -> Iterator[list[np.ndarray]]:
    """A screen recording: a page on which a letter appears in every third frame, and a cursor blinks."""
    rng = np.random.default_rng(0)
    page = np.full((height, width), 225, np.uint8)
    for y in range(8, height - 12, 14):
        for x in range(8, width - 12, 8):
            page[y : y + 8, x : x + 6] -= rng.integers(0, 2, (8, 6), np.uint8) * 170
    grey = np.full((height // 2, width // 2), 128, np.uint8)
    for i in range(n):
        if i % 3 == 0:
            y, x = height // 2 // 14 * 14, 8 + i // 3 * 8 % (width - 32)
            page[y : y + 8, x : x + 6] = 225 - rng.integers(0, 2, (8, 6), np.uint8) * 170
        now = page.copy()
        if i // 12 % 2:
            now[height // 2 - 10 : height // 2, -20:-18] = 30
        yield [now, grey, grey]


def drawing(n: int, width: int, height: int) -> Iterator[list[np.ndarray]]:
    """A drawn film: a figure moves over a still background, and each drawing is shown for three frames."""
    y, x = np.mgrid[:height, :width]
    back = (90 + 60 * (np.sin(x / 31) + np.cos(y / 17) > 0.4)).astype(np.uint8)
    grey = np.full((height // 2, width // 2), 128, np.uint8)
    for i in range(n):
        at = width // 4 + (i // 3) * 3 % (width // 2), height // 2
        now = back.copy()
        now[np.hypot(x - at[0], y - at[1]) < height // 8] = 220
        yield [now, grey, grey]


KINDS = {"film": film, "screen recording": screen, "drawn film": drawing}


def encode(path: Path | io.BytesIO, frames: Iterator[list[np.ndarray]], crf: int = 23) -> None:
    """A clip by libx264, as most are."""
    with av().open(path if isinstance(path, io.BytesIO) else str(path), "w", format="matroska") as out:
        stream = None
        for i, planes in enumerate(frames):
            height, width = planes[0].shape
            if stream is None:
                stream = out.add_stream("libx264", rate=RATE)
                stream.width, stream.height, stream.pix_fmt = width, height, LAYOUT.name
                stream.options = {"crf": str(crf)}
                stream.codec_context.thread_type = "FRAME"
            frame = av().VideoFrame(width, height, LAYOUT.name)
            for target, plane in zip(views(frame, LAYOUT), planes, strict=True):
                target[...] = plane
            frame.pts, frame.time_base = i, Fraction(1, RATE)
            out.mux(stream.encode(frame))
        if stream is not None:
            out.mux(stream.encode())


def cost(run: Callable[[], object]) -> tuple[float, float]:
    """(seconds, CPU seconds of the process) of a call."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def speed(
    sizes: list[tuple[int, int]], scales: list[int], threads: list[int], frames: int, rounds: int
) -> str:
    """Markdown: the whole against a plain loop and FFmpeg's Lanczos, and the share of each part."""
    before = machine.load()
    lines = [
        "| input | net | threads | bitsr video, frames/s | against a plain loop | FFmpeg's Lanczos, frames/s "
        "| decode | net | encode | net idle |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    # Ctrl-C ends it with the rows that there are.
    with tempfile.TemporaryDirectory() as folder, suppress(KeyboardInterrupt):
        clip, out = Path(folder) / "in.mkv", Path(folder) / "out.mkv"
        for width, height in sizes:
            encode(clip, film(frames, width, height))
            for name, n in ((f"bitsr-m-x{scale}", n) for scale in scales for n in threads):
                lines.append(
                    f"| {width}x{height} | {name} | {n} | {' | '.join(row(clip, out, name, n, rounds))} |"
                )
    head = [*(f"- {line}" for line in machine.describe()), f"- load average before {before}", ""]
    return "\n".join([*head, *lines]) + "\n"


def row(clip: Path, out: Path, name: str, threads: int, rounds: int) -> list[str]:
    """The cells of one clip, net and number of threads; the rounds interleave what is compared."""
    scale = load(name, threads=1).scale
    ways = (
        lambda: video.upscale(clip, out, net=name, threads=threads, overwrite=True, preset=PRESET),
        lambda: plain(clip, out, name, threads),
        lambda: lanczos(clip, out, scale, threads),
    )
    times = np.array([[cost(way)[0] for way in ways] for _ in range(rounds)])
    n = video.upscale(clip, out, net=name, threads=threads, overwrite=True, preset=PRESET).frames
    parts, idle = shares(clip, out, name, threads)
    return [
        f"{n / np.median(times[:, 0]):.2f}",
        f"{np.median(times[:, 1] / times[:, 0]):.2f}x",
        f"{n / np.median(times[:, 2]):.1f}",
        *(f"{100 * part / sum(parts):.1f} %" for part in parts),
        f"{100 * idle:.1f} %",
    ]


def plain(clip: Path, out: Path, name: str, threads: int) -> None:
    """What one writes without this: decode, through RGB and the Upscaler, encode, one after the other."""
    up = load(name, threads=threads)
    with av().open(str(clip)) as source, av().open(str(out), "w") as sink:
        stream = sink.add_stream("libx264", rate=RATE)
        stream.pix_fmt, stream.options = LAYOUT.name, {"crf": "18", "preset": PRESET}
        stream.codec_context.thread_type, stream.codec_context.thread_count = "FRAME", threads
        first = source.streams.video[0]
        stream.width, stream.height = up.scale * first.width, up.scale * first.height
        for frame in source.decode(video=0):
            large = av().VideoFrame.from_ndarray(up(frame.to_ndarray(format="rgb24")), "rgb24")
            large.pts, large.time_base = frame.pts, frame.time_base
            sink.mux(stream.encode(large.reformat(format=LAYOUT.name)))
        sink.mux(stream.encode())


def lanczos(clip: Path, out: Path, scale: int, threads: int) -> None:
    """The same clip by FFmpeg's own scaler."""
    with av().open(str(clip)) as source, av().open(str(out), "w") as sink:
        stream = sink.add_stream("libx264", rate=RATE)
        stream.pix_fmt, stream.options = LAYOUT.name, {"crf": "18", "preset": PRESET}
        stream.codec_context.thread_type, stream.codec_context.thread_count = "FRAME", threads
        first = source.streams.video[0]
        stream.width, stream.height = scale * first.width, scale * first.height
        for frame in source.decode(video=0):
            large = frame.reformat(stream.width, stream.height, LAYOUT.name, interpolation="LANCZOS")
            large.pts, large.time_base = frame.pts, frame.time_base
            sink.mux(stream.encode(large))
        sink.mux(stream.encode())


def shares(clip: Path, out: Path, name: str, threads: int) -> tuple[list[float], float]:
    """CPU seconds of decoding, net (with chroma) and encoding, each alone, and the share of time that the
    net's workers idle in the whole."""
    engine = load(name, threads=1).engine
    groups: list[Group] = []
    made: list[Planes] = []
    with Source(clip) as source:
        layout, height, width = source.layout, source.height, source.width
        encoding = Encoding(preset=PRESET, threads=threads)

        def decode() -> None:
            groups.extend(source.groups())

        def enlarge() -> None:
            net = FrameNet(engine, layout, height, width, workers=threads)
            made.extend(tuple(p.copy() for p in planes) for _, planes in net.run(groups, planes_of) if planes)

        def write() -> None:
            sink = Sink(out, source, engine.scale * height, engine.scale * width, encoding)
            pictures = [group.picture for group in groups if group.picture]
            for picture, planes in zip(pictures, made, strict=True):
                sink.write([], sink.frame(picture, planes))
            sink.finish()

        parts = [cost(part)[1] for part in (decode, enlarge, write)]
    made.clear()
    with Source(clip) as source:
        net = FrameNet(engine, layout, height, width, workers=threads)
        sink = Sink(out, source, engine.scale * height, engine.scale * width, encoding)
        behind = Behind[Any](lambda frame: sink.write([], frame), sink.finish, 4)
        start = time.perf_counter()
        for group, planes in net.run(ahead(source.groups(), 4), planes_of):
            if group.picture:
                behind.put(sink.frame(group.picture, planes))
        seconds = time.perf_counter() - start
        behind.end()
    return parts, max(1 - net.busy / threads / seconds, 0.0)


class Counted:
    """Stands in for an engine where pixels are counted alone."""

    def __init__(self, engine: Engine) -> None:
        self.scale, self.radius = engine.scale, engine.radius

    def run(self, lr: np.ndarray) -> np.ndarray:
        return np.zeros((self.scale * lr.shape[0], self.scale * lr.shape[1]), np.int16)


def reuse(sizes: list[tuple[int, int]], name: str, frames: int, rounds: int) -> str:
    """Markdown: the share of pixels that go through the net in three kinds of clips, lossy and lossless,
    and, where rounds are not 0, how much less CPU time the lossless ones take than with all pixels."""
    lines = ["| clip | size | net | crf 23 | lossless | less CPU time by |", "|---|---|---|---:|---:|---:|"]
    engine = load(name, threads=1).engine
    for (width, height), (kind, make) in itertools.product(sizes, KINDS.items()):

        def spent(decoded: list[Planes], engine: Any, again: bool) -> tuple[float, int]:
            net = FrameNet(engine, LAYOUT, *decoded[0][0].shape, reuse=again)
            return cost(lambda: deque(net.run(decoded, lambda planes: planes), 0))[1], net.pixels

        decoded: list[Planes] = []
        shares: list[float] = []
        for crf in (23, 0):
            data = io.BytesIO()
            encode(data, make(frames, width, height), crf)
            data.seek(0)
            with av().open(data) as clip:
                decoded = [tuple(p.copy() for p in views(f, LAYOUT)) for f in clip.decode(video=0)]
            shares.append(spent(decoded, Counted(engine), True)[1] / (len(decoded) * width * height))
        ratios = [spent(decoded, engine, False)[0] / spent(decoded, engine, True)[0] for _ in range(rounds)]
        gain = f"{statistics.median(ratios):.1f}x" if ratios else "not measured"
        cells = " | ".join(f"{100 * share:.0f} %" for share in shares)
        lines.append(f"| {kind} | {width}x{height} | {name} | {cells} | {gain} |")
    return "\n".join(lines) + "\n"


def nets(folder: Path) -> str:
    """Markdown: PSNR of luma of the clean and the photo net after libx264, on stills that pan."""
    import pyvips

    width, height, frames = 112, 72, 12
    lines = ["| scale | crf | bicubic | clean net | photo net |", "|---|---:|---:|---:|---:|"]
    for scale in (2, 4):
        engines = {n: load(f"{n}-x{scale}", threads=1).engine for n in ("bitsr-m", "bitsr-photo-m")}
        sums: dict[int, list[list[float]]] = {}
        for path in sorted(folder.iterdir())[1::4]:
            pixels = pyvips.Image.new_from_file(str(path)).numpy()[..., :3]
            across, down = (width + frames) * scale, height * scale
            if pixels.shape[0] < down or pixels.shape[1] < across:
                continue
            luma = colour.luma(np.ascontiguousarray(pixels[:down, :across])) / 128 + 127.5
            large = [luma[:, i * scale : (i + width) * scale] for i in range(frames)]
            small = [np.clip(np.rint(imresize(x.astype(np.float32), 1 / scale)), 1, 254) for x in large]
            grey = np.full((height // 2, width // 2), 128, np.uint8)
            for crf in (0, 18, 23, 28, 33):
                data = io.BytesIO()
                encode(data, ([x.astype(np.uint8), grey, grey] for x in small), crf)
                data.seek(0)
                with av().open(data) as clip:
                    decoded = [views(f, LAYOUT)[0].copy() for f in clip.decode(video=0)]
                for i in (5, 8):
                    q = decoded[i].astype(np.int16) * 128 - 16320
                    results = [imresize(decoded[i].astype(np.float32), scale)]
                    results += [engine.run(q) / 128 + 127.5 for engine in engines.values()]
                    inner = np.s_[2 * scale : -2 * scale, 2 * scale : -2 * scale]
                    errors = [np.square(result - large[i])[inner].mean() for result in results]
                    sums.setdefault(crf, []).append([10 * np.log10(255**2 / e) for e in errors])
        for crf, rows in sums.items():
            cells = [f"{value:.2f}" for value in np.mean(rows, axis=0)]
            lines.append(f"| x{scale} | {crf or 'lossless'} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def memory(lengths: list[int]) -> str:
    """Markdown: peak memory of ``bitsr video`` over clips of several lengths."""
    lines = ["| frames | peak RSS MiB |", "|---:|---:|"]
    with tempfile.TemporaryDirectory() as folder:
        for n in lengths:
            clip = Path(folder) / f"{n}.mkv"
            encode(clip, film(n, 64, 36))
            arguments = [
                "video",
                str(clip),
                "-o",
                str(clip.with_suffix(".mp4")),
                "-n",
                "bitsr-s-x2",
                "-j",
                "1",
            ]
            process = subprocess.Popen([sys.executable, "-m", "bitsr", *arguments], stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise RuntimeError(f"bitsr video ended with {process.returncode}")
            unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
            lines.append(f"| {n} | {usage.ru_maxrss / unit:.0f} |")
    return "\n".join(lines) + "\n"
