"""Multiplication by the matrices of Winograd's F(2, 3) and F(2, 5), along lines of numbers, for `winograd.py`.

The room's page has the matrices. A kernel applies one of them to numbers j < n of the lines x[of + j],
x[of + step + j], ... and writes the lines y[to + j], y[to + jump + j], ... With `small` it is F(2, 3)'s matrix, else
F(2, 5)'s.
"""

from functools import partial

import numpy as np
from numba import boolean, float32, uint64, void

from xnor_ref.kernels.compiling.jit import compiled
from xnor_ref.kernels.compiling.jit import readonly as _in
from xnor_ref.kernels.compiling.jit import writable as _out
from xnor_ref.kernels.compiling.selftest import Case, reals

_part = _in(float32, 1), uint64, uint64, _out(float32, 1), uint64, uint64, uint64
_F = np.float32
_HALF, _A, _B, _P, _Q = _F(1 / 2), _F(3 / 4), _F(3 / 2), _F(9 / 16), _F(9 / 4)
_PQ, _SUM = _F(81 / 64), _F(45 / 16)  # p q, and p + q
_BY_PQ, _BY_R, _BY_S = _F(64 / 81), _F(-128 / 243), _F(32 / 243)  # reciprocals
_2, _3, _4, _5 = (np.uint64(n) for n in range(2, 6))


@compiled(void(boolean, *_part), forceinline=True)
def inputs(small, x, of, step, y, to, jump, n):
    """B^T x."""
    if small:
        for j in range(n):
            d0, d1, d2, d3 = x[of + j], x[of + step + j], x[of + _2 * step + j], x[of + _3 * step + j]
            y[to + j] = d0 - d2
            y[to + jump + j] = d1 + d2
            y[to + _2 * jump + j] = d2 - d1
            y[to + _3 * jump + j] = d1 - d3
    else:
        for j in range(n):
            d0, d1, d2 = x[of + j], x[of + step + j], x[of + _2 * step + j]
            d3, d4, d5 = x[of + _3 * step + j], x[of + _4 * step + j], x[of + _5 * step + j]
            even_a, odd_a = d4 - _Q * d2, _A * (d3 - _Q * d1)
            even_b, odd_b = d4 - _P * d2, _B * (d3 - _P * d1)
            y[to + j] = _PQ * d0 - _SUM * d2 + d4
            y[to + jump + j] = even_a + odd_a
            y[to + _2 * jump + j] = even_a - odd_a
            y[to + _3 * jump + j] = even_b + odd_b
            y[to + _4 * jump + j] = even_b - odd_b
            y[to + _5 * jump + j] = _PQ * d1 - _SUM * d3 + d5


@compiled(void(boolean, *_part), forceinline=True)
def gradients(small, x, of, step, y, to, jump, n):
    """A x."""
    for j in range(n):
        d0, d1 = x[of + j], x[of + step + j]
        y[to + j] = d0
        if small:
            y[to + jump + j] = d0 + d1
            y[to + _2 * jump + j] = d0 - d1
            y[to + _3 * jump + j] = -d1
        else:
            y[to + jump + j] = d0 + _A * d1
            y[to + _2 * jump + j] = d0 - _A * d1
            y[to + _3 * jump + j] = d0 + _B * d1
            y[to + _4 * jump + j] = d0 - _B * d1
            y[to + _5 * jump + j] = d1


@compiled(void(boolean, *_part), forceinline=True)
def filters(small, x, of, step, y, to, jump, n):
    """G x."""
    if small:
        for j in range(n):
            g0, g1, g2 = x[of + j], x[of + step + j], x[of + _2 * step + j]
            y[to + j] = g0
            y[to + jump + j] = _HALF * (g0 + g2 + g1)
            y[to + _2 * jump + j] = _HALF * (g0 + g2 - g1)
            y[to + _3 * jump + j] = g2
    else:
        for j in range(n):
            g0, g1, g2 = x[of + j], x[of + step + j], x[of + _2 * step + j]
            g3, g4 = x[of + _3 * step + j], x[of + _4 * step + j]
            even_a, odd_a = g0 + _P * (g2 + _P * g4), _A * (g1 + _P * g3)
            even_b, odd_b = g0 + _Q * (g2 + _Q * g4), _B * (g1 + _Q * g3)
            y[to + j] = _BY_PQ * g0
            y[to + jump + j] = _BY_R * (even_a + odd_a)
            y[to + _2 * jump + j] = _BY_R * (even_a - odd_a)
            y[to + _3 * jump + j] = _BY_S * (even_b + odd_b)
            y[to + _4 * jump + j] = _BY_S * (even_b - odd_b)
            y[to + _5 * jump + j] = g4


@compiled(void(boolean, *_part), forceinline=True)
def outputs(small, x, of, step, y, to, jump, n):
    """A^T x."""
    for j in range(n):
        m0, m1, m2, m3 = x[of + j], x[of + step + j], x[of + _2 * step + j], x[of + _3 * step + j]
        if small:
            y[to + j] = m0 + m1 + m2
            y[to + jump + j] = m1 - m2 - m3
        else:
            m4, m5 = x[of + _4 * step + j], x[of + _5 * step + j]
            y[to + j] = m0 + (m1 + m2) + (m3 + m4)
            y[to + jump + j] = _A * (m1 - m2) + _B * (m3 - m4) + m5


@compiled(void(boolean, *_part), forceinline=True)
def filter_gradients(small, x, of, step, y, to, jump, n):
    """G^T x."""
    if small:
        for j in range(n):
            s0, s1, s2, s3 = x[of + j], x[of + step + j], x[of + _2 * step + j], x[of + _3 * step + j]
            both = _HALF * (s1 + s2)
            y[to + j] = s0 + both
            y[to + jump + j] = _HALF * (s1 - s2)
            y[to + _2 * jump + j] = both + s3
    else:
        for j in range(n):
            s0, s1, s2 = x[of + j], x[of + step + j], x[of + _2 * step + j]
            s3, s4, s5 = x[of + _3 * step + j], x[of + _4 * step + j], x[of + _5 * step + j]
            even_a, odd_a = _BY_R * (s1 + s2), _BY_R * (_A * (s1 - s2))
            even_b, odd_b = _BY_S * (s3 + s4), _BY_S * (_B * (s3 - s4))
            y[to + j] = _BY_PQ * s0 + even_a + even_b
            y[to + jump + j] = odd_a + odd_b
            y[to + _2 * jump + j] = _P * even_a + _Q * even_b
            y[to + _3 * jump + j] = _P * odd_a + _Q * odd_b
            y[to + _4 * jump + j] = _P * (_P * even_a) + _Q * (_Q * even_b) + s5


def known_answers() -> tuple[Case, ...]:
    """Return cases with known answers for the kernels; see `selftest`."""
    digests = (
        (inputs, "db65b33550d48c75", "d1de0683bf09651f"),
        (gradients, "19f606553ca5ee24", "beb7544d1ca9c572"),
        (filters, "cdd52d46d6edaa3c", "d489e938d0175f50"),
        (outputs, "ef516b291fcdf6a2", "c73f338bf907fb90"),
        (filter_gradients, "aa6539d5cacec2f2", "ea07bb5336608e1b"),
    )
    return tuple(
        (kernel, partial(_mapped, kernel, small), digest)
        for kernel, *of_kernel in digests
        for small, digest in zip((True, False), of_kernel, strict=True)
    )


def _mapped(kernel, small):
    """Apply a kernel to 37 integers in each of up to six separate lines."""
    x, y = np.round(24 * reals(6, 50)).reshape(-1), np.zeros(6 * 40, np.float32)
    kernel(small, x, 3, 50, y, 2, 40, 37)
    return y
