"""Every error that a user can cause, each class with the exit code that the command line gives it.

| exit code | class | meaning |
|---|---|---|
| 1 | any other exception | too little memory, a failing disk or the like; else a bug in this project |
| 2 | `InputError`, `InputTypeError` | a wrong argument, option, shape, dtype or value |
| 3 | `DatasetError` | a data set or an image is missing, damaged or in a wrong layout |
| 4 | `ModelFileError`, `UnreadableError` | a model or checkpoint file is refused, or cannot be read |
| 5 | `NonFiniteError` | a loss, gradient or activation became NaN or infinite |
| 6 | `EquivalenceError` | two computations that must agree exactly do not |
| 7 | `OutputError` | a file could not be written (disk full, read-only, no permission) |
"""

import numbers
import typing


class XnorRefError(Exception):
    """Base of all errors raised on purpose; the message is meant for the user."""

    exit_code = 1


class InputError(XnorRefError, ValueError):
    """An argument has a wrong shape, size or value."""

    exit_code = 2


class InputTypeError(InputError, TypeError):
    """An argument has a wrong type or dtype."""


class DatasetError(XnorRefError):
    """A data set, archive or image is missing, damaged, hostile or in a wrong layout."""

    exit_code = 3


class ModelFileError(XnorRefError):
    """A model or checkpoint file is missing, damaged, altered or of another version."""

    exit_code = 4


class UnreadableError(ModelFileError):
    """A file cannot be read just now: no permission, a failing disk, too many open files. It may be sound."""


class NonFiniteError(XnorRefError, ArithmeticError):
    """A NaN or infinity appeared where a finite number must be."""

    exit_code = 5


class EquivalenceError(XnorRefError):
    """An equivalence that must hold exactly was found broken."""

    exit_code = 6


class OutputError(XnorRefError, OSError):
    """A file could not be written; what was there before is untouched."""

    exit_code = 7


def is_of_the_system(error: Exception) -> bool:
    """Whether the operating system refused something, which may pass; parsers raise OSError too, without a number."""
    return isinstance(error, OSError) and bool(error.errno)


def is_integer(value: object) -> typing.TypeGuard[int]:
    """Whether `value` is an integer, of Python or NumPy; booleans are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_integer(what: str, value: object, low: int | None = None, high: int | None = None) -> int:
    """`value` as an int from `low` to `high`, if they are given; errors begin with `what`.

    Raises
    ------
    InputTypeError : it is no integer
    InputError : it is out of range
    """
    if not is_integer(value):
        raise InputTypeError(f"{what} must be an int, got {value!r}")
    if (low is not None and value < low) or (high is not None and value > high):
        wanted = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InputError(f"{what} must be {wanted}, got {value}")
    return int(value)
