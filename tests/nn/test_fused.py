"""Several layers as one node of the tape compute what the layers do one by one, forward and backward."""

import copy
import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.training.training_samples import result_bytes, tiny_config
from xnor_ref import models, nn
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.nn import backend
from xnor_ref.nn.backend import backward_in, binary_backend
from xnor_ref.nn.methods import METHODS
from xnor_ref.training.fitting.observer import Observer
from xnor_ref.training.job import train_run

if not has_vectors():
    pytest.skip("layers are fused where compiled vector code runs", allow_module_level=True)

needs_bytes = pytest.mark.skipif(not backend.multiplies_bytes(), reason="this processor does not multiply bytes (VNNI)")
CHANNELS = st.sampled_from([1, 3, 5, 16, 32, 33, 40])
SHAPES = st.tuples(st.integers(1, 5), CHANNELS, st.integers(1, 7), st.integers(1, 7))
NORMED = st.tuples(st.integers(4, 6), CHANNELS, st.integers(2, 6), st.integers(2, 6))  # of 2 values nothing is left


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def shaken(model, seed=0):
    """The model with BatchNorms that do something, and biases."""
    rng = np.random.default_rng([seed, 7])
    for name, parameter in model.named_parameters():
        if parameter.data.ndim == 1:
            parameter.data += 0.3 * rng.standard_normal(parameter.shape, dtype=np.float32)
            assert name
    return model


def step(model, x, path="auto", arithmetic="fp32", loss=None, times=1, at=0):
    """Results of a step by name: outputs, gradients, and what moved. The fused path unless `path` is "numba"."""
    x = x if isinstance(x, Tensor) else Tensor(x, requires_grad=True)
    model.set_position(0, at)
    with binary_backend(path), backward_in(arithmetic):
        for _ in range(times):
            y = model(x)
            if loss is None:
                y.backward(normal(1009, *y.shape))  # of no seed that images have
            else:
                loss(y).backward()
    found = {"y": y.data, "dx": x.grad} | {name: p.grad for name, p in model.named_parameters()}
    found |= {name: array.copy() for name, array in model.state_dict().items() if "running" in name}
    return {name: array for name, array in found.items() if array is not None}


def nodes(y):
    """Names of the operations behind a Tensor."""
    if y.record is None:
        return []
    return [y.record.op, *(name for parent in y.record.parents for name in nodes(parent))]


def distance(a, b):
    """Of two results, relative to the length of the second."""
    return float(np.linalg.norm(a.astype(np.float64) - b) / max(np.linalg.norm(b.astype(np.float64)), 1e-12))


def assert_same(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    assert {name: d for name in found if (d := distance(found[name], expected[name])) > tolerance} == {}


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in found if not np.array_equal(found[name], expected[name])] == []


# --- node by node


@st.composite
def windows(draw, size, least=1):
    """Kernel, stride and padding that fit."""
    kernel = tuple(draw(st.integers(1, min(4, s + 2))) for s in size)
    sides = [st.integers(max(0, -(-(k - s) // 2)), k // 2) for k, s in zip(kernel, size, strict=True)]
    padding = tuple(draw(st.one_of(side, st.tuples(side, side))) for side in sides)
    return kernel, (draw(st.integers(least, 3)), draw(st.integers(least, 3))), padding


@st.composite
def dilations(draw, size, window):
    """How far apart taps may be, every other time."""
    padded = Window.of(1, 1, window[2]).padded(size)
    most = [3 if k == 1 else min(3, (s - 1) // (k - 1)) for s, k in zip(padded, window[0], strict=True)]
    return tuple(draw(st.integers(1, m)) for m in most) if draw(st.booleans()) else (1, 1)


@st.composite
def binary_layers(draw, channels, size):
    """A function that makes a BinaryConv2d, always the same."""
    scale = draw(st.sampled_from(["alpha", "off"]))
    rules = ["corrected", "paper", "ste"] + ["official"] * (channels > 1) if scale == "alpha" else ["ste"]
    options = {
        "weight_scale": scale,
        "grad_mode": draw(st.sampled_from(rules)),
        "input_scale": draw(st.sampled_from(["off", "plain", "valid"])),
        "pad_value": draw(st.sampled_from([0, 1, -1])),
    }
    window, outputs = draw(windows(size)), draw(st.sampled_from([1, 17, 32, 33]))
    options["dilation"] = draw(dilations(size, window))
    return lambda: nn.BinaryConv2d(channels, outputs, *window, **options, rng=np.random.default_rng(1))


def both(make, x, seed=0, tolerance=1e-5, images=True):
    """Hold a network of `make` on both paths together; the names of the fused path's nodes.

    Without `images`, x wants no gradient.
    """

    def given():
        return Tensor(x, requires_grad=images)

    found = step(shaken(make(), seed), given())
    assert_same(found, step(shaken(make(), seed), given(), "numba"), tolerance)
    with backward_in("fp32"):
        return nodes(shaken(make(), seed)(given()))


@settings(max_examples=50)
@given(shape=SHAPES, seed=st.integers(0, 999), data=st.data())
def test_binary_convolution(shape, seed, data):
    make = data.draw(binary_layers(shape[1], shape[2:]))
    both(make, normal(seed, *shape))
    alone = step(make(), Tensor(normal(seed, *shape)))  # no gradient of the input
    assert "dx" not in alone and np.array_equal(alone["weight"], step(make(), normal(seed, *shape))["weight"])


@settings(max_examples=30)
@given(shape=SHAPES, seed=st.integers(0, 999), data=st.data(), bits=st.sampled_from([(1, 1), (1, 2), (3, 1), (4, 4)]))
def test_other_gradients_of_sign_and_more_bits(shape, seed, data, bits):
    window, outputs = data.draw(windows(shape[2:])), data.draw(st.sampled_from([1, 17, 33]))
    options = {
        "weight_scale": data.draw(st.sampled_from(["alpha", "off"])),
        "input_scale": data.draw(st.sampled_from(["off", "plain", "valid"])),
        "dilation": data.draw(dilations(shape[2:], window)),
    }
    if bits == (1, 1):
        kind, options["sign_gradient"] = nn.BinaryConv2d, "bireal"
    else:
        kind, options["input_bits"], options["weight_bits"] = nn.KBitConv2d, *bits

    def make():
        return kind(shape[1], outputs, *window, **options, rng=np.random.default_rng(1))

    x = normal(seed, *shape)
    assert both(make, x, seed) == ["binary_conv2d" if bits == (1, 1) else "integer_conv2d"]
    with binary_backend("numba"):
        expected = make()(Tensor(x)).data
    np.testing.assert_array_equal(make()(Tensor(x)).data, expected)  # integers, and the same roundings


@settings(max_examples=50)
@given(shape=NORMED, seed=st.integers(0, 999), data=st.data())
def test_norm_and_binary_convolution(shape, seed, data):
    make = data.draw(binary_layers(shape[1], shape[2:]))
    found = both(lambda: nn.Sequential(nn.BatchNorm2d(shape[1]), make()), normal(seed, *shape) * 2 + 1, seed, 1e-4)
    assert found == ["binary_conv2d"]


@settings(max_examples=50)
@given(shape=SHAPES, seed=st.integers(0, 999), data=st.data(), kind=st.sampled_from(["real", "bwn", "binaryconnect"]))
def test_real_convolution(shape, seed, data, kind):
    window, rng = data.draw(windows(shape[2:])), np.random.default_rng
    outputs, bias = data.draw(st.sampled_from([1, 17, 32, 33])), data.draw(st.booleans())
    apart = data.draw(dilations(shape[2:], window))
    makes = {
        "real": lambda: nn.Conv2d(shape[1], outputs, *window, bias=bias, rng=rng(1), dilation=apart),
        "bwn": lambda: nn.BinaryWeightConv2d(shape[1], outputs, *window, rng=rng(1), dilation=apart),
        "binaryconnect": lambda: nn.BinaryWeightConv2d(
            shape[1], outputs, *window, weight_scale="off", stochastic=bias, rng=rng(1), dilation=apart
        ),
    }
    both(makes[kind], normal(seed, *shape), seed)


@settings(max_examples=50)
@given(shape=NORMED, seed=st.integers(0, 999), data=st.data())
def test_norm_relu_and_pooling(shape, seed, data):
    x = normal(seed, *shape) * 2 + 1
    norm, pool = lambda: nn.BatchNorm2d(shape[1]), data.draw(windows(shape[2:]))
    assert both(norm, x, seed) == ["batch_norm"]
    assert both(lambda: nn.Sequential(norm(), nn.ReLU()), x, seed) == ["batch_norm"]
    assert both(lambda: nn.Sequential(norm(), nn.ReLU(), nn.MaxPool2d(*pool)), x, seed) == ["batch_norm"]
    both(lambda: nn.Sequential(norm(), nn.ReLU(), nn.AvgPool2d(*pool)), x, seed)
    both(lambda: nn.MaxPool2d(*pool), np.round(x), seed)  # with ties
    assert both(lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(*pool)), np.round(x), seed) == ["max_pool2d"]
    both(lambda: nn.AvgPool2d(*pool), x, seed)
    both(nn.GlobalAvgPool2d, x, seed)


@settings(max_examples=50)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(3, 9), st.integers(3, 9)),
    outputs=st.sampled_from([1, 16, 33, 70]),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_a_first_convolution_with_its_norm(shape, outputs, seed, data):
    window = data.draw(windows(shape[2:]))
    followers = data.draw(st.sampled_from([[], [nn.ReLU()], [nn.ReLU(), nn.MaxPool2d(2, padding=1)]]))

    def conv():
        return nn.Conv2d(shape[1], outputs, *window, rng=np.random.default_rng(1))

    def make():
        return nn.Sequential(conv(), nn.BatchNorm2d(outputs), *followers)

    x = normal(seed, *shape)
    y = conv()(Tensor(x)).data
    assume(y[:, 0].size > 8 and conv().weight.data[0].size > 2)  # else gradients are all but 0
    alone = ["batch_norm", "conv2d"]
    together = shape[1] <= 4 and y.shape[2:] != (1, 1)
    assert both(make, x, seed, 1e-4, images=False) == (["conv2d"] if together else alone)
    assert both(make, x, seed, 1e-4) == alone


def test_a_layer_with_its_own_forward_stays_alone():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) * 2

    class Shifted(nn.ReLU):
        def forward(self, x):
            return super().forward(x + 1)

    conv = Doubled(3, 16, 3, rng=np.random.default_rng(0))
    net = nn.Sequential(conv, nn.BatchNorm2d(16), Shifted(), nn.MaxPool2d(2))
    assert nodes(net(Tensor(normal(0, 2, 3, 6, 6))))[::2] == ["max_pool2d", "add", "mul"]


@pytest.mark.parametrize("gamma", nn.GAMMAS)
def test_a_learned_scale_keeps_channels_innermost(gamma):
    """Its neighbours are fused as without it, and no image or gradient between them is turned."""

    def innermost(array):
        return array.transpose(0, 2, 3, 1).flags.c_contiguous

    def make():
        conv = nn.BinaryConv2d(5, 33, 3, 1, 1, weight_scale="off", input_scale="off", rng=np.random.default_rng(1))
        return nn.Sequential(nn.BatchNorm2d(5), conv, nn.Scale(33, gamma, (6, 6)), nn.ReLU(), nn.MaxPool2d(2))

    x = normal(0, 4, 5, 6, 6)
    assert both(make, x) == ["max_pool2d", "scale", "binary_conv2d"]
    y = make()(Tensor(x, requires_grad=True))
    dy = normal(1, *y.shape)
    while y.record is not None:
        assert innermost(y.data)
        y, dy = y.record.parents[0], y.record.backward(dy)[0]
        assert innermost(dy)


# --- whole networks


def network(name, method="xnor", seed=0, size=16, **options):
    return models.build(name, image_size=size, in_channels=3, num_classes=7, method=method, seed=seed, **options)


def cross_entropy(logits):
    return nn.cross_entropy(logits, np.arange(logits.shape[0]) % 7)


LARGE = ("alexnet", "googlenet")
CASES = [
    (name, method) for name in models.names() for method in ("xnor", "full") if name not in LARGE or method == "xnor"
]
CASES += [("shapes-net", method) for method in METHODS if method not in ("xnor", "full")]


@pytest.mark.parametrize(("name", "method"), CASES)
def test_whole_networks(name, method):
    """Rounding may flip a sign or the mask of a ReLU, which cascades; so one of a few draws has to agree."""

    def agree(seed):
        results = [
            step(shaken(network(name, method)), normal(seed, 8, 3, 16, 16), path, loss=cross_entropy)
            for path in ("auto", "numba")
        ]
        assert results[0].keys() == results[1].keys()
        moved = [key for key in results[0] if key == "y" or "running" in key]
        gradients = [np.concatenate([r[key].reshape(-1) for key in r if key not in moved]) for r in results]
        return distance(*gradients) < 2e-5 and all(distance(*(r[key] for r in results)) < 2e-5 for key in moved)

    assert any(agree(seed) for seed in range(3))


@pytest.mark.parametrize(("name", "options"), [("vgg-small", {}), ("resnet18", {})])
def test_a_real_network_has_the_gradients_of_torch(name, options):
    torch = pytest.importorskip("torch")
    from xnor_ref.bench.peers.torch_twin import to_torch

    model, x = shaken(network(name, "full", **options)), normal(1, 3, 3, 16, 16)
    twin = to_torch(model).train()
    images = torch.from_numpy(x.copy()).requires_grad_()
    y = twin(images)
    torch.nn.functional.cross_entropy(y, torch.arange(3)).backward()
    found = step(model, x, loss=cross_entropy)
    expected = {"y": y.detach().numpy(), "dx": images.grad.numpy()}
    ours = [name for name, _ in model.named_parameters()]
    expected |= {name: p.grad.numpy() for name, p in zip(ours, twin.parameters(), strict=True)}
    assert_same({name: found[name] for name in expected}, expected, 1e-4)


def test_a_binary_block_has_the_gradients_of_torch():
    """One sign between real layers: BatchNorm, sign with its estimator, K and alpha, written out in torch."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    rng = np.random.default_rng(0)
    model = nn.Sequential(
        stem=nn.Conv2d(3, 40, 3, 1, 1, rng=rng),
        bn=nn.BatchNorm2d(40),
        conv=nn.BinaryConv2d(40, 33, 3, 2, 1, rng=rng),
        last=nn.Conv2d(33, 5, 1, bias=True, rng=rng),
    )
    x = normal(1, 4, 3, 9, 8)
    found = step(shaken(model), x)
    p = {name: torch.from_numpy(q.data.copy()).requires_grad_() for name, q in model.named_parameters()}

    class Sign(torch.autograd.Function):
        @staticmethod
        def forward(context, v):
            context.save_for_backward(v)
            return torch.where(v >= 0, 1.0, -1.0)

        @staticmethod
        def backward(context, d):
            return d * (context.saved_tensors[0].abs() <= 1)

    images = torch.from_numpy(x.copy()).requires_grad_()
    h = functional.conv2d(images, p["stem.weight"], padding=1)
    h = functional.batch_norm(h, None, None, p["bn.weight"], p["bn.bias"], training=True)
    k = functional.avg_pool2d(h.detach().abs().mean(1, keepdim=True), 3, 2, 1)
    alpha = p["conv.weight"].abs().mean((1, 2, 3))
    z = functional.conv2d(Sign.apply(h), Sign.apply(p["conv.weight"]), stride=2, padding=1)
    y = functional.conv2d(z * alpha.reshape(-1, 1, 1) * k, p["last.weight"], p["last.bias"])
    y.backward(torch.from_numpy(normal(1009, *y.shape)))
    expected = {"y": y.detach().numpy(), "dx": images.grad.numpy()} | {name: q.grad.numpy() for name, q in p.items()}
    assert_same({name: found[name] for name in expected}, expected)


# --- how networks are used


def block(channels=32, seed=0):
    rng = np.random.default_rng(seed)
    return nn.Sequential(nn.BatchNorm2d(channels), nn.BinaryConv2d(channels, channels, 3, 1, 1, rng=rng))


@pytest.mark.parametrize("arithmetic", ["fp32", "int8"])
def test_residual_networks_and_a_layer_used_twice(arithmetic):
    shared = block()
    model = nn.Sequential(nn.Residual(shared), nn.Residual(shared, nn.Conv2d(32, 32, 1, rng=np.random.default_rng(1))))
    x = normal(2, 3, 32, 6, 6)
    found = step(shaken(model), x, arithmetic=arithmetic)
    shared = block()
    model = nn.Sequential(nn.Residual(shared), nn.Residual(shared, nn.Conv2d(32, 32, 1, rng=np.random.default_rng(1))))
    assert_same(found, step(shaken(model), x, "numba"), 1e-4 if arithmetic == "fp32" else 0.03)


def test_models_that_take_turns_and_sizes_that_change():
    """Nothing of a call is left in a layer: gradients are those of models that were alone."""
    inputs = [normal(seed, 2, 3, size, size) for seed, size in enumerate((16, 20, 16))]
    alone = [step(network("shapes-net", seed=seed), x) for seed in (0, 1) for x in inputs[:1]]
    pair, outputs = [network("shapes-net", seed=seed) for seed in (0, 1)], []
    with backward_in("fp32"):
        for model in pair:
            with no_grad():
                model(Tensor(inputs[1]))
        images = [Tensor(inputs[0], requires_grad=True) for _ in pair]
        outputs = [model(x) for model, x in zip(pair, images, strict=True)]
        for y in reversed(outputs):
            y.backward(normal(1009, *y.shape))
    for model, x, y, expected in zip(pair, images, outputs, alone, strict=True):
        found = {"y": y.data, "dx": x.grad} | {name: p.grad for name, p in model.named_parameters()}
        assert_same_bits(found, {name: expected[name] for name in found})


def test_a_copy_of_a_network_computes_for_itself():
    model, x = block(), normal(1, 2, 32, 5, 5)
    step(model, x)
    other = copy.deepcopy(model)
    for _, p in other.named_parameters():
        p.data[...] = -p.data
        p.grad = None
    fresh = block()
    for _, p in fresh.named_parameters():
        p.data[...] = -p.data
    del model
    found, expected = step(other, x), step(fresh, x)
    assert_same_bits({k: found[k] for k in ("y", "dx", "1.weight")}, {k: expected[k] for k in ("y", "dx", "1.weight")})


def test_gradients_accumulate_and_the_tape_can_be_kept():
    x = normal(1, 2, 32, 5, 5)
    once, twice = step(block(), x), step(block(), x, times=2)
    assert all(np.array_equal(twice[name], 2 * once[name]) for name in ("1.weight", "0.weight", "dx"))
    model, images = block(), Tensor(x, requires_grad=True)
    with backward_in("fp32"):
        y = model(images)
        dy = normal(1009, *y.shape)
        dy.setflags(write=False)
        y.backward(dy, keep_tape=True)
        y.backward(dy)
    assert np.array_equal(images.grad, twice["dx"]) and np.array_equal(images.data, x)


def test_inference_and_no_grad_take_no_fused_path():
    model, x = shaken(network("shapes-net")), normal(1, 2, 3, 16, 16)
    with no_grad():
        outputs = [model(Tensor(x)).data]
        with binary_backend("numba"):
            assert np.array_equal(outputs[0], model(Tensor(x)).data)
    state = {name: array.copy() for name, array in model.eval().state_dict().items()}
    logits = []
    for path in ("auto", "numba", "float"):
        with binary_backend(path), no_grad():
            logits.append(model(Tensor(x)).data)
    assert all(np.array_equal(logits[0], other) for other in logits[1:])
    assert_same_bits(model.state_dict(), state)
    found, expected = (step(model, x, path) for path in ("auto", "numba"))  # gradients with fixed statistics
    assert_same(found, expected, 1e-4)


@pytest.mark.parametrize("arithmetic", ["fp32", "int8"])
def test_the_layout_of_the_input_changes_no_bit(arithmetic):
    x, dy = normal(1, 4, 5, 6, 7), normal(2, 4, 33, 6, 7)
    inside = np.zeros((8, 6, 8, 9), np.float32)[::-2, 1:, 1:7, 1:8]
    inside[...] = x
    lasting = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    turned = np.ascontiguousarray(x.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)
    results = []
    for images, gradient in (
        (x, dy),
        (inside, dy[:, :, ::-1][:, :, ::-1]),
        (lasting, np.asfortranarray(dy)),
        (turned, dy),
    ):
        model, leaf = (
            nn.Sequential(*block(5)._layers.values(), nn.Conv2d(5, 33, 1, rng=np.random.default_rng(0))),
            Tensor(images, requires_grad=True),
        )
        with backward_in(arithmetic):
            model.set_position(0, 0)
            y = model(leaf)
            y.backward(gradient)
        results.append({"y": y.data, "dx": leaf.grad} | {name: p.grad for name, p in model.named_parameters()})
    for other in results[1:]:
        assert_same_bits(other, results[0])


# --- the arithmetic of gradients


@needs_bytes
def test_arithmetics():
    x = normal(1, 8, 32, 8, 8)
    by = {arithmetic: step(block(), x, arithmetic=arithmetic) for arithmetic in backend.BACKWARDS}
    assert_same_bits(by["auto"], by["int8"])
    assert np.array_equal(by["fp32"]["y"], by["int8"]["y"])
    for name in ("dx", "1.weight", "0.weight", "0.bias"):
        assert 1e-5 < distance(by["int8"][name], by["fp32"][name]) < 0.05
    assert not np.array_equal(step(block(), x, arithmetic="int8", at=1)["dx"], by["int8"]["dx"])


def test_an_arithmetic_is_a_choice_and_ends_with_its_block():
    with pytest.raises(InputError, match="one of auto, fp32, int8, got 'bf16'"), backward_in("bf16"):
        pass
    before = backend.gradients_in_bytes()
    with pytest.raises(ZeroDivisionError), backward_in("fp32"):
        assert not backend.gradients_in_bytes()
        raise ZeroDivisionError
    assert backend.gradients_in_bytes() == before


class Notes(Observer):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_processors_without_products_of_bytes_take_float32(monkeypatch, tmp_path):
    x = normal(1, 2, 32, 5, 5)
    expected = step(block(), x)
    for module in ("xnor_ref.nn.backend", "xnor_ref.training.job"):
        monkeypatch.setattr(f"{module}.multiplies_bytes", lambda: False)
    for arithmetic in backend.BACKWARDS:
        assert_same_bits(step(block(), x, arithmetic=arithmetic), expected)
    observer, config = Notes(), tiny_config(tmp_path, epochs=1)
    train_run(dataclasses.replace(config, backward="int8"), out=tmp_path / "int8", observer=observer)
    assert any("has no instructions for bytes" in note and "in fp32" in note for note in observer.notes)
    train_run(dataclasses.replace(config, backward="fp32"), out=tmp_path / "fp32", observer=(quiet := Notes()))
    assert not any("bytes" in note for note in quiet.notes)
    name = "checkpoints/step-000000004.safetensors"
    weights = [step_weights(tmp_path / run / name) for run in ("int8", "fp32")]
    assert_same_bits(*weights)


def step_weights(path):
    from safetensors.numpy import load_file

    return load_file(path)


@needs_bytes
def test_the_number_of_threads_changes_no_byte_of_training(tmp_path):
    config = tiny_config(tmp_path, backward="int8", epochs=1)
    for threads in (1, 2, 3):
        train_run(dataclasses.replace(config, threads=threads), out=tmp_path / str(threads))
    assert result_bytes(tmp_path / "1") == result_bytes(tmp_path / "2") == result_bytes(tmp_path / "3")
