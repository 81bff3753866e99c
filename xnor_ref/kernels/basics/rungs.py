"""The choice between compiled kernels and NumPy's references."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_reference_only = False


@cache
def _settings() -> Any:
    """Return Numba's settings. The import is late because it takes as long as a small kernel."""
    from numba import config

    return config


def jit_disabled() -> bool:
    """Whether Numba's compiler is disabled (NUMBA_DISABLE_JIT). Kernels would then run as slow Python."""
    return bool(_settings().DISABLE_JIT)


def without_kernels() -> bool:
    """Whether the NumPy references compute everything: by choice, or because Numba's compiler is disabled."""
    return _reference_only or jit_disabled()


@contextmanager
def reference_only(only: bool = True) -> Iterator[None]:
    """Context manager: use only the NumPy references (unless `only` is False), in the whole process."""
    global _reference_only
    previous, _reference_only = _reference_only, _reference_only or only
    try:
        yield
    finally:
        _reference_only = previous


def has_vectors() -> bool:
    """Whether the processor has vectors on which the SIMD kernels are faster, and Numba's compiler is enabled."""
    if without_kernels():
        return False
    from xnor_ref.kernels.basics.target import target

    return target() is not None
