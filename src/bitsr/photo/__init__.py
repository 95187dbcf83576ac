"""Image files in and out, by rows. Nothing else in bitsr knows formats.

An image is never held whole where its format allows it: libvips decodes rows as they are asked for,
and encodes them as they come, so memory follows the width. Pixels are (rows, W, C) uint8 or uint16;
C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha. They are passed on as stored, with their ICC
profile beside them.
"""

from .formats import ANIMATED, FORMATS, SUFFIXES, PhotoError, format_of, passed_over
from .read import Photo, read
from .whole import read_whole
from .write import Encoding, Writer, colours_of, lost

__all__ = [
    "ANIMATED",
    "FORMATS",
    "SUFFIXES",
    "Encoding",
    "Photo",
    "PhotoError",
    "Writer",
    "colours_of",
    "format_of",
    "lost",
    "passed_over",
    "read",
    "read_whole",
]
