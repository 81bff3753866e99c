"""From a trained network to a packed one.

Each kind of layer has one `emit` function, which appends nodes to a graph. A new kind needs one more of them, marked
`@emit.register`. A BatchNorm whose only reader is a binary layer without K is folded into thresholds afterwards; that
is exact, see `thresholds`. Everything else keeps its float32 numbers, so that the packed network repeats the float
network's answers to the bit.
"""

import platform
from functools import singledispatch
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

import xnor_ref
from xnor_ref import nn
from xnor_ref.binary import INPUT_SCALES
from xnor_ref.errors import InputError, NonFiniteError
from xnor_ref.kernels.basics.modes import KMode
from xnor_ref.kernels.ops import bit_planes
from xnor_ref.nn.layers.binary_layers import BinaryLayer
from xnor_ref.nn.layers.real_layers import BatchNorm
from xnor_ref.nn.module import overrides
from xnor_ref.packed.file import FORMAT, version_of
from xnor_ref.packed.ops import compact_bits
from xnor_ref.packed.runtime import PackedNetwork
from xnor_ref.packed.thresholds import fold_threshold

Fields = dict[str, NDArray | None]


def freeze(
    model: nn.Module,
    *,
    input_shape: tuple[int, int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    classes: tuple[str, ...],
    training: dict[str, Any] | None = None,
    data_sha256: str | None = None,
) -> PackedNetwork:
    """Pack a network as it is in inference: signs of the latent weights, their scales, running statistics.

    Parameters
    ----------
    model : nn.Module
        Made of the layers of `nn`; not changed, whatever mode it is in.
    input_shape : (C, H, W)
    mean, std : per channel, of pixel/255
    classes : names in label order
    training : dict of JSON values, kept in the file for people
    data_sha256 : fingerprint of the training data, kept in the file for people

    Returns
    -------
    PackedNetwork
        Its logits equal those of `model` in inference, bit for bit.

    Raises
    ------
    InputError
        A layer of a kind that cannot be packed.
    NonFiniteError
        A parameter or running statistic is NaN or infinite.
    ModelFileError
        The network, its input and its classes do not fit together.

    Examples
    --------
    >>> layers = nn.Sequential(nn.Flatten(), nn.BinaryLinear(4, 2))
    >>> packed = freeze(layers, input_shape=(1, 2, 2), mean=(0.5,), std=(0.5,), classes=("no", "yes"))
    >>> [row["op"] for row in packed.summary()], packed.summary()[1]["bits"]
    (['flatten', 'binary_linear'], 8)
    """
    for name, array in model.state_dict().items():
        if not np.isfinite(array).all():
            raise NonFiniteError(f"freeze: {name} holds NaN or infinity")
    graph = Graph()
    _emit_checked(model, graph, -1, "")
    graph.fold_scales()
    graph.fold_thresholds()
    channels, height, width = (int(size) for size in input_shape)
    metadata = {
        "format": FORMAT,
        "version": version_of(graph.nodes, {}),
        "input": {
            "channels": channels,
            "height": height,
            "width": width,
            "mean": [float(value) for value in mean],
            "std": [float(value) for value in std],
        },
        "classes": list(classes),
        "graph": graph.nodes,
        "producer": {
            "xnor_ref": xnor_ref.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": version("numba"),
        },
        "training": training or {},
        "data_sha256": data_sha256,
    }
    return PackedNetwork(metadata, graph.tensors())


class Graph:
    """Nodes in the making; positions in it are what layers are connected by."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self._fields: list[dict[str, NDArray]] = []

    def append(self, op: str, name: str, inputs: list[int], fields: Fields | None = None, **attributes) -> int:
        """Add a node and give its position; fields that are None are left out."""
        self.nodes.append({"op": op, "name": name or op, "inputs": inputs, **attributes})
        self._fields.append({key: array for key, array in (fields or {}).items() if array is not None})
        return len(self.nodes) - 1

    def tensors(self) -> dict[str, NDArray]:
        """All fields by their name in the file."""
        pairs = zip(self.nodes, self._fields)
        return {f"{node['name']}.{key}": array for node, fields in pairs for key, array in fields.items()}

    def fold_thresholds(self) -> None:
        """Turn every affine node that only one binary node without K reads into thresholds of that node."""
        readers = [source for node in self.nodes for source in node["inputs"]]
        folded = set()
        for node, fields in zip(self.nodes, self._fields):
            if node["op"] not in ("binary_conv2d", "binary_linear") or node["input_scale"] != KMode.OFF:
                continue
            source = node["inputs"][0]
            if source >= 0 and self.nodes[source]["op"] == "affine" and readers.count(source) == 1:
                threshold, flip = fold_threshold(self._fields[source]["scale"], self._fields[source]["shift"])
                fields |= {"threshold": threshold, "flip": flip.astype(np.uint8)}
                node["inputs"] = list(self.nodes[source]["inputs"])
                folded.add(source)
        self._drop(folded)

    def fold_scales(self) -> None:
        """Make one learned scale a channel the alpha of the layer before it, where that has none and no K.

        The product is the same: fl(Z) times the scale. A result that others read as well stays as it is.
        """
        readers = [source for node in self.nodes for source in node["inputs"]]
        folded = set()
        for index, (node, fields) in enumerate(zip(self.nodes, self._fields)):
            source = node["inputs"][0]
            if node["op"] != "scale" or fields.keys() != {"channel"} or source < 0 or readers.count(source) != 1:
                continue
            layer, target = self.nodes[source], self._fields[source]
            if "bits" in target and "alpha" not in target and layer.get("input_scale", KMode.OFF) == KMode.OFF:
                target["alpha"] = fields["channel"]
                folded.add(index)
        for node in self.nodes:
            node["inputs"] = [self.nodes[i]["inputs"][0] if i in folded else i for i in node["inputs"]]
        self._drop(folded)

    def _drop(self, folded: set[int]) -> None:
        """Remove nodes that no other reads any more."""
        kept = [index for index in range(len(self.nodes)) if index not in folded]
        moved = {-1: -1} | {old: new for new, old in enumerate(kept)}
        self.nodes = [self.nodes[index] for index in kept]
        self._fields = [self._fields[index] for index in kept]
        for node in self.nodes:
            node["inputs"] = [moved[source] for source in node["inputs"]]


def _emit_checked(module: nn.Module, graph: Graph, source: int, name: str) -> int:
    """`emit`, for layers that compute what `emit` knows: a subclass may compute something else."""
    known = (kind for kind in type(module).__mro__ if kind in emit.registry and issubclass(kind, nn.Module))
    kind: Any = next(known, nn.Module)
    if kind is nn.Module or overrides(module, kind, *getattr(kind, "packed_as", ("forward",))):
        raise InputError(f"freeze: layer {name!r} is a {type(module).__name__}, which cannot be packed")
    return emit(module, graph, source, name)


@singledispatch
def emit(module: object, graph: Graph, source: int, name: str) -> int:
    """Append the nodes of a layer that reads the node `source`; give the position of its result."""
    raise InputError(f"freeze: layer {name!r} is a {type(module).__name__}, which cannot be packed")


@emit.register
def _(module: nn.Sequential, graph: Graph, source: int, name: str) -> int:
    for child, layer in module.children():
        source = _emit_checked(layer, graph, source, f"{name}.{child}" if name else child)
    return source


@emit.register
def _(module: nn.Residual, graph: Graph, source: int, name: str) -> int:
    prefix = f"{name}." if name else ""
    body = _emit_checked(module.body, graph, source, f"{prefix}body")
    shortcut = source
    if module.shortcut is not None:
        shortcut = _emit_checked(module.shortcut, graph, source, f"{prefix}shortcut")
    return graph.append("add", f"{prefix}add", [body, shortcut])


@emit.register
def _(module: nn.Conv2d, graph: Graph, source: int, name: str) -> int:
    return graph.append(
        "conv2d",
        name,
        [source],
        {"weight": module.weight.data, "bias": _data(module.bias)},
        stride=list(module.stride),
        padding=list(module.padding),
        groups=module.groups,
    )


@emit.register
def _(module: nn.IdentityShortcut, graph: Graph, source: int, name: str) -> int:
    fields: Fields = {"weight": module.weight()}
    stride = list(module.stride)
    return graph.append("conv2d", name, [source], fields, stride=stride, padding=[0, 0], groups=module.in_channels)


@emit.register
def _(module: nn.Linear, graph: Graph, source: int, name: str) -> int:
    return graph.append("linear", name, [source], {"weight": module.weight.data, "bias": _data(module.bias)})


@emit.register
def _(module: BatchNorm, graph: Graph, source: int, name: str) -> int:
    scale, shift = module.inference_affine()
    return graph.append("affine", name, [source], {"scale": scale, "shift": shift})


@emit.register(nn.ShiftBatchNorm1d)
@emit.register(nn.ShiftBatchNorm2d)
def _(module: BatchNorm, graph: Graph, source: int, name: str) -> int:
    scale, shift = module.inference_affine()
    return graph.append("affine", name, [source], {"scale": scale, "shift": shift})


@emit.register
def _(module: nn.Shift, graph: Graph, source: int, name: str) -> int:
    shift = module.shift.data
    return graph.append("affine", name, [source], {"scale": np.ones_like(shift), "shift": shift})


@emit.register
def _(module: nn.ReLU, graph: Graph, source: int, name: str) -> int:
    return graph.append("relu", name, [source])


@emit.register
def _(module: nn.PReLU, graph: Graph, source: int, name: str) -> int:
    return graph.append("prelu", name, [source], {"slope": module.weight.data})


@emit.register
def _(module: nn.Hardtanh, graph: Graph, source: int, name: str) -> int:
    return graph.append("hardtanh", name, [source])


@emit.register
def _(module: nn.Sign, graph: Graph, source: int, name: str) -> int:
    return graph.append("sign", name, [source])


@emit.register
def _(module: nn.Scale, graph: Graph, source: int, name: str) -> int:
    fields: Fields = {key: factor.data for key, factor in module.factors().items()}
    return graph.append("scale", name, [source], fields)


@emit.register
def _(module: nn.MaxPool2d, graph: Graph, source: int, name: str) -> int:
    return _pool("max_pool", module, graph, source, name)


@emit.register
def _(module: nn.AvgPool2d, graph: Graph, source: int, name: str) -> int:
    return _pool("avg_pool", module, graph, source, name)


def _pool(op: str, module: nn.MaxPool2d | nn.AvgPool2d, graph: Graph, source: int, name: str) -> int:
    kernel, stride, padding = (list(size) for size in (module.kernel_size, module.stride, module.padding))
    return graph.append(op, name, [source], kernel=kernel, stride=stride, padding=padding)


@emit.register
def _(module: nn.GlobalAvgPool2d, graph: Graph, source: int, name: str) -> int:
    return graph.append("global_avg_pool", name, [source])


@emit.register
def _(module: nn.Flatten, graph: Graph, source: int, name: str) -> int:
    return graph.append("flatten", name, [source])


@emit.register
def _(module: nn.Dropout, graph: Graph, source: int, name: str) -> int:
    return source  # it does nothing in inference


@emit.register
def _(module: nn.BinaryConv2d, graph: Graph, source: int, name: str) -> int:
    return graph.append(
        "binary_conv2d",
        name,
        [source],
        {"bits": compact_bits(module.weight.data), "alpha": module.alpha()},
        in_channels=module.in_channels,
        kernel_size=list(module.kernel_size),
        stride=list(module.stride),
        padding=list(module.padding),
        pad_value=module.pad_value,
        input_scale=_input_scale(module, name),
    )


@emit.register
def _(module: nn.BinaryLinear, graph: Graph, source: int, name: str) -> int:
    return graph.append(
        "binary_linear",
        name,
        [source],
        {"bits": compact_bits(module.weight.data), "alpha": module.alpha()},
        in_features=module.in_features,
        input_scale=_input_scale(module, name),
    )


@emit.register
def _(module: nn.KBitConv2d, graph: Graph, source: int, name: str) -> int:
    return graph.append(
        "kbit_conv2d",
        name,
        [source],
        {"bits": _planes(module), "alpha": module.alpha()},
        in_channels=module.in_channels,
        kernel_size=list(module.kernel_size),
        stride=list(module.stride),
        padding=list(module.padding),
        pad_value=module.pad_value,
        input_scale=_input_scale(module, name),
        input_bits=module.input_bits,
        weight_bits=module.weight_bits,
    )


@emit.register
def _(module: nn.KBitLinear, graph: Graph, source: int, name: str) -> int:
    return graph.append(
        "kbit_linear",
        name,
        [source],
        {"bits": _planes(module), "alpha": module.alpha()},
        in_features=module.in_features,
        input_scale=_input_scale(module, name),
        input_bits=module.input_bits,
        weight_bits=module.weight_bits,
    )


def _input_scale(module: BinaryLayer, name: str) -> str:
    """The name of its K in a model file."""
    if module.input_scale.mode is None:
        raise InputError(
            f"freeze: layer {name!r} has the input_scale {module.input_scale.name!r}; a model file can hold "
            f"{', '.join(rule.name for rule in INPUT_SCALES.values() if rule.mode)}"
        )
    return module.input_scale.mode


def _planes(module: nn.KBitConv2d | nn.KBitLinear) -> NDArray[np.uint64]:
    """The weight's bit planes, lowest first, each as rows of bits: (planes, O, words)."""
    planes = bit_planes.planes(module.weight_levels(), module.weight_bits)
    return np.stack([compact_bits(bit_planes.as_signs(plane)) for plane in planes])


@emit.register
def _(module: nn.BinaryWeightConv2d, graph: Graph, source: int, name: str) -> int:
    return graph.append(
        "sign_weight_conv2d",
        name,
        [source],
        {"bits": compact_bits(module.weight.data), "alpha": module.alpha()},
        in_channels=module.in_channels,
        kernel_size=list(module.kernel_size),
        stride=list(module.stride),
        padding=list(module.padding),
    )


@emit.register
def _(module: nn.BinaryWeightLinear, graph: Graph, source: int, name: str) -> int:
    return graph.append(
        "sign_weight_linear",
        name,
        [source],
        {"bits": compact_bits(module.weight.data), "alpha": module.alpha()},
        in_features=module.in_features,
    )


def _data(parameter: nn.Parameter | None) -> NDArray | None:
    return None if parameter is None else parameter.data
