"""Properties of the binary kernels: exact equality with the float64 oracle, for any implementation of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from xnor_ref.compress import codec, execute, tree
from xnor_ref.kernels.basics import layout
from xnor_ref.kernels.ops import binary_ops
from xnor_ref.kernels.ops.planned import PlannedConv2d
from xnor_ref.verify import cases, oracle
from xnor_ref.verify.runner import Property


@dataclass(frozen=True)
class Implementation:
    """The functions under test; a test replaces some of them by faulty ones."""

    pack_bits: Callable = layout.pack_bits
    unpack_bits: Callable = layout.unpack_bits
    binary_conv2d: Callable = binary_ops.binary_conv2d
    xnor_conv2d: Callable = binary_ops.xnor_conv2d
    binary_linear: Callable = binary_ops.binary_linear
    sign_pack: Callable = binary_ops.sign_pack
    threshold_pack: Callable = binary_ops.threshold_pack
    conv2d_bits: Callable = binary_ops.conv2d_bits
    gemm_bits: Callable = binary_ops.gemm_bits
    input_scale_map: Callable = binary_ops.input_scale_map
    planned_conv2d: Callable = PlannedConv2d
    build_tree: Callable = tree.build
    tree_conv2d: Callable = execute.tree_conv2d
    tree_linear: Callable = execute.tree_linear
    encode: Callable = codec.encode
    decode: Callable = codec.decode


def check_equal(got: np.ndarray, want: np.ndarray, what: str, dtype: type = np.int32) -> None:
    """Raise AssertionError unless every element is equal."""
    assert got.dtype == dtype, f"{what}: dtype {got.dtype}, should be {np.dtype(dtype)}"
    assert got.shape == want.shape, f"{what}: shape {got.shape}, should be {want.shape}"
    wrong = np.not_equal(got, want)
    if wrong.any():
        index = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {wrong.size} differ, the first at {index}: {got[index]}, not {want[index]}"
        )


def dirty(words: np.ndarray, n_bits: int) -> np.ndarray:
    """The same signs with every tail bit set."""
    words = words.copy()
    if n_bits % 64:
        words[..., -1] |= np.uint64(2**64 - 2 ** (n_bits % 64))
    return words


def conv_is_exact(implementation: Implementation, case: cases.Conv) -> None:
    x, weight = case.x.array(), case.weight.array()
    got = implementation.binary_conv2d(x, weight, **case.options)
    check_equal(got, case.sums(), "binary_conv2d")


def conv_ignores_tails(implementation: Implementation, case: cases.Conv) -> None:
    x, weight = case.x.array(), case.weight.array()
    channels, own = x.shape[1], weight.shape[1]
    x_words = np.ascontiguousarray(np.moveaxis(implementation.pack_bits(x, axis=1), 1, -1))
    weight_words = np.ascontiguousarray(np.moveaxis(implementation.pack_bits(weight, axis=1), 1, -1))
    want, how = case.sums(), (case.window, case.pad_value, case.backend, case.threads, case.groups)
    # one operand at a time: equal tails of both would cancel
    got = implementation.conv2d_bits(dirty(x_words, channels), weight_words, channels, *how)
    check_equal(got, want, "conv2d_bits with dirty tail bits of x")
    got = implementation.conv2d_bits(x_words, dirty(weight_words, own), channels, *how)
    check_equal(got, want, "conv2d_bits with dirty tail bits of weight")


def linear_is_exact(implementation: Implementation, case: cases.Linear) -> None:
    x, weight = case.x.array(), case.weight.array()
    want = (oracle.signs(x) @ oracle.signs(weight).T).astype(np.int64)
    got = implementation.binary_linear(x, weight, case.backend, case.threads)
    check_equal(got, want, "binary_linear")
    n_bits = x.shape[1]
    x_words, weight_words = implementation.pack_bits(x), implementation.pack_bits(weight)
    got = implementation.gemm_bits(dirty(x_words, n_bits), weight_words, n_bits, case.backend, case.threads)
    check_equal(got, want, "gemm_bits with dirty tail bits of x")
    got = implementation.gemm_bits(x_words, dirty(weight_words, n_bits), n_bits, case.backend, case.threads)
    check_equal(got, want, "gemm_bits with dirty tail bits of weight")


def packing_round_trip(implementation: Implementation, case: cases.Packing) -> None:
    x = case.array()
    n_bits = x.shape[case.axis]
    words = implementation.pack_bits(x, axis=case.axis)
    rows = np.moveaxis(x, case.axis, -1).reshape(-1, n_bits)
    want = np.array([oracle.words(row >= 0) for row in rows], np.uint64)
    got = np.moveaxis(words, case.axis, -1)
    check_equal(got.reshape(want.shape), want, "pack_bits", np.uint64)
    for tail in (words, np.moveaxis(dirty(got, n_bits), -1, case.axis)):
        got = implementation.unpack_bits(tail, n_bits, axis=case.axis)
        check_equal(got, oracle.signs(x), "unpack_bits", np.float32)


def thresholds_are_exact(implementation: Implementation, case: tuple[cases.Data, str, int, int]) -> None:
    recipe, backend, threads, seed = case
    x = np.require(recipe.array(), np.float32, ["C", "A"])
    rng = np.random.default_rng(seed)
    flip = np.asarray(rng.random(x.shape[1]) < 0.5)
    threshold = x[0, :, 0, 0] + rng.choice(np.array([0, 0, 0.5, -0.5], np.float32), x.shape[1])  # ties are the edge
    limit = threshold[:, None, None]
    bits = np.where(flip[:, None, None], x <= limit, x >= limit)
    words = implementation.threshold_pack(x, threshold, flip, backend, threads)
    want = np.moveaxis(implementation.pack_bits(np.where(bits, 1, -1), axis=1), 1, -1)
    check_equal(words, want, "threshold_pack", np.uint64)
    want = np.moveaxis(implementation.pack_bits(x, axis=1), 1, -1)
    check_equal(implementation.sign_pack(x, backend, threads), want, "sign_pack", np.uint64)


def xnor_is_close(implementation: Implementation, case: tuple[cases.Conv, str]) -> None:
    """Y within five float32 roundings of Z*alpha*K in float64: alpha, K, Z and two products."""
    conv, mode = case
    x, weight = conv.x.array(), conv.weight.array()
    got = implementation.xnor_conv2d(x, weight, input_scale=mode, **conv.options)
    z = conv.sums()
    alpha = np.abs(weight.astype(np.float64)).mean(axis=(1, 2, 3))[:, None, None]
    k = np.ones((len(x), 1, *z.shape[2:]))
    if mode != "off":
        k = np.repeat(conv.scale_map(mode), len(weight) // conv.groups, axis=1)
    want = z * alpha * k
    smallest = 2.0**-149  # below the normal range a rounding moves a value by up to half of this
    allowed = 5 * 2.0**-24 * np.abs(want) + smallest * (2 + k + np.abs(z) * (alpha + k))
    wrong = np.asarray(np.abs(got - want) > allowed) | np.isnan(got)
    assert got.dtype == np.float32 and got.shape == want.shape
    if wrong.any():
        index = np.unravel_index(int(wrong.argmax()), wrong.shape)
        raise AssertionError(f"xnor_conv2d: {got[index]}, not {want[index]} +- {allowed[index]:.3g}")


def planned_is_exact(implementation: Implementation, case: tuple[cases.Conv, str, str, int]) -> None:
    """The planned layer gives the bits of the reference rung, and writes nothing outside its result."""
    conv, mode, layout, spare = case
    x, weight = (np.require(recipe.array(), np.float32, ["C", "A"]) for recipe in (conv.x, conv.weight))
    geometry = conv.geometry | {"input_scale": mode}
    want = implementation.xnor_conv2d(x, weight, **geometry, backend="reference")
    planned = implementation.planned_conv2d(weight, x.shape[2:], **geometry, layout=layout, batch=len(x) + spare)
    if layout == "NHWC":
        x, want = (np.ascontiguousarray(array.transpose(0, 2, 3, 1)) for array in (x, want))
    canary = np.float32(-12345.678)
    around = np.full(want.size + 2 * cases.CANARIES, canary)
    out = around[cases.CANARIES : -cases.CANARIES].reshape(want.shape)
    for _ in range(2):  # what the first call leaves behind must not show in the second
        check_equal(planned.run(x, out, conv.threads), want, f"PlannedConv2d, {layout}", np.float32)
    edges = np.concatenate([around[: cases.CANARIES], around[-cases.CANARIES :]])
    assert np.all(edges == canary), f"PlannedConv2d, {layout}: wrote outside its result"


def scale_map_bits_agree(implementation: Implementation, case: tuple[cases.Conv, str]) -> None:
    conv, mode = case
    x = np.require(conv.x.array(), np.float32, ["C", "A"])
    got = [
        implementation.input_scale_map(x, conv.window, mode, backend, threads, conv.groups)
        for backend, threads in (("reference", 1), ("numba", conv.threads))
    ]
    check_equal(got[1], got[0], "input_scale_map of two rungs", np.float32)
    want = conv.scale_map(mode)
    close = np.abs(got[0] - want) <= 2.0**-24 * (1 + 1e-6) * want + 2.0**-149
    assert close.all(), "input_scale_map: K is off by more than one rounding"


MODERATE = tuple(kind for kind in cases.KINDS if kind != "edges")  # products of 3e38 overflow
PROPERTIES: tuple[Property, ...] = (
    Property(
        "pack_bits and unpack_bits are inverse, any dtype, axis and tail bits", cases.packings(), packing_round_trip
    ),
    Property("binary_conv2d equals a float64 convolution of signs", cases.convs(), conv_is_exact, share=2),
    Property("conv2d_bits ignores tail bits", cases.convs(), conv_ignores_tails),
    Property("chunks shared by threads give the same integers", cases.chunked_convs(), conv_is_exact, share=0.1),
    Property("dot products of 76,800 bits are exact", cases.longest_dots(), conv_is_exact, share=0.1),
    Property("binary_linear and gemm_bits equal a float64 product of signs", cases.linears(), linear_is_exact),
    Property(
        "threshold_pack and sign_pack follow their definition at ties",
        st.tuples(
            st.sampled_from(cases.CHANNELS).flatmap(lambda channels: cases.data((2, channels, 3, 2))),
            st.sampled_from(("numba", "reference")),
            st.sampled_from((1, 2, 3)),
            st.integers(0, 2**32 - 1),
        ),
        thresholds_are_exact,
    ),
    Property(
        "xnor_conv2d equals sign convolution * alpha * K within five roundings",
        st.tuples(cases.convs(MODERATE), st.sampled_from(("plain", "valid", "off"))),
        xnor_is_close,
    ),
    Property(
        "all rungs compute the same bits of K",
        st.tuples(cases.convs(), st.sampled_from(("plain", "valid"))),
        scale_map_bits_agree,
    ),
)
if cases.VECTORS:
    PROPERTIES += (
        Property(
            "planned layers give the reference's bits in both layouts and write nothing else",
            st.tuples(
                cases.convs(MODERATE),
                st.sampled_from(("plain", "valid", "off")),
                st.sampled_from(("NHWC", "NCHW")),
                st.integers(0, 2),
            ),
            planned_is_exact,
        ),
    )
