"""Running properties under Hypothesis, without a test framework."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.errors import Flaky

from xnor_ref.conformance.basics.roles import Late


@dataclass(frozen=True)
class Property:
    """`check(subject, case)` raises for a case that breaks the property; `cases` draws the cases."""

    name: str
    cases: st.SearchStrategy | Sequence[Any]  # a sequence is tried whole
    check: Callable[[Any, Any], None]
    share: float = 1.0  # of the requested examples; smaller for slow properties
    role: str = ""  # role in the conformance kit


@dataclass(frozen=True)
class Outcome:
    """The outcome of one property."""

    examples: int  # number of cases tried, including those tried while shrinking
    error: Exception | None = None  # the error on the smallest failing case
    case: Any = None  # that case
    flaky: bool = False  # it failed in one call and passed in another


def try_property(
    prop: Property,
    subject: Any,
    examples: int,
    seed: int | None = None,
    shrink: bool = True,
    suspects: Sequence[Any] = (),
) -> Outcome:
    """Try one property on up to `examples` cases. With a seed, the cases are the same each time.

    With `shrink`, a failing case is replaced by the smallest one that Hypothesis can find. `suspects` are cases to try
    if none of these fails.
    """
    if isinstance(prop.cases, Sequence):
        return _try_all(prop, subject, prop.cases)
    tried = 0
    failed: tuple[Exception, Any] | None = None

    @settings(
        max_examples=max(5, round(examples * prop.share)),
        deadline=None,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        database=None,
        derandomize=False,
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    @given(prop.cases)
    def test(case: Any) -> None:
        nonlocal tried, failed
        if failed is not None and isinstance(failed[0], Late) and case != failed[1]:
            return  # smaller cases would take as long
        tried += 1
        try:
            prop.check(subject, case)
        except Exception as error:
            failed = error, case
            raise

    if seed is not None:
        test = hypothesis_seed(seed)(test)
    try:
        test()
    except Exception as error:  # whatever a function raises here is a finding; Hypothesis ran the smallest case last
        if failed is None:
            raise
        return Outcome(tried, *failed, flaky=isinstance(error, Flaky))
    last = _try_all(prop, subject, suspects)
    return replace(last, examples=tried + last.examples)


def _try_all(prop: Property, subject: Any, cases: Sequence[Any]) -> Outcome:
    """Try the property on all these cases. The first failing case counts."""
    failed = []
    for case in cases:
        try:
            prop.check(subject, case)
        except Exception as error:
            failed.append((error, case))
    return Outcome(len(cases), *failed[0]) if failed else Outcome(len(cases))


@contextmanager
def no_traces() -> Iterator[None]:
    """Context manager: stop Hypothesis from writing to the current folder."""
    with tempfile.TemporaryDirectory(prefix="xnor_ref-verify-") as folder:
        set_hypothesis_home_dir(folder)
        try:
            yield
        finally:
            set_hypothesis_home_dir(None)
