"""Tries a function: finds the smallest case on which it is wrong, and the usual mistake that explains it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np

from xnor_ref.check.basics import drawing
from xnor_ref.check.basics.comparing import Difference, compare, parts
from xnor_ref.check.basics.exercise import Exercise
from xnor_ref.check.course import exercise_of
from xnor_ref.check.student import Unusable, plain
from xnor_ref.conformance.basics.conventions import Conventions
from xnor_ref.conformance.basics.roles import ROLES, Crashed, Late
from xnor_ref.conformance.kit import Kit
from xnor_ref.conformance.suite import cases as of_the_kit
from xnor_ref.conformance.trying.running import Property, no_traces, try_property
from xnor_ref.errors import InputTypeError

EXAMPLES = 60  # cases for each exercise
FURTHER = 30  # further cases for the hints
REMEMBERED = 60  # calls of each search that a mistake must explain
LARGEST = 20_000  # numbers among the arguments of a call that is remembered
STATUSES = ("right", "wrong", "unusable", "to do")
UNEXPLAINED = "No usual mistake explains it. Compute this case by hand, and print what your function computes."
VARIES = (
    "The same call gave another result before. Does your function keep something from one call to the next, or draw at "
    "random?"
)

Function = Callable[..., Any]  # of the arguments; raises Unusable


@dataclass(frozen=True)
class Finding:
    """What became of an exercise."""

    exercise: Exercise
    status: str  # one of STATUSES
    message: str = ""  # what is wrong
    hints: tuple[str, ...] = ()
    drawing: str = ""  # of the smallest case that was found
    printed: str = ""  # by the function, on that case
    tried: int = 0  # calls

    def __str__(self) -> str:
        return "\n\n".join([f"{self.exercise.name}: {self.status}", *self.details()])

    def details(self) -> list[str]:
        """Paragraphs for whoever wrote it."""
        printed = f"it printed: {self.printed.rstrip()}" if self.printed.strip() else ""
        hints = [f"hint: {hint}" for hint in self.hints]
        return [text for text in (self.message, self.drawing, printed, *hints) if text]


class Wrong(AssertionError):
    """A case on which the function is wrong."""


class _Recorder:
    """A function that remembers what it was given and what it gave."""

    def __init__(self, exercise: Exercise, function: Function):
        self.exercise, self.function = exercise, function
        self.calls: list[tuple[tuple[Any, ...], Any]] = []
        self.count, self.room = 0, REMEMBERED

    def __call__(self, *arguments: Any) -> Any:
        kept = tuple(np.array(a) if isinstance(a, np.ndarray) else a for a in arguments)
        result = self.function(*arguments)
        self.count += 1
        if len(self.calls) < self.room and sum(np.size(a) for a in kept) <= LARGEST:
            self.calls.append((kept, result))
        return result

    def for_the_kit(self, *arguments: Any) -> np.ndarray:
        """The same, for the conformance kit, which takes arrays alone."""
        try:
            return np.asarray(self(*arguments))
        except Unusable as error:
            raise (Late if error.kind == "late" else Crashed if error.kind == "crashed" else Wrong)(
                str(error)
            ) from error


def wanted(exercise: Exercise, arguments: tuple[Any, ...], **variant: Any) -> Any:
    """What the definition gives, or what a mistake of this variant gives; None where that fails."""
    with np.errstate(all="ignore"):
        try:
            return plain(exercise.define(*arguments, **variant))
        except (ValueError, IndexError, ArithmeticError, InputTypeError):
            if not variant:
                raise
            return None


def difference(exercise: Exercise, arguments: tuple[Any, ...], got: Any) -> Difference | None:
    """What is wrong with a result, or None."""
    want = wanted(exercise, arguments)
    if exercise.judge is None:
        return compare(got, want, exercise.tolerance)
    found = compare(got, want, exercise.tolerance)
    if found is not None and found.kind != "value":
        return found
    message = exercise.judge(arguments, got)
    return Difference("value", message) if message else None


def check(
    exercise: Exercise,
    function: Function,
    examples: int = EXAMPLES,
    seed: int | None = None,
    *,
    shrink: bool = True,
    printed: Callable[[], str] = str,
) -> Finding:
    """Try a function on the exercise's first example, then on cases that are drawn.

    Parameters
    ----------
    exercise : what the function should do
    function : of the arguments; raises Unusable where there is no result
    examples : cases to draw
    seed : the same seed draws the same cases; default: new ones each time
    shrink : whether to look for the smallest case on which it is wrong
    printed : what the function printed in its last call
    """
    recorder = _Recorder(exercise, function)
    found = _try(exercise, recorder, exercise.example)
    if found is None or isinstance(found[0], Difference):  # there may be a smaller case than the example
        search = _search_by_the_kit if exercise.role else _search
        failing, message = search(exercise, recorder, examples, seed, shrink)
        if failing is None and found is None:
            return Finding(exercise, "right", tried=recorder.count)
        if failing is not None:
            found = _try(exercise, recorder, failing) or (Difference("value", message), failing, None)
    assert found is not None
    varies = isinstance(found[0], Difference) and _varies(exercise, recorder, found)
    what, arguments, got = found
    said = printed()
    hints: tuple[str, ...]
    if isinstance(what, Unusable):
        status = "to do" if what.kind == "to do" else "unusable"
        picture = "" if status == "to do" else _inputs(exercise, arguments)
        hints = ()
        if what.kind == "raised" and arguments is not exercise.example:  # other calls may tell why
            _gather(exercise, recorder)
            hints = explained(exercise, recorder.calls)
        return Finding(exercise, status, str(what), hints, picture, said, recorder.count)
    hints = ()
    if varies:
        hints = (exercise.last_hint or VARIES,)
    elif got is not None:
        _gather(exercise, recorder)
        hints = explained(exercise, [(arguments, got), *recorder.calls])
    status = "wrong" if what.kind == "value" else "unusable"
    if status == "wrong" and not hints:
        hints = (exercise.last_hint or UNEXPLAINED,)
    picture = _drawing(exercise, arguments, got, what)
    return Finding(exercise, status, what.message, hints, picture, said, recorder.count)


def _try(exercise: Exercise, function: Function, arguments: tuple[Any, ...]) -> Any:
    """(what is wrong, arguments, result) of one call; None where it is right."""
    given = tuple(np.array(a) if isinstance(a, np.ndarray) else a for a in arguments)
    try:
        got = function(*given)
    except Unusable as error:
        return error, arguments, None
    if changed := _changed(exercise, arguments, given):
        return Difference("value", changed), arguments, None
    what = difference(exercise, arguments, got)
    return None if what is None else (what, arguments, got)


def _varies(exercise: Exercise, function: Function, found: Any) -> bool:
    """Whether the call that was found to be wrong gives something else when it is made again."""
    _, arguments, got = found
    again = _try(exercise, function, arguments)
    if again is None or isinstance(again[0], Unusable):
        return True
    return got is not None and compare(again[2], got, exercise.tolerance) is not None


def _changed(exercise: Exercise, before: tuple[Any, ...], after: tuple[Any, ...]) -> str:
    for name, a, b in zip(exercise.parameters, before, after):
        if isinstance(a, np.ndarray) and not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
            return f"it changes its argument {name}; work on a copy"
    return ""


def _search(exercise: Exercise, recorder: _Recorder, examples: int, seed: int | None, shrink: bool) -> Any:
    """(the smallest arguments on which the function is wrong, message), or (None, "")."""

    def try_case(_: Any, case: tuple[Any, ...]) -> None:
        found = _try(exercise, recorder, case)
        if found is not None and isinstance(found[0], Unusable) and found[0].kind == "late":
            raise Late(str(found[0]))
        if found is not None:
            raise Wrong(str(found[0]) if isinstance(found[0], Unusable) else found[0].message)

    assert exercise.cases is not None  # where there is no role
    with no_traces():
        outcome = try_property(Property(exercise.name, exercise.cases, try_case), None, examples, seed, shrink)
    if outcome.error is None:
        return None, ""
    return outcome.case, f"{outcome.error}{' (not in every call)' if outcome.flaky else ''}"


def _search_by_the_kit(exercise: Exercise, recorder: _Recorder, examples: int, seed: int | None, shrink: bool) -> Any:
    """The same by the conformance kit, which has the project's conventions demanded."""
    by = Conventions()
    settings: dict[str, Any] = {name: getattr(by, name) for name in ROLES[exercise.role].conventions}
    settings |= {**exercise.limits, exercise.role: recorder.for_the_kit}
    kit = Kit(**settings)
    report = kit.run(examples, seed, shrink=shrink, until_failure=True)
    if report.passed:
        return None, ""
    failure = report.failures[0]
    assert failure.case is not None  # of one role, no two conventions can disagree
    return tuple(failure.case.arguments().values()), failure.message


@cache
def _further_cases(name: str) -> list[tuple[Any, ...]]:
    """Arguments for the exercise of a name: the same for everyone who is checked."""
    exercise, found = exercise_of(name), []
    cases = exercise.cases
    if cases is None:
        cases = of_the_kit(exercise.role, **exercise.limits).map(lambda case: tuple(case.arguments().values()))
    with no_traces():
        keep = Property(name, cases, lambda _, case: found.append(case))
        try_property(keep, None, FURTHER, seed=0, shrink=False)
    return found


def _gather(exercise: Exercise, recorder: _Recorder) -> None:
    """More calls, which tell one mistake from another: those of the search may all lie near to one case."""
    recorder.room = len(recorder.calls) + FURTHER
    for case in _further_cases(exercise.name):
        try:
            recorder(*(np.array(a) if isinstance(a, np.ndarray) else a for a in case))
        except Unusable as error:
            if error.kind in ("late", "crashed"):
                return


def explained(exercise: Exercise, calls: list[tuple[tuple[Any, ...], Any]]) -> tuple[str, ...]:
    """Hints: the mistake that explains all calls, or two that do together, or one that explains the first wrong one."""

    def fits(variant: dict[str, Any], of: list[tuple[tuple[Any, ...], Any]]) -> bool:
        return all(_gives(exercise, arguments, variant, got) for arguments, got in of)

    wrong = [call for call in calls if difference(exercise, *call) is not None]
    if not wrong:
        return ()
    near = [one for one in exercise.mistakes if fits(dict(one.variant), wrong[:1])]
    for one in near:
        if fits(dict(one.variant), calls):
            return (one.hint,)
    for a, b in combinations(exercise.mistakes, 2):
        if not set(a.variant) & set(b.variant) and fits({**a.variant, **b.variant}, calls):
            return a.hint, b.hint
    if not near:
        return ()
    share = [sum(_gives(exercise, arguments, dict(one.variant), got) for arguments, got in calls) for one in near]
    return (f"{near[int(np.argmax(share))].hint} (That explains this case, but not all that were tried.)",)


def _gives(exercise: Exercise, arguments: tuple[Any, ...], variant: dict[str, Any], got: Any) -> bool:
    """Whether a mistake of this variant gives this result."""
    want = wanted(exercise, arguments, **variant)
    return want is not None and compare(got, want, exercise.tolerance) is None


def _inputs(exercise: Exercise, arguments: tuple[Any, ...]) -> str:
    return "\n".join(
        drawing.draw(name, value, name in exercise.signs and _is_sign_like(value))
        for name, value in zip(exercise.parameters, arguments)
    )


def _is_sign_like(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _drawing(exercise: Exercise, arguments: tuple[Any, ...], got: Any, what: Difference) -> str:
    """The smallest case: what went in, what should come out, what came out, and where they differ."""
    want = wanted(exercise, arguments)
    shown = [_inputs(exercise, arguments)]
    if exercise.judge is None and got is not None:
        like = _as_wanted(got, want)
        shown += [drawing.draw("expected", want), drawing.draw("got", like, against=want)]
    elif got is not None:
        shown.append(drawing.draw("got", got))
    if exercise.picture and what.kind == "value" and what.index is not None:
        try:
            shown += [
                f"where it should be {drawing.number(parts(want)[what.part][what.index] if what.index else want)}:"
            ]
            shown += [exercise.picture(arguments, what.index)]
        except (IndexError, ValueError):
            pass
    return "\n".join(shown)


def _as_wanted(got: Any, want: Any) -> Any:
    """A result with the dtype of words, where words are wanted."""
    if isinstance(got, np.ndarray) and isinstance(want, np.ndarray) and want.dtype == np.uint64:
        return got.astype(np.uint64) if got.dtype.kind in "iu" else got
    return got
