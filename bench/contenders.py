"""The contenders: the one place to add one.

A contender is a function that builds a net once and returns ``run``, a function without arguments
that takes the LR image through it once and returns the SR image. It runs in its own process,
started with ``env``. What is set here is what a careful user of that library would set: a rival
made slow proves nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import machine
from .task import Task, prepared

Run = Callable[[], NDArray]

NETS = {
    "SRResNet-E2FIF W1A1": "srresnet-binary",
    "SRResNet float twin": "srresnet",
    "SRResNet and SRGAN of Ma, W1A8": "ledig-binary",
    "SRResNet and SRGAN, float twin": "ledig",
    "LapSRN of Ma, W1A8": "lapsrn-binary",
    "LapSRN, float twin": "lapsrn",
    "FSRCNN(56, 12, 4)": "fsrcnn",
    "ESPCN-like 64x3": "espcn",
    "plain 32x8, int8": "plain-32x8-int8",
    "plain 32x8, float": "plain-32x8",
    "plain 16x10, int8": "plain-16x10-int8",
    "plain 16x10, float": "plain-16x10",
}
"""Titles of the nets in reports, and their names in bench.nets. SRGAN has the net of SRResNet,
trained otherwise: one time and one size stand for both."""

AVX2_ONLY = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
AVX_VNNI_ONLY = {"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"}
"""AVX2 with AVX-VNNI, as the engine's path ``avxvnni``."""


@dataclass(frozen=True)
class Contender:
    name: str
    net: str
    """What it runs: contenders of one net answer the same image."""
    library: str
    """The module whose absence skips it, and whose version the report names."""
    build: Callable[[Task], Run]
    env: dict[str, str] = field(default_factory=dict)
    reference: bool = False
    """Whether the other contenders of this net are compared with its image."""


def model_file(task: Task, net: str | None) -> str | Path:
    """The .bsr file that bitsr runs; net: as for ``bitsr``."""
    return prepared(task, "bsr", net) if net else task.net or prepared(task, "bsr", "random-64x16")


def bitsr(isa: str, net: str | None = None) -> Callable[[Task], Run]:
    """The integer engine on one of its paths; int16 luma in and out. net: packed anew in place of
    the task's."""

    def build(task: Task) -> Run:
        from bitsr.engine import Engine

        engine = Engine(model_file(task, net), isa=isa, threads=task.threads)
        lr = np.floor(128 * (task.luma() - 127.5) + 0.5).astype(np.int16)
        return lambda: engine.run(lr)

    return build


def pytorch(
    net: str, *, channels_last: bool = False, fold: bool = False, bf16: bool = False, compiled: bool = False
) -> Callable[[Task], Run]:
    """PyTorch on the CPU under inference_mode."""

    def build(task: Task) -> Run:
        import torch

        from .nets import fold_batch_norm, torch_net

        torch.set_num_threads(task.threads)
        torch.set_num_interop_threads(1)
        module = torch_net(net, task.scale)
        if fold:
            module = fold_batch_norm(module)
        x = torch.from_numpy(task.luma()[None, None])
        if bf16:
            module, x = module.bfloat16(), x.bfloat16()
        if channels_last:
            module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            x = x.to(memory_format=torch.channels_last)
        if compiled:
            module = torch.compile(module)

        def run() -> NDArray:
            with torch.inference_mode():
                return module(x).float().numpy()[0, 0]

        return run

    return build


def onnx_session(path: Path, threads: int) -> Any:
    """A session of ONNX Runtime's CPU provider, all graph optimisations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnxruntime(net: str, kind: str = "onnx") -> Callable[[Task], Run]:
    def build(task: Task) -> Run:
        session = onnx_session(prepared(task, kind, net), task.threads)
        feed = {"lr": task.luma()[None, None]}
        return lambda: session.run(None, feed)[0][0, 0]

    return build


def openvino_request(path: Path, threads: int, precision: str) -> Any:
    """A request to OpenVINO's CPU plugin, one stream, tuned for latency."""
    import openvino as ov  # pyright: ignore[reportMissingImports]

    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": precision,
    }
    return ov.Core().compile_model(str(path), "CPU", config).create_infer_request()


def openvino(net: str, kind: str = "onnx", precision: str = "f32") -> Callable[[Task], Run]:
    def build(task: Task) -> Run:
        request = openvino_request(prepared(task, kind, net), task.threads, precision)
        x = task.luma()[None, None]
        return lambda: request.infer({0: x})[0][0, 0]

    return build


def tflite(net: str, kind: str = "tflite") -> Callable[[Task], Run]:
    """TensorFlow Lite (LiteRT) with its XNNPACK delegate."""

    def build(task: Task) -> Run:
        from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

        interpreter = Interpreter(str(prepared(task, kind, net)), num_threads=task.threads)
        interpreter.allocate_tensors()
        feed, fetch = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        x = task.luma()[None, None]
        scale, zero = feed["quantization"]
        if scale:
            x = np.clip(np.round(x / scale + zero), -128, 127).astype(np.int8)

        def run() -> NDArray:
            interpreter.set_tensor(feed["index"], x)
            interpreter.invoke()
            y, (step, origin) = interpreter.get_tensor(fetch["index"]), fetch["quantization"]
            return ((y.astype(np.float32) - origin) * step if step else y)[0, 0]

        return run

    return build


def photo_net(task: Task) -> Run:
    """``bitsr-photo-m`` on the best path, colour included."""
    from bitsr.upscaler import load

    net, rgb = load(f"bitsr-photo-m-x{task.scale}", threads=task.threads), task.rgb()
    return lambda: net(rgb)


@dataclass(frozen=True)
class NcnnNet:
    """A restorer of RGB in [0, 1] as a .param and a .bin file of ncnn. input, output: its blobs."""

    file: str
    """Of both, without their suffix, as it ends."""
    scale: int
    input: str = "data"
    output: str = "output"
    margin: int = 0
    """LR pixels that it needs, and drops, beyond every border."""
    multiple: int = 1
    """Of which its input's sides must be multiples."""


def ncnn(*nets: NcnnNet) -> Callable[[Task], Run]:
    """ncnn on the CPU, the whole image at once, the nets one after the other."""

    def build(task: Task) -> Run:
        ncnn: Any = importlib.import_module("ncnn")
        loaded = []
        for about in nets:
            found = [path for path in Path(task.models or "").rglob("*.param") if _ends(path, about.file)]
            if not found:
                raise RuntimeError(f"{about.file}.param is not in --models")
            net = ncnn.Net()
            net.opt.num_threads, net.opt.use_vulkan_compute = task.threads, False
            net.load_param(str(found[0]))
            net.load_model(str(found[0].with_suffix(".bin")))
            loaded.append((about, net))
        rgb = task.rgb()

        def run() -> NDArray:
            x = rgb.transpose(2, 0, 1).astype(np.float32) / 255
            for about, net in loaded:
                h, w = x.shape[1:]
                sides = [(about.margin, about.margin + -n % about.multiple) for n in (h, w)]
                padded = np.ascontiguousarray(np.pad(x, ((0, 0), *sides), mode="edge"))
                extractor = net.create_extractor()
                extractor.input(about.input, ncnn.Mat(padded))
                x = np.array(extractor.extract(about.output)[1])[:, : about.scale * h, : about.scale * w]
            return np.floor(255 * x.clip(0, 1) + 0.5).astype(np.uint8).transpose(1, 2, 0)

        return run

    return build


def _ends(path: Path, name: str) -> bool:
    return path.with_suffix("").as_posix().endswith("/" + name)


def restorers(scale: int) -> list[Contender]:
    """What enlarges and cleans photographs: the photo net, and nets of others that ``Task.models``
    holds. They answer in RGB."""
    out = [Contender("bitsr-photo-m", "photo net", "bitsr", photo_net)]
    files = {"realesr-animevideov3": f"realesr-animevideov3-x{scale}"}
    if scale == 4:
        files |= {"realesr-general-x4v3": "realesr-general-x4v3", "realesrgan-x4plus": "realesrgan-x4plus"}
    for name, file in files.items():
        out.append(Contender(f"ncnn {name}", name, "ncnn", ncnn(NcnnNet(file, scale))))
    for name, margin, multiple in (("upconv_7_photo", 7, 1), ("cunet", 18, 4)):
        nets = [
            NcnnNet(f"models-{name}/{file}", 2, "Input1", "Eltwise4", margin, multiple)
            for file in ("noise1_scale2.0x_model", "scale2.0x_model")[: scale // 2]
        ]
        if scale != 3:
            out.append(Contender(f"ncnn waifu2x {name}", f"waifu2x {name}", "ncnn", ncnn(*nets)))
    return out


def lineup(task: Task, isas: list[str]) -> list[Contender]:
    """Who takes part in a task: the restorers where it names a folder of models."""
    return restorers(task.scale) if task.models else contenders(isas)


def small(title: str, openvino_int8: str) -> list[Contender]:
    """A small net by title in the engines of others; openvino_int8: the file that OpenVINO runs as int8."""
    net = NETS[title]
    return [
        Contender(f"PyTorch fp32 {net}", title, "torch", pytorch(net), reference=True),
        Contender(f"ONNX Runtime fp32 {net}", title, "onnxruntime", onnxruntime(net)),
        Contender(f"ONNX Runtime int8 {net}", title, "onnxruntime", onnxruntime(net, "ort-int8")),
        Contender(f"OpenVINO fp32 {net}", title, "openvino", openvino(net)),
        Contender(f"OpenVINO int8 {net}", title, "openvino", openvino(net, openvino_int8)),
    ]


def contenders(isas: list[str]) -> list[Contender]:
    """Every contender of the binary net and its kin; ``isas`` are the engine's paths on this machine."""
    binary, twin, ma, ma_twin, lap, lap_twin, fsrcnn, espcn, *plain = NETS
    out = [Contender(f"bitsr {isa}", binary, "bitsr", bitsr(isa)) for isa in isas]
    out += [
        Contender("PyTorch simulated bits", binary, "torch", pytorch("srresnet-binary")),
        Contender("PyTorch fp32", twin, "torch", pytorch("srresnet"), reference=True),
        Contender("PyTorch fp32 channels_last", twin, "torch", pytorch("srresnet", channels_last=True)),
        Contender("PyTorch fp32 BN folded", twin, "torch", pytorch("srresnet", fold=True)),
        Contender(
            "PyTorch fp32 BN folded channels_last",
            twin,
            "torch",
            pytorch("srresnet", fold=True, channels_last=True),
        ),
        Contender("PyTorch fp32 compiled", twin, "torch", pytorch("srresnet", fold=True, compiled=True)),
        Contender(
            "PyTorch bf16 BN folded channels_last",
            twin,
            "torch",
            pytorch("srresnet", fold=True, channels_last=True, bf16=True),
        ),
        Contender("ONNX Runtime fp32", twin, "onnxruntime", onnxruntime("srresnet")),
        Contender("ONNX Runtime int8", twin, "onnxruntime", onnxruntime("srresnet", "ort-int8")),
        Contender("OpenVINO fp32", twin, "openvino", openvino("srresnet")),
        Contender("OpenVINO bf16", twin, "openvino", openvino("srresnet", precision="bf16")),
        Contender("OpenVINO int8", twin, "openvino", openvino("srresnet", "openvino-int8")),
        Contender("TFLite fp32", twin, "ai_edge_litert", tflite("srresnet")),
        Contender("TFLite int8", twin, "ai_edge_litert", tflite("srresnet", "tflite-int8")),
        Contender(
            "PyTorch fp32 BN folded channels_last, AVX2",
            twin,
            "torch",
            pytorch("srresnet", fold=True, channels_last=True),
            AVX2_ONLY,
        ),
        Contender("OpenVINO fp32, AVX2", twin, "openvino", openvino("srresnet"), AVX2_ONLY),
        Contender("OpenVINO int8, AVX2", twin, "openvino", openvino("srresnet", "openvino-int8"), AVX2_ONLY),
    ]
    # The scalar path would take minutes.
    fast = [isa for isa in isas if isa != "scalar"]
    for bits, floats, who in ((ma, ma_twin, "Ma"), (lap, lap_twin, "Ma LapSRN")):
        best, net = {"fold": True, "channels_last": True}, NETS[floats]
        out += [Contender(f"bitsr {isa} {who}", bits, "bitsr", bitsr(isa, NETS[bits])) for isa in fast]
        out += [
            Contender(f"PyTorch fp32 {who}", floats, "torch", pytorch(net), reference=True),
            Contender(f"PyTorch fp32 BN folded channels_last {who}", floats, "torch", pytorch(net, **best)),
            Contender(f"PyTorch fp32 compiled {who}", floats, "torch", pytorch(net, **best, compiled=True)),
            Contender(
                f"PyTorch fp32 BN folded channels_last {who}, AVX2",
                floats,
                "torch",
                pytorch(net, **best),
                AVX2_ONLY,
            ),
        ]
    for title in (fsrcnn, espcn):
        out += small(title, "openvino-int8")
    for int8, title in zip(plain[::2], plain[1::2], strict=True):
        net = NETS[title]
        out += [Contender(f"bitsr {isa} {net}", int8, "bitsr", bitsr(isa, NETS[int8])) for isa in fast]
        out += small(title, "ort-int8")  # OpenVINO's int8 by ONNX Runtime, as in bench.pareto
        out += [
            Contender(f"OpenVINO fp32 {net}, AVX2", title, "openvino", openvino(net), AVX2_ONLY),
            Contender(f"OpenVINO int8 {net}, AVX2", title, "openvino", openvino(net, "ort-int8"), AVX2_ONLY),
        ]
        if "avx_vnni" in machine.features().split():
            out += [
                Contender(
                    f"OpenVINO int8 {net}, AVX-VNNI",
                    title,
                    "openvino",
                    openvino(net, "ort-int8"),
                    AVX_VNNI_ONLY,
                )
            ]
        out += [
            Contender(f"TFLite fp32 {net}", title, "ai_edge_litert", tflite(net)),
            Contender(f"TFLite int8 {net}", title, "ai_edge_litert", tflite(net, "tflite-int8")),
        ]
    return out
