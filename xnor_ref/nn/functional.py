"""Differentiable functions of the real-valued layers. Each function stands beside its gradient.

Images are float32 (N, C, H, W). The arithmetic is in `kernels.ops.float_ops`.
In training (while gradients are recorded), convolutions may multiply several images in one GEMM. In inference every
image is computed alone, so results have the same bits at any batch size.
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref import binary
from xnor_ref.autodiff import Tensor, apply, is_grad_enabled
from xnor_ref.errors import InputError, InputTypeError
from xnor_ref.kernels.basics import geometry
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.basics.memory import check_memory
from xnor_ref.kernels.ops import float_ops, products
from xnor_ref.nn import shards


def require_images(x: Tensor, channels: int | None, caller: str) -> None:
    """Raise unless x is float32 (N, C, H, W) with the given number of channels."""
    if x.dtype != np.float32:
        raise InputTypeError(f"{caller}: input must be float32, got {x.dtype}")
    if x.ndim != 4 or 0 in x.shape:
        raise InputError(f"{caller}: input must be a non-empty (N, C, H, W), got shape {x.shape}")
    if channels is not None and x.shape[1] != channels:
        raise InputError(f"{caller}: input has C={x.shape[1]}, but the layer needs C={channels} (input {x.shape})")


def require_rows(x: Tensor, features: int, caller: str) -> None:
    """Raise unless x is float32 (N, features)."""
    if x.dtype != np.float32:
        raise InputTypeError(f"{caller}: input must be float32, got {x.dtype}")
    if x.ndim != 2 or x.shape[0] == 0 or x.shape[1] != features:
        raise InputError(f"{caller}: input must be (N, {features}), got shape {x.shape}")


def require_window(x: Tensor, window: Window, caller: str) -> None:
    """Raise InputError unless the window fits into the padded image and the padded images fit into memory."""
    size = geometry.spatial(x.data)
    padded = window.padded(size)
    check_memory(caller, x.data.itemsize * math.prod((*x.shape[:2], *padded)), f"(images {x.shape} padded to {padded})")
    if min(window.count(size)) < 1:
        kernel, padding = window.extent, window.brief_padding
        far = f" (of {window.kernel} with dilation {window.dilation})" if window.dilation != (1, 1) else ""
        raise InputError(f"{caller}: kernel {kernel}{far} is larger than the image {size} with padding {padding}")


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int) -> Tensor:
    """Cross-correlation of x (N, C, H, W) with weight (O, C/groups, KH, KW) -> (N, O, OH, OW)."""
    require_images(x, weight.shape[1] * groups, "conv2d")
    require_window(x, window, "conv2d")
    images = np.ascontiguousarray(x.data)
    added = None if bias is None else bias.data
    data = float_ops.conv2d(images, weight.data, added, window, groups, training=is_grad_enabled())

    def backward(dy):
        dy = np.ascontiguousarray(dy)
        dx = None
        if x.requires_grad:
            dx = float_ops.conv2d_input_gradient(dy, weight.data, geometry.spatial(x.data), window, groups)
        dw = float_ops.conv2d_weight_gradient(dy, images, window, groups)
        return (dx, dw) if bias is None else (dx, dw, dy.sum(axis=(0, 2, 3)))

    return apply("conv2d", data, (x, weight) if bias is None else (x, weight, bias), backward)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (N, I) times weight (O, I) transposed, plus bias (O,) -> (N, O)."""
    require_rows(x, weight.shape[1], "linear")
    rows = np.ascontiguousarray(x.data)
    data = float_ops.linear(rows, weight.data, None if bias is None else bias.data, training=is_grad_enabled())

    def backward(dy):
        dx = float_ops.linear_input_gradient(dy, weight.data) if x.requires_grad else None
        dw = float_ops.linear_weight_gradient(dy, rows)
        return (dx, dw) if bias is None else (dx, dw, dy.sum(axis=0))

    return apply("linear", data, (x, weight) if bias is None else (x, weight, bias), backward)


def batch_norm(x: Tensor, layer: Any) -> Tensor:
    """Normalise each channel of x (N, C[, H, W]) by the statistics of its batch, which `layer.moments` learns of.

    y = gamma (x - mean) / sqrt(var + eps) + beta (Ioffe and Szegedy 2015, algorithm 1).
    """
    planes, gamma, beta, eps = np.ascontiguousarray(x.data), layer.weight, layer.bias, layer.eps
    data, mean, var = float_ops.batch_norm(planes, gamma.data, beta.data, eps)
    mean, var = layer.moments(mean, var, x.size // x.shape[1])
    if shards.sharing() is not None:  # the moments are not those that `data` was normalised by
        data = float_ops.affine(planes, *layer.training_affine(mean, var))

    def backward(dy):
        return batch_norm_gradient(dy, planes, gamma.data, mean, var, eps)

    return apply("batch_norm", data, (x, gamma, beta), backward)


def batch_norm_gradient(
    dy: NDArray, x: NDArray, gamma: NDArray, mean: NDArray[np.float64], var: NDArray[np.float64], eps: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """`float_ops.batch_norm_gradient`, where x (N, C[, H, W]) may be a shard; dgamma and dbeta are of x alone."""
    share, dy = shards.sharing(), np.ascontiguousarray(dy)
    if share is None:
        return float_ops.batch_norm_gradient(dy, x, gamma, mean, var, eps)
    axes, shape = (0, *range(2, x.ndim)), (1, -1, *(1,) * (x.ndim - 2))
    inv_std = 1 / np.sqrt(var + eps)
    normal = (x - mean.reshape(shape)) * inv_std.reshape(shape)
    dgamma, dbeta = (dy * normal).sum(axis=axes), dy.sum(axis=axes, dtype=np.float64)
    means = share.sums(np.stack([dgamma, dbeta])) / (share.count * (x.size // x.shape[1]))
    of_n, of_one = (mean.reshape(shape) for mean in means)
    dx = (dy - of_one - normal * of_n) * (gamma * inv_std).reshape(shape)
    return dx.astype(np.float32), dgamma.astype(np.float32), dbeta.astype(np.float32)


def affine(x: Tensor, scale: NDArray[np.float32], shift: NDArray[np.float32]) -> Tensor:
    """x * scale + shift per channel, with constants: BatchNorm in inference."""
    data = float_ops.affine(np.ascontiguousarray(x.data), scale, shift)
    per_channel = scale.reshape(1, -1, *(1,) * (x.ndim - 2))
    return apply("affine", data, (x,), lambda dy: (dy * per_channel,))


def max_pool2d(x: Tensor, window: Window) -> Tensor:
    """Maximum of each window. Among equal taps, the first gets the gradient."""
    require_images(x, None, "max_pool2d")
    require_window(x, window, "max_pool2d")
    images = np.ascontiguousarray(x.data)
    if not is_grad_enabled():
        return Tensor(float_ops.max_pool2d(images, window))
    data, winner = float_ops.max_pool2d_winners(images, window)

    def backward(dy):
        return (float_ops.max_pool2d_gradient(np.ascontiguousarray(dy), winner, geometry.spatial(x.data), window),)

    return apply("max_pool2d", data, (x,), backward)


def avg_pool2d(x: Tensor, window: Window, count_include_pad: bool = True) -> Tensor:
    """Mean of each window over all its taps including padded zeros, or over the taps inside the image."""
    require_images(x, None, "avg_pool2d")
    require_window(x, window, "avg_pool2d")
    shares = float_ops.tap_shares(geometry.spatial(x.data), window, count_include_pad)
    data = float_ops.avg_pool2d(x.data, window, shares)
    size = geometry.spatial(x.data)
    return apply("avg_pool2d", data, (x,), lambda dy: (float_ops.avg_pool2d_gradient(dy, size, window, shares),))


def global_avg_pool2d(x: Tensor) -> Tensor:
    """Mean over all pixels: (N, C, H, W) -> (N, C)."""
    require_images(x, None, "global_avg_pool2d")
    _, _, h, w = x.shape

    def backward(dy):
        return (np.broadcast_to((dy / np.float32(h * w))[:, :, None, None], x.shape),)

    return apply("global_avg_pool2d", float_ops.global_avg_pool2d(x.data), (x,), backward)


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return apply("relu", float_ops.relu(x.data), (x,), lambda dy: (float_ops.relu_gradient(x.data, dy),))


def hardtanh(x: Tensor) -> Tensor:
    """x clipped to [-1, 1]; gradient 1[|x| <= 1]."""
    return apply("hardtanh", float_ops.hardtanh(x.data), (x,), lambda dy: (dy * (np.abs(x.data) <= 1),))


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """x where x >= 0, else slope * x (He et al. 2015, eq. 1), with one slope for all channels or one each."""
    per_channel = slope.data.reshape(1, -1, *(1,) * (x.ndim - 2))

    def backward(dy):
        negative = x.data < 0
        dx = np.where(negative, dy * per_channel, dy)
        terms = dy * x.data * negative
        axes = (0, *range(2, x.ndim))
        total = terms.sum(axis=axes, dtype=np.float64)
        return dx, (total if slope.size > 1 else total.sum(keepdims=True)).astype(np.float32)

    return apply("prelu", float_ops.prelu(x.data, slope.data), (x, slope), backward)


def sign(x: Tensor, gradient: binary.SignGradient = binary.STE) -> Tensor:
    """+1 where x >= 0, else -1; `gradient` replaces the derivative."""
    return apply("sign", binary.sign(x.data), (x,), lambda dy: (dy * gradient.derivative(x.data),))


def scale(x: Tensor, factors: Sequence[Tensor], axes: Sequence[tuple[int, ...]]) -> Tensor:
    """x (N, C[, H, W]) times Gamma, the outer product of `factors`, each over its axes of x. The layout of x is kept.

    Y = Gamma . X, so dX = Gamma . D. Let T be the sum of D . X over N. The gradient of a factor is T times the other
    factors, summed over the axes that the factor does not have (Bulat and Tzimiropoulos 2019). The paper's
    alpha (x) beta (x) gamma is Gamma_oij = alpha_o beta_i gamma_j.
    """
    channels_last = x.ndim == 4 and x.data.transpose(0, 2, 3, 1).flags.c_contiguous
    order = (0, 2, 3, 1) if channels_last else range(x.ndim)
    image, back = [x.shape[axis] for axis in order[1:]], np.argsort(order)

    def rows(array):  # (N, C[, H, W]) as (N, P), in the memory order of x
        return np.ascontiguousarray(array.transpose(order)).reshape(len(array), -1)

    def turned_back(array):
        return array.reshape(-1, *image).transpose(back)

    spread = [
        factor.data.reshape([size if axis in own else 1 for axis, size in enumerate(x.shape)])
        for factor, own in zip(factors, axes)
    ]
    inputs, gamma = rows(x.data), rows(np.broadcast_to(reduce(np.multiply, spread), (1, *x.shape[1:])))

    def backward(dy):
        d = rows(dy)
        terms = turned_back(products.product_sums(d, inputs))
        grads = []
        for index, own in enumerate(axes):
            others = math.prod(spread[:index] + spread[index + 1 :])
            rest = tuple(axis for axis in range(x.ndim) if axis not in own)
            grads.append((terms * others).sum(axis=rest).reshape(factors[index].shape).astype(x.dtype))
        return turned_back(products.scaled(d, gamma)), *grads

    return apply("scale", turned_back(products.scaled(inputs, gamma)), (x, *factors), backward, fresh=True)


def dropout(x: Tensor, probability: float, position: tuple[int, int, int], whole_channels: bool = False) -> Tensor:
    """Set elements, or whole channels of images, to 0 with `probability`. Multiply the rest by 1/(1 - probability).

    The mask depends only on `position` (seed, step, layer), so a resumed run repeats it.
    """
    shape = (*x.shape[:2], *(1,) * (x.ndim - 2)) if whole_channels else x.shape
    keep = shards.current().drawn(np.random.default_rng(position), shape) >= probability
    factor = keep.astype(x.dtype) / x.dtype.type(1 - probability)
    return apply("dropout", x.data * factor, (x,), lambda dy: (dy * factor,))
