"""A counterexample made as simple as it can be, and shown: as numbers to paste, as a program, and drawn as bits."""

from collections.abc import Callable
from typing import Any

import numpy as np

from xnor_ref.conformance.basics.arrays import VALUES, Case, Data, Given

FEW = 64  # elements that are written out, and made simpler one by one


def simpler(case: Case, fails: Callable[[Case], bool]) -> Case:
    """The same case with as many elements as possible set to 1; Hypothesis has made shapes and kinds small before."""
    for name, recipe in case.data.items():
        if isinstance(recipe, Data) and recipe.memory != "plain" and np.prod(recipe.shape) > 1:
            continue
        values = np.array(recipe.array())
        if values.size > FEW or case.role == "layer":
            continue
        for index in np.ndindex(values.shape):
            if values[index] == 1:
                continue
            trial = values.copy()
            trial[index] = 1
            changed = Case(case.role, {**case.data, name: Given(trial)}, case.settings, case.keywords)
            if fails(changed):
                values, case = trial, changed
    return case


def number(value: Any) -> str:
    """A number as short as it can be written."""
    text = str(np.asarray(value)[()])
    return text.removesuffix(".0") if text != "-0.0" else text


def array_text(values: np.ndarray) -> str:
    """An expression of an array; float32 is written without its name's prefix being lost."""
    nested = str([number(v) for v in values.ravel()]).replace("'", "")
    kind = f"np.{values.dtype.name}"
    return f"np.array({nested}, {kind})" + (f".reshape{values.shape}" if values.ndim != 1 else "")


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
    words = {"x": "words", "a": "a_words", "b": "b_words"} if case.role in ("unpack", "dot") else {}
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
    """The signs of small arrays: # for +1, . for -1, 0 for a zero."""
    parts = []
    for name, recipe in case.data.items():
        values = np.asarray(recipe.array(), np.float32)
        if name == "dy" or values.size > 4 * FEW:
            continue
        marks = np.where(values == 0, "0", np.where(values > 0, "#", "."))
        flat = marks.reshape(-1, *marks.shape[-2:]) if marks.ndim == 4 else marks.reshape(1, -1, marks.shape[-1])
        for index, plane in zip(np.ndindex(values.shape[:2] if marks.ndim == 4 else (1,)), flat):
            where = f"[{', '.join(map(str, index))}]" if marks.ndim == 4 else ""
            parts.append("\n".join([f"{name}{where}", *("  " + "".join(row) for row in plane)]))
    return "\n".join(parts)
