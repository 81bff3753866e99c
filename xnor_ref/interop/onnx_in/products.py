"""Convolutions and matrix products of ONNX: real layers, or binary ones where weights and inputs have few levels."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.binary import GivenScale
from xnor_ref.interop.onnx_in.call import Call
from xnor_ref.interop.onnx_in.fold import Unsupported
from xnor_ref.interop.onnx_in.values import NCHW, NO_PADS, ONE, REAL, ROWS, SINGLE, ZERO, Code, Layers, Value
from xnor_ref.kernels.basics.geometry import Pair, Window
from xnor_ref.kernels.ops.bit_planes import fits

_F32 = np.float32
_BINARY = ("binary_conv2d", "binary_linear")
_SIGN_WEIGHT = ("binary_weight_conv2d", "binary_weight_linear")
_KBIT = ("kbit_conv2d", "kbit_linear")
MANY = 8  # weights of a filter, from which rounded magnitudes count as one


def conv(call: Call) -> Value:
    """Convolution with constant weights (O, C/groups, KH, KW)."""
    x, weight, bias = call.value(), call.constant(1, "the weight"), call.optional(2, "the bias")
    if weight.ndim != 4:
        raise Unsupported(f"a weight of shape {weight.shape}; convolutions of images have 4 axes")
    groups = call.option("group", 1)
    window, same = window_of(call, call.option("kernel_shape", weight.shape[2:]), x)
    if tuple(window.kernel) != weight.shape[2:]:
        raise Unsupported(f"kernel_shape {window.kernel} and a weight of shape {weight.shape}")
    if x.code.kind == "mean":
        return _box(x, weight, window, groups)
    if len(x.shape) == 1 and x.axes[:2] == ROWS and set(x.axes[2:]) == {SINGLE}:
        if window.kernel != (1, 1) or groups != 1 or window.padding != NO_PADS or x.padded:
            raise Unsupported("its input has one pixel and its kernel more")
        y = product(call, x.now(axes=ROWS), weight[:, :, 0, 0], bias)
        return y.now(axes=x.axes)
    if x.axes != NCHW or len(x.shape) != 3:
        raise Unsupported("its input is no image with its channels second")
    if not 1 <= groups <= x.shape[0] or x.shape[0] != weight.shape[1] * groups or len(weight) % groups:
        raise Unsupported(f"weights {weight.shape} in {groups} groups beside an image {x.shape}")
    return product(call, x, weight, bias, window, groups, same)


def matmul(call: Call) -> Value:
    """A matrix product with a constant on one side."""
    x, y = call.inputs
    if isinstance(x, Value) and isinstance(y, np.ndarray):
        return _product(call, x, y, None)
    if isinstance(y, Value) and isinstance(x, np.ndarray) and y.axes == (1, 0) and x.ndim == 2:
        return _product(call, y.now(axes=ROWS), x.T, None).now(axes=(1, 0))
    raise Unsupported("a product of two results; one side must be a constant")


def gemm(call: Call) -> Value:
    """alpha A B + beta C, with A or its transpose that depends on the image."""
    x, weight, bias = call.value(), call.constant(1, "the weight"), call.optional(2, "the bias")
    if call.option("transA", 0):
        x = x.now(axes=x.axes[::-1])
    weight = weight.T if call.option("transB", 0) else weight
    alpha, beta = (np.float64(call.option(key, 1.0)) for key in ("alpha", "beta"))
    if weight.ndim != 2:
        raise Unsupported(f"a weight of shape {weight.shape}")
    if bias is not None:
        bias = bias.reshape(-1) * beta if beta != 1 else bias.reshape(-1)
        if bias.size not in (1, weight.shape[1]):
            raise Unsupported(f"a bias of {bias.size} numbers for {weight.shape[1]} results")
        bias = np.broadcast_to(bias, weight.shape[1:])
    return _product(call, x, weight * alpha if alpha != 1 else weight, bias)


def _product(call: Call, x: Value, weight: NDArray, bias: NDArray | None) -> Value:
    """x times a matrix (I, O)."""
    if weight.ndim != 2 or x.axes[-1] != 1 or x.padded or x.split:
        raise Unsupported(f"a product of a value {x.sizes(1)} with a weight of shape {weight.shape}")
    if weight.shape[0] != x.shape[0]:
        raise Unsupported(f"a weight {weight.shape} beside {x.shape[0]} inputs")
    if len(x.shape) == 3:  # of every pixel
        y = product(call, x.now(axes=NCHW), np.ascontiguousarray(weight.T)[:, :, None, None], bias, Window((1, 1)))
        return y.now(axes=x.axes)
    if x.axes != ROWS:
        raise Unsupported(f"a product along the axes {x.axes}")
    return product(call, x, np.ascontiguousarray(weight.T), bias)


def window_of(call: Call, kernel: Sequence[int], x: Value) -> tuple[Window, bool]:
    """What slides over the image, and whether its padding is TensorFlow's "same"."""
    if len(kernel) != 2 or len(x.shape) not in (1, 3):
        raise Unsupported(f"a kernel {tuple(kernel)}; rows and columns are needed")
    strides, apart = (tuple(call.option(key, (1, 1))) for key in ("strides", "dilations"))
    pads = call.option("pads", [0] * 4)
    auto = call.option("auto_pad", "NOTSET")
    numbers = (*kernel, *strides, *apart, *(n + 1 for n in pads))
    if (len(strides), len(apart), len(pads)) != (2, 2, 4) or not all(1 <= n <= 1025 for n in numbers):
        raise Unsupported(f"a window of kernel {tuple(kernel)}, strides {strides}, pads {pads}, dilations {apart}")
    taps: Pair = (int(kernel[0]), int(kernel[1]))
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        size = (x.shape[1], x.shape[2]) if len(x.shape) == 3 else (1, 1)
        window = Window.of(taps, strides, "same", apart, size)
        if auto == "SAME_LOWER":
            (top, bottom), (left, right) = window.padding
            window = Window(taps, strides, ((bottom, top), (right, left)), apart)
        return window, auto == "SAME_UPPER"
    if auto not in ("NOTSET", "VALID", ""):
        raise Unsupported(f"auto_pad {auto!r}")
    top, left, bottom, right = pads if auto != "VALID" else [0] * 4
    return Window(taps, strides, ((top, bottom), (left, right)), apart), False


def product(
    call: Call,
    x: Value,
    weight: NDArray,
    bias: NDArray | None,
    window: Window | None = None,
    groups: int = 1,
    same: bool = False,
) -> Value:
    """A convolution with weights (O, C/groups, KH, KW), or a product with a matrix (O, I) where there is no window."""
    if weight.dtype.kind not in "fiu":
        raise Unsupported(f"weights of {weight.dtype}")
    weight = weight.astype(np.float64)
    bias = None if bias is None else bias.astype(np.float64).reshape(-1)
    if not np.isfinite(weight).all() or (
        bias is not None and (len(bias) != len(weight) or not np.isfinite(bias).all())
    ):
        raise Unsupported(f"{len(weight)} filters with numbers that are not finite, or another number of biases")
    if x.order is not None:
        moved = np.empty_like(weight)
        moved[:, x.order] = weight
        weight = moved
    border, inner = (
        x.border if x.padded else 0.0,
        x.now(pads=NO_PADS, border=0.0, order=None, axes=NCHW if window else ROWS),
    )
    settings: dict[str, Any] = {}
    if window is not None:
        settings, window = _geometry(window, x, groups, same)
        size = window.count((x.shape[1], x.shape[2]))
        if min(size) < 1:
            raise Unsupported(f"its window {window.kernel} is larger than the image {x.shape}")
        shape: tuple[int, ...] = (len(weight), *size)
    else:
        shape = (len(weight),)
    if inner.code.kind == "sign0":
        inner = call.layers.exact_sign(inner, call.name)
    y = Value("", shape, axes=NCHW if window else ROWS)
    if inner.code.counts:
        found = _of_levels(call, inner, weight, settings, border, window is not None and window.padding != NO_PADS)
        if found is not None:
            of, shift = found
            return y.now(of=of, b=shift if bias is None else shift + bias)
    if border:
        raise Unsupported(f"padding with {border:g} beside real inputs")
    kind = "conv2d" if window else "linear"
    of = call.layers.real(inner, call.name)
    levels = levels_of(weight)
    if levels is not None and levels[2] == 1 and weight[0].size > 1:
        signed = _sign_weights(levels[0], levels[1])
        of = call.layers.add(
            call.name, f"binary_weight_{kind}", [of], shape, {**settings, **signed[1]}, weight=signed[0]
        )
        return y.now(of=of, b=ZERO if bias is None else bias)
    numbers = None if bias is None else bias.astype(_F32)
    return y.now(of=call.layers.add(call.name, kind, [of], shape, settings, weight=weight.astype(_F32), bias=numbers))


def _geometry(window: Window, x: Value, groups: int, same: bool) -> tuple[dict[str, Any], Window]:
    """A convolution's settings, and its window with the padding that was added before."""
    if x.padded:
        if window.padding != NO_PADS and x.border != 0:
            raise Unsupported(f"padding with {x.border:g} and padding with 0, one after the other")
        sides = [(a + c, b + d) for (a, b), (c, d) in zip(window.padding, x.pads)]
        window, same = Window(window.kernel, window.stride, (sides[0], sides[1]), window.dilation), False
    settings: dict[str, Any] = {"stride": window.stride, "padding": "same" if same else window.brief_padding}
    if window.dilation != (1, 1):
        settings["dilation"] = window.dilation
    if groups != 1:
        settings["groups"] = groups
    return settings, window


def _of_levels(
    call: Call, x: Value, weight: NDArray, settings: dict[str, Any], border: float, padded: bool
) -> tuple[str, NDArray] | None:
    """The binary layer of inputs a code + b, and what b adds to it; None where its weights or border are no levels."""
    code, layers = x.code, call.layers
    each = np.broadcast_to(x.a, x.shape[:1])
    groups = settings.get("groups", 1)
    if not each.all():
        return None
    beyond = 0.0
    if padded:
        stands = np.unique((border - x.b) / x.a)
        if len(stands) > 1 or float(stands[0]) not in (0.0, float(code.top), float(-code.top)):
            return None
        beyond = float(stands[0])
    of_group = each.reshape(groups, -1).repeat(len(weight) // groups, axis=0)  # of each filter's inputs
    factors = of_group.reshape(of_group.shape + (1,) * (weight.ndim - 2))
    levels = levels_of(weight * factors)
    if levels is None:
        return None
    m, alpha, bits = levels
    of = layers.compared(x, call.name) if code.kind == "step" else x.of
    kind = "conv2d" if weight.ndim == 4 else "linear"
    how: dict[str, Any] = {**settings, "input_scale": "off"}
    if kind == "conv2d":
        how["pad_value"] = int(beyond / code.top)
    if bits == 1 and code.kind == "step":
        array, scaling = _sign_weights(m, alpha)
        name = layers.add(
            call.name, f"binary_{kind}", [of], _shape(call, x, weight, settings), {**how, **scaling}, weight=array
        )
    else:
        inputs = code.bits if code.kind != "step" else 1
        if not fits(weight[0].size, (inputs, bits)):
            return None
        how |= {
            "input_bits": inputs,
            "weight_bits": bits,
            **({"input_levels": "ternary"} if code.kind == "ternary" else {}),
        }
        array, scaling = _kbit_weights(m, alpha, bits)
        name = layers.add(
            call.name, f"kbit_{kind}", [of], _shape(call, x, weight, settings), {**how, **scaling}, weight=array
        )
    offset = np.broadcast_to(x.b, x.shape[:1]).reshape(groups, -1).repeat(len(weight) // groups, axis=0)
    shift = (weight * offset.reshape(offset.shape + (1,) * (weight.ndim - 2))).reshape(len(weight), -1).sum(axis=1)
    return name, shift


def _shape(call: Call, x: Value, weight: NDArray, settings: dict[str, Any]) -> tuple[int, ...]:
    if weight.ndim == 2:
        return (len(weight),)
    size = (x.shape[1], x.shape[2])
    kernel = (weight.shape[2], weight.shape[3])
    window = Window.of(kernel, settings["stride"], settings["padding"], settings.get("dilation", 1), size)
    return (len(weight), *window.count(size))


def levels_of(weight: NDArray) -> tuple[NDArray[np.int64], NDArray, int] | None:
    """Weights (O, ...) as odd integers m of few bits times a scale a filter: (m, scale (O,), bits), or None.

    Magnitudes that differ by rounding alone, as in weights written sign(w) - clip(w) + clip(w), count as one.
    """
    rows = np.abs(weight).reshape(len(weight), -1)
    signs = np.where(weight < 0, -1, 1)
    high, low = rows.max(axis=1), rows.min(axis=1)
    if (high == low).all():
        return signs, high, 1
    if rows.shape[1] >= MANY and (high - low <= 1e-5 * high).all():
        return signs, rows.mean(axis=1), 1
    whole = np.round(rows)
    scale = np.ones(len(rows))
    if not ((whole == rows).all() and (whole % 2 == 1).all()):
        if rows.shape[1] < MANY or not low.all():
            return None
        scale = low
        whole = np.round(rows / low[:, None])
        if not ((whole % 2 == 1).all() and np.abs(rows / low[:, None] - whole).max() < 1e-4):
            return None
    bits = int(whole.max()).bit_length()
    if bits > 8:
        return None
    return (whole.reshape(weight.shape) * signs).astype(np.int64), scale, bits


def _sign_weights(signs: NDArray, alpha: NDArray) -> tuple[NDArray, dict[str, Any]]:
    """The latent weights of a binary layer with such scales, and what it must be told."""
    weight = signs.astype(_F32)
    if (alpha == 1).all():
        return weight, {"weight_scale": "off"}
    return weight * alpha.astype(_F32).reshape(-1, *(1,) * (weight.ndim - 1)), {"weight_scale": "alpha"}


def _kbit_weights(m: NDArray, alpha: NDArray, bits: int) -> tuple[NDArray, dict[str, Any]]:
    return (m / (2**bits - 1)).astype(_F32), {"weight_scale": GivenScale(alpha)}


def biased(layers: Layers, x: Value, shift: NDArray) -> bool:
    """Make numbers a channel the bias of the real layer that gives x, if it has none; whether that was done."""
    if layers.kinds.get(x.of) not in ("conv2d", "linear") or "bias" in layers.arrays[x.of]:
        return False
    layers.arrays[x.of]["bias"] = np.broadcast_to(shift, x.shape[:1]).astype(_F32)
    return True


def is_whole(layers: Layers, x: Value) -> bool:
    """Whether x comes from a binary layer that has no scales yet, so that its numbers are whole."""
    kind, settings = layers.kinds.get(x.of, ""), layers.settings.get(x.of, {})
    scale = settings.get("weight_scale")  # none: of a layer that only rounds
    if kind not in (*_BINARY, *_KBIT) or scale is None or not x.plain or settings["input_scale"] != "off":
        return False
    return bool((scale.values == 1).all()) if kind in _KBIT else scale == "off"


def absorb(layers: Layers, x: Value, k: NDArray) -> bool:
    """Make a factor a channel the alpha of the binary layer that gives x, if it has none; whether that was done."""
    kind, settings = layers.kinds.get(x.of, ""), layers.settings.get(x.of, {})
    factors = np.broadcast_to(k, x.shape[:1]).astype(_F32)
    if kind not in (*_BINARY, *_SIGN_WEIGHT, *_KBIT) or settings.get("input_scale", "off") != "off":
        return False
    scale = settings.get("weight_scale")  # none: of a layer that only rounds
    if kind in _KBIT:
        if scale is None or not (scale.values == 1).all() or not (factors > 0).all():
            return False
        settings["weight_scale"] = GivenScale(factors)
        return True
    if scale != "off":
        return False
    weight = layers.arrays[x.of]["weight"]
    layers.arrays[x.of]["weight"] = weight * factors.reshape(-1, *(1,) * (weight.ndim - 1))
    settings["weight_scale"] = "alpha"
    return True


# K of an XNOR-Net


def size_before(layers: Layers, of: str) -> Pair:
    """(H, W) of a layer's result."""
    return layers.shapes[of][1], layers.shapes[of][2]


def taps_inside(window: Window, size: Pair) -> NDArray[np.int64]:
    """How many taps of each window lie inside the image, (OH, OW)."""
    counts = []
    for axis in (0, 1):
        first = np.arange(window.count(size)[axis]) * window.stride[axis] - window.before[axis]
        taps = first[:, None] + np.arange(window.kernel[axis]) * window.dilation[axis]
        counts.append(((taps >= 0) & (taps < size[axis])).sum(axis=1))
    return np.outer(*counts)


def _box(x: Value, weight: NDArray, window: Window, groups: int) -> Value:
    """Sums of means over windows: a convolution with one number."""
    if groups != x.code.groups or weight.shape[:2] != (groups, 1) or (weight != weight.flat[0]).any() or x.padded:
        raise Unsupported("a convolution of means of absolute values that is no K of an XNOR-Net")
    size, factor = window.count((x.shape[1], x.shape[2])), float(weight.flat[0])
    if min(size) < 1:
        raise Unsupported(f"its window {window.kernel} is larger than the image {x.shape}")
    taps, mode = math.prod(window.kernel), "box"
    if abs(factor * taps - 1) < 1e-5 and taps > 1:
        mode = "k"
    code = Code(mode, groups=groups, window=window, mode="plain" if mode == "k" else "")
    found = x.now(shape=(groups, *size), code=code, a=ONE if mode == "k" else np.float64(factor))
    if mode == "box" and taps == 1 and factor == 1:  # of one tap: nothing to divide by
        return found.now(code=Code("k", groups=groups, window=window, mode="plain"))
    return found


def with_input_scale(layers: Layers, z: Value, k: Value) -> Value:
    """Z times K: the layer gets the input scale."""
    kind, settings = layers.kinds.get(z.of, ""), layers.settings.get(z.of, {})
    if z.code == REAL and not z.b.any() and not z.unscaled and absorb(layers, z, z.a):
        z = z.now(a=ONE)
    if kind not in (*_BINARY, *_KBIT) or not z.plain or settings["input_scale"] != "off":
        raise Unsupported("K of an XNOR-Net beside what is no binary layer")
    if layers.inputs[z.of] != (k.of,):
        raise Unsupported("K of an XNOR-Net of another input than that of the binary layer")
    if k.code.window is None:
        if not kind.endswith("linear"):
            raise Unsupported("K of a linear layer beside a convolution")
        settings["input_scale"] = "plain"
        return z
    kernel = layers.arrays[z.of]["weight"].shape[2:]
    if len(kernel) != 2:
        raise Unsupported("K of a convolution beside a linear layer")
    window = Window.of((kernel[0], kernel[1]), settings["stride"], settings["padding"], settings.get("dilation", 1),
                       size_before(layers, k.of))  # fmt: skip
    groups = settings.get("groups", 1)
    if window != k.code.window or groups != k.code.groups or z.split != k.split:
        raise Unsupported("K of an XNOR-Net of another window than that of the binary layer")
    settings["input_scale"] = k.code.mode
    return z
