"""The default floating-point arithmetic in every thread, whatever mode other libraries set.

A library may set its thread to flush subnormal numbers to zero, or to use another rounding mode. Threads that this
thread starts inherit the mode. Signs and sums would then depend on which thread computes them.
"""

import ctypes
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from xnor_ref.errors import InputError

_P = ParamSpec("_P")
_R = TypeVar("_R")
_SMALL, _ONE, _HALF, _MORE = 2.0**-1022, 1.0, 2.0**-53, 1.5 * 2.0**-53  # names stop constant folding
_FENV_BYTES = 256  # more than any fenv_t has


def is_usual() -> bool:
    """Whether this thread keeps subnormal numbers and rounds to nearest. Tested by computing with them."""
    return _SMALL * 0.5 != 0.0 and _ONE + _HALF == _ONE and _ONE + _MORE != _ONE and -_ONE - _HALF == -_ONE


def settle() -> None:
    """Set this thread to the default arithmetic. Raises InputError if that is not possible."""
    try:
        library = ctypes.CDLL(None)
        darwin = sys.platform == "darwin"
        usual = ctypes.byref(ctypes.c_char.in_dll(library, "_FE_DFL_ENV")) if darwin else ctypes.c_void_p(-1)
        library.fesetenv(usual)
    except (OSError, TypeError, ValueError, AttributeError):  # not available on this operating system
        pass
    if not is_usual():
        raise InputError(
            "another library set this thread to flush subnormal numbers to zero or to change rounding, and the mode "
            "cannot be changed here; call xnor_ref from another thread, or undo the setting"
        )


def setting() -> "ctypes.Array[ctypes.c_char] | None":
    """Return this thread's floating-point mode, for `restore`; None if it cannot be read."""
    if sys.platform == "win32":
        return None
    found = ctypes.create_string_buffer(_FENV_BYTES)
    ctypes.CDLL(None).fegetenv(found)
    return found


def restore(found: "ctypes.Array[ctypes.c_char] | None") -> None:
    """Set this thread's floating-point mode to what `setting` returned."""
    if found is not None:
        ctypes.CDLL(None).fesetenv(found)


@contextmanager
def _settled() -> Iterator[None]:
    """Context manager: the default arithmetic inside, the former mode again afterwards."""
    before = setting()
    settle()
    try:
        yield
    finally:
        restore(before)


def steady(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorator: run a function with the default arithmetic, whatever its caller's mode."""

    @functools.wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if is_usual():
            return function(*args, **kwargs)
        with _settled():
            return function(*args, **kwargs)

    return run
