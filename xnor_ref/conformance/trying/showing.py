"""Simplifying a counterexample, and showing it as numbers to paste, as a program, and as a drawing of bits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from xnor_ref.conformance.basics.arrays import VALUES, Case, Given
from xnor_ref.conformance.basics.restrictions import Restrictions

FEW = 64  # most elements that are written out and simplified one by one
PLANES = 6  # most planes drawn of an array


def simpler(case: Case, limits: Restrictions, fails: Callable[[Case], bool]) -> Case:
    """Return the case with one image, one filter and as many elements of 1 as possible, if it still fails.

    Hypothesis has already reduced shapes and kinds.
    """

    def keep(changed: Case) -> bool:
        nonlocal case
        if fails(changed):
            case = changed
            return True
        return False

    plain = all(isinstance(recipe, Given) or recipe.memory == "plain" for recipe in case.data.values())
    if case.role == "layer" or not plain:
        return case
    if case.role in ("conv2d", "linear", "pack"):
        for name, counts in (("x", limits.batches), ("weight", limits.out_channel_counts)):
            values = case.data[name].array() if name in case.data else np.empty(0)
            if 1 in counts and len(values) > 1 and values[:1].size <= 8 * FEW:
                any(keep(_with(case, name, values[index : index + 1])) for index in range(min(len(values), FEW)))
    for name, recipe in case.data.items():
        values = recipe.array()
        for index in np.ndindex(values.shape if values.size <= FEW else (0,)):
            trial = values.copy()
            trial[index] = 1
            if values[index] != 1 and keep(_with(case, name, trial)):
                values = trial
    return case


def _with(case: Case, name: str, values: np.ndarray) -> Case:
    return replace(case, data={**case.data, name: Given(values)})


def is_simplest(case: Case, limits: Restrictions) -> bool:
    """Whether nothing simpler can be drawn: only ones, the fewest channels, the first stride and padding."""
    first = {"stride": limits.stride_pairs[0], "padding": limits.padding_pairs[0]}
    arrays = [recipe.array() for recipe in case.data.values()]
    return (
        all((values == 1).all() for values in arrays)
        and all(case.settings.get(name, value) == value for name, value in first.items())
        and all(values.shape[min(1, values.ndim - 1)] <= min(limits.channel_counts) for values in arrays)
    )


def number(value: Any) -> str:
    """Return a number in its shortest form."""
    text = str(np.asarray(value)[()])
    return text.removesuffix(".0") if text != "-0.0" else text


def array_text(values: np.ndarray) -> str:
    """Return an expression for an array, with the prefix of the dtype's name."""
    nested = str([number(v) for v in values.ravel()]).replace("'", "")
    kind = f"np.{values.dtype.name}"
    if values.ndim == 0:
        return number(values)
    return f"np.array({nested}, {kind})" + (f".reshape{values.shape}" if values.ndim > 1 else "")


def recipe_text(recipe: Any) -> str:
    """Return an expression for the array of a recipe, written out if it is small."""
    values = np.ascontiguousarray(recipe.array())
    if values.size <= FEW or isinstance(recipe, Given):
        return array_text(values.astype(values.dtype.newbyteorder("=")))
    if recipe.kind == "normal":
        return f"np.random.default_rng({recipe.seed}).standard_normal({recipe.shape}, np.float32)"
    numbers = VALUES[recipe.kind]
    if len(numbers) == 1:
        return f"np.full({recipe.shape}, {numbers[0]}, np.float32)"
    return (
        f"np.array({list(numbers)}, np.float32)"
        f"[np.random.default_rng({recipe.seed}).integers(0, {len(numbers)}, {recipe.shape}, np.uint8)]"
    )


def numbers(case: Case) -> str:
    """Return the arguments, one per line."""
    lines = [f"{name} = {recipe_text(recipe)}" for name, recipe in case.data.items()]
    return "\n".join([*lines, *(f"{name} = {value!r}" for name, value in (case.settings | case.keywords).items())])


def snippet(case: Case, want: np.ndarray | None) -> str:
    """Return a program that shows the failure, after the import in its second line is adapted."""
    arguments = list(case.arguments())
    words: dict[str, str] = {}
    if case.role in ("unpack", "dot"):
        words = {"x": "words", "a": "a_words", "b": "b_words"}
        arguments.sort(key="xabn".index)
    lines = ["import numpy as np", f"from your_module import {case.role}", numbers(case)]
    if words:
        lines[1] = f"from your_module import {case.role}, pack"
        lines += [
            f"{words[n]} = pack({'x' if n == 'x' else f'{n}[None]'}){'' if n == 'x' else '[0]'}"
            for n in arguments
            if n in words
        ]
    passed = [words.get(name, name) for name in arguments] + [f"{name}={name}" for name in case.keywords]
    lines.append(f"print({case.role}({', '.join(passed)}))")
    if want is not None and want.size <= FEW:
        lines.append(f"print({array_text(want)})  # what it should be")
    return "\n".join(lines)


def drawing(case: Case) -> str:
    """Draw the signs of small arrays: # for +1, . for -1, 0 for a zero. Of images, the first planes are drawn."""
    parts = []
    for name, recipe in case.data.items():
        values = np.asarray(recipe.array(), np.float32)
        if name == "dy" or values.size > 4 * FEW:
            continue
        marks = np.where(values == 0, "0", np.where(values > 0, "#", "."))
        if marks.ndim == 4 and marks.shape[2:] != (1, 1):
            planes = [(f"{name}[{n}, {c}]", marks[n, c]) for n, c in np.ndindex(*marks.shape[:2])]
        else:
            planes = [(name, marks.reshape(-1, marks.shape[1] if marks.ndim > 1 else marks.shape[0]))]
        for title, plane in planes[:PLANES]:
            parts.append("\n".join([title, *("  " + "".join(row) for row in plane)]))
        if len(planes) > PLANES:
            parts.append(f"({len(planes) - PLANES} more planes of {name})")
    return "\n".join(parts)
