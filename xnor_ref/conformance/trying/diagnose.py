"""Detecting conventions by elimination, from a few calls on arrays for which all conventions differ."""

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

import numpy as np

from xnor_ref.conformance.basics.arrays import Case, Data, Given
from xnor_ref.conformance.basics.conventions import VALUES, Conventions
from xnor_ref.conformance.basics.restrictions import Restrictions
from xnor_ref.conformance.basics.roles import ROLES, Late
from xnor_ref.conformance.trying.subject import Subject

CALLING = ("layout", "transposed")  # conventions of the call: once one value fits, no other is tried
WORDS = ("word_size", "bit_order", "polarity")  # conventions of words made by the kit
CLOSE = 0.6  # least share of right numbers for a convention to be accepted although some are wrong


def diagnose(subject: Subject, role: str, limits: Restrictions, start: Conventions) -> tuple[Conventions, dict]:
    """Return the conventions of a role, and those by name that could be detected.

    `start` holds the conventions that cannot be detected. Groups of conventions are determined one after the other, by
    calls on which they differ. Combinations that no call distinguishes are kept, and end in `subject.rivals`.
    """
    alive = [start]
    shown: set[str] = set()
    for names, probes in _steps(role, limits, subject):
        values = [_values(name, role, subject) for name in names]
        made = (by.but(**dict(zip(names, choice))) for by in alive for choice in product(*values))
        sensible = (by for by in made if by.form == "dot" or by.scale == "none")  # counts are not scaled
        alive, sure = _eliminate(subject, probes, sensible)
        shown |= {name for name, several in zip(names, values) if sure and len(several) > 1}
    if role in ("conv2d", "layer"):
        asked = limits.asked_pad_values if role == "conv2d" else (subject.own_layer.pad_value,)
        alive, sure = _borders(subject, role, limits, alive, asked)
        shown |= {"pad_value"} if sure else set()
    in_bytes = {("least first", 8), ("most first", 8)}  # of bytes, the third order is the second
    alive = [by for by in alive if by.word_size > 8 or (by.bit_order, by.word_size) in in_bytes] or alive
    told = {}
    for name in sorted(shown):
        found = [getattr(by, name) for by in alive if getattr(by, name) != "any"]  # "any" fits whatever a tail is
        if all(value == found[0] for value in found[1:]):
            told[name] = (found or ["any"])[0]
    subject.rivals[role] = alive[1:]
    return alive[0], told


def _values(name: str, role: str, subject: Subject) -> tuple[Any, ...]:
    if name == "sign_of_zero" and role == "pack":
        return (1, -1, "sign bit")  # a bit cannot be 0
    if name == "scale" and role == "binarize":
        return ("none", "alpha", "layer")
    flat = role in ("linear", "dot") or (role == "layer" and subject.own_layer.weight.ndim == 2)
    if name == "form" and flat:
        return VALUES[name][:3]  # nothing is padded, so all terms count
    if name == "scale" and flat:
        return ("none", "alpha", "layer", "alpha K")
    if name in WORDS and "pack" in subject.functions and role in ("unpack", "dot"):
        return VALUES[name][:1]  # the words are its own
    return VALUES[name]


def _eliminate(
    subject: Subject, probes: list[Case], candidates: Iterable[Conventions]
) -> tuple[list[Conventions], bool]:
    """Return the conventions that agree with all probes, or the one that agrees best; and whether any agreed."""
    results: dict[tuple, list[np.ndarray | None]] = {}
    tried: list[Conventions] = []
    survivors: list[Conventions] = []
    asked = (*CALLING, *WORDS) if probes[0].role in ("unpack", "dot") else CALLING
    arguments = [probe.arguments() for probe in probes]
    for by in candidates:
        tried.append(by)
        if survivors and any(getattr(by, name) != getattr(survivors[0], name) for name in CALLING):
            break
        call = tuple(getattr(by, name) for name in asked)
        if call not in results:
            results[call] = [_try(subject, probe, by) for probe in probes]
        if all(_agreement(subject, *one, by) == 1.0 for one in zip(probes, arguments, results[call])):
            survivors.append(by)
    if survivors:
        return survivors, True
    subject.unexplained.setdefault(probes[0].role, []).extend(probes)

    def agreement(by: Conventions) -> tuple[int, float]:
        """Return the number of fully right probes, and the share of right numbers in all."""
        got = results[tuple(getattr(by, name) for name in asked)]
        shares = [_agreement(subject, *one, by) for one in zip(probes, arguments, got)]
        return shares.count(1.0), sum(shares) / len(shares)

    best = max(tried, key=agreement)
    whole, share = agreement(best)
    return [best if whole or share >= CLOSE else tried[0]], False


def _try(subject: Subject, probe: Case, by: Conventions) -> np.ndarray | None:
    if probe.role in subject.slow:
        return None
    try:
        return subject.call(probe, by)
    except Late:
        subject.slow.add(probe.role)  # one wait is enough
        return None
    except Exception:  # a function that raises shows no convention here; its property reports the failure
        return None


def _agreement(subject: Subject, probe: Case, made: dict, got: np.ndarray | None, by: Conventions) -> float:
    """Return the share of right numbers in a result."""
    if got is None:
        return 0.0
    try:
        want = subject.want(probe, by, made)
    except ValueError:  # the arrays do not match under this convention
        return 0.0
    if subject.compare(probe, got, want, by) is None:
        return 1.0
    if got.shape != want.value.shape or got.dtype.kind not in "biuf":
        return 0.0
    off = np.abs(got.astype(np.float64) - want.value)
    return min(0.999, float(np.mean(off <= want.allowed(by.summation))))


def _borders(
    subject: Subject, role: str, limits: Restrictions, alive: list[Conventions], asked: tuple[int, ...]
) -> tuple[list[Conventions], bool]:
    """Return the padding value for each requested value, and whether it could be detected."""
    before = alive
    found: dict[int, int] = {}
    for value in asked:
        probes = [_conv(limits, value, "normal", "signs", padded=True, seed=seed) for seed in (1, 2)]
        if role == "layer":
            probes = [_input(subject, "normal", seed) for seed in (1, 2)]
        candidates = [by.but(pad_value={**found, value: at}) for at in dict.fromkeys((value, -1, 0, 1)) for by in alive]
        alive, sure = _eliminate(subject, probes, candidates)
        if not sure or len({by.pad_value[value] for by in alive}) > 1:
            return before, False  # nothing is padded, or it does not show
        found = alive[0].pad_value
    values: Any = found
    if all(value == at for value, at in found.items()):
        values = "as asked" if len(asked) > 1 else found[asked[0]]
    elif len(set(found.values())) == 1:
        values = found[asked[0]]  # the same, whatever is asked
    return [by.but(pad_value=values) for by in alive], True


# --- probes


def _smallest(values: tuple[int, ...], least: int) -> int:
    return min((v for v in values if v >= least), default=max(values))


def _conv(
    limits: Restrictions, pad_value: int, of_x: str, of_weight: str, padded: bool = False, seed: int = 1, taps: int = 6
) -> Case:
    """A convolution of a small image whose sizes all differ, with padding only where it is wanted or needed."""
    few = [k for k in limits.kernel_pairs if k[0] * k[1] > 1 or taps == 1] or list(limits.kernel_pairs)
    kernel = min(few, key=lambda k: (abs(k[0] * k[1] - taps) if taps == 1 else k[0] == k[1], abs(k[0] * k[1] - taps)))
    extent = {p: (max(kernel) if isinstance(p, str) else int(np.sum(p))) for p in limits.padding_pairs}
    one_sided = [p for p in extent if isinstance(p, str) or np.min(p) > 0]
    padding = _nearest(extent, one_sided or list(extent), 2) if padded else min(extent, key=lambda p: extent[p])
    stride = min(limits.stride_pairs)
    image = [k + extra for k, extra in zip(kernel, (2, 3))]
    image = [max(1, min(size, limits.largest_image)) for size in ([max(image)] * 2 if limits.square else image)]
    if not isinstance(padding, str):
        sides = [2 * p if isinstance(p, int) else sum(p) for p in padding]
        image = [max(size, k - side) for size, k, side in zip(image, kernel, sides)]
    channels = _smallest(limits.channel_counts, 3)
    outputs = _smallest(limits.out_channel_counts, 3)
    keywords: dict[str, Any] = {name: values[0] for name, values in limits.options.items()}
    if limits.dilations is not None:
        keywords["dilation"] = limits.dilation_pairs[0]
        image = [max(s, d * (k - 1) + 1) for s, k, d in zip(image, kernel, keywords["dilation"])]
    groups = min(limits.group_counts)
    if limits.groups is not None:
        keywords["groups"] = groups
    return Case(
        "conv2d",
        {
            "x": _data((min(limits.batches), channels, *image), of_x, limits, 100 + seed),
            "weight": _data((outputs, channels // groups, *kernel), of_weight, limits, 200 + seed),
        },
        {"stride": stride, "padding": padding, "pad_value": pad_value},
        keywords,
    )


def _nearest(extent: dict, among: list, size: int) -> Any:
    return min(among, key=lambda p: abs(extent[p] - size))


MIXED = {"zeros of both signs": (0.0, -0.0, 1.0, -1.0), "subnormal": (1e-45, -1e-45, 1e-40, -1e-40, 1.0, -1.0)}


def _data(shape: tuple[int, ...], kind: str, limits: Restrictions, seed: int) -> Any:
    if kind in MIXED:
        values = np.array(MIXED[kind], np.float32)
        return Given(values[np.random.default_rng(seed).integers(0, len(values), shape)])
    return Data(shape, "signs" if limits.signs_only else kind, seed=seed)


def _input(subject: Subject, kind: str, seed: int) -> Case:
    """An image, or rows, for a layer that has its own weight."""
    layer = subject.own_layer
    shape: tuple[int, ...] = (3, layer.weight.shape[1])
    if layer.weight.ndim == 4:
        spans = [d * (k - 1) + 1 for k, d in zip(layer.weight.shape[2:], layer.dilation)]
        shape = (1, layer.weight.shape[1] * layer.groups, spans[0] + 2, spans[1] + 2)
    return Case("layer", {"x": _data(shape, kind, Restrictions(), seed)})


def _steps(role: str, limits: Restrictions, subject: Subject) -> Iterator[tuple[tuple[str, ...], list[Case]]]:
    """Groups of conventions, each with the calls that tell them apart."""
    names = ROLES[role].conventions
    asked = limits.asked_pad_values[0]

    def probe(of_x: str, of_weight: str, seed: int) -> Case:
        if role == "conv2d":  # of zeros with a kernel of one tap too, for which there may be another algorithm
            return _conv(limits, asked, of_x, of_weight, seed=seed, taps=1 if seed == 3 else 6)
        channels, outputs = _smallest(limits.channel_counts, 3), _smallest(limits.out_channel_counts, 3)
        if role == "linear":
            outputs += outputs == channels and limits.out_channels is None
            shapes = (min(limits.batches), channels), (outputs, channels)
            options: dict[str, Any] = {name: values[0] for name, values in limits.options.items()}
            data = {name: _data(s, k, limits, seed) for name, s, k in zip(("x", "weight"), shapes, (of_x, of_weight))}
            return Case("linear", data, {}, options)
        if role in ("alpha", "binarize"):
            kernel = min(limits.kernel_pairs)
            return Case(role, {"weight": _data((outputs, channels, *kernel), of_weight, limits, seed)})
        return _input(subject, of_x, seed)

    if role in ("conv2d", "linear", "binarize", "layer"):
        structure = tuple(n for n in names if n in ("layout", "transposed", "kernel", "form", "scale", "centring"))
        padded = role == "layer" or (role == "conv2d" and all(np.any(p) for p in limits.padding_pairs))
        if padded and "pad_value" in names:
            structure += ("pad_value",)
        if role == "layer":  # its weight cannot be chosen
            size = np.abs(subject.own_layer.weight)
            structure += ("weight_sign_of_zero",) if (size < np.finfo(np.float32).tiny).any() else ()
            structure += ("weight_subnormals",) if ((size > 0) & (size < np.finfo(np.float32).tiny)).any() else ()
        yield structure, [probe("normal", "normal", seed) for seed in (1, 2)]
        for of, kind in _zero_steps(limits):
            if "sign_of_zero" in names:
                yield of, [probe(kind, "normal", seed) for seed in (1, 3)]
            if role != "layer":
                yield tuple(f"weight_{name}" for name in of), [probe("normal", kind, seed) for seed in (1, 3)]
    elif role == "pack":
        counts = limits.channel_counts
        odd = _smallest(counts, 33), max((n for n in counts if n % 64), default=max(counts))
        batch = max(limits.batches)
        yield (
            ("word_size", "rows", "bit_order", "polarity", "tail"),
            [Case("pack", {"x": _data((batch, n), "normal", limits, n)}) for n in odd],
        )
        for of, kind in _zero_steps(limits):
            yield of, [Case("pack", {"x": _data((batch, n), kind, limits, n)}) for n in odd]
    elif role == "unpack":
        counts = limits.channel_counts
        shapes = [(max(limits.batches), n) for n in {_smallest(counts, 33), max(counts)}]
        yield (
            ("word_size", "bit_order", "polarity", "values"),
            [Case("unpack", {"x": _data(shape, "normal", limits, 1)}, {"n": shape[1]}) for shape in shapes],
        )
    elif role == "dot":
        n = _smallest(limits.channel_counts, 33)
        yield (
            ("word_size", "form"),
            [
                Case(
                    "dot", {"a": _data((n,), "normal", limits, s), "b": _data((n,), "normal", limits, s + 1)}, {"n": n}
                )
                for s in (1, 3, 5)
            ],
        )
    elif role == "alpha":
        yield ("mean",), [probe("normal", "normal", seed) for seed in (1, 2)]
    elif role == "scale_map":
        case = _conv(limits, asked, "normal", "normal", padded=True)
        data, weight = {"x": case.data["x"]}, case.data["weight"]
        settings = {"kernel": weight.shape[2:], "stride": case.settings["stride"], "padding": case.settings["padding"]}
        yield ("divisor",), [Case("scale_map", data, settings, case.keywords)]
    elif role == "ste":
        shape = min(limits.batches), max(limits.channel_counts)
        yield (
            ("gradient",),
            [
                Case("ste", {"x": _data(shape, kind, limits, 1), "dy": Data(shape, "normal", seed=2)})
                for kind in ("normal", "signs")
            ],
        )


def _zero_steps(limits: Restrictions) -> Iterator[tuple[tuple[str, ...], str]]:
    """Conventions of zeros and of subnormal numbers, each with the kind of data that shows them."""
    if limits.signs_only:
        return
    if not limits.zero_free:
        yield ("sign_of_zero",), "zeros of both signs"
    if not limits.subnormal_free:  # flushed, they are zeros
        yield (("sign_of_zero", "subnormals") if limits.zero_free else ("subnormals",)), "subnormal"
