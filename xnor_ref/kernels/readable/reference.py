"""NumPy rung: the slow and obvious definition of every binary kernel.

Same signatures and, bit for bit, the same results as `plain.py`. Nothing here is validated: `ops/binary_ops.py` does
that. Arrays are C-contiguous; words are uint64 with zero tail bits.
"""

import numpy as np

from xnor_ref.kernels.basics.geometry import window_count
from xnor_ref.kernels.basics.layout import PARTIAL_SUMS, pack_mask
from xnor_ref.kernels.basics.modes import KMode
from xnor_ref.kernels.basics.threads import parallel_chunks

_WORK = 1 << 18  # elements of the largest temporary array of one chunk


def sign_pack(x: np.ndarray, threads: int | None = None) -> np.ndarray:
    """Signs of x (N, C, H, W), packed along C: uint64 (N, H, W, words)."""
    return pack_mask(np.moveaxis(x >= 0, 1, -1), axis=-1)


def threshold_pack(x: np.ndarray, threshold: np.ndarray, flip: np.ndarray, threads: int | None = None) -> np.ndarray:
    """Bits x >= threshold[c], or x <= threshold[c] where flip[c]: uint64 (N, H, W, words)."""
    limit = threshold[:, None, None]
    bits = np.where(flip[:, None, None], x <= limit, x >= limit)
    return pack_mask(np.moveaxis(bits, 1, -1), axis=-1)


def sign_pack_rows(x: np.ndarray, threads: int | None = None) -> np.ndarray:
    """Signs of x (N, I), packed along I: uint64 (N, words)."""
    return pack_mask(x >= 0, axis=1)


def inside(size: int, kernel: int, stride: int, padding: int) -> np.ndarray:
    """Which taps of which window lie in the image, along one axis: bool (windows, kernel)."""
    windows = np.arange(window_count(size, kernel, stride, padding))
    position = windows[:, None] * stride - padding + np.arange(kernel)
    return (position >= 0) & (position < size)


def border_sums(
    weight_words: np.ndarray,
    channels: int,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> np.ndarray:
    """What padding with +1 adds to the convolution: int32 (O, OH, OW), the weight signs summed over the taps
    that lie outside the image. Padding with -1 adds the opposite."""
    tap = 2 * np.bitwise_count(weight_words).sum(axis=-1, dtype=np.int64) - channels  # (O, KH, KW)
    rows = inside(size[0], tap.shape[1], stride[0], padding[0]).astype(np.int64)  # (OH, KH)
    columns = inside(size[1], tap.shape[2], stride[1], padding[1]).astype(np.int64)  # (OW, KW)
    sums = tap.sum(axis=(1, 2))[:, None, None] - rows @ (tap @ columns.T)  # all taps less those inside
    return sums.astype(np.int32)


def conv2d_bits(
    x_words: np.ndarray,
    weight_words: np.ndarray,
    channels: int,
    stride: tuple[int, int],
    padding: tuple[int, int],
    pad_value: int,
    threads: int | None = None,
) -> np.ndarray:
    """Convolution of signs: x (N, H, W, words), weight (O, KH, KW, words) -> int32 (N, O, OH, OW)."""
    n, height, width, words = x_words.shape
    out_channels, kernel_h, kernel_w, _ = weight_words.shape
    taps_y = inside(height, kernel_h, stride[0], padding[0])  # (OH, KH)
    taps_x = inside(width, kernel_w, stride[1], padding[1])  # (OW, KW)
    n_inside = np.outer(taps_y.sum(1), taps_x.sum(1)).astype(np.int32)  # (OH, OW)
    out = np.empty((n, out_channels, *n_inside.shape), np.int32)
    out[:] = channels * n_inside
    if pad_value:
        out += pad_value * border_sums(weight_words, channels, (height, width), stride, padding)

    def one_chunk(start: int, stop: int) -> None:
        for ky in range(kernel_h):
            oy = np.flatnonzero(taps_y[:, ky])  # consecutive, so a slice of windows
            for kx in range(kernel_w):
                ox = np.flatnonzero(taps_x[:, kx])
                if oy.size == 0 or ox.size == 0:
                    continue
                iy, ix = oy * stride[0] - padding[0] + ky, ox * stride[1] - padding[1] + kx
                pixels = x_words[start:stop, iy[0] : iy[-1] + 1 : stride[0], ix[0] : ix[-1] + 1 : stride[1]]
                target = out[start:stop, :, oy[0] : oy[-1] + 1, ox[0] : ox[-1] + 1]
                for o in range(out_channels):
                    differ = np.bitwise_count(pixels ^ weight_words[o, ky, kx])  # (n, oh, ow, words)
                    target[:, o] -= 2 * differ.sum(axis=-1, dtype=np.int32)

    parallel_chunks(one_chunk, n, max(1, _WORK // (n_inside.size * words)), threads)
    return out


def gemm_bits(x_words: np.ndarray, weight_words: np.ndarray, n_bits: int, threads: int | None = None) -> np.ndarray:
    """Dot products of signs: x (N, words), weight (O, words) -> int32 (N, O)."""
    out = np.empty((len(x_words), len(weight_words)), np.int32)

    def one_chunk(start: int, stop: int) -> None:
        for row in range(start, stop):
            differ = np.bitwise_count(x_words[row] ^ weight_words)  # (O, words)
            out[row] = n_bits - 2 * differ.sum(axis=-1, dtype=np.int32)

    parallel_chunks(one_chunk, len(out), 16, threads)
    return out


def input_scale_map(
    x: np.ndarray,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    mode: str,
    threads: int | None = None,
) -> np.ndarray:
    """K of x (N, C, H, W): float32 (N, 1, OH, OW).

    Sums run in float64 in a fixed order (over channels as in `_channel_means`, then over the rows of a window, then
    over its columns), and K is rounded to float32 once; so all rungs give the same bits, and K is right to within one
    rounding.
    """
    n, _, height, width = x.shape
    mean = _channel_means(x)
    taps_y = inside(height, kernel_size[0], stride[0], padding[0])
    taps_x = inside(width, kernel_size[1], stride[1], padding[1])
    lines = np.zeros((n, len(taps_y), width))
    for ky in range(kernel_size[0]):
        oy = np.flatnonzero(taps_y[:, ky])
        lines[:, oy] += mean[:, oy * stride[0] - padding[0] + ky]
    total = np.zeros((n, len(taps_y), len(taps_x)))
    for kx in range(kernel_size[1]):
        ox = np.flatnonzero(taps_x[:, kx])
        total[:, :, ox] += lines[:, :, ox * stride[1] - padding[1] + kx]
    if mode == KMode.PLAIN:
        total /= kernel_size[0] * kernel_size[1]
    else:
        total /= np.maximum(np.outer(taps_y.sum(1), taps_x.sum(1)), 1)  # no tap inside: K = 0
    return total.astype(np.float32)[:, None]


def input_scale_rows(x: np.ndarray, threads: int | None = None) -> np.ndarray:
    """Mean |x| of each row of x (N, I): float32 (N, 1), summed as in `_channel_means`."""
    return _channel_means(x[:, :, None]).astype(np.float32)


def _channel_means(x: np.ndarray) -> np.ndarray:
    """Mean |x| over the channels of x (N, C, ...), float64: channel c goes to sum c % 16, then halves are added."""
    n, channels, *size = x.shape
    sums = np.zeros((PARTIAL_SUMS, n, *size))
    for c in range(channels):
        sums[c % PARTIAL_SUMS] += np.abs(x[:, c])
    while len(sums) > 1:
        half = len(sums) // 2
        sums = sums[:half] + sums[half:]
    return sums[0] / channels
