"""Updates of one stretch of a parameter in NumPy. They define the results: `_kernels` has the same bits.

All arrays are 1-D float32 of one length and all numbers float32; each product and sum is rounded, in the written order.
"""

import numpy as np
from numpy.typing import NDArray

from xnor_ref.binary import ap2

F32 = NDArray[np.float32]
silent = np.errstate(all="ignore")  # compiled code does not warn either; the training loop looks for overflow itself


@silent
def sgd(param: F32, grad: F32, lr: np.float32, decay: np.float32) -> None:
    """param -= lr (grad + decay param)"""
    step = grad if decay == 0 else grad + decay * param
    param -= lr * step


@silent
def momentum_sgd(
    param: F32,
    grad: F32,
    velocity: F32,
    lr: np.float32,
    momentum: np.float32,
    decay: np.float32,
    nesterov: bool,
) -> None:
    """g = grad + decay param; velocity = momentum velocity + g; param -= lr velocity.

    With `nesterov` the last is param -= lr (g + momentum velocity).
    """
    step = grad if decay == 0 else grad + decay * param
    velocity *= momentum
    velocity += step
    if nesterov:
        step = step + momentum * velocity
    else:
        step = velocity
    param -= lr * step


@silent
def adam(
    param: F32,
    grad: F32,
    mean: F32,
    square: F32,
    beta1: np.float32,
    rest1: np.float32,
    beta2: np.float32,
    rest2: np.float32,
    lr: np.float32,
    root: np.float32,
    eps: np.float32,
    decay: np.float32,
    shrink: np.float32,
) -> None:
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
def adamax(
    param: F32,
    grad: F32,
    mean: F32,
    largest: F32,
    beta1: np.float32,
    rest1: np.float32,
    beta2: np.float32,
    lr: np.float32,
    eps: np.float32,
    decay: np.float32,
    shift: bool,
) -> None:
    """g = grad + decay param; mean = beta1 mean + rest1 g; largest = max(beta2 largest, |g|);
    param -= lr (mean / (largest + eps)), with `shift` of AP2(largest).

    `rest1` is 1 - beta1; `lr` holds 1/(1 - beta1^t).
    """
    step = grad if decay == 0 else grad + decay * param
    mean *= beta1
    mean += rest1 * step
    largest *= beta2
    np.maximum(largest, np.abs(step), out=largest)
    param -= lr * (mean / ((ap2(largest) if shift else largest) + eps))
