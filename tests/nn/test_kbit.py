"""k-bit weights, inputs and gradients: the formula, exact sums on bit planes, gradients, freezing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import JIT_DISABLED
from tests.models.test_models import build, images, packed_twin, settle
from tests.nn import test_methods
from tests.nn.rules import latent_gradient
from tests.nn.test_binary_layers import sign, spread, windows
from xnor_ref import binary, nn, optim
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.conformance.basics import oracle
from xnor_ref.errors import InputError, ModelFileError
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.ops import binary_ops, bit_planes
from xnor_ref.kernels.ops.bit_planes import Levels
from xnor_ref.packed.freeze import freeze

BITS = range(1, 9)
BACKENDS = ("auto", "numba", "simd", "reference", "float")
CASES = [
    {"weight_bits": 2, "input_bits": 2},
    {"weight_bits": 1, "input_bits": 4, "input_scale": "off", "pad_value": -1},
    {"weight_bits": 3, "weight_scale": "off", "input_scale": "valid", "pad_value": 1},
    {"weight_bits": 8, "input_bits": 8, "grad_bits": 8},
    {"weight_bits": 2, "weight_scale": "learned", "grad_bits": 1},
    {"weight_bits": 2, "input_bits": 3, "method": "xnor++"},
    {"input_bits": 2, "input_levels": "ternary"},
]


def formula(x, bits):
    """q_k as printed in the paper, in float64, halves rounded up; x in [-1, 1]."""
    top = 2**bits - 1
    return 2 * (np.floor(top * (np.float64(x) + 1) / 2 + 0.5) / top - 0.5)


# --- the formula


@pytest.mark.parametrize("bits", BITS)
def test_levels_are_those_of_the_paper(bits):
    x = np.linspace(-1, 1, 4001, dtype=np.float32)
    x = x[np.abs((2**bits - 1) * (np.float64(x) + 1) / 2 % 1 - 0.5) > 1e-4]  # off the steps, where the last bit decides
    q = binary.quantize(x, bits)
    np.testing.assert_allclose(q, formula(x, bits), atol=1e-6)
    assert np.abs(q - x).max() <= 1 / (2**bits - 1) + 1e-6
    assert np.unique(bit_planes.levels(x, bits)).tolist() == list(range(1 - 2**bits, 2**bits, 2))
    np.testing.assert_array_equal(binary.quantize(3 * x, bits), binary.quantize(np.clip(3 * x, -1, 1), bits))


@pytest.mark.parametrize("bits", BITS)
def test_the_highest_plane_is_the_sign(bits):
    tiny = np.float32(1e-45)
    x = np.float32([0, -0.0, tiny, -tiny, 1, -1, np.inf, -np.inf, 0.3, -0.3])
    m = bit_planes.levels(x, bits)
    planes = bit_planes.planes(m, bits)
    np.testing.assert_array_equal(planes[-1], x >= 0)
    np.testing.assert_array_equal(sum(2**b * np.where(plane, 1, -1) for b, plane in enumerate(planes)), m)
    if bits == 1:
        np.testing.assert_array_equal(binary.quantize(x, 1), binary.sign(x))


def test_two_bits_by_hand():
    """Steps at -2/3, 0, 2/3; levels -1, -1/3, 1/3, 1."""
    x = np.float32([-0.7, -0.6, -0.01, 0.0, 0.6, 0.7])
    assert bit_planes.levels(x, 2).tolist() == [-3, -1, -1, 1, 1, 3]
    assert [plane.astype(int).tolist() for plane in bit_planes.planes(bit_planes.levels(x, 2), 2)] == [
        [0, 1, 1, 0, 0, 1],
        [0, 0, 0, 1, 1, 1],
    ]
    layer = nn.KBitLinear(2, 1, weight_scale="off", input_scale="off", weight_bits=2, input_bits=2)
    layer.weight.data[...] = [[0.9, -0.2]]  # 3, -1
    y = layer(Tensor(np.float32([[0.5, -0.7]])))  # 1, -3: the example of docs/model-format.md
    assert y.data[0, 0] == np.float32(6) * np.float32(1 / 9)


def test_ternary_inputs_by_hand():
    """0 up to 1/2, which belongs to it; else the sign. The planes of 0 are +1 and -1."""
    x = np.float32([-2, np.nextafter(np.float32(-0.5), np.float32(-1)), -0.5, -0.0, 0, 0.5, 0.6, np.inf])
    ternary = Levels(2, ternary=True)
    assert ternary.of(x).tolist() == ternary.values(x).tolist() == [-1, -1, 0, 0, 0, 0, 1, 1]
    first, second = ternary.planes(ternary.of(x))
    assert first.tolist() == [False, False, True, True, True, True, True, True]
    assert second.tolist() == [False, False, False, False, False, False, True, True]
    layer = nn.KBitLinear(3, 1, input_bits=2, input_levels="ternary", input_scale="off")
    layer.weight.data[...] = [[0.9, -0.2, 0.4]]  # alpha 1/2
    assert layer(Tensor(np.float32([[0.5, -0.7, 3]]))).data[0, 0] == 1  # (0 + 1 + 1) / 2
    assert "ternary inputs" in repr(layer)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"input_bits": 3, "input_levels": "ternary"}, "input_levels 'ternary' needs input_bits 2, got 3"),
        ({"weight_bits": 2, "input_levels": "ternary"}, "input_levels 'ternary' needs input_bits 2, got 1"),
        ({"input_bits": 2, "input_levels": "odd"}, "input_levels must be one of even, ternary, got 'odd'"),
    ],
)
def test_levels_that_there_are_not_are_refused(options, text):
    with pytest.raises(InputError, match=f"KBitConv2d: {text}"):
        nn.KBitConv2d(3, 4, 3, **options)


# --- exact sums


@st.composite
def convolutions(draw):
    x, weight, *place = draw(test_methods.convolutions())
    bits = draw(st.sampled_from([Levels(2, ternary=True), *map(Levels, BITS)])), draw(st.integers(1, 8))
    return x / 2, weight / 2, bits, *place, draw(st.sampled_from([-1, 0, 1]))


@pytest.mark.kernels
@settings(max_examples=8 if JIT_DISABLED else 30, deadline=None)  # up to 64 convolutions each, in NumPy
@given(convolutions())
def test_bit_planes_compute_the_integers(case):
    x, weight, bits, window, groups, pad_value = case
    inputs, weight_bits = bits
    m, w = inputs.of(x), bit_planes.levels(weight, weight_bits)
    border = pad_value * (1.0 if inputs.ternary else 2.0**inputs.bits - 1)
    parts = zip(np.split(m, groups, axis=1), np.split(w, groups), strict=True)
    place = window.stride, window.padding, border, window.dilation
    expected = np.concatenate([oracle.convolve(*part, *place) for part in parts], axis=1)
    for backend in BACKENDS:
        for threads in (1, 2):
            z = bit_planes.conv2d(m, w, inputs, weight_bits, window, pad_value, backend, threads, groups)
            assert z.dtype == np.int32
            np.testing.assert_array_equal(z, expected)


def test_sums_that_float32_cannot_hold_are_exact_on_the_float_backend_too():
    """512 channels of 8 bits, all at their largest: 512 * 9 * 255^2 is 299,635,200, above 2^24."""
    m, w = np.full((1, 512, 3, 3), 255, np.int16), np.full((1, 512, 3, 3), -255, np.int16)
    m[0, 0, 0, 0] = 253  # so that the last digit counts
    for backend in ("auto", "float"):
        z = bit_planes.conv2d(m, w, Levels(8), 8, Window((3, 3)), 0, backend)
        assert z.tolist() == [[[[-(512 * 9 * 255**2) + 2 * 255]]]]


# --- scales and gradients


@pytest.mark.parametrize("bits", BITS)
def test_the_scale_is_the_least_squares_one(bits):
    rng = np.random.default_rng(bits)
    weight = rng.uniform(-1, 1, (3, 4, 2, 2)).astype(np.float32)
    m = bit_planes.levels(weight, bits)
    scale = binary.MEAN_ABS.alpha(weight, binary.Code(bits)) / bit_planes.largest(bits)

    def error(factor):
        return np.square(weight - (factor * scale)[:, None, None, None] * m).sum(axis=(1, 2, 3))

    assert (error(1) < error(1.001)).all() and (error(1) < error(0.999)).all()
    if bits == 1:
        np.testing.assert_allclose(scale, binary_ops.weight_scale(weight), rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_the_corrected_gradient_is_the_jacobian(bits):
    """Central differences of alpha(W) Q + alpha (Q + 1[|W| <= 1] (W - W0)), each product with the other part fixed."""
    rng = np.random.default_rng(bits)
    w0 = rng.uniform(-1.3, 1.3, (2, 6))
    g = rng.standard_normal(w0.shape)
    q = np.float64(binary.quantize(w0.astype(np.float32), bits))
    alpha = (w0 * q).sum(axis=1) / (q * q).sum(axis=1)
    mask = np.abs(w0) <= 1

    def cost(w):
        moved = (w * q).sum(axis=1) / (q * q).sum(axis=1)
        return (g * (moved[:, None] * q + alpha[:, None] * mask * (w - w0))).sum()

    expected = np.zeros_like(w0)
    for index in np.ndindex(*w0.shape):
        step = np.zeros_like(w0)
        step[index] = 1e-4
        expected[index] = (cost(w0 + step) - cost(w0 - step)) / 2e-4
    g32, w32, a32 = (array.astype(np.float32) for array in (g, w0, alpha))
    np.testing.assert_allclose(latent_gradient(g32, w32, a32, "corrected", bits), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(latent_gradient(g32, w32, a32, "ste", bits), alpha[:, None] * mask * g, rtol=1e-5)
    unscaled = latent_gradient(g32, w32, None, "ste", bits)
    np.testing.assert_array_equal(unscaled, g32 * mask)


@pytest.mark.parametrize("bits", [(2, 2), (1, 3), (4, 1), (8, 8)])
@pytest.mark.parametrize("options", [{}, {"input_scale": "off", "pad_value": 1}, {"weight_scale": "off"}], ids=str)
def test_layers_follow_the_formulas(bits, options):
    """Y = (q(X) (*) q(W)) alpha K; dX = 1[|X| <= 1] convT(D K, alpha q(W)); G = corr(q(X), D K)."""
    rng = np.random.default_rng(7)
    layer = nn.KBitConv2d(5, 4, (3, 2), (2, 1), (1, 1), input_bits=bits[0], weight_bits=bits[1], rng=rng, **options)
    x = Tensor(rng.standard_normal((3, 5, 6, 7), dtype=np.float32), requires_grad=True)
    qx, qw = binary.quantize(x.data, bits[0]), np.float64(binary.quantize(layer.weight.data, bits[1]))
    columns = windows(qx, (3, 2), (2, 1), (1, 1), layer.pad_value)
    rows = qw.reshape(4, -1)
    alpha = np.ones(4)
    if layer.weight_scale.scales:
        alpha = (layer.weight.data.reshape(4, -1) * rows).sum(axis=1) / (rows * rows).sum(axis=1)
    k = 1.0
    if layer.input_scale.name == "plain":
        k = windows(np.abs(x.data).mean(axis=1, keepdims=True), (3, 2), (2, 1), (1, 1), 0).mean(axis=(3, 4, 5))[:, None]
    y = layer(x)
    expected = np.einsum("nijcab,ocab->noij", columns, qw) * alpha[:, None, None] * k
    np.testing.assert_allclose(y.data, expected, rtol=1e-4, atol=1e-5)
    d = rng.standard_normal(y.shape).astype(np.float32)
    y.backward(d)
    grad = np.einsum("nijcab,noij->ocab", columns, d * k).astype(np.float32)
    scale = alpha.astype(np.float32) if layer.weight_scale.scales else None
    latent = latent_gradient(grad, layer.weight.data, scale, layer.grad_mode, bits[1])
    np.testing.assert_allclose(layer.weight.grad, latent, rtol=1e-3, atol=1e-4)
    back = np.einsum("noij,ocab->nijcab", d * k * alpha[:, None, None], qw)
    dx = spread(back, x.shape, (3, 2), (2, 1), (1, 1)) * (np.abs(x.data) <= 1)
    np.testing.assert_allclose(x.grad, dx, rtol=1e-3, atol=1e-4)


def test_linear_layers_are_convolutions_over_one_pixel():
    rng = np.random.default_rng(8)
    linear = nn.KBitLinear(70, 6, weight_bits=3, input_bits=2, rng=rng)
    conv = nn.KBitConv2d(70, 6, 1, weight_bits=3, input_bits=2)
    conv.weight.data[...] = linear.weight.data[:, :, None, None]
    x, d = (rng.standard_normal((4, n), dtype=np.float32) for n in (70, 6))
    flat, image = Tensor(x, requires_grad=True), Tensor(x[:, :, None, None], requires_grad=True)
    y, z = linear(flat), conv(image)
    np.testing.assert_array_equal(y.data, z.data[:, :, 0, 0])
    y.backward(d)
    z.backward(d[:, :, None, None])
    np.testing.assert_allclose(flat.grad, image.grad[:, :, 0, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(linear.weight.grad, conv.weight.grad[:, :, 0, 0], rtol=1e-4, atol=1e-5)


def test_latent_weights_of_several_bits_fill_their_range_and_stay_in_it():
    layer = nn.KBitLinear(200, 50, weight_bits=2, rng=np.random.default_rng(0))
    assert np.abs(layer.weight.data).max() <= 1 and layer.weight.data.std() == pytest.approx(1 / np.sqrt(3), abs=0.02)
    layer.weight.data += np.float32(3)
    layer.after_step()
    assert layer.weight.data.max() == 1
    one_bit = nn.KBitLinear(200, 50, input_bits=2, rng=np.random.default_rng(0))
    assert one_bit.weight.data.std() == pytest.approx(0.1, abs=0.01) and not one_bit.clamp


# --- binary gradients


@pytest.mark.parametrize("bits", BITS)
def test_gradients_keep_their_largest_change(bits):
    g = np.random.default_rng(bits).standard_normal((4, 5, 6)).astype(np.float32)
    g[0] = 0
    top = np.abs(g).max()
    q = binary.quantize_gradient(g, bits)
    np.testing.assert_allclose(q, np.where(g == 0, 0, top * formula(g / top, bits)), rtol=1e-5, atol=1e-6)
    assert np.abs(q).max() == top and not q[0].any()
    assert np.abs(q - g).max() <= top / (2**bits - 1) + 1e-5
    if bits == 1:
        np.testing.assert_array_equal(q, top * np.sign(g))
    np.testing.assert_array_equal(binary.quantize_gradient(np.zeros_like(g), bits), np.zeros_like(g))


@pytest.mark.parametrize("bits", [1, 3])
@pytest.mark.parametrize("scale", ["off", "plain"])
def test_the_gradient_is_rounded_on_its_way_to_the_input_only(bits, scale):
    rng = np.random.default_rng(9)
    x, d = rng.standard_normal((3, 5, 6, 6), dtype=np.float32), rng.standard_normal((3, 4, 6, 6), dtype=np.float32)
    grads = []
    for grad_bits in (None, bits):
        layer = nn.BinaryConv2d(5, 4, 3, 1, 1, input_scale=scale, grad_bits=grad_bits, rng=np.random.default_rng(1))
        image = Tensor(x, requires_grad=True)
        with nn.binary_backend("numba" if not JIT_DISABLED else "reference"):
            layer(image).backward(d)
        grads.append((image.grad, layer.weight.grad))
    np.testing.assert_allclose(grads[0][1], grads[1][1], rtol=1e-4, atol=1e-5)
    k = 1.0 if scale == "off" else binary_ops.input_scale_map(x, Window.of(3, padding=1), "plain")
    rounded = binary.quantize_gradient(d * np.float32(k), bits)
    weight = sign(layer.weight.data) * layer.alpha()[:, None, None, None]
    back = spread(np.einsum("noij,ocab->nijcab", rounded, weight), x.shape, (3, 3), (1, 1), (1, 1))
    np.testing.assert_allclose(grads[1][0], back * (np.abs(x) <= 1), rtol=1e-3, atol=1e-4)
    assert np.abs(grads[0][0] - grads[1][0]).max() > 0.1


@pytest.mark.parametrize("bits", BITS)
def test_rounding_at_random_is_right_on_average(bits):
    g = np.float32([[-0.3, 0, 0.7, 1], [0.05, -0.2, 0.11, 0.02]])
    rng = np.random.default_rng(bits)
    drawn = np.array([binary.quantize_gradient(g, bits, rng=rng, by_sample=True) for _ in range(4000)])
    top = np.abs(g).max(axis=1, keepdims=True)
    step = 2 * top / (2**bits - 1)
    assert np.all(np.abs(drawn.mean(0) - g) <= 0.05 * step + 1e-7)
    assert np.all(np.abs(drawn - g) <= step * 1.001) and not drawn[:, 0, 1].any()
    levels = (drawn / top + 1) * (2**bits - 1) / 2
    np.testing.assert_allclose(levels[:, g != 0], np.round(levels[:, g != 0]), atol=1e-4)


def test_each_sample_has_levels_of_its_own():
    g = np.float32([[4, -1], [0.5, 0.1], [0, 0]])
    assert binary.quantize_gradient(g, 1, by_sample=True).tolist() == [[4, -4], [0.5, 0.5], [0, 0]]
    assert binary.quantize_gradient(g, 1).tolist() == [[4, -4], [4, 4], [0, 0]]


@pytest.mark.parametrize("linear", [False, True])
def test_the_gradient_of_weights_may_take_the_rounded_one(linear):
    options = {"grad_rounding": "random", "grad_range": "sample", "grad_for": "all", "weight_scale": "off"}
    options |= {"input_scale": "off", "rng": np.random.default_rng(1)}
    layer = (
        nn.BinaryLinear(9, 4, grad_bits=2, **options) if linear else nn.BinaryConv2d(9, 4, 1, grad_bits=2, **options)
    )
    rng = np.random.default_rng(2)
    shapes = ((5, 9), (5, 4)) if linear else ((5, 9, 1, 1), (5, 4, 1, 1))
    x, d = (rng.standard_normal(shape, dtype=np.float32) for shape in shapes)
    given = Tensor(x, requires_grad=True)
    layer.set_position(3, 7)
    layer(given).backward(d)
    known = np.random.default_rng(layer.draw_position())
    rounded = binary.quantize_gradient(d, 2, rng=known, by_sample=True)
    assert np.abs(rounded - d).max() > 0.01
    rows, d_rows = sign(x).reshape(5, 9), rounded.reshape(5, 4)
    np.testing.assert_allclose(layer.weight.grad.reshape(4, 9), d_rows.T @ rows, rtol=1e-4, atol=1e-5)
    back = d_rows @ sign(layer.weight.data).reshape(4, 9) * (np.abs(x) <= 1).reshape(5, 9)
    np.testing.assert_allclose(given.grad.reshape(5, 9), back, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"grad_rounding": "random"}, r"grad_rounding \(=random\) needs grad_bits"),
        ({"grad_bits": 2, "grad_range": "image"}, "grad_range must be one of layer, sample, got 'image'"),
        ({"grad_bits": 2, "grad_for": None}, "grad_for must be one of inputs, all, got None"),
    ],
)
def test_settings_of_rounded_gradients_are_checked(settings, said):
    with pytest.raises(InputError, match=said):
        nn.BinaryLinear(3, 4, **settings)


# --- networks


@pytest.mark.parametrize("name", ["shapes-net", "lenet5", "resnet18"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_packed_logits_are_those_of_the_float_network(name, case):
    if name == "resnet18" and (JIT_DISABLED or case is not CASES[0]):
        pytest.skip("once, and compiled")
    if JIT_DISABLED and case.get("input_bits") == 8:
        pytest.skip("64 convolutions of planes in NumPy take a minute")
    options = {"method": "xnor", **case}
    network = settle(build(name, 32, **options))
    x = images(network, 3)
    with no_grad(), nn.binary_backend("float"):
        expected = network(Tensor(x)).data
    packed = packed_twin(network)
    assert expected.std() > 0 and packed.metadata["version"] == (5 if "input_levels" in case else 4)
    np.testing.assert_array_equal(packed.logits(x), expected)
    np.testing.assert_array_equal(packed.logits(x[1:2], threads=2), expected[1:2])
    for backend in ("numba", "reference"):
        np.testing.assert_array_equal(packed.logits(x, backend=backend), expected)
    bits = sum(row["bits"] for row in packed.summary())
    assert bits == case.get("weight_bits", 1) * sum(p.size for p in network.parameters() if p.latent)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_some_steps_lower_the_loss(case):
    if JIT_DISABLED and case.get("input_bits") == 8:
        pytest.skip("64 convolutions of planes in NumPy take a minute")
    network = build("lenet5", 28, **{"method": "xnor", **case})
    rng = np.random.default_rng(2)
    labels = np.arange(30) % 10
    x = rng.standard_normal((10, 1, 28, 28), dtype=np.float32)[labels]
    x += rng.standard_normal(x.shape, dtype=np.float32) / 2
    optimizer = optim.Adam(network.named_parameters(), 0.003)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = nn.cross_entropy(network(Tensor(x)), labels)
        loss.backward()
        optimizer.step()
        for _, module in network.named_modules():
            module.after_step()
        losses.append(float(loss.data))
    assert np.mean(losses[-3:]) < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: build("lenet5", 28, weight_bits=0), "weight_bits must be an integer from 1 to 8, got 0"),
        (lambda: build("lenet5", 28, input_bits=9), "input_bits must be an integer from 1 to 8, got 9"),
        (lambda: build("lenet5", 28, grad_bits=True), "grad_bits must be an integer from 1 to 8, got True"),
        (lambda: build("lenet5", 28, "bwn", weight_bits=2), "'bwn' does not take weight_bits"),
        (lambda: build("lenet5", 28, "bnn", input_bits=2), "'bnn' does not take input_bits"),
        (lambda: build("lenet5", 28, input_bits=2, block_order="cbap"), "input_bits .=2. needs block_order bacp"),
        (lambda: build("lenet5", 28, input_bits=2, sign_gradient="bireal"), "needs input_bits 1, got 2"),
        (lambda: build("lenet5", 28, weight_bits=2, grad_mode="paper"), "'paper' is derived for .* and 1 bit"),
        (lambda: build("lenet5", 28, weight_bits=2, clamp=False), "clamp .=False. needs weight_bits 1, got 2"),
        (lambda: nn.KBitConv2d(3, 4, 3), "with one bit everywhere use BinaryConv2d"),
        (lambda: nn.KBitLinear(3, 4, weight_bits=9), "weight_bits must be an integer from 1 to 8, got 9"),
        (lambda: nn.KBitLinear(3, 4, input_bits=0), "input_bits must be an integer from 1 to 8, got 0"),
        (lambda: nn.KBitLinear(40_000, 1, weight_bits=8, input_bits=8), "40000 products of 8-bit .* overflow 32-bit"),
        (lambda: nn.BinaryLinear(3, 4, grad_bits=9), "grad_bits must be an integer from 1 to 8, got 9"),
        (lambda: nn.KBitLinear(3, 4, weight_bits=2, grad_mode="paper"), "derived for weight_scale 'alpha' and 1 bit"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make, text):
    with pytest.raises(InputError, match=text):
        make()


def test_sums_beyond_32_bits_are_refused_in_files():
    layer = nn.KBitLinear(33_000, 2, weight_bits=8, input_bits=8)
    packed = freeze(
        nn.Sequential(nn.Flatten(), layer), input_shape=(1, 100, 330), mean=(0,), std=(1,), classes=("a", "b")
    )
    metadata, tensors = packed.metadata, dict(packed._tensors)
    metadata["input"]["height"] = 101
    metadata["graph"][1]["in_features"] = 33_330
    bits = tensors["1.bits"]
    tensors["1.bits"] = np.zeros((*bits.shape[:2], -(-33_330 // 64)), np.uint64)
    with pytest.raises(ModelFileError, match="33330 products may not fit into 32 bits"):
        type(packed)(metadata, tensors)


def test_steps_of_several_bits_are_as_large_for_their_spread_as_those_of_signs():
    rng = np.random.default_rng(0)
    signs = nn.BinaryConv2d(64, 32, 3, rng=rng).weight
    bits = nn.KBitConv2d(64, 32, 3, weight_bits=2, rng=rng).weight
    assert signs.lr_scale == 1
    assert bits.lr_scale == pytest.approx(bits.data.std() / signs.data.std(), rel=0.03)
    assert nn.KBitConv2d(64, 32, 3, input_bits=2, rng=rng).weight.lr_scale == 1
