"""Upscale an image from Python: an array (or a PIL image) in, the same kind out."""

from pathlib import Path

import numpy as np
import pyvips

import bitsr

here = Path(__file__).parent
image = pyvips.Image.new_from_file(str(here / "coffee.jpg")).numpy()  # (H, W, 3) uint8

up = bitsr.load("e2fif-srresnet-x4")
out = up(image)
assert out.dtype == np.uint8 and out.shape == (4 * image.shape[0], 4 * image.shape[1], 3)

pyvips.Image.new_from_array(out).write_to_file("coffee_x4.png")
