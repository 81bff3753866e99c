"""Checks of the public kernels' arguments, in Python integers and before anything is allocated."""

import math
from typing import Any

import numpy as np

from xnor_ref.errors import InputError, InputTypeError, check_integer, is_integer
from xnor_ref.kernels.basics.geometry import Padding, Pair, Window
from xnor_ref.kernels.basics.layout import n_words
from xnor_ref.kernels.basics.memory import check_memory
from xnor_ref.kernels.basics.modes import KMode
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.basics.threads import check_threads

BACKENDS = ("auto", "reference", "numba", "simd", "float")
INPUT_SCALES = tuple(KMode)


def check_conv(
    caller: str,
    x: Any,
    weight: Any,
    stride: Any,
    padding: Any,
    pad_value: Any,
    dilation: Any,
    groups: Any,
    input_scale: Any,
    backend: Any,
    threads: Any,
) -> tuple[np.ndarray, np.ndarray, Window]:
    """Validate a convolution. Return x and weight as native C-contiguous float32, and the window."""
    workers = check_options(caller, backend, threads)
    check_array(caller, "x", x, "(N, C, H, W)")
    check_array(caller, "weight", weight, "(O, C, KH, KW)")
    (n, channels, *size), (out_channels, weight_channels, *kernel) = x.shape, weight.shape
    shapes = f"(weight {weight.shape}, input {x.shape})"
    check_groups(caller, groups, channels, out_channels)
    if channels != weight_channels * groups:
        raise InputError(
            f"{caller}: weight has C={weight_channels}, input has C={channels}; both must match {shapes}"
            if groups == 1
            else f"{caller}: weight has C={weight_channels}; {channels} input channels in {groups} groups "
            f"need C={channels // groups} {shapes}"
        )
    stride, dilation = check_pair(caller, "stride", stride, 1), check_pair(caller, "dilation", dilation, 1)
    padding = check_padding(caller, padding)
    window = Window.of((kernel[0], kernel[1]), stride, padding, dilation, (size[0], size[1]))
    if not is_integer(pad_value):
        raise InputTypeError(f"{caller}: pad_value must be the int 0, 1 or -1, got {pad_value!r}")
    if pad_value not in (0, 1, -1):
        raise InputError(f"{caller}: pad_value must be 0, 1 or -1, got {pad_value}")
    if not isinstance(input_scale, str) or input_scale not in INPUT_SCALES:
        raise InputError(f"{caller}: input_scale must be one of {', '.join(INPUT_SCALES)}; got {input_scale!r}")
    padded = window.padded((size[0], size[1]))
    for axis in (0, 1):
        if window.extent[axis] > padded[axis]:
            name, (first, last) = ("height", "width")[axis], window.padding[axis]
            spread = f", dilated to {window.extent[axis]}," if window.dilation[axis] > 1 else ""
            added = f"2*{first}" if first == last else f"{first} + {last}"
            raise InputError(
                f"{caller}: kernel {name} {kernel[axis]}{spread} exceeds the padded input {name} {padded[axis]} "
                f"({size[axis]} + {added}) {shapes}"
            )

    out = window.count((size[0], size[1]))
    windows, taps = out[0] * out[1], kernel[0] * kernel[1]
    check_n_bits(caller, weight_channels * taps, "C*KH*KW", backend)
    words, pixels = n_words(channels), size[0] * size[1]
    need = (
        (8 if caller == "xnor_conv2d" else 4) * n * out_channels * windows  # the result, as int32 and float32
        + 6 * n * channels * pixels
        + 18 * weight.size  # contiguous copies, masks of NaN, |weight|
        + 8 * words * n * pixels  # packed
        + (16 * n_words(weight_channels) + (groups > 1) * channels) * out_channels * taps  # and the weights again
        + 8 * (out[0] * kernel[0] + out[1] * kernel[1])
        + (24 * out_channels * windows if pad_value else 0)  # sums over the border
        + (20 * n * groups * (pixels + windows) if input_scale != KMode.OFF else 0)
    )
    if backend == "reference":
        need += workers * 16 * windows * words
    if backend == "float":
        need += 4 * n * out_channels * windows + 9 * weight.size
        need += workers * channels * (9 * math.prod(padded) + 8 * windows * taps)
    check_memory(caller, need, f"{shapes[:-1]}, stride {stride}, padding {padding})")
    return finite(caller, "x", x), finite(caller, "weight", weight), window


def check_linear(caller: str, x: Any, weight: Any, backend: Any, threads: Any) -> tuple[np.ndarray, np.ndarray]:
    """Validate a matrix product. Return x and weight as native C-contiguous float32."""
    check_options(caller, backend, threads)
    check_array(caller, "x", x, "(N, I)")
    check_array(caller, "weight", weight, "(O, I)")
    (n, features), (out_features, weight_features) = x.shape, weight.shape
    shapes = f"(weight {weight.shape}, input {x.shape})"
    if features != weight_features:
        raise InputError(f"{caller}: weight has I={weight_features}, input has I={features}; both must match {shapes}")
    check_n_bits(caller, features, "I", backend)
    need = 4 * n * out_features + (n + 2 * out_features) * (6 * features + 8 * n_words(features))
    if backend == "float":
        need += 9 * features * (n + out_features) + 4 * n * out_features
    check_memory(caller, need, shapes)
    return finite(caller, "x", x), finite(caller, "weight", weight)


def check_options(caller: str, backend: Any, threads: Any) -> int:
    """Validate backend and threads. Return the number of threads."""
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise InputError(f"{caller}: backend must be one of {', '.join(BACKENDS)}; got {backend!r}")
    if backend == "simd" and not has_vectors():
        raise InputError(f'{caller}: backend "simd" needs Numba\'s compiler and a processor with AVX2, AVX-512 or NEON')
    return check_threads(threads, caller)


def check_array(caller: str, name: str, x: Any, layout: str) -> None:
    """Check a float32 array with as many axes as `layout` names, none of them empty."""
    if not isinstance(x, np.ndarray) or isinstance(x, np.ma.MaskedArray):
        raise InputTypeError(f"{caller}: {name} must be a numpy.ndarray, got {type(x).__name__}")
    if x.dtype.newbyteorder("=") != np.float32:
        hint = (
            "convert it yourself, since rounding to float32 can turn a tiny negative number into -0.0, whose sign is +1"
        )
        if x.dtype == np.uint64:
            hint = f"for packed words use {'linear_words' if ' I)' in layout else 'conv2d_words'}"
        raise InputTypeError(f"{caller}: {name} must be float32, got {x.dtype}; {hint}")
    axes = layout.count(",") + 1
    if x.ndim != axes:
        raise InputError(f"{caller}: {name} must have {axes} axes {layout}, got shape {x.shape}")
    if x.size == 0:
        raise InputError(f"{caller}: {name} has no elements, shape {x.shape}; every axis must have at least one")


def check_n_bits(caller: str, n_bits: int, product: str, backend: str) -> None:
    """Check that sums of `n_bits` signs fit their integer type."""
    if n_bits >= 2**31:
        raise InputError(f"{caller}: {product} = {n_bits} signs per output; the int32 result holds at most 2**31 - 1")
    if backend == "float":
        require_exact_float(n_bits, caller)


def require_exact_float(n_bits: int, caller: str = "binary convolution") -> None:
    """Raise InputError unless float32 holds every sum of `n_bits` signs exactly."""
    if n_bits >= 2**24:
        raise InputError(f'{caller}: {n_bits} signs per output, but backend "float" is exact only below 2**24')


def finite(caller: str, name: str, x: np.ndarray) -> np.ndarray:
    """Return x as native, aligned, C-contiguous float32, after checking that it holds no NaN or infinity."""
    x = np.require(np.asarray(x), np.float32, ["C", "A"])
    good = np.isfinite(x)
    if not good.all():
        index = tuple(int(i) for i in np.unravel_index(int(good.argmin()), x.shape))
        raise InputError(f"{caller}: {name} must be finite, but holds {x[index]} at index {index}")
    return x


def check_groups(caller: str, groups: Any, channels: int, outputs: int) -> None:
    """Check that the groups of a convolution divide its input and output channels."""
    if check_integer(f"{caller}: groups", groups, 1) > 1 and (channels % groups or outputs % groups):
        raise InputError(f"{caller}: groups={groups} must divide C={channels} and O={outputs}")


def check_padding(caller: str, value: Any) -> Padding:
    """Validate padding, see `Window.of`. Return "same", "valid" or two pairs."""
    if isinstance(value, str):
        if value not in ("same", "valid"):
            raise InputError(f'{caller}: padding must be numbers, "same" or "valid", got {value!r}')
        return value
    sides = value if isinstance(value, tuple | list) and any(isinstance(side, tuple | list) for side in value) else None
    if sides is None:
        rows, columns = check_pair(caller, "padding", value, 0)
        return (rows, rows), (columns, columns)
    if len(sides) != 2:
        raise InputError(f"{caller}: padding must be ((top, bottom), (left, right)), got {value!r}")
    return check_pair(caller, "padding", sides[0], 0), check_pair(caller, "padding", sides[1], 0)


def check_pair(caller: str, name: str, value: Any, least: int) -> Pair:
    """Validate an int or a pair of ints, each at least `least`. Return a pair."""
    values = value if isinstance(value, (tuple, list)) else (value, value)
    for v in values:
        if not is_integer(v):
            raise InputTypeError(f"{caller}: {name} must be an int or a pair of ints, got {value!r}")
    if len(values) != 2 or not all(least <= v < 2**31 for v in values):
        raise InputError(f"{caller}: {name} must be an int from {least} to 2**31 - 1 or a pair, got {value!r}")
    return int(values[0]), int(values[1])
