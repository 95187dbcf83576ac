"""The float nets that contenders run, and the packed net of random bits (torch only where it is
needed)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from bitsr.eval.complexity import Layer
    from bitsr.model_file import ModelFile


def random_packed(scale: int, channels: int = 64, blocks: int = 16) -> ModelFile:
    """SRResNet-E2FIF as an op list with random weights; images of it mean nothing, its time
    does."""
    from bitsr.model_file import ModelFile, Op

    rng = np.random.default_rng(0)
    words = -(-channels // 64)
    tensors = {
        "head.weight": rng.integers(-2000, 2001, (channels, 3, 3, 1), np.int16),
        "head.bias": rng.integers(-2000, 2001, channels, np.int32),
        "tail.weight": rng.integers(-500, 501, (scale * scale, 3, 3, channels), np.int16),
        "tail.bias": rng.integers(-2000, 2001, scale * scale, np.int32),
    }
    ops = ["conv x0 lr head shift=15"]
    for i in range(2 * blocks):
        weight = rng.integers(0, 2**63, (channels, 3, 3, words), np.uint64) << np.uint64(1)
        weight[..., -1] &= np.uint64((1 << (channels - 64 * (words - 1))) - 1)
        tensors |= {
            f"c{i}.weight": weight,
            f"c{i}.mul": rng.integers(1000, 9000, channels, np.int16),
            f"c{i}.add": rng.integers(-200, 201, channels, np.int16),
        }
        if i % 2 == 0:  # LeakyReLU(0.1) after the first unit of a block
            tensors[f"c{i}.slope"] = np.full(channels, 3277, np.int16)
        ops += [f"sign b{i} x{i}", f"bconv x{i + 1} b{i} c{i} shift=3 skip=x{i}"]
    ops += [f"add y x{2 * blocks} x0", "conv z y tail shift=12", f"shuffle sr z scale={scale}"]
    return ModelFile(tensors, [Op.parse(line) for line in ops], {"name": f"random-{channels}x{blocks}"})


def random_int8(cin: int, cout: int, k: int, one_bit: bool, times: int) -> ModelFile:
    """An int8 convolution of the same bytes ``times`` times, each adding to the last; weights are
    random."""
    from bitsr.model_file import ModelFile, Op

    rng = np.random.default_rng(0)
    signs = rng.integers(0, 2**63, (cout, k, k, -(-cin // 64)), np.uint64) << np.uint64(1)
    tensors = {
        "head.weight": rng.integers(-2000, 2001, (cin, 1, 1, 1), np.int16),
        "head.bias": rng.integers(-2000, 2001, cin, np.int32),
        "in.mul": np.full(cin, 32767, np.int16),
        "c.weight": signs if one_bit else rng.integers(-127, 128, (cout, k, k, cin), np.int8),
        "c.mul": rng.integers(1000, 9000, cout, np.int16),
        "c.add": rng.integers(-200, 201, cout, np.int16),
        "tail.weight": rng.integers(-500, 501, (1, 1, 1, cout), np.int16),
        "tail.bias": np.zeros(1, np.int32),
    }
    ops = ["conv x lr head shift=12", "quant q x in shift=7", "qconv y0 q c shift=5"]
    ops += [f"qconv y{i} q c shift=5 skip=y{i - 1}" for i in range(1, times)]
    ops += [f"conv z y{times - 1} tail shift=12", "shuffle sr z scale=1"]
    return ModelFile(tensors, [Op.parse(line) for line in ops], {"name": f"random-int8-{cin}-{cout}"})


def random_row(channels: int, layers: int) -> ModelFile:
    """3x3 int8 convolutions of so many channels one after another, PReLU between, as of the net
    ``plain``. Weights have 7 bits and the distribution of trained ones (Laplace): the time of AVX2
    depends on it."""
    from bitsr.model_file import ModelFile, Op

    rng = np.random.default_rng(0)
    tensors = {
        "head.weight": rng.integers(-2000, 2001, (channels, 3, 3, 1), np.int16),
        "head.bias": rng.integers(-2000, 2001, channels, np.int32),
        "tail.weight": rng.integers(-500, 501, (1, 1, 1, channels), np.int16),
        "tail.bias": np.zeros(1, np.int32),
    }
    ops = ["conv x0 lr head shift=12"]
    for i in range(layers):
        weight = rng.laplace(size=(channels, 3, 3, channels))
        weight *= 63 / np.abs(weight).max((1, 2, 3), keepdims=True)
        tensors |= {
            f"q{i}.mul": np.full(channels, 16384, np.int16),
            f"c{i}.weight": np.rint(weight).astype(np.int8),
            f"c{i}.mul": rng.integers(1000, 9000, channels, np.int16),
            f"c{i}.add": rng.integers(-200, 201, channels, np.int16),
            f"c{i}.slope": rng.integers(-9000, 9001, channels, np.int16),
        }
        ops += [f"quant b{i} x{i} q{i} shift=6", f"qconv x{i + 1} b{i} c{i} shift=2"]
    ops += [f"conv y x{layers} tail shift=12", "shuffle sr y scale=1"]
    return ModelFile(tensors, [Op.parse(line) for line in ops], {"name": f"random-row-{channels}"})


def layers(name: str, scale: int) -> list[Layer]:
    """The convolutions of a net, to count its MACs; names as in ``torch_net``."""
    import torch

    from bitsr.eval import net_complexity as count

    with torch.device("meta"):
        return count.layers(torch_net(name, scale))[0]


def torch_net(name: str, scale: int) -> nn.Module:
    """A net by name, in eval mode, weights random: (1, 1, h, w) -> (1, 1, scale*h, scale*w), Y in
    [0, 255].

    plain-32x8, plain-16x10: ``bitsr.nets.plain`` of 32 channels and 8 layers, and of 16 and 10, in
    float; with -int8 behind, as it is packed. srresnet: the float twin of SRResNet-E2FIF 64x16;
    srresnet-binary: its bits simulated in float32, as researchers run them; ledig and
    ledig-binary: the float twin of Ma-SRResNet 64x16 and its one-bit filters; lapsrn and
    lapsrn-binary: those of Ma-LapSRN; fsrcnn, espcn: see bitsr.nets.small.
    """
    import torch

    from bitsr.nets.lapsrn import LapSRN
    from bitsr.nets.small import ESPCN, FSRCNN
    from bitsr.nets.srgan import LedigSRResNet
    from bitsr.nets.srresnet import SRResNet

    torch.manual_seed(0)
    makers = {
        "srresnet": lambda: SRResNet(scale, binary=False),
        "srresnet-binary": lambda: SRResNet(scale, binary=True),
        "ledig": lambda: LedigSRResNet(scale, binary=False),
        "ledig-binary": lambda: LedigSRResNet(scale),
        "lapsrn": lambda: LapSRN(scale, binary=False),
        "lapsrn-binary": lambda: LapSRN(scale),
        "fsrcnn": lambda: FSRCNN(scale),
        "espcn": lambda: ESPCN(scale),
        "plain-32x8": lambda: plain_net(scale, 32, 8, False),
        "plain-32x8-int8": lambda: plain_net(scale, 32, 8, True),
        "plain-16x10": lambda: plain_net(scale, 16, 10, False),
        "plain-16x10-int8": lambda: plain_net(scale, 16, 10, True),
    }
    return makers[name]().eval()


def plain_net(scale: int, channels: int, layers: int, quantised: bool) -> nn.Module:
    """``Plain``, its weights distributed as those of trained nets (Laplace): the time of AVX2
    depends on it."""
    import torch

    from bitsr.nets.plain import Plain

    net = Plain(scale, channels, layers, quantised=quantised)
    with torch.no_grad():
        for conv in (*net.body, net.tail):
            sign = torch.randn_like(conv.weight).sign()
            conv.weight.exponential_().mul_(sign * (2 * conv.weight[0].numel()) ** -0.5)
        net.train()(127 + 40 * torch.randn(1, 1, 32, 32))  # the range of its activations
    return net


def fold_batch_norm(net: nn.Module) -> nn.Module:
    """The batch norms of an SRResNet folded into its float convolutions, as a deployment would."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for unit in list(net.modules()):
        for name, norm in (("conv", "bn"), ("conv1", "bn1"), ("conv2", "bn2"), ("end", "bn")):
            conv, bn = getattr(unit, name, None), getattr(unit, norm, None)
            if conv is None or not isinstance(bn, nn.BatchNorm2d):
                continue
            plain = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=False).eval()
            plain.weight = conv.weight
            setattr(unit, name, fuse_conv_bn_eval(plain, bn))
            setattr(unit, norm, nn.Identity())
    return net
