"""Small pictures in text: signs as + and -, words as bits, numbers in columns; what differs is marked."""

from typing import Any

import numpy as np

from xnor_ref.check.basics.comparing import number, parts

MOST = 96  # elements of an array that is drawn
PLANES = 4  # of an image
WIDEST = 72  # columns of bits


def sign_text(values: np.ndarray) -> list[str]:
    """+ for +1, - for -1, 0 for a zero."""
    return ["+" if v > 0 else "-" if v < 0 else "0" for v in values.ravel()]


def bits_of(words: np.ndarray) -> str:
    """The bits of a row of 64-bit words as 1 and 0, the lowest first; a space between words."""
    return " ".join("".join(str(int(word) >> i & 1) for i in range(64)) for word in words.ravel())


def draw(name: str, value: Any, signs: bool = False, against: Any = None) -> str:
    """A value under its name. Elements that differ from those of `against` are marked."""
    if isinstance(value, str):
        return f"{name} = {value!r}"
    if isinstance(value, tuple) and any(np.ndim(part) for part in value):
        others = parts(against) if against is not None and len(parts(against)) == len(value) else (None,) * len(value)
        return "\n".join(draw(f"{name}[{i}]", part, signs, other) for i, (part, other) in enumerate(zip(value, others)))
    try:
        array = np.asarray(value)
    except ValueError:
        return f"{name} = {value!r:.200}"
    if array.ndim == 0 or isinstance(value, tuple):
        inner = ", ".join(number(v) for v in array.ravel()) if array.dtype.kind in "biuf" else repr(value)
        return f"{name} = ({inner})" if array.ndim else f"{name} = {inner}"
    title = f"{name}  {array.shape} {array.dtype}"
    if array.size > MOST * (1 if array.dtype == np.uint64 else 2):
        return f"{title}: too large to draw"
    other = np.asarray(against) if against is not None and np.shape(against) == array.shape else None
    rows = array.reshape(-1, array.shape[-1]) if array.size else array.reshape(0, 1)
    if array.dtype == np.uint64:
        return "\n".join([title, *_words(rows, None if other is None else other.reshape(rows.shape))])
    wrong = np.zeros(array.shape, bool) if other is None else ~np.isclose(array, other, rtol=1e-6, atol=1e-9)
    return "\n".join([title, *_planes(array, wrong, signs)])


def _words(rows: np.ndarray, others: np.ndarray | None) -> list[str]:
    """Bits, up to the last that is set in any of them; a ^ below each that differs."""
    whole = [bits_of(row) for row in rows]
    against = [bits_of(row) for row in others] if others is not None and others.dtype.kind in "iu" else whole
    used = min(max(-(-(text.rfind("1") + 1) // 8) * 8 for text in [*whole, *against, "1"]), 2 * WIDEST)
    lines = []
    for text, other in zip(whole, against, strict=True):
        lines.append(f"  {text[:used]}{' ...' if used < len(text) else ''}")
        marks = "".join("^" if a != b else " " for a, b in zip(text[:used], other[:used], strict=True))
        lines += [f"  {marks.rstrip()}"] * bool(marks.strip())
    return lines


def _planes(array: np.ndarray, wrong: np.ndarray, signs: bool) -> list[str]:
    """Rows of elements; of more than two axes, plane by plane."""
    leading, last = array.shape[:-2], array.shape[-2:] if array.ndim > 1 else (1, array.shape[0])
    lines = []
    planes = list(np.ndindex(*leading))
    for place in planes[:PLANES]:
        if leading and len(planes) > 1:
            lines.append(f"  [{', '.join(map(str, place))}]")
        values, marks = array[place].reshape(last), wrong[place].reshape(last)
        cells = sign_text(values) if signs else [number(v) for v in values.ravel()]
        cells = [f">{cell}<" if bad else cell for cell, bad in zip(cells, marks.ravel())]
        width = max(map(len, cells), default=0)
        table = np.array(cells, object).reshape(last)
        lines += ["  " + " ".join(f"{cell:>{width}}" for cell in row) for row in table]
    if len(planes) > PLANES:
        lines.append(f"  ({len(planes) - PLANES} more planes)")
    return lines


def meeting(x: np.ndarray, weight: np.ndarray, first: str = "x", second: str = "weight") -> str:
    """Signs that meet signs, their products below, and the sum; a 0 in x is padding."""
    product = x * weight
    rows = ((first, x), (second, weight), ("product", product))
    if x.size > WIDEST:
        return f"the sum of {x.size} products is {int(product.sum())}"
    lines = [f"  {name:8s} {' '.join(sign_text(values))}" for name, values in rows]
    return "\n".join([*lines, f"  sum      {int(product.sum())}"])
