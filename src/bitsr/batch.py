"""Many images: what to read and what to write, planned before any work begins, and the work."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from . import names, photo
from .auto import Chooser
from .errors import BitsrError, Cancelled
from .files import Claim, mode_of, naming
from .pipeline import Opened, Settings
from .upscaler import Upscaler

STANDARD = "-"
"""As an input or output: standard input or output."""
_STRIPS_AHEAD = 8
"""That are decoded before the net takes them."""


@dataclass(frozen=True)
class Job:
    """One image: input file, output file, output format (a key of photo.FORMATS).

    folder: whether the output's directory is ours to make; that of an output named as a file must
    exist. stdin, stdout: whether it is read from standard input or written to standard output;
    ``input`` or ``output`` is then a name for people.
    """

    input: Path
    output: Path
    format: str
    folder: bool = False
    stdin: bool = False
    stdout: bool = False

    def make_folder(self) -> None:
        """Make the output's directory where that is ours to do. Raises OSError."""
        if self.folder:
            self.output.parent.mkdir(parents=True, exist_ok=True)


_Input = str | Path


def plan(
    input: _Input | Sequence[_Input],
    output: str | Path | None,
    scale: float = 4,
    *,
    format: str = "auto",
    recursive: bool = False,
    suffix: str | None = None,
    label: str | None = None,
) -> list[Job]:
    """The jobs that a command line asks for, in the order of the inputs, of a folder by name.

    input: a file, a folder, of which every file with an image's suffix is taken (with recursive,
    those of its sub-folders too, mirrored in the output), "-" for standard input, or several of
    them. output: a file, a folder, or "-" for standard output; default NAME_x4.EXT or NAME_x4/
    beside each input. format: "auto" keeps the input's where it can be written, else PNG. suffix:
    what names of outputs get before their last dot; default none in a folder, else "_" and label.
    label: default "x" and scale. Raises OSError for an input that is not there and BitsrError for
    what cannot be meant, such as an output that is an input, or one output of two inputs.
    """
    inputs = [input] if isinstance(input, (str, Path)) else list(input)
    if not inputs:
        raise BitsrError("no input")
    if not all(map(str, inputs)) or (output is not None and not str(output)):
        raise BitsrError("an input or output of no name; the current folder is .")
    format = names.format_named(format)
    if suffix is not None and Path(f"x{suffix}").name != f"x{suffix}":
        raise BitsrError(f"a suffix is a part of a name, not {suffix!r}")
    return _Plan(inputs, output, format, recursive, suffix, label or f"x{scale:g}").jobs()


@dataclass
class _Plan:
    inputs: list[_Input]
    output: str | Path | None
    format: str
    recursive: bool
    suffix: str | None
    label: str

    def jobs(self) -> list[Job]:
        jobs: list[Job] = []
        for input in self.inputs:
            if str(input) == STANDARD:
                jobs.append(self._file(Path("standard input"), stdin=True))
            elif (path := Path(input)).is_dir():
                jobs += self._folder(path)
            else:
                path.stat()  # the system's own words for what is missing
                jobs.append(self._file(path))
        if sum(job.stdin for job in jobs) > 1:
            raise BitsrError("standard input is one image")
        outputs = names.told_apart([(job.input, job.output) for job in jobs])
        jobs = [replace(job, output=output) for job, output in zip(jobs, outputs, strict=True)]
        names.check(
            [(job.input, job.output) for job in jobs if not job.stdout],
            Path.resolve,
            {job.input.resolve() for job in jobs if not job.stdin},
        )
        return jobs

    def _file(self, path: Path, *, stdin: bool = False) -> Job:
        output = self.output
        several = len(self.inputs) > 1
        if output is None:
            if stdin or not path.is_file():
                raise BitsrError(f"{path}: is no file beside which an output could lie; give -o")
            return self._job(path, path, f"_{self.label}" if self.suffix is None else self.suffix)
        if str(output) == STANDARD:
            if several:
                raise BitsrError("standard output takes one image")
            if stdin and self.format == names.AUTO:
                raise BitsrError("standard input has no name that tells a format: give -f")
            format, _ = names.target(path, self.format)
            return Job(path, Path("standard output"), format, stdin=stdin, stdout=True)
        if several or str(output).endswith(("/", "\\")) or Path(output).is_dir():
            if Path(output).exists() and not Path(output).is_dir():
                raise BitsrError(f"{output}: is a file; several inputs want a folder")
            if stdin:
                raise BitsrError("standard input has no name to be written by: give -o a file")
            return self._job(path, Path(output) / path.name, self.suffix or "", folder=True)
        if self.suffix is not None:
            raise BitsrError("--suffix is for names that bitsr makes; -o names this one")
        output = Path(output)
        named = photo.format_of(output)
        if self.format == names.AUTO and named is None:
            raise BitsrError(f"{output}: name it .png, .jpg, .webp or .tif, or give -f")
        if self.format != names.AUTO and named not in (None, self.format):
            raise BitsrError(f"{output}: its suffix says {named}, -f says {self.format}")
        return Job(path, output, named or self.format, stdin=stdin)

    def _job(self, input: Path, like: Path, suffix: str, *, folder: bool = False) -> Job:
        """The job of an input whose output is called as ``like``, but for the suffix and the format."""
        format, ext = names.target(input, self.format)
        return Job(input, like.with_name(like.stem + suffix + ext), format, folder)

    def _folder(self, input: Path) -> list[Job]:
        if self.output is not None and str(self.output) == STANDARD:
            raise BitsrError(f"{input}: is a folder; standard output takes one image")
        output = self._folder_of(input)
        if output.exists() and not output.is_dir():
            raise BitsrError(f"{output}: the input is a folder, so the output must be one")
        inside = output.resolve()
        files = sorted(
            path
            for path in _walk(input, self.recursive)
            if names.is_image(path) and path.is_file()
            # Earlier results are no input.
            if inside == input.resolve() or inside not in path.resolve().parents
        )
        if not files:
            text = f"{input}: no images in this folder" + (
                "" if self.recursive else " (-r takes sub-folders)"
            )
            unread = _passed_over(input, output, self.recursive)
            raise BitsrError(f"{text}; {unread}" if unread else text)
        return [
            self._job(path, output / path.relative_to(input), self.suffix or "", folder=True)
            for path in files
        ]

    def _folder_of(self, input: Path) -> Path:
        return _folder_of(input, self.output, self.label, several=len(self.inputs) > 1)


def _folder_of(input: Path, output: str | Path | None, label: str, *, several: bool = False) -> Path:
    """Where the images of a folder go."""
    whole = input.resolve()
    if output is None:
        return whole.with_name(f"{whole.name}_{label}")
    return Path(output) / whole.name if several else Path(output)


def _walk(folder: Path, recursive: bool) -> Iterable[Path]:
    return folder.rglob("*") if recursive else folder.iterdir()


def passed_over(
    input: _Input,
    output: str | Path | None,
    scale: float = 4,
    recursive: bool = False,
    *,
    label: str | None = None,
) -> str | None:
    """What ``plan`` passes over of a folder, in one line: images of formats that are not read."""
    if str(input) == STANDARD or not Path(input).is_dir():
        return None
    return _passed_over(Path(input), _folder_of(Path(input), output, label or f"x{scale:g}"), recursive)


def _passed_over(input: Path, output: Path, recursive: bool) -> str | None:
    inside = output.resolve()
    return photo.passed_over(
        path
        for path in _walk(input, recursive)
        if not path.name.startswith(".") and path.is_file() and inside not in path.resolve().parents
    )


# ---- The work ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """How a job ended.

    height, width: of the result in pixels, of one frame; 0 where there is none. error: why it
    failed. net: the nets that made it; why: where a photo net was chosen for it, why
    (``auto.faults``). source: (height, width) of the input. seconds: from its first rows in the net
    to the finished file; net_seconds: of these, in which the net was at work. notes: what a user
    should know. skipped: why it was left alone.
    """

    job: Job
    height: int = 0
    width: int = 0
    error: Exception | None = None
    net: str = ""
    why: str = ""
    source: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    net_seconds: float = 0.0
    notes: tuple[str, ...] = ()
    skipped: str = ""


FAILURES = (OSError, ValueError, MemoryError)
"""Errors that are one image's alone."""
OVERWRITE, SKIP, FAIL = "overwrite", "skip", "fail"
"""What becomes of outputs that are there."""


def run(
    jobs: Iterable[Job],
    upscaler: Upscaler | Chooser,
    *,
    settings: Settings | None = None,
    existing: str = OVERWRITE,
    savers: int | None = None,
    dry: bool = False,
    begin: Callable[[Job], object] = lambda job: None,
    progress: Callable[[int, int], object] = lambda done, total: None,
    cancel: Callable[[], bool] = lambda: False,
    note: Callable[[Job, str], object] = lambda job, text: None,
) -> Generator[Result]:
    """Upscale the jobs, and yield in their order how each ended; a failure does not stop the rest.

    While the net is at work on one image, the next ones are decoded, and those before it are encoded
    and written, by threads of their own; the bytes are those of one image after the other. Memory
    is bounded: a few strips of rows wait between two threads.
    settings: how it is done, default ``Settings()``. existing: OVERWRITE, SKIP or FAIL. savers:
    outputs in work at a time; default by the number of CPUs, 2 to 4. dry: open the images and choose
    their nets, but make nothing. begin: called when the net begins with a job. progress: called with
    (rows done, rows in all) of that job. cancel: asked between strips, and twice a second, whether to
    stop. note: called with what a user should know of a job. All are called in the caller's thread. A
    failure is one of FAILURES; others are raised. An image that another process is making is skipped.
    Where ``cancel`` says so, what is finished is still yielded, and Cancelled is raised. Closing the
    generator, or an exception in the caller's thread, ends the threads; what they were making is
    thrown away.
    """
    nets = upscaler if isinstance(upscaler, Chooser) else Chooser(net=upscaler)
    savers = savers or min(4, max(2, (os.cpu_count() or 1) // 2))
    work = _Work(list(jobs), nets, settings or Settings(), existing, savers, dry)
    try:
        work.start()
        yield from work.results(begin, progress, cancel, note)
    finally:
        work.end()


class _Stopped(BaseException):
    """Raised in a thread of a run that is to end."""


class _Pipe:
    """A bounded queue between two threads, which both leave when the run stops."""

    def __init__(self, size: int, stop: threading.Event) -> None:
        self._queue, self._stop = queue.Queue[Any](size), stop

    def put(self, item: Any) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
        raise _Stopped

    def get(self) -> Any:
        while not self._stop.is_set():
            try:
                return self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
        raise _Stopped


class _Image:
    """An image between the threads of a run. failed: set by the net's thread, for the reader to leave
    off. waited: seconds in which the net had no rows."""

    def __init__(self, job: Job) -> None:
        self.job, self.notes = job, list[str]()
        self.failed, self.waited = False, 0.0
        self._held = ExitStack()

    def claim(self) -> bool:
        """Whether nobody else is making the output, which is then ours to make. Raises OSError."""
        claim = Claim(self.job.output)
        try:
            free = claim.take()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.job.output)) from None
        self._held.callback(claim.release)
        return free

    def open(self, nets: Chooser, settings: Settings, note: Callable[[str], object]) -> Opened:
        job = self.job
        source: Path | BinaryIO = job.input
        if job.stdin:  # not sys.stdin, which may have read ahead for text
            stdin = open(0, "rb", closefd=False)  # noqa: SIM115 (the next line)
            source = self._held.enter_context(stdin)
        self.opened = Opened(
            source,
            None if job.stdout else job.output,
            job.format,
            nets,
            settings,
            note,
        )
        self._held.enter_context(self.opened)
        return self.opened

    def release(self) -> None:
        """Give back what is held; more than once does no harm."""
        self._held.close()


class _Work:
    """The threads of a run: ``_read`` -> rows -> ``_enlarge`` -> writers -> ``_finish``."""

    def __init__(
        self, jobs: list[Job], nets: Chooser, settings: Settings, existing: str, savers: int, dry: bool
    ) -> None:
        self.nets, self.settings = nets, settings
        self.existing, self.dry = existing, dry
        self.images = [_Image(job) for job in jobs]
        self.stop = threading.Event()
        self.rows, self.written = _Pipe(_STRIPS_AHEAD, self.stop), _Pipe(savers, self.stop)
        self.slots = threading.Semaphore(savers)
        self.events: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.writers: set[photo.Writer] = set()
        # A reader may wait for a pipe for ever: the process does not wait for it.
        self.threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"bitsr{work.__name__}", daemon=daemon)
            for work, daemon in ((self._read, True), (self._enlarge, False), (self._finish, False))
        ]
        self.reader = self.threads[0]

    def start(self) -> None:
        """Begin. Raises OSError where there is no thread."""
        try:
            for thread in self.threads:
                thread.start()
        except RuntimeError as error:
            raise OSError(f"no thread to work in: {error}") from None

    def results(
        self,
        begin: Callable[[Job], object],
        progress: Callable[[int, int], object],
        cancel: Callable[[], bool],
        note: Callable[[Job, str], object],
    ) -> Iterator[Result]:
        """What happens, in the caller's thread."""
        while True:
            if cancel():
                self.end()
                left = [self.events.get() for _ in range(self.events.qsize())]
                yield from (value for kind, value in left if kind == "result")
                raise Cancelled("cancelled")
            try:
                # Not for ever: on Windows that could not be interrupted.
                kind, value = self.events.get(timeout=0.5)
            except queue.Empty:
                continue
            if kind == "begin":
                begin(value)
            elif kind == "progress":
                progress(*value)
            elif kind == "note":
                note(*value)
            elif kind == "result":
                yield value
            elif kind == "error":
                raise value
            else:
                return

    def end(self) -> None:
        """Stop the threads where they are still at work, and throw away what they were making."""
        self.stop.set()
        for writer in list(self.writers):
            writer.cancel()
        for thread in self.threads:
            if thread.ident:
                thread.join(5 if thread is self.reader else None)
        for writer in list(self.writers):
            writer.__exit__(_Stopped, None, None)
        self.writers.clear()
        for image in self.images:
            image.release()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except _Stopped:
            pass
        except BaseException as error:  # of ours: for the caller's thread
            self.events.put(("error", error))
            self.stop.set()

    # ---- thread 1: claim, open, decode ----

    def _read(self) -> None:
        for image in self.images:
            try:
                result = self._opened(image)
            except FAILURES as error:
                result = self._failed(image, error)
            if result:
                self.rows.put(("result", image, result))
                continue
            self.rows.put(("open", image, None))
            error = None
            try:
                for frame in range(image.opened.frames):
                    for strip in image.opened.strips(frame):
                        if image.failed:
                            break
                        self.rows.put(("rows", image, strip))
            except FAILURES as failure:
                error = failure
            self.rows.put(("end", image, error))
        self.rows.put(None)

    def _opened(self, image: _Image) -> Result | None:
        """Open an image; its result where that is all there is to do."""
        job = image.job
        if not job.stdout:
            there = mode_of(job.output) is not None
            if not there and not self.dry:
                job.make_folder()
            if (there or self.dry) and (skipped := self._left(there, job)):
                return Result(job, skipped=skipped)
            if not self.dry and not image.claim():
                return Result(job, skipped="another run is making it")
            # Whoever had it may have made it.
            if not there and (skipped := self._left(mode_of(job.output) is not None, job)):
                return Result(job, skipped=skipped)

        def note(text: str) -> None:
            image.notes.append(text)
            self.events.put(("note", (job, text)))

        image.open(self.nets, self.settings, note)
        return self._made(image) if self.dry else None

    def _left(self, there: bool, job: Job) -> str:
        if there and self.existing == FAIL:
            raise BitsrError(f"{job.output}: is there")
        return "its output is there" if there and self.existing == SKIP else ""

    # ---- thread 2: the net ----

    def _enlarge(self) -> None:
        while (item := self.rows.get()) is not None:
            kind, image, value = item
            if kind == "result":
                self.written.put((image, None, value))
            elif kind == "open":
                self._enlarge_one(image)
            # else the rest of an image that failed here
        self.written.put(None)

    def _enlarge_one(self, image: _Image) -> None:
        opened = image.opened
        while not self.slots.acquire(timeout=0.1):
            if self.stop.is_set():
                raise _Stopped
        self.events.put(("begin", image.job))
        start, busy, writer = time.perf_counter(), 0.0, None
        try:
            writer = opened.writer(ahead=3)
            writer.__enter__()
            self.writers.add(writer)
            done, total = 0, opened.frames * opened.target[0]
            for _ in range(opened.frames):
                results = opened.enlarged(self._received(image))
                while True:
                    before = time.perf_counter()
                    rows = next(results, None)
                    busy += time.perf_counter() - before
                    if rows is None:
                        break
                    writer.write(rows)
                    done += len(rows)
                    self.events.put(("progress", (done, total)))
        except BaseException as error:
            image.failed = True
            if writer in self.writers:
                self.writers.discard(writer)
                writer.__exit__(type(error), error, error.__traceback__)
            self.slots.release()
            if not isinstance(error, FAILURES):
                raise
            self.written.put((image, None, self._failed(image, error)))
        else:
            made = self._made(image, start, busy - image.waited)  # seconds: when it began, for now
            self.written.put((image, writer, made))

    def _received(self, image: _Image) -> Iterator[NDArray[Any]]:
        """The rows of one frame, as they come."""
        left = image.opened.height
        while left:
            before = time.perf_counter()
            kind, _, value = self.rows.get()
            image.waited += time.perf_counter() - before
            if kind != "rows":
                raise value or BitsrError("damaged or cut short: rows are missing")
            left -= len(value)
            yield value

    # ---- thread 3: what is written is completed ----

    def _finish(self) -> None:
        while (item := self.written.get()) is not None:
            image, writer, result = item
            if writer:
                try:
                    writer.__exit__(None, None, None)
                    if image.job.stdout:
                        with naming("standard output"), open(1, "wb", closefd=False) as stdout:
                            image.opened.deliver(stdout)
                    result = replace(result, seconds=time.perf_counter() - result.seconds)
                except FAILURES as error:
                    result = self._failed(image, error)
                finally:
                    self.writers.discard(writer)
                    self.slots.release()
            image.release()
            self.events.put(("result", result))
        self.events.put(("end", None))

    @staticmethod
    def _failed(image: _Image, error: Exception) -> Result:
        return Result(image.job, error=error, notes=tuple(image.notes))

    @staticmethod
    def _made(image: _Image, seconds: float = 0.0, net_seconds: float = 0.0) -> Result:
        opened = image.opened
        height, width = opened.target
        return Result(
            image.job,
            height,
            width,
            net=", ".join(net.name for net in opened.nets),
            why=opened.why,
            source=(opened.height, opened.width),
            seconds=seconds,
            net_seconds=net_seconds,
            notes=tuple(image.notes),
        )
