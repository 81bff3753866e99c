"""Layers computed along their trees give the integers of the direct convolution, whatever shape, padding or tree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import JIT_DISABLED
from xnor_ref.compress import visits
from xnor_ref.compress.execute import TreeConv, tree_conv2d, tree_linear
from xnor_ref.compress.planes import Planes
from xnor_ref.compress.tree import KINDS, build, filter_rows, from_parents
from xnor_ref.compress.visits import FORMS
from xnor_ref.conformance.basics import oracle
from xnor_ref.errors import InputError, InputTypeError
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.ops import binary_ops
from xnor_ref.verify import cases
from xnor_ref.verify.kernels import check_equal

BACKENDS = ("reference",) if JIT_DISABLED else ("numba", "numba", "reference")
compiled = pytest.mark.skipif(JIT_DISABLED, reason="of compiled kernels")
ways = st.tuples(st.sampled_from(FORMS), st.sampled_from(BACKENDS), st.sampled_from(KINDS), st.booleans())


def tree_of(weight, kind="mst", complement=False):
    """A tree for weights of any memory layout; one channel alone has none."""
    rows = filter_rows(np.ascontiguousarray(weight, np.float32))
    return build(rows, weight[0].size, kind if len(weight) > 1 else "direct", complement)


def check_conv(case, way):
    form, backend, kind, complement = way
    x, weight = case.x.array(), case.weight.array()
    tree = tree_of(weight, kind, complement)
    window = case.window
    place = window.stride, window.padding, case.pad_value, form, backend, case.threads
    got, want = tree_conv2d(x, weight, tree, *place, dilation=window.dilation), case.sums()
    check_equal(got, want, "tree_conv2d")


@settings(max_examples=60 if JIT_DISABLED else 300)
@given(cases.convs(grouped=False), ways)
def test_convolutions_equal_the_oracle(case, way):
    check_conv(case, way)


@compiled
@settings(max_examples=12)
@given(cases.chunked().map(cases.Conv), ways.filter(lambda way: way[1] != "reference"))
def test_chunks_shared_by_threads(case, way):
    check_conv(case, way)


@compiled
@settings(max_examples=10)
@given(cases.kit.longest_conv2d(cases.LIMITS).map(cases.Conv), ways)
def test_sums_of_76800_signs(case, way):
    """A byte holds sums of at most 127 signs, and 16 bits less than these."""
    check_conv(case, way)


@settings(max_examples=40 if JIT_DISABLED else 120)
@given(cases.kit.linear(cases.LIMITS), ways)
def test_linear_layers_equal_the_oracle(case, way):
    form, backend, kind, complement = way
    x, weight = (recipe.array() for recipe in case.data.values())
    got = tree_linear(x, weight, tree_of(weight, kind, complement), form, backend, case.keywords["threads"])
    check_equal(got, (oracle.signs(x) @ oracle.signs(weight).T).astype(np.int64), "tree_linear")


@st.composite
def any_trees(draw):
    """Parents and signs that follow no rule but that there is no cycle."""
    channels = draw(st.integers(1, 9))
    parent = [draw(st.integers(-1, v - 1)) for v in range(channels)]
    turned = draw(st.permutations(range(channels)))
    parents = np.empty(channels, np.int32)
    for v, p in enumerate(parent):
        parents[turned[v]] = -1 if p < 0 else turned[p]
    return parents, np.array(draw(st.lists(st.booleans(), min_size=channels, max_size=channels)))


@settings(max_examples=30 if JIT_DISABLED else 80)
@given(any_trees(), st.sampled_from(FORMS), st.sampled_from(BACKENDS), st.sampled_from((0, 1, -1)))
def test_any_tree_will_do(tree, form, backend, pad_value):
    parent, negated = tree
    rng = np.random.default_rng(len(parent))
    x, weight = rng.standard_normal((2, 65, 3, 4), np.float32), rng.standard_normal((len(parent), 65, 2, 3), np.float32)
    made = from_parents(filter_rows(weight), weight[0].size, parent, negated)
    got = tree_conv2d(x, weight, made, (2, 1), (1, 2), pad_value, form, backend)
    check_equal(got, oracle.sign_convolution(x, weight, (2, 1), (1, 2), pad_value), "tree_conv2d")


def test_the_identity_in_both_forms():
    """mathematics (26) and (27) for one window; the second for counts of equal signs."""
    rng = np.random.default_rng(4)
    for border in (0, 1, -1):
        x = rng.choice([-1, 1], 50)
        x[:7] = border
        b = rng.choice([-1, 1], (2, 50))
        z = b @ x
        differ = b[0] != b[1]
        assert z[1] == z[0] + 2 * (b[1] * x)[differ].sum()
        assert differ.sum() == (50 - b[0] @ b[1]) // 2
        if border:
            equal = (b == x).sum(axis=1)
            within = (b[1] == x)[differ].sum()
            assert equal[1] == equal[0] - differ.sum() + 2 * within
            assert z[1] == z[0] + 2 * (2 * within - differ.sum())


def test_a_layer_worked_by_hand():
    """Filters ++-+, +--+ and --++ on the signs +-+-: 1 follows from 0 in one place, 2 from 1 in two."""
    weight = np.float32([[1, 1, -1, 1], [1, -1, -1, 1], [-1, -1, 1, 1]])
    made = tree_of(weight)
    assert made.parent.tolist() == [1, -1, 1] and made.distance.tolist() == [1, 0, 2]
    # Z_1 = 1+1-1-1 = 0; Z_0 = 0 + 2*(-1) = -2; Z_2 = 0 + 2*(-1 + 1) = 0
    for form in FORMS:
        assert tree_linear(np.float32([[1, -1, 1, -1]]), weight, made, form).tolist() == [[-2, 0, 0]]


def test_what_is_visited_is_what_differs():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((12, 70, 3, 3)).astype(np.float32)
    made = tree_of(weight)
    words = binary_ops.pack_weight(weight)
    single = visits.Weights(words, 70, made)
    assert len(single.taps[0]) == 630 + made.total_distance
    assert ((single.ends[:, 2] - single.ends[:, 0])[made.parent >= 0] == made.distance[made.parent >= 0]).all()
    whole = visits.Words(words, 70, made)
    assert np.bitwise_count(whole.masks).sum() == 630 + made.total_distance and (whole.masks != 0).all()


def test_planes_hold_each_pixel_once():
    """Every tap of every output is found at its place plus oy*width + ox."""
    for size, kernel, stride, padding in (
        ((5, 6), (3, 3), (1, 1), (1, 1)),
        ((5, 4), (2, 3), (3, 2), (0, 4)),
        ((3, 7), (1, 1), (2, 3), (0, 0)),
        ((1, 9), (1, 4), (5, 3), (2, 1)),
    ):
        planes = Planes(size, Window.of(kernel, stride, padding))
        x = np.arange(1, 1 + size[0] * size[1] * 2, dtype=np.uint64).reshape(1, *size, 2)
        flat = planes.word_planes(x)
        assert len(flat) == planes.elements(2) + 64
        pads = [(padding[0],) * 2, (padding[1],) * 2]
        for word in range(2):
            padded = np.pad(x[0, :, :, word], pads)
            for ky, kx in np.ndindex(*kernel):
                place = planes.places(np.array(word), np.array(ky), np.array(kx))
                for oy, ox in np.ndindex(*planes.out_size):
                    want = padded[oy * stride[0] + ky, ox * stride[1] + kx]
                    assert flat[place + oy * planes.width + ox] == want
        assert planes.inside().sum() == np.count_nonzero(flat) // 2


def count_once(m, layers):
    layers["weights"]._visits.factor[:] = layers["words"]._visits.totals[:, 1] = 1


def forget_signs(m, layers):
    for layer in layers.values():
        layer._sign[:] = 1


def forget_the_border(m, layers):
    m.setattr(visits.reference, "border_sums", lambda words, *_: np.int32(0))


def take_the_border_for_signs(m, layers):
    m.setattr(Planes, "inside", lambda planes: np.ones((1, planes.length), np.int8))


@compiled
@pytest.mark.parametrize(
    ("plant", "caught_in"),
    [
        (count_once, FORMS),
        (forget_signs, FORMS),
        (forget_the_border, ("words",)),
        (take_the_border_for_signs, ("weights",)),
    ],
)
def test_planted_faults_are_found(plant, caught_in, monkeypatch):
    rng = np.random.default_rng(1)
    x, weight = rng.standard_normal((1, 5, 6, 6), np.float32), rng.standard_normal((9, 5, 3, 3)).astype(np.float32)
    weight[4:] = -weight[:5]
    tree = tree_of(weight, complement=True)
    assert tree.negated.any()
    words, x_words = binary_ops.pack_weight(weight), binary_ops.sign_pack(x)
    layers = {form: TreeConv(words, 5, tree, Window.of(3, padding=1), 0, form) for form in FORMS}
    want = oracle.sign_convolution(x, weight, (1, 1), (1, 1), 0)
    plant(monkeypatch, layers)
    wrong = [form for form, layer in layers.items() if (layer.run(x_words, "numba", 1) != want).any()]
    assert tuple(wrong) == tuple(caught_in)


@compiled
def test_threads_and_batches_do_not_change_results():
    rng = np.random.default_rng(2)
    x, weight = rng.standard_normal((7, 64, 9, 9), np.float32), rng.standard_normal((65, 64, 3, 3)).astype(np.float32)
    tree = tree_of(weight)
    for form in FORMS:
        layer = TreeConv(binary_ops.pack_weight(weight), 64, tree, Window.of(3, padding=1), 0, form)
        words = binary_ops.sign_pack(x)
        whole = layer.run(words, threads=1)
        assert np.array_equal(layer.run(words, threads=3), whole)
        assert np.array_equal(np.concatenate([layer.run(words[i : i + 1], threads=2) for i in range(7)]), whole)
        small = layer.run(np.ascontiguousarray(words[:, :5, :4]), threads=1)  # another size with the same layer
        assert np.array_equal(
            small, binary_ops.conv2d_bits(words[:, :5, :4].copy(), layer.words, 64, Window.of(3, padding=1), 0)
        )


def test_tail_bits_of_the_input_are_ignored():
    rng = np.random.default_rng(2)
    x, weight = rng.standard_normal((1, 3, 4, 4), np.float32), rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    words = binary_ops.sign_pack(x)
    for form in FORMS:
        layer = TreeConv(binary_ops.pack_weight(weight), 3, tree_of(weight), Window.of(3, padding=1), 1, form)
        assert np.array_equal(layer.run(words | np.uint64(1 << 40)), layer.run(words))


def test_one_channel_and_no_tree():
    x, weight = np.ones((2, 3, 4, 4), np.float32), -np.ones((1, 3, 2, 2), np.float32)
    assert (tree_conv2d(x, weight) == -12).all()
    assert tree_linear(x.reshape(2, -1), np.ones((1, 48), np.float32)).tolist() == [[48], [48]]


def test_errors_name_what_clashes():
    rng = np.random.default_rng(3)
    x, weight = rng.standard_normal((1, 3, 4, 4), np.float32), rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    with pytest.raises(InputError, match="the tree has 4 filters of 27 signs, but the layer has 3 of 27"):
        tree_conv2d(x, weight[:3], tree_of(weight))
    with pytest.raises(InputError, match="the tree does not match the weights: channel"):
        tree_conv2d(x, -weight[::-1], tree_of(weight * np.float32([[[[1]]], [[[-1]]], [[[1]]], [[[1]]]])))
    with pytest.raises(InputError, match="form must be one of weights, words; got 'bytes'"):
        tree_conv2d(x, weight, form="bytes")
    with pytest.raises(InputError, match='"float" does not support trees'):
        tree_linear(x.reshape(1, -1), np.ones((2, 48), np.float32), backend="float")
    with pytest.raises(InputError, match="weight has C=3, input has C=2"):
        tree_conv2d(x[:, :2], weight)
    with pytest.raises(InputTypeError, match="must be float32"):
        tree_conv2d(x.astype(np.float64), weight)
    with pytest.raises(InputError, match="of memory"):
        tree_conv2d(np.ones((1, 4096, 1, 1), np.float32), np.ones((1, 4096, 1, 1), np.float32), padding=5000)
