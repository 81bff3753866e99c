"""Known answers of `training/gradients.py` and `training/gradient_layout.py`; `selftest` says what for."""

from itertools import pairwise

import numpy as np

from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.basics.modes import Finish
from xnor_ref.kernels.compiling.selftest import Case, reals, words
from xnor_ref.kernels.training import gradient_layout as layout
from xnor_ref.kernels.training import gradients
from xnor_ref.kernels.vectors import simd

NO_ALPHA = np.zeros(0, np.float32)


def known_answers() -> tuple[Case, ...]:
    """A case or more for each kernel."""
    return (
        (gradients._sum_over_pixels, lambda: _summed((3, 2), 21, (1, 1), (1, 1), False), "031c68d0c5aa1918"),
        (gradients._sum_over_pixels, lambda: _summed((2, 3), 70, (2, 3), (1, 2), True), "f3202a1b651d9212"),
        (gradients._sum_over_pixels, lambda: _summed((5, 9), 33, (1, 1), (0, 0), True), "d72e5aec486875d3"),
        (gradients._sum_over_pixels, _summed_rows, "6b23983a8578261d"),
        (gradients._convolve_bytes, lambda: _convolved(37, (3, 2), (1, 1), (1, 1)), "7fb95d9e53457c5f"),
        (gradients._convolve_bytes, lambda: _convolved(70, (2, 3), (2, 3), (1, 2)), "b0e8de5ab08899a2"),
        (gradients._convolve_bytes, lambda: _convolved(32, (5, 9), (1, 1), (0, 0)), "0b6d199e6d10f337"),
        (
            gradients._convolve_bytes,
            lambda: _convolved(37, (3, 2), (2, 1), ((1, 2), (3, 0)), (1, 3)),
            "d4e5b94137f227ce",
        ),
        (layout.fill_real_panels, _real_panels, "868b99e1612a9d5d"),
        (layout.fill_sign_panels, lambda: _sign_panels(False), "34e14c2f3cfea9ec"),
        (layout.fill_sign_panels, lambda: _sign_panels(True), "562529d188eb158d"),
        (layout.pack_filters, _filters, "581079af1d5e36b9"),
        (layout.finish, lambda: tuple(_finished(mode, 8, 4, False) for mode in range(6)), "e1481cc4543a7fed"),
        (layout.finish, lambda: (_finished(0, 8, 4, True), _finished(2, 5, 1, True)), "1e7123b1de46ba5a"),
        (layout.finish, lambda: _split(8, 4), "8c04eae3b0a1715f"),
        (layout.expand_bits, lambda: _expanded(1, 1, True) + _expanded(2, -1, True), "d471cbd4ed777d86"),
        (layout.expand_bits, lambda: _expanded(1, 0, False) + _expanded(2, 1, False), "9a2eac8865484177"),
        (layout.to_planes, lambda: (_turned(40, 1, 21), _turned(37, 3, 5)), "a9375091b65b2b25"),
        (layout.pack_gradient, lambda: _packed(37, True, True) + _packed(70, False, False), "4e10efadce7e4b0b"),
        (layout.largest, _largest, "e6147a88e770419e"),
        (layout.add_signs, _signs_added, "4fc559ef7eff76f4"),
        (layout.quantize, lambda: _quantized(37, True) + _quantized(70, False), "18490715e6c4900b"),
    )


def _octets(*shape):
    return words(*shape).astype(np.uint8)


def in_blocks(values):
    """Numbers of 32 bits (rows, lanes) as tiles read them, in blocks of the processor's width."""
    n_rows, lanes = values.shape
    wide = np.zeros((n_rows, simd.padded_outputs(lanes)), values.dtype)
    wide[:, :lanes] = values
    return np.concatenate([wide[:, first : first + simd.WIDE].reshape(-1) for first in range(0, lanes, simd.WIDE)])


def from_blocks(panels, n_rows, lanes):
    """The numbers again."""
    cuts = [min(first, simd.padded_outputs(lanes)) * n_rows for first in range(0, lanes + simd.WIDE, simd.WIDE)]
    blocks = [panels[a:b].reshape(n_rows, -1) for a, b in pairwise(cuts)]
    return np.concatenate(blocks, axis=1)[:, :lanes]


def _summed(kernel, outputs, stride, padding, in_bytes):
    """Over 2 images of 5 x 9 pixels with 35 channels: two pieces of channels, the last of which has three."""
    sums = gradients.WeightGradient(35, outputs, (5, 9), Window.of(kernel, stride, padding), in_bytes)
    planes, rows = sums.planes(2), 2 * sums.out_h * sums.run
    planes[...] = _octets(*planes.shape) % 3 if in_bytes else reals(*planes.shape)
    dy = _octets(rows, 4 * outputs).view("<u4") if in_bytes else reals(rows, outputs).view(np.uint32)
    panels, blocks = sums.panels(2), in_blocks(dy.astype(np.uint32))
    panels[: blocks.size] = blocks
    return sums(planes, panels, 2, 1)[:, :outputs]


def _summed_rows():
    gradient = gradients.RowsGradient(3, 21, (5, 9), Window.of((3, 2), (2, 1), 1))
    sums = gradient.sums(1)
    gradient.add(reals(2, 5, 11, 3), in_blocks(reals(2 * 3 * 10, 21).view(np.uint32)), 2, sums[0])
    return gradient.total(sums)[:, :21]


def _convolved(channels, kernel, stride, padding, dilation=1):
    single = kernel == (5, 9)
    window = Window.of(kernel, stride, padding, dilation)
    gradient = gradients.InputGradient(channels, 6, (5, 9), window, in_bytes=True, single=single)
    height, columns, quads = gradient.padded_shape
    signs = words(6, kernel[0] * kernel[1], -(-channels // 32)).astype(np.uint32)
    gradient.load_signs(signs, np.ones(6, np.float32), 1)
    out = np.zeros((2, 5, 9, channels), np.float32)
    gradient(_octets(2, height, columns, 4 * quads), out, 0, 2, 0.25)
    return out


def _real_panels():
    weight, source, offsets = reals(70 * 6), np.arange(70) * 6, np.array([1, 0])
    panels = np.zeros(6 * simd.padded_outputs(70), np.float32)
    for block in range(-(-70 // simd.WIDE)):
        layout.fill_real_panels(block, block + 1, weight, source, 3, 2, offsets, panels)
    return from_blocks(panels, 6, 70)


def _sign_panels(in_bytes):
    bits, offsets = words(6, 9).astype(np.uint32), np.array([6, 0])
    steps, sums = 2 if in_bytes else 6, np.zeros((2, 70), np.int32)
    panels = np.zeros(2 * steps * simd.padded_outputs(70), np.uint32)
    blocks = -(-70 // simd.WIDE)
    layout.fill_sign_panels(0, blocks, in_bytes, bits, reals(6), 70, offsets, panels, panels.view(np.float32), sums)
    return from_blocks(panels, 2 * steps, 70), sums


def _filters():
    weight, bits, alpha = np.round(reals(3, 37, 2)), np.zeros((3, 2, 2), np.uint32), np.zeros(3, np.float32)
    layout.pack_filters(0, 3, weight, bits, alpha)
    return bits, alpha


def _split(channels, taps):
    dalpha = np.zeros(37, np.float32)
    return _finished(Finish.SPLIT, channels, taps, False, dalpha), dalpha


def _finished(mode, channels, taps, integers, dalpha=NO_ALPHA):
    n, outputs = channels * taps, 37
    sums = reals(n, simd.padded_outputs(outputs))
    sums[:, :outputs] = reals(n, outputs)
    if integers:
        sums = (16 * sums).astype(np.int32).view(np.float32)
    out, offset = np.zeros((outputs, n), np.float32), np.arange(outputs)
    weight, alpha = reals(outputs, n) / 4, reals(outputs)
    given = sums, integers, 0.25, offset, weight, alpha, mode, channels, out, dalpha
    layout.finish(0, 32, *given)
    layout.finish(32, outputs, *given)
    return out


def _expanded(phases, pad_value, in_bytes):
    bits, shape = words(2, 3, 9, 2).astype(np.uint32), (2, 37, 5, phases, 8)
    octets, planes = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    given = (octets, planes[:0]) if in_bytes else (octets[:0], planes)
    layout.expand_bits(0, 2, bits, 5, 1, 2, pad_value, *given)
    return octets, planes


def _turned(channels, phases, width):
    planes = np.ones((2, channels, 3, phases, width + 3), np.float32)
    layout.to_planes(0, 2, reals(2, 3, width + 4, channels), width, 2, planes)
    return planes


def _packed(outputs, scaled, padding):
    padded, panels = np.ones((2, 3, 8, outputs), np.float32), np.ones(30 * simd.padded_outputs(outputs), np.float32)
    dy, k = reals(2, 3, 5, outputs), reals(2, 15)
    given = k if scaled else k[:0], 1, padded if padding else padded[:0]
    layout.pack_gradient(0, 2, 0, 2, dy, *given, panels)
    return padded, from_blocks(panels, 30, outputs)


def _largest():
    out = np.zeros((2, 37), np.float32)
    layout.largest(0, 1, reals(2, 3, 5, 37), reals(2, 15), out.view(np.int32))
    layout.largest(1, 2, reals(2, 3, 5, 37), reals(0, 0), out.view(np.int32))
    return out


def _signs_added():
    out = np.ones((3, 64), np.float32)
    layout.add_signs(1, 3, words(3, 2).astype(np.uint32), reals(3), out)
    return out


def _quantized(outputs, scaled):
    dy, k, alpha = reals(2, 3, 5, outputs), reals(2, 15) / 8, abs(reals(outputs)) / 8
    padded, totals = np.zeros((2, 3, 8, -(-outputs // 4) * 4), np.uint8), np.zeros((2, outputs), np.int64)
    panels, factors = np.ones(12 * simd.padded_outputs(outputs), np.uint32), (np.float32(12), np.float32(8))
    layout.quantize(0, 2, dy, k if scaled else k[:0], alpha, *factors, np.uint32(1), 0, 1, padded, panels, totals)
    return padded, from_blocks(panels, 12, outputs), totals
