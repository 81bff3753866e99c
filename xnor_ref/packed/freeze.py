"""Freezing: from a trained network to a packed one.

`LAYERS` gives the node of each kind of layer. A BatchNorm that is read only by one binary layer without K is then
folded into thresholds, which is exact, see `thresholds`. Everything else keeps its float32 numbers, so the packed
network gives the float network's answers bit for bit.
"""

import platform
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

import xnor_ref
from xnor_ref import nn
from xnor_ref.binary import INPUT_SCALES
from xnor_ref.errors import InputError, InputTypeError, ModelFileError, NonFiniteError
from xnor_ref.kernels.basics.modes import KMode
from xnor_ref.kernels.ops import bit_planes
from xnor_ref.nn.graph import INPUT
from xnor_ref.nn.layers.binary_layers import BinaryLayer
from xnor_ref.nn.layers.kbit_layers import KBitLayer
from xnor_ref.nn.layers.real_layers import BatchNorm
from xnor_ref.nn.module import overrides
from xnor_ref.packed.file import FORMAT, version_of
from xnor_ref.packed.ops import compact_bits
from xnor_ref.packed.runtime import PackedNetwork
from xnor_ref.packed.shapes import Shape, output_shape
from xnor_ref.packed.thresholds import fold_threshold
from xnor_ref.steady import steady

Fields = dict[str, NDArray | None]
_version = cache(version)  # importlib.metadata keeps something of each call for good


@steady
def freeze(
    network: nn.Module,
    *,
    input_shape: tuple[int, int, int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    training: dict[str, Any] | None = None,
    data_sha256: str | None = None,
) -> PackedNetwork:
    """Pack a network in its inference form: signs of the latent weights, their scales, running statistics.

    Arguments not given are taken from `network.about`, a dict with these keys, which training sets. The input shape of
    a network of `models.build` is taken from its configuration.

    Parameters
    ----------
    network : nn.Module
        Made of layers of `nn`, including `Sequential`, `Residual` and `Graph`, in training or inference mode. Not
        changed.
    input_shape : (C, H, W)
    mean, std : number, or one number per channel
        Mean and standard deviation of pixel/255 that normalise raw pixels.
    classes : names in label order, optional
        By default "0", "1", and so on.
    training : dict of JSON values, optional
        How the network was trained. Stored in the file as information.
    data_sha256 : str, optional
        Digest of the training data, 64 hexadecimal digits. Stored in the file as information.

    Returns
    -------
    PackedNetwork
        Its logits equal those of `network` after `network.eval()` and inside `no_grad`, bit for bit.

    Raises
    ------
    InputTypeError
        `network` is not an nn.Module.
    InputError
        The input shape, mean or std is missing; a layer, named in the message, cannot be packed; or the network, its
        input and its classes do not match.
    NonFiniteError
        A parameter or running statistic is NaN or infinite.

    Examples
    --------
    >>> network = nn.Sequential(nn.Flatten(), nn.BinaryLinear(4, 2))
    >>> packed = freeze(network, input_shape=(1, 2, 2), mean=0.5, std=0.5, classes=("no", "yes"))
    >>> [(layer.name, layer.kind, layer.output_shape) for layer in packed.layers]
    [('0', 'flatten', (4,)), ('1', 'binary_linear', (2,))]
    """
    if not isinstance(network, nn.Module):
        raise InputTypeError(f"freeze: network must be an nn.Module, got {type(network).__name__}")
    given = dict(
        input_shape=input_shape, mean=mean, std=std, classes=classes, training=training, data_sha256=data_sha256
    )
    about = {**_shape_of(network), **getattr(network, "about", {})}
    about |= {key: value for key, value in given.items() if value is not None}
    missing = [key for key in ("input_shape", "mean", "std") if key not in about]
    if missing:
        raise InputError(f"freeze: {', '.join(missing)} must be given, because network.about does not hold them")
    for name, array in network.state_dict().items():
        if not np.isfinite(array).all():
            raise NonFiniteError(f"freeze: {name} holds NaN or infinity")
    channels, height, width = _numbers("input_shape", about["input_shape"], int, 3)
    graph = Graph((channels, height, width))
    outputs = graph.shapes[_emit(network, graph, [-1], "")][0]
    graph.fold_scales()
    graph.fold_thresholds()
    metadata = {
        "format": FORMAT,
        "version": version_of(graph.nodes, {}),
        "input": {
            "channels": channels,
            "height": height,
            "width": width,
            **{key: _numbers(key, about[key], float, channels) for key in ("mean", "std")},
        },
        "graph": graph.nodes,
        "producer": {
            "xnor_ref": xnor_ref.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": _version("numba"),
        },
        "training": about.get("training") or {},
        "data_sha256": about.get("data_sha256"),
    }
    tensors = graph.tensors()
    names = about.get("classes")
    if isinstance(names, str) or not isinstance(names, Iterable | None):
        raise InputTypeError(f"freeze: classes must be names in label order, got {names!r}")
    try:
        metadata["classes"] = list(map(str, range(outputs)) if names is None else names)
        return PackedNetwork(metadata, tensors)
    except ModelFileError as error:
        raise InputError(f"freeze: {error}") from None


def _shape_of(network: nn.Module) -> dict[str, Any]:
    """Return the input shape that a network of `models.build` was made for."""
    config = getattr(network, "config", None)
    return {"input_shape": (config["in_channels"], config["image_size"], config["image_size"])} if config else {}


def _numbers(name: str, values: Any, kind: Callable, count: int) -> list[Any]:
    """Return `count` numbers. A single mean or std is repeated for every channel."""
    try:
        numbers = [kind(value) for value in (values if np.ndim(values) or kind is int else [values] * count)]
    except (TypeError, ValueError, OverflowError):
        numbers = None
    if numbers is None or len(numbers) != count:
        raise InputError(f"freeze: {name} must be {count} numbers, got {values!r}")
    return numbers


class Graph:
    """The nodes under construction. Nodes refer to each other by position."""

    def __init__(self, input_shape: Shape) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.shapes = {-1: input_shape}  # shapes of one image; -1 is the image
        self._fields: list[dict[str, NDArray]] = []

    def append(
        self, op: str, name: str, inputs: list[int], shape: Shape, fields: Fields | None = None, **attributes
    ) -> int:
        """Add a node with outputs of this shape, and return its position. Fields that are None are left out."""
        self.shapes[len(self.nodes)] = shape
        self.nodes.append({"op": op, "name": name or op, "inputs": inputs, **attributes})
        self._fields.append({key: array for key, array in (fields or {}).items() if array is not None})
        return len(self.nodes) - 1

    def tensors(self) -> dict[str, NDArray]:
        """Return all fields by their name in the file."""
        pairs = zip(self.nodes, self._fields)
        return {f"{node['name']}.{key}": array for node, fields in pairs for key, array in fields.items()}

    def fold_thresholds(self) -> None:
        """Turn every affine node that is read only by one binary node without K into thresholds of that node.

        Flatten may stand between them; each pixel then gets the threshold of its channel. Max pooling may also stand
        between them if no scale is negative: rounding is monotone, so the maximum commutes with the affine step.
        """
        readers = [source for node in self.nodes for source in node["inputs"]]
        folded = set()
        for index, (node, fields) in enumerate(zip(self.nodes, self._fields)):
            if node["op"] not in ("binary_conv2d", "binary_linear") or node["input_scale"] != KMode.OFF:
                continue
            reader, source, passed = index, node["inputs"][0], set()
            while source >= 0 and self.nodes[source]["op"] in ("flatten", "max_pool") and readers.count(source) == 1:
                passed.add(self.nodes[source]["op"])
                reader, source = source, self.nodes[source]["inputs"][0]
            if source < 0 or self.nodes[source]["op"] != "affine" or readers.count(source) != 1:
                continue
            scale, shift = (self._fields[source][key] for key in ("scale", "shift"))
            if "max_pool" in passed and (scale < 0).any():
                continue
            threshold, flip = fold_threshold(scale, shift)
            pixels = node["in_features"] // len(scale) if "flatten" in passed else 1
            fields |= {"threshold": np.repeat(threshold, pixels), "flip": np.repeat(flip, pixels).astype(np.uint8)}
            self.nodes[reader]["inputs"] = list(self.nodes[source]["inputs"])
            folded.add(source)
        self._drop(folded)

    def fold_scales(self) -> None:
        """Turn a learned scale with one number per channel into the alpha of the layer before, if it has no alpha or K.

        The product is the same: fl(Z) times the scale. Outputs that other nodes also read stay unchanged.
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
        """Remove nodes that no other node reads any more."""
        kept = [index for index in range(len(self.nodes)) if index not in folded]
        moved = {-1: -1} | {old: new for new, old in enumerate(kept)}
        self.nodes = [self.nodes[index] for index in kept]
        self._fields = [self._fields[index] for index in kept]
        for node in self.nodes:
            node["inputs"] = [moved[source] for source in node["inputs"]]


def _emit(module: nn.Module, graph: Graph, sources: list[int], name: str) -> int:
    """Append the nodes of a layer that reads the nodes `sources`. Return the position of its output.

    A subclass that overrides the forward computation is rejected, since it may compute something else.
    """
    kind: Any = next((kind for kind in type(module).__mro__ if kind in _CONTAINERS or kind in LAYERS), nn.Module)
    changed = kind is not nn.Module and overrides(module, kind, *getattr(kind, "packed_as", ("forward",)))
    if kind is nn.Module or changed:
        what = f"layer {name!r}" if name else "the network"
        why = f"it overrides what {kind.__name__} computes" if changed else "a model file has no operation for it"
        made_of = (
            "" if changed or not any(module.children()) else "; build it from nn.Sequential, nn.Residual and nn.Graph"
        )
        raise InputError(f"freeze: {what} is a {type(module).__name__}, which cannot be packed: {why}{made_of}")
    if kind in _CONTAINERS:
        return _CONTAINERS[kind](module, graph, sources, name)
    op, fields, names = LAYERS[kind]
    shapes = [graph.shapes[source] for source in sources]
    attributes = _attributes(module, names, name, shapes[0])
    shape = output_shape(module, *shapes)
    source = graph.append(op, name, sources, shape, fields(module), **attributes)
    if isinstance(module, BinaryLayer) and module.bias is not None:
        added: Fields = {"scale": np.ones_like(module.bias.data), "shift": module.bias.data}
        source = graph.append("affine", f"{name or op}.bias", [source], shape, added)
    return source


def _sequential(module: nn.Sequential, graph: Graph, sources: list[int], name: str) -> int:
    for child, layer in module.children():
        sources = [_emit(layer, graph, sources, f"{name}.{child}" if name else child)]
    return sources[0]


def _residual(module: nn.Residual, graph: Graph, sources: list[int], name: str) -> int:
    prefix = f"{name}." if name else ""
    body = _emit(module.body, graph, sources, f"{prefix}body")
    shortcut = sources[0] if module.shortcut is None else _emit(module.shortcut, graph, sources, f"{prefix}shortcut")
    return graph.append("add", f"{prefix}add", [body, shortcut], graph.shapes[body])


def _graph(module: nn.Graph, graph: Graph, sources: list[int], name: str) -> int:
    values = {INPUT: sources[0]}
    for child, layer in module.children():
        read = [values[source] for source in module.inputs[child]]
        last = values[child] = _emit(layer, graph, read, f"{name}.{child}" if name else child)
    return last


def _sums(module: nn.Add, graph: Graph, sources: list[int], name: str) -> int:
    """Add in pairs, from the left."""
    source, *others = sources
    for index, other in enumerate(others, start=2):
        source = graph.append("add", f"{name}.{index}" if index > 2 else name, [source, other], graph.shapes[source])
    return source


_CONTAINERS: dict[type, Callable[..., int]] = {
    nn.Sequential: _sequential,
    nn.Residual: _residual,
    nn.Graph: _graph,
    nn.Add: _sums,
    nn.Dropout: lambda module, graph, sources, name: sources[0],  # no effect in inference
}


def _attributes(module: Any, names: tuple[str, ...], name: str, shape: Shape) -> dict[str, Any]:
    """Return a node's attributes from its layer's geometry and bits.

    A name is "attribute", or "name in the node=attribute".

    `shape` is that of the input, on which some padding depends. Attributes with default values are left out, so that
    the file keeps the lowest version.
    """
    found: dict[str, Any] = {}
    for key, _, attribute in (entry.rpartition("=") for entry in names):
        value = getattr(module, attribute)
        found[key or attribute] = list(value) if isinstance(value, tuple) else value
    if hasattr(module, "window"):
        if len(shape) != 3:
            raise InputError(f"freeze: layer {name!r} needs an input (C, H, W), but gets {shape}")
        window = module.window(shape[1:])
        padding = window.brief_padding
        found |= {"stride": list(window.stride), "padding": [list(v) if isinstance(v, tuple) else v for v in padding]}
        if window.dilation != (1, 1):
            found["dilation"] = list(window.dilation)
        if getattr(module, "groups", 1) > 1:
            found["groups"] = module.groups
        if not getattr(module, "count_include_pad", True):
            found["count_include_pad"] = 0
    if getattr(module, "input_levels", "even") != "even":
        found["input_levels"] = module.input_levels
    if "input_scale" in found:
        found["input_scale"] = module.input_scale.mode
        if module.input_scale.mode is None:
            raise InputError(
                f"freeze: layer {name!r} has the input_scale {module.input_scale.name!r}; a model file can only hold "
                f"{', '.join(rule.name for rule in INPUT_SCALES.values() if rule.mode)}"
            )
    return found


def _nothing(module: nn.Module) -> Fields:
    return {}


def _real(module: nn.Conv2d | nn.Linear) -> Fields:
    return {"weight": module.weight.data, "bias": None if module.bias is None else module.bias.data}


def _affine(module: BatchNorm) -> Fields:
    return dict(zip(("scale", "shift"), module.inference_affine()))


def _signs(module: BinaryLayer) -> Fields:
    return {"bits": compact_bits(module.weight.data), "alpha": module.alpha()}


def _planes(module: KBitLayer) -> Fields:
    """Return the weight's bit planes, lowest first, each as rows of bits: (planes, O, words)."""
    planes = bit_planes.planes(module.weight_levels(), module.weight_bits)
    return {"bits": np.stack([compact_bits(bit_planes.as_signs(plane)) for plane in planes]), "alpha": module.alpha()}


_KERNEL = ("in_channels", "kernel_size")
_BITS = ("input_bits", "weight_bits")
LAYERS: dict[type, tuple[str, Callable[[Any], Fields], tuple[str, ...]]] = {  # op, arrays and attributes of each node
    nn.Conv2d: ("conv2d", _real, ("groups",)),
    nn.IdentityShortcut: (
        "conv2d",
        lambda module: {"weight": module.weight()},
        ("stride", "padding", "groups=in_channels"),
    ),
    nn.Linear: ("linear", _real, ()),
    BatchNorm: ("affine", _affine, ()),
    nn.ShiftBatchNorm1d: ("affine", _affine, ()),
    nn.ShiftBatchNorm2d: ("affine", _affine, ()),
    nn.Affine: ("affine", lambda module: {"scale": module.scale, "shift": module.shift}, ()),
    nn.Concat: ("concat", _nothing, ()),
    nn.Shift: ("affine", lambda module: {"scale": np.ones_like(module.shift.data), "shift": module.shift.data}, ()),
    nn.ReLU: ("relu", _nothing, ()),
    nn.PReLU: ("prelu", lambda module: {"slope": module.weight.data}, ()),
    nn.Hardtanh: ("hardtanh", _nothing, ()),
    nn.Sign: ("sign", _nothing, ()),
    nn.Scale: ("scale", lambda module: {key: factor.data for key, factor in module.factors().items()}, ()),
    nn.MaxPool2d: ("max_pool", _nothing, ("kernel=kernel_size",)),
    nn.AvgPool2d: ("avg_pool", _nothing, ("kernel=kernel_size",)),
    nn.GlobalAvgPool2d: ("global_avg_pool", _nothing, ()),
    nn.Flatten: ("flatten", _nothing, ()),
    nn.BinaryConv2d: ("binary_conv2d", _signs, (*_KERNEL, "pad_value", "input_scale")),
    nn.BinaryLinear: ("binary_linear", _signs, ("in_features", "input_scale")),
    nn.KBitConv2d: ("kbit_conv2d", _planes, (*_KERNEL, "pad_value", "input_scale", *_BITS)),
    nn.KBitLinear: ("kbit_linear", _planes, ("in_features", "input_scale", *_BITS)),
    nn.BinaryWeightConv2d: ("sign_weight_conv2d", _signs, _KERNEL),
    nn.BinaryWeightLinear: ("sign_weight_linear", _signs, ("in_features",)),
}
