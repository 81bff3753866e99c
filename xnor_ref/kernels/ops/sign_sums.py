"""Convolution of real inputs with signs, by additions and subtractions on packed weights.

`I * W ~= (I (+) B) alpha`, where (+) is "a convolution without any multiplication" (Rastegari et al. 2016, section
3.1). This is the arithmetic of Binary-Weight-Networks and of BinaryConnect. Sums of real numbers depend on their order,
unlike sums of signs. So the order is fixed: each output is one chain of rounded float32 additions and subtractions,
starting from 0, over kernel rows, then kernel columns, then channels. Taps outside the image add 0. All backends give
the same bits, for any batch and number of threads:

- "numba", "simd" and "auto" add columns by the bits, in compiled loops. Without Numba's compiler, "auto" is
  "reference", the same in NumPy.
- "float" shares no code with these: it uses fused multiply-adds with signs as float32, where a product with +-1 is
  exact. Without suitable vectors it is "reference".

These blocks do not check their arguments, like the blocks of `binary_ops`. Arrays are float32 or uint64, C-contiguous,
and have matching shapes.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from xnor_ref.kernels.basics import geometry, rungs
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.basics.layout import pack_mask, signs_of_words
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.basics.threads import parallel_chunks
from xnor_ref.kernels.ops import float_ops
from xnor_ref.kernels.readable import float_reference

F32 = NDArray[np.float32]
Words = NDArray[np.uint64]

GATHERED_PIXELS = 256  # several images are gathered up to about so many columns
FILTERS = 8  # filters per piece of work


def conv2d(
    x: F32,
    weight_words: Words,
    window: Window,
    backend: str = "auto",
    threads: int | None = None,
    groups: int = 1,
) -> F32:
    """Return sums (N, O, OH, OW) of x (N, C, H, W), each tap with the sign of its weight, in the order above.

    `weight_words` is uint64 (O, n_words(C/groups*KH*KW)). The sign of weight (o, c, kh, kw) is bit
    (kh*KW + kw)*C/groups + c of row o, as in a model file.
    """
    if groups > 1:
        parts = zip(np.split(x, groups, axis=1), np.split(weight_words, groups))
        return np.concatenate([conv2d(part.copy(), words, window, backend, threads) for part, words in parts], axis=1)
    channels, taps = x.shape[1], window.kernel[0] * window.kernel[1]
    if backend == "float" and has_vectors():
        signs = signs_of_words(weight_words, channels * taps).reshape(-1, *window.kernel, channels)
        weight = np.ascontiguousarray(np.moveaxis(signs, 3, 1))
        return float_ops.conv2d(x, weight, None, window, threads=threads)
    im2col, add_columns = _rung(backend)
    out_size = window.count(geometry.spatial(x))
    pixels = out_size[0] * out_size[1]
    order = np.arange(channels * taps).reshape(channels, taps).T.ravel()  # im2col has channels outermost
    y = np.empty((len(x), len(weight_words), *out_size), np.float32)
    together = max(1, GATHERED_PIXELS // pixels)
    for start in range(0, len(x), together):
        stop = min(start + together, len(x))
        columns = np.empty((channels * taps, (stop - start) * pixels), np.float32)
        im2col(x, start, stop, window.numbers, out_size, np.float32(0), False, columns)
        sums = _sums(add_columns, columns, order, weight_words, threads)
        y[start:stop] = sums.reshape(-1, stop - start, *out_size).swapaxes(0, 1)
    return y


def linear(x: F32, weight_words: Words, backend: str = "auto", threads: int | None = None) -> F32:
    """Return sums (N, O) of x (N, I) with the signs of weight_words (O, n_words(I)), over inputs in order."""
    if backend == "float" and has_vectors():
        return float_ops.linear(x, signs_of_words(weight_words, x.shape[1]), None, threads)
    add_columns = _rung(backend)[1]
    return np.ascontiguousarray(
        _sums(add_columns, np.ascontiguousarray(x.T), np.arange(x.shape[1]), weight_words, threads).T
    )


def compact_bits(weight: F32) -> Words:
    """Pack the signs of weight (O, C, KH, KW) or (O, I) as in model files: bit (kh*KW + kw)*C + c of each row."""
    rows = weight.transpose(0, 2, 3, 1) if weight.ndim == 4 else weight
    return pack_mask((rows >= 0).reshape(len(weight), -1), -1)


def scale_filters(sums: F32, alpha: F32 | None) -> F32:
    """Multiply sums (N, O[, OH, OW]) by alpha (O,), in place. None leaves them unchanged."""
    if alpha is not None:
        sums *= alpha.reshape(-1, *(1,) * (sums.ndim - 2))
    return sums


def _rung(backend: str) -> tuple[Callable, Callable]:
    """(im2col, add_columns)."""
    if backend in ("reference", "float") or rungs.without_kernels():
        return float_reference.im2col, _reference
    from xnor_ref.kernels.readable import float_plain, sign_sums_plain

    return float_plain.im2col, sign_sums_plain.add_columns


def _sums(
    add_columns: Callable, columns: F32, order: NDArray[np.intp], weight_words: Words, threads: int | None
) -> F32:
    """Return sums (O, P) of columns (n_bits, P) in `order`, with the signs of weight_words (O, n_words(n_bits))."""
    sums = np.empty((len(weight_words), columns.shape[1]), np.float32)

    def add(start: int, stop: int) -> None:
        add_columns(columns, order, weight_words, start, stop, sums)

    parallel_chunks(add, len(sums), FILTERS, threads)
    return sums


def _reference(columns: F32, order: NDArray[np.intp], weight_words: Words, start: int, stop: int, sums: F32) -> None:
    """Add or subtract one column after the other, in NumPy. This is the definition."""
    plus = signs_of_words(weight_words[start:stop], len(order)) > 0
    total = np.zeros((stop - start, columns.shape[1]), np.float32)
    for position, row in enumerate(order):
        column = columns[row]
        total = np.where(plus[:, position, None], total + column, total - column)
    sums[start:stop] = total
