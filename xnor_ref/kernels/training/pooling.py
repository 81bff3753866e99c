"""Pooling in training, forward and backward, on images (N, H, W, C), channels innermost; float32, C-contiguous.

The gradients are gathered: each input pixel adds those of the windows that contain it. So every pixel is written once,
nothing needs to be zeroed first, and windows may overlap. The first arguments of all kernels are a range of rows of all
images.
"""

import numpy as np
from numba import boolean, float32, intp, types, uint8, void
from numpy.typing import NDArray

from xnor_ref.kernels.basics.geometry import Pair, Window
from xnor_ref.kernels.basics.memory import empty
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.basics.threads import parallel_chunks
from xnor_ref.kernels.compiling.jit import compiled
from xnor_ref.kernels.compiling.jit import readonly as _in
from xnor_ref.kernels.compiling.jit import writable as _out
from xnor_ref.kernels.compiling.selftest import Case, reals, words
from xnor_ref.kernels.microkernels import window
from xnor_ref.kernels.microkernels.ir import LANES
from xnor_ref.kernels.training import batch_norm as norm
from xnor_ref.kernels.vectors import nhwc

Real = NDArray[np.float32]
Double = NDArray[np.float64]
Winner = NDArray[np.uint8]

NOBODY = window.NOBODY
_winner, _affine_winner = window.winner, window.affine_winner

_VECTORS, _ZERO = has_vectors(), np.float32(0)
_pair, _vector, _images = types.UniTuple(intp, 2), _in(float32, 1), _in(float32, 4)
_window = types.UniTuple(_pair, 4)  # `Window.numbers`
_winners = _in(uint8, 4)


@compiled(
    void(
        intp, intp, _images, _vector, _vector, boolean, _window, _out(float32, 4), _out(uint8, 4)
    ),
)  # fmt: skip
def pool_winners(start, stop, x, scale, shift, affine, window, y, winner):
    """Compute rows start..stop of the results: the maximum of each window of x, and its first tap.

    See `microkernels/window.py`.
    """
    kernel, stride, before, _ = window
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    pixel, row = channels * 4, width * channels * 4
    a, b = scale.ctypes.data, shift.ctypes.data
    for item in range(start, stop):
        image, oy = item // y.shape[1], item % y.shape[1]
        top = oy * stride[0] - before[0]
        first, last = max(0, top), min(height, top + kernel[0])
        for ox in range(y.shape[2]):
            left = ox * stride[1] - before[1]
            begin, end = max(0, left), min(width, left + kernel[1])
            tap = (first - top) * kernel[1] + begin - left
            if _VECTORS and channels >= LANES:
                at = x.ctypes.data + (image * height + first) * row + begin * pixel
                of = (item * y.shape[2] + ox) * channels
                best, won = y.ctypes.data + of * 4, winner.ctypes.data + of
                rows, columns = last - first, end - begin
                if affine:
                    _affine_winner(at, rows, row, columns, pixel, channels, best, won, tap, kernel[1], a, b)
                else:
                    _winner(at, rows, row, columns, pixel, channels, best, won, tap, kernel[1], a, b)
                continue
            for c in range(channels):
                value, found = np.float32(-np.inf), tap
                for iy in range(first, last):
                    for ix in range(begin, end):
                        v = x[image, iy, ix, c]
                        if affine:
                            v = v * scale[c] + shift[c]
                        if v > value:
                            value, found = v, (iy - top) * kernel[1] + ix - left
                if affine and not value > _ZERO:
                    value, found = _ZERO, NOBODY
                y[image, oy, ox, c] = value
                winner[image, oy, ox, c] = found


@compiled(_pair(intp, intp, intp, intp, intp))
def _windows(position, size, kernel, stride, padding):
    """Return the windows [first, last) that contain an input row or column."""
    shifted = position + padding
    return max(0, (shifted - kernel) // stride + 1), min(size, shifted // stride + 1)


@compiled(void(intp, intp, _images, _winners, _window, intp, intp, _out(float32, 4)))
def pool_gradient(start, stop, dy, winner, window, height, at, dx):
    """Compute the gradient of `pool_winners`, input of `height`: rows start..stop, written to dx from row `at` on."""
    kernel, stride, before, _ = window
    width, channels = dx.shape[2], dx.shape[3]
    out_h, out_w = dy.shape[1], dy.shape[2]
    source, won, target = dy.reshape(-1), winner.reshape(-1), dx.reshape(-1)
    length = np.uint64(channels)
    for item in range(start, stop):
        image, iy = item // height, item % height
        first_y, last_y = _windows(iy, out_h, kernel[0], stride[0], before[0])
        for ix in range(width):
            first_x, last_x = _windows(ix, out_w, kernel[1], stride[1], before[1])
            to = np.uint64(((at + item - start) * width + ix) * channels)
            fresh = True
            for oy in range(first_y, last_y):
                for ox in range(first_x, last_x):
                    of = np.uint64(((image * out_h + oy) * out_w + ox) * channels)
                    row, column = iy + before[0] - oy * stride[0], ix + before[1] - ox * stride[1]
                    tap = np.uint8(row * kernel[1] + column)
                    if fresh:
                        for c in range(length):
                            v = source[of + c]
                            target[to + c] = v if won[of + c] == tap else _ZERO
                        fresh = False
                    else:
                        for c in range(length):
                            v = source[of + c]
                            target[to + c] += v if won[of + c] == tap else _ZERO
            if fresh:
                for c in range(length):
                    target[to + c] = _ZERO


@compiled(void(intp, intp, _images, _window, _in(float32, 2), _out(float32, 4)))
def mean_gradient(start, stop, dy, window, shares, dx):
    """Compute the gradient of `nhwc.avg_pool` with respect to its input: rows start..stop of all images."""
    kernel, stride, before, _ = window
    height, width, channels = dx.shape[1], dx.shape[2], dx.shape[3]
    out_h, out_w = dy.shape[1], dy.shape[2]
    source, target = dy.reshape(-1), dx.reshape(-1)
    length = np.uint64(channels)
    for item in range(start, stop):
        image, iy = item // height, item % height
        first_y, last_y = _windows(iy, out_h, kernel[0], stride[0], before[0])
        for ix in range(width):
            first_x, last_x = _windows(ix, out_w, kernel[1], stride[1], before[1])
            to = np.uint64((item * width + ix) * channels)
            for c in range(length):
                target[to + c] = _ZERO
            for oy in range(first_y, last_y):
                for ox in range(first_x, last_x):
                    of, share = np.uint64(((image * out_h + oy) * out_w + ox) * channels), shares[oy, ox]
                    for c in range(length):
                        target[to + c] += source[of + c] * share


def _rows(x: Real) -> tuple[int, int]:
    """Return the number of all rows of x (N, H, W, C), and of rows per chunk."""
    return x.shape[0] * x.shape[1], max(1, norm.ROWS_CHUNK // x[0, 0].size)


def _pooled(x: Real, scale: Real | None, shift: Real | None, window: Window, threads):
    y = empty((len(x), *window.count(x.shape[1:3]), x.shape[3]))
    winner = np.empty(y.shape, np.uint8)
    none = np.empty(0, np.float32)
    a, b = (none, none) if scale is None else (scale, shift)

    def pool(start, stop):
        pool_winners(start, stop, x, a, b, scale is not None, window.numbers, y, winner)

    n_rows = y.shape[0] * y.shape[1]
    parallel_chunks(pool, n_rows, max(1, norm.ROWS_CHUNK // (x[0, 0].size * window.stride[0])), threads)
    return y, winner


def max_pool(x: Real, window: Window, threads: int | None = None) -> tuple[Real, Winner]:
    """Return the maximum of each window of x (N, H, W, C) and the first tap that has it; padding is never the maximum.

    Taps are numbered row by row; there are at most 256.
    """
    return _pooled(x, None, None, window, threads)


def norm_relu_pool(
    x: Real, scale: Real, shift: Real, window: Window, threads: int | None = None
) -> tuple[Real, Winner]:
    """Return `max_pool` of max(x*scale + shift, 0), as in `batch_norm.norm_relu`; at most 255 taps.

    The winner is `NOBODY` where the maximum is 0, so the gradient needs only the winners.
    """
    return _pooled(x, scale, shift, window, threads)


def max_pool_gradient(dy: Real, winner: Winner, size: Pair, window: Window, threads: int | None = None) -> Real:
    """Return the gradient of `max_pool` with respect to its input of (H, W) `size`: all of it goes to the winners."""
    dx = empty((len(dy), *size, dy.shape[3]))

    def route(start, stop):
        pool_gradient(start, stop, dy, winner, window.numbers, size[0], start, dx)

    parallel_chunks(route, *_rows(dx), threads)
    return dx


def norm_relu_pool_gradient(
    dy: Real,
    winner: Winner,
    x: Real,
    scale: Real,
    shift: Real,
    mean: Double,
    var: Double,
    gamma: Real,
    eps: float,
    window: Window,
    share: norm.Share | None = None,
    threads: int | None = None,
) -> tuple[norm.Write, Real, Real]:
    """Return the gradient of `norm_relu_pool` in training mode: a function that computes rows, dgamma and dbeta.

    As `batch_norm.norm_gradient`, with d' the gradient that reaches the winners of positive maxima. The function must
    be called for whole rows of images.
    """
    sums = norm.GradientSums(
        x, scale, shift, mean, False, share
    )  # no mask: the winners already select where the gradient goes
    width, channels = x.shape[2:]
    inputs = norm.rows_of(x)
    n_rows, chunk = _rows(x)

    def add_up(start, stop):
        routed = empty((1, stop - start, width, channels))
        pool_gradient(start, stop, dy, winner, window.numbers, x.shape[1], 0, routed)
        sums.add(norm.rows_of(routed), start * width)

    parallel_chunks(add_up, n_rows, chunk, threads)
    factors, dgamma, dbeta = sums.factors(var, gamma, eps)

    def write(start, stop, place):
        routed = place.reshape(1, -1, width, channels)
        pool_gradient(start // width, stop // width, dy, winner, window.numbers, x.shape[1], 0, routed)
        norm.apply_gradients(0, len(place), place, inputs[start:stop], *factors, place)

    return write, dgamma, dbeta


def avg_pool(x: Real, window: Window, shares: Real, threads: int | None = None) -> Real:
    """Return the mean of each window of x (N, H, W, C); a tap's weight is the window's share, (OH, OW)."""
    y = empty((len(x), *window.count(x.shape[1:3]), x.shape[3]))
    parallel_chunks(
        lambda start, stop: nhwc.avg_pool(start, stop, x, window.numbers, shares, y),
        y.shape[0] * y.shape[1], max(1, norm.ROWS_CHUNK // (x[0, 0].size * window.stride[0])), threads,
    )  # fmt: skip
    return y


def avg_pool_gradient(dy: Real, size: Pair, window: Window, shares: Real, threads: int | None = None) -> Real:
    """Return the gradient of `avg_pool` with respect to its input of (H, W) `size`."""
    dx = empty((len(dy), *size, dy.shape[3]))
    parallel_chunks(lambda start, stop: mean_gradient(start, stop, dy, window.numbers, shares, dx), *_rows(dx), threads)
    return dx


def global_avg_pool(x: Real, threads: int | None = None) -> Real:
    """Return the mean over all pixels of x (N, H, W, C) as (N, C), added up in float64 in order."""
    y = np.empty((len(x), x.shape[3]), np.float32)
    parallel_chunks(lambda start, stop: nhwc.global_mean(start, stop, x, y), len(x), 1, threads)
    return y


def global_avg_pool_gradient(dy: Real, size: Pair, threads: int | None = None) -> Real:
    """Return the gradient (N, H, W, C) of `global_avg_pool` with respect to its input of (H, W) `size`."""
    dx = empty((len(dy), *size, dy.shape[1]))
    share = (dy / np.float32(size[0] * size[1]))[:, None, None]
    parallel_chunks(lambda start, stop: np.copyto(dx[start:stop], share[start:stop]), len(dy), 1, threads)
    return dx


def known_answers() -> tuple[Case, ...]:
    """Return cases with known answers for the kernels; see `selftest`."""
    window = Window.of((3, 2), (2, 1), 1).numbers  # of 5 x 6 pixels: 3 x 7 results

    def pooled(channels, affine):
        y, winner = np.zeros((2, 3, 7, channels), np.float32), np.zeros((2, 3, 7, channels), np.uint8)
        scale, shift = reals(channels), reals(channels + 1)[1:]
        pool_winners(1, 6, reals(2, 5, 6, channels), scale, shift, affine, window, y, winner)
        return y, winner

    def given(channels):
        return reals(2, 3, 7, channels), (words(2, 3, 7, channels) % np.uint64(6)).astype(np.uint8)

    def routed(window, shape):
        dy, winner = reals(*shape), (words(*shape) % np.uint64(6)).astype(np.uint8)
        dx = np.ones((2, 5, 6, 19), np.float32)
        pool_gradient(1, 10, dy, winner, window, 5, 1, dx)
        return dx

    def spread_out():
        dx = np.ones((2, 5, 6, 19), np.float32)
        mean_gradient(1, 10, given(19)[0], window, np.full((3, 7), 1 / 6, np.float32), dx)
        return dx

    return (
        (_windows, lambda: (_windows(4, 3, 3, 2, 1), _windows(5, 2, 2, 3, 0)), [[2, 3], [2, 2]]),
        (pool_winners, lambda: pooled(5, False) + pooled(5, True), "a489ce756ed51930"),
        (pool_winners, lambda: pooled(37, False) + pooled(37, True), "273182840c401193"),
        (pool_gradient, lambda: routed(window, (2, 3, 7, 19)), "948ed4ffd4ca3882"),
        (pool_gradient, lambda: routed(Window.of((2, 3), (2, 3)).numbers, (2, 2, 2, 19)), "93bf1bf1b62dd24d"),
        (mean_gradient, spread_out, "2a181c897dd51ba4"),
    )
