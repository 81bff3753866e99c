"""Planned layers with k-bit weights and inputs: `bit_planes.conv2d_planes` and the scales, channels innermost."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from xnor_ref.kernels.basics.geometry import Pair, Window
from xnor_ref.kernels.basics.modes import KMode
from xnor_ref.kernels.ops.bit_planes import Levels, Words
from xnor_ref.kernels.ops.planned import Workspace
from xnor_ref.kernels.vectors import simd

F32 = NDArray[np.float32]
Run = Callable[[int, int], None]  # (number of images, threads)


class PlannedPlanes:
    """A convolution of few-bit integers with fixed weights, for images of one size: (Z * alpha) * K.

    Parameters
    ----------
    words : uint64 (O, KH, KW, n_words(C/groups)) for each plane of the weights, lowest first
    channels : C
    size : (H, W)
    window, pad_value, groups : as in `binary_conv2d`
    inputs : the levels to which x is rounded
    alpha : float32 (O,)
    input_scale : {"off", "plain", "valid"}
    """

    def __init__(
        self, words: list[Words], channels: int, size: Pair, window: Window, pad_value: int, groups: int,
        inputs: Levels, alpha: F32, input_scale: str,
    ) -> None:  # fmt: skip
        self._convs = [simd.SignConv(plane, channels, size, window, pad_value, groups=groups) for plane in words]
        self._inputs, self._alpha, self._input_scale = inputs, alpha, input_scale

    def bind(self, x: F32, out: F32) -> Run:
        """Return a function of (n, threads) that computes images x (N, H, W, C) into `out` (N, OH, OW, O)."""
        conv, batch = self._convs[0], len(x)
        height, width, words = conv.padded_shape
        bits = np.zeros((batch, height, width, words), np.uint32)
        left = conv.windows.window.margin
        octets = bits.view(np.uint8)[:, :, left : left + x.shape[2], : -(-x.shape[3] // 8)]
        parts = np.empty((len(self._convs), batch, *conv.out_shape), np.int32)
        convolve = [one.bind(simd.INTEGERS, bits, z) for one, z in zip(self._convs, parts, strict=True)]
        scale = None if self._input_scale == KMode.OFF else Workspace(conv, None, self._input_scale, batch)
        by_group = out.reshape(*out.shape[:3], conv.groups, -1)

        def run(n: int, threads: int) -> None:
            total = np.zeros((n, *conv.out_shape), np.int32)
            for a, plane in enumerate(self._inputs.planes(self._inputs.of(x[:n]))):
                octets[:n] = np.packbits(plane, axis=-1, bitorder="little")
                for b, one in enumerate(convolve):
                    one(n, threads)
                    total += parts[b, :n] << (b if self._inputs.ternary else a + b)
            np.copyto(out[:n], total >> 1 if self._inputs.ternary else total, casting="unsafe")
            out[:n] *= self._alpha
            if scale is not None:
                scale.pack_pixels(x[:n], threads)
                scale.scale(n, threads)
                k = scale.k.reshape(batch, conv.groups, *out.shape[1:3])[:n]
                by_group[:n] *= np.moveaxis(k, 1, -1)[..., None]

        return run
