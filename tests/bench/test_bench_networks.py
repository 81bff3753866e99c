"""Whole networks in `bench`: the same network in torch and onnxruntime, and the times of our stages."""

import copy

import numpy as np
import pytest

from tests.bench.test_bench_layers import without
from tests.conftest import JIT_DISABLED
from tests.packed.packed_samples import Sample, every_op
from xnor_ref import models, nn
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.bench import limits, networks
from xnor_ref.bench.measuring.timing import Pace
from xnor_ref.bench.peers import onnx_twin, torch_twin
from xnor_ref.errors import EquivalenceError, InputError

compiled_only = pytest.mark.skipif(JIT_DISABLED, reason="bench measures compiled code")
SHORT = Pace(rounds=3, turn=1e-5, budget=0.01)


def sample(name):
    """(model in inference, images, logits) of a small full-precision network."""
    size = 8
    if name == "every layer":
        rng = np.random.default_rng(1)
        model = nn.Sequential(
            nn.Conv2d(3, 6, (3, 2), (2, 1), (1, 0), groups=3, bias=True, rng=rng),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Residual(nn.Sequential(nn.Conv2d(6, 6, 1, rng=rng), nn.BatchNorm2d(6))),
            nn.Residual(nn.Conv2d(6, 4, 3, 1, 1, rng=rng), nn.Conv2d(6, 4, 1, rng=rng)),
            nn.AvgPool2d(3, 2, 1),
            nn.MaxPool2d(3, 1, 1),
            nn.Conv2d(4, 10, (2, 4), bias=True, rng=rng),  # covers its input
            nn.BatchNorm2d(10),
            nn.Conv2d(10, 12, 1, rng=rng),  # and so does this
            nn.Flatten(),
            nn.Linear(12, 9, bias=False, rng=rng),
            nn.BatchNorm1d(9),
            nn.ReLU(),
            nn.Linear(9, 5, rng=rng),
        )
    else:
        size = 16
        model = models.build(name, image_size=size, in_channels=3, num_classes=5, method="full")
    networks.randomise(model)
    model.eval()
    images = np.random.default_rng(2).standard_normal((2, 3, size, size), np.float32)
    with no_grad():
        return model, images, model(Tensor(images)).data


@pytest.mark.parametrize("name", ["every layer", "nin", "resnet18", "resnet20"])
def test_torch_computes_the_same_in_all_its_ways(name):
    pytest.importorskip("torch")
    model, images, logits = sample(name)
    makers = torch_twin.variants(model, images, threads=1, compiled=False)
    assert len(makers) == 5
    for way, make in makers.items():
        got = make()().numpy()
        assert got.shape == logits.shape, way
        assert np.abs(got - logits).max() < 1e-4 * np.abs(logits).max(), way


def test_the_twins_run_on_as_many_threads_as_they_are_given():
    torch = pytest.importorskip("torch")
    model, images, _ = sample("every layer")
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):
            for make in torch_twin.variants(model, images, threads, compiled=False).values():
                make()()
                assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_batch_norms_are_folded_and_whole_convolutions_are_linear():
    torch = pytest.importorskip("torch")
    model, images, _ = sample("every layer")
    twin = torch_twin.to_torch(model)
    kinds = [type(module) for module in twin.modules()]
    assert kinds.count(torch.nn.Conv2d) == 6 and kinds.count(torch.nn.BatchNorm2d) == 3
    faster = torch_twin.replace_whole_convs(copy.deepcopy(twin), torch.from_numpy(images))
    kinds = [type(module) for module in faster.modules()]
    assert kinds.count(torch.nn.Conv2d) == 4 and kinds.count(torch.nn.Linear) == 4
    folded = torch_twin.fold_batch_norm(faster)
    kinds = [type(module) for module in folded.modules()]
    assert kinds.count(torch.nn.BatchNorm2d) == kinds.count(torch.nn.BatchNorm1d) == 0
    assert len(list(twin.modules())) == len(list(torch_twin.to_torch(model).modules()))  # the first one is as it was


@pytest.mark.parametrize("name", ["every layer", "nin", "resnet18", "resnet20"])
def test_onnxruntime_computes_the_same(name):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model, images, logits = sample(name)
    (got,) = onnx_twin.to_onnx(model, images, threads=1)()
    assert got.shape == logits.shape and np.abs(got - logits).max() < 1e-4 * np.abs(logits).max()


def test_onnxruntime_computes_the_same_windows():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, "same"),
        nn.Conv2d(6, 6, (2, 3), 1, ((0, 1), (2, 0)), 3, dilation=(1, 2)),
        nn.MaxPool2d(3, 2, ((1, 0), (0, 1)), ceil_mode=True),
        nn.AvgPool2d(3, 1, "same"),
        nn.AvgPool2d(2, 1, 1),
        nn.Flatten(),
    ).eval()
    images = np.random.default_rng(0).standard_normal((2, 3, 13, 18), dtype=np.float32)
    with no_grad(), nn.binary_backend("numba"):
        wanted = model(images).data
    (got,) = onnx_twin.to_onnx(model, images, threads=1)()
    assert got.shape == wanted.shape and np.abs(got - wanted).max() < 1e-5


def test_layers_without_a_counterpart_are_named():
    pytest.importorskip("torch")
    with pytest.raises(InputError, match="BinaryConv2d has no counterpart in torch"):
        torch_twin.to_torch(nn.Sequential(nn.BinaryConv2d(3, 4, 3)))


# --- measured ----------------------------------------------------------------------------------------------------


@compiled_only
@pytest.mark.slow
def test_a_network_against_its_twins():
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    result = networks.measure_network("resnet18", 16, batch=2, classes=5, pace=SHORT, compiled=False)
    assert set(result["ours"]) == {"ours", "ours, from uint8"} and result["absent"] == {}
    assert len(result["baselines"]) == 6 and result["best"].startswith("torch")
    for entry in result["baselines"]:
        assert entry["ratio"] == entry["seconds"] / result["ours"]["ours"]
    torch_seconds = {e["baseline"]: e["seconds"] for e in result["baselines"] if e["baseline"].startswith("torch")}
    assert torch_seconds[result["best"]] == min(torch_seconds.values())


@compiled_only
def test_twins_that_are_missing_or_broken_are_absent_and_wrong_ones_refused(monkeypatch):
    without(monkeypatch, "torch", "onnxruntime")
    result = networks.measure_network("resnet18", 16, classes=5, pace=SHORT)
    assert result["baselines"] == [] and result["best"] is None
    assert set(result["absent"]) == {"torch", "onnxruntime"} and "not installed" in result["absent"]["torch"]

    def broken():
        raise RuntimeError("no compiler here\nmore")

    ways = {"torch, broken": broken, "torch, wrong": lambda: lambda: np.zeros((1, 5), np.float32)}
    monkeypatch.setattr(torch_twin, "variants", lambda *arguments: {"torch, broken": broken})
    result = networks.measure_network("resnet18", 16, classes=5, pace=SHORT)
    assert result["absent"]["torch, broken"] == "no compiler here"
    monkeypatch.setattr(torch_twin, "variants", lambda *arguments: ways)
    with pytest.raises(EquivalenceError, match="the logits of torch, wrong for resnet18 differ from ours by"):
        networks.measure_network("resnet18", 16, classes=5, pace=SHORT)


@compiled_only
def test_a_network_whose_rungs_differ_is_not_measured():
    network = every_op().network()
    images, _ = networks.random_images(network, 2)
    networks.check_network(network, images)
    right = network.logits
    network.logits = lambda x, threads=None, backend="auto": right(x, threads, backend) + (backend == "numba")
    with pytest.raises(EquivalenceError, match="two rungs give different logits for this network"):
        networks.check_network(network, images)


@compiled_only
def test_stages_have_names_and_shares():
    network = every_op().network()
    images, pixels = networks.random_images(network, 3)
    assert np.array_equal(network.predict(images), network.predict(pixels))
    stages = networks.layer_times([network.profile(images, 1) for _ in range(3)])
    assert sum(stage["share"] for stage in stages) == pytest.approx(1)
    assert all(stage["seconds"] >= 0 and stage["name"] and stage["op"] for stage in stages)


@compiled_only
def test_limits_are_the_slower_of_arithmetic_and_memory():
    """Roofs made up so that a multiply-accumulate of signs takes 1 s, one of float32 10 s, and a byte 0.5 s."""
    sample = Sample((3, 8, 8))
    sample.conv2d(3, 40)
    sample.binary_conv2d(40, 64, scale="plain")
    sample.node("global_avg_pool")
    sample.linear(64, 5)
    network = sample.network()
    batch = 2
    found = limits.Limits(network, batch, 1)
    rates = {name: {"bits": 1.0, "float32": 0.1}.get(name, 2.0) for name in found.loads}
    of_stages = found.of_stages(rates)
    assert [stage[1] for stage in network.profile(sample.pixels(batch))] == [
        "normalise", "conv2d", "binary_conv2d", "global_avg_pool", "linear",
    ]  # fmt: skip
    pixels, real, signs = 64, 3 * 9 * 40, 40 * 9 * 64
    assert of_stages == [
        limits.Limit(batch * pixels * 3 * 8 / 2, "memory"),
        limits.Limit(batch * pixels * real * 10, "float32"),
        limits.Limit(batch * pixels * signs, "bits"),
        limits.Limit(batch * (pixels + 1) * 64 * 4 / 2, "memory"),
        limits.Limit(batch * 64 * 5 * 10, "float32"),
    ]
    slow_memory = {**rates, **{name: 1e-6 for name in rates if name.startswith("memory")}}
    assert found.of_stages(slow_memory)[4].seconds == pytest.approx((4 * 64 * 5 + batch * (64 + 5) * 4) * 1e6)
    stages = [{"seconds": 3 * limit.seconds} for limit in of_stages]
    whole = found.of_network(stages, rates, 6 * sum(limit.seconds for limit in of_stages))
    assert {row["over_limit"] for row in whole["layers"]} == {3} and whole["over_limit"] == pytest.approx(6)


def test_statistics_are_randomised_alike_for_alike_networks():
    first, second = (models.build("nin", image_size=16, in_channels=3, num_classes=5) for _ in range(2))
    before = copy.deepcopy(first.state_dict())
    networks.randomise(first)
    networks.randomise(second)
    changed = [name for name, array in first.state_dict().items() if not np.array_equal(array, before[name])]
    assert changed and all("bn" in name for name in changed)
    assert all(np.array_equal(array, second.state_dict()[name]) for name, array in first.state_dict().items())
    assert all((array > 0).all() for name, array in first.state_dict().items() if name.endswith("running_var"))
