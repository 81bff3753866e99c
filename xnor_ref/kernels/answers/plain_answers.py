"""Known answers of the kernels of `readable/plain.py`; `selftest` says what for."""

import numpy as np

from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.compiling.selftest import Case, reals, words
from xnor_ref.kernels.readable import plain


def known_answers() -> tuple[Case, ...]:
    """A case or more for each kernel."""
    ones = np.array([0, 1, 1 << 63, 0xFF00FF00FF00FF00, 0x0123456789ABCDEF, 0xFFFFFFFFFFFFFFFF], np.uint64)
    return (
        (plain.popcount, lambda: tuple(plain.popcount(word) for word in ones), [0, 1, 1, 32, 32, 64]),
        (plain._count_one, lambda: _counted(plain._count_one, 1, 3), "e0ff992c10ceadcb"),
        (plain._count_two, lambda: _counted(plain._count_two, 2, 1, 6), "d1ff9074e122d5ec"),
        (plain._relay, _relaid, "c55870ac5cc2c9c3"),
        (plain.taps_inside, _taps, [[2, 3], [0, 2], [1, 1], [3, 3]]),
        (plain._conv_rows, lambda: _convolved((3, 3), 21, (1, 1), (1, 1)), "a9fa4b612c663d7e"),
        (plain._conv_rows, lambda: _convolved((2, 1), 66, (2, 3), (3, 2)), "86d90b77184894e8"),  # two blocks
        (plain._conv_rows, lambda: _convolved((3, 2), 21, (1, 2), ((1, 2), (3, 0)), (2, 3)), "af1d1424422e14e9"),
        (plain._gemm_pairs, lambda: plain.gemm_bits(words(3, 4), words(19, 4), 256, 1), "510de9e816710689"),
        (plain._pack_pixels, lambda: plain.sign_pack(np.round(reals(2, 67, 2, 2) / 8), 1), "e841b94a17b42096"),  # 0, -0
        (plain._pack_pixels, _thresholded, "a38a3baabbe84feb"),
        (plain.channel_means, lambda: plain.input_scale_rows(reals(3, 13), 1), "2967f558f3d5a929"),
        (plain.channel_means, _averaged, "30f9c4e752e604f5"),
        (plain.box_means, lambda: _scaled((1, 1), (1, 1), False), "87538fb1f88cf420"),
        (plain.box_means, lambda: _scaled((2, 3), (0, 2), True), "0a37827ab8b013e3"),
        (plain.box_means, lambda: _scaled((1, 2), ((1, 0), (0, 3)), True, (1, 4)), "e84a91a342313b1d"),
    )


def _counted(kernel, pixels, *positions):
    counts = np.zeros((pixels, 19), np.uint64)
    kernel(words(12), *positions, words(2, 7, 19), 1, 2, 5, counts)  # 5 words: three, and two
    return counts


def _relaid():
    blocks = words(2, 3, 8)
    plain._relay(words(11, 3), blocks)
    return blocks


def _taps():
    return tuple(plain.taps_inside(*case) for case in ((-3, 9, 3, 2), (5, 9, 3, 2), (-5, 9, 1, 2), (-7, 2, 3, 2)))


def _convolved(kernel, outputs, stride, padding, dilation=1):
    window = Window.of(kernel, stride, padding, dilation)
    return plain.conv2d_bits(words(2, 4, 7, 1), words(outputs, *kernel, 1), 64, window, 0, 1)


def _thresholded():
    x = reals(1, 66, 7, 13)
    return plain.threshold_pack(x, reals(66) / 4, x[0, :, 0, 0] > 0, 1)


def _averaged():
    mean = np.zeros((2, 37))
    plain.channel_means(0, 2, reals(2, 19, 37), mean)
    return mean


def _scaled(stride, padding, valid, dilation=1):
    mean, size = abs(reals(2, 84)).astype(np.float64), (4, 21)
    window = Window.of((3, 2), stride, padding, dilation)
    out_h, out_w = window.count(size)
    out = np.zeros((2, out_h * out_w), np.float32)
    plain.box_means(0, 2, mean, size, window.numbers, valid, (out_h, out_w), out)
    return out
