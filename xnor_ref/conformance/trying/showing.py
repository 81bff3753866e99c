"""A counterexample made as simple as it can be, and shown: as numbers to paste, as a program, and drawn as bits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from xnor_ref.conformance.basics.arrays import VALUES, Case, Given
from xnor_ref.conformance.basics.restrictions import Restrictions

FEW = 64  # elements that are written out, and made simpler one by one
PLANES = 6  # that are drawn of an array


def simpler(case: Case, limits: Restrictions, fails: Callable[[Case], bool]) -> Case:
    """The same case with one image and one filter, if it then fails too, and with as many elements as possible 1.

    Hypothesis has made shapes and kinds small before.
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
    """Whether nothing simpler can be drawn: ones alone, the fewest channels, the first stride and padding."""
    first = {"stride": limits.stride_pairs[0], "padding": limits.padding_pairs[0]}
    arrays = [recipe.array() for recipe in case.data.values()]
    return (
        all((values == 1).all() for values in arrays)
        and all(case.settings.get(name, value) == value for name, value in first.items())
        and all(values.shape[min(1, values.ndim - 1)] <= min(limits.channel_counts) for values in arrays)
    )


def number(value: Any) -> str:
    """A number as short as it can be written."""
    text = str(np.asarray(value)[()])
    return text.removesuffix(".0") if text != "-0.0" else text


def array_text(values: np.ndarray) -> str:
    """An expression of an array; float32 is written without its name's prefix being lost."""
    nested = str([number(v) for v in values.ravel()]).replace("'", "")
    kind = f"np.{values.dtype.name}"
    if values.ndim == 0:
        return number(values)
    return f"np.array({nested}, {kind})" + (f".reshape{values.shape}" if values.ndim > 1 else "")


def recipe_text(recipe: Any) -> str:
    """An expression that makes the array of a recipe; written out if it is small."""
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
    """The arguments, one a line."""
    lines = [f"{name} = {recipe_text(recipe)}" for name, recipe in case.data.items()]
    return "\n".join([*lines, *(f"{name} = {value!r}" for name, value in (case.settings | case.keywords).items())])


def snippet(case: Case, want: np.ndarray | None) -> str:
    """A program that shows the failure, once the function is imported in its second line."""
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
    """The signs of small arrays: # for +1, . for -1, 0 for a zero; of images, the first planes."""
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
