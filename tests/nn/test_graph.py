"""Networks as graphs: the results and gradients of the same network written as code, on both paths and frozen."""

import numpy as np
import pytest

from tests.packed.test_freeze import assert_agree, lived_in
from xnor_ref import nn
from xnor_ref.autodiff import Tensor, concatenate
from xnor_ref.errors import InputError, InputTypeError
from xnor_ref.verify.gradients import check_gradients


def layers(seed=0):
    rng = np.random.default_rng(seed)
    constant = nn.Affine(4)
    constant.scale[...], constant.shift[...] = rng.normal(size=4), rng.normal(size=4)
    return {
        "stem.conv": nn.Conv2d(3, 4, 3, padding=1, rng=rng),
        "stem.bn": nn.BatchNorm2d(4),
        "stem.relu": nn.ReLU(),
        "a": (nn.BinaryConv2d(4, 4, 3, padding=1, rng=rng), "stem.relu"),
        "b": (nn.BatchNorm2d(4), "stem.relu"),
        "b.conv": nn.BinaryConv2d(4, 4, 1, input_scale="off", rng=rng),
        "sum": (nn.Add(), "a", "b.conv", "stem.bn"),
        "fixed": constant,
        "all": (nn.Concat(), "fixed", "a", "input"),
        "norm": nn.BatchNorm2d(11),
        "last": nn.BinaryConv2d(11, 5, 3, input_scale="off", rng=rng),
        "leaky": nn.PReLU(1, 0.1, learned=False),
        "pool": nn.GlobalAvgPool2d(),
    }


class Written(nn.Module):
    """The same as code."""

    def __init__(self, own):
        self.own = own

    def forward(self, x):
        g = self.own
        stem = g["stem.bn"](g["stem.conv"](x))
        relu = g["stem.relu"](stem)
        a = g["a"](relu)
        y = g["fixed"](a + g["b.conv"](g["b"](relu)) + stem)
        return g["pool"](g["leaky"](g["last"](g["norm"](concatenate([y, a, x], axis=1)))))


def test_a_graph_is_the_network_written_as_code():
    graph, code = (lived_in(make(nn.Graph(layers()))) for make in (lambda own: own, Written))
    x = np.random.default_rng(1).standard_normal((4, 3, 6, 5), dtype=np.float32)
    found = []
    for network in (graph, code):
        image = Tensor(x, requires_grad=True)
        y = network(image)
        (y * y).sum().backward()
        found.append([y.data, image.grad, *(parameter.grad for parameter in network.parameters())])
    assert len(found[0]) > 10
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert {f"own.{name}" for name in graph.state_dict()} == set(code.state_dict())
    assert "fixed.scale" in graph.state_dict() and "leaky.weight" not in graph.state_dict()


def test_gradients_of_a_graph():
    x = np.random.default_rng(1).standard_normal((3, 3, 6, 5))
    report = check_gradients(nn.Graph(layers()), x, elements=20)
    assert report.error < 1e-3 and report.elements > 100


def test_a_frozen_graph_repeats_its_bits():
    packed = assert_agree(lived_in(nn.Graph(layers())), (3, 6, 5))
    kinds = {layer.name: layer.kind for layer in packed.layers}
    assert (kinds["all"], kinds["sum"], kinds["sum.3"], kinds["fixed"]) == ("concat", "add", "add", "affine")
    assert "norm" not in kinds and "b" not in kinds  # thresholds now
    inner = nn.Graph({"two": (nn.Concat(), "input", "input"), "conv": nn.BinaryConv2d(6, 5, 3)})
    assert_agree(nn.Sequential(inner, nn.Residual(nn.Graph({"only": nn.ReLU()})), nn.GlobalAvgPool2d()))


def test_chains_are_cut_where_results_are_shared():
    network = nn.Graph(layers())
    assert list(network.chains())[:2] == [["stem.conv", "stem.bn"], ["stem.relu"]]
    assert ["norm", "last", "leaky", "pool"] in [chain[-4:] for chain in network.chains()]
    assert "sum <- a, b.conv, stem.bn" in repr(network) and "(stem.conv): Conv2d" in repr(network)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({}, "has no layers"),
        ({"input": nn.ReLU()}, "cannot have the name 'input'"),
        ({"a": (nn.ReLU(), "b"), "b": nn.ReLU()}, "layer 'a' reads 'b', which is not a layer before it"),
        ({"a": nn.ReLU(), "b": (nn.ReLU(), "input"), "c": nn.ReLU()}, "layer 'a' is not read by another layer"),
        ({"a": (nn.ReLU(),)}, "layer 'a' reads nothing"),
        ({"a": "relu"}, "layer 'a' must be a Module, got str"),
    ],
)
def test_graphs_that_are_none(layers, message):
    with pytest.raises(InputError, match=message):
        nn.Graph(layers)


def test_what_joins_says_what_it_is_given():
    x, y = np.ones((2, 3, 4, 4), np.float32), np.ones((2, 3, 4, 5), np.float32)
    for layer in (nn.Add(), nn.Concat()):
        with pytest.raises(InputError, match=r"shapes \(2, 3, 4, 4\) and \(2, 3, 4, 5\)"):
            layer(x, y)
        with pytest.raises(InputError, match=r"needs at least two inputs, got 1; use it in an nn\.Graph"):
            layer(x)
    with pytest.raises(InputTypeError, match="Concat: input must be a Tensor"):
        nn.Concat()(x, None)
    with pytest.raises(InputError, match=r"Affine: input has shape .* the layer needs \(N, 5"):
        nn.Affine(5)(x)
