"""For pytest: one line makes a test of each property, and strategies draw the kit's cases in tests of one's own."""

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
    """Cases of a role, for Hypothesis: `@given(cases("conv2d", channels=multiple_of(32)))`.

    `case.arguments()` are the arguments by name, new arrays each time; of `unpack` and `dot` rows of numbers in the
    place of words. `case.keywords` are the keywords, such as groups. A case prints in a line.

    Raises
    ------
    InputError : no such role or restriction, or nothing is left to draw
    """
    if role not in definitions.DEFINITIONS:
        raise InputError(f"cases: {role!r} is no role; there are {', '.join(definitions.DEFINITIONS)}")
    if unknown := sorted(set(restrictions) - set(Restrictions.__dataclass_fields__)):
        raise InputError(
            f"cases: {unknown[0]!r} is no restriction; there are {', '.join(Restrictions.__dataclass_fields__)}"
        )
    limits = Restrictions(**restrictions)
    drawn.check_not_empty(limits)
    return strategy(role, limits, Subject({}), False)


def expected(case: Case, **conventions: Any) -> np.ndarray:
    """What a case must give, in float64; conventions are named as for `Kit`, and are this project's by default."""
    made = {name: value for name, value in case.arguments().items() if name != "n"}
    return definitions.DEFINITIONS[case.role](Conventions(**conventions), **made, **case.keywords).value


def pytest_suite(*, examples: int = DEFAULT_EXAMPLES, seed: int | None = None, **settings: Any) -> Callable[..., None]:
    """A test of each property of an implementation: `test_mine = pytest_suite(conv2d=my_conv, channels=(64, 128))`.

    Each has the name of its property. Where it does not hold, the message is the kit's: the smallest case that was
    found, its numbers, and what would explain it.

    Parameters
    ----------
    examples : cases for each role's main property; others try fewer
    seed : the same seed tries the same cases; default: new ones each time
    settings : functions, restrictions and conventions, as of `Kit`

    Raises
    ------
    InputError : pytest is not installed, or as for `Kit`
    """
    try:
        import pytest
    except ImportError:
        raise InputError("pytest_suite: pytest is not installed; it comes with: pip install pytest") from None
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
