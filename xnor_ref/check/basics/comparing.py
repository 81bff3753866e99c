"""Compares what a function gave with what it should give: its type, its shape, its numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Difference:
    """What is wrong with a result."""

    kind: str  # "type", "shape" or "value"
    message: str
    part: int = 0  # of a result of several arrays
    index: tuple[int, ...] | None = None  # of the first element that differs


def parts(value: Any) -> tuple[Any, ...]:
    """The arrays of a result."""
    return value if isinstance(value, tuple) else (value,)


def compare(got: Any, want: Any, tolerance: float) -> Difference | None:
    """What is wrong with a result, or None. A result is a text, an array, a number, or a tuple of these."""
    several = isinstance(want, tuple)
    if several and (not isinstance(got, tuple) or len(got) != len(want)):
        what = f"{len(got)} results" if isinstance(got, tuple) else f"one result, {kind_of(got)}"
        return Difference("type", f"it returns {what}, should return {len(want)}: {', '.join(map(kind_of, want))}")
    for part, (one, wanted) in enumerate(zip(parts(got) if several else (got,), parts(want))):
        found = _compare_one(one, wanted, tolerance)
        if found is not None:
            kind, message, index = found
            return Difference(kind, f"result {part}: {message}" if several else message, part, index)
    return None


def kind_of(value: Any) -> str:
    """'an array of shape (2, 3)', 'a number' or 'a text'."""
    if isinstance(value, str):
        return "a text"
    if value is None:
        return "None"
    if isinstance(value, dict):
        return "a dict"
    try:
        shape = np.shape(value)
    except ValueError:
        return "a list of lists of several lengths"
    return f"an array of shape {shape}" if shape else "a number"


def _compare_one(got: Any, want: Any, tolerance: float) -> tuple[str, str, tuple[int, ...] | None] | None:
    if isinstance(want, str):
        if not isinstance(got, str):
            return "type", f"it returns {kind_of(got)}, should return a text", None
        return None if got == want else ("value", f"it returns {got!r}, should return {want!r}", ())
    if got is None:
        return "type", "it returns None; is a `return` missing?", None
    if isinstance(got, str | dict):
        return "type", f"it returns {kind_of(got)}, should return {kind_of(want)}", None
    try:
        values, wanted = np.asarray(got), np.asarray(want)
    except ValueError:
        return "type", f"it returns {kind_of(got)}, should return {kind_of(want)}", None
    if values.dtype.kind not in "biuf":
        return "type", f"it returns {kind_of(got)} of dtype {values.dtype}, should hold numbers", None
    if values.shape != wanted.shape:
        return "shape", f"it returns {kind_of(got)}, should return {kind_of(want)}", None
    with np.errstate(invalid="ignore", over="ignore"):
        if tolerance:
            a, b = values.astype(np.float64), wanted.astype(np.float64)
            wrong = ~((np.abs(a - b) <= tolerance * np.maximum(1, np.abs(b))) | (a == b) | (np.isnan(a) & np.isnan(b)))
        else:
            wrong = values != wanted
    if not wrong.any():
        return None
    index = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
    where = f" at [{', '.join(map(str, index))}]" if index else ""
    count = f", and {int(wrong.sum()) - 1} more differ" if wrong.sum() > 1 else ""
    return "value", f"it returns {number(values[index])}{where}, should return {number(wanted[index])}{count}", index


def number(value: Any) -> str:
    """A number as short as it can be written."""
    value = np.asarray(value)[()]
    if isinstance(value, np.bool_):
        return str(bool(value))
    if np.asarray(value).dtype.kind != "f":
        return str(int(value))
    return str(value).removesuffix(".0") if isinstance(value, np.float32) and value else f"{value:.9g}"
