"""`check_gradients`: every layer passes on both paths, planted faults are found, and what is held constant is said."""

import inspect

import numpy as np
import pytest

from xnor_ref import autodiff, binary, models, nn
from xnor_ref.autodiff import GradientError, Tensor, apply
from xnor_ref.errors import InputError, InputTypeError
from xnor_ref.nn.layers.kbit_layers import KBitLayer
from xnor_ref.verify import check_gradients, gradients

SIZES = {
    "in_channels": 3,
    "out_channels": 6,
    "kernel_size": 2,
    "in_features": 5,
    "out_features": 4,
    "channels": 3,
}
CONTAINERS = {nn.Module, nn.Sequential, nn.Residual, nn.Graph, nn.Add, nn.Concat}  # the last two need two inputs
LAYERS = [
    kind
    for kind in vars(nn).values()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and kind not in CONTAINERS
]
CLOSE = 2e-6  # what the float32 of training leaves


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def rng(seed=0):
    return np.random.default_rng(seed)


def made(kind, **more):
    """A layer of this class, by the names of its arguments, and an input for it."""
    signatures = (inspect.signature(base).parameters for base in kind.__mro__)
    names = next(found for found in signatures if all(p.kind is not p.VAR_POSITIONAL for p in found.values()))
    given = {name: SIZES[name] for name, p in names.items() if name in SIZES and p.default is p.empty}
    given |= {"kernel_size": 2} if "kernel_size" in names else {}
    given |= {"rng": rng()} if "rng" in names else {}
    given |= {"weight_bits": 2, "input_bits": 2} if issubclass(kind, KBitLayer) else {}
    layer = kind(**{**given, **more})
    for _, parameter in layer.named_parameters():
        parameter.data += rng(1).standard_normal(parameter.shape).astype(np.float32) * np.float32(0.1)
    shape = (4, 5) if "in_features" in given else (4, 3) if getattr(layer, "ndim", 4) == 2 else (3, 3, 5, 4)
    return layer, normal(2, *shape)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_every_layer_has_the_gradient_of_its_form(kind, training):
    layer, x = made(kind)
    before = {name: array.copy() for name, array in layer.state_dict().items()}
    report = check_gradients(layer.train(training), x)
    assert report.error < CLOSE and report.elements > 0
    assert all(np.array_equal(before[name], array) for name, array in layer.state_dict().items())
    assert all(p.grad is None for p in layer.parameters())


def test_every_layer_has_a_form():
    assert len(LAYERS) > 20
    assert [kind for kind in LAYERS if not any(base in gradients.FORMS for base in kind.__mro__)] == []


BINARY = [
    *({"grad_mode": name} for name in binary.WEIGHT_GRADIENTS),
    *({"sign_gradient": name} for name in binary.SIGN_GRADIENTS),
    *({"input_scale": name} for name in binary.INPUT_SCALES),
    *({"weight_scale": name} for name in binary.WEIGHT_SCALES),
    *({"input_scale": name, "k_grad": True} for name in ("plain", "valid")),
]


@pytest.mark.parametrize("settings", BINARY, ids=str)
@pytest.mark.parametrize("kind", [nn.BinaryConv2d, nn.BinaryLinear])
def test_binary_layers_by_every_rule(kind, settings):
    layer, x = made(kind, **settings, bias=True)
    report = check_gradients(layer, x)
    assert report.error < CLOSE
    assert any("K, since k_grad is off" in text for text in report.constant) == (
        layer.input_scale.scales and not layer.k_grad
    )


@pytest.mark.parametrize("pad_value", [-1, 0, 1])
@pytest.mark.parametrize("stride, padding", [(1, 1), (2, (1, 0)), ((1, 2), 2)])
def test_binary_convolutions_at_their_border(stride, padding, pad_value):
    for more in ({}, {"k_grad": True, "input_scale": "valid"}):
        layer = nn.BinaryConv2d(2, 3, (3, 2), stride, padding, pad_value, rng=rng(), **more)
        assert check_gradients(layer, normal(1, 2, 2, 5, 6)).error < CLOSE


@pytest.mark.parametrize(
    "layer",
    [
        nn.BinaryConv2d(4, 4, 3, padding=((1, 0), (0, 1)), groups=4, k_grad=True, input_scale="valid", rng=rng()),
        nn.BinaryWeightConv2d(4, 6, 3, padding=1, groups=2, rng=rng()),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d(2, padding="same"),
    ],
    ids=lambda layer: layer.describe(),
)
def test_windows_and_groups_of_other_layers(layer):
    assert check_gradients(layer, normal(0, 2, 4, 9, 8)).error < CLOSE


@pytest.mark.parametrize("bits", [(1, 2), (3, 1), (2, 4)])
def test_layers_of_several_bits(bits):
    for scale in ("alpha", "off"):
        settings = {"weight_bits": bits[0], "input_bits": bits[1], "weight_scale": scale}
        for layer, x in (made(nn.KBitConv2d, padding=1, **settings), made(nn.KBitLinear, **settings)):
            assert check_gradients(layer, x).error < CLOSE


@pytest.mark.parametrize("more", [{"groups": 2, "padding": "same"}, {"dilation": (1, 2), "padding": ((0, 1), (2, 0))}])
@pytest.mark.parametrize("settings", [{}, {"k_grad": True}, {"input_bits": 2, "input_levels": "ternary"}], ids=str)
def test_binary_convolutions_of_every_window(settings, more):
    kind = nn.KBitConv2d if "input_bits" in settings else nn.BinaryConv2d
    layer = kind(4, 6, (3, 2), 2, pad_value=1, rng=rng(), **settings, **more)
    assert check_gradients(layer, normal(1, 2, 4, 5, 6)).error < CLOSE


def test_what_is_drawn_at_random_is_held():
    layer, x = made(nn.BinaryWeightConv2d, stochastic=True, weight_scale="off")
    report = check_gradients(layer, x)
    assert report.error < CLOSE and report.constant == ("BinaryWeightConv2d: the signs of its weights, as drawn",)
    report = check_gradients(nn.Dropout(0.3), x)
    assert report.constant == ("Dropout: what it drops, as drawn",)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, 2, ((0, 1), (2, 0)), groups=2, bias=True, dilation=2),
        nn.Scale(4, "o-h-w", (5, 5)),
        nn.AvgPool2d(3, 2, "same"),
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(2, 2, ceil_mode=True),
        nn.MaxPool2d(2, 2, ((0, 1), (1, 0)), ceil_mode=True),
    ],
    ids=repr,
)
def test_more_real_layers(layer):
    assert check_gradients(layer, normal(0, 2, 4, 5, 5)).error < CLOSE


@pytest.mark.parametrize("training", [True, pytest.param(False, marks=pytest.mark.soak)])
@pytest.mark.parametrize("method", nn.methods.METHODS)
def test_whole_networks_of_every_method(method, training):
    """Behind BatchNorm a sign may turn between float32 and float64; here none does."""
    network = models.build("shapes-net", image_size=16, in_channels=2, num_classes=3, method=method, width=2)
    report = check_gradients(network.train(training), normal(0, 4, 2, 16, 16), elements=20)
    assert report.error < 2e-4
    said = any(text.startswith("block1.") for text in report.surrogates)
    assert said == nn.methods.METHODS[method].inputs


def test_containers_and_modules_of_ones_own():
    class Own(nn.Module):
        def __init__(self):
            self.left, self.right = nn.BinaryConv2d(3, 3, 1, rng=rng()), nn.Conv2d(3, 3, 1, rng=rng())
            self.factor = nn.Parameter(np.float32([0.5, -1.5, 2]).reshape(3, 1, 1))

        def forward(self, x):
            return autodiff.tanh(self.left(x) * self.factor) + self.right(x)

    network = nn.Sequential(nn.Residual(Own(), nn.ReLU()), nn.GlobalAvgPool2d())
    report = check_gradients(network, normal(0, 2, 3, 4, 4))
    assert report.error < 1e-5 and report.constant == ("0.body.left: K, since k_grad is off",)


class Cube(nn.Module):
    """x^3 weight, whose gradient a subclass gets wrong."""

    wrong_dx = wrong_dw = 0.0

    def __init__(self):
        self.weight = nn.Parameter(np.float32([1, 2, -3]))

    def forward(self, x):
        x3, w = x.data**3, self.weight.data

        def backward(dy):
            dx, dw = dy * 3 * x.data**2 * w, (dy * x3).sum(axis=0)
            dx[1, 2] += self.wrong_dx
            dw[1] += self.wrong_dw
            return dx, dw

        return apply("cube", x3 * w, (x, self.weight), backward)


@pytest.mark.parametrize("where, found", [("wrong_dx", r"input\[1, 2\]"), ("wrong_dw", r"weight\[1\]")])
def test_a_wrong_element_of_a_gradient_is_named(where, found):
    x = normal(0, 4, 3)
    assert check_gradients(Cube(), x).error < CLOSE
    layer = Cube()
    setattr(layer, where, 0.5)
    with pytest.raises(
        GradientError, match=f"check_gradients: {found} is .* as training computes it, .* by differences"
    ):
        check_gradients(layer, x)


class NoMask(nn.BinaryConv2d):
    def through_sign(self, x, dx):
        return dx


class Swapped(nn.BinaryConv2d):
    def latent_gradient(self, grad, alpha):
        return super().latent_gradient(grad, alpha)[::-1].copy()


class NoAlpha(nn.BinaryConv2d):
    def scaled_signs(self, alpha):
        return super().scaled_signs(None)


@pytest.mark.parametrize("kind, where", [(NoMask, "input"), (Swapped, "weight"), (NoAlpha, "input")])
def test_wrong_steps_of_a_binary_layer_are_found(kind, where):
    layer = kind(3, 4, 3, rng=rng())
    with pytest.raises(GradientError, match=rf"{where}\[.*\] is"):
        check_gradients(layer, normal(1, 2, 3, 5, 5) * 2)


def test_a_fault_of_one_path_alone_is_found(monkeypatch):
    right = nn.functional.affine

    def wrong(x, scale, shift):
        return right(x, scale * 1.01, shift)

    monkeypatch.setattr(nn.functional, "affine", wrong)
    with pytest.raises(GradientError, match=r"output\[.*\] is"):
        check_gradients(nn.BatchNorm2d(3).eval(), normal(0, 2, 3, 4, 4))


class OwnSign(nn.Module):
    """A sign whose stated surrogate is the derivative of tanh."""

    def forward(self, x):
        out = binary.sign(x.data)
        return apply("own", out, (x,), lambda dy: (dy * (1 - np.tanh(x.data) ** 2),))


def test_a_kink_goes_on_as_its_gradient_says():
    x = np.float32([[-1, 0, 1, 2], [0, -2, -1, 0]])
    for layer in (nn.ReLU(), nn.PReLU(), nn.Hardtanh(), nn.Sign()):
        assert check_gradients(layer, x).error < CLOSE
    ties = np.repeat(np.float32([[[[1, 1], [1, 1]]]]), 3, axis=1)
    assert check_gradients(nn.MaxPool2d(2), ties).error < CLOSE


def test_signs_of_ones_own_state_their_surrogate():
    x = normal(0, 3, 4)
    with pytest.raises(GradientError, match="input"):
        check_gradients(OwnSign(), x)
    forms = {OwnSign: lambda layer, x, x0: np.tanh(x) - np.tanh(x0) + np.sign(x0)}
    assert check_gradients(nn.Sequential(OwnSign()), x, forms=forms).error < CLOSE


def test_the_largest_arrays_are_sampled():
    report = check_gradients(nn.Linear(60, 50, rng=rng()), normal(0, 2, 60), elements=10)
    assert report.elements == 100 + 3 * 10


def test_of_many_binary_weights_whole_filters_are_compared():
    """Unless the rule mixes filters, such as one alpha for the layer; then all are."""
    for scale, weights in (("alpha", 2 * 18), ("layer", 4 * 18)):
        layer = nn.BinaryConv2d(2, 4, 3, weight_scale=scale, rng=rng())
        assert check_gradients(layer, normal(0, 1, 2, 4, 4), elements=36).elements == 1 * 4 * 2 * 2 + 32 + weights


class OneWrong(nn.BinaryConv2d):
    def latent_gradient(self, grad, alpha):
        found = super().latent_gradient(grad, alpha)
        found[:, 1, 2, 0] *= 1.1
        return found


def test_a_fault_in_every_filter_is_found_in_any():
    with pytest.raises(GradientError, match=r"weight\[\d, 1, 2, 0\] is"):
        check_gradients(OneWrong(2, 4, 3, rng=rng()), normal(0, 1, 2, 4, 4), elements=1)


class Single(nn.Module):
    def forward(self, x):
        return Tensor(x.data.astype(np.float32), requires_grad=True) * 1.0


@pytest.mark.parametrize(
    "layer, x, kind, message",
    [
        (nn.ReLU, normal(0, 2, 2), InputTypeError, "layer must be a Module, got type"),
        (nn.ReLU(), [[1.0]], InputTypeError, "x must be a float32 or float64 array with elements, got list"),
        (nn.ReLU(), np.zeros((0, 3)), InputTypeError, r"got float64 \(0, 3\)"),
        (nn.ReLU(), np.arange(4), InputTypeError, "got int64"),
        (nn.ReLU(), np.array([1, np.inf]), InputError, "x holds NaN or infinity"),
        (Single(), normal(0, 2, 2), InputTypeError, "of float64 Single makes float32; it must keep the dtype"),
        (
            nn.BinaryLinear(3, 2, grad_bits=1),
            normal(0, 2, 3),
            InputError,
            "'BinaryLinear' rounds its gradients .grad_bits=1",
        ),
        (nn.Linear(3, 2), normal(0, 2, 4), InputError, r"linear: input must be \(N, 3\)"),
    ],
)
def test_what_it_cannot_check(layer, x, kind, message):
    with pytest.raises(kind, match=message):
        check_gradients(layer, x)


def test_nothing_is_compared_by_no_elements():
    with pytest.raises(InputError, match="elements must be at least 1, got 0"):
        check_gradients(nn.ReLU(), normal(0, 2, 2), elements=0)


def test_a_parameter_without_a_gradient_is_not_compared():
    class Idle(nn.Module):
        def __init__(self):
            self.idle = nn.Parameter(np.ones(3, np.float32))

        def forward(self, x):
            return x * 2.0

    assert check_gradients(Idle(), normal(0, 2, 3)).elements == 12
