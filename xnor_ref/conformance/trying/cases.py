"""Strategies that draw cases inside restrictions. Uniformly drawn sizes and normal data miss the faults that matter.

So channels are counts around the borders of words, data are often saturated, and zeros, zeros with a sign and subnormal
numbers are kinds of their own, lest one be blamed for another.
"""

from itertools import islice, product
from typing import Any

from hypothesis import strategies as st

from xnor_ref.conformance.basics.arrays import KINDS, ZEROS, Case, Data
from xnor_ref.conformance.basics.restrictions import Restrictions
from xnor_ref.errors import InputError

EXTREMES = (("plus", "minus"), ("minus", "plus"), ("plus", "plus"), ("minus", "minus"))  # the largest counts and sums
MOST_TERMS = 4096  # of one sum, but for the longest


def kinds(limits: Restrictions, scaled: bool = False) -> tuple[str, ...]:
    """Kinds of data that the restrictions allow, the simplest first; products of the largest numbers overflow."""
    left_out = {
        *(("extreme",) if scaled else ()),
        *(ZEROS if limits.zero_free else ()),
        *(("subnormal",) if limits.subnormal_free else ()),
    }
    found = KINDS[:3] if limits.signs_only else KINDS
    return tuple(kind for kind in found if kind not in left_out)


def pairs_of_kinds(limits: Restrictions, scaled: bool = False) -> st.SearchStrategy[tuple[str, str]]:
    """Kinds of two operands; a fourth of the pairs make the sums extreme."""
    pairs = list(product(kinds(limits, scaled), repeat=2))
    return st.sampled_from([EXTREMES[2], *pairs, *EXTREMES * (len(pairs) // 12)])


def _keywords(draw, limits: Restrictions, given: dict[str, Any] | None = None) -> dict[str, Any]:
    return (given or {}) | {name: draw(st.sampled_from(values)) for name, values in limits.options.items()}


def _memory(draw, limits: Restrictions) -> str:
    return limits.memory[0] if len(limits.memory) == 1 else draw(st.sampled_from(limits.memory))


@st.composite
def windows(draw, limits: Restrictions, most: int = 10**9) -> tuple[Any, ...]:
    """(image, kernel, stride, padding, dilation), such that a window fits; kernels of at most `most` taps."""
    kernels = [k for k in limits.kernel_pairs if k[0] * k[1] <= most] or [min(limits.kernel_pairs)]
    kernel, stride = draw(st.sampled_from(kernels)), draw(st.sampled_from(limits.stride_pairs))
    padding, dilation = draw(st.sampled_from(limits.padding_pairs)), draw(st.sampled_from(limits.dilation_pairs))
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    if isinstance(padding, str):
        least = [1, 1]
    else:
        least = [max(1, span - (2 * p if isinstance(p, int) else sum(p))) for span, p in zip(spans, padding)]
    if limits.image_covers_kernel:
        least = [max(both) for both in zip(spans, least)]
    if limits.square:
        least = [max(least)] * 2
    image = [draw(st.integers(low, max(low, limits.largest_image))) for low in (least[:1] if limits.square else least)]
    return tuple(image * 2 if limits.square else image), kernel, stride, padding, dilation


@st.composite
def conv2d(draw, limits: Restrictions, scaled: bool = False) -> Case:
    """Convolutions of small images."""
    groups = draw(st.sampled_from(limits.group_counts)) if limits.groups is not None else 1
    counts = [n for n in limits.channel_counts if n % groups == 0] or [groups]
    channels = draw(st.sampled_from(counts))
    image, kernel, stride, padding, dilation = draw(windows(limits, max(1, limits.largest_dot // channels)))
    outputs = [n for n in limits.out_channel_counts if n % groups == 0] or [groups]
    of_x, of_weight = draw(pairs_of_kinds(limits, scaled))
    seed, memory = draw(st.integers(0, 2**16)), _memory(draw, limits)
    shape = draw(st.sampled_from(limits.batches)), channels, *image
    filters = draw(st.sampled_from(outputs)), channels // groups, *kernel
    keywords: dict[str, Any] = {"dilation": dilation} if limits.dilations is not None else {}
    keywords |= {"groups": groups} if limits.groups is not None else {}
    return Case(
        "conv2d",
        {"x": Data(shape, of_x, memory, seed), "weight": Data(filters, of_weight, memory, seed + 1)},
        {"stride": stride, "padding": padding, "pad_value": draw(st.sampled_from(limits.asked_pad_values))},
        _keywords(draw, limits, keywords),
    )


@st.composite
def longest_conv2d(draw, limits: Restrictions, scaled: bool = False) -> Case:
    """As many terms as a sum may have: by default 3072 * 5 * 5, more than 16 bits hold."""
    square = limits.kernels is None and limits.largest_dot >= 25
    kernel = (5, 5) if square else max(limits.kernel_pairs, key=lambda k: k[0] * k[1])
    counts = limits.channel_counts
    channels = limits.largest_dot // (kernel[0] * kernel[1])
    if limits.channels is not None:
        near = range(channels, max(0, channels - 4096), -1)
        channels = next((n for n in near if _among(n, limits)), max(counts))
    kinds_of_two = draw(st.sampled_from((*EXTREMES, ("signs", "signs") if limits.signs_only else ("normal", "normal"))))
    padding = draw(st.sampled_from(limits.padding_pairs[:5]))
    stride, dilation = limits.stride_pairs[0], limits.dilation_pairs[0]
    image = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation))
    image = (max(image),) * 2 if limits.square else image
    keywords: dict[str, Any] = {"dilation": dilation} if limits.dilations is not None else {}
    keywords |= {"groups": 1} if limits.groups is not None else {}
    outputs = min((n for n in limits.out_channel_counts if n > 1), default=limits.out_channel_counts[0])
    return Case(
        "conv2d",
        {
            "x": Data((limits.batches[0], channels, *image), kinds_of_two[0], "plain", 1),
            "weight": Data((outputs, channels, *kernel), kinds_of_two[1], "plain", 2),
        },
        {"stride": stride, "padding": padding, "pad_value": draw(st.sampled_from(limits.asked_pad_values))},
        _keywords(draw, limits, keywords),
    )


def _among(n: int, limits: Restrictions) -> bool:
    return n in limits.channels if hasattr(limits.channels, "__contains__") else n == limits.channels


def long_lengths(limits: Restrictions) -> tuple[int, ...]:
    """The largest lengths of a vector."""
    top = limits.largest_dot
    if limits.channels is None:
        return tuple(sorted({top, max(1, top - 1)}))
    fitting = (n for n in range(top, max(0, top - 4096), -1) if _among(n, limits))
    return tuple(islice(fitting, 2)) or (max(limits.channel_counts),)


@st.composite
def linear(draw, limits: Restrictions, scaled: bool = False, lengths: tuple[int, ...] = ()) -> Case:
    features = draw(st.sampled_from(lengths or limits.channel_counts))
    of_x, of_weight = draw(pairs_of_kinds(limits, scaled))
    seed, memory = draw(st.integers(0, 2**16)), _memory(draw, limits)
    outputs = limits.out_channel_counts[:3] if lengths else limits.out_channel_counts
    return Case(
        "linear",
        {
            "x": Data((draw(st.sampled_from(limits.batches)), features), of_x, memory, seed),
            "weight": Data((draw(st.sampled_from(outputs)), features), of_weight, memory, seed + 1),
        },
        {},
        _keywords(draw, limits),
    )


@st.composite
def rows(draw, role: str, limits: Restrictions, zero_free: bool = False) -> Case:
    """Rows to pack, or to pack and unpack."""
    n = draw(st.sampled_from(limits.channel_counts))
    kind = draw(st.sampled_from([k for k in kinds(limits) if not zero_free or k not in (*ZEROS, "subnormal")]))
    shape = draw(st.sampled_from(limits.batches)), n
    data = {"x": Data(shape, kind, _memory(draw, limits), draw(st.integers(0, 2**16)))}
    return Case(role, data, {"n": n} if role == "unpack" else {})


@st.composite
def dots(draw, limits: Restrictions, lengths: tuple[int, ...] = ()) -> Case:
    n = draw(st.sampled_from(lengths or limits.channel_counts))
    few = [kind for kind in ("plus", "minus", "signs", "normal") if kind in kinds(limits)]
    of_a, of_b = draw(st.sampled_from([*product(few, repeat=2), *EXTREMES]))
    seed = draw(st.integers(0, 2**16))
    return Case("dot", {"a": Data((n,), of_a, seed=seed), "b": Data((n,), of_b, seed=seed + 1)}, {"n": n})


@st.composite
def weights(draw, role: str, limits: Restrictions, longest: bool = False) -> Case:
    """Weights of a convolution, alone."""
    channels = draw(st.sampled_from(long_lengths(limits)[:1] if longest else limits.channel_counts))
    few = [k for k in limits.kernel_pairs if k[0] * k[1] * channels <= limits.largest_dot] or [min(limits.kernel_pairs)]
    kernel = draw(st.sampled_from(few))
    outputs = draw(st.sampled_from(limits.out_channel_counts[:2] if longest else limits.out_channel_counts))
    kind = "normal" if longest and not limits.signs_only else draw(st.sampled_from(kinds(limits, scaled=True)))
    return Case(role, {"weight": Data((outputs, channels, *kernel), kind, seed=draw(st.integers(0, 2**16)))})


@st.composite
def scale_maps(draw, limits: Restrictions) -> Case:
    groups = draw(st.sampled_from(limits.group_counts)) if limits.groups is not None else 1
    channels = draw(st.sampled_from([n for n in limits.channel_counts if n % groups == 0] or [groups]))
    image, kernel, stride, padding, dilation = draw(windows(limits))
    kind = draw(st.sampled_from(kinds(limits, scaled=True)))
    shape = draw(st.sampled_from(limits.batches)), channels, *image
    keywords: dict[str, Any] = {"dilation": dilation} if limits.dilations is not None else {}
    keywords |= {"groups": groups} if limits.groups is not None else {}
    return Case(
        "scale_map",
        {"x": Data(shape, kind, _memory(draw, limits), draw(st.integers(0, 2**16)))},
        {"kernel": kernel, "stride": stride, "padding": padding},
        _keywords(draw, limits, keywords),
    )


@st.composite
def gradients(draw, limits: Restrictions) -> Case:
    shape = draw(st.sampled_from(limits.batches)), draw(st.sampled_from(limits.channel_counts))
    kind = draw(st.sampled_from([k for k in kinds(limits, scaled=True) if k not in ("subnormal", *ZEROS)]))
    seed = draw(st.integers(0, 2**16))
    return Case("ste", {"x": Data(shape, kind, seed=seed), "dy": Data(shape, "normal", seed=seed + 1)})


@st.composite
def layers(draw, limits: Restrictions, layer: Any, scaled: bool = False) -> Case:
    """Inputs of a layer that has its own weight."""
    shape: tuple[int, ...] = (draw(st.sampled_from(limits.batches)),)
    if layer.weight.ndim == 2:
        shape += (layer.weight.shape[1],)
    else:
        padding = ((0, 0), (0, 0)) if isinstance(layer.padding, str) else layer.padding
        spans = [d * (k - 1) + 1 for k, d in zip(layer.weight.shape[2:], layer.dilation)]
        least = [max(1, s - (2 * p if isinstance(p, int) else sum(p))) for s, p in zip(spans, padding)]
        image = [draw(st.integers(low, max(low, limits.largest_image))) for low in least]
        shape += (layer.weight.shape[1] * layer.groups, *((max(image),) * 2 if limits.square else image))
    kind = draw(st.sampled_from(kinds(limits, scaled)))
    return Case("layer", {"x": Data(shape, kind, seed=draw(st.integers(0, 2**16)))}, {}, _keywords(draw, limits))


def check_not_empty(limits: Restrictions) -> None:
    """Raise InputError where restrictions leave nothing to draw."""
    for name in ("channel_counts", "out_channel_counts", "kernel_pairs", "stride_pairs", "padding_pairs", "batches"):
        if not getattr(limits, name):
            raise InputError(f"Kit: the restrictions leave no {name.replace('_', ' ')}")
