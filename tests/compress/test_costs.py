"""Costs of layers along trees: worked by hand, and the figures of the specification."""

import math

import numpy as np
import pytest

from tests.compress.test_tree import random_rows
from xnor_ref.compress import costs
from xnor_ref.compress.costs import layer_costs, touched_words
from xnor_ref.compress.tree import build, from_parents
from xnor_ref.kernels.basics.layout import pack_bits


def by_hand():
    """Four filters of 8 signs: 1 follows from 0 (1 differs), 2 from 1 (3 differ), 3 from 0 negated (2 differ)."""
    first = np.float32([1, 1, -1, 1, -1, -1, 1, 1])
    second = first * np.float32([1, 1, 1, -1, 1, 1, 1, 1])
    third = second * np.float32([-1, 1, -1, 1, 1, 1, 1, -1])
    fourth = -first * np.float32([-1, -1, 1, 1, 1, 1, 1, 1])
    rows = pack_bits(np.stack([first, second, third, fourth]))
    return from_parents(rows, 8, np.array([-1, 0, 1, 0], np.int32), np.array([0, 0, 0, 1], bool)), rows


def test_a_layer_worked_by_hand():
    tree, rows = by_hand()
    assert tree.distance.tolist() == [0, 1, 3, 2] and tree.depth == 2
    found = layer_costs(tree, outputs=10)
    assert found.direct_xnors == 4 * 8 * 10 and found.tree_xnors == (8 + 6) * 10 and found.tree_adds == 30
    assert found.ratio == 14 / 32
    assert found.direct_bits == 32 and found.wired_bits == 14
    assert found.positions_bits == 8 + 6 * 3 + 3 * 2 + 3  # positions of 8, parents of 4, a sign for each edge
    entropy = [8 * (-d / 8 * math.log2(d / 8) - (1 - d / 8) * math.log2(1 - d / 8)) for d in (1, 3, 2)]
    assert found.entropy_bits == pytest.approx(8 + sum(entropy) + 3)
    assert found.reads == 30 and found.read_bits == 30 * 5  # -8 to 8: 17 values
    assert touched_words(rows, tree) == 1
    assert found.to_dict()["ratio"] == found.ratio


def test_without_a_tree_everything_is_as_before():
    direct = layer_costs(build(random_rows(5, 70), 70, "direct"), 9)
    assert direct.ratio == 1 and direct.tree_adds == direct.reads == direct.depth == 0
    assert direct.direct_bits == direct.wired_bits == direct.positions_bits == direct.entropy_bits == 350


def test_totals_add_up():
    a = layer_costs(build(random_rows(5, 70), 70), 9)
    b = layer_costs(build(random_rows(9, 33), 33, "star"), 4)
    both = costs.total([a, b])
    assert both.direct_xnors == 5 * 70 * 9 + 9 * 33 * 4 and both.tree_xnors == a.tree_xnors + b.tree_xnors
    assert both.depth == max(a.depth, b.depth) and both.entropy_bits == a.entropy_bits + b.entropy_bits
    assert both.ratio == both.tree_xnors / both.direct_xnors


def test_explicit_positions_pay_below_one_in_log2_n():
    """mathematics, MST-compression: smaller than o*n bits only if the mean of d/n is below 1/ceil(log2 n)."""
    for n, limit in ((576, 0.10), (4608, 0.077)):
        assert 1 / costs.bits_to_name(n) == pytest.approx(limit, abs=0.0005)
    n, o = 576, 200
    for fraction, pays in ((0.08, True), (0.12, False)):
        rows = np.zeros((o, 9), np.uint64)
        differ = np.arange(n) < round(fraction * n)
        rows[1:] = np.packbits(differ, bitorder="little").view("<u8")
        star = from_parents(rows, n, np.array([-1] + [0] * (o - 1), np.int32))
        assert star.mean_fraction == round(fraction * n) / n
        found = layer_costs(star, 1)
        assert (found.positions_bits < found.direct_bits) == pays


def test_words_that_hold_a_difference():
    """mathematics, MST-compression: 1 - (1 - p)**64 of the words; 96 % at p = .05, 73 % at .02, 47 % at .01."""
    for p, touched in ((0.05, 0.96), (0.02, 0.73), (0.01, 0.47)):
        assert 1 - (1 - p) ** 64 == pytest.approx(touched, abs=0.005)
        rng = np.random.default_rng(3)
        rows = random_rows(1, 6400, 1)
        flips = np.packbits(rng.random((60, 6400)) < p, axis=1, bitorder="little").view("<u8")
        rows = np.concatenate([rows, rows ^ flips])
        star = from_parents(rows, 6400, np.array([-1] + [0] * 60, np.int32))
        assert touched_words(rows, star) == pytest.approx(1 - (1 - p) ** 64, abs=0.02)
    for negated in (False, True):
        rows = np.array([[5, 0], [5, 0]], np.uint64) if not negated else np.array([[5, 0], [2**64 - 6, 63]], np.uint64)
        tree = from_parents(rows, 70, np.array([-1, 0], np.int32), np.array([False, negated]))
        assert touched_words(rows, tree) == 0 and tree.total_distance == 0


@pytest.mark.parametrize(
    ("layers", "megabits", "xnors"),
    [  # (in, out, side of the output): the binary 3x3 layers of each network
        ([(128, 128, 32), (128, 256, 16), (256, 256, 16), (256, 512, 8), (512, 512, 8)], 4.571, 0.604e9),
        ([(64, 64, 32)] * 4 + [(64, 128, 16)] + [(128, 128, 16)] * 3 + [(128, 256, 8)] + [(256, 256, 8)] * 3
         + [(256, 512, 4)] + [(512, 512, 4)] * 3, 10.985, 0.547e9),
        ([(64, 64, 56)] * 4 + [(64, 128, 28)] + [(128, 128, 28)] * 3 + [(128, 256, 14)] + [(256, 256, 14)] * 3
         + [(256, 512, 7)] + [(512, 512, 7)] * 3, 10.985, 1.676e9),
        ([(64, 64, 64)] * 4 + [(64, 128, 32)] + [(128, 128, 32)] * 3 + [(128, 256, 16)] + [(256, 256, 16)] * 3
         + [(256, 512, 8)] + [(512, 512, 8)] * 3, 10.985, 2.189e9),
        ([(16, 16, 32)] * 6 + [(16, 32, 16)] + [(32, 32, 16)] * 5 + [(32, 64, 8)] + [(64, 64, 8)] * 5, 0.267, 0.040e9),
    ],
    ids=("VGG-small, CIFAR", "ResNet-18, CIFAR", "ResNet-18, ImageNet", "ResNet-18, 64x64", "ResNet-20"),
)  # fmt: skip
def test_networks_of_the_specification(layers, megabits, xnors):
    found = costs.total(
        layer_costs(build(np.zeros((o, -(-9 * i // 64)), np.uint64), 9 * i, "direct"), side * side)
        for i, o, side in layers
    )
    assert found.direct_bits / 1e6 == pytest.approx(megabits, abs=0.0015)
    assert found.direct_xnors == pytest.approx(xnors, abs=0.0006e9)
