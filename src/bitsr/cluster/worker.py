"""The work on one image, wherever it is done."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass

from .. import batch
from ..auto import Chooser
from ..errors import reason
from ..upscaler import Upscaler
from .plan import FOLDER, Task
from .stores import store


@dataclass(frozen=True)
class Options:
    """How images are upscaled, as in ``upscaler.upscale``."""

    quality: int = 95
    ensemble: bool = False
    rgb: bool = False
    first: bool = False
    allow_damaged: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one image.

    name, input, size, tag: of its Task. output: its place. width, height: SR pixels, of one frame.
    output_bytes: size of the output. net: name of the net. seconds: from its first byte read to its
    last byte written. notes: what a user should know, joined by "; ". error: one line, "" where the
    output was made; then the numbers are 0.
    """

    name: str
    input: str
    output: str
    size: int
    tag: str
    width: int = 0
    height: int = 0
    output_bytes: int = 0
    net: str = ""
    seconds: float = 0.0
    notes: str = ""
    error: str = ""


def failed(task: Task, error: str, seconds: float = 0.0) -> Row:
    """The row of an image without an output."""
    return Row(task.name, task.input, task.output, task.size, task.tag, seconds=seconds, error=error)


class Worker:
    """Upscales images, one after another. A pickle of it works in another process.

    upscaler: a net or a chooser of nets. output: the batch's output folder.
    """

    def __init__(self, upscaler: Upscaler | Chooser, options: Options, output: str) -> None:
        self.upscaler, self.options, self.output = upscaler, options, output

    def made_by(self) -> str:
        """A short hash of the nets, the scale and options: outputs are made anew where it is another."""
        upscaler = self.upscaler
        nets = (upscaler.clean, upscaler.photo) if isinstance(upscaler, Chooser) else (upscaler,)
        # x2 and x8 begin with the same net.
        what = [[net.engine.sha256 for net in nets if net], float(upscaler.scale), asdict(self.options)]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    def __call__(self, task: Task) -> Row:
        """Upscale one image. No error of it is raised."""
        start = time.perf_counter()
        notes: list[str] = []
        names: dict[str, str] = {}
        try:
            parts = f"{self.output}/{FOLDER}/parts"
            with (
                store(task.input).fetched(task.input) as source,
                store(task.output).created(task.output, parts) as part,
            ):
                names.update({str(source): task.input, str(part): task.output})
                job = batch.Job(source, part, task.format)
                (result,) = batch.run(
                    [job], self.upscaler, **asdict(self.options), note=lambda job, text: notes.append(text)
                )
                if result.error:
                    raise result.error
                size = part.stat().st_size
        except Exception as error:  # also what the packages of a store raise
            text = " ".join(reason(error).split()) or type(error).__name__
            for local, place in names.items():
                text = text.replace(local, place)
            text = text if text.startswith((task.input, task.output)) else f"{task.input}: {text}"
            return failed(task, text, time.perf_counter() - start)
        return Row(
            task.name,
            task.input,
            task.output,
            task.size,
            task.tag,
            width=result.width,
            height=result.height,
            output_bytes=size,
            net=result.net,
            seconds=time.perf_counter() - start,
            notes="; ".join(notes),
        )
