"""The errors that a user can cause. Each class has one exit code on the command line.

| exit code | class | meaning |
|---|---|---|
| 1 | any other exception | the system failed (out of memory, a disk error), or this project has a bug |
| 2 | `InputError`, `InputTypeError` | a wrong argument, option, shape, dtype or value |
| 3 | `DatasetError` | a data set or an image is missing, damaged or in the wrong layout |
| 4 | `ModelFileError`, `UnreadableError` | a model or checkpoint file is rejected or cannot be read |
| 5 | `NonFiniteError` | a loss, gradient or activation became NaN or infinite |
| 6 | `EquivalenceError` | two computations that must agree exactly do not |
| 7 | `OutputError` | a file could not be written (disk full, read-only, no permission) |
| 8 | `RankError` | a process of a distributed run was lost, or hangs |
"""

import numbers
import typing


class XnorRefError(Exception):
    """Base class of all errors raised on purpose. The message is for the user."""

    exit_code = 1


class InputError(XnorRefError, ValueError):
    """An argument has a wrong shape, size or value."""

    exit_code = 2


class InputTypeError(InputError, TypeError):
    """An argument has a wrong type or dtype."""


class DatasetError(XnorRefError):
    """A data set, archive or image is missing, damaged, malicious or in the wrong layout."""

    exit_code = 3


class ModelFileError(XnorRefError):
    """A model or checkpoint file is missing, damaged, altered or of an unsupported version."""

    exit_code = 4


class UnreadableError(ModelFileError):
    """The system cannot read a file: no permission, a disk error, too many open files. The file may be intact."""


class NonFiniteError(XnorRefError, ArithmeticError):
    """A NaN or infinity appeared where a number must be finite."""

    exit_code = 5


class EquivalenceError(XnorRefError):
    """Two results that must be equal differ."""

    exit_code = 6


class OutputError(XnorRefError, OSError):
    """A file could not be written. An existing file at that path is unchanged."""

    exit_code = 7


class RankError(XnorRefError):
    """A process of a distributed run does not answer any more."""

    exit_code = 8


def is_of_the_system(error: Exception) -> bool:
    """Whether the operating system raised the error (it has an errno). Parsers also raise OSError, without one."""
    return isinstance(error, OSError) and bool(error.errno)


def is_integer(value: object) -> typing.TypeGuard[int]:
    """Whether `value` is a Python or NumPy integer. Booleans are not integers."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_integer(what: str, value: object, low: int | None = None, high: int | None = None) -> int:
    """Return `value` as an int, after checking that it lies from `low` to `high`. A bound of None is not checked.

    Error messages begin with `what`.

    Raises
    ------
    InputTypeError : `value` is not an integer
    InputError : `value` is out of range
    """
    if not is_integer(value):
        raise InputTypeError(f"{what} must be an int, got {value!r}")
    if (low is not None and value < low) or (high is not None and value > high):
        wanted = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InputError(f"{what} must be {wanted}, got {value}")
    return int(value)
