"""What an exercise is: a function to write, its definition, cases to try, and the usual mistakes as data.

The definition of an exercise takes keywords. Each makes one usual mistake. So the same few lines say what is right,
and what a student gets who confuses two axes or forgets a mask. A mistake that explains all results of a student's
function is the hint.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from xnor_ref.errors import InputTypeError


@dataclass(frozen=True)
class Mistake:
    """A usual mistake: what to say of it, and the keywords that make the definition commit it."""

    hint: str
    variant: Mapping[str, Any]


def mistake(hint: str, **variant: Any) -> Mistake:
    return Mistake(hint, variant)


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def call_operation(function: Callable[..., Any], x: Any, dy: Any) -> Any:
    """An operation of automatic differentiation: it returns its value, and a function from dy to dx."""
    made = function(x)
    if not isinstance(made, tuple | list) or len(made) != 2 or not callable(made[1]):
        raise InputTypeError("it must return two things: the value, and a function from dy to dx")
    return made[0], made[1](dy)


@dataclass(frozen=True)
class Exercise:
    """A function that a student writes.

    Parameters
    ----------
    name : of the function
    text : the docstring of its stub: what it does, shapes, dtypes
    parameters : names of its arguments
    define : what it must give; keywords make it commit mistakes
    mistakes : the usual ones, the likeliest first
    example : arguments of the first call
    cases : strategy of tuples of arguments; None where the conformance kit draws them
    role : of the conformance kit, which then tries its properties; "" for none
    limits : restrictions of the kit, on which cases it draws
    call : how the function is called with the arguments
    tolerance : how far a number may be off, relative to 1 or to its size, if that is larger; 0: not at all
    judge : compares in place of the usual way: what is wrong with a result for these arguments, or ""
    picture : draws one output of a case: (arguments, index of the output) to lines
    signs : names of arguments that count by their signs alone, and are drawn as + and -
    last_hint : the hint where no mistake explains a result
    """

    name: str
    text: str
    parameters: tuple[str, ...]
    define: Callable[..., Any]
    mistakes: tuple[Mistake, ...]
    example: tuple[Any, ...]
    cases: st.SearchStrategy[tuple[Any, ...]] | None = None
    role: str = ""
    limits: Mapping[str, Any] = field(default_factory=dict)
    call: Callable[..., Any] = call
    tolerance: float = 0.0
    judge: Callable[[tuple[Any, ...], Any], str] | None = None
    picture: Callable[[tuple[Any, ...], tuple[int, ...]], str] | None = None
    signs: tuple[str, ...] = ()
    last_hint: str = ""


@dataclass(frozen=True)
class Lesson:
    """A lesson's exercises."""

    number: int
    title: str
    page: str  # in docs/course/
    exercises: tuple[Exercise, ...]
    imports: tuple[str, ...] = ()  # further lines at the top of its starter file
