"""The NumPy kernels: the slow and simple definition of every binary kernel.

They have the signatures of `plain.py` and give the same results, bit for bit. Nothing is validated here; that happens
in `ops/binary_ops.py`. Arrays are C-contiguous. Words are uint64 with zero tail bits.
"""

from collections.abc import Callable

import numpy as np

from xnor_ref.kernels.basics.geometry import Pair, Window, spatial
from xnor_ref.kernels.basics.layout import PARTIAL_SUMS, pack_mask, signs_of_words
from xnor_ref.kernels.basics.modes import KMode
from xnor_ref.kernels.basics.threads import parallel_chunks

_WORK = 1 << 18  # most elements of a temporary array in a chunk


def sign_pack(x: np.ndarray, threads: int | None = None) -> np.ndarray:
    """Pack the signs of x (N, C, H, W) along C: uint64 (N, H, W, words)."""
    return pack_mask(np.moveaxis(x >= 0, 1, -1), axis=-1)


def threshold_pack(x: np.ndarray, threshold: np.ndarray, flip: np.ndarray, threads: int | None = None) -> np.ndarray:
    """Pack the bits x >= threshold[c], or x <= threshold[c] where flip[c]: uint64 (N, H, W, words)."""
    limit = threshold[:, None, None]
    bits = np.where(flip[:, None, None], x <= limit, x >= limit)
    return pack_mask(np.moveaxis(bits, 1, -1), axis=-1)


def sign_pack_rows(x: np.ndarray, threads: int | None = None) -> np.ndarray:
    """Pack the signs of x (N, I) along I: uint64 (N, words)."""
    return pack_mask(x >= 0, axis=1)


def positions(size: Pair, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Return the image rows of each window's taps, int64 (OH, KH), and the image columns, int64 (OW, KW)."""
    rows, columns = (
        np.arange(count)[:, None] * stride - before + np.arange(kernel) * dilation
        for count, kernel, stride, before, dilation in zip(window.count(size), *window.numbers, strict=True)
    )
    return rows, columns


def inside(size: Pair, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Return which of these rows and columns lie inside the image: bool."""
    rows, columns = positions(size, window)
    return (rows >= 0) & (rows < size[0]), (columns >= 0) & (columns < size[1])


def border_sums(weight_words: np.ndarray, channels: int, size: Pair, window: Window) -> np.ndarray:
    """Return what padding with +1 adds to the convolution: int32 (O, OH, OW). It is the sum of the weights' signs over
    the taps outside the image. Padding with -1 adds the negative."""
    tap = 2 * np.bitwise_count(weight_words).sum(axis=-1, dtype=np.int64) - channels  # (O, KH, KW)
    rows, columns = (taps.astype(np.int64) for taps in inside(size, window))
    sums = tap.sum(axis=(1, 2))[:, None, None] - rows @ (tap @ columns.T)  # all taps minus those inside
    return sums.astype(np.int32)


def conv2d_bits(
    x_words: np.ndarray,
    weight_words: np.ndarray,
    channels: int,
    window: Window,
    pad_value: int,
    threads: int | None = None,
    groups: int = 1,
) -> np.ndarray:
    """Convolve signs: x (N, H, W, words), weight (O, KH, KW, words) -> int32 (N, O, OH, OW)."""
    if groups > 1:
        return by_groups(conv2d_bits, x_words, weight_words, channels, window, pad_value, threads, groups)
    n, height, width, words = x_words.shape
    out_channels, kernel_h, kernel_w, _ = weight_words.shape
    size, (down, right) = (height, width), window.stride
    (taps_y, taps_x), (y, x) = inside(size, window), positions(size, window)
    n_inside = np.outer(taps_y.sum(1), taps_x.sum(1)).astype(np.int32)  # (OH, OW)
    out = np.empty((n, out_channels, *n_inside.shape), np.int32)
    out[:] = channels * n_inside
    if pad_value:
        out += pad_value * border_sums(weight_words, channels, size, window)

    def one_chunk(start: int, stop: int) -> None:
        for ky in range(kernel_h):
            oy = np.flatnonzero(taps_y[:, ky])  # consecutive, so a slice of windows
            for kx in range(kernel_w):
                ox = np.flatnonzero(taps_x[:, kx])
                if oy.size == 0 or ox.size == 0:
                    continue
                iy, ix = y[oy, ky], x[ox, kx]
                pixels = x_words[start:stop, iy[0] : iy[-1] + 1 : down, ix[0] : ix[-1] + 1 : right]
                target = out[start:stop, :, oy[0] : oy[-1] + 1, ox[0] : ox[-1] + 1]
                for o in range(out_channels):
                    differ = np.bitwise_count(pixels ^ weight_words[o, ky, kx])  # (n, oh, ow, words)
                    target[:, o] -= 2 * differ.sum(axis=-1, dtype=np.int32)

    parallel_chunks(one_chunk, n, max(1, _WORK // (n_inside.size * words)), threads)
    return out


def by_groups(
    convolve: Callable,
    x_words: np.ndarray,
    weight_words: np.ndarray,
    channels: int,
    window: Window,
    pad_value: int,
    threads: int | None,
    groups: int,
) -> np.ndarray:
    """Run `convolve` for each group of channels with its own filters."""
    n, *size, _ = x_words.shape
    own, parts = channels // groups, np.split(weight_words, groups)
    signs = (signs_of_words(x_words, channels) > 0).reshape(n, *size, groups, own)
    words = np.ascontiguousarray(np.moveaxis(pack_mask(signs, -1), 3, 0))  # (groups, N, H, W, words)
    return np.concatenate([convolve(*both, own, window, pad_value, threads) for both in zip(words, parts)], axis=1)


def gemm_bits(x_words: np.ndarray, weight_words: np.ndarray, n_bits: int, threads: int | None = None) -> np.ndarray:
    """Return dot products of signs: x (N, words), weight (O, words) -> int32 (N, O)."""
    out = np.empty((len(x_words), len(weight_words)), np.int32)

    def one_chunk(start: int, stop: int) -> None:
        for row in range(start, stop):
            differ = np.bitwise_count(x_words[row] ^ weight_words)  # (O, words)
            out[row] = n_bits - 2 * differ.sum(axis=-1, dtype=np.int32)

    parallel_chunks(one_chunk, len(out), 16, threads)
    return out


def input_scale_map(x: np.ndarray, window: Window, mode: str, threads: int | None = None) -> np.ndarray:
    """Return K of x (N, C, H, W): float32 (N, 1, OH, OW).

    Sums are taken in float64 in a fixed order: over channels as in `_channel_means`, then over the rows of a window,
    then over its columns. K is rounded to float32 once. So all backends give the same bits, and the error of K is at
    most one rounding.
    """
    n, size = len(x), spatial(x)
    mean = _channel_means(x)
    (taps_y, taps_x), (rows, columns) = inside(size, window), positions(size, window)
    lines = np.zeros((n, len(taps_y), size[1]))
    for ky in range(window.kernel[0]):
        oy = np.flatnonzero(taps_y[:, ky])
        lines[:, oy] += mean[:, rows[oy, ky]]
    total = np.zeros((n, len(taps_y), len(taps_x)))
    for kx in range(window.kernel[1]):
        ox = np.flatnonzero(taps_x[:, kx])
        total[:, :, ox] += lines[:, :, columns[ox, kx]]
    if mode == KMode.PLAIN:
        total /= window.kernel[0] * window.kernel[1]
    else:
        total /= np.maximum(np.outer(taps_y.sum(1), taps_x.sum(1)), 1)  # no tap inside: K = 0
    return total.astype(np.float32)[:, None]


def input_scale_rows(x: np.ndarray, threads: int | None = None) -> np.ndarray:
    """Return the mean |x| of each row of x (N, I): float32 (N, 1), summed as in `_channel_means`."""
    return _channel_means(x[:, :, None]).astype(np.float32)


def _channel_means(x: np.ndarray) -> np.ndarray:
    """Return the float64 mean |x| over channels of x (N, C, ...).

    Channel c goes to sum c % 16; then halves are added.
    """
    n, channels, *size = x.shape
    sums = np.zeros((PARTIAL_SUMS, n, *size))
    for c in range(channels):
        sums[c % PARTIAL_SUMS] += np.abs(x[:, c])
    while len(sums) > 1:
        half = len(sums) // 2
        sums = sums[:half] + sums[half:]
    return sums[0] / channels
