"""What shows and measures nets: ``bitsr models``, ``recipes``, ``info``, ``evaluate``, ``table`` and
``bench``; and what makes LR images, ``shrink`` and ``degrade``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import BitsrError

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    """A table on stdout; columns named in ``right`` hold numbers. In a pipe no line is broken."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, justify="right" if head in right else "left", no_wrap=head != heads[-1])
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(highlight=False)
    Console(highlight=False, width=None if console.is_terminal else 240).print(table)


def _print_json(content: Any) -> None:
    import json

    print(json.dumps(content, indent=2))


def models(json: Json = False) -> None:
    """List the nets that come with bitsr: scale, size, quality, time, and what each is for."""
    from ..eval.about import overview

    nets = overview()
    if json:
        return _print_json(nets)
    rows = [
        (
            net["name"],
            f"x{net['scale']}",
            f"{net['bytes'] / 1024:.0f}",
            f"{net['set5']:.2f}" if net["set5"] else "",
            net["time"] or "",
            net["use"] or "",
        )
        for net in nets
    ]
    _print_table(("net", "scale", "KiB", "Set5 dB", "time", "for"), rows, ("KiB", "Set5 dB", "time"))
    print("\nSet5: PSNR of luma. Time: beside bitsr-m of the same scale; `bitsr bench NET` measures it here.")


def recipes(json: Json = False) -> None:
    """List the packaged recipes: scale, length, work, and what each trains."""
    from rich.console import Console

    try:
        from ..eval.recipes import UNIT, listing
    except ImportError as error:
        raise ImportError(f"{error}; recipes want: pip install 'bitsr[train]'") from error

    with Console(stderr=True).status("counting"):
        found = listing()
    if json:
        return _print_json(found)
    rows = [
        (
            r["name"],
            f"x{r['scale']}",
            f"{r['iterations']:,}",
            f"{r['batch']} x {r['patch']}",
            f"{r['work']:.1f}" if r["work"] < 10 else f"{r['work']:,.0f}",
            r["about"],
        )
        for r in found
    ]
    heads = ("recipe", "scale", "iterations", "batch x patch", "work", "what it trains")
    _print_table(heads, rows, ("iterations", "work"))
    print(
        f"\nWork: multiply-accumulates of the training beside those of {UNIT}, which took 45 minutes on one"
        " Zen 3 core (docs/training.md). Recipes for a GPU want one."
    )


def info(
    net: Annotated[
        str,
        typer.Argument(help="Name of a net (see `bitsr models`) or recipe, .bsr, checkpoint or recipe file."),
    ],
    card: Annotated[bool, typer.Option("--card", help="The model card of a packed net instead.")] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Every layer instead: sizes, MACs, OPs.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Everything, as JSON instead.")] = False,
) -> None:
    """Show a net: what it is for, its size, speed, figures, and what made it."""
    from .. import source
    from ..engine import Engine
    from ..eval import about
    from ..eval.card import card as model_card
    from ..eval.card import sections
    from ..eval.complexity import packed_report
    from ..model_file import ModelFile
    from ..zoo import find

    if card + layers + json > 1:
        raise BitsrError("--card, --layers and --json: one of them is wanted")

    if card or source.kind(net) == "packed":
        path = find(net)
        data = path.read_bytes()
        try:
            Engine(data, threads=1)  # the judge of what is a sound model
            model = ModelFile.from_bytes(data)
            sections(model)
            if layers:
                text = packed_report(model)
            else:
                tell = model_card if card else about.everything if json else about.describe
                text = tell(model, len(data))
        except BitsrError as error:
            raise BitsrError(f"{path}: {error}") from None
        print(text, end="")
        return
    try:
        from ..eval import net_complexity as count
    except ImportError as error:
        raise ImportError(f"{error}; what is not packed wants: pip install 'bitsr[train]'") from error
    read = count.read(net)
    print(read.layers() if layers else read.everything() if json else read.describe(), end="")


def evaluate(
    net: Annotated[str, typer.Argument(help="Name of a net (see `bitsr models`), .bsr file, or checkpoint.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="SETS", help="As --sets.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--sets", help="Test sets: names in --data, or folders. Default: Set5 Set14 B100."),
    ] = None,
    protocol: Annotated[str, typer.Option("--protocol", help="matlab-y, e2fif, srcnn or rgb.")] = "matlab-y",
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of the sets. Default: $BITSR_DATA, else ../shared/data."),
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("-x", "--ensemble", help="Mean of 8 flips and rotations: 8 times the work.")
    ] = False,
    degrade: Annotated[
        str | None,
        typer.Option(
            "--degrade", help="Fault added to LR: jpeg90, 75, 60 or 40; noise4, 8 or 16; blur0.5 or 0.8."
        ),
    ] = None,
    per_image: Annotated[bool, typer.Option("--per-image", help="Add a line for every image.")] = False,
    csv: Annotated[Path | None, typer.Option("--csv", help="File for every figure as CSV.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="File for every figure as JSON.")] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="DIR", help="Folder for the SR images as PNG."),
    ] = None,
    threads: Annotated[int, typer.Option("-j", "--threads", min=0, help="Threads; 0 is every CPU.")] = 0,
) -> None:
    """Measure PSNR and SSIM of a net on test sets, from its packed bits.

    A checkpoint is measured by its float simulation, which is slower: pack it for the figures of its
    bits.
    """
    from rich.console import Console

    from .. import source
    from ..engine import Engine
    from ..eval import protocols
    from ..eval.evaluate import evaluate
    from ..files import NewFile
    from ..zoo import find

    chosen = protocols.protocol(protocol)
    if degrade:
        chosen = chosen.with_degradation(degrade)
    if ensemble:
        chosen = chosen.with_self_ensemble()
    if source.kind(net) == "checkpoint":
        measured = _simulation(net, threads)
    else:
        measured = Engine(find(net), threads=threads or None)
    names = [*(sets or []), *(more or [])] or ["Set5", "Set14", "B100"]
    with Console(stderr=True).status("evaluating") as status:
        evaluation = evaluate(
            measured,
            names,
            chosen,
            data=data,
            progress=lambda row: status.update(f"{row.set} {row.image}"),
            save=save,
        )
    for path, text in ((csv, evaluation.csv), (json, evaluation.json)):
        if path is not None:
            with NewFile(path) as new:
                new.file.write(text().encode())
    print(evaluation.markdown(per_image), end="")


def _simulation(checkpoint: str, threads: int) -> Any:
    try:
        import torch

        from ..eval.simulation import simulation
    except ImportError as error:
        raise ImportError(f"{error}; what is not packed wants: pip install 'bitsr[train]'") from error
    if threads:
        torch.set_num_threads(threads)
    return simulation(checkpoint)


def _outputs(input: Path, output: Path) -> list[tuple[Path, Path]]:
    """(image, PNG to write) of a file, or of every image of a folder. Raises BitsrError before any
    work where names clash or an output would replace its input."""
    from ..folders import image_files

    if input.is_dir():
        pairs = [(path, output / f"{path.stem}.png") for path in image_files(input)]
        if not pairs:
            raise BitsrError(f"{input}: no images")
    elif output.is_dir():
        pairs = [(input, output / f"{input.stem}.png")]
    elif output.suffix.lower() != ".png":
        raise BitsrError(f"{output}: a PNG is written, so its name ends in .png")
    else:
        pairs = [(input, output)]
    seen: dict[Path, Path] = {}
    for path, place in pairs:
        if place.resolve() == path.resolve():
            raise BitsrError(f"{place}: would replace the image that it is made of")
        if (other := seen.setdefault(place, path)) != path:
            raise BitsrError(f"{path}: {other.name} goes to {place} too")
    return pairs


def _cropped(path: Path, scale: int) -> Any:
    """An 8-bit HR image without what is beyond a multiple of the scale."""
    from ..eval.evaluate import read_hr

    hr = read_hr(path)
    hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
    if not hr.size:
        raise BitsrError(f"{path}: smaller than {scale} pixels")
    return hr


def shrink(
    input: Annotated[Path, typer.Argument(metavar="SRC", help="High-resolution image, or folder.")],
    output: Annotated[Path, typer.Argument(metavar="DST", help="PNG to write, or folder of PNGs.")],
    scale: Annotated[int, typer.Option("-s", "--scale", min=2, help="How many times smaller.")] = 4,
) -> None:
    """Make low-resolution images by the protocol: MATLAB's bicubic, antialiased, 8 bit."""
    from fractions import Fraction

    from ..eval.evaluate import save_png
    from ..imresize import imresize
    from . import say

    pairs = _outputs(input, output)
    for path, place in pairs:
        save_png(place, imresize(_cropped(path, scale), Fraction(1, scale)))
    say(f"{output}: {len(pairs)} {'image' if len(pairs) == 1 else 'images'}")


def degrade(
    input: Annotated[Path, typer.Argument(metavar="IN", help="High-resolution image, or folder.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Low-resolution PNG to write, or folder.")],
    scale: Annotated[int, typer.Option("-s", "--scale", min=1, help="How many times smaller.")] = 4,
    fault: Annotated[
        str | None, typer.Option("--as", help="One fault, as `evaluate --degrade`. Default: as in training.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the random faults.")] = 0,
) -> None:
    """Make the degraded low-resolution image that a photo net would be trained on."""
    from .. import degrade as faults
    from ..eval.evaluate import save_png

    if fault is not None:
        faults.check_setting(fault)
    for index, (path, place) in enumerate(_outputs(input, output)):
        hr = _cropped(path, scale)
        if hr.ndim == 2:
            hr = hr[..., None].repeat(3, axis=2)
        if fault is None:  # each image of a folder has faults of its own
            lr = faults.degrade(hr, scale, [seed, index] if index else [seed])
        else:
            lr = faults.degrade_as(fault, faults.to_bytes(faults.shrink(hr, scale, "bicubic")), seed + index)
        save_png(place, lr)


def table(
    sources: Annotated[
        list[str], typer.Argument(metavar="NET...", help="Recipes, checkpoints, packed nets: names or files.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Folder of the runs and of the table.")
    ],
    sets: Annotated[
        str, typer.Option("--sets", metavar="SET,SET...", help="Test sets: names in --data, or folders.")
    ] = "Set5,Set14,B100",
    budget: Annotated[
        str | None,
        typer.Option("--train", metavar="N|Nm", help="Train each recipe N iterations, or N minutes a call."),
    ] = None,
    rates: Annotated[
        str,
        typer.Option(
            "--rates",
            metavar="F,F...",
            help="Factors of the learning rate: each recipe is trained with each, the best on validation counts.",
        ),
    ] = "1",
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of every recipe; repeatable."),
    ] = None,
    protocol: Annotated[str, typer.Option("--protocol", help="matlab-y, e2fif, srcnn or rgb.")] = "matlab-y",
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of the sets. Default: $BITSR_DATA, else ../shared/data."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="HR images to calibrate with, as in `bitsr pack`.")
    ] = None,
    pictures: Annotated[Path | None, typer.Option("--pictures", hidden=True)] = None,
    most: Annotated[
        int | None,
        typer.Option(
            "--calibrate", metavar="N", min=1, help="Calibrate with N of these images; default all."
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or auto.")] = "auto",
    threads: Annotated[
        int, typer.Option("-j", "--threads", min=0, help="Threads of the CPU; 0 is automatic.")
    ] = 0,
) -> None:
    """Compare nets, trained under one budget or loaded, with each other and with published figures.

    The same command goes on where it was stopped; table.md and table.csv grow in FOLDER.
    """
    from rich.console import Console

    try:
        from ..eval.table import FAILED, compare, parse_rates
    except ImportError as error:
        raise ImportError(f"{error}; the table wants: pip install 'bitsr[train]'") from error

    with Console(stderr=True).status("") as status:
        made = compare(
            sources,
            output,
            sets=sets.split(","),
            protocol=protocol,
            budget=budget,
            rates=parse_rates(rates),
            assignments=assignments or (),
            data=data,
            images=images or pictures,
            most=most,
            device=device,
            threads=threads or None,
            report=lambda name, iteration, row: status.update(f"{name}: iteration {iteration}"),
        )
    print(made.markdown(), end="")
    if made.signal:
        raise typer.Exit(128 + made.signal)
    if any(row.how == FAILED for row in made.rows):
        raise typer.Exit(1)


def bench(
    net: Annotated[
        str, typer.Argument(help="Name of a net (see `bitsr models`) or .bsr file.")
    ] = "bitsr-m-x4",
    size: Annotated[str, typer.Option("--size", help="LR image, WIDTHxHEIGHT.")] = "320x180",
    threads: Annotated[
        int, typer.Option("-j", "--threads", min=0, help="Most threads to try; 0 is every CPU.")
    ] = 0,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Runs; the median counts.")] = 5,
) -> None:
    """Measure a net's speed on this machine: every path of the engine, one thread to all."""
    from ..eval import speed
    from ..model_file import ModelFile
    from ..zoo import find

    width, _, height = size.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise BitsrError(f"--size wants WIDTHxHEIGHT, such as 320x180, not {size!r}")
    model = ModelFile.read(find(net))
    timings = speed.measure(
        model, width=int(width), height=int(height), threads=threads or None, rounds=rounds
    )
    print(f"{model.name}, x{model.scale}, LR {width}x{height}, median of {rounds}\n")
    print(speed.speed_table(timings), end="")
    print(f"\n{speed.sentence(timings, model.scale)}")
