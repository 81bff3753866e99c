"""One of our networks as an ONNX graph, for onnxruntime: the same layers with the same weights."""

from collections.abc import Callable

from numpy.typing import NDArray

from xnor_ref import nn
from xnor_ref.bench.measuring.layers import F32
from xnor_ref.bench.peers import baselines
from xnor_ref.interop.onnx_out import onnx_bytes
from xnor_ref.packed.freeze import freeze


def to_onnx(model: nn.Module, images: F32, threads: int) -> Callable[[], list[NDArray]]:
    """Return a function that runs `model` on images (N, C, H, W) in onnxruntime and returns [logits].

    Raises baselines.Unavailable without onnx and onnxruntime, InputError for a layer that has no counterpart.
    """
    baselines.require("onnx")
    baselines.require("onnxruntime")
    batch, channels, height, width = images.shape
    packed = freeze(model, input_shape=(channels, height, width), mean=0, std=1)
    return baselines.onnx_run(onnx_bytes(packed, normalised=True, batch=batch), {"images": images}, threads)
