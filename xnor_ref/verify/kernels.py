"""Properties of the binary kernels: those of the conformance kit, run on this project's functions, and their own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from xnor_ref.compress import codec, execute, tree
from xnor_ref.conformance.basics import oracle
from xnor_ref.conformance.basics.arrays import Case
from xnor_ref.conformance.basics.conventions import Conventions
from xnor_ref.conformance.basics.restrictions import Restrictions
from xnor_ref.conformance.basics.roles import ROLES
from xnor_ref.conformance.trying.properties import is_as_defined, properties
from xnor_ref.conformance.trying.running import Property
from xnor_ref.conformance.trying.subject import Subject
from xnor_ref.kernels.basics import layout
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.ops import binary_ops
from xnor_ref.kernels.ops.planned import PlannedConv2d
from xnor_ref.verify import cases


@dataclass(frozen=True)
class Implementation:
    """The functions under test; a test replaces some of them by faulty ones."""

    pack_bits: Callable = layout.pack_bits
    unpack_bits: Callable = layout.unpack_bits
    binary_conv2d: Callable = binary_ops.binary_conv2d
    xnor_conv2d: Callable = binary_ops.xnor_conv2d
    binary_linear: Callable = binary_ops.binary_linear
    weight_scale: Callable = binary_ops.weight_scale
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

    def subject(self, role: str, by: Conventions) -> Subject:
        """One of these functions in a role of the kit, under this project's conventions."""
        mode = {"alpha K": "plain", "alpha K valid": "valid", "alpha": "off"}.get(by.scale)

        def conv2d(x, weight, stride, padding, pad_value, **options):
            options |= {"stride": stride, "padding": padding, "pad_value": pad_value}
            if mode is None:
                return _of(np.int32, self.binary_conv2d(x, weight, **options))
            return _of(np.float32, self.xnor_conv2d(x, weight, input_scale=mode, **options))

        def scale_map(x, kernel, stride, padding, dilation, groups, backend, threads):
            window = Window.of(kernel, stride, padding, dilation)
            return self.input_scale_map(x, window, by.divisor, backend, threads, groups)

        functions: dict[str, Callable] = {
            "conv2d": conv2d,
            "linear": lambda x, weight, **options: _of(np.int32, self.binary_linear(x, weight, **options)),
            "pack": self.pack_bits,
            "unpack": self.unpack_bits,
            "dot": lambda a, b, n: self.gemm_bits(a[None], b[None], n),
            "alpha": lambda weight: self.weight_scale(weight),
            "scale_map": scale_map,
        }
        needed = {"unpack": ("pack", "unpack"), "dot": ("pack", "dot")}.get(role, (role,))
        subject = Subject({name: functions[name] for name in needed})
        subject.by[role] = by
        return subject


def _of(dtype: type, result: np.ndarray) -> np.ndarray:
    """The result, of which the dtype is promised, too."""
    assert result.dtype == dtype, f"dtype {result.dtype}, should be {np.dtype(dtype)}"
    return result


def of_the_kit(
    label: str, role: str, limits: Restrictions, by: Conventions | None = None, share: float = 1.0, most: int = 9
) -> Iterator[Property]:
    """The kit's properties of a role, or the first few, for the functions of an `Implementation`."""
    by = Conventions() if by is None else by
    for prop in properties(Implementation().subject(role, by), limits, [role])[:most]:

        def check(implementation: Implementation, case: Case, of_kit: Property = prop) -> None:
            of_kit.check(implementation.subject(role, by), case)

        yield Property(prop.name.replace(ROLES[role].what, label), prop.cases, check, prop.share * share, role)


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


def chunks_are_exact(implementation: Implementation, case: Case) -> None:
    is_as_defined(implementation.subject("conv2d", Conventions()), case)


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


def linear_ignores_tails(implementation: Implementation, case: Case) -> None:
    x, weight = (recipe.array() for recipe in case.data.values())
    want = (oracle.signs(x) @ oracle.signs(weight).T).astype(np.int64)
    n_bits = x.shape[1]
    x_words, weight_words = implementation.pack_bits(x), implementation.pack_bits(weight)
    got = implementation.gemm_bits(dirty(x_words, n_bits), weight_words, n_bits, **case.keywords)
    check_equal(got, want, "gemm_bits with dirty tail bits of x")
    got = implementation.gemm_bits(x_words, dirty(weight_words, n_bits), n_bits, **case.keywords)
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


def xnor_conv2d(scale: str) -> Iterator[Property]:
    """The kit's property of scaled results: within five roundings, however long the sums are."""
    by = Conventions(scale=scale, summation="once")
    return of_the_kit(f"xnor_conv2d with {scale}", "conv2d", cases.LIMITS, by, share=0.4, most=1)


PROPERTIES: tuple[Property, ...] = (
    *of_the_kit("binary_conv2d", "conv2d", cases.LIMITS),
    *of_the_kit("binary_linear", "linear", cases.LIMITS),
    *of_the_kit("pack_bits", "pack", cases.LIMITS),
    *of_the_kit("unpack_bits", "unpack", cases.LIMITS, share=0.3),
    *of_the_kit("gemm_bits", "dot", cases.LIMITS, share=0.3),
    *of_the_kit("weight_scale", "alpha", cases.LIMITS, Conventions(summation="once"), share=0.3),
    *xnor_conv2d("alpha K"),
    *xnor_conv2d("alpha K valid"),
    *xnor_conv2d("alpha"),
    Property("packing is exact for any dtype, axis and tail bits", cases.packings(), packing_round_trip),
    Property("conv2d_bits ignores tail bits", cases.convs(), conv_ignores_tails),
    Property("gemm_bits ignores tail bits", cases.kit.linear(cases.LIMITS), linear_ignores_tails),
    Property("chunks shared by threads give the same integers", cases.chunked(), chunks_are_exact, share=0.1),
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
        "all rungs compute the same bits of K, within one rounding",
        st.tuples(cases.convs(), st.sampled_from(("plain", "valid"))),
        scale_map_bits_agree,
    ),
)
if cases.VECTORS:
    PROPERTIES += (
        Property(
            "planned layers give the reference's bits in both layouts and write nothing else",
            st.tuples(
                cases.convs(scaled=True),
                st.sampled_from(("plain", "valid", "off")),
                st.sampled_from(("NHWC", "NCHW")),
                st.integers(0, 2),
            ),
            planned_is_exact,
        ),
    )
