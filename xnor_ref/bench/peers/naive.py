"""The slowest rung: convolutions in their simplest form, compiled by Numba but not made for speed."""

import numpy as np
from numba import boolean, float32, int32, intp, types, uint64, void

from xnor_ref.kernels.compiling.jit import compiled, readonly, writable
from xnor_ref.kernels.readable.plain import popcount

_pair = types.UniTuple(intp, 2)


@compiled(void(readonly(float32, 4), readonly(float32, 4), _pair, _pair, writable(float32, 4)))
def float_loops(x, weight, stride, padding, out):
    """Convolution of x (N, C, H, W) with weight (O, C, KH, KW), both float32: seven nested loops."""
    height, width = x.shape[2], x.shape[3]
    for image in range(out.shape[0]):
        for o in range(out.shape[1]):
            for oy in range(out.shape[2]):
                for ox in range(out.shape[3]):
                    total = np.float32(0)
                    for c in range(x.shape[1]):
                        for ky in range(weight.shape[2]):
                            for kx in range(weight.shape[3]):
                                y = oy * stride[0] - padding[0] + ky
                                column = ox * stride[1] - padding[1] + kx
                                if 0 <= y < height and 0 <= column < width:
                                    total += x[image, c, y, column] * weight[o, c, ky, kx]
                    out[image, o, oy, ox] = total


@compiled(void(boolean, readonly(uint64, 4), readonly(uint64, 4), intp, _pair, _pair, writable(int32, 4)))
def packed_loops(by_words, x, weight, channels, stride, padding, out):
    """Convolution of packed signs, x (N, H, W, words) and weight (O, KH, KW, words).

    It counts one bit at a time, or 64 with `by_words`: n_bits - 2 popcount(a xor b).
    """
    height, width = x.shape[1], x.shape[2]
    for image in range(out.shape[0]):
        for o in range(out.shape[1]):
            for oy in range(out.shape[2]):
                for ox in range(out.shape[3]):
                    total = np.intp(0)
                    for ky in range(weight.shape[1]):
                        for kx in range(weight.shape[2]):
                            y = oy * stride[0] - padding[0] + ky
                            column = ox * stride[1] - padding[1] + kx
                            if not (0 <= y < height and 0 <= column < width):
                                continue
                            if by_words:
                                total += channels
                                for k in range(x.shape[3]):
                                    different = popcount(x[image, y, column, k] ^ weight[o, ky, kx, k])
                                    total -= 2 * np.intp(different)
                            else:
                                for c in range(channels):
                                    shift = np.uint64(c % 64)
                                    a = x[image, y, column, c // 64] >> shift
                                    b = weight[o, ky, kx, c // 64] >> shift
                                    total += 1 - 2 * np.intp((a ^ b) & np.uint64(1))
                    out[image, o, oy, ox] = total
