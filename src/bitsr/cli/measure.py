"""What measures nets: ``bitsr models``, ``info``, ``evaluate``, ``table`` and ``bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import BitsrError


def models() -> None:
    """List the nets that come with bitsr."""
    from ..zoo import models

    for model in models():
        print(f"{model.name:<24} x{model.scale}  {model.size / 1024:6.0f} KiB")


def info(
    net: Annotated[
        str,
        typer.Argument(help="Name of a net (see `bitsr models`) or recipe, .bsr, checkpoint or recipe file."),
    ],
    card: Annotated[bool, typer.Option("--card", help="The model card of a packed net instead.")] = False,
) -> None:
    """Show a net: metadata, layers, parameters, MACs, OPs and receptive field."""
    from .. import source
    from ..engine import Engine
    from ..eval.card import card as model_card
    from ..eval.card import sections
    from ..eval.complexity import describe
    from ..model_file import ModelFile
    from ..zoo import find

    if card or source.kind(net) == "packed":
        path = find(net)
        data = path.read_bytes()
        try:
            Engine(data, threads=1)  # the judge of what is a sound model
            model = ModelFile.from_bytes(data)
            sections(model)
            print((model_card if card else describe)(model, len(data)), end="")
        except BitsrError as error:
            raise BitsrError(f"{path}: {error}") from None
        return
    try:
        from ..eval import net_complexity as count
    except ImportError as error:
        raise ImportError(f"{error}; what is not packed wants: pip install 'bitsr[train]'") from error
    print(count.describe(net), end="")


def evaluate(
    net: Annotated[str, typer.Argument(help="Name of a net (see `bitsr models`) or .bsr file.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="SETS", help="As --sets.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--sets", help="Test sets: names in --data, or folders. [default: Set5 Set14 B100]"),
    ] = None,
    protocol: Annotated[str, typer.Option("--protocol", help="matlab-y, e2fif, srcnn or rgb.")] = "matlab-y",
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of the sets. [default: $BITSR_DATA, else ../shared/data]"),
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("-x", "--ensemble", help="Mean of 8 flips and rotations: 8 times the work.")
    ] = False,
    degrade: Annotated[
        str | None,
        typer.Option("--degrade", help="Fault added to LR: jpeg90, 75, 60, 40; noise4, 8, 16; blur0.5, 0.8."),
    ] = None,
    per_image: Annotated[bool, typer.Option("--per-image", help="A line for every image, too.")] = False,
    csv: Annotated[Path | None, typer.Option("--csv", help="File for every figure as CSV.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="File for every figure as JSON.")] = None,
    threads: Annotated[int, typer.Option("-j", "--threads", min=0, help="0 is every CPU.")] = 0,
) -> None:
    """Measure PSNR and SSIM of a net on test sets, from its packed bits."""
    from rich.console import Console

    from ..engine import Engine
    from ..eval import protocols
    from ..eval.evaluate import evaluate
    from ..zoo import find

    chosen = protocols.protocol(protocol)
    if degrade:
        chosen = chosen.with_degradation(degrade)
    if ensemble:
        chosen = chosen.with_self_ensemble()
    engine = Engine(find(net), threads=threads or None)
    names = [*(sets or []), *(more or [])] or ["Set5", "Set14", "B100"]
    with Console(stderr=True).status("evaluating") as status:
        evaluation = evaluate(
            engine, names, chosen, data=data, progress=lambda row: status.update(f"{row.set} {row.image}")
        )
    for path, text in ((csv, evaluation.csv), (json, evaluation.json)):
        if path is not None:
            path.write_text(text(), encoding="utf-8")
    print(evaluation.markdown(per_image), end="")


def degrade(
    input: Annotated[Path, typer.Argument(metavar="IN", help="High-resolution image.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Low-resolution PNG to write.")],
    scale: Annotated[int, typer.Option("-s", "--scale", min=1, help="How many times smaller.")] = 4,
    fault: Annotated[
        str | None, typer.Option("--as", help="One fault, as `evaluate --degrade`. [default: as in training]")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another number, another image.")] = 0,
) -> None:
    """Make the degraded low-resolution image that a photo net would be trained on."""
    import pyvips

    from .. import degrade as faults
    from ..eval.evaluate import read_hr
    from ..files import NewFile

    hr = read_hr(input)
    if hr.ndim == 2:
        hr = hr[..., None].repeat(3, axis=2)
    hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
    if not hr.size:
        raise BitsrError(f"{input}: smaller than {scale} pixels")
    if fault is None:
        lr = faults.degrade(hr, scale, [seed])
    else:
        faults.check_setting(fault)
        lr = faults.degrade_as(fault, faults.to_bytes(faults.shrink(hr, scale, "bicubic")), seed)
    with NewFile(output) as new:
        new.file.write(pyvips.Image.new_from_array(lr).pngsave_buffer())


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
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of every recipe; repeatable."),
    ] = None,
    protocol: Annotated[str, typer.Option("--protocol", help="matlab-y, e2fif, srcnn or rgb.")] = "matlab-y",
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of the sets. [default: $BITSR_DATA, else ../shared/data]"),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="HR images to calibrate with, as in `bitsr pack`.")
    ] = None,
    pictures: Annotated[Path | None, typer.Option("--pictures", hidden=True)] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or auto.")] = "auto",
    threads: Annotated[int, typer.Option("-j", "--threads", min=0, help="Of the CPU, 0 automatic.")] = 0,
) -> None:
    """Compare nets, trained under one budget or loaded, with each other and with published figures.

    The same command goes on where it was stopped; table.md and table.csv grow in FOLDER.
    """
    from rich.console import Console

    try:
        from ..eval.table import FAILED, compare
    except ImportError as error:
        raise ImportError(f"{error}; the table wants: pip install 'bitsr[train]'") from error

    with Console(stderr=True).status("") as status:
        made = compare(
            sources,
            output,
            sets=sets.split(","),
            protocol=protocol,
            budget=budget,
            assignments=assignments or (),
            data=data,
            images=images or pictures,
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
        int, typer.Option("-j", "--threads", min=0, help="Most threads to try, 0 every CPU.")
    ] = 0,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Runs of which the median counts.")] = 5,
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
