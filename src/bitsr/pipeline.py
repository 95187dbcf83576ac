"""One image on its way from file to file: opened, enlarged by rows, written.

The three steps may run in threads of their own (``batch``), or one inside the other
(``upscaler.upscale``); the bytes are the same.
"""

from __future__ import annotations

import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from numpy.typing import NDArray

from . import photo
from .auto import Chooser
from .errors import BitsrError, Cancelled
from .files import naming
from .reduce import reduced
from .sizes import Size

if TYPE_CHECKING:
    from .upscaler import Upscaler

_STRIP_ROWS = 4096
"""The most rows of a strip, however narrow an image: its decoder and the progress go by strips."""


@dataclass(frozen=True)
class Settings:
    """How images are read, enlarged and written.

    size: of the result; where it says nothing, the scale of the nets. tile: LR rows of a strip, 0
    for the memory budget; no byte depends on it. ensemble: mean over 8 flips and rotations, at 8
    times the work. rgb: the nets on red, green and blue, at 3 times the work. first: of several
    frames or pages take the first alone. allow_damaged: take a damaged file as far as it can be
    decoded. encoding: what encoders are told, but for ``lossless``: of WebP, AVIF and JPEG XL, None
    for what the input is. metadata: whether EXIF, XMP, IPTC and texts are kept; what describes
    colours always is. dpi: the resolution to be noted, None for that of the input. preserve:
    whether the output gets the input's modification time and permissions.
    Raises BitsrError for numbers that cannot be.
    """

    size: Size = field(default_factory=Size)
    tile: int = 0
    ensemble: bool = False
    rgb: bool = False
    first: bool = False
    allow_damaged: bool = False
    encoding: photo.Encoding = field(default_factory=photo.Encoding)
    lossless: bool | None = None
    metadata: bool = True
    dpi: float | None = None
    preserve: bool = False

    def __post_init__(self) -> None:
        if self.tile < 0:
            raise BitsrError("tile must be at least 0 rows")
        if self.dpi is not None and not 1 <= self.dpi <= 65535:
            raise BitsrError("dpi must be 1 to 65535")


class Opened:
    """An image file that is open, with the nets it gets and the size it is to have.

    input: a file, a pipe such as /dev/stdin, or a stream of bytes; what is no file is kept in a
    temporary one meanwhile. output: the file to write, None for one in a temporary folder, which
    ``deliver`` hands on. format: a key of ``photo.FORMATS``. note: called with what a user should
    know, one line each.

    frames; height, width: of one of them, in the file; target: (height, width) of one of the
    result; nets: that are run one after the other; why: ``auto.faults``. A context manager, which
    rows are to be read within.
    Raises OSError for a file that cannot be read, and BitsrError for what cannot be done with it.
    """

    def __init__(
        self,
        input: Path | BinaryIO,
        output: Path | None,
        format: str,
        nets: Chooser,
        settings: Settings,
        note: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.settings, self.format = settings, format
        self._stack = ExitStack()
        try:
            self._open(input, output, nets, note)
        except BaseException:
            self._stack.close()
            raise

    def _open(
        self,
        input: Path | BinaryIO,
        output: Path | None,
        nets: Chooser,
        note: Callable[[str], object],
    ) -> None:
        settings, format = self.settings, self.format
        path = self._file(input)
        self._photo = image = photo.read(
            path,
            frames=not settings.first and format in photo.ANIMATED,
            allow_damaged=settings.allow_damaged,
        )
        if image.frames > 1 and not image.delays and format == "png":  # pages are no animation
            self._photo = image = photo.read(path, allow_damaged=settings.allow_damaged)
        if output is not None and output.exists() and output.samefile(path):
            raise BitsrError("the output would overwrite the input")
        self._like = path.stat() if settings.preserve and path == input else None
        self.frames, self.height, self.width = image.frames, image.height // image.frames, image.width
        size = self.height, self.width
        self.target = settings.size.of(*size, nets.scale)
        smaller = settings.size.fixed and self.target[0] <= size[0] and self.target[1] <= size[1]
        if smaller:
            self.nets, self.why = list["Upscaler"](), ""
            note("not enlarged: it is no smaller than the size asked for")
        else:
            self.nets, self.why = nets.pick(path, self.target, image)
        self._metadata = image.metadata if settings.metadata else photo.colours_of(image.metadata)
        self.output = output or Path(self._temporary()) / "output"
        self._tell(note)

    def _file(self, input: Path | BinaryIO) -> Path:
        if isinstance(input, Path):
            kind = input.stat().st_mode
            if stat.S_ISREG(kind) or stat.S_ISDIR(kind):  # of which the system speaks
                return input
            if not stat.S_ISFIFO(kind):
                raise BitsrError(f"{input}: is a device; an input is a file or a pipe")
        # Decoders go back and forth: a pipe is kept as a file meanwhile.
        whole = Path(self._temporary()) / "input"
        with naming(whole), whole.open("wb") as file:
            if isinstance(input, Path):
                with input.open("rb") as pipe:
                    shutil.copyfileobj(pipe, file)
            else:
                shutil.copyfileobj(input, file)
        return whole

    def _temporary(self) -> str:
        return self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bitsr-"))

    def _tell(self, note: Callable[[str], object]) -> None:
        image, format = self._photo, self.format
        for text in (*image.notes, *photo.lost(self._metadata, format)):
            note(text)
        if self.settings.ensemble and self.nets and all(net.equivariant for net in self.nets):
            note(f"{self.nets[0].name} is equivariant: the mean of 8 is the result of one")
        if format == "jpg" and image.channels in (2, 4):
            note("JPEG has no transparency: laid over white")
        if format == "gif":
            note("GIF has 256 colours a frame: WebP keeps all")
        if image.depth > photo.FORMATS[format][2]:
            note(f"16 bits reduced to 8: {format} has no more")
        elif image.depth == 16 and format == "avif":
            note("16 bits reduced to 12: avif has no more")

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        """Give back what reading and ``deliver`` want."""
        self._stack.close()

    def strips(self, frame: int) -> Iterator[NDArray[Any]]:
        """The rows of a frame, (n, W, C); frames are read in their order. Raises PhotoError where
        the file is damaged."""
        rows = self.settings.tile
        if not rows and self.nets:
            # The strips of a chain grow on their way: the first are that much smaller.
            grown = prod(net.scale for net in self.nets[1:])
            rows = max(1, self.nets[0].strip(self.width, self._photo.channels, self._photo.depth) // grown**2)
        yield from self._photo.rows(min(rows or _STRIP_ROWS // 16, _STRIP_ROWS), frame)
        if frame + 1 == self.frames:
            self._photo.close()

    def enlarged(self, strips: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """The rows of a frame's result, (n, w, C), while its own come."""
        height, width = self.height, self.width
        rows = iter(strips)
        for net in self.nets:
            settings = self.settings
            rows = net.rows(rows, height, width, ensemble=settings.ensemble, rgb=settings.rgb)
            height, width = net.scale * height, net.scale * width
        return reduced(rows, (height, width), self.target)

    def writer(self, ahead: int = 2) -> photo.Writer:
        """What writes the result, of all frames one below the other. Raises as it does."""
        image, settings = self._photo, self.settings
        lossless = image.lossless if settings.lossless is None else settings.lossless
        dpmm = settings.dpi and settings.dpi / 25.4
        return photo.Writer(
            self.output,
            self.format,
            self.frames * self.target[0],
            self.target[1],
            image.channels,
            image.depth,
            metadata=self._metadata,
            resolution=(dpmm, dpmm) if dpmm else image.resolution,
            encoding=settings.encoding.but(lossless=lossless),
            frames=self.frames,
            delays=image.delays,
            loop=image.loop,
            like=self._like,
            ahead=ahead,
        )

    def deliver(self, stream: BinaryIO) -> None:
        """Hand the written result on to a stream. Raises OSError."""
        with self.output.open("rb") as file:
            shutil.copyfileobj(file, stream)
        stream.flush()


def upscale(
    image: Opened,
    progress: Callable[[int, int], object] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> None:
    """Enlarge an image that is open, and write it.

    progress: called with (rows done, rows in all). cancel: asked between strips whether to stop.
    Raises Cancelled where it says so; no file is then written.
    """

    def strips(frame: int) -> Iterator[NDArray[Any]]:
        for strip in image.strips(frame):
            if cancel and cancel():
                raise Cancelled("cancelled")
            yield strip

    with image.writer() as writer:
        done, rows_in_all = 0, image.frames * image.target[0]
        for frame in range(image.frames):
            for rows in image.enlarged(strips(frame)):
                writer.write(rows)
                done += len(rows)
                if progress:
                    progress(done, rows_in_all)
