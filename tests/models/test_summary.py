"""What `info --network` says: counts against known figures, the networks themselves, and their files."""

import json
import re

import numpy as np
import pytest

from tests.conftest import JIT_DISABLED
from tests.models.test_models import build, packed_twin, settle
from tests.training.training_samples import run_cli
from xnor_ref import models
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.cli import main
from xnor_ref.packed.summary import summarise

MIB = 2**20


def usual(name, **options):
    size, channels, classes = models.usual_input(name)
    return summarise(models.build(name, image_size=size, in_channels=channels, num_classes=classes, **options))


def layer(result, name):
    return next(row for row in result["layers"] if row["name"] == name)


@pytest.fixture(scope="module")
def alexnet():
    return usual("alexnet")


def test_the_released_alexnet(alexnet):
    """62.4 M parameters; 22.8 MiB with real first and last layers, larq's figure for the same network."""
    total = alexnet["total"]
    assert alexnet["input"] == [3, 224, 224] and alexnet["classes"] == 1000
    assert total["parameters"] == 62_388_104 and total["bits"] == 58_236_928
    assert round(total["packed_bytes"] / MIB, 1) == 22.8
    assert total["packed_bytes"] / MIB == pytest.approx(22.81, abs=0.006)
    assert total["macs"] == 1_135_256_096


def test_the_released_alexnet_as_others_count_it(alexnet):
    """Derived from the layers: larq has three numbers a channel of BatchNorm (no gamma), and no bias in fc8."""
    widths = (96, 256, 384, 384, 256, 4096, 4096)
    bits = 256 * 96 * 25 + 384 * 256 * 9 + 384 * 384 * 9 + 256 * 384 * 9 + 4096 * 256 * 36 + 4096 * 4096
    real = 96 * 3 * 11 * 11 + 1000 * 4096
    norms = widths[0] + sum(widths[:-1]) + widths[-1]  # after the stem, before each binary layer, before fc8
    three, four = alexnet["otherwise"]
    assert alexnet["total"]["norm_channels"] == norms and alexnet["total"]["norms"] == 2 * norms
    assert bits == alexnet["total"]["bits"] == 58_236_928 and alexnet["total"]["biases"] == 1000
    assert bits + real + 3 * norms == three["parameters"] == 62_396_768
    assert bits / 8 + 4 * (real + 3 * norms) == three["bytes"] and round(three["bytes"] / MIB, 2) == 22.81
    assert bits + real + 4 * norms + 1000 == four["parameters"]
    assert (three["numbers"], three["biases"], four["numbers"], four["biases"]) == (3, False, 4, True)


def test_figure_4_counts_every_parameter_as_a_bit(alexnet):
    """The paper: AlexNet 475 MB in double precision, 7.4 MB binary; ResNet-18 1.5 MB, VGG is not among the networks."""
    assert int(alexnet["double_bytes"] / MIB) == 475
    assert round(alexnet["all_binary_bytes"] / MIB, 1) == 7.4
    assert alexnet["double_bytes"] / alexnet["all_binary_bytes"] == pytest.approx(64)
    assert alexnet["total"]["float_bytes"] / alexnet["all_binary_bytes"] == pytest.approx(32)


def test_a_layer_by_hand(alexnet):
    """96 channels take 2 words; 25 taps, 256 filters, 27 x 27 pixels; a row of 2,400 bits is 38 words in the file."""
    row = layer(alexnet, "conv2.conv")
    assert row["output_shape"] == [256, 27, 27] and row["parameters"] == row["bits"] == 96 * 25 * 256
    assert row["xnor_macs"] == row["macs"] == 96 * 25 * 256 * 27 * 27 and row["additions"] == 0
    assert row["word_ops"] == 2 * 25 * 256 * 27 * 27
    assert row["float_bytes"] == 4 * 614_400 and row["packed_bytes"] == 8 * 38 * 256 + 4 * 256
    row = layer(alexnet, "fc8")
    assert row["macs"] == 4096 * 1000 and row["word_ops"] == row["bits"] == 0
    assert row["float_bytes"] == row["packed_bytes"] == 4 * 4097 * 1000


def test_operations_of_the_literature():
    """Binary 3x3 convolutions: VGG-small 0.604 G, ResNet-20 0.040 G, ResNet-18 on ImageNet 1.676 G XNORs."""
    assert round(usual("vgg-small")["total"]["xnor_macs"] / 1e9, 3) == 0.604
    assert round(usual("resnet20")["total"]["xnor_macs"] / 1e9, 3) == 0.040
    assert round(usual("resnet18", downsample="real")["total"]["xnor_macs"] / 1e9, 3) == 1.676


CASES = [(name, "xnor", {}) for name in models.names()]
CASES += [("lenet5", method, {}) for method in ("full", "bwn", "binaryconnect", "bnn")]
CASES += [("resnet20", "xnor++", {"gamma": "ohw"}), ("resnet20", "xnor", {"input_scale": "off", "downsample": "real"})]
CASES += [("alexnet", "bwn", {}), ("resnet18", "full", {}), ("resnet20", "binary-inputs", {})]
CASES += [("resnet20", "xnor", {"weight_bits": 2, "input_bits": 3}), ("resnet20", "xnor", {"shortcut": "bireal"})]


@pytest.mark.parametrize(("name", "method", "options"), CASES, ids=str)
def test_shapes_and_sums_are_those_of_the_network(name, method, options):
    if JIT_DISABLED and (name, method) == ("alexnet", "bwn"):
        pytest.skip("sums one by one in NumPy take half a minute")
    network = settle(build(name, 16 if name == "alexnet" else 32, method, **options), n=2)
    result = summarise(network)
    shapes = {}

    def watch(key, module):
        forward = module.forward

        def watched(x):
            shapes[key] = (x.shape[1:], forward(x))
            return shapes[key][1]

        module.forward = watched

    leaves = {key: module for key, module in network.named_modules() if not any(module.children())}
    for key, module in leaves.items():
        watch(key, module)
    config = network.config
    with no_grad():
        network(Tensor(np.zeros((1, config["in_channels"], *(config["image_size"],) * 2), np.float32)))
    for module in leaves.values():
        del module.forward
    rows = {row["name"]: row for row in result["layers"]}
    for key, (before, after) in shapes.items():
        if key in rows:
            assert rows[key]["output_shape"] == list(after.shape[1:]), key
        else:
            assert before == after.shape[1:] and not list(leaves[key].parameters()), key
    total = result["total"]
    assert total["parameters"] == sum(p.size for p in network.parameters())
    assert total["bits"] == options.get("weight_bits", 1) * sum(p.size for p in network.parameters() if p.latent)
    assert total["packed_bytes"] == sum(row["bytes"] for row in packed_twin(network).summary())
    assert (total["xnor_macs"] > 0) == (method in ("xnor", "xnor++", "bnn")) == (total["word_ops"] > 0)
    assert (total["additions"] > 0) == (method in ("bwn", "binaryconnect", "bnn"))  # bnn: its first layer
    assert total["macs"] >= total["xnor_macs"] + total["additions"]


def test_the_command(tmp_path):
    code, out, err = run_cli("info", "--network", "lenet5", cwd=tmp_path)
    assert code == 0 and err == "" and out.startswith("lenet5 (xnor), 1 channels, 28x28 pixels, 10 classes\n")
    assert "conv2.conv  BinaryConv2d  50x8x8" in out and "as additions" not in out
    text = " ".join(out.split())  # lines are wrapped
    assert "425,000 bits of binary weights, 2,680 gammas and betas of 1,340 channels of BatchNorm, 10 biases" in text
    assert "434,520 with 3 numbers per channel of BatchNorm and no biases (0.09 MiB), or 435,870 with 4" in text
    assert "packed 90.2 kB (0.09 MiB), 19.2 times smaller; a model file adds a description" in text
    assert "all binary 54.1 kB (0.05 MiB), as in Figure 4(a)" in text
    options = ["--size", "32", "--channels", "3", "--classes", "7", "--method", "bwn", "--model-option", "width=16"]
    code, out, _ = run_cli("info", "--network", "shapes-net", *options, "--json", cwd=tmp_path)
    result = json.loads(out)
    assert code == 0 and result["input"] == [3, 32, 32] and result["method"] == "bwn" and result["classes"] == 7
    assert layer(result, "stem.conv")["output_shape"] == [16, 16, 16]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--network", "alexnot"], "--network must be one of shapes-net, .*got 'alexnot'; did you mean 'alexnet'"),
        (["--network", "alexnet", "--size", "8"], "alexnet needs images of at least 16 pixels, got 8"),
        (["--network", "alexnet", "--size", "5000"], "image_size must be at most 4,096, got 5,000"),
        (["--network", "alexnet", "--size", "0"], "image_size must be at least 1, got 0"),
        (["--network", "lenet5", "--classes", "-1"], "num_classes must be at least 1, got -1"),
        (["--network", "lenet5", "--method", "xor"], "method must be one of xnor"),
        (["--network", "lenet5", "--model-option", "width"], "must be KEY=VALUE, got 'width'"),
        (["--network", "lenet5", "--model-option", "width=4"], "lenet5 has no option width"),
        (
            ["--network", "lenet5", "--model-option", "seed=1"],
            r"model option seed \(=1\): this is a separate setting",
        ),
        (["--size", "32", "--method", "bwn"], "--size, --method needs --network"),
        (["--model-option", "a=1"], "--model-option needs --network"),
        (["--network", "lenet5", "model.safetensors"], "either --network lenet5 or model.safetensors, not both"),
    ],
)
def test_mistakes_are_named(arguments, text, capsys):
    assert main(["info", *arguments]) == 2
    assert re.search(text, capsys.readouterr().err)
