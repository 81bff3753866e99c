"""Real-valued building blocks in Numba; `float_reference` says what each one computes.

Inner loops run over contiguous memory and hold no branch, so that LLVM vectorises them. No fastmath: products and sums
are rounded one by one, in the written order. Sums for BatchNorm are taken in float64, a lane per pixel position, and
the lanes are added at the end. Compiled at import, one signature each; import this module only when it is needed.
"""

import numpy as np
from numba import boolean, float32, float64, intp, njit, types, uint8, void
from numba import int32 as i32

_pair = types.UniTuple(intp, 2)


def _in(dtype, ndim):
    return types.Array(dtype, ndim, "C", readonly=True)


def _out(dtype, ndim):
    return types.Array(dtype, ndim, "C")


@njit(_pair(intp, intp, intp, intp, intp), nogil=True, cache=True)
def _valid_range(out_size, size, stride, padding, tap):
    """Output positions [first, last) whose tap falls inside the image."""
    first = max(0, -((tap - padding) // stride))  # ceil((padding - tap) / stride)
    last = min(out_size, (size - 1 + padding - tap) // stride + 1)
    return first, max(first, last)


@njit(
    void(_in(float32, 4), intp, intp, _pair, _pair, _pair, float32, boolean, _out(float32, 2)),
    nogil=True,
    cache=True,
)
def im2col(x, start, stop, kernel, stride, padding, pad_value, take_sign, cols):
    kh, kw = kernel
    sh, sw = stride
    ph, pw = padding
    channels, h, w = x.shape[1], x.shape[2], x.shape[3]
    oh = (h + 2 * ph - kh) // sh + 1
    ow = (w + 2 * pw - kw) // sw + 1
    one = np.float32(1)
    for n in range(stop - start):
        for c in range(channels):
            plane = x[start + n, c]
            for i in range(kh):
                for j in range(kw):
                    row = cols[(c * kh + i) * kw + j]
                    first, last = _valid_range(ow, w, sw, pw, j)
                    for y in range(oh):
                        at = (n * oh + y) * ow
                        line = row[at : at + ow]
                        iy = y * sh - ph + i
                        if iy < 0 or iy >= h:
                            line[:] = pad_value
                            continue
                        source = plane[iy]
                        line[:first] = pad_value
                        line[last:] = pad_value
                        shift = j - pw
                        if take_sign:
                            for v in range(first, last):
                                line[v] = one if source[v * sw + shift] >= 0 else -one
                        elif sw == 1:
                            for v in range(first, last):
                                line[v] = source[v + shift]
                        else:
                            for v in range(first, last):
                                line[v] = source[v * sw + shift]


@njit(void(_in(float32, 2), intp, intp, _pair, _pair, _pair, _pair, _out(float32, 4)), nogil=True, cache=True)
def col2im(cols, start, stop, kernel, stride, padding, out_size, dx):
    kh, kw = kernel
    sh, sw = stride
    ph, pw = padding
    oh, ow = out_size
    channels, h, w = dx.shape[1], dx.shape[2], dx.shape[3]
    for n in range(stop - start):
        for c in range(channels):
            plane = dx[start + n, c]
            for i in range(kh):
                for j in range(kw):
                    row = cols[(c * kh + i) * kw + j]
                    first, last = _valid_range(ow, w, sw, pw, j)
                    shift = j - pw
                    for y in range(oh):
                        iy = y * sh - ph + i
                        if iy < 0 or iy >= h:
                            continue
                        at = (n * oh + y) * ow
                        line = row[at : at + ow]
                        target = plane[iy]
                        if sw == 1:
                            for v in range(first, last):
                                target[v + shift] += line[v]
                        else:
                            for v in range(first, last):
                                target[v * sw + shift] += line[v]


@njit(
    void(
        _in(float32, 3), intp, intp, _in(float32, 1), _in(float32, 1), float64,
        _out(float32, 3), _out(float64, 1), _out(float64, 1),
    ),
    nogil=True,
    cache=True,
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


@njit(
    void(
        _in(float32, 3), _in(float32, 3), intp, intp, _in(float32, 1), _in(float64, 1), _in(float64, 1), float64,
        _out(float32, 3), _out(float64, 1), _out(float64, 1),
    ),
    nogil=True,
    cache=True,
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


@njit(
    void(_in(float32, 3), intp, intp, _in(float32, 1), _in(float32, 1), _out(float32, 3)),
    nogil=True,
    cache=True,
)
def affine(x, start, stop, scale, shift, y):
    for n in range(start, stop):
        for c in range(x.shape[1]):
            plane = x[n, c]
            target = y[n, c]
            a = scale[c]
            b = shift[c]
            for p in range(x.shape[2]):
                target[p] = plane[p] * a + b


@njit(
    void(_in(float32, 4), intp, intp, _pair, _pair, _pair, _out(float32, 4), _out(uint8, 4)),
    nogil=True,
    cache=True,
)
def max_pool_forward(x, start, stop, kernel, stride, padding, y, winner):
    kh, kw = kernel
    sh, sw = stride
    ph, pw = padding
    channels, h, w = x.shape[1], x.shape[2], x.shape[3]
    oh, ow = y.shape[2], y.shape[3]
    for n in range(start, stop):
        for c in range(channels):
            for v in range(oh):
                best = y[n, c, v]
                won = winner[n, c, v]
                best[:] = -np.inf
                won[:] = 0
                for i in range(kh):
                    iy = v * sh - ph + i
                    if iy < 0 or iy >= h:
                        continue
                    source = x[n, c, iy]
                    for j in range(kw):
                        first, last = _valid_range(ow, w, sw, pw, j)
                        shift = j - pw
                        tap = np.uint8(i * kw + j)
                        for u in range(first, last):
                            value = source[u * sw + shift]
                            better = value > best[u]
                            best[u] = value if better else best[u]
                            won[u] = tap if better else won[u]


@njit(
    void(_in(float32, 4), _in(uint8, 4), intp, intp, _pair, _pair, _pair, _out(float32, 4)),
    nogil=True,
    cache=True,
)
def max_pool_backward(dy, winner, start, stop, kernel, stride, padding, dx):
    kw = kernel[1]
    sh, sw = stride
    ph, pw = padding
    for n in range(start, stop):
        for c in range(dy.shape[1]):
            for v in range(dy.shape[2]):
                for u in range(dy.shape[3]):
                    tap = intp(winner[n, c, v, u])
                    dx[n, c, v * sh - ph + tap // kw, u * sw - pw + tap % kw] += dy[n, c, v, u]


@njit(
    void(_in(i32, 3), intp, intp, _in(float32, 1), boolean, _in(float32, 2), boolean, _out(float32, 3)),
    nogil=True,
    cache=True,
)
def scale_output(z, start, stop, alpha, has_alpha, k, has_k, y):
    one = np.float32(1)
    for n in range(start, stop):
        for o in range(z.shape[1]):
            source = z[n, o]
            target = y[n, o]
            a = alpha[o] if has_alpha else one
            if has_k:
                scale = k[n]
                for p in range(z.shape[2]):
                    target[p] = (np.float32(source[p]) * a) * scale[p]
            else:
                for p in range(z.shape[2]):
                    target[p] = np.float32(source[p]) * a


@njit(void(_in(float32, 1), _out(float32, 1), intp, intp), nogil=True, cache=True)
def mask_ste(x, dx, start, stop):
    for i in range(start, stop):
        dx[i] = dx[i] if abs(x[i]) <= np.float32(1) else np.float32(0)
