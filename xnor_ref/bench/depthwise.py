"""Speed of real 3x3 convolutions with few channels per group, compared with their limits.

Depthwise convolutions have one channel per group. They move almost as many bytes as they multiply numbers.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from xnor_ref.bench.limits import SMALLEST
from xnor_ref.bench.measuring import roof
from xnor_ref.bench.measuring.timing import FULL, Pace, measure
from xnor_ref.errors import EquivalenceError
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.basics.memory import empty
from xnor_ref.kernels.ops import float_ops
from xnor_ref.kernels.training.convolution import GroupedConvolution
from xnor_ref.kernels.vectors import grouped

# Channels, pixels per side, stride, channels per group
LAYERS = tuple((c, size, stride, 1) for stride in (1, 2) for c, size in ((64, 56), (128, 28), (256, 14), (512, 7)))
LAYERS += ((128, 28, 1, 2), (128, 28, 1, 4), (128, 28, 1, 8), (256, 14, 1, 8), (128, 28, 2, 4))


def measure_depthwise(batch: int = 1, threads: int = 1, pace: Pace = FULL) -> Iterator[dict[str, Any]]:
    """Measure `LAYERS`, channels innermost, forward and backward.

    Yields
    ------
    dict of JSON values
        "ours": seconds of "forward" (with bias, scale and shift), "input gradient", "weight gradient" and "NCHW" (a
        call of `float_ops.conv2d`); "bytes" read and written forward; "limit", the larger of two times in seconds: the
        roof of float32, or reading an array of this size ("bound" says which); "over_limit", forward divided by it;
        "of_memory", bytes per second divided by those that can be read from main memory.

    Raises
    ------
    EquivalenceError
        The two layouts give different results.
    """
    roof.require_compiler()
    main = roof.memory_roof(threads=threads)
    for channels, size, stride, own in LAYERS:
        rng = np.random.default_rng(0)
        weight = rng.standard_normal((channels, own, 3, 3), np.float32)
        window, groups = Window.of(3, stride, 1), channels // own
        conv = grouped.planned(weight, groups, (size, size), window)
        x, y, dy = empty((batch, size, size, channels)), *(empty((batch, *conv.out_shape)) for _ in range(2))
        x[...], dy[...] = rng.standard_normal(x.shape, np.float32), rng.standard_normal(y.shape, np.float32)
        planes, forward = np.ascontiguousarray(np.moveaxis(x, -1, 1)), conv.bind(x, y)
        forward(batch, threads)
        in_planes = partial(float_ops.conv2d, planes, weight, None, window, groups, threads)
        if not np.array_equal(np.moveaxis(in_planes(), 1, -1), y):
            raise EquivalenceError(f"bench: the layouts give different results for {channels}@{size}x{size}")
        training = GroupedConvolution(weight.shape, (size, size), window, groups)
        loads = {
            "float32": roof.float_roof(threads),
            "memory": roof.memory_roof(max(SMALLEST, x.nbytes + y.nbytes) / 1e6, threads),
            "main memory": main,
        }
        ours = {
            "forward": partial(forward, batch, threads),
            "input gradient": partial(training.input_gradient, dy, weight, threads),
            "weight gradient": partial(training.weight_gradient, x, dy, threads),
            "NCHW": in_planes,
        }
        timings = measure({**{name: load.run for name, load in loads.items()}, **ours}, pace, threads)
        rates = {name: load.work / timings[name].seconds for name, load in loads.items()}
        work = {"float32": 9 * own * y.size, "memory": x.nbytes + y.nbytes}
        takes = {name: amount / rates[name] for name, amount in work.items()}
        bound = max(takes, key=takes.__getitem__)
        seconds = {name: timings[name].seconds for name in ours}
        yield {
            "layer": f"{channels}@{size}x{size} 3x3" + f"/{stride}" * (stride > 1) + f" g{groups}" * (own > 1),
            "batch": batch,
            "threads": threads,
            "macs": work["float32"],
            "bytes": work["memory"],
            "ours": seconds,
            "rates": rates,
            "limit": takes[bound],
            "bound": bound,
            "over_limit": seconds["forward"] / takes[bound],
            "of_memory": work["memory"] / seconds["forward"] / rates["main memory"],
            "timings": {name: timing.to_dict() for name, timing in timings.items()},
        }
