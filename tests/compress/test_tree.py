"""Trees over output channels: minimum, shallow, the same every time, and refused where there is none."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import JIT_DISABLED
from xnor_ref.compress import prim, tree
from xnor_ref.compress.tree import Tree, build, check_fit, distances, filter_rows, from_parents, levels
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.layout import pack_bits, pack_mask

few = st.tuples(st.integers(2, 7), st.integers(1, 9), st.integers(0, 2**32 - 1))


def random_rows(channels, n_bits, seed=0, p=0.5):
    return pack_mask(np.random.default_rng(seed).random((channels, n_bits)) < p, -1)


def signs(rows, n_bits):
    bits = rows[:, np.arange(n_bits) // 64] >> (np.arange(n_bits) % 64).astype(np.uint64) & np.uint64(1)
    return 2 * bits.astype(np.int64) - 1


def depth_at_best_root(edges, channels):
    """The smallest eccentricity of a tree, by looking from every vertex."""
    far = np.where(np.eye(channels, dtype=bool), 0, channels)
    for a, b in edges:
        far[a, b] = far[b, a] = 1
    for k in range(channels):
        far = np.minimum(far, far[:, k : k + 1] + far[k])
    return int(far.max(axis=1).min())


def every_tree(channels):
    """The edges of every labelled tree, from its Prüfer sequence."""
    for sequence in itertools.product(range(channels), repeat=channels - 2):
        degree = [1 + sequence.count(v) for v in range(channels)]
        edges = []
        for v in sequence:
            leaf = degree.index(1)
            edges.append((leaf, v))
            degree[leaf] -= 1
            degree[v] -= 1
        yield [*edges, tuple(v for v in range(channels) if degree[v] == 1)]


def least_weight_and_depth(distance):
    """By brute force: the weight of a minimum spanning tree, and the smallest depth among all of that weight."""
    channels = len(distance)
    weighed = [(sum(distance[e] for e in edges), edges) for edges in every_tree(channels)]
    least = min(weight for weight, _ in weighed)
    return least, min(depth_at_best_root(edges, channels) for weight, edges in weighed if weight == least)


def check_tree(made: Tree):
    """One root, levels and order that fit the parents."""
    assert made.roots == 1 and made.level.min() == 0 and made.depth == made.level.max()
    place = np.argsort(made.order)
    for o, p in enumerate(made.parent):
        if p >= 0:
            assert made.level[o] == made.level[p] + 1 and place[p] < place[o]
    assert sorted(made.order.tolist()) == list(range(made.out_channels))


@given(st.tuples(st.integers(1, 9), st.sampled_from((1, 2, 63, 64, 65, 130)), st.integers(0, 99)))
def test_distances_are_numbers_of_signs_that_differ(case):
    channels, n_bits, seed = case
    rows = random_rows(channels, n_bits, seed)
    b = signs(rows, n_bits)
    want = (b[:, None] != b[None]).sum(axis=2)
    dirty = rows.copy()
    if n_bits % 64:
        dirty[0, -1] |= np.uint64(1 << 63)
    for given_rows in (rows, dirty):
        assert np.array_equal(distances(given_rows, n_bits), want)
    assert np.array_equal(want, (n_bits - b @ b.T) // 2)  # mathematics (26)


def test_brute_force_knows_all_trees():
    assert [sum(1 for _ in every_tree(n)) for n in (2, 3, 4, 5)] == [1, 3, 16, 125]  # n**(n-2)
    assert depth_at_best_root([(0, 1), (1, 2), (2, 3)], 4) == 2


def test_trees_are_minimum_and_nearly_always_shallowest():
    """With few signs there are many ties, and so many minimum trees; the search may miss the shallowest, rarely."""
    rng = np.random.default_rng(5)
    missed, cases = 0, 40 if JIT_DISABLED else 150
    for _ in range(cases):
        channels, n_bits = int(rng.integers(2, 7)), int(rng.integers(1, 9))
        rows = random_rows(channels, n_bits, int(rng.integers(2**31)))
        made = build(rows, n_bits)
        check_tree(made)
        weight, depth = least_weight_and_depth(distances(rows, n_bits))
        assert made.total_distance == weight
        assert depth <= made.depth <= depth + 1
        missed += made.depth > depth
    assert missed <= cases // 50


@given(few, st.booleans())
def test_distances_of_a_tree_are_those_of_its_filters(case, complement):
    channels, n_bits, seed = case
    rows = random_rows(channels, n_bits, seed)
    b = signs(rows, n_bits)
    for kind in ("mst", "star", "direct"):
        made = build(rows, n_bits, kind, complement)
        for o, p in enumerate(made.parent):
            if p >= 0:
                followed = -b[p] if made.negated[o] else b[p]
                assert made.distance[o] == (b[o] != followed).sum()
                assert not complement or made.distance[o] <= n_bits // 2
            else:
                assert made.distance[o] == 0 and not made.negated[o]
        if kind != "direct":
            check_tree(made)
        assert not made.negated.any() or complement
        check_fit(made, rows, n_bits)


@given(few)
def test_the_star_is_the_best_star_and_never_better_than_the_tree(case):
    channels, n_bits, seed = case
    rows = random_rows(channels, n_bits, seed)
    star = build(rows, n_bits, "star")
    assert star.depth == 1 and star.total_distance == distances(rows, n_bits).sum(axis=1).min()
    assert build(rows, n_bits).total_distance <= star.total_distance


def test_opposite_filters_follow_for_free():
    rows = pack_bits(np.float32([[1, 1, -1, 1, -1], [-1, -1, 1, -1, 1], [1, 1, -1, 1, 1]]))
    plain, negating = build(rows, 5), build(rows, 5, complement=True)
    assert plain.total_distance == 5 and negating.total_distance == 1
    assert sorted(negating.distance.tolist()) == [0, 0, 1] and negating.negated.sum() == 1


def test_the_centre_is_the_best_root():
    """Rooted in the middle of a longest path, the depth is ceil(diameter/2), and no root gives less."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        channels = int(rng.integers(2, 30))
        parent = np.array([-1, *(rng.integers(0, v) for v in range(1, channels))], np.int32)
        hung = tree._hung_at_centre(parent)
        edges = [(v, int(p)) for v, p in enumerate(hung) if p >= 0]
        assert {frozenset(e) for e in edges} == {frozenset((v, int(p))) for v, p in enumerate(parent) if p >= 0}
        assert levels(hung).max() == depth_at_best_root(edges, channels)


@given(st.tuples(st.integers(2, 20), st.integers(0, 8), st.integers(0, 2**32 - 1)))
def test_both_runs_of_prims_algorithm_grow_the_same_tree(case):
    channels, largest, seed = case
    rng = np.random.default_rng(seed)
    distance = rng.integers(0, largest + 1, (channels, channels)).astype(np.int32)
    distance = np.ascontiguousarray(np.triu(distance, 1) + np.triu(distance, 1).T)
    for start in (0, channels - 1):
        one, other = np.empty(channels, np.int32), np.empty(channels, np.int32)
        longest = prim.grow_reference(distance, start, one)
        assert prim.grow(distance, start, other) == longest and np.array_equal(one, other)
        level = levels(one)
        far = int(level.argmax())
        assert longest == levels(tree._hung_at(one, far)).max()


def test_equal_distances_go_to_the_shallower_parent():
    """All at distance 2 of each other: a star, whichever channel it starts from."""
    made = build(np.array([[1], [2], [4], [8], [16]], np.uint64), 5)
    assert made.depth == 1 and made.parent.tolist() == [-1, 0, 0, 0, 0]


def test_equal_filters():
    made = build(np.zeros((6, 2), np.uint64), 100)
    assert made.total_distance == 0 and made.depth == 1 and made.mean_fraction == 0


def test_results_do_not_depend_on_threads():
    rows = random_rows(24 if JIT_DISABLED else 90, 40, 3)
    first = build(rows, 40, threads=1)
    for threads in (2, 3):
        assert np.array_equal(build(rows, 40, threads=threads).parent, first.parent)


def test_fewer_starts_for_many_channels(monkeypatch):
    rows = random_rows(30, 60, 2)
    whole = build(rows, 60)
    for work in (1, 30 * 30 * 4):
        monkeypatch.setattr(tree, "_START_WORK", work)
        made = build(rows, 60)
        check_tree(made)
        assert made.total_distance == whole.total_distance and made.depth >= whole.depth


@pytest.mark.parametrize(
    ("shape", "ratio", "star", "depth"),
    [
        ((16, 144), 0.473, (0.48, 0.54), (3, 6)),
        ((64, 576), 0.462, (0.49, 0.52), (6, 13)),
        ((128, 1152), 0.469, (0.49, 0.51), (8, 20)),
        ((256, 2304), 0.474, (0.495, 0.505), (13, 25)),
        ((512, 4608), 0.479, (0.495, 0.505), (17, 32)),
    ],
)
def test_random_filters_as_in_the_specification(shape, ratio, star, depth):
    """About 2.1 times fewer XNORs come for free; the star saves half; complements add little."""
    if JIT_DISABLED and shape[0] > 64:
        pytest.skip("minutes without the compiler")
    channels, n_bits = shape
    rows = random_rows(channels, n_bits, 7)

    def rho(kind, complement=False):
        return (n_bits + build(rows, n_bits, kind, complement).total_distance) / (channels * n_bits)

    assert abs(rho("mst") - ratio) < 0.012 * (4 if channels == 16 else 1)
    assert star[0] < rho("star") < star[1]
    assert 0 < rho("mst") - rho("mst", True) < (0.025 if channels == 16 else 0.012)
    assert depth[0] <= build(rows, n_bits).depth <= depth[1]
    assert rho("direct") * channels == pytest.approx(1)  # nothing but the roots, whose distances are 0


def test_latent_weights():
    weight = np.float32([[[[0.5, -2]], [[0.0, -0.0]]], [[[-1, -1]], [[1, -1]]]])  # (2, 2, 1, 2)
    rows = filter_rows(weight)
    assert rows.tolist() == [[0b1101], [0b0100]]
    assert build(rows, 4).total_distance == 2


def test_errors_name_what_clashes():
    rows = random_rows(4, 10)
    with pytest.raises(InputError, match="at least two output channels, got 1"):
        build(rows[:1], 10)
    assert build(rows[:1], 10, "direct").roots == 1
    with pytest.raises(InputError, match="one of mst, star, direct; got 'steiner'"):
        build(rows, 10, "steiner")
    with pytest.raises(InputError, match="3 parents and 3 signs for 4 output channels"):
        from_parents(rows, 10, np.array([-1, 0, 0], np.int32), np.zeros(3, bool))
    with pytest.raises(InputError, match="channel 2 has the parent 4, but there are 4 channels"):
        from_parents(rows, 10, np.array([-1, 0, 4, 0], np.int32))
    with pytest.raises(InputError, match="channel 1 has the parent -2"):
        from_parents(rows, 10, np.array([-1, -2, 0, 0], np.int32))
    for cycle in ([1, 0, 0, 0], [-1, 2, 1, 0], [0, 0, 0, 0], [-1, 0, 2, 0]):
        with pytest.raises(InputError, match="form a cycle"):
            from_parents(rows, 10, np.array(cycle, np.int32))


def test_a_long_chain_has_its_levels_quickly():
    parent = np.arange(-1, 2**18 - 1, dtype=np.int32)
    assert np.array_equal(levels(parent), np.arange(2**18))


def test_a_tree_of_other_weights_is_noticed():
    rows = random_rows(5, 70, 1)
    made = build(rows, 70)
    with pytest.raises(InputError, match="5 filters of 70 signs, but the layer has 4 of 70"):
        check_fit(made, rows[:4], 70)
    changed = rows.copy()
    changed[made.order[-1], 0] ^= np.uint64(1)
    with pytest.raises(InputError, match=r"channel \d differs from its parent \d in \d+ signs, but the tree says \d+"):
        check_fit(made, changed, 70)
