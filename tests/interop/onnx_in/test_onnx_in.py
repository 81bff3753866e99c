"""ONNX and QONNX files come in as what they compute: every spelling of signs, levels and binary weights."""

import math

import numpy as np
import pytest

from tests.interop.onnx_in.onnx_files import QONNX, File
from xnor_ref import freeze, nn
from xnor_ref.errors import InputError
from xnor_ref.interop import build, from_onnx
from xnor_ref.interop.onnx_in.file import Node
from xnor_ref.interop.onnx_in.fold import fold
from xnor_ref.interop.onnx_in.reading import read

RNG = np.random.default_rng(3)
SHAPE = (5, 7, 6)
IMAGES = RNG.standard_normal((4, *SHAPE)).astype(np.float32)
IMAGES[0, 0, :2] = 0
SIGNS = np.where(RNG.standard_normal((8, 5, 3, 3)) < 0, -1, 1).astype(np.float32)
ALPHA = RNG.uniform(0.1, 2, (8, 1, 1, 1)).astype(np.float32)
LEVELS = np.arange(8, dtype=np.uint8)
F = np.float32


def column(values):
    return np.asarray(values, F).reshape(-1, 1, 1)


def packed(file, tmp_path, *outputs, **how):
    return freeze(from_onnx(file.save(tmp_path / "m.onnx", *outputs), **how))


def kinds(network):
    return [layer.kind for layer in network.layers]


def ended(file, x, weight=SIGNS, **how):
    """A convolution, and the mean over all pixels."""
    z = file.add("Conv", x, weight if isinstance(weight, str) else np.asarray(weight, F), pads=[1, 1, 1, 1], **how)
    return file.add("Flatten", file.add("GlobalAveragePool", z))


SPELLINGS = {
    "BipolarQuant": lambda f, x: f.add("BipolarQuant", x, F(1), domain=QONNX),
    "Quant": lambda f, x: f.add("Quant", x, F(1), F(0), F(1), domain=QONNX, signed=1, narrow=1, rounding_mode="ROUND"),
    "MultiThreshold": lambda f, x: f.add(
        "MultiThreshold", x, np.zeros((1, 1), F), domain="finn.custom_op.general", out_scale=2.0, out_bias=-1.0
    ),
    "x >= 0": lambda f, x: f.add(
        "Sub", f.add("Mul", f.add("Cast", f.add("GreaterOrEqual", x, F(0)), to=1), F(2)), F(1)
    ),
    "not x < 0": lambda f, x: f.add(
        "Add", f.add("Mul", f.add("Cast", f.add("Not", f.add("Less", x, F(0))), to=1), F(2)), F(-1)
    ),
    "0 <= x": lambda f, x: f.add("Where", f.add("LessOrEqual", F(0), x), F(1), F(-1)),
    "0 > x": lambda f, x: f.add("Where", f.add("Greater", F(0), x), F(-1), F(1)),
    "sign(sign(x) + 0.1)": lambda f, x: f.add("Sign", f.add("Add", f.add("Sign", x), F(0.1))),
    "straight-through": lambda f, x: estimator(f, x),
}


def estimator(f, x):
    """sign(x) - s + s, where s is something that could not come by itself."""
    sign = SPELLINGS["x >= 0"](f, x)
    smooth = f.add("Mul", f.add("Tanh", x), x)
    return f.add("Add", f.add("Sub", sign, smooth), smooth)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_sign_is_the_same_binary_layer(spelling, tmp_path):
    file = File((1, *SHAPE))
    network = packed(file, tmp_path, ended(file, SPELLINGS[spelling](file, "x")))
    assert kinds(network) == ["binary_conv2d", "global_avg_pool"]
    same = nn.Sequential(
        nn.BinaryConv2d(5, 8, 3, padding=1, weight_scale="off", input_scale="off"), nn.GlobalAvgPool2d()
    )
    same[0].weight.data[...] = SIGNS
    assert np.array_equal(network.logits(IMAGES), freeze(same, input_shape=SHAPE, mean=0, std=1).logits(IMAGES))


def unpacked(f):
    """Bits, eight in a byte, shifted and masked; then -1 or 1."""
    bytes = np.packbits(SIGNS.reshape(-1) > 0, bitorder="little")
    bits = f.add("BitwiseAnd", f.add("BitShift", bytes[:, None], LEVELS, direction="RIGHT"), np.uint8(1))
    flat = f.add("Slice", f.add("Reshape", bits, np.int64([-1])), np.int64([0]), np.int64([SIGNS.size]))
    whole = f.add("Reshape", f.add("Cast", flat, to=1), np.int64(SIGNS.shape))
    return f.add("Mul", f.add("Sub", f.add("Mul", whole, F(2)), F(1)), ALPHA)


LATENT = SIGNS * RNG.uniform(0.01, 0.9, SIGNS.shape).astype(F)
WEIGHTS = {
    "numbers": lambda f: ALPHA * SIGNS,
    "BipolarQuant": lambda f: f.add("BipolarQuant", LATENT, ALPHA, domain=QONNX),
    "Quant": lambda f: f.add("Quant", LATENT, ALPHA, F(0), F(1), domain="onnx.brevitas", signed=1, narrow=1),
    "sign(w) alpha": lambda f: f.add("Mul", f.add("Sign", LATENT), ALPHA),
    "straight-through": lambda f: f.add("Add", f.add("Sub", ALPHA * SIGNS, LATENT), LATENT),
    "bits": unpacked,
    "int8": lambda f: f.add("DequantizeLinear", SIGNS.astype(np.int8), ALPHA.ravel(), np.zeros(8, np.int8), axis=0),
}


@pytest.mark.parametrize("spelling", WEIGHTS)
@pytest.mark.parametrize("inputs", ["signs", "real"])
def test_every_spelling_of_binary_weights_is_a_binary_layer(spelling, inputs, tmp_path):
    file = File((1, *SHAPE))
    x = file.add("BipolarQuant", "x", F(1), domain=QONNX) if inputs == "signs" else "x"
    network = packed(file, tmp_path, ended(file, x, WEIGHTS[spelling](file)))
    name = "binary_conv2d" if inputs == "signs" else "sign_weight_conv2d"
    assert kinds(network) == [name, "global_avg_pool"]
    exact = spelling != "straight-through"  # that one rounds
    assert np.array_equal(network.weights(network.layers[0].name), SIGNS)
    np.testing.assert_allclose(network.alpha(network.layers[0].name), ALPHA.ravel(), rtol=0 if exact else 1e-5)


def test_a_batch_norm_before_a_sign_is_a_threshold(tmp_path):
    numbers = RNG.normal(1, 0.5, 5), RNG.normal(0, 1, 5), RNG.normal(0, 1, 5), RNG.uniform(0.5, 2, 5)
    for eps in (1e-5, 0.0, 1.5):
        file = File((1, *SHAPE))
        norm = file.add("BatchNormalization", "x", *(np.asarray(n, F) for n in numbers), epsilon=eps)
        signs = file.add("BipolarQuant", file.add("MaxPool", norm, kernel_shape=[2, 2]), F(0.5), domain=QONNX)
        network = packed(file, tmp_path, ended(file, signs))
        assert kinds(network)[-2:] == ["binary_conv2d", "global_avg_pool"]
        weight, bias, mean, var = (column(n) for n in numbers)
        y = weight * (IMAGES - mean) / np.sqrt(var + F(eps)) + bias
        expected = convolved(np.where(pooled(y) >= 0, 0.5, -0.5), SIGNS)
        np.testing.assert_allclose(network.logits(IMAGES), expected, atol=1e-5)


def pooled(y):
    return np.max([y[:, :, i : i + 6, j : j + 5] for i in (0, 1) for j in (0, 1)], axis=0)


def convolved(x, weight, pad=0.0):
    """The mean over all pixels of the convolution of x, beyond whose border stands `pad`, in float64."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=pad)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    return np.einsum("ncijkl,ockl->noij", windows, weight).mean(axis=(2, 3))


@pytest.mark.parametrize("pad", [0.0, 1.0, -1.0])
def test_padding_of_signs(pad, tmp_path):
    file = File((1, *SHAPE))
    signs = file.add("BipolarQuant", "x", F(1), domain=QONNX)
    wide = file.add("Pad", signs, np.int64([0, 0, 1, 1, 0, 0, 1, 1]), F(pad), mode="constant")
    z = file.add("Conv", wide, SIGNS)
    network = packed(file, tmp_path, file.add("Flatten", file.add("GlobalAveragePool", z)))
    assert kinds(network) == ["binary_conv2d", "global_avg_pool"]
    expected = convolved(np.where(IMAGES >= 0, 1, -1), SIGNS, pad)
    np.testing.assert_allclose(network.logits(IMAGES), expected, atol=1e-5)


def quantised(x, scale, zero, low, high, rounding=np.round):
    return (np.clip(rounding(x / scale + zero), low, high) - zero) * scale


@pytest.mark.parametrize(
    ("bits", "signed", "narrow", "zero"),
    [(2, 1, 0, 0), (2, 1, 1, 0), (2, 0, 0, 0), (3, 0, 0, 0), (4, 1, 1, 0), (8, 1, 0, 0), (2, 1, 0, -0.5), (1, 0, 0, 0)],
)
@pytest.mark.parametrize("weight", ["binary", "real"])
def test_quantised_inputs(bits, signed, narrow, zero, weight, tmp_path):
    scale = F([0.3, 0.25, 0.4, 0.35, 0.3]) if bits < 8 else F([0.02])
    low, high = (-(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    file = File((1, *SHAPE))
    q = file.add("Quant", "x", scale.reshape(1, -1, 1, 1), F(zero), F(bits), domain=QONNX, signed=signed, narrow=narrow)
    w = ALPHA * SIGNS if weight == "binary" else LATENT
    network = packed(file, tmp_path, ended(file, q, w))
    expected = convolved(quantised(IMAGES, column(scale), zero, low, high), w)
    np.testing.assert_allclose(network.logits(IMAGES), expected, atol=3e-5)
    if weight == "binary" and len(scale) == 1 and bits == 2:
        assert "kbit_conv2d" in kinds(network)


@pytest.mark.parametrize("rounding", ["FLOOR", "CEIL"])
def test_other_roundings(rounding, tmp_path):
    file = File((1, *SHAPE))
    q = file.add("Quant", "x", F(0.3), F(0), F(2), domain=QONNX, signed=1, narrow=0, rounding_mode=rounding)
    network = packed(file, tmp_path, ended(file, q))
    round = np.floor if rounding == "FLOOR" else np.ceil
    np.testing.assert_allclose(
        network.logits(IMAGES), convolved(quantised(IMAGES, F(0.3), 0, -2, 1, round), SIGNS), atol=1e-5
    )


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_thresholds_that_whole_numbers_meet(count, tmp_path):
    """A sum of signs is a whole number and may lie on a threshold."""
    at = np.sort(RNG.integers(-9, 9, (8, 1)) + np.arange(count) * RNG.integers(1, 4, (8, 1)) * 2, axis=1).astype(F)
    file = File((1, *SHAPE))
    z = file.add("Conv", file.add("BipolarQuant", "x", F(1), domain=QONNX), SIGNS)
    levels = file.add("MultiThreshold", z, at, domain=QONNX, out_dtype="UINT2", out_scale=0.5, out_bias=-0.25)
    flat = file.add("Flatten", file.add("GlobalAveragePool", levels))
    network = packed(file, tmp_path, flat)
    windows = np.lib.stride_tricks.sliding_window_view(np.where(IMAGES >= 0, 1, -1), (3, 3), axis=(2, 3))
    z = np.einsum("ncijkl,ockl->noij", windows, SIGNS)
    counts = (z[..., None] >= at[:, None, None, :]).sum(axis=-1)
    np.testing.assert_allclose(network.logits(IMAGES), (0.5 * counts - 0.25).mean(axis=(2, 3)), atol=1e-5)


def test_thresholds_that_are_not_evenly_spaced_are_refused(tmp_path):
    file = File((1, *SHAPE))
    x = file.add("MultiThreshold", "x", F([[0, 1, 5]]), domain=QONNX, name="act")
    with pytest.raises(InputError, match=r"node 'act' \(MultiThreshold\): 3 thresholds that are not evenly spaced"):
        packed(file, tmp_path, ended(file, x))


def test_sign_of_zero_is_zero_where_zeros_come_by_themselves(tmp_path):
    file = File((1, *SHAPE))
    path = file.save(tmp_path / "m.onnx", ended(file, file.add("Sign", file.add("Relu", "x"))))
    reading = read(path)
    assert "three levels" in reading.notes[0]
    logits = freeze(build.network(reading.description)).logits(IMAGES)
    np.testing.assert_allclose(logits, convolved(np.sign(np.maximum(IMAGES, 0)), SIGNS), atol=1e-5)


def test_sign_of_zero_is_said_where_only_rounding_makes_zeros(tmp_path):
    file = File((1, *SHAPE))
    norm = file.add(
        "BatchNormalization", "x", *(np.asarray(v, F) for v in (np.ones(5), [0.5] * 5, np.zeros(5), np.ones(5)))
    )
    reading = read(file.save(tmp_path / "m.onnx", ended(file, file.add("Sign", norm, name="act"))))
    assert reading.notes[0].startswith("node 'act' (Sign): the sign of a value that is exactly 0 is +1 here")
    assert [layer.kind for layer in reading.description.layers] == ["batch_norm", "binary_conv2d", "global_avg_pool2d"]


def test_channels_last_and_flattened_images(tmp_path):
    """(N, H, W, C) in, turned round at once; turned back before it is flattened: weights are put in order."""
    weight = RNG.standard_normal((3, math.prod(SHAPE))).astype(F)
    file = File((1, 7, 6, 5))
    image = file.add("Transpose", "x", perm=[0, 3, 1, 2])
    last = file.add("Transpose", file.add("Relu", image), perm=[0, 2, 3, 1])
    rows = file.add("Reshape", last, np.int64([1, -1]))
    norm = file.add("Mul", rows, np.arange(weight.shape[1]).astype(F))
    network = packed(file, tmp_path, file.add("Gemm", norm, weight, F([1, 2, 3]), transB=1))
    assert network.input_shape == SHAPE
    flat = np.maximum(IMAGES, 0).transpose(0, 2, 3, 1).reshape(4, -1) * np.arange(weight.shape[1])
    np.testing.assert_allclose(network.logits(IMAGES), flat @ weight.T + [1, 2, 3], rtol=2e-4, atol=0.1)


def test_pixels_are_normalised_as_the_file_says(tmp_path):
    file = File((1, 7, 6, 5), "uint8", classes='["a", "b", "c", "d", "e"]')
    image = file.add("Div", file.add("Cast", "x", to=1), F(255))
    image = file.add("Div", file.add("Sub", image, F([0.5, 0.4, 0.3, 0.2, 0.1])), F(0.25))
    flat = file.add("Flatten", file.add("GlobalAveragePool", file.add("Transpose", image, perm=[0, 3, 1, 2])))
    network = packed(file, tmp_path, flat)
    np.testing.assert_allclose(network.mean, [0.5, 0.4, 0.3, 0.2, 0.1], atol=1e-6)
    np.testing.assert_allclose(network.std, 0.25, rtol=1e-6)
    assert network.classes == ("a", "b", "c", "d", "e")
    with pytest.raises(InputError, match="normalises them itself; so mean and std cannot be given"):
        from_onnx(tmp_path / "m.onnx", mean=0.5, std=0.5)
    dark = File((1, 7, 6, 5), "uint8")
    image = dark.add("Transpose", dark.add("Neg", dark.add("Cast", "x", to=1)), perm=[0, 3, 1, 2])
    with pytest.raises(InputError, match="do not increase with the pixel values"):
        packed(dark, tmp_path, dark.add("Flatten", dark.add("GlobalAveragePool", image)))


def test_what_is_left_out_and_assumed_is_said(tmp_path):
    file = File(("N", 12))
    logits = file.add("Gemm", "x", RNG.standard_normal((4, 12)).astype(F), transB=1)
    best = file.add("TopK", file.add("Softmax", logits), np.int64([1]), outputs=["values", "places"])
    reading = read(file.save(tmp_path / "m.onnx", "places"), classes=("a", "b", "c", "d"))
    assert best and reading.last == ("Softmax", "TopK")
    assert [note.split(":")[0].split(" at ")[0] for note in reading.notes] == [
        "the file does not say how images are normalised",
        "rows of 12 numbers are taken as images (3, 2, 2)",
        "Softmax, TopK",
    ]
    assert reading.description.classes == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("op", "axis", "opset", "comes"),
    [("Softmax", 1, 13, True), ("Softmax", None, 13, False), ("Softmax", None, 11, True), ("ArgMax", 1, 13, True),
     ("ArgMax", None, 13, False), ("LogSoftmax", 2, 13, False)],
)  # fmt: skip
def test_only_what_goes_along_the_logits_is_left_out(op, axis, opset, comes, tmp_path):
    file = File((1, *SHAPE), opset=opset)
    last = file.add(op, file.add("GlobalAveragePool", "x"), **({} if axis is None else {"axis": axis}))
    path = file.save(tmp_path / "m.onnx", last)
    if comes:
        assert read(path).last == (op,)
    else:
        with pytest.raises(InputError, match="that of the logits is read"):
            read(path)


def test_all_nodes_that_cannot_come_are_named_with_the_reason(tmp_path):
    file = File((1, *SHAPE))
    x = file.add("Erf", "x", name="first")
    x = file.add("Conv", x, SIGNS, name="conv")
    x = file.add("Resize", x, name="second")
    y = file.add("Foo", "x", name="third", domain="com.example")
    z = file.add("MaxPool", "x", kernel_shape=[20, 20], name="fourth")
    flat = [file.add("Flatten", file.add("GlobalAveragePool", v)) for v in (x, y, z)]
    with pytest.raises(InputError) as error:
        packed(file, tmp_path, file.add("Concat", *flat, axis=1))
    text = str(error.value)
    assert "4 layers cannot be converted" in text and "conv" not in text.replace("cannot be converted", "")
    for name, reason in {
        "'first' (Erf)": "not supported", "'second' (Resize)": "not supported", "'third' (Foo)": "domain 'com.example'",
        "'fourth' (MaxPool)": "more than 256 taps",
    }.items():  # fmt: skip
        assert f"node {name}: " in text and reason in text


@pytest.mark.parametrize(
    ("op", "inputs", "options", "expected"),
    [
        ("Div", [np.int32([-7, 7]), np.int32([2])], {}, [-3, 3]),
        ("BitShift", [np.uint8([1, 255]), np.uint8([7])], {"direction": "LEFT"}, [128, 128]),
        ("Slice", [np.arange(6), np.int64([-1]), np.int64([-7]), np.int64([0]), np.int64([-2])], {}, [5, 3, 1]),
        ("Reshape", [np.arange(6).reshape(2, 3), np.int64([0, -1, 1])], {}, np.arange(6).reshape(2, 3, 1)),
        ("Gather", [np.arange(6).reshape(2, 3), np.int64([2, 0])], {"axis": 1}, [[2, 0], [5, 3]]),
        ("ReduceSum", [np.arange(6).reshape(2, 3), np.int64([0])], {"keepdims": 0}, [3, 5, 7]),
        ("ReduceMean", [np.arange(6.0).reshape(2, 3)], {"axes": [], "keepdims": 0}, 2.5),
        ("ReduceMean", [np.arange(6.0).reshape(2, 3)], {"noop_with_empty_axes": 1}, np.arange(6.0).reshape(2, 3)),
        ("Where", [np.array([True, False]), np.int64([1]), np.int64([2])], {}, [1, 2]),
    ],
)
def test_constants_are_folded(op, inputs, options, expected):
    (found,) = fold(Node(op, "", "", (), ("y",), options), inputs, 13)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("through", [(), ("Identity",), ("Identity", "Cast")])
def test_scales_of_a_result_that_others_read_stay_layers_of_their_own(through, tmp_path):
    file = File((1, *SHAPE))
    z = file.add("Conv", file.add("BipolarQuant", "x", F(1), domain=QONNX), SIGNS, pads=[1, 1, 1, 1])
    y = z
    for op in through:
        y = file.add(op, y, **({"to": 1} if op == "Cast" else {}))
    both = file.add("Add", file.add("Mul", y, ALPHA.reshape(1, 8, 1, 1)), z)
    network = packed(file, tmp_path, file.add("Flatten", file.add("GlobalAveragePool", both)))
    expected = convolved(np.where(IMAGES >= 0, 1, -1), SIGNS) * (1 + ALPHA.ravel())
    np.testing.assert_allclose(network.logits(IMAGES), expected, atol=1e-4)


def test_a_layer_that_only_rounds_keeps_its_numbers(tmp_path):
    file = File((1, *SHAPE))
    q = file.add("Quant", "x", F(0.5), F(-0.5), F(2), domain=QONNX, signed=1, narrow=0)
    scaled = file.add("Mul", file.add("Relu", file.add("Mul", q, F(4))), F(3))
    network = packed(file, tmp_path, file.add("Flatten", file.add("GlobalAveragePool", scaled)))
    expected = np.maximum(quantised(IMAGES, 0.5, -0.5, -2, 1), 0).mean(axis=(2, 3)) * 12
    np.testing.assert_allclose(network.logits(IMAGES), expected, atol=1e-5)
