"""For pytest: `pytest --lesson N my_lesson_N.py` has one test for each exercise. pytest finds this file by itself."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: "pytest.Parser") -> None:
    parser.getgroup("xnor_ref").addoption(
        "--lesson", type=int, metavar="N", help="check files with the exercises of this lesson of xnor_ref's course"
    )


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> Any:
    """With --lesson, a file is a student's: its exercises are the tests, and it is run in a process of its own."""
    number = parent.config.getoption("lesson")
    return None if number is None else _file_class().from_parent(parent, path=module_path, lesson=number)


@cache
def _file_class() -> Any:
    import pytest

    from xnor_ref.check.course import lesson_of
    from xnor_ref.check.grading import check_one, open_file
    from xnor_ref.errors import InputError

    class WrongAnswer(Exception):
        """What to show in place of a traceback."""

    class StudentFile(pytest.File):
        """A student's file."""

        def __init__(self, lesson: int, **how: Any) -> None:
            super().__init__(**how)
            self.lesson = lesson

        def collect(self) -> Any:
            try:
                exercises = lesson_of(self.lesson).exercises
                self.student = open_file(str(self.path), exercises)
            except InputError as error:
                raise self.CollectError(str(error)) from None
            for exercise in exercises:
                yield Answer.from_parent(self, name=exercise.name, student=self.student, exercise=exercise)

        def teardown(self) -> None:
            self.student.close()

    class Answer(pytest.Item):
        """An exercise of a file."""

        def __init__(self, student: Any, exercise: Any, **how: Any) -> None:
            super().__init__(**how)
            self.student, self.exercise = student, exercise

        def runtest(self) -> None:
            finding = check_one(self.student, self.exercise)
            if finding.status != "right":
                raise WrongAnswer(str(finding))

        def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
            return str(excinfo.value) if excinfo.errisinstance(WrongAnswer) else super().repr_failure(excinfo)

        def reportinfo(self) -> Any:
            return self.path, None, self.name

    return StudentFile
