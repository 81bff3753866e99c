"""Packed model files that are damaged, altered, of another version, or hostile: refused, and the reason named."""

import copy
import math
import struct

import numpy as np
import pytest

from tests.packed import packed_samples
from tests.packed.packed_samples import Sample
from xnor_ref.errors import InputTypeError, ModelFileError, OutputError
from xnor_ref.packed import PackedNetwork, load_packed
from xnor_ref.packed import file as packed_file
from xnor_ref.packed.ops import OPS
from xnor_ref.storage import save_tensors


def refused(sample, pattern):
    """The description is refused, in memory and as a file, with a message of one line."""
    with pytest.raises(ModelFileError, match=pattern) as caught:
        sample.network()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.fixture
def tiny_file(tmp_path):
    path = tmp_path / "model.safetensors"
    packed_samples.tiny().network().save(path)
    return path


def test_file_round_trip(tmp_path):
    sample = packed_samples.every_op()
    first = sample.network()
    first.save(tmp_path / "one")
    second = load_packed(tmp_path / "one")
    second.save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    pixels = sample.pixels()
    assert np.array_equal(first.logits(pixels), second.logits(pixels))
    assert second.metadata == sample.metadata == first.metadata
    assert second.classes == tuple(sample.metadata["classes"]) and second.input_shape == (3, 9, 8)


@pytest.mark.parametrize("path", [None, 3, b"model.safetensors"])
def test_what_is_no_path(path):
    with pytest.raises(InputTypeError, match="path must be a str or PathLike, got "):
        load_packed(path)


def test_truncated_at_every_length(tiny_file):
    content = tiny_file.read_bytes()
    for length in range(0, len(content), 7):
        tiny_file.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match=r"model\.safetensors"):
            load_packed(tiny_file)


def test_flipped_bits(tiny_file):
    content = bytearray(tiny_file.read_bytes())
    positions = {*range(16), *range(len(content) - 40, len(content)), *range(16, len(content), 3)}
    for index in sorted(positions):
        for bit in {5, index % 8}:
            content[index] ^= 1 << bit
            tiny_file.write_bytes(content)
            with pytest.raises(ModelFileError, match=r"model\.safetensors"):
                load_packed(tiny_file)
            content[index] ^= 1 << bit


def test_zeroed_and_swapped_blocks(tiny_file):
    content = tiny_file.read_bytes()
    for start in range(0, len(content) - 64, 64):
        zeroed = content[:start] + bytes(64) + content[start + 64 :]
        swapped = content[start : start + 64] + content[:start] + content[start + 64 :]
        for damaged in (zeroed, swapped):
            if damaged != content:
                tiny_file.write_bytes(damaged)
                with pytest.raises(ModelFileError):
                    load_packed(tiny_file)


def test_other_version_and_other_kind(tmp_path):
    sample = packed_samples.tiny()
    path = tmp_path / "file"
    for version in (7, 0):
        save_tensors(path, sample.tensors, {**sample.metadata, "version": version})
        with pytest.raises(ModelFileError, match=f"of version {version}; this program reads versions 1 to 6"):
            load_packed(path)
    save_tensors(path, sample.tensors, {**sample.metadata, "format": "xnor_ref checkpoint"})
    with pytest.raises(ModelFileError, match="'xnor_ref checkpoint'; a 'xnor_ref packed network' is needed"):
        load_packed(path)


def test_unsound_description_in_a_sound_file_names_the_file(tmp_path):
    sample = packed_samples.tiny()
    sample.metadata["graph"][0]["padding"] = [-1, 0]
    path = tmp_path / "file"
    save_tensors(path, sample.tensors, sample.metadata)
    with pytest.raises(ModelFileError, match=r"file: node 'n0.binary_conv2d' \(binary_conv2d\): padding must be two"):
        load_packed(path)


def test_failed_save_leaves_the_old_file(tiny_file, monkeypatch):
    before = tiny_file.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        packed_samples.every_op().network().save(tiny_file)
    assert tiny_file.read_bytes() == before
    assert [entry.name for entry in tiny_file.parent.iterdir()] == [tiny_file.name]


# The description


@pytest.mark.parametrize("key", ["input", "classes", "graph", "producer", "training", "data_sha256"])
def test_missing_and_mistyped_keys(key):
    for value in (None, 7):
        sample = packed_samples.tiny()
        sample.metadata.pop(key)
        if value is not None:
            sample.metadata[key] = value
        refused(sample, key)


def test_unknown_keys():
    sample = packed_samples.tiny()
    sample.metadata["extra"] = 1
    refused(sample, "unknown metadata key 'extra'")


@pytest.mark.parametrize(
    ("key", "value", "pattern"),
    [
        ("format", "x", "format 'x'"),
        ("version", 7, "version 7"),
        ("producer", {"a": 1}, "producer 'a'"),
        ("data_sha256", "xyz", "data_sha256"),
        ("data_sha256", "0" * 64 + "\n", "data_sha256"),
        ("classes", [], "1 to"),
        ("classes", ["a", 3], "class 1"),
        ("classes", ["a", ""], "class 1"),
        ("classes", ["a", "\x1b[2J"], "class 1"),
        ("classes", ["a", "\ud800"], "class 1"),
        ("classes", ["a", "x" * 1001], "class 1"),
        ("classes", ["a"], r"has \(2,\) outputs, but there are 1 classes"),
        ("classes", ["a", "b", "c"], "there are 3 classes"),
        ("graph", [], "1 to"),
        ("graph", [{}] * 10_001, "1 to"),
        ("graph", [7], "node 0 must be an object"),
        ("graph", [{"op": "relu"}], "node 0 must be an object"),
        ("input", {}, "input must have"),
    ],
)
def test_values_of_the_description(key, value, pattern):
    sample = packed_samples.tiny()
    sample.metadata[key] = value
    refused(sample, pattern)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("channels", [0, -1, True, 1.0, "1", None, 2, 10**30]),
        ("height", [0, True, 16_385, 10**100, [3]]),
        ("width", [0, 4]),
        ("mean", [[], [0.5, 0.5], ["0"], [True], 0.5, [10**400], [None]]),
        ("std", [[0], [-1.0], [], [1e-300], [0.0], [1e31]]),
        ("more", [1]),
    ],
)
def test_values_of_the_input(key, values):
    for value in values:
        sample = packed_samples.tiny()
        sample.metadata["input"][key] = value
        refused(sample, "input|node")


def test_no_fingerprint_is_fine():
    sample = packed_samples.tiny()
    sample.metadata["data_sha256"] = None
    assert sample.network().metadata["data_sha256"] is None


# The graph


@pytest.mark.parametrize("op", ["exec", "", None, 7, ["relu"], "x" * 10_000])
def test_unknown_ops(op):
    sample = packed_samples.tiny()
    sample.metadata["graph"][1]["op"] = op
    refused(sample, "node 1: unknown op")


@pytest.mark.parametrize("name", ["", None, 7, "a/b", "a b", "../x", ".x", "x" * 201, "é", "n0.binary_conv2d"])
def test_bad_names(name):
    sample = packed_samples.tiny()
    sample.metadata["graph"][1]["name"] = name
    refused(sample, "node 1: name")


@pytest.mark.parametrize("inputs", [[], [0, 0], [1], [2], [-2], [True], [0.0], ["0"], 0, None, [[0]], [10**30]])
def test_bad_inputs(inputs):
    sample = packed_samples.tiny()
    sample.metadata["graph"][1]["inputs"] = inputs
    refused(sample, "inputs must name 1 of the earlier nodes")


def test_unused_nodes():
    sample = packed_samples.tiny()
    sample.node("relu", [0])
    sample.linear(18, 2, inputs=[1])
    refused(sample, "no node reads the output of")


def test_graph_that_ends_in_an_image():
    sample = Sample(shape=(1, 2, 2), classes=1)
    sample.node("relu")
    refused(sample, r"\(1, 2, 2\) outputs, but there are 1 classes")


def test_tensors_without_a_node():
    for name in ("other.weight", "weight", "", "n1.flatten.weight", "n0.binary_conv2d.more", "n0.binary_conv2d"):
        sample = packed_samples.tiny()
        sample.tensors[name] = np.zeros(1, np.float32)
        refused(sample, "belongs to no node|unknown attribute or tensor")


SAMPLES = tuple(packed_samples.SAMPLES)


def every_node():
    graphs = [(make, enumerate(make().metadata["graph"])) for make in SAMPLES]
    return [pytest.param(make, index, id=node["name"]) for make, graph in graphs for index, node in graph]


def test_samples_hold_every_op():
    assert {node["op"] for make in SAMPLES for node in make().metadata["graph"]} == set(OPS)


def test_operations_of_a_later_version():
    sample = packed_samples.version_3()
    for version in (1, 2):
        sample.metadata["version"] = version
        refused(sample, f"sign_weight_conv2d.*needs version 3, but the file has version {version}")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([1], "has 1 inputs, but 2 to 256 are allowed"),
        ([1] * 257, "has 257 inputs"),
        ([0, 1], r"its inputs have shapes .6, 9, 8., .6, 4, 4.; only channels may differ"),
        ([1, 2], "inputs must name several of the earlier nodes"),
        ([], "inputs must name several of the earlier nodes"),
    ],
)
def test_concat_takes_images_of_one_size(inputs, message):
    sample = Sample(classes=12)
    sample.metadata["version"] = 6
    sample.conv2d(3, 6)
    sample.pool("max_pool", 2, 2, 0)
    sample.node("concat", inputs)
    sample.node("global_avg_pool")
    refused(sample, f"n2.concat.*{message}")


def test_geometry_of_version_5_needs_it():
    def dilated(sample):
        sample.binary_conv2d(3, 6, dilation=[2, 2])

    def grouped(sample):
        sample.kbit_conv2d(3, 6, groups=3)

    def uneven(sample):
        sample.pool("avg_pool", 2, 1, [0, 1])

    def inside(sample):
        sample.node("avg_pool", kernel=[2, 2], stride=[1, 1], padding=[0, 0], count_include_pad=0)

    def ternary(sample):
        sample.kbit_conv2d(3, 6, input_levels="ternary")

    for make in (dilated, grouped, uneven, inside, ternary):
        sample = Sample(classes=3 if make in (uneven, inside) else 6)
        sample.metadata["version"] = 4
        make(sample)
        sample.node("global_avg_pool")
        refused(sample, r"n0.* needs version 5, but the file has version 4")
        sample.metadata["version"] = 5
        assert np.isfinite(sample.network().logits(sample.pixels(1))).all()


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"dilation": [5, 1]},
            r"kernel .3, 3. with dilation .5, 1. is larger than the input .4, 9, 8. with padding .0, 0.",
        ),
        ({"dilation": [0, 1]}, "dilation must be two integers from 1 to 1024"),
        ({"dilation": 2}, "dilation must be two integers"),
        ({"groups": 3}, "4 input channels cannot be cut into 3 groups"),
        ({"groups": 4}, "6 output channels cannot be cut into 4 groups"),
        ({"groups": 5}, "groups must be an integer from 1 to 4, got 5"),
        ({"groups": 2.0}, "groups must be an integer"),
        ({"padding": [[0, 1], [2, -1]]}, r"padding must be two integers from 0 to 1024, got .2, -1."),
        ({"padding": [[0, 1], 2]}, "padding must be two integers from 0 to 1024, got 2"),
        ({"padding": [[0, 1], [0, 1], [0, 1]]}, "padding must be two integers or two pairs of integers, got"),
    ],
)
def test_geometry_that_does_not_fit(attributes, message):
    for op in ("binary_conv2d", "sign_weight_conv2d", "kbit_conv2d"):
        sample = Sample(shape=(4, 9, 8), classes=6)
        sample.metadata["version"] = 5
        getattr(sample, op)(4, 6, padding=(0, 0))
        sample.metadata["graph"][0] |= attributes
        if attributes.get("groups") == 4:
            sample.tensors[f"n0.{op}.bits"] &= np.uint64(2**9 - 1)  # filters of one channel
        sample.node("global_avg_pool")
        refused(sample, f"node 'n0.{op}'.*{message}")


def test_levels_and_means_that_there_are_not():
    def made(op, **attributes):
        sample = Sample(classes=6 if op == "kbit_conv2d" else 3)
        sample.metadata["version"] = 5
        if op == "kbit_conv2d":
            sample.kbit_conv2d(3, 6, bits=(3, 1), **attributes)
        else:
            sample.node(op, kernel=[2, 2], stride=[1, 1], padding=[0, 0], **attributes)
        sample.node("global_avg_pool")
        return sample

    refused(made("kbit_conv2d", input_levels="ternary"), "ternary inputs have 2 bits, got 3")
    refused(made("kbit_conv2d", input_levels=2), r"input_levels must be one of \('even', 'ternary'\), got 2")
    refused(made("avg_pool", count_include_pad=False), "count_include_pad must be an integer from 0 to 1, got False")
    refused(made("max_pool", count_include_pad=0), "count_include_pad")


def test_too_many_weights_in_groups():
    sample = Sample(shape=(4, 1024, 1024), classes=8)
    sample.metadata["version"] = 5
    sample.node(
        "binary_conv2d", None, {"bits": np.zeros((8, 2**16), np.uint64)}, in_channels=4, kernel_size=[1024, 1024],
        stride=[1, 1], padding=[0, 0], pad_value=0, input_scale="off", groups=1,
    )  # fmt: skip
    sample.node("global_avg_pool")
    for groups, words in ((2, 2**15), (4, 2**14)):
        sample.metadata["graph"][0]["groups"] = groups
        sample.tensors["n0.binary_conv2d.bits"] = np.zeros((32, words), np.uint64)
        refused(
            sample,
            "67108864 weights are too many for a layer with groups" if groups == 2 else "33554432 weights are too many",
        )


def test_factors_of_a_scale_that_do_not_belong_together():
    for factors, words in (
        ({"plane": (9, 8)}, "has the factors plane"),
        ({}, "has the factors none"),
        ({"channel": (3,), "row": (9,)}, "has the factors channel, row"),
        ({"channel": (4,)}, "float32 .4,., but float32 .3,. is needed"),
    ):
        sample = Sample(classes=3)
        sample.metadata["version"] = 3
        sample.scale(**factors)
        sample.node("global_avg_pool")
        refused(sample, words)
    sample = Sample(classes=3)
    sample.metadata["version"] = 3
    huge = np.float32(1e30)
    sample.node("scale", tensors={"channel": np.full(3, huge), "plane": np.full((9, 8), huge)})
    sample.node("global_avg_pool")
    refused(sample, "product of its factors overflows")


@pytest.mark.parametrize("make, index", every_node())
def test_attributes_of_every_node(make, index):
    """Whatever an attribute is replaced by is either fine, or refused with the node's name; never a crash."""
    good = make()
    node = good.metadata["graph"][index]
    keys = node.keys() - {"op", "name", "inputs"}
    hostile = [None, True, -1, 10**30, 0.5, math.nan, "x", [], {}, [1], [1, 2, 3], [0, 0], [-1, -1], [1025, 1]]
    hostile += [[1.0, 1], [True, 1], [2**70, 2**70], ["1", "1"], [[1], [1]], [1024, 1024], 2**31, 2**62, 0]
    for key in keys:
        for value in hostile:
            right, node[key] = node[key], value
            try:
                network = good.network()
            except ModelFileError as error:
                assert "\n" not in str(error)
            else:
                assert (key, value) in (
                    ("pad_value", -1),
                    ("pad_value", 0),
                    ("groups", 1),
                    ("count_include_pad", 0),
                    ("stride", [1024, 1024]),
                ) or "padding" in key
                assert np.isfinite(network.logits(good.pixels(1))).all()
            node[key] = right
        if key in ("dilation", "count_include_pad", "input_levels") or (key == "groups" and node["op"] != "conv2d"):
            continue  # which a node may lack
        sample = copy.deepcopy(good)
        del sample.metadata["graph"][index][key]
        refused(sample, f"node '{node['name']}'.*attribute '{key}' is missing")
    sample = copy.deepcopy(good)
    sample.metadata["graph"][index]["more"] = 1
    refused(sample, f"node '{node['name']}'.*unknown attribute or tensor 'more'")


@pytest.mark.parametrize("make, index", every_node())
def test_tensors_of_every_node(make, index):
    good = make()
    name = good.metadata["graph"][index]["name"]
    for key in [key for key in good.tensors if key.startswith(name + ".")]:
        array = good.tensors[key]
        changed = [array[:-1], array[None], array[..., None], np.concatenate([array, array]), array[:0]]
        changed += [
            array.astype(np.float64),
            array.astype(np.int32),
            np.array(1, np.float32),
            array.reshape(-1)[:1],
        ]
        if array.dtype == np.float32 and not key.endswith("threshold"):
            changed += [
                np.where(np.arange(array.size).reshape(array.shape) == 0, bad, array)
                for bad in np.float32([np.nan, np.inf, -np.inf])
            ]
        if key.endswith("threshold"):
            changed.append(np.full_like(array, np.nan))
        if key.endswith("flip"):
            changed += [array + np.uint8(2), array.astype(bool), array.astype(np.int8)]
        for new in changed:
            if key.endswith("slope") and new.dtype == np.float32 and new.shape == (1,):
                continue  # one slope for all channels is fine
            if new.shape == array.shape and new.dtype == array.dtype and np.array_equal(new, array):
                continue
            sample = copy.deepcopy(good)
            sample.tensors[key] = new
            refused(sample, "node '")
        if not key.endswith((".bias", ".alpha", ".plane")):  # without which a node is sound too
            sample = copy.deepcopy(good)
            del sample.tensors[key]
            refused(sample, f"node '{name}'.*(is missing|need each other|has the factors)")


def test_dirty_tail_bits():
    for n_bits in (1, 63, 65, 70, 127):
        sample = Sample(shape=(n_bits, 1, 1), classes=3)
        sample.metadata["input"] |= {"mean": [0.5] * n_bits, "std": [1] * n_bits}
        sample.node("flatten")
        sample.binary_linear(n_bits, 3)
        assert sample.network().summary()[1]["bits"] == 3 * n_bits
        for bit in range(n_bits % 64, 64):
            dirty = copy.deepcopy(sample)
            dirty.tensors["n1.binary_linear.bits"][1, -1] |= np.uint64(1) << np.uint64(bit)
            refused(dirty, f"bits beyond the {n_bits} weights")


def test_full_words_have_no_tail():
    sample = Sample(shape=(64, 1, 1), classes=1)
    sample.metadata["input"] |= {"mean": [0.5] * 64, "std": [1] * 64}
    sample.node("flatten")
    sample.binary_linear(64, 1)
    sample.tensors["n1.binary_linear.bits"][:] = np.uint64(2**64 - 1)
    assert sample.network().logits(np.full((1, 1, 1, 64), 255, np.uint8))[0, 0] != 0


def test_thresholds_need_input_scale_off():
    sample = packed_samples.tiny()
    sample.metadata["graph"][0]["input_scale"] = "plain"
    refused(sample, "thresholds need input_scale 'off'")


def test_channel_clashes_name_both_numbers():
    sample = packed_samples.every_op()
    sample.metadata["graph"][3]["in_channels"] = 7
    refused(sample, "in_channels is 7, but its input has 6")
    sample = Sample(shape=(2, 4, 4), classes=2)
    sample.conv2d(2, 3)
    sample.node("global_avg_pool")
    sample.node("add", [1, 0])
    refused(sample, r"\(3,\) and \(3, 4, 4\); both must match")
    sample = Sample(shape=(2, 4, 4), classes=2)
    sample.linear(32, 2)
    refused(sample, r"needs a flat input \(I,\), but gets \(2, 4, 4\)")
    sample = Sample(shape=(2, 4, 4), classes=2)
    sample.conv2d(2, 3, k=9)
    refused(sample, "kernel .9, 9. is larger than the input .2, 4, 4. with padding .1, 1.")


# Size


def test_memory_bomb_of_padding():
    sample = Sample(shape=(1, 1, 1), classes=1)
    for _ in range(6):
        sample.conv2d(64 if sample.metadata["graph"] else 1, 64, k=1, padding=1024)
    sample.node("global_avg_pool")
    sample.linear(64, 1)
    refused(sample, r"makes the network too large: one image would need \d+ bytes")


def test_memory_bomb_of_the_input():
    sample = Sample(shape=(1, 1, 1), classes=1)
    sample.metadata["input"] |= {"height": 16_384, "width": 16_384}
    sample.node("global_avg_pool")
    refused(sample, "too large")


def test_work_bomb():
    """Little memory, but hours of work."""
    sample = Sample(shape=(1, 1, 1), classes=1)
    sample.conv2d(1, 8, k=1, padding=512)
    weight = sample.normal(8, 8, 15, 15)
    for _ in range(400):
        sample.node("conv2d", None, {"weight": weight}, stride=[1, 1], padding=[7, 7], groups=1)
    sample.node("global_avg_pool")
    sample.linear(8, 1)
    refused(sample, "too large.*operations")


def test_wide_networks_are_not_bombs():
    """Activations are counted while they live, not over the whole network."""
    sample = Sample(shape=(3, 64, 64), classes=2)
    sample.conv2d(3, 256)
    for _ in range(300):
        sample.node("relu")
    sample.node("global_avg_pool")
    sample.linear(256, 2)
    network = sample.network()
    assert network._network.image_memory < 20 * 2**20
    assert network.logits(sample.pixels(2)).shape == (2, 2)


def test_header_bomb(tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(struct.pack("<Q", 2**40) + b"{" * 100)
    with pytest.raises(ModelFileError, match="bomb: truncated"):
        load_packed(path)


def test_file_larger_than_the_limit(tiny_file, monkeypatch):
    monkeypatch.setattr(packed_file, "MAX_FILE_BYTES", 100)
    with pytest.raises(ModelFileError, match="the limit is 100"):
        load_packed(tiny_file)


def test_deep_training_notes(tmp_path):
    """Nesting that a recursive parser would fall over."""
    text = b"[" * 100_000 + b"]" * 100_000
    header = b'{"__metadata__":{"xnor_ref":"' + text + b'"}}'
    path = tmp_path / "deep"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ModelFileError, match="does not hold a JSON object"):
        load_packed(path)


def test_constructor_keeps_its_own_copy():
    sample = packed_samples.tiny()
    network = PackedNetwork(sample.metadata, sample.tensors)
    pixels = sample.pixels()
    before = network.logits(pixels)
    for array in sample.tensors.values():
        array[...] = 0
    sample.metadata["graph"].clear()
    network.metadata["graph"].clear()
    assert np.array_equal(network.logits(pixels), before) and before.any()


@pytest.mark.parametrize("op", ["max_pool", "avg_pool"])
@pytest.mark.parametrize(
    "kernel, padding, fits",
    [((3, 2), (0, 2), False), ((2, 3), (2, 0), False), ((3, 2), (2, 1), True), ((2, 3), (1, 2), True)],
)
def test_padding_of_pooling_stays_below_the_kernel_on_each_axis(op, kernel, padding, fits):
    sample = Sample(shape=(1, 6, 6), classes=1)
    sample.node(op, kernel=list(kernel), stride=[2, 2], padding=list(padding))
    sample.node("global_avg_pool")
    if fits:
        assert sample.network().logits(sample.pixels()).shape == (len(sample.pixels()), 1)
    else:
        refused(sample, rf"padding \({padding[0]}, {padding[1]}\) must be smaller than the kernel")
