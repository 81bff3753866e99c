"""Convolutions of 3x3 and stride 1 in float32, and their gradients, with 16 products in the place of 36.

Winograd's F(2x2, 3x3), after Lavin and Gray 2016 (arXiv 1509.09308, section 4.1). A tile of 2x2 outputs comes from 4x4
inputs d and the filter g, element by element:

    Y = A^T [(G g G^T) * (B^T d B)] A

            1  0 -1  0            1    0    0           1  0
    B^T  =  0  1  1  0      G  =  1/2  1/2  1/2    A =  1  1
            0 -1  1  0            1/2 -1/2  1/2         1 -1
            0  1  0 -1            0    0    1           0 -1

Summed over channels before A, the products of all tiles are 16 products of matrices, one for each element of a tile
(V times `panels` is M below). The gradient of the filter is the same turned round, G^T [(B^T d B) * (A D A^T)] G with
D = dC/dY, summed over tiles: again 16 products of matrices. All numbers are float32, and sums of inputs are rounded
before they are multiplied, so that errors are a little larger than those of plain sums, and of another kind: they are
small beside the largest number of a tile, not beside each.

Pieces of work depend on the problem alone, so results have the same bits on any number of threads. Compiled when first
called; import this module only when it is needed.
"""

from typing import NamedTuple

import numpy as np
from numba import boolean, float32, int64, intp, uint32, void
from numpy.typing import NDArray

from xnor_ref.kernels import tile, tile_gradients, words32
from xnor_ref.kernels.jit import compiled
from xnor_ref.kernels.jit import readonly as _in
from xnor_ref.kernels.jit import writable as _out
from xnor_ref.kernels.simd import NARROW, WIDE, aligned, padded_outputs, split
from xnor_ref.kernels.threads import parallel_chunks
from xnor_ref.kernels.vector_ir import LANES

F32 = NDArray[np.float32]
Pair = tuple[int, int]
FEW = 32  # channels with which changing to tiles and back would cost what it saves
SMALL = 4  # pixels a side below which tiles would compute too much beyond the border
TILES = 64  # of a piece, so that its products stay in the cache of a core
NUMBERS = 1 << 17  # of a piece of the weight's gradient, for each element of a tile: 8 MB in all
NEAR = 64  # of them, whose gradients stay in its nearest cache
REALS, SCALED, BITS = range(3)  # what `Images` hold
_NO_REALS, _NO_BITS, _NO_K = np.zeros((1,) * 4, np.float32), np.zeros((1,) * 4, np.uint32), np.zeros((1, 1), np.float32)
_wide, _narrow = tile.plain[tile.WIDE], tile.plain[tile.NARROW]
_sum_wide, _sum_narrow = tile_gradients.real[tile.WIDE], tile_gradients.real[tile.NARROW]
_sign_of_bit = words32.sign_of_bit
_images = _in(float32, 4), _in(uint32, 4), _in(float32, 2), int64, int64, int64, float32


class Images(NamedTuple):
    """Images, channels innermost, as kernels take them."""

    reals: F32  # (N, H, columns, C)
    bits: NDArray[np.uint32]  # or (N, H, columns, words), signs
    k: F32  # (N, H * W): what the numbers of a pixel are multiplied by
    kind: int  # which of them: REALS, SCALED (with k) or BITS
    width: int  # W of the columns; as many lie before the image as after it, and are not read
    padding: int  # pixels around the image ...
    border: float = 0.0  # ... that hold this

    @classmethod
    def of(cls, x: F32, width: int, padding: int, k: F32 | None = None) -> "Images":
        """Real ones, (N, H, columns, C)."""
        return cls(x, _NO_BITS, _NO_K if k is None else k, REALS if k is None else SCALED, width, padding)

    @classmethod
    def of_signs(cls, bits: NDArray[np.uint32], width: int, padding: int, border: float) -> "Images":
        """Signs, (N, H, columns, words)."""
        return cls(_NO_REALS, bits, _NO_K, BITS, width, padding, border)


def suits(shape: tuple[int, ...], stride: Pair, padding: Pair, size: Pair) -> bool:
    """Whether a convolution of images (H, W) with weights of this shape (O, C, KH, KW) gains from tiles."""
    fits = tuple(shape[2:]) == (3, 3) and stride == (1, 1) and padding[0] == padding[1] <= 2
    return fits and min(shape[:2]) >= FEW and min(size) >= SMALL


class Convolution:
    """Y (N, H + 2p - 2, W + 2p - 2, O) of images of one size with p = `padding` pixels around them."""

    in_bytes = False

    def __init__(self, channels: int, outputs: int, size: Pair, padding: int):
        self.channels, self.outputs, self.padding = channels, outputs, padding
        self.out_size = size[0] + 2 * padding - 2, size[1] + 2 * padding - 2
        self.tiles = -(-self.out_size[0] // 2), -(-self.out_size[1] // 2)
        self._panels = aligned(16 * channels * padded_outputs(outputs)).view(np.float32)
        self._bias = np.zeros(outputs, np.float32)

    def load(self, weight: F32, threads: int, *, back: bool = False, alpha: F32 | None = None) -> None:
        """Take filters (O, C, 3, 3).

        With `back`, (C, O, 3, 3), of which this is the way back; with `alpha` (C,) too, their signs times alpha.
        """
        steps = (9, 9 * self.outputs) if back else (9 * self.channels, 9)
        scale = np.zeros(0, np.float32) if alpha is None else alpha
        rest = self.outputs, self.channels, *steps, back, scale, self._panels
        split(threads, -(-self.outputs // WIDE), _transform_filters, weight.reshape(-1), *rest)

    def set_bias(self, bias: F32 | np.float32) -> None:
        """What is added to each output, (O,)."""
        self._bias[...] = bias

    def __call__(self, images: Images, out: F32, start: int, stop: int, scale: float = 1.0) -> None:
        """Images start..stop of Y, on this thread; `scale`, as in `gradients.InputGradient`, is for bytes."""
        _convolve(start, stop, *images, *self.tiles, self.channels, self._panels, self._bias, out)


class WeightGradient:
    """Sums over pixels for such convolutions, as those of `gradients.WeightGradient`."""

    in_blocks = in_bytes = False

    def __init__(self, channels: int, outputs: int, size: Pair, padding: int):
        self.channels, self.outputs, self.size = channels, outputs, size
        self.kernel, self.stride, self.padding = (3, 3), (1, 1), (padding, padding)
        self.tiles = -(-(size[0] + 2 * padding - 2) // 2), -(-(size[1] + 2 * padding - 2) // 2)

    def __call__(self, x: Images, dy: Images, n: int, threads: int) -> F32:
        """(C * 9, padded O), over n images."""
        rows, across = self.tiles
        wide, items = padded_outputs(self.outputs), n * rows
        piece = max(1, min(items, NUMBERS // (self.channels + wide) // across))
        pitch = (-(-self.channels // LANES) | 1) * LANES  # odd: tiles side by side do not meet in one set of a cache
        v = np.empty((16, piece * across, pitch), np.float32)
        d = aligned(16 * piece * across * wide).view(np.float32)
        sums = np.zeros((16, self.channels, wide), np.float32)
        for first in range(0, items, piece):
            last = min(first + piece, items)

            def transform(start: int, stop: int, first: int = first) -> None:
                _transform_input(first + start, first + stop, first, *x, rows, across, self.channels, v)
                _transform_gradient(first + start, first + stop, first, *dy, rows, across, self.outputs, d)

            def multiply(start: int, stop: int, tiles: int = (last - first) * across) -> None:
                _add_products(start, stop, tiles, v, d, self.outputs, sums)

            parallel_chunks(transform, last - first, max(1, (last - first) // 8), threads)
            blocks = -(-self.outputs // WIDE)
            parallel_chunks(multiply, 16 * blocks, blocks, threads)
        out = np.empty((9 * self.channels, wide), np.float32)
        split(threads, self.channels, _transform_sums, sums, out)
        return out


# --- to tiles ----------------------------------------------------------------------------------------------------


@compiled(void(*_images, intp, intp, intp, intp, _out(float32, 1)))
def _fill_line(reals, bits, k, kind, width, padding, border, image, y, columns, channels, line):
    """Row y of an image, `padding` columns of the border before it and up to `columns` after it: line (columns, C)."""
    size = np.uint64(channels)
    height = bits.shape[1] if kind == BITS else reals.shape[1]
    if y < 0 or y >= height:
        for j in range(np.uint64(columns * channels)):
            line[j] = border
        return
    for j in range(np.uint64(padding * channels)):
        line[j] = border
    for j in range(np.uint64(min(padding + width, columns) * channels), np.uint64(columns * channels)):
        line[j] = border
    stored = bits.shape[2] if kind == BITS else reals.shape[2]
    before, shown = (stored - width) // 2, min(width, columns - padding)
    at = np.uint64(padding * channels)
    if kind == BITS:
        for x in range(shown):
            for word in range(bits.shape[3]):
                signs, first = bits[image, y, before + x, word], 32 * word
                to = at + np.uint64(first)
                for c in range(np.uint64(max(0, min(32, channels - first)))):
                    line[to + c] = _sign_of_bit(signs, np.uint32(c))
            at += size
        return
    source = reals.reshape(-1)
    of = np.uint64(((image * height + y) * stored + before) * channels)
    for x in range(shown):
        factor = k[image, y * width + x] if kind == SCALED else np.float32(1)
        for c in range(size):
            line[at + c] = source[of + c] * factor
        at += size
        of += size


@compiled(void(intp, intp, intp, *_images, intp, intp, intp, _out(float32, 3)))
def _transform_input(start, stop, first, reals, bits, k, kind, width, padding, border, rows, across, channels, v):
    """B^T d B for the rows of tiles start..stop of all images.

    Tile t of row `first` and of what follows is v[:, t, :channels].
    """
    columns, size, pitch = 2 * across + 2, np.uint64(channels), np.uint64(v.shape[2])
    whole, plane = np.uint64(columns * channels), np.uint64(v.shape[1] * v.shape[2])
    lines, turned, out = np.empty(4 * whole, np.float32), np.empty(4 * whole, np.float32), v.reshape(-1)
    two, three = np.uint64(2), np.uint64(3)
    for item in range(start, stop):
        image, top = item // rows, 2 * (item % rows)
        for y in range(top + 2 if item > start and top > 0 else top, top + 4):  # two are there already
            line = lines[(y % 4) * whole : (y % 4 + 1) * whole]
            _fill_line(reals, bits, k, kind, width, padding, border, image, y - padding, columns, channels, line)
        a, b = np.uint64(top % 4) * whole, np.uint64((top + 2) % 4) * whole
        for j in range(whole):
            d0, d1, d2, d3 = lines[a + j], lines[a + whole + j], lines[b + j], lines[b + whole + j]
            turned[j] = d0 - d2
            turned[whole + j] = d1 + d2
            turned[two * whole + j] = d2 - d1
            turned[three * whole + j] = d1 - d3
        for i in range(4):
            of = np.uint64(i) * whole
            to = np.uint64(4 * i) * plane + np.uint64((item - first) * across) * pitch
            for _ in range(across):
                for c in range(size):
                    e0, e1 = turned[of + c], turned[of + size + c]
                    e2, e3 = turned[of + two * size + c], turned[of + three * size + c]
                    out[to + c] = e0 - e2
                    out[to + plane + c] = e1 + e2
                    out[to + two * plane + c] = e2 - e1
                    out[to + three * plane + c] = e1 - e3
                of += two * size
                to += pitch


@compiled(void(intp, intp, intp, *_images, intp, intp, intp, _out(float32, 1)))
def _transform_gradient(start, stop, first, reals, bits, k, kind, width, padding, border, rows, across, outputs, d):
    """A D A^T for such rows of tiles; d is (16, blocks of outputs, tiles, WIDE or NARROW)."""
    columns, size, two, three = 2 * across, np.uint64(outputs), np.uint64(2), np.uint64(3)
    whole = np.uint64(columns * outputs)
    lines, turned = np.empty(2 * whole, np.float32), np.empty(4 * whole, np.float32)
    wide = (outputs // WIDE) * WIDE
    if outputs > wide:
        wide += NARROW if outputs - wide <= NARROW else WIDE
    plane = np.uint64(len(d) // 16)
    tiles = len(d) // 16 // wide
    for item in range(start, stop):
        image, top = item // rows, 2 * (item % rows)
        for y in range(2):
            line = lines[y * whole : (y + 1) * whole]
            _fill_line(reals, bits, k, kind, width, padding, border, image, top + y, columns, outputs, line)
        for j in range(whole):
            d0, d1 = lines[j], lines[whole + j]
            turned[j] = d0
            turned[whole + j] = d0 + d1
            turned[two * whole + j] = d0 - d1
            turned[three * whole + j] = -d1
        for i in range(4):
            for block in range(0, outputs, WIDE):
                used = np.uint64(min(WIDE, outputs - block))
                lanes = np.uint64(NARROW if used <= NARROW else WIDE)
                to = np.uint64(4 * i) * plane + np.uint64(block * tiles) + np.uint64((item - first) * across) * lanes
                of = np.uint64(i) * whole + np.uint64(block)
                for _ in range(across):
                    for o in range(used):
                        e0, e1 = turned[of + o], turned[of + size + o]
                        d[to + o] = e0
                        d[to + plane + o] = e0 + e1
                        d[to + two * plane + o] = e0 - e1
                        d[to + three * plane + o] = -e1
                    of += two * size
                    to += lanes


@compiled(void(intp, intp, _in(float32, 1), intp, intp, intp, intp, boolean, _in(float32, 1), _out(float32, 1)))
def _transform_filters(start, stop, weight, lanes, inner, lane_step, inner_step, back, alpha, panels):
    """G g G^T for blocks start..stop of lanes: panels (16, blocks of lanes, inner, WIDE or NARROW).

    Lane l of step r is the filter from weight[l * lane_step + r * inner_step] on, from its end to its beginning if
    `back`; or, if there is an alpha, its signs times alpha[r].
    """
    wide = (lanes // WIDE) * WIDE
    if lanes > wide:
        wide += NARROW if lanes - wide <= NARROW else WIDE
    plane, signs = np.uint64(wide * inner), len(alpha) > 0
    g, half = np.empty((9, WIDE), np.float32), np.empty((12, WIDE), np.float32)
    for block in range(start, stop):
        first = block * WIDE
        used = min(WIDE, lanes - first)
        width = NARROW if used <= NARROW else WIDE
        g[:] = 0
        for r in range(inner):
            scale = alpha[r] if signs else np.float32(1)
            for lane in range(used):
                of = np.uint64((first + lane) * lane_step + r * inner_step)
                for tap in range(9):
                    value = weight[of + np.uint64(8 - tap if back else tap)]
                    g[tap, lane] = (scale if value >= 0 else -scale) if signs else value
            _thirds(g[0], g[3], g[6], half[0], half[3], half[6], half[9])
            _thirds(g[1], g[4], g[7], half[1], half[4], half[7], half[10])
            _thirds(g[2], g[5], g[8], half[2], half[5], half[8], half[11])
            to = np.uint64(first * inner + r * width)
            for i in range(4):
                for lane in range(np.uint64(width)):
                    a, b, c = half[3 * i, lane], half[3 * i + 1, lane], half[3 * i + 2, lane]
                    at = to + np.uint64(4 * i) * plane + lane
                    panels[at] = a
                    panels[at + plane] = np.float32(0.5) * (a + b + c)
                    panels[at + np.uint64(2) * plane] = np.float32(0.5) * (a - b + c)
                    panels[at + np.uint64(3) * plane] = c


_line = _out(float32, 1)


@compiled(void(_line, _line, _line, _line, _line, _line, _line))
def _thirds(a, b, c, out0, out1, out2, out3):
    """G times (a, b, c)."""
    for lane in range(np.uint64(len(a))):
        outer = a[lane] + c[lane]
        out0[lane] = a[lane]
        out1[lane] = np.float32(0.5) * (outer + b[lane])
        out2[lane] = np.float32(0.5) * (outer - b[lane])
        out3[lane] = c[lane]


# --- products ----------------------------------------------------------------------------------------------------


@compiled(void(intp, intp, *_images, intp, intp, intp, _in(float32, 1), _in(float32, 1), _out(float32, 4)))
def _convolve(start, stop, reals, bits, k, kind, width, padding, border, rows, across, channels, panels, bias, out):
    """Images start..stop of Y, by pieces of some rows of tiles."""
    outputs = out.shape[3]
    wide = len(panels) // 16 // channels
    piece = max(1, min(TILES // across, (stop - start) * rows))
    v, m = np.empty((16, piece * across, channels), np.float32), np.empty((16, piece * across, wide), np.float32)
    for first in range(start * rows, stop * rows, piece):
        last = min(first + piece, stop * rows)
        _transform_input(first, last, first, reals, bits, k, kind, width, padding, border, rows, across, channels, v)
        tiles, step = (last - first) * across, wide * 4
        for element in range(16):
            x = v.ctypes.data + element * v[0].size * 4
            y = m.ctypes.data + element * m[0].size * 4
            for block in range(0, outputs, WIDE):
                w = panels.ctypes.data + (element * wide + block) * channels * 4
                to = y + block * 4
                if outputs - block <= NARROW:
                    _narrow(tiles, x, 0, channels * 4, 1, channels, w, 0, 0, 0, 0, 0, to, step)
                else:
                    _wide(tiles, x, 0, channels * 4, 1, channels, w, 0, 0, 0, 0, 0, to, step)
        _transform_output(first, last, m, rows, across, bias, out)


@compiled(void(intp, intp, intp, _in(float32, 3), _in(float32, 1), intp, _out(float32, 3)))
def _add_products(start, stop, tiles, v, d, outputs, sums):
    """Items start..stop of all (element, block of outputs): sums (16, C, padded O) += V^T D over the first `tiles`."""
    room, pitch, channels, wide = v.shape[1], v.shape[2] * 4, sums.shape[1], sums.shape[2]
    blocks = -(-outputs // WIDE)
    for item in range(start, stop):
        element, block = item // blocks, item % blocks * WIDE
        x = v.ctypes.data + element * room * pitch
        w = d.ctypes.data + (element * wide + block) * room * 4
        y, row = sums.ctypes.data + (element * channels * wide + block) * 4, wide * 4
        for first in range(0, tiles, NEAR):
            run = min(NEAR, tiles - first)
            if outputs - block <= NARROW:
                _sum_narrow(channels, x, 0, 0, pitch, 4, w, 0, 0, 1, 1, run, y, row)
                w += run * NARROW * 4
            else:
                _sum_wide(channels, x, 0, 0, pitch, 4, w, 0, 0, 1, 1, run, y, row)
                w += run * WIDE * 4
            x += run * pitch


# --- from tiles --------------------------------------------------------------------------------------------------


@compiled(void(intp, intp, _in(float32, 3), intp, intp, _in(float32, 1), _out(float32, 4)))
def _transform_output(first, last, m, rows, across, bias, out):
    """A^T M A, plus bias, for rows of tiles first..last, which begin m (16, tiles, padded O)."""
    _, height, width, outputs = out.shape
    size, plane, wide = np.uint64(outputs), np.uint64(m.shape[1] * m.shape[2]), np.uint64(m.shape[2])
    two, three = np.uint64(2), np.uint64(3)
    source, target, half = m.reshape(-1), out.reshape(-1), np.empty(8 * size, np.float32)
    for item in range(first, last):
        image, top = item // rows, 2 * (item % rows)
        for column in range(across):
            of = np.uint64((item - first) * across + column) * wide
            for i in range(4):
                left, right = np.uint64(2 * i) * size, np.uint64(2 * i + 1) * size
                for o in range(size):
                    e0, e1 = source[of + o], source[of + plane + o]
                    e2, e3 = source[of + two * plane + o], source[of + three * plane + o]
                    half[left + o] = e0 + e1 + e2
                    half[right + o] = e1 - e2 - e3
                of += np.uint64(4) * plane
            for x in range(min(2, width - 2 * column)):
                at = np.uint64(x) * size
                to = np.uint64(((image * height + top) * width + 2 * column + x) * outputs)
                for o in range(size):
                    e0, e1, e2 = half[at + o], half[at + two * size + o], half[at + np.uint64(4) * size + o]
                    target[to + o] = e0 + e1 + e2 + bias[o]
                if top + 1 < height:
                    to += np.uint64(width * outputs)
                    for o in range(size):
                        e1, e2 = half[at + two * size + o], half[at + np.uint64(4) * size + o]
                        target[to + o] = e1 - e2 - half[at + np.uint64(6) * size + o] + bias[o]


@compiled(void(intp, intp, _in(float32, 3), _out(float32, 2)))
def _transform_sums(start, stop, sums, out):
    """G^T S G for channels start..stop: out (C * 9, padded O)."""
    wide = np.uint64(sums.shape[2])
    plane = np.uint64(sums.shape[1]) * wide
    source, target, half = sums.reshape(-1), out.reshape(-1), np.empty(12 * wide, np.float32)
    two, three, part = np.uint64(2), np.uint64(3), np.float32(0.5)
    for c in range(start, stop):
        for i in range(4):
            of, to = np.uint64(c) * wide + np.uint64(4 * i) * plane, np.uint64(3 * i) * wide
            for o in range(wide):
                e0, e1 = source[of + o], source[of + plane + o]
                e2, e3 = source[of + two * plane + o], source[of + three * plane + o]
                half[to + o] = e0 + part * (e1 + e2)
                half[to + wide + o] = part * (e1 - e2)
                half[to + two * wide + o] = part * (e1 + e2) + e3
        for j in range(3):
            of, to = np.uint64(j) * wide, np.uint64(9 * c + j) * wide
            for o in range(wide):
                e0, e1 = half[of + o], half[of + three * wide + o]
                e2, e3 = half[of + np.uint64(6) * wide + o], half[of + np.uint64(9) * wide + o]
                target[to + o] = e0 + part * (e1 + e2)
                target[to + three * wide + o] = part * (e1 - e2)
                target[to + np.uint64(6) * wide + o] = part * (e1 + e2) + e3


def known_answers():
    """What the kernels must compute before anything else; see `selftest`."""
    from xnor_ref.kernels import winograd_answers

    return winograd_answers.cases()
