"""`--faithful allenai`: the preset, its small options, and the table that documents both."""

import json
import re

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.models.test_models import build, images, packed_twin, settle
from tests.nn.rules import latent_gradient
from tests.training.training_samples import run_cli
from xnor_ref import nn, optim
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.errors import InputError
from xnor_ref.nn.methods import METHODS
from xnor_ref.optim import make_schedule
from xnor_ref.training.job import make_optimizer
from xnor_ref.training.settings.config import FIELDS, TrainConfig
from xnor_ref.training.settings.faithful import overridden, preset
from xnor_ref.training.settings.resolve import resolve

TEXT = (REPOSITORY / "docs" / "faithful.md").read_text()
CODE = {"faithful": "allenai"}


def settings(text: str) -> dict[str, dict[str, str]]:
    """`key=value` of a table's cell: for both methods, or for the one that is named before it up to the next one."""
    found: dict[str, dict[str, str]] = {"xnor": {}, "bwn": {}}
    methods = tuple(found)
    for method, key, value in re.findall(r"\b(xnor|bwn) (?=`)|`(\w+)=([^`]+)`", text):
        if method:
            methods = (method,)
        else:
            for name in methods:
                found[name][key] = value
    return found


def documented(column: int) -> dict[str, dict[str, str]]:
    """The settings in a column of the table of differences."""
    rows = [line.split("|")[1:-1] for line in TEXT.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 10 and all(len(row) == 6 for row in rows)
    cells = [settings(row[column]) for row in rows]
    return {method: {k: v for cell in cells for k, v in cell[method].items()} for method in ("xnor", "bwn")}


def test_the_settings_of_a_cell_are_read():
    assert settings("`a=1`, xnor `b=2`; bwn `b=3`, `c=[4, 5]`") == {
        "xnor": {"a": "1", "b": "2"},
        "bwn": {"a": "1", "b": "3", "c": "[4, 5]"},
    }


@pytest.mark.parametrize("method", ["xnor", "bwn"])
def test_the_table_says_what_the_preset_sets(method):
    shown = {key: str(value) for key, value in preset({**CODE, "method": method}).items()}
    assert documented(4)[method] == shown
    config = resolve({**CODE, "method": method})
    assert {key: str(getattr(config, key)) for key in shown} == shown


def test_the_table_says_what_is_the_case_without():
    shown = documented(3)["xnor"]
    config = resolve({})
    assert {key: str(getattr(config, key)) for key in shown} == shown
    unsaid = set(preset(CODE)) | set(preset({**CODE, "method": "bwn"})) - {"momentum"}
    assert set(shown) >= unsaid - {"milestones", "lr_factors", "decay_epochs", "decay_all", "momentum"}


def test_the_preset_belongs_to_the_methods_of_the_released_code():
    for method in METHODS:
        if method in ("xnor", "bwn"):
            assert resolve({**CODE, "method": method}).grad_mode == "official"
        else:
            with pytest.raises(InputError, match=re.escape(f"needs method xnor or bwn, got method '{method}'")):
                resolve({**CODE, "method": method})
    with pytest.raises(InputError, match=r"faithful must be one of allenai; got 'alenai'; did you mean 'allenai'"):
        resolve({"faithful": "alenai"})


def test_what_is_said_comes_first_and_is_named():
    said = {**CODE, "batch_size": 50, "lr": 0.001, "centre": False}
    config = resolve(said)
    assert (config.batch_size, config.lr, config.centre, config.clamp) == (50, 0.001, False, True)
    assert overridden(said) == ["centre False instead of True", "batch_size 50 instead of 800"]
    assert overridden(CODE) == overridden({"batch_size": 3}) == []


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"epochs": 30}, {"milestones": [18, 29], "lr_factors": [0.5, 0.1], "schedule": "step"}),
        ({"epochs": 18}, {"milestones": None, "lr_factors": None, "schedule": "constant"}),
        ({"milestones": [3, 4]}, {"milestones": [3, 4], "lr_factors": None}),
        ({"epochs": 10, "schedule": "step", "milestones": [5]}, {"milestones": [5], "lr_factors": None}),
        ({"k_grad": True}, {"input_scale": None, "k_grad": True}),
        ({"optimizer": "sgd", "weight_decay": 0.0}, {"decay_epochs": None, "decay_all": None}),
        ({"schedule": "cosine"}, {"milestones": None, "lr_factors": None, "schedule": "cosine"}),
        ({"optimizer": "sgd"}, {"lr": 0.01, "momentum": 0.9, "eps": None, "decay_epochs": 29, "batch_size": 800}),
        ({"method": "bwn", "optimizer": "adam"}, {"lr": 0.001, "eps": 1e-17, "decay_all": None, "input_scale": None}),
    ],
)
def test_settings_that_would_clash_with_what_was_said_are_left_out(said, expected):
    config = resolve({**CODE, **said})
    assert {key: getattr(config, key) for key in expected} == expected


def test_its_schedule_needs_its_epochs():
    text = r"schedule step begins to fall after epoch 18, and epochs is 18; give milestones too"
    with pytest.raises(InputError, match=text):
        resolve({**CODE, "epochs": 18, "schedule": "step"})


def test_k_that_comes_with_its_gradient_is_named():
    assert overridden({**CODE, "k_grad": True}) == ["input_scale plain instead of off"]
    assert overridden({**CODE, "k_grad": True, "input_scale": "valid"}) == ["input_scale valid instead of off"]


def test_factors_without_their_milestones_are_refused():
    with pytest.raises(InputError, match=r"lr_factors \(=\[0.5\]\) must be as many as milestones \(=\[18, 29, 43"):
        resolve({**CODE, "lr_factors": [0.5]})
    for value, text in (([], "at least one number"), ([0.0], "more than 0"), ("1", "must be a list"), ([True], "list")):
        with pytest.raises(InputError, match=text):
            TrainConfig(schedule="step", milestones=[1], lr_factors=value)


def test_the_rate_of_each_regime():
    config = resolve({**CODE, "method": "bwn"})
    rate = make_schedule("step", config.lr, 55, milestones=config.milestones, lr_factors=config.lr_factors)
    rates = [(epoch + 1, round(rate(epoch), 10)) for epoch in range(55) if epoch == 0 or rate(epoch) != rate(epoch - 1)]
    assert rates == [(1, 1e-2), (19, 5e-3), (30, 1e-3), (44, 5e-4), (53, 1e-4)]
    with pytest.raises(InputError, match="as many as milestones"):
        make_schedule("step", 1.0, 9, milestones=[3], lr_factors=[0.5, 0.2])


def test_decay_ends_and_reaches_every_parameter():
    network = build("lenet5", 28, "bwn")
    said = {**CODE, "method": "bwn", "momentum": 0.0, "decay_epochs": 2}
    optimizer = make_optimizer(resolve(said), network, steps=3)
    assert isinstance(optimizer, optim.SGD) and optimizer.decay_steps == 6
    before = {name: p.data.copy() for name, p in network.named_parameters()}
    for step in range(8):
        for p in network.parameters():
            p.grad = np.zeros_like(p.data)
        optimizer.step()
        if step == 5:
            decayed = {name: p.data.copy() for name, p in network.named_parameters()}
    for name, p in network.named_parameters():
        np.testing.assert_array_equal(p.data, decayed[name])
        np.testing.assert_allclose(p.data, before[name] * (1 - 0.01 * 5e-4) ** 6, rtol=1e-6)


def test_eps_goes_to_adam():
    assert make_optimizer(resolve(CODE), build("lenet5", 28), steps=1).eps == 1e-17
    with pytest.raises(InputError, match=r"eps .*needs optimizer adam, got optimizer 'sgd'"):
        resolve({"optimizer": "sgd", "eps": 1e-8})


def released_gradient(weight, grad, optimizer):
    """`updateBinaryGradWeight` and what follows it, in float64."""
    n, c = weight[0].size, weight.shape[1]
    m = np.abs(weight).sum(axis=(1, 2, 3), keepdims=True) / n * np.ones_like(weight)
    m[weight <= -1] = 0
    m[weight >= 1] = 0
    m = (m + 1 / n) * (1 - 1 / c)
    return grad * m * n if optimizer == "sgd" else 1e9 * grad * m


def released_steps(weight, grads, optimizer):
    """The weights with which each step computes, and those after the last; Torch's SGD and Adam."""
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for t, grad in enumerate(grads, start=1):
        weight = np.clip(weight - weight.mean(axis=1, keepdims=True), -1, 1)
        yield weight
        g = released_gradient(weight, grad, optimizer)
        if optimizer == "sgd":
            g += 5e-4 * weight
            first = g if t == 1 else 0.9 * first + g
            weight = weight - 0.01 * first
        else:
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
            size = 0.001 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            weight = weight - size * first / (np.sqrt(second) + 1e-8)
    yield np.clip(weight - weight.mean(axis=1, keepdims=True), -1, 1)


@pytest.mark.parametrize(
    ("method", "kind", "size"), [("xnor", nn.BinaryConv2d, 1e-9), ("bwn", nn.BinaryWeightConv2d, 0.1)]
)
def test_steps_are_those_of_the_released_code(method, kind, size):
    """Gradients of 1e-9 tell the eps of Adam from another."""
    config = resolve({**CODE, "method": method})
    rng = np.random.default_rng(0)
    layer = kind(6, 4, 3, rng=rng, grad_mode=config.grad_mode, centre=config.centre, clamp=config.clamp)
    layer.weight.data *= np.float32(3)
    grads = [rng.standard_normal(layer.weight.shape) * size for _ in range(4)]
    expected = released_steps(layer.weight.data.astype(np.float64), grads, config.optimizer)
    layer.after_step()
    assert (np.abs(layer.weight.data) == 1).any()
    optimizer = make_optimizer(config, layer, steps=10)
    for grad in grads:
        np.testing.assert_allclose(layer.weight.data, next(expected), rtol=1e-5, atol=2e-6)
        layer.weight.grad = latent_gradient(np.float32(grad), layer.weight.data, layer.alpha(), layer.grad_mode)
        optimizer.step()
        layer.after_step()
    np.testing.assert_allclose(layer.weight.data, next(expected), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("method", "places"), [("xnor", {"stem": 1e-5, "conv2": 1e-4, "last": 1e-3}), ("bwn", {"stem": 1e-3, "fc7": 1e-3})]
)
def test_batch_norms_of_the_released_code(method, places):
    network = build("alexnet", 16, method, batch_norm="official")
    norms = {name.split(".")[0]: m for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert places.items() <= {name: norm.eps for name, norm in norms.items()}.items()
    scales = np.concatenate([norm.weight.data for norm in norms.values()])
    assert 0 <= scales.min() < 0.01 and 0.99 < scales.max() < 1 and abs(scales.mean() - 0.5) < 0.02
    assert {norm.eps for _, norm in build("alexnet", 16, method).named_modules() if hasattr(norm, "eps")} == {1e-5}


@pytest.mark.parametrize(("name", "method"), [("resnet20", "xnor"), ("lenet5", "bwn"), ("googlenet", "xnor")])
def test_packed_logits_are_those_of_the_float_network(name, method):
    options = resolve({**CODE, "method": method}).options_of("method")
    network = settle(build(name, 32, method, **options))
    x = images(network, 2)
    with no_grad(), nn.binary_backend("float"):
        expected = network(Tensor(x)).data
    assert expected.std() > 0
    np.testing.assert_array_equal(packed_twin(network).logits(x), expected)


@pytest.mark.slow
def test_a_run_says_what_it_overrides_and_keeps_what_it_was(tmp_path):
    options = ["--train-size", "60", "--val-size", "12", "--epochs", "1", "--batch-size", "20", "--threads", "1"]
    code, out, err = run_cli("train", "--faithful", "allenai", *options, "--out", "run", "--json", cwd=tmp_path)
    assert code == 0, err
    assert "--faithful allenai, overridden by your options: epochs 1 instead of 55, batch_size 20 instead of 800" in err
    assert json.loads(out)["disagreements"] == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["faithful"], config["batch_norm"], config["schedule"]) == ("allenai", "official", "constant")
    assert TrainConfig(**config).to_dict() == config and set(config) == set(FIELDS)
    code, _, err = run_cli("train", "--faithful", "allenai", "--method", "bnn", cwd=tmp_path)
    assert code == 2 and "needs method xnor or bwn, got method 'bnn'" in err and "Traceback" not in err
    code, _, err = run_cli("train", "--lr-factors", "0.1;2", cwd=tmp_path)
    assert code == 2 and "--lr-factors must be numbers such as 0.1,0.01; got '0.1;2'" in err
