"""A net on whole images: colour, grey, alpha and 16 bit, by strips, in memory or between files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, tee
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from . import colour, samples
from .engine import Engine
from .errors import BitsrError, Cancelled
from .symmetry import sum_over_orientations
from .zoo import ZOO, choose

# SR pixels of a strip are kept near this size; a few such arrays are alive at a time.
_STRIP_BYTES = 8 << 20
_STRIP_ROWS = 4096
"""The most LR rows of a strip, however narrow an image: its decoder and the progress go by
strips."""


def load(
    net: str | Path | None = None,
    scale: int | None = None,
    *,
    folder: str | Path = ZOO,
    isa: str | None = None,
    threads: int | None = None,
) -> Upscaler:
    """An ``Upscaler`` of a net: a name of ``models()``, or the path of a .bsr file.

    net: default the default net of ``scale``. scale: 2, 3 or 4, default that of the net, or 4.
    folder: where names are looked up. isa: path of the engine, default the fastest. threads:
    None or 0 is every CPU this process may use.
    Raises BitsrError for a name that is not there, a file that is no sound model or a net that
    upscales by another factor, OSError for a file that cannot be read.
    """
    upscaler = Upscaler(Engine(choose(net, scale, folder), isa=isa, threads=threads))
    if scale not in (None, upscaler.scale):
        raise BitsrError(f"{upscaler.name} upscales x{upscaler.scale}, not x{scale}")
    return upscaler


class Upscaler:
    """One net, ready for images: ``out = upscaler(image)``. Immutable: threads may share one, and a
    copy or pickle is a net of its own, for another process.

    The net sees luma; chroma is guided by the luma that it makes (``colour.merge``), alpha is
    bicubic. The same image gives the same bytes whatever the strips and threads.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self.name: str = engine.name
        self.scale: int = engine.scale

    def __repr__(self) -> str:
        e = self.engine
        return f"Upscaler({self.name!r}, scale={self.scale}, isa={e.isa!r}, threads={e.threads})"

    def __call__(
        self,
        image: Any,
        *,
        range: float | None = None,
        ensemble: bool = False,
        rgb: bool = False,
        progress: Callable[[int, int], object] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Any:
        """Upscale a PIL image or an array; the result is of the same kind, ``scale`` times the
        size.

        Arrays: (H, W), (H, W, C) or a batch (N, H, W, C); C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGB
        and alpha. Samples are uint8, uint16, or floats with ``range``, the value of white (1 or 255,
        say): these pass as 16-bit integers, and what lies outside [0, range] is clipped.
        PIL images come out as from the command line: upright after EXIF; a palette or a transparent
        colour becomes alpha, CMYK becomes sRGB; ICC profile, EXIF, XMP and dpi stay in ``info``. Of an
        animation the frame it stands at is taken.
        ensemble: mean of the net over 8 flips and rotations (Timofte et al., CVPR 2016), at 8 times
        the work and more memory; of an ``equivariant`` net it is the plain result, at no cost.
        rgb: the net on red, green and blue in place of luma, at three times the work.
        progress: called with (SR rows done, SR rows in all). cancel: asked between strips whether to
        stop, such as ``threading.Event().is_set``.
        Raises BitsrError for any other image, and Cancelled where ``cancel`` says so.
        """
        # PIL stays optional: an image of its kind can only arrive when it is loaded.
        pil = sys.modules.get("PIL.Image")
        if pil and isinstance(image, pil.Image):
            if range is not None:
                raise BitsrError("range= is of float arrays, not of PIL images")
            pixels, info = samples.from_pil(image)
            return samples.to_pil(self._images(pixels, ensemble, rgb, progress, cancel), info)
        if not isinstance(image, np.ndarray):
            raise BitsrError(f"image must be a PIL image or a numpy array, not {type(image).__name__}")
        array = cast("NDArray[Any]", image)
        out = self._images(samples.from_array(array, range), ensemble, rgb, progress, cancel)
        return samples.to_array(out, array, range)

    def _images(
        self,
        images: NDArray[Any],
        ensemble: bool,
        rgb: bool,
        progress: Callable[[int, int], object] | None,
        cancel: Callable[[], bool] | None,
    ) -> NDArray[Any]:
        """(N, H, W, C) uint8 or uint16 -> (N, scale H, scale W, C)."""
        number, height, width, channels = images.shape
        high = self.scale * height
        out = np.empty((number, high, self.scale * width, channels), images.dtype)
        rows_out = out.reshape(number * high, self.scale * width, channels)
        n = self.strip(width, channels, 8 * images.itemsize)
        y = 0

        def strips(image: NDArray[Any]) -> Iterator[NDArray[Any]]:
            for i in range(0, height, n):
                if cancel and cancel():
                    raise Cancelled("cancelled")
                yield image[i : i + n]

        for image in images:
            for rows in self.rows(strips(image), height, width, ensemble=ensemble, rgb=rgb):
                rows_out[y : y + len(rows)] = rows
                y += len(rows)
                if progress:
                    progress(y, number * high)
        return out

    def strip(self, width: int, channels: int, depth: int) -> int:
        """LR rows to take at a time, so that their SR pixels stay within the memory budget.

        width: LR pixels. channels: 1 to 4. depth: bits of a sample, 8 or 16.
        """
        row = self.scale**2 * width * channels * (depth // 8)
        return max(1, min(_STRIP_BYTES // row, _STRIP_ROWS))

    @property
    def equivariant(self) -> bool:
        """Whether the net flips and rotates with its image, bit for bit.

        The mean over flips and rotations is then the result for one (``ensemble`` costs nothing).
        """
        return self.engine.equivariant

    def rows(
        self,
        strips: Iterable[NDArray[Any]],
        height: int,
        width: int,
        *,
        ensemble: bool = False,
        rgb: bool = False,
    ) -> Iterator[NDArray[Any]]:
        """Yield the SR image as (m, scale*W, C) arrays while its LR rows come as (n, W, C) arrays.

        strips: uint8 or uint16, ``height`` rows in all, from top to bottom. ensemble, rgb: as in a
        call. Memory follows the width, the net's receptive field and the largest strip, not the
        height. A net that sees the whole image (channel attention) keeps it, and yields after the
        last strip.
        """
        filled = colour.filled(strips, height)
        ensemble = ensemble and not self.equivariant
        if not rgb:
            yield from self._rows(filled, height, width, ensemble)
            return
        first = next(filled, None)
        if first is None:
            return
        # Red, green, and blue with what alpha there is. All three yield in step, so few strips wait.
        channels = first.shape[2]
        cuts = [slice(0, 1), slice(1, 2), slice(2, channels)] if channels > 2 else [slice(0, channels)]
        copies = tee(chain([first], filled), len(cuts))
        parts = [
            self._rows(map(itemgetter((..., cut)), copy), height, width, ensemble)
            for cut, copy in zip(cuts, copies, strict=True)
        ]
        for planes in zip(*parts, strict=True):
            yield np.concatenate(planes, axis=2)

    def _rows(
        self, strips: Iterable[NDArray[Any]], height: int, width: int, ensemble: bool
    ) -> Iterator[NDArray[Any]]:
        """``rows`` of filled strips, the net on their luma."""
        s = self.scale
        window, first, pushed = None, 0, 0  # LR rows [first, pushed) are kept for their chroma
        waiting = np.empty((0, s * width), np.int16)  # SR luma from row `done` on
        done = 0
        begin = self.engine.stream if not ensemble else partial(_Ensemble, self.engine)
        with begin(height, width) as stream:
            for strip in strips:
                window = strip if window is None else np.concatenate((window, strip))
                pushed += len(strip)
                sr = stream.push(colour.luma(strip))
                waiting = np.concatenate((waiting, sr)) if len(waiting) else sr
                ready = s * (height if pushed == height else max(pushed - colour.REACH, 0)) - done
                m = min(ready, len(waiting))
                if m <= 0:
                    continue
                yield colour.merge(
                    window, waiting[:m], s, height=height, first=first, y=done, smooth=self.engine.smooth
                )
                done += m
                waiting = waiting[m:]
                drop = max(done // s - colour.REACH - first, 0)
                window, first = window[drop:], first + drop


class _Ensemble:
    """Self-ensemble by strips: a stream averaged over the 8 flips and rotations of the image.

    A strip takes the receptive field above and below it along, so its rows are those of the whole
    image. Where the net sees the whole image, the strip is all of it.
    """

    def __init__(self, engine: Engine, height: int, width: int):
        self.engine, self.height = engine, height
        self.rows = np.empty((0, width), np.int16)  # LR rows [first, pushed)
        self.first = self.pushed = self.done = 0

    def __enter__(self) -> _Ensemble:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def push(self, rows: NDArray[np.int16]) -> NDArray[np.int16]:
        s, r = self.engine.scale, int(min(self.engine.radius, self.height))
        self.rows = np.concatenate((self.rows, rows))
        self.pushed += len(rows)
        ready = self.height if self.pushed == self.height else self.pushed - r
        # Below twice the overlap a strip would be mostly overlap: wait for more.
        if ready <= self.done or (ready < self.height and ready - self.done < 2 * r):
            return np.empty((0, s * self.rows.shape[1]), np.int16)
        total = sum_over_orientations(self.engine.run, self.rows)
        top = self.done - self.first
        out = (total[s * top : s * (top + ready - self.done)] + 4) >> 3
        self.done = ready
        drop = max(ready - r, 0) - self.first
        self.rows, self.first = self.rows[drop:], self.first + drop
        return out.astype(np.int16)


def upscale(
    input: str | Path,
    output: str | Path,
    scale: float | None = None,
    net: str | Path | Upscaler | None = None,
    *,
    width: int | None = None,
    height: int | None = None,
    max_side: int | None = None,
    format: str | None = None,
    quality: int = 95,
    compression: int = 6,
    lossless: bool | None = None,
    progressive: bool = False,
    tile: int = 0,
    threads: int | None = None,
    ensemble: bool = False,
    rgb: bool = False,
    first: bool = False,
    allow_damaged: bool = False,
    metadata: bool = True,
    dpi: float | None = None,
    preserve: bool = False,
    progress: Callable[[int, int], object] | None = None,
    cancel: Callable[[], bool] | None = None,
    note: Callable[[str], object] | None = None,
) -> tuple[int, int]:
    """Upscale an image file into another, by strips: memory follows its width, not its height.

    input: a file, or a pipe such as /dev/stdin, which is kept in a temporary file meanwhile. scale:
    a number from 1 to 64, default that of the net, or 4; the nets above it are run, and the result
    is reduced. width, height, max_side: sides of the result in pixels, in place of a scale
    (``sizes.Size``). net: as in ``load``, several by a name without scale ("bitsr-l"), "auto"
    (``auto.Chooser``), or an Upscaler. format: "png", "jpg", "webp", "tif", "gif", "avif" or "jxl",
    default by the output's suffix. quality, compression, lossless, progressive:
    ``photo.Encoding``; lossless None is what the input is. threads: None or 0 is every CPU this
    process may use. tile, ensemble, rgb, first, allow_damaged, metadata, dpi, preserve:
    ``pipeline.Settings``. progress: called with (rows done, rows in all). cancel: asked between
    strips whether to stop. note: called with what a user should know, one line each.
    Returns (height, width) of the result, or of one frame. Raises OSError for files that cannot be
    read or written, Cancelled where ``cancel`` says so, and BitsrError for everything else; no
    partial file stays behind.
    """
    from . import photo, pipeline
    from .auto import AUTO, Chooser
    from .sizes import Size

    input, output = Path(input), Path(output)
    format = format or photo.format_of(output)
    if format not in photo.FORMATS:
        known = ", ".join(photo.FORMATS)
        raise BitsrError(f"{output.name}: no output format of that name; there are {known}")
    settings = pipeline.Settings(
        size=Size(scale, width, height, max_side),
        tile=tile,
        ensemble=ensemble,
        rgb=rgb,
        first=first,
        allow_damaged=allow_damaged,
        encoding=photo.Encoding(quality, compression, progressive=progressive),
        lossless=lossless,
        metadata=metadata,
        dpi=dpi,
        preserve=preserve,
    )
    auto = net == AUTO
    nets = Chooser(scale, net=None if auto else net, restore=auto, threads=threads)
    with pipeline.Opened(input, output, format, nets, settings, note or (lambda text: None)) as image:
        pipeline.upscale(image, progress, cancel)
    return image.target
