"""The operations of ONNX and QONNX on values that depend on the image: for each, what becomes of the value.

Products with constant weights are in `products.py`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.interop.onnx_in import products
from xnor_ref.interop.onnx_in.call import Call, Operand
from xnor_ref.interop.onnx_in.fold import ROUNDINGS, Unsupported, bounds_of, reshaped, shape_of
from xnor_ref.interop.onnx_in.values import (
    NCHW,
    NO_PADS,
    ONE,
    REAL,
    ROWS,
    SINGLE,
    ZERO,
    Code,
    Numbers,
    Value,
)
from xnor_ref.kernels.basics.geometry import Pads, Window

_F32 = np.float32


# Numbers a channel


def _multiply(call: Call, x: Value, by: NDArray) -> Value:
    k = call.numbers(by, x)
    if k.ndim > 1:
        return _gamma(call, x, k)
    if not np.isfinite(k).all():
        raise Unsupported("a factor that is not finite")
    if x.code.kind == "box":
        return _scale_map(call, x, k)
    if not x.code.merges and not x.unscaled:
        x = call.real(x)
    if x.plain and call.alone(x) and products.absorb(call.layers, x, k):
        return x
    return x.now(a=x.a * k, b=x.b * k, name=call.name)


def _gamma(call: Call, x: Value, k: Numbers) -> Value:
    """A factor that differs from pixel to pixel."""
    if x.code.kind == "box":
        return _scale_map(call, x, k)
    if len(x.shape) != 3:
        raise Unsupported(f"a factor of shape {k.shape}")
    gamma = np.ascontiguousarray(np.broadcast_to(k, x.shape), _F32)
    if k.shape[0] == 1:
        return call.layer("scale", x, channel=np.ones(x.shape[0], _F32), plane=gamma[0])
    return call.layer("scale", x, map=gamma)


def _plus(call: Call, x: Value, k: NDArray) -> Value:
    shift = call.numbers(k, x)
    if shift.ndim > 1:
        raise Unsupported(f"a sum with a constant of shape {k.shape}, which differs from pixel to pixel")
    if x.b.any() and not x.code.merges:
        x = call.real(x)
    if x.plain and call.alone(x) and products.biased(call.layers, x, shift):
        return x
    return x.now(b=x.b + shift, name=call.name)


def _scale_map(call: Call, x: Value, k: Numbers) -> Value:
    """Sums of absolute values over windows, times this: K."""
    window = x.code.window
    assert window is not None
    taps = math.prod(window.kernel)
    factor = x.a * k
    if factor.ndim == 0 and abs(float(factor) * taps - 1) < 1e-5:
        return x.now(code=Code("k", groups=x.code.groups, window=window, mode="plain"), a=ONE)
    inside = np.maximum(products.taps_inside(window, products.size_before(call.layers, x.of)), 1)
    if factor.ndim == 3 and np.allclose(factor * inside, 1, rtol=1e-5):
        return x.now(code=Code("k", groups=x.code.groups, window=window, mode="valid"), a=ONE)
    raise Unsupported("sums of absolute values that are no K of an XNOR-Net")


def _add(call: Call) -> Operand:
    x, y = call.inputs
    if isinstance(y, np.ndarray) and isinstance(x, Value):
        return _plus(call, x, y)
    if isinstance(x, np.ndarray) and isinstance(y, Value):
        return _plus(call, y, x)
    x, y = call.value(0), call.value(1)
    for minus, other in ((0, 1), (1, 0)):  # (x - y) + y, as straight-through estimators are written
        found = call.context.differences.get(call.node.inputs[minus])
        if found and found[0] == call.node.inputs[other]:
            return found[1]
    return _sum(call, x, y)


def _sub(call: Call) -> Operand:
    x, y = call.inputs
    if isinstance(y, np.ndarray) and isinstance(x, Value):
        return _plus(call, x, -y.astype(np.float64))
    if isinstance(x, np.ndarray) and isinstance(y, Value):
        return _plus(call, _multiply(call, y, -np.ones(())), x)
    return _sum(call, call.value(0), _multiply(call, call.value(1), -np.ones(())))


def _sum(call: Call, x: Value, y: Value) -> Value:
    call.like(x, y)
    three = _three_levels(x, y)
    if three is not None:
        return three
    x, y = call.real(x), call.real(y)
    return x.now(of=call.layers.add(call.name, "add", [x.of, y.of], x.shape))


def _three_levels(x: Value, y: Value) -> Value | None:
    """The sum of two steps of one value, as ternary inputs are written: 1 above 1/2, -1 below -1/2, else 0."""
    if x.code.kind != "step" or y.code.kind != "step" or x.of != y.of or not (np.all(x.a == y.a) and np.all(x.a > 0)):
        return None
    low, high = (x, y) if np.all(x.at < y.at) else (y, x)
    if np.all(low.at == -0.5) and np.all(high.at == _after(np.float64(0.5))):
        return x.now(code=Code("ternary", bits=2), a=2 * x.a, b=x.b + y.b, at=ZERO)
    return None


def _mul(call: Call) -> Operand:
    x, y = call.inputs
    if isinstance(y, np.ndarray) and isinstance(x, Value):
        return _multiply(call, x, y)
    if isinstance(x, np.ndarray) and isinstance(y, Value):
        return _multiply(call, y, x)
    for z, k in ((call.value(0), call.value(1)), (call.value(1), call.value(0))):
        if k.code.kind == "mean":  # over windows of one pixel
            k = k.now(code=Code("k", groups=k.code.groups, window=Window((1, 1)), mode="plain"))
        if k.code.kind == "k":
            if not call.alone(z):
                raise Unsupported("K of an XNOR-Net beside a result that others read, too")
            return products.with_input_scale(call.layers, z, k)
    raise Unsupported("a product of two results; only K of an XNOR-Net is read")


def _div(call: Call) -> Operand:
    x, by = call.value(0), call.constant(1, "the divisor")
    if not by.all():
        raise Unsupported("a division by 0")
    return _multiply(call, x, 1 / by.astype(np.float64))


def _batch_norm(call: Call) -> Operand:
    x = call.value()
    arrays = [call.constant(i, what) for i, what in enumerate(("", "scale", "B", "the mean", "the variance")) if i]
    if any(array.shape != x.shape[:1] for array in arrays) or x.axes[1] != 1:
        raise Unsupported(f"its {arrays[0].shape} numbers stand beside a value {x.sizes(1)}; the channels come second")
    if call.option("training_mode", 0):
        raise Unsupported("it is in training mode")
    stood = (call.numbers(array.reshape(-1, *(1,) * (len(x.axes) - 2)), x) for array in arrays)
    weight, bias, mean, var = (np.broadcast_to(array, x.shape[:1]) for array in stood)
    eps = float(call.option("epsilon", 1e-5))
    if not (x.code == REAL and np.all(x.a == 1)):
        x = call.real(x)
    if not np.all(var + eps > 0):
        raise Unsupported("variance and epsilon are not above 0")
    name, mean = call.name, mean - x.b
    if 0 < eps < 1 and (var >= 0).all():
        numbers = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}
        of = call.layers.add(
            name, "batch_norm", [x.of], x.shape, {"eps": eps}, **{k: v.astype(_F32) for k, v in numbers.items()}
        )
    else:
        scale = weight / np.sqrt(var + eps)
        of = call.layers.affine(x.of, x.shape, scale, bias - mean * scale, name)
    return x.now(of=of, a=ONE, b=ZERO)


# Activations


def _after(at: Numbers) -> Numbers:
    """The float32 after each: x > t is x >= the one after t."""
    return np.nextafter(np.asarray(at, _F32), _F32(np.inf)).astype(np.float64)


def _compare(strict: bool, below: bool) -> Callable[[Call], Operand]:
    """Comparisons with a constant: x >= t, or > (`strict`), or what holds where they do not (`below`)."""

    def apply(call: Call) -> Operand:
        x, y = call.inputs
        if isinstance(x, Value) and isinstance(y, np.ndarray):
            return _step(call, x, y, strict, below)
        if isinstance(y, Value) and isinstance(x, np.ndarray):  # t >= x is not x > t
            return _step(call, y, x, not strict, not below)
        raise Unsupported("a comparison of two results; one must be a constant")

    return apply


def _step(call: Call, x: Value, at: NDArray, strict: bool, below: bool) -> Value:
    limit = call.numbers(at, x)
    if limit.ndim > 1 or np.isnan(limit).any():
        raise Unsupported("thresholds that differ from pixel to pixel, or are no numbers")
    if x.code.kind == "step":
        found = x.outcomes(lambda v: ((v > limit) if strict else (v >= limit)).astype(np.float64))
    else:
        of = call.layers.real(x, call.name)
        limit = _after(limit) if strict else limit
        found = x.now(of=of, code=Code("step"), name=call.name, at=limit, a=np.float64(0.5), b=np.float64(0.5))
    return found.now(a=-found.a, b=1 - found.b) if below else found


def _sign(call: Call) -> Operand:
    x = call.value()
    if x.code.kind == "step":
        return x.outcomes(np.sign)
    if x.code.kind == "sign0":
        high, zero, low = (np.unique(np.sign(value)).tolist() for value in (x.a + x.b, x.b, x.b - x.a))
        if (high, low) == ([1], [-1]) and zero in ([1], [-1]):  # as in sign(sign(x) + 0.1)
            return x.now(code=Code("step"), name=call.name, at=ZERO if zero == [1] else _after(ZERO), a=ONE, b=ZERO)
    of = call.layers.real(x, call.name)
    return x.now(of=of, code=Code("sign0", mode=str(call.node)), a=ONE, b=ZERO)


def _bipolar(call: Call) -> Operand:
    x = call.value()
    scale = call.numbers(call.constant(1, "the scale"), x)
    if scale.ndim > 1:
        raise Unsupported("a scale that differs from pixel to pixel")
    if x.code.kind == "step":
        return x.outcomes(lambda v: np.where(v >= 0, scale, -scale))
    return x.now(of=call.layers.real(x, call.name), code=Code("step"), name=call.name, a=scale, b=ZERO, at=ZERO)


def _where(call: Call) -> Operand:
    condition = call.value()
    if condition.code.kind != "step":
        raise Unsupported("its condition is no comparison with a constant")
    yes, no = (call.numbers(call.constant(i, "what it chooses from"), condition) for i in (1, 2))
    if max(yes.ndim, no.ndim) > 1:
        raise Unsupported("it chooses numbers that differ from pixel to pixel")
    return condition.outcomes(lambda v: np.where(v > 0.5, yes, no))


def _xor(call: Call) -> Operand:
    x, k = call.inputs if isinstance(call.inputs[0], Value) else call.inputs[::-1]
    if not isinstance(x, Value) or not isinstance(k, np.ndarray) or x.code.kind != "step":
        raise Unsupported("only a comparison with a constant beside a constant is read")
    flipped = call.numbers(k, x) != 0
    return x.outcomes(lambda v: (v > 0.5) != flipped if call.node.op == "Xor" else (v > 0.5) == flipped)


def _clip(call: Call) -> Operand:
    x = call.value()
    limits = []
    for index, key, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        given = call.optional(index, key)
        limits.append(float(call.option(key, default)) if given is None else float(given.reshape(-1)[0]))
    return _clipped(call, x, *limits)


def _clipped(call: Call, x: Value, low: float, high: float) -> Value:
    if not low < high:
        raise Unsupported(f"limits {low} and {high}")
    if x.code.kind == "step":
        return x.outcomes(lambda v: np.clip(v, low, high))
    of = call.layers.real(x, call.name)
    return x.now(of=of, code=Code("clip", low=low, high=high), name=call.name, a=ONE, b=ZERO)


def _hard_sigmoid(call: Call) -> Operand:
    slope, shift = float(call.option("alpha", 0.2)), float(call.option("beta", 0.5))
    moved = _plus(call, _multiply(call, call.value(), np.asarray(slope)), np.asarray(shift))
    return _clipped(call, moved, 0.0, 1.0)


def _relu(call: Call) -> Operand:
    x = call.value()
    return x.outcomes(lambda v: np.maximum(v, 0)) if x.code.kind == "step" else call.layer("relu", x)


def _prelu(call: Call) -> Operand:
    x = call.value()
    slope = call.numbers(call.constant(1, "the slope"), x)
    if slope.ndim > 1:
        raise Unsupported("slopes that differ from pixel to pixel")
    return call.layer("prelu", x, weight=slope.reshape(-1).astype(_F32))


def _leaky(call: Call) -> Operand:
    slope = np.array([call.option("alpha", 0.01)], _F32)
    return call.layer("prelu", call.value(), weight=slope)


def _rounded(towards: str) -> Callable[[Call], Operand]:
    """Rounding of a value that is clipped: a quantiser."""

    def apply(call: Call) -> Operand:
        x = call.value()
        if products.is_whole(call.layers, x):
            return x
        if x.code.kind == "step":
            return x.outcomes(_TOWARDS[towards])
        if x.code.kind != "clip" or math.isinf(x.code.low) or math.isinf(x.code.high):
            raise Unsupported("only values that are clipped to a range can be rounded")
        a, b = np.asarray(x.a, _F32), np.asarray(x.b, _F32)  # as the file rounds them
        ends = [np.unique(_TOWARDS[towards](a * _F32(end) + b)) for end in (x.code.low, x.code.high)]
        if max(map(len, ends)) > 1 or not abs(ends[0][0] - ends[1][0]) < 2**16:
            raise Unsupported("a quantiser with limits of its own for each channel, or far too many levels")
        low, high = sorted(int(end[0]) for end in ends)
        return call.layers.grid(x.now(code=REAL, a=ONE, b=ZERO), x.a, x.b, low, high, call.name, towards)

    return apply


_TOWARDS: dict[str, Any] = {"nearest": np.round, "down": np.floor, "up": np.ceil}
_MODES = {"ROUND": "nearest", "HALF_EVEN": "nearest", "HALF_UP": "nearest", "FLOOR": "down", "CEIL": "up"}


def _quant(call: Call) -> Operand:
    x = call.value()
    scale, zero, bits = (
        call.constant(i, what) for i, what in ((1, "the scale"), (2, "the zero point"), (3, "the bit width"))
    )
    s, z = call.numbers(scale, x), call.numbers(zero, x)
    if max(s.ndim, z.ndim) > 1 or bits.size != 1 or not np.all(s > 0):
        raise Unsupported(
            "its scale and zero point must be numbers above 0, one or one a channel, its bit width one number"
        )
    signed, narrow = bool(call.option("signed", 1)), bool(call.option("narrow", call.option("narrow_range", 0)))
    low, high = bounds_of(signed, narrow, float(bits.reshape(())))
    if signed and high == 0:  # of one bit: a sign
        if x.code != REAL:
            x = call.real(x)
        of = (
            call.layers.affine(x.of, x.shape, x.a / s, x.b / s + z, call.name)
            if z.any()
            else call.layers.real(x, call.name)
        )
        return x.now(of=of, code=Code("step"), at=ZERO, a=s, b=-z * s)
    rounding = str(call.option("rounding_mode", "ROUND")).upper()
    towards = "down" if rounding == "DOWN" and low >= 0 else _MODES.get(rounding)
    if towards is None:
        known = "read for constants only" if rounding in ROUNDINGS else "not known"
        raise Unsupported(f"rounding_mode {rounding!r} is {known}")
    if x.code != REAL:
        x = call.real(x)
    q = call.layers.grid(x, 1 / s, z, low, high, call.name, towards)
    return q.now(a=q.a * s, b=(q.b - z) * s)


def _multi_threshold(call: Call) -> Operand:
    x = call.value()
    layout = str(call.option("data_layout", "") or {2: "NC", 3: "NWC", 4: "NCHW"}.get(len(x.axes), "NC"))
    channel = layout.index("C") if "C" in layout else 1
    if channel >= len(x.axes) or x.axes[channel] != 1:
        raise Unsupported(f"its data_layout {layout!r} does not name the channels")
    at = call.constant(1, "the thresholds").astype(np.float64)
    if at.ndim != 2 or at.shape[0] not in (1, x.shape[0]) or not np.isfinite(at).all():
        raise Unsupported(f"thresholds of shape {at.shape}; one row, or one a channel, is needed")
    if x.order is not None and len(at) > 1:
        moved = np.empty_like(at)
        moved[x.order] = at
        at = moved
    scale, bias = float(call.option("out_scale", 1.0)), float(call.option("out_bias", 0.0))
    count = at.shape[1]
    if count == 1:
        of = call.layers.real(x, call.name)
        half = np.float64(scale / 2)
        return x.now(of=of, code=Code("step"), at=at[:, 0] if len(at) > 1 else at[0, 0], a=half, b=half + bias)
    gaps = np.diff(at, axis=1)
    gap = gaps.mean(axis=1)
    if not (gap > 0).all() or np.abs(gaps - gap[:, None]).max() > 1e-4 * gap.max():
        raise Unsupported(f"{count} thresholds that are not evenly spaced")
    if x.code != REAL:
        x = call.real(x)
    # A value on a threshold must come out above it, whatever is rounded on the way.
    margin = 2.0**-22 * (count + np.abs(at).max(axis=1) / gap)
    first = at[:, 0]
    q = call.layers.grid(x, 1 / gap, -first / gap + 0.5 + margin, 0, count, call.name)
    return q.now(a=q.a * scale, b=q.b * scale + bias)


# Images and their shapes


def _pooled(kind: str) -> Callable[[Call], Operand]:
    def apply(call: Call) -> Operand:
        x = call.value()
        if x.axes != NCHW or len(x.shape) != 3:
            raise Unsupported("its input is no image with its channels second")
        kernel = call.option("kernel_shape", [])
        window, same = products.window_of(call, kernel, x)
        if window.dilation != (1, 1):
            raise Unsupported(f"a dilation of {window.dilation} in a pooling")
        settings: dict[str, Any] = {"kernel_size": window.kernel, "stride": window.stride}
        ceil = bool(call.option("ceil_mode", 0))
        counted = kind == "avg_pool2d" and call.option("count_include_pad", 0)
        if not (ceil or same or counted or x.code.kind == "mean"):
            window, ceil = _within_half(window, (x.shape[1], x.shape[2]))
        padding: Any = "same" if same else window.brief_padding
        settings |= {"padding": padding, **({"ceil_mode": True} if ceil else {})}
        if kind == "avg_pool2d":
            settings["count_include_pad"] = bool(call.option("count_include_pad", 0))
            if not window.padding != NO_PADS and not ceil and not same:
                del settings["count_include_pad"]
        if len(call.node.outputs) > 1 and any(call.context.readers[name] for name in call.node.outputs[1:]):
            raise Unsupported("the places of the maxima are used")
        if math.prod(window.kernel) > 256:
            if window.kernel == x.shape[1:] and window.padding == NO_PADS and kind == "avg_pool2d":
                return _mean_of_all(call, x, True)
            raise Unsupported(f"a kernel of {window.kernel}, more than 256 taps")
        if kind == "avg_pool2d" and x.code.kind == "mean":
            mode = "plain" if call.option("count_include_pad", 0) or window.padding == NO_PADS else "valid"
            if same or ceil:
                raise Unsupported("a K of an XNOR-Net with auto_pad or ceil_mode")
            return _windowed(x, window, Code("k", groups=x.code.groups, window=window, mode=mode))
        span = window.to_the_end((x.shape[1], x.shape[2])) if ceil else window
        size = span.count((x.shape[1], x.shape[2]))
        if min(size) < 1:
            raise Unsupported(f"its window {window.kernel} is larger than the image {x.shape}")
        shape = (x.shape[0], *size)
        if kind == "max_pool2d" and x.code.counts and x.code.kind != "sign0" and np.all(x.a > 0) and not x.padded:
            at = x.at  # the largest sign is the sign of the largest
            return x.now(of=call.layers.add(call.name, kind, [x.of], shape, settings), shape=shape, at=at)
        return call.layer(kind, x, shape, settings)

    return apply


def _within_half(window: Window, size: tuple[int, int]) -> tuple[Window, bool]:
    """The same windows with at most half a kernel of padding at the end, and ceil_mode where that needs it."""
    ends = [(before, min(after, taps // 2)) for (before, after), taps in zip(window.padding, window.kernel)]
    shorter = Window(window.kernel, window.stride, (ends[0], ends[1]), window.dilation)
    if shorter.count(size) == window.count(size):
        return shorter if shorter.padding != window.padding else window, False
    return (shorter, True) if shorter.to_the_end(size).count(size) == window.count(size) else (window, False)


def _windowed(x: Value, window: Window, code: Code) -> Value:
    size = window.count((x.shape[1], x.shape[2]))
    return x.now(shape=(x.shape[0], *size), code=code)


def _mean_of_all(call: Call, x: Value, keep: bool) -> Value:
    if len(x.shape) != 3:
        raise Unsupported("its input is no image")
    y = call.layer("global_avg_pool2d", x, x.shape[:1])
    axes = tuple(axis if axis in (0, 1) else SINGLE for axis in x.axes)
    return y.now(axes=axes if keep else tuple(axis for axis in axes if axis != SINGLE))


def _reduce_mean(call: Call) -> Operand:
    x = call.value()
    given = call.optional(1, "the axes")
    axes = call.option("axes") if given is None else [int(v) for v in given.reshape(-1)[:16]]
    keep, rank = bool(call.option("keepdims", 1)), len(x.axes)
    if not axes and call.option("noop_with_empty_axes", 0):
        return x
    named = sorted(axis + rank if axis < 0 else axis for axis in (axes or range(rank)))
    if any(not 0 <= axis < rank for axis in named):
        raise Unsupported(f"axes {axes} of a value with {rank}")
    behind = {x.axes[axis] for axis in named}
    if x.code.kind == "abs" and named == [2 if x.split else 1]:
        return _mean_of_absolutes(x, keep)
    if len(x.shape) == 3 and behind == {2, 3}:
        return _mean_of_all(call, x, keep)
    if behind == {SINGLE}:
        return x if keep else x.now(axes=tuple(axis for at, axis in enumerate(x.axes) if at not in named))
    raise Unsupported(f"a mean over the axes {axes}; over all pixels, or as K of an XNOR-Net, it is read")


def _mean_of_absolutes(x: Value, keep: bool) -> Value:
    """A of an XNOR-Net, or K of a linear layer."""
    if len(x.shape) == 1:
        if not keep:
            raise Unsupported("the mean of absolute values without its axis")
        return x.now(shape=(1,), code=Code("k", mode="plain"))
    groups = x.split or 1
    return x.now(shape=(groups, *x.shape[1:]), code=Code("mean", groups=groups), split=0, axes=NCHW)


def _absolute(call: Call) -> Operand:
    x = call.value()
    if x.code.kind == "step":
        return x.outcomes(np.abs)
    return call.real(x).now(code=Code("abs"))


def _reshape(call: Call) -> Operand:
    x = call.value()
    target = [int(v) for v in call.constant(1, "the shape").reshape(-1)[:16]]
    sizes = x.sizes(call.context.batch)
    if target and target[0] in (-1, call.context.batch) and target.count(-1) == 2:
        target[0] = call.context.batch  # of a shape whose batch is open
    if call.option("allowzero", 0) and 0 in target:
        raise Unsupported("an empty shape")
    try:
        new = reshaped(np.broadcast_to(np.zeros(()), sizes), target).shape
    except (ValueError, IndexError):
        raise Unsupported(f"a value {sizes} cannot have the shape {target}") from None
    return _in_shape(call, x, new)


def _in_shape(call: Call, x: Value, new: tuple[int, ...]) -> Value:
    """A value in another shape, of as many entries."""
    sizes, batch = x.sizes(call.context.batch), call.context.batch
    if new == sizes:
        return x
    if not new or new[0] != batch:
        raise Unsupported(f"a shape {new} that mixes the images of a batch")
    bare, kept = ([n for n in shape[1:] if n != 1] for shape in (new, sizes))
    if len(x.shape) == 1 and bare == kept and x.axes[0] == 0:
        at = next((i for i, n in enumerate(new) if i and n == x.shape[0]), 1)
        return x.now(axes=tuple(0 if i == 0 else 1 if i == at else SINGLE for i in range(len(new))))
    if len(new) == 2:
        return _flat(call, x)
    if len(x.shape) == 3 and x.axes == NCHW and len(new) == 5 and new[3:] == x.shape[1:] and x.shape[0] % new[1] == 0:
        return x.now(split=new[1], axes=(0, 1, 1, 2, 3))
    if x.split and new == (batch, *x.shape):
        return x.now(split=0, axes=NCHW)
    raise Unsupported(f"a value {sizes} in the shape {new}; flat values and groups of channels are read")


def _flat(call: Call, x: Value) -> Value:
    """Rows of an image, in the order of the file."""
    if x.padded or x.split or x.axes[0] != 0:
        raise Unsupported("flat values of this arrangement")
    if len(x.shape) == 1:
        return x.now(axes=ROWS)
    if x.code.kind in ("abs", "mean", "box", "k", "pixel"):
        raise Unsupported("flat values of this kind")
    pixels, shape = math.prod(x.shape[1:]), (math.prod(x.shape),)
    order = None
    kept = [axis - 1 for axis in x.axes if axis not in (0, SINGLE)]
    if kept != sorted(kept):
        order = np.arange(shape[0]).reshape(x.shape).transpose(kept).reshape(-1)
    many = {key: np.repeat(v, pixels) if v.ndim else v for key, v in (("a", x.a), ("b", x.b), ("at", x.at))}
    return x.now(of=call.layers.add(call.name, "flatten", [x.of], shape), shape=shape, axes=ROWS, order=order, **many)


def _flatten(call: Call) -> Operand:
    x = call.value()
    axis = call.option("axis", 1)
    if axis not in (1, 1 - len(x.axes)):
        raise Unsupported(f"flattened from axis {axis}; 1 is read")
    return _flat(call, x)


def _axes_of(call: Call) -> list[int] | None:
    given = call.optional(1, "the axes")
    return call.option("axes") if given is None else [int(v) for v in given.reshape(-1)[:16]]


def _squeeze(call: Call) -> Operand:
    x, axes = call.value(), _axes_of(call)
    sizes = list(x.sizes(call.context.batch))
    named = (
        [i for i, n in enumerate(sizes) if i and n == 1]
        if axes is None
        else [a + len(sizes) if a < 0 else a for a in axes]
    )
    if any(not 0 < at < len(sizes) or sizes[at] != 1 for at in named):
        raise Unsupported(f"squeezed axes {axes} of a value {tuple(sizes)}")
    return _in_shape(call, x, tuple(n for i, n in enumerate(sizes) if i not in named))


def _unsqueeze(call: Call) -> Operand:
    x, sizes = call.value(), list(call.value().sizes(call.context.batch))
    axes = _axes_of(call) or []
    rank = len(sizes) + len(axes)
    for at in sorted(a + rank if a < 0 else a for a in axes):
        if not 0 < at <= len(sizes):
            raise Unsupported(f"unsqueezed axes {axes} of a value {tuple(sizes)}")
        sizes.insert(at, 1)
    return _in_shape(call, x, tuple(sizes))


def _transpose(call: Call) -> Operand:
    x = call.value()
    perm = call.option("perm") or list(range(len(x.axes)))[::-1]
    if sorted(perm) != list(range(len(x.axes))) or x.padded or x.split:
        raise Unsupported(f"axes {perm} of a value with {len(x.axes)}")
    return x.now(axes=tuple(x.axes[axis] for axis in perm))


def _concat(call: Call) -> Operand:
    values = [call.value(i) for i in range(len(call.inputs))]
    first, axis = values[0], call.option("axis", 1)
    axis = axis + len(first.axes) if axis < 0 else axis
    if not 0 <= axis < len(first.axes) or first.axes[axis] != 1 or first.split:
        raise Unsupported(f"joined along axis {axis}; the channels are read")
    if any(v.axes != first.axes or v.shape[1:] != first.shape[1:] for v in values):
        raise Unsupported(f"results of shapes {', '.join(str(v.sizes(1)) for v in values)} are joined")
    if len(values) == 1:
        return first
    if not (first.code.counts and all(v.code == first.code for v in values)):
        values = [call.real(value) for value in values]
        first = values[0]
    shape = (sum(v.shape[0] for v in values), *first.shape[1:])
    order = None
    if any(v.order is not None for v in values):
        starts = np.cumsum([0, *(v.shape[0] for v in values)])
        parts = [np.arange(v.shape[0]) if v.order is None else v.order for v in values]
        order = np.concatenate([part + start for part, start in zip(parts, starts)])
    joined = {
        key: np.concatenate([np.broadcast_to(getattr(v, key), v.shape[:1]) for v in values]) for key in ("a", "b", "at")
    }
    if all(v.unscaled and not v.at.any() for v in values):
        joined = {}
    of = call.layers.add(call.name, "concat", [v.of for v in values], shape)
    return first.now(of=of, shape=shape, order=order, **joined)


def _pad(call: Call) -> Operand:
    x = call.value()
    given = call.optional(1, "the padding")
    pads = call.option("pads", []) if given is None else given.reshape(-1)[:32].tolist()
    rank = len(x.axes)
    fill = call.optional(2, "the value of the padding")
    border = float(call.option("value", 0.0)) if fill is None else float(fill.reshape(-1)[0])
    if call.option("mode", "constant") != "constant" or len(pads) != 2 * rank or min(pads) < 0:
        raise Unsupported("padding other than with a constant, or below 0")
    sides = {x.axes[axis]: (int(pads[axis]), int(pads[axis + rank])) for axis in range(rank)}
    found: Pads = (sides.get(2, (0, 0)), sides.get(3, (0, 0)))
    if any(any(pair) for axis, pair in sides.items() if axis not in (2, 3)):
        raise Unsupported("padding of other axes than rows and columns")
    if found == NO_PADS:
        return x
    if x.padded or len(x.shape) != 3:
        raise Unsupported("padding of what is padded, or no image")
    if max(max(pair) for pair in found) > 1024:
        raise Unsupported(f"padding of {found}")
    if not x.code.counts:
        x = call.real(x)
    return x.now(pads=found, border=border)


def _gather(call: Call) -> Operand:
    """A table that raw pixels are looked up in."""
    table, x = call.constant(0, "the table"), call.inputs[1]
    if not isinstance(x, Value) or x.code.kind != "pixel" or call.option("axis", 0) != 0 or table.ndim != 1:
        raise Unsupported("only a table of what raw pixels become is read")
    channels = x.shape[0]
    starts = np.broadcast_to(x.b, (channels,)).astype(np.int64)
    if not np.all(x.a == 1) or starts.min() < 0 or starts.max() + 256 > len(table):
        raise Unsupported(f"a table of {len(table)} entries, which 256 pixel values of {channels} channels do not fit")
    call.context.table = table[starts[:, None] + np.arange(256)].astype(_F32)  # (C, 256)
    return x.now(code=REAL, a=ONE, b=ZERO)


def _pass(call: Call) -> Operand:
    return call.value()


def _cast(call: Call) -> Operand:
    x, kind = call.value(), call.option("to")
    if x.code.kind == "pixel" or kind in (1, 10, 11) or (x.code.kind == "step" and kind in (2, 3, 5, 6, 7, 9)):
        return x
    raise Unsupported(f"a cast to type {kind}, which rounds")


def _end(call: Call) -> Operand:
    """What keeps the order of the logits, at the end of a network: left out."""
    x, op = call.value(), call.node.op
    default = 0 if op == "ArgMax" else 1 if op != "TopK" and call.context.opset < 13 else -1
    axis = call.option("axis", default)
    if math.prod(x.shape[1:]) != 1 or not -len(x.axes) <= axis < len(x.axes) or x.axes[axis] != 1:
        raise Unsupported(f"it goes along axis {axis} of a value {x.sizes(1)}; that of the logits is read, at the end")
    if not call.option("largest", 1) or call.option("select_last_index", 0):
        raise Unsupported("it does not take the largest, or the first of them")
    return x.now(after=(*x.after, op))


LAST = {"Softmax", "LogSoftmax", "TopK", "ArgMax"}
EASY = {"Identity", "Cast", "Flatten", "Reshape", "Squeeze"}  # may follow those

OPS: dict[str, Callable[[Call], Operand]] = {
    "Identity": _pass,
    "Dropout": _pass,
    "Cast": _cast,
    "Add": _add,
    "Sum": lambda call: _add(call) if len(call.inputs) == 2 else _many(call),
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
    "Neg": lambda call: _multiply(call, call.value(), -np.ones(())),
    "Abs": _absolute,
    "BatchNormalization": _batch_norm,
    "Greater": _compare(True, False),
    "GreaterOrEqual": _compare(False, False),
    "Less": _compare(False, True),
    "LessOrEqual": _compare(True, True),
    "Not": lambda call: call.value().outcomes(lambda v: 1 - v),
    "Xor": _xor,
    "Equal": _xor,
    "Where": _where,
    "Sign": _sign,
    "BipolarQuant": _bipolar,
    "Quant": _quant,
    "IntQuant": _quant,
    "MultiThreshold": _multi_threshold,
    "Floor": _rounded("down"),
    "Round": _rounded("nearest"),
    "Ceil": _rounded("up"),
    "Relu": _relu,
    "PRelu": _prelu,
    "LeakyRelu": _leaky,
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "Conv": products.conv,
    "MatMul": products.matmul,
    "Gemm": products.gemm,
    "MaxPool": _pooled("max_pool2d"),
    "AveragePool": _pooled("avg_pool2d"),
    "GlobalAveragePool": lambda call: _mean_of_all(call, call.value(), True),
    "ReduceMean": _reduce_mean,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Pad": _pad,
    "Gather": _gather,
    "Shape": lambda call: shape_of(call.node, call.value().sizes(call.context.batch)),
} | dict.fromkeys(LAST, _end)


def _many(call: Call) -> Operand:
    total = call.value(0)
    for at in range(1, len(call.inputs)):
        total = _sum(call, total, call.value(at))
    return total
