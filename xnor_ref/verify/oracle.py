"""What the kernels must compute, in float64 and in the fewest words; shares no code with them."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def signs(x: np.ndarray) -> np.ndarray:
    """+1.0 and -1.0; both zeros are +1."""
    return np.where(x < 0, -1.0, 1.0)


def convolve(x: np.ndarray, weight: np.ndarray, stride, padding, border: float, dilation=(1, 1)) -> np.ndarray:
    """Cross-correlation of x (N, C, H, W), surrounded by `border`, with weight (O, C, KH, KW), in float64."""
    pads = [(p, p) if isinstance(p, int) else p for p in padding]
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *pads], constant_values=border)
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:])]
    windows = sliding_window_view(x, spans, axis=(2, 3))[
        :, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]
    ]
    out = np.tensordot(windows, weight.astype(np.float64), axes=((1, 4, 5), (1, 2, 3)))  # (N, OH, OW, O)
    return out.transpose(0, 3, 1, 2)


def sign_convolution(
    x: np.ndarray, weight: np.ndarray, stride, padding, pad_value: int, dilation=(1, 1), groups: int = 1
) -> np.ndarray:
    """Z, the convolution of signs. Every sum is an integer below 2**53, so float64 is exact."""
    parts = zip(np.split(signs(x), groups, axis=1), np.split(signs(weight), groups))
    z = [convolve(*part, stride, padding, float(pad_value), dilation) for part in parts]
    return np.concatenate(z, axis=1).astype(np.int64)


def input_scale(x: np.ndarray, kernel, stride, padding, mode: str, dilation=(1, 1), groups: int = 1) -> np.ndarray:
    """K in float64, (N, groups, OH, OW)."""
    box = np.ones((1, 1, *kernel))
    maps = []
    for part in np.split(np.abs(x.astype(np.float64)), groups, axis=1):
        mean = part.mean(axis=1, keepdims=True)
        total = convolve(mean, box, stride, padding, 0.0, dilation)
        taps = convolve(np.ones_like(mean), box, stride, padding, 0.0, dilation)
        maps.append(total / (box.size if mode == "plain" else np.maximum(taps, 1.0)))
    return np.concatenate(maps, axis=1)


def words(positive: np.ndarray) -> list[int]:
    """Words of a vector of booleans, as Python integers."""
    value = sum(1 << i for i, bit in enumerate(positive) if bit)
    return [(value >> start) & (2**64 - 1) for start in range(0, len(positive), 64)]


def spanning_weight(distance: np.ndarray) -> int:
    """The weight of a minimum spanning tree: edges by rising distance, those that join two parts (Kruskal 1956)."""
    part = np.arange(len(distance))
    first, second = np.triu_indices(len(distance), 1)
    total = 0
    for edge in np.argsort(distance[first, second], kind="stable"):
        a, b = part[first[edge]], part[second[edge]]
        if a != b:
            part[part == b] = a
            total += int(distance[first[edge], second[edge]])
    return total
