"""Planned networks with layers along trees: the same bits whichever way a layer takes, and when each is tried."""

import copy

import numpy as np
import pytest

from tests.compress.test_compress_file import close_filters, in_trees, one_convolution
from tests.packed import packed_samples
from xnor_ref.compress.execute import TreeConv
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.packed import file, plan, trees
from xnor_ref.packed.runtime import PackedNetwork

pytestmark = pytest.mark.skipif(not has_vectors(), reason="of planned networks")


def binary_nodes(sample):
    examined = file.examine(sample.metadata, sample.tensors)
    return examined, [index for index, node in enumerate(examined.nodes) if node.op.startswith("binary")]


def every_network():
    """Networks with trees in which BatchNorm, thresholds, pooling and other binary layers surround each layer."""
    yield packed_samples.every_op(seed=3)
    chain = packed_samples.Sample(shape=(3, 12, 12), classes=7, seed=4)
    chain.conv2d(3, 64)
    chain.affine(64)
    chain.binary_conv2d(64, 70, scale="off")
    chain.pool("max_pool", 2, 2, 0)
    chain.binary_conv2d(70, 64, scale="off", threshold=True)
    chain.binary_conv2d(64, 33, scale="off", threshold=True)
    chain.node("global_avg_pool")
    chain.affine(33)
    chain.binary_linear(33, 7)
    yield chain


@pytest.mark.parametrize("number", [0, 1])
def test_every_choice_of_layers_gives_the_same_bits(number):
    sample = list(every_network())[number]
    pixels = sample.pixels(3)
    want = sample.network().logits(pixels, backend="reference")
    held = in_trees(sample)
    examined, binary = binary_nodes(held)
    for along in (*(frozenset({index}) for index in binary), frozenset(binary), frozenset(binary[::2])):
        blueprint = plan.Blueprint(examined, along)
        assert sum("along a tree" in stage.op for stage in blueprint.stages) == len(along)
        for batch, threads in ((3, 1), (4, 2)):
            out = np.empty((3, want.shape[1]), np.float32)
            plan.Plan(blueprint, batch).run(pixels, out, threads)
            assert np.array_equal(out, want), along


@pytest.mark.parametrize("quick", [True, False])
def test_the_measured_way_is_taken(monkeypatch, quick):
    sample = one_convolution(close_filters(16, 0.002))
    pixels = sample.pixels(2)
    want = sample.network().logits(pixels)
    network, asked, ran = in_trees(sample).network(), [], []
    run = TreeConv.run
    monkeypatch.setattr(plan, "faster", lambda one, other: asked.append((one, other)) or quick)
    monkeypatch.setattr(TreeConv, "run", lambda *arguments: ran.append(1) or run(*arguments))
    for _ in range(3):
        assert np.array_equal(network.logits(pixels), want)
    assert len(asked) == 1 and bool(ran) == quick
    assert ("along a tree" in network.profile(pixels)[1][1]) == quick


def test_measuring_changes_no_bit():
    sample = one_convolution(close_filters(16, 0.002))
    pixels = sample.pixels(2)
    assert np.array_equal(in_trees(sample).network().logits(pixels), sample.network().logits(pixels))


@pytest.mark.parametrize(("p", "tried"), [(0.002, 1), (0.05, 0)])
def test_only_close_filters_are_tried(monkeypatch, p, tried):
    sample = in_trees(one_convolution(close_filters(16, p)))
    fraction = file.examine(sample.metadata, sample.tensors).nodes[0].step.arguments["tree"].mean_fraction
    assert (fraction <= trees.CLOSE_TO_VECTORS) == bool(tried)
    asked = []
    monkeypatch.setattr(plan, "faster", lambda *_: bool(asked.append(1)))
    sample.network().logits(sample.pixels(1))
    assert len(asked) == tried


def test_a_network_without_trees_is_measured_never(monkeypatch):
    monkeypatch.setattr(plan, "faster", lambda *_: 1 / 0)
    sample = packed_samples.every_op()
    assert PackedNetwork(copy.deepcopy(sample.metadata), sample.tensors).logits(sample.pixels(1)).shape == (1, 5)
