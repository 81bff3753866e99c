"""Convolutions of 3x3 and 5x5 with stride 1 in float32, and their gradients, with less than half the products.

Winograd's F(2x2, 3x3) and F(2x2, 5x5), from Lavin and Gray 2016 (arXiv 1509.09308, section 4.1): a tile of 2x2 outputs
is computed from 4x4 (6x6) inputs d and the filter g. `winograd_maps.py` has the matrices for one dimension. In two
dimensions, with * element by element, Y = A^T [(G g G^T) * (B^T d B)] A. That is 16 products for four outputs instead
of 36, or 36 instead of 100. The products in brackets are summed over channels before A is applied. For all tiles
together they are 16 (36) matrix products, one for each element of a tile. The gradient of the filter is the transposed
map, G^T [(B^T d B) * (A D A^T)] G with D = dC/dY, summed over tiles: again matrix products.

Numbers are added in float32 before and after they are multiplied. So errors are several times larger than those of
plain sums, and they are relative to the largest number of a tile, not to each number.

Pieces of work depend only on the problem, so results have the same bits on any number of threads. The kernels are
compiled when first called; import this module only when it is needed.
"""

import os
from typing import NamedTuple

import numpy as np
from numba import boolean, float32, int64, intp, uint32, uint64, void
from numpy.typing import NDArray

from xnor_ref.kernels.basics.geometry import Pair, Window
from xnor_ref.kernels.basics.memory import LINE, empty, zeros
from xnor_ref.kernels.basics.threads import parallel_chunks
from xnor_ref.kernels.compiling.jit import compiled
from xnor_ref.kernels.compiling.jit import readonly as _in
from xnor_ref.kernels.compiling.jit import writable as _out
from xnor_ref.kernels.microkernels import tile, tile_gradients, words32
from xnor_ref.kernels.microkernels.ir import LANES
from xnor_ref.kernels.training import winograd_maps
from xnor_ref.kernels.vectors.simd import NARROW, WIDE, padded_outputs, split

F32 = NDArray[np.float32]
KERNELS = (3, 3), (5, 5)
LEAST_CHANNELS = 32  # with fewer channels, converting to tiles and back costs as much as it saves
LEAST_SIDE = 4  # pixels per side; with fewer, tiles compute too much beyond the border
ELEMENTS_TOGETHER = 1 << 10  # elements of the tiles of a piece, so that its products stay in a core's cache
SUM_NUMBERS = 1 << 21  # numbers in the sums of a piece of the weight's gradient: 8 MB
TILES_TOGETHER = 64  # tiles whose gradients stay in a core's nearest cache
_NO_REALS, _NO_BITS, _NO_K = np.zeros((0,) * 4, np.float32), np.zeros((0,) * 4, np.uint32), np.zeros((0, 0), np.float32)
_wide, _narrow = tile.plain[tile.WIDE], tile.plain[tile.NARROW]
_sum_wide, _sum_narrow = tile_gradients.real[tile.WIDE], tile_gradients.real[tile.NARROW]
_sign_of_bit = words32.sign_of_bit
_inputs, _gradients, _filters, _outputs, _filter_gradients = (
    winograd_maps.inputs, winograd_maps.gradients, winograd_maps.filters, winograd_maps.outputs,
    winograd_maps.filter_gradients,
)  # fmt: skip
_0, _1, _2 = (np.uint64(n) for n in range(3))
_images = _in(float32, 4), _in(uint32, 4), _in(float32, 2), int64, int64, float32


class Images(NamedTuple):
    """Images for the kernels, channels innermost. A missing part is an empty array."""

    reals: F32  # (N, H, columns, C)
    bits: NDArray[np.uint32]  # or (N, H, columns, words), signs
    k: F32  # (N, H * W): what the real numbers of a pixel are multiplied by
    width: int  # W of the columns; equally many columns before and after the image are not read
    padding: int  # pixels around the image ...
    border: float = 0.0  # ... that hold this

    @classmethod
    def of(cls, x: F32, width: int, padding: int, k: F32 | None = None) -> "Images":
        """Make real images, (N, H, columns, C)."""
        return cls(x, _NO_BITS, _NO_K if k is None else k, width, padding)

    @classmethod
    def of_signs(cls, bits: NDArray[np.uint32], width: int, padding: int, border: float) -> "Images":
        """Make images of signs, (N, H, columns, words)."""
        return cls(_NO_REALS, bits, _NO_K, width, padding, border)


def suits(shape: tuple[int, ...], window: Window, size: Pair) -> bool:
    """Return whether tiles make a convolution of images (H, W) with weights (O, C, KH, KW) faster.

    With XNOR_REF_WINOGRAD=off in the environment it returns False, so that the gain can be measured.
    """
    if os.environ.get("XNOR_REF_WINOGRAD") == "off":
        return False
    padding = window.before[0]
    fits = window == Window.of(window.kernel, 1, padding) and window.kernel in KERNELS and padding < shape[2]
    return fits and min(shape[:2]) >= LEAST_CHANNELS and min(size) >= LEAST_SIDE


class Convolution:
    """Y (N, H + 2p - K + 1, W + 2p - K + 1, O) of images of one size with p = `padding` pixels around them."""

    in_bytes = False

    def __init__(self, channels: int, outputs: int, size: Pair, kernel: int, padding: int):
        self.channels, self.outputs, self.padding = channels, outputs, padding
        self.side = kernel + 1  # of a tile
        self.out_size = Window.of(kernel, 1, padding).count(size)
        self.tiles = -(-self.out_size[0] // 2), -(-self.out_size[1] // 2)
        self._panels = zeros((self.side**2 * channels * padded_outputs(outputs),))
        self._bias = np.zeros(outputs, np.float32)

    def load(self, weight: F32, threads: int, *, back: bool = False, alpha: F32 | None = None) -> None:
        """Set the filters (O, C, K, K).

        With `back`, (C, O, K, K): this computes the gradient of their input. With `alpha` (C,), their signs times
        alpha.
        """
        taps = (self.side - 1) ** 2
        steps = (taps, taps * self.outputs) if back else (taps * self.channels, taps)
        scale = np.zeros(0, np.float32) if alpha is None else alpha
        rest = self.outputs, self.channels, *steps, back, scale, self.side, self._panels
        split(threads, -(-self.outputs // WIDE), _transform_filters, weight.reshape(-1), *rest)

    def set_bias(self, bias: F32 | np.float32) -> None:
        """Set the bias (O,), which is added to each output."""
        self._bias[...] = bias

    def __call__(self, images: Images, out: F32, start: int, stop: int, scale: float = 1.0) -> None:
        """Compute images start..stop of Y on this thread.

        `scale` is unused; `gradients.InputGradient` needs it for bytes.
        """
        _convolve(start, stop, *images, self.side, *self.tiles, self.channels, self._panels, self._bias, out)


class WeightGradient:
    """Sums over pixels for these convolutions, as in `gradients.WeightGradient`."""

    in_blocks = in_bytes = False

    def __init__(self, channels: int, outputs: int, size: Pair, kernel: int, padding: int):
        self.channels, self.outputs, self.size = channels, outputs, size
        self.window = Window.of(kernel, 1, padding)
        self.side = kernel + 1
        out_h, out_w = self.window.count(size)
        self.tiles = -(-out_h // 2), -(-out_w // 2)

    def __call__(self, x: Images, dy: Images, n: int, threads: int) -> F32:
        """Return the sums (C * K*K, padded O) over n images."""
        side, (rows, across) = self.side, self.tiles
        elements, wide, items = side**2, padded_outputs(self.outputs), n * rows
        piece = max(1, min(items, SUM_NUMBERS // elements // (self.channels + wide) // across))
        pitch = (
            -(-self.channels // LANES) | 1
        ) * LANES  # odd, so that neighbouring tiles do not share a set of a cache
        v = empty((elements, piece * across, pitch))
        d = zeros((elements, wide, piece * across))
        sums = zeros((elements, self.channels, wide))
        for first in range(0, items, piece):
            last = min(first + piece, items)

            def transform(start: int, stop: int, first: int = first) -> None:
                part = first + start, first + stop, first
                _transform_input(*part, *x, side, rows, across, self.channels, v)
                _transform_gradient(*part, *dy, side, rows, across, self.outputs, d)

            def multiply(start: int, stop: int, tiles: int = (last - first) * across) -> None:
                _add_products(start, stop, tiles, v, d, self.outputs, sums)

            parallel_chunks(transform, last - first, max(1, (last - first) // 8), threads)
            blocks = -(-self.outputs // WIDE)
            parallel_chunks(multiply, elements * blocks, blocks, threads)
        out = empty(((side - 1) ** 2 * self.channels, wide))
        split(threads, self.channels, _transform_sums, side, sums, out)
        return out


# --- to tiles ----------------------------------------------------------------------------------------------------


@compiled(void(*_images, intp, intp, intp, intp, _out(float32, 1), uint64))
def _fill_line(reals, bits, k, width, padding, border, image, y, columns, channels, lines, at):
    """Write row y of an image, with `padding` border columns before and some after, to lines[at] on, (columns, C)."""
    size = np.uint64(channels)
    height = bits.shape[1] if bits.size else reals.shape[1]
    shown = min(width, columns - padding) if 0 <= y < height else 0
    before = padding if shown else columns
    for _ in range(np.uint64(before * channels)):
        lines[at] = border
        at += _1
    if bits.size:
        left = (bits.shape[2] - width) // 2
        for x in range(shown):
            for word in range(bits.shape[3]):
                signs, of = bits[image, y, left + x, word], at + np.uint64(32 * word)
                for c in range(np.uint64(max(0, min(32, channels - 32 * word)))):
                    lines[of + c] = _sign_of_bit(signs, np.uint32(c))
            at += size
    else:
        stored, source = reals.shape[2], reals.reshape(-1)
        of = np.uint64(((image * height + y) * stored + (stored - width) // 2) * channels)
        for x in range(shown):
            factor = k[image, y * width + x] if k.size else np.float32(1)
            for c in range(size):
                lines[at + c] = source[of + c] * factor
            at += size
            of += size
    for _ in range(np.uint64((columns - before - shown) * channels)):
        lines[at] = border
        at += _1


@compiled(void(intp, intp, intp, *_images, intp, intp, intp, intp, _out(float32, 3)))
def _transform_input(start, stop, first, reals, bits, k, width, padding, border, side, rows, across, channels, v):
    """Compute B^T d B for the rows of tiles start..stop of all images.

    Tile t, counted from row `first` on, is v[:, t, :channels].
    """
    small, columns = side == 4, 2 * across + side - 2
    size, pitch, plane = np.uint64(channels), np.uint64(v.shape[2]), np.uint64(v.shape[1] * v.shape[2])
    whole, room = np.uint64(columns * channels), 2 * side
    lines, turned, out = np.empty(room * whole, np.float32), np.empty(side * whole, np.float32), v.reshape(-1)
    here = 0
    for item in range(start, stop):
        image, top = item // rows, 2 * (item % rows)
        known = 0
        if item > start and top > 0:  # all lines but two are known
            here, known = here + 2, side - 2
            if here + side > room:
                of = np.uint64(here) * whole
                for j in range(np.uint64(known) * whole):
                    lines[j] = lines[of + j]
                here = 0
        else:
            here = 0
        for n in range(known, side):
            at, y = np.uint64(here + n) * whole, top + n - padding
            _fill_line(reals, bits, k, width, padding, border, image, y, columns, channels, lines, at)
        _inputs(small, lines, np.uint64(here) * whole, whole, turned, _0, whole, whole)
        for i in range(side):
            of = np.uint64(i) * whole
            to = np.uint64(side * i) * plane + np.uint64((item - first) * across) * pitch
            for _ in range(across):
                _inputs(small, turned, of, size, out, to, plane, size)
                of += _2 * size
                to += pitch


@compiled(void(intp, intp, intp, *_images, intp, intp, intp, intp, _out(float32, 3)))
def _transform_gradient(start, stop, first, reals, bits, k, width, padding, border, side, rows, across, outputs, d):
    """Compute A D A^T for such rows of tiles; d (elements, padded O, tiles) has blocks (tiles, WIDE or NARROW)."""
    small, columns, size = side == 4, 2 * across, np.uint64(outputs)
    whole, plane, out = np.uint64(columns * outputs), np.uint64(d.shape[1] * d.shape[2]), d.reshape(-1)
    lines, turned = np.empty(2 * whole, np.float32), np.empty(side * whole, np.float32)
    for item in range(start, stop):
        image, top = item // rows, 2 * (item % rows)
        for y in range(2):
            at = np.uint64(y) * whole
            _fill_line(reals, bits, k, width, padding, border, image, top + y, columns, outputs, lines, at)
        _gradients(small, lines, _0, whole, turned, _0, whole, whole)
        for i in range(side):
            for block in range(0, outputs, WIDE):
                used = np.uint64(min(WIDE, outputs - block))
                lanes = np.uint64(NARROW if used <= NARROW else WIDE)
                of = np.uint64(i) * whole + np.uint64(block)
                to = (
                    np.uint64(side * i) * plane
                    + np.uint64(block * d.shape[2])
                    + np.uint64((item - first) * across) * lanes
                )
                for _ in range(across):
                    _gradients(small, turned, of, size, out, to, plane, used)
                    of += _2 * size
                    to += lanes


@compiled(void(intp, intp, _in(float32, 1), intp, intp, intp, intp, boolean, _in(float32, 1), intp, _out(float32, 1)))
def _transform_filters(start, stop, weight, lanes, inner, lane_step, inner_step, back, alpha, side, panels):
    """Compute G g G^T for blocks start..stop of lanes: panels (elements, blocks of lanes, inner, WIDE or NARROW).

    Lane l of step r is the filter from weight[l * lane_step + r * inner_step] on; with `back`, in reverse order. If
    `alpha` is not empty, it is the filter's signs times alpha[r].
    """
    small, kernel = side == 4, side - 1
    taps, plane, signs = kernel * kernel, np.uint64(len(panels) // (side * side)), len(alpha) > 0
    g, half, lane_of = np.zeros(taps * WIDE, np.float32), np.empty(side * kernel * WIDE, np.float32), np.uint64(WIDE)
    for block in range(start, stop):
        first = block * WIDE
        used = min(WIDE, lanes - first)
        width = NARROW if used <= NARROW else WIDE
        g[:] = 0
        for r in range(inner):
            scale = alpha[r] if signs else np.float32(1)
            for lane in range(used):
                of = np.uint64((first + lane) * lane_step + r * inner_step)
                for tap in range(taps):
                    value = weight[of + np.uint64(taps - 1 - tap if back else tap)]
                    g[tap * WIDE + lane] = (scale if value >= 0 else -scale) if signs else value
            for column in range(kernel):
                at, step = np.uint64(column * WIDE), np.uint64(kernel * WIDE)
                _filters(small, g, at, step, half, at, step, lane_of)
            to = np.uint64(first * inner + r * width)
            for i in range(side):
                of = np.uint64(i * kernel * WIDE)
                _filters(small, half, of, lane_of, panels, to + np.uint64(side * i) * plane, plane, np.uint64(width))


# --- products ----------------------------------------------------------------------------------------------------


@compiled(void(intp, intp, *_images, intp, intp, intp, intp, _in(float32, 1), _in(float32, 1), _out(float32, 4)))
def _convolve(start, stop, reals, bits, k, width, padding, border, side, rows, across, channels, panels, bias, out):
    """Compute images start..stop of Y, in pieces of a few rows of tiles."""
    outputs, elements = out.shape[3], side * side
    wide = len(panels) // elements // channels
    piece = max(1, min(ELEMENTS_TOGETHER // elements // across, (stop - start) * rows))
    v = np.empty((elements, piece * across, channels), np.float32)
    m = np.empty((elements, piece * across, wide), np.float32)
    hop = np.zeros(1, np.int64)  # behind the only piece of a row
    for first in range(start * rows, stop * rows, piece):
        last = min(first + piece, stop * rows)
        _transform_input(first, last, first, reals, bits, k, width, padding, border, side, rows, across, channels, v)
        tiles, step = (last - first) * across, wide * 4
        for element in range(elements):
            x = v.ctypes.data + element * v[0].size * 4
            y = m.ctypes.data + element * m[0].size * 4
            for block in range(0, outputs, WIDE):
                w = panels.ctypes.data + (element * wide + block) * channels * 4
                to = y + block * 4
                if outputs - block <= NARROW:
                    _narrow(0, tiles, x, hop.ctypes.data, channels * 4, 1, channels, w, 0, 0, 0, 0, 0, to, step, LINE)
                else:
                    _wide(0, tiles, x, hop.ctypes.data, channels * 4, 1, channels, w, 0, 0, 0, 0, 0, to, step, LINE)
        _transform_output(first, last, m, side, rows, across, bias, out)


@compiled(void(intp, intp, intp, _in(float32, 3), _in(float32, 3), intp, _out(float32, 3)))
def _add_products(start, stop, tiles, v, d, outputs, sums):
    """Compute items start..stop of (element, block of outputs): sums (elements, C, padded O) += V^T D over `tiles`."""
    room, pitch, channels, wide = v.shape[1], v.shape[2] * 4, sums.shape[1], sums.shape[2]
    blocks = -(-outputs // WIDE)
    for item in range(start, stop):
        element, block = item // blocks, item % blocks * WIDE
        x = v.ctypes.data + element * room * pitch
        w = d.ctypes.data + (element * wide + block) * room * 4
        y, row = sums.ctypes.data + (element * channels * wide + block) * 4, wide * 4
        for first in range(0, tiles, TILES_TOGETHER):
            run = min(TILES_TOGETHER, tiles - first)
            if outputs - block <= NARROW:
                _sum_narrow(channels, x, 0, 0, pitch, 4, w, 0, 0, 1, 1, run, y, row)
                w += run * NARROW * 4
            else:
                _sum_wide(channels, x, 0, 0, pitch, 4, w, 0, 0, 1, 1, run, y, row)
                w += run * WIDE * 4
            x += run * pitch


# --- from tiles --------------------------------------------------------------------------------------------------


@compiled(void(intp, intp, _in(float32, 3), intp, intp, intp, _in(float32, 1), _out(float32, 4)))
def _transform_output(first, last, m, side, rows, across, bias, out):
    """Compute A^T M A plus bias for rows of tiles first..last; they are the first in m (elements, tiles, padded O)."""
    _, height, width, outputs = out.shape
    small, size = side == 4, np.uint64(outputs)
    plane, wide = np.uint64(m.shape[1] * m.shape[2]), np.uint64(m.shape[2])
    source, target = m.reshape(-1), out.reshape(-1)
    whole = np.uint64(side * outputs)  # numbers in the left column of a tile, and as many in the right
    half, tile = np.empty(2 * side * outputs, np.float32), np.empty(4 * outputs, np.float32)
    for item in range(first, last):
        image, top = item // rows, 2 * (item % rows)
        for column in range(across):
            of = np.uint64((item - first) * across + column) * wide
            for i in range(side):
                _outputs(small, source, of + np.uint64(side * i) * plane, plane, half, np.uint64(i) * size, whole, size)
            for x in range(2):
                _outputs(small, half, np.uint64(x) * whole, size, tile, np.uint64(x) * size, _2 * size, size)
            for y in range(min(2, height - top)):
                for x in range(min(2, width - 2 * column)):
                    at = np.uint64(2 * y + x) * size
                    to = np.uint64((((image * height + top + y) * width) + 2 * column + x) * outputs)
                    for o in range(size):
                        target[to + o] = tile[at + o] + bias[o]


@compiled(void(intp, intp, intp, _in(float32, 3), _out(float32, 2)))
def _transform_sums(start, stop, side, sums, out):
    """Compute G^T S G for channels start..stop: out (C * K*K, padded O)."""
    small, kernel, wide = side == 4, side - 1, np.uint64(sums.shape[2])
    plane, source, target = np.uint64(sums.shape[1]) * wide, sums.reshape(-1), out.reshape(-1)
    half = np.empty(side * kernel * wide, np.float32)
    for c in range(start, stop):
        for i in range(side):
            of = np.uint64(c) * wide + np.uint64(side * i) * plane
            _filter_gradients(small, source, of, plane, half, np.uint64(i * kernel) * wide, wide, wide)
        row = np.uint64(kernel) * wide
        for j in range(kernel):
            to = np.uint64(c * kernel * kernel + j) * wide
            _filter_gradients(small, half, np.uint64(j) * wide, row, target, to, row, wide)
