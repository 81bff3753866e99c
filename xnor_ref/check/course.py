"""The lessons by number, and their starter files."""

import inspect
import textwrap
from pathlib import Path

from xnor_ref import storage
from xnor_ref.check.basics.exercise import Exercise, Lesson
from xnor_ref.check.lessons import (
    autodiff,
    bits,
    convolution,
    experiments,
    freezing,
    learned,
    network,
    scales,
    signs,
    speed,
    training,
    trees,
)
from xnor_ref.errors import InputError

MODULES = (
    signs, bits, convolution, scales, autodiff, network, training, speed, freezing, learned, trees, experiments,
)  # fmt: skip
LESSONS: dict[int, Lesson] = {module.LESSON.number: module.LESSON for module in MODULES}


def lesson_of(number: int) -> Lesson:
    """The lesson of a number. Raises InputError where there is none."""
    if number not in LESSONS:
        raise InputError(f"there is no lesson {number} with exercises; lessons are 1 to {max(LESSONS)}")
    return LESSONS[number]


def exercise_of(name: str) -> Exercise:
    """The exercise of a function's name."""
    return next(one for lesson in LESSONS.values() for one in lesson.exercises if one.name == name)


def stub(exercise: Exercise) -> str:
    """The function that a student completes."""
    text = textwrap.indent(inspect.cleandoc(exercise.text), "    ").replace("\n    \n", "\n\n")
    return (
        f"def {exercise.name}({', '.join(exercise.parameters)}):\n"
        f'    """{text.strip()}\n    """\n'
        "    raise NotImplementedError\n"
    )


def starter(lesson: Lesson, command: str) -> str:
    """The text of a lesson's starter file; `command` checks it."""
    decorated = [
        ("@numba.njit\n" if exercise.name == "my_kernel" else "") + stub(exercise) for exercise in lesson.exercises
    ]
    standard = [line for line in lesson.imports if line and not line.startswith(("from xnor_ref", "import numba"))]
    other = [line for line in lesson.imports if line.startswith("import numba")]
    own = [line for line in lesson.imports if line.startswith("from xnor_ref")]
    groups = ["\n".join(group) for group in (standard, [*other, "import numpy as np"], own) if group]
    head = (
        f'"""Exercises of lesson {lesson.number}: {lesson.title}.\n\n'
        f"Complete the functions, and run: {command}\n"
        f"The lesson is docs/course/{lesson.page}; M(1), M(2), ... are the equations of docs/mathematics.md.\n"
        '"""\n'
    )
    return "\n\n\n".join(["\n\n".join([head.rstrip(), *groups]), *(text.rstrip() for text in decorated)]) + "\n"


def write_new(path: str, text: str) -> None:
    """Write a file that is not there yet.

    Raises
    ------
    InputError : it is there
    OutputError : it cannot be written
    """
    if Path(path).exists():
        raise InputError(f"{path} is there already, and is not overwritten; check it, or name another file with -o")
    storage.write_atomically(path, text.encode())
