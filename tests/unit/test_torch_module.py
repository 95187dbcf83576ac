"""Packed nets on tensors, and float nets by name."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bitsr
from bitsr import latent
from bitsr.errors import BitsrError

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def up(net_file):
    return bitsr.load(net_file, threads=1)


@pytest.fixture(scope="module")
def module(up):
    from bitsr.torch import Upscale

    return Upscale(up)


def test_a_tensor_becomes_what_an_array_does(up, module):
    x = torch.randint(0, 256, (2, 3, 7, 5), dtype=torch.uint8)
    want = up(x.permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(module(x).permute(0, 2, 3, 1).numpy(), want)
    np.testing.assert_array_equal(module(x[0]).permute(1, 2, 0).numpy(), want[0])
    assert module(x[None]).shape == (1, 2, 3, 28, 20)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_keep_their_kind_and_take_no_gradient(up, module, dtype):
    x = torch.rand(1, 3, 6, 5, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    y = module(x)
    assert (y.dtype, y.shape, y.requires_grad) == (dtype, (1, 3, 24, 20), False)
    wide = x.detach().to(torch.promote_types(dtype, torch.float32)).permute(0, 2, 3, 1).numpy()
    want = torch.from_numpy(up(wide, range=1)).permute(0, 3, 1, 2)
    assert torch.equal(y, want.to(dtype))


def test_a_module_is_copied_pickled_and_put_into_others(module):
    x = torch.randint(0, 256, (3, 6, 5), dtype=torch.uint8)
    pipeline = torch.nn.Sequential(torch.nn.Identity(), module)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), pipeline):
        assert torch.equal(other(x), module(x))
    assert not module.state_dict()
    assert "scale=4" in repr(module)


@pytest.mark.parametrize(
    "x", [torch.zeros(4, 4), torch.zeros(3, 4, 4, dtype=torch.int32), torch.zeros(5, 4, 4)]
)
def test_other_tensors_are_refused(module, x):
    with pytest.raises(BitsrError, match="must be"):
        module(x)


def test_a_float_net_by_name_is_near_its_packed_one(monkeypatch):
    from bitsr.colour import luma

    # of the checkout, also where an installed bitsr is tested, which has none
    checkpoints = Path(__file__).parents[2] / "checkpoints"
    if not (checkpoints / "bitsr-s-x4.latent.safetensors").exists():
        pytest.skip("a source archive, which has no checkpoints")
    monkeypatch.setattr(latent, "CHECKPOINTS", checkpoints)
    net = bitsr.load_torch("bitsr-s-x4")
    coffee = Path(__file__).parents[2] / "examples" / "coffee.jpg"
    image = np.array(Image.open(coffee))[60:84, 100:131]
    q = luma(image)
    with torch.no_grad():
        sr = net(torch.from_numpy(q / 128 + 127.5).float()[None, None])[0, 0].numpy()
    packed = bitsr.load("bitsr-s-x4", threads=1).engine.run(q) / 128 + 127.5
    assert sr.shape == packed.shape
    assert np.sqrt(np.mean((sr - packed) ** 2)) < 1


def test_a_net_without_latent_weights_is_one_line(net_file, monkeypatch, tmp_path):
    with pytest.raises(BitsrError, match="holds packed bits"):
        bitsr.load_torch(net_file)
    with pytest.raises(BitsrError, match="no net named"):
        bitsr.load_torch("bitsr-q-x4")
    monkeypatch.setattr(latent, "CHECKPOINTS", tmp_path)
    with pytest.raises(BitsrError, match="not installed"):
        bitsr.load_torch("bitsr-s-x4")
