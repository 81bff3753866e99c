"""Known answers of the kernels of `vectors/`; `selftest` says what for."""

import numpy as np

from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.basics.layout import mask_tail
from xnor_ref.kernels.compiling.selftest import Case, reals, words
from xnor_ref.kernels.vectors import grouped, nhwc, signs, simd


def known_answers() -> tuple[Case, ...]:
    """A case or more for each kernel."""
    return (
        (simd._to_planes, _turned, "01c7ea7e22abfef5"),
        (simd._fill_panels, _filled, "f6e148b5717ec02b"),
        (simd._convolve, lambda: _integers((3, 3), 21, (1, 1), (1, 1), 0), "47d56595e1b51d98"),
        (simd._convolve, lambda: _integers((2, 1), 70, (2, 3), (3, 2), 1), "4d2131aff3d4ec43"),  # two blocks
        (
            simd._convolve,
            lambda: _integers((5, 9), 33, (1, 1), (0, 0), 0),
            "46470afce3acb306",
        ),  # the window is the image
        (simd._convolve, lambda: tuple(_apart(*sizes) for sizes in _SIZES), "f8b77a7391f29392"),
        (simd._convolve, lambda: _scaled(130), "e170576a1267b98c"),
        (simd._convolve, _scaled_by_group, "a25d6b7683900b5e"),
        (simd._convolve, lambda: _compared(94), "4eb87189c2308d6b"),
        (simd._convolve, lambda: _real(70, False), "f0bc0e92da910444"),
        (simd._convolve, lambda: _real(20, True), "525f0fe48c041469"),
        (signs.pack_pixels, lambda: tuple(part for how in _WAYS for part in _packed(*how)), "9a29a7193fe8873b"),
        (signs.pack_pixels, _packed_by_group, "d7a8812ea4ddd3e7"),
        (signs.pack_planes, lambda: _packed_planes(80, True) + _packed_planes(96, False), "40f3ab4d27d3d9c8"),
        (signs.pool_bits, _pooled_bits, "f231663aa1d676f5"),
        (nhwc.look_up, lambda: tuple(_looked_up(channels) for channels in (2, 3)), "eb4010a4822218a0"),
        (
            nhwc.from_planes,
            lambda: _moved(nhwc.from_planes, 6, reals(2, 3, 15), 5, shape=(2, 3, 7, 3)),
            "e69bb8c8dc2f15de",
        ),
        (
            nhwc.affine,
            lambda: _moved(nhwc.affine, 3, X, SLOPE, reals(39)[2:], np.float32(-3), shape=X.shape),
            "31ddc6fa12d7aed3",
        ),
        (nhwc.affine, _several_at_once, "92201113bcd1c4f9"),
        (nhwc.prelu, lambda: _moved(nhwc.prelu, 3, X, SLOPE, shape=X.shape), "345dd71166bd1edd"),
        (nhwc.max_pool, lambda: tuple(_pooled(nhwc.max_pool, channels) for channels in (3, 37)), "562b600e354b0243"),
        (nhwc.avg_pool, lambda: _pooled(nhwc.avg_pool, 19, np.full((3, 3), 1 / 6, np.float32)), "3b83ab9feed5b77a"),
        (nhwc.turned, lambda: _moved(nhwc.turned, 2, reals(2, 39, 37), shape=(2, 37, 39)), "dc7722e7b18cc193"),
        (nhwc.turned, lambda: _moved(nhwc.turned, 2, reals(2, 3, 37), shape=(2, 37, 3)), "21e7f3710f79401c"),
        (grouped._convolve, lambda: tuple(_grouped(*case) for case in _GROUPS), "e9e54b840655f157"),
        (grouped._convolve, lambda: tuple(_back(*case) for case in _GROUPS), "2217f4b8f8f436c3"),
        (grouped._convolve_squares, lambda: tuple(_grouped(*case) for case in _SQUARES), "624c91d3f102ebfb"),
        (grouped._convolve_squares, lambda: tuple(_back(*case) for case in _SQUARES), "b9acdc2cd6284be2"),
        (grouped._weight_sums, lambda: tuple(_of_weights(*case) for case in _GROUPS), "9f3faba0f9e9ad86"),
        (nhwc.global_mean, lambda: _moved(nhwc.global_mean, 2, reals(2, 3, 5, 19), shape=(2, 19)), "bf00d471aa03b28b"),
    )


X, SLOPE = reals(3, 37), reals(37) / 8
POOL = Window.of((3, 2), (2, 3), 1)


def _turned():
    pixels, out = words(40 * 64).astype(np.uint32), np.zeros(37 * 41 + 5, np.uint32)
    simd._to_planes(pixels, 64, 39, 37, out, 5, 41)
    return out


def _filled():
    """The weights again, put together from the blocks, whose width is the processor's."""
    panels, weight = simd.panels(words(150, 3).astype(np.uint32)), []
    for first in range(0, 150, simd.WIDE):
        used = min(simd.WIDE, 150 - first)
        width = simd.NARROW if used <= simd.NARROW else simd.WIDE
        weight.append(panels[first * 3 : (first + width) * 3].reshape(3, width).T[:used])
    return np.concatenate(weight)


def _integers(kernel, outputs, stride, padding, pad_value):
    window = Window.of(kernel, stride, padding)
    return simd.conv2d_bits(words(2, 5, 9, 1), words(outputs, *kernel, 1), 64, window, pad_value, 1)


_SIZES = (70, 90, 5), (128, 128, 2), (33, 33, 33), (9, 64, 1)  # outputs, channels, groups


def _apart(outputs, channels, groups):
    """Taps that are apart, padding that differs between sides, and groups that share words or do not."""
    own = channels // groups
    x, w = (words(*shape, -(-n // 64)) for shape, n in (((2, 5, 9), channels), ((outputs, 3, 2), own)))
    x, w = (mask_tail(array, n) for array, n in ((x, channels), (w, own)))
    window = Window.of((3, 2), (1, 2), ((1, 2), (3, 0)), (2, 3))
    return simd.conv2d_bits(x, w, channels, window, 1, 1, groups)


def _scaled_by_group():
    conv = simd.SignConv(words(128, 3, 2, 1), 128, (5, 9), Window.of((3, 2), 1, (1, 0)), groups=2)
    out = np.zeros((2, *conv.out_shape), np.float32)
    bits = words(2, *conv.padded_shape).astype(np.uint32)
    conv.bind(simd.SCALED, bits, out, simd.padded(reals(128)), reals(4, 40))(2, 1)
    return out


def _conv(outputs, channels):
    window = Window.of((3, 2), 1, (1, 0))
    return simd.SignConv(words(outputs, 3, 2, 2) >> np.uint64(128 - channels), channels, (5, 9), window)


def _scaled(outputs):
    conv = _conv(outputs, 96)
    bits = words(2, *conv.padded_shape).astype(np.uint32)
    out = np.zeros((2, *conv.out_shape), np.float32)
    conv.bind(simd.SCALED, bits, out, simd.padded(reals(outputs)), reals(2, 40))(2, 1)
    return out


def _compared(outputs):
    conv = _conv(outputs, 96)
    bits = words(2, *conv.padded_shape).astype(np.uint32)
    out = np.zeros((2, 5, 10, 3), np.uint32)
    limits = simd.padded(reals(outputs).astype(np.int32), np.iinfo(np.int32).max)
    flips = words(5).astype(np.uint32) & np.array([-1, -1, 0x3FFFFFFF, 0, 0]).astype(np.uint32)
    conv.bind(simd.BITS, bits, out, limits, flips, place=(600, 120, 12, 3))(2, 1)
    return out


def _real(outputs, planes):
    window = Window.of((2, 3), (2, 1), (1, 0))
    conv = simd.RealConv(reals(outputs, 3, 2, 3), (5, 9), window, reals(outputs), reals(outputs) / 4, None, -9)
    height, width, _ = conv.out_shape
    out = np.zeros((2, outputs, height, width) if planes else (2, height, width, outputs), np.float32)
    conv.bind(reals(2, *conv.padded_shape), out, planes=planes)(2, 1)
    return out


_GROUPS = (  # shape of the weights, groups, stride, padding and dilation: depthwise (twice), few a group
    ((84, 1, 3, 4), 84, 1, 1, 1),
    ((16, 1, 5, 2), 16, (2, 3), (3, 0), 1),
    ((14, 4, 2, 3), 7, (1, 2), ((0, 2), (1, 0)), (1, 3)),
    ((27, 1, 1, 4), 9, (2, 4), (0, 3), (1, 2)),
)
_SQUARES = ((84, 1, 3, 3), 84, 1, 1, 1), ((14, 4, 3, 3), 7, 1, ((0, 2), (1, 0)), 1)


def _of_groups(shape, groups, stride, padding, dilation, **values):
    return grouped.GroupedConv(shape, groups, (5, 11), Window.of(shape[2:], stride, padding, dilation), **values)


def _grouped(shape, *place):
    scale, shift, bias = (reals(shape[0] + begin)[begin:] for begin in range(3))
    conv = _of_groups(shape, *place, scale=scale, shift=shift, floor=-9)
    return _bound(conv.load(reals(*shape), bias))


def _back(shape, *place):
    return _bound(_of_groups(shape, *place, back=True).load(reals(*shape)))


def _bound(conv):
    out = np.zeros((2, *conv.out_shape), np.float32)
    conv.bind(reals(2, *conv.padded_shape), out)(2, 1)
    return out


def _of_weights(*case):
    conv = _of_groups(*case)
    return conv.weight_gradient(reals(9, *conv.padded_shape), reals(9, *conv.out_shape), 1)


_WAYS = (False, False), (False, True), (True, False), (True, True)


def _packed(affine, with_mean):
    bits, mean = np.zeros((2, 3, 7, 3), np.uint32), np.zeros((2, 15))
    x = np.round(reals(2, 3, 5, 77))  # zeros of both signs
    scales = (reals(77), reals(78)[1:], reals(79)[2:]) if affine else [reals(0)] * 3
    if affine and with_mean:  # the same of every second row and third column of a larger image
        x = np.ascontiguousarray(np.repeat(np.repeat(x, 2, axis=1), 3, axis=2)[:, :-1, :-2])
        x[:, 1::2], x[:, :, 1::3], x[:, :, 2::3] = 99, 99, 99
    step = (2, 3) if affine and with_mean else (1, 1)
    signs.pack_pixels(0, 6, x, step, *scales, bits, mean if with_mean else np.zeros((2, 0)))
    return bits, mean


def _packed_by_group():
    bits, mean, scales = (
        np.zeros((2, 3, 7, 4), np.uint32),
        np.zeros((4, 15)),
        (reals(128), reals(129)[1:], reals(130)[2:]),
    )
    signs.pack_pixels(0, 6, reals(2, 3, 5, 128), (1, 1), *scales, bits, mean)
    return bits, mean


def _packed_planes(channels, means):
    bits, mean = np.zeros((2, 3, 7, 3), np.uint32), np.zeros((2, 15 if means else 0))
    signs.pack_planes(0, 4, np.round(reals(2, channels, 15)), 5, 2, bits, mean)
    return bits, mean


def _pooled_bits():
    bits, out = words(2, 5, 6, 2).astype(np.uint32), np.zeros((2, 3, 5, 2), np.uint32)
    signs.pool_bits(0, 6, bits, words(3).astype(np.uint32), POOL.numbers, 3, out)
    return out


def _looked_up(channels):
    images, table = words(2, 3, 5, channels).astype(np.uint8), reals(256, channels)
    return _moved(nhwc.look_up, 6, images, table, shape=(2, 3, 7, channels))


def _several_at_once():
    """Rows 1 to 38 of 41, three of them one run; the others keep their zeros."""
    y, scale, shift = np.zeros((41, 20), np.float32), reals(20), reals(21)[1:]
    nhwc.affine(1, 39, reals(41, 20), np.tile(scale, 3), np.tile(shift, 3), np.float32(-3), y)
    return y


def _pooled(kernel, channels, *shares):
    return _moved(kernel, 6, reals(2, 5, 6, channels), POOL.numbers, *shares, shape=(2, 3, 3, channels))


def _moved(kernel, items, *arguments, shape):
    out = np.zeros(shape, np.float32)
    kernel(0, items, *arguments, out)
    return out
