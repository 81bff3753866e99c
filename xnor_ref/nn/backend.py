"""What computes: the choices that hold for all layers of the process."""

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
    """Compute the integer convolutions of all binary layers by another path while inside.

    "auto" and "simd" take packed bits, and in training several layers at a time (`nn/fused.py`); the others take one
    layer after the other. "float" convolves matrices of +-1 with BLAS, which shares no code with the bits and is exact
    as long as sums stay below 2**24; "reference" and "numba" are the rungs of the bit kernels.
    The choice holds for the whole process, so also for layers that other threads run meanwhile.
    """
    return _chosen("binary_backend", name, BACKENDS)


def current_backend() -> str:
    """What `binary_backend` says at the moment."""
    return _now["binary_backend"]


def backward_in(arithmetic: str) -> AbstractContextManager[None]:
    """Multiply the gradients of binary convolutions in another arithmetic while inside; for the whole process.

    "fp32", as it is outside; "int8", in bytes that are rounded at random, where the processor has the instructions
    (VNNI), in fp32 elsewhere; "auto" is "int8".
    """
    return _chosen("backward_in", arithmetic, BACKWARDS)


def multiplies_bytes() -> bool:
    """Whether the processor has what "int8" needs."""
    if not has_vectors():
        return False
    from xnor_ref.kernels.basics import target

    return target.multiplies_bytes()


def in_bytes(arithmetic: str) -> bool:
    """Whether gradients are multiplied in bytes inside of `backward_in(arithmetic)`."""
    return arithmetic != "fp32" and multiplies_bytes()


def gradients_in_bytes() -> bool:
    """Whether gradients are multiplied in bytes at the moment."""
    return in_bytes(_now["backward_in"])
