"""A network of ours as an ONNX graph, for onnxruntime: the same layers with the same weights."""

from collections.abc import Callable
from functools import singledispatchmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref import nn
from xnor_ref.bench.peers.baselines import onnx_session, onnx_tools
from xnor_ref.errors import InputError
from xnor_ref.nn.layers.real_layers import BatchNorm

F32 = NDArray[np.float32]


def to_onnx(model: nn.Module, images: F32, threads: int) -> Callable[[], list[NDArray]]:
    """A function that runs `model`, of real layers only, on images (N, C, H, W) in onnxruntime: [logits].

    Raises baselines.Unavailable without onnx and onnxruntime, InputError for a layer that has no counterpart.
    """
    graph = _Graph()
    graph.finish(graph.add(model, "x"))
    return onnx_session(graph.nodes, graph.constants, {"x": images}, np.float32, threads)


class _Graph:
    """Nodes and constants in the making; `add` appends a layer and gives the name of its result."""

    def __init__(self) -> None:
        self._constant, self._node = onnx_tools()
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, op: str, *inputs: str | F32 | None, **attributes: Any) -> str:
        """One operation; arrays among its inputs become constants, None is left out."""
        names = [value if isinstance(value, str) else self._keep(value) for value in inputs if value is not None]
        output = f"value{len(self.nodes)}"
        self.nodes.append(self._node(op, names, [output], **attributes))
        return output

    def finish(self, value: str) -> None:
        """Let `value` be the result, "y"."""
        self.nodes.append(self._node("Identity", [value], ["y"]))

    def _keep(self, array: F32) -> str:
        self.constants.append(self._constant(array, f"constant{len(self.constants)}"))
        return self.constants[-1].name

    @singledispatchmethod
    def add(self, module: object, x: str) -> str:
        raise InputError(f"bench: {type(module).__name__} has no counterpart in ONNX")

    @add.register
    def _(self, module: nn.Sequential, x: str) -> str:
        for _, layer in module.children():
            x = self.add(layer, x)
        return x

    @add.register
    def _(self, module: nn.Residual, x: str) -> str:
        shortcut = x if module.shortcut is None else self.add(module.shortcut, x)
        return self.node("Add", self.add(module.body, x), shortcut)

    @add.register
    def _(self, module: nn.Conv2d, x: str) -> str:
        bias = None if module.bias is None else module.bias.data
        shape = {"pads": [*module.padding, *module.padding], "strides": list(module.stride), "group": module.groups}
        return self.node("Conv", x, module.weight.data, bias, **shape)

    @add.register
    def _(self, module: nn.IdentityShortcut, x: str) -> str:
        return self.node("Conv", x, module.weight(), strides=list(module.stride), group=module.in_channels)

    @add.register
    def _(self, module: nn.Linear, x: str) -> str:
        return self.node("Gemm", x, module.weight.data, None if module.bias is None else module.bias.data, transB=1)

    @add.register
    def _(self, module: BatchNorm, x: str) -> str:
        statistics = module.running_mean, module.running_var
        return self.node("BatchNormalization", x, module.weight.data, module.bias.data, *statistics, epsilon=module.eps)

    @add.register
    def _(self, module: nn.ReLU, x: str) -> str:
        return self.node("Relu", x)

    @add.register
    def _(self, module: nn.MaxPool2d, x: str) -> str:
        return self.node("MaxPool", x, **_window(module))

    @add.register
    def _(self, module: nn.AvgPool2d, x: str) -> str:
        return self.node("AveragePool", x, count_include_pad=1, **_window(module))

    @add.register
    def _(self, module: nn.GlobalAvgPool2d, x: str) -> str:
        return self.node("Flatten", self.node("GlobalAveragePool", x))

    @add.register
    def _(self, module: nn.Flatten, x: str) -> str:
        return self.node("Flatten", x)


def _window(module: Any) -> dict[str, list[int]]:
    pads = [*module.padding, *module.padding]
    return {"kernel_shape": list(module.kernel_size), "strides": list(module.stride), "pads": pads}
