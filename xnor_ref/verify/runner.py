"""Runs properties under Hypothesis, outside any test framework."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

DEFAULT_EXAMPLES = 100


@dataclass(frozen=True)
class Property:
    """`check(implementation, case)` raises for a case that breaks the property; `cases` draws the cases."""

    name: str
    cases: st.SearchStrategy
    check: Callable[[Any, Any], None]
    share: float = 1.0  # of the examples asked for; less where one example is expensive


@dataclass(frozen=True)
class Result:
    """What became of one property."""

    name: str
    examples: int  # actually tried; those tried while shrinking a failure count too
    failure: str | None  # what went wrong on the smallest example found
    example: str | None  # that example

    @property
    def passed(self) -> bool:
        return self.failure is None


def run_property(
    prop: Property, implementation: Any, examples: int, seed: int | None = None, shrink: bool = True
) -> Result:
    """Try one property on up to `examples` cases; with a seed the same cases each time.

    With `shrink`, a failing case is replaced by the smallest one that Hypothesis can find.
    """
    tried = 0
    last: Any = None

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
        nonlocal tried, last
        tried, last = tried + 1, case
        prop.check(implementation, case)

    if seed is not None:
        test = hypothesis_seed(seed)(test)
    try:
        test()
    except Exception as error:  # whatever a kernel raises here is a finding; Hypothesis ran the smallest case last
        return Result(prop.name, tried, f"{type(error).__name__}: {error}", repr(last))
    return Result(prop.name, tried, None, None)


def run_all(
    properties: Iterable[Property],
    implementation: Any,
    examples: int = DEFAULT_EXAMPLES,
    seed: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Try all properties; `report` gets lines to show, as they come."""
    results = []
    with _no_traces():
        for prop in properties:
            result = run_property(prop, implementation, examples, seed)
            report(f"{'ok  ' if result.passed else 'FAIL'} {result.examples:6d} examples  {result.name}")
            if not result.passed:
                report(f"       {result.failure}")
                report(f"       smallest example: {result.example}")
            results.append(result)
    return results


@contextmanager
def _no_traces() -> Iterator[None]:
    """Have Hypothesis keep nothing, which it would do in the current folder."""
    with tempfile.TemporaryDirectory(prefix="xnor_ref-verify-") as folder:
        set_hypothesis_home_dir(folder)
        try:
            yield
        finally:
            set_hypothesis_home_dir(None)
