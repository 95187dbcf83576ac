"""Upscaling, and every command's help, work where there is no torch."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "lightning_fabric", "matplotlib", "PIL"):
            raise AssertionError(f"{name} imported")

sys.meta_path.insert(0, NoTorch())
import numpy as np, pyvips, bitsr
from bitsr.cli.main import main

net, folder = sys.argv[1:]
assert bitsr.load(net)(np.zeros((3, 4, 3), np.uint8)).shape == (12, 16, 3)
pyvips.Image.black(5, 4).write_to_file(folder + "/in.png")
bitsr.upscale(folder + "/in.png", folder + "/out.png", net=net)
assert main(["upscale", "-i", folder + "/in.png", "-n", net]) == 0
assert main(["--help"]) == 0 and main(["upscale", "--help"]) == 0 and main(["models"]) == 0
"""


def test_no_torch_for_upscaling(net_file, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(net_file), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"in.png", "out.png", "in_x4.png"}
