"""Small NumPy implementations to test the kit with: correct ones of every convention, and ones with one fault each.

None shares code with the kit. `Fake(sign_of_zero=-1, ...)` is correct; `Fake("strides swapped")` is not. Faults that
students look for lie in the programs of `xnor_ref/check/bugs.py`.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from xnor_ref.check.bugs import BUGS, Bug
from xnor_ref.check.course import exercise_of

F32 = np.float32
QUIET = np.errstate(over="ignore", invalid="ignore")  # the largest numbers overflow in some, as in any


@dataclass
class Fake:
    """Functions of every role. Conventions have the names and values of `xnor_ref.conformance`."""

    fault: str = ""
    sign_of_zero: Any = 1
    weight_sign_of_zero: Any = 1
    subnormals: str = "kept"
    pad_value: Any = None  # None: as asked
    kernel: str = "correlation"
    form: str = "dot"
    scale: str = "none"
    centring: str = "none"
    layout: str = "NCHW OIHW"
    transposed: bool = False
    bit_order: str = "least first"
    polarity: int = 1
    word_size: int = 64
    rows: str = "padded"
    tail: Any = 0
    values: str = "+1, -1"
    summation: str = "once"
    gradient: str = "|x| <= 1"
    divisor: str = "plain"
    kept: dict = field(default_factory=dict)  # what a faulty one remembers

    # --- signs

    @QUIET
    def signs(self, x, zero=None, algorithm="conv"):
        x = x.astype(x.dtype.newbyteorder("=")) if self.fault != "byte order ignored" else x.view(x.dtype.str[1:])
        zero = self.sign_of_zero if zero is None else zero
        if self.fault == "memory order taken for the logical order":
            x = x.ravel(order="K").reshape(x.shape)
        if self.subnormals == "flushed":
            x = np.where(np.abs(x) < F32(1.1754944e-38), x * F32(0), x)
        s = np.where(np.signbit(x), -1.0, 1.0)
        if self.fault == "-0 differs between algorithms" and algorithm == "pixels":
            return s
        return np.where(x == 0, s if zero == "sign bit" else zero, s)

    @QUIET
    def weight_signs(self, w):
        if self.centring == "filter":
            w = w - w.mean(axis=tuple(range(1, w.ndim)), keepdims=True, dtype=np.float64)
        if self.centring == "channels":
            w = w - w.mean(axis=1, keepdims=True, dtype=np.float64)
        return self.signs(w.astype(F32), self.weight_sign_of_zero), w

    # --- sums of products of signs, as a packed kernel adds them

    def dots(self, a, b):
        """(..., C) and (O, C) to (..., O)."""
        z = a @ b.T
        n = a.shape[-1]
        odd = n % 64
        packed = self.fault
        if packed == "tail bits counted" and odd:
            z = z - 2 * (64 - odd)
        elif packed == "tail mask zero at multiples of 64":
            if not odd:
                whole = n - 64
                z = a[..., :whole] @ b[:, :whole].T + 64
        elif packed == "tails counted where the length is no multiple of 32" and n % 32:
            z = z - (32 - n % 32)
        elif packed == "packed for one vector width, read for another":
            order = np.arange(n).reshape(-1, 4) if n % 4 == 0 and n >= 256 else None
            if order is not None:
                z = a @ b[:, order.T.ravel()].T
        elif packed == "sums of 8 bits":
            z = n - 2 * (((n - z) / 2) % 256)
        elif packed == "counters of 16 bits":
            z = n - 2 * (((n - z) / 2) % 65536)
        return z

    # --- convolution

    def conv2d(self, x, weight, stride, padding, pad_value, dilation=(1, 1), groups=1, **options):
        fault = self.fault
        if fault == "changes its input" and x.flags.writeable:
            x[...] = np.sign(x)
        of_x, of_w = self.layout.split()
        if of_x == "NHWC":
            x = x.transpose(0, 3, 1, 2)
        weight = weight.transpose({"HWIO": (3, 2, 0, 1), "OHWI": (0, 3, 1, 2)}.get(of_w, (0, 1, 2, 3)))
        if groups > 1:
            seen = [x[:, g::groups] for g in range(groups)] if fault == "groups of every so many channels" else None
            seen = seen or np.split(x, groups, axis=1)
            if fault == "the last group sees the channels of the first":
                seen[-1] = seen[0]
            parts = zip(seen, np.split(weight, groups))
            place = stride, padding, pad_value, dilation, weight
            out = np.concatenate([self.conv(*part, *place) for part in parts], axis=1)
        else:
            out = self.conv(x, weight, stride, padding, pad_value, dilation, weight)
        if fault == "adds to what the last call gave":
            before = self.kept.get(out.shape, 0)
            self.kept[out.shape] = out.copy()
            out = out + before * (self.kept.setdefault("calls", 0) > 1)
            self.kept["calls"] += 1
        if fault == "one buffer for all results":
            buffer = self.kept.setdefault(out.shape, np.empty_like(out))
            buffer[...] = out
            out = buffer
        return np.ascontiguousarray(out.transpose(0, 2, 3, 1)) if of_x == "NHWC" else out

    def conv(self, x, weight, stride, padding, pad_value, dilation, of_all):
        fault = self.fault
        (n, channels, height, width), (outputs, _, kh, kw) = x.shape, weight.shape
        spans = [d * (k - 1) + 1 for d, k in zip(dilation, (kh, kw))]
        if padding == "same":
            total = [max(0, (-(-m // s) - 1) * s + span - m) for m, s, span in zip((height, width), stride, spans)]
            if fault == "SAME for images as large as the kernel":
                total = [min(t, m) for t, m in zip(total, (height, width))]
            padding = [(t // 2, t - t // 2) for t in total]
        (top, bottom), (left, right) = [(p, p) if isinstance(p, int) else p for p in padding]
        size = [(height + top + bottom - spans[0]) // stride[0] + 1, (width + left + right - spans[1]) // stride[1] + 1]
        if fault == "SAME for images as large as the kernel":
            size = [-(-m // s) if isinstance(padding, list) else z for m, s, z in zip((height, width), stride, size)]
        border = self.border(pad_value, channels)
        if fault == "strides swapped":
            stride = stride[::-1]
        if fault == "dilations swapped":
            dilation = dilation[::-1]
        if fault == "padding below taken for that above":
            top, left = bottom, right
        algorithm = "pixels" if (kh, kw) == (1, 1) else "conv"
        signs = self.signs(x, algorithm=algorithm)
        w, held = self.weight_signs(weight)
        if self.kernel == "convolution":
            w = w[:, :, ::-1, ::-1]
        oh, ow = size
        z = np.zeros((n, oh, ow, outputs))
        taps = np.zeros((oh, ow))
        for ky in range(kh):
            for kx in range(kw):
                tap = (ky * kw + kx) % (4 if fault == "tap index narrowed" else 1 << 30)
                of_tap = w[:, :, tap // kw, tap % kw]
                iy = np.arange(oh) * stride[0] - top + ky * dilation[0]
                ix = np.arange(ow) * stride[1] - left + kx * dilation[1]
                inside = ((iy >= 0) & (iy < height))[:, None] & ((ix >= 0) & (ix < width))
                pixels = signs[:, :, np.clip(iy, 0, height - 1)[:, None], np.clip(ix, 0, width - 1)]
                found = self.dots(pixels.transpose(0, 2, 3, 1), of_tap)
                outside = border * of_tap.sum(axis=1)
                if fault == "im2col that ignores padding":
                    outside = found
                z += np.where(inside[..., None], found, outside)
                taps += np.where(inside, channels, channels * abs(border))
        if fault == "counters of 16 bits" and channels * kh * kw > 65_535:
            z = channels * kh * kw - 2 * (((channels * kh * kw - z) / 2) % 65536)
        if fault == "return inside the batch loop":
            z[1:] = 0
        if fault == "last output column twice":
            z[:, :, -1] = z[:, :, max(0, ow - 2)]
        if fault == "outputs above 64 lost":
            z[..., 64:] = 0
        y = self.formed(z, taps[:, :, None], channels * kh * kw).transpose(0, 3, 1, 2)
        return self.scaled(y, x, held, stride, ((top, bottom), (left, right)), dilation, of_all)

    def border(self, asked, channels=1):
        fault = self.fault
        if self.pad_value is not None:
            return self.pad_value
        if fault == "float and packed paths pad differently":
            return -1 if asked == 0 and channels >= 64 else asked
        swaps = {
            "pad +1 taken for 0": {1: 0},
            "pad -1 taken for +1": {-1: 1},
            "padded before the sign is taken": {0: 1},
        }
        return swaps.get(fault, {}).get(asked, asked)

    def formed(self, z, taps, n):
        count = {"agreements": (taps, 1), "disagreements": (taps, -1), "(dot + n)/2": (n, 1), "(n - dot)/2": (n, -1)}
        if self.form == "dot":
            return z
        of, sign = count[self.form]
        return (of + sign * z) / 2

    @QUIET
    def scaled(self, y, x, weight, stride, padding, dilation, of_all):
        if self.scale == "none":
            return y if self.form.endswith("/2") else y.astype(np.int32)
        alpha = self.mean_abs(weight)
        if self.scale == "layer" or self.fault == "one alpha for all filters":
            alpha = np.full_like(alpha, self.mean_abs(self.weight_signs(of_all)[1]).mean())
        if self.fault == "alphas mixed among filters":
            alpha = np.roll(alpha, 1)
        if self.fault == "alpha without its mean":
            alpha = alpha * weight[0].size
        y = y * alpha[:, None, None]
        if "K" in self.scale:
            k = self.mean_map(x, weight.shape[2:], stride, padding, dilation)
            y = y * k
        return y.astype(F32)

    def mean_abs(self, weight):
        rows = np.abs(weight.reshape(len(weight), -1))
        if self.summation == "naive":
            return np.cumsum(rows, axis=1, dtype=F32)[:, -1] / F32(rows.shape[1])
        return rows.mean(axis=1, dtype=np.float64)

    def mean_map(self, x, kernel, stride, padding, dilation=(1, 1)):
        size = x if self.fault == "mean of x instead of |x|" else np.abs(x.astype(np.float64))
        a = np.pad(size.mean(axis=1, dtype=np.float64), [(0, 0), *padding])
        inside = np.pad(np.ones(x.shape[2:]), padding)
        oh, ow = [(m - d * (k - 1) - 1) // s + 1 for m, d, k, s in zip(a.shape[1:], dilation, kernel, stride)]
        total, taps = np.zeros((len(x), oh, ow)), np.zeros((oh, ow))
        for ky in range(kernel[0]):
            for kx in range(kernel[1]):
                place = (
                    slice(ky * dilation[0], ky * dilation[0] + stride[0] * (oh - 1) + 1, stride[0]),
                    slice(kx * dilation[1], kx * dilation[1] + stride[1] * (ow - 1) + 1, stride[1]),
                )
                total += a[(slice(None), *place)]
                taps += inside[place]
        plain = "valid" not in self.scale and self.divisor == "plain"
        return (total / (kernel[0] * kernel[1] if plain else np.maximum(taps, 1)))[:, None]

    # --- the other roles

    @QUIET
    def linear(self, x, weight, **options):
        if self.transposed:
            weight = weight.T
        w, held = self.weight_signs(weight)
        z = self.dots(self.signs(x), w)
        if self.fault == "counters of 16 bits":
            z = x.shape[1] - 2 * (((x.shape[1] - z) / 2) % 65536)
        z = self.formed(z, x.shape[1], x.shape[1])
        alpha = self.mean_abs(held) if self.scale == "alpha" else 1
        return z * alpha if self.scale != "none" or self.form.endswith("/2") else z.astype(np.int32)

    def pack(self, x, **options):
        zero = "sign bit" if self.fault == "-0 differs between roles" else self.sign_of_zero
        bits = (self.signs(x, zero) == self.polarity).astype(np.uint8)
        if self.rows == "joined":
            bits = bits.reshape(1, -1)
        tail = -bits.shape[1] % self.word_size
        behind = np.repeat(bits[:, -1:], tail, axis=1) if self.tail == "any" else self.tail
        bits = np.concatenate([bits, np.zeros((len(bits), tail), np.uint8) + behind], axis=1)
        bits = bits.astype(np.uint8)
        words = bits.reshape(len(bits), -1, self.word_size)
        if self.fault == "every second word swapped" and words.shape[1] > 1:
            words = words.copy()
            words[:, :2] = words[:, 1::-1]
        if self.bit_order == "most first":
            words = words[:, :, ::-1]
        octets = np.packbits(words, axis=-1, bitorder="big" if "bytes" in self.bit_order else "little")
        return np.ascontiguousarray(octets).view(f"<u{self.word_size // 8}")[..., 0]

    def unpack(self, words, n, **options):
        octets = np.ascontiguousarray(words).view(np.uint8)
        bits = np.unpackbits(octets, axis=-1, bitorder="big" if "bytes" in self.bit_order else "little")
        if self.bit_order == "most first":
            bits = bits.reshape(*bits.shape[:-1], -1, self.word_size)[..., ::-1].reshape(bits.shape)
        bits = bits[..., :n]
        if self.fault == "last bit of a word lost":
            bits[..., self.word_size - 1 :: self.word_size] = 0
        if self.values == "1, 0":
            return bits == (self.polarity == 1)
        return np.where(bits == 1, self.polarity, -self.polarity).astype(F32)

    def dot(self, a_words, b_words, n, **options):
        differ = int(np.bitwise_count(a_words ^ b_words).sum())
        if self.fault == "counters of 16 bits":
            differ %= 65536
        if self.fault == "n_bits rounded up to 64":
            n += -n % 64
        z = n - 2 * differ
        return z if self.form == "dot" else self.formed(z, n, n)

    def alpha(self, weight, **options):
        return self.mean_abs(weight)

    @QUIET
    def scale_map(self, x, kernel, stride, padding, dilation=(1, 1), groups=1, **options):
        sides = [(p, p) if isinstance(p, int) else p for p in padding]
        parts = [self.mean_map(part, kernel, stride, sides, dilation) for part in np.split(x, groups, axis=1)]
        return np.concatenate(parts, axis=1).astype(F32)

    @QUIET
    def binarize(self, weight, **options):
        s, held = self.weight_signs(weight)
        return s.astype(F32) * self.mean_abs(held)[:, None, None, None] if self.scale == "alpha" else s.astype(np.int8)

    def ste(self, x, dy, **options):
        slope = {
            "|x| <= 1": np.abs(x) <= 1,
            "|x| < 1": np.abs(x) < 1,
            "identity": np.ones_like(x),
            "bireal": np.maximum(2 - 2 * np.abs(x), 0),
        }[self.gradient]
        return dy * slope


@dataclass(frozen=True)
class Planted:
    """A fault, or a convention that others would call one: how it is tested and what the report must say."""

    name: str
    roles: tuple[str, ...] = ("conv2d",)
    fake: dict = field(default_factory=dict)  # of the implementation
    kit: dict = field(default_factory=dict)  # of the kit
    shows: dict = field(default_factory=dict)  # conventions that the report must state; then it is no fault
    conventions: bool = False
    bug: Bug | None = None  # a program with this fault, in place of a `Fake`

    def implementation(self) -> Any:
        if self.bug is None:
            return Fake("" if self.shows else self.name, **self.fake)
        made: dict[str, Any] = {}
        exec(self.bug.source, made)
        return SimpleNamespace(**{self.roles[0]: made[self.bug.exercise]})


def _convention(name: str, roles: tuple[str, ...] = ("conv2d",), kit: dict | None = None, **conventions) -> Planted:
    return Planted(name, roles, conventions, kit or {}, conventions)


TWO_SIDED = {"paddings": (((0, 1), (1, 0)), ((2, 0), (0, 0)), (1, 0))}
GROUPS = {"groups": (1, 2, 3), "channels": (6, 12, 66, 128 * 3)}
FAULTS = (
    *(Planted(bug.name, (exercise_of(bug.exercise).role,), bug=bug) for bug in BUGS),
    Planted("tail mask zero at multiples of 64"),
    Planted("tail bits counted"),
    Planted("tails counted where the length is no multiple of 32"),
    Planted("packed for one vector width, read for another"),
    Planted("sums of 8 bits"),
    Planted("counters of 16 bits"),
    Planted("counters of 16 bits", ("linear",)),
    Planted("counters of 16 bits", ("pack", "dot")),
    Planted("n_bits rounded up to 64", ("dot",)),
    Planted("strides swapped"),
    Planted("padding below taken for that above", kit=TWO_SIDED),
    Planted("dilations swapped", kit={"dilations": (1, (1, 2), (3, 1))}),
    Planted("groups of every so many channels", kit=GROUPS),
    Planted("the last group sees the channels of the first", kit=GROUPS),
    Planted("pad +1 taken for 0"),
    Planted("pad -1 taken for +1"),
    Planted("padded before the sign is taken"),
    Planted("float and packed paths pad differently"),
    Planted("tap index narrowed"),
    Planted("last output column twice"),
    Planted("outputs above 64 lost"),
    Planted("return inside the batch loop"),
    Planted("im2col that ignores padding"),
    Planted("SAME for images as large as the kernel", kit={"paddings": "same"}),
    Planted("byte order ignored", kit={"memory": ("plain", "byte-swapped")}),
    Planted("memory order taken for the logical order", kit={"memory": ("plain", "column-major")}),
    Planted("-0 differs between algorithms"),
    Planted("-0 differs between roles", ("conv2d", "pack")),
    Planted("changes its input"),
    Planted("adds to what the last call gave"),
    Planted("one buffer for all results"),
    Planted("alphas mixed among filters", fake={"scale": "alpha"}),
    Planted("alpha without its mean", fake={"scale": "alpha"}),
    Planted("one alpha for all filters", fake={"scale": "alpha"}, kit={"scale": "alpha"}),
    Planted("mean of x instead of |x|", fake={"scale": "alpha K"}),
    Planted("every second word swapped", ("pack",)),
    Planted("last bit of a word lost", ("pack", "unpack")),
)
CONVENTIONS = (
    _convention("sign(0) is -1", sign_of_zero=-1),
    _convention("sign(0) is 0", sign_of_zero=0, weight_sign_of_zero=0),
    _convention("sign(-0.0) is -1", sign_of_zero="sign bit"),
    _convention("sign(0) of weights is -1", weight_sign_of_zero=-1),
    Planted("subnormals flushed", fake={"subnormals": "flushed"}, shows={"subnormals": "flushed"}),
    _convention("kernel flipped", kernel="convolution"),
    Planted("padded with -1", fake={"pad_value": -1}, kit={"pad_values": (0,)}, shows={"pad_value": -1}),
    Planted("padded with 0, whatever is asked", fake={"pad_value": 0}, shows={"pad_value": 0}),
    _convention("agreements counted", form="agreements"),
    _convention("disagreements counted", form="disagreements"),
    _convention("(dot + n)/2", form="(dot + n)/2"),
    _convention("agreements counted", ("linear",), form="agreements"),
    _convention("disagreements counted", ("dot", "pack"), form="disagreements"),
    _convention("alpha", scale="alpha"),
    _convention("alpha of the layer", scale="layer"),
    _convention("alpha and K", scale="alpha K"),
    _convention("alpha and K of valid taps", scale="alpha K valid"),
    _convention("weights centred by filter", centring="filter"),
    _convention("weights centred by channels", centring="channels"),
    _convention("NHWC", layout="NHWC HWIO"),
    _convention("NHWC, OHWI", layout="NHWC OHWI"),
    _convention("weights transposed", ("linear",), transposed=True),
    _convention("alpha summed naively in float32", ("alpha",), summation="naive"),
    Planted(
        "alpha summed naively in float32",
        fake={"scale": "alpha", "summation": "naive"},
        shows={"scale": "alpha", "summation": "naive"},
    ),
    _convention("most significant bit first", ("pack",), bit_order="most first"),
    _convention("most significant bit first in bytes", ("pack",), bit_order="most first in bytes"),
    _convention("bit 1 is -1", ("pack",), polarity=-1),
    _convention("words of 32 bits", ("pack",), word_size=32),
    _convention("bytes", ("pack",), word_size=8, bit_order="most first"),
    _convention("rows joined", ("pack",), rows="joined"),
    _convention("tail bits set", ("pack",), tail=1),
    _convention("tail bits that repeat the last", ("pack",), tail="any"),
    _convention("bits of +1 and -1", ("unpack", "pack"), values="1, 0"),
    _convention("K of valid taps", ("scale_map",), divisor="valid"),
    _convention("the gradient of Bi-Real", ("ste",), gradient="bireal"),
    _convention("the gradient passed through", ("ste",), gradient="identity"),
)
