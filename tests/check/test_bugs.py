"""Find the bug: each program has a fault that is found, and is right without it."""

import numpy as np
import pytest

from tests.check.test_exercises import found
from xnor_ref.check.bugs import BUGS, PROGRAMS, Bug, program
from xnor_ref.check.course import exercise_of
from xnor_ref.check.student import Unusable, plain
from xnor_ref.check.trying import Finding, check

EXAMPLES = 60


def checked(bug: Bug, text: str, **how) -> Finding:
    made = {}
    exec(text, made)

    def function(*arguments):
        try:
            return plain(made[bug.exercise](*arguments))
        except Exception as error:
            raise Unusable("raised", str(error)) from error

    with np.errstate(all="ignore"):
        return check(bug.to_check(), function, EXAMPLES, seed=3, **how)


# The tests of the conformance kit try the others in every run.
SOAKED = [pytest.param(bug, marks=() if index % 2 else pytest.mark.soak) for index, bug in enumerate(BUGS)]


@pytest.mark.parametrize("bug", SOAKED, ids=lambda bug: bug.name)
def test_a_bug_is_found(bug):
    assert checked(bug, bug.source, shrink=False).status in ("wrong", "unusable")


@pytest.mark.parametrize("name", PROGRAMS)
def test_without_bugs_each_program_is_right(name):
    bugs = [bug for bug in BUGS if bug.exercise == name]
    result = checked(bugs[0], PROGRAMS[name])
    assert result.status == "right", str(result)
    assert found(name, PROGRAMS[name]).status == "right" and exercise_of(name).role


def test_a_file_does_not_say_what_is_wrong():
    for number, bug in enumerate(BUGS, 1):
        text = program(number, "check it")
        assert f"Bug {number}:" in text and bug.name not in text and bug.hint not in text
    assert len({bug.source for bug in BUGS}) == len({bug.hint for bug in BUGS}) + 1 == len(BUGS)
