"""The properties of each role. `properties` lists those of a kit's functions."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from xnor_ref.conformance.basics.arrays import Case, Data
from xnor_ref.conformance.basics.restrictions import Restrictions
from xnor_ref.conformance.basics.roles import ROLES
from xnor_ref.conformance.trying import cases
from xnor_ref.conformance.trying.running import Property
from xnor_ref.conformance.trying.subject import Subject


class Broken(AssertionError):
    """A property fails. It differs from an AssertionError of the code under test."""


def demand(holds: bool, message: str) -> None:
    if not holds:
        raise Broken(message)


def is_as_defined(subject: Subject, case: Case) -> None:
    """The result equals the float64 definition, under the detected or demanded conventions."""
    by = subject.by[case.role]
    arguments = case.arguments()
    got = subject.call(case, by, arguments=case.arguments())
    wrong = subject.compare(case, got, subject.want(case, by, arguments), by)
    for rival in list(subject.rivals.get(case.role, ())) if wrong else ():
        if subject.compare(case, got, subject.want(case, rival, arguments), rival) is None:
            subject.by[case.role] = rival  # nothing distinguished them before
            subject.rivals[case.role].remove(rival)
            return
    demand(wrong is None, str(wrong))


def repeats(subject: Subject, case: Case) -> None:
    """The same call gives the same result, also after another call, and no call changes an earlier result."""
    by = subject.by[case.role]
    first = subject.call(case, by)
    kept = first.copy()
    other = Case(case.role, {name: _other(data) for name, data in case.data.items()}, case.settings, case.keywords)
    subject.call(other, by)
    demand(_same(first, kept), f"{case.role}: a later call changed an earlier result")
    again = subject.call(case, by)
    if not subject.agree(case, again, kept):
        raise Broken(f"{case.role}: the same call gave {_first(again, kept)}, after another call between")


def _other(data: Data) -> Data:
    """Other values of the same shape."""
    return Data(data.shape, "minus" if data.kind != "minus" else "plus", data.memory, data.seed + 2)


def images_are_independent(subject: Subject, case: Case) -> None:
    """A batch gives the results of its single images."""
    by = subject.by[case.role]
    together = subject.call(case, by)
    arguments = case.arguments()
    for index, x in enumerate(arguments["x"]):
        alone = subject.call(case, by, case.arguments() | {"x": np.ascontiguousarray(x)[None]})
        only = slice(index, index + 1)
        part = together[only]
        if not subject.agree(case, part, alone, only):
            raise Broken(f"{case.role}: image {index} of {len(together)} gives {_first(part, alone)}, as alone")


def leaves_inputs(subject: Subject, case: Case) -> None:
    """No call changes its arguments."""
    arguments = case.arguments()
    kept = {name: np.copy(value) for name, value in arguments.items() if isinstance(value, np.ndarray)}
    subject.call(case, subject.by[case.role], arguments)
    for name, before in kept.items():
        demand(_same(np.asarray(arguments[name]), before), f"{case.role}: the call changed its argument {name}")


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _first(got: np.ndarray, want: np.ndarray) -> str:
    if got.shape != want.shape:
        return f"shape {got.shape}, not {want.shape}"
    index = tuple(int(i) for i in np.unravel_index(int((got != want).argmax()), got.shape))
    return f"{got[index]} at {index}, not {want[index]}"


def strategy(role: str, limits: Restrictions, subject: Subject, scaled: bool) -> st.SearchStrategy[Case]:
    """Return a strategy of a role's cases within the restrictions."""
    return {
        "conv2d": lambda: cases.conv2d(limits, scaled),
        "linear": lambda: cases.linear(limits, scaled),
        "pack": lambda: cases.rows("pack", limits),
        "unpack": lambda: cases.rows("unpack", limits, zero_free=True),
        "dot": lambda: cases.dots(limits),
        "alpha": lambda: cases.weights("alpha", limits),
        "binarize": lambda: cases.weights("binarize", limits),
        "scale_map": lambda: cases.scale_maps(limits),
        "ste": lambda: cases.gradients(limits),
        "layer": lambda: cases.layers(limits, subject.own_layer, scaled),
    }[role]()


LONGEST: dict[str, Any] = {
    "conv2d": lambda limits, scaled: cases.longest_conv2d(limits, scaled),
    "linear": lambda limits, scaled: cases.linear(limits, scaled, longest=True),
    "dot": lambda limits, scaled: cases.dots(limits, longest=True),
    "alpha": lambda limits, scaled: cases.weights("alpha", limits, longest=True),
    "binarize": lambda limits, scaled: cases.weights("binarize", limits, longest=True),
}
BATCHES = ("conv2d", "linear", "scale_map", "layer")


def properties(subject: Subject, limits: Restrictions, roles: list[str]) -> tuple[Property, ...]:
    """Return the properties of every role with a function. Shares refer to the requested number of examples."""
    found = []
    for role in roles:
        by = subject.by[role]
        scaled = by.scale != "none" or by.centring != "none"  # magnitudes count
        drawn = strategy(role, limits, subject, scaled)
        what = ROLES[role].what
        found.append(Property(f"{what} equals its definition in float64", drawn, is_as_defined, 1.0, role))
        if role in LONGEST:
            longest = LONGEST[role](limits, scaled)
            found.append(Property(f"{what} equals it for the longest sums", longest, is_as_defined, 0.1, role))
        found.append(Property(f"{what} gives the same again, whatever is called between", drawn, repeats, 0.2, role))
        if role in BATCHES and max(limits.batches) > 1:
            found.append(Property(f"{what} of a batch is that of each alone", drawn, images_are_independent, 0.2, role))
        found.append(Property(f"{what} leaves its arguments as they are", drawn, leaves_inputs, 0.3, role))
    return tuple(found)
