"""Faults planted on purpose: each must be caught by the properties within their default number of examples.

`Planted` is a small NumPy implementation of the kernels with one fault switched on; without a fault it passes. The
properties that drive it are those of `python cli.py verify`. What any binary convolution can get wrong is planted in
tests/conformance, for the kit; here is what only these kernels have, and what the kit would call a convention.
"""

from dataclasses import replace

import numpy as np
import pytest

from xnor_ref.kernels.basics import layout
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.ops import binary_ops
from xnor_ref.verify import DEFAULT_EXAMPLES, kernels
from xnor_ref.verify.runner import run_property

PROPERTIES = {prop.name: prop for prop in kernels.PROPERTIES}
SEED = 1603


class Planted:
    def __init__(self, fault=None):
        self.fault = fault

    # --- words

    def native(self, x):
        if self.fault == "byte order ignored" and not x.dtype.isnative:
            x = x.view(x.dtype.newbyteorder())
        if self.fault == "memory order taken for the logical order":
            x = x.ravel(order="K").reshape(x.shape)
        return np.ascontiguousarray(x, x.dtype.newbyteorder("="))

    def positive(self, x):
        if self.fault == "sign(0) is -1":
            return x > 0
        if self.fault == "sign(-0.0) is -1":
            return ~np.signbit(x)
        if self.fault == "subnormals flushed to zero" and x.dtype.kind == "f":
            x = np.where(np.abs(x) < np.finfo(x.dtype).tiny, 0, x)
        return x >= 0

    def pack_bits(self, x, axis=-1):
        rows = np.moveaxis(self.positive(self.native(x)), axis, -1)
        tail = -rows.shape[-1] % 64
        fill = 1 if self.fault == "tail bits packed as 1" else 0
        rows = np.concatenate([rows, np.full((*rows.shape[:-1], tail), fill, bool)], axis=-1)
        order = "big" if self.fault == "most significant bit first" else "little"
        words = np.packbits(np.ascontiguousarray(rows), axis=-1, bitorder=order).view(np.uint64)
        return np.ascontiguousarray(np.moveaxis(words, -1, axis))

    def differing(self, a, b, n_bits):
        """Bits in which a (..., words) and b (..., words) differ, tail excluded: integers (...)."""
        differ = a ^ b
        used = n_bits % 64
        if self.fault == "tail mask zero at multiples of 64":
            differ[..., -1] &= np.uint64((1 << used) - 1)
        elif self.fault == "words of the tail dropped":
            if used:
                differ[..., -1] = 0
        elif used and self.fault != "tail bits counted":
            differ[..., -1] &= np.uint64((1 << used) - 1)
        counts = np.bitwise_count(differ)
        if self.fault == "sums of 8 bits":
            return counts.sum(axis=-1, dtype=np.uint8).astype(np.int64)
        return counts.sum(axis=-1, dtype=np.int64)

    def length(self, n_bits):
        return -(-n_bits // 64) * 64 if self.fault == "n_bits rounded up to 64" else n_bits

    # --- convolution

    def binary_conv2d(
        self, x, weight, stride=1, padding=0, pad_value=0, backend="auto", threads=None, *, dilation=1, groups=1
    ):
        x, weight = self.native(x), self.native(weight)
        words = [np.ascontiguousarray(np.moveaxis(self.pack_bits(a, 1), 1, -1)) for a in (x, weight)]
        window = Window.of(weight.shape[2:], stride, padding, dilation)
        return self.conv2d_bits(*words, x.shape[1], window, pad_value, backend, threads, groups)

    def conv2d_bits(self, x, weight, channels, window, pad_value, backend="auto", threads=None, groups=1):
        if groups > 1:
            rest = channels // groups, window, pad_value, backend, threads
            own = channels // groups
            signs = layout.unpack_bits(x, channels)
            seen = [layout.pack_bits(signs[..., g * own : (g + 1) * own]) for g in range(groups)]
            parts = [self.conv2d_bits(*both, *rest) for both in zip(seen, np.split(weight, groups))]
            return np.concatenate(parts, axis=1)
        stride, padding, dilation = window.stride, window.before, window.dilation
        (n, height, width, _), (out_channels, kh, kw, _) = x.shape, weight.shape
        out_h, out_w = window.count((height, width))
        total = np.zeros((n, out_channels, out_h, out_w), np.int64)
        zero = np.zeros_like(weight[0, 0, 0])
        n_bits = self.length(channels)
        for ky in range(kh):
            for kx in range(kw):
                w = weight[:, ky, kx]  # (O, words)
                iy = np.arange(out_h) * stride[0] - padding[0] + ky * dilation[0]
                ix = np.arange(out_w) * stride[1] - padding[1] + kx * dilation[1]
                inside = ((iy >= 0) & (iy < height))[:, None] & ((ix >= 0) & (ix < width))
                pixels = x[:, np.clip(iy, 0, height - 1)[:, None], np.clip(ix, 0, width - 1)]  # (N, OH, OW, words)
                differ = self.differing(pixels[:, None], w[:, None, None], channels)  # (N, O, OH, OW)
                border = pad_value * (n_bits - 2 * self.differing(~zero, w, channels))[:, None, None]
                total += np.where(inside, n_bits - 2 * differ, border)
        if self.fault == "last image lost by the third thread" and threads == 3:
            total[-1] = 0
        return total.astype(np.int16 if self.fault == "16-bit sums" else np.int32).astype(np.int32)

    # --- matrix product

    def binary_linear(self, x, weight, backend="auto", threads=None):
        x, weight = self.native(x), self.native(weight)
        return self.gemm_bits(self.pack_bits(x), self.pack_bits(weight), x.shape[1], backend, threads)

    def gemm_bits(self, x, weight, n_bits, backend="auto", threads=None):
        return (self.length(n_bits) - 2 * self.differing(x[:, None], weight, n_bits)).astype(np.int32)

    # --- thresholds and scales

    def threshold_pack(self, x, threshold, flip, backend="auto", threads=None):
        limit = threshold[:, None, None]
        bits = np.where(flip[:, None, None], x <= limit, x >= limit)
        if self.fault == "threshold exclusive where flipped":
            bits = np.where(flip[:, None, None], x < limit, x >= limit)
        if self.fault == "flip negates the whole comparison":
            bits = (x >= limit) ^ flip[:, None, None]
        return binary_ops.sign_pack(np.where(bits, np.float32(1), np.float32(-1)))

    def xnor_conv2d(self, x, weight, input_scale="plain", **options):
        if self.fault == "K of valid taps in plain mode" and input_scale == "plain":
            input_scale = "valid"
        if self.fault == "K left out":
            input_scale = "off"
        if self.fault == "mean of x instead of |x|":
            y = binary_ops.xnor_conv2d(x, weight, input_scale=input_scale, **options)
            return -y if x.mean() < 0 and input_scale != "off" else y
        y = binary_ops.xnor_conv2d(x, weight, input_scale=input_scale, **options)
        if self.fault == "one alpha for all filters":
            alpha = binary_ops.weight_scale(np.ascontiguousarray(weight, np.float32))
            y = y / np.maximum(alpha, np.float32(1e-45))[:, None, None] * alpha.mean()
        return y

    def input_scale_map(self, x, window, mode, backend="auto", threads=None, groups=1):
        if self.fault == "K summed in float32 by one rung" and backend == "numba" and groups == 1:
            mean = np.abs(x).mean(axis=1, keepdims=True, dtype=np.float32)
            return binary_ops.input_scale_map(mean, window, mode, backend)
        if self.fault == "one K for all groups" and backend == "numba":
            return np.repeat(binary_ops.input_scale_map(x, window, mode, backend), groups, axis=1)
        return binary_ops.input_scale_map(x, window, mode, backend, groups=groups)

    def implementation(self):
        names = (name for name in vars(Planted) if name in kernels.Implementation.__dataclass_fields__)
        return replace(kernels.Implementation(), **{name: getattr(self, name) for name in names})


CAUGHT_BY = {
    "binary_conv2d equals its definition in float64": (
        "sign(0) is -1",
        "sign(-0.0) is -1",
        "subnormals flushed to zero",
        "byte order ignored",
        "memory order taken for the logical order",
        "last image lost by the third thread",
    ),
    "binary_conv2d equals it for the longest sums": ("16-bit sums", "sums of 8 bits"),
    "conv2d_bits ignores tail bits": ("tail bits counted",),
    "gemm_bits ignores tail bits": (
        "tail bits counted",
        "n_bits rounded up to 64",
        "tail mask zero at multiples of 64",
        "words of the tail dropped",
    ),
    "packing is exact for any dtype, axis and tail bits": (
        "most significant bit first",
        "tail bits packed as 1",
        "sign(0) is -1",
        "sign(-0.0) is -1",
    ),
    "pack_bits equals its definition in float64": ("most significant bit first", "tail bits packed as 1"),
    "threshold_pack and sign_pack follow their definition at ties": (
        "threshold exclusive where flipped",
        "flip negates the whole comparison",
    ),
    "xnor_conv2d with alpha K equals its definition in float64": (
        "K of valid taps in plain mode",
        "K left out",
        "mean of x instead of |x|",
        "one alpha for all filters",
    ),
    "all rungs compute the same bits of K, within one rounding": (
        "K summed in float32 by one rung",
        "one K for all groups",
    ),
}


@pytest.mark.parametrize(("prop", "fault"), [(prop, fault) for prop in CAUGHT_BY for fault in CAUGHT_BY[prop]])
def test_fault_is_caught(prop, fault):
    result = run_property(PROPERTIES[prop], Planted(fault).implementation(), DEFAULT_EXAMPLES, SEED, shrink=False)
    assert not result.passed, f"{fault}: passed {result.examples} examples"


@pytest.mark.parametrize("name", [*CAUGHT_BY, "binary_linear equals its definition in float64"])
def test_without_a_fault_all_properties_hold(name):
    result = run_property(PROPERTIES[name], Planted().implementation(), 30, SEED)
    assert result.passed, f"{result.failure}\nsmallest example: {result.example}"
