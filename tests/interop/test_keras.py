"""Networks from Keras and larq.

`keras.zip` holds models, images and logits that `make_keras_fixtures.py` got from larq itself. The proof on 1,000
images of each, QuickNet-small among them, is the same comparison on a folder that the script has filled:

    python -m tests.interop.test_keras FOLDER
"""

import io
import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.run_docs import files_of
from xnor_ref import fit, freeze, load_packed, nn
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.errors import InputError, InputTypeError, ModelFileError, XnorRefError
from xnor_ref.interop import from_keras
from xnor_ref.interop.keras.quantizers import Clipped, Swish, quantizer

FIXTURES = Path(__file__).parent / "keras.zip"
NAMES = ("chain", "keras3", "parts", "quicknet", "resnet")


def imported(folder, name):
    """The network, and the images and logits that came with it."""
    (path,) = (p for p in folder.iterdir() if p.stem.split(".")[0] == name and p.suffix in (".keras", ".h5"))
    architecture = folder / f"{name}.json"
    network = from_keras(path, architecture=architecture if architecture.exists() else None, std=1 / 255)
    with np.load(folder / f"{name}.npz") as arrays:
        return network, arrays["pixels"], arrays["logits"]


def logits_of(network, pixels):
    with no_grad():
        parts = np.array_split(np.float32(pixels.transpose(0, 3, 1, 2)), -(-len(pixels) // 50))
        return np.concatenate([network(part).data for part in parts])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("h5py", reason="Keras's files are read by h5py")
    folder = tmp_path_factory.mktemp("keras")
    with zipfile.ZipFile(FIXTURES) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.interop
@pytest.mark.parametrize("name", NAMES)
def test_the_logits_are_those_of_keras(folder, name):
    network, pixels, expected = imported(folder, name)
    logits = logits_of(network, pixels)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert np.ptp(expected, axis=0).min() > 0.01  # images differ
    packed = freeze(network)
    assert (packed.logits(pixels) == logits).all()
    assert len(packed.classes) == expected.shape[1]


@pytest.mark.interop
def test_the_script_of_the_document(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(folder / "chain.keras", "model.keras")
    assert from_keras("model.keras").about["std"] == 1 / 255  # it begins with a Rescaling
    script = files_of((REPOSITORY / "docs" / "interop.md").read_text())["from_keras.py"]
    assert sum(map(bool, script.splitlines())) <= 8
    exec(script, {})
    _, pixels, expected = imported(folder, "chain")
    assert np.allclose(load_packed("model.safetensors").logits(pixels), expected, atol=1e-4)


@pytest.mark.interop
def test_imported_layers_train_with_the_gradients_of_larq(folder):
    network, _, _ = imported(folder, "resnet")
    first = next(layer for _, layer in network.named_modules() if isinstance(layer, nn.BinaryConv2d))
    assert first.sign_gradient.bound == 1.25 and first.pad_value == 1
    assert (str(first.weight_scale), str(first.grad_mode), first.clamp) == ("alpha", "ste", False)
    network, pixels, _ = imported(folder, "chain")
    before = network.state_dict()["quant_dense.weight"].copy()
    network.train()
    loss = nn.cross_entropy(network(np.float32(pixels.transpose(0, 3, 1, 2))), np.arange(len(pixels)) % 7)
    loss.backward()
    assert all(np.isfinite(p.grad).all() and p.grad.any() for p in network.parameters())
    assert (network.state_dict()["quant_dense.weight"] == before).all()
    assert network["quant_conv2d"].clamp and str(network["quant_conv2d_1"].sign_gradient) == "bireal"


def test_gradients_of_sign():
    x = np.linspace(-3, 3, 25, dtype=np.float32)
    clipped = quantizer({"class_name": "SteSign", "config": {"clip_value": 1.25}}).gradient
    assert isinstance(clipped, Clipped) and (clipped.derivative(x) == (np.abs(x) <= 1.25)).all()
    assert quantizer({"class_name": "SteSign", "config": {"clip_value": None}}).gradient.derivative(x).all()
    swish = quantizer("swish_sign").gradient
    wide = x.astype(np.float64)
    expected = 5 * (2 - 5 * wide * np.tanh(2.5 * wide)) / (1 + np.cosh(5 * wide))
    assert isinstance(swish, Swish) and np.allclose(swish.derivative(x), expected, atol=1e-6)
    assert np.isfinite(swish.derivative(np.float32([-1e30, 1e30]))).all()
    weight = Tensor(x[None].repeat(2, 0), requires_grad=True)
    layer = nn.BinaryLinear(25, 2, weight_scale="alpha", grad_mode=quantizer("swish_sign").grad_mode)
    got = layer.grad_mode.latent(np.ones_like(weight.data), weight.data, np.float32([2, 3]), layer.weight_scale)
    assert np.allclose(got, np.float32([2, 3])[:, None] * swish.derivative(x))


class Model:
    """What `from_keras` needs of a live model: layers by name, with the weights of Keras's shapes."""

    def __init__(self, *layers, shape=(None, 6, 6, 4), weights=None, **config):
        names = [f"layer{at}" for at in range(len(layers))]
        entries = [{"class_name": kind, "config": {"name": n, **c}} for n, (kind, c) in zip(names, layers)]
        self.config = {"name": "model", "layers": entries, "build_input_shape": shape, **config}
        self.layers = names
        self.weights = weights or {}

    def to_json(self):
        return json.dumps({"class_name": "Sequential", "config": self.config})

    def get_layer(self, name):
        self.asked = name
        return self

    def get_weights(self):
        return self.weights[self.asked]


def normal(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


CONV = {"filters": 5, "kernel_size": [3, 3], "use_bias": False}
SIGNS = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}


def test_a_live_model_comes_without_h5py():
    kernel, dense = normal(3, 3, 4, 5), normal(5, 2)
    model = Model(
        ("Larq>QuantConv2D", CONV | SIGNS | {"padding": "same", "pad_values": 1.0}),
        ("GlobalAveragePooling2D", {}),
        ("QuantDense", {"units": 2, "use_bias": False}),
        weights={"layer0": [kernel], "layer2": [dense]},
    )
    x = normal(2, 4, 6, 6)
    padded = np.pad(np.where(x >= 0, 1.0, -1.0), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    expected = np.einsum("nchwij,ijco->nohw", windows, np.where(kernel >= 0, 1, -1)).mean((2, 3)) @ dense
    assert np.allclose(from_keras(model)(x).data, expected, atol=1e-5)
    with pytest.raises(InputTypeError, match="a Keras model or a path, got dict"):
        from_keras({})


def test_an_imported_network_trains_on_the_pixels_that_it_was_made_for():
    layers = ("Rescaling", {"scale": 1 / 127.5, "offset": -1.0}), ("QuantConv2D", CONV), ("GlobalAveragePooling2D", {})
    network = from_keras(Model(*layers, weights={"layer1": [normal(3, 3, 4, 5)]}))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 4), np.uint8)
    labels = pixels.mean(axis=(1, 2)).argmax(axis=1)
    fit(network, (pixels, labels), epochs=1, batch_size=20, augment=False, classes=list("abcde"))
    assert network.about["mean"] == [0.0] * 4 and network.about["std"] == [1 / 255] * 4
    float_logits = network.eval()(np.float32(pixels.transpose(0, 3, 1, 2))).data
    assert np.allclose(freeze(network).logits(pixels), float_logits, atol=1e-4)


def test_flat_values_that_keras_sees_as_one_pixel():
    """As in larq-zoo's BinaryAlexNet: what was flattened has Keras's order, and 1x1 convolutions follow."""
    kernel, norm, last = (
        normal(1, 1, 24, 5),
        [np.ones(24, np.float32), *(np.arange(24) / 24 for _ in "ab")],
        normal(5, 2),
    )
    model = Model(
        ("Reshape", {"target_shape": [1, 1, 24]}),
        ("BatchNormalization", {"axis": [3], "scale": False, "epsilon": 1e-3}),
        ("QuantConv2D", {"filters": 5, "kernel_size": [1, 1], "use_bias": False, "kernel_quantizer": "ste_sign"}),
        ("Flatten", {}),
        ("Dense", {"units": 2, "use_bias": False, "activation": "softmax"}),
        shape=(None, 2, 3, 4),
        weights={"layer1": norm, "layer2": [kernel], "layer4": [last]},
    )
    x = normal(3, 4, 2, 3)
    flat = x.transpose(0, 2, 3, 1).reshape(3, 24)
    expected = ((flat - norm[1]) / np.sqrt(norm[2] + 1e-3) + 1) @ np.where(kernel[0, 0] >= 0, 1, -1) @ last
    assert np.allclose(from_keras(model)(x).data, expected, rtol=1e-4, atol=1e-4)


def test_zeros_around_an_image_are_signs_for_a_binary_layer():
    """larq takes the sign of what ZeroPadding2D has put there, and sign(0) is +1."""
    settings = {"filters": 1, "kernel_size": 3, "use_bias": False}
    kernel, x = np.ones((3, 3, 2, 1), np.float32), np.full((1, 2, 5, 5), -1, np.float32)

    def result(*layers):
        weights = {f"layer{at}": [kernel] for at in range(1, 5)}
        model = Model(*layers, ("GlobalMaxPooling2D", {}), shape=(None, 5, 5, 2), weights=weights)
        return float(from_keras(model)(x).data[0, 0])

    pad = ("ZeroPadding2D", {"padding": [[1, 0], [0, 1]]})
    assert result(pad, ("QuantConv2D", settings | SIGNS)) == -8 + 10
    assert result(pad, ("QuantConv2D", settings | {"input_quantizer": "ste_sign"})) == -8 + 10
    assert result(pad, ("QuantConv2D", settings | {"kernel_quantizer": "ste_sign"})) == -8
    assert result(pad, ("Conv2D", settings | {"padding": "same"})) == -2
    sign = ("Activation", {"activation": "ste_sign"})
    assert result(sign, ("QuantConv2D", settings | {"padding": "same", "kernel_quantizer": "ste_sign"})) == -8


REFUSED = {
    "Lambda": ({}, "holds Python code, which is never run"),
    "LayerNormalization": ({}, "there is no equivalent layer here"),
    "Conv2D": (CONV | {"padding": "causal"}, "its padding is 'causal'"),
    "DepthwiseConv2D": ({"kernel_size": 3, "data_format": "channels_first"}, "data_format is channels_first"),
    "QuantConv2D": (CONV | {"kernel_quantizer": "ste_heaviside"}, "'ste_heaviside' gives 0 and 1, not signs"),
    "QuantDense": ({"units": 3, "input_quantizer": "magnitude_aware_sign"}, "depends on the whole batch"),
    "QuantDepthwiseConv2D": (
        {"kernel_size": 3, "depth_multiplier": 2, "depthwise_quantizer": {"class_name": "MagnitudeAwareSign"}},
        "a depth_multiplier of 1 only",
    ),
    "QuantSeparableConv2D": (
        CONV | {"padding": "same", "pad_values": 0.5, "depthwise_quantizer": "ste_sign"},
        "its pad_values is 0.5",
    ),
    "Activation": ({"activation": "gelu"}, "the activation 'gelu' is not one of relu, hard_tanh, softmax"),
    "ReLU": ({"max_value": 6.0}, "max_value"),
    "PReLU": ({"shared_axes": [1]}, "a slope for each pixel"),
    "BatchNormalization": ({"axis": 1}, "its axis is 1"),
    "Reshape": ({"target_shape": [2, 72]}, "only flattening can be imported"),
    "MaxPooling2D": ({"pool_size": [7, 1]}, "larger than the image"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_come_is_named_with_the_reason(kind):
    config, reason = REFUSED[kind]
    with pytest.raises(InputError) as caught:
        from_keras(Model((kind, config)))
    assert f"layer 'layer0' ({kind})" in str(caught.value) and reason in str(caught.value)


def test_every_layer_that_cannot_come_is_named_at_once():
    first, *others = ((kind, config) for kind, (config, _) in REFUSED.items())
    with pytest.raises(InputError) as caught:
        from_keras(Model(first, ("ReLU", {}), *others[:6], ("BatchNormalization", {})))
    text = str(caught.value)
    assert "7 layers cannot be converted" in text and text.count("\n") == 7
    assert "layer1" not in text and "layer8" not in text  # they follow one of which nothing is known


def functional(*layers, inputs=(["image", 0, 0],), outputs=(["last", 0, 0],)):
    """A model in Keras 2's words: (name, class, configuration, nodes)."""
    image = {
        "class_name": "InputLayer",
        "config": {"name": "image", "batch_input_shape": [None, 4, 4, 2]},
        "inbound_nodes": [],
    }
    entries = [
        {"class_name": kind, "config": {"name": name, **config}, "inbound_nodes": nodes}
        for name, kind, config, nodes in layers
    ]
    config = {
        "name": "model",
        "layers": [image, *entries],
        "input_layers": list(inputs),
        "output_layers": list(outputs),
    }
    return {"class_name": "Functional", "config": config}


def test_layers_that_several_places_share():
    kernel = normal(1, 1, 2, 2)
    relu = ("relu", "ReLU", {}, [[["image", 0, 0, {}]], [["conv", 0, 0, {}]]])
    conv = {"filters": 2, "kernel_size": 1, "use_bias": False}
    after = ("last", "GlobalAveragePooling2D", {}, [[["relu", 1, 0, {}]]])
    model = Model(weights={"conv": [kernel]})
    config = functional(after, relu, ("conv", "Conv2D", conv, [[["relu", 0, 0, {}]]]))
    x = normal(1, 2, 4, 4)
    expected = np.maximum(np.einsum("nchw,co->nohw", np.maximum(x, 0), kernel[0, 0]), 0).mean((2, 3))
    assert np.allclose(from_keras(model, architecture=config)(x).data, expected, atol=1e-6)
    twice = [[["image", 0, 0, {}]], [["conv", 0, 0, {}]]]
    config = functional(("conv", "Conv2D", conv, twice), ("last", "GlobalAveragePooling2D", {}, [[["conv", 1, 0, {}]]]))
    with pytest.raises(InputError, match="is used 2 times; weights that several places share cannot be imported"):
        from_keras(model, architecture=config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["config"].update(layers=[]), "a model needs 1 to"),
        (lambda c: c["config"].update(output_layers=[["last", 0, 0], ["conv", 0, 0]]), "2 outputs; one is needed"),
        (lambda c: c["config"].update(output_layers="last"), "what its inputs and outputs are"),
        (lambda c: c["config"].update(output_layers=[["none", 0, 0]]), "is no layer"),
        (lambda c: c["config"]["layers"][1].update(inbound_nodes=[[["last", 0, 0, {}]]]), "what no other layer gives"),
        (lambda c: c["config"]["layers"][1]["config"].update(name="last"), "two layers are called 'last'"),
        (lambda c: c["config"]["layers"][0]["config"].update(batch_input_shape=[None, 4, 4]), "its input has shape"),
        (lambda c: c["config"]["layers"][0]["config"].update(batch_input_shape=[None, None, 4, 2]), "give input_shape"),
        (
            lambda c: c["config"]["layers"][0]["config"].update(batch_input_shape=[None, 4, 4, 10**12]),
            "more than 268435456 values",
        ),
        (lambda c: c["config"]["layers"][1]["config"].update(filters=True), "filters is True"),
        (lambda c: c["config"]["layers"][1]["config"].update(filters=10**30), "it must be from 1 to"),
        (lambda c: c["config"]["layers"][1]["config"].update(kernel_size=[3]), "one or two integers"),
        (lambda c: c["config"]["layers"][1].update(config=[]), "must be an object"),
        (lambda c: c["config"]["layers"].__setitem__(1, 3), "must be an object"),
        (lambda c: c.update(config=None), "without layers; it must be Sequential or Functional"),
        (lambda c: c["config"]["layers"][1].update(inbound_nodes=[[["image", 0, 0, {"training": True}]]]), None),
        (lambda c: c["config"]["layers"][2].update(inbound_nodes=[]), "is no layer|reads what"),
    ],
)
def test_architectures_that_say_something_else(change, message):
    conv = ("conv", "Conv2D", {"filters": 2, "kernel_size": 1, "use_bias": False}, [[["image", 0, 0, {}]]])
    config = functional(conv, ("last", "GlobalAveragePooling2D", {}, [[["conv", 0, 0, {}]]]))
    model = Model(weights={"conv": [normal(1, 1, 2, 2)]})
    assert from_keras(model, architecture=config)(normal(1, 2, 4, 4)).shape == (1, 2)
    change(config)
    if message is None:  # a convolution does the same in training
        from_keras(model, architecture=config)
        return
    with pytest.raises(InputError, match=message):
        from_keras(model, architecture=config)


def test_a_model_of_any_size_needs_one():
    layers = ("QuantConv2D", CONV), ("GlobalAveragePooling2D", {}), ("Softmax", {})
    model = Model(*layers, shape=[None, None, None, 4], weights={"layer0": [normal(3, 3, 4, 5)]})
    with pytest.raises(InputError, match=r"its input has shape .*; give input_shape=\(C, H, W\)"):
        from_keras(model)
    assert from_keras(model, input_shape=(4, 7, 9)).about["input_shape"] == (4, 7, 9)
    with pytest.raises(InputError, match="differs from the model's"):
        from_keras(model, input_shape=(3, 7, 9))


def test_weights_of_other_shapes_are_refused():
    model = Model(("Conv2D", CONV), weights={"layer0": [normal(3, 3, 4, 6)]})
    with pytest.raises(InputError, match=r"has weights of shapes \(3, 3, 4, 6\); \(3, 3, 4, 5\) are needed"):
        from_keras(model)
    model.weights["layer0"] = [np.full((3, 3, 4, 5), np.nan, np.float32)]
    with pytest.raises(InputError, match="holds NaN"):
        from_keras(model)


# Files


def architecture(units=3, features=4):
    layers = [
        {"class_name": "InputLayer", "config": {"name": "image", "batch_shape": [None, features]}},
        {"class_name": "Dense", "config": {"name": "dense", "units": units, "use_bias": False}},
    ]
    return {"class_name": "Sequential", "config": {"name": "model", "layers": layers}}


def archive(path, weights, config=None, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("config.json", json.dumps(config or architecture()))
        file.writestr("model.weights.h5", weights)
    return path


def stored(write):
    """HDF5 in memory, in which `write` gets the group of the layer's weights."""
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        write(file.create_group("layers/dense/vars"), h5py)
    return buffer.getvalue()


def put(array, **how):
    return lambda group, h5py: group.create_dataset("0", data=array, **how)


@pytest.mark.interop
def test_the_layouts_of_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    kernel = normal(4, 3)
    content = stored(put(kernel))
    weights = tmp_path / "any.weights.h5"
    weights.write_bytes(content)
    legacy = tmp_path / "legacy.h5"
    with h5py.File(legacy, "w") as file:
        file.attrs["model_config"] = json.dumps(architecture())
        group = file.create_group("model_weights/dense")
        group.attrs["weight_names"] = [b"dense/kernel:0"]
        group.create_dataset("dense/kernel:0", data=kernel)
    text = tmp_path / "model.json"
    text.write_text(json.dumps(architecture()))
    x = normal(2, 4, 1, 1)
    for path, given in (
        (archive(tmp_path / "a.keras", content), None),
        (archive(tmp_path / "b.keras", content, method=zipfile.ZIP_DEFLATED), None),
        (weights, text),
        (str(weights), str(text)),
        (weights, json.dumps(architecture())),
        (legacy, None),
    ):
        assert np.allclose(from_keras(path, architecture=given)(x).data, x[:, :, 0, 0] @ kernel, atol=1e-6)
    with pytest.raises(InputError, match=r"holds weights alone; give architecture=model.to_json\(\)"):
        from_keras(weights)


def linked(group, h5py):
    group["0"] = h5py.ExternalLink("elsewhere.h5", "/0")


def virtual(group, h5py):
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "0", (4, 3))
    group.create_virtual_dataset("0", layout)


@pytest.mark.interop
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (put(normal(4, 2)), r"has weights of shapes \(4, 2\); \(4, 3\) are needed"),
        (lambda group, h5py: None, "has weights of shapes none"),
        (lambda group, h5py: group.create_group("0"), "a group stands where a weight is needed"),
        (put(np.zeros((4, 3)), compression="gzip"), "is compressed, or not stored in this file"),
        (lambda group, h5py: group.create_dataset("0", (4, 3), "f4"), "is compressed, or not stored in this file"),
        (put(np.zeros((4, 3), np.int32)), "has dtype int32, not floats"),
        (put(np.full((4, 3), 1e300)), "a value too large for float32"),
        (linked, "'0' is a link"),
        (virtual, "is compressed, or not stored in this file"),
        (lambda group, h5py: group.parent.parent.pop("dense"), "holds no weights at 'layers/dense/vars'"),
    ],
)
def test_weights_that_are_not_there(tmp_path, write, message):
    with pytest.raises(InputError, match=message):
        from_keras(archive(tmp_path / "model.keras", stored(write)))


@pytest.mark.interop
def test_files_that_claim_more_than_they_hold(tmp_path):
    """Nothing is allocated for them."""
    shape = (2**20, 2**24)
    vast = stored(lambda group, h5py: group.create_dataset("0", shape, "f4", chunks=(64, 64), compression="gzip"))
    with pytest.raises(InputError, match="is compressed, or not stored in this file"):
        from_keras(archive(tmp_path / "a.keras", vast, architecture(shape[1], shape[0])))
    bomb = archive(tmp_path / "b.keras", bytes(2**24), method=zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelFileError, match="would unpack to 16777216 bytes"):
        from_keras(bomb)


@pytest.mark.interop
def test_damaged_files_are_refused(tmp_path, folder):
    whole = archive(tmp_path / "whole.keras", stored(put(normal(4, 3)))).read_bytes()
    legacy = (folder / "resnet.h5").read_bytes()
    rng = np.random.default_rng(0)
    for content in (whole, legacy):
        for _ in range(60):
            bad = bytearray(content[: rng.integers(1, len(content))] if rng.random() < 0.3 else content)
            for at in rng.integers(0, min(len(bad), 4096), rng.integers(1, 12)):
                bad[at] = rng.integers(256)
            path = tmp_path / "bad"
            path.write_bytes(bad)
            try:
                from_keras(path)
            except XnorRefError:
                pass


@pytest.mark.interop
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04\x95pickle", "neither a .keras file nor HDF5"),
        (b"", "neither a .keras file nor HDF5"),
        (b"PK\x03\x04nothing", "a damaged archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), r"file: damaged \("),
    ],
)
def test_files_of_other_kinds(tmp_path, content, message):
    pytest.importorskip("h5py")
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        from_keras(path)
    with pytest.raises(ModelFileError, match=r"a folder; save the model with model.save"):
        from_keras(tmp_path)
    with pytest.raises(ModelFileError, match="No such file"):
        from_keras(tmp_path / "missing")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data.pkl", b"")
    with pytest.raises(ModelFileError, match=r"an archive without config.json; no .keras file"):
        from_keras(path)


def main(folder):
    """Compare every model of a folder with its logits, image by image."""
    print("| model | images | labels equal | logits within 1e-4 | largest difference | packed: equal bits |")
    print("|---|---|---|---|---|---|")
    for path in sorted(folder.glob("*.npz")):
        network, pixels, expected = imported(folder, path.stem)
        logits = logits_of(network, pixels)
        off = np.abs(logits - expected).max(axis=1)
        packed = np.concatenate(
            [freeze(network).logits(part) for part in np.array_split(pixels, -(-len(pixels) // 50))]
        )
        equal = int((logits.argmax(1) == expected.argmax(1)).sum())
        bits = int((packed == logits).all(axis=1).sum())
        print(f"| {path.stem} | {len(pixels)} | {equal} | {int((off <= 1e-4).sum())} | {off.max():.2g} | {bits} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
