"""The definition of binary layers in float64, as short as possible. It shares no code with any kernel.

Signs are read from the bits of a number, so they are right even if the processor flushes subnormal numbers to zero.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

UNSIGNED: dict[int, type[np.unsignedinteger]] = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def signs(x: np.ndarray, zero: float | str = 1, flush: bool = False) -> np.ndarray:
    """Return signs as +1.0 and -1.0 in float64.

    A zero gets the value `zero`. With "sign bit", it gets -1.0 if its sign bit is set. With `flush`, subnormal numbers
    count as zeros of their sign.
    """
    if x.dtype.kind != "f":
        out, is_zero = np.where(x < 0, -1.0, 1.0), x == 0
    else:
        word = UNSIGNED[x.dtype.itemsize]
        x = np.asarray(x, x.dtype.newbyteorder("="), "C")
        size = x.view(word).reshape(x.shape) << word(1)  # the bits without the sign bit
        out = np.where(np.signbit(x), -1.0, 1.0)
        is_zero = size < np.array(np.finfo(x.dtype).tiny, x.dtype).view(word) << word(1) if flush else size == 0
    if zero != "sign bit":
        out[is_zero] = zero
    return out


def sides(padding) -> list[tuple[int, int]]:
    """Return two pairs ((top, bottom), (left, right)) from a pair of ints or two pairs."""
    return [(p, p) if isinstance(p, int) else tuple(p) for p in padding]


def same_padding(size, kernel, stride, dilation=(1, 1)) -> tuple[tuple[int, int], ...]:
    """Return padding by TensorFlow's rule: ceil(size / stride) windows, with an odd pixel at the end."""
    totals = [max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n) for n, k, s, d in zip(size, kernel, stride, dilation)]
    return tuple((total // 2, total - total // 2) for total in totals)


def convolve(x: np.ndarray, weight: np.ndarray, stride, padding, border: float, dilation=(1, 1)) -> np.ndarray:
    """Cross-correlate x (N, C, H, W), padded with `border`, with weight (O, C, KH, KW), in float64."""
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *sides(padding)], constant_values=border)
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:])]
    windows = sliding_window_view(x, spans, axis=(2, 3))[
        :, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]
    ]
    out = np.tensordot(windows, weight.astype(np.float64), axes=((1, 4, 5), (1, 2, 3)))  # (N, OH, OW, O)
    return out.transpose(0, 3, 1, 2)


def grouped(x: np.ndarray, weight: np.ndarray, stride, padding, border, dilation=(1, 1), groups: int = 1):
    """Cross-correlate each group of channels with its own filters."""
    parts = zip(np.split(x, groups, axis=1), np.split(weight, groups))
    return np.concatenate([convolve(*part, stride, padding, border, dilation) for part in parts], axis=1)


def sign_convolution(
    x: np.ndarray, weight: np.ndarray, stride, padding, pad_value: int, dilation=(1, 1), groups: int = 1
) -> np.ndarray:
    """Return Z, the convolution of signs. Every sum is an integer below 2**53, so float64 is exact."""
    z = grouped(signs(x), signs(weight), stride, padding, float(pad_value), dilation, groups)
    return z.astype(np.int64)


def weight_scale(weight: np.ndarray) -> np.ndarray:
    """Return alpha (O,), the mean of |W| of each filter (Rastegari et al. 2016, eq. 6)."""
    return np.abs(weight.reshape(len(weight), -1).astype(np.float64)).mean(axis=1)


def input_scale(x: np.ndarray, kernel, stride, padding, mode: str, dilation=(1, 1), groups: int = 1) -> np.ndarray:
    """Return K in float64, (N, groups, OH, OW): the mean of |x| over the window (eq. 11).

    With `mode` "plain", taps outside the image count as zeros. With "valid", they are left out of the mean.
    """
    box = np.ones((1, 1, *kernel))
    maps = []
    for part in np.split(np.abs(x.astype(np.float64)), groups, axis=1):
        mean = part.mean(axis=1, keepdims=True)
        total = convolve(mean, box, stride, padding, 0.0, dilation)
        taps = convolve(np.ones_like(mean), box, stride, padding, 0.0, dilation)
        maps.append(total / (box.size if mode == "plain" else np.maximum(taps, 1.0)))
    return np.concatenate(maps, axis=1)


def words(positive: np.ndarray) -> list[int]:
    """Return the words of a vector of booleans as Python integers."""
    value = sum(1 << i for i, bit in enumerate(positive) if bit)
    return [(value >> start) & (2**64 - 1) for start in range(0, len(positive), 64)]
