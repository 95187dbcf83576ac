"""``python -m bench NAME``: see bench/README.md."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from bitsr.errors import BitsrError

from .task import ROOT, Task


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    try:
        return int(width), int(height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a size is WIDTHxHEIGHT, such as 320x180, not {text!r}") from None


def race(args: argparse.Namespace) -> None:
    from .race import markdown, plot, race, write_csv

    args.out.mkdir(parents=True, exist_ok=True)
    for width, height in args.lr:
        models = str(args.models.resolve()) if args.models else None
        cache = str(args.cache.resolve())
        task = Task(width, height, args.scale, cache=cache, net=args.net, cpu=args.cpu, models=models)
        result = race(task, args.threads, args.rounds, args.only, args.pause, say)
        if not result.entries:
            raise RuntimeError("no contender ran")
        name = args.out / f"{'restorers-' if models else ''}x{args.scale}-{width}x{height}"
        write_csv(result, name.with_suffix(".csv"))
        text = markdown(result)
        name.with_suffix(".md").write_text(text)
        if importlib.util.find_spec("matplotlib"):
            plot(result, name.with_suffix(".png"))
        else:
            say("no plot: matplotlib is not installed")
        print(text)


def kernel(args: argparse.Namespace) -> None:
    from .kernel import report

    print(report(args.rounds))


def sizes(args: argparse.Namespace) -> None:
    from .sizes import report

    print(report(args.lr, args.threads, args.rounds))


def colour(args: argparse.Namespace) -> None:
    from .colour import report

    print(report(args.net, args.lr, args.rounds))


def memory(args: argparse.Namespace) -> None:
    from .memory import report

    print(report(args.photo, args.scale, args.net, args.formats))


def batch(args: argparse.Namespace) -> None:
    from .batch import report

    for line in report(args.images, args.lr, args.net, args.rounds, args.workers, args.growth):
        print(line, flush=True)


def folder(args: argparse.Namespace) -> None:
    from .folder import report

    print(report(args.images, args.net, args.formats, args.threads, args.rounds))


def browser(args: argparse.Namespace) -> None:
    from .browser import report

    print(report(args.lr, args.net, args.scale, args.rounds))


def crops(args: argparse.Namespace) -> None:
    from .crops import page

    print(page(args.nets, args.sets, args.out, args.side))


def faults(args: argparse.Namespace) -> None:
    from .faults import EVERY, report

    if unknown := set(args.faults or ()) - set(EVERY):
        raise RuntimeError(f"unknown fault {min(unknown)}; known: {', '.join(EVERY)}")
    print(report(args.nets, args.sets, args.faults or EVERY))


def response(args: argparse.Namespace) -> None:
    from .response import report

    print(report(args.nets))


def sheet(args: argparse.Namespace) -> None:
    from .sheet import write

    print(*write(args.folder, args.nets, args.out, args.side, args.zoom, args.format), sep="\n")


def pareto(args: argparse.Namespace) -> None:
    from .pareto import pareto

    task = Task(*args.lr, threads=args.threads)
    print(pareto(args.nets, args.sets, task, args.rounds, args.pause, args.out).read_text())


def train(args: argparse.Namespace) -> None:
    from .train import report

    print(report(args.recipe, args.set, args.threads, args.rounds))


def wasm(args: argparse.Namespace) -> None:
    from .wasm import report

    print(report(args.rounds))


def video(args: argparse.Namespace) -> None:
    from . import video

    if args.what == "speed":
        print(video.speed(args.lr, args.scales, args.threads, args.frames, args.rounds))
    elif args.what == "reuse":
        print(video.reuse(args.lr, args.net, args.frames, args.rounds))
    elif args.what == "nets":
        print(video.nets(args.images))
    else:
        print(video.memory([args.frames, 4 * args.frames, 16 * args.frames]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    p = commands.add_parser("race", help="all contenders side by side (the default)")
    p.add_argument(
        "--lr", type=size, nargs="+", default=[(320, 180)], metavar="WxH", help="LR sizes (320x180)"
    )
    p.add_argument("--scale", type=int, default=4, choices=(2, 3, 4))
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument(
        "--only", nargs="+", default=["*"], metavar="PATTERN", help="names, such as 'bitsr*' '*int8*'"
    )
    p.add_argument("--pause", type=float, default=0.3, help="seconds of rest before each measurement")
    p.add_argument("--net", help="a .bsr file for bitsr in place of random weights; it sets no scale")
    p.add_argument("--cpu", action="store_true", help="seconds of CPU, for a busy machine and one thread")
    p.add_argument("--models", type=Path, help="folder of ncnn's restorers: they race against the photo net")
    p.add_argument("--out", type=Path, default=ROOT / "build" / "bench" / "results")
    p.add_argument("--cache", type=Path, default=ROOT / "build" / "bench", help="folder of exported nets")
    p.set_defaults(run=race)
    p = commands.add_parser("kernel", help="the machine's ceilings and the engine's share of them")
    p.add_argument("--rounds", type=int, default=5)
    p.set_defaults(run=kernel)
    p = commands.add_parser("sizes", help="time of a pixel against the image's size")
    p.add_argument(
        "--lr", type=size, nargs="+", default=[(320, 180), (960, 540), (1920, 1080)], metavar="WxH"
    )
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    p.add_argument("--rounds", type=int, default=3)
    p.set_defaults(run=sizes)
    p = commands.add_parser("colour", help="what colour costs beside a net")
    p.add_argument("net", nargs="?", default="bitsr-s-x4", help="name or .bsr file (bitsr-s-x4)")
    p.add_argument("--lr", type=size, default=(320, 180), metavar="WxH")
    p.add_argument("--rounds", type=int, default=15)
    p.set_defaults(run=colour)
    p = commands.add_parser("memory", help="peak memory of upscaling one photo through the command line")
    p.add_argument("--photo", type=size, default=(6000, 4000), metavar="WxH", help="photo size (6000x4000)")
    p.add_argument("--scale", type=int, default=4, choices=(2, 3, 4))
    p.add_argument("--net", help="a .bsr file of that scale in place of random weights")
    p.add_argument("--formats", nargs="+", default=["jpg", "png"], metavar="EXT")
    p.set_defaults(run=memory)
    p = commands.add_parser("batch", help="many small images: processes and Ray beside one process")
    p.add_argument("--images", type=int, default=200)
    p.add_argument("--lr", type=size, default=(96, 96), metavar="WxH", help="size of an image (96x96)")
    p.add_argument("--net", help="a net of x4 in place of a random one of one block")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    p.add_argument("--growth", type=int, default=5000, help="images over which memory is watched; 0: not")
    p.set_defaults(run=batch)
    p = commands.add_parser("folder", help="a folder of images against the time of the net alone")
    p.add_argument("--images", type=int, default=200, help="how many (200)")
    p.add_argument("--net", default="bitsr-m-x2", metavar="NET", help="name or .bsr file (bitsr-m-x2)")
    p.add_argument("--formats", nargs="+", default=["jpg", "png"], metavar="EXT")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--rounds", type=int, default=3)
    p.set_defaults(run=folder)
    p = commands.add_parser("browser", help="the page in Chromium: seconds beside native, memory of the tab")
    p.add_argument("--lr", type=size, nargs="+", default=[(1000, 1000)], metavar="WxH")
    p.add_argument("--net", default="bitsr-m", help="a family of nets (bitsr-m)")
    p.add_argument("--scale", type=int, default=4, choices=(2, 3, 4))
    p.add_argument("--rounds", type=int, default=3)
    p.set_defaults(run=browser)
    p = commands.add_parser("crops", help="a page of crops: bicubic, nets, ground truth")
    p.add_argument("nets", nargs="+", metavar="NET", help="names or .bsr files of one scale")
    p.add_argument("--sets", nargs="+", default=["Set5", "Set14"], metavar="SET")
    p.add_argument("--side", type=int, default=120, help="of a crop, HR pixels (120)")
    p.add_argument("--out", type=Path, default=ROOT / "build" / "bench" / "crops")
    p.set_defaults(run=crops)
    p = commands.add_parser("faults", help="nets and bicubic on degraded LR images: a table by fault")
    p.add_argument("nets", nargs="+", metavar="NET", help="names or .bsr files of one scale")
    p.add_argument("--sets", nargs="+", default=["valid"], metavar="SET")
    p.add_argument("--faults", nargs="+", metavar="FAULT", help="as `bitsr evaluate --degrade`, or clean")
    p.set_defaults(run=faults)
    p = commands.add_parser("response", help="what nets make of noise on grey and of a straight edge")
    p.add_argument("nets", nargs="+", metavar="NET", help="names or .bsr files")
    p.set_defaults(run=response)
    p = commands.add_parser("sheet", help="crops of images as they are: bicubic and nets, side by side")
    p.add_argument("folder", type=Path, help="of images, which are enlarged")
    p.add_argument("nets", nargs="+", metavar="NET", help="names or .bsr files of one scale")
    p.add_argument("--side", type=int, default=48, help="of a crop, pixels of the small image (48)")
    p.add_argument("--zoom", type=int, default=2, help="of the enlarged pixels (2: 200 %%)")
    p.add_argument("--format", default="png", choices=("png", "jpg"))
    p.add_argument("--out", type=Path, default=ROOT / "build" / "bench" / "sheet")
    p.set_defaults(run=sheet)
    p = commands.add_parser("pareto", help="quality against time: packed nets and small float nets")
    p.add_argument("nets", nargs="+", metavar="NET", help="names, .bsr files, .onnx files of one scale")
    p.add_argument("--sets", nargs="+", default=["Set5", "Set14", "B100"], metavar="SET")
    p.add_argument("--lr", type=size, default=(320, 180), metavar="WxH")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--pause", type=float, default=0.3, help="seconds of rest before each measurement")
    p.add_argument("--out", type=Path, default=ROOT / "build" / "bench" / "pareto")
    p.set_defaults(run=pareto)
    p = commands.add_parser("train", help="iterations a second of the ways to train on a CPU")
    p.add_argument("recipe", nargs="?", default="ranking-x4", help="ranking-x4")
    p.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="as for bitsr train")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--rounds", type=int, default=7)
    p.set_defaults(run=train)
    p = commands.add_parser("wasm", help="the engine as WebAssembly against the native one")
    p.add_argument("--rounds", type=int, default=9)
    p.set_defaults(run=wasm)
    p = commands.add_parser("video", help="video: speed, unchanged regions, nets on compressed clips, memory")
    p.add_argument("what", nargs="?", default="speed", choices=("speed", "reuse", "nets", "memory"))
    p.add_argument("--lr", type=size, nargs="+", default=[(320, 180), (640, 360), (1280, 720)], metavar="WxH")
    p.add_argument("--scales", type=int, nargs="+", default=[2, 4])
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    p.add_argument("--frames", type=int, default=50)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--net", default="bitsr-m-x2", help="for reuse")
    p.add_argument("--images", type=Path, help="folder of clean images, for nets")
    p.set_defaults(run=video)
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["race", *arguments]
    args = parser.parse_args(arguments)
    try:
        args.run(args)
    except (RuntimeError, BitsrError, OSError) as e:
        raise SystemExit(f"bench: {e}") from None


if __name__ == "__main__":
    main()
