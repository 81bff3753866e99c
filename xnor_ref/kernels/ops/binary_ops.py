"""Binary convolution and matrix product: the checked entry points, and the unchecked blocks they are made of.

`binary_conv2d`, `xnor_conv2d` and `binary_linear` validate everything before they allocate anything. The blocks
(`sign_pack`, `conv2d_bits`, ...) are for callers inside this package, whose arrays are known to be valid: C-contiguous,
float32 or uint64, without NaN. The room's page lists the backends. All backends give the same integers at any number of
threads.
"""

from typing import Any

import numpy as np

from xnor_ref.errors import NonFiniteError
from xnor_ref.kernels.basics import rungs
from xnor_ref.kernels.basics.checks import check_conv, check_linear
from xnor_ref.kernels.basics.geometry import Padding, Pair, Window
from xnor_ref.kernels.basics.layout import mask_tail, signs_of_words
from xnor_ref.kernels.basics.modes import KMode
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.ops import float_ops
from xnor_ref.kernels.readable import reference
from xnor_ref.steady import steady


@steady
def binary_conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    stride: int | Pair = 1,
    padding: Padding = 0,
    pad_value: int = 0,
    backend: str = "auto",
    threads: int | None = None,
    *,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> np.ndarray:
    """Convolve (cross-correlate) the signs of `x` with the signs of `weight`, exactly.

    `Z = sign(x) * sign(weight)` is the integer part of XNOR-Net's convolution (Rastegari et al. 2016, eq. 11). It is
    computed as `n_bits - 2 * popcount(a xor b)` on packed bits. sign(0) = sign(-0.0) = +1.

    Parameters
    ----------
    x : ndarray of float32, shape (N, C, H, W)
    weight : ndarray of float32, shape (O, C/groups, KH, KW)
        Only float32 is accepted, since rounding a tiny negative float64 to float32 gives -0.0, whose sign is +1. Any
        memory layout and byte order is accepted.
    stride : int or pair (vertical, horizontal)
    padding : int, pair, two pairs ((top, bottom), (left, right)), "same" or "valid"
        Pixels around the image, at least 0. Padding may exceed the kernel. "valid" means none. "same" is TensorFlow's
        padding: OH = ceil(H / stride), with the smaller half of the padding at the top, and likewise for columns.
    pad_value : {0, 1, -1}
        The value of the padding: 0 contributes nothing, +1 and -1 count as signs.
    backend : {"auto", "reference", "numba", "simd", "float"}
    threads : int, optional
        Number of threads; by default the process-wide number. The result does not depend on it.
    dilation : int or pair
        Pixels from one tap to the next.
    groups : int
        Cuts C and O into as many parts. Each part of the outputs sees only its part of the input channels. With as many
        groups as channels, the convolution is depthwise.

    Returns
    -------
    ndarray of int32, shape (N, O, OH, OW)
        OH = (H + top + bottom - dilation*(KH - 1) - 1) // stride + 1, and likewise for OW.

    Raises
    ------
    InputTypeError
        An argument has a wrong type or dtype.
    InputError
        NaN or infinities, shapes or options that do not match, or too little memory in the machine.

    Examples
    --------
    >>> x = np.array([[[[1, -1], [-1, -1]]]], dtype=np.float32)
    >>> binary_conv2d(x, x, backend="reference")
    array([[[[4]]]], dtype=int32)
    """
    place = stride, padding, pad_value, dilation, groups
    x, weight, window = check_conv("binary_conv2d", x, weight, *place, "off", backend, threads)
    return sign_conv2d(x, weight, window, pad_value, backend, threads, groups)


@steady
def xnor_conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    stride: int | Pair = 1,
    padding: Padding = 0,
    pad_value: int = 0,
    input_scale: str = "plain",
    backend: str = "auto",
    threads: int | None = None,
    *,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> np.ndarray:
    """Compute XNOR-Net's convolution of real inputs and weights: `Y = (Z * alpha) * K`.

    Z is `binary_conv2d`, alpha is the mean |weight| of each filter, and K is the local mean of |x| (Rastegari et al.
    2016, eq. 6 and 11). The two products are rounded to float32 one after the other, in this order. With groups, each
    group has its own K, computed from its channels.

    Parameters
    ----------
    x, weight, stride, padding, pad_value, backend, threads, dilation, groups
        As in `binary_conv2d`.
    input_scale : {"plain", "valid", "off"}
        "plain": K as in the paper, the mean over all KH*KW taps, where taps outside the image count as zeros. "valid":
        the mean over the taps inside the image. "off": no K.

    Returns
    -------
    ndarray of float32, shape (N, O, OH, OW)

    Raises
    ------
    InputTypeError, InputError
        As in `binary_conv2d`.
    NonFiniteError
        The result overflows float32.

    Examples
    --------
    >>> x = np.array([[[[1, -3], [-2, -2]]]], dtype=np.float32)
    >>> xnor_conv2d(x, -x, backend="reference")  # -4 * 2 * 2
    array([[[[-16.]]]], dtype=float32)
    """
    place = stride, padding, pad_value, dilation, groups
    x, weight, window = check_conv("xnor_conv2d", x, weight, *place, input_scale, backend, threads)
    y = sign_conv2d(x, weight, window, pad_value, backend, threads, groups).astype(np.float32)
    try:
        with np.errstate(over="raise", under="ignore"):
            y *= weight_scale(weight)[:, None, None]
            if input_scale != KMode.OFF:
                float_ops.times_input_scale(y, input_scale_map(x, window, input_scale, backend, threads, groups))
    except FloatingPointError:
        raise NonFiniteError(
            "xnor_conv2d: the result overflows float32; scale x or weight down "
            f"(largest |x| {np.abs(x).max():g}, largest |weight| {np.abs(weight).max():g})"
        ) from None
    return y


@steady
def binary_linear(x: np.ndarray, weight: np.ndarray, backend: str = "auto", threads: int | None = None) -> np.ndarray:
    """Multiply matrices of signs exactly: `sign(x) @ sign(weight).T`.

    Parameters
    ----------
    x : ndarray of float32, shape (N, I)
    weight : ndarray of float32, shape (O, I)
    backend, threads
        As in `binary_conv2d`.

    Returns
    -------
    ndarray of int32, shape (N, O)

    Raises
    ------
    InputTypeError, InputError
        As in `binary_conv2d`.

    Examples
    --------
    >>> x = np.array([[1, -1, -2, 0]], dtype=np.float32)
    >>> binary_linear(x, np.ones((1, 4), np.float32), backend="reference")
    array([[0]], dtype=int32)
    """
    x, weight = check_linear("binary_linear", x, weight, backend, threads)
    return sign_linear(x, weight, backend, threads)


# --- unchecked blocks ------------------------------------------------------------------------------------------


def sign_conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    window: Window,
    pad_value: int,
    backend: str = "auto",
    threads: int | None = None,
    groups: int = 1,
) -> np.ndarray:
    """Convolve the signs of x (N, C, H, W) and weight (O, C/groups, KH, KW), float32: int32 (N, O, OH, OW)."""
    if backend == "float":
        border = float(pad_value)
        z = float_ops.conv2d(x, _signs(weight), None, window, groups, threads, signs=True, pad_value=border)
        return z.astype(np.int32)
    x_words, weight_words = sign_pack(x, backend, threads), pack_weight(weight, backend, threads)
    return conv2d_bits(x_words, weight_words, x.shape[1], window, pad_value, backend, threads, groups)


def sign_linear(x: np.ndarray, weight: np.ndarray, backend: str = "auto", threads: int | None = None) -> np.ndarray:
    """Multiply the signs of x (N, I) and weight (O, I), both float32: int32 (N, O)."""
    if backend == "float":
        return float_ops.linear(_signs(x), _signs(weight), None, threads).astype(np.int32)
    x_words, weight_words = sign_pack_rows(x, backend, threads), pack_weight_rows(weight, backend, threads)
    return gemm_bits(x_words, weight_words, x.shape[1], backend, threads)


def _signs(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, np.float32(1), np.float32(-1))


def sign_pack(x: np.ndarray, backend: str = "auto", threads: int | None = None) -> np.ndarray:
    """Pack the signs of float32 x (N, C, H, W) along C: uint64 (N, H, W, n_words(C))."""
    return _rung(backend).sign_pack(x, threads)


def threshold_pack(
    x: np.ndarray, threshold: np.ndarray, flip: np.ndarray, backend: str = "auto", threads: int | None = None
) -> np.ndarray:
    """Pack the bits `x >= threshold[c]`, or `x <= threshold[c]` where flip[c] (bool): uint64 (N, H, W, n_words(C))."""
    return _rung(backend).threshold_pack(x, threshold, flip, threads)


def pack_weight(weight: np.ndarray, backend: str = "auto", threads: int | None = None) -> np.ndarray:
    """Pack the signs of float32 weight (O, C, KH, KW) along C: uint64 (O, KH, KW, n_words(C))."""
    return _rung(backend).sign_pack(weight, threads)


def sign_pack_rows(x: np.ndarray, backend: str = "auto", threads: int | None = None) -> np.ndarray:
    """Pack the signs of float32 x (N, I) along I: uint64 (N, n_words(I))."""
    return _rung(backend).sign_pack_rows(x, threads)


pack_weight_rows = sign_pack_rows


def conv2d_bits(
    x_words: np.ndarray,
    weight_words: np.ndarray,
    channels: int,
    window: Window,
    pad_value: int,
    backend: str = "auto",
    threads: int | None = None,
    groups: int = 1,
) -> np.ndarray:
    """Convolve packed signs: int32 (N, O, OH, OW).

    x is (N, H, W, n_words(channels)) with channel c in bit c, also with groups. weight is
    (O, KH, KW, n_words(channels/groups)). Tail bits are ignored.
    """
    own = channels // groups
    if backend == "float":
        pairs = (x_words, channels), (weight_words, own)
        x, weight = (np.moveaxis(signs_of_words(words, n), 3, 1).copy() for words, n in pairs)
        return sign_conv2d(x, weight, window, pad_value, backend, threads, groups)
    x_words, weight_words = mask_tail(x_words, channels), mask_tail(weight_words, own)
    return _rung(backend).conv2d_bits(x_words, weight_words, channels, window, pad_value, threads, groups)


def gemm_bits(
    x_words: np.ndarray,
    weight_words: np.ndarray,
    n_bits: int,
    backend: str = "auto",
    threads: int | None = None,
) -> np.ndarray:
    """Return dot products of packed signs, x (N, words) and weight (O, words): int32 (N, O). Tail bits are ignored."""
    if backend == "float":
        return sign_linear(signs_of_words(x_words, n_bits), signs_of_words(weight_words, n_bits), backend, threads)
    x_words, weight_words = mask_tail(x_words, n_bits), mask_tail(weight_words, n_bits)
    return _rung(backend).gemm_bits(x_words, weight_words, n_bits, threads)


def input_scale_map(
    x: np.ndarray,
    window: Window,
    mode: str,
    backend: str = "auto",
    threads: int | None = None,
    groups: int = 1,
) -> np.ndarray:
    """Return K of float32 x (N, C, H, W), the box mean of A = mean over channels of |x|: float32 (N, groups, OH, OW).

    Each group of channels has its own A and K. `mode` "plain" divides by KH*KW (A is padded with zeros), "valid" by the
    number of taps inside the image. A window wholly outside the image gets 0. All backends give the same bits.
    """
    n, channels, *size = x.shape
    k = _rung(backend).input_scale_map(x.reshape(n * groups, channels // groups, *size), window, mode, threads)
    return k.reshape(n, groups, *k.shape[2:])


def weight_scale(weight: np.ndarray) -> np.ndarray:
    """Return alpha, the mean |weight| of each filter (O, ...): float32 (O,), summed in float64, rounded once."""
    # Convert first: a reduction that converts on the fly sums in pieces that depend on the number of rows.
    return np.abs(weight.reshape(len(weight), -1), dtype=np.float64).mean(axis=1).astype(np.float32)


def input_scale_rows(x: np.ndarray, backend: str = "auto", threads: int | None = None) -> np.ndarray:
    """Return K of a fully connected layer, the mean |x| of each row: float32 (N, 1), the same bits in all backends."""
    return _rung(backend).input_scale_rows(x, threads)


def _rung(backend: str) -> Any:
    if backend == "reference" or (backend == "auto" and rungs.without_kernels()):
        return reference
    if backend in ("auto", "simd") and has_vectors():
        from xnor_ref.kernels.vectors import simd

        return simd
    from xnor_ref.kernels.readable import plain

    return plain
