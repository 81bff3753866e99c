"""The table of docs/interop.md: all networks and methods as ONNX files, `python -m tests.interop.onnx_table`.

Each network is given statistics by training-mode passes over images, frozen and exported. Its file answers `--images`
images in onnxruntime: one half drawn by the data set shapes, the other random pixels. `--only NAME` takes one network,
`--method METHOD` one method.
With `--qonnx COUNT` the files are QONNX, and qonnx's executor answers so many images.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from xnor_ref import freeze, models, nn
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.cli import options
from xnor_ref.datasets import shapes
from xnor_ref.interop import onnx_check
from xnor_ref.interop.onnx_out import onnx_bytes
from xnor_ref.kernels.basics.threads import get_threads
from xnor_ref.nn.methods import METHODS

PIXELS = {"lenet5": 28, "resnet20": 32, "shapes-net": 32}  # a side; the other networks take 16
OPTIONS = (  # beside the methods alone
    *({"method": "xnor++", "gamma": gamma} for gamma in ("o", "ohw", "o-hw")),
    {"method": "xnor", "input_scale": "valid", "pad_value": 1},
    {"method": "xnor", "input_scale": "off", "pad_value": -1},
    {"method": "xnor", "weight_bits": 2, "input_bits": 2},
    {"method": "xnor", "weight_bits": 1, "input_bits": 2, "input_levels": "ternary"},
    {"method": "xnor", "weight_bits": 8, "input_bits": 8},
    {"method": "xnor", "block_order": "cbap"},
    {"method": "xnor", "shortcut": "bireal", "react": True},
    {"method": "bnn", "shift_batch_norm": True},
)


def images(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Pixels, uint8 (N, H, W, C): every other image is drawn, and the rest are random."""
    channels, height, width = shape
    found = np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)
    for index in range(0, count, 2):
        picture = shapes.draw(0, "val", index)
        rows, columns = (np.arange(size) * 64 // size for size in (height, width))
        found[index] = picture[rows][:, columns, :channels]
    return found


def packed_network(name: str, method: str, **more):
    """A network with statistics of images."""
    _, channels, classes = models.usual_input(name)
    size, classes = PIXELS.get(name, 16), min(classes, 200)
    network = models.build(
        name, image_size=size, in_channels=channels, num_classes=classes, method=method, seed=1, **more
    )
    pixels = images(32, (channels, size, size))
    x = ((pixels.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25).astype(np.float32)
    with no_grad():
        for _, module in network.named_modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.momentum = 1.0
        network.train()(Tensor(x))
    return freeze(network, mean=0.5, std=0.25)


def row(packed, count: int, qonnx: bool) -> tuple[str, ...]:
    """What one network's file does."""
    how = {"qonnx": True, "normalised": True, "batch": 1} if qonnx else {}
    content = onnx_bytes(packed, **how)
    file = onnx_check.OnnxFile(content, "net", packed, get_threads())
    found = onnx_check.compare(file, images(count, packed.input_shape))
    assert not found.wrong, found
    with tempfile.TemporaryDirectory() as folder:
        packed.save(Path(folder) / "model")
        size = (Path(folder) / "model").stat().st_size
    figures = size, len(content), found.labels_equal, found.near
    return *(f"{figure:,}" for figure in figures), f"{found.difference:.0e}"


def main() -> None:
    """Print the rows as Markdown, one network after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--qonnx", type=int, default=0)
    parser.add_argument("--only")
    parser.add_argument("--method")
    given = parser.parse_args()
    options.use_threads(None)
    print("| network, pixels | method | bytes, packed | bytes, ONNX | labels equal | near a threshold | difference |")
    print("|---|---|---|---|---|---|---|")
    for name in models.names() if given.only is None else (given.only,):
        for how in (*({"method": method} for method in METHODS), *(OPTIONS if name == "shapes-net" else ())):
            method = ", ".join(f"{key} {value}" if key != "method" else str(value) for key, value in how.items())
            if given.method not in (None, method):
                continue
            packed = packed_network(name, **how)
            figures = row(packed, given.qonnx or given.images, bool(given.qonnx))
            print(f"| {name}, {packed.input_shape[1]} | {method} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
