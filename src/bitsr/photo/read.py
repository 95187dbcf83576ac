"""Image files in, by rows."""

from __future__ import annotations

import mmap
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from .. import _core
from . import exif, gif, others, png
from .apng import Animation
from .fork import use_libvips
from .formats import PhotoError, reason

HELD = 64 << 20
"""Bytes of pixels that are held in memory at most."""
_Data = bytes | mmap.mmap
_METADATA = ("icc-profile-data", "exif-data", "iptc-data", "xmp-data")


@dataclass
class Photo:
    """An image ready to be read, rows from top to bottom, once.

    height: of all frames together, one below the other. channels: 1 to 4. depth: 8 or 16.
    metadata: ICC profile, EXIF, XMP and IPTC under libvips' names, and under "png-chunks" the
    chunks of a PNG that have no other name. EXIF is a TIFF block of an upright image without
    thumbnail, IPTC is bare records. resolution: pixels a mm, (x, y). notes: what a user should know
    about how the file was taken. frames: of an animation, or pages. delays: milliseconds a frame,
    none for pages. loop: how often an animation is shown, 0 for ever. lossless: whether the file is
    a WebP that keeps every pixel. lenient: whether damage is passed over.
    """

    height: int
    width: int
    channels: int
    depth: int
    metadata: dict[str, bytes | str]
    resolution: tuple[float, float]
    notes: list[str]
    _image: pyvips.Image = field(repr=False)
    frames: int = 1
    delays: list[int] = field(default_factory=list[int])
    loop: int = 0
    lossless: bool = False
    lenient: bool = False
    # libvips knows no more than the address of a source's bytes.
    _sources: list[pyvips.Source] = field(default_factory=list[pyvips.Source], repr=False)
    _animation: Animation | None = field(default=None, repr=False)
    _images: Iterator[NDArray[Any]] = field(default_factory=lambda: iter(()), repr=False)

    def animate(self, animation: Animation) -> None:
        """Become the image of all the frames of an animated PNG."""
        self._animation, self.frames = animation, animation.frames
        self.height, self.channels, self.depth = (
            animation.frames * animation.height,
            animation.channels,
            animation.depth,
        )
        self.delays, self.loop = animation.delays, animation.loop

    def hold(self) -> bool:
        """Take the pixels into memory, so that rows can be read more than once; False where they
        are more than HELD bytes. Raises PhotoError where the file is damaged."""
        size = self.height * self.width * self.channels * self.depth // 8
        if size > HELD or self._animation:
            return False
        try:
            self._image = self._image.copy_memory()
        except pyvips.Error as error:
            raise PhotoError(reason(error)) from None
        return True

    def close(self) -> None:
        """Forget the pixels, which are not read again."""
        self._image, self._animation, self._sources = pyvips.Image.black(1, 1), None, []

    def rows(self, n: int, frame: int | None = None) -> Iterator[NDArray[Any]]:
        """Yield (n, W, C) arrays, the last one shorter, of one frame or of all. Raises PhotoError
        where the file is damaged."""
        if self._animation:
            yield from self._animated(n, frame)
            return
        region = pyvips.Region.new(self._image)
        dtype = np.uint8 if self.depth == 8 else np.uint16
        height = self.height if frame is None else self.height // self.frames
        first = 0 if frame is None else frame * height
        for y in range(first, first + height, n):
            m = min(n, first + height - y)
            try:
                data = region.fetch(0, y, self.width, m)
            except pyvips.Error as error:
                raise PhotoError(reason(error)) from None
            yield np.frombuffer(data, dtype).reshape(m, self.width, self.channels)

    def _animated(self, n: int, frame: int | None) -> Iterator[NDArray[Any]]:
        assert self._animation
        if frame in (None, 0):
            self._images = self._animation.images()
        for _ in range(self.frames if frame is None else 1):
            image = next(self._images)
            for y in range(0, len(image), n):
                yield image[y : y + n]


def read(path: str | Path, *, frames: bool = False, allow_damaged: bool = False) -> Photo:
    """Open an image file; the pixels are decoded later, by ``Photo.rows``.

    EXIF orientation is applied. Palettes become RGB or RGBA; CMYK and Lab become sRGB; samples of
    more than 16 bits, and float ones in [0, 1], become 16-bit. frames: take every frame or page
    that has the size of the first, not the first alone. allow_damaged: take a damaged file as far as it
    can be decoded, with a note. Raises OSError where the file cannot be opened and PhotoError where it
    is not an image, is damaged, or holds samples of another kind.
    """
    use_libvips()
    path = Path(path)
    data = _data(path)  # the system's own words for what is missing, a directory, no permission
    if not len(data):
        raise PhotoError("the file is empty")
    notes: list[str] = []
    if allow_damaged and (fault := _fault(path, data)):
        notes.append(f"taken as far as it can be decoded: {fault}")
    _clear_errors()
    try:
        photo = _Opening(path, data, frames, bool(notes)).photo()
    except pyvips.Error as error:
        raise PhotoError(reason(error)) from None
    photo.notes[:0] = notes
    return photo


def _clear_errors() -> None:
    # Warnings of a file that was read stay in libvips' list of errors, which is short.
    library: Any = pyvips
    library.vips_lib.vips_error_clear()


def _data(path: Path) -> _Data:
    with path.open("rb") as file:
        info = os.fstat(file.fileno())
        if stat.S_ISREG(info.st_mode) and info.st_size:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return file.read()


def _fault(path: Path, data: _Data) -> str | None:
    """What is wrong with a file, by reading all of it."""
    _clear_errors()
    try:
        for _ in _Opening(path, data, False, False).photo().rows(256):
            pass
    except PhotoError as error:
        return str(error)
    except pyvips.Error as error:
        return reason(error)
    return None


def _get(image: pyvips.Image, name: str, default: Any) -> Any:
    return image.get(name) if image.get_typeof(name) else default


class _Opening:
    """One file on its way to a Photo. lenient: whether damage is passed over."""

    def __init__(self, path: Path, data: _Data, frames: bool, lenient: bool):
        self.path, self.data, self.frames, self.lenient = path, data, frames, lenient
        self.notes: list[str] = []
        self.metadata: dict[str, bytes | str] = {}
        self.load: Callable[[], pyvips.Image] = self._load
        self.sources: list[pyvips.Source] = []
        self.turned = False

    def photo(self) -> Photo:
        head = bytes(self.data[:32])
        if head.startswith(b"\xff\xd8\xff"):
            return self._jpeg()
        if head.startswith(png.SIGNATURE):
            return self._png()
        if head.startswith(b"GIF8") and not self.lenient and gif.cut_short(self.data):
            raise PhotoError("damaged or cut short: the file ends within a frame")
        kind = others.kind_of(head)
        if kind in others.LINEAR:
            raise PhotoError(f"{kind} holds linear light: tone-map it to a 16-bit TIFF or PNG first")
        if kind == "HEIC":
            return self._decoded(others.heif(self.path))
        if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            try:
                return self._tiff()
            except pyvips.Error as error:
                # Its directory, which may stand at the end, is how libvips knows a TIFF.
                raise PhotoError("damaged or cut short") if "known" in reason(error) else error from None
        if kind and (decoded := others.pillow(self.path, kind)):
            return self._decoded(decoded)
        try:
            return self._finish(self.load())
        except pyvips.Error as error:
            # TGA has no signature: Pillow is asked about what nobody knows.
            if "known" in reason(error) and (decoded := others.pillow(self.path, None)):
                return self._decoded(decoded)
            raise

    def _source(self) -> pyvips.Source:
        # A source, unlike new_from_file, takes brackets in a file's name for what they are.
        if isinstance(self.data, mmap.mmap):
            return pyvips.Source.new_from_file(os.fsencode(self.path))  # pyright: ignore[reportArgumentType] (bytes are fine)
        return self._memory(self.data)

    def _memory(self, data: _Data | bytearray) -> pyvips.Source:
        self.sources.append(pyvips.Source.new_from_memory(data))  # pyright: ignore[reportArgumentType] (any bytes-like is fine)
        return self.sources[-1]

    def _load(self, fail_on: str = "error", **more: Any) -> pyvips.Image:
        fail_on = "none" if self.lenient else fail_on
        source = self._source()
        return pyvips.Image.new_from_source(source, "", access="sequential", fail_on=fail_on, **more)

    def _jpeg(self) -> Photo:
        whole, fault = _core.jpeg_check(self.data)
        if whole is False and not self.lenient:
            raise PhotoError(f"damaged or cut short: {fault}")
        # Where all pixels are known to be there, what libjpeg still warns of is harmless.
        fail_on = "none" if whole or self.lenient else "warning"

        def load() -> pyvips.Image:
            # By name: libvips would take an Ultra HDR by a loader that has no checks.
            return pyvips.Image.jpegload_source(self._source(), access="sequential", fail_on=fail_on)

        self.load = load
        image = load()
        head = bytes(self.data[: 1 << 18])
        if b"urn:iso:std:iso:ts:21496:-1" in head or b"ns.adobe.com/hdr-gain-map/" in head:
            self.notes.append("Ultra HDR: the gain map is dropped, the image is taken as it looks without")
        if not whole and not self.lenient:
            pyvips.Region.new(image).fetch(
                0, 0, image.width, 1
            )  # libvips keeps the first rows: no second pass
        return self._finish(image)

    def _png(self) -> Photo:
        chunks = png.walk(self.data)
        self.notes += chunks.notes
        if chunks.frames > 1 and not self.frames:
            self.notes.append(f"first of {chunks.frames} frames taken")
        if chunks.kept:
            self.metadata["png-chunks"] = chunks.kept
        if chunks.iptc:
            self.metadata["iptc-data"] = chunks.iptc
        if chunks.xmp:
            self.metadata["xmp-data"] = chunks.xmp
        fail_on = "none" if self.lenient else "error"
        seen = self._hidden(chunks.hidden) if chunks.hidden else None

        def load() -> pyvips.Image:
            source = self._source() if seen is None else self._memory(seen)
            return pyvips.Image.pngload_source(source, access="sequential", fail_on=fail_on, unlimited=True)

        self.load = load
        photo = self._finish(load())
        if chunks.frames > 1 and self.frames and self.turned:
            photo.notes.append(f"first of {chunks.frames} frames taken, for it is to be turned")
        elif chunks.frames > 1 and self.frames:
            photo.animate(Animation(self.data, self.lenient))
        return photo

    def _hidden(self, hidden: list[tuple[int, int]]) -> mmap.mmap | bytearray:
        if isinstance(self.data, mmap.mmap):
            with self.path.open("rb") as file:  # only pages that are written to are copied
                data = mmap.mmap(file.fileno(), len(self.data), access=mmap.ACCESS_COPY)
        else:
            data = bytearray(self.data)
        png.hide(data, hidden)
        return data

    def _tiff(self) -> Photo:
        facts = _tiff_facts(self.data)
        photometric, compression = facts.get(262, [1])[0], facts.get(259, [1])[0]
        if photometric == 6 and compression == 6:
            raise PhotoError("TIFF with old-style JPEG is not read")
        if block := exif.of_tiff(self.data):
            self.metadata["exif-data"] = block
        if photometric == 6 and compression != 7:
            decoded = others.pillow(self.path, "YCbCr TIFF", ("TIFF",))
            assert decoded
            return self._decoded(decoded)
        bits = facts.get(258, [1])
        if len(set(bits)) == 1 and bits[0] in (10, 12, 14):
            return self._decoded(others.Decoded(_unpacked(self.data, facts, bits[0]), {}))
        return self._finish(self.load())

    def _decoded(self, decoded: others.Decoded) -> Photo:
        pixels = decoded.pixels
        height, width, channels = pixels.shape
        format = {"uint8": "uchar", "uint16": "ushort"}.get(str(pixels.dtype), "")
        if not format:
            raise PhotoError(f"samples are {pixels.dtype}; bitsr takes 8-bit and 16-bit integers")
        data = np.ascontiguousarray(pixels).tobytes()
        image = pyvips.Image.new_from_memory(data, width, height, channels, format)
        grey, colour = ("b-w", "srgb") if format == "uchar" else ("grey16", "rgb16")
        image = image.copy(interpretation=colour if channels > 2 else grey)  # pyright: ignore[reportArgumentType, reportUnknownArgumentType] (names are fine)
        if decoded.frames > 1:
            self.notes.append(f"first of {decoded.frames} pages taken")
        self.metadata.update(decoded.metadata)
        self.load = lambda: image
        return self._finish(image)

    def _finish(self, image: pyvips.Image) -> Photo:
        notes, metadata = self.notes, self.metadata
        pages = _get(image, "n-pages", 1)
        frames, delays, loop = 1, list[int](), 0
        orientation = _get(image, "orientation", 1)
        if pages > 1 and self.frames and orientation in (0, 1) and (strip := self._all_frames(image, pages)):
            image, frames = strip, pages
            delays, loop = list(_get(image, "delay", [])), int(_get(image, "loop", 0))
        elif pages > 1:
            notes.append(f"first of {pages} pages taken")
        for name in _METADATA:
            if name not in metadata and (value := _get(image, name, None)):
                metadata[name] = value
        original = image
        image = self._samples(to_rgb(image))
        if image.interpretation != original.interpretation and str(original.interpretation) not in _PLAIN:
            model = str(original.interpretation)
            notes.append(f"{'Lab' if model.startswith('lab') else model.upper()} converted to sRGB")
            metadata.pop("icc-profile-data", None)
            if profile := _get(image, "icc-profile-data", None):
                metadata["icc-profile-data"] = profile
        if image.format not in ("uchar", "ushort") or image.coding != "none":
            raise PhotoError(f"samples are {image.format}; bitsr takes 8-bit and 16-bit integers")
        if image.bands > 4:
            raise PhotoError(f"{image.bands} channels; bitsr takes grey or RGB, with or without alpha")
        wanted = b"GRAY" if image.bands < 3 else b"RGB "
        profile = metadata.get("icc-profile-data", b"")
        if profile and profile[16:20] not in (b"", wanted):
            del metadata["icc-profile-data"]
            notes.append("ICC profile of another colour model dropped")
        tidy(metadata, notes)
        self.turned = orientation not in (0, 1)
        if self.turned:
            # Rotation reads columns: the one case that is held whole.
            image = image.copy_memory().autorot()
        return Photo(
            height=image.height,
            width=image.width,
            channels=image.bands,
            depth=8 if image.format == "uchar" else 16,
            metadata=metadata,
            resolution=(image.xres, image.yres),
            notes=notes,
            _image=image,
            frames=frames,
            delays=delays,
            loop=loop,
            lossless=_lossless_webp(self.data),
            lenient=self.lenient,
            _sources=self.sources,
        )

    def _all_frames(self, image: pyvips.Image, pages: int) -> pyvips.Image | None:
        """Every page, one below the other; None where they differ in size."""
        try:
            strip = self._load(n=-1)
        except pyvips.Error:
            return None
        same = _get(strip, "page-height", 0) == image.height and strip.height == pages * image.height
        return strip if same else None

    def _samples(self, image: pyvips.Image) -> pyvips.Image:
        """Float and 32-bit samples as 16-bit ones."""
        model = "grey16" if image.bands < 3 else "rgb16"
        if image.format in ("float", "double"):
            # By a pass of its own: a sequential image is read once.
            # NaN shows in the sum.
            stats = self.load().stats()
            low, high, total = (stats(x, 0)[0] for x in range(3))
            if np.isnan(total):
                raise PhotoError("float samples that are no numbers")
            top = next((top for top in (1, 255, 65535) if high <= top * 1.001), None)
            if top is None or low < -1e-3 * top:
                raise PhotoError(f"float samples from {low:g} to {high:g}; bitsr takes [0, 1] or [0, 255]")
            self.notes.append(f"float samples in [0, {top}] taken as 16-bit integers")
            return (image * (65535 / top) + 0.5).cast("ushort").copy(interpretation=model)
        if image.format == "uint":
            self.notes.append("32-bit samples reduced to 16")
            return (image >> 16).cast("ushort").copy(interpretation=model)
        return image


_PLAIN = frozenset({"b-w", "srgb", "rgb", "grey16", "rgb16", "multiband", "scrgb"})
"""Interpretations whose change is no conversion of colours."""


def tidy(metadata: dict[str, bytes | str], notes: list[str]) -> None:
    """Metadata in one form whatever the file, without what is no longer true of an upright image."""
    block = metadata.pop("exif-data", None)
    if isinstance(block, bytes):
        iptc = exif.iptc_of(block.removeprefix(b"Exif\0\0"))
        if iptc:
            metadata.setdefault("iptc-data", iptc)
        if block := exif.upright(block):
            metadata["exif-data"] = block
        else:
            notes.append("damaged EXIF dropped")
    iptc = metadata.pop("iptc-data", None)
    if isinstance(iptc, bytes) and (records := png.records(iptc)):
        metadata["iptc-data"] = records
    xmp = metadata.get("xmp-data")
    if isinstance(xmp, bytes):
        metadata["xmp-data"] = _upright_xmp(xmp)


def _upright_xmp(xmp: bytes) -> bytes:
    """XMP without a gain map and a thumbnail, which are not written, and with orientation 1."""
    xmp = re.sub(rb"""\s+hdrgm:\w+\s*=\s*("[^"]*"|'[^']*')""", b"", xmp)
    for name in (rb"hdrgm:\w+", rb"Container:Directory", rb"xmp:Thumbnails"):
        xmp = re.sub(rb"<(" + name + rb")(?:\s[^>]*)?>.*?</\1>", b"", xmp, flags=re.DOTALL)
    xmp = re.sub(rb"""(tiff:Orientation\s*=\s*["'])\d+""", rb"\g<1>1", xmp)
    return re.sub(rb"(<tiff:Orientation>)\d+", rb"\g<1>1", xmp)


def _lossless_webp(data: _Data) -> bool:
    """Whether a file is a WebP with no lossy frame."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return False
    at, found = 12, False
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        if kind == b"VP8 ":
            return False
        found = found or kind == b"VP8L"
        # A frame is its own chunks behind 16 bytes.
        at += 24 if kind == b"ANMF" else 8 + size + size % 2
    return found


def _tiff_facts(data: _Data) -> dict[int, list[int]]:
    """The numbers of a TIFF file's first directory; none where it makes no sense."""
    facts: dict[int, list[int]] = {}
    try:
        tiff = exif.Tiff(data)
        for tag, entry in tiff.directory(tiff.first)[0].items():
            kind = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(entry.type)
            if kind and tag != 0x83BB:
                facts[tag] = list(struct.unpack(f"{tiff.order}{entry.count}{kind}", entry.value))
    except struct.error:
        return {}
    return facts


def _unpacked(data: _Data, facts: dict[int, list[int]], bits: int) -> NDArray[np.uint16]:
    """(H, W, C) samples of 10, 12 or 14 bits, which libvips does not read, spread over 16.

    Raises PhotoError for other layouts than rows of whole pixels, plain or deflated.
    """
    one = {259: 1, 277: 1, 284: 1, 317: 1, 266: 1, 262: 1, 339: 1}
    compression, channels, planar, predictor, fill, photometric, kind = (
        facts.get(tag, [default])[0] for tag, default in one.items()
    )
    width, height = facts.get(256, [0])[0], facts.get(257, [0])[0]
    plain = compression in (1, 8, 32946) and (planar, predictor, fill, kind) == (1, 1, 1, 1)
    if not plain or photometric not in (0, 1, 2) or not 1 <= channels <= 4 or not width or 273 not in facts:
        raise PhotoError(f"{bits}-bit TIFF is read plain or deflated in strips, not in this layout")
    pitch = (width * channels * bits + 7) // 8
    per_strip = min(facts.get(278, [height])[0] or height, height)
    starts, sizes = facts[273], facts.get(279, [])
    short = PhotoError("damaged or cut short: rows are missing")
    # Before memory is taken: a file's bytes make at most a thousand times as many.
    if len(starts) != len(sizes) or len(starts) * per_strip < height or pitch * height > 1100 * len(data):
        raise short
    out = np.empty((height, width * channels), np.uint16)
    for i, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        y = i * per_strip
        rows = min(per_strip, height - y)
        if rows <= 0:
            break
        strip = data[start : start + size]
        if compression != 1:
            try:
                strip = zlib.decompressobj().decompress(strip, rows * pitch)
            except zlib.error:
                raise short from None
        if len(strip) < rows * pitch:
            raise short
        packed = np.frombuffer(strip, np.uint8, rows * pitch).reshape(rows, pitch)
        single = np.unpackbits(packed, axis=1, count=width * channels * bits)
        weights = 1 << np.arange(bits - 1, -1, -1, dtype=np.uint32)
        value = single.reshape(rows, width * channels, bits) @ weights
        value = (value * 65535 + (1 << (bits - 1))) // ((1 << bits) - 1)
        out[y : y + rows] = 65535 - value if photometric == 0 else value
    return out.reshape(height, width, channels)


def to_rgb(image: pyvips.Image) -> pyvips.Image:
    """sRGB of a CMYK, Lab or other device-independent image; any other as it is."""
    if image.interpretation == "cmyk":
        depth = 16 if image.format == "ushort" else 8
        return image.icc_transform("srgb", embedded=True, input_profile="cmyk", depth=depth)
    if image.coding == "labq" or image.interpretation in ("lab", "labs", "lch", "xyz", "yxy", "cmc"):
        return image.colourspace("srgb")
    return image
