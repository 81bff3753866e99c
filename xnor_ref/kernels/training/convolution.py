"""Convolutions for training, planned once for an image size: forward and both gradients, channels innermost.

`SignConvolution` is XNOR-Net's layer with the affine step of BatchNorm and the sign before it. `RealConvolution` is a
real convolution, and `GroupedConvolution` one with groups. They arrange the weights again at each call, since training
changes them, and keep no state between calls: forward returns what backward needs. Images are float32 (N, H, W, C).

Real convolutions of 3x3 and 5x5, and gradients of both kinds, use tiles (`winograd.py`) where that is faster.

Gradients are in float32, or (`Rounding`) in bytes. Then a gradient is divided by its largest value, rounded at random
so that the mean of many roundings is the number itself, and multiplied by the signs in exact integers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xnor_ref.kernels.basics.geometry import FEW_CHANNELS, Pair, Window
from xnor_ref.kernels.basics.memory import LINE, empty, zeros
from xnor_ref.kernels.basics.modes import Finish, KMode
from xnor_ref.kernels.basics.threads import check_threads, parallel_chunks
from xnor_ref.kernels.readable import plain
from xnor_ref.kernels.training import gradient_layout, winograd
from xnor_ref.kernels.training.gradients import CACHED_NUMBERS, InputGradient, RowsGradient, WeightGradient
from xnor_ref.kernels.vectors import nhwc, signs, simd
from xnor_ref.kernels.vectors.grouped import GroupedConv
from xnor_ref.kernels.vectors.simd import split

F32 = NDArray[np.float32]
Then = Callable[[F32, int, int], None]

CACHED = 1 << 23  # most bytes of a result that may still be cached when it is read
PIECE_PIXELS = 256  # pixels of a piece of images, enough to make reading the weights worthwhile
MAX_SUM = 2**31 // 254  # most pixels of a sum of bytes that always fits 32 bits
ONE = Window((1, 1))  # of a product of matrices
_NO_K = np.zeros((0, 0), np.float32)
_NO_OCTETS, _NO_REALS = np.zeros((0,) * 5, np.uint8), np.zeros((0,) * 5, np.float32)
_NONE = np.zeros(0, np.float32)


class Rounding(NamedTuple):
    """Gradients in bytes; `seed` decides the roundings.

    Where these images are part of a batch, the roundings are those that they would have in the whole of it.
    """

    seed: int
    first: int = 0  # which image of the batch is the first one here
    parts: int = 1  # as large as this one, in the batch
    largest: Callable[[F32], F32] = lambda top: top  # from the largest numbers (O,) here to those of the batch


def _is_long(y: F32) -> bool:
    """Whether a result (N, H, W, C) should bypass the caches, in whole lines."""
    return y.nbytes > CACHED and y.shape[3] * y.itemsize % LINE == 0


@dataclass
class Signs:
    """What a forward pass leaves for the backward pass: the signs of the input, K, and alpha."""

    bits: NDArray[np.uint32]  # (N, H, W + padding, words)
    k: F32 | None  # (N, OH * OW)
    weights: NDArray[np.uint32]  # (O, KH * KW, words)
    alpha: F32  # (O,)


class _Convolution:
    def __init__(self, shape: tuple[int, ...], size: Pair, window: Window):
        self.outputs, self.channels = shape[:2]
        self.image, self.result = size, window.count(size)
        if window == ONE:
            size = 1, size[0] * size[1]  # pixels do not meet, so one row of them does as well, and leaves fewer ends
        self.size, self.window, self.taps = size, window, window.kernel[0] * window.kernel[1]
        self._tiled = winograd.suits(shape, window, size)
        self._made: dict = {}  # gradients by arithmetic, as they are needed

    def _images_together(self, n: int) -> int:
        """Images of a piece of work: enough for the weights to be worth reading, few enough for the caches."""
        pixels = self.size[0] * self.size[1]
        return max(1, min(-(-n // 4), max(CACHED_NUMBERS // self.channels, PIECE_PIXELS) // pixels))

    def _in_rows(self, images: NDArray) -> NDArray:
        """Images, or gradients of results, as they are computed with."""
        return images.reshape(len(images), 1, -1, images.shape[3]) if self.size != self.image else images

    def _as_rows(self, array: NDArray, rows: bool) -> NDArray:
        """Images (N, 1, 1, C) as one image of N columns, where the sum over pixels runs over images."""
        return array.reshape(1, 1, len(array), -1) if rows else array

    def _run_input_gradient(
        self, gradient: Any, dy: Any, n: int, scale: float, threads: int, then: Then | None = None
    ) -> F32:
        """All images' gradients of the input, by `gradient`, of dy as that one takes it."""
        out = empty((n, *self.size, self.channels))

        def some(start: int, stop: int) -> None:
            gradient(dy, out, start, stop, scale)
            if then is not None:
                then(out, start, stop)

        parallel_chunks(some, n, self._images_together(n), threads)
        return out.reshape(n, *self.image, self.channels)

    def _gradient_of_weight(
        self,
        of_weight: Any,
        x: Any,
        dy: Any,
        n: int,
        weight: F32,
        alpha: F32,
        rule: Finish,
        dalpha: F32 | None,
        threads: int,
        scale: float = 1.0,
        offset: NDArray[np.int64] | None = None,
    ) -> F32:
        """That of the latent `weight`: the sums over pixels, less `offset` (O,), times `scale`, turned by `rule`.

        With `Finish.SPLIT`, that of alpha goes to `dalpha` (O,).

        `of_weight` makes the sums, of x and dy as it takes them.
        """
        flat = weight.reshape(self.outputs, -1)
        out = np.empty_like(flat)
        less = np.zeros(self.outputs, np.int64) if offset is None else offset
        of_alpha = np.empty(self.outputs, np.float32) if dalpha is None else dalpha

        def finish(first: int, sums: NDArray, threads: int = 1) -> None:
            integers, parts = sums.dtype == np.int32, (a[first:] for a in (less, flat, alpha))
            given = sums.view(np.float32), integers, scale, *parts, int(rule), self.channels
            arguments = *given, out[first:], of_alpha[first:]
            size = min(sums.shape[1], self.outputs - first)
            parallel_chunks(lambda a, b: gradient_layout.finish(a, b, *arguments), size, 64, threads)

        if isinstance(of_weight, WeightGradient) and of_weight.in_blocks:
            of_weight.each_block(x, dy, n, threads, finish)
        else:
            finish(0, of_weight(x, dy, n, threads), threads)
        return out.reshape(weight.shape)

    def _backward_by_tiles(
        self,
        dy: F32,
        k: F32 | None,
        x: winograd.Images,
        filters: F32,
        alpha: F32 | None,
        finish: tuple[F32, F32, Finish, F32 | None],
        need_input: bool,
        then: Then | None = None,
    ) -> tuple[F32, F32 | None]:
        """Both gradients from dY, times `k` if there is one; `filters` and `alpha` as in `winograd.Convolution.load`.

        `finish` is what turns that of the weight into that of the latent one: weight, alpha, rule, dalpha.
        """
        threads, n = check_threads(None), len(dy)
        if "tiles" not in self._made:
            kernel, padding = self.window.kernel[0], self.window.before[0]
            self._made["tiles"] = (
                winograd.WeightGradient(self.channels, self.outputs, self.size, kernel, padding),
                winograd.Convolution(self.outputs, self.channels, dy.shape[1:3], kernel, kernel - 1 - padding),
            )
        of_weight, of_input = self._made["tiles"]
        near, far = (winograd.Images.of(dy, dy.shape[2], around, k) for around in (0, of_input.padding))
        dw = self._gradient_of_weight(of_weight, x, near, n, *finish, threads)
        if not need_input:
            return dw, None
        of_input.load(filters, threads, back=True, alpha=alpha)
        return dw, self._run_input_gradient(of_input, far, n, 1.0, threads, then)


class SignConvolution(_Convolution):
    """Y = (sign(affine(X)) (*) sign(W)) alpha K, for weights (O, C, KH, KW) and images of one size.

    Parameters
    ----------
    shape : of the weights
    size : (H, W)
    pad_value : 0, +1 or -1
    input_scale : "off", "plain" or "valid"
    """

    def __init__(self, shape, size, window, pad_value: int, input_scale: str):
        super().__init__(shape, size, window)
        size, self.pad_value, self.input_scale = self.size, pad_value, input_scale
        words = -(-self.channels // 64)
        blank = np.zeros((self.outputs, *window.kernel, words), np.uint64)
        self._conv = simd.SignConv(blank, self.channels, size, window, pad_value)
        self._rows = window.covers(size) and self.channels % 32 == 0

    def forward(
        self,
        x: F32,
        weight: F32,
        alpha: F32 | None = None,
        affine: tuple[F32, F32] | None = None,
        k: F32 | None = None,
    ) -> tuple[F32, Signs]:
        """(Y (N, OH, OW, O), what `backward` needs).

        Parameters
        ----------
        alpha : (O,); by default the mean of |W| of each filter, found while the weights are packed
        affine : scale and shift before the sign, each (C,)
        k : (N, OH * OW), in the place of an `input_scale`
        """
        threads = check_threads(None)
        conv, x, n = self._conv, self._in_rows(x), len(x)
        out_h, out_w, outputs = conv.windows.out_h, conv.windows.out_w, self.outputs
        words, mean_abs = self._load(weight, threads)
        alpha = mean_abs if alpha is None else alpha
        bits = np.zeros((n, *conv.padded_shape), np.uint32)
        with_mean = self.input_scale != KMode.OFF
        mean = np.empty((n, self.size[0] * self.size[1] if with_mean else 0))
        scale, shift = (_NONE, _NONE) if affine is None else affine
        limit = np.zeros(0 if affine is None else self.channels, np.float32)
        split(threads, n * self.size[0], signs.pack_pixels, x, (1, 1), scale, shift, limit, bits, mean)
        if with_mean:
            k = np.empty((n, out_h * out_w), np.float32)
            place = self.window.numbers, self.input_scale == KMode.VALID, (out_h, out_w)
            split(threads, n, plain.box_means, mean, self.size, *place, k)
        y = empty((n, out_h, out_w, outputs))
        ones = np.ones((n, out_h * out_w), np.float32) if k is None else k
        conv.bind(simd.SCALED, bits, y, simd.padded(alpha), ones, stream=_is_long(y))(n, threads)
        return y.reshape(n, *self.result, outputs), Signs(bits, k, words, alpha)

    def _load(self, weight: F32, threads: int) -> tuple[NDArray[np.uint32], F32]:
        """Pack the weights: (signs, alpha)."""
        flat = weight.reshape(self.outputs, self.channels, -1)
        words = np.empty((self.outputs, flat.shape[2], self._conv.windows.words), np.uint32)
        alpha = np.empty(self.outputs, np.float32)
        split(threads, self.outputs, gradient_layout.pack_filters, flat, words, alpha)
        self._conv.reload(words)
        return words, alpha

    def backward(
        self,
        dy: F32,
        saved: Signs,
        weight: F32,
        rule: Finish,
        rounding: Rounding | None,
        need_input: bool,
        then: Then | None = None,
        dalpha: F32 | None = None,
    ) -> tuple[F32, F32 | None]:
        """(gradient of the latent weight by `rule`, gradient of sign(...)) from dY (N, OH, OW, O).

        With `Finish.SPLIT` the gradient of alpha goes to `dalpha` (O,).
        `then(dx, start, stop)` is called on the thread that has just computed these images of the second.
        """
        threads, dy = check_threads(None), self._in_rows(dy)
        n, out_h, out_w, _ = dy.shape
        k = _NO_K if saved.k is None else saved.k
        if rounding is not None and rounding.parts * n * out_h * out_w > MAX_SUM:
            rounding = None
        if rounding is None and self._tiled:
            x = winograd.Images.of_signs(saved.bits, self.size[1], self.window.before[0], self.pad_value)
            finish = weight, saved.alpha, rule, dalpha
            return self._backward_by_tiles(dy, saved.k, x, weight, saved.alpha, finish, need_input, then)
        of_weight, of_input = self._gradients(n, rounding is not None)
        images = 1 if self._rows else n
        planes = of_weight.planes(images)
        in_bytes = rounding is not None
        width = n if self._rows else self.size[1]
        targets = (planes, _NO_REALS) if in_bytes else (_NO_OCTETS, planes)
        split(
            threads,
            images,
            gradient_layout.expand_bits,
            *(self._as_rows(saved.bits, self._rows), width, of_weight.layout.top, of_weight.layout.left),
            *(self.pad_value, *targets),
        )
        panels = of_weight.panels(images)
        kind, unit = (np.uint8, 4) if in_bytes else (np.float32, 1)
        height, columns, words = of_input.padded_shape
        fill = need_input or in_bytes  # bytes are always laid out for both
        padded = empty((n, height, columns, words * unit) if fill else (0, 0, 0, 0), kind)
        rows = self._as_rows(dy, self._rows), k.reshape(1, -1) if self._rows and k.size else k
        target = self._as_rows(padded, self._rows and fill)
        scale_of_weight, scale_of_input = 1.0, 1.0
        totals = np.zeros((images, self.outputs), np.int64)
        if rounding is None:
            pack = *rows, of_input.left, target, panels.view(np.float32)
            split(threads, images, gradient_layout.pack_gradient, 0, images, *pack)
        else:
            top = np.empty((images, self.outputs), np.float32)
            split(threads, images, gradient_layout.largest, *rows, top.view(np.int32))
            by_channel = rounding.largest(top.max(axis=0))
            scale_of_weight, scale_of_input = _unit(by_channel), _unit(by_channel * np.abs(saved.alpha))
            factors = np.float32(1 / scale_of_input), np.float32(1 / scale_of_weight)
            origin = rounding.first * out_h * out_w * self.outputs
            rest = np.uint32(rounding.seed), origin, of_input.left, target, panels, totals
            split(threads, images, gradient_layout.quantize, *rows, saved.alpha, *factors, *rest)
        how = weight, saved.alpha, rule, dalpha, threads, scale_of_weight, totals.sum(axis=0)
        dw = self._gradient_of_weight(of_weight, planes, panels, images, *how)
        if not need_input:
            return dw, None
        of_input.load_signs(saved.weights, saved.alpha, threads)
        return dw, self._run_input_gradient(of_input, padded, n, scale_of_input, threads, then)

    def _gradients(self, n: int, in_bytes: bool) -> tuple[WeightGradient, InputGradient]:
        key = in_bytes, n if self._rows else 0
        if key not in self._made:
            place = self.size, self.window
            if self._rows:
                features = self.channels * self.taps
                of_weight = WeightGradient(features, self.outputs, (1, n), ONE, in_bytes, fold=self.channels)
            else:
                border = self.pad_value != 0
                of_weight = WeightGradient(self.channels, self.outputs, *place, in_bytes, border)
            of_input = InputGradient(self.channels, self.outputs, *place, in_bytes=in_bytes, single=self._rows)
            self._made[key] = of_weight, of_input
        return self._made[key]


def _unit(largest: F32) -> float:
    """What a step of a byte stands for where `largest` shall become 127, less what could be rounded up to 128.

    No less than what has a finite inverse; NaN and infinity stay.
    """
    return max(float(largest.max(initial=0.0)) / 126.999, 2.0**-126)  # in this order: NaN is not less


class GroupedConvolution:
    """A real convolution with few channels a group (`grouped.suits`), as `RealConvolution` is one without groups."""

    def __init__(self, shape, size, window, groups: int):
        place = shape, groups, size, window
        self._conv, self._back = GroupedConv(*place), GroupedConv(*place, back=True)

    def pad(self, x: F32) -> F32:
        """The images themselves."""
        return x

    def forward(self, x: F32, weight: F32, bias: F32 | None) -> F32:
        """Y (N, OH, OW, O) of images (N, H, W, C)."""
        y = empty((len(x), *self._conv.out_shape))
        self._conv.load(weight, bias).bind(x, y, _is_long(y))(len(x), check_threads(None))
        return y

    def backward(self, dy: F32, x: F32, weight: F32, need_input: bool, latent: F32) -> tuple[F32, F32 | None]:
        """(gradient of the weight, gradient of the images)."""
        threads = check_threads(None)
        dx = self.input_gradient(dy, weight, threads) if need_input else None
        return self.weight_gradient(x, dy, threads), dx

    def weight_gradient(self, x: F32, dy: F32, threads: int) -> F32:
        """The first half of `backward`."""
        return self._conv.weight_gradient(x, dy, threads)

    def input_gradient(self, dy: F32, weight: F32, threads: int) -> F32:
        """The second half."""
        dx = empty((len(dy), *self._back.out_shape))
        self._back.load(weight).bind(dy, dx, _is_long(dx))(len(dy), threads)
        return dx


class RealConvolution(_Convolution):
    """A real convolution with weights (O, C, KH, KW), for images of one size.

    With `chained` each output is one chain of multiply-adds, so that sums of integers below 2^24 are exact.
    """

    def __init__(self, shape, size, window, chained: bool = False):
        super().__init__(shape, size, window)
        size = self.size
        self._conv = simd.RealConv(np.zeros(shape, np.float32), size, window)
        self._rows = window.covers(size)
        self.in_tiles: winograd.Convolution | None = None
        if self._tiled and not chained:
            kernel, padding = window.kernel[0], window.before[0]
            self.in_tiles = winograd.Convolution(self.channels, self.outputs, size, kernel, padding)
        self._source, self._offsets = np.arange(self.outputs) * self.channels * self.taps, np.arange(self.taps)

    def pad(self, x: F32) -> F32:
        """Images (N, H, W, C) as `forward` and `backward` want them, with columns of zeros."""
        x = self._in_rows(x)
        if self.in_tiles or self._conv.padded_shape == x.shape[1:]:
            return x
        padded = zeros((len(x), *self._conv.padded_shape))
        split(check_threads(None), x.shape[0] * x.shape[1], nhwc.copy_inside, x, padded)
        return padded

    def forward(self, padded: F32, weight: F32, bias: F32 | None) -> F32:
        """Y (N, OH, OW, O) of images with their padding."""
        threads = check_threads(None)
        conv, n = self._conv, len(padded)
        y = empty((n, conv.windows.out_h, conv.windows.out_w, self.outputs))
        tiled = self.in_tiles
        if tiled:
            images = winograd.Images.of(padded, self.size[1], self.window.before[0])
            tiled.load(weight, threads)
            tiled.set_bias(np.float32(0) if bias is None else bias)
            some = self._images_together(n)
            parallel_chunks(lambda start, stop: tiled(images, y, start, stop), n, some, threads)
            return y
        arguments = weight.reshape(-1), self._source, self.channels, len(self._offsets), self._offsets
        panels = conv.panels.view(np.float32)
        split(threads, -(-self.outputs // simd.WIDE), gradient_layout.fill_real_panels, *arguments, panels)
        if bias is not None:
            conv.set_bias(bias)
        conv.bind(padded, y, stream=_is_long(y))(n, threads)
        return y.reshape(n, *self.result, self.outputs)

    def backward(
        self,
        dy: F32,
        padded: F32,
        weight: F32,
        need_input: bool,
        latent: F32,
        rule: Finish = Finish.RAW,
        alpha: F32 | None = None,
        dalpha: F32 | None = None,
    ) -> tuple[F32, F32 | None]:
        """(gradient of the weight, gradient of the images (N, H, W, C)).

        That of the weight is turned into the one of `latent` by `rule`, with `alpha` (O,) or none.
        """
        alpha = _NONE if alpha is None else alpha
        threads, dy, n = check_threads(None), self._in_rows(dy), len(dy)
        if self._tiled:
            x = winograd.Images.of(padded, self.size[1], self.window.before[0])
            return self._backward_by_tiles(dy, None, x, weight, None, (latent, alpha, rule, dalpha), need_input)
        images = 1 if self._rows else n
        of_weight, of_input = self._gradients(n)
        finish = latent, alpha, rule, dalpha, threads
        if need_input or isinstance(of_weight, WeightGradient):
            panels = of_weight.panels(images)
            target = empty((n, *of_input.padded_shape) if need_input else (0, 0, 0, 0))
            rows = self._rows and need_input
            pack = (
                *(self._as_rows(dy, self._rows), _NO_K, of_input.left),
                *(self._as_rows(target, rows), panels.view(np.float32)),
            )
            split(threads, images, gradient_layout.pack_gradient, 0, images, *pack)
        if isinstance(of_weight, RowsGradient):
            dw = self._gradient_of_weight(of_weight, padded, lambda start, stop: dy[start:stop], n, *finish)
        else:
            planes = of_weight.planes(images)
            width = n if self._rows else self.size[1]
            shown = self._as_rows(padded, self._rows)
            split(threads, images, gradient_layout.to_planes, shown, width, of_weight.layout.left, planes)
            dw = self._gradient_of_weight(of_weight, planes, panels, images, *finish)
        if not need_input:
            return dw, None
        of_input.load_reals(weight, threads)
        return dw, self._run_input_gradient(of_input, target, n, 1.0, threads)

    def backward_by_parts(self, dy_of: Callable[[int, int], F32], padded: F32, weight: F32) -> F32:
        """The gradient of the weight for images of at most FEW_CHANNELS channels and results of several pixels.

        dY comes some images at a time, from `dy_of(start, stop)` on any thread.
        """
        threads, n = check_threads(None), len(padded)
        return self._gradient_of_weight(
            self._gradients(n)[0], padded, dy_of, n, weight, _NONE, Finish.RAW, None, threads
        )

    def _gradients(self, n: int) -> tuple[WeightGradient | RowsGradient, InputGradient]:
        key = n if self._rows else 0
        if key not in self._made:
            place = self.size, self.window
            of_weight: WeightGradient | RowsGradient
            if self._rows:
                features = self.channels * self.taps
                of_weight = WeightGradient(features, self.outputs, (1, n), ONE, fold=self.channels)
            elif self.channels <= FEW_CHANNELS and self.window.dilation[1] == 1:
                of_weight = RowsGradient(self.channels, self.outputs, *place)
            else:
                of_weight = WeightGradient(self.channels, self.outputs, *place)
            of_input = InputGradient(self.channels, self.outputs, *place, single=self._rows)
            self._made[key] = of_weight, of_input
        return self._made[key]
