"""Which of the implementations of the kernels compute: compiled ones, or NumPy's."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_reference_only = False


@cache
def _settings() -> Any:
    """Numba's; an import takes as long as a small kernel."""
    from numba import config

    return config


def jit_disabled() -> bool:
    """Whether Numba's compiler is off (NUMBA_DISABLE_JIT), so that its kernels would run as slow Python."""
    return bool(_settings().DISABLE_JIT)


def without_kernels() -> bool:
    """Whether the NumPy references compute everything: because they shall, or because Numba's compiler is off."""
    return _reference_only or jit_disabled()


@contextmanager
def reference_only(only: bool = True) -> Iterator[None]:
    """Compute with the NumPy references alone while inside (unless `only` is False); for the whole process."""
    global _reference_only
    previous, _reference_only = _reference_only, _reference_only or only
    try:
        yield
    finally:
        _reference_only = previous


def has_vectors() -> bool:
    """Whether the processor has vectors that the SIMD rung pays on, and Numba compiles."""
    if without_kernels():
        return False
    from xnor_ref.kernels.basics.target import target

    return target() is not None
