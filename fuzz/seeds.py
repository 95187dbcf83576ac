"""Seed corpus of fuzz_model: small random nets. python fuzz/seeds.py FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from random_nets import attention, everything, srresnet

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
for channels, blocks, scale in ((2, 1, 1), (8, 1, 2), (17, 1, 3), (8, 4, 4), (66, 1, 1)):
    srresnet(channels, blocks, scale, seed=channels).write(
        folder / f"srresnet-{channels}-{blocks}-x{scale}.bsr"
    )
everything(seed=0).write(folder / "everything.bsr")
attention(seed=0, channels=8, blocks=2).write(folder / "attention.bsr")
