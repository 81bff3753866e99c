"""The updates of `_reference`, each fused into one pass over memory. Compiled at import: import only when needed.

No fastmath, so LLVM neither reorders nor contracts: the bits are those of `_reference`.
"""

import numpy as np
from numba import boolean, float32, void

from xnor_ref.kernels.jit import compiled, readonly, writable

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
