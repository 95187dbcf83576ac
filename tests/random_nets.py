"""Packed nets with random weights: every operation, every option, without torch."""

from __future__ import annotations

import numpy as np

from bitsr.model_file import ModelFile, Op


def with_roles(kind: str, out: str, x: str, name: str, attrs: dict[str, int], **roles: str | None) -> Op:
    more = {role: y for role, y in roles.items() if y is not None}
    return Op(kind, out, (x, *more.values()), name, attrs, tuple(more))


class Maker:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.ops: list[Op] = []
        self.tensors: dict[str, np.ndarray] = {}

    def int16(self, name: str, n: int, low: int = -32767, high: int = 32767) -> None:
        self.tensors[name] = self.rng.integers(low, high, n, np.int16, endpoint=True)

    def conv(
        self, x: str, cin: int, cout: int, k: int, shift: int, edge: bool = False, slope: bool = False
    ) -> str:
        name, out = f"c{len(self.ops)}", f"x{len(self.ops)}"
        self.tensors[f"{name}.weight"] = self.rng.integers(-3000, 3000, (cout, k, k, cin), np.int16)
        self.tensors[f"{name}.bias"] = self.rng.integers(-(2**20), 2**20, cout, np.int32)
        if slope:
            self.int16(f"{name}.slope", cout)
        attrs = {"shift": shift, "edge": 1} if edge else {"shift": shift}
        self.ops.append(Op("conv", out, (x,), name, attrs))
        return out

    def sign(self, x: str, channels: int, threshold: bool) -> str:
        name, out = f"s{len(self.ops)}", f"b{len(self.ops)}"
        if threshold:
            self.int16(f"{name}.threshold", channels, -9000, 9000)
        self.ops.append(Op("sign", out, (x,), name if threshold else ""))
        return out

    def signs(self, cin: int, cout: int, k: int) -> np.ndarray:
        weight = self.rng.integers(0, 2**64, (cout, k, k, -(-cin // 64)), np.uint64)
        if cin % 64:
            weight[..., -1] &= np.uint64(2 ** (cin % 64) - 1)
        return weight

    def epilogue(self, name: str, cout: int, inner: bool, slope: bool, slope_add: bool) -> None:
        self.int16(f"{name}.mul", cout)
        self.int16(f"{name}.add", cout)
        if inner:
            self.int16(f"{name}.inner_slope", cout)
            self.int16(f"{name}.inner_add", cout)
        if slope:
            self.int16(f"{name}.slope", cout)
        if slope_add:
            self.int16(f"{name}.slope_add", cout)

    def quant(self, x: str, channels: int, top: int = 127) -> str:
        """int8; many of the largest values are clipped."""
        name, out = f"q{len(self.ops)}", f"i{len(self.ops)}"
        shift = int(self.rng.integers(0, 15))
        size = min(32767, top << shift + 1)
        self.int16(f"{name}.mul", channels, -size, size)
        self.ops.append(Op("quant", out, (x,), name, {"shift": shift, "max": top}))
        return out

    def qconv(
        self, x: str, cin: int, cout: int, k: int, bits: int = 8, skip: str | None = None,
        inner: bool = False, slope: bool = False, slope_add: bool = False,
    ) -> str:  # fmt: skip
        """Weights of ``bits`` bits, 1 being +-1."""
        name, out = f"u{len(self.ops)}", f"x{len(self.ops)}"
        most = 2 ** (bits - 1) - 1
        self.tensors[f"{name}.weight"] = (
            self.signs(cin, cout, k)
            if bits == 1
            else self.rng.integers(-most, most, (cout, k, k, cin), np.int8, endpoint=True)
        )
        self.epilogue(name, cout, inner, slope, slope_add)
        typical = round(np.log2(127 * max(most, 1) * np.sqrt(cin * k * k)))  # bits of a sum
        attrs = {"shift": typical - 14} if typical > 14 else {"left": 14 - typical} if typical < 14 else {}
        self.ops.append(with_roles("qconv", out, x, name, attrs, skip=skip))
        return out

    def bconv(
        self, bits: str, cin: int, cout: int, k: int, skip: str | None, inner: bool, slope: bool,
        slope_add: bool = False, map: str | None = None, turns: int = 1,
    ) -> str:  # fmt: skip
        """turns: 8, or 1: every filter is stored."""
        name, out = f"u{len(self.ops)}", f"x{len(self.ops)}"
        weight = self.signs(cin, cout // turns, k)
        self.tensors[f"{name}.weight"] = weight
        self.epilogue(name, cout, inner, slope, slope_add)
        shift = max(s for s in range(15) if cin * k * k << s <= 32767)
        attrs = {"shift": shift} | ({"turns": turns} if turns > 1 else {})
        self.ops.append(with_roles("bconv", out, bits, name, attrs, skip=skip, map=map))
        return out

    def map(self, x: str, channels: int, maps: int = 1, turns: int = 1) -> str:
        """A typical sum is a third of int16. turns: 8, or 1: the weights of every map are stored."""
        name, out = f"m{len(self.ops)}", f"x{len(self.ops)}"
        shape = (maps, channels) if maps > turns else channels
        self.tensors[f"{name}.weight"] = self.rng.integers(-3000, 4000, shape, np.int16, endpoint=True)
        shift = 11 + round(np.log2(np.sqrt(channels)))
        more = {key: n for key, n in (("maps", maps), ("turns", turns)) if n > 1}
        self.ops.append(Op("map", out, (x,), name, {"shift": shift, **more}))
        return out

    def attend(self, x: str, channels: int, hidden: int) -> str:
        name, out = f"a{len(self.ops)}", f"x{len(self.ops)}"
        for part, shape in (("down", (hidden, channels)), ("up", (channels, hidden))):
            self.tensors[f"{name}.{part}.weight"] = self.rng.integers(-32768, 32767, shape, np.int16)
            self.tensors[f"{name}.{part}.bias"] = self.rng.integers(-(2**26), 2**26, shape[0], np.int32)
        self.int16(f"{name}.slope", hidden)
        self.ops.append(Op("attend", out, (x,), name, {"down": 14, "up": 15}))
        return out

    def plain(self, kind: str, *inputs: str, **attrs: int) -> str:
        """An operation without tensors."""
        self.ops.append(Op(kind, f"{kind}{len(self.ops)}", inputs, "", attrs))
        return self.ops[-1].out

    def end(self, x: str, cin: int, scale: int) -> ModelFile:
        tail = self.conv(x, cin, scale * scale, 3, 14)
        self.ops.append(Op("shuffle", "sr", (tail,), "", {"scale": scale}))
        return ModelFile(self.tensors, self.ops, {"name": "random", "scale": str(scale)})


def srresnet(channels: int = 64, blocks: int = 2, scale: int = 4, seed: int = 0) -> ModelFile:
    """The operations of E2FIF-SRResNet."""
    m = Maker(seed)
    x = head = m.conv("lr", 1, channels, 3, 12)
    for i in range(2 * blocks):
        x = m.bconv(m.sign(x, channels, False), channels, channels, 3, x, False, i % 2 == 0)
    m.ops.append(Op("add", "sum", (x, head)))
    return m.end("sum", channels, scale)


def attention(seed: int, channels: int = 64, blocks: int = 3) -> ModelFile:
    """Residual blocks with channel attention (RCAN), the last one at twice the size."""
    m = Maker(seed)
    x = head = m.conv("lr", 1, channels, 3, 12)
    for _ in range(blocks):
        y = m.bconv(m.sign(x, channels, False), channels, channels, 3, None, False, True)
        y = m.bconv(m.sign(y, channels, True), channels, channels, 3, None, False, False)
        x = m.plain("add", x, m.attend(y, channels, 4))
    up = m.plain("shuffle", m.conv(m.plain("add", x, head), channels, 8, 1, 13), scale=2)
    return m.end(m.attend(up, 2, 1), 2, 1)


def everything(seed: int) -> ModelFile:
    """Thresholds, RPReLU, maps, one or eight, and their sum, weights of one orientation, 1x1 to 9x9, both kinds of
    edges, one filter of many channels, widths that are no multiple of 64, two readers of one sum, an unused sum; int8
    convolutions of weights of 1, 4, 7 and 8 bits, one of them of a plane."""
    m = Maker(seed)
    x = m.conv("lr", 1, 96, 9, 14, edge=True)
    b = m.sign(x, 96, True)
    y = m.bconv(b, 96, 96, 3, x, True, True)
    c = m.sign(y, 96, True)
    d = m.sign(y, 96, False)
    wide = m.bconv(c, 96, 128, 1, None, True, False)
    e = m.sign(wide, 128, True)  # only the bits of `wide` are used
    z = m.bconv(e, 128, 96, 3, y, False, True, slope_add=True)
    z = m.bconv(m.sign(z, 96, False), 96, 96, 3, None, False, False, map=m.map(z, 96))
    z = m.bconv(m.sign(z, 96, True), 96, 96, 3, z, True, True, map=m.map(z, 96))
    z = m.bconv(d, 96, 96, 3, z, True, False, map=m.map(z, 96, 8))
    maps = m.plain("add", m.map(x, 96, 8), m.map(z, 96, 8))
    z = m.bconv(m.plain("concat", e, d), 224, 96, 1, z, False, False, map=maps)
    z = m.bconv(m.plain("concat", e, d), 224, 96, 3, z, True, True, map=m.map(z, 96, 8, 8), turns=8)
    z = m.bconv(m.sign(z, 96, True), 96, 96, 1, z, False, False, turns=8)
    sum = m.plain("add", z, x)
    f = m.conv(sum, 96, 2 * 4, 1, 13, slope=True)
    f = m.plain("add", f, m.plain("repeat", m.conv(sum, 96, 2, 1, 13), times=4))
    ones = m.qconv(m.quant(f, 8), 8, 96, 5, 1, sum, True, True, True)
    g = m.qconv(m.quant(ones, 96, 7), 96, 8, 3, 4, f, False, True)
    h = m.qconv(m.quant(g, 8), 8, 40, 3, 7, slope=True)  # bytes beside values, then bytes alone
    g = m.qconv(m.quant(h, 40), 40, 8, 1, 7, g)
    up = m.plain("shuffle", g, scale=2)  # two channels at twice the size
    plane = m.conv(m.conv(up, 2, 2, 7, 16), 2, 1, 5, 14, slope=True)
    return m.end(m.qconv(m.quant(plane, 1), 1, 1, 9, 8, plane), 1, 2)


EXTREME_MAPS = ((1, 32767), (30, 32767), (7, 9))


def extreme_maps(maps: int, shift: int, top: int) -> ModelFile:
    """Maps of sizes of 32767, many of -32768, by weights of +-top and their sum: with EXTREME_MAPS' (shift, top)
    sums far beyond 32 bits, or maps on both sides of 16."""
    m = Maker(shift)
    x = m.conv("lr", 1, 192, 1, 1)
    planes = [m.map(x, 192, maps) for _ in range(2)]
    for op in m.ops[1:]:
        m.tensors[f"{op.name}.weight"] = np.sign(m.tensors[f"{op.name}.weight"]) * np.int16(top)
        op.attrs["shift"] = shift
    bits, sum = m.sign(x, 192, False), m.plain("add", *planes)
    return m.end(m.bconv(bits, 192, 17, 1, None, False, False, map=sum), 17, 1)
