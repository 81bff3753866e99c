"""The updates of `_reference`, each fused into one pass over memory. This module imports Numba, so import it lazily.

It does not use fastmath, so LLVM neither reorders nor contracts, and the bits are those of `_reference`.
"""

import numpy as np
from numba import boolean, float32, void

from xnor_ref.kernels.compiling.jit import compiled, readonly, writable
from xnor_ref.kernels.compiling.selftest import Case, reals

_in, _out = readonly(float32, 1), writable(float32, 1)


@compiled(void(_out, _in, float32, float32))
def sgd(param, grad, lr, decay):
    for i in range(param.size):
        step = grad[i]
        if decay != 0:
            step = step + decay * param[i]
        param[i] -= lr * step


@compiled(void(_out, _in, _out, float32, float32, float32, boolean))
def momentum_sgd(param, grad, velocity, lr, momentum, decay, nesterov):
    for i in range(param.size):
        step = grad[i]
        if decay != 0:
            step = step + decay * param[i]
        v = momentum * velocity[i] + step
        velocity[i] = v
        if nesterov:
            v = step + momentum * v
        param[i] -= lr * v


@compiled(void(_out, _in, _out, _out, *(float32,) * 9))
def adam(param, grad, mean, square, beta1, rest1, beta2, rest2, lr, root, eps, decay, shrink):
    for i in range(param.size):
        step = grad[i]
        if decay != 0:
            step = step + decay * param[i]
        m = beta1 * mean[i] + rest1 * step
        s = beta2 * square[i] + rest2 * (step * step)
        mean[i] = m
        square[i] = s
        param[i] = shrink * param[i] - lr * (m / (np.sqrt(s) * root + eps))


@compiled(void(_out, _in, _out, _out, *(float32,) * 6, boolean))
def adamax(param, grad, mean, largest, beta1, rest1, beta2, lr, eps, decay, shift):
    for i in range(param.size):
        step = grad[i]
        if decay != 0:
            step = step + decay * param[i]
        m = beta1 * mean[i] + rest1 * step
        u = np.maximum(beta2 * largest[i], abs(step))
        mean[i] = m
        largest[i] = u
        if shift:
            u = np.int32((np.float32(u).view(np.int32) + 0x4AFB0C) & -0x800000).view(np.float32)  # binary.ap2
        param[i] -= lr * (m / (u + eps))


def known_answers() -> tuple[Case, ...]:
    """Return the known answers that the kernels must give before use; see `selftest`."""

    def descended(decay):
        param, grad = reals(2, 37)
        sgd(param, grad, np.float32(0.1), np.float32(decay))
        return param

    def moved(decay, nesterov):
        param, grad, velocity = reals(3, 37)
        momentum_sgd(param, grad, velocity, np.float32(0.1), np.float32(0.9), np.float32(decay), nesterov)
        return param, velocity

    def adapted(decay):
        param, grad, mean, square = reals(4, 37)
        options = np.array([0.9, 0.1, 0.999, 0.001, 0.01, 1.5, 1e-8, decay, 0.99], np.float32)
        adam(param, grad, mean, abs(square), *options)
        return param, mean

    def held(shift, decay):
        param, grad, mean, largest = reals(4, 37)
        adamax(param, grad, mean, abs(largest), *np.array([0.9, 0.1, 0.999, 0.01, 1e-8, decay], np.float32), shift)
        return param, mean

    return (
        (adamax, lambda: held(False, 0), "f90f2d2244670935"),
        (adamax, lambda: held(False, 0.01), "1bf01b6c7811ba62"),
        (adamax, lambda: held(True, 0), "8aa0c5e5f70b1ca8"),
        (adamax, lambda: held(True, 0.01), "e497880c2e2f934a"),
        (sgd, lambda: descended(0), "042f2a4e59fb0a9a"),
        (sgd, lambda: descended(0.01), "ecf169b32dc3800c"),
        (momentum_sgd, lambda: moved(0, True), "a2674c7a5c83f90f"),
        (momentum_sgd, lambda: moved(0.01, False), "4bb7833bd61ac9fe"),
        (adam, lambda: adapted(0), "7965131350391c6c"),
        (adam, lambda: adapted(0.01), "d35877b2da66845b"),
    )
