"""The result of a run: properties that hold or fail, conventions, and roles that were not tested."""

from dataclasses import dataclass

from xnor_ref.conformance.basics.arrays import Case


@dataclass(frozen=True)
class Failure:
    """A property that fails, with the smallest failing case that was found."""

    role: str
    name: str  # name of the property
    kind: str  # "fault", "crash", "error" (the function raised), or "demand" (a demanded convention does not hold)
    message: str  # description of the failure
    case: Case | None  # the smallest failing case; `case.arguments()` makes its arguments
    diagnosis: str  # the convention that would explain it, or "none of the known conventions explains it"
    hint: str  # advice where to look first, or ""
    numbers: str  # the arguments, to paste into a program
    snippet: str  # a program that shows the failure; add an import of the function
    drawing: str  # the arrays as bits, or "" if they are too large

    def __str__(self) -> str:
        parts = [
            f"{self.kind.upper()}: {self.name}",
            self.message,
            self.diagnosis,
            self.hint,
            self.numbers,
            self.drawing,
        ]
        return "\n".join(part for part in parts if part)


@dataclass(frozen=True)
class Result:
    """The result of one property of one role."""

    role: str
    name: str  # name of the property
    examples: int  # actually tried; those tried while shrinking a failure count too
    failure: Failure | None
    seconds: float

    @property
    def passed(self) -> bool:
        return self.failure is None


class Observed(dict):
    """Conventions by role: {role: {name: value}}. A value is None if no case could show it."""

    def __str__(self) -> str:
        return "\n".join(
            f"{role}: " + ", ".join(f"{name} {value}" for name, value in found.items() if value is not None)
            for role, found in self.items()
        )


@dataclass(frozen=True)
class Report:
    """The outcome of `Kit.run`."""

    results: tuple[Result, ...]
    conventions: Observed
    not_tested: tuple[str, ...]  # roles without a function
    notes: tuple[str, ...] = ()  # other observations, such as a processor that flushes subnormal numbers
    seed: int | None = None

    @property
    def failures(self) -> tuple[Failure, ...]:
        return tuple(result.failure for result in self.results if result.failure)

    @property
    def passed(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        lines = []
        for result in self.results:
            lines.append(f"{'ok  ' if result.passed else 'FAIL'} {result.examples:6d} examples  {result.name}")
        for failure in self.failures:
            lines += ["", str(failure)]
        lines += ["", "conventions", *(f"  {line}" for line in str(self.conventions).splitlines())]
        if self.not_tested:
            lines.append(f"not tested, because no function was given: {', '.join(self.not_tested)}")
        return "\n".join([*lines, *self.notes])
