"""Descriptions and the networks that are built from them; no extra is needed."""

import numpy as np
import pytest

from tests.packed.test_freeze import float_logits
from xnor_ref import freeze, nn
from xnor_ref.errors import InputError
from xnor_ref.interop import build
from xnor_ref.interop.description import KINDS, Description, Layer, plain_names, refuse_all

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def norm(channels):
    return {
        "weight": normal(channels), "bias": normal(channels), "running_mean": normal(channels),
        "running_var": RNG.uniform(0.5, 2, channels),
    }  # fmt: skip


def every_kind():
    """All kinds in one network of 3 x 9 x 8 pixels and 5 classes."""
    layers, last = [], "input"

    def add(kind, arrays=None, inputs=None, **settings):
        nonlocal last
        name = f"{len(layers)}/{kind}:0"
        layers.append(Layer(name, kind, (last,) if inputs is None else inputs, settings, arrays or {}))
        last = name
        return name

    add("conv2d", {"weight": normal(6, 1, 3, 3), "bias": normal(6)}, groups=3, padding=((0, 2), (1, 1)))
    stem = add("batch_norm", norm(6), eps=1e-3, momentum=0.01)
    add("prelu", {"weight": np.float32([0.1])}, learned=False)
    add("max_pool2d", kernel_size=3, stride=1, padding="same")
    pool = add("binary_conv2d", {"weight": normal(6, 6, 3, 3)}, padding=1, pad_value=-1, input_scale="valid")
    both = add("concat", inputs=(stem, pool))
    add("affine", {"scale": normal(12), "shift": normal(12)})
    add("sign", gradient="bireal")
    add("conv2d", {"weight": normal(12, 12, 1, 1)})
    add("add", inputs=(last, both, both))
    add("shift", {"shift": normal(12)})
    add("kbit_conv2d", {"weight": normal(8, 12, 2, 2), "bias": normal(8)}, input_bits=2, weight_bits=2)
    add("scale", {"channel": normal(8)})
    add("scale", {"channel": normal(8), "plane": normal(8, 7)})
    add("relu")
    add("binary_weight_conv2d", {"weight": normal(8, 8, 1, 1)}, weight_scale="layer")
    add("identity_shortcut", out_channels=16, stride=2)
    add("hardtanh")
    image = add("avg_pool2d", kernel_size=2, padding=1, count_include_pad=False)
    mean = add("global_avg_pool2d")
    flat = add("flatten", inputs=(image,))
    add("concat", inputs=(mean, flat))
    add("dropout", probability=0.3)
    size = 16 + 16 * 3 * 3
    add("binary_linear", {"weight": normal(7, size)}, weight_scale="off", grad_mode="ste")
    add("batch_norm", {key: array for key, array in norm(7).items() if key.startswith("running")})
    add("binary_weight_linear", {"weight": normal(7, 7), "bias": normal(7)})
    add("kbit_linear", {"weight": normal(9, 7)}, input_bits=2, input_levels="ternary")
    add("linear", {"weight": normal(5, 9), "bias": normal(5)})
    return Description(tuple(layers), (3, 9, 8), 0.5, 0.25, tuple("abcde"), "a test")


def test_every_kind_is_built_trains_and_freezes():
    description = every_kind()
    assert {layer.kind for layer in description.layers} == set(KINDS) == set(build.MAKERS)
    network = build.network(description)
    state = network.state_dict()
    for layer in description.layers:
        for key, array in layer.arrays.items():
            name = f"{plain_names([layer.name])[layer.name]}.{key}"
            assert name not in state or np.array_equal(state[name], array)
    packed = freeze(network)
    assert packed.classes == tuple("abcde") and packed.metadata["training"] == {"imported_from": "a test"}
    images = normal(4, 3, 9, 8)
    logits = packed.logits(images)
    assert np.array_equal(logits, float_logits(network, images)) and logits.std() > 0
    loss = nn.cross_entropy(network.train()(images), np.arange(4))
    loss.backward()
    grads = [parameter.grad for parameter in network.parameters()]
    assert len(grads) > 15 and all(grad is not None for grad in grads)
    assert len(description.table()) == len(description.layers)


CONV = {"weight": normal(4, 3, 3, 3)}


@pytest.mark.parametrize(
    ("kind", "settings", "arrays", "message"),
    [
        ("conv3d", {}, {}, r"layer 'x' \(conv3d\): unknown kind; it must be one of conv2d, linear"),
        ("conv2d", {}, {}, "needs the array 'weight'"),
        ("max_pool2d", {}, {}, "needs the setting 'kernel_size'"),
        ("conv2d", {"strides": 2}, CONV, "does not take strides; it takes stride, padding"),
        ("relu", {}, CONV, "has no array 'weight'; its arrays are none"),
        ("conv2d", {}, {"weight": normal(4, 3)}, r"weight must have 4 axes and not be empty, got shape \(4, 3\)"),
        ("conv2d", {}, {"weight": np.zeros((4, 0, 3, 3))}, "must have 4 axes and not be empty"),
        ("conv2d", {}, {"weight": "w"}, "weight must be an array of numbers, got str"),
        (
            "shift",
            {},
            {"shift": np.array([1e300, 0, 0])},
            "shift holds NaN, infinity, or a value too large for float32",
        ),
        ("add", {}, {}, "has 1 inputs, but needs two or more"),
    ],
)
def test_layers_that_are_none(kind, settings, arrays, message):
    with pytest.raises(InputError, match=message):
        Layer("x", kind, ("input",), settings, arrays)


@pytest.mark.parametrize(
    ("kind", "settings", "arrays", "message"),
    [
        ("conv2d", {}, {"weight": normal(4, 2, 3, 3)}, r"needs an image \(2, H, W\), but gets \(3, 5, 5\)"),
        ("conv2d", {"groups": 3}, CONV, r"needs an image \(9, H, W\)"),
        ("conv2d", {"stride": 0}, CONV, "stride must be at least 1, got 0"),
        ("conv2d", {"dilation": 3}, CONV, r"its window .* is larger than the image \(3, 5, 5\)"),
        ("conv2d", {}, {**CONV, "bias": normal(3)}, r"bias has shape \(3,\), but \(4,\) is needed"),
        ("binary_conv2d", {"weight_scale": "mean"}, CONV, "weight_scale must be one of alpha, layer, off"),
        ("linear", {}, {"weight": normal(2, 75)}, r"needs 75 flat values, but gets \(3, 5, 5\)"),
        ("batch_norm", {"eps": 0}, norm(3), r"eps must be in \(0, 1\)"),
        ("batch_norm", {}, norm(4), r"running_var has 4 values, but the input has shape \(3, 5, 5\)"),
        ("batch_norm", {}, {**norm(3), "running_var": -np.ones(3)}, "running_var is negative"),
        ("scale", {}, {"row": normal(5)}, "has the factors row; they must be one of"),
        ("scale", {}, {"map": normal(3, 5, 4)}, r"map has shape \(3, 5, 4\), but \(3, 5, 5\) is needed"),
        ("prelu", {}, {"weight": normal(2)}, "has 2 slopes"),
        ("max_pool2d", {"kernel_size": 17}, {}, "at most 256 taps"),
        ("max_pool2d", {"kernel_size": 6}, {}, "is larger than the image"),
        ("sign", {"gradient": "x"}, {}, "sign_gradient must be one of ste"),
        ("relu", {}, {}, r"the last layer's output has shape \(3, 5, 5\); it must have one value per class"),
    ],
)
def test_layers_that_do_not_fit_are_named(kind, settings, arrays, message):
    layer = Layer("some layer", kind, ("input",), settings, arrays)
    with pytest.raises(InputError, match=message) as caught:
        build.network(Description((layer,), (3, 5, 5)))
    assert kind == "relu" or f"1 layer cannot be converted\n  layer 'some layer' ({kind}): " in str(caught.value)


def test_all_layers_that_do_not_fit_are_named_at_once():
    layers = [
        Layer("a", "conv2d", ("input",), {}, {"weight": normal(4, 2, 3, 3)}),
        Layer("b", "relu", ("a",)),
        Layer("c", "max_pool2d", ("input",), {"kernel_size": 9}),
        Layer("d", "concat", ("b", "c")),
    ]
    with pytest.raises(InputError, match=r"2 layers cannot be converted\n  layer 'a' .*\n  layer 'c' "):
        build.network(Description(tuple(layers), (3, 5, 5)))
    with pytest.raises(InputError, match=r"x: 30 layers cannot be converted(\n  .*){20}\n  ... and 10 more"):
        refuse_all("x", [(f"layer {i}", "why") for i in range(30)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: Description((), (3, 5, 5)), "1 to 10000 layers, got 0"),
        (lambda a: Description((a, a), (3, 5, 5)), "layer 'a' .* its name is used twice"),
        (
            lambda a: Description((Layer("b", "relu", ("c",)), a), (3, 5, 5)),
            "reads 'c', which is not a layer before it",
        ),
        (lambda a: Description((a,), (3, 5)), r"input_shape must be \(C, H, W\)"),
        (lambda a: Description((a,), (3, 5, 0)), "input_shape must be from 1"),
    ],
)
def test_descriptions_that_are_none(make, message):
    with pytest.raises(InputError, match=message):
        make(Layer("a", "flatten", ("input",)))


def test_classes_and_sums_must_fit():
    flat = Layer("a", "flatten", ("input",))
    with pytest.raises(InputError, match="2 classes but 3 logits"):
        build.network(Description((flat,), (3, 1, 1), classes=("x", "y")))
    pool = Layer("b", "avg_pool2d", ("input",), {"kernel_size": 1, "padding": 0, "stride": 2})
    join = Layer("c", "add", ("input", "b"))
    with pytest.raises(InputError, match=r"layer 'c' \(add\): its inputs have shapes \(3, 4, 4\) and \(3, 2, 2\)"):
        build.network(Description((pool, join, Layer("d", "flatten", ("c",))), (3, 4, 4)))
