"""A fixed set of edge cases for golden vectors. It is small, and the same for the same seed.

Each column of a table (channels, kernels, kinds of data, ...) holds every value equally often, in its own order. So a
few dozen rows cover every value, and many pairs.
"""

import random
from collections.abc import Callable, Sequence
from itertools import product
from math import ceil
from typing import Any

from xnor_ref.conformance.basics.arrays import Case, Data
from xnor_ref.conformance.basics.restrictions import Restrictions
from xnor_ref.conformance.trying.cases import EXTREMES, kinds

MOST = 512  # most elements of an array, if the restrictions allow
LONG = (65_600, 33_024)  # terms of sums too large for unsigned and signed 16 bits
LONG_BYTES = 275_000  # bytes of the arrays of the longest convolution
_Table = Callable[..., list[Any]]


def cases(role: str, limits: Restrictions, seed: int, scaled: bool = False) -> list[Case]:
    """Return the cases of a role within the restrictions."""
    rng = random.Random(f"{seed} {role}")

    def column(values: Sequence[Any], rows: int) -> list[Any]:
        turns = (sorted(values, key=lambda _: rng.random()) for _ in range(ceil(rows / len(values))))
        return [value for turn in turns for value in turn][:rows]

    return _MAKERS[role](limits, column, scaled)


def _pairs_of_kinds(limits: Restrictions, scaled: bool, column: _Table, rows: int) -> list[tuple[str, str]]:
    some = kinds(limits, scaled)
    return [*EXTREMES, *zip(*(column(some, rows - len(EXTREMES)) for _ in range(2)))]


def _fewest(counts: Sequence[int], wanted: int, each: int) -> int:
    """Return the wanted count, else the largest smaller one with few elements (`each` per count), else the smallest."""
    return max((n for n in counts if n <= wanted and n * each <= MOST), default=min(counts))


def _conv2d(limits: Restrictions, column: _Table, scaled: bool, rows: int = 26) -> list[Case]:
    of_kinds = _pairs_of_kinds(limits, scaled, column, rows)
    table = zip(
        column(limits.channel_counts, rows),
        column(limits.out_channel_counts, rows),
        column(limits.batches, rows),
        column(list(dict.fromkeys(limits.kernel_pairs)), rows),
        column(limits.stride_pairs, rows),
        column(limits.padding_pairs, rows),
        column(limits.dilation_pairs, rows),
        column(limits.group_counts, rows),
        column(limits.asked_pad_values, rows),
        column(list(product(range(3), repeat=2)), rows),
        *(column(values, rows) for values in limits.options.values()),
    )
    found = []
    for row, (channels, outputs, batch, kernel, stride, padding, dilation, groups, value, more, *options) in enumerate(
        table
    ):
        if channels % groups:
            channels = next((n for n in limits.channel_counts if n % groups == 0), groups)
        few = [k for k in limits.kernel_pairs if k[0] * k[1] * channels <= 2 * MOST]
        kernel = kernel if kernel in few else min(limits.kernel_pairs)
        counts = [n for n in limits.out_channel_counts if n % groups == 0] or [groups]
        outputs = _fewest(counts, outputs, channels // groups * kernel[0] * kernel[1])
        image = _image(limits, kernel, padding, dilation, more)
        batch = _fewest(limits.batches, batch, channels * image[0] * image[1])
        keywords: dict[str, Any] = {} if limits.dilations is None else {"dilation": dilation}
        keywords |= {} if limits.groups is None else {"groups": groups}
        data = {
            "x": Data((batch, channels, *image), of_kinds[row][0], seed=2 * row),
            "weight": Data((outputs, channels // groups, *kernel), of_kinds[row][1], seed=2 * row + 1),
        }
        settings = {"stride": stride, "padding": padding, "pad_value": value}
        found.append(Case("conv2d", data, settings, keywords | dict(zip(limits.options, options))))
    return [*found, *_longest_conv2d(limits, found)]


def _image(limits: Restrictions, kernel, padding, dilation, more: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest image that holds a window, or one up to two pixels larger along each axis."""
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    pads = [0, 0] if isinstance(padding, str) else [2 * p if isinstance(p, int) else sum(p) for p in padding]
    least = [1 if isinstance(padding, str) else max(1, span - pad) for span, pad in zip(spans, pads)]
    if limits.image_covers_kernel:
        least = spans
    size = [max(low, min(low + extra, limits.largest_image)) for low, extra in zip(least, more)]
    return (max(size),) * 2 if limits.square else (size[0], size[1])


def _longest_conv2d(limits: Restrictions, like: list[Case]) -> list[Case]:
    """Return the longest sum with arrays that are not too large, with all signs equal."""
    kernels = {(5, 5)} if limits.kernels is None else set(limits.kernel_pairs)
    kernel = max(kernels, key=lambda k: k[0] * k[1])
    found = like[0]
    padding = max(limits.padding_pairs, key=lambda p: 0 if isinstance(p, str) else sum(map(_sum, p)))
    dilation = limits.dilation_pairs[0]
    image = _image(limits, kernel, padding, dilation, (0, 0))
    value = max(limits.asked_pad_values, key=abs)
    if not value and image < kernel:  # most of the window would lie outside the image
        padding = min(limits.padding_pairs, key=lambda p: 0 if isinstance(p, str) else sum(map(_sum, p)))
        image = _image(limits, kernel, padding, dilation, (0, 0))
    taps, pixels = kernel[0] * kernel[1], image[0] * image[1]
    groups = min(limits.group_counts)
    channels = _long(limits, taps, lambda n: 4 * n // taps * (taps * min(limits.out_channel_counts) + pixels))
    batch, outputs = min(limits.batches), min(n for n in limits.out_channel_counts if n % groups == 0)
    data = {
        "x": Data((batch, channels, *image), "plus" if value >= 0 else "minus"),
        "weight": Data((outputs, channels // groups, *kernel), "plus"),
    }
    settings = {"stride": min(limits.stride_pairs), "padding": padding, "pad_value": value}
    return [Case("conv2d", data, settings, found.keywords | ({} if limits.groups is None else {"groups": groups}))]


def _sum(pad: Any) -> int:
    return 2 * pad if isinstance(pad, int) else sum(pad)


def _long(limits: Restrictions, taps: int, size: Callable[[int], int]) -> int:
    """Return the channels of the longest sum with arrays within bounds."""
    for n in (limits.largest_dot, *LONG):
        channels = min(n, limits.largest_dot) // taps
        if limits.channels is not None and not limits.takes_channels(channels):
            near = (c for c in range(channels, max(0, channels - 4096), -1) if limits.takes_channels(c))
            channels = next(near, max(limits.channel_counts))
        if size(channels * taps) <= LONG_BYTES:
            return channels
    return max(limits.channel_counts)


def _linear(limits: Restrictions, column: _Table, scaled: bool, rows: int = 16) -> list[Case]:
    of_kinds = _pairs_of_kinds(limits, scaled, column, rows)
    table = zip(
        column(limits.channel_counts, rows), column(limits.out_channel_counts, rows), column(limits.batches, rows)
    )
    found = []
    for row, (n, outputs, batch) in enumerate(table):
        filters = _fewest(limits.out_channel_counts, outputs, n), n
        of_x, of_weight = of_kinds[row]
        data = {
            "x": Data((batch, n), of_x, seed=2 * row),
            "weight": Data(filters, of_weight, seed=2 * row + 1),
        }
        found.append(Case("linear", data))
    return found


def _rows(role: str, signs_only: bool) -> Callable[..., list[Case]]:
    def make(limits: Restrictions, column: _Table, scaled: bool, rows: int = 20) -> list[Case]:
        of_x = [k for k in kinds(limits) if not signs_only or k in ("plus", "minus", "signs", "normal")]
        table = zip(column(limits.channel_counts, rows), column(limits.batches, rows), column(of_x, rows))
        return [
            Case(role, {"x": Data((batch, n), kind, seed=row)}, {"n": n} if role == "unpack" else {})
            for row, (n, batch, kind) in enumerate(table)
        ]

    return make


def _dots(limits: Restrictions, column: _Table, scaled: bool, rows: int = 20) -> list[Case]:
    few = [kind for kind in ("signs", "normal") if kind in kinds(limits)]
    of_kinds = [*EXTREMES, *column(list(product(few, repeat=2)), rows - len(EXTREMES))]
    lengths = [*column(limits.channel_counts, rows), _long(limits, 1, lambda n: n // 4)]
    return [
        Case("dot", {"a": Data((n,), a, seed=2 * row), "b": Data((n,), b, seed=2 * row + 1)}, {"n": n})
        for row, (n, (a, b)) in enumerate(zip(lengths, [*of_kinds, ("plus", "plus")]))
    ]


def _weights(role: str) -> Callable[..., list[Case]]:
    def make(limits: Restrictions, column: _Table, scaled: bool, rows: int = 14) -> list[Case]:
        return [Case(role, {"weight": case.data["weight"]}) for case in _conv2d(limits, column, True, rows)[:rows]]

    return make


def _scale_maps(limits: Restrictions, column: _Table, scaled: bool, rows: int = 14) -> list[Case]:
    found = []
    for case in _conv2d(limits, column, True, rows)[:rows]:
        window = {"kernel": case.data["weight"].shape[2:]} | {
            name: case.settings[name] for name in ("stride", "padding")
        }
        found.append(Case("scale_map", {"x": case.data["x"]}, window, case.keywords))
    return found


def _gradients(limits: Restrictions, column: _Table, scaled: bool, rows: int = 6) -> list[Case]:
    of_x = [k for k in kinds(limits, True) if k in ("plus", "minus", "signs", "normal")]
    table = zip(column(limits.channel_counts, rows), column(limits.batches, rows), column(of_x, rows))
    return [
        Case("ste", {"x": Data((batch, n), kind, seed=2 * row), "dy": Data((batch, n), "normal", seed=2 * row + 1)})
        for row, (n, batch, kind) in enumerate(table)
    ]


_MAKERS: dict[str, Callable[..., list[Case]]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "pack": _rows("pack", False),
    "unpack": _rows("unpack", True),
    "dot": _dots,
    "alpha": _weights("alpha"),
    "scale_map": _scale_maps,
    "binarize": _weights("binarize"),
    "ste": _gradients,
}
ROLES = tuple(_MAKERS)
