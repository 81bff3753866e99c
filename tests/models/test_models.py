"""Every network in every size: shapes, counts, gradients, and the agreement of float and packed logits."""

import math

import numpy as np
import pytest

from xnor_ref import models, nn
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics import memory
from xnor_ref.kernels.basics.geometry import Window

SIZES = {"shapes-net": [64], "lenet5": [28, 32], "nin": [32, 64], "vgg-small": [32, 64], "resnet18": [32, 64]}
SIZES |= {"alexnet": [32, 64], "resnet20": [32], "googlenet": [32]}
SMALL = [(name, size) for name, sizes in SIZES.items() for size in sizes]
LARGE = [("googlenet", 64), *((name, 224) for name in ("nin", "vgg-small", "alexnet", "resnet18", "googlenet"))]


def build(name, size, method="xnor", classes=10, **options):
    channels = 1 if name == "lenet5" and size == 28 else 3
    return models.build(
        name, image_size=size, in_channels=channels, num_classes=classes, method=method, seed=1, **options
    )


def images(network, n, seed=0):
    shape = (n, network.config["in_channels"], *(network.config["image_size"],) * 2)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def settle(network, n=4):
    """One training-mode pass, so that BatchNorm has seen data, then inference mode."""
    for _, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.momentum = 1.0
    network(Tensor(images(network, n, seed=5)))
    return network.eval()


@pytest.mark.parametrize(
    ("name", "size", "method"),
    [
        *((name, size, "xnor") for name, size in SMALL),
        *((name, sizes[0], "full") for name, sizes in SIZES.items()),
        pytest.param("resnet18", 224, "xnor", marks=pytest.mark.slow),
        pytest.param("resnet18", 224, "full", marks=pytest.mark.soak),
    ],
)
def test_logits_and_gradients_are_finite(name, size, method):
    network = build(name, size, method)
    x = images(network, 2)
    logits = network(Tensor(x))
    assert logits.shape == (2, 10)
    nn.cross_entropy(logits, np.array([0, 1])).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and np.isfinite(parameter.grad).all(), key
        assert parameter.grad.dtype == np.float32


def packed_twin(network):
    from xnor_ref.packed.freeze import freeze

    config = network.config
    return freeze(
        network,
        input_shape=(config["in_channels"], config["image_size"], config["image_size"]),
        mean=[0.5] * config["in_channels"],
        std=[0.25] * config["in_channels"],
        classes=[f"class {i}" for i in range(config["num_classes"])],
        training={},
        data_sha256="0" * 64,
    )


OPTIONS = [{}, {"input_scale": "off"}, {"input_scale": "valid", "pad_value": -1}]
FEW = [(name, size, options) for name, size in SMALL for options in OPTIONS if not options or name in ("lenet5", "nin")]
ALL = [(name, size, options) for name, size in SMALL for options in OPTIONS if (name, size, options) not in FEW]


@pytest.mark.parametrize(
    ("name", "size", "options"), [*FEW, *(pytest.param(*case, marks=pytest.mark.soak) for case in ALL)], ids=str
)
def test_packed_logits_are_those_of_the_float_network(name, size, options):
    network = settle(build(name, size, **options))
    x = images(network, 3)
    with no_grad(), nn.binary_backend("float"):
        expected = network(Tensor(x)).data
    packed = packed_twin(network)
    np.testing.assert_array_equal(packed.logits(x), expected)
    np.testing.assert_array_equal(packed.logits(x[1:2]), expected[1:2])


@pytest.mark.soak
@pytest.mark.parametrize(("name", "size"), LARGE)
def test_packed_logits_at_224_pixels(name, size):
    network = settle(build(name, size, classes=1000), n=2)
    x = images(network, 1)
    with no_grad(), nn.binary_backend("float"):
        expected = network(Tensor(x)).data
    np.testing.assert_array_equal(packed_twin(network).logits(x), expected)


@pytest.mark.parametrize("name", ["lenet5", "resnet18", "resnet20"])
def test_full_precision_twins_freeze_too(name):
    network = settle(build(name, 32, "full"))
    x = images(network, 3)
    with no_grad():
        expected = network(Tensor(x)).data
    np.testing.assert_array_equal(packed_twin(network).logits(x), expected)


def count(network):
    binary = sum(p.size for p in network.parameters() if p.latent)
    return binary, sum(p.size for p in network.parameters())


def test_known_sizes():
    assert count(build("vgg-small", 32))[0] == 4_571_136  # 4.571 Mbit of binary weights
    alexnet = models.build("alexnet", image_size=224, in_channels=3, num_classes=1000)
    binary, total = count(alexnet)
    first_and_last = 96 * 3 * 11 * 11 + 4096 * 1000
    assert total - sum(p.size for n, p in alexnet.named_parameters() if ".bn." in n) == binary + first_and_last + 1000
    assert round(total / 1e6, 1) == 62.4
    resnet = models.build("resnet18", image_size=224, in_channels=3, num_classes=1000, downsample="real")
    assert count(resnet)[0] == 10_985_472  # the 3x3 convolutions
    assert count(build("resnet20", 32))[0] == 267_264  # 0.267 Mbit
    googlenet = build("googlenet", 32, classes=1000)
    assert sum(p.data.ndim == 4 for p in googlenet.parameters()) == 21


def test_every_network_says_what_it_is_usually_given():
    for name in models.names():
        size, channels, classes = models.usual_input(name)
        assert size in (28, 32, 64, 224) and channels in (1, 3) and classes in (10, 12, 1000)


def test_only_the_layout_of_binary_weight_networks_has_dropout():
    def dropped(method, **options):
        network = build("alexnet", 16, method, **options)
        return [(name, m.probability) for name, m in network.named_modules() if isinstance(m, nn.Dropout)]

    spatial = [("dropout5", 0.1), ("dropout6", 0.1)]
    assert dropped("bwn") == dropped("full", layout="bwn") == dropped("xnor", layout="bwn") == spatial
    assert dropped("xnor") == dropped("full") == dropped("bwn", layout="xnor") == []


def test_dropout_of_whole_channels():
    x = Tensor(np.ones((50, 40, 3, 2), np.float32), requires_grad=True)
    layer = nn.Dropout(0.25, whole_channels=True)
    y = layer(x)
    planes = y.data.reshape(50, 40, 6)
    assert (planes == planes[:, :, :1]).all() and set(np.unique(planes)) == {0, np.float32(1 / 0.75)}
    assert abs((planes[:, :, 0] == 0).mean() - 0.25) < 0.05
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, y.data)
    assert layer.eval()(x) is x


def test_the_identity_shortcut_keeps_pixels_and_adds_empty_channels():
    layer = nn.IdentityShortcut(3, 6, 2)
    x = Tensor(np.random.default_rng(0).standard_normal((2, 3, 5, 4), dtype=np.float32), requires_grad=True)
    y = layer(x)
    np.testing.assert_array_equal(y.data[:, ::2], x.data[:, :, ::2, ::2])
    assert y.shape == (2, 6, 3, 2) and (y.data[:, 1::2] == 0).all()
    d = np.random.default_rng(1).standard_normal(y.shape, dtype=np.float32)
    y.backward(d)
    expected = np.zeros(x.shape, np.float32)
    expected[:, :, ::2, ::2] = d[:, ::2]
    np.testing.assert_array_equal(x.grad, expected)
    conv = nn.functional.conv2d(x, Tensor(layer.weight()), None, Window.of(1, 2), 3)
    np.testing.assert_array_equal(conv.data, y.data)
    with pytest.raises(InputError, match=r"out_channels \(=7\) must be a multiple of in_channels \(=3\)"):
        nn.IdentityShortcut(3, 7)


@pytest.mark.parametrize("downsample", ["binary", "real", "identity"])
def test_every_shortcut_freezes_to_equal_logits(downsample):
    methods = ("xnor", "bwn", "full") if downsample == "identity" else ("xnor", "bwn")
    for name, method in [("resnet20", method) for method in methods] + [("resnet18", "xnor")]:
        network = settle(build(name, 16, method, downsample=downsample))
        x = images(network, 2)
        with no_grad(), nn.binary_backend("float"):
            expected = network(Tensor(x)).data
        np.testing.assert_array_equal(packed_twin(network).logits(x), expected)


def test_same_seed_same_network():
    first, again, other = (models.build(**{**build("lenet5", 28).config, "seed": s}) for s in (1, 1, 2))
    for name, array in first.state_dict().items():
        np.testing.assert_array_equal(array, again.state_dict()[name])
    assert any((a != other.state_dict()[n]).any() for n, a in first.state_dict().items())
    weight = first.state_dict()["conv2.conv.weight"]
    assert abs(weight.std() - math.sqrt(2 / weight[0].size)) < 0.01


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"name": "lenet"}, "one of shapes-net, lenet5, .*got 'lenet'"),
        ({"method": "xnor+"}, "one of xnor, full, .*bwn, .* bnn, got 'xnor\\+'"),
        ({"image_size": 8}, "at least 16 pixels, got 8"),
        ({"image_size": 10**6}, "image_size must be at most 4,096, got 1,000,000"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"width": 3}, "has no option width; its options are weight_scale"),
        ({"name": "resnet18", "downsample": "none"}, "one of binary, real, identity, got 'none'"),
        (
            {"name": "resnet20", "method": "full", "downsample": "binary"},
            r"downsample \(=binary\) has no effect",
        ),
        ({"name": "resnet20", "block_order": "cbap"}, "resnet20: block_order 'cbap'"),
        ({"name": "alexnet", "layout": "bnn"}, "layout must be one of bwn, xnor, got 'bnn'"),
        ({"name": "googlenet", "image_size": 15}, "googlenet needs images of at least 16 pixels, got 15"),
        ({"input_scale": "K"}, "one of off, plain, valid, got 'K'"),
        ({"name": "shapes-net", "width": 20_000}, "width must be at most 1024, got 20000"),
        ({"name": "shapes-net", "width": 0}, "width must be at least 1, got 0"),
        ({"name": "shapes-net", "width": "4"}, "width must be an int, got '4'"),
        ({"method": "full", "pad_value": 1, "clamp": True}, "no binary layers, so pad_value, clamp would have no"),
        ({"name": "resnet18", "method": "full", "downsample": "real"}, r"downsample \(=real\) has no effect"),
    ],
)
def test_wrong_arguments_are_refused(arguments, text):
    base = {"name": "lenet5", "image_size": 28, "in_channels": 1, "num_classes": 10}
    with pytest.raises(InputError, match=text):
        models.build(**{**base, **arguments})


@pytest.mark.parametrize("method", ["xnor", "full"])
def test_weights_beyond_the_memory_are_refused_before_they_are_drawn(monkeypatch, method):
    monkeypatch.setattr(memory, "physical_memory", lambda: 2**30)
    with pytest.raises(InputError, match=r"GiB of memory.*\(4096, 256, 63, 63\)"):
        models.build("alexnet", image_size=2048, in_channels=1, num_classes=2, method=method)
    with pytest.raises(InputError, match=r"\(65536, 65536\)"):
        nn.Linear(2**16, 2**16)


def test_options_of_two_places_do_not_collide():
    assert models.combined({"clamp": True}, {"width": 3}) == {"clamp": True, "width": 3}
    for of_method, of_network in (({"clamp": True}, {"clamp": False}), ({}, {"image_size": 3}), ({}, {"method": "x"})):
        with pytest.raises(InputError, match=r"model option \w+ \(=.*\): this is a separate setting"):
            models.combined(of_method, of_network)
