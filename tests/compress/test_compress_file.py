"""Layers along trees in bytes and in model files: exact, close to the bound, and refused when they are not sound."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compress.test_tree import random_rows
from tests.conftest import JIT_DISABLED
from tests.packed import independent_reader, packed_samples
from tests.packed.packed_samples import Sample
from tests.packed.test_format import DOCUMENT
from xnor_ref.compress import codec
from xnor_ref.compress.costs import layer_costs
from xnor_ref.compress.tree import build, from_parents
from xnor_ref.errors import InputError, ModelFileError
from xnor_ref.kernels.basics.layout import pack_mask
from xnor_ref.packed import PackedNetwork, compressing, load_packed, trees
from xnor_ref.packed import file as packed_file

SIZES = (1, 2, 63, 64, 65, 127, 130)


def pulled_rows(channels, n_bits, p, seed=0):
    """Filters around a common one, each sign turned with probability p."""
    rng = np.random.default_rng(seed)
    return pack_mask((rng.random((channels, n_bits)) < p) ^ (rng.random(n_bits) < 0.5), -1)


def in_trees(sample, **options):
    """The same network with its binary layers along trees, as a Sample."""
    network = packed_file.examine(sample.metadata, sample.tensors)
    made = compressing.compress(sample.metadata, sample.tensors, network, **{"store": "tree"} | options)
    other = copy.copy(sample)
    other.metadata, other.tensors = made.metadata, made.tensors
    return other


def refused(sample, pattern):
    with pytest.raises(ModelFileError, match=pattern) as caught:
        sample.network()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


# --- bytes


@settings(max_examples=40 if JIT_DISABLED else 200)
@given(
    st.integers(2, 12),
    st.sampled_from(SIZES),
    st.sampled_from((0.0, 0.02, 0.3, 0.5, 1.0)),
    st.sampled_from(("mst", "star")),
    st.booleans(),
    st.integers(0, 99),
)
def test_what_is_decoded_is_what_was_encoded(channels, n_bits, p, kind, complement, seed):
    rows = pulled_rows(channels, n_bits, p, seed)
    tree = build(rows, n_bits, kind, complement)
    stream = codec.encode(rows, tree)
    found, its_tree = codec.decode(stream, channels, n_bits)
    assert np.array_equal(found, rows)
    assert np.array_equal(its_tree.parent, tree.parent) and np.array_equal(its_tree.negated, tree.negated)
    signs = independent_reader.rows_along_tree(stream, channels, n_bits)
    assert np.array_equal(signs, independent_reader.signs(rows, n_bits))


def test_the_example_of_the_document():
    rows = np.array([[0b11], [0b01]], np.uint64)
    stream = codec.encode(rows, from_parents(rows, 2, np.array([-1, 0], np.int32)))
    assert stream.tobytes().hex(" ") == "2e 38 e3 8d" and "`2e 38 e3 8d`" in DOCUMENT


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5])
def test_the_stream_is_close_to_the_entropy(p):
    channels, n_bits = (24, 300) if JIT_DISABLED else (128, 1152)
    rows = pulled_rows(channels, n_bits, p)
    tree = build(rows, n_bits)
    bound = layer_costs(tree, 1).entropy_bits / 8
    told = channels * (np.log2(channels) + np.log2(n_bits + 1) + 1) / 8  # parents, distances, signs
    size = len(codec.encode(rows, tree))
    assert 0.99 * bound - channels < size < 1.002 * bound + told + 4
    others = codec.other_codings(rows, tree)
    assert others["bits"] == rows.nbytes
    if p < 0.5 and not JIT_DISABLED:
        assert size <= min(others.values())


@settings(max_examples=30 if JIT_DISABLED else 150)
@given(st.binary(min_size=1, max_size=60), st.integers(1, 6), st.sampled_from((1, 5, 64, 70)))
def test_any_bytes_are_a_layer_or_refused(data, channels, n_bits):
    """What is accepted is written again as the same bytes: a layer along a tree has one form only."""
    stream = np.frombuffer(data, np.uint8)
    try:
        rows, tree = codec.decode(stream, channels, n_bits)
    except ModelFileError as error:
        assert "\n" not in str(error)
    else:
        assert tree.roots == 1 and np.array_equal(codec.encode(rows, tree), stream)


def test_every_cut_and_every_longer_stream_is_refused():
    rows = pulled_rows(6, 130, 0.1)
    stream = codec.encode(rows, build(rows, 130))
    for length in range(len(stream)):
        with pytest.raises(ModelFileError):
            codec.decode(stream[:length], 6, 130)
    for tail in (0, 1, 255):
        with pytest.raises(ModelFileError, match=rf"end after {len(stream)} of {len(stream) + 1} bytes, or are alt"):
            codec.decode(np.append(stream, np.uint8(tail)), 6, 130)


def test_altered_bytes_are_noticed_or_another_layer():
    rows = pulled_rows(6, 130, 0.1)
    stream = codec.encode(rows, build(rows, 130))
    for at in range(len(stream)):
        changed = stream.copy()
        changed[at] ^= 1 << at % 8
        try:
            found, tree = codec.decode(changed, 6, 130)
        except ModelFileError:
            continue
        assert not np.array_equal(found, rows) or not np.array_equal(tree.parent, build(rows, 130).parent)


def forged(parent):
    """A stream that says these parents, whatever they are; all filters equal."""
    from xnor_ref.compress import range_coder

    out = np.zeros(100, np.uint8)
    zeros = np.zeros(len(parent), np.int64)
    flips = np.zeros((len(parent), 1), np.uint64)
    return out[: range_coder.encode(flips, np.array(parent), zeros, zeros, 9, out)]


def test_trees_that_are_none():
    assert codec.decode(forged([0, 0, 1]), 3, 9)[1].depth == 2
    for parent, words in (
        ([0, 1, 0], "2 roots"),
        ([1, 2, 0], "0 roots"),
        ([0, 2, 1], "form a cycle"),
        ([0, 0, 3, 2], "parents of channel 2 form a cycle"),
    ):
        with pytest.raises(ModelFileError, match=words):
            codec.decode(forged(parent), len(parent), 9)


def test_bombs_are_refused_before_anything_is_allocated():
    stream = forged([0, 0, 1])
    for channels, n_bits, words in (
        (2**24, 2**20, "more than the limit of 268435456"),
        (3, 2**24 - 1, "more than the"),
        (2**20, 2**8, "a byte may hold at most 4096"),
        (0, 9, "more than"),
    ):
        with pytest.raises(ModelFileError, match=words):
            codec.decode(stream, channels, n_bits)


def test_what_cannot_be_encoded_is_said():
    rows = random_rows(3, 10)
    with pytest.raises(InputError, match="has 3 roots; it must have one"):
        codec.encode(rows, build(rows, 10, "direct"))
    wide = np.zeros((2, 2**18), np.uint64)
    with pytest.raises(InputError, match="2 filters of 16777216 signs; at most 16777214"):
        codec.encode(wide, build(wide, 2**24))


# --- model files


@pytest.mark.parametrize("options", [{}, {"kind": "star"}, {"complement": True}])
def test_every_op_gives_the_same_logits(tmp_path, options):
    sample = packed_samples.every_op(seed=3)
    held = in_trees(sample, **options)
    assert held.metadata["version"] == 2
    plain, along = sample.network(), held.network()
    pixels = sample.pixels(5)
    want = plain.logits(pixels)
    assert np.array_equal(along.logits(pixels), want)
    for how in trees.EXECUTIONS:
        for backend in ("reference", "float") if JIT_DISABLED else ("numba", "reference", "float"):
            with trees.execution(how):
                assert np.array_equal(along.logits(pixels, backend=backend), want)
    along.save(tmp_path / "one")
    again = load_packed(tmp_path / "one")
    again.save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert np.array_equal(again.logits(pixels), want)
    assert [row["bits"] for row in again.summary()] == [row["bits"] for row in plain.summary()]
    assert {row["stored"] for row in again.summary()} == {None, "tree"}


def test_the_tree_is_really_taken(monkeypatch):
    from xnor_ref.compress import execute

    sample = in_trees(packed_samples.every_op(seed=3))
    network, pixels = sample.network(), sample.pixels(2)
    backend = "reference" if JIT_DISABLED else "numba"
    want = network.logits(pixels, backend=backend)
    monkeypatch.setattr(execute.TreeConv, "run", lambda *_: 1 / 0)
    with trees.execution("direct"):
        assert np.array_equal(network.logits(pixels, backend=backend), want)
    with trees.execution("tree"), pytest.raises(ZeroDivisionError):
        network.logits(pixels, backend=backend)
    with pytest.raises(InputError, match="one of auto, direct, tree; got 'fast'"), trees.execution("fast"):
        pass


def one_convolution(weight):
    """A network of one convolution with these weights (O, 64, 3, 3)."""
    sample = Sample(shape=(64, 4, 4), classes=len(weight))
    sample.metadata["input"] |= {"mean": [0.5] * 64, "std": [0.25] * 64}
    sample.normal = lambda *shape: weight
    sample.binary_conv2d(64, len(weight), scale="off", alpha=False)
    sample.node("global_avg_pool")
    return sample


def close_filters(channels, p):
    """Signs of filters around a common one, (O, 64, 3, 3)."""
    signs = independent_reader.signs(pulled_rows(channels, 576, p), 576)
    return signs.reshape(channels, 64, 3, 3).astype(np.float32)


@pytest.mark.skipif(JIT_DISABLED, reason="of compiled kernels")
@pytest.mark.parametrize("faster", [True, False])
def test_the_faster_way_is_measured_once(monkeypatch, faster):
    sample = one_convolution(close_filters(16, 0.01))
    pixels = sample.pixels(2)
    want = sample.network().logits(pixels)
    network, asked, ran = in_trees(sample).network(), [], []
    along = trees.Along._along
    monkeypatch.setattr(trees.Along, "_measured", lambda *_: asked.append(1) or faster)
    monkeypatch.setattr(trees.Along, "_along", lambda *arguments: ran.append(1) or along(*arguments))
    for _ in range(3):
        assert np.array_equal(network.logits(pixels, backend="numba"), want)
    assert len(asked) == 1 and len(ran) == (3 if faster else 0)


@pytest.mark.skipif(JIT_DISABLED, reason="of compiled kernels")
@pytest.mark.parametrize(("p", "measured"), [(0.01, True), (0.4, False)])
def test_measuring_changes_no_result_and_far_filters_are_not_measured(p, measured, monkeypatch):
    sample = one_convolution(close_filters(16, p))
    pixels, ran = sample.pixels(2), []
    along = trees.Along._along
    monkeypatch.setattr(trees.Along, "_along", lambda *arguments: ran.append(1) or along(*arguments))
    got = in_trees(sample).network().logits(pixels, backend="numba")
    assert np.array_equal(got, sample.network().logits(pixels)) and bool(ran) == measured


def test_the_independent_reader_agrees(tmp_path):
    for seed in (1, 2):
        sample = in_trees(packed_samples.every_op(seed=seed), complement=seed == 2)
        network = sample.network()
        network.save(tmp_path / "model")
        pixels = sample.pixels(4)
        assert np.abs(network.logits(pixels) - independent_reader.logits(tmp_path / "model", pixels)).max() <= 1e-4


def test_layers_that_do_not_become_smaller_stay_bits():
    sample = one_convolution(Sample().normal(20, 64, 3, 3))
    network = packed_file.examine(sample.metadata, sample.tensors)
    made = compressing.compress(sample.metadata, sample.tensors, network)
    assert made.metadata == sample.metadata and made.tensors.keys() == sample.tensors.keys()
    assert all(np.array_equal(made.tensors[name], array) for name, array in sample.tensors.items())
    (layer,) = made.layers
    assert layer.stored == "bits" and "bytes along its tree" in layer.note


def test_close_filters_become_smaller_and_can_be_held_anew():
    sample = one_convolution(close_filters(32, 0.03))
    held = in_trees(sample, store="auto")
    name = held.metadata["graph"][0]["name"]
    assert held.tensors[f"{name}.tree"].nbytes < 0.4 * sample.tensors[f"{name}.bits"].nbytes
    pixels = sample.pixels(3)
    for again in (held, in_trees(held, kind="star")):
        assert np.array_equal(again.network().logits(pixels), sample.network().logits(pixels))


@pytest.mark.parametrize("pad_value", [0, -1])
def test_layers_with_dilation_and_uneven_padding_go_along_trees_and_those_in_groups_stay_bits(pad_value, tmp_path):
    sample = packed_samples.version_5(pad_value)
    held, pixels = in_trees(sample), sample.pixels(3)
    network, want = held.network(), sample.network().logits(pixels)
    binary = [row["stored"] for row in network.summary() if row["op"] == "binary_conv2d"]
    assert binary == ["bits", "bits", "tree"] and held.metadata["version"] == 5
    for how in trees.EXECUTIONS:
        with trees.execution(how):
            for backend in ("auto", "reference"):
                assert np.array_equal(network.logits(pixels, backend=backend), want)
    network.save(tmp_path / "model")
    assert np.abs(independent_reader.logits(tmp_path / "model", pixels) - want).max() < 1e-4


def test_a_layer_in_groups_that_a_file_holds_along_a_tree_is_computed_directly():
    sample = Sample((6, 5, 5), classes=8)
    sample.metadata["version"] = 5
    sample.metadata["input"] |= {"mean": [0.5] * 6, "std": [0.25] * 6}
    sample.binary_conv2d(6, 8, groups=2, dilation=[2, 1])
    sample.node("global_avg_pool")
    pixels = sample.pixels(2)
    want = sample.network().logits(pixels)
    with pytest.raises(InputError, match="the operations are binary_conv2d in groups, global_avg_pool"):
        in_trees(sample)
    rows = sample.tensors.pop("n0.binary_conv2d.bits")
    sample.tensors["n0.binary_conv2d.tree"] = codec.encode(rows, build(rows, 27))
    sample.metadata["graph"][0]["out_channels"] = 8
    with trees.execution("tree"):
        assert np.array_equal(sample.network().logits(pixels, backend="numba"), want)


def test_networks_without_trees_are_refused():
    sample = Sample(shape=(2, 3, 3), classes=2)
    sample.node("flatten")
    sample.linear(18, 2)
    with pytest.raises(InputError, match="both binary weights and binary inputs; the operations are flatten, linear"):
        in_trees(sample)
    sample = Sample(shape=(2, 3, 3), classes=1)
    sample.binary_conv2d(2, 1)
    sample.node("global_avg_pool")
    with pytest.raises(InputError, match=r"at least two output channels, but n0\.binary_conv2d has only one"):
        in_trees(sample)
    with pytest.raises(InputError, match="got 'direct' and 'tree'"):
        in_trees(packed_samples.tiny(), kind="direct")


def test_a_layer_of_one_channel_beside_others():
    sample = Sample(shape=(2, 5, 5), classes=1)
    sample.binary_conv2d(2, 70)
    sample.binary_conv2d(70, 1)
    sample.node("global_avg_pool")
    held = in_trees(sample)
    network = packed_file.examine(sample.metadata, sample.tensors)
    made = compressing.compress(sample.metadata, sample.tensors, network, store="tree")
    assert [layer.stored for layer in made.layers] == ["tree", "bits"]
    assert made.layers[1].note.startswith("one output channel") and made.layers[1].costs.ratio == 1
    pixels = sample.pixels(2)
    assert np.array_equal(held.network().logits(pixels), sample.network().logits(pixels))


def test_hostile_nodes():
    good = in_trees(packed_samples.tiny())
    name = good.metadata["graph"][0]["name"]
    stream = good.tensors[f"{name}.tree"]
    assert good.metadata["graph"][0]["out_channels"] == 2

    def changed(tensor=None, **attributes):
        sample = copy.deepcopy(good)
        sample.metadata["graph"][0] |= attributes
        if tensor is not None:
            sample.tensors[f"{name}.tree"] = tensor
        return sample

    for value in (0, -1, True, 2.0, "2", None, 2**70, [2]):
        refused(changed(out_channels=value), "out_channels must be an integer")
    for value in (1, 3, 100):
        refused(changed(out_channels=value), f"node '{name}'.*(tensor 'tree'|is needed|bytes)")
    refused(changed(out_channels=2**28), "are too few for|more than the")
    for tensor in (stream[:-1], stream[:0], np.append(stream, stream), stream[None], stream.astype(np.int8)):
        refused(changed(tensor), f"node '{name}'.*tree")
    sample = copy.deepcopy(good)
    del sample.metadata["graph"][0]["out_channels"]
    refused(sample, "attribute 'out_channels' is missing")
    sample = copy.deepcopy(good)
    sample.tensors[f"{name}.bits"] = packed_samples.tiny().tensors[f"{name}.bits"]
    refused(sample, "has both tensors 'bits' and 'tree'")
    sample = copy.deepcopy(good)
    sample.metadata["version"] = 1
    refused(sample, "tensor 'tree' needs version 2, but the file has version 1")
    sample = packed_samples.tiny()
    sample.metadata["graph"][0]["out_channels"] = 2
    refused(sample, "unknown attribute or tensor 'out_channels'")
    assert packed_samples.tiny().metadata["version"] == 1
    sample = packed_samples.tiny()
    sample.metadata["version"] = 2  # needless, but sound
    assert sample.network().classes


def test_the_sum_of_all_layers_is_limited(monkeypatch):
    sample = in_trees(packed_samples.every_op())
    monkeypatch.setattr(packed_file, "MAX_TREE_WEIGHTS", 100)
    refused(sample, "more than 100 weights of the file are stored along trees")
    monkeypatch.setattr(compressing, "MAX_TREE_WEIGHTS", 3000)
    plain = packed_samples.every_op()
    network = packed_file.examine(plain.metadata, plain.tensors)
    made = compressing.compress(plain.metadata, plain.tensors, network, store="tree")
    stored = [layer.stored for layer in made.layers]
    assert "tree" in stored and "bits" in stored
    assert any("too large, or too uniform" in layer.note for layer in made.layers)


def test_a_file_of_trees_is_damaged(tmp_path):
    path = tmp_path / "model.safetensors"
    sample = in_trees(packed_samples.tiny())
    PackedNetwork(sample.metadata, sample.tensors).save(path)
    content = bytearray(path.read_bytes())
    for index in range(0, len(content), 5):
        content[index] ^= 4
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=r"model\.safetensors"):
            load_packed(path)
        content[index] ^= 4


def test_the_document_names_what_a_tree_needs():
    for text in ("`tree`", "`out_channels`", "2²⁴ − 2", "2²⁸", "4096", "2³⁰"):
        assert text in DOCUMENT
    assert (codec.MAX_FILTER, codec.MAX_WEIGHTS, codec.MAX_EXPANSION) == (2**24 - 2, 2**28, 4096)
    assert trees.MAX_TREE_WEIGHTS == 2**30
