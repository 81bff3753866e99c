"""Settings of all layers in the process: the backend, and the arithmetic of gradients."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.checks import BACKENDS
from xnor_ref.kernels.basics.rungs import has_vectors

BACKWARDS = ("auto", "fp32", "int8")

_now = {"binary_backend": "auto", "backward_in": "fp32"}


@contextmanager
def _chosen(setting: str, value: str, choices: tuple[str, ...]) -> Iterator[None]:
    if value not in choices:
        raise InputError(f"{setting}: must be one of {', '.join(choices)}, got {value!r}")
    previous, _now[setting] = _now[setting], value
    try:
        yield
    finally:
        _now[setting] = previous


def binary_backend(name: str) -> AbstractContextManager[None]:
    """Context manager: compute the integer convolutions of all binary layers by another backend.

    "auto" and "simd" use packed bits; in training they compute several layers at once (`nn/fused.py`). The other
    backends compute one layer after the other. "float" convolves matrices of +-1 with BLAS. It shares no code with the
    bit kernels, and is exact while sums stay below 2**24. "reference" and "numba" are the simpler versions of the bit
    kernels. The setting holds for the whole process, including other threads.
    """
    return _chosen("binary_backend", name, BACKENDS)


def current_backend() -> str:
    """Return the current setting of `binary_backend`."""
    return _now["binary_backend"]


def backward_in(arithmetic: str) -> AbstractContextManager[None]:
    """Context manager: multiply the gradients of binary convolutions in another arithmetic, in the whole process.

    "fp32" is the default. "int8" multiplies bytes, rounded at random, if the processor has the instructions (VNNI),
    and falls back to fp32 otherwise. "auto" is the same as "int8".
    """
    return _chosen("backward_in", arithmetic, BACKWARDS)


def multiplies_bytes() -> bool:
    """Whether the processor has the instructions that "int8" needs."""
    if not has_vectors():
        return False
    from xnor_ref.kernels.basics import target

    return target.multiplies_bytes()


def in_bytes(arithmetic: str) -> bool:
    """Whether gradients are multiplied in bytes inside `backward_in(arithmetic)`."""
    return arithmetic != "fp32" and multiplies_bytes()


def gradients_in_bytes() -> bool:
    """Whether gradients are currently multiplied in bytes."""
    return in_bytes(_now["backward_in"])
