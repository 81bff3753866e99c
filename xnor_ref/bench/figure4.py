"""Figure 4 of Rastegari et al. 2016: the memory of networks, and speed-up against channels and filter size.

The paper counts c N_W N_I multiply-accumulates per filter in float. In binary it counts c N_W N_I / 64 word operations
plus N_I products with K (section 4.1): S = 64 c N_W / (c N_W + 64). It does not count computing A and K, which o
filters share: S' = c N_W / (c N_W / 64 + 1 + (c + N_W) / o). Both are ratios of operations. The ratio of times depends
on how fast the machine computes in float, so the measured curves name their baseline.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from xnor_ref.bench.compare import measure_layers
from xnor_ref.bench.measuring.layers import PAPER, Conv
from xnor_ref.bench.measuring.timing import FULL, Pace

CHANNELS = (1, 2, 3, 8, 16, 32, 64, 128, 256, 512, 1024)  # 3x3 filters, figure 4(b)
FILTERS = (1, 2, 3, 5, 7, 11, 20)  # 256 channels, figure 4(c)


def theory(channels: int, filter_size: int) -> float:
    """Return S = 64 c N_W / (c N_W + 64), the paper's speed-up for one filter."""
    n = channels * filter_size**2
    return 64 * n / (n + 64)


def theory_with_scales(channels: int, filter_size: int, out_channels: int) -> float:
    """Return S'. It counts A and K, c and N_W additions per position, which all filters share."""
    n = channels * filter_size**2
    return n / (n / 64 + 1 + (channels + filter_size**2) / out_channels)


def points(pace: Pace = FULL) -> tuple[list[Conv], list[Conv]]:
    """Return the layers of the curves over channels and filter sizes: 14x14 pixels, 256 filters, as in the paper."""
    channels, filters = ((64, 256), (1, 3)) if pace.quick else (CHANNELS, FILTERS)
    return (
        [Conv(c, PAPER.size, 3, PAPER.out_channels) for c in channels],
        [Conv(PAPER.channels, PAPER.size, k, PAPER.out_channels) for k in filters],
    )


def measure_figure4(names: tuple[str, ...], pace: Pace = FULL, threads: int = 1) -> Iterator[dict[str, Any]]:
    """Yield each point of figure 4(b) and (c): theory, measured speed-ups, and bits of the weights.

    Yields
    ------
    dict of JSON values
        "curve" ("channels" or "filter"), the layer; "theory", "theory_with_scales"; "measured", for each baseline its
        time divided by ours, for the "whole" operation in the same layout and for the "kernel" alone (the paper's
        "excluding memory allocation and memory access"); bits of the weights as float32 and as signs; "absent", the
        baselines that could not be measured.
    """
    for curve, layers in zip(("channels", "filter"), points(pace)):
        for layer, row in zip(layers, measure_layers(layers, 1, threads, names, pace)):
            weights = math.prod(layer.weight_shape)
            yield {
                "curve": curve,
                "layer": layer.name,
                "channels": layer.channels,
                "filter": layer.kernel,
                "theory": theory(layer.channels, layer.kernel),
                "theory_with_scales": theory_with_scales(layer.channels, layer.kernel, layer.out_channels),
                "percent_of_roof": row["percent_of_roof"],
                "measured": {
                    entry["baseline"]: {
                        "whole": entry["ratio"],
                        "kernel": entry["seconds"] / row["ours"]["kernel"],
                        "seconds": entry["seconds"],
                    }
                    for entry in row["baselines"]
                },
                "ours": row["ours"],
                "float32_bits": 32 * weights,
                "binary_bits": weights,
                "absent": row["absent"],
            }


# --- memory, figure 4(a) ---------------------------------------------------------------------------------------


def memory() -> list[dict[str, Any]]:
    """Return the bytes of three networks' parameters: as double, float32, bits, and with real first and last layers.

    The paper compares double with bits, a factor of 64. For float32 it is 32, and less if some layers stay real.
    """
    rows = []
    for name, layers in (("VGG-19", _vgg19()), ("ResNet-18", _resnet18()), ("AlexNet", _alexnet())):
        sizes = [math.prod(weight) + others for weight, others in layers]
        total, real = sum(sizes), sizes[0] + sizes[-1]
        rows.append(
            {
                "network": name,
                "parameters": total,
                "double": 8 * total,
                "float32": 4 * total,
                "bits": total / 8,
                "first_and_last_real": 4 * real + (total - real) / 8,
            }
        )
    return rows


# For each layer: the shape of its weight, and the number of its other parameters.


def _alexnet() -> list[tuple[tuple[int, ...], int]]:
    """Krizhevsky et al. 2012, without groups."""
    convs = [(96, 3, 11), (256, 96, 5), (384, 256, 3), (384, 384, 3), (256, 384, 3)]
    return [((o, c, k, k), o) for o, c, k in convs] + _fully_connected(256 * 6 * 6)


def _vgg19() -> list[tuple[tuple[int, ...], int]]:
    """Simonyan and Zisserman 2015, configuration E."""
    widths = [3, 64, 64, 128, 128, *[256] * 4, *[512] * 8]
    return [((o, c, 3, 3), o) for c, o in pairwise(widths)] + _fully_connected(512 * 7 * 7)


def _fully_connected(inputs: int) -> list[tuple[tuple[int, ...], int]]:
    return [((o, i), o) for i, o in pairwise([inputs, 4096, 4096, 1000])]


def _resnet18() -> list[tuple[tuple[int, ...], int]]:
    """He et al. 2016; each convolution has two BatchNorm parameters per channel, and no bias."""
    shapes = [(64, 3, 7, 7)]
    width = 64
    for stage in (64, 128, 256, 512):
        if stage != width:
            shapes.append((stage, width, 1, 1))
        shapes += [(stage, width, 3, 3), *[(stage, stage, 3, 3)] * 3]
        width = stage
    return [(shape, 2 * shape[0]) for shape in shapes] + [((1000, 512), 1000)]
