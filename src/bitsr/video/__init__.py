"""Video: ``upscale`` a clip into another, or take its upscaled ``frames`` one by one.

FFmpeg reads and writes, by PyAV (extra ``video``), which is imported when it is first needed.
"""

from .run import Frame, Progress, Result, frames, upscale

__all__ = ["Frame", "Progress", "Result", "frames", "upscale"]
