"""Known answers of the kernels of `training/winograd.py`; `selftest` says what for."""

import numpy as np

from xnor_ref.kernels.answers.gradient_answers import from_blocks, in_blocks
from xnor_ref.kernels.compiling.selftest import Case, reals, words
from xnor_ref.kernels.training import winograd
from xnor_ref.kernels.training.winograd import Images
from xnor_ref.kernels.vectors.simd import padded_outputs


def known_answers() -> tuple[Case, ...]:
    """A case or more for each kernel."""
    return (
        (winograd._fill_line, _lines, "c50da07045b09202"),
        (winograd._transform_input, lambda: tuple(_input(images, 4) for images in _images(37)), "75cf54b9f583cc32"),
        (winograd._transform_input, lambda: _input(_images(37)[1], 6), "5ed6bf1f02afb02f"),
        (winograd._transform_gradient, lambda: _gradient(37, 4) + _gradient(70, 6), "6f9086dc0f884d1d"),
        (winograd._transform_filters, lambda: _filters(70, 4, False) + _filters(37, 4, True), "6c43e9b0ac8a042c"),
        (winograd._transform_filters, lambda: _filters(37, 6, False), "a2f4790cb233975d"),
        (winograd._add_products, lambda: (_products(37), _products(70)), "aa6304f76931adba"),
        (winograd._transform_sums, lambda: (_sums(4), _sums(6)), "92fbb06e4d11fbb6"),
        (winograd._transform_output, lambda: (_output(4), _output(6)), "36279d3070532008"),
        (
            winograd._convolve,
            lambda: (_convolved(37, 3, 0), _convolved(70, 3, 2), _convolved(37, 5, 3)),
            "2223c6435287e18e",
        ),
    )


def _images(channels):
    """Two images of 5 x 9 pixels: real ones, the same times something, and signs beside a border of -1."""
    x, bits = reals(2, 5, 11, channels), words(2, 5, 11, 2).astype(np.uint32)
    return Images.of(x, 9, 1), Images.of(x, 9, 2, reals(2, 45)), Images.of_signs(bits, 9, 1, -1)


def _lines():
    lines = np.zeros((13, 14 * 37), np.float32)
    cases = [(images, 1, y) for images in _images(37) for y in (-1, 0, 4, 5)]
    for number, case in enumerate(cases):
        winograd._fill_line(*case[0], *case[1:], 14, 37, lines.reshape(-1), number * 14 * 37)
    winograd._fill_line(*Images.of(reals(1, 2, 4, 37), 4, 0), 0, 1, 3, 37, lines.reshape(-1), 12 * 14 * 37)
    return lines


def _input(images, side):
    """Rows of tiles from the second of the first image to the second of the second one."""
    rows, across = 3, 6
    v = np.zeros((side * side, (rows + 1) * across, 40), np.float32)
    winograd._transform_input(1, rows + 2, 1, *images, side, rows, across, 37, v)
    return v


def _gradient(outputs, side):
    dy, wide = Images.of(reals(2, 3, 5, outputs), 5, 0, reals(2, 15)), padded_outputs(outputs)
    d = np.zeros((side * side, wide, 9), np.float32)
    winograd._transform_gradient(1, 4, 1, *dy, side, 2, 3, outputs, d)
    return tuple(from_blocks(part.reshape(-1), 9, outputs) for part in d)


def _filters(lanes, side, back):
    """Three filters to each of the lanes; of the way back signs."""
    alpha, taps, elements = reals(3) if back else reals(0), (side - 1) ** 2, side * side
    panels = np.zeros(elements * 3 * padded_outputs(lanes), np.float32)
    steps = (taps, taps * lanes) if back else (3 * taps, taps)
    weight = np.round(reals(lanes * 3 * taps)) * (1 if side == 4 else 576)
    for block in range(-(-lanes // winograd.WIDE)):
        winograd._transform_filters(block, block + 1, weight, lanes, 3, *steps, back, alpha, side, panels)
    return tuple(from_blocks(part, 3, lanes) for part in panels.reshape(elements, -1))


def _products(outputs):
    v, sums = reals(16, 70, 7), np.ones((16, 5, padded_outputs(outputs)), np.float32)
    d = np.stack([in_blocks(part) for part in reals(16, 70, outputs)]).reshape(16, -1, 70)
    winograd._add_products(0, 16 * -(-outputs // winograd.WIDE), 67, v, d, outputs, sums)
    return sums[:, :, :outputs]


def _sums(side):
    taps = (side - 1) ** 2
    sums, out = np.round(576 * reals(side * side, 3, 37)), np.zeros((3 * taps, 37), np.float32)
    winograd._transform_sums(1, 3, side, sums, out)
    winograd._transform_sums(0, 1, side, sums, out)
    return out


def _output(side):
    m, out = reals(side * side, 9, 40), np.zeros((2, 3, 5, 37), np.float32)
    winograd._transform_output(1, 4, m, side, 2, 3, reals(37), out)
    return out


def _convolved(outputs, kernel, padding):
    conv = winograd.Convolution(5, outputs, (5, 9), kernel, padding)
    conv.load(np.round(reals(outputs, 5, kernel, kernel)) * (1 if kernel == 3 else 576), 1)
    conv.set_bias(reals(outputs))
    out = np.zeros((2, *conv.out_size, outputs), np.float32)
    conv(Images.of(np.round(reals(2, 5, 9, 5)), 9, padding), out, 0, 2)
    return out
