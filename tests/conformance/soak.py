"""The kit tried on `fakes.py` at full size: how often faults are found, conventions named, and correct ones blamed.

    python -m tests.conformance.soak --seeds 200 --count 10000 --jobs 2

prints a table: in how many of 200 seeds each fault is found, after how many examples in the mean, and each convention
named; and how many of 10,000 correct implementations, each with conventions and restrictions drawn at random, are
blamed, or have a convention named wrongly. The exit code is 1 where a fault is missed in more than 1 of 200 seeds, a
convention is named wrongly as often, or a correct implementation is blamed at all. `--start` goes on from another seed,
so that a long run can be cut in parts.
"""

import argparse
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.conformance.fakes import CONVENTIONS, FAULTS, Fake, Planted
from xnor_ref import conformance as c

CONV = ("conv2d",)
GROUPS_OF_ROLES = (
    CONV,
    CONV,
    ("pack", "unpack", "dot"),
    ("linear", "alpha", "scale_map"),
    ("binarize", "ste", "linear"),
)


def kit_of(planted: Planted) -> c.Kit:
    fake = planted.implementation()
    return c.Kit(**{role: getattr(fake, role) for role in planted.roles}, **planted.kit)


def found(planted: Planted, seed: int, examples: int = c.DEFAULT_EXAMPLES) -> int:
    """After how many examples a fault is found, or a convention named and not blamed; 0 if it is not."""
    report = kit_of(planted).run(examples, seed, shrink=False, until_failure=True)
    right = report.passed and shown(planted, report) if planted.shows else not report.passed
    return sum(result.examples for result in report.results) if right else 0


def shown(planted: Planted, report: c.Report) -> bool:
    """Whether the report states the conventions that it must."""
    told = {name: value for role in planted.roles for name, value in report.conventions[role].items()}
    return all(told.get(name) == value for name, value in planted.shows.items())


def correct(seed: int) -> tuple[tuple[str, ...], Fake, dict]:
    """Roles, an implementation that is correct, and restrictions, drawn by the seed."""
    rng = random.Random(seed)
    roles = GROUPS_OF_ROLES[seed % len(GROUPS_OF_ROLES)]
    words = "pack" in roles
    zero = rng.choice((1, -1, "sign bit") if words else (1, -1, 0, "sign bit"))
    form = rng.choice(("dot", "agreements", "disagreements", "(dot + n)/2", "(n - dot)/2"))
    form = form if zero != 0 and rng.random() < 0.4 else "dot"
    scales = {CONV: ("none", "alpha", "layer", "alpha K", "alpha K valid")}.get(roles, ("none", "alpha"))
    others = (1, -1, 0, "sign bit") if form == "dot" else (1, -1, "sign bit")  # bits that are counted are never 0
    fake = Fake(
        sign_of_zero=zero,
        weight_sign_of_zero=zero if words or rng.random() < 0.5 else rng.choice(others),
        subnormals=rng.choice(("kept", "kept", "flushed")),
        pad_value=rng.choice((None, None, None, -1, 0, 1)),
        kernel=rng.choice(("correlation", "correlation", "convolution")),
        form=form,
        scale=rng.choice(scales) if form == "dot" and rng.random() < 0.5 else "none",
        centring=rng.choice(("none", "none", "none", "filter", "channels")) if roles == CONV else "none",
        layout=rng.choice(("NCHW OIHW", "NCHW OIHW", "NHWC HWIO", "NHWC OHWI", "NHWC OIHW", "NCHW HWIO")),
        transposed=rng.random() < 0.3,
        bit_order=rng.choice(("least first", "most first", "most first in bytes")),
        polarity=rng.choice((1, -1)),
        word_size=rng.choice((64, 32, 16, 8)),
        tail=rng.choice((0, 1)),
        values=rng.choice(("+1, -1", "1, 0")),
        summation=rng.choice(("once", "naive")),
        gradient=rng.choice(("|x| <= 1", "|x| < 1", "identity", "bireal")),
        divisor=rng.choice(("plain", "valid")),
    )
    kit = rng.choice(
        (
            {},
            {"channels": c.multiple_of(32), "kernels": (1, 3), "batch": 1},
            {"paddings": "same", "strides": (1, 2)},
            {"square": True, "zero_free": True},
            {"image_covers_kernel": True, "paddings": (0, 1), "pad_values": 0},
            {"signs_only": True, "largest_dot": 4000},
            {"dilations": (1, 2), "groups": (1, 2), "channels": (2, 32, 64, 66)},
        )
    )
    return roles, fake, kit


def blamed(seed: int, examples: int) -> str | None:
    """What the kit says against a correct implementation, or None."""
    roles, fake, kit = correct(seed)
    if kit.get("paddings") == "same" and "scale_map" in roles:
        kit = {}
    report = c.Kit(**{role: getattr(fake, role) for role in roles}, **kit).run(examples, seed, shrink=False)
    if not report.passed:
        return f"seed {seed}, {kit}, {fake}: {report.failures[0].message}"
    for role, told in report.conventions.items():
        for name, value in told.items():
            right = getattr(fake, name.replace("weight_subnormals", "subnormals"), value)
            right = "as asked" if name == "pad_value" and right is None else right
            if role in ("linear", "dot"):  # without padding, these are the same
                right = {"(dot + n)/2": "agreements", "(n - dot)/2": "disagreements"}.get(right, right)
            asked = kit.get("pad_values", (0, 1, -1))
            alike = {value, right} == {0, "as asked"} and asked == 0
            alike |= name == "bit_order" and told["word_size"] == 8 and "most first" in value and "most first" in right
            if value is not None and value != right and name not in ("summation", "scale") and not alike:
                return f"seed {seed}, {kit}, {fake}: {role} named {name} {value}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=200, help="seeds for each fault and convention")
    parser.add_argument("--count", type=int, default=10_000, help="correct implementations")
    parser.add_argument("--examples", type=int, default=c.DEFAULT_EXAMPLES, help="for each correct implementation")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", default="", help="faults and conventions whose names contain this")
    chosen = parser.parse_args()
    missed = False
    seeds = range(chosen.start, chosen.start + chosen.seeds)
    with ProcessPoolExecutor(chosen.jobs) as pool:
        for planted in (*FAULTS, *CONVENTIONS) if chosen.seeds else ():
            if chosen.only in planted.name:
                tried = [n for n in pool.map(partial(found, planted), seeds, chunksize=10) if n]
                kind = "named" if planted.shows else f"found after {sum(tried) / max(1, len(tried)):.0f} examples"
                what = f"{planted.name} ({', '.join(planted.roles)})"
                print(f"{len(tried):5d} of {chosen.seeds} {kind:26s}  {what}", flush=True)
                missed |= chosen.seeds - len(tried) > chosen.seeds / 200
        told = pool.map(
            partial(blamed, examples=chosen.examples), range(chosen.start, chosen.start + chosen.count), chunksize=20
        )
        wrong = 0
        for said in told:
            if said:
                wrong += 1
                print(said, flush=True)
    print(f"{wrong} of {chosen.count} correct implementations blamed, with {chosen.examples} examples each")
    return int(missed or wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
