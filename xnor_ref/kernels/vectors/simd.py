"""The SIMD kernels: convolution by the micro-kernels of `microkernels/tile.py`, planned once and run many times.

`SignConv` (and `RealConv`, for real layers) arranges the weights and computes the geometry. A call is then one compiled
loop over rows of outputs. The room's page goes through it in numbers.

This module imports Numba, so import it lazily.
"""

from functools import lru_cache

import numpy as np
from numba import int64, intp, uint32, void
from numpy.typing import NDArray

from xnor_ref.kernels.basics.geometry import Pair, Window
from xnor_ref.kernels.basics.layout import pack_mask, signs_of_words
from xnor_ref.kernels.basics.memory import LINE, zeros
from xnor_ref.kernels.basics.threads import check_threads, parallel_chunks
from xnor_ref.kernels.compiling.jit import compiled
from xnor_ref.kernels.compiling.jit import readonly as _in
from xnor_ref.kernels.compiling.jit import writable as _out
from xnor_ref.kernels.microkernels import tile
from xnor_ref.kernels.microkernels.ir import LANES, fence
from xnor_ref.kernels.microkernels.pack import WORD_SIGNS, transpose
from xnor_ref.kernels.readable import plain, reference

U32 = NDArray[np.uint32]

WIDE, NARROW = tile.WIDE * LANES, tile.NARROW * LANES  # output channels of a block, and of a narrow last one
OUTPUT_PIXELS = 128  # pixels computed before they are transposed to planes
_NOTHING = np.zeros(0, np.uint32)
SHARED = 80e6  # least picoseconds of work for a second thread
MAX_TABLE = 1 << 20  # entries of a border table
INTEGERS, SCALED, BITS = tile.INTEGERS, tile.SCALED, tile.BITS  # how a tile's sums are finished
REAL = 3  # sums of real products

# Entries of a geometry; addresses, strides in bytes. PART_0 to PART_3 are what the epilogue reads:
#     INTEGERS  border table  where in it a column begins
#     SCALED    border table  where in it a column begins  alpha   K
#     BITS      border table  where in it a column begins  limits  bits that are flipped
#     REAL      bias          scale                        shift   floor
(
    N_IMAGES, OUT_H, OUT_W, OUT_CHANNELS, GROUP_ROWS, RUN, PIECES, OPERANDS,
    X, X_IMAGE, X_PIXEL, HOPS, W, PART_0, PART_1, PART_2, PART_3, K_IMAGE,
    PLANES, OUT_IMAGE, OUT_ROW, OUT_PIXEL, PAST, SIZE,
) = range(24)  # fmt: skip

_narrow, _wide = tile.NARROW, tile.WIDE
_signs_wide, _signs_narrow = tile.signs[_wide], tile.signs[_narrow]
_masked_wide, _masked_narrow = tile.masked_signs[_wide], tile.masked_signs[_narrow]
_real_wide, _real_narrow = tile.real[_wide], tile.real[_narrow]


@compiled(void(_out(uint32, 1), intp, intp, intp, _out(uint32, 1), intp, intp))
def _to_planes(pixels, width, n_pixels, n_channels, out, at, plane):
    """Pixels (n_pixels, width) to out[at + channel * plane + pixel]."""
    blocks = n_channels // LANES
    for block in range(blocks if n_pixels >= LANES else 0):
        o = block * LANES
        for piece in range(0, n_pixels, LANES):
            p = min(piece, n_pixels - LANES)  # the last square overlaps the one before
            source = pixels.ctypes.data + (p * width + o) * 4
            transpose(source, width * 4, out.ctypes.data + (at + o * plane + p) * 4, plane * 4)
    for o in range(blocks * LANES if n_pixels >= LANES else 0, n_channels):
        for p in range(n_pixels):
            out[at + o * plane + p] = pixels[p * width + o]


@compiled(void(intp, intp, intp, _in(int64, 1), _in(int64, 2), _in(int64, 2), _out(uint32, 1)))
def _convolve(start, stop, kind, g, rows, blocks, out):
    """Items start..stop of all (block of output channels, image, group of rows), into out.

    `blocks` are the offsets in bytes where a block's channels begin in a pixel, and its K in that of an image.
    """
    n_groups = -(-g[OUT_H] // g[GROUP_ROWS])
    steps, p3_pixel = g[RUN] * g[OPERANDS], 4 if kind == SCALED else 0
    planes = g[PLANES] != 0
    all_direct = kind == BITS or (not planes and g[OUT_CHANNELS] % WIDE == 0)
    scratch = np.empty(0 if all_direct else min(g[GROUP_ROWS], g[OUT_H]) * g[OUT_W] * WIDE, np.uint32)
    for item in range(start, stop):
        block, rest = item // (g[N_IMAGES] * n_groups), item % (g[N_IMAGES] * n_groups)
        image, group = rest // n_groups, rest % n_groups
        first = block * WIDE
        used = min(WIDE, g[OUT_CHANNELS] - first)
        narrow = used <= NARROW
        width = NARROW if narrow else WIDE
        direct = kind == BITS or (used == width and not planes)  # else via the scratch buffer
        top, bottom = group * g[GROUP_ROWS], min((group + 1) * g[GROUP_ROWS], g[OUT_H])
        for oy in range(top, bottom):
            x = g[X] + image * g[X_IMAGE] + rows[oy, 0] + blocks[block, 0]
            hops = g[HOPS] + rows[oy, 2] * 8
            w = g[W] + (block * g[PIECES] * WIDE + rows[oy, 2] * width) * steps * 4
            p0, p1, p2 = g[PART_0] + rows[oy, 3] + first * 4, g[PART_1], g[PART_2] + first * 4
            if kind == SCALED:
                p3 = g[PART_3] + image * g[K_IMAGE] + blocks[block, 1] + oy * g[OUT_W] * 4
            elif kind == BITS:
                p3 = g[PART_3] + first // 8
            else:
                p3 = g[PART_3] + first * 4
            if kind == REAL:
                p1 += first * 4
            if direct:
                y = (
                    out.ctypes.data
                    + image * g[OUT_IMAGE]
                    + oy * g[OUT_ROW]
                    + (first // 8 if kind == BITS else first * 4)
                )
                step, past = g[OUT_PIXEL], g[PAST]
            else:
                y = scratch.ctypes.data + (oy - top) * g[OUT_W] * width * 4
                step, past = width * 4, LINE
            n, pixel, n_pieces, run = g[OUT_W], g[X_PIXEL], rows[oy, 1], g[RUN]
            if kind == REAL:
                if narrow:
                    _real_narrow(kind, n, x, hops, pixel, n_pieces, run, w, p0, p1, p2, p3, p3_pixel, y, step, past)
                else:
                    _real_wide(kind, n, x, hops, pixel, n_pieces, run, w, p0, p1, p2, p3, p3_pixel, y, step, past)
            elif g[OPERANDS] == 2:
                if narrow:
                    _masked_narrow(kind, n, x, hops, pixel, n_pieces, run, w, p0, p1, p2, p3, p3_pixel, y, step, past)
                else:
                    _masked_wide(kind, n, x, hops, pixel, n_pieces, run, w, p0, p1, p2, p3, p3_pixel, y, step, past)
            elif narrow:
                _signs_narrow(kind, n, x, hops, pixel, n_pieces, run, w, p0, p1, p2, p3, p3_pixel, y, step, past)
            else:
                _signs_wide(kind, n, x, hops, pixel, n_pieces, run, w, p0, p1, p2, p3, p3_pixel, y, step, past)
        n_pixels = (bottom - top) * g[OUT_W]
        if direct:
            continue
        if planes:
            plane = g[OUT_H] * g[OUT_W]
            at = (image * g[OUT_CHANNELS] + first) * plane + top * g[OUT_W]
            _to_planes(scratch, width, n_pixels, used, out, at, plane)
        else:
            for p in range(n_pixels):
                row, column = top + p // g[OUT_W], p % g[OUT_W]
                at = (image * g[OUT_IMAGE] + row * g[OUT_ROW] + column * g[OUT_PIXEL]) // 4 + first
                for o in range(used):
                    out[at + o] = scratch[p * width + o]
    if g[PAST] == 0:
        fence()


@compiled(void(_in(uint32, 2), _out(uint32, 1)))
def _fill_panels(weight, panels):
    """Rearrange (O, length) to blocks (length, WIDE), the last (length, NARROW) if it fits, filled up with zeros."""
    outputs, length = weight.shape
    for first in range(0, outputs, WIDE):
        used = min(WIDE, outputs - first)
        width = NARROW if used <= NARROW else WIDE
        for o in range(width):
            at = first * length + o
            for k in range(length):
                panels[at + k * width] = weight[first + o, k] if o < used else np.uint32(0)


def padded_outputs(outputs: int) -> int:
    """Return the number of output channels, rounded up to whole blocks."""
    last = outputs % WIDE
    return outputs - last + (0 if last == 0 else NARROW if last <= NARROW else WIDE)


def panels(weight: NDArray) -> U32:
    """Return 32-bit weights (O, length) in the order in which tiles read them, 64-byte aligned."""
    outputs, length = weight.shape
    filled = zeros((padded_outputs(outputs) * length,), np.uint32)
    _fill_panels(np.ascontiguousarray(weight).view(np.uint32), filled)
    return filled


def padded(values: NDArray, fill: float = 0) -> NDArray:
    """Return one value per output channel, padded with `fill` to whole blocks."""
    full = np.full(padded_outputs(len(values)), fill, values.dtype)
    full[: len(values)] = values
    return full


def table_fits(outputs: int, size: Pair, window: Window) -> bool:
    """Whether the border table of such a convolution is small. Only huge padding makes it large."""
    kinds = [min(n, sum(pads) + 2) for n, pads in zip(window.count(size), window.padding, strict=True)]
    return kinds[0] * kinds[1] * padded_outputs(outputs) <= MAX_TABLE


def hops_between(places: NDArray) -> NDArray[np.int64]:
    """Return the distance from each place to the next, and 0 from the last."""
    hops = np.zeros(places.size, np.int64)
    hops[:-1] = places.reshape(-1)[1:] - places.reshape(-1)[:-1]
    return hops


@lru_cache(maxsize=128)
def windows_of(*arguments):
    """`Windows(...)`, shared by all convolutions of this geometry."""
    return Windows(*arguments)


class Windows:
    """The geometry of a convolution's windows: rows and columns of outputs, by how they meet the border.

    `hops` int64: bytes from each piece of a window, of `run` words, to the next. `rows` int64 (OH, 4): of the first
    window, the offset in bytes of its first piece that lies in the image, the number of such pieces and of those before
    it, and the offset in bytes into the border table. `columns` int64 (OW,): offset in bytes into the table.

    A piece visits `used` of a pixel's `words`. If these are all words, adjacent taps are one piece.
    """

    def __init__(self, size: Pair, words: int, window: Window, outputs: int, used: int):
        self.size, self.words, self.window, self.outputs = size, words, window, outputs
        self.out_h, self.out_w = window.count(size)
        self.row_bytes = (size[1] + 2 * window.margin) * words * 4
        self.pixel_bytes = window.stride[1] * words * 4
        inside_rows, inside_columns = reference.inside(size, window)
        self.row_kinds, row_kind = np.unique(inside_rows, axis=0, return_inverse=True)
        self.column_kinds, column_kind = np.unique(inside_columns, axis=0, return_inverse=True)
        entry = padded_outputs(outputs) * 4
        self.columns = column_kind.reshape(-1).astype(np.int64) * entry
        (kernel_h, kernel_w), (down, right) = window.kernel, window.dilation
        together = kernel_w if right == 1 and used == words else 1
        self.run, per_row = together * used, kernel_w // together
        across = np.arange(per_row) * (right * words * 4)
        self.hops = hops_between(np.arange(kernel_h)[:, None] * (down * self.row_bytes) + across)
        first = inside_rows.argmax(axis=1)
        top = np.arange(self.out_h) * window.stride[0] - window.before[0] + first * down
        begin = top * self.row_bytes + (window.margin - window.before[1]) * words * 4
        pieces = per_row * inside_rows.sum(axis=1), per_row * first
        offsets = row_kind.reshape(-1) * (len(self.column_kinds) * entry)
        self.rows = np.stack([begin, *pieces, offsets], axis=1).astype(np.int64)

    def border_table(self, weight_words: NDArray, channels: int, pad_value: int) -> NDArray[np.int32]:
        """Return the dot product when no bit differs, for each kind of row, kind of column and output channel.

        Rows outside the image are not visited. Columns outside are words of zeros, which differ in the weights' ones.
        """
        ones = np.bitwise_count(weight_words).sum(axis=3, dtype=np.int64).transpose(1, 2, 0)  # (KH, KW, O)
        rows, columns = self.row_kinds.astype(np.int64), self.column_kinds.astype(np.int64)
        n_inside = rows.sum(axis=1)[:, None] * columns.sum(axis=1)

        def over(rows, columns, values):  # sum over y and x of rows[r, y] columns[c, x] values[y, x, o]
            return np.tensordot(rows, np.tensordot(columns, values, (1, 1)), (1, 1))

        table = channels * n_inside[:, :, None] + 2 * over(rows, 1 - columns, ones)
        if pad_value:
            signs = 2 * ones - channels
            table = table + pad_value * (signs.sum(axis=(0, 1)) - over(rows, columns, signs))
        full = np.zeros((*n_inside.shape, padded_outputs(self.outputs)), np.int32)
        full[:, :, : self.outputs] = table
        return full


class Groups:
    """The words that each block of a grouped convolution's outputs visits, and the bits that count in them.

    A block visits `run` words, starting at word `first_words[block]`. In them a lane counts the channels of its
    output's group. If the words hold other channels too, the `weight` (O, KH, KW, run) has masks beside it, (..., run,
    2), and `operands` is 2. If no block has outputs of several groups, `alone` is the group of each block.
    """

    def __init__(self, weight_words: NDArray, channels: int, groups: int, words: int) -> None:
        outputs, own = len(weight_words), channels // groups
        group = np.arange(outputs) // (outputs // groups)  # of an output
        ends = np.minimum(np.arange(WIDE, outputs + WIDE, WIDE), outputs) - 1
        self.count, self.alone = groups, group[::WIDE] if (group[::WIDE] == group[ends]).all() else None
        first, last = group[::WIDE] * own // WORD_SIGNS, -(-(group[ends] + 1) * own // WORD_SIGNS)
        self.run = int((last - first).max())
        self.first_words = np.minimum(first, words - self.run).astype(np.int64)
        signs = signs_of_words(weight_words, own) > 0
        placed = np.zeros((outputs, *weight_words.shape[1:3], self.run * WORD_SIGNS), bool)
        counted = np.zeros((outputs, 1, 1, self.run * WORD_SIGNS), bool)
        for o, at in enumerate(group * own - np.repeat(self.first_words, WIDE)[:outputs] * WORD_SIGNS):
            placed[o, ..., at : at + own] = signs[o]
            counted[o, ..., at : at + own] = True
        self.weight, self.operands = pack_mask(placed, -1).view(np.uint32)[..., : self.run], 1
        if not counted.all():
            masks = np.broadcast_to(pack_mask(counted, -1).view(np.uint32)[..., : self.run], self.weight.shape)
            self.weight, self.operands = np.stack([self.weight, masks], axis=-1), 2


class _Conv:
    """The common part of `SignConv` and `RealConv`: fixed weights, for images of one size."""

    def __init__(self, weight: NDArray, words: int, size: Pair, window: Window, groups: "Groups | None" = None) -> None:
        outputs = len(weight)
        self.windows = w = windows_of(size, words, window, outputs, words if groups is None else groups.run)
        self.single = window.covers(size) and groups is None
        if self.single:  # the window is the image: n images are as good as n pixels side by side
            words = weight[0].size
            w = windows_of((1, 1), words, Window((1, 1)), outputs, words)
        self.panels = panels(weight.reshape(outputs, -1))
        self._blocks = np.zeros((-(-outputs // WIDE), 2), np.int64)
        self.k_rows = 1  # of an image, that `SCALED` takes
        if groups is not None:
            self._blocks[:, 0] = groups.first_words * 4
            if groups.alone is not None:
                self.k_rows, self._blocks[:, 1] = groups.count, groups.alone * (w.out_h * w.out_w * 4)
        g = np.zeros(SIZE, np.int64)
        g[N_IMAGES], g[OUT_H], g[OUT_W], g[OUT_CHANNELS] = 1, w.out_h, w.out_w, outputs
        g[GROUP_ROWS] = max(1, OUTPUT_PIXELS // w.out_w)
        g[RUN], g[PIECES], g[OPERANDS] = w.run, len(w.hops), 1 if groups is None else groups.operands
        g[X_IMAGE], g[X_PIXEL] = size[0] * w.row_bytes, w.pixel_bytes
        self._geometry, self._rows, self._columns, self._hops = g, w.rows, w.columns, w.hops

    @property
    def padded_shape(self) -> tuple[int, int, int]:
        """The shape (H, columns, words) of an image for `bind`, with `Window.margin` columns of zeros on both sides."""
        w = self.windows
        return w.size[0], w.size[1] + 2 * w.window.margin, w.words

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """The shape (OH, OW, O) of one image's output."""
        return self.windows.out_h, self.windows.out_w, self.windows.outputs

    def _bind(self, kind, x, out, parts, planes=False, place=None, stream=False):
        """Return a function of (n, threads) that reads images from the buffer x and writes to the buffer out.

        `parts` are the four arrays whose addresses the epilogue reads, see `PART_0`. `place` gives the place of outputs
        that are not adjacent: strides in bytes from image to image, row to row and pixel to pixel, and the first
        element of `out`. With `stream`, outputs bypass the caches if pixels begin at a cache line. That is faster for
        outputs that would be evicted before they are read, or are never read.
        """
        g = self._geometry.copy()
        height, width, channels = self.out_shape
        first = 0
        if place is None:
            place = height * width * channels * 4, width * channels * 4, channels * 4, 0
        g[OUT_IMAGE], g[OUT_ROW], g[OUT_PIXEL], first = place
        target = out.reshape(-1).view(np.uint32)[first:]
        g[PAST] = 0 if stream else LINE
        # addresses are taken only here, so that the object can be copied
        g[W], g[HOPS] = self.panels.ctypes.data, self._hops.ctypes.data
        g[X], g[PLANES], g[K_IMAGE] = x.ctypes.data, planes and not self.single, self.k_rows * height * width * 4
        for entry, part in zip((PART_0, PART_1, PART_2, PART_3), parts, strict=True):
            g[entry] = part.ctypes.data
        per_image = -(-channels // WIDE) * -(-height // int(g[GROUP_ROWS]))
        counter = OUT_W if self.single else N_IMAGES
        return Bound(kind, g, self._rows, self._blocks, target, counter, per_image, (self, x, *parts))


class SignConv(_Conv):
    """A convolution of signs with fixed weights, for images of one size.

    Parameters
    ----------
    weight_words : uint64 (O, KH, KW, n_words(C/groups)), tail bits zero
    channels : C
    size : (H, W) of the images
    pad_value, groups : as in `binary_conv2d`
    words : 32-bit words per pixel; by default as few as hold C signs
    """

    def __init__(self, weight_words, channels, size, window, pad_value=0, words=None, groups=1):
        self.groups, self.channels, self._pad_value = groups, channels // groups, pad_value  # channels of a group
        words = words or -(-channels // WORD_SIGNS)
        of_groups = None if groups == 1 else Groups(weight_words, channels, groups, words)
        weight = of_groups.weight if of_groups else np.ascontiguousarray(weight_words).view(np.uint32)[..., :words]
        super().__init__(weight, words, size, window, of_groups)
        self.n_bits = self.channels * weight_words[0, :, :, 0].size
        if self.single:
            self._table = padded(np.full(len(weight_words), self.n_bits, np.int32))
        else:
            self._table = self.windows.border_table(weight_words, self.channels, pad_value)

    def reload(self, words: U32) -> None:
        """Load other weights of the same shape: uint32 (O, KH*KW, words)."""
        _fill_panels(words.reshape(len(words), -1), self.panels)
        if not self.single:
            shape = (len(words), *self.windows.window.kernel, -1)
            self._table[...] = self.windows.border_table(words.reshape(shape), self.channels, self._pad_value)

    def bind(self, kind, bits, out, alpha=_NOTHING, k=_NOTHING, *, planes=False, place=None, stream=False):
        """Return a function of (n, threads) that convolves images in the buffer `bits` into the buffer `out`.

        Parameters
        ----------
        kind : INTEGERS, SCALED or BITS
        bits : uint32 (N, *padded_shape)
        out : int32 or float32 (N, OH, OW, O), or (N, O, OH, OW) with `planes`; for BITS uint32, the bits of the next
            layer, with their `place`, see `_bind`
        alpha : float32 (`padded_outputs`,) for SCALED; the limits, int32, for BITS
        k : float32 (N, k_rows, OH * OW) for SCALED; for BITS uint32, a mask of the bits to flip in a pixel
        stream : for SCALED, see `_bind`
        """
        columns = np.zeros(len(bits), np.int64) if self.single else self._columns
        return self._bind(kind, bits, out, (self._table, columns, alpha, k), planes, place, stream)


class RealConv(_Conv):
    """A real convolution with fixed weights, bias, scale and shift and a lower limit, for images of one size.

    Each output is one chain of fused multiply-adds over kernel rows, kernel columns and channels; then
    max((sum + bias) * scale + shift, floor), every operation rounded to float32. So the result is the same in any
    batch, in both layouts and on any number of threads.

    Parameters
    ----------
    weight : float32 (O, C, KH, KW)
    size : (H, W)
    bias, scale, shift : float32 (O,), or None for 0, 1, 0
    floor : lower limit of the result
    """

    def __init__(self, weight, size, window, bias=None, scale=None, shift=None, floor=-np.inf):
        outputs, channels = weight.shape[:2]
        super().__init__(np.ascontiguousarray(weight.transpose(0, 2, 3, 1)), channels, size, window)
        zeros = np.zeros(outputs, np.float32)
        values = (bias, 0), (scale, 1), (shift, 0), (None, floor)
        self._parts = [padded(zeros + np.float32(fill) if v is None else v) for v, fill in values]
        self._rows = self._rows * np.array([1, 1, 1, 0])  # there is no border table

    def set_bias(self, bias: NDArray[np.float32]) -> None:
        """Set another bias."""
        self._parts[0][: len(bias)] = bias

    def bind(self, x, out, *, planes=False, place=None, stream=False):
        """Bind the convolution of images in the buffer x, float32 (N, *padded_shape), to the buffer `out`.

        `out` is float32 (N, OH, OW, O), or (N, O, OH, OW) with `planes`. The result is a function of (n, threads).
        `place`, `stream`: see `_bind`.
        """
        return self._bind(REAL, x, out, self._parts, planes, place, stream)


class Bound:
    """A convolution bound to its buffers. A call gives only the numbers of images and threads."""

    def __init__(self, kind, geometry, rows, blocks, target, counter, per_image, keeps):
        self._arguments = kind, geometry, rows, blocks, target
        g = geometry
        elements = int(g[OUT_H] * g[OUT_W] * g[OUT_CHANNELS] * g[PIECES] * g[RUN])
        self._work = elements * (20 if kind == REAL else 32)
        self._geometry, self._counter, self._per_image = geometry, counter, per_image
        self._keeps = keeps  # the arrays whose addresses `geometry` holds

    def __reduce__(self):
        raise TypeError("a bound convolution holds addresses and cannot be copied or pickled; bind the copy again")

    def __call__(self, n: int, threads: int) -> None:
        self._geometry[self._counter] = n
        images = n if self._counter == N_IMAGES else 1
        split(worth(threads, n * self._work), images * self._per_image, _convolve, *self._arguments)


def worth(threads: int, picoseconds: float) -> int:
    """Return `threads`, or 1 if the estimated work ends before another thread would wake up."""
    return threads if picoseconds > SHARED else 1


def split(threads: int, n_items: int, kernel, *arguments) -> None:
    """Call `kernel(start, stop, *arguments)` for all items, in a few pieces per thread."""
    if threads == 1:
        kernel(0, n_items, *arguments)
    else:
        chunk = max(1, n_items // (4 * threads))
        parallel_chunks(lambda start, stop: kernel(start, stop, *arguments), n_items, chunk, threads)


# --- the rung ---------------------------------------------------------------------------------------------------

sign_pack, threshold_pack, sign_pack_rows = plain.sign_pack, plain.threshold_pack, plain.sign_pack_rows
input_scale_map, input_scale_rows = plain.input_scale_map, plain.input_scale_rows


def conv2d_bits(x_words, weight_words, channels, window, pad_value, threads=None, groups=1):
    n, height, width, words = x_words.shape
    if not table_fits(len(weight_words), (height, width), window):
        return plain.conv2d_bits(x_words, weight_words, channels, window, pad_value, threads, groups)
    conv = SignConv(weight_words, channels, (height, width), window, pad_value, 2 * words, groups)
    bits = x_words.view(np.uint32)
    if window.margin:
        bits = np.zeros((n, *conv.padded_shape), np.uint32)
        bits[:, :, window.margin : window.margin + width] = x_words.view(np.uint32)
    out_h, out_w, outputs = conv.out_shape
    out = np.empty((n, outputs, out_h, out_w), np.int32)
    conv.bind(INTEGERS, bits, out, planes=True)(n, check_threads(threads))
    return out


def gemm_bits(x_words, weight_words, n_bits, threads=None):
    n, words = x_words.shape
    conv = SignConv(weight_words[:, None, None], n_bits, (1, 1), Window((1, 1)), words=2 * words)
    out = np.empty((n, len(weight_words)), np.int32)
    conv.bind(INTEGERS, x_words.view(np.uint32), out)(n, check_threads(threads))
    return out
