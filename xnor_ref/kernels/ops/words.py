"""Convolution, matrix product and max pooling of packed signs. They take the words of `pack_bits` and can return words.

Everything is validated before anything is allocated. Tail bits of input words may hold anything.
"""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError, InputTypeError, NonFiniteError, check_integer
from xnor_ref.kernels.basics import checks
from xnor_ref.kernels.basics.geometry import Padding, Pair, Window
from xnor_ref.kernels.basics.layout import mask_tail, n_words, pack_mask
from xnor_ref.kernels.basics.memory import check_memory
from xnor_ref.kernels.ops import binary_ops
from xnor_ref.steady import steady

Words = NDArray[np.uint64]
LAYOUTS = ("NCHW", "NHWC")
TAKES = {"int32": (), "float32": ("scale", "bias"), "int8": ("scale", "bias"), "bits": ("threshold", "flip")}


@steady
def conv2d_words(
    x: Words,
    weight: Words,
    channels: int,
    stride: int | Pair = 1,
    padding: Padding = 0,
    pad_value: int = 0,
    backend: str = "auto",
    threads: int | None = None,
    *,
    dilation: int | Pair = 1,
    groups: int = 1,
    layout: str = "NCHW",
    output: str = "int32",
    scale: Any = None,
    bias: Any = None,
    threshold: Any = None,
    flip: Any = None,
) -> np.ndarray:
    """`binary_conv2d` of packed signs. Returns Z, or a layer's output computed from Z.

    Parameters
    ----------
    x : ndarray of uint64, shape (N, n_words(C), H, W), or (N, H, W, n_words(C)) with layout "NHWC"
        `pack_bits(images, axis=1)` for images (N, C, H, W), `pack_bits(images)` for (N, H, W, C).
    weight : ndarray of uint64, shape (O, n_words(C/groups), KH, KW), or (O, KH, KW, n_words(C/groups))
        Packed along the same axis as x.
    channels : int
        C, which cannot be read from the words.
    stride, padding, pad_value, backend, threads, dilation, groups
        As in `binary_conv2d`.
    layout : {"NCHW", "NHWC"}
        Layout of x, of the weight and of the result.
    output : {"int32", "float32", "int8", "bits"}
        "int32": Z. "float32": `Z * scale + bias`, rounded to float32 after each of the two operations. "int8": the
        same, rounded to the nearest integer (halves to even) and saturated to -128 ... 127. "bits": the packed input
        signs of a next layer: bit 1 where `Z >= threshold`, or `Z <= threshold` where `flip` is True.
    scale, bias : number or array (O,), optional
        For "float32" and "int8"; by default 1 and 0. Converted to float32.
    threshold : number or array (O,)
        For "bits". May be infinite.
    flip : bool or array of bool (O,), optional
        For "bits"; by default False.

    Returns
    -------
    ndarray of int32, float32 or int8, shape (N, O, OH, OW) or (N, OH, OW, O); or of uint64 with n_words(O) for O

    Raises
    ------
    InputTypeError
        An argument has a wrong type or dtype.
    InputError
        Shapes, numbers of words or options that do not match, NaN, or too little memory in the machine.
    NonFiniteError
        The result overflows float32.

    Examples
    --------
    >>> from xnor_ref import pack_bits
    >>> x = pack_bits(np.array([[[[1.0, -1.0], [-1.0, -1.0]]]]), axis=1)
    >>> conv2d_words(x, x, channels=1)
    array([[[[4]]]], dtype=int32)
    >>> conv2d_words(x, x, channels=1, output="int8", scale=0.625)  # 2.5
    array([[[[2]]]], dtype=int8)
    """
    caller = "conv2d_words"
    x, weight = (_images(caller, name, array, layout) for name, array in (("x", x), ("weight", weight)))
    channels = check_integer(f"{caller}: channels", channels, 1)
    (n, height, width, _), (outputs, *kernel, _) = x.shape, weight.shape
    checks.check_groups(caller, groups, channels, outputs)
    _check_words(caller, "x", x, channels, f"channels={channels}")
    _check_words(caller, "weight", weight, channels // groups, f"channels={channels} in groups={groups}")
    like = [  # stand-ins of these shapes pass through the same checks
        np.broadcast_to(np.float32(1), s)
        for s in ((1, channels, height, width), (outputs, channels // groups, *kernel))
    ]
    place = stride, padding, pad_value, dilation, groups
    *_, window = checks.check_conv(caller, like[0], like[1], *place, "off", backend, threads)
    check_memory(caller, 16 * n * outputs * math.prod(window.count((height, width))) + 16 * x.size, f"(x {x.shape})")
    finish = _finish(caller, outputs, output, scale=scale, bias=bias, threshold=threshold, flip=flip)
    z = binary_ops.conv2d_bits(x, weight, channels, window, pad_value, backend, threads, groups)
    found = finish(z)
    return found if layout == "NCHW" else np.ascontiguousarray(np.moveaxis(found, 1, -1))


@steady
def linear_words(
    x: Words,
    weight: Words,
    n_bits: int,
    backend: str = "auto",
    threads: int | None = None,
    *,
    output: str = "int32",
    scale: Any = None,
    bias: Any = None,
    threshold: Any = None,
    flip: Any = None,
) -> np.ndarray:
    """`binary_linear` of packed signs. Returns dot products of rows, or a layer's output computed from them.

    Parameters
    ----------
    x : ndarray of uint64, shape (N, n_words(n_bits))
    weight : ndarray of uint64, shape (O, n_words(n_bits))
    n_bits : int
        Number of signs per row.
    backend, threads
        As in `binary_conv2d`.
    output, scale, bias, threshold, flip
        As in `conv2d_words`.

    Returns
    -------
    ndarray of int32, float32 or int8, shape (N, O); or of uint64, shape (N, n_words(O))

    Raises
    ------
    InputTypeError, InputError, NonFiniteError
        As in `conv2d_words`.

    Examples
    --------
    >>> from xnor_ref import pack_bits
    >>> rows = pack_bits(np.array([[1, -1, -2], [1, 1, 1]]))
    >>> linear_words(rows, rows, n_bits=3)
    array([[ 3, -1],
           [-1,  3]], dtype=int32)
    >>> linear_words(rows, rows, n_bits=3, output="bits", threshold=0).tolist()
    [[1], [2]]
    """
    caller = "linear_words"
    workers = checks.check_options(caller, backend, threads)
    x, weight = (_of_words(caller, name, array, 2) for name, array in (("x", x), ("weight", weight)))
    n_bits = check_integer(f"{caller}: n_bits", n_bits, 1)
    for name, array in (("x", x), ("weight", weight)):
        _check_words(caller, name, array, n_bits, f"n_bits={n_bits}")
    checks.check_n_bits(caller, n_bits, "n_bits", backend)
    check_memory(
        caller, 8 * len(x) * len(weight) + 8 * (x.size + 2 * weight.size), f"(x {x.shape}, weight {weight.shape})"
    )
    finish = _finish(caller, len(weight), output, scale=scale, bias=bias, threshold=threshold, flip=flip)
    return finish(binary_ops.gemm_bits(x, weight, n_bits, backend, workers))


def max_pool2d_words(
    x: Words,
    channels: int,
    kernel: int | Pair,
    stride: int | Pair | None = None,
    padding: Padding = 0,
    *,
    layout: str = "NCHW",
) -> Words:
    """Max pooling of packed signs, which is an OR of bits: +1 where any tap inside the image is +1.

    Parameters
    ----------
    x, channels, layout
        As in `conv2d_words`.
    kernel, stride : int or pair
        Size of the window, and distance between windows. The default stride is the kernel.
    padding
        As in `binary_conv2d`, but smaller than the kernel, so that each window overlaps the image.

    Returns
    -------
    ndarray of uint64, shape (N, n_words(C), OH, OW) or (N, OH, OW, n_words(C)), tail bits 0

    Raises
    ------
    InputTypeError, InputError
        As in `conv2d_words`.

    Examples
    --------
    >>> from xnor_ref import pack_bits
    >>> max_pool2d_words(pack_bits(np.array([[[[-1, 2], [-3, -4]]]]), axis=1), 1, kernel=2)
    array([[[[1]]]], dtype=uint64)
    """
    caller = "max_pool2d_words"
    x = _images(caller, "x", x, layout)
    _check_words(caller, "x", x, check_integer(f"{caller}: channels", channels, 1), f"channels={channels}")
    n, height, width, words = x.shape
    taps = checks.check_pair(caller, "kernel", kernel, 1)
    steps = taps if stride is None else checks.check_pair(caller, "stride", stride, 1)
    window = Window.of(taps, steps, checks.check_padding(caller, padding), size=(height, width))
    if min(window.count((height, width))) < 1:
        raise InputError(
            f"{caller}: kernel {taps} is larger than the image {height, width} with padding {window.padding}"
        )
    if any(side >= n for n, sides in zip(taps, window.padding) for side in sides):
        raise InputError(f"{caller}: padding {window.padding} must be smaller than the kernel {window.kernel}")
    check_memory(caller, 16 * n * words * math.prod(window.padded((height, width))), f"(x {x.shape})")
    padded = np.pad(mask_tail(x, channels), ((0, 0), *window.padding, (0, 0)))
    (rows, columns), (sy, sx) = window.count((height, width)), window.stride
    parts = (
        padded[:, i : i + (rows - 1) * sy + 1 : sy, j : j + (columns - 1) * sx + 1 : sx]
        for i, j in np.ndindex(window.kernel)
    )
    return _turned(reduce(np.bitwise_or, parts), layout)


def _images(caller: str, name: str, array: Any, layout: str) -> Words:
    """Return words with four axes, the packed one last."""
    if layout not in LAYOUTS:
        raise InputError(f"{caller}: layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    return np.ascontiguousarray(np.moveaxis(_of_words(caller, name, array, 4), LAYOUTS.index(layout) * 2 + 1, -1))


def _turned(result: NDArray, layout: str) -> NDArray:
    """Return images (N, H, W, any) in the given layout."""
    return np.ascontiguousarray(result if layout == "NHWC" else np.moveaxis(result, -1, 1))


def _of_words(caller: str, name: str, array: Any, axes: int) -> Words:
    if not isinstance(array, np.ndarray) or array.dtype.newbyteorder("=") != np.uint64:
        found = getattr(array, "dtype", type(array).__name__)
        raise InputTypeError(
            f"{caller}: {name} must be packed words, a uint64 array as pack_bits gives it, got {found}"
        )
    if array.ndim != axes or array.size == 0:
        raise InputError(f"{caller}: {name} must have {axes} axes, none of them empty, got shape {array.shape}")
    return np.require(array, np.uint64, ["C", "A"])


def _check_words(caller: str, name: str, array: Words, n_bits: int, why: str) -> None:
    if array.shape[-1] != n_words(n_bits):
        raise InputError(
            f"{caller}: {name} has {array.shape[-1]} words per row of signs, but {why} needs {n_words(n_bits)} "
            "of 64 signs each"
        )


def _finish(caller: str, outputs: int, output: str, **given: Any) -> Callable[[NDArray[np.int32]], NDArray]:
    """Return a function from integers (N, O, ...) to the output."""
    if output not in TAKES:
        raise InputError(f"{caller}: output must be one of {', '.join(TAKES)}, got {output!r}")
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in TAKES[output]:
            takes = " and ".join(TAKES[output]) or "no further argument"
            raise InputError(f"{caller}: output {output!r} takes {takes}, got {name}")
    if output == "bits" and "threshold" not in given:
        raise InputError(f"{caller}: output 'bits' needs the argument threshold")
    of_channel = {name: _of_channels(caller, name, value, outputs) for name, value in given.items()}
    large = {name: float(np.abs(value).max()) for name, value in of_channel.items() if name in ("scale", "bias")}
    may_overflow = 2.0**31 * large.get("scale", 1) + large.get("bias", 0) >= float(np.finfo(np.float32).max)

    def finish(z: NDArray[np.int32]) -> NDArray:
        values = {name: value.reshape(-1, *[1] * (z.ndim - 2)) for name, value in of_channel.items()}
        if output == "int32":
            return z
        if output == "bits":
            below, most = (  # integers compare faster; no sum of signs is -2^31
                np.clip(part, -(2**31), 2**31 - 1).astype(np.int32)
                for part in (np.ceil(values["threshold"]) - 1, np.floor(values["threshold"]))
            )
            ones = z > below
            if np.any(flip := values.get("flip", False)):
                ones = np.where(flip, z <= most, ones)
            return pack_mask(ones, 1)
        y = z.view(np.float32)  # reuse the memory of z
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(z, values.get("scale", np.float32(1)), out=y, dtype=np.float32, casting="unsafe")
            y += values.get("bias", np.float32(0))
        if output == "int8":
            return np.clip(np.rint(y, out=y), -128, 127, out=y).astype(np.int8)
        if may_overflow and not np.isfinite(y).all():
            raise NonFiniteError(f"{caller}: the result overflows float32; use a smaller scale or bias")
        return y

    return finish


def _of_channels(caller: str, name: str, value: Any, outputs: int) -> NDArray:
    """Return one number per output channel: float32, for thresholds float64, for flip bool."""
    found, kinds = np.asarray(value), "b" if name == "flip" else "fiu"
    if found.dtype.kind not in kinds:
        wanted = "bool" if name == "flip" else "real numbers"
        raise InputTypeError(f"{caller}: {name} must be {wanted}, got dtype {found.dtype}")
    if found.shape not in ((), (outputs,)):
        raise InputError(
            f"{caller}: {name} must be one value, or one per filter with shape ({outputs},), got shape {found.shape}"
        )
    if name == "flip":
        return np.broadcast_to(found, (outputs,))
    with np.errstate(over="ignore"):
        numbers = np.broadcast_to(found.astype(np.float64 if name == "threshold" else np.float32), (outputs,))
    wrong, wanted = (np.isnan(numbers), "not be NaN") if name == "threshold" else (~np.isfinite(numbers), "be finite")
    if wrong.any():
        raise InputError(f"{caller}: {name} must {wanted}, but holds {numbers[wrong][0]} at index {wrong.argmax()}")
    return numbers
