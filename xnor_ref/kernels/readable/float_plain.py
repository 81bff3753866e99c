"""Real-valued building blocks in Numba. `float_reference` defines what each one computes.

Inner loops run over contiguous memory without branches, so that LLVM vectorises them. There is no fastmath: products
and sums are rounded one by one, in the written order. Inner loops use flat arrays and unsigned indices: Numba would
check a signed index for wrap-around, and count references of a row view. Sums for BatchNorm are taken in float64, one
lane per pixel position, and the lanes are added at the end. This module imports Numba, so import it lazily.
"""

import numpy as np
from numba import boolean, float32, float64, intp, types, uint8, void

from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.compiling.jit import compiled
from xnor_ref.kernels.compiling.jit import readonly as _in
from xnor_ref.kernels.compiling.jit import writable as _out
from xnor_ref.kernels.compiling.selftest import Case, reals, words

_pair = types.UniTuple(intp, 2)
_window = types.UniTuple(_pair, 4)  # `Window.numbers`


@compiled(_pair(intp, intp, intp, intp, intp))
def _valid_range(out_size, size, stride, padding, tap):
    """Return the output positions [first, last) whose tap lies inside the image."""
    first = max(0, -((tap - padding) // stride))  # ceil((padding - tap) / stride)
    last = min(out_size, (size - 1 + padding - tap) // stride + 1)
    return first, max(first, last)


@compiled(
    void(_in(float32, 4), intp, intp, _window, _pair, float32, boolean, _out(float32, 2)),
)
def im2col(x, start, stop, window, out_size, pad_value, take_sign, cols):
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = window
    oh, ow = out_size
    channels, h, w = x.shape[1], x.shape[2], x.shape[3]
    one = np.float32(1)
    step = np.uint64(sw)
    source = x.reshape(-1)
    target = cols.reshape(-1)
    row = 0
    for c in range(channels):
        for i in range(kh):
            for j in range(kw):
                first, last = _valid_range(ow, w, sw, pw, j * dw)
                inside = np.uint64(last - first)
                for n in range(start, stop):
                    for y in range(oh):
                        iy = y * sh - ph + i * dh
                        if iy < 0 or iy >= h:
                            for v in range(row, row + ow):
                                target[np.uint64(v)] = pad_value
                            row += ow
                            continue
                        for v in range(row, row + first):
                            target[np.uint64(v)] = pad_value
                        for v in range(row + last, row + ow):
                            target[np.uint64(v)] = pad_value
                        at = np.uint64(row + first)
                        of = np.uint64(((n * channels + c) * h + iy) * w + first * sw + j * dw - pw)
                        if take_sign:
                            for v in range(inside):
                                target[at + v] = one if source[of + v * step] >= 0 else -one
                        elif sw == 1:
                            for v in range(inside):
                                target[at + v] = source[of + v]
                        else:
                            for v in range(inside):
                                target[at + v] = source[of + v * step]
                        row += ow


@compiled(void(_in(float32, 2), intp, intp, _window, _pair, _out(float32, 4)))
def col2im(cols, start, stop, window, out_size, dx):
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = window
    oh, ow = out_size
    channels, h, w = dx.shape[1], dx.shape[2], dx.shape[3]
    step = np.uint64(sw)
    source = cols.reshape(-1)
    target = dx.reshape(-1)
    row = 0
    for c in range(channels):
        for i in range(kh):
            for j in range(kw):
                first, last = _valid_range(ow, w, sw, pw, j * dw)
                inside = np.uint64(last - first)
                for n in range(start, stop):
                    for y in range(oh):
                        iy = y * sh - ph + i * dh
                        if 0 <= iy < h:
                            of = np.uint64(row + first)
                            at = np.uint64(((n * channels + c) * h + iy) * w + first * sw + j * dw - pw)
                            if sw == 1:
                                for v in range(inside):
                                    target[at + v] += source[of + v]
                            else:
                                for v in range(inside):
                                    target[at + v * step] += source[of + v]
                        row += ow


@compiled(
    void(
        _in(float32, 3), intp, intp, _in(float32, 1), _in(float32, 1), float64,
        _out(float32, 3), _out(float64, 1), _out(float64, 1),
    ),
)  # fmt: skip
def batch_norm_forward(x, start, stop, gamma, beta, eps, y, mean, var):
    count, pixels = x.shape[0], x.shape[2]
    lanes = np.empty(pixels, np.float64)
    for c in range(start, stop):
        lanes[:] = 0.0
        for n in range(count):
            plane = x[n, c]
            for p in range(pixels):
                lanes[p] += plane[p]
        centre = lanes.sum() / (count * pixels)
        lanes[:] = 0.0
        for n in range(count):
            plane = x[n, c]
            for p in range(pixels):
                d = plane[p] - centre
                lanes[p] += d * d
        spread = lanes.sum() / (count * pixels)
        mean[c] = centre
        var[c] = spread
        exact = gamma[c] / np.sqrt(spread + eps)
        scale = np.float32(exact)
        shift = np.float32(beta[c] - centre * exact)
        for n in range(count):
            plane = x[n, c]
            target = y[n, c]
            for p in range(pixels):
                target[p] = plane[p] * scale + shift


@compiled(
    void(
        _in(float32, 3), _in(float32, 3), intp, intp, _in(float32, 1), _in(float64, 1), _in(float64, 1), float64,
        _out(float32, 3), _out(float64, 1), _out(float64, 1),
    ),
)  # fmt: skip
def batch_norm_backward(dy, x, start, stop, gamma, mean, var, eps, dx, dgamma, dbeta):
    count, pixels = x.shape[0], x.shape[2]
    sums = np.empty(pixels, np.float64)
    products = np.empty(pixels, np.float64)
    for c in range(start, stop):
        centre = np.float32(mean[c])
        inv_std = np.float32(1.0 / np.sqrt(var[c] + eps))
        sums[:] = 0.0
        products[:] = 0.0
        for n in range(count):
            plane = x[n, c]
            grad = dy[n, c]
            for p in range(pixels):
                sums[p] += grad[p]
                products[p] += grad[p] * ((plane[p] - centre) * inv_std)
        dbeta[c] = sums.sum()
        dgamma[c] = products.sum()
        mean_dy = np.float32(dbeta[c] / (count * pixels))
        mean_dn = np.float32(dgamma[c] / (count * pixels))
        factor = gamma[c] * inv_std
        for n in range(count):
            plane = x[n, c]
            grad = dy[n, c]
            target = dx[n, c]
            for p in range(pixels):
                target[p] = (grad[p] - mean_dy - (plane[p] - centre) * inv_std * mean_dn) * factor


@compiled(
    void(_in(float32, 4), intp, intp, _window, _out(float32, 4), _out(uint8, 4)),
)
def max_pool_winners(x, start, stop, window, y, winner):
    (kh, kw), (sh, sw), (ph, pw), _ = window
    channels, h, w = x.shape[1], x.shape[2], x.shape[3]
    oh, ow = y.shape[2], y.shape[3]
    source = x.reshape(-1)
    best = y.reshape(-1)
    won = winner.reshape(-1)
    at = np.uint64(start * channels * oh * ow)
    for plane in range(start * channels, stop * channels):
        for v in range(oh):
            top = v * sh - ph
            first_i, last_i = max(0, -top), min(kh, h - top)
            for u in range(ow):
                left = u * sw - pw
                first_j, last_j = max(0, -left), min(kw, w - left)
                tap = first_i * kw + first_j
                value = source[np.uint64((plane * h + top + first_i) * w + left + first_j)]
                for i in range(first_i, last_i):
                    row = (plane * h + top + i) * w + left
                    for j in range(first_j, last_j):
                        other = source[np.uint64(row + j)]
                        better = other > value
                        value = other if better else value
                        tap = i * kw + j if better else tap
                best[at] = value
                won[at] = tap
                at += np.uint64(1)


@compiled(
    void(_in(float32, 4), _in(uint8, 4), intp, intp, _window, _out(float32, 4)),
)
def max_pool_backward(dy, winner, start, stop, window, dx):
    (_, kw), (sh, sw), (ph, pw), _ = window
    h, w = dx.shape[2], dx.shape[3]
    channels, oh, ow = dy.shape[1], dy.shape[2], dy.shape[3]
    source = dy.reshape(-1)
    won = winner.reshape(-1)
    target = dx.reshape(-1)
    at = np.uint64(start * channels * oh * ow)
    for plane in range(start * channels, stop * channels):
        for v in range(oh):
            for u in range(ow):
                tap = intp(won[at])
                row = plane * h + v * sh - ph + tap // kw
                target[np.uint64(row * w + u * sw - pw + tap % kw)] += source[at]
                at += np.uint64(1)


def known_answers() -> tuple[Case, ...]:
    """Return the known answers that the kernels must give before use; see `selftest`."""
    pair = (2, 3)
    x = reals(2, 2, 3, 37)
    planes = np.stack([reals(3, 37) + 3, 3 - reals(3, 37)])  # mean 3, exactly
    gamma, beta, mean, var = reals(3), reals(4)[1:], np.full(3, 3.0), np.array([2.0, 0.7, 11.0])

    def columns(stride, padding, signs, dilation=1):
        window = Window.of(pair, stride, padding, dilation)
        oh, ow = window.count((3, 37))
        cols = reals(12, oh * ow)
        im2col(x, 1, 2, window.numbers, (oh, ow), np.float32(0.5), signs, cols)
        return cols

    def scattered(stride, out_size, padding=1, dilation=1):
        window, dx = Window.of(pair, stride, padding, dilation), np.zeros((1, 1, 4, 36), np.float32)
        col2im(reals(6, out_size[0] * out_size[1]), 0, 1, window.numbers, out_size, dx)
        return dx

    def normalised():
        y, found, spread = np.zeros_like(planes), np.zeros(3), np.zeros(3)
        batch_norm_forward(planes, 1, 3, gamma, beta, 1e-3, y, found, spread)
        return y, found, spread

    def differentiated():
        dx, dgamma, dbeta = np.zeros_like(planes), np.zeros(3), np.zeros(3)
        batch_norm_backward(reals(2, 3, 37), planes, 0, 3, gamma, mean, var, 1e-3, dx, dgamma, dbeta)
        return dx, dgamma, dbeta

    def won():
        y, winner = np.zeros((2, 2, 2, 19), np.float32), np.zeros((2, 2, 2, 19), np.uint8)
        max_pool_winners(x, 0, 2, Window.of(pair, 2, 1).numbers, y, winner)
        return y, winner

    def returned():
        dx = np.zeros_like(x)
        winner = (words(2, 2, 2, 18) % np.uint64(4)).astype(np.uint8)
        max_pool_backward(reals(2, 2, 2, 18), winner, 0, 2, Window.of(2, (1, 2)).numbers, dx)
        return dx

    return (
        (_valid_range, lambda: (_valid_range(7, 12, 2, 3, 1), _valid_range(2, 3, 1, 0, 3)), [[1, 7], [0, 0]]),
        (im2col, lambda: columns((1, 1), (1, 1), False), "5b2e78b56bbc1b4a"),
        (im2col, lambda: columns((2, 2), (0, 4), False), "b5535e010b6ffb77"),
        (im2col, lambda: columns((1, 2), (2, 1), True), "9c089c7dadaf55ac"),
        (im2col, lambda: columns((2, 1), ((0, 2), (3, 1)), False, (2, 5)), "bcf9282aa6390f7b"),
        (col2im, lambda: scattered(1, (5, 37)), "7f06c486d3e6d8e1"),
        (col2im, lambda: scattered(2, (3, 19)), "b19b46dc30661d30"),
        (col2im, lambda: scattered(2, (2, 15), ((0, 2), (3, 1)), (2, 5)), "e8db11103f1db7a1"),
        (batch_norm_forward, normalised, "bada372a0791283d"),
        (batch_norm_backward, differentiated, "1d1802e33262a44a"),
        (max_pool_winners, won, "e84392870a9e5e04"),
        (max_pool_backward, returned, "9bd16b97ff3af419"),
    )
