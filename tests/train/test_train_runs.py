"""Runs as people have them: ready LR images, runs made longer, large batches in parts, the first seconds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")

from lightning_fabric import Fabric
from test_train import images, log, losses, make

from bitsr.cli.main import main
from bitsr.eval.evaluate import save_png
from bitsr.eval.metrics import rgb_to_y
from bitsr.imresize import imresize
from bitsr.train import checkpoint, run
from bitsr.train.build import build
from bitsr.train.data import DataError, find_pairs
from bitsr.train.recipe import RecipeError
from bitsr.train.run import load_data, train
from bitsr.train.trainer import Trainer, TrainError

__all__ = ["images"]  # a fixture


def noise(seed: int, h: int, w: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


# LR images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["b.png", "bx2.png", "b_LR2.png", "b_lr.png"])
def test_lr_of_a_folder_is_what_is_trained_on(tmp_path: Path, name: str) -> None:
    save_png(tmp_path / "mine/sharp" / ("b.png" if "_" not in name else "b_HR.png"), noise(0, 34, 42))
    save_png(tmp_path / "mine/phone" / name, lr := noise(1, 17, 21))
    save_png(tmp_path / "valid/v.png", noise(2, 40, 40))
    changes = {"data__root": str(tmp_path), "data__train": ["mine/sharp"], "data__lr": ["mine/phone"]}
    said: list[str] = []
    crops, valid = load_data(make(**changes), torch.device("cpu"), say=said.append)
    np.testing.assert_allclose(crops.pairs.image(0)[0].numpy(), rgb_to_y(lr), atol=1 / 256)
    assert said[0] == f"LR images: {tmp_path / 'mine/phone'}"
    assert any("validation runs on LR images by bicubic" in line for line in said)
    np.testing.assert_allclose(
        valid.image(0)[0].numpy(), rgb_to_y(imresize(noise(2, 40, 40), 1 / 2)), atol=1 / 256
    )


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("HR", "LR"),
        ("train/HR", "train/LR"),
        ("HR/train", "LR/train"),
        ("train_HR", "train_LR_unknown/X2"),
        ("GT", "LRbicx2"),
        ("GT", "lq"),
        ("photos", "photos/lowres"),
    ],
)
def test_lr_that_is_not_used_is_said(tmp_path: Path, hr: str, lr: str) -> None:
    save_png(tmp_path / hr / "a.png", noise(0, 20, 20))
    said: list[str] = []
    find_pairs(tmp_path, [hr], "train", 2, say=said.append)
    assert not said
    save_png(tmp_path / lr / "a.png", noise(1, 10, 10))
    ((pair,),) = find_pairs(tmp_path, [hr], "train", 2, say=said.append)
    (line,) = said
    assert pair[1] is None and "is not used" in line and str(tmp_path / lr.partition("/")[0]) in line
    said.clear()
    find_pairs(tmp_path, [hr], "train", 2, ["bicubic"], said.append)
    assert not said
    ((pair,),) = find_pairs(tmp_path, [hr], "train", 2, [lr], said.append)
    assert pair[1] == tmp_path / lr / "a.png" and said == [f"LR images: {tmp_path / lr}"]


def test_folders_that_hold_no_lr_are_not_suspected(tmp_path: Path) -> None:
    for name in ("train", "valid", "alright", "colours", "x-ray", "follow"):
        save_png(tmp_path / name / "a.png", noise(0, 8, 8))
    (tmp_path / "LR").mkdir()  # empty
    said: list[str] = []
    find_pairs(tmp_path, ["auto"], "train", 2, say=said.append)
    assert not said


def test_wrong_lr_folders_are_told(tmp_path: Path) -> None:
    save_png(tmp_path / "HR/a.png", noise(0, 8, 8))
    save_png(tmp_path / "LR/b.png", noise(0, 4, 4))
    with pytest.raises(DataError, match=r"LR: no LR image for a.png"):
        find_pairs(tmp_path, ["HR"], "train", 2, ["LR"])
    with pytest.raises(DataError, match=r"none: no LR images \(data.valid_lr\)"):
        find_pairs(tmp_path, ["HR"], "valid", 2, ["none"])
    with pytest.raises(DataError, match="benchmark set"):
        find_pairs(tmp_path, ["HR"], "train", 2, ["Set5/LR"])
    for changes, words in (
        ({"data__lr": ["a", "b"]}, "lr wants as many folders as train"),
        ({"data__valid_lr": ["a", "b"]}, "valid_lr wants as many folders as valid"),
        ({"data__lr": ["a"], "data__degrade": 1}, "degrade makes LR images of HR"),
        ({"data__lr": ["a"], "data__hr_scales": [0.5]}, "hr_scales makes LR images of HR"),
        ({"train__accumulate": 3}, "does not divide by train.accumulate"),
    ):
        with pytest.raises(RecipeError, match=words):
            make(**changes)


# Longer runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped", [False, True], ids=["done", "stopped"])
def test_a_run_is_made_longer(tmp_path: Path, stopped: bool) -> None:
    """Without a schedule it is the longer run; batches and optimiser go on."""
    train(make(train__iterations=21), tmp_path / "whole", device="cpu")
    train(make(), tmp_path / "cut", device="cpu", max_minutes=1e-6 if stopped else 0)
    said: list[str] = []
    outcome = train(make(train__iterations=21), tmp_path / "cut", device="cpu", prolong=True, say=said.append)
    assert outcome.complete and outcome.iteration == 21
    assert said[0].endswith(f"going on from iteration {1 if stopped else 12}")
    assert "was to have 12 iterations and now has 21" in said[1]
    a, b = (checkpoint.load(tmp_path / name / "last.pt")["net"] for name in ("whole", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert losses(tmp_path / "whole")[-1] == losses(tmp_path / "cut")[-1]


def test_a_longer_schedule_says_where_it_goes_on(tmp_path: Path) -> None:
    train(make(train__schedule="cosine"), tmp_path, device="cpu")
    said: list[str] = []
    longer = make(train__schedule="cosine", train__iterations=24)
    train(longer, tmp_path, device="cpu", prolong=True, say=said.append)
    assert "the learning rate was 1.7e-05 and goes on at 0.0005" in said[1]
    assert float(log(tmp_path)[-1]["lr"]) == pytest.approx(1e-3 * (0.5 + 0.5 * math.cos(math.pi * 23 / 24)))


def test_what_may_not_change_is_still_refused(tmp_path: Path) -> None:
    train(make(), tmp_path, device="cpu")
    for changes, prolong in (
        ({"train__iterations": 24}, False),
        ({"train__iterations": 6}, True),
        ({"train__iterations": 24, "train__lr": 2e-3}, True),
    ):
        with pytest.raises(TrainError, match="the run has train"):
            train(make(**changes), tmp_path, device="cpu", prolong=prolong)
    assert checkpoint.load(tmp_path / "last.pt")["iteration"] == 12


# A batch in parts -----------------------------------------------------------------------------------------


def test_a_batch_in_parts_is_the_batch() -> None:
    """The same crops and loss, and the same gradients where no batch norm sees the parts; with so
    large an epsilon a step of Adam is nearly the gradient."""
    steps: dict[int, Any] = {}
    for parts in (1, 2, 4):
        args = {"channels": 8, "blocks": 1, "binarized": "none"}  # no sign flips by a rounding
        r = make(train__accumulate=parts, train__eps=1.0, net__args=args)
        torch.manual_seed(0)
        crops, _ = load_data(r, torch.device("cpu"))
        trainer = Trainer(Fabric(accelerator="cpu"), r, build(r), crops)
        trainer.step(0, 1.0, 0.0)
        steps[parts] = trainer.read_loss(1), [p.detach().clone() for p in trainer.net.parameters()]
    for parts in (2, 4):
        assert steps[parts][0] == pytest.approx(steps[1][0], rel=1e-5)
        for a, b in zip(steps[parts][1], steps[1][1], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_the_parts_divide_among_devices() -> None:
    with pytest.raises(TrainError, match="does not divide among 2 devices of 4 parts each"):
        load_data(make(train__accumulate=4), torch.device("cpu"), 0, 2)


# What a user sees -----------------------------------------------------------------------------------------


def test_the_first_seconds_have_loss_and_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first row of the log, and without a change to it."""
    monkeypatch.setattr(run, "FIRST", 0.0)
    seen: list[tuple[int, dict[str, Any] | None]] = []
    r = make(train__log_every=10)
    train(r, tmp_path / "a", device="cpu", report=lambda i, row: seen.append((i, row)))
    assert seen[0][0] == 1 and seen[0][1] is not None and seen[0][1].keys() == {"lr", "loss", "it_per_s"}
    assert seen[0][1]["loss"] > 0 and "psnr_y" in (seen[5][1] or {})
    monkeypatch.setattr(run, "FIRST", 1e9)
    train(r, tmp_path / "b", device="cpu")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_a_longer_run_from_the_command_line(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "r.json").write_text("")
    text = 'scale = 2\n[net]\nname = "srresnet"\nargs = {channels = 8, blocks = 1}\n[data]\npatch = 8\nbatch = 4\n'
    (tmp_path / "r.toml").write_text(f"{text}[train]\niterations = 3\nlr = 1e-3\n")
    command = ["train", str(tmp_path / "r.toml"), "-o", str(tmp_path / "run"), "-j", "1"]
    assert main(command) == 0 and main([*command, "--set", "train.iterations=5"]) == 0
    err = capsys.readouterr().err
    assert "going on from iteration 3" in err and "iteration 5, best validation PSNR-Y" in err
    assert main(["evaluate", str(tmp_path / "run/best.pt"), "valid", "--data", str(images)]) == 0
    out = capsys.readouterr().out
    assert "best.pt (float simulation), x2." in out and "| valid | mean of 2 |" in out


def test_export_of_a_net_that_ships_wants_its_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitsr.latent.CHECKPOINTS", tmp_path)
    assert main(["export", "bitsr-m-x4", "-o", str(tmp_path / "a.onnx")]) == 1
    err = capsys.readouterr().err
    assert "checkpoints/bitsr-m-x4.latent.safetensors" in err and err.count("\n") == 1
    assert not (tmp_path / "a.onnx").exists()


def test_curves_for_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    train(make(), tmp_path, device="cpu", tensorboard=True)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    rows = log(tmp_path)
    for key in ("loss", "lr", "psnr_y", "it_per_s"):
        told = {event.step: event.value for event in events.Scalars(key)}
        assert told == pytest.approx({int(r["iteration"]): float(r[key]) for r in rows if r[key]})


def test_tensorboard_that_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(ImportError, match=r"bitsr\[tensorboard\]"):
        train(make(), tmp_path, device="cpu", tensorboard=True)
