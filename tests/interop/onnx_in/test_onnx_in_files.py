"""Files from elsewhere: those of Brevitas and of this project come in whole, damaged and hostile ones are refused."""

import io
import os
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.interop.onnx_in.onnx_files import QONNX, File, attribute, binary_network, field, tensor, value_info, varint
from tests.packed import packed_samples
from xnor_ref import freeze, models, nn
from xnor_ref.errors import ModelFileError, UnreadableError, XnorRefError
from xnor_ref.interop import build, from_onnx
from xnor_ref.interop.onnx_in import file as onnx_file
from xnor_ref.interop.onnx_in.file import read_onnx
from xnor_ref.interop.onnx_in.reading import read

BREVITAS = Path(__file__).parent / "brevitas.zip"
KINDS = {
    "binary": ["kbit_conv2d", "binary_conv2d", "binary_linear", "binary_linear"],
    "two-bits": ["kbit_conv2d", "kbit_conv2d", "kbit_linear", "kbit_linear"],
    "unsigned": ["conv2d", "kbit_conv2d", "linear"],
    "residual": ["conv2d", "binary_conv2d", "binary_conv2d", "linear"],
}


@pytest.mark.parametrize("name", KINDS)
def test_networks_of_brevitas_answer_as_brevitas_says(name, tmp_path):
    with zipfile.ZipFile(BREVITAS) as archive:
        (tmp_path / "net.onnx").write_bytes(archive.read(f"{name}.onnx"))
        numbers = np.load(io.BytesIO(archive.read(f"{name}.npz")))
    packed = freeze(from_onnx(tmp_path / "net.onnx"))
    np.testing.assert_allclose(packed.logits(numbers["images"]), numbers["logits"], rtol=1e-4, atol=1e-4)
    assert [layer.kind for layer in packed.layers if layer.weight_shape] == KINDS[name]


def the_same_back(network, tmp_path, writer, **how):
    """The packed form of a network, and of what comes back from the file that it goes into."""
    rng = np.random.default_rng(0)
    for _, module in network.named_modules():
        if hasattr(module, "running_var"):
            module.running_var[...] = rng.uniform(0.5, 3, module.channels)
            for array in (module.running_mean, module.bias.data, module.weight.data):
                array[...] = rng.normal(0, 1, module.channels)
    for name, parameter in network.named_parameters():
        if parameter.data.ndim < 4 and not name.endswith("weight"):
            parameter.data[...] += rng.normal(0, 0.1, parameter.shape)
    packed = freeze(network, mean=[0.5, 0.4, 0.3], std=[0.2, 0.25, 0.3])
    writer(packed, tmp_path / "net.onnx", **how)
    return packed, freeze(from_onnx(tmp_path / "net.onnx"))


METHODS = {
    "xnor": {},
    "bnn": {},
    "bwn": {},
    "xnor++": {"gamma": "o-hw"},
    "binary-inputs": {},
    "k bits": {"method": "xnor", "input_bits": 2, "weight_bits": 3},
    "ternary": {"method": "xnor", "input_bits": 2, "input_levels": "ternary"},
    "react": {"method": "xnor", "react": True},
}


@pytest.mark.interop
@pytest.mark.parametrize("label", METHODS)
def test_what_goes_out_comes_back_bit_for_bit(label, tmp_path):
    pytest.importorskip("onnx")
    from xnor_ref.interop import to_onnx, to_qonnx

    settings = {"method": label, **METHODS[label]}
    pixels = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), np.uint8)
    for writer, how in ((to_onnx, {}), (to_onnx, {"unpacked": True}), (to_qonnx, {})):
        network = models.build("shapes-net", image_size=16, in_channels=3, num_classes=5, width=9, seed=1, **settings)
        packed, back = the_same_back(network, tmp_path, writer, **how)
        assert np.array_equal(back.logits(pixels), packed.logits(pixels))
        assert (back.mean, back.std, back.classes) == (packed.mean, packed.std, packed.classes)
        assert [layer.kind for layer in back.layers] == [layer.kind for layer in packed.layers]


SAMPLES = [sample for sample in packed_samples.SAMPLES if sample is not packed_samples.version_5]  # pools beyond `nn`


@pytest.mark.interop
@pytest.mark.parametrize("sample", SAMPLES)
def test_every_operation_comes_back_bit_for_bit(sample, tmp_path):
    made = sample()
    back_and_forth(made.network(), made.pixels(3), tmp_path)


@pytest.mark.interop
@pytest.mark.parametrize("pad_value", [-1, 0, 1])
def test_every_window_comes_back_bit_for_bit(pad_value, tmp_path):
    """Dilation, groups with a K of their own, and padding that differs between two sides."""
    rng = np.random.default_rng(0)
    k, one = {"input_scale": "valid"}, {"input_scale": "off"}
    how = {"pad_value": pad_value, "rng": rng}
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same", stride=2, rng=rng), nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.BinaryConv2d(8, 16, 3, padding=((2, 1), (0, 2)), groups=4, **how, **k),
        nn.KBitConv2d(16, 12, (2, 3), padding=2, dilation=2, input_bits=2, weight_bits=2, groups=2, **how, **k),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.BatchNorm2d(12),
        nn.BinaryConv2d(12, 12, 3, padding=1, groups=12, **how, **one), nn.PReLU(12),
        nn.BinaryWeightConv2d(12, 6, 3, padding=2, dilation=2, rng=rng), nn.Flatten(), nn.Hardtanh(),
    )  # fmt: skip
    features = freeze(network, input_shape=(3, 19, 17), mean=0.5, std=0.2).layers[-1].output_shape[0]
    ended = nn.Sequential(network, nn.BinaryLinear(features, 7, input_scale="plain", rng=rng))
    packed = freeze(ended, input_shape=(3, 19, 17), mean=0.5, std=0.2)
    back_and_forth(packed, rng.integers(0, 256, (3, 19, 17, 3), np.uint8), tmp_path)


def back_and_forth(packed, pixels, folder):
    pytest.importorskip("onnx")
    from xnor_ref.interop import to_onnx, to_qonnx

    for writer in (to_onnx, to_qonnx):
        writer(packed, folder / "net.onnx")
        assert np.array_equal(freeze(from_onnx(folder / "net.onnx")).logits(pixels), packed.logits(pixels))


# Files that are not to be trusted


def refused(content, path, pattern):
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=pattern):
        read(path)


def test_a_file_cut_short_anywhere_or_changed_anywhere_is_read_or_refused(tmp_path):
    content, rng, path = binary_network(domain=QONNX).bytes("logits"), random.Random(0), tmp_path / "m.onnx"
    for trial in range(150):
        damaged = bytearray(content)
        at = rng.randrange(len(content))
        if trial % 3 == 0:
            del damaged[at:]
        else:
            for _ in range(trial % 5 + 1):
                damaged[rng.randrange(len(damaged)) if trial % 2 else at] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            build.network(read(path).description)
        except XnorRefError as error:
            assert error.exit_code in (2, 4, 5)


@pytest.mark.parametrize(
    ("dims", "pattern"),
    [
        ([2**33, 2**33], "needs 295147905179352825856 bytes, has 4"),
        ([2**62], "which is not supported"),
        ([-1], "which is not supported"),
        ([1] * 17, "which is not supported"),
        ([2], "needs 8 bytes, has 4"),
    ],
)
def test_a_declared_size_is_compared_with_the_bytes(dims, pattern, tmp_path):
    lying = b"".join(field(1, size) for size in dims) + field(2, 1) + field(8, "w") + field(9, bytes(4))
    graph = field(5, lying) + field(11, value_info("x", "float32", (1, 3, 8, 8)))
    refused(field(1, 8) + field(7, graph), tmp_path / "m.onnx", pattern)
    typed = b"".join(field(1, size) for size in dims) + field(2, 1) + field(8, "w") + field(4, bytes(4))
    refused(
        field(1, 8) + field(7, field(5, typed)), tmp_path / "m.onnx", "which is not supported|has 1 values, its shape"
    )


def test_constants_do_not_grow_without_bounds(tmp_path):
    """A few bytes that ask for a terabyte."""
    for op, inputs in {
        "Expand": [np.float32([1]), np.int64([2**20, 2**20])],
        "ConstantOfShape": [np.int64([2**40])],
        "Tile": [np.float32([1, 2]), np.int64([2**39])],
        "Range": [np.int64(0), np.int64(2**60), np.int64(1)],
        "Add": [np.zeros((2**20, 1), np.float32), np.zeros((1, 2**20), np.float32)],
    }.items():
        file = File((1, 3, 8, 8))
        path = file.save(tmp_path / "m.onnx", file.add("Mul", "x", file.add(op, *inputs, name="bomb")))
        with pytest.raises(XnorRefError, match=rf"'bomb' \({op}\): an array of shape .* would be larger"):
            read(path)


def test_many_small_messages_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "MAX_MESSAGES", 1000)
    refused(
        field(1, 8) + field(7, field(1, b"") * 2000), tmp_path / "m.onnx", "more than 1000 fields|without operation"
    )
    nodes = field(1, field(2, "y") + field(4, "Relu")) * 500
    refused(field(1, 8) + field(7, nodes), tmp_path / "m.onnx", "more than 1000 fields")


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", "link", "", "..\\secret", "folder"])
def test_weights_outside_of_the_folder_are_not_read(location, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(4))
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "secret")
    entry = field(13, field(1, "location") + field(2, location))
    graph = field(5, field(1, 1) + field(2, 1) + field(8, "w") + entry + field(14, 1))
    refused(field(1, 8) + field(7, graph), folder / "m.onnx", "outside of the folder|a folder, a file is needed")


def test_weights_in_a_file_beside_the_model_are_read(tmp_path):
    (tmp_path / "data").mkdir()
    values = np.arange(6, dtype=np.float32)
    (tmp_path / "data" / "w.bin").write_bytes(bytes(8) + values.tobytes())

    def graph(offset, length):
        pairs = {"location": "data/w.bin", "offset": offset, "length": length}
        entries = b"".join(field(13, field(1, key) + field(2, text)) for key, text in pairs.items())
        return field(1, 8) + field(7, field(5, field(1, 6) + field(2, 1) + field(8, "w") + entries + field(14, 1)))

    (tmp_path / "m.onnx").write_bytes(graph("8", "24"))
    assert np.array_equal(read_onnx(tmp_path / "m.onnx").constants["w"], values)
    refused(graph("9", "24"), tmp_path / "m.onnx", "w.bin has 32 bytes, 33 are needed")
    refused(graph("8", "23"), tmp_path / "m.onnx", "needs 24 bytes, 23 are named")
    refused(graph("-8", "24"), tmp_path / "m.onnx", "w.bin has 32 bytes")
    refused(graph("x", "24"), tmp_path / "m.onnx", "is no number")


@pytest.mark.parametrize(
    ("part", "pattern"),
    [
        (field(15, b""), "sparse tensors"),
        (field(5, tensor("w", np.zeros(1, np.float32))) * 2, "two tensors are called 'w'"),
        (field(5, field(1, 1) + field(2, 8) + field(8, "w")), "of type string, which is not supported"),
        (field(1, field(1, "x")), "a node without operation"),
        (field(1, field(2, b"\xff\xfe") + field(4, "Relu")), "not UTF-8"),
        (varint(1 << 3 | 3), "an unknown kind of field"),
        (varint(1 << 3 | 2) + varint(2**40), "longer than what holds it"),
        (varint(1 << 3) + b"\xff" * 11, "more than 64 bits"),
    ],
)
def test_graphs_that_are_not_read(part, pattern, tmp_path):
    refused(field(1, 8) + field(7, part), tmp_path / "m.onnx", pattern)


def test_functions_and_control_flow_are_refused(tmp_path):
    refused(binary_network().bytes("logits") + field(25, field(1, "f")), tmp_path / "m.onnx", "functions of its own")
    file = File((1, 3, 8, 8))
    file.add("If", "x", name="branch", outputs=["y"])
    file.nodes[0] += field(5, field(1, "then_branch") + field(6, b"") + field(20, 5))
    with pytest.raises(XnorRefError, match=r"'branch' \(If\): the operation is not supported"):
        read(file.save(tmp_path / "m.onnx", "y"))


def test_nodes_in_any_order_are_read_and_circles_refused(tmp_path):
    file = binary_network()
    file.nodes.reverse()
    assert read(file.save(tmp_path / "m.onnx", "logits")).description.layers
    loop = File((1, 3, 8, 8))
    loop.add("Add", "x", "b", outputs=["a"], name="first")
    loop.add("Relu", "a", outputs=["b"])
    refused(loop.bytes("b"), tmp_path / "m.onnx", "form a cycle, such as node 'first'")
    refused(loop.bytes("c"), tmp_path / "m.onnx", "no node computes the value 'c'")
    loop.add("Relu", "x", outputs=["a"])
    refused(loop.bytes("b"), tmp_path / "m.onnx", "two values have the name 'a'")


def test_what_lies_in_place_of_a_file(tmp_path):
    for content, pattern in ((b"", "empty"), (b"hello", "no ONNX file|cut short"), (b"\x08\x08", "no graph")):
        refused(content, tmp_path / "m.onnx", pattern)
    with pytest.raises(ModelFileError, match="a folder, a file is needed"):
        read(tmp_path)
    with pytest.raises(ModelFileError, match="no such file"):
        read(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="not a regular file"):
        read(tmp_path / "pipe")
    if os.geteuid():
        (tmp_path / "m.onnx").chmod(0)
        with pytest.raises(UnreadableError):
            read(tmp_path / "m.onnx")


def test_numbers_of_every_kind_are_read(tmp_path):
    """Typed fields, packed and by themselves, as older writers have them."""
    cases = {
        "floats": (1, field(4, np.float32([1.5, -2]).tobytes()), np.float32([1.5, -2])),
        "one by one": (1, b"".join(varint(4 << 3 | 5) + np.float32(v).tobytes() for v in (3, 4)), np.float32([3, 4])),
        "int64": (7, field(7, varint(5) + varint(-6)), np.int64([5, -6])),
        "int8": (3, field(5, varint(7) + varint(-8)), np.int8([7, -8])),
        "bool": (9, field(5, varint(0) + varint(1)), np.array([False, True])),
        "half": (10, field(5, varint(0x3C00) + varint(0xC000)), np.float16([1, -2])),
        "double": (11, field(10, np.float64([0.1, 2]).tobytes()), np.float64([0.1, 2])),
    }
    parts = [field(5, field(1, 2) + field(2, kind) + field(8, name) + body) for name, (kind, body, _) in cases.items()]
    node = field(1, field(2, "y") + field(4, "Constant") + field(5, attribute("value_float", 0.5)))
    (tmp_path / "m.onnx").write_bytes(field(1, 8) + field(7, b"".join(parts) + node))
    graph = read_onnx(tmp_path / "m.onnx")
    for name, (_, _, expected) in cases.items():
        assert graph.constants[name].dtype == expected.dtype and np.array_equal(graph.constants[name], expected)
    assert graph.nodes[0].attributes == {"value_float": 0.5}
