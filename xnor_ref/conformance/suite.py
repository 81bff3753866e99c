"""For pytest: a test of each property in one line, and strategies that draw the kit's cases for your own tests."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from xnor_ref.conformance.basics import definitions
from xnor_ref.conformance.basics.arrays import Case
from xnor_ref.conformance.basics.conventions import Conventions
from xnor_ref.conformance.basics.restrictions import Restrictions
from xnor_ref.conformance.kit import DEFAULT_EXAMPLES, Kit
from xnor_ref.conformance.trying import cases as drawn
from xnor_ref.conformance.trying.properties import strategy
from xnor_ref.conformance.trying.subject import Subject
from xnor_ref.errors import InputError

AGREEMENT = "all roles follow the same conventions"


def cases(role: str, **restrictions: Any) -> st.SearchStrategy[Case]:
    """Return a Hypothesis strategy of cases of a role: `@given(cases("conv2d", channels=multiple_of(32)))`.

    `case.arguments()` returns the arguments by name, as new arrays each time. For `unpack` and `dot`, these are rows of
    numbers instead of words. `case.keywords` holds the keywords, such as groups. A case prints in one line.

    Raises
    ------
    InputError : there is no such role or restriction, or no case can be drawn
    """
    if role not in definitions.DEFINITIONS:
        raise InputError(f"cases: {role!r} is not a role; choose from {', '.join(definitions.DEFINITIONS)}")
    if unknown := sorted(set(restrictions) - set(Restrictions.__dataclass_fields__)):
        raise InputError(
            f"cases: {unknown[0]!r} is not a restriction; choose from {', '.join(Restrictions.__dataclass_fields__)}"
        )
    limits = Restrictions(**restrictions)
    drawn.check_not_empty(limits)
    return strategy(role, limits, Subject({}), False)


def expected(case: Case, **conventions: Any) -> np.ndarray:
    """Return the expected result of a case in float64.

    Conventions are named as in `Kit`; this project's are the default.
    """
    made = {name: value for name, value in case.arguments().items() if name != "n"}
    return definitions.DEFINITIONS[case.role](Conventions(**conventions), **made, **case.keywords).value


def pytest_suite(*, examples: int = DEFAULT_EXAMPLES, seed: int | None = None, **settings: Any) -> Callable[..., None]:
    """Return a test of each property of a kit: `test_mine = pytest_suite(conv2d=my_conv, channels=(64, 128))`.

    Each test has the name of its property. A failing test prints the kit's message: the smallest failing case that was
    found, its numbers, and a convention that would explain it.

    Parameters
    ----------
    examples : number of cases for each role's main property; other properties try fewer
    seed : the same seed tries the same cases; by default they are new each time
    settings : functions, restrictions and conventions, as in `Kit`

    Raises
    ------
    InputError : pytest is not installed, or as for `Kit`
    """
    try:
        import pytest
    except ImportError:
        raise InputError("pytest_suite: pytest is not installed; install it with: pip install pytest") from None
    kit = Kit(**settings)
    names = kit.property_names()
    if len(kit.functions) > 1:
        names.append(("", AGREEMENT))

    @pytest.mark.parametrize(("role", "name"), names, ids=[name for _, name in names])
    def test(role: str, name: str) -> None:
        agreement = name == AGREEMENT
        report = kit.run(examples, seed, roles=None if agreement else [role], names=() if agreement else [name])
        if not report.passed:
            text = "\n\n".join(map(str, report.failures))
            pytest.fail(f"{text}\n\nconventions\n{report.conventions}", pytrace=False)

    return test
