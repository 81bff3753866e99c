"""Writes brevitas.zip: networks of Brevitas as its QONNX exporter writes them, with images and what Brevitas computes.

pip install torch==2.13.0 brevitas onnx onnxscript onnxoptimizer qonnx
python -m tests.interop.onnx_in.make_brevitas_fixtures
"""

import io
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import brevitas.nn as qnn
import numpy as np
import onnx
import torch
from brevitas.core.bit_width import BitWidthImplType
from brevitas.core.quant import QuantType
from brevitas.core.restrict_val import RestrictValueType
from brevitas.core.scaling import ScalingImplType
from brevitas.core.zero_point import ZeroZeroPoint
from brevitas.export import export_qonnx
from brevitas.inject import ExtendedInjector
from brevitas.quant import Int8WeightPerTensorFloat, Uint8ActPerTensorFloat
from brevitas.quant.solver import ActQuantSolver, WeightQuantSolver
from dependencies import value
from torch import nn

IMAGES = 3


class Common(ExtendedInjector):
    """The quantiser of Brevitas' BNN-PYNQ examples: binary with one bit, else integers, of a constant scale."""

    bit_width_impl_type = BitWidthImplType.CONST
    scaling_impl_type = ScalingImplType.CONST
    restrict_scaling_type = RestrictValueType.FP
    zero_point_impl = ZeroZeroPoint
    float_to_int_impl_type = "round"
    scaling_per_output_channel = False
    narrow_range = True
    signed = True

    @value
    def quant_type(bit_width):
        return QuantType.BINARY if bit_width == 1 else QuantType.INT


class Weights(Common, WeightQuantSolver):
    scaling_const = 0.5


class Signs(Common, ActQuantSolver):
    min_val, max_val = -1.0, 1.0


class Block(nn.Module):
    """A binary convolution with a shortcut."""

    def __init__(self, channels):
        super().__init__()
        self.act = qnn.QuantIdentity(act_quant=Signs, bit_width=1)
        self.conv = qnn.QuantConv2d(
            channels, channels, 3, padding=1, bias=False, weight_quant=Weights, weight_bit_width=1
        )
        self.norm, self.prelu = nn.BatchNorm2d(channels), nn.PReLU(channels)

    def forward(self, x):
        return self.prelu(self.norm(self.conv(self.act(x))) + x)


def chain(bits):
    """The layers of CNV in small: inputs of 8 bits, then binary weights and inputs of `bits`."""
    eight = qnn.QuantIdentity(
        act_quant=Signs, bit_width=8, max_val=1 - 2.0**-7, narrow_range=False,
        restrict_scaling_type=RestrictValueType.POWER_OF_TWO,
    )  # fmt: skip
    how = {"bias": False, "weight_quant": Weights, "weight_bit_width": 1}
    act = {"act_quant": Signs, "bit_width": bits}
    return nn.Sequential(
        eight, qnn.QuantConv2d(3, 6, 3, **how), nn.BatchNorm2d(6), qnn.QuantIdentity(**act),
        qnn.QuantConv2d(6, 8, 3, **how), nn.BatchNorm2d(8), qnn.QuantIdentity(**act), nn.MaxPool2d(2), nn.Flatten(),
        qnn.QuantLinear(8 * 3 * 3, 12, **how), nn.BatchNorm1d(12), qnn.QuantIdentity(**act),
        qnn.QuantLinear(12, 5, **how),
    )  # fmt: skip


def unsigned():
    """Weights of 8 bits, and unsigned inputs of 2 bits behind ReLU."""
    return nn.Sequential(
        qnn.QuantConv2d(3, 6, 3, padding=1, weight_quant=Int8WeightPerTensorFloat), nn.BatchNorm2d(6),
        qnn.QuantReLU(bit_width=2, act_quant=Uint8ActPerTensorFloat),
        qnn.QuantConv2d(6, 8, 3, padding=1, bias=False, weight_quant=Weights, weight_bit_width=1), nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def residual():
    first = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
    return nn.Sequential(
        *first, Block(8), Block(8), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )


NETWORKS = {"binary": lambda: chain(1), "two-bits": lambda: chain(2), "unsigned": unsigned, "residual": residual}


def made(make):
    """(file, images, logits): statistics of BatchNorm are those of images."""
    torch.manual_seed(0)
    module = make().train()
    for _ in range(4):
        module(torch.rand(32, 3, 10, 10) * 2 - 1)
    module.eval()
    images = torch.rand(IMAGES, 3, 10, 10) * 2 - 1
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "net.onnx"
        export_qonnx(module, images[:1], export_path=str(path))
        model = onnx.load(path)
        logits = module(images)
    for part in (model, model.graph, *model.graph.node):
        part.doc_string = ""
    for part in (*model.graph.node, *model.graph.initializer, *model.graph.value_info):
        del part.metadata_props[:]
    del model.graph.value_info[:]
    return model.SerializeToString(), images.numpy(), getattr(logits, "value", logits).numpy()


def main():
    with zipfile.ZipFile(Path(__file__).with_name("brevitas.zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("versions.txt", "".join(f"{name} {version(name)}\n" for name in ("brevitas", "torch", "onnx")))
        for name, make in NETWORKS.items():
            content, images, logits = made(make)
            numbers = io.BytesIO()
            np.savez_compressed(numbers, images=images, logits=logits)
            archive.writestr(f"{name}.onnx", content)
            archive.writestr(f"{name}.npz", numbers.getvalue())


if __name__ == "__main__":
    main()
