"""Freezing: the packed network repeats the float network's inference to the bit, for every layer and option."""

import numpy as np
import pytest

from tests.packed import independent_reader
from xnor_ref import models, nn
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.errors import InputError, InputTypeError, NonFiniteError
from xnor_ref.nn import binary_backend
from xnor_ref.packed import PackedNetwork, load_packed
from xnor_ref.packed.freeze import _CONTAINERS, LAYERS, freeze

SHAPE = (3, 10, 9)
SIDES = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}


def lived_in(model: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics and scales as after training, with gammas of both signs and zeros among them."""
    rng = np.random.default_rng(seed)
    for _, module in model.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            count = module.channels
            module.running_mean[...] = rng.normal(size=count)
            module.running_var[...] = rng.uniform(0.1, 4, count)
            module.weight.data[...] = rng.normal(size=count)
            module.bias.data[...] = rng.normal(size=count)
            module.weight.data[rng.random(count) < 0.1] = 0
            module.bias.data[rng.random(count) < 0.1] = 0
    return model


def float_logits(model: nn.Module, images) -> np.ndarray:
    model.eval()
    with no_grad(), binary_backend("float"):  # shares no code with the bits
        return model(Tensor(images)).data


def frozen(model: nn.Module, shape=SHAPE, classes=5, **options) -> PackedNetwork:
    values = {key: value[: shape[0]] for key, value in SIDES.items()}
    names = tuple(f"class {i}" for i in range(classes))
    return freeze(model, input_shape=shape, **values, classes=names, **options)


def assert_agree(model, shape=SHAPE, classes=5, n=6, **options) -> PackedNetwork:
    packed = frozen(model, shape, classes, **options)
    images = np.random.default_rng(1).standard_normal((n, *shape), dtype=np.float32)
    expected = float_logits(model, images)
    assert expected.std() > 0
    assert np.array_equal(packed.logits(images), expected)
    return packed


def every_layer(**binary):
    """All kinds of layers, with the given settings of the binary ones."""
    linear = {key: value for key, value in binary.items() if key != "pad_value"}
    if linear.get("input_scale") == "valid":
        linear["input_scale"] = "plain"
    rng = np.random.default_rng(0)
    block = nn.Sequential(
        bn=nn.BatchNorm2d(66), drop=nn.Dropout(0.5), conv=nn.BinaryConv2d(66, 66, 3, 1, 1, **binary, rng=rng)
    )
    down = nn.Sequential(bn=nn.BatchNorm2d(66), conv=nn.BinaryConv2d(66, 20, 3, 2, 1, **binary, rng=rng))
    short = nn.Sequential(nn.BatchNorm2d(66), nn.BinaryConv2d(66, 20, 1, 2, **binary, rng=rng))
    return nn.Sequential(
        stem=nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=True, rng=rng),
        bn=nn.BatchNorm2d(6),
        act=nn.PReLU(6),
        first=nn.BinaryConv2d(6, 66, (3, 2), (1, 1), (1, 0), **binary, rng=rng),
        pool=nn.MaxPool2d(3, 2, 1),
        same=nn.Residual(block),
        down=nn.Residual(down, short),
        tanh=nn.Hardtanh(),
        avg=nn.AvgPool2d(2, 1),
        relu=nn.ReLU(),
        flat=nn.Flatten(),
        bn1=nn.BatchNorm1d(40),
        fc1=nn.BinaryLinear(40, 65, **linear, rng=rng),
        slope=nn.PReLU(),
        bn2=nn.BatchNorm1d(65),
        fc2=nn.BinaryLinear(65, 10, **linear, rng=rng),
        out=nn.Linear(10, 5, rng=rng),
    )


@pytest.mark.parametrize("pad_value", [-1, 0, 1])
@pytest.mark.parametrize("input_scale", ["off", "plain", "valid"])
@pytest.mark.parametrize("weight_scale", ["alpha", "off"])
def test_every_layer(pad_value, input_scale, weight_scale, tmp_path):
    model = lived_in(every_layer(pad_value=pad_value, input_scale=input_scale, weight_scale=weight_scale))
    packed = assert_agree(model)
    packed.save(tmp_path / "model")
    pixels = np.random.default_rng(2).integers(0, 256, (5, 10, 9, 3), np.uint8)
    assert np.array_equal(load_packed(tmp_path / "model").logits(pixels), packed.logits(pixels))
    theirs = independent_reader.logits(tmp_path / "model", pixels)
    scale = max(1, np.abs(theirs).max())
    assert np.abs(theirs - packed.logits(pixels)).max() <= 1e-4 * scale
    assert np.array_equal(theirs.argmax(axis=1), packed.predict(pixels))


@pytest.mark.parametrize("pad_value", [-1, 0, 1])
@pytest.mark.parametrize("input_scale", ["off", "plain", "valid"])
def test_dilation_groups_and_padding_of_two_sides(pad_value, input_scale, tmp_path):
    binary, rng = {"pad_value": pad_value, "input_scale": input_scale}, np.random.default_rng(0)
    model = lived_in(
        nn.Sequential(
            stem=nn.Conv2d(3, 12, 3, stride=2, padding="same", dilation=2, groups=3, rng=rng),
            pool=nn.MaxPool2d(2, ceil_mode=True),
            bn=nn.BatchNorm2d(12),
            depthwise=nn.BinaryConv2d(12, 12, 3, padding=((2, 0), (1, 3)), groups=12, rng=rng, **binary),
            bn2=nn.BatchNorm2d(12),
            wide=nn.BinaryConv2d(
                12, 70, (2, 3), padding="same", dilation=(1, 2), groups=2, bias=True, rng=rng, **binary
            ),
            real=nn.BinaryWeightConv2d(70, 30, 2, padding="same", groups=5, rng=rng),
            bits=nn.KBitConv2d(
                30, 8, 2, padding="same", dilation=2, groups=2, weight_bits=2, input_bits=2, rng=rng, **binary
            ),
            mean=nn.AvgPool2d(2, ceil_mode=True),
            flat=nn.GlobalAvgPool2d(),
            out=nn.Linear(8, 5, rng=rng),
        )
    )
    packed = assert_agree(model)
    assert packed.metadata["version"] == 5
    by_name = {node["name"]: node for node in packed.metadata["graph"]}
    assert by_name["stem"]["padding"] == [[1, 2], [2, 2]]
    assert by_name["depthwise"]["padding"] == [[2, 0], [1, 3]] and by_name["depthwise"]["groups"] == 12
    assert "groups" not in by_name["out"] and "dilation" not in by_name["depthwise"]
    packed.save(tmp_path / "model")
    pixels = np.random.default_rng(2).integers(0, 256, (5, 10, 9, 3), np.uint8)
    assert np.array_equal(packed.trace(pixels)["out"]["output"], packed.logits(pixels))
    theirs = independent_reader.logits(tmp_path / "model", pixels)
    assert np.abs(theirs - packed.logits(pixels)).max() <= 1e-4 * max(1, np.abs(theirs).max())


@pytest.mark.parametrize(
    ("layer", "version", "padding"),
    [
        (nn.BinaryConv2d(3, 5, 3, padding="same"), 1, [1, 1]),
        (nn.BinaryConv2d(3, 5, 3, padding=((2, 2), (0, 0))), 1, [2, 0]),
        (nn.BinaryConv2d(3, 5, 3, padding="valid"), 1, [0, 0]),
        (nn.BinaryConv2d(3, 5, 2, padding="same"), 5, [[0, 1], [0, 1]]),
        (nn.BinaryConv2d(3, 6, 3, groups=3), 5, [0, 0]),
        (nn.BinaryConv2d(3, 5, 3, dilation=(1, 2)), 5, [0, 0]),
        (nn.Conv2d(3, 6, 3, groups=3), 1, [0, 0]),
        (nn.MaxPool2d(2, ceil_mode=True), 5, [[0, 0], [0, 1]]),
    ],
)
def test_the_lowest_version_that_suffices(layer, version, padding):
    classes = getattr(layer, "out_channels", 3)
    packed = assert_agree(nn.Sequential(layer, nn.GlobalAvgPool2d()), classes=classes)
    assert packed.metadata["version"] == version and packed.metadata["graph"][0]["padding"] == padding


def test_a_convolution_of_flat_values_is_named():
    with pytest.raises(InputError, match=r"freeze: layer 'b' needs an input \(C, H, W\), but gets \(270,\)"):
        frozen(nn.Sequential(a=nn.Flatten(), b=nn.BinaryConv2d(270, 5, 1)))


@pytest.mark.parametrize("name", models.names())
@pytest.mark.parametrize("method", ["xnor", "full"])
@pytest.mark.soak
def test_models(name, method):
    for input_scale in ("plain", "off") if method == "xnor" else ("plain",):
        options = {"input_scale": input_scale} if method == "xnor" else {}
        model = models.build(name, image_size=32, in_channels=3, num_classes=5, method=method, **options)
        assert_agree(lived_in(model), (3, 32, 32), n=3)


def ops(packed):
    return [row["op"] for row in packed.summary()]


def test_batch_norm_before_a_binary_layer_without_k_is_folded():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BinaryConv2d(3, 5, 3, input_scale="off"), nn.GlobalAvgPool2d())
    assert ops(assert_agree(lived_in(model))) == ["binary_conv2d", "global_avg_pool"]
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(270), nn.BinaryLinear(270, 5, input_scale="off"))
    assert ops(assert_agree(lived_in(model))) == ["flatten", "binary_linear"]


def test_batch_norm_stays_where_its_numbers_are_needed():
    with_k = nn.Sequential(nn.BatchNorm2d(3), nn.BinaryConv2d(3, 5, 3), nn.GlobalAvgPool2d())
    assert ops(assert_agree(lived_in(with_k))) == ["affine", "binary_conv2d", "global_avg_pool"]
    pooled = nn.Sequential(
        nn.BatchNorm2d(3), nn.MaxPool2d(2), nn.BinaryConv2d(3, 5, 3, input_scale="off"), nn.GlobalAvgPool2d()
    )
    assert ops(assert_agree(lived_in(pooled)))[:2] == ["affine", "max_pool"]
    shared = nn.Sequential(
        nn.BatchNorm2d(3),
        nn.Residual(nn.BinaryConv2d(3, 3, 3, 1, 1, input_scale="off")),
        nn.GlobalAvgPool2d(),
        nn.Linear(3, 5),
    )
    assert ops(assert_agree(lived_in(shared)))[:3] == ["affine", "binary_conv2d", "add"]


def test_inputs_of_both_arms_are_renumbered():
    arm = nn.Sequential(nn.BatchNorm2d(3), nn.BinaryConv2d(3, 4, 3, 1, 1, input_scale="off"))
    other = nn.Sequential(nn.BatchNorm2d(3), nn.BinaryConv2d(3, 4, 1, input_scale="off"), nn.Dropout())
    model = nn.Sequential(nn.Residual(arm, other), nn.Residual(nn.Sequential()), nn.Flatten(), nn.Linear(360, 5))
    assert ops(assert_agree(lived_in(model))) == ["binary_conv2d", "binary_conv2d", "add", "add", "flatten", "linear"]


def test_a_single_layer():
    assert [row["name"] for row in assert_agree(nn.GlobalAvgPool2d(), classes=3).summary()] == ["global_avg_pool"]
    model = nn.Residual(nn.GlobalAvgPool2d(), nn.GlobalAvgPool2d())
    assert [row["name"] for row in assert_agree(model, classes=3).summary()] == ["body", "shortcut", "add"]


def test_projected_latent_weights():
    """Centring and clamping happen after each step, so the stored weights are what the network computes with."""
    model = nn.Sequential(
        nn.BinaryConv2d(3, 5, 3, centre=True, clamp=True, rng=np.random.default_rng(0)), nn.GlobalAvgPool2d()
    )
    assert_agree(model)


def test_training_mode_and_weights_are_left_alone():
    model = lived_in(every_layer())
    model.train()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    packed = frozen(model)
    assert all(module.training for _, module in model.named_modules())
    pixels = np.random.default_rng(2).integers(0, 256, (2, 10, 9, 3), np.uint8)
    logits = packed.logits(pixels)
    for name, array in model.state_dict().items():
        assert np.array_equal(array, before[name])
        array[...] = 0  # the packed network has numbers of its own
    assert np.array_equal(packed.logits(pixels), logits)


def test_same_network_gives_same_bytes(tmp_path):
    for path in ("one", "two"):
        frozen(lived_in(every_layer())).save(tmp_path / path)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_the_file_says_about_its_origin():
    model = nn.Sequential(nn.GlobalAvgPool2d())
    packed = frozen(model, classes=3, training={"epochs": 2, "lr": 0.5}, data_sha256="ab" * 32)
    about = packed.metadata
    assert about["training"] == {"epochs": 2, "lr": 0.5} and about["data_sha256"] == "ab" * 32
    assert about["producer"].keys() == {"xnor_ref", "python", "numpy", "numba"}
    assert packed.mean == SIDES["mean"] and packed.std == SIDES["std"] and packed.input_shape == SHAPE
    assert frozen(model, classes=3).metadata["data_sha256"] is None


class Doubling(nn.Module):
    def forward(self, x):
        return x + x


class Twice(nn.Module):
    def __init__(self):
        self.layer = nn.ReLU()

    def forward(self, x):
        return self.layer(self.layer(x))


class LouderReLU(nn.ReLU):
    def forward(self, x):
        return super().forward(x) * 2.0


class NamedReLU(nn.ReLU):
    """Computes what its base does."""


def test_unknown_layers_are_named():
    for layer, text in (
        (Doubling(), "a Doubling, which cannot be packed: a model file has no operation for it$"),
        (LouderReLU(), "a LouderReLU, which cannot be packed: it overrides what ReLU computes$"),
        (nn.Module(), "a Module, which"),
        (Twice(), "a Twice, which .* no operation for it; build it from nn.Sequential, nn.Residual and nn.Graph$"),
    ):
        with pytest.raises(InputError, match=rf"layer 'a\.b' is {text}"):
            frozen(nn.Sequential(a=nn.Sequential(b=layer)))
    with pytest.raises(InputError, match="freeze: the network is a Twice, which"):
        frozen(Twice())
    model = nn.Sequential(NamedReLU(), nn.GlobalAvgPool2d())
    assert ops(assert_agree(model, classes=3)) == ["relu", "global_avg_pool"]


def test_every_layer_of_nn_can_be_packed():
    layers = [kind for kind in vars(nn).values() if isinstance(kind, type) and issubclass(kind, nn.Module)]
    known = LAYERS.keys() | _CONTAINERS.keys()
    assert [kind for kind in layers if kind is not nn.Module and known.isdisjoint(kind.__mro__)] == []


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_parameters(bad):
    model = every_layer()
    model.state_dict()["same.body.bn.running_var"][3] = bad
    with pytest.raises(NonFiniteError, match=r"same\.body\.bn\.running_var"):
        frozen(model)


def test_clashes_are_found_at_freezing():
    with pytest.raises(InputError, match="there are 4 classes"):
        frozen(every_layer(), classes=4)
    with pytest.raises(InputError, match="stem"):
        frozen(every_layer(), shape=(1, 10, 9))
    with pytest.raises(InputError, match="1 to"):
        frozen(nn.Sequential())


def test_what_is_not_given_comes_from_the_network():
    model = models.build("lenet5", image_size=28, in_channels=1, num_classes=3, seed=1)
    with pytest.raises(InputError, match=r"freeze: mean, std must be given, because network"):
        freeze(model)
    packed = freeze(model, mean=0.25, std=0.5)
    assert packed.input_shape == (1, 28, 28) and packed.mean == (0.25,) and packed.std == (0.5,)
    assert packed.classes == ("0", "1", "2") and packed.metadata["training"] == {}
    model.about = {
        "classes": ["a", "b", "c"],
        "mean": [0.1],
        "std": [0.2],
        "training": {"epochs": 3},
        "data_sha256": "0" * 64,
    }
    packed = freeze(model, std=0.3)
    assert packed.classes == ("a", "b", "c") and packed.mean == (0.1,) and packed.std == (0.3,)
    assert packed.metadata["training"] == {"epochs": 3} and packed.metadata["data_sha256"] == "0" * 64
    pixels = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
    assert np.array_equal(packed.predict(pixels), packed.logits(pixels).argmax(axis=1))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, InputError, "input_shape, mean, std must be given"),
        ({"input_shape": (3, 4)}, InputError, r"input_shape must be 3 numbers, got \(3, 4\)"),
        ({"input_shape": "big"}, InputError, "input_shape must be 3 numbers, got 'big'"),
        ({"input_shape": (0, 4, 4)}, InputError, "input channels must be an integer from 1"),
        ({"mean": (0.5, 0.5)}, InputError, r"mean must be 3 numbers, got \(0.5, 0.5\)"),
        ({"std": 0}, InputError, r"input std must be 3 numbers \(std > 0\)"),
        ({"mean": "half"}, InputError, "mean must be 3 numbers, got 'half'"),
        ({"classes": "abc"}, InputTypeError, "classes must be names in label order, got 'abc'"),
        ({"classes": 3}, InputTypeError, "classes must be names"),
        ({"classes": ["a", "b", 3]}, InputError, "class 2 must be a printable string, got 3"),
        ({"training": [1]}, InputError, "'training' is missing or of the wrong type"),
        ({"data_sha256": "ab"}, InputError, "64 hexadecimal digits"),
    ],
)
def test_refused_arguments(arguments, error, message):
    given = {"input_shape": (3, 4, 4), "mean": 0.5, "std": 0.5} | arguments if arguments else {}
    with pytest.raises(error, match=f"freeze: .*{message}"):
        freeze(nn.GlobalAvgPool2d(), **given)


def test_only_modules_can_be_frozen():
    with pytest.raises(InputTypeError, match="Module, got list"):
        freeze([nn.ReLU()], input_shape=(1, 2, 2), mean=0, std=1)


@pytest.mark.parametrize("scales", ["any", "rising"])
@pytest.mark.parametrize("pooled", [False, True])
def test_batch_norm_is_folded_through_flatten_and_where_scales_rise_through_max_pooling(pooled, scales):
    pool = [nn.MaxPool2d(3, 2, 1)] if pooled else []
    features = 5 * 5 * 5 if pooled else 5 * 10 * 9
    for size in (features, None):
        conv, last = nn.Conv2d(3, 5, 3, padding=1), nn.GlobalAvgPool2d()
        if size is None:
            rest = [nn.BinaryConv2d(5, 5, 3, input_scale="off"), last]
        else:
            rest = [nn.Flatten(), nn.BinaryLinear(size, 5, input_scale="off")]
        model = lived_in(nn.Sequential(conv, nn.BatchNorm2d(5), *pool, *rest), seed=3)
        norm = dict(model.named_modules())["1"]
        if scales == "rising":
            np.abs(norm.weight.data, out=norm.weight.data)
        assert (norm.weight.data < 0).any() == (scales == "any")
        packed = assert_agree(model)
        assert ("affine" not in ops(packed)) == (scales == "rising" or not pooled)


def test_batch_norm_that_others_read_is_not_folded_through_flatten():
    shared = nn.Residual(nn.Sequential(nn.Flatten(), nn.BinaryLinear(270, 5, input_scale="off")),
                         nn.Sequential(nn.Flatten(), nn.Linear(270, 5)))  # fmt: skip
    assert ops(assert_agree(lived_in(nn.Sequential(nn.BatchNorm2d(3), shared))))[0] == "affine"
