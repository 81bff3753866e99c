"""Functions of Tensors, named as in NumPy. Each stands beside its gradient. Arrays and numbers are constants."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff.tensor import Tensor, apply, constant, named, operands, require_float, to, unbroadcast
from xnor_ref.errors import InputError, InputTypeError

# Elementwise.


def exp(x: Tensor) -> Tensor:
    """e^x."""
    out = np.exp(require_float("exp", x))
    return apply("exp", out, (x,), lambda dy: (dy * out,))


def log(x: Tensor) -> Tensor:
    """Natural logarithm."""
    return apply("log", np.log(require_float("log", x)), (x,), lambda dy: (dy / x.data,))


def sqrt(x: Tensor) -> Tensor:
    """Square root."""
    out = np.sqrt(require_float("sqrt", x))
    return apply("sqrt", out, (x,), lambda dy: (dy / (2 * out),))


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    out = np.tanh(require_float("tanh", x))
    return apply("tanh", out, (x,), lambda dy: (dy * (1 - out * out),))


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x), without overflow."""
    out = np.exp(-np.logaddexp(0, -require_float("sigmoid", x)))
    return apply("sigmoid", out, (x,), lambda dy: (dy * out * (1 - out),))


def relu(x: Tensor) -> Tensor:
    """max(x, 0). The gradient at 0 is 0."""
    return apply("relu", np.maximum(require_float("relu", x), 0), (x,), lambda dy: (dy * (x.data > 0),))


def clip(x: Tensor, lo: float, hi: float) -> Tensor:
    """x limited to [lo, hi]. The gradient is 1[lo <= x <= hi]."""
    if not lo <= hi:
        raise InputError(f"clip: lo (={lo}) must not be above hi (={hi})")
    out = np.clip(require_float("clip", x), x.dtype.type(lo), x.dtype.type(hi))
    return apply("clip", out, (x,), lambda dy: (dy * (out == x.data),))


def maximum(a: Any, b: Any) -> Tensor:
    """Elementwise maximum. Where both are equal, `a` gets the gradient."""
    a, b = operands("maximum", a, b)
    return where(a.data >= b.data, a, b)


def minimum(a: Any, b: Any) -> Tensor:
    """Elementwise minimum. Where both are equal, `a` gets the gradient."""
    a, b = operands("minimum", a, b)
    return where(a.data <= b.data, a, b)


def where(condition: NDArray[np.bool_], a: Any, b: Any) -> Tensor:
    """`a` where the boolean array `condition` is True, else `b`. All three broadcast."""
    condition = np.asarray(condition)
    if condition.dtype != np.bool_:
        raise InputTypeError(f"where: condition must be boolean, got {condition.dtype}")
    a, b = operands("where", a, b)
    try:
        out = np.where(condition, a.data, b.data)
    except ValueError:
        raise InputError(f"where: shapes {condition.shape}, {a.shape} and {b.shape} do not broadcast") from None

    def backward(dy):
        zero = np.zeros((), dy.dtype)
        return to(a, lambda: np.where(condition, dy, zero)), to(b, lambda: np.where(condition, zero, dy))

    return apply("where", out, (a, b), backward)


# Softmax and related functions along one axis. The maximum is subtracted first, so no finite input overflows.


def logsumexp(x: Tensor, axis: int = -1, keepdims: bool = False) -> Tensor:
    """log(sum(e^x)) along an axis; the gradient is softmax(x)."""
    peak, total = _peak_and_total("logsumexp", x, axis)
    out = peak + np.log(total)
    softmax = np.exp(x.data - out)
    return apply(
        "logsumexp",
        out if keepdims else out.squeeze(axis),
        (x,),
        lambda dy: ((dy if keepdims else np.expand_dims(dy, axis)) * softmax,),
    )


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """x - logsumexp(x)."""
    peak, total = _peak_and_total("log_softmax", x, axis)
    out = (x.data - peak) - np.log(total)
    return apply("log_softmax", out, (x,), lambda dy: (dy - np.exp(out) * dy.sum(axis=axis, keepdims=True),))


def _peak_and_total(op: str, x: Tensor, axis: int) -> tuple[NDArray, NDArray]:
    """Return max(x) and sum(e^(x - max)) along an axis, which is kept with length 1."""
    data = require_float(op, x)
    with named(op, x, axis):
        peak = data.max(axis=axis, keepdims=True)
    return peak, np.exp(data - peak).sum(axis=axis, keepdims=True)


# Shapes.


def broadcast_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x repeated to `shape`. The gradient sums over the copies."""
    with named("broadcast_to", x, shape):
        out = np.broadcast_to(x.data, shape)
    return apply("broadcast_to", out, (x,), lambda dy: (unbroadcast(dy, x.shape),))


def concatenate(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Join along an existing axis."""
    parts, out = _joined("concatenate", np.concatenate, tensors, axis)
    ends = np.cumsum([part.shape[axis] for part in parts])[:-1]
    return apply("concatenate", out, parts, lambda dy: tuple(np.split(dy, ends, axis=axis)))


def stack(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Join along a new axis."""
    parts, out = _joined("stack", np.stack, tensors, axis)
    return apply("stack", out, parts, lambda dy: tuple(np.moveaxis(dy, axis, 0)))


def pad(x: Tensor, widths: Any, value: float = 0.0) -> Tensor:
    """Add a border of `value`. `widths` is as in np.pad: one number, (before, after), or one such pair per axis."""
    with named("pad", x, widths):
        pairs = np.broadcast_to(np.asarray(widths, dtype=np.intp), (x.ndim, 2)).tolist()
        out = np.pad(x.data, pairs, constant_values=value)
    inside = tuple(slice(before, before + size) for (before, _), size in zip(pairs, x.shape))
    return apply("pad", out, (x,), lambda dy: (dy[inside],))


def _joined(op: str, join: Any, tensors: Sequence[Any], axis: int) -> tuple[tuple[Tensor, ...], NDArray]:
    """Return all as Tensors with the dtype of the first Tensor among them, and `join` of their arrays."""
    first = next((part for part in tensors if isinstance(part, Tensor)), None)
    if first is None:
        raise InputTypeError(f"{op}: needs a sequence with at least one Tensor")
    parts = tuple(constant(op, part, first) for part in tensors)
    if any(part.dtype != first.dtype for part in parts):
        raise InputTypeError(f"{op}: dtypes must match, got {[str(part.dtype) for part in parts]}")
    try:
        return parts, join([part.data for part in parts], axis=axis)
    except ValueError as error:
        shapes = [part.shape for part in parts]
        raise InputError(f"{op}: shapes {shapes} cannot be joined along axis {axis}: {error}") from None
