"""From what a torch module computed to a description: which layer of ours does what each operation did.

Weights are called binary by their numbers: of one filter all have the same absolute value, its alpha. What takes a sign
may be written in many ways; an operation on single values that is none of the usual ones is tried on numbers, together
with those before it, and is a sign if it does to them what sign does.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError
from xnor_ref.interop.description import INPUT, Layer, Reasons
from xnor_ref.interop.pytorch.modules import torch
from xnor_ref.interop.pytorch.trace import Constant, Node, replaced
from xnor_ref.nn.layers.binary_layers import BinaryLayer
from xnor_ref.nn.layers.binary_weight_layers import BinaryWeightConv2d

T = Any
F32 = NDArray[np.float32]
SAME = ("detach", "alias", "clone", "contiguous", "lift_fresh", "_to_copy", "dropout", "native_dropout", "copy")
ONE_BY_ONE = {  # operations on single values
    *SAME, "add", "sub", "rsub", "mul", "div", "neg", "abs", "sign", "sgn", "relu", "relu6", "hardtanh", "clamp",
    "clamp_min", "clamp_max", "leaky_relu", "_prelu_kernel", "prelu", "where", "ge", "gt", "le", "lt", "eq", "ne",
    "logical_not", "logical_and", "logical_or", "bitwise_not", "bitwise_and", "bitwise_or", "pow", "square",
    "threshold", "tanh", "sigmoid", "exp", "maximum", "minimum", "round", "floor", "ceil", "heaviside", "reciprocal",
    "masked_fill", "ones_like", "zeros_like", "full_like", "fill", "zero", "index_put", "copysign", "signbit", "trunc",
    "isnan", "nan_to_num", "sin", "cos", "tan", "log", "sqrt", "rsqrt", "softplus", "silu", "gelu", "elu", "selu",
    "hardswish", "hardsigmoid", "mish", "erf", "atan", "expand", "scalar_tensor", "new_empty", "empty_like",
    "new_zeros", "new_ones", "new_full",
}  # fmt: skip
_MAKE_ROWS = ("flatten", "global_avg_pool2d", "linear", "binary_linear", "binary_weight_linear")
RESHAPED = ("view", "_unsafe_view", "reshape", "flatten", "squeeze", "unsqueeze", "_reshape_alias")
DEFAULTS = (("stride", (1, 1)), ("padding", (0, 0)), ("dilation", (1, 1)), ("groups", 1), ("pad_value", 0))
_SIZES = 0.0, 1e-30, 1e-6, 0.01, 0.3, 0.499, 0.501, 0.999, 1.001, 1.7, 2.99, 3.01, 6.5, 40.0
PROBES = sorted({sign * size for size in _SIZES for sign in (1, -1)})  # what functions of one number are tried on


def numbers(tensor: T) -> F32:
    """float32 on the host."""
    array: F32 = tensor.detach().to("cpu", torch.float32).contiguous().numpy().copy()
    return array


def op_of(node: Node) -> str:
    """The operation, without the mark of what works in place."""
    return node.op[:-1] if node.op.endswith("_") else node.op


@dataclass
class Signs:
    """What gives outer sign(inner (x - threshold)) of the values x of `base`, where sign(0) is +1."""

    base: Node
    threshold: F32 | None = None  # (C,), or None for 0
    inner: int = 1
    outer: int = 1
    zero: bool = False  # it gives 0 at 0


class Reader:
    """Turns nodes into layers, each once; reasons are kept for those that cannot be."""

    def __init__(self, nodes: Iterable[Node], last: Node, alone: set[str], settings: Mapping[str, Any]):
        self._alone = alone  # modules without others inside, after which their layers are called
        self.layers: list[Layer] = []
        self.values: dict[str, T] = {}  # what torch computed, by the layer that does the same
        self.reasons: Reasons = []
        self._settings = settings
        self._names: dict[Node, str] = {}
        self._used: set[str] = {INPUT}
        self._signs: dict[Node, Signs | None] = {}
        self._zeros: dict[Node, str] = {}  # why signs are none, where their inputs may be 0
        self.rows: set[str] = set()  # layers that give rows (N, C), where torch may have images of one pixel
        self._scaled: dict[Node, str] = {}  # layers that are multiplied by K, and its mode
        self._products: dict[Node, Node] = {}  # products with K, and what they multiply: the layer, and alpha
        self._before_k: set[Node] = set()
        needed = _ancestors(last)
        order = [node for node in nodes if node in needed]
        self._place = {node: place for place, node in enumerate(order)}
        for node in order:
            node.users = [user for user in node.users if user in needed]
        for node in order:
            self._find_input_scale(node)
        needed = _ancestors(last, self._parents)
        for node in order:
            node.users = [user for user in node.users if user in needed and node in self._parents(user)]
        for node in order:
            if node in needed and op_of(node) not in ONE_BY_ONE and not _pads_pixels(node):
                self._try(node)
        if not self.reasons:
            self._try(last)
        self._drop_unread()

    def _drop_unread(self) -> None:
        """Forget layers whose results another reader has taken along, such as parts of images before padding."""
        read = {self.layers[-1].name} if self.layers else set()
        for layer in reversed(self.layers):
            if layer.name in read:
                read |= set(layer.inputs)
        self.layers = [layer for layer in self.layers if layer.name in read]

    def _try(self, node: Node) -> None:
        try:
            self.read(node)
        except _Silent:
            pass

    def read(self, node: Node) -> str:
        """The name of the layer that gives what the node gives."""
        if node not in self._names:
            try:
                self._names[node] = self._read(node)
            except _Refused as refused:
                self._names[node] = ""  # what follows is not looked at
                self.reasons.append((self._where(node), str(refused)))
            except _Silent:
                self._names[node] = ""
        if not self._names[node]:
            raise _Silent
        return self._names[node]

    def _where(self, node: Node) -> str:
        return f"layer {node.module!r} ({op_of(node)})" if node.module else f"operation {op_of(node)}"

    def _read(self, node: Node) -> str:
        if node.op == "input":
            return INPUT
        if node in self._products:
            name = self.read(self._products[node])
            self.values[name] = node.value
            return name
        op = op_of(node)
        if op in READERS:
            return READERS[op](self, node)
        if op in ONE_BY_ONE:
            return self._one_by_one(node)
        raise _Refused(f"there is no layer for the operation {op}")

    def add(self, node: Node, kind: str, inputs: Iterable[str], settings: Any = None, arrays: Any = None,
            value: bool = True, part: str = "") -> str:  # fmt: skip
        """Append a layer, named after the module in which the node ran."""
        free = node.module and node.module in self._alone and node.module not in self._used
        stem = node.module if free and not part else f"{node.module}.{part or kind}".lstrip(".")
        name, count = stem, 2
        while name in self._used:
            name, count = f"{stem}_{count}", count + 1
        self._used.add(name)
        usual = () if "pool" in kind else DEFAULTS
        told = {key: given for key, given in (settings or {}).items() if (key, given) not in usual}
        try:
            self.layers.append(Layer(name, kind, tuple(inputs), told, arrays or {}))
        except InputError as error:
            raise _Refused(str(error).partition("): ")[2] or str(error)) from None
        if value and node not in self._before_k:
            self.values[name] = node.value
        if kind in _MAKE_ROWS or self.layers[-1].inputs[0] in self.rows:
            self.rows.add(name)
        return name

    # --- operations on single values

    def _one_by_one(self, node: Node) -> str:
        simple = SIMPLE.get(op_of(node))
        parents = node.parents
        if simple is not None and len(parents) == 1:
            made = simple(self, node, parents[0])
            if made is not None:
                return made
        found = self.signs(node)
        if found is not None:
            return self._sign_layers(node, found)
        made = self._steps(node) or self._piecewise(node)
        if made is not None:
            return made
        if node in self._zeros:
            raise _Refused(self._zeros[node])
        if op_of(node) in ("add", "sub") and len(parents) == 2:
            return self._sum(node, parents)
        if op_of(node) == "mul" and len(parents) == 2:
            raise _Refused("multiplies two results that both depend on the image, and is no K of XNOR-Net")
        raise _Refused("there is no layer that does this to single values")

    def _sum(self, node: Node, parents: list[Node]) -> str:
        if parents[0].value.shape != parents[1].value.shape:
            raise _Refused(
                f"adds results of shapes {tuple(parents[0].value.shape)} and {tuple(parents[1].value.shape)}"
            )
        factor = node.argument(2, "alpha", 1) * (-1 if op_of(node) == "sub" else 1)
        names = [self.read(parent) for parent in parents]
        if factor != 1:
            names[1] = self.affine(node, names[1], parents[1], factor, 0.0, value=False)
        return self.add(node, "add", names)

    def affine(self, node: Node, source: str, like: Node, scale: Any, shift: Any, value: bool = True) -> str:
        """x * scale + shift with numbers a channel, or for all."""
        channels = like.value.shape[1]
        arrays = {key: np.broadcast_to(np.float32(array), channels).copy() for key, array in
                  (("scale", scale), ("shift", shift))}  # fmt: skip
        return self.add(node, "affine", (source,), {}, arrays, value, "affine")

    def takes_scale(self, node: Node, source: Node, values: F32) -> str | None:
        """The binary layer before, if these are the means of its |W|: it has an alpha then."""
        place = next((i for i, layer in enumerate(self.layers) if layer.name == self.read(source)), None)
        layer = None if place is None else self.layers[place]
        if layer is None or place is None or layer.settings.get("weight_scale") != "off" or "bias" in layer.arrays:
            return None
        sizes = np.abs(layer.arrays["weight"]).reshape(len(layer.arrays["weight"]), -1).mean(axis=1, dtype=np.float64)
        for scale, own in (("alpha", sizes), ("layer", np.full(len(sizes), sizes.mean()))):
            if values.shape == own.shape and len(source.users) == 1 and np.allclose(values, own, rtol=1e-5, atol=0):
                self.layers[place] = replace(layer, settings={**layer.settings, "weight_scale": scale})
                self.values.pop(layer.name, None)
                if node not in self._before_k:
                    self.values[layer.name] = node.value
                return layer.name
        return None

    def _function(self, node: Node, base: Node) -> Callable[[T], T] | None:
        """The node as a function of `base`, if it is one of single values; of a tensor in the shape of `base`."""
        inside: dict[Node, bool] = {base: True}

        def belongs(part: Node) -> bool:
            if part not in inside:
                inside[part] = False
                inside[part] = op_of(part) in ONE_BY_ONE and bool(part.parents) and all(map(belongs, part.parents))
            return inside[part]

        if not belongs(node) or node.value.shape != base.value.shape:
            return None
        order = [part for part in _in_order(node, base)]

        def run(x: T) -> T:
            values = {base: x}
            for part in order:
                args, kwargs = replaced(part, lambda a: _value(a, values))
                if part.written is not None:
                    args = (*args[: part.written], args[part.written].clone(), *args[part.written + 1 :])
                assert part.target is not None
                values[part] = part.target(*args, **kwargs)
            return values[node]

        return run

    def _bases(self, node: Node) -> list[Node]:
        """The nodes that all that is computed on the way to this one goes through, the nearest first."""
        reached: list[Node] = []
        edge, seen = {node}, set()
        while edge:
            newest = max(edge, key=self._place.__getitem__)
            edge.remove(newest)
            if newest is not node and not edge:
                reached.append(newest)
            if newest is not node and op_of(newest) not in ONE_BY_ONE:
                if not edge:
                    break
                return reached
            seen.add(newest)
            edge |= set(newest.parents) - seen
        return reached

    def signs(self, node: Node) -> Signs | None:
        """Whether a node is the sign of another one."""
        if node not in self._signs:
            self._signs[node] = self._found_signs(node)
        return self._signs[node]

    def _found_signs(self, node: Node) -> Signs | None:
        if op_of(node) in SAME and len(node.parents) == 1:
            return self.signs(node.parents[0])
        found = self._tried(node, -1, lambda function: function)
        if found is None or not found.zero:
            return found
        values = (found.base.parents[0] if _pads_pixels(found.base) else found.base).value
        many, of = int((values == 0).sum()), values.numel()
        if not many:
            return found
        self._zeros[node] = f"gives 0 where its input is 0, as {many} of {of} are in the trial; sign(0) is +1 here"
        return None

    def _tried(self, node: Node, low: int, turned: Callable[[Any], Any]) -> Signs | None:
        """Whether a node is the sign of another, after `turned`; its values are `low` and 1."""
        value = node.value
        if op_of(node) not in ONE_BY_ONE or not value.is_floating_point():
            return None
        if not bool((((value - low).abs() < 1e-5) | ((value - 1).abs() < 1e-5) | (value == 0)).all()):
            return None
        for base in self._bases(node):
            function = self._function(node, base)
            if function is not None and base.value.is_floating_point():
                found = _as_signs(turned(function), base)
                if found is not None:
                    return found
        return None

    def _steps(self, node: Node) -> str | None:
        """What is 0 or 1, as half a sign and 1/2."""
        found = self._tried(node, 0, lambda function: lambda x: 2 * function(x) - 1)
        if found is None or found.zero:
            return None
        return self.affine(node, self._sign_layers(node, found, value=False), node, 0.5, 0.5)

    def _sign_layers(self, node: Node, found: Signs, value: bool = True) -> str:
        settings = {"gradient": self._settings["sign_gradient"]} if "sign_gradient" in self._settings else {}
        plain = value and found.outer > 0
        name = self.add(node, "sign", (self._inside(node, found),), settings, value=plain, part="sign")
        return name if found.outer > 0 else self.affine(node, name, node, -1, 0, value)

    def _inside(self, node: Node, found: Signs) -> str:
        """The layer whose signs are taken."""
        source = self.read(found.base)
        if found.threshold is not None:
            source = self.affine(node, source, found.base, 1, -found.threshold, value=False)
        return source if found.inner > 0 else self.affine(node, source, found.base, -1, 0, value=False)

    def _piecewise(self, node: Node) -> str | None:
        """A ReLU, one with a slope, or a value clipped to [-1, 1], that is written as several operations."""
        for base in self._bases(node):
            function = self._function(node, base)
            if function is None or not base.value.is_floating_point() or not node.value.is_floating_point():
                continue
            try:
                found = {probe: function(torch.full_like(base.value, probe)) for probe in PROBES}
                slopes = -function(torch.full_like(base.value, -1.0))
            except (RuntimeError, TypeError):
                continue
            for kind, wanted in (("relu", lambda x: max(x, 0.0)), ("hardtanh", lambda x: min(max(x, -1.0), 1.0))):
                if all(_is_close(y, wanted(x), x) for x, y in found.items()):
                    return self.add(node, kind, (self.read(base),))
            rows = slopes.transpose(0, 1).flatten(1)
            same = not bool((rows != rows[:, :1]).any())
            if same and all(_is_close(y, x if x >= 0 else x * slopes, x) for x, y in found.items()):
                weight = numbers(rows[:, 0])
                weight = weight if len(set(weight.tolist())) > 1 else weight[:1]
                return self.add(node, "prelu", (self.read(base),), {}, {"weight": weight})
        return None

    # --- K

    def _parents(self, node: Node) -> list[Node]:
        return [self._products[node]] if node in self._products else node.parents

    def _find_input_scale(self, node: Node) -> None:
        """Whether a node is a convolution of signs times K, the mean of |x| over its windows."""
        if op_of(node) != "mul" or len(node.parents) != 2:
            return
        for product, k in (node.parents, node.parents[::-1]):
            chain = [product]
            while op_of(chain[-1]) in ("mul", "round", *SAME) and len(chain[-1].parents) == 1:
                chain.append(chain[-1].parents[0])
            layer = chain[-1]
            if op_of(layer) not in ("convolution", "mm") or layer in self._scaled:
                continue
            if not isinstance(layer.args[1], Constant):
                continue
            pads, source = self.pads(layer.parents[0])
            found = self.signs(source)
            alone = all(len(part.users) == 1 for part in chain)
            if found is None or not alone or (op_of(layer) == "convolution" and layer.args[2] is not None):
                continue
            weight = layer.args[1]
            rows = weight.value.T if op_of(layer) == "mm" else weight.value
            if _binary_weights(numbers(rows), weight.sources) is None:
                continue
            mode = _input_scale(layer, k, found.base, pads)
            if mode is not None:
                self._scaled[layer] = mode
                self._products[node] = product
                self._before_k |= set(chain)
                return

    # --- weights

    def weighted(self, node: Node, source: Node, weight: Constant, bias: Any, window: dict[str, Any]) -> str:
        """A convolution or a linear layer, with real or binary weights, of real inputs or of signs."""
        layer = "conv2d" if weight.value.ndim == 4 else "linear"
        effective = numbers(weight.value)
        added = None if bias is None else numbers(bias.value)
        pads, source = self.pads(source)
        found = self.signs(source)
        if pads is None and found is not None and _pads_pixels(found.base):
            pads, found = self._pads_before_signs(found)
        border = 0.0 if pads is None else pads[2]
        if pads is not None and layer == "conv2d":
            (top, bottom), (left, right), _ = pads
            rows, columns = window["padding"]
            if (rows or columns) and border:
                raise _Refused("pads twice, with different values")
            window = window | {"padding": ((top + rows, bottom + rows), (left + columns, right + columns))}
        if found is not None and border not in (-1, 0, 1):
            raise _Refused(f"pads signs with {border:g}; 0, 1 and -1 are possible")
        binary = _binary_weights(effective, weight.sources)
        signs = found if binary is not None else None
        if signs is None and border:
            raise _Refused(f"pads with {border:g}; real numbers are padded with 0")
        inputs = self.read(source) if signs is None else self._inside(source, signs)
        if layer == "conv2d" and inputs in self.rows:
            if (
                effective.shape[2:] != (1, 1)
                or window["groups"] != 1
                or window["padding"] not in ((0, 0), ((0, 0),) * 2)
            ):
                raise _Refused("it is no 1x1 convolution, and its input is one pixel")
            layer, window, effective = "linear", {}, effective[:, :, 0, 0]
            binary = None if binary is None else (binary[0][:, :, 0, 0], *binary[1:])
        if binary is None:
            arrays = {"weight": effective} | ({} if added is None else {"bias": added})
            return self.add(node, layer, (inputs,), window, arrays)
        latent, scale, channel = binary
        settings: dict[str, Any] = {"weight_scale": scale, **window}
        takes = BinaryWeightConv2d.takes if signs is None else BinaryLayer.takes
        settings |= {key: value for key, value in self._settings.items() if key in takes and key != "weight_scale"}
        if scale == "off" and settings.get("grad_mode") not in (None, "ste"):
            del settings["grad_mode"]  # it is one of alpha's
        kind = f"binary_weight_{layer}"
        if signs is not None:
            kind = f"binary_{layer}"
            settings["input_scale"] = self._scaled.get(node, "off")
            latent = latent * signs.outer
            if layer == "conv2d":
                settings["pad_value"] = int(border) * signs.outer
        arrays = {"weight": latent} | ({} if added is None or channel is not None else {"bias": added})
        name = self.add(node, kind, (inputs,), settings, arrays, value=channel is None)
        if channel is not None:
            name = self.add(node, "scale", (name,), {}, {"channel": channel}, value=added is None, part="scale")
            if added is not None:
                name = self.add(node, "shift", (name,), {}, {"shift": added}, part="shift")
        return name

    def _pads_before_signs(self, found: Signs) -> tuple[Any, Signs]:
        """As `_pads`, of what signs are taken of: the sign of the border, and the signs of what it surrounds."""
        pads, inner = self.pads(found.base)
        if found.threshold is not None and len(set(found.threshold.tolist())) > 1:
            raise _Refused("pads before signs with thresholds that differ")
        limit = 0.0 if found.threshold is None else float(found.threshold[0])
        inside = found.inner * (pads[2] - limit)
        border = 0 if found.zero and inside == 0 else found.outer * (1 if inside >= 0 else -1)
        return (*pads[:2], border), replace(found, base=inner)

    def pads(self, source: Node) -> tuple[Any, Node]:
        """((top, bottom), (left, right), value) of padding before a window, and what is padded."""
        inner = source
        while op_of(inner) in SAME and len(inner.parents) == 1:
            inner = inner.parents[0]
        if not _pads_pixels(inner):
            return None, source
        sides = [*inner.args[1], 0, 0, 0, 0][:4]
        return ((sides[2], sides[3]), (sides[0], sides[1]), float(inner.argument(2, "value", 0))), inner.parents[0]


def _pads_pixels(node: Node) -> bool:
    """Whether a node puts a border around images."""
    if op_of(node) != "constant_pad_nd" or node.value.ndim != 4:
        return False
    sides = node.args[1]
    return min(sides) >= 0 and not any(sides[4:])


class _Refused(Exception):
    """Why a node cannot be imported."""


class _Silent(Exception):
    """It follows one that cannot be imported."""


def _value(part: Any, values: Mapping[Node, T]) -> Any:
    if isinstance(part, Node):
        return values[part]
    return part.value if isinstance(part, Constant) else None


def _ancestors(last: Node, parents: Callable[[Node], list[Node]] = lambda node: node.parents) -> set[Node]:
    found, edge = {last}, [last]
    while edge:
        for parent in parents(edge.pop()):
            if parent not in found:
                found.add(parent)
                edge.append(parent)
    return found


def _in_order(node: Node, base: Node) -> list[Node]:
    """All nodes between, each after those that it reads."""
    found: list[Node] = []
    seen = {base}

    def visit(part: Node) -> None:
        if part not in seen:
            seen.add(part)
            for parent in part.parents:
                visit(parent)
            found.append(part)

    visit(node)
    return found


def _as_signs(function: Callable[[T], T], base: Node) -> Signs | None:
    """Whether a function is sign(sense (x - threshold)), tried on numbers; thresholds are found by bisection."""
    like = base.value

    def at(x: T) -> T | None:
        try:
            y = function(x)
        except (RuntimeError, TypeError):
            return None
        return y if isinstance(y, torch.Tensor) and y.shape == like.shape else None

    def is_near(y: T, wanted: Any) -> bool:
        return bool(((y - wanted).abs() <= 1e-5).all())

    far = [at(torch.full_like(like, x)) for x in (-1e4, 1e4)]
    if far[0] is None or far[1] is None:
        return None
    if not (is_near(far[0].abs(), 1) and is_near(far[0] + far[1], 0) and is_near(far[1], far[1].flatten()[0])):
        return None
    sense = 1 if float(far[1].flatten()[0]) > 0 else -1
    near = [at(torch.full_like(like, x)) for x in (-1e-30, 1e-30)]
    around_zero = is_near(_given(near[0]), -sense) and is_near(_given(near[1]), sense)
    low, high = torch.full_like(like, -1e4), torch.full_like(like, 1e4)
    if around_zero:
        low, high = torch.zeros_like(like), torch.zeros_like(like)
    else:
        for _ in range(200):  # down to neighbouring numbers
            middle = (low + high) / 2
            above = _given(at(middle)) * sense > 0
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    for x in (*PROBES, 17.3, -123.0):  # away from the threshold it is a sign everywhere
        place = high + x
        if x and not is_near(_given(at(place)), torch.where(place > low, float(sense), -float(sense))):
            return None
    rows = high.transpose(0, 1).flatten(1)
    if bool((rows != rows[:, :1]).any()):
        return None
    if not around_zero:
        return Signs(base, numbers(rows[:, 0]), outer=sense)  # from the threshold on it is `sense`
    there = _given(at(high))
    if is_near(there, 0):
        return Signs(base, outer=sense, zero=True)
    if not (is_near(there, 1) or is_near(there, -1)):
        return None
    at_zero = 1 if is_near(there, 1) else -1
    return Signs(base, inner=sense * at_zero, outer=at_zero)


def _is_close(y: T, wanted: Any, x: float) -> bool:
    return bool(((y - wanted).abs() <= 1e-6 * max(1, abs(x))).all())


def _given(y: T | None) -> T:
    return torch.full((1,), math.nan) if y is None else y


def _binary_weights(effective: F32, sources: Mapping[str, T]) -> tuple[F32, str, F32 | None] | None:
    """(latent weights, weight_scale, scale a channel or None) of binary weights; None for real ones."""
    rows = effective.reshape(len(effective), -1).astype(np.float64)
    size = np.abs(rows)
    alpha = size.mean(axis=1)
    largest = max((float(s.detach().abs().max()) for s in sources.values() if s.numel() == effective.size), default=0.0)
    rounding = 1e-5 * alpha[:, None] + 2e-7 * min(1.0, largest)  # of alpha sign(w) - w + w
    if rows.shape[1] < 2 or not (alpha > 0).all() or (np.abs(size - alpha[:, None]) > rounding).any():
        return None
    if (rows > 0).all() or (rows < 0).all():
        return None  # a mean, or a constant: a real layer that happens to have equal weights
    ones = bool((np.abs(alpha - 1) < 1e-6).all())
    for source in sources.values():
        if source.numel() != effective.size:
            continue
        latent = numbers(source).reshape(effective.shape)
        if not ((latent >= 0) == (effective > 0)).all():
            continue
        own = np.abs(latent.reshape(rows.shape).astype(np.float64)).mean(axis=1)
        if ones:
            return latent, "off", None
        if np.allclose(alpha, own, rtol=1e-5, atol=0):
            return latent, "alpha", None
        if np.allclose(alpha, own.mean(), rtol=1e-5, atol=0):
            return latent, "layer", None
        if not np.array_equal(latent, effective):
            return latent, "off", alpha.astype(np.float32)
    return effective, "off" if ones else "alpha", None


def _input_scale(layer: Node, k: Node, base: Node, pads: Any) -> str | None:
    """The mode of K, where `k` is the mean of |base|, padded, over the windows of a layer, computed apart."""
    size = base.value.abs()
    if op_of(layer) == "mm":
        mean = size.mean(1, keepdim=True)
        return "plain" if k.value.shape == mean.shape and torch.allclose(k.value, mean, rtol=1e-4) else None
    groups, shape = layer.args[8], layer.value.shape
    if k.value.ndim != 4 or k.value.shape[1] not in (1, shape[1]) or k.value.shape[2:] != shape[2:]:
        return None
    mean = size.unflatten(1, (groups, -1)).mean(2)
    ones = torch.ones(groups, 1, *layer.args[1].value.shape[2:], dtype=size.dtype, device=size.device)
    (top, bottom), (left, right), _ = pads or ((0, 0), (0, 0), 0.0)

    def box(a: T) -> T:
        a = torch.nn.functional.pad(a, (left, right, top, bottom))
        return torch.nn.functional.conv2d(a, ones, None, *layer.args[3:6], groups)

    total, taps = box(mean), box(torch.ones_like(mean))
    for mode, wanted in (("plain", total / ones[0].numel()), ("valid", total / taps.clamp(min=1))):
        if torch.allclose(k.value.expand(shape), wanted.repeat_interleave(shape[1] // groups, 1), rtol=1e-4, atol=1e-6):
            return mode
    return None


# --- operations with one layer each


def _pair(value: Any, default: Any = None) -> tuple[int, int]:
    value = default if value is None or len(value) == 0 else value
    return (int(value[0]), int(value[-1]))


def _convolution(reader: Reader, node: Node) -> str:
    source, weight, bias, stride, padding, dilation, transposed, _, groups = node.args
    if not isinstance(source, Node) or not isinstance(weight, Constant) or not isinstance(bias, Constant | None):
        raise _Refused("its weights depend on the image")
    if transposed or weight.value.ndim != 4:
        raise _Refused("it is transposed" if transposed else f"its weights have {weight.value.ndim} axes; 4 are needed")
    window = {"stride": _pair(stride), "padding": _pair(padding), "dilation": _pair(dilation), "groups": int(groups)}
    return reader.weighted(node, source, weight, bias, window)


def _addmm(reader: Reader, node: Node) -> str:
    bias, source, weight = node.args
    if node.kwargs.get("alpha", 1) != 1 or node.kwargs.get("beta", 1) != 1:
        raise _Refused("it multiplies its parts by numbers")
    return _matrix(reader, node, source, weight, bias)


def _matrix(reader: Reader, node: Node, source: Any, weight: Any, bias: Any) -> str:
    if not isinstance(source, Node) or not isinstance(weight, Constant) or not isinstance(bias, Constant | None):
        raise _Refused("its weights depend on the image")
    if source.value.ndim != 2:
        raise _Refused(f"its input has the shape {tuple(source.value.shape)}; rows (N, I) are needed")
    turned = Constant(weight.value.T, {name: s for name, s in weight.sources.items()})
    flat = None if bias is None else Constant(bias.value.reshape(-1).expand(turned.value.shape[0]), bias.sources)
    return reader.weighted(node, source, turned, flat, {})


def _batch_norm(reader: Reader, node: Node) -> str:
    source, weight, bias, mean, var, training, momentum, eps = node.args[:8]
    if training or mean is None:
        raise _Refused("it normalises by the statistics of the batch in inference, too")
    arrays = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}
    arrays = {key: numbers(part.value) for key, part in arrays.items() if part is not None}
    settings = {"eps": float(eps), "momentum": float(momentum) if 0 < momentum <= 1 else 0.1}
    return reader.add(node, "batch_norm", (reader.read(source),), settings, arrays)


def _pooling(kind: str) -> Callable[[Reader, Node], str]:
    def read(reader: Reader, node: Node) -> str:
        _, kernel, *_ = node.args
        kernel = _pair(kernel)
        pads, source = reader.pads(node.args[0])
        rows, columns = _pair(node.argument(3, "padding"), (0, 0))
        settings: dict[str, Any] = {"kernel_size": kernel, "stride": _pair(node.argument(2, "stride"), kernel)}
        settings["padding"] = rows, columns
        if pads is not None:
            (top, bottom), (left, right), border = pads
            settings["padding"] = (top + rows, bottom + rows), (left + columns, right + columns)
            if border != (-math.inf if kind == "max_pool2d" else 0.0) or (kind == "avg_pool2d" and (rows or columns)):
                raise _Refused(f"its input is padded with {border:g}")
        if kind == "max_pool2d":
            if _pair(node.argument(4, "dilation"), (1, 1)) != (1, 1):
                raise _Refused("it has a dilation")
            settings["ceil_mode"] = bool(node.argument(5, "ceil_mode", False))
        else:
            settings["ceil_mode"] = bool(node.argument(4, "ceil_mode", False))
            counted = bool(node.argument(5, "count_include_pad", True)) or pads is not None
            whole = settings["padding"] == (0, 0)
            settings["count_include_pad"] = counted and not (whole and settings["ceil_mode"])
            if node.argument(6, "divisor_override") not in (None, kernel[0] * kernel[1]):
                raise _Refused("it divides by a number of its own")
        return reader.add(node, kind, (reader.read(source),), settings)

    return read


def _mean(reader: Reader, node: Node) -> str:
    source = node.parents[0]
    axes = sorted(axis % source.value.ndim for axis in (node.argument(1, "dim") or range(source.value.ndim)))
    if source.value.ndim != 4 or axes != [2, 3]:
        raise _Refused(
            f"takes a mean over the axes {axes} of {tuple(source.value.shape)}; (2, 3) of images are possible"
        )
    return _global_mean(reader, node, source)


def _global_mean(reader: Reader, node: Node, source: Node) -> str:
    name = reader.read(source)
    return name if name in reader.rows else reader.add(node, "global_avg_pool2d", (name,))


def _adaptive(kind: str) -> Callable[[Reader, Node], str]:
    def read(reader: Reader, node: Node) -> str:
        source, size = node.parents[0], tuple(node.value.shape[2:])
        before = tuple(source.value.shape[2:])
        if kind == "avg_pool2d" and size == (1, 1):
            return _global_mean(reader, node, source)
        if any(b % s for b, s in zip(before, size, strict=True)):
            raise _Refused(f"it makes {size} of {before}, so that its windows are not all alike")
        kernel = before[0] // size[0], before[1] // size[1]
        return reader.add(node, kind, (reader.read(source),), {"kernel_size": kernel})

    return read


def _reshape(reader: Reader, node: Node) -> str:
    source = node.parents[0]
    before, after = tuple(source.value.shape), tuple(node.value.shape)
    name = reader.read(source)
    if before == after or (name in reader.rows and after[:2] == before[:2] and math.prod(after[2:]) == 1):
        return name
    if len(after) == 2 and after == (before[0], math.prod(before[1:])):
        return reader.add(node, "flatten", (name,))
    raise _Refused(f"makes {after} of {before}; only images can be made flat")


def _concat(reader: Reader, node: Node) -> str:
    parts, axis = node.args[0], node.argument(1, "dim", 0)
    if axis % node.value.ndim != 1 or not all(isinstance(part, Node) for part in parts):
        raise _Refused(f"joins along axis {axis}, or joins a constant; results along axis 1 are possible")
    return (
        reader.add(node, "concat", [reader.read(part) for part in parts]) if len(parts) > 1 else reader.read(parts[0])
    )


def _slices(node: Node) -> tuple[Node, tuple[int, int]] | None:
    """What every so many rows and columns are taken of, from the first."""
    steps = {2: 1, 3: 1}
    while op_of(node) in ("slice", *SAME):
        source = node.parents[0]
        if op_of(node) == "slice":
            axis, start, end, step = (node.argument(i, "", d) for i, d in ((1, 0), (2, None), (3, None), (4, 1)))
            size = source.value.shape[axis]
            whole = (start or 0) == 0 and (end is None or end >= size)
            if not whole or (axis not in steps and step != 1):
                return None
            if axis in steps:
                steps[axis] *= step
        node = source
    return node, (steps[2], steps[3])


def _slice(reader: Reader, node: Node) -> str:
    found = _slices(node)
    if found is None or node.value.ndim != 4:
        raise _Refused("takes a part of a result; every so many rows and columns from the first are possible")
    source, stride = found
    if stride == (1, 1):
        return reader.read(source)
    return reader.add(node, "max_pool2d", (reader.read(source),), {"kernel_size": 1, "stride": stride})


def _pad(reader: Reader, node: Node) -> str:
    """Padding that no window takes along: new channels of zeros, with or without every so many pixels."""
    sides = [*node.args[1], 0, 0, 0, 0, 0, 0][:6]
    if node.value.ndim != 4 or any(sides[:4]) or min(sides) < 0 or float(node.argument(2, "value", 0)):
        raise _Refused("pads what is read by more than convolutions and pooling, or cuts it")
    found = _slices(node.parents[0])
    source, stride = (node.parents[0], (1, 1)) if found is None else found
    inputs, outputs = source.value.shape[1], node.value.shape[1]
    weight = np.zeros((outputs, inputs, 1, 1), np.float32)
    weight[sides[4] : sides[4] + inputs, :, 0, 0] = np.eye(inputs)
    return reader.add(node, "conv2d", (reader.read(source),), {"stride": stride}, {"weight": weight})


READERS: dict[str, Callable[[Reader, Node], str]] = {
    "convolution": _convolution,
    "addmm": _addmm,
    "mm": lambda reader, node: _matrix(reader, node, node.args[0], node.args[1], None),
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "miopen_batch_norm"),
        _batch_norm,
    ),
    "max_pool2d_with_indices": _pooling("max_pool2d"),
    "avg_pool2d": _pooling("avg_pool2d"),
    "mean": _mean,
    "_adaptive_avg_pool2d": _adaptive("avg_pool2d"),
    "adaptive_max_pool2d": _adaptive("max_pool2d"),
    **dict.fromkeys(RESHAPED, _reshape),
    "cat": _concat,
    "slice": _slice,
    "constant_pad_nd": _pad,
}


# --- operations on single values with one layer each; None where they are none


def _of_channels(part: Any, like: T) -> tuple[Any, T | None]:
    """A number, or (C,) numbers, that a constant multiplies or adds to each channel; and the parameter that it is."""
    if not isinstance(part, Constant):
        return (float(part), None) if isinstance(part, int | float) else (None, None)
    wide = part.value.to(like.dtype).expand(like.shape) if part.value.ndim <= like.ndim else part.value
    rows = wide.transpose(0, 1).flatten(1)
    if bool((rows != rows[:, :1]).any()):
        return None, None
    values = numbers(rows[:, 0])
    own = next(iter(part.sources.values())) if len(part.sources) == 1 else None
    learned = own is not None and own.requires_grad and own.numel() in (1, len(values))
    return values, own if learned and np.array_equal(
        np.broadcast_to(numbers(own).ravel(), len(values)), values
    ) else None


def _two(node: Node) -> tuple[Node, Any, bool]:
    """The result and the constant that an operation reads, and whether the constant comes first."""
    first, second = node.args[:2]
    return (second, first, True) if isinstance(second, Node) else (first, second, False)


def _times(reader: Reader, node: Node, source: Node) -> str | None:
    _, constant, first = _two(node)
    values, learned = _of_channels(constant, source.value)
    if op_of(node) == "div" and values is not None:
        if first or node.kwargs.get("rounding_mode"):
            return None
        values, learned = 1 / np.asarray(values, np.float64), None
    if values is None:
        return _times_map(reader, node, source, constant)
    values = np.broadcast_to(np.float32(values), source.value.shape[1]).copy()
    if learned is not None:
        return reader.add(node, "scale", (reader.read(source),), {}, {"channel": values}, part="scale")
    return reader.takes_scale(node, source, values) or reader.affine(node, reader.read(source), source, values, 0)


def _times_map(reader: Reader, node: Node, source: Node, constant: Any) -> str | None:
    wide = constant.value.to(source.value.dtype).expand(source.value.shape) if isinstance(constant, Constant) else None
    if wide is None or source.value.ndim != 4 or op_of(node) != "mul" or bool((wide != wide[:1]).any()):
        return None
    return reader.add(node, "scale", (reader.read(source),), {}, {"map": numbers(wide[0])})


def _plus(reader: Reader, node: Node, source: Node) -> str | None:
    _, constant, first = _two(node)
    values, learned = _of_channels(constant, source.value)
    if values is None:
        raise _Refused("adds numbers that differ from pixel to pixel")
    op, factor = op_of(node), node.argument(2, "alpha", 1)
    minus = op == "rsub" or (op == "sub" and first)  # constant - x
    taken = op == "sub" and not first
    values = np.asarray(values) * (1 if minus or first else factor) * (-1 if taken else 1)
    if minus:
        return reader.affine(node, reader.read(source), source, -factor if op == "rsub" or first else -1, values)
    if first and factor != 1:
        return reader.affine(node, reader.read(source), source, factor, values)
    if learned is not None:
        return reader.add(
            node, "shift", (reader.read(source),), {}, {"shift": np.broadcast_to(values, source.value.shape[1])}
        )
    return reader.affine(node, reader.read(source), source, 1, values)


def _clip(low: Any, high: Any) -> Callable[[Reader, Node, Node], str | None]:
    """Clipping, to limits that are the operation's own, or its arguments of that place."""

    def read(reader: Reader, node: Node, source: Node) -> str | None:
        a, b = (
            node.argument(v, name) if isinstance(v, int) else v for v, name in ((low, "min_val"), (high, "max_val"))
        )
        if op_of(node) == "clamp":
            a, b = node.argument(1, "min"), node.argument(2, "max")
        a, b = (-math.inf if a is None else a), (math.inf if b is None else b)
        if not isinstance(a, int | float) or not isinstance(b, int | float):
            return None
        name = reader.read(source)
        if (a, b) == (0, math.inf):
            return reader.add(node, "relu", (name,))
        if (a, b) == (-1, 1):
            return reader.add(node, "hardtanh", (name,))
        if not (math.isfinite(a) and math.isfinite(b) and a < b):
            return None
        half, middle = (b - a) / 2, (b + a) / 2
        name = reader.affine(node, name, source, 1 / half, -middle / half, value=False)
        return reader.affine(node, reader.add(node, "hardtanh", (name,), value=False), source, half, middle)

    return read


def _leaky(reader: Reader, node: Node, source: Node) -> str:
    slope = np.array([node.argument(1, "negative_slope", 0.01)], np.float32)
    return reader.add(node, "prelu", (reader.read(source),), {"learned": False}, {"weight": slope})


def _prelu(reader: Reader, node: Node, source: Node) -> str | None:
    slopes, _ = _of_channels(node.args[1], source.value)
    if slopes is None:
        return None
    several = len(set(np.ravel(slopes).tolist())) > 1 or node.args[1].value.numel() > 1
    weight = np.ravel(slopes) if several else np.ravel(slopes)[:1]
    return reader.add(node, "prelu", (reader.read(source),), {}, {"weight": weight})


def _as_it_is(reader: Reader, node: Node, source: Node) -> str | None:
    same = node.value.shape == source.value.shape and node.value.is_floating_point() == source.value.is_floating_point()
    return reader.read(source) if same and source.value.is_floating_point() else None


def _rounded(reader: Reader, node: Node, source: Node) -> str | None:
    """Of whole numbers, which stay as they are."""
    return reader.read(source) if torch.equal(node.value, source.value) else None


SIMPLE: dict[str, Callable[[Reader, Node, Node], str | None]] = {
    **dict.fromkeys(SAME, _as_it_is),
    **dict.fromkeys(("round", "floor", "ceil", "trunc"), _rounded),
    "mul": _times,
    "div": _times,
    "add": _plus,
    "sub": _plus,
    "rsub": _plus,
    "neg": lambda reader, node, source: reader.affine(node, reader.read(source), source, -1, 0),
    "relu": lambda reader, node, source: reader.add(node, "relu", (reader.read(source),)),
    "relu6": _clip(0.0, 6.0),
    "hardtanh": _clip(1, 2),
    "clamp": _clip(1, 2),
    "clamp_min": lambda reader, node, source: _clip(float(node.args[1]), math.inf)(reader, node, source),
    "leaky_relu": _leaky,
    "_prelu_kernel": _prelu,
    "prelu": _prelu,
}
