"""Make a file that contenders share: ``python -m bench.prepare KIND NET PATH TASK`` (bench.task
does)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from . import machine
from .nets import fold_batch_norm, random_packed, torch_net
from .task import Task, prepared


def calibration(task: Task, n: int = 16) -> list[np.ndarray]:
    """LR luma of (1, 1, height, width) for quantisers: shifted and mirrored views of the bench's
    image."""
    y = task.luma()
    views = [np.roll(y, (17 * i, 29 * i), (0, 1))[:: (-1) ** i] for i in range(n)]
    return [np.ascontiguousarray(v[None, None]) for v in views]


def make_bsr(path: Path, net: str, task: Task) -> None:
    if net.startswith("random-"):
        blocks = int(net.removeprefix("random-64x"))
        packed = random_packed(task.scale, 64, blocks)
    else:
        from bitsr.pack import pack

        packed = pack(torch_net(net, task.scale), [task.luma()[:64, :64]], net)  # type: ignore[arg-type]
    packed.write(path)


def make_onnx(path: Path, net: str, task: Task) -> None:
    """Export through torch.onnx, batch norm folded, fixed size: the form that runtimes like
    best."""
    import torch

    module = torch_net(net, task.scale)
    if net == "srresnet":
        module = fold_batch_norm(module)
    example = torch.from_numpy(task.luma()[None, None])
    torch.onnx.export(
        module,
        (example,),
        str(path),
        input_names=["lr"],
        output_names=["sr"],
        dynamo=True,
        external_data=False,
    )


def quantise_onnx(source: Path, path: Path, images: list[np.ndarray]) -> None:
    """Static QDQ quantisation by ONNX Runtime: weights int8 per channel, activations uint8. images:
    LR luma (1, 1, h, w).

    x86 without VNNI adds pairs of its products in 16 bits and saturates: there weights get 7 bits
    (``reduce_range``), which costs no time.
    """
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.items = iter([{"lr": x} for x in images])

        def get_next(self):
            return next(self.items, None)

    simd = machine.features()
    ready = path.with_suffix(".pre.onnx")
    quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
    q.quantize_static(
        str(ready),
        str(path),
        Reader(),
        quant_format=q.QuantFormat.QDQ,
        activation_type=q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8,
        per_channel=True,
        reduce_range="avx2" in simd and "vnni" not in simd,
    )
    ready.unlink()


def make_ort_int8(path: Path, net: str, task: Task) -> None:
    quantise_onnx(prepared(task, "onnx", net), path, calibration(task))


def make_openvino_int8(path: Path, net: str, task: Task) -> None:
    """Post-training quantisation by NNCF with its defaults."""
    import nncf  # pyright: ignore[reportMissingImports]
    import openvino as ov  # pyright: ignore[reportMissingImports]

    model = ov.Core().read_model(str(prepared(task, "onnx", net)))
    data = nncf.Dataset(calibration(task))
    ov.save_model(nncf.quantize(model, data, subset_size=16), str(path), compress_to_fp16=False)


def make_tflite(path: Path, net: str, task: Task) -> None:
    """Convert by LiteRT's own torch exporter, batch norm folded, fixed size."""
    import litert_torch  # pyright: ignore[reportMissingImports]
    import torch

    module = torch_net(net, task.scale)
    if net == "srresnet":
        module = fold_batch_norm(module)
    litert_torch.convert(module, (torch.from_numpy(task.luma()[None, None]),)).export(str(path))


def make_tflite_int8(path: Path, net: str, task: Task) -> None:
    """Static quantisation by LiteRT's quantiser: weights int8 per channel, activations int8."""
    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]
    from ai_edge_quantizer import quantizer, recipe  # pyright: ignore[reportMissingImports]

    source = str(prepared(task, "tflite", net))
    key, signature = next(iter(Interpreter(source).get_signature_list().items()))
    name = signature["inputs"][0]
    quantiser = quantizer.Quantizer(source, recipe.static_wi8_ai8())
    found = quantiser.calibrate({key: [{name: x} for x in calibration(task)]})
    quantiser.quantize(found).export_model(str(path), overwrite=True)


MAKERS = {
    "bsr": make_bsr,
    "onnx": make_onnx,
    "ort-int8": make_ort_int8,
    "openvino-int8": make_openvino_int8,
    "tflite": make_tflite,
    "tflite-int8": make_tflite_int8,
}

if __name__ == "__main__":
    kind, net, path, task = sys.argv[1:]
    MAKERS[kind](Path(path), net, Task.parse(task))
