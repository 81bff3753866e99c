"""What computes: the choices that hold for all layers of the process."""

from collections.abc import Iterator
from contextlib import contextmanager

from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.checks import BACKENDS
from xnor_ref.kernels.basics.rungs import has_vectors

BACKWARDS = ("auto", "fp32", "int8")

_backend = "auto"
_backward = "fp32"


@contextmanager
def binary_backend(name: str) -> Iterator[None]:
    """Compute the integer convolutions of all binary layers by another path while inside.

    "auto" and "simd" take packed bits, and in training several layers at a time (`nn/fused.py`); the others take one
    layer after the other. "float" convolves matrices of +-1 with BLAS, which shares no code with the bits and is exact
    as long as sums stay below 2**24; "reference" and "numba" are the rungs of the bit kernels.
    The choice holds for the whole process, so also for layers that other threads run meanwhile.
    """
    global _backend
    if name not in BACKENDS:
        raise InputError(f"binary_backend: must be one of {', '.join(BACKENDS)}, got {name!r}")
    previous, _backend = _backend, name
    try:
        yield
    finally:
        _backend = previous


def current_backend() -> str:
    """What `binary_backend` says at the moment."""
    return _backend


@contextmanager
def backward_in(arithmetic: str) -> Iterator[None]:
    """Multiply the gradients of binary convolutions in another arithmetic while inside; for the whole process.

    "fp32", as it is outside; "int8", in bytes that are rounded at random, where the processor has the instructions
    (VNNI), in fp32 elsewhere; "auto" is "int8".
    """
    global _backward
    if arithmetic not in BACKWARDS:
        raise InputError(f"backward_in: must be one of {', '.join(BACKWARDS)}, got {arithmetic!r}")
    previous, _backward = _backward, arithmetic
    try:
        yield
    finally:
        _backward = previous


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
    return in_bytes(_backward)
