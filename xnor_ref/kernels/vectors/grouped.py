"""Real convolutions with few channels per group (mainly depthwise ones), channels innermost, and their gradients.

A block has as many whole groups as fit into a vector, with inputs and outputs. Its lanes are output channels. Taps
outside the image are not visited, so images need no padding columns. Outputs that meet the border in the same way form
one run. `_convolve_squares` computes 3x3 with stride 1, `_convolve` all others.
"""

from collections.abc import Callable
from functools import lru_cache
from math import gcd
from typing import NamedTuple

import numpy as np
from numba import float32, int32, int64, intp, void
from numpy.typing import NDArray

from xnor_ref.kernels.basics.geometry import Pair, Window
from xnor_ref.kernels.basics.memory import LINE, zeros
from xnor_ref.kernels.compiling.jit import compiled
from xnor_ref.kernels.compiling.jit import readonly as _in
from xnor_ref.kernels.compiling.jit import writable as _out
from xnor_ref.kernels.microkernels import grouped, squares
from xnor_ref.kernels.microkernels.ir import LANES, fence
from xnor_ref.kernels.vectors import simd
from xnor_ref.kernels.vectors.simd import split, worth

Run = Callable[[int, int], None]  # (number of images, threads)
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

# Entries of a geometry; strides in bytes
(
    OUT_H, DIRECT, N_INPUTS, N_IN, N_OUT, BLOCK_IN, BLOCK_OUT,
    X_IMAGE, X_PIXEL, X_ROW, X_COLUMN, W_ROW, W_COLUMN, W_BLOCK, OUT_IMAGE, OUT_ROW, OUT_PIXEL, PAST, SIZE,
) = range(19)  # fmt: skip

# Entries of a geometry of `_convolve_squares`; addresses, strides in bytes
(
    SQ_OUT_H, SQ_OUT_W, SQ_WHOLE, SQ_N_INPUTS, SQ_LANES, SQ_N_IN, SQ_N_OUT, SQ_BLOCK_IN, SQ_BLOCK_OUT,
    SQ_X, SQ_FIRST_ROW, SQ_FIRST_PIXEL, SQ_X_PIXEL, SQ_X_LINE, SQ_X_IMAGE, SQ_W, SQ_W_ROW, SQ_W_COLUMN, SQ_W_BLOCK,
    SQ_PARTS, SQ_PART, SQ_OUT, SQ_OUT_IMAGE, SQ_OUT_ROW, SQ_OUT_PIXEL, SQ_PAST, SQ_SIZE,
) = range(27)  # fmt: skip

PARTIAL_SUMS = 8  # partial sums of images in a gradient of weights
_direct, _shuffled = grouped.direct, grouped.shuffled
_direct_squares, _shuffled_squares = squares.direct, squares.shuffled
_direct_products, _shuffled_products = grouped.direct_products, grouped.shuffled_products


@compiled(
    void(
        intp, intp, _in(int64, 1), _in(int64, 2), _in(int64, 2), _in(float32, 2), _in(int32, 1), _in(float32, 2),
        _in(float32, 1), _out(float32, 1),
    )
)  # fmt: skip
def _convolve(start, stop, g, rows, runs, w, lanes, parts, x, out):
    """Compute rows start..stop of all outputs."""
    whole = g[N_OUT] // LANES if g[DIRECT] else 0  # blocks in which all lanes are channels
    done = whole * LANES
    part = parts.shape[1] * 4
    p0 = parts.ctypes.data
    p1, p2, p3 = p0 + part, p0 + 2 * part, p0 + 3 * part
    x_pixel, x_row, x_column, w_row, w_column = g[X_PIXEL], g[X_ROW], g[X_COLUMN], g[W_ROW], g[W_COLUMN]
    for item in range(start, stop):
        image, oy = item // g[OUT_H], item % g[OUT_H]
        n_rows = rows[oy, 1]
        for s in range(len(runs)):
            at = x.ctypes.data + image * g[X_IMAGE] + rows[oy, 0] + runs[s, 2]
            weights = w.ctypes.data + rows[oy, 2] + runs[s, 4]
            y = out.ctypes.data + image * g[OUT_IMAGE] + oy * g[OUT_ROW] + runs[s, 0]
            n, n_columns = runs[s, 1], runs[s, 3]
            if whole:
                _direct(
                    n, at, weights, x_pixel, x_row, x_column, n_rows, n_columns, w_row, w_column, g[W_BLOCK], 1, 0,
                    done, done, LANES, LANES, p0, p1, p2, p3, y, g[OUT_PIXEL], g[PAST],
                )  # fmt: skip
            if done < g[N_OUT]:
                more = done * 4
                _shuffled(
                    n, at + more, weights + whole * g[W_BLOCK], x_pixel, x_row, x_column, n_rows, n_columns, w_row,
                    w_column, g[W_BLOCK], g[N_INPUTS], lanes.ctypes.data, g[N_IN] - done, g[N_OUT] - done, g[BLOCK_IN],
                    g[BLOCK_OUT], p0 + more, p1 + more, p2 + more, p3 + more, y + more, g[OUT_PIXEL], LINE,
                )  # fmt: skip
    if g[PAST] == 0:
        fence()


@compiled(void(intp, intp, _in(int64, 1)))
def _convolve_squares(start, stop, g):
    """Compute items start..stop of all (image, two rows) of outputs.

    With an odd number of rows, the last item repeats one.
    """
    done, more = g[SQ_WHOLE] * LANES, g[SQ_WHOLE] * LANES * 4
    width, first, pixel, line, image_bytes = g[SQ_OUT_W], g[SQ_FIRST_PIXEL], g[SQ_X_PIXEL], g[SQ_X_LINE], g[SQ_X_IMAGE]
    w, w_row, w_column, w_block = g[SQ_W], g[SQ_W_ROW], g[SQ_W_COLUMN], g[SQ_W_BLOCK]
    p0, part = g[SQ_PARTS], g[SQ_PART]
    p1, p2, p3 = p0 + part, p0 + 2 * part, p0 + 3 * part
    pairs = (g[SQ_OUT_H] + 1) // 2
    for item in range(start, stop):
        image, oy = item // pairs, min(item % pairs * 2, g[SQ_OUT_H] - 2)
        x, row = g[SQ_X] + image * image_bytes, g[SQ_FIRST_ROW] + oy * line
        y = g[SQ_OUT] + image * g[SQ_OUT_IMAGE] + oy * g[SQ_OUT_ROW]
        if done:
            _direct_squares(
                width, x, row, first, pixel, line, image_bytes, w, w_row, w_column, w_block, 1, 0, done, done, LANES,
                LANES, p0, p1, p2, p3, y, g[SQ_OUT_ROW], g[SQ_OUT_PIXEL], g[SQ_PAST],
            )  # fmt: skip
        if done < g[SQ_N_OUT]:
            _shuffled_squares(
                width, x + more, row, first, pixel, line, image_bytes, w + g[SQ_WHOLE] * w_block, w_row, w_column,
                w_block, g[SQ_N_INPUTS], g[SQ_LANES], g[SQ_N_IN] - done, g[SQ_N_OUT] - done, g[SQ_BLOCK_IN],
                g[SQ_BLOCK_OUT], p0 + more, p1 + more, p2 + more, p3 + more, y + more, g[SQ_OUT_ROW], g[SQ_OUT_PIXEL],
                LINE,
            )  # fmt: skip
    if g[SQ_PAST] == 0:
        fence()


@compiled(
    void(
        intp, intp, intp, intp, _in(int64, 1), _in(int64, 2), _in(int64, 2), _in(int32, 1), _in(float32, 1),
        _in(float32, 1), _out(float32, 3),
    )
)  # fmt: skip
def _weight_sums(start, stop, together, n_images, g, rows, runs, lanes, x, dy, sums):
    """Add the weights' gradient of items start..stop (`together` images each) to `sums[item]`."""
    whole = g[N_OUT] // LANES if g[DIRECT] else 0
    done = whole * LANES
    x_pixel, x_row, x_column, w_row, w_column = g[X_PIXEL], g[X_ROW], g[X_COLUMN], g[W_ROW], g[W_COLUMN]
    for item in range(start, stop):
        for output in range(item * together * g[OUT_H], min((item + 1) * together, n_images) * g[OUT_H]):
            image, oy = output // g[OUT_H], output % g[OUT_H]
            n_rows = rows[oy, 1]
            for s in range(len(runs)):
                at = x.ctypes.data + image * g[X_IMAGE] + rows[oy, 0] + runs[s, 2]
                weights = sums[item].ctypes.data + rows[oy, 2] + runs[s, 4]
                d = dy.ctypes.data + image * g[OUT_IMAGE] + oy * g[OUT_ROW] + runs[s, 0]
                n, n_columns = runs[s, 1], runs[s, 3]
                if whole:
                    _direct_products(
                        n, at, d, weights, g[OUT_PIXEL], x_pixel, x_row, x_column, n_rows, n_columns, w_row, w_column,
                        g[W_BLOCK], 1, 0, done, done, LANES, LANES,
                    )  # fmt: skip
                if done < g[N_OUT]:
                    more = done * 4
                    _shuffled_products(
                        n, at + more, d + more, weights + whole * g[W_BLOCK], g[OUT_PIXEL], x_pixel, x_row, x_column,
                        n_rows, n_columns, w_row, w_column, g[W_BLOCK], g[N_INPUTS], lanes.ctypes.data, g[N_IN] - done,
                        g[N_OUT] - done, g[BLOCK_IN], g[BLOCK_OUT],
                    )  # fmt: skip


def _axis(back: bool, size: int, taps: int, stride: int, before: int, dilation: int, out_size: int):
    """Return, for each output along an axis of `size` pixels: its first pixel, its number of taps, and its first tap.

    Also return the steps in pixels and in taps to the next. With `back`, it is for the gradient of the input, whose
    pixels are the outputs. Taps then run backwards, so that pixels run forwards.
    """
    out, tap = np.arange(out_size)[:, None], np.arange(taps)
    pixel, step = out * stride - before + tap * dilation, (dilation, 1)
    met = (pixel >= 0) & (pixel < size)
    if back:
        pixel, off = np.divmod(out + before - tap[::-1] * dilation, stride)
        met = (off == 0) & (pixel >= 0) & (pixel < size)
        common = gcd(stride, dilation)
        step = dilation // common, -stride // common
    first = met.argmax(axis=1)
    n_taps = met.sum(axis=1)
    place = np.where(n_taps, pixel[np.arange(out_size), first], 0)
    return np.stack([place, n_taps, taps - 1 - first if back else first], axis=1), step


def _runs(table: I64, phases: int, step: int) -> I64:
    """Return runs of outputs that meet the image in the same way: (first output, count, first pixel, taps, first tap).

    Consecutive outputs of a run are `phases` outputs and `step` pixels apart.
    """
    found = []
    for phase in range(phases):
        place, *alike = table[phase::phases].T
        ends = [np.diff(place) != step, *(np.diff(one) != 0 for one in alike)]
        begin = np.append(0, np.flatnonzero(np.any(ends, axis=0)) + 1) if len(place) else np.zeros(0, np.int64)
        length = np.diff(np.append(begin, len(place)))
        found.append(np.stack([phase + phases * begin, length, place[begin], *(one[begin] for one in alike)], axis=1))
    return np.concatenate(found)


def suits(shape: tuple[int, ...], groups: int) -> bool:
    """Whether the inputs and outputs of a group fit into part of a vector. `shape` is that of the weights."""
    return max(shape[1], shape[0] // groups) <= LANES


class _Layout(NamedTuple):
    """The layout of a convolution, independent of the weights."""

    padded_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    per_block: int  # groups
    blocks: int
    geometry: tuple[I64, I64, I64, NDArray[np.int32]]  # g, rows, runs, lanes


@lru_cache(maxsize=128)
def _layout(shape: tuple[int, ...], groups: int, size: Pair, window: Window, back: bool) -> _Layout:
    """Return the layout, shared by all convolutions of the same sizes."""
    outputs, n_in, *kernel = shape
    n_out, source, target = outputs // groups, size, window.count(size)
    if back:
        n_in, n_out, source, target = n_out, n_in, target, source
    per_block = LANES // max(n_in, n_out)
    axes = zip(source, *window.numbers, target, strict=True)
    (rows, row_step), (columns, column_step) = (_axis(back, *axis) for axis in axes)
    phases, advance = (window.stride[1], 1) if back else (1, window.stride[1])
    pixel_in, pixel_out, tap = 4 * groups * n_in, 4 * groups * n_out, 4 * n_in * LANES
    line_in, line_out, line_tap = source[1] * pixel_in, target[1] * pixel_out, kernel[1] * tap
    g = np.zeros(SIZE, np.int64)
    g[OUT_H], g[DIRECT], g[N_INPUTS] = target[0], n_in == n_out == 1, n_in
    g[N_IN], g[N_OUT] = groups * n_in, groups * n_out
    g[BLOCK_IN], g[BLOCK_OUT] = per_block * n_in, per_block * n_out
    g[X_IMAGE], g[X_PIXEL] = source[0] * line_in, advance * pixel_in
    g[X_ROW], g[X_COLUMN] = row_step[0] * line_in, column_step[0] * pixel_in
    g[W_ROW], g[W_COLUMN], g[W_BLOCK] = row_step[1] * line_tap, column_step[1] * tap, kernel[0] * line_tap
    g[OUT_IMAGE], g[OUT_ROW], g[OUT_PIXEL] = target[0] * line_out, line_out, phases * pixel_out
    runs = _runs(columns, phases, advance) * np.array([pixel_out, 1, pixel_in, 1, tap])
    lanes = np.minimum(np.arange(LANES) // n_out, per_block - 1) * n_in
    geometry = g, rows * np.array([line_in, 1, line_tap]), runs, lanes.astype(np.int32)
    return _Layout((*source, groups * n_in), (*target, groups * n_out), per_block, -(-groups // per_block), geometry)


class GroupedConv:
    """A grouped convolution for which `suits` holds, for images of one size; with `back`, the gradient of its input.

    Each output is one chain of fused multiply-adds over kernel rows, kernel columns and the channels of its group, then
    max((sum + bias) * scale + shift, floor), as in `simd.RealConv`.

    Parameters
    ----------
    shape : of the weights, (O, C/groups, KH, KW)
    size : (H, W) of the images
    scale, shift : float32 (O,), or None for 1, 0
    floor : lower limit of the result
    """

    def __init__(
        self, shape, groups, size, window, scale=None, shift=None, floor=-np.inf, *, back=False
    ):  # fmt: skip
        self._shape, self._groups, self._back, self._window = shape, groups, back, window
        layout = _layout(tuple(shape), groups, tuple(size), window, back)
        self.padded_shape, self.out_shape, self._per_block, blocks, self._geometry = layout
        n_in = self.padded_shape[2] // groups
        next_to_each_other = (window.kernel, window.stride, window.dilation) == ((3, 3), (1, 1), (1, 1))
        self._square = next_to_each_other and self.out_shape[0] > 1
        self._weights = zeros((blocks, shape[2] * shape[3] * n_in * LANES))
        values = (None, 0), (scale, 1), (shift, 0), (None, floor)
        self._parts = np.stack([self._in_lanes(np.float32(fill if v is None else v)) for v, fill in values])

    def _in_lanes(self, values: F32 | np.float32) -> F32:
        """Return a number for each output channel, block by block, and 0 for lanes without a channel."""
        blocks, used = len(self._weights), self._per_block * self.out_shape[2] // self._groups
        channels, lanes = np.zeros(blocks * used, np.float32), np.zeros((blocks, LANES), np.float32)
        channels[: self.out_shape[2]] = values
        lanes[:, :used] = channels.reshape(blocks, used)
        return lanes.reshape(-1)

    def load(self, weight: F32, bias: F32 | None = None) -> "GroupedConv":
        """Load weights (O, C/groups, KH, KW) and a bias (O,)."""
        if bias is not None:
            self._parts[0] = self._in_lanes(bias)
        outputs, inputs, *kernel = weight.shape
        by_group = weight.reshape(self._groups, outputs // self._groups, inputs, *kernel)
        if self._back:
            by_group = by_group.swapaxes(1, 2)
        blocks, (_, n_out, n_in, *_) = len(self._weights), by_group.shape
        whole = np.zeros((blocks * self._per_block, *by_group.shape[1:]), np.float32)
        whole[: self._groups] = by_group
        whole = whole.reshape(blocks, self._per_block * n_out, n_in, *kernel).transpose(0, 3, 4, 2, 1)
        self._weights.reshape(blocks, *kernel, n_in, LANES)[..., : self._per_block * n_out] = whole
        return self

    def bind(self, x: F32, out: F32, stream: bool = False) -> Run:
        """Return a function of (n, threads) that convolves images x (N, H, W, C) into `out` (N, OH, OW, O).

        `stream`: see `simd._Conv._bind`.
        """
        if self._square:
            return self._bind_squares(x, out, stream)
        g, rows, runs, lanes = self._geometry
        g = g.copy()
        g[PAST] = 0 if stream else LINE
        arguments = g, rows, runs, self._weights, lanes, self._parts, x.reshape(-1), out.reshape(-1)
        height, width, _ = self.out_shape
        work = 20 * height * width * self._weights.size

        def run(n: int, threads: int) -> None:
            split(worth(threads, n * work), n * height, _convolve, *arguments)

        return run

    def _bind_squares(self, x: F32, out: F32, stream: bool) -> Run:
        """`bind` for 3x3 kernels with adjacent outputs and taps."""
        x, out = x.reshape(-1), out.reshape(-1)
        general, _, _, lanes = self._geometry
        (height, width, channels), (in_height, in_width, inputs) = self.out_shape, self.padded_shape
        top, left = self._window.before
        tap = general[N_INPUTS] * LANES * 4
        w, w_row, w_column = self._weights.ctypes.data, 3 * tap, tap
        if self._back:  # from the last tap to the first
            top, left = 2 - top, 2 - left
            w, w_row, w_column = w + 2 * (w_row + w_column), -w_row, -w_column
        line = in_width * inputs * 4
        g = np.zeros(SQ_SIZE, np.int64)
        g[SQ_OUT_H], g[SQ_OUT_W] = height, width
        g[SQ_WHOLE] = channels // LANES if general[DIRECT] else 0
        g[SQ_N_INPUTS], g[SQ_LANES], g[SQ_N_IN], g[SQ_N_OUT] = general[N_INPUTS], lanes.ctypes.data, inputs, channels
        g[SQ_BLOCK_IN], g[SQ_BLOCK_OUT] = general[BLOCK_IN], general[BLOCK_OUT]
        g[SQ_X], g[SQ_FIRST_ROW], g[SQ_FIRST_PIXEL] = x.ctypes.data, -top * line, -left * inputs * 4
        g[SQ_X_PIXEL], g[SQ_X_LINE], g[SQ_X_IMAGE] = inputs * 4, line, in_height * line
        g[SQ_W], g[SQ_W_ROW], g[SQ_W_COLUMN], g[SQ_W_BLOCK] = w, w_row, w_column, 9 * tap
        g[SQ_PARTS], g[SQ_PART] = self._parts.ctypes.data, self._parts[0].nbytes
        g[SQ_OUT], g[SQ_OUT_IMAGE] = out.ctypes.data, height * width * channels * 4
        g[SQ_OUT_ROW], g[SQ_OUT_PIXEL], g[SQ_PAST] = width * channels * 4, channels * 4, 0 if stream else LINE
        work, pairs = 20 * height * width * self._weights.size, -(-height // 2)
        keeps = self, x, out, lanes  # the arrays whose addresses g holds

        def run(n: int, threads: int, keeps=keeps) -> None:
            split(worth(threads, n * work), n * pairs, _convolve_squares, g)

        return run

    def weight_gradient(self, x: F32, dy: F32, threads: int) -> F32:
        """Return the gradient (O, C/groups, KH, KW) from images x (N, H, W, C) and output gradients dy (N, OH, OW, O).

        Images are added in groups that depend only on their number, and the groups in order.
        """
        g, rows, runs, lanes = self._geometry
        n, together = len(x), -(-len(x) // PARTIAL_SUMS)
        sums = zeros((-(-n // together), *self._weights.shape))
        arguments = together, n, g, rows, runs, lanes, x.reshape(-1), dy.reshape(-1), sums
        split(threads, len(sums), _weight_sums, *arguments)
        outputs, inputs, *kernel = self._shape
        used = self._per_block * outputs // self._groups
        total = sums.sum(axis=0).reshape(-1, *kernel, inputs, LANES)[..., :used]
        return np.ascontiguousarray(total.transpose(0, 4, 3, 1, 2).reshape(-1, inputs, *kernel)[:outputs])


class SplitConv:
    """A grouped convolution with any number of channels: a `simd.RealConv` and a copy of the channels per group."""

    def __init__(self, weight, groups, size, window, bias, scale, shift, floor):
        outputs, self._channels, *_ = weight.shape
        n_out = outputs // groups

        def of_group(group: int) -> simd.RealConv:
            part = slice(group * n_out, (group + 1) * n_out)
            own = [None if value is None else value[part] for value in (bias, scale, shift)]
            return simd.RealConv(weight[part], size, window, own[0], own[1], own[2], floor)

        self._convs = [of_group(group) for group in range(groups)]
        self._left = window.margin
        self.padded_shape = *size, groups * self._channels
        self.out_shape = *self._convs[0].out_shape[:2], outputs

    def bind(self, x: F32, out: F32) -> Run:
        """Like `GroupedConv.bind`."""
        height, width, outputs = self.out_shape
        wide = np.zeros((len(self._convs), len(x), *self._convs[0].padded_shape), np.float32)
        inside = wide[:, :, :, self._left : self._left + x.shape[2]]
        by_group = np.moveaxis(x.reshape(*x.shape[:3], len(self._convs), self._channels), 3, 0)
        strides = 4 * height * width * outputs, 4 * width * outputs, 4 * outputs
        runs = [
            conv.bind(images, out, place=(*strides, group * conv.out_shape[2]))
            for group, (conv, images) in enumerate(zip(self._convs, wide, strict=True))
        ]

        def run(n: int, threads: int) -> None:
            inside[:, :n] = by_group[:, :n]
            for one in runs:
                one(n, threads)

        return run


def planned(weight, groups, size, window, bias=None, scale=None, shift=None, floor=-np.inf):
    """Return a grouped convolution with fixed weights (O, C/groups, KH, KW). `bind` takes images (N, H, W, C)."""
    if not suits(weight.shape, groups):
        return SplitConv(weight, groups, size, window, bias, scale, shift, floor)
    return GroupedConv(weight.shape, groups, size, window, scale, shift, floor).load(weight, bias)
