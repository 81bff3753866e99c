"""ReActNet's activation in training, forward and backward, on images (N, H, W, C), channels innermost.

    t = x + before,   y = (t if t >= 0 else slope t) + after        (RPReLU: Liu et al. 2020, equation 11)

with one `before`, `slope` and `after` per channel. Each operation is rounded, as in the layers `Shift`, `PReLU` and
`Shift` in sequence. PReLU alone has zeros for both shifts. Arrays are float32 and C-contiguous.

As in `batch_norm`, the kernels see x as rows (P, C), and vectors with one number per channel may be `repeated`. Sums
are partial: P is cut into chunks of a fixed size, so the result does not depend on the number of threads.
"""

import numpy as np
from numba import float32, intp, void
from numpy.typing import NDArray

from xnor_ref.kernels.basics.memory import empty
from xnor_ref.kernels.basics.threads import parallel_chunks
from xnor_ref.kernels.compiling.jit import compiled
from xnor_ref.kernels.compiling.jit import readonly as _in
from xnor_ref.kernels.compiling.jit import writable as _out
from xnor_ref.kernels.compiling.selftest import Case, reals
from xnor_ref.kernels.training.batch_norm import (
    added_up,
    partial_gradients,
    partial_moments,
    partial_sums,
    repeated,
    rows_of,
    rows_of_a_chunk,
)

F32 = NDArray[np.float32]
_ZERO = np.float32(0)
_NEGATIVE = (np.float32(-np.inf), np.nextafter(_ZERO, np.float32(-1)))  # where t < 0, as a key of `MASKS` would say it
_vector, _rows = _in(float32, 1), _in(float32, 2)


@compiled(void(intp, intp, _rows, _vector, _vector, _vector, _out(float32, 2)))
def rprelu_rows(start, stop, x, before, slope, after, y):
    """Rows start..stop of y from those of x (P, C)."""
    channels, width = x.shape[1], slope.size
    source, target = x.reshape(-1), y.reshape(-1)
    for first in range(start * channels, stop * channels, width):
        at = np.uint64(first)
        for i in range(np.uint64(min(width, stop * channels - first))):
            t = source[at + i] + before[i]
            target[at + i] = (t if t >= _ZERO else slope[i] * t) + after[i]


@compiled(void(intp, intp, _rows, _rows, _vector, _vector, _out(float32, 2)))
def rprelu_gradient_rows(start, stop, d, x, before, slope, dx):
    """Rows start..stop of dx from those of d = dy."""
    channels, width = x.shape[1], slope.size
    source, gradient, target = x.reshape(-1), d.reshape(-1), dx.reshape(-1)
    for first in range(start * channels, stop * channels, width):
        at = np.uint64(first)
        for i in range(np.uint64(min(width, stop * channels - first))):
            v = gradient[at + i]
            target[at + i] = slope[i] * v if source[at + i] + before[i] < _ZERO else v


def rprelu(x: F32, before: F32, slope: F32, after: F32, threads: int | None = None) -> F32:
    """y (..., C) of x (..., C); before, slope and after (C,)."""
    y = empty(x.shape)
    rows, result, vectors = rows_of(x), rows_of(y), [repeated(v) for v in (before, slope, after)]
    parallel_chunks(
        lambda start, stop: rprelu_rows(start, stop, rows, *vectors, result),
        len(rows), rows_of_a_chunk(slope.size), threads,
    )  # fmt: skip
    return y


def rprelu_gradient(dy: F32, x: F32, before: F32, slope: F32, threads: int | None = None) -> tuple[F32, F32, F32, F32]:
    """dx (..., C) and the gradients (C,) of before, slope and after; sums are float64, then rounded."""
    dx, channels, chunk = empty(x.shape), slope.size, rows_of_a_chunk(slope.size)
    d, rows, result = rows_of(dy), rows_of(x), rows_of(dx)
    one, none = repeated(np.ones(channels, np.float32)), repeated(np.zeros(channels))
    shift, factor, centre = repeated(before), repeated(slope), repeated(-before)
    of_negative, of_all = (partial_sums(-(-len(rows) // chunk), channels) for _ in range(2))

    def some(start: int, stop: int) -> None:
        rprelu_gradient_rows(start, stop, d, rows, shift, factor, result)
        partial_gradients(start, stop, d, rows, one, shift, centre, _NEGATIVE, of_negative[start // chunk])
        partial_moments(start, stop, d, none, of_all[start // chunk])

    parallel_chunks(some, len(rows), chunk, threads)
    negative, with_t = added_up(of_negative, channels)
    everything = added_up(of_all, channels)[0]
    found = everything - negative + slope * negative, with_t, everything
    return dx, *(v.astype(np.float32) for v in found)  # type: ignore[return-value]


def known_answers() -> tuple[Case, ...]:
    """Return the known answers that the kernels must give before use; see `selftest`."""

    def vectors(times):
        return tuple(np.tile(reals(20 + k)[k:], times) for k in range(3))

    def forward():
        y = np.ones((41, 20), np.float32)
        rprelu_rows(1, 39, reals(41, 20), *vectors(3), y)
        return y

    def backward():
        dx = np.ones((41, 20), np.float32)
        rprelu_gradient_rows(1, 39, reals(43, 20)[2:], reals(41, 20), *vectors(3)[:2], dx)
        return dx

    return ((rprelu_rows, forward, "aa8a484e1d5507df"), (rprelu_gradient_rows, backward, "ca0b2876ecb16729"))
