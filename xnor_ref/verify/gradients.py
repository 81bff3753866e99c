"""Gradients of layers, as in training, compared with finite differences in float64.

Each layer of `nn` has a second form here, in float64, which shares no arithmetic with the layer. If a layer takes a
sign, its form uses the layer's surrogate. With d instead of the derivative at x0, the form continues from sign(x0) as
sign(x0) + d (x - x0). So the differences of the form equal the gradient that the layer declares. At a kink, an
activation also continues by its gradient.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from xnor_ref import binary, nn
from xnor_ref.autodiff import GradientError, Tensor, no_grad
from xnor_ref.conformance.basics import oracle
from xnor_ref.errors import InputError, InputTypeError, check_integer
from xnor_ref.nn.backend import backward_in, binary_backend
from xnor_ref.nn.layers.kbit_layers import KBitLayer
from xnor_ref.nn.layers.real_layers import BatchNorm
from xnor_ref.nn.module import overrides

F64 = NDArray[np.float64]
STEP = 1e-6  # half the step of a difference
FLOOR = (
    1e-3  # of the largest gradient of all: what smaller ones are compared with, such as those that BatchNorm cancels
)
PATHS = ("auto", "numba")  # the fused and the readable path


@dataclass(frozen=True)
class GradientReport:
    """The result of `check_gradients`.

    Attributes
    ----------
    error : float
        The largest difference of two elements, relative to the largest element of their array.
    worst : str
        The element with this difference, such as "weight[3, 0, 1, 2]".
    elements : int
        How many elements were compared.
    surrogates : tuple of str
        The surrogates of derivatives, with their places.
    constant : tuple of str
        What counts as a constant although it depends on the input or on a parameter.
    """

    error: float
    worst: str
    elements: int
    surrogates: tuple[str, ...]
    constant: tuple[str, ...]


@dataclass
class At:
    """The point at which a form's layer is checked."""

    layer: Any  # in float32
    name: str
    weights: F64 | None = None  # W~ of a binary layer, varied instead of the latent weights
    kept: dict[str, Any] = field(default_factory=dict)
    surrogates: list[str] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)

    def keep(self, key: str, make: Callable[[], Any], constant: str = "", surrogate: str = "") -> Any:
        """Return the result of `make` at the form's first call. The texts go into the report."""
        if key not in self.kept:
            self.kept[key] = make()
            for texts, text in ((self.constant, constant), (self.surrogates, surrogate)):
                texts += [f"{self.name}: {text}"] if text else []
        return self.kept[key]

    def straight(
        self, x: F64, value: Callable[[F64], Any], derivative: Callable[[F64], Any], equation: str = ""
    ) -> F64:
        """Return value(x0) + derivative(x0) (x - x0), where x0 is x at the first call."""
        x0 = self.keep("x0", x.copy)
        said = f"{equation} in place of the derivative of its signs" if equation else ""
        d = self.keep("d", lambda: derivative(x0), surrogate=said)
        return self.keep("value", lambda: value(x0)) + d * (x - x0)


Form = Callable[[Any, At, F64], F64]


def check_gradients(
    layer: nn.Module,
    x: NDArray,
    *,
    tolerance: float = 1e-3,
    elements: int = 300,
    seed: int = 0,
    forms: Mapping[type, Callable[[Any, F64, F64], F64]] | None = None,
) -> GradientReport:
    """Compare a layer's gradients with finite differences, element by element.

    Let f = <D, layer(x)> for one random D. The gradients of f that training computes in float32, on the fused and on
    the readable path, are compared with central differences in float64. Straight-through parts are compared with the
    surrogate that the layer declares. K counts as a constant unless the layer sets `k_grad`.

    Parameters
    ----------
    layer : Module
        A layer or a network, in the mode to check. Not changed. Your own layers are also called with float64 Tensors
        and parameters, and must keep that dtype.
    x : ndarray
        Its input, float32 or float64, such as (N, C, H, W). A small one is enough. Your own layers must not be at a
        kink.
    tolerance : float
        Largest accepted difference, relative to the largest element of an array.
    elements : int
        Most elements of an array that are compared. Of binary weights whole filters are compared, at least one.
    seed : int
        Seed of D and of the choice of elements.
    forms : mapping, optional
        For your own classes that take signs: a function of (layer, x, x0), in float64, that returns the output with a
        surrogate, which continues from x0, instead of the signs.

    Returns
    -------
    GradientReport

    Raises
    ------
    GradientError
        An element differs by more than `tolerance`; the message names the worst.
    InputTypeError, InputError
        `layer` or `x` has a wrong type, or the layer does not keep float64 or rounds its gradients (`grad_bits`).

    Examples
    --------
    >>> from xnor_ref import nn
    >>> x = np.random.default_rng(0).standard_normal((2, 3, 5, 5))
    >>> report = check_gradients(nn.BinaryConv2d(3, 4, 3, rng=np.random.default_rng(1)), x)
    >>> report.error < 1e-4
    True
    >>> report.constant
    ('BinaryConv2d: K, since k_grad is off',)
    >>> report.surrogates
    ('BinaryConv2d: 1[|x| <= 1] in place of the derivative of its signs',)
    """
    if not isinstance(layer, nn.Module):
        raise InputTypeError(f"check_gradients: layer must be a Module, got {type(layer).__name__}")
    if not isinstance(x, np.ndarray) or x.dtype not in (np.float32, np.float64) or not x.size:
        got = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise InputTypeError(f"check_gradients: x must be a float32 or float64 array with elements, got {got}")
    if not np.isfinite(x).all():
        raise InputError("check_gradients: x holds NaN or infinity")
    check_integer("check_gradients: elements", elements, 1)
    check_integer("check_gradients: seed", seed, 0)
    for name, module in layer.named_modules():
        if (bits := getattr(module, "grad_bits", None)) is not None:
            raise InputError(
                f"check_gradients: layer {name or type(module).__name__!r} rounds its gradients (grad_bits={bits})"
            )
    single, rng = x.astype(np.float32), np.random.default_rng(seed)
    with no_grad():
        d = rng.standard_normal(_copy(layer)(single).shape).astype(np.float32)
    found = {path: _gradients(layer, single, d, path) for path in PATHS}
    form = _InDouble(layer, single, d, forms or {})
    sizes = [np.abs(array).max() for name, array in found[PATHS[0]].items() if name != "output"]
    floor = FLOOR * max(sizes, default=0.0)
    error, worst, count = 0.0, "", 0
    for name, wanted in form.gradients(found[PATHS[0]], elements, rng):
        compared = ~np.isnan(wanted)
        count += int(compared.sum())
        for path, arrays in found.items():
            array = arrays[name]
            scale = max(np.abs(array).max(), np.abs(wanted[compared]).max(), floor) or 1.0
            far = np.where(compared, np.abs(array - wanted), 0) / scale
            index = tuple(map(int, np.unravel_index(int(far.argmax()), far.shape)))  # a NaN, if there is one
            if not far[index] <= tolerance:
                raise GradientError(
                    f"check_gradients: {name}{list(index)} is {array[index]:.6g} as training computes it"
                    f"{' on the readable path' if path == 'numba' else ''}, {wanted[index]:.6g} by differences in "
                    f"float64: they differ by {far[index]:.2g} of the largest, and {tolerance:g} is allowed"
                    f"{'; the sign of a value near 0 may have flipped' if name == 'output' else ''}"
                )
            if far[index] >= error:
                error, worst = float(far[index]), f"{name}{list(index)}"
    at = form.at.values()
    surrogates, constant = (
        tuple(text for one in at for text in getattr(one, key)) for key in ("surrogates", "constant")
    )
    return GradientReport(error, worst, count, surrogates, constant)


def _copy(layer: nn.Module) -> nn.Module:
    """A copy that draws the same random numbers as any other."""
    other = copy.deepcopy(layer)
    other.set_position(0, 0)
    return other


def _gradients(layer: nn.Module, x: NDArray[np.float32], d: NDArray[np.float32], path: str) -> dict[str, NDArray]:
    """The output, and the gradients of the input and of the parameters, as training computes them."""
    network, image = _copy(layer), Tensor(x, requires_grad=True)
    network.zero_grad()
    with backward_in("fp32"), binary_backend(path):
        y = network(image)
        y.backward(d)
    found = {"input": image.grad} | {name: p.grad for name, p in network.named_parameters()}
    return {"output": y.data} | {name: array for name, array in found.items() if array is not None}


class _InDouble:
    """A copy of a layer in float64, with forms in place of the layers of `nn`."""

    def __init__(self, layer: nn.Module, x: NDArray[np.float32], d: NDArray[np.float32], forms: Mapping[type, Any]):
        self._network, source = _copy(layer), _copy(layer)
        self._x, self._d = x.astype(np.float64), d.astype(np.float64)
        self.at: dict[str, At] = {}
        for (name, module), (_, own) in zip(self._network.named_modules(), source.named_modules(), strict=True):
            at = self.at[name] = At(own, name or type(own).__name__)
            _use_form(module, at, forms)
            for key, value in vars(module).items():
                if isinstance(value, Tensor):
                    value.data = value.data.astype(np.float64)
                elif key in module.buffer_names:
                    setattr(module, key, value.astype(np.float64))
        self._output = self._run().copy()  # of a layer that does nothing it may be the input

    def _run(self) -> F64:
        with no_grad(), np.errstate(all="ignore"):
            y: NDArray = self._network(Tensor(self._x)).data
        if y.dtype != np.float64:
            kind = type(self._network).__name__
            raise InputTypeError(
                f"check_gradients: of float64 {kind} makes {y.dtype}; it must keep the dtype of its input"
            )
        return y

    def gradients(self, known: Mapping[str, Any], elements: int, rng: np.random.Generator) -> Iterator[tuple[str, F64]]:
        """The output, and differences where training has a gradient; NaN in elements that are not compared."""
        yield "output", self._output
        if "input" in known:
            yield "input", self._differences(self._x, _drawn(self._x, elements, rng))
        for name, parameter in self._network.named_parameters():
            at = self.at[name.rpartition(".")[0]]
            if name in known and at.weights is not None and name.rpartition(".")[2] == "weight":
                yield name, self._latent(at, at.weights, elements, rng)
            elif name in known:
                yield name, self._differences(parameter.data, _drawn(parameter.data, elements, rng))

    def _latent(self, at: At, weights: F64, elements: int, rng: np.random.Generator) -> F64:
        """Of latent weights: whole filters, since the rule of each is made of all its binary weights."""
        layer, places = at.layer, np.arange(weights.size).reshape(len(weights), -1)
        drawn = rng.permutation(len(weights))[: max(1, elements // places.shape[1])]
        for filters in (drawn, slice(None)):  # all of them for a rule that mixes filters
            g = self._differences(weights, places[filters].ravel())
            found: F64 = np.asarray(
                layer.grad_mode.latent(g, layer.weight.data, _true_alpha(layer), layer.weight_scale, layer.code),
                np.float64,
            )
            if not np.isnan(found[filters]).any():
                break
        return found

    def _differences(self, array: F64, places: Iterable[int]) -> F64:
        """Central differences of <D, y> with respect to elements of an array that the network computes with."""
        found = np.full(array.shape, np.nan)
        for place in places:
            index = np.unravel_index(place, array.shape)
            before, values = array[index], []
            for step in (STEP, -STEP):
                array[index] = before + step
                values.append((self._d * (self._run() - self._output)).sum())
            array[index] = before
            found[index] = (values[0] - values[1]) / (2 * STEP)
        return found


def _drawn(array: NDArray, elements: int, rng: np.random.Generator) -> Iterable[int]:
    """Places of at most so many elements."""
    return rng.choice(array.size, elements, replace=False) if array.size > elements else range(array.size)


def _use_form(module: Any, at: At, forms: Mapping[type, Any]) -> None:
    """Have a layer that has a form compute by it; others, containers too, compute as they are."""
    own = next((forms[kind] for kind in type(module).__mro__ if kind in forms), None)
    kind: Any = next((kind for kind in type(module).__mro__ if kind in FORMS), None)
    if own is not None:
        module.forward = lambda x: Tensor(own(module, x.data, at.keep("x0", x.data.copy)))
    elif kind is not None and not overrides(module, kind, "forward", "__call__"):
        module.forward = lambda x: Tensor(FORMS[kind](module, at, x.data))


# --- the forms


def _channels(values: NDArray, x: F64) -> F64:
    """Values (C,) in a shape that goes with x (N, C[, H, W])."""
    return values.reshape(-1, *(1,) * (x.ndim - 2))


def _true_alpha(layer: Any) -> NDArray | None:
    """alpha (O,), that W~ = alpha B has."""
    return layer.alpha() * getattr(layer, "_unit", 1) if layer.weight_scale.scales else None


def _convolved(layer: Any, x: F64, weight: F64, border: float = 0.0) -> F64:
    groups, window = getattr(layer, "groups", 1), layer.window(x.shape[2:])
    place = window.stride, window.padding, border, window.dilation
    parts = zip(np.split(x, groups, axis=1), np.split(weight, groups), strict=True)
    return np.concatenate([oracle.convolve(a, b, *place) for a, b in parts], axis=1)


def _plus_bias(layer: Any, y: F64) -> F64:
    return y if layer.bias is None else y + _channels(layer.bias.data, y)


def _real(layer: Any, at: At, x: F64) -> F64:
    weight = layer.weight.data
    return _plus_bias(layer, x @ weight.T if weight.ndim == 2 else _convolved(layer, x, weight))


def _binary(layer: Any, at: At, x: F64) -> F64:
    """Binary weights W~ on the codes of the input, or on the input itself, times K."""
    own = at.layer
    if at.weights is None:
        at.weights = own.code.values(own.weight.data).astype(np.float64)
        if getattr(own, "stochastic", False) and own.training:
            at.weights = at.keep("drawn", lambda: own.filters(None), "the signs of its weights, as drawn").astype(float)
        if (alpha := _true_alpha(own)) is not None:
            at.weights *= binary.weights.per_filter(alpha, at.weights)
            flows = type(own.weight_scale).alpha_gradient is not binary.WeightScale.alpha_gradient
            if own.grad_mode.name == "ste" or (own.grad_mode.name == "corrected" and not flows):
                at.keep("alpha", lambda: None, "alpha, which its rules hold")
    weight, k, border = at.weights, None, 0.0
    if not isinstance(own, nn.BinaryWeightConv2d | nn.BinaryWeightLinear):
        k, border = _input_scale(own, at, x), float(getattr(own, "pad_value", 0))
        x = _coded(own, at, x)
    y = x @ weight.T if weight.ndim == 2 else _convolved(layer, x, weight, border)
    return _plus_bias(layer, y if k is None else y * np.repeat(k, y.shape[1] // k.shape[1], axis=1))


def _coded(own: Any, at: At, x: F64) -> F64:
    """Signs, or levels of several bits, with their surrogate."""
    if isinstance(own, KBitLayer) and own.input_bits > 1:
        return at.straight(x, lambda v: own.inputs.values(v.astype(np.float32)), binary.ste_mask, "1[|x| <= 1]")
    rule = own.sign_gradient
    return at.straight(x, oracle.signs, lambda v: rule.derivative(v).astype(np.float64), rule.equation or rule.name)


def _input_scale(own: Any, at: At, x: F64) -> F64 | None:
    if not own.input_scale.scales:
        return None
    rows = own.weight.ndim == 2
    if own.k_grad:
        rule = own.input_scale
        if rows:
            return np.abs(x).mean(axis=1, keepdims=True) if rule.mode else np.asarray(rule.of_rows(x), np.float64)
        window, parts = own.window(x.shape[2:]), x.reshape(len(x) * own.groups, -1, *x.shape[2:])
        if rule.mode is None:
            k = np.asarray(rule.of_images(parts, window), np.float64)
        else:
            k = oracle.input_scale(parts, window.kernel, window.stride, window.padding, rule.name, window.dilation)
        return k.reshape(len(x), -1, *k.shape[2:])
    make = own.scale_rows if rows else own.scale_map
    return at.keep("K", lambda: make(np.ascontiguousarray(x, np.float32)).astype(float), "K, since k_grad is off")


def _sign(layer: Any, at: At, x: F64) -> F64:
    rule = layer.gradient
    return at.straight(x, oracle.signs, lambda v: rule.derivative(v).astype(np.float64), rule.equation or rule.name)


def _batch_norm(layer: Any, at: At, x: F64) -> F64:
    axes = (0, *range(2, x.ndim))
    if not layer.training:
        fixed = "its weight and bias: inference multiplies by two constants a channel"
        scale, shift = at.keep("affine", at.layer.inference_affine, fixed)
        return x * _channels(scale, x) + _channels(shift, x)
    gamma, centred, root = layer.weight.data, x - x.mean(axis=axes, keepdims=True), x.var(axis=axes) + layer.eps
    if isinstance(layer, nn.ShiftBatchNorm1d | nn.ShiftBatchNorm2d):
        gamma, root = _powers(layer, at, x, centred, axes)
    return centred * _channels(gamma / np.sqrt(root), x) + _channels(layer.bias.data, x)


def _powers(layer: Any, at: At, x: F64, centred: F64, axes: tuple[int, ...]) -> tuple[F64, F64]:
    """AP2(gamma), and 1/inv^2, which go on as gamma and the variance do."""
    ap2, gamma = binary.ap2, layer.weight.data

    def inverse() -> F64:
        var = (centred * ap2(centred.astype(np.float32))).mean(axis=axes)
        return ap2((1 / np.sqrt(var + layer.eps)).astype(np.float32)).astype(np.float64)

    inv = at.keep("inv", inverse, surrogate="1 in place of the derivative of AP2")
    gamma0, var0 = at.keep("gamma", gamma.copy), at.keep("var", lambda: x.var(axis=axes))
    return ap2(gamma0) + gamma - gamma0, 1 / inv**2 + x.var(axis=axes) - var0


def _windows(layer: Any, x: F64, border: float) -> F64:
    """(N, C, OH, OW, KH, KW)."""
    window = layer.window(x.shape[2:])
    padded = np.pad(x, [(0, 0), (0, 0), *window.padding], constant_values=border)
    found: F64 = sliding_window_view(padded, window.kernel, axis=(2, 3))[:, :, :: window.stride[0], :: window.stride[1]]
    return found


def _max_pool(layer: Any, at: At, x: F64) -> F64:
    """The maximum of each window stays where it was first; of equal elements, which signs often make, the first."""
    taps = _windows(layer, x, -np.inf)
    taps = taps.reshape(*taps.shape[:4], -1)
    found: F64 = np.take_along_axis(taps, at.keep("winner", lambda: taps.argmax(axis=4)[..., None]), axis=4)[..., 0]
    return found


def _mean_pool(layer: Any, at: At, x: F64) -> F64:
    counted = _windows(layer, np.ones_like(x), float(layer.count_include_pad))
    mean: F64 = _windows(layer, x, 0.0).sum(axis=(4, 5)) / counted.sum(axis=(4, 5))
    return mean


def _scale(layer: Any, at: At, x: F64) -> F64:
    spread = [
        factor.data.reshape([size if axis in nn.GAMMAS[layer.gamma][name] else 1 for axis, size in enumerate(x.shape)])
        for name, factor in layer.factors().items()
    ]
    return reduce(np.multiply, spread, x)


def _dropout(layer: Any, at: At, x: F64) -> F64:
    if not layer.training:
        return x
    return x * at.keep("mask", lambda: at.layer(np.ones(x.shape, np.float32)).data, "what it drops, as drawn")


def _identity_shortcut(layer: Any, at: At, x: F64) -> F64:
    kept = x[:, :, :: layer.stride[0], :: layer.stride[1]]
    y = np.zeros((len(x), layer.out_channels, *kept.shape[2:]))
    y[:, :: layer.out_channels // layer.in_channels] = kept
    return y


FORMS: dict[type, Form] = {
    nn.Conv2d: _real,
    nn.Linear: _real,
    **dict.fromkeys((nn.BinaryConv2d, nn.BinaryLinear, nn.KBitConv2d, nn.KBitLinear), _binary),
    **dict.fromkeys((nn.BinaryWeightConv2d, nn.BinaryWeightLinear), _binary),
    nn.Sign: _sign,
    BatchNorm: _batch_norm,
    nn.ReLU: lambda layer, at, x: x * at.keep("on", lambda: x > 0),
    nn.PReLU: lambda layer, at, x: np.where(at.keep("off", lambda: x < 0), x * _channels(layer.weight.data, x), x),
    nn.Hardtanh: lambda layer, at, x: at.straight(x, lambda v: np.clip(v, -1, 1), lambda v: np.abs(v) <= 1),
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _mean_pool,
    nn.GlobalAvgPool2d: lambda layer, at, x: x.mean(axis=(2, 3)),
    nn.Flatten: lambda layer, at, x: x.reshape(len(x), -1),
    nn.Dropout: _dropout,
    nn.Scale: _scale,
    nn.Shift: lambda layer, at, x: x + _channels(layer.shift.data, x),
    nn.Affine: lambda layer, at, x: x * _channels(layer.scale, x) + _channels(layer.shift, x),
    nn.IdentityShortcut: _identity_shortcut,
}
