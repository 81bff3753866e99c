"""Training with channels innermost in memory: several layers form one node of the tape.

Tensors keep the shape (N, C, H, W). Only their memory layout is (N, H, W, C), so other operations are not affected. The
room's page says when this path is taken.
"""

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff import Tensor, apply, is_grad_enabled
from xnor_ref.kernels.basics.geometry import spatial
from xnor_ref.kernels.basics.memory import empty
from xnor_ref.kernels.basics.modes import Finish, KMode
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.basics.threads import check_threads
from xnor_ref.kernels.ops import float_ops
from xnor_ref.nn import shards
from xnor_ref.nn.backend import current_backend, gradients_in_bytes

F32 = NDArray[np.float32]
_plans: WeakKeyDictionary[Any, dict] = (
    WeakKeyDictionary()
)  # not attributes of layers: plans hold addresses, and no copy must


def applies(x: Tensor) -> bool:
    """Whether an input takes the fused path."""
    fusing = is_grad_enabled() and current_backend() in ("auto", "simd") and has_vectors()
    return fusing and x.ndim == 4 and x.dtype == np.float32


def pixels(x: NDArray) -> F32:
    """Return images (N, C, H, W) as C-contiguous (N, H, W, C), without a copy if memory already has this order."""
    turned = x.transpose(0, 2, 3, 1)
    if turned.flags.c_contiguous or not x.flags.c_contiguous:
        return np.ascontiguousarray(turned)
    from xnor_ref.kernels.vectors import nhwc
    from xnor_ref.kernels.vectors.simd import split

    out = empty(turned.shape)
    n, channels, height, width = x.shape
    split(check_threads(None), n * height, nhwc.from_planes, x.reshape(n, channels, -1), width, out)
    return out


def planes(y: F32) -> F32:
    """Return a view (N, C, H, W) of images (N, H, W, C)."""
    return y.transpose(0, 3, 1, 2)


def planned(layer: Any, make: Any, *key: Any) -> Any:
    """Return `make(*key)`, cached for the layer's next call with the same key."""
    plans = _plans.setdefault(layer, {})
    if key not in plans:
        plans[key] = make(*key)
    return plans[key]


def _real_plan(layer: Any, x: Tensor, *more: Any) -> Any:
    """Return the planned convolution of a layer for float32 images of the size of x."""
    from xnor_ref.kernels.training.convolution import GroupedConvolution, RealConvolution

    place = layer.weight.shape, x.shape[2:], layer.window(x.shape[2:])
    if getattr(layer, "groups", 1) > 1:
        return planned(layer, GroupedConvolution, *place, layer.groups)
    return planned(layer, RealConvolution, *place, *more)


def forget(layer: Any) -> None:
    """Drop the plans cached for a layer."""
    _plans.pop(layer, None)


def takes(layer: Any) -> bool:
    """Whether the kernels for a single group can compute a layer's convolution."""
    return bool(layer.groups == 1)


def takes_groups(layer: Any) -> bool:
    """Whether the kernels for a single group, or for few channels per group, can compute a real convolution."""
    from xnor_ref.kernels.vectors.grouped import suits

    return takes(layer) or (layer.groups > 1 and suits(layer.weight.shape, layer.groups))


def conv2d(x: Tensor, layer: Any, bias: Tensor | None = None) -> Tensor:
    """Convolution with the weights of `layer`, without groups or with few channels per group (`takes_groups`)."""
    weight, plan = layer.weight, _real_plan(layer, x)
    padded = plan.pad(pixels(x.data))
    y = plan.forward(padded, weight.data, None if bias is None else bias.data)

    def backward(dy):
        dy = pixels(dy)
        dw, dx = plan.backward(dy, padded, weight.data, x.requires_grad, weight.data)
        found = None if dx is None else planes(dx), dw
        return found if bias is None else (*found, dy.sum(axis=(0, 1, 2)))

    return apply("conv2d", planes(y), (x, weight) if bias is None else (x, weight, bias), backward, fresh=True)


def binary_weight_conv2d(x: Tensor, layer: Any) -> Tensor:
    """`BinaryWeightConv2d` in training: convolution with W~, and the gradient of the latent weights."""
    weight, alpha, plan = layer.weight, layer.alpha(), _real_plan(layer, x)
    finish = layer.finish(alpha)
    filters, padded = layer.filters(alpha), plan.pad(pixels(x.data))
    y = plan.forward(padded, filters, None)

    def backward(dy):
        dalpha = np.empty(len(filters), np.float32)
        dw, dx = plan.backward(pixels(dy), padded, filters, x.requires_grad, weight.data, finish, alpha, dalpha)
        return None if dx is None else planes(dx), _latent(layer, dw, finish, alpha, dalpha)

    return apply("conv2d", planes(y), (x, weight), backward, fresh=True)


def _through_sign(layer: Any, images: F32, dx: F32) -> F32:
    """Return the gradient (N, C, H, W) of the sign's input, from the gradient of the sign (N, H, W, C)."""
    if layer.sign_is_compiled:
        return planes(layer.through_sign(images, dx))
    return layer.through_sign(planes(images), planes(dx))


def _latent(layer: Any, dw: F32, finish: Finish, alpha: F32 | None, dalpha: F32) -> F32:
    """Return the gradient of the latent weights, finished by a kernel or by the layer."""
    if finish is Finish.RAW:
        return layer.latent_gradient(dw, alpha)
    return layer.through_alpha(dw, dalpha) if finish is Finish.SPLIT else dw


def conv_norm(x: Tensor, layer: Any, after: Any, relu: bool, pool: Any) -> Tensor:
    """`conv2d` of images with few channels that need no gradient, then `norm`.

    The gradient between the two is never stored as a whole.
    """
    weight, plan = layer.weight, _real_plan(layer, x)
    padded = plan.pad(pixels(x.data))
    z = plan.forward(padded, weight.data, None)
    y, gradient = _norm(z, after, relu, pool)
    size = z.shape[1] * z.shape[2]

    def backward(dy):
        write, dgamma, dbeta = gradient(pixels(dy))

        def dz(start, stop):
            some = empty((stop - start, *z.shape[1:]))
            write(start * size, stop * size, some.reshape(-1, z.shape[3]))
            return some

        return plan.backward_by_parts(dz, padded, weight.data), dgamma, dbeta

    return apply("conv2d", planes(y), (weight, after.weight, after.bias), backward, fresh=True)


def binary_conv2d(x: Tensor, norm: Any, layer: Any) -> Tensor:
    """BatchNorm in training mode (unless `norm` is None), then `BinaryConv2d`.

    If the layer has a rule or an override that the kernels do not know, its own method computes that part: alpha, K,
    the gradient of the latent weights or, without a norm, the derivative of sign.
    """
    from xnor_ref.kernels.training import batch_norm
    from xnor_ref.kernels.training.convolution import Rounding, SignConvolution

    images, mode, k = pixels(x.data), layer.k_mode, None
    if mode is None:
        k = layer.scale_map(np.ascontiguousarray(x.data))
        k = None if k is None else np.ascontiguousarray(k, np.float32).reshape(len(images), -1)
    key = layer.weight.shape, x.shape[2:], layer.window(x.shape[2:]), layer.pad_value, mode or KMode.OFF
    plan = planned(layer, SignConvolution, *key)
    alpha = None if layer.alpha_is_mean else layer.alpha()  # packing the weights computes their mean
    unscaled = alpha is None and not layer.alpha_is_mean
    affine: tuple[F32, F32] | None = None
    if norm is not None:
        mean, var = norm.moments(*batch_norm.moments(images), images.size // norm.channels)
        scale, shift = affine = norm.training_affine(mean, var)
    ones = np.ones(len(layer.weight.data), np.float32)
    y, saved = plan.forward(images, layer.weight.data, ones if unscaled else alpha, affine, k)
    alpha = None if unscaled else saved.alpha
    finish = layer.finish(alpha)

    def backward(dy):
        rounding, shard = None, shards.current()
        if gradients_in_bytes():
            place = shard.index * len(dy), shard.count
            rounding = Rounding(seed_of(layer.draw_position()), *place, shard.largest)
        need = x.requires_grad or norm is not None
        sums = None if norm is None else batch_norm.GradientSums(images, scale, shift, mean, share=shards.sharing())
        dalpha = np.empty(len(layer.weight.data), np.float32)
        dw, dx = plan.backward(pixels(dy), saved, layer.weight.data, finish, rounding, need, sums, dalpha)
        dw = _latent(layer, dw, finish, alpha, dalpha)
        if sums is None:
            return None if dx is None else _through_sign(layer, images, dx), dw
        write, dgamma, dbeta = batch_norm.norm_gradient(dx, sums, var, norm.weight.data, norm.eps)
        return planes(batch_norm.written(write, dx)), dgamma, dbeta, dw

    parents = (x, layer.weight) if norm is None else (x, norm.weight, norm.bias, layer.weight)
    return apply("binary_conv2d", planes(y), parents, backward, fresh=True)


def integer_conv2d(x: Tensor, layer: Any) -> Tensor:
    """`KBitConv2d` or `BinaryConv2d` with `adds_in_float32`: float32 kernels add its integers without rounding."""
    images, plan = pixels(x.data), _real_plan(layer, x, True)
    m = plan.pad(layer.inputs.of(images).astype(np.float32))
    alpha, k = layer.alpha(), layer.scale_map(np.ascontiguousarray(x.data))
    y = plan.forward(m, layer.weight_levels().astype(np.float32), None)
    if alpha is not None:
        y *= alpha
    if k is not None:
        k = pixels(float_ops.for_outputs(k, y.shape[3]))
        y *= k

    def backward(dy):
        dz, filters = pixels(dy) if k is None else pixels(dy) * k, layer.scaled_signs(alpha)
        dw, dx = plan.backward(dz, m, filters, x.requires_grad, layer.weight.data)
        dw /= np.float32(layer.inputs.top)
        return None if dx is None else _through_sign(layer, images, dx), layer.latent_gradient(dw, alpha)

    return apply("integer_conv2d", planes(y), (x, layer.weight), backward, fresh=True)


def norm(x: Tensor, layer: Any, relu: bool = False, pool: Any = None) -> Tensor:
    """BatchNorm in training mode, then optional ReLU and max pooling."""
    from xnor_ref.kernels.training import batch_norm

    y, gradient = _norm(pixels(x.data), layer, relu, pool)

    def backward(dy):
        write, *rest = gradient(pixels(dy))
        return planes(batch_norm.written(write, empty((len(dy), *x.shape[2:], x.shape[1])))), *rest

    return apply("batch_norm", planes(y), (x, layer.weight, layer.bias), backward, fresh=True)


def _norm(images: F32, layer: Any, relu: bool, pool: Any) -> tuple[F32, Any]:
    """Return the result of `norm`, and a function from its gradient to dgamma, dbeta and the images' gradient."""
    from xnor_ref.kernels.training import batch_norm, pooling

    mean, var = layer.moments(*batch_norm.moments(images), images.size // layer.channels)
    scale, shift = layer.training_affine(mean, var)
    if pool is None:

        def gradient(dy):
            sums = batch_norm.GradientSums(images, scale, shift, mean, "relu" if relu else False, shards.sharing())
            return batch_norm.norm_gradient(dy, sums, var, layer.weight.data, layer.eps)

        return batch_norm.norm_relu(images, scale, shift, relu), gradient
    window = pool.window(images.shape[1:3])
    y, winner = pooling.norm_relu_pool(images, scale, shift, window)
    given = images, scale, shift, mean, var, layer.weight.data, layer.eps, window
    return y, lambda dy: pooling.norm_relu_pool_gradient(dy, winner, *given, shards.sharing())


def prelu(x: Tensor, layer: Any, before: Any = None, after: Any = None) -> Tensor:
    """`functional.prelu` with the slopes of `layer`, between two `Shift` layers where they are given."""
    from xnor_ref.kernels.training import activations

    slope, none = layer.weight, np.zeros(x.shape[1], np.float32)
    shifts = [none if shift is None else shift.shift.data for shift in (before, after)]
    images, slopes = pixels(x.data), np.broadcast_to(slope.data, none.shape)
    y = activations.rprelu(images, shifts[0], slopes, shifts[1])

    def backward(dy):
        dx, dbefore, dslope, dafter = activations.rprelu_gradient(pixels(dy), images, shifts[0], slopes)
        dslope = dslope if slope.size > 1 or none.size == 1 else dslope.sum(keepdims=True, dtype=np.float64)
        found = (before, dbefore), (after, dafter)
        return planes(dx), dslope.astype(np.float32), *(gradient for shift, gradient in found if shift is not None)

    parents = [shift.shift for shift in (before, after) if shift is not None]
    return apply("prelu", planes(y), (x, slope, *parents), backward, fresh=True)


def max_pool2d(x: Tensor, layer: Any, relu: bool = False) -> Tensor:
    """`functional.max_pool2d`, after an optional ReLU."""
    from xnor_ref.kernels.training import pooling

    window, size = layer.window(spatial(x.data)), spatial(x.data)
    if relu:
        one, zero = np.ones(x.shape[1], np.float32), np.zeros(x.shape[1], np.float32)
        y, winner = pooling.norm_relu_pool(pixels(x.data), one, zero, window)
    else:
        y, winner = pooling.max_pool(pixels(x.data), window)
    return apply(
        "max_pool2d",
        planes(y),
        (x,),
        lambda dy: (planes(pooling.max_pool_gradient(pixels(dy), winner, size, window)),),
        fresh=True,
    )


def avg_pool2d(x: Tensor, layer: Any) -> Tensor:
    """`functional.avg_pool2d`."""
    from xnor_ref.kernels.training import pooling

    window, size = layer.window(spatial(x.data)), spatial(x.data)
    shares = float_ops.tap_shares(size, window, layer.count_include_pad)
    y = pooling.avg_pool(pixels(x.data), window, shares)
    return apply(
        "avg_pool2d", planes(y), (x,), lambda dy: (planes(pooling.avg_pool_gradient(pixels(dy), size, window, shares)),)
    )


def global_avg_pool2d(x: Tensor) -> Tensor:
    """`functional.global_avg_pool2d`."""
    from xnor_ref.kernels.training import pooling

    size = spatial(x.data)
    y = pooling.global_avg_pool(pixels(x.data))
    return apply("global_avg_pool2d", y, (x,), lambda dy: (planes(pooling.global_avg_pool_gradient(dy, size)),))


def seed_of(position: tuple[int, int, int]) -> int:
    """Return 32 bits that depend only on (seed, step, layer)."""
    return int(np.random.SeedSequence(position).generate_state(1)[0])
