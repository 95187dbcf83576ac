"""The work on one image, wherever it is done."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace

from .. import pipeline
from ..auto import Chooser
from ..errors import reason
from ..pipeline import Opened, Settings
from .plan import FOLDER, Task
from .stores import store


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one image.

    name, input, size, tag: of its Task. output: its place. width, height: SR pixels, of one frame.
    output_bytes: size of the output. net: names of the nets. seconds: from its first byte read to its
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

    nets: what images get. settings: how they are upscaled. output: the batch's output folder.
    """

    def __init__(self, nets: Chooser, settings: Settings, output: str) -> None:
        self.nets, self.settings, self.output = nets, settings, output

    def made_by(self) -> str:
        """A short hash of the nets, the scale and the settings: outputs are made anew where it is
        another."""
        nets = [net.engine.sha256 for net in self.nets.every(self.settings.size)]
        settings = replace(self.settings, tile=0)  # no byte depends on it
        what = [nets, float(self.nets.scale), asdict(settings)]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    def __call__(self, task: Task) -> Row:
        """Upscale one image. No error of it is raised."""
        start = time.perf_counter()
        notes: list[str] = []
        local: dict[str, str] = {}
        try:
            parts = f"{self.output}/{FOLDER}/parts"
            with (
                store(task.input).fetched(task.input) as source,
                store(task.output).created(task.output, parts) as part,
            ):
                local.update({str(source): task.input, str(part): task.output})
                with Opened(source, part, task.format, self.nets, self.settings, notes.append) as image:
                    pipeline.upscale(image)
                size = part.stat().st_size
        except Exception as error:  # also what the packages of a store raise
            text = " ".join(reason(error).split()) or type(error).__name__
            for path, place in local.items():
                text = text.replace(path, place)
            text = text if text.startswith((task.input, task.output)) else f"{task.input}: {text}"
            return failed(task, text, time.perf_counter() - start)
        height, width = image.target
        return Row(
            task.name,
            task.input,
            task.output,
            task.size,
            task.tag,
            width=width,
            height=height,
            output_bytes=size,
            net=", ".join(net.name for net in image.nets),
            seconds=time.perf_counter() - start,
            notes="; ".join(notes),
        )
