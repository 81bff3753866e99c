"""Networks as ONNX files: the same labels and logits in onnxruntime, for every operation, method and option."""

import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from tests.packed import packed_samples as samples
from tests.packed.test_freeze import lived_in
from tests.soak_networks import Draw
from xnor_ref import freeze, interop, models, nn
from xnor_ref.autodiff import Tensor
from xnor_ref.cli import main
from xnor_ref.errors import InputError, InputTypeError, ModelFileError
from xnor_ref.interop import onnx_check, onnx_out, onnx_out_graph
from xnor_ref.interop.onnx_check import OnnxFile, compare, random_pixels
from xnor_ref.interop.onnx_out import onnx_bytes
from xnor_ref.nn.methods import METHODS
from xnor_ref.packed import PackedNetwork
from xnor_ref.packed.compressing import compress

pytestmark = pytest.mark.interop
needs_onnx = pytest.mark.skipif(not (find_spec("onnx") and find_spec("onnxruntime")), reason="needs the extra onnx")

SAMPLES = {
    "every operation, padding 0": samples.every_op,
    "every operation, padding +1": lambda: samples.every_op(1),
    "every operation, padding -1": lambda: samples.every_op(-1),
    "binary weights and scales": samples.version_3,
    "k bits": samples.version_4,
    "k bits, padding -1": lambda: samples.version_4(-1),
    "uneven padding, dilation, groups": samples.version_5,
    "uneven padding with +1": lambda: samples.version_5(1),
    "concatenation": samples.version_6,
    "thresholds alone": samples.tiny,
}


def assert_agree(packed: PackedNetwork, images=60, tolerance=1e-5, near=0, **how) -> bytes:
    """Labels and logits of a network's file; its bytes, which are the same each time."""
    content = onnx_bytes(packed, **how)
    assert content == onnx_bytes(packed, **how)
    found = compare(OnnxFile(content, "net", packed), random_pixels(packed, images))
    assert (found.wrong, found.reason) == ((), "") and found.near <= near and found.difference < tolerance, found
    assert found.labels_equal >= images - found.near
    return content


@needs_onnx
@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("how", [{}, {"unpacked": True}, {"normalised": True}, {"batch": 7}], ids=str)
def test_every_operation(name, how):
    assert_agree(SAMPLES[name]().network(), **how)


def built(method, **options):
    """A small network of the method, as if trained: with thresholds that are infinite, and flipped ones."""
    network = models.build("shapes-net", image_size=16, in_channels=3, num_classes=6, width=9, method=method, **options)
    return freeze(lived_in(network), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


OPTIONS = [
    *({"method": method} for method in METHODS),
    *({"method": "xnor++", "gamma": gamma} for gamma in ("o", "ohw", "o-hw", "o-h-w")),
    {"method": "xnor", "input_scale": "valid", "pad_value": 1},
    {"method": "xnor", "weight_scale": "learned", "input_scale": "off", "pad_value": -1},
    {"method": "xnor", "block_order": "cbap"},
    {"method": "xnor", "input_bits": 2, "weight_bits": 3},
    {"method": "xnor", "input_bits": 2, "input_levels": "ternary", "pad_value": 1},
    {"method": "xnor", "input_bits": 1, "weight_bits": 4},
    {"method": "xnor++", "shortcut": "bireal", "relu": True},
    {"method": "xnor", "react": True, "shortcut": "bireal"},
    {"method": "bnn", "shift_batch_norm": True},
]


@needs_onnx
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ", ".join(map(str, options.values())))
def test_every_method(options):
    assert_agree(built(**options), near=2)


def random_networks(count):
    """Networks of all layers, settings and windows."""
    for seed in range(count):
        draw = Draw(seed)
        draw.network.train()(Tensor(draw.rng.standard_normal((draw.images, *draw.input_shape), dtype=np.float32)))
        yield seed, freeze(draw.network, input_shape=draw.input_shape, mean=0.5, std=0.25)


@needs_onnx
def test_random_networks():
    for seed, packed in random_networks(40):
        found = compare(OnnxFile(onnx_bytes(packed), "net", packed), random_pixels(packed, 8))
        assert not found.wrong and found.near <= 2, (seed, found)


@needs_onnx
def test_ties_are_exact():
    """A new BatchNorm has its threshold at 0, as sums of signs often are; alpha must not move them."""
    network = models.build("shapes-net", image_size=16, in_channels=3, num_classes=6, width=9, input_scale="off")
    packed = freeze(network, mean=0.5, std=0.25)
    assert any((layer["Z"] == 0).any() for layer in packed.trace(random_pixels(packed, 4)).values() if "Z" in layer)
    assert_agree(packed)


@needs_onnx
def test_pooling_to_the_end_of_the_image():
    rng = np.random.default_rng(0)
    for pool in (nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)):
        layers = (
            nn.Conv2d(2, 4, 3, rng=rng),
            pool,
            nn.BinaryConv2d(4, 5, 2, padding="same", rng=rng),
            nn.GlobalAvgPool2d(),
        )
        assert_agree(freeze(nn.Sequential(*layers), input_shape=(2, 12, 11), mean=0.5, std=0.25))


@needs_onnx
def test_layers_along_trees_are_their_plain_weights():
    packed = built("bnn")
    tensors = {f"{node.name}.{key}": array for node in packed.examined.nodes for key, array in node.tensors.items()}
    along = compress(packed.metadata, tensors, packed.examined, store="tree")
    tree = PackedNetwork(along.metadata, along.tensors)
    assert any(name.endswith(".tree") for name in along.tensors)
    plain, other = (
        onnx_out_graph.onnx_module().load_model_from_string(assert_agree(each, 20)) for each in (packed, tree)
    )
    assert plain.graph == other.graph


@needs_onnx
def test_what_a_file_says_of_itself(tmp_path):
    packed = built("xnor")
    interop.to_onnx(packed, tmp_path / "net.onnx")
    onnx = onnx_out_graph.onnx_module()
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert "uint8 (N, 16, 16, 3)" in model.doc_string and model.producer_name == "xnor_ref"
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 11)]
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(about["classes"]) == list(packed.classes) and json.loads(about["mean"]) == [0.4, 0.5, 0.6]
    assert json.loads(about["producer"])["xnor_ref"] and len(about["digest"]) == 64
    (image,), (logits,) = model.graph.input, model.graph.output
    dims = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in (image, logits)]
    assert (image.name, logits.name, dims) == ("images", "logits", [["N", 16, 16, 3], ["N", 6]])
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True)
    names = {value.name for value in (*inferred.graph.value_info, *inferred.graph.output)}
    assert {value for node in model.graph.node for value in node.output} <= names
    file = OnnxFile((tmp_path / "net.onnx").read_bytes(), "net", packed)
    pixels = random_pixels(packed, 3)
    found = file.run(pixels, ["block1.conv/signs", "block1.conv/Z"])
    trace = packed.trace(pixels)["block1.conv"]
    for name in ("signs", "Z"):
        assert np.array_equal(found[f"block1.conv/{name}"], trace[name])


@needs_onnx
def test_weights_stay_packed():
    packed = freeze(models.build("vgg-small", image_size=32, in_channels=3, num_classes=10), mean=0.5, std=0.25)
    bits = sum(layer["bits"] for layer in packed.summary())
    floats = sum(layer["float_params"] for layer in packed.summary())
    least = bits // 8 + 4 * floats
    assert least < len(onnx_bytes(packed)) < 1.03 * least
    assert 4 * (bits + floats) < len(onnx_bytes(packed, unpacked=True)) < 1.01 * 4 * (bits + floats)


@needs_onnx
def test_a_network_too_large_for_a_file_is_refused(monkeypatch):
    packed = built("xnor")
    size = len(onnx_bytes(packed))
    monkeypatch.setattr(onnx_out, "MAX_BYTES", size)
    assert len(onnx_bytes(packed)) == size
    with pytest.raises(InputError, match=r"smaller than 2 GiB, but this one would need [\d,]+ bytes; packed weights"):
        onnx_bytes(packed, unpacked=True)
    monkeypatch.setattr(onnx_out_graph, "MAX_BYTES", size - 1)
    with pytest.raises(InputError, match="smaller than 2 GiB"):
        onnx_bytes(packed)


@needs_onnx
def test_wrong_arguments():
    with pytest.raises(InputTypeError, match="packed must be a PackedNetwork, got Sequential; make one with freeze"):
        onnx_bytes(nn.Sequential(nn.Flatten()))
    with pytest.raises(InputError, match="batch must be at least 1, got 0"):
        onnx_bytes(built("bnn"), batch=0)


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"pip install 'xnor_ref\[onnx\]'"):
        interop.to_onnx(built("bnn"), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


# The comparison


def changed(content: bytes, change) -> bytes:
    model = onnx_out_graph.onnx_module().load_model_from_string(content)
    change(model.graph)
    return model.SerializeToString()


def constant(graph, name):
    return next(tensor for tensor in graph.initializer if tensor.name == name)


def flip_bits(graph):
    tensor = constant(graph, "block3.conv/bits")
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 255]) + tensor.raw_data[1:]


def scale_by_more(graph):
    tensor = constant(graph, "classifier/weight")
    tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) * np.float32(1.001)).tobytes()


def move_thresholds(graph):
    for tensor in graph.initializer:
        if tensor.name.endswith("/threshold"):
            tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) + np.float32(0.01)).tobytes()


def smallest_above_zero(graph):
    """sign(0) = -1."""
    tensor = constant(graph, "constant/float32/0.0")
    tensor.raw_data = np.float32(1e-45).tobytes()


@needs_onnx
@pytest.mark.parametrize("change", [flip_bits, scale_by_more, move_thresholds])
def test_a_wrong_file_is_found(change):
    packed = built("xnor", input_scale="off")
    content, pixels = onnx_bytes(packed), random_pixels(packed, 40)
    assert not compare(OnnxFile(content, "net", packed), pixels).wrong
    found = compare(OnnxFile(changed(content, change), "net", packed), pixels)
    assert found.wrong and found.reason, found


@needs_onnx
def test_another_sign_of_zero_is_no_rounding():
    packed = black_and_white()
    content, pixels = onnx_bytes(packed), np.zeros((3, 5, 5, 1), np.uint8)
    assert not compare(OnnxFile(content, "net", packed), pixels).wrong
    found = compare(OnnxFile(changed(content, smallest_above_zero), "net", packed), pixels)
    assert found.wrong == (0, 1, 2) and "gets other signs or levels for the same values" in found.reason


def black_and_white():
    """A network that takes the sign of pixels, of which black ones are 0, and ends in signs."""
    sample = samples.Sample(shape=(1, 5, 5), classes=2)
    sample.metadata |= {"version": 3}
    sample.metadata["input"] |= {"mean": [0.0], "std": [1.0]}
    sample.binary_conv2d(1, 3, scale="off")
    sample.node("flatten")
    sample.linear(75, 2)
    sample.node("sign")
    return sample.network()


@needs_onnx
def test_images_near_a_threshold_are_told_from_wrong_ones():
    """Pixels lie on a grid: sums of them with signs are 0 up to rounding, which is the threshold of a new BatchNorm."""
    network = models.build("nin", image_size=32, in_channels=3, num_classes=10, method="bnn")
    packed = freeze(network, mean=0.5, std=0.25)
    pixels = random_pixels(packed, 12)
    content = onnx_bytes(packed)
    found = compare(OnnxFile(content, "net", packed), pixels)
    assert found.near > 0 and found.wrong == () and found.difference < 1e-5

    def move(graph):
        tensor = next(tensor for tensor in graph.initializer if tensor.name.endswith("conv/bits"))
        tensor.raw_data = bytes([tensor.raw_data[0] ^ 255]) + tensor.raw_data[1:]

    found = compare(OnnxFile(changed(content, move), "net", packed), pixels)
    assert len(found.wrong) == 12
    unnamed = onnx_out_graph.onnx_module().load_model_from_string(content)
    for node in unnamed.graph.node:
        for values in (node.input, node.output):
            values[:] = [value.replace("/output", "/y") for value in values]
    found = compare(OnnxFile(unnamed.SerializeToString(), "net", packed), pixels)
    assert found.wrong and "has no value 'conv2" in found.reason


@needs_onnx
def test_what_is_no_such_file_is_refused(tmp_path):
    packed = built("bnn")
    content, other = onnx_bytes(packed), samples.version_3().network()
    with pytest.raises(ModelFileError, match="not an ONNX file"):
        OnnxFile(b"GIF89a" * 20, "x", packed)
    with pytest.raises(ModelFileError, match="0 inputs and 0 outputs"):
        OnnxFile(b"", "x", packed)
    with pytest.raises(ModelFileError, match=r"returns float32 \(2, 6\) for 2 images, but float32 \(2, 5\) is needed"):
        OnnxFile(content, "x", other).run(random_pixels(packed, 2))
    with pytest.raises(ModelFileError, match="onnxruntime cannot run it"):
        compare(OnnxFile(content, "x", other), random_pixels(other, 2))
    broken = changed(content, lambda graph: graph.node.pop(5))
    with pytest.raises(ModelFileError, match="onnxruntime rejects it"):
        compare(OnnxFile(broken, "x", packed), random_pixels(packed, 2))
    with pytest.raises(ModelFileError, match="no such file"):
        onnx_check.read(tmp_path / "missing.onnx", packed)


# The commands


@needs_onnx
def test_export_and_verify(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    packed = built("xnor")
    packed.save("model.safetensors")

    def run(*arguments):
        code = main(list(arguments))
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    code, out, _ = run("export", "model.safetensors", "-o", "net.onnx")
    assert code == 0 and "ONNX, opset 11" in out and "16 labels equal" in out
    assert (tmp_path / "net.onnx").read_bytes() == onnx_bytes(packed)
    code, out, _ = run("export", "model.safetensors", "-o", "big.onnx", "--unpacked", "--batch", "2", "--json")
    assert code == 0 and json.loads(out)["bytes"] == len(onnx_bytes(packed, unpacked=True, batch=2))
    for arguments, words in [
        (["-o", "net.onnx"], "exists already; add --force"),
        (["-o", "model.safetensors", "--format", "onnx", "--force"], "is not a network in ONNX"),
        (["-o", "other"], "is a packed file already"),
        (["-o", "other", "--batch", "2"], "--batch has no effect with --format packed"),
        (["-o", "q.onnx", "--format", "qonnx", "--unpacked"], "--unpacked has no effect with --format qonnx"),
        (["-o", "new.onnx", "--which", "best"], "--which chooses a run's checkpoint"),
    ]:
        code, _, err = run("export", "model.safetensors", *arguments)
        assert code == 2 and words in err
    code, out, _ = run("verify", "--onnx", "net.onnx", "--model", "model.safetensors", "--examples", "30")
    assert code == 0 and "answers as model.safetensors" in out and "30 labels equal" in out
    (tmp_path / "bad.onnx").write_bytes(changed(onnx_bytes(packed), flip_bits))
    code, out, err = run("verify", "--onnx", "bad.onnx", "--model", "model.safetensors", "--examples", "30", "--json")
    assert code == 6 and not json.loads(out)["passed"] and "and model.safetensors give different answers" in err
    code, _, err = run("verify", "--onnx", "net.onnx")
    assert code == 2 and "--onnx FILE and --model MODEL need each other" in err
    code, _, err = run("verify", "--onnx", "model.safetensors", "--model", "model.safetensors")
    assert code == 4 and "not an ONNX file" in err
