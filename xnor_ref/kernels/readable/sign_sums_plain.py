"""Sums of columns with the signs of packed weights, in compiled loops. The twin of `_reference` in `ops/sign_sums.py`.

Nothing is multiplied: a sign decides whether a number is added or subtracted.
"""

import numpy as np
from numba import float32, intp, uint64, void

from xnor_ref.kernels.compiling.jit import compiled
from xnor_ref.kernels.compiling.jit import readonly as _in
from xnor_ref.kernels.compiling.jit import writable as _out
from xnor_ref.kernels.compiling.selftest import Case, reals, words

TILE_PIXELS = 512  # columns at a time; their sums fit the first-level cache


@compiled(void(_in(float32, 2), _in(intp, 1), _in(uint64, 2), intp, intp, _out(float32, 2)))
def add_columns(columns, order, weight_words, start, stop, sums):
    """Compute sums[o] = +-columns[order[0]] +- columns[order[1]] ..., each sum rounded in turn. Bit 1 in row o means +.

    columns is (n_bits, P), order (n_bits,), weight_words (O, n_words(n_bits)) and sums (O, P). Rows start..stop of sums
    are written.
    """
    n_bits, n_pixels = columns.shape
    one = np.uint64(1)
    source = columns.reshape(-1)
    target = sums.reshape(-1)
    for first in range(0, n_pixels, TILE_PIXELS):
        size = np.uint64(min(TILE_PIXELS, n_pixels - first))
        for o in range(start, stop):
            at = np.uint64(o * n_pixels + first)
            for p in range(size):
                target[at + p] = np.float32(0)
            k = 0
            while k + 4 <= n_bits:  # four at a time: one load and store of the sums for four additions
                nibble = weight_words[o, k >> 6] >> np.uint64(k & 63)
                m0 = (nibble & one) == 0
                m1 = ((nibble >> one) & one) == 0
                m2 = ((nibble >> np.uint64(2)) & one) == 0
                m3 = ((nibble >> np.uint64(3)) & one) == 0
                a = np.uint64(order[k] * n_pixels + first)
                b = np.uint64(order[k + 1] * n_pixels + first)
                c = np.uint64(order[k + 2] * n_pixels + first)
                d = np.uint64(order[k + 3] * n_pixels + first)
                for p in range(size):
                    t = target[at + p]
                    t += -source[a + p] if m0 else source[a + p]
                    t += -source[b + p] if m1 else source[b + p]
                    t += -source[c + p] if m2 else source[c + p]
                    t += -source[d + p] if m3 else source[d + p]
                    target[at + p] = t
                k += 4
            while k < n_bits:
                minus = (weight_words[o, k >> 6] >> np.uint64(k & 63)) & one == 0
                a = np.uint64(order[k] * n_pixels + first)
                for p in range(size):
                    target[at + p] += -source[a + p] if minus else source[a + p]
                k += 1


def known_answers() -> tuple[Case, ...]:
    """Return the known answers that the kernel must give before use; see `selftest`."""

    def added(n_bits, n_pixels):
        sums = np.zeros((3, n_pixels), np.float32)
        order = np.arange(n_bits)[::-1].copy()
        add_columns(reals(n_bits, n_pixels) / 3, order, words(3, n_bits // 64 + 1), 1, 3, sums)
        return sums

    return (
        (add_columns, lambda: added(3, 1), "be8b6e2f0ecad78b"),
        (add_columns, lambda: added(71, 37), "3e8c7af8724747d2"),
        (add_columns, lambda: added(6, TILE_PIXELS + 5), "2fb4055615e76f98"),
    )
