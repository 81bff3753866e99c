"""The updates in NumPy, for one piece of a parameter. They define the results: `_kernels` gives the same bits.

All arrays are 1-D float32 of equal length, all numbers are float32, `nesterov` and `shift` are bool. Arrays other than
`grad` are updated in place. Each product and sum is rounded, in the written order.
"""

import numpy as np

from xnor_ref.binary import ap2

silent = np.errstate(all="ignore")  # compiled code does not warn either; the training loop checks for overflow


@silent
def sgd(param, grad, lr, decay):
    """param -= lr (grad + decay param)"""
    step = grad if decay == 0 else grad + decay * param
    param -= lr * step


@silent
def momentum_sgd(param, grad, velocity, lr, momentum, decay, nesterov):
    """g = grad + decay param; velocity = momentum velocity + g; param -= lr velocity.

    With `nesterov` the last step is param -= lr (g + momentum velocity).
    """
    step = grad if decay == 0 else grad + decay * param
    velocity *= momentum
    velocity += step
    param -= lr * (step + momentum * velocity if nesterov else velocity)


@silent
def adam(param, grad, mean, square, beta1, rest1, beta2, rest2, lr, root, eps, decay, shrink):
    """g = grad + decay param; mean = beta1 mean + rest1 g; square = beta2 square + rest2 g^2;
    param = shrink param - lr mean / (root sqrt(square) + eps).

    `rest` is 1 - beta; `lr` holds 1/(1 - beta1^t), `root` is 1/sqrt(1 - beta2^t).
    """
    step = grad if decay == 0 else grad + decay * param
    mean *= beta1
    mean += rest1 * step
    square *= beta2
    square += rest2 * (step * step)
    bottom = np.sqrt(square)
    bottom *= root
    bottom += eps
    if shrink != 1:
        param *= shrink
    param -= lr * (mean / bottom)


@silent
def adamax(param, grad, mean, largest, beta1, rest1, beta2, lr, eps, decay, shift):
    """g = grad + decay param; mean = beta1 mean + rest1 g; largest = max(beta2 largest, |g|);
    param -= lr (mean / (largest + eps)); with `shift`, AP2(largest) replaces largest.

    `rest1` is 1 - beta1; `lr` holds 1/(1 - beta1^t).
    """
    step = grad if decay == 0 else grad + decay * param
    mean *= beta1
    mean += rest1 * step
    largest *= beta2
    np.maximum(largest, np.abs(step), out=largest)
    param -= lr * (mean / ((ap2(largest) if shift else largest) + eps))
