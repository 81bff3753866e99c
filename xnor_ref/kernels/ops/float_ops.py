"""Arithmetic of real-valued layers: convolution and linear maps on BLAS, pooling, BatchNorm, and their gradients.

These blocks do not check their arguments. Arrays are float32 and C-contiguous; images are (N, C, H, W), weights
(O, C/groups, KH, KW) or (O, I). The layers (`nn`) and the packed runtime validate before they call.

Forward functions used in inference give each image the same bits, whatever else is in its batch and at any number of
threads, so that a packed network can repeat the float network's answers. On a processor with vectors, the SIMD kernels
sum every output in one fixed order. Elsewhere each image is its own GEMM of a fixed shape, and each row of `linear` its
own product, because a larger GEMM sums in another order. With `training=True`, images share GEMMs.
"""

from collections.abc import Sequence
from functools import reduce
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from xnor_ref.kernels.basics.geometry import Pair, Window, spatial
from xnor_ref.kernels.basics.memory import empty
from xnor_ref.kernels.basics.rungs import has_vectors, without_kernels
from xnor_ref.kernels.basics.threads import check_threads, parallel_chunks
from xnor_ref.kernels.readable import float_reference

F32 = NDArray[np.float32]


COLUMNS = 256  # in training, several images share a GEMM up to about so many columns
FEATURES = 256  # outputs (or inputs) per GEMM of `linear` and its gradients


def pixel_table(mean: Sequence[float], std: Sequence[float]) -> F32:
    """Return float32 (256, C): (v/255 - mean)/std of each pixel value v, computed in float64 and rounded once."""
    values = np.arange(256, dtype=np.float64)[:, None] / 255
    with np.errstate(all="ignore"):
        return ((values - np.array(mean, np.float64)) / np.array(std, np.float64)).astype(np.float32)


def _rung() -> ModuleType:
    if without_kernels():
        return float_reference
    from xnor_ref.kernels.readable import float_plain

    return float_plain


def _images_per_gemm(pixels: int, training: bool) -> int:
    return max(1, COLUMNS // pixels) if training else 1


def _columns(rung, x, start, stop, window, out_size, pad_value, signs):
    """Return im2col of a few images: (C*KH*KW, images*OH*OW)."""
    if not signs and window == Window((1, 1)) and stop - start == 1:
        return x[start].reshape(x.shape[1], -1)
    rows, columns = x.shape[1] * window.kernel[0] * window.kernel[1], (stop - start) * out_size[0] * out_size[1]
    cols = np.empty((rows, columns), np.float32)
    rung.im2col(x, start, stop, window.numbers, out_size, np.float32(pad_value), signs, cols)
    return cols


def _gather(dy: F32, start: int, stop: int) -> F32:
    """Return output gradients (images, O, OH, OW) as a matrix (O, images*OH*OW)."""
    if stop - start == 1:
        return dy[start].reshape(dy.shape[1], -1)
    return dy[start:stop].transpose(1, 0, 2, 3).reshape(dy.shape[1], -1)


def _split_groups(x: F32, weight: F32, groups: int):
    """Yield (input, weight, slice of output channels) for each group."""
    c, o = x.shape[1] // groups, weight.shape[0] // groups
    for g in range(groups):
        part = x if groups == 1 else np.ascontiguousarray(x[:, g * c : (g + 1) * c])
        yield part, weight[g * o : (g + 1) * o], slice(g * o, (g + 1) * o)


def conv2d(
    x: F32,
    weight: F32,
    bias: F32 | None,
    window: Window,
    groups: int = 1,
    threads: int | None = None,
    *,
    training: bool = False,
    signs: bool = False,
    pad_value: float = 0.0,
) -> F32:
    """Cross-correlate x, or its signs if `signs`, padded with `pad_value`: (N, O, OH, OW)."""
    if not (training or signs) and has_vectors():
        plan = _planned_conv2d if groups == 1 else _grouped_conv2d
        return plan(x, weight, bias, window, groups, threads)
    rung = _rung()
    oh, ow = window.count(spatial(x))
    pixels = oh * ow
    y = np.empty((x.shape[0], weight.shape[0], oh, ow), np.float32)
    for part, filters, outputs in _split_groups(x, weight, groups):
        matrix = filters.reshape(filters.shape[0], -1)

        def convolve(start, stop, part=part, matrix=matrix, outputs=outputs):
            cols = _columns(rung, part, start, stop, window, (oh, ow), pad_value, signs)
            if stop - start == 1:
                np.matmul(matrix, cols, out=y[start, outputs].reshape(-1, pixels))
            else:
                product = (matrix @ cols).reshape(-1, stop - start, oh, ow)
                y[start:stop, outputs] = product.transpose(1, 0, 2, 3)

        parallel_chunks(convolve, x.shape[0], _images_per_gemm(pixels, training), threads, blas=True)
    if bias is not None:
        y += bias[:, None, None]
    return y


def _planned_conv2d(x, weight, bias, window, groups, threads) -> F32:
    """`conv2d` by the SIMD kernels that the packed runtime uses too, without groups."""
    from xnor_ref.kernels.vectors import nhwc, simd

    threads = check_threads(threads)
    n, channels, height, width = x.shape
    conv = simd.RealConv(weight, (height, width), window, bias)
    pixels = np.zeros((n, *conv.padded_shape), np.float32)
    simd.split(threads, n * height, nhwc.from_planes, x.reshape(n, channels, -1), width, pixels)
    out_h, out_w, outputs = conv.out_shape
    y = np.empty((n, outputs, out_h, out_w), np.float32)
    conv.bind(pixels, y, planes=True)(n, threads)
    return y


def _grouped_conv2d(x, weight, bias, window, groups, threads) -> F32:
    """`conv2d` by the SIMD kernels, with groups."""
    from xnor_ref.kernels.vectors import grouped, nhwc, simd

    threads = check_threads(threads)
    n, channels, height, width = x.shape
    conv = grouped.planned(weight, groups, (height, width), window, bias)
    pixels, (out_h, out_w, outputs) = empty((n, height, width, channels)), conv.out_shape
    simd.split(threads, n, nhwc.turned, x.reshape(n, channels, -1), pixels.reshape(n, -1, channels))
    y, planes = empty((n, *conv.out_shape)), np.empty((n, outputs, out_h, out_w), np.float32)
    conv.bind(pixels, y)(n, threads)
    simd.split(threads, n, nhwc.turned, y.reshape(n, -1, outputs), planes.reshape(n, outputs, -1))
    return planes


def conv2d_input_gradient(
    dy: F32,
    weight: F32,
    size: Pair,
    window: Window,
    groups: int = 1,
    threads: int | None = None,
) -> F32:
    """Return the gradient (N, C, H, W) of `conv2d` with respect to its input of spatial `size`."""
    rung = _rung()
    n, _, oh, ow = dy.shape
    o, c = weight.shape[0] // groups, weight.shape[1]
    dx = np.empty((n, c * groups, *size), np.float32)
    for g in range(groups):
        matrix = weight[g * o : (g + 1) * o].reshape(o, -1).T
        part = dy if groups == 1 else np.ascontiguousarray(dy[:, g * o : (g + 1) * o])
        target = dx if groups == 1 else np.empty((n, c, *size), np.float32)

        def spread(start, stop, matrix=matrix, part=part, target=target):
            target[start:stop] = 0
            cols = np.ascontiguousarray(matrix @ _gather(part, start, stop))
            rung.col2im(cols, start, stop, window.numbers, (oh, ow), target)

        parallel_chunks(spread, n, _images_per_gemm(oh * ow, True), threads, blas=True)
        if groups > 1:
            dx[:, g * c : (g + 1) * c] = target
    return dx


def conv2d_weight_gradient(
    dy: F32,
    x: F32,
    window: Window,
    groups: int = 1,
    threads: int | None = None,
    *,
    signs: bool = False,
    pad_value: float = 0.0,
) -> F32:
    """Return the gradient (O, C/groups, KH, KW) of `conv2d` with respect to its weight.

    Images are summed in fixed blocks, and the blocks in order, so the result does not depend on the number of threads.
    """
    rung = _rung()
    n, outputs, oh, ow = dy.shape
    o, c = outputs // groups, x.shape[1] // groups
    per_gemm = _images_per_gemm(oh * ow, True)
    block = max(per_gemm, -(-n // 8 // per_gemm) * per_gemm)  # about 8 partial sums
    dw = np.empty((outputs, c, *window.kernel), np.float32)
    for g in range(groups):
        part = x if groups == 1 else np.ascontiguousarray(x[:, g * c : (g + 1) * c])
        grad = dy if groups == 1 else dy[:, g * o : (g + 1) * o]
        partial = np.empty((-(-n // block), o, dw[0].size), np.float32)

        def accumulate(start, stop, part=part, grad=grad, partial=partial):
            total = partial[start // block]
            for first in range(start, stop, per_gemm):
                last = min(first + per_gemm, stop)
                cols = _columns(rung, part, first, last, window, (oh, ow), pad_value, signs)
                if first == start:
                    np.matmul(_gather(grad, first, last), cols.T, out=total)
                else:
                    total += _gather(grad, first, last) @ cols.T

        parallel_chunks(accumulate, n, block, threads, blas=True)
        dw[g * o : (g + 1) * o] = partial.sum(axis=0).reshape(o, *dw.shape[1:])
    return dw


def linear(x: F32, weight: F32, bias: F32 | None, threads: int | None = None, *, training: bool = False) -> F32:
    """x (N, I) @ weight (O, I).T + bias -> (N, O)."""
    y = np.empty((x.shape[0], weight.shape[0]), np.float32)
    if not training and has_vectors():
        from xnor_ref.kernels.vectors import simd

        conv = simd.RealConv(weight[:, :, None, None], (1, 1), Window((1, 1)), bias)
        conv.bind(np.ascontiguousarray(x), y)(len(x), check_threads(threads))
        return y

    def multiply_features(start, stop):
        y[:, start:stop] = x @ weight[start:stop].T

    def multiply_rows(start, stop):
        for row in range(start, stop):
            np.matmul(weight, x[row], out=y[row])

    if training:
        parallel_chunks(multiply_features, weight.shape[0], FEATURES, threads, blas=True)
    else:
        parallel_chunks(multiply_rows, x.shape[0], 4, threads, blas=True)
    if bias is not None:
        y += bias
    return y


def linear_input_gradient(dy: F32, weight: F32, threads: int | None = None) -> F32:
    """Return the gradient (N, I) of `linear` with respect to x."""
    dx = np.empty((dy.shape[0], weight.shape[1]), np.float32)

    def multiply(start, stop):
        dx[:, start:stop] = dy @ weight[:, start:stop]

    parallel_chunks(multiply, weight.shape[1], FEATURES, threads, blas=True)
    return dx


def linear_weight_gradient(dy: F32, x: F32, threads: int | None = None) -> F32:
    """Return the gradient (O, I) of `linear` with respect to its weight."""
    dw = np.empty((dy.shape[1], x.shape[1]), np.float32)

    def multiply(start, stop):
        np.matmul(dy[:, start:stop].T, x, out=dw[start:stop])

    parallel_chunks(multiply, dy.shape[1], FEATURES, threads, blas=True)
    return dw


def _planes(x: F32) -> F32:
    """Reshape x (N, C) or (N, C, H, W) to (N, C, P)."""
    return x.reshape(x.shape[0], x.shape[1], -1)


def batch_norm(
    x: F32, gamma: F32, beta: F32, eps: float, threads: int | None = None
) -> tuple[F32, NDArray[np.float64], NDArray[np.float64]]:
    """BatchNorm of x (N, C[, H, W]) in training. Return (y, mean (C,), biased variance (C,)), statistics in float64."""
    rung = _rung()
    planes, y = _planes(x), np.empty_like(x)
    channels = x.shape[1]
    mean, var = np.empty(channels), np.empty(channels)

    def normalise(start, stop):
        rung.batch_norm_forward(planes, start, stop, gamma, beta, eps, _planes(y), mean, var)

    parallel_chunks(normalise, channels, 8, threads)
    return y, mean, var


def batch_norm_gradient(
    dy: F32,
    x: F32,
    gamma: F32,
    mean: NDArray[np.float64],
    var: NDArray[np.float64],
    eps: float,
    threads: int | None = None,
) -> tuple[F32, F32, F32]:
    """Return the gradients (dx, dgamma (C,), dbeta (C,)) of `batch_norm`."""
    rung = _rung()
    grads, planes, dx = _planes(dy), _planes(x), np.empty_like(x)
    channels = x.shape[1]
    dgamma, dbeta = np.empty(channels), np.empty(channels)

    def differentiate(start, stop):
        rung.batch_norm_backward(grads, planes, start, stop, gamma, mean, var, eps, _planes(dx), dgamma, dbeta)

    parallel_chunks(differentiate, channels, 8, threads)
    return dx, dgamma.astype(np.float32), dbeta.astype(np.float32)


def affine(x: F32, scale: F32, shift: F32, threads: int | None = None) -> F32:
    """x * scale + shift per channel of x (N, C[, H, W]): one rounded product, then one rounded sum."""
    y = np.empty_like(x)
    planes, result = _planes(x), _planes(y)

    def transform(start: int, stop: int) -> None:
        np.multiply(planes[start:stop], scale[:, None], out=result[start:stop])
        result[start:stop] += shift[:, None]

    parallel_chunks(transform, len(x), 1, threads)
    return y


def max_pool2d(x: F32, window: Window, threads: int | None = None) -> F32:
    """Maximum of each window: (N, C, OH, OW). Padding never wins."""
    (oh, ow), (kernel, stride, *_) = window.count(spatial(x)), window.numbers
    y = np.empty((*x.shape[:2], oh, ow), np.float32)

    def pool(start: int, stop: int) -> None:
        padded = _padded(x[start:stop], window, -np.inf)
        lines = reduce(np.maximum, (padded[:, :, i : i + stride[0] * oh : stride[0]] for i in range(kernel[0])))
        taps = [lines[..., j : j + stride[1] * ow : stride[1]] for j in range(kernel[1])]
        y[start:stop] = reduce(np.maximum, taps)

    parallel_chunks(pool, len(x), 1, threads)
    return y


def _padded(x: F32, window: Window, value: float = 0.0) -> F32:
    """Pad images with `value`."""
    (height, width), (top, left) = spatial(x), window.before
    if window.padded((height, width)) == (height, width):
        return x
    out = np.full((*x.shape[:2], *window.padded((height, width))), value, np.float32)
    out[:, :, top : top + height, left : left + width] = x
    return out


def max_pool2d_winners(x: F32, window: Window, threads: int | None = None) -> tuple[F32, NDArray[np.uint8]]:
    """Return `max_pool2d`, and the first tap that has the maximum, for the gradient. At most 256 taps."""
    rung = _rung()
    y = np.empty((*x.shape[:2], *window.count(spatial(x))), np.float32)
    winner = np.empty(y.shape, np.uint8)
    parallel_chunks(
        lambda start, stop: rung.max_pool_winners(x, start, stop, window.numbers, y, winner),
        len(x),
        1,
        threads,
    )
    return y, winner


def max_pool2d_gradient(
    dy: F32,
    winner: NDArray[np.uint8],
    size: Pair,
    window: Window,
    threads: int | None = None,
) -> F32:
    """Return the gradient of `max_pool2d_winners` with respect to its input of spatial `size`.

    It goes to the winning tap.
    """
    rung = _rung()
    dx = np.zeros((*dy.shape[:2], *size), np.float32)
    parallel_chunks(
        lambda start, stop: rung.max_pool_backward(dy, winner, start, stop, window.numbers, dx),
        len(dy),
        1,
        threads,
    )
    return dx


def tap_shares(size: Pair, window: Window, count_include_pad: bool = True) -> F32:
    """Return 1 / (number of taps counted in the mean of each window), rounded once: float32 (OH, OW).

    All KH*KW taps count, or only those inside the image of this size. At least one must lie inside.
    """
    inside = [
        (np.arange(pixels) * stride - before)[:, None] + np.arange(taps)
        for pixels, stride, before, taps in zip(window.count(size), window.stride, window.before, window.kernel)
    ]
    rows, columns = (
        (count_include_pad | (at >= 0) & (at < end)).sum(axis=1) for at, end in zip(inside, size, strict=True)
    )
    return (1 / np.outer(rows, columns)).astype(np.float32)


def avg_pool2d(x: F32, window: Window, shares: F32) -> F32:
    """Mean of each window. `shares` is the result of `tap_shares`."""
    (oh, ow), (kernel, stride, *_) = window.count(spatial(x)), window.numbers
    padded = _padded(x, window)
    y = np.zeros((*x.shape[:2], oh, ow), np.float32)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            y += padded[:, :, i : i + stride[0] * oh : stride[0], j : j + stride[1] * ow : stride[1]]
    y *= shares
    return y


def avg_pool2d_gradient(dy: F32, size: Pair, window: Window, shares: F32) -> F32:
    """Return the gradient of `avg_pool2d` with respect to its input of spatial `size`."""
    (h, w), (oh, ow), (kernel, stride, (top, left), _) = size, dy.shape[2:], window.numbers
    padded = np.zeros((*dy.shape[:2], *window.padded(size)), np.float32)
    share = dy * shares
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            padded[:, :, i : i + stride[0] * oh : stride[0], j : j + stride[1] * ow : stride[1]] += share
    return np.ascontiguousarray(padded[:, :, top : top + h, left : left + w])


def global_avg_pool2d(x: F32) -> F32:
    """Mean over all pixels: (N, C), summed in float64, one pixel after the other."""
    pixels = x.shape[2] * x.shape[3]
    sums = np.cumsum(_planes(x), axis=2, dtype=np.float64)[:, :, -1]
    return (sums / pixels).astype(np.float32)


def relu(x: F32) -> F32:
    """max(x, 0), in the layout of x."""
    y = np.empty_like(x)
    parallel_chunks(lambda a, b: np.maximum(x[a:b], np.float32(0), out=y[a:b]), len(x))
    return y


def relu_gradient(x: F32, dy: F32) -> F32:
    """dy where x > 0, else 0: the gradient of `relu`, in the layout of x."""
    dx = np.empty_like(x)
    parallel_chunks(lambda a, b: np.multiply(dy[a:b], x[a:b] > 0, out=dx[a:b]), len(x))
    return dx


def prelu(x: F32, slope: F32) -> F32:
    """x where x >= 0, else slope * x, with one slope for all channels (1,) or one each (C,)."""
    per_channel = slope.reshape(1, -1, *(1,) * (x.ndim - 2))
    return np.where(x >= 0, x, per_channel * x)


def hardtanh(x: F32) -> F32:
    """x clipped to [-1, 1]."""
    return np.clip(x, np.float32(-1), np.float32(1))


def scale_output(z: NDArray[np.int32], alpha: F32 | None, k: F32 | None, threads: int | None = None) -> F32:
    """float32(z) [* alpha] [* K] for z (N, O[, OH, OW]), alpha (O,), K (N, groups[, OH, OW]).

    Both products are rounded.

    The order is part of the model file format: first alpha, then K.
    """
    y = np.empty(z.shape, np.float32)
    planes, result = z.reshape(*z.shape[:2], -1), _planes(y)

    def scale(start: int, stop: int) -> None:
        part = result[start:stop]
        np.copyto(part, planes[start:stop], casting="unsafe")
        if alpha is not None:
            part *= alpha[:, None]
        if k is not None:
            times_input_scale(y[start:stop], k[start:stop])

    parallel_chunks(scale, len(z), 1, threads)
    return y


def for_outputs(k: F32, outputs: int) -> F32:
    """Return K (N, groups, OH, OW) ready to multiply `outputs` channels: with one map, or with one per channel."""
    return k if k.shape[1] == 1 else np.repeat(k, outputs // k.shape[1], axis=1)


def times_input_scale(y: NDArray, k: F32) -> None:
    """Multiply y (N, O[, OH, OW]) by K (N, groups[, OH, OW]), in place. Each output takes the K of its group."""
    of_groups = y.reshape(*k.shape[:2], -1, *y.shape[2:])
    of_groups *= k[:, :, None]


def mask_ste(x: F32, dx: F32, threads: int | None = None) -> F32:
    """dx * 1[|x| <= 1], in place: the straight-through estimator of sign (XNOR-Net, section 3.1; BinaryNet, eq. 4)."""
    flat_x, flat_dx = x.reshape(-1), dx.reshape(-1)

    def mask(start: int, stop: int) -> None:
        np.copyto(flat_dx[start:stop], 0, where=~(np.abs(flat_x[start:stop]) <= 1))

    parallel_chunks(mask, flat_x.size, 1 << 16, threads)
    return dx
