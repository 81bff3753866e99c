"""Gradients of convolutions by micro-kernels: that of the input is a convolution, that of the weight a sum over pixels.

`gradient-in-bytes.md` has the equations and follows one gradient through them. `InputGradient` and `WeightGradient`
compute the geometry once. Both exist in float32 and in bytes (`gradient_layout.quantize`), whose sums are exact
integers. Threads divide the outputs among them and never divide a sum. Only `RowsGradient` divides sums, at places that
do not depend on the threads. So results do not depend on the number of threads.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import boolean, int64, intp, uint32, void
from numpy.typing import NDArray

from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.basics.memory import LINE, empty, zeros
from xnor_ref.kernels.basics.threads import parallel_chunks
from xnor_ref.kernels.compiling.jit import compiled
from xnor_ref.kernels.compiling.jit import readonly as _in
from xnor_ref.kernels.compiling.jit import writable as _out
from xnor_ref.kernels.microkernels import tile, tile_gradients
from xnor_ref.kernels.microkernels.tile_gradients import BYTES, REALS
from xnor_ref.kernels.training import gradient_layout
from xnor_ref.kernels.vectors import simd
from xnor_ref.kernels.vectors.simd import NARROW, WIDE, split

Then = Callable[[int, NDArray], None]
Parts = Callable[[int, int], NDArray[np.float32]]
PANEL_BYTES = 1 << 17  # largest bytes of a panel that are kept in a core's cache
OFFSET = 128  # added to gradients stored as unsigned bytes
PIECE_INPUTS = 32  # most input channels of a piece of work
LEAST_PIECES = 32  # fewest pieces, so that no thread waits long for another
ENOUGH_BLOCKS = 16  # blocks of outputs; with as many, threads divide only the blocks among them
IMAGE_GROUPS = 16  # separate sums for few inputs, with any number of threads
CACHED_NUMBERS = 1 << 17  # numbers of a piece of images that stays in a core's cache

_real_wide, _real_narrow = tile_gradients.real[tile.WIDE], tile_gradients.real[tile.NARROW]
_in_byteswide, _in_bytesnarrow = tile_gradients.integer[tile.WIDE], tile_gradients.integer[tile.NARROW]
_shape, _release = tile_gradients.shape, tile_gradients.release
_descaled_wide, _descaled_narrow = tile_gradients.descaled[tile.WIDE], tile_gradients.descaled[tile.NARROW]


# The empty `padded` of `gradient_layout.pack_gradient`, which then fills only panels.
_NO_PADDED = np.zeros((0, 0), np.float32), 0, np.zeros((0,) * 4, np.float32)


# --- the gradient of the weight ----------------------------------------------------------------------------------

# Entries of a geometry. Sums run over IMAGES, ROWS and RUN elements of a row. X_* are the bytes to the next image, row,
# element and channel of x; OUT_* the rows of the result to the next channel and tap. FOLD is the C of `WeightGradient`,
# PIECE the channels of a piece of work, TILE_* what one call of the micro-kernel takes.
(
    IMAGES, ROWS, RUN, OUTPUTS, CHANNELS, X_IMAGE, X_ROW, X_STEP, X_CHANNEL, FOLD, OUT_CHANNEL, OUT_TAP, PIECE,
    TILE_INPUTS, TILE_BLOCKS, SIZE,
) = range(16)  # fmt: skip


class Planes(NamedTuple):
    """The layout of the planes (N, C, rows, phases, pitch) of images (N, H, W, C); `gradient_layout` fills them."""

    rows: int  # of a plane, with those of the padding if they are not zero
    phases: int  # columns are sorted by their remainder modulo the horizontal stride
    pitch: int  # columns of a phase
    top: int  # stored rows of padding above the image
    left: int  # columns of padding


class WeightGradient:
    """The sum over pixels for convolutions of one geometry.

    Parameters
    ----------
    channels, outputs : C, O
    size : (H, W)
    in_bytes : whether x and dy are bytes, four pixels a word
    stored_border : whether the rows of the padding are not zero (padding with +1 or -1)
    fold : C, if the kernel covers the image, which then counts as KH*KW*C channels
    """

    def __init__(self, channels, outputs, size, window, in_bytes=False, stored_border=False, fold=None):
        self.channels, self.outputs, self.size, self.window = channels, outputs, size, window
        self.in_bytes = in_bytes
        self.out_h, self.out_w = window.count(size)
        kernel, stride, before, dilation = window.numbers
        self.depth = 4 if in_bytes else 1  # pixels of an element
        self.run = -(-self.out_w // self.depth)
        # Bytes: every tap is multiplied by every pixel of dy, so all taps have the same correction.
        top, bottom = window.padding[0] if stored_border or in_bytes else (0, 0)
        columns = (window.extent[1] - 1) // stride[1] + max(
            self.run * self.depth, -(-window.padded(size)[1] // stride[1])
        )
        pitch = -(-(columns + self.depth) // 4) * 4
        self.layout = Planes(size[0] + top + bottom, stride[1], pitch, top, before[1])
        item = 1 if in_bytes else 4
        plane_row = self.layout.phases * pitch * item
        taps = []
        for ky in range(kernel[0]):
            row = ky * dilation[0] - before[0]
            # output rows y whose input row y*s + row is stored
            first = max(0, -((row + top) // stride[0]))
            last = min(self.out_h, (size[0] - 1 + bottom - row) // stride[0] + 1)
            for kx in range(kernel[1]):
                far = kx * dilation[1]
                column = (far % stride[1]) * pitch + far // stride[1]
                base = (row + top) * plane_row + column * item  # of output row 0
                taps.append((base, first, max(first, last)))
        self.taps = np.array(taps, np.int64)
        g = np.zeros(SIZE, np.int64)
        g[ROWS], g[RUN], g[OUTPUTS], g[CHANNELS] = self.out_h, self.run, outputs, channels
        g[FOLD] = fold or channels
        g[OUT_CHANNEL], g[OUT_TAP] = len(taps) * (channels // int(g[FOLD])), 1
        plane = self.layout.rows * plane_row
        g[X_IMAGE], g[X_ROW], g[X_STEP], g[X_CHANNEL] = channels * plane, stride[0] * plane_row, 4, plane
        self._geometry = g
        self.in_blocks = outputs > (ENOUGH_BLOCKS - 1) * WIDE  # whether to take `each_block`

    def planes(self, n: int) -> NDArray:
        """Allocate the planes of n images: uint8 or float32."""
        m = self.layout
        kind = np.uint8 if self.in_bytes else np.float32
        return empty((n, self.channels, m.rows, m.phases, m.pitch), kind)

    def panels(self, n: int) -> NDArray[np.uint32]:
        """Allocate the gradients of n images, uint32, in blocks (n, OH, run, WIDE or NARROW)."""
        beyond = BYTES.beyond * WIDE if self.in_bytes else 0
        return empty((n * self.out_h * self.run * simd.padded_outputs(self.outputs) + beyond,), np.uint32)

    def __call__(self, x: NDArray, dy: NDArray[np.uint32], n: int, threads: int) -> NDArray:
        """Return sums (C * KH*KW, padded O), float32 or int32, over n images: x of `planes`, dy of `panels`."""
        kind = np.int32 if self.in_bytes else np.float32
        out = zeros((self.channels * len(self.taps), simd.padded_outputs(self.outputs)), kind)
        g = self._geometry.copy()
        g[IMAGES] = n
        return _sum(g, self.taps, x, dy, out, threads)

    def each_block(self, x: NDArray, dy: NDArray[np.uint32], n: int, threads: int, then: Then) -> None:
        """Compute the same in blocks of outputs: `then(first, sums)` gets the sums from output `first` on.

        `then` is called on the thread that computed them, while they are in its cache.
        """
        words, length = x.reshape(-1).view(np.uint32), n * self.out_h * self.run
        kind = np.int32 if self.in_bytes else np.float32
        tile_of = BYTES if self.in_bytes else REALS

        def some(start: int, stop: int) -> None:
            for first in range(start * WIDE, min(stop * WIDE, self.outputs), WIDE):
                g = self._geometry.copy()
                g[IMAGES], g[OUTPUTS], g[PIECE] = n, min(WIDE, self.outputs - first), self.channels
                g[TILE_INPUTS], g[TILE_BLOCKS] = tile_of.inputs, 1
                sums = zeros((self.channels * len(self.taps), simd.padded_outputs(int(g[OUTPUTS]))), kind)
                target = sums.view(np.uint32).reshape(-1)
                _sum_over_pixels(0, 1, self.in_bytes, g, self.taps, words, dy[first * length :], target)
                then(first, sums)

        parallel_chunks(some, -(-self.outputs // WIDE), 1, threads)


class RowsGradient:
    """The same for images with few channels, float32 (N, H, W + padding, C): the inputs are KW*C neighbours."""

    in_bytes = False

    def __init__(self, channels, outputs, size, window):
        self.channels, self.outputs, self.size, self.window = channels, outputs, size, window
        out_h, out_w = window.count(size)
        kernel, stride, before, dilation = window.numbers
        row, pixel = (size[1] + 2 * window.margin) * channels * 4, channels * 4
        taps = []
        for ky in range(kernel[0]):
            top = ky * dilation[0] - before[0]
            first = max(0, -(top // stride[0]))
            last = min(out_h, (size[0] - 1 - top) // stride[0] + 1)
            taps.append((top * row + (window.margin - before[1]) * pixel, first, max(first, last)))
        self.taps = np.array(taps, np.int64)
        g = np.zeros(SIZE, np.int64)
        inputs = kernel[1] * channels
        g[ROWS], g[RUN], g[OUTPUTS], g[CHANNELS] = out_h, out_w, outputs, inputs
        g[FOLD], g[OUT_CHANNEL], g[OUT_TAP] = inputs, 1, inputs
        g[X_IMAGE], g[X_ROW], g[X_STEP], g[X_CHANNEL] = size[0] * row, stride[0] * row, stride[1] * pixel, 4
        self._geometry = g
        self._room = out_h * out_w * simd.padded_outputs(outputs)
        self._together = max(1, CACHED_NUMBERS // self._room)

    def panels(self, n: int) -> NDArray[np.uint32]:
        """Allocate panels, as in `WeightGradient`."""
        return empty((n * self._room,), np.uint32)

    def __call__(self, x: NDArray[np.float32], dy_of: Parts, n: int, threads: int) -> NDArray[np.float32]:
        """Return sums (C * KH*KW, padded O) over n images.

        `dy_of(start, stop)` returns the gradients (N, OH, OW, O) of some images, on any thread. They are used at once,
        so they stay in the cache. Each group of images is summed on one thread, and the groups are added in order.
        """
        each = -(-n // IMAGE_GROUPS)
        sums = self.sums(-(-n // each))

        def some(start: int, stop: int) -> None:
            for group in range(start, stop):
                end = min((group + 1) * each, n)
                for image in range(group * each, end, self._together):
                    dy = dy_of(image, min(image + self._together, end))
                    panels = self.panels(len(dy))
                    place = *_NO_PADDED, panels.view(np.float32)
                    gradient_layout.pack_gradient(0, len(dy), 0, len(dy), dy, *place)
                    self.add(x[image:], panels, len(dy), sums[group])

        parallel_chunks(some, len(sums), 1, threads)
        return self.total(sums)

    def sums(self, groups: int) -> NDArray[np.float32]:
        """Allocate the sums of `groups` groups, as zeros."""
        return zeros((groups, len(self.taps) * int(self._geometry[CHANNELS]), simd.padded_outputs(self.outputs)))

    def add(self, x: NDArray[np.float32], dy: NDArray[np.uint32], n: int, sums: NDArray[np.float32]) -> None:
        """Add the sums over n images to one group's, on this thread: dy of `panels`."""
        g = self._geometry.copy()
        g[IMAGES], g[PIECE], g[TILE_INPUTS], g[TILE_BLOCKS] = n, g[CHANNELS], REALS.inputs, REALS.blocks
        words, target = (array.reshape(-1).view(np.uint32) for array in (x, sums))
        _sum_over_pixels(0, -(-self.outputs // WIDE), False, g, self.taps, words, dy, target)

    def total(self, sums: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the total of all groups, as `__call__` does."""
        out = sums.sum(axis=0)
        by_channel = out.reshape(-1, self.channels, out.shape[1]).transpose(1, 0, 2)
        return np.ascontiguousarray(by_channel).reshape(out.shape)


def _sum(g, taps, x, dy, out, threads):
    in_bytes = out.dtype == np.int32
    tile_of = BYTES if in_bytes else REALS
    wide, narrow = divmod(out.shape[1], WIDE)
    blocks, channels, piece = -(-wide // tile_of.blocks) + (narrow > 0), int(g[CHANNELS]), PIECE_INPUTS
    while piece > tile_of.inputs and blocks * -(-channels // piece) < LEAST_PIECES:
        piece //= 2
    g[PIECE], g[TILE_INPUTS], g[TILE_BLOCKS] = piece, tile_of.inputs, tile_of.blocks
    items = blocks * -(-channels // piece)
    words = x.reshape(-1).view(np.uint32)
    target = out.view(np.uint32).reshape(-1)

    def some(start, stop):
        _sum_over_pixels(start, stop, in_bytes, g, taps, words, dy, target)

    parallel_chunks(some, items, 1, threads)  # items are few and large
    return out


@compiled(void(intp, intp, boolean, _in(int64, 1), _in(int64, 2), _in(uint32, 1), _in(uint32, 1), _out(uint32, 1)))
def _sum_over_pixels(start, stop, in_bytes, g, taps, x, dy, out):
    """Compute items start..stop of (blocks of outputs, piece of inputs), in parts of the batch that fit into the cache.

    An item has at most `TILE_BLOCKS` wide blocks, or the narrow block at the end.
    """
    pieces = -(-g[CHANNELS] // g[PIECE])
    wide = g[OUTPUTS] // WIDE + (g[OUTPUTS] % WIDE > NARROW)
    out_row = (wide * WIDE + (NARROW if wide * WIDE < g[OUTPUTS] else 0)) * 4
    shaped = 0
    for item in range(start, stop):
        block, piece = item // pieces * g[TILE_BLOCKS], item % pieces
        narrow = block >= wide
        block = min(block, wide)
        first = block * WIDE
        line = g[RUN] * (NARROW if narrow else WIDE) * 4  # bytes of a row of dy
        image_bytes = g[ROWS] * line
        panel = dy.ctypes.data + first * g[IMAGES] * g[ROWS] * g[RUN] * 4
        n_near = max(1, PANEL_BYTES // image_bytes)
        rows_near = g[ROWS] if n_near > 1 else max(1, PANEL_BYTES // line)
        bottom = min(g[CHANNELS], (piece + 1) * g[PIECE])
        table = np.empty(2 + n_near * rows_near * g[RUN] if in_bytes else 2, np.int64)
        offsets = table[2:]
        table[0] = 1 if narrow else min(g[TILE_BLOCKS], wide - block)
        table[1] = g[IMAGES] * g[ROWS] * g[RUN] * WIDE * 4
        for k in range(len(offsets)):  # offsets of the elements of x from the first of a piece
            row = k // g[RUN]
            offsets[k] = row // rows_near * g[X_IMAGE] + row % rows_near * g[X_ROW] + k % g[RUN] * g[X_STEP]
        for image in range(0, g[IMAGES], n_near):
            n_images = min(n_near, g[IMAGES] - image)
            for top in range(0, g[ROWS], rows_near):
                c, n = piece * g[PIECE], 0
                while c + n < bottom:
                    c += n
                    n = min(g[TILE_INPUTS], bottom - c, g[FOLD] - c % g[FOLD])
                    if in_bytes and n != shaped:
                        shaped = n
                        _shape(n)
                    first_row = c % g[FOLD] * g[OUT_CHANNEL] + c // g[FOLD]
                    for tap in range(len(taps)):
                        begin = max(top, taps[tap, 1])
                        n_rows = min(top + rows_near, taps[tap, 2]) - begin
                        if n_rows <= 0:
                            continue
                        at = x.ctypes.data + image * g[X_IMAGE] + taps[tap, 0] + begin * g[X_ROW] + c * g[X_CHANNEL]
                        w = panel + image * image_bytes + begin * line
                        y = out.ctypes.data + (first_row + tap * g[OUT_TAP]) * out_row + first * 4
                        next_row = g[OUT_CHANNEL] * out_row
                        xi, xr, xs, xc, run = g[X_IMAGE], g[X_ROW], g[X_STEP], g[X_CHANNEL], g[RUN]
                        wi, wr = image_bytes, line
                        if in_bytes:
                            count, places = n_images * n_rows * run, offsets.ctypes.data
                            if narrow:
                                _in_bytesnarrow(n, at, places, xc, w, count, y, next_row)
                            else:
                                _in_byteswide(n, at, places, xc, w, count, y, next_row)
                        elif narrow:
                            _real_narrow(n, at, xi, xr, xs, xc, w, wi, wr, n_images, n_rows, run, y, next_row)
                        else:
                            _real_wide(n, at, xi, xr, xs, xc, w, wi, wr, n_images, n_rows, run, y, next_row)
    if in_bytes:
        _release()


# --- the gradient of the input -----------------------------------------------------------------------------------


class _Phase:
    """The pixels (a + s*i, b + s*j) of dX, and the convolution of stride 1 that computes them."""

    def __init__(self, whole: "InputGradient", a: int, b: int):
        (kernel, (sy, sx), before, dilation), (out_h, row, words) = whole.window.numbers, whole.padded_shape
        self.ky, up, down = _taps(kernel[0], sy, before[0], dilation[0], a)
        self.kx, left, right = _taps(kernel[1], sx, before[1], dilation[1], b)
        height, width = -(-(whole.size[0] - a) // sy), -(-(whole.size[1] - b) // sx)
        at = np.arange(height)[:, None] + up + np.arange(len(self.ky)) * down  # rows of dY used for a row of pixels
        inside = (at >= 0) & (at < out_h)
        n_rows = inside.sum(axis=1)
        first = inside.argmax(axis=1) if len(self.ky) else n_rows
        kinds, kind = np.unique(np.stack([first, n_rows], axis=1), axis=0, return_inverse=True)
        self.kinds = kinds
        entry = simd.padded_outputs(whole.inputs) * 4
        begin = ((np.arange(height) + up + first * down) * row + left + whole.left) * words * 4
        corner = kind.reshape(-1) * (entry if whole.in_bytes else 0)
        together = len(self.kx) if right == 1 else 1  # taps that use neighbours in a row of dY are one piece
        per_row = len(self.kx) // max(1, together)
        self.rows = np.stack([begin, per_row * n_rows, per_row * first, corner], axis=1).astype(np.int64)
        across = np.arange(per_row) * right
        self.hops = simd.hops_between((np.arange(len(self.ky))[:, None] * (down * row) + across) * (words * 4))
        self.table = np.zeros((len(kinds), entry // 4), np.int32)
        size = len(self.ky) * len(self.kx) * words * entry // 4
        beyond = BYTES.beyond * WIDE if whole.in_bytes else 0
        self.panels = zeros((max(1, size + beyond),), np.uint32)
        offsets = [ky * kernel[1] + kx for ky in self.ky for kx in self.kx]
        self.offsets = np.array(offsets if not whole.single else [0], np.int64)
        pixel = whole.inputs * 4
        self.first = (a * whole.size[1] + b) * whole.inputs
        self.geometry = g = np.zeros(simd.SIZE, np.int64)
        g[simd.PAST] = LINE
        g[simd.N_IMAGES], g[simd.OUT_H], g[simd.OUT_W], g[simd.OUT_CHANNELS] = 1, height, width, whole.inputs
        g[simd.GROUP_ROWS], g[simd.W] = max(1, simd.OUTPUT_PIXELS // width), self.panels.ctypes.data
        g[simd.RUN], g[simd.PIECES], g[simd.OPERANDS] = together * words, len(self.hops), 1
        g[simd.HOPS] = self.hops.ctypes.data
        g[simd.X_IMAGE], g[simd.X_PIXEL] = out_h * row * words * 4, words * 4
        g[simd.OUT_IMAGE] = whole.size[0] * whole.size[1] * pixel
        g[simd.OUT_ROW], g[simd.OUT_PIXEL] = sy * whole.size[1] * pixel, sx * pixel

    def load_reals(self, whole: "InputGradient", weight, threads: int) -> None:
        """Lay out real weights (O, C*KH*KW)."""
        arguments = weight.reshape(-1), whole.source, whole.outputs, weight[0].size, self.offsets
        split(
            threads,
            -(-whole.inputs // WIDE),
            gradient_layout.fill_real_panels,
            *arguments,
            self.panels.view(np.float32),
        )

    def load_signs(self, whole: "InputGradient", words, alpha, threads: int) -> None:
        """Lay out signs, words (O, KH*KW*words)."""
        sums = np.zeros((len(self.offsets), self.table.shape[1]), np.int32)
        arguments = words, alpha, whole.inputs, self.offsets * whole.words
        panels = self.panels, self.panels.view(np.float32), sums
        split(threads, -(-whole.inputs // WIDE), gradient_layout.fill_sign_panels, whole.in_bytes, *arguments, *panels)
        if whole.in_bytes and len(self.offsets):
            before = np.zeros((len(self.ky) + 1, sums.shape[1]), np.int64)
            np.cumsum(sums.reshape(len(self.ky), len(self.kx), -1).sum(axis=1), axis=0, out=before[1:])
            self.table[...] = OFFSET * (before[self.kinds.sum(axis=1)] - before[self.kinds[:, 0]])


def _taps(kernel: int, stride: int, padding: int, dilation: int, phase: int) -> tuple[list[int], int, int]:
    """Return the taps applied to the input pixels stride*i + phase, in the order of their outputs.

    The outputs are i + shift, i + shift + step, ... Returned are taps, shift and step.
    """
    taps = [tap for tap in reversed(range(kernel)) if (phase + padding - tap * dilation) % stride == 0]
    step = dilation // math.gcd(dilation, stride)
    return taps, (phase + padding - taps[0] * dilation) // stride if taps else 0, step


class InputGradient:
    """The gradient of the input for convolutions of one geometry.

    If the kernel covers the image, it can be a product of matrices: dX (N, KH*KW*C) = dY (N, O) W (O, KH*KW*C).

    Parameters
    ----------
    channels, outputs : C, O
    size : (H, W)
    in_bytes : whether dY is unsigned bytes with `OFFSET` added, and the weights signs
    single : whether to use that product; signs then need whole words of channels

    `padded_shape` is (OH, columns, words of 32 bits), the shape of an image of dY. Its columns begin with `left` zeros
    (or bytes of `OFFSET`), and there are some at the end.
    """

    def __init__(self, channels, outputs, size, window, *, in_bytes=False, single=False):
        self.outputs, self.in_bytes, self.words = outputs, in_bytes, -(-channels // 32)
        self.single = single
        n_taps = window.kernel[0] * window.kernel[1]
        self.source = np.arange(channels) * n_taps  # offset of each input channel in a filter
        if self.single:  # one pixel with all channels, in the order of dX
            self.source = np.ascontiguousarray((self.source[:, None] + np.arange(n_taps)).T).reshape(-1)
            size, window = (1, 1), Window((1, 1))
        self.inputs = len(self.source)
        self.size, self.window = size, window
        out_h, out_w = window.count(size)
        kernel, stride, before, dilation = window.numbers
        across = ((b, *_taps(kernel[1], stride[1], before[1], dilation[1], b)) for b in range(min(stride[1], size[1])))
        phases = [phase for phase in across if phase[1]]  # with at least one tap
        self.left = max([0, *(-shift for _, _, shift, _ in phases)])
        ends = [-(-(size[1] - b) // stride[1]) + shift + (len(taps) - 1) * step for b, taps, shift, step in phases]
        columns = self.left + max([out_w, *ends])
        self.padded_shape = out_h, columns, -(-outputs // 4) if in_bytes else outputs
        self.phases = [
            _Phase(self, a, b) for a in range(min(stride[0], size[0])) for b in range(min(stride[1], size[1]))
        ]

    def load_reals(self, weight: NDArray[np.float32], threads: int) -> None:
        """Set the weights (O, C, KH, KW)."""
        for phase in self.phases:
            phase.load_reals(self, weight.reshape(len(weight), -1), threads)

    def load_signs(self, words: NDArray[np.uint32], alpha: NDArray[np.float32], threads: int) -> None:
        """Set the weights as signs (O, KH*KW, words of C); in float32 they are multiplied by alpha (O,)."""
        for phase in self.phases:
            phase.load_signs(self, words.reshape(len(words), -1), alpha, threads)

    def __call__(self, dy: NDArray, out: NDArray[np.float32], start: int, stop: int, scale: float = 1.0) -> None:
        """Compute images start..stop of dX (N, H, W, C) on this thread; those of bytes are multiplied by `scale`."""
        n = stop - start
        target = out.reshape(-1).view(np.uint32)
        factor = np.array([scale], np.float32)
        for phase in self.phases:
            g = phase.geometry.copy()
            images = 1 if self.single else n
            g[simd.OUT_W if self.single else simd.N_IMAGES] = n
            g[simd.X] = dy.ctypes.data + start * g[simd.X_IMAGE]
            pieces = -(-self.inputs // WIDE) * -(-int(g[simd.OUT_H]) // int(g[simd.GROUP_ROWS]))
            place = target[start * (int(g[simd.OUT_IMAGE]) // 4) + phase.first :]
            if self.in_bytes:
                g[simd.PART_0], g[simd.PART_2] = phase.table.ctypes.data, factor.ctypes.data
                together = max(1, BYTES.pixels // int(g[simd.OUT_W]))
                _convolve_bytes(0, -(-images // together) * pieces, g, phase.rows, together, place)
            else:
                parts = _plain_parts(simd.padded_outputs(self.inputs))
                for entry, part in zip((simd.PART_0, simd.PART_1, simd.PART_2, simd.PART_3), parts):
                    g[entry] = part.ctypes.data
                blocks = np.zeros((-(-self.inputs // WIDE), 2), np.int64)
                simd._convolve(0, images * pieces, simd.REAL, g, phase.rows, blocks, place)


@lru_cache(maxsize=64)
def _plain_parts(n: int) -> tuple[NDArray[np.float32], ...]:
    """Return a bias, scale, shift and lower limit that change nothing."""
    return tuple(np.full(n, value, np.float32) for value in (0, 1, 0, -np.inf))


@compiled(void(intp, intp, _in(int64, 1), _in(int64, 2), intp, _out(uint32, 1)))
def _convolve_bytes(start, stop, g, rows, together, out):
    """Compute items start..stop of (block of channels, `together` images, group of rows), from bytes to reals.

    Everything else is as in `simd._convolve`.
    """
    n_groups, per_block = -(-g[simd.OUT_H] // g[simd.GROUP_ROWS]), -(-g[simd.N_IMAGES] // together)
    scratch = np.empty(together * g[simd.OUT_W] * WIDE if g[simd.OUT_CHANNELS] % NARROW else 0, np.uint32)
    images, shaped = np.empty(4, np.int64), 0
    images[1], images[3] = g[simd.X_IMAGE], -(-g[simd.OUT_W] // -(-g[simd.OUT_W] // BYTES.pixels))
    for item in range(start, stop):
        block, rest = item // (per_block * n_groups), item % (per_block * n_groups)
        image, group = rest // n_groups * together, rest % n_groups
        images[0] = min(together, g[simd.N_IMAGES] - image)
        if images[0] * images[3] != shaped:
            shaped = images[0] * images[3]
            _shape(shaped)
        first = block * WIDE
        used = min(WIDE, g[simd.OUT_CHANNELS] - first)
        narrow = used <= NARROW
        width = NARROW if narrow else WIDE
        for oy in range(group * g[simd.GROUP_ROWS], min((group + 1) * g[simd.GROUP_ROWS], g[simd.OUT_H])):
            x = g[simd.X] + image * g[simd.X_IMAGE] + rows[oy, 0]
            hops = g[simd.HOPS] + rows[oy, 2] * 8
            w = g[simd.W] + (block * g[simd.PIECES] * WIDE + rows[oy, 2] * width) * g[simd.RUN] * 4
            table = g[simd.PART_0] + rows[oy, 3] + first * 4
            place = image * g[simd.OUT_IMAGE] + oy * g[simd.OUT_ROW] + first * 4
            y, step = out.ctypes.data + place, g[simd.OUT_PIXEL]
            images[2] = g[simd.OUT_IMAGE]
            if used < width:
                y, step = scratch.ctypes.data, width * 4
                images[2] = g[simd.OUT_W] * step
            n, pixel, n_pieces, run = g[simd.OUT_W], g[simd.X_PIXEL], rows[oy, 1], g[simd.RUN]
            batch, scale = images.ctypes.data, g[simd.PART_2]
            if narrow:
                _descaled_narrow(0, n, x, hops, pixel, n_pieces, run, w, table, batch, scale, 0, 0, y, step, LINE)
            else:
                _descaled_wide(0, n, x, hops, pixel, n_pieces, run, w, table, batch, scale, 0, 0, y, step, LINE)
            if used < width:
                for p in range(images[0] * n):
                    to = place + p // n * g[simd.OUT_IMAGE] + p % n * g[simd.OUT_PIXEL]
                    for c in range(used):
                        out[to // 4 + c] = scratch[p * width + c]
    _release()
