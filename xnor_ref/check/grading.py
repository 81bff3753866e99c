"""Checks the exercises of a file, and says how it went: for the command line and for pytest."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from xnor_ref.check.basics.exercise import Exercise
from xnor_ref.check.student import TIMEOUT, Student
from xnor_ref.check.trying import EXAMPLES, STATUSES, Finding, check
from xnor_ref.errors import EquivalenceError, InputError, XnorRefError


@dataclass(frozen=True)
class Graded:
    """A file, and what became of its exercises."""

    file: str
    findings: tuple[Finding, ...]
    error: str = ""  # why the file could not be imported; then there are no findings

    def count(self, status: str) -> int:
        return sum(finding.status == status for finding in self.findings)

    def problem(self, of: int) -> XnorRefError | None:
        """What the exit code says: nothing if all `of` exercises are right."""
        if self.error:
            return InputError(self.error)
        if self.count("right") == of:
            return None
        named = {s: [f.exercise.name for f in self.findings if f.status == s] for s in STATUSES}
        said = [f"{', '.join(names)} {status}" for status, names in named.items() if names and status != "right"]
        text = f"{self.file}: {self.count('right')} of {of} right; {'; '.join(said)}"
        return InputError(text) if named["unusable"] and not named["wrong"] else EquivalenceError(text)

    def as_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "right": self.count("right"),
            "error": self.error,
            "exercises": [
                {
                    "name": one.exercise.name, "status": one.status, "message": one.message, "hints": list(one.hints),
                    "drawing": one.drawing, "printed": one.printed, "calls": one.tried,
                }
                for one in self.findings
            ],
        }  # fmt: skip


def chosen(exercises: Sequence[Exercise], only: str | None) -> tuple[Exercise, ...]:
    """All exercises, or the one of a name. Raises InputError where there is none."""
    found = tuple(one for one in exercises if only in (None, one.name))
    if not found:
        raise InputError(f"no exercise {only} here; there are {', '.join(one.name for one in exercises)}")
    return found


def open_file(path: str, exercises: Iterable[Exercise], timeout: float = TIMEOUT) -> Student:
    """A student's file. Raises InputError where it cannot be imported."""
    return Student(path, {one.name: one.call for one in exercises}, timeout)


def check_one(student: Student, exercise: Exercise, examples: int = EXAMPLES, seed: int | None = None) -> Finding:
    """Check one exercise of an open file."""
    return check(exercise, partial(student.call, exercise.name), examples, seed, printed=lambda: student.printed)


def grade(
    path: str,
    exercises: Sequence[Exercise],
    examples: int = EXAMPLES,
    seed: int | None = None,
    timeout: float = TIMEOUT,
) -> Graded:
    """Check the exercises of a file. What is wrong with the file is told in the result, not raised."""
    try:
        student = open_file(path, exercises, timeout)
    except InputError as error:
        return Graded(path, (), str(error))
    try:
        return Graded(path, tuple(check_one(student, one, examples, seed) for one in exercises))
    finally:
        student.close()
