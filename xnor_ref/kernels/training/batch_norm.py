"""BatchNorm, ReLU and sign in training, forward and backward, on images (N, H, W, C), channels innermost.

All passes are limited by memory. So there are few passes, and nothing is stored that can be computed again: y = x*scale
+ shift, and the mask of sign or ReLU, are computed again from x. Arrays are float32 and C-contiguous. Statistics are
float64, from float64 sums.

The kernels see x as rows (P, C) with P = N*H*W, and work on rows start..stop. Vectors with one number per channel may
be `repeated`, that is, hold the C numbers several times. Then that many rows are one run of the inner loop, which is
faster for small C. Sums are partial, over the rows of one call. `moments_of` and `gradients_of` add them, for callers
that take sums while the rows are cached. P is cut into chunks of a fixed size, so the bits of a result do not depend on
the number of threads.

A loop reads few arrays and writes one or two, because LLVM checks each pair for overlap and gives up beyond 8 pairs.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numba import float32, float64, intp, types, void
from numpy.typing import NDArray

from xnor_ref.kernels.basics.memory import empty
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.basics.threads import parallel_chunks
from xnor_ref.kernels.compiling.jit import compiled
from xnor_ref.kernels.compiling.jit import readonly as _in
from xnor_ref.kernels.compiling.jit import writable as _out
from xnor_ref.kernels.compiling.selftest import Case, reals
from xnor_ref.kernels.microkernels import sums
from xnor_ref.kernels.microkernels.ir import LANES
from xnor_ref.kernels.vectors import nhwc

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Range = tuple[np.float32, np.float32]
Write = Callable[[int, int, F32], None]  # rows start..stop of something to where they belong


class Share(Protocol):
    """These images as one of the `count` equal parts of a batch."""

    count: int

    def sums(self, own: F64) -> F64:
        """The sum over all parts of what each has."""


ROWS_CHUNK = 1 << 17  # elements of a chunk of rows: 0.5 MB
RUN = 512  # elements that a run of the inner loop should have about

_infinity = np.float32(np.inf)
MASKS: dict[str | bool, Range] = {  # the gradient passes where low < y <= high
    "sign": (np.nextafter(np.float32(-1), -_infinity), np.float32(1)),
    "relu": (np.float32(0), _infinity),
    False: (-_infinity, _infinity),
}

_ZERO = np.float32(0)
_LANES = LANES if has_vectors() else 1 << 62  # how long a vector is
_add_moments, _add_gradients = sums.moments, sums.gradients
_vector, _rows, _range = _in(float32, 1), _in(float32, 2), types.UniTuple(float32, 2)


@compiled(void(intp, intp, _rows, _in(float64, 1), _out(float64, 2)))
def partial_moments(start, stop, x, shift, sums):
    """sums (2, size of shift) = sum of x - shift, and of its square, over rows start..stop of x (P, C)."""
    channels, width = x.shape[1], shift.size
    source, total, second = x.reshape(-1), sums.reshape(-1), np.uint64(width)
    total[:] = 0
    one, a = sums.ctypes.data, shift.ctypes.data
    for first in range(start * channels, stop * channels, width):
        length = min(width, stop * channels - first)
        n, at = length // _LANES, x.ctypes.data + first * 4
        if n > 0:
            _add_moments(at, at, n, a, a, a, one, one + width * 8, _ZERO, _ZERO)
        of = np.uint64(first)
        for i in range(np.uint64(n * _LANES), np.uint64(length)):
            total[i] += np.float64(source[of + i]) - shift[i]
        for i in range(np.uint64(n * _LANES), np.uint64(length)):
            v = np.float64(source[of + i]) - shift[i]
            total[second + i] += v * v


@compiled(void(intp, intp, _rows, _rows, _vector, _vector, _vector, _range, _out(float64, 2)))
def partial_gradients(start, stop, d, x, scale, shift, centre, inside, sums):
    """sums (2, size of scale) = sum of d', and of d' * (x - centre), over rows start..stop of d and x (P, C).

    d' = d where low < x*scale + shift <= high with (low, high) = `inside`, else 0; see `MASKS`.
    """
    channels, width = x.shape[1], scale.size
    source, gradient, total, second = x.reshape(-1), d.reshape(-1), sums.reshape(-1), np.uint64(width)
    total[:] = 0
    low, high = inside
    one, a, b, c = sums.ctypes.data, scale.ctypes.data, shift.ctypes.data, centre.ctypes.data
    for first in range(start * channels, stop * channels, width):
        length = min(width, stop * channels - first)
        n, at = length // _LANES, first * 4
        if n > 0:
            x_at, d_at = x.ctypes.data + at, d.ctypes.data + at
            _add_gradients(x_at, d_at, n, a, b, c, one, one + width * 8, low, high)
        of = np.uint64(first)
        for i in range(np.uint64(n * _LANES), np.uint64(length)):
            y, v = source[of + i] * scale[i] + shift[i], gradient[of + i]
            total[i] += v if (y > low) & (y <= high) else _ZERO
        for i in range(np.uint64(n * _LANES), np.uint64(length)):
            y, v = source[of + i] * scale[i] + shift[i], gradient[of + i] * (source[of + i] - centre[i])
            total[second + i] += v if (y > low) & (y <= high) else _ZERO


@compiled(
    void(
        intp, intp, _rows, _rows, _vector, _vector, _vector, _range, _vector, _vector, _vector, _out(float32, 2)
    ),
)  # fmt: skip
def apply_gradients(start, stop, d, x, scale, shift, centre, inside, factor, slope, offset, dx):
    """dx = factor * d' - (slope * (x - centre) + offset) of rows start..stop; d' as above, and dx may be d."""
    channels, width = x.shape[1], scale.size
    source, gradient, target = x.reshape(-1), d.reshape(-1), dx.reshape(-1)
    low, high = inside
    in_place = d.ctypes.data == dx.ctypes.data  # a loop of its own, or the overlap would keep it from being vector code
    for first in range(start * channels, stop * channels, width):
        at = np.uint64(first)
        length = np.uint64(min(width, stop * channels - first))
        if in_place:
            for i in range(length):
                y = source[at + i] * scale[i] + shift[i]
                v = target[at + i] * factor[i]
                v = v if (y > low) & (y <= high) else _ZERO
                target[at + i] = v - (slope[i] * (source[at + i] - centre[i]) + offset[i])
        else:
            for i in range(length):
                y = source[at + i] * scale[i] + shift[i]
                v = gradient[at + i] * factor[i]
                v = v if (y > low) & (y <= high) else _ZERO
                target[at + i] = v - (slope[i] * (source[at + i] - centre[i]) + offset[i])


def repeats(channels: int) -> int:
    """How often the kernels' per-channel vectors should hold their numbers."""
    return max(1, RUN // channels)


def repeated(vector: NDArray) -> NDArray:
    """A per-channel vector (C,), several times over, as the kernels like it."""
    return np.tile(vector, repeats(vector.size))


def partial_sums(n_chunks: int, channels: int) -> F64:
    """Room for the sums of `n_chunks` calls of `partial_moments` or `partial_gradients`."""
    return np.empty((n_chunks, 2, channels * repeats(channels)))


def moments_of(parts: F64, shift: F64, count: int) -> tuple[F64, F64]:
    """Mean and biased variance (C,) from the `partial_moments` (chunks, 2, ...) of `count` rows; shift (C,)."""
    first, second = added_up(parts, shift.size) / count
    return shift + first, np.maximum(second - first * first, 0)


def gradients_of(parts: F64, mean: F64, var: F64, centre: F32, eps: float) -> tuple[F64, F64]:
    """dgamma and dbeta (C,) from the `partial_gradients` (chunks, 2, ...); centre (C,) is what they subtracted."""
    total, product = added_up(parts, mean.size)
    return (product - (mean - centre) * total) / np.sqrt(var + eps), total


def added_up(parts: F64, channels: int) -> F64:
    """What all calls of `partial_moments` or `partial_gradients` found, (2, C)."""
    return parts.reshape(len(parts), 2, -1, channels).sum(axis=(0, 2))


def factors_of(dgamma: F64, dbeta: F64, mean: F64, var: F64, gamma: F32, eps: float, count: int) -> Sequence[F32]:
    """(centre, factor, slope, offset) of `apply_gradients`, (C,) each."""
    inv_std = 1 / np.sqrt(var + eps)
    factor = gamma * inv_std
    slope = factor * inv_std * dgamma / count
    centre = mean.astype(np.float32)
    offset = factor * dbeta / count - slope * (mean - centre)
    return centre, factor.astype(np.float32), slope.astype(np.float32), offset.astype(np.float32)


def rows_of(x: F32) -> F32:
    """x (..., C) as (P, C)."""
    return x.reshape(-1, x.shape[-1])


def rows_of_a_chunk(channels: int) -> int:
    """How many rows of C numbers a chunk has."""
    return max(1, ROWS_CHUNK // channels)


def moments(x: F32, threads: int | None = None) -> tuple[F64, F64]:
    """Mean and biased variance of each channel of x (..., C), float64 (C,); exactly 0 where a channel is constant."""
    rows = rows_of(x)
    shift = rows[0].astype(np.float64)
    chunk = rows_of_a_chunk(shift.size)
    parts, wide = partial_sums(-(-len(rows) // chunk), shift.size), repeated(shift)
    parallel_chunks(
        lambda start, stop: partial_moments(start, stop, rows, wide, parts[start // chunk]), len(rows), chunk, threads
    )
    return moments_of(parts, shift, len(rows))


def norm_relu(
    x: F32, scale: F32, shift: F32, relu: bool = True, threads: int | None = None, out: F32 | None = None
) -> F32:
    """x*scale + shift of x (..., C), one rounded product and one rounded sum; negative ones become 0 if `relu`."""
    y = empty(x.shape) if out is None else out
    rows, result, a, b = rows_of(x), rows_of(y), repeated(scale), repeated(shift)
    floor = MASKS["relu" if relu else False][0]
    parallel_chunks(
        lambda start, stop: nhwc.affine(start, stop, rows, a, b, floor, result),
        len(rows), rows_of_a_chunk(scale.size), threads,
    )  # fmt: skip
    return y


class GradientSums:
    """The two sums over all rows that the gradient of BatchNorm needs, of images as they come.

    Parameters
    ----------
    x, scale, shift : float32 (N, H, W, C), (C,), (C,)
    mean : float64 (C,)
    mask : a key of `MASKS`
    share : if the batch, whose mean it is, has other parts besides x
    """

    def __init__(
        self, x: F32, scale: F32, shift: F32, mean: F64, mask: str | bool = "sign", share: Share | None = None
    ):
        self.share, self.rows, self.pixels, self.mean = share, rows_of(x), x.shape[1] * x.shape[2], mean
        self.centre, self.inside = mean.astype(np.float32), MASKS[mask]
        self.vectors = [repeated(v) for v in (scale, shift, self.centre)]
        self._parts: dict[int, F64] = {}

    def __call__(self, d: F32, start: int, stop: int) -> None:
        """Add images start..stop of d (N, H, W, C), on this thread; each image once."""
        self.add(rows_of(d[start:stop]), start * self.pixels)

    def add(self, rows: F32, start: int) -> None:
        """Add rows of d as (P, C), of which the first is number `start`, on this thread; each row once."""
        part, own = partial_sums(1, rows.shape[1]), self.rows[start : start + len(rows)]
        partial_gradients(0, len(rows), rows, own, *self.vectors, self.inside, part[0])
        self._parts[start] = part

    def factors(self, var: F64, gamma: F32, eps: float) -> tuple[Sequence[Any], F32, F32]:
        """What `apply_gradients` takes from scale to offset; dgamma and dbeta (C,), of these images alone.

        All rows must have been added.
        """
        parts = np.concatenate([self._parts[start] for start in sorted(self._parts)])  # whoever came first
        dgamma, dbeta = gradients_of(parts, self.mean, var, self.centre, eps)
        total, count = np.stack([dgamma, dbeta]), len(self.rows)
        if self.share is not None:
            total, count = self.share.sums(total), count * self.share.count
        factors = factors_of(total[0], total[1], self.mean, var, gamma, eps, count)[1:]
        arguments = *self.vectors, self.inside, *(repeated(v) for v in factors)
        return arguments, dgamma.astype(np.float32), dbeta.astype(np.float32)

    def __bool__(self) -> bool:
        """Whether anything was added."""
        return bool(self._parts)


def norm_gradient(
    d: F32, sums: GradientSums, var: F64, gamma: F32, eps: float, threads: int | None = None
) -> tuple[Write, F32, F32]:
    """Gradient of BatchNorm in training mode and of what follows it, a sign, a ReLU or nothing.

    The gradient d (N, H, W, C) first passes where |x*scale + shift| <= 1 (mask "sign": the straight-through estimator,
    Hubara et al. 2016, eq. 4), where it is > 0 ("relu"), or everywhere (False); x, its mean, scale, shift and the mask
    are those of `sums`, to which all of d was added, or nothing yet. With d' the result, P rows and
    n = (x - mean) / sqrt(var + eps):

        dbeta = sum d',  dgamma = sum d' n,  dx = gamma / sqrt(var + eps) * (d' - dbeta/P - n dgamma/P)

    (Ioffe and Szegedy 2015, section 3.) Returns a function that computes rows of dx as (P, C), on the calling thread,
    and may write them over those of d; dgamma and dbeta (C,). See `written`.
    """
    rows, inputs = rows_of(d), sums.rows
    if not sums:
        chunk = rows_of_a_chunk(gamma.size)
        parallel_chunks(lambda start, stop: sums.add(rows[start:stop], start), len(rows), chunk, threads)
    factors, dgamma, dbeta = sums.factors(var, gamma, eps)

    def write(start: int, stop: int, place: F32) -> None:
        apply_gradients(0, stop - start, rows[start:stop], inputs[start:stop], *factors, place)

    return write, dgamma, dbeta


def written(write: Write, out: F32, threads: int | None = None) -> F32:
    """All of `out` (N, H, W, C), by whole rows of images."""
    rows, width = rows_of(out), out.shape[2]
    chunk = max(1, rows_of_a_chunk(out.shape[3]) // width) * width
    parallel_chunks(lambda start, stop: write(start, stop, rows[start:stop]), len(rows), chunk, threads)
    return out


def known_answers() -> tuple[Case, ...]:
    """Return the known answers that the kernels must give before use; see `selftest`."""

    def channels(count, times):
        return tuple(np.tile(reals(count + k)[k:], times) for k in range(6))

    def moments(count, times):
        sums = np.zeros((1, 2, count * times))
        partial_moments(1, 39, reals(41, count), channels(count, times)[0].astype(np.float64), sums[0])
        return added_up(sums, count)  # which lane has what is the processor's

    def gradients(count, times):
        sums = np.zeros((1, 2, count * times))
        partial_gradients(
            1, 39, reals(42, count)[1:], reals(41, count), *channels(count, times)[:3], MASKS["relu"], sums[0]
        )
        return added_up(sums, count)

    def applied(mask, alone):
        d, dx = reals(43, 20)[2:], np.ones((41, 20), np.float32)
        a, b, c, e, f, g = channels(20, 3)
        apply_gradients(1, 39, d, reals(41, 20), a, b, c, MASKS[mask], e, f, g, d if alone else dx)
        return d, dx

    return (
        (partial_moments, lambda: moments(96, 2), "69150d16481ad6f8"),
        (partial_moments, lambda: moments(20, 3), "70054917b6232aba"),
        (partial_gradients, lambda: gradients(96, 2), "eee20f0a71110414"),
        (partial_gradients, lambda: gradients(20, 3), "1e6f65430030e10d"),
        (apply_gradients, lambda: applied("sign", True), "df2395c9bb3a2514"),
        (apply_gradients, lambda: applied(False, False), "9601c7cbed3c57f1"),
    )
