"""Before the first step, training is held against evaluation: what differs stops the run with exit code 6."""

import numpy as np
import pytest

from tests.training.training_samples import tiny_config
from xnor_ref import binary, models, nn
from xnor_ref.cli import main
from xnor_ref.errors import EquivalenceError
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.ops import binary_ops, float_ops
from xnor_ref.nn import fused
from xnor_ref.nn.backend import backward_in
from xnor_ref.training.callbacks.agreement import check_agreement
from xnor_ref.training.job import train_run

if not has_vectors():
    pytest.skip("layers are fused where compiled vector code runs", allow_module_level=True)

IMAGES = np.random.default_rng(0).standard_normal((4, 3, 32, 32), dtype=np.float32)
NETWORKS = [
    ("vgg-small", {}), ("vgg-small", {"method": "bwn"}), ("nin", {"method": "xnor++"}), ("nin", {"method": "bnn"}),
    ("resnet18", {"shortcut": "bireal", "sign_gradient": "bireal", "react": True}), ("resnet20", {"weight_bits": 2}),
    ("nin", {"method": "binaryconnect", "stochastic": True}), ("vgg-small", {"block_order": "cbap"}),
    ("googlenet", {"input_scale": "valid", "k_grad": True}), ("nin", {"method": "full"}),
]  # fmt: skip


def build(name, **options):
    return models.build(name, image_size=32, in_channels=3, num_classes=10, **options)


@pytest.mark.parametrize("arithmetic", ["fp32", "int8"])
@pytest.mark.parametrize("name, options", NETWORKS)
def test_networks_agree_and_keep_their_state(name, options, arithmetic):
    model = build(name, **options)
    before = {key: array.copy() for key, array in model.state_dict().items()}
    with backward_in(arithmetic):
        check_agreement(model, IMAGES)
    assert all(np.array_equal(array, before[key]) for key, array in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters()) and model.training


def test_layers_with_groups_dilation_bias_and_many_filters_agree():
    rng = np.random.default_rng(0)
    model = nn.Sequential(
        nn.Conv2d(3, 96, 3, 1, "same", rng=rng),
        nn.BatchNorm2d(96),
        nn.BinaryConv2d(96, 96, 3, 1, "same", 1, dilation=5, groups=2, rng=rng),
        nn.BinaryConv2d(96, 96, 3, 2, "same", groups=96, input_scale="valid", rng=rng),
        nn.BatchNorm2d(96),
        nn.KBitConv2d(96, 80, 3, input_bits=2, input_levels="ternary", bias=True, rng=rng),
        nn.BinaryWeightConv2d(80, 80, 3, dilation=4, groups=4, bias=True, rng=rng),
    )
    check_agreement(model, IMAGES)


def graph():
    return nn.Graph({
        "stem": nn.Conv2d(3, 8, 3, padding=1),
        "norm": nn.BatchNorm2d(8),
        "conv": nn.BinaryConv2d(8, 8, 3, padding=1),
        "both": (nn.Concat(), "conv", "stem"),
        "inner": nn.Graph({"alone": nn.BinaryConv2d(16, 16, 1)}),
        "sum": (nn.Add(), "inner", "both"),
    })  # fmt: skip


def test_graphs_are_followed(monkeypatch):
    check_agreement(graph(), IMAGES)
    tripled(monkeypatch)
    with pytest.raises(EquivalenceError, match=r"^(norm and )?conv: training computes another output"):
        check_agreement(graph(), IMAGES)


def tripled(monkeypatch):
    """The scale in the readable form alone: what the kernels find while they pack the weights is another one."""
    real = binary_ops.weight_scale
    monkeypatch.setattr(binary_ops, "weight_scale", lambda weight: 3 * real(weight))


def another_latent_gradient(monkeypatch):
    monkeypatch.setattr(
        type(binary.WEIGHT_GRADIENTS["corrected"]), "latent", type(binary.WEIGHT_GRADIENTS["ste"]).latent
    )


def another_derivative(monkeypatch):
    monkeypatch.setattr(float_ops, "mask_ste", lambda x, dx: dx)


def another_map(monkeypatch):
    real = binary_ops.input_scale_map
    monkeypatch.setattr(binary_ops, "input_scale_map", lambda *a, **k: 2 * real(*a, **k))


def another_fused_output(monkeypatch):
    real = fused.binary_conv2d

    def wrong(*arguments):
        y = real(*arguments)
        y.data *= np.float32(1.01)
        return y

    monkeypatch.setattr(fused, "binary_conv2d", wrong)


FAULTS = {
    tripled: "output",
    another_latent_gradient: "gradient of weight",
    another_derivative: "gradient of ",
    another_map: "output",
    another_fused_output: "output",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_layer_that_trains_otherwise_than_it_is_evaluated_is_named(monkeypatch, fault):
    model = build("vgg-small")
    fault(monkeypatch)
    with pytest.raises(
        EquivalenceError, match=rf"^\w+\.\w+( and \w+\.\w+)?: training computes another {FAULTS[fault]}"
    ):
        check_agreement(model, IMAGES)


def test_an_inference_of_its_own_is_seen():
    class Louder(nn.BinaryConv2d):
        def alpha(self):
            return super().alpha() * np.float32(1 if self.training else 2)

    model = nn.Sequential(nn.BatchNorm2d(3), Louder(3, 4, 3))
    with pytest.raises(EquivalenceError, match="1: inference computes another output"):
        check_agreement(model, IMAGES)


def test_the_command_line_stops_before_the_first_step(tmp_path, monkeypatch, capsys):
    small = ["train", "--epochs", "1", "--train-size", "64", "--val-size", "32", "--quiet"]
    tripled(monkeypatch)
    assert main([*small, "--out", str(tmp_path / "a")]) == 6
    assert "block1.conv: training computes another output" in capsys.readouterr().err
    assert not list((tmp_path / "a").glob("checkpoints/*"))
    assert main([*small, "--out", str(tmp_path / "b"), "--no-check-agreement"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "b"), "--quiet"]) == 6
    assert "block1.conv: training computes another output" in capsys.readouterr().err


def test_the_check_changes_no_byte(tmp_path):
    for name in ("with", "without"):
        train_run(tiny_config(tmp_path, check_agreement=name == "with"), out=tmp_path / name)
    files = [tmp_path / name / "float.safetensors" for name in ("with", "without")]
    assert files[0].read_bytes() == files[1].read_bytes()
