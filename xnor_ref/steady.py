"""The same arithmetic in every thread, whatever other libraries set the processor to.

A library may have subnormal numbers taken for 0, or results rounded another way, for the thread that calls it; threads
that this one starts inherit it. Then signs and sums would depend on the thread that computes them.
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
_SMALL, _ONE, _HALF, _MORE = 2.0**-1022, 1.0, 2.0**-53, 1.5 * 2.0**-53  # names, so that Python computes when it runs
_FENV_BYTES = 256  # more than any fenv_t has


def is_usual() -> bool:
    """Whether this thread keeps subnormal numbers and rounds to the nearest, asked of the arithmetic itself."""
    return _SMALL * 0.5 != 0.0 and _ONE + _HALF == _ONE and _ONE + _MORE != _ONE and -_ONE - _HALF == -_ONE


def settle() -> None:
    """Set this thread to the usual arithmetic. Raises InputError where that is not possible."""
    try:
        library = ctypes.CDLL(None)
        darwin = sys.platform == "darwin"
        usual = ctypes.byref(ctypes.c_char.in_dll(library, "_FE_DFL_ENV")) if darwin else ctypes.c_void_p(-1)
        library.fesetenv(usual)
    except (OSError, TypeError, ValueError, AttributeError):  # not on this operating system
        pass
    if not is_usual():
        raise InputError(
            "another library set this thread to flush subnormal numbers to zero, or to round another way than to the "
            "nearest, and that cannot be changed here; call xnor_ref from another thread, or undo the setting"
        )


def setting() -> "ctypes.Array[ctypes.c_char] | None":
    """How this thread computes, to be given to `restore`; None where that cannot be asked."""
    if sys.platform == "win32":
        return None
    found = ctypes.create_string_buffer(_FENV_BYTES)
    ctypes.CDLL(None).fegetenv(found)
    return found


def restore(found: "ctypes.Array[ctypes.c_char] | None") -> None:
    """Have this thread compute as it did when `setting` was called."""
    if found is not None:
        ctypes.CDLL(None).fesetenv(found)


@contextmanager
def _settled() -> Iterator[None]:
    """The usual arithmetic inside, and what there was before after it."""
    before = setting()
    settle()
    try:
        yield
    finally:
        restore(before)


def steady(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorator: the function computes with the usual arithmetic, whatever its caller's is."""

    @functools.wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if is_usual():
            return function(*args, **kwargs)
        with _settled():
            return function(*args, **kwargs)

    return run
