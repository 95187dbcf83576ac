"""docs/pair.png: bicubic beside bitsr at x4, a crop of coffee.jpg, for the README."""

from pathlib import Path

import numpy as np
import pyvips

import bitsr
from bitsr.imresize import imresize

here = Path(__file__).parent
TOP, LEFT, HEIGHT, WIDTH = 40, 96, 80, 108

lr = pyvips.Image.new_from_file(str(here / "coffee.jpg")).numpy()
pair = [imresize(lr, 4), bitsr.load("bitsr-m-x4")(lr)]
crops = [p[4 * TOP : 4 * (TOP + HEIGHT), 4 * LEFT : 4 * (LEFT + WIDTH)] for p in pair]
gap = np.full((4 * HEIGHT, 8, 3), 255, np.uint8)
image = np.concatenate([crops[0], gap, crops[1]], axis=1)
(here.parent / "docs").mkdir(exist_ok=True)
pyvips.Image.new_from_array(image).write_to_file(str(here.parent / "docs" / "pair.png"))
