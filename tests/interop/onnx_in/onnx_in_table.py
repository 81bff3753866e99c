"""The table of docs/interop.md: networks of PyTorch and Brevitas by way of ONNX files, compared with these libraries.

pip install -e '.[onnx,qonnx,torch]' brevitas onnxscript onnxoptimizer
python -m tests.interop.onnx_in.onnx_in_table --images 1000
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import brevitas.nn as qnn
import numpy as np
import torch
from brevitas.core.restrict_val import RestrictValueType
from brevitas.export import export_qonnx
from torch import nn

from tests.interop.onnx_in.make_brevitas_fixtures import Signs, Weights
from tests.interop.onnx_in.torch_networks import NETWORKS, exported, trained
from xnor_ref import freeze
from xnor_ref.interop import from_onnx


def cnv(bits):
    """The layers and sizes of CNV of Brevitas' BNN-PYNQ examples: 32x32 pixels, weights of 1 bit, inputs of `bits`."""
    how = {"bias": False, "weight_quant": Weights, "weight_bit_width": 1}
    act = {"act_quant": Signs, "bit_width": bits}
    last = {"max_val": 1 - 2.0**-7, "narrow_range": False, "restrict_scaling_type": RestrictValueType.POWER_OF_TWO}
    layers = [qnn.QuantIdentity(act_quant=Signs, bit_width=8, **last)]
    channels = 3
    for outputs, pool in ((64, False), (64, True), (128, False), (128, True), (256, False), (256, False)):
        conv = qnn.QuantConv2d(channels, outputs, 3, **how)
        layers += [conv, nn.BatchNorm2d(outputs, eps=1e-4), qnn.QuantIdentity(**act)]
        layers += [nn.MaxPool2d(2)] if pool else []
        channels = outputs
    layers.append(nn.Flatten())
    for outputs in (512, 512):
        linear = qnn.QuantLinear(channels, outputs, **how)
        layers += [linear, nn.BatchNorm1d(outputs, eps=1e-4), qnn.QuantIdentity(**act)]
        channels = outputs
    return nn.Sequential(*layers, qnn.QuantLinear(channels, 10, **how), nn.BatchNorm1d(10))


def row(name, module, path, images):
    packed = freeze(from_onnx(path))
    packed.save(path.with_suffix(".safetensors"))
    with torch.no_grad():
        wanted = torch.cat([getattr(y, "value", y) for y in map(module, images.split(100))]).numpy()
    found = packed.logits(images.numpy())
    difference = np.abs(found - wanted).max(axis=1) / np.abs(wanted).max(axis=1)
    near = difference <= 1e-4
    same = int((found.argmax(axis=1) == wanted.argmax(axis=1)).sum())
    size = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    packed_size = path.with_suffix(".safetensors").stat().st_size
    print(f"| {name} | {same:,} | {near.sum():,} | {difference[near].max():.1e} | {size:,} | {packed_size:,} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1000)
    count = parser.parse_args().images
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for index, name in enumerate(NETWORKS):
            module = trained(name)
            images = torch.randn(count, 3, 16, 16)
            row(f"{name}, torch", module, exported(module, Path(folder) / f"{index}.onnx"), images)
        for bits in (1, 2):
            torch.manual_seed(0)
            module, images = cnv(bits).train(), torch.randint(0, 256, (count, 3, 32, 32)) / 255 * 2 - 1
            with torch.no_grad():
                for part in images.split(100)[:3]:
                    module(part)
            path = Path(folder) / f"cnv{bits}.onnx"
            export_qonnx(module.eval(), images[:1], export_path=str(path))
            row(f"CNV, 1 bit a weight and {bits} an input, Brevitas", module, path, images)


if __name__ == "__main__":
    main()
