"""The operations of a packed network. Each is one function that checks a node and returns how to run it.

An operation is a function `op(node, *input_shapes) -> Step`. It asks `node` for every attribute and tensor that it
knows, with the type and range that each must have. The caller rejects attributes and tensors that are left over. Input
and output shapes are those of one image, without the batch axis. To add an operation, write its function and its line
in `OPS`, and describe it in docs/model-format.md.

Nodes come from untrusted files. Nothing is computed from an attribute before its range is checked.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xnor_ref.kernels.basics.layout import WORD_BITS, n_words, pack_mask, signs_of_words
from xnor_ref.kernels.basics.modes import KMode
from xnor_ref.kernels.ops import binary_ops, bit_planes, float_ops, sign_sums
from xnor_ref.kernels.ops.bit_planes import MAX_BITS
from xnor_ref.kernels.ops.sign_sums import compact_bits as compact_bits
from xnor_ref.packed import trees
from xnor_ref.packed.nodes import F32 as F32
from xnor_ref.packed.nodes import Node as Node
from xnor_ref.packed.nodes import Pair as Pair
from xnor_ref.packed.nodes import Settings as Settings
from xnor_ref.packed.nodes import Shape as Shape
from xnor_ref.packed.nodes import Step as Step
from xnor_ref.packed.nodes import Window as Window
from xnor_ref.packed.nodes import shown as shown

if TYPE_CHECKING:
    from xnor_ref.compress.tree import Tree

MAX_INPUTS = 256  # most inputs of a node
Rule = tuple[F32, NDArray[np.bool_]] | None


# Real-valued operations


def conv2d(node: Node, x: Shape) -> Step:
    """Convolution with real weights."""
    channels, _, _ = node.image(x)
    groups = node.groups(channels, optional=False)
    weight = node.tensor("weight", np.float32, (None, channels // groups, None, None))
    outputs, per_group, kh, kw = weight.shape
    node.need(outputs % groups == 0, f"{outputs} output channels cannot be cut into {groups} groups")
    bias = node.optional("bias", np.float32, (outputs,))
    window, size = node.window(x, (kh, kw), node.dilation())
    shape = (outputs, *size)
    taps, pixels = per_group * kh * kw, shape[1] * shape[2]

    def run(settings: Settings, x: F32) -> F32:
        return float_ops.conv2d(x, weight, bias, window, groups, settings.threads)

    workspace = 4 * (taps * pixels + (math.prod(x) if groups > 1 else 0))
    arguments = {"weight": weight, "bias": bias, "window": window, "groups": groups}
    return Step(shape, run, taps * math.prod(shape), workspace, arguments=arguments, weight_shape=weight.shape)


def linear(node: Node, x: Shape) -> Step:
    """Matrix product with real weights."""
    weight = node.tensor("weight", np.float32, (None, node.row(x)))
    bias = node.optional("bias", np.float32, (weight.shape[0],))

    def run(settings: Settings, x: F32) -> F32:
        return float_ops.linear(x, weight, bias, settings.threads)

    arguments = {"weight": weight, "bias": bias}
    workspace = 4 * sum(weight.shape)
    return Step((weight.shape[0],), run, weight.size, workspace, arguments=arguments, weight_shape=weight.shape)


def affine(node: Node, x: Shape) -> Step:
    """BatchNorm in inference: x*scale + shift per channel."""
    scale = node.tensor("scale", np.float32, (x[0],))
    shift = node.tensor("shift", np.float32, (x[0],))
    arguments = {"scale": scale, "shift": shift}
    return Step(x, lambda settings, x: float_ops.affine(x, scale, shift, settings.threads), arguments=arguments)


def relu(node: Node, x: Shape) -> Step:
    """max(x, 0)."""
    return Step(x, lambda settings, x: float_ops.relu(x))


def prelu(node: Node, x: Shape) -> Step:
    """x where x >= 0, else slope*x."""
    slope = node.tensor("slope", np.float32, (None,))
    node.need(len(slope) in (1, x[0]), f"slope has {len(slope)} values, but 1 or {x[0]} are needed")
    arguments = {"slope": slope}
    return Step(x, lambda settings, x: float_ops.prelu(x, slope), workspace=5 * math.prod(x), arguments=arguments)


def hardtanh(node: Node, x: Shape) -> Step:
    """x clipped to [-1, 1]."""
    return Step(x, lambda settings, x: float_ops.hardtanh(x))


def _pool(node: Node, x: Shape) -> tuple[Shape, Window, int]:
    channels, _, _ = node.image(x)
    kernel = node.pair("kernel", 1)
    window, size = node.window(x, kernel)
    fits = all(max(pads) < taps for pads, taps in zip(window.padding, kernel))
    node.need(fits, f"padding {window.brief_padding} must be smaller than the kernel {kernel}")
    shape = (channels, *size)
    return shape, window, math.prod(shape) * math.prod(kernel)


def max_pool(node: Node, x: Shape) -> Step:
    """Maximum of each window. Padding never wins."""
    shape, window, work = _pool(node, x)
    node.need(math.prod(window.kernel) <= 256, f"kernel {window.kernel} has more than 256 taps")

    def run(settings: Settings, x: F32) -> F32:
        return float_ops.max_pool2d(x, window, settings.threads)

    return Step(shape, run, work, math.prod(shape), arguments={"window": window})


def avg_pool(node: Node, x: Shape) -> Step:
    """Mean of each window, with or without padded zeros."""
    shape, window, work = _pool(node, x)
    padded = x[0] * math.prod(window.padded((x[1], x[2])))
    count = "count_include_pad" not in node.attributes or node.integer("count_include_pad", 0, 1) == 1
    shares = float_ops.tap_shares((x[1], x[2]), window, count)

    def run(settings: Settings, x: F32) -> F32:
        return float_ops.avg_pool2d(x, window, shares)

    return Step(shape, run, work, 4 * padded, arguments={"window": window, "shares": shares})


def global_avg_pool(node: Node, x: Shape) -> Step:
    """Mean over all pixels."""
    channels, height, width = node.image(x)
    return Step((channels,), lambda settings, x: float_ops.global_avg_pool2d(x), work=channels * height * width)


def flatten(node: Node, x: Shape) -> Step:
    """(C, H, W) to (C*H*W,). Columns vary fastest."""
    return Step((math.prod(x),), lambda settings, x: x.reshape(len(x), -1))


def add(node: Node, x: Shape, y: Shape) -> Step:
    """Sum of two nodes."""
    node.need(x == y, f"its inputs have shapes {x} and {y}; both must match")
    return Step(x, lambda settings, x, y: x + y)


def concat(node: Node, *inputs: Shape) -> Step:
    """Concatenation of the channels, or flat values, of several nodes."""
    node.need(2 <= len(inputs) <= MAX_INPUTS, f"has {len(inputs)} inputs, but 2 to {MAX_INPUTS} are allowed")
    fit = {shape[1:] for shape in inputs}
    node.need(len(fit) == 1, f"its inputs have shapes {', '.join(map(str, inputs[:8]))}; only channels may differ")
    shape = (sum(shape[0] for shape in inputs), *inputs[0][1:])
    return Step(shape, lambda settings, *inputs: np.concatenate(inputs, axis=1))


def sign(node: Node, x: Shape) -> Step:
    """+1 where x >= 0, else -1."""
    return Step(x, lambda settings, x: np.where(x >= 0, np.float32(1), np.float32(-1)), workspace=math.prod(x))


def scale(node: Node, x: Shape) -> Step:
    """x times Gamma. Gamma is computed once, here, from its factors."""
    tensors = {}
    for name, shape in {"channel": x[:1], "row": x[1:2], "column": x[2:], "plane": x[1:], "map": x}.items():
        if name == "channel" or len(x) == 3:
            tensors[name] = node.optional(name, np.float32, shape)
    factors = {name: array for name, array in tensors.items() if array is not None}
    known = tuple(factors) in (("channel",), ("map",), ("channel", "plane"), ("channel", "row", "column"))
    node.need(known, f"has the factors {', '.join(factors) or 'none'}; see docs/model-format.md for the allowed ones")
    axes = {"channel": (0,), "row": (1,), "column": (2,), "plane": (1, 2), "map": (0, 1, 2)}
    shapes = {name: [size if axis in axes[name] else 1 for axis, size in enumerate(x)] for name in factors}
    with np.errstate(over="ignore", under="ignore"):
        gamma = reduce(np.multiply, (array.reshape(shapes[name]) for name, array in factors.items()))
    node.need(bool(np.isfinite(gamma).all()), "the product of its factors overflows")
    return Step(x, lambda settings, x: x * gamma, arguments={"gamma": gamma})


# Binary operations


def _expand_bits(bits: NDArray[np.uint64], channels: int, kernel: Pair) -> NDArray[np.uint64]:
    """Rearrange the file's rows (O, n_words(C*KH*KW)) for the kernels: (O, KH, KW, n_words(C))."""
    shape = (len(bits), *kernel, n_words(channels))
    if channels % WORD_BITS == 0:
        return np.ascontiguousarray(bits).reshape(shape)
    words, size = np.empty(shape, np.uint64), channels * kernel[0] * kernel[1]
    some = max(1, 2**18 // size)  # filters at a time, because each bit takes four bytes meanwhile
    for first in range(0, len(bits), some):
        signs = signs_of_words(bits[first : first + some], size)
        words[first : first + some] = pack_mask(signs.reshape(-1, *kernel, channels) > 0, -1)
    return words


def _weight_bits(node: Node, n_bits: int) -> "tuple[NDArray[np.uint64], Tree | None]":
    """Return the filters as rows of bits, and their tree or None."""
    if "tree" in node.tensors:
        return trees.stored_rows(node, n_bits)
    return _plain_bits(node, n_bits), None


def _plain_bits(node: Node, n_bits: int, *planes: int) -> NDArray[np.uint64]:
    """Return the filters as rows of bits, (*planes, O, n_words(n_bits))."""
    bits = node.tensor("bits", np.uint64, (*planes, None, n_words(n_bits)))
    if n_bits % WORD_BITS:
        clean = not (bits[..., -1] >> np.uint64(n_bits % WORD_BITS)).any()
        node.need(clean, f"bits beyond the {n_bits} weights of a filter must be zero")
    return bits


def _sign_rule(node: Node, features: int, input_scale: str) -> Rule:
    """Return (threshold, flip) if BatchNorm was folded into thresholds, else None."""
    threshold = node.optional("threshold", np.float32, (features,))
    flip = node.optional("flip", np.uint8, (features,))
    node.need((threshold is None) == (flip is None), "threshold and flip need each other")
    if threshold is None or flip is None:
        return None
    node.need(input_scale == KMode.OFF, f"thresholds need input_scale 'off', got {input_scale!r}")
    node.need(not np.isnan(threshold).any(), "tensor 'threshold' holds NaN")
    node.need(bool((flip <= 1).all()), "tensor 'flip' must hold zeros and ones")
    return threshold, flip.astype(np.bool_)


def _to_bits(settings: Settings, x: F32, rule: Rule) -> NDArray[np.uint64]:
    """Pack the bits of the input (N, C, H, W)."""
    if rule is None:
        return binary_ops.sign_pack(x, settings.backend, settings.threads)
    return binary_ops.threshold_pack(x, *rule, settings.backend, settings.threads)


def binary_conv2d(node: Node, x: Shape) -> Step:
    """Convolution of signs by xor and popcount, then alpha, then K."""
    channels, height, width = node.image(x)
    node.size_of_input("in_channels", channels)
    kernel = node.pair("kernel_size", 1)
    window, size = node.window(x, kernel, node.dilation())
    pad_value = node.choice("pad_value", (-1, 0, 1))
    input_scale = node.choice("input_scale", tuple(KMode))
    groups = node.groups(channels)
    own = channels // groups
    n_bits = own * kernel[0] * kernel[1]
    node.need(n_bits < 2**31, f"{n_bits} weights in a filter are too many for a 32-bit sum")
    bits, tree = _weight_bits(node, n_bits)
    node.need_groups(groups, len(bits), n_bits * len(bits))
    shape = (len(bits), *size)
    alpha = node.optional("alpha", np.float32, (len(bits),))
    rule = _sign_rule(node, channels, input_scale)
    words = _expand_bits(bits, own, kernel)
    along = (
        trees.along_conv(words, tree, x, window, pad_value) if tree and groups == 1 else None
    )  # trees need one group

    def run(settings: Settings, x: F32) -> F32:
        how = settings.backend, settings.threads
        x_words = _to_bits(settings, x, rule)

        def direct() -> NDArray[np.int32]:
            return binary_ops.conv2d_bits(x_words, words, channels, window, pad_value, *how, groups)

        z = along.run(settings, x_words, direct) if along else direct()
        k = None
        if input_scale != KMode.OFF:
            k = binary_ops.input_scale_map(x, window, input_scale, *how, groups)
        settings.note(words=x_words, K=k, Z=z)
        return float_ops.scale_output(z, alpha, k, settings.threads)

    # Z with the border's sums, bits before packing, A and K in float64; an upper bound, not exact.
    border = math.prod(window.padded((height, width)))
    workspace = 4 * (5 * math.prod(shape) + math.prod(x) + 6 * border * groups) + (along.workspace if along else 0)
    work = n_bits * math.prod(shape)
    arguments = {"words": words, "groups": groups, "window": window, "pad_value": pad_value}
    arguments |= {"alpha": alpha, "input_scale": input_scale, "rule": rule, "tree": tree}
    weight_shape = len(bits), own, *kernel
    return Step(shape, run, work, workspace, n_bits * len(bits), arguments, weight_shape, words.copy)


def binary_linear(node: Node, x: Shape) -> Step:
    """Matrix product of signs by xor and popcount, then alpha, then the mean of |x|."""
    features = node.row(x)
    node.size_of_input("in_features", features)
    input_scale = node.choice("input_scale", (KMode.OFF, KMode.PLAIN))
    bits, tree = _weight_bits(node, features)
    alpha = node.optional("alpha", np.float32, (len(bits),))
    rule = _sign_rule(node, features, input_scale)
    along = trees.along_linear(bits, tree) if tree else None

    def run(settings: Settings, x: F32) -> F32:
        how = settings.backend, settings.threads
        image = x.reshape(*x.shape, 1, 1)
        words = _to_bits(settings, image, rule).reshape(len(x), -1)

        def direct() -> NDArray[np.int32]:
            return binary_ops.gemm_bits(words, bits, features, *how)

        z = along.run(settings, words, direct) if along else direct()
        k = None
        if input_scale != KMode.OFF:
            k = binary_ops.input_scale_rows(x, *how)
        settings.note(words=words, K=k, Z=z)
        return float_ops.scale_output(z, alpha, k, settings.threads)

    work = features * len(bits)
    arguments = {"words": bits, "alpha": alpha, "input_scale": input_scale, "rule": rule, "tree": tree}
    workspace = 4 * (len(bits) + features) + (along.workspace if along else 0)
    return Step((len(bits),), run, work, workspace, work, arguments, (len(bits), features), bits.copy)


def _kbit(node: Node, image: Shape, out_size: Pair, window: Window, pad_value: int, groups: int = 1) -> Step:
    """Both k-bit layers: convolution of an image's integers (C, H, W) on bit planes, then alpha, then K."""
    own = image[0] // groups
    n_bits = own * math.prod(window.kernel)
    flat = "kernel_size" not in node.seen
    input_scale = node.choice("input_scale", (KMode.OFF, KMode.PLAIN) if flat else tuple(KMode))
    input_bits = node.integer("input_bits", 1, MAX_BITS)
    ternary = "input_levels" in node.attributes and node.choice("input_levels", ("even", "ternary")) == "ternary"
    node.need(not ternary or input_bits == 2, f"ternary inputs have 2 bits, got {input_bits}")
    inputs = bit_planes.Levels(input_bits, ternary)
    bits = _plain_bits(node, n_bits, node.integer("weight_bits", 1, MAX_BITS))  # lowest plane first
    n_planes, outputs, _ = bits.shape
    node.need_groups(groups, outputs, n_bits * outputs)
    node.need(bit_planes.fits(n_bits, (input_bits, n_planes)), f"sums of {n_bits} products may not fit into 32 bits")
    alpha = node.tensor("alpha", np.float32, (outputs,))
    words = [_expand_bits(plane, own, window.kernel) for plane in bits]
    shape = outputs, *out_size

    def run(settings: Settings, x: F32) -> F32:
        how = settings.backend, settings.threads
        m = inputs.of(x)
        z = bit_planes.conv2d_planes(m.reshape(-1, *image), words, inputs, window, pad_value, *how, groups)
        k = None
        if input_scale != KMode.OFF and not flat:
            k = binary_ops.input_scale_map(x, window, input_scale, *how, groups)
        elif input_scale != KMode.OFF:
            k = binary_ops.input_scale_rows(x, *how)
        z = z[:, :, 0, 0] if flat else z
        settings.note(levels=m, K=k, Z=z)
        return float_ops.scale_output(z, alpha, k, settings.threads)

    border = math.prod(window.padded((image[1], image[2])))
    workspace = 4 * (6 * math.prod(shape) + 4 * math.prod(image) + 6 * border * groups)
    work = n_bits * math.prod(shape) * input_bits * n_planes
    weight_shape = outputs, own, *window.kernel
    arguments = {"words": words, "groups": groups, "pad_value": pad_value, "inputs": inputs, "alpha": alpha}
    arguments |= {"input_scale": input_scale} | ({} if flat else {"window": window})
    return Step(
        shape[:1] if flat else shape, run, work, workspace, n_bits * outputs * n_planes, arguments,
        weight_shape=weight_shape[:2] if flat else weight_shape,
        words=lambda: bits.copy() if flat else np.stack(words),
    )  # fmt: skip


def kbit_conv2d(node: Node, x: Shape) -> Step:
    """Convolution of k-bit integers, plane by plane, then alpha, then K."""
    channels, _, _ = image = node.image(x)
    node.size_of_input("in_channels", channels)
    window, size = node.window(x, node.pair("kernel_size", 1), node.dilation())
    return _kbit(node, image, size, window, node.choice("pad_value", (-1, 0, 1)), node.groups(channels))


def kbit_linear(node: Node, x: Shape) -> Step:
    """Matrix product of k-bit integers, plane by plane, then alpha, then the mean of |x|."""
    features = node.row(x)
    node.size_of_input("in_features", features)
    return _kbit(node, (features, 1, 1), (1, 1), Window((1, 1)), 0)


def sign_weight_conv2d(node: Node, x: Shape) -> Step:
    """Convolution of real inputs with signs by additions and subtractions, then alpha."""
    channels, _, _ = node.image(x)
    node.size_of_input("in_channels", channels)
    window, size = node.window(x, node.pair("kernel_size", 1), node.dilation())
    groups = node.groups(channels)
    own = channels // groups
    n_bits = own * math.prod(window.kernel)
    bits = _plain_bits(node, n_bits)
    node.need_groups(groups, len(bits), n_bits * len(bits))
    alpha = node.optional("alpha", np.float32, (len(bits),))
    shape = (len(bits), *size)

    def run(settings: Settings, x: F32) -> F32:
        sums = sign_sums.conv2d(x, bits, window, settings.backend, settings.threads, groups)
        settings.note(Z=sums)
        return sign_sums.scale_filters(sums, alpha)

    workspace = 4 * (n_bits * math.prod(shape[1:]) + 2 * math.prod(shape)) + 8 * n_bits
    return Step(
        shape, run, n_bits * math.prod(shape), workspace, n_bits * len(bits),
        weight_shape=(len(bits), own, *window.kernel),
        words=lambda: _expand_bits(bits, own, window.kernel).copy(),
    )  # fmt: skip


def sign_weight_linear(node: Node, x: Shape) -> Step:
    """Matrix product of real inputs with signs by additions and subtractions, then alpha."""
    features = node.row(x)
    node.size_of_input("in_features", features)
    bits = _plain_bits(node, features)
    alpha = node.optional("alpha", np.float32, (len(bits),))

    def run(settings: Settings, x: F32) -> F32:
        sums = sign_sums.linear(x, bits, settings.backend, settings.threads)
        settings.note(Z=sums)
        return sign_sums.scale_filters(sums, alpha)

    work, shape = features * len(bits), (len(bits), features)
    return Step(shape[:1], run, work, 4 * (3 * features + 2 * len(bits)), work, weight_shape=shape, words=bits.copy)


@dataclass(frozen=True)
class Op:
    """An operation, its number of inputs (None: the operation checks it), and the first format version that has it."""

    examine: Callable[..., Step]
    inputs: int | None = 1
    version: int = 1


OPS = {
    "conv2d": Op(conv2d),
    "linear": Op(linear),
    "affine": Op(affine),
    "relu": Op(relu),
    "prelu": Op(prelu),
    "hardtanh": Op(hardtanh),
    "max_pool": Op(max_pool),
    "avg_pool": Op(avg_pool),
    "global_avg_pool": Op(global_avg_pool),
    "flatten": Op(flatten),
    "add": Op(add, inputs=2),
    "binary_conv2d": Op(binary_conv2d),
    "binary_linear": Op(binary_linear),
    "sign": Op(sign, version=3),
    "scale": Op(scale, version=3),
    "sign_weight_conv2d": Op(sign_weight_conv2d, version=3),
    "sign_weight_linear": Op(sign_weight_linear, version=3),
    "kbit_conv2d": Op(kbit_conv2d, version=4),
    "kbit_linear": Op(kbit_linear, version=4),
    "concat": Op(concat, inputs=None, version=6),
}
