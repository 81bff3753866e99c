"""Runs the properties of this project one after another."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from xnor_ref.conformance.kit import DEFAULT_EXAMPLES as DEFAULT_EXAMPLES
from xnor_ref.conformance.trying.running import Property as Property
from xnor_ref.conformance.trying.running import no_traces, try_property


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
    outcome = try_property(prop, implementation, examples, seed, shrink)
    if outcome.error is None:
        return Result(prop.name, outcome.examples, None, None)
    message = f"{type(outcome.error).__name__}: {outcome.error}"
    return Result(prop.name, outcome.examples, message, repr(outcome.case))


def run_all(
    properties: Iterable[Property],
    implementation: Any,
    examples: int = DEFAULT_EXAMPLES,
    seed: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Try all properties; `report` gets lines to show, as they come."""
    results = []
    with no_traces():
        for prop in properties:
            result = run_property(prop, implementation, examples, seed)
            report(f"{'ok  ' if result.passed else 'FAIL'} {result.examples:6d} examples  {result.name}")
            if not result.passed:
                report(f"       {result.failure}")
                report(f"       smallest example: {result.example}")
            results.append(result)
    return results
