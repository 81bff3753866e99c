"""Strategies that draw cases within restrictions. Uniform sizes and normal data would miss the important faults.

So channel counts lie around word boundaries, and data are often saturated. Zeros, signed zeros and subnormal numbers
are separate kinds of data, so that one is not blamed for another. Choices come from lists that begin with the simplest
value, so that Hypothesis shrinks towards it.
"""

from collections.abc import Iterable
from itertools import islice, product
from typing import Any

from hypothesis import strategies as st

from xnor_ref.conformance.basics.arrays import KINDS, Case, Data
from xnor_ref.conformance.basics.restrictions import Restrictions
from xnor_ref.conformance.basics.roles import Layer
from xnor_ref.errors import InputError

Cases = st.SearchStrategy[Case]
EXTREMES = (
    ("plus", "minus"),
    ("minus", "plus"),
    ("plus", "plus"),
    ("minus", "minus"),
)  # give the largest counts and sums
SEEDS = st.integers(0, 2**16)
MANY = 64 * 130  # most channels times outputs; larger cases are slow and find nothing more
FIVE = (5, 5)  # with 3,072 channels a dot product has more terms than 16 bits count


def kinds(limits: Restrictions, scaled: bool = False) -> tuple[str, ...]:
    """Return the kinds of data that the restrictions allow, simplest first.

    Products of the largest numbers overflow.
    """
    left_out = {
        *(("extreme",) if scaled else ()),
        *(("zeros",) if limits.zero_free else ()),
        *(("subnormal",) if limits.subnormal_free else ()),
    }
    found = KINDS[:3] if limits.signs_only else KINDS
    return tuple(kind for kind in found if kind not in left_out)


def pairs_of_kinds(limits: Restrictions, scaled: bool = False) -> list[tuple[str, str]]:
    """Return kinds of two operands. A sixth of them give extreme sums, and a quarter of each operand's have zeros."""
    found = kinds(limits, scaled)
    pairs = [(a, b) for a in found for b in found]
    extremes = [pair for pair in EXTREMES for _ in range(len(pairs) // 12)]
    zeros = [pair for pair in pairs for kind in pair if kind == "zeros"] * 2
    return [EXTREMES[2], *pairs, *extremes, *zeros]


def choice(values: Iterable[Any]) -> st.SearchStrategy:
    return st.sampled_from(tuple(values))


def keywords(limits: Restrictions) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy of further keywords, each with one of its values."""
    return st.fixed_dictionaries({name: choice(values) for name, values in limits.options.items()})


def counts(limits: Restrictions) -> list[tuple[int, int, int]]:
    """Return compatible (channels, outputs, groups). Each count occurs, but not many channels with many outputs."""
    least = min(limits.channel_counts), min(limits.out_channel_counts)
    found = [
        (channels, -(-outputs // groups) * groups if limits.out_channels is None else outputs, groups)
        for groups in limits.group_counts
        for channels, outputs in product(limits.channel_counts, limits.out_channel_counts)
        if channels % groups == 0 and (limits.out_channels is None or outputs % groups == 0)
        if channels * outputs <= MANY or channels == least[0] or outputs == least[1]
    ]
    if not found:
        raise InputError("Kit: no channel count can be divided by a number of groups; give channels that can")
    return found


def place(limits: Restrictions, kernel, stride, padding, dilation, extra) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Return the size of the smallest image that holds the window, plus `extra` pixels, and the window's settings."""
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    same = isinstance(padding, str)
    least = [1 if same else max(1, n - (2 * p if isinstance(p, int) else sum(p))) for n, p in zip(spans, padding)]
    if limits.image_covers_kernel:
        least = [max(both) for both in zip(spans, least)]
    if limits.square:
        least, extra = [max(least)] * 2, (extra[0], extra[0])
    image = tuple(n + e % max(1, limits.largest_image - n + 1) for n, e in zip(least, extra))
    return image, {"stride": stride, "padding": padding}


def window_choices(limits: Restrictions) -> tuple[st.SearchStrategy, ...]:
    """Return strategies of kernel, (stride, padding), dilation, and pixels above the smallest image."""
    return (
        choice(limits.kernel_pairs),
        choice(product(limits.stride_pairs, limits.padding_pairs)),
        choice(limits.dilation_pairs) if len(limits.dilation_pairs) > 1 else st.just(limits.dilation_pairs[0]),
        choice(product(range(limits.largest_image), repeat=2)),
    )


def named(limits: Restrictions, dilation: tuple[int, int], groups: int) -> dict[str, Any]:
    """Return the keywords for dilation and groups, if the function takes them."""
    given: dict[str, Any] = {} if limits.dilations is None else {"dilation": dilation}
    return given if limits.groups is None else given | {"groups": groups}


def conv2d(limits: Restrictions, scaled: bool = False) -> Cases:
    """Draw convolutions of small images."""
    small = min(limits.kernel_pairs, key=lambda k: k[0] * k[1])

    def make(drawn: tuple) -> Case:
        (channels, outputs, groups), kernel, moves, dilation, extra, (batch, pad), of, seed, memory, more = drawn
        if channels // groups * kernel[0] * kernel[1] > limits.largest_dot:
            kernel = small
        image, settings = place(limits, kernel, moves[0], moves[1], dilation, extra)
        x = Data((batch, channels, *image), of[0], memory, seed)
        weight = Data((outputs, channels // groups, *kernel), of[1], memory, seed + 1)
        settings["pad_value"] = pad
        return Case("conv2d", {"x": x, "weight": weight}, settings, named(limits, dilation, groups) | more)

    return st.tuples(
        choice(counts(limits)),
        *window_choices(limits),
        choice(product(limits.batches, limits.asked_pad_values)),
        choice(pairs_of_kinds(limits, scaled)),
        SEEDS,
        choice(limits.memory_layouts),
        keywords(limits),
    ).map(make)


def longest_conv2d(limits: Restrictions, scaled: bool = False) -> Cases:
    """Draw convolutions with the longest sums: by default 3072 * 5 * 5 terms, more than 16 bits can hold."""
    wide = limits.kernels is None and limits.largest_dot >= 25
    kernel = FIVE if wide else max(limits.kernel_pairs, key=lambda k: k[0] * k[1])
    channels = long_lengths(limits, limits.largest_dot // (kernel[0] * kernel[1]))[0]
    outputs = min((n for n in limits.out_channel_counts if n > 1), default=limits.out_channel_counts[0])
    dilation, stride = limits.dilation_pairs[0], limits.stride_pairs[0]

    def make(drawn: tuple) -> Case:
        of, padding, more = drawn
        image, settings = place(limits, kernel, stride, padding, dilation, (0, 0))
        spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
        image = tuple(max(both) for both in zip(image, [max(spans)] * 2 if limits.square else spans))
        data = {
            "x": Data((limits.batches[0], channels, *image), of[0], seed=1),
            "weight": Data((outputs, channels, *kernel), of[1], seed=2),
        }
        pad = limits.asked_pad_values[0]
        return Case("conv2d", data, settings | {"pad_value": pad}, named(limits, dilation, 1) | more)

    pads = choice(limits.padding_pairs[:2])
    return st.tuples(choice(longest_kinds(limits, scaled)), pads, keywords(limits)).map(make)


def longest_kinds(limits: Restrictions, scaled: bool = False) -> tuple[tuple[str, str], ...]:
    """Return kinds of two long operands. There are few, so that Hypothesis tries each of them."""
    if limits.signs_only:
        return (*EXTREMES, ("signs", "signs"))
    return (*EXTREMES, ("tenths", "tenths") if scaled else ("normal", "normal"))


def long_lengths(limits: Restrictions, top: int | None = None) -> tuple[int, ...]:
    """Return the two largest channel counts that the restrictions allow, up to `top`."""
    top = limits.largest_dot if top is None else top
    fitting = (n for n in range(top, max(0, top - 4096), -1) if limits.takes_channels(n))
    return tuple(islice(fitting, 2)) or (max(limits.channel_counts),)


def linear(limits: Restrictions, scaled: bool = False, longest: bool = False) -> Cases:
    def make(drawn: tuple) -> Case:
        features, outputs, batch, of, seed, memory, more = drawn
        data = {
            "x": Data((batch, features), of[0], memory, seed),
            "weight": Data((outputs, features), of[1], memory, seed + 1),
        }
        return Case("linear", data, {}, more)

    return st.tuples(
        choice(long_lengths(limits) if longest else limits.channel_counts),
        choice(limits.out_channel_counts[: 1 if longest else None]),
        choice(limits.batches[: 1 if longest else None]),
        choice(longest_kinds(limits, scaled) if longest else pairs_of_kinds(limits, scaled)),
        st.just(1) if longest else SEEDS,
        choice(limits.memory_layouts[: 1 if longest else None]),
        keywords(limits),
    ).map(make)


def rows(role: str, limits: Restrictions, zero_free: bool = False) -> Cases:
    """Draw rows to pack, or to pack and unpack."""

    def make(drawn: tuple) -> Case:
        n, kind, batch, memory, seed = drawn
        return Case(role, {"x": Data((batch, n), kind, memory, seed)}, {"n": n} if role == "unpack" else {})

    found = [kind for kind in kinds(limits) if not zero_free or kind not in ("zeros", "subnormal")]
    few = choice(limits.channel_counts), choice(found), choice(limits.batches), choice(limits.memory_layouts), SEEDS
    return st.tuples(*few).map(make)


def dots(limits: Restrictions, longest: bool = False) -> Cases:
    def make(drawn: tuple) -> Case:
        n, of, seed = drawn
        return Case("dot", {"a": Data((n,), of[0], seed=seed), "b": Data((n,), of[1], seed=seed + 1)}, {"n": n})

    if longest:
        return st.tuples(choice(long_lengths(limits)), choice(longest_kinds(limits)), st.just(1)).map(make)
    few = [kind for kind in ("plus", "minus", "signs", "normal") if kind in kinds(limits)]
    of = choice([*product(few, repeat=2), *EXTREMES])
    return st.tuples(choice(limits.channel_counts), of, SEEDS).map(make)


def weights(role: str, limits: Restrictions, longest: bool = False) -> Cases:
    """Draw weights of a convolution without an input."""
    small = min(limits.kernel_pairs, key=lambda k: k[0] * k[1])

    def make(drawn: tuple) -> Case:
        channels, outputs, kernel, kind, seed = drawn
        if channels * kernel[0] * kernel[1] > limits.largest_dot:
            kernel = small
        return Case(role, {"weight": Data((outputs, channels, *kernel), kind, seed=seed)})

    long = ("signs",) if limits.signs_only else ("tenths", "normal")
    return st.tuples(
        choice(long_lengths(limits)[:1] if longest else limits.channel_counts),
        choice(limits.out_channel_counts[: 2 if longest else None]),
        choice(limits.kernel_pairs),
        choice(long if longest else kinds(limits, scaled=True)),
        st.just(1) if longest else SEEDS,
    ).map(make)


def scale_maps(limits: Restrictions) -> Cases:
    def make(drawn: tuple) -> Case:
        (channels, _, groups), kernel, moves, dilation, extra, batch, kind, seed, memory, more = drawn
        image, settings = place(limits, kernel, moves[0], moves[1], dilation, extra)
        data = {"x": Data((batch, channels, *image), kind, memory, seed)}
        return Case("scale_map", data, {"kernel": kernel} | settings, named(limits, dilation, groups) | more)

    return st.tuples(
        choice(counts(limits)),
        *window_choices(limits),
        choice(limits.batches),
        choice(kinds(limits, scaled=True)),
        SEEDS,
        choice(limits.memory_layouts),
        keywords(limits),
    ).map(make)


def gradients(limits: Restrictions) -> Cases:
    def make(drawn: tuple) -> Case:
        shape, kind, seed = drawn
        return Case("ste", {"x": Data(shape, kind, seed=seed), "dy": Data(shape, "normal", seed=seed + 1)})

    found = [kind for kind in kinds(limits, scaled=True) if kind not in ("subnormal", "zeros")]
    return st.tuples(choice(product(limits.batches, limits.channel_counts)), choice(found), SEEDS).map(make)


def layers(limits: Restrictions, layer: Layer, scaled: bool = False) -> Cases:
    """Draw inputs of a layer with its own weight."""
    weight = layer.weight

    def make(drawn: tuple) -> Case:
        batch, extra, kind, seed, more = drawn
        shape: tuple[int, ...] = (batch, weight.shape[1] * layer.groups)
        if weight.ndim == 4:
            shape += place(limits, weight.shape[2:], layer.stride, layer.padding, layer.dilation, extra)[0]
        return Case("layer", {"x": Data(shape, kind, seed=seed)}, {}, more)

    extras = choice(product(range(limits.largest_image), repeat=2))
    return st.tuples(choice(limits.batches), extras, choice(kinds(limits, scaled)), SEEDS, keywords(limits)).map(make)


def check_not_empty(limits: Restrictions) -> None:
    """Raise InputError if the restrictions leave no case to draw."""
    for name in ("channel_counts", "out_channel_counts", "kernel_pairs", "stride_pairs", "padding_pairs", "batches"):
        if not getattr(limits, name):
            raise InputError(f"Kit: the restrictions leave no {name.replace('_', ' ')}")
