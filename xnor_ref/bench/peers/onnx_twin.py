"""A network of ours as an ONNX graph, for onnxruntime: the same layers with the same weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref import nn
from xnor_ref.bench.measuring.layers import F32
from xnor_ref.bench.peers.baselines import onnx_session, onnx_tools
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.nn.layers.real_layers import BatchNorm


def to_onnx(model: nn.Module, images: F32, threads: int) -> Callable[[], list[NDArray]]:
    """A function that runs `model`, of real layers only, on images (N, C, H, W) in onnxruntime: [logits].

    Raises baselines.Unavailable without onnx and onnxruntime, InputError for a layer that has no counterpart.
    """
    make_constant, make_node = onnx_tools()
    nodes: list[Any] = []
    constants: list[Any] = []

    def node(op: str, *inputs: str | F32 | None, **attributes: Any) -> str:
        """Append an operation and name its result; arrays among its inputs become constants, None is left out."""
        names = [value if isinstance(value, str) else constant(value) for value in inputs if value is not None]
        nodes.append(make_node(op, names, [f"value{len(nodes)}"], **attributes))
        return f"value{len(nodes) - 1}"

    def constant(array: F32) -> str:
        constants.append(make_constant(array, f"constant{len(constants)}"))
        return constants[-1].name

    def add(module: Any, x: str) -> str:
        """Append a layer and name its result."""
        match module:
            case nn.Sequential():
                for _, layer in module.children():
                    x = add(layer, x)
                return x
            case nn.Residual():
                shortcut = x if module.shortcut is None else add(module.shortcut, x)
                return node("Add", add(module.body, x), shortcut)
            case nn.Conv2d():
                return node(
                    "Conv",
                    x,
                    module.weight.data,
                    _bias(module),
                    group=module.groups,
                    dilations=list(module.dilation),
                    **_window(module),
                )
            case nn.IdentityShortcut():
                return node("Conv", x, module.weight(), group=module.in_channels, strides=list(module.stride))
            case nn.Linear():
                return node("Gemm", x, module.weight.data, _bias(module), transB=1)
            case BatchNorm():
                parts = module.weight.data, module.bias.data, module.running_mean, module.running_var
                return node("BatchNormalization", x, *parts, epsilon=module.eps)
            case nn.ReLU():
                return node("Relu", x)
            case nn.MaxPool2d():
                return node("MaxPool", x, **_pool(module))
            case nn.AvgPool2d():
                return node("AveragePool", x, count_include_pad=int(module.count_include_pad), **_pool(module))
            case nn.GlobalAvgPool2d():
                return node("Flatten", node("GlobalAveragePool", x))
            case nn.Flatten():
                return node("Flatten", x)
        raise InputError(f"bench: {type(module).__name__} has no counterpart in ONNX")

    nodes.append(make_node("Identity", [add(model, "x")], ["y"]))
    return onnx_session(nodes, constants, {"x": images}, np.float32, threads)


def _bias(module: Any) -> F32 | None:
    return None if module.bias is None else module.bias.data


def _window(module: Any) -> dict[str, Any]:
    if module.padding == "same":
        return {"strides": list(module.stride), "auto_pad": "SAME_UPPER"}
    (top, bottom), (left, right) = Window.of(1, 1, module.padding).padding
    return {"strides": list(module.stride), "pads": [top, left, bottom, right]}


def _pool(module: Any) -> dict[str, Any]:
    return {"kernel_shape": list(module.kernel_size), "ceil_mode": int(module.ceil_mode), **_window(module)}
