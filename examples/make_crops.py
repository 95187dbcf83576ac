"""docs/img/crops.jpg: bicubic above bitsr at x4, for the three images in examples/crops."""

from pathlib import Path

import numpy as np
import pyvips

import bitsr
from bitsr.imresize import imresize

here = Path(__file__).parent
net = bitsr.load("bitsr-m-x4")
columns = []
for name in ("text", "foliage", "face"):
    lr = pyvips.Image.new_from_file(str(here / "crops" / f"{name}.png")).numpy()
    columns.append(
        np.concatenate([imresize(lr, 4), np.full((8, 4 * lr.shape[1], 3), 255, np.uint8), net(lr)])
    )
gap = np.full((len(columns[0]), 8, 3), 255, np.uint8)
sheet = np.concatenate([columns[0], gap, columns[1], gap, columns[2]], axis=1)
out = here.parent / "docs" / "img" / "crops.jpg"
pyvips.Image.new_from_array(sheet).write_to_file(str(out), Q=92, subsample_mode="off")
