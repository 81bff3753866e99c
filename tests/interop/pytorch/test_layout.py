"""Files of numbers with a layout: what is guessed, what is told, what is refused; without torch."""

import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.conftest import REPOSITORY
from xnor_ref import freeze, interop
from xnor_ref.errors import InputError, ModelFileError, UnreadableError
from xnor_ref.interop import build
from xnor_ref.interop.description import Description, Layer
from xnor_ref.interop.loading.kinds import load

RNG = np.random.default_rng(0)
LAYOUT = """
input_shape = [3, 12, 12]
mean = 0.5
std = [0.25, 0.25, 0.5]
classes = ["a", "b", "c", "d", "e"]
ignore = ["aux"]

[[layers]]
kind = "conv2d"
padding = [[0, 1], [1, 1]]

[[layers]]
kind = "batch_norm"
eps = 1e-3

[[layers]]
name = "sign"
kind = "binary_conv2d"
padding = 1
input_scale = "off"
from = "block.binary"

[[layers]]
kind = "scale"
arrays = {channel = "block.binary.gamma"}

[[layers]]
name = "sum"
kind = "add"
inputs = ["sign", "1.batch_norm"]

[[layers]]
kind = "prelu"
from = "act"

[[layers]]
name = "move"
kind = "shift"
from = "moves.bias"

[[layers]]
kind = "global_avg_pool2d"

[[layers]]
kind = "linear"
"""


def normal(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def numbers():
    return {
        "conv10.weight": normal(8, 8, 3, 3), "conv2.weight": normal(8, 3, 3, 3), "conv2.bias": normal(8),
        "norm.weight": normal(8), "norm.bias": normal(8), "norm.running_mean": normal(8),
        "norm.running_var": np.ones(8, np.float32), "norm.num_batches_tracked": np.array(3),
        "block.binary.weight": normal(8, 8, 3, 3), "block.binary.gamma": normal(8, 1, 1), "act.weight": normal(8),
        "moves.bias": normal(1, 8, 1, 1), "fc.weight": normal(5, 8), "fc.bias": normal(5), "aux.weight": normal(2, 2),
    }  # fmt: skip


def first(arrays):
    """Without the convolution that has no layer."""
    return {name: array for name, array in arrays.items() if name != "conv10.weight"}


def wanted(arrays):
    layers = (
        Layer("0.conv2d", "conv2d", ("input",), {"padding": ((0, 1), (1, 1))},
              {"weight": arrays["conv2.weight"], "bias": arrays["conv2.bias"]}),
        Layer("bn", "batch_norm", ("0.conv2d",), {"eps": 1e-3},
              {key: arrays[f"norm.{key}"] for key in ("weight", "bias", "running_mean", "running_var")}),
        Layer("sign", "binary_conv2d", ("bn",), {"padding": 1, "input_scale": "off"},
              {"weight": arrays["block.binary.weight"]}),
        Layer("sum", "add", ("sign", "bn")),
        Layer("act", "prelu", ("sum",), {}, {"weight": arrays["act.weight"]}),
        Layer("move", "shift", ("act",), {}, {"shift": arrays["moves.bias"].ravel()}),
        Layer("mean", "global_avg_pool2d", ("move",)),
        Layer("fc", "linear", ("mean",), {}, {"weight": arrays["fc.weight"], "bias": arrays["fc.bias"]}),
    )  # fmt: skip
    return build.network(Description(layers, (3, 12, 12), 0.5, (0.25, 0.25, 0.5), tuple("abcde")))


@pytest.fixture
def layout(tmp_path):
    path = tmp_path / "layout.toml"
    path.write_text(LAYOUT.replace('[[layers]]\nkind = "scale"\narrays = {channel = "block.binary.gamma"}\n\n', ""))
    return path


def test_a_file_with_a_layout(tmp_path, layout):
    arrays = {key: value for key, value in first(numbers()).items() if not key.endswith("gamma")}
    save_file(arrays, tmp_path / "net.safetensors")
    lines = []
    for source in (tmp_path / "net.safetensors", arrays):
        network = interop.from_torch(source, layout=layout, report=lines.append)
        images = normal(6, 3, 12, 12)
        assert np.array_equal(freeze(network).logits(images), freeze(wanted(arrays)).logits(images))
        assert freeze(network).classes == tuple("abcde") and freeze(network).std == (0.25, 0.25, 0.5)
    assert "0.conv2d  conv2d  weight = conv2.weight, bias = conv2.bias" in lines[0]
    loaded = load(tmp_path / "net.safetensors", layers=layout, mean=0.25)
    assert loaded.kind == "safetensors" and loaded.description.mean == 0.25 and len(loaded.guessed.splitlines()) == 8
    with pytest.raises(InputError, match="the file holds weights alone"):
        load(tmp_path / "net.safetensors")


def test_a_learned_scale_and_what_is_told(tmp_path):
    (tmp_path / "layout.toml").write_text(LAYOUT.replace('["sign", ', '["3.scale", '))
    lines = []
    network = interop.from_torch(
        first(numbers()), layout=tmp_path / "layout.toml", input_shape=(3, 14, 14), names={"8.linear": "fc"},
        settings={"clamp": True}, report=lines.append,
    )  # fmt: skip
    assert network["sign"].clamp and network.about["input_shape"] == (3, 14, 14)
    assert "3.scale  scale  channel = block.binary.gamma" in lines[0]


def test_the_layout_that_the_page_shows(tmp_path):
    page = (REPOSITORY / "docs" / "interop.md").read_text()
    (layout,) = re.findall(r"^```toml\n(input_shape.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "layout.toml").write_text(layout)
    norm = {f"features.1.{key}": np.ones(8, np.float32) for key in ("weight", "bias", "running_mean", "running_var")}
    arrays = {"features.0.weight": normal(8, 3, 3, 3), **norm, "features.3.weight": normal(8, 8, 3, 3)}
    arrays |= {"features.3.alpha": normal(8), "classifier.weight": normal(10, 8), "classifier.bias": normal(10)}
    save_file(arrays, tmp_path / "net.safetensors")
    network = interop.from_torch(tmp_path / "net.safetensors", layout=tmp_path / "layout.toml")
    wanted = ["conv2d", "binary_conv2d", "global_avg_pool", "linear"]  # BatchNorm and scale are in it
    assert [layer.kind for layer in freeze(network).layers] == wanted


def test_what_no_layer_has_is_said(tmp_path, layout):
    arrays = {key: value for key, value in numbers().items() if not key.endswith("gamma")}
    save_file(arrays, tmp_path / "net.safetensors")  # names of a file are in their natural order
    with pytest.raises(InputError, match=r"no layer has the numbers conv10\.weight; name them in `ignore`"):
        interop.from_torch(tmp_path / "net.safetensors", layout=layout)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("input_shape = [3, 12, 12]", ""), "input_shape .C, H, W. must be given, or stand in the layout"),
        (('kind = "linear"', 'kind = "dense"'), "layer 7 of the layout: kind must be one of conv2d, linear"),
        (("mean = 0.5", "means = 0.5"), "a layout has .* not means"),
        (('from = "act"', 'from = "acts"'), r"layer '4.prelu' \(prelu\): there are no numbers 'acts'"),
        (("padding = 1", "pad = 1"), r"layer 'sign' \(binary_conv2d\): does not take pad; it takes stride"),
        (
            ('inputs = ["sign", "1.batch_norm"]', 'inputs = ["sign", "norm"]'),
            "reads 'norm', which is not a layer before it",
        ),
        (
            ('from = "block.binary"', 'from = "conv2"'),
            "has no array|weight has shape|needs an image|no numbers were found",
        ),
        (("[[layers]]", "[layers"), "layout.toml: "),
        (("kind", "sort"), "kind must be one of"),
        (("ignore = [", "ignore = [3, "), "ignore of a layout must be a list of names"),
        (
            ('inputs = ["sign", "1.batch_norm"]', 'inputs = "sign"'),
            r"layer 3 .*\(add\): inputs must be a list of names",
        ),
        (('from = "act"', "from = 3"), r"layer 4 of the layout \(prelu\): from must be a name, got 3"),
        (('from = "act"', 'arrays = ["act"]'), "arrays must be a table of names"),
        (("classes = [", "classes = 3 # ["), "classes must be names in label order"),
        (("input_shape = [3, 12, 12]", "input_shape = 3"), "input_shape must be .C, H, W."),
    ],
)
def test_layouts_that_do_not_fit(layout, change, message):
    layout.write_text(layout.read_text().replace(*change))
    arrays = {key: value for key, value in first(numbers()).items() if not key.endswith("gamma")}
    with pytest.raises(InputError, match=message):
        interop.from_torch(arrays, layout=layout)


def test_arguments_that_do_not_go(layout):
    for more, message in (
        ({}, "the source holds weights alone; give a layout"),
        ({"layout": {"layers": []}}, r"a layout must have layers"),
        ({"layout": layout, "names": {"x": "fc"}}, "names has x, which are no layers; there are 0.conv2d"),
        ({"layout": "nowhere.toml"}, "nowhere.toml"),
    ):
        with pytest.raises(InputError, match=message):
            interop.from_torch(first(numbers()), **more)
    with pytest.raises(InputError, match=r"'fc.weight' must be an array or a tensor, got list"):
        interop.from_torch({"fc.weight": [1, 2]}, layout=layout)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("net.pth", b"\x80\x02", r"can run any code when it is read, so it is not opened(.|\n)*weights_only=True"),
        ("net.safetensors", b"not one", "is no safetensors file"),
        ("net.safetensors", (2**40).to_bytes(8, "little") + b"{}", "is no safetensors file"),
        ("net.safetensors", None, "there is no such file"),
    ],
)
def test_files_that_are_not_read(tmp_path, layout, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        interop.from_torch(path, layout=layout)


def test_a_file_that_may_not_be_read(tmp_path, layout, monkeypatch):
    def refuse(*args, **more):
        raise PermissionError(13, "Permission denied")

    save_file({"a": normal(2)}, tmp_path / "net.safetensors")
    monkeypatch.setattr("xnor_ref.interop.pytorch.layout.safe_open", refuse)
    with pytest.raises(UnreadableError, match="Permission denied"):
        interop.from_torch(tmp_path / "net.safetensors", layout=layout)
