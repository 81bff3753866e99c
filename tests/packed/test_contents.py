"""What a packed network shows of itself: layers, weights and traces, against arithmetic written anew here."""

import numpy as np
import pytest

from tests.models.test_models import packed_twin, settle
from tests.packed import packed_samples
from tests.packed.test_freeze import SIDES, lived_in
from xnor_ref import freeze, load_packed, models, nn, pack_bits
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.errors import InputError, InputTypeError
from xnor_ref.nn.methods import METHODS
from xnor_ref.packed import PackedNetwork, compressing

RNG = np.random.default_rng(0)


def small(**binary):
    rng = np.random.default_rng(1)
    return lived_in(
        nn.Sequential(
            stem=nn.Conv2d(3, 6, 3, rng=rng),
            block=nn.Sequential(bn=nn.BatchNorm2d(6), conv=nn.BinaryConv2d(6, 67, (3, 2), 2, 1, rng=rng, **binary)),
            arms=nn.Residual(nn.Sequential(nn.BatchNorm2d(67), nn.BinaryConv2d(67, 67, 1, rng=rng, **binary))),
            flat=nn.Flatten(),
            fc=nn.BinaryLinear(67 * 4 * 4, 5, rng=rng, **binary),
        )
    )


def frozen(model, **options) -> PackedNetwork:
    return freeze(model, input_shape=(3, 10, 9), **SIDES, **options)


def test_layers():
    packed = frozen(small())
    rows = [(a.name, a.kind, a.inputs, a.input_shape, a.output_shape, a.weight_shape) for a in packed.layers]
    block = (67, 4, 4)
    assert rows == [
        ("stem", "conv2d", ("image",), (3, 10, 9), (6, 8, 7), (6, 3, 3, 3)),
        ("block.bn", "affine", ("stem",), (6, 8, 7), (6, 8, 7), None),
        ("block.conv", "binary_conv2d", ("block.bn",), (6, 8, 7), block, (67, 6, 3, 2)),
        ("arms.body.0", "affine", ("block.conv",), block, block, None),
        ("arms.body.1", "binary_conv2d", ("arms.body.0",), block, block, (67, 67, 1, 1)),
        ("arms.add", "add", ("arms.body.1", "block.conv"), block, block, None),
        ("flat", "flatten", ("arms.add",), block, (1072,), None),
        ("fc", "binary_linear", ("flat",), (1072,), (5,), (5, 1072)),
    ]


@pytest.mark.parametrize("name", ["block.conv", "arms.body.1", "fc"])
@pytest.mark.parametrize("along", [False, True])
def test_weights_are_the_signs_of_the_latent_weights(name, along, tmp_path):
    model = small()
    packed = frozen(model)
    if along:
        packed.save(tmp_path / "model")
        found = compressing.compress(*compressing.read(tmp_path / "model"), store="tree")
        packed = PackedNetwork(found.metadata, found.tensors)
        assert {row["stored"] for row in packed.summary()} == {"tree", None}
    latent = dict(model.named_modules())[name].weight.data
    weights = packed.weights(name)
    assert weights.dtype == np.int8 and np.array_equal(weights, np.where(latent >= 0, 1, -1))
    assert np.array_equal(packed.words(name), pack_bits(latent, axis=1))
    alpha = np.abs(latent, dtype=np.float64).reshape(len(latent), -1).mean(axis=1).astype(np.float32)
    assert packed.alpha(name).dtype == np.float32 and np.array_equal(packed.alpha(name), alpha)


def test_real_weights_and_absent_scales():
    model = small(weight_scale="off")
    packed = frozen(model)
    assert np.array_equal(packed.weights("stem"), model._layers["stem"].weight.data)
    assert packed.alpha("fc").tolist() == [1.0] * 5


def test_what_is_given_is_a_copy():
    packed = frozen(small())
    pixels = RNG.integers(0, 256, (2, 10, 9, 3), np.uint8)
    before = packed.logits(pixels)
    for name in ("stem", "block.conv", "fc"):
        packed.weights(name)[...] = 0
    for name in ("block.conv", "fc"):
        packed.words(name)[...] = 0
        packed.alpha(name)[...] = 0
    for arrays in packed.trace(pixels).values():
        for array in arrays.values():
            if array.flags.writeable:
                array[...] = 0
    assert np.array_equal(packed.logits(pixels), before)


def test_weights_of_a_few_bits_are_odd_integers():
    model = nn.Sequential(conv=nn.KBitConv2d(3, 5, 3, weight_bits=3, input_bits=2), pool=nn.GlobalAvgPool2d(),
                          fc=nn.KBitLinear(5, 4, weight_bits=8, input_bits=2))  # fmt: skip
    packed = frozen(model)
    for name, bits in (("conv", 3), ("fc", 8)):
        weights, layer = packed.weights(name), dict(model.named_modules())[name]
        assert weights.dtype == np.int16 and weights.shape == layer.weight.shape and (weights % 2 == 1).all()
        assert abs(weights).max() <= 2**bits - 1 and np.unique(weights).size > 3
        assert np.array_equal(weights, layer.weight_levels())
        planes = packed.words(name)
        rest = (weights.astype(int) + 2**bits - 1) // 2
        for plane in range(bits):
            signs = np.where(rest >> plane & 1, 1, -1)
            assert np.array_equal(planes[plane], pack_bits(signs, axis=1))


@pytest.mark.parametrize(
    ("call", "name", "message"),
    [
        ("weights", "block.con", "weights: no layer is named 'block.con'; did you mean 'block.conv'"),
        ("weights", "?", r"no layer is named '\?'; see .layers for all"),
        ("words", 3, "words: no layer is named 3"),
        (
            "weights",
            "flat",
            r"layer 'flat' \(flatten\) has no weights; layers with weights: stem, block.conv, arms.body.1, fc",
        ),
        ("words", "stem", r"layer 'stem' \(conv2d\) has no words; layers with words: block.conv, arms.body.1, fc"),
        ("alpha", "block.bn", r"layer 'block.bn' \(affine\) has no alpha; layers with alpha: block.conv, "),
    ],
)
def test_unknown_names(call, name, message):
    with pytest.raises(InputError, match=message):
        getattr(frozen(small()), call)(name)


# --- traces


def convolved(x, weight, node):
    """Any arrays (N, C, H, W) and (O, C/groups, KH, KW) in float64, a border of zeros or of the node's pad_value."""
    (sy, sx), (dy, dx) = node.get("stride", (1, 1)), node.get("dilation", (1, 1))
    pads = [(side, side) if isinstance(side, int) else side for side in node.get("padding", (0, 0))]
    top = 1 if node.get("input_levels") == "ternary" else 2 ** node.get("input_bits", 1) - 1
    border = top * node.get("pad_value", 0)
    x = np.pad(x.astype(float), ((0, 0), (0, 0), *pads), constant_values=border)
    groups, (outputs, channels, *kernel) = x.shape[1] // weight.shape[1], weight.shape
    extent = [d * (k - 1) + 1 for d, k in zip((dy, dx), kernel)]
    windows = np.lib.stride_tricks.sliding_window_view(x, extent, (2, 3))[:, :, ::sy, ::sx, ::dy, ::dx]
    windows = windows.reshape(len(x), groups, channels, *windows.shape[2:])
    weight = weight.astype(float).reshape(groups, -1, channels, *kernel)
    z = np.einsum("ngchwij,gocij->ngohw", windows, weight, optimize=True)
    return z.reshape(len(x), outputs, *z.shape[3:])


def check(packed: PackedNetwork, images, backend="auto") -> dict:
    """Every array of a trace against its definition; the last output against the logits."""
    trace = packed.trace(images, backend=backend)
    assert list(trace) == [layer.name for layer in packed.layers]
    tensors = packed._tensors
    for layer, node in zip(packed.layers, packed.metadata["graph"]):
        found, n = trace[layer.name], len(images)
        x, output = found["input"], found["output"]
        for array, shape in ((x, layer.input_shape), (output, layer.output_shape)):
            assert array.dtype == np.float32 and array.shape == (n, *shape)
        inputs = ["input", *(f"input{at}" for at in range(2, len(layer.inputs) + 1))]
        for key, source in zip(inputs, layer.inputs, strict=True):
            assert source == "image" or np.array_equal(found[key], trace[source]["output"])
        if layer.kind in ("conv2d", "linear") or layer.weight_shape is None:
            assert found.keys() - {*inputs, "output"} == set()
            continue
        weights, alpha = packed.weights(layer.name), packed.alpha(layer.name)
        z, taken = found["Z"], x
        if "levels" in found:
            taken = found["levels"]
            ternary = node.get("input_levels") == "ternary"
            assert taken.dtype == np.int16 and ((abs(taken) <= 1) if ternary else taken % 2 == 1).all()
        elif "signs" in found:
            taken = found["signs"]
            assert taken.dtype == np.int8
            channels = (slice(None), *(None,) * (x.ndim - 2))
            threshold = tensors.get(f"{layer.name}.threshold", np.zeros(x.shape[1], np.float32))[channels]
            flip = tensors.get(f"{layer.name}.flip", np.zeros(x.shape[1], np.uint8))[channels]
            assert np.array_equal(taken, np.where(np.where(flip == 1, x <= threshold, x >= threshold), 1, -1))
        four = (..., *(None,) * (4 - x.ndim))
        exact = convolved(taken[four], weights[four], node).reshape(output.shape)
        if taken is x:
            assert z.dtype == np.float32
            np.testing.assert_allclose(z, exact, rtol=1e-4, atol=1e-4 * np.abs(exact).max())
        else:
            assert z.dtype == np.int32 and np.array_equal(z, exact)
        expected = z.astype(np.float32) * alpha[:, *(None,) * (output.ndim - 2)]
        if node.get("input_scale", "off") == "off":
            assert found.keys() & {"A", "K"} == set()
        else:
            groups = node.get("groups", 1)
            mean = np.abs(x.astype(np.float64)).reshape(n, groups, -1, *x.shape[2:]).mean(axis=2)
            k, plain = mean, node | {"pad_value": 0, "input_bits": 1}
            if x.ndim == 4:
                box = np.ones((groups, 1, *weights.shape[2:]))
                count = convolved(np.ones_like(mean), box, plain) if node["input_scale"] == "valid" else box[0, 0].size
                k = convolved(mean, box, plain) / np.maximum(count, 1)
                assert found["A"].dtype == np.float32 and found["A"].shape == mean.shape
                np.testing.assert_allclose(found["A"], mean, rtol=1e-6)
            np.testing.assert_allclose(found["K"], k, rtol=1e-6)
            assert found["K"].dtype == np.float32 and found["K"].shape == k.shape and ("A" in found) == (x.ndim == 4)
            expected = expected * np.repeat(found["K"], output.shape[1] // groups, axis=1)
        assert np.array_equal(output, expected)
    assert np.array_equal(output, packed.logits(images))
    return trace


FEW = [("lenet5", method) for method in METHODS] + [(name, "xnor") for name in models.names() if name != "alexnet"]
MORE = [  # of each network two more methods, of each method two more networks or so
    (name, method)
    for at, name in enumerate(models.names())
    for method in ([*METHODS][at % len(METHODS)], [*METHODS][(at + 3) % len(METHODS)])
    if (name, method) not in FEW
]


@pytest.mark.parametrize("name, method", [*FEW, *(pytest.param(*each, marks=pytest.mark.soak) for each in MORE)])
def test_traces_of_all_networks_and_methods(name, method):
    size = 32 if name != "alexnet" else 16
    model = settle(models.build(name, image_size=size, in_channels=3, num_classes=5, method=method), n=2)
    packed = packed_twin(model)
    trace = check(packed, RNG.integers(0, 256, (2, size, size, 3), np.uint8))
    image = RNG.standard_normal((1, 3, size, size), np.float32)
    trace = check(packed, image)
    assert np.array_equal(next(iter(trace.values()))["input"], image)
    with no_grad(), nn.binary_backend("float"):
        assert np.array_equal(list(trace.values())[-1]["output"], model(Tensor(image)).data)


@pytest.mark.parametrize("name", ["lenet5", "vgg-small", "resnet20"])
@pytest.mark.parametrize("options", [{"input_scale": "off"}, {"input_scale": "valid", "pad_value": -1},
                                     {"weight_bits": 2, "input_bits": 3}], ids=str)  # fmt: skip
def test_traces_with_folded_thresholds_borders_and_bits(name, options):
    model = lived_in(models.build(name, image_size=32, in_channels=3, num_classes=5, **options))
    packed = packed_twin(model.eval())
    folded = [key for key in packed._tensors if key.endswith(".threshold")]
    assert bool(folded) == (options.get("input_scale") == "off")
    check(packed, RNG.integers(0, 256, (2, 32, 32, 3), np.uint8))


@pytest.mark.parametrize("backend", ["reference", "numba", "float"])
@pytest.mark.parametrize("sample", packed_samples.SAMPLES)
def test_traces_of_every_operation_are_equal_in_every_backend(sample, backend):
    made = sample()
    network, pixels = made.network(), made.pixels(3)
    trace = check(network, pixels, backend)
    for name, arrays in network.trace(pixels).items():
        assert arrays.keys() == trace[name].keys()
        assert all(np.array_equal(array, trace[name][key]) for key, array in arrays.items())


def test_a_trace_of_a_network_along_trees(tmp_path):
    packed = frozen(small())
    packed.save(tmp_path / "bits")
    found = compressing.compress(*compressing.read(tmp_path / "bits"), store="tree")
    PackedNetwork(found.metadata, found.tensors).save(tmp_path / "tree")
    pixels = RNG.integers(0, 256, (2, 10, 9, 3), np.uint8)
    trace = check(load_packed(tmp_path / "tree"), pixels)
    assert all(
        np.array_equal(a, trace[name][key]) for name, row in packed.trace(pixels).items() for key, a in row.items()
    )


def test_what_a_trace_does_not_take():
    packed = frozen(small())
    for images, error in ((np.zeros((1, 9, 10, 3), np.uint8), InputError), ("image", InputTypeError)):
        with pytest.raises(error, match="images must be uint8"):
            packed.trace(images)
    with pytest.raises(InputError, match="NaN"):
        packed.trace(np.full((1, 3, 10, 9), np.nan, np.float32))
    with pytest.raises(InputError, match="backend"):
        packed.trace(np.zeros((1, 10, 9, 3), np.uint8), backend="gpu")
