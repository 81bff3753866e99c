"""Known answers of the kernels of `winograd.py`; `selftest` says what for."""

import numpy as np

from xnor_ref.kernels import winograd
from xnor_ref.kernels.gradient_answers import from_blocks, in_blocks
from xnor_ref.kernels.selftest import Case, reals, words
from xnor_ref.kernels.simd import padded_outputs
from xnor_ref.kernels.winograd import Images


def cases() -> tuple[Case, ...]:
    """A case or more for each kernel."""
    return (
        (winograd._fill_line, _lines, "c820282063618aff"),
        (winograd._transform_input, lambda: tuple(_input(images) for images in _images(37)), "557968bcb9710456"),
        (winograd._transform_gradient, lambda: _gradient(37) + _gradient(70), "e218e2124b4c3d0b"),
        (winograd._thirds, _thirds, "eda7c8740c5bdc33"),
        (winograd._transform_filters, lambda: _filters(70, False) + _filters(37, True), "97b16d7e4ef95ccd"),
        (winograd._add_products, lambda: (_products(37), _products(70)), "aa6304f76931adba"),
        (winograd._transform_sums, _sums, "481b6c2972191b05"),
        (winograd._transform_output, _output, "d8143508ffc0f229"),
        (winograd._convolve, lambda: (_convolved(37, 0), _convolved(70, 2)), "6fc9ac03fc93a240"),
    )


def _images(channels):
    """Two images of 5 x 9 pixels: real ones, the same times something, and signs beside a border of -1."""
    x, bits = reals(2, 5, 11, channels), words(2, 5, 11, 2).astype(np.uint32)
    return Images.of(x, 9, 1), Images.of(x, 9, 2, reals(2, 45)), Images.of_signs(bits, 9, 1, -1)


def _lines():
    line, found = np.zeros(14 * 37, np.float32), []
    for images in _images(37):
        for y in (-1, 0, 4, 5):
            winograd._fill_line(*images, 1, y, 14, 37, line)
            found.append(line.copy())
    winograd._fill_line(*Images.of(reals(1, 2, 4, 37), 4, 0), 0, 1, 3, 37, line)
    return *found, line


def _input(images):
    """Rows of tiles from the second of the first image to the first of the second one."""
    rows, across = 2 + images.padding - 1, 4 + images.padding
    v = np.zeros((16, (rows + 1) * across, 40), np.float32)
    winograd._transform_input(1, rows + 1, 1, *images, rows, across, 37, v)
    return v


def _gradient(outputs):
    dy, wide = Images.of(reals(2, 3, 5, outputs), 5, 0, reals(2, 15)), padded_outputs(outputs)
    d = np.zeros(16 * 9 * wide, np.float32)
    winograd._transform_gradient(1, 4, 1, *dy, 2, 3, outputs, d)
    return tuple(from_blocks(part, 9, outputs) for part in d.reshape(16, -1))


def _thirds():
    a, b, c, *out = (reals(8, 37) + np.float32(1)).copy()
    winograd._thirds(a, b, c, *out[:4])
    return tuple(out[:4])


def _filters(lanes, back):
    """Three filters to each of the lanes; of the way back signs."""
    alpha, panels = reals(3) if back else reals(0), np.zeros(16 * 3 * padded_outputs(lanes), np.float32)
    steps = (9, 9 * lanes) if back else (27, 9)
    weight = np.round(reals(lanes * 27) / 4)
    for block in range(-(-lanes // winograd.WIDE)):
        winograd._transform_filters(block, block + 1, weight, lanes, 3, *steps, back, alpha, panels)
    return tuple(from_blocks(part, 3, lanes) for part in panels.reshape(16, -1))


def _products(outputs):
    v, sums = reals(16, 70, 7), np.ones((16, 5, padded_outputs(outputs)), np.float32)
    d = np.concatenate([in_blocks(part) for part in reals(16, 70, outputs)])
    winograd._add_products(0, 16 * -(-outputs // winograd.WIDE), 67, v, d, outputs, sums)
    return sums[:, :, :outputs]


def _sums():
    sums, out = reals(16, 3, 37), np.zeros((27, 37), np.float32)
    winograd._transform_sums(1, 3, sums, out)
    winograd._transform_sums(0, 1, sums, out)
    return out


def _output():
    m, out = reals(16, 9, 40), np.zeros((2, 3, 5, 37), np.float32)
    winograd._transform_output(1, 4, m, 2, 3, reals(37), out)
    return out


def _convolved(outputs, padding):
    conv = winograd.Convolution(35, outputs, (5, 9), padding)
    conv.load(np.round(reals(outputs, 35, 3, 3)), 1)
    conv.set_bias(reals(outputs))
    out = np.zeros((2, *conv.out_size, outputs), np.float32)
    conv(Images.of(reals(2, 5, 9, 35), 9, padding), out, 0, 2)
    return out
