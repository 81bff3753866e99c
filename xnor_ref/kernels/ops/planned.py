"""Binary layers that are planned once and then run without allocating: float32 in, (Z * alpha) * K out.

A planned layer owns one set of workspaces, so it serves one call at a time. A `copy` for another thread shares only the
rearranged weights.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError, InputTypeError, check_integer
from xnor_ref.kernels.basics.checks import check_array, check_conv, check_pair
from xnor_ref.kernels.basics.geometry import Padding, Pair
from xnor_ref.kernels.basics.layout import PARTIAL_SUMS, pack_mask
from xnor_ref.kernels.basics.memory import check_memory
from xnor_ref.kernels.basics.modes import KMode
from xnor_ref.kernels.basics.threads import check_threads
from xnor_ref.kernels.microkernels import pack
from xnor_ref.kernels.ops import binary_ops, float_ops
from xnor_ref.kernels.readable import plain
from xnor_ref.kernels.vectors import nhwc, signs, simd
from xnor_ref.steady import steady

F32 = NDArray[np.float32]
LAYOUTS = ("NHWC", "NCHW")
_NONE, _NO_MEAN = np.zeros(0, np.float32), np.zeros((0, 0))


def _check_batch(caller: str, batch: Any, image_bytes: int) -> None:
    check_memory(caller, check_integer(f"{caller}: batch", batch, 1) * image_bytes, f"(batch {batch})")


def _check_buffer(name: str, array: Any, shape: tuple[int, ...], images: int, exact: bool = False) -> None:
    wanted = f"C-contiguous float32 ({images if exact else f'1 to {images}'}, {', '.join(map(str, shape))})"
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        raise InputTypeError(f"PlannedConv2d: {name} must be {wanted}, got {getattr(array, 'dtype', type(array))}")
    fits = array.shape[1:] == shape and 1 <= len(array) <= images and (not exact or len(array) == images)
    if not fits or not array.flags.c_contiguous:
        raise InputError(f"PlannedConv2d: {name} must be {wanted}, got {array.shape} with strides {array.strides}")


class Workspace:
    """The buffers of one binary layer, and the steps that fill them.

    Parameters
    ----------
    conv : SignConv
    alpha : float32 (O,) or None
    input_scale : {"off", "plain", "valid"}
    batch : most images per call
    affine : (scale, shift, limit), each float32 (C,), for `signs.pack_pixels`; None: only signs
    step : `pack_pixels` reads every step-th row and column of its input

    With groups, A and K have one row per image and group.
    """

    def __init__(
        self,
        conv: simd.SignConv,
        alpha: F32 | None,
        input_scale: str,
        batch: int,
        affine: Any = None,
        step: Pair = (1, 1),
    ):
        self._step = step
        windows = conv.windows
        self.conv, self.input_scale, self.batch = conv, input_scale, batch
        pixels, outputs = windows.size[0] * windows.size[1], windows.out_h * windows.out_w
        self.bits = np.zeros((batch, *conv.padded_shape), np.uint32)
        rows = batch if input_scale == KMode.OFF else batch * conv.groups
        self.mean = np.empty((rows, pixels if input_scale != KMode.OFF else 0))
        self.k = np.ones((rows, outputs), np.float32)
        self.alpha = simd.padded(np.ones(windows.outputs, np.float32) if alpha is None else alpha)
        self._alpha = alpha
        self._affine = (_NONE, _NONE, _NONE) if affine is None else affine
        self._by_words = conv.groups == 1 or conv.channels % pack.WORD_SIGNS == 0  # each group has its own words
        valid, out_size = input_scale == KMode.VALID, (windows.out_h, windows.out_w)
        self._place = windows.size, windows.window.numbers, valid, out_size

    def pack_pixels(self, x: F32, threads: int) -> None:
        """Pack the bits of x (N, H, W, C), and compute A if the layer has K."""
        threads, n_rows = simd.worth(threads, 200 * x.size), len(x) * self.bits.shape[1]
        mean = self.mean if self._by_words else _NO_MEAN
        simd.split(threads, n_rows, signs.pack_pixels, x, self._step, *self._affine, self.bits, mean)
        if self.input_scale == KMode.OFF or self._by_words:
            return
        (down, right), (scale, shift, _) = self._step, self._affine
        x = x[:, ::down, ::right]
        planes = np.ascontiguousarray(np.moveaxis(x if scale.size == 0 else x * scale + shift, 3, 1))
        rows = len(x) * self.conv.groups
        simd.split(threads, rows, plain.channel_means, planes.reshape(rows, self.conv.channels, -1), self.mean)

    def pack_planes(self, x: F32, threads: int) -> None:
        """Pack the bits of x (N, C, H, W), and compute A if the layer has K."""
        n, channels, height, width = x.shape
        threads = simd.worth(threads, 200 * x.size)
        if channels % PARTIAL_SUMS or height * width < pack.PLANE_PIXELS or self.conv.groups > 1:
            turned = np.empty((n, height, width, channels), np.float32)
            simd.split(threads, n * height, nhwc.from_planes, x.reshape(n, channels, -1), width, turned)
            self.pack_pixels(turned, threads)
        else:
            n_groups = -(-height * width // pack.PLANE_PIXELS)
            planes = x.reshape(n, channels, -1)
            simd.split(threads, n * n_groups, signs.pack_planes, planes, width, n_groups, self.bits, self.mean)

    def scale(self, n: int, threads: int) -> None:
        """Compute K of the packed images from their A."""
        if self.input_scale == KMode.OFF:
            return
        threads = simd.worth(threads, 1000 * n * self.k.shape[1])
        simd.split(threads, n * self.conv.groups, plain.box_means, self.mean, *self._place, self.k)

    @property
    def thresholds(self) -> tuple[F32, F32]:
        """Return (direction, limit). The bit of channel c is direction[c] * x >= limit[c]."""
        return self._affine[0], self._affine[2]

    def integer_limits(
        self, direction: F32, limit: F32, floor: float = -np.inf
    ) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
        """Return the next layer's thresholds, on the integers Z: bit = (Z >= limit) xor flip.

        max(float32(Z) * alpha, floor) grows with Z, so bisection finds the first Z past a threshold exactly.
        """
        outputs = len(direction)
        bound = self.conv.n_bits + 1
        low, high = np.full(outputs, -bound), np.full(outputs, bound)  # below and past the change
        alpha = np.float32(1) if self._alpha is None else self._alpha
        flipped = direction < 0
        with np.errstate(over="ignore"):
            while (high - low > 1).any():
                middle = (low + high) // 2
                value = np.maximum(middle.astype(np.float32) * alpha, np.float32(floor))
                past = (direction * value >= limit) != flipped
                high, low = np.where(past, middle, high), np.where(past, low, middle)
        flip = np.zeros(simd.padded_outputs(outputs) // simd.WORD_SIGNS + 1, np.uint32)
        words = pack_mask(flipped, 0).view(np.uint32)[: len(flip)]
        flip[: len(words)] = words
        return simd.padded(high.astype(np.int32), np.iinfo(np.int32).max), flip

    def bind(self, out: F32, planes: bool = False) -> Any:
        """Return a function of (n, threads) that writes the scaled convolution of the packed images to `out`."""
        groups = self.conv.groups
        if self.input_scale == KMode.OFF or self.conv.k_rows == groups:
            return self.conv.bind(simd.SCALED, self.bits, out, self.alpha, self.k, planes=planes)
        height, width, outputs = self.conv.out_shape
        ones = np.ones((self.batch, height * width), np.float32)
        convolve = self.conv.bind(simd.SCALED, self.bits, out, self.alpha, ones, planes=planes)
        y = out if planes else np.moveaxis(out.reshape(-1, height, width, outputs), 3, 1)
        k = self.k.reshape(-1, groups, height, width)

        def run(n: int, threads: int) -> None:
            convolve(n, threads)
            float_ops.times_input_scale(y[:n], k[:n])

        return run


class _Planned:
    """The common part of a planned convolution and a planned linear layer."""

    def __init__(self, work: Workspace, shape: tuple[int, ...], planes: bool = False, rows: bool = False) -> None:
        self._work, self._shape, self._planes, self._rows = work, shape, planes, rows
        self._counts: NDArray[np.int32] | None = None
        self._bound: tuple[Any, Any] = (None, None)
        self._n = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the bound buffers. A copy, or another process, binds its own."""
        return {**vars(self), "_bound": (None, None), "_counts": None, "_count": None}

    @property
    def macs(self) -> int:
        """Binary multiply-accumulates of one image, including those on padding."""
        return math.prod(self._work.conv.out_shape) * self._work.conv.n_bits

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The shape of one image's result."""
        height, width, outputs = self._work.conv.out_shape
        if self._rows:
            return (outputs,)
        return (outputs, height, width) if self._planes else (height, width, outputs)

    @steady
    def run(self, x: F32, out: F32 | None = None, threads: int | None = None) -> F32:
        """Compute the layer.

        Parameters
        ----------
        x : float32 (n, H, W, C), (n, C, H, W) or (n, I), C-contiguous, n <= batch
        out : float32 array of the result's shape, C-contiguous, optional
            Filled and returned. Then nothing is allocated.
        threads : int, optional

        Raises
        ------
        InputTypeError, InputError
            x or out has a wrong shape, dtype or layout, or x holds NaN or infinity.
        """
        threads = check_threads(threads, "planned layer")
        self.pack(x, threads)
        if out is None:
            out = np.empty((len(x), *self.out_shape), np.float32)
        self.scale(threads)
        k = self._work.k[: len(x) * self._work.conv.groups]
        if not math.isfinite(np.abs(x).max() if self._work.input_scale == KMode.OFF else k.max()):
            raise InputError("planned layer: x holds NaN or infinity, or values whose mean overflows float32")
        self.convolve(out, threads)
        return out

    @steady
    def pack(self, x: F32, threads: int | None = None) -> None:
        """Do the first part of `run`: pack the signs of x, and compute A."""
        _check_buffer("x", x, self._shape, self._work.batch)
        threads = check_threads(threads, "planned layer")
        if self._planes:
            self._work.pack_planes(x, threads)
        else:
            self._work.pack_pixels(x.reshape(len(x), 1, 1, -1) if self._rows else x, threads)
        self._n = len(x)

    @steady
    def scale(self, threads: int | None = None) -> None:
        """Do the second part of `run`: compute K from A."""
        self._work.scale(self._n, check_threads(threads, "planned layer"))

    @steady
    def convolve(self, out: F32, threads: int | None = None) -> None:
        """Do the third part of `run`: count the differing bits, and scale."""
        if self._bound[0] is not out:
            _check_buffer("out", out, self.out_shape, self._n, exact=True)
            self._bound = out, self._work.bind(out, self._planes)
        elif len(out) != self._n:
            raise InputError(f"planned layer: out has {len(out)} images, but x had {self._n}")
        self._bound[1](self._n, check_threads(threads, "planned layer"))

    def count(self, threads: int | None = None) -> NDArray[np.int32]:
        """Run only the kernel.

        Return the integers Z of the packed images, in a buffer that the next call overwrites.
        """
        if self._counts is None:
            self._counts = np.empty((self._work.batch, *self.out_shape), np.int32)
            self._count = self._work.conv.bind(simd.INTEGERS, self._work.bits, self._counts, planes=self._planes)
        self._count(self._n, check_threads(threads, "planned layer"))
        return self._counts[: self._n]


class PlannedConv2d(_Planned):
    """`xnor_conv2d` with fixed weights, for images of one size. What does not depend on x is computed once, here.

    Parameters
    ----------
    weight : float32 (O, C/groups, KH, KW)
    size : (H, W) of the images
    stride, padding, pad_value, dilation, groups
    input_scale : {"plain", "valid", "off"}
        As in `xnor_conv2d`. The results are equal, bit for bit.
    layout : {"NHWC", "NCHW"}
        Layout of the images and of the result.
    batch : int
        Most images per call.

    Raises
    ------
    InputTypeError, InputError
        As for `xnor_conv2d`, or the processor lacks the vectors of the "simd" backend.

    Notes
    -----
    `PlannedConv2d(weight, size=(6, 6), padding=1).run(x)` equals `xnor_conv2d(x, weight, padding=1)`, apart from the
    order of the axes.
    """

    def __init__(
        self,
        weight: F32,
        size: Pair,
        stride: int | Pair = 1,
        padding: Padding = 0,
        pad_value: int = 0,
        input_scale: str = "plain",
        layout: str = "NHWC",
        batch: int = 1,
        *,
        dilation: int | Pair = 1,
        groups: int = 1,
    ) -> None:
        caller = "PlannedConv2d"
        if layout not in LAYOUTS:
            raise InputError(f"{caller}: layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
        check_array(caller, "weight", weight, "(O, C, KH, KW)")
        height, width = check_pair(caller, "size", size, 1)
        channels = weight.shape[1] * check_integer(f"{caller}: groups", groups, 1)
        example = np.zeros((1, channels, height, width), np.float32)
        place = stride, padding, pad_value, dilation, groups
        _, weight, window = check_conv(caller, example, weight, *place, input_scale, "simd", None)
        words = binary_ops.pack_weight(weight)
        if not simd.table_fits(len(words), (height, width), window):
            raise InputError(
                f"{caller}: padding {window.brief_padding} gives too many cases of clipped windows to plan"
                "; use xnor_conv2d"
            )
        conv = simd.SignConv(words, channels, (height, width), window, pad_value, groups=groups)
        _check_batch(caller, batch, 4 * (channels * height * width // 16 + 3 * sum(conv.out_shape)))
        work = Workspace(conv, binary_ops.weight_scale(weight), input_scale, batch)
        planes = layout == "NCHW"
        super().__init__(work, (channels, height, width) if planes else (height, width, channels), planes)


class PlannedLinear(_Planned):
    """A fully connected XNOR layer with fixed weights: (Z * alpha) * K, from x (N, I) to (N, O).

    Parameters
    ----------
    weight : float32 (O, I)
    input_scale : {"plain", "off"}
        K is the mean |x| of each row.
    batch : int
        Most rows per call.

    Raises
    ------
    InputTypeError, InputError
        As for `PlannedConv2d`.
    """

    def __init__(self, weight: F32, input_scale: str = "plain", batch: int = 1) -> None:
        caller = "PlannedLinear"
        check_array(caller, "weight", weight, "(O, I)")
        features = weight.shape[1]
        example = np.zeros((1, features, 1, 1), np.float32)
        if input_scale not in (KMode.PLAIN, KMode.OFF):
            raise InputError(f"{caller}: input_scale must be plain or off, got {input_scale!r}")
        place = 1, 0, 0, 1, 1
        _, kernel, window = check_conv(caller, example, weight[:, :, None, None], *place, input_scale, "simd", None)
        conv = simd.SignConv(binary_ops.pack_weight(kernel), features, (1, 1), window)
        _check_batch(caller, batch, 4 * (features // 16 + 3 * len(weight)))
        super().__init__(Workspace(conv, binary_ops.weight_scale(weight), input_scale, batch), (features,), rows=True)
