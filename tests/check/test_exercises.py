"""Every exercise: its right solution passes, and three wrong ones are found, each with a hint of its own."""

import json
import statistics
import struct

import numba
import numpy as np
import pytest

from tests.check.solutions import SOLUTIONS
from xnor_ref.check.course import LESSONS, exercise_of
from xnor_ref.check.student import Unusable, plain
from xnor_ref.check.trying import Finding, check, wanted
from xnor_ref.errors import InputTypeError
from xnor_ref.experiments.verdict import quantile

NAMES = [one.name for lesson in LESSONS.values() for one in lesson.exercises]
WITHIN = {"np": np, "numba": numba, "json": json, "struct": struct, "statistics": statistics, "quantile": quantile}
EXAMPLES = 25


def found(name: str, text: str, **how) -> Finding:
    """What is found of a solution, in this process."""
    made = dict(WITHIN)
    exec(compile(text.replace("@numba.njit\n", ""), name, "exec"), made)
    exercise = exercise_of(name)
    call = (lambda function, *a: function(*a)) if name == "my_kernel" else exercise.call

    def function(*arguments):
        with np.errstate(all="ignore"):
            try:
                return plain(call(made[name], *arguments))
            except InputTypeError as error:
                raise Unusable("type", str(error)) from error
            except Exception as error:
                raise Unusable("raised", str(error)) from error

    return check(exercise, function, EXAMPLES, seed=1, **how)


def test_each_lesson_has_three_exercises_and_each_exercise_a_solution():
    assert list(LESSONS) == list(range(1, 13)) and all(len(lesson.exercises) == 3 for lesson in LESSONS.values())
    assert list(SOLUTIONS) == NAMES and len(set(NAMES)) == 36
    assert all(len(solution.wrong) == 3 for solution in SOLUTIONS.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_right_solution_passes(name):
    result = found(name, SOLUTIONS[name].text)
    assert result.status == "right", str(result)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_solutions_get_a_hint_each(name):
    hints = set()
    for right, wrong, words in SOLUTIONS[name].wrong:
        assert SOLUTIONS[name].text.count(right) == 1, right
        result = found(name, SOLUTIONS[name].text.replace(right, wrong), shrink=False)
        assert result.status in ("wrong", "unusable") and len(result.hints) == 1, str(result)
        assert words in result.hints[0], (wrong, str(result))
        hints |= set(result.hints)
    assert len(hints) == 3


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_every_mistake_that_is_known_gets_its_own_hint(name):
    exercise = exercise_of(name)
    for mistake in exercise.mistakes:

        def function(*arguments, variant=mistake.variant):
            result = wanted(exercise, arguments, **variant)
            if result is None:
                raise Unusable("raised", "")
            return result

        result = check(exercise, function, 60, seed=2, shrink=False)
        assert result.status in ("wrong", "unusable"), mistake
        assert any(hint.startswith(mistake.hint) for hint in result.hints), (mistake, str(result))


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_right_solutions_pass_with_many_seeds(name):
    made = {**WITHIN}
    exec(SOLUTIONS[name].text, made)
    exercise = exercise_of(name)
    for seed in range(3):
        result = check(exercise, lambda *a: plain(exercise.call(made[name], *a)), 60, seed)
        assert result.status == "right", (seed, str(result))


def test_what_changes_from_call_to_call_is_said():
    body = "    seen.append(0)\n    return np.where(x >= 0, 1, -1) * (-1) ** (len(seen) % 3)"
    text = f"seen = []\n\n\ndef my_sign(x):\n{body}"
    result = found("my_sign", text)
    assert result.status == "wrong" and "draw at random" in result.hints[0], str(result)


def test_what_is_no_operation_and_what_is_not_compiled_is_told():
    result = found("my_relu", "def my_relu(x):\n    return np.maximum(x, 0)")
    assert result.status == "unusable" and "a function from dy to dx" in result.message
    with pytest.raises(InputTypeError, match="not compiled"):
        exercise_of("my_kernel").call(len, [], [], 0)


def test_two_mistakes_get_two_hints():
    text = SOLUTIONS["my_backward"].text.replace(" * (np.abs(x) <= 1)", "").replace(" / w.shape[1]", "")
    result = found("my_backward", text)
    assert [hint.partition(" ")[0] for hint in result.hints] == ["The", "The"] and "1/n" in result.hints[0]
    assert "inputs outside" in result.hints[1]


def test_a_convolution_is_drawn_where_it_differs():
    text = SOLUTIONS["my_binary_conv2d"].text.replace("pad_value)", "pad_value or -1)", 1)
    text = text.replace("stride, padding, pad_value or -1", "stride, padding, pad_value")
    text = text.replace("constant_values=pad_value", "constant_values=pad_value or -1")
    picture = found("my_binary_conv2d", text).drawing.splitlines()
    at = picture.index(next(line for line in picture if line.startswith("where it should be 0")))
    names = [line.split()[0] for line in picture[at + 2 :]]
    assert names == ["x", "weight", "product", "sum"] and picture[at + 2].split()[1:] == ["0"]
    assert any(">" in line and "<" in line for line in picture[:at])  # the output that differs is marked
