"""Convolutions for training, forward and backward, against float64; in bytes, against sums of what was rounded."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.nn.rules import latent_gradient
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.basics.modes import Finish
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.basics.threads import set_threads

if not has_vectors():
    pytest.skip("the kernels exist compiled only, for processors with vectors", allow_module_level=True)

from xnor_ref.kernels.readable import reference
from xnor_ref.kernels.training import convolution, gradient_layout, gradients, winograd
from xnor_ref.kernels.training.convolution import RealConvolution, Rounding, SignConvolution

CHANNELS = st.sampled_from([1, 2, 3, 4, 5, 8, 31, 32, 33, 40, 64, 65, 96])
OUTPUTS = st.sampled_from([1, 2, 7, 15, 16, 17, 31, 32, 33, 48, 65])
PRECISION = 2e-6  # of a float32 sum, against the sum of the absolute values


@st.composite
def tiled_places(draw):
    """Those that `winograd.suits`."""
    n, height, width = (
        draw(st.integers(*limits)) for limits in ((1, 9), (winograd.LEAST_SIDE, 9), (winograd.LEAST_SIDE, 9))
    )
    kernel = draw(st.sampled_from([3, 5]))
    padding = draw(st.integers(int(kernel > min(height, width)), kernel - 1))  # the kernel fits the padded image
    channels, outputs = draw(st.sampled_from([32, 33, 40, 65])), draw(st.sampled_from([32, 33, 48, 65, 130]))
    place = (n, height, width, channels), (outputs, channels, kernel, kernel), (1, 1), (padding, padding)
    assert winograd.suits(place[1], Window.of(kernel, padding=padding), place[0][1:3])
    return place


@st.composite
def places(draw):
    """(N, H, W, C), shape of the weights, stride, padding and perhaps dilation."""
    if draw(st.integers(0, 3)) == 0:  # what goes by tiles in float32
        return draw(tiled_places())
    n, height, width = draw(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)))
    stride, padding = (draw(st.tuples(st.integers(a, 3), st.integers(a, 3))) for a in (1, 0))
    if draw(st.integers(0, 3)) == 0:  # a product of matrices
        kernel, padding, dilation = (height, width), (0, 0), (1, 1)
    else:
        dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2), (3, 1), (2, 3)]))
        padding = tuple((p, p if draw(st.booleans()) else draw(st.integers(0, 3))) for p in padding)
        room = [size + sum(p) for size, p in zip((height, width), padding, strict=True)]
        kernel = tuple(draw(st.integers(1, min(5, 1 + (n - 1) // d))) for n, d in zip(room, dilation, strict=True))
    channels, outputs = draw(CHANNELS), draw(OUTPUTS)
    return (n, height, width, channels), (outputs, channels, *kernel), stride, padding, dilation


def drawn(seed, place):
    """x, weights and dy; among the weights are zeros of both signs and both ends of the estimator."""
    shape, weight_shape, *geometry = place
    rng = np.random.default_rng(seed)
    out = Window.of(weight_shape[2:], *geometry).count(shape[1:3])
    x, dy = (rng.standard_normal(s, dtype=np.float32) for s in (shape, (shape[0], *out, weight_shape[0])))
    weight = rng.standard_normal(weight_shape, dtype=np.float32)
    special = rng.integers(0, weight.size, 6)
    weight.reshape(-1)[special] = np.float32([0, -0.0, 1, -1, np.nextafter(np.float32(1), 2), -2])
    return x, weight, dy


def exact(x, weight, dy, window, pad_value=0):
    """Y, dW and dX of a convolution, in float64, channels innermost."""
    x, weight, dy = (a.astype(np.float64) for a in (x, weight, dy))
    _, stride, (top, left), dilation = window.numbers
    wide = np.pad(x, ((0, 0), *window.padding, (0, 0)), constant_values=pad_value)
    y, dw, dx = np.zeros(dy.shape), np.zeros(weight.shape), np.zeros(wide.shape)
    for ky in range(weight.shape[2]):
        for kx in range(weight.shape[3]):
            met = (
                slice(None),
                slice(ky * dilation[0], ky * dilation[0] + stride[0] * (dy.shape[1] - 1) + 1, stride[0]),
                slice(kx * dilation[1], kx * dilation[1] + stride[1] * (dy.shape[2] - 1) + 1, stride[1]),
            )
            y += wide[met] @ weight[:, :, ky, kx].T
            dw[:, :, ky, kx] = np.tensordot(dy, wide[met], ((0, 1, 2), (0, 1, 2)))
            dx[met] += dy @ weight[:, :, ky, kx]
    return y, dw, dx[:, top : top + x.shape[1], left : left + x.shape[2]]


def assert_close(found, expected, magnitude):
    """To float32's precision; `magnitude` is the same sum over absolute values."""
    assert found.dtype == np.float32 and found.shape == expected.shape
    assert (abs(found - expected) <= PRECISION * magnitude).all()


def of_tiles(place, magnitudes):
    """What errors are small beside: with tiles the largest sum of an image's channel, or of a filter's, times some."""
    (_, *size, _), shape, *geometry = place
    if not winograd.suits(shape, Window.of(shape[2:], *geometry), size):
        return magnitudes
    axes = (1, 2), (2, 3), (1, 2)
    times = 1 if place[1][2] == 3 else 5
    return [times * m.max(axis=a, keepdims=True) for m, a in zip(magnitudes, axes, strict=True)]


def latent(grad, weight, alpha, rule):
    """The gradient of the latent weight by a `Finish`, in float64."""
    if rule is Finish.RAW:
        return grad
    weight = weight.astype(np.float64)
    rule = Finish.STE if rule is Finish.SPLIT else rule
    return latent_gradient(grad, weight, *((None, "ste") if rule is Finish.CLIPPED else (alpha, rule.name.lower())))


def sign(x):
    return np.where(x >= 0, np.float32(1), np.float32(-1))


class Signs:
    """A sign convolution and what it must compute."""

    def __init__(self, seed, place, pad_value=0, scale="off", affine=False, rule=Finish.RAW):
        shape, weight_shape, *geometry = place
        self.x, self.weight, self.dy = drawn(seed, place)
        self.rule, self.window, self.pad_value = rule, Window.of(weight_shape[2:], *geometry), pad_value
        slope, shift = np.random.default_rng(seed + 1).standard_normal((2, shape[3]), dtype=np.float32)
        self.conv = SignConvolution(weight_shape, shape[1:3], self.window, pad_value, scale)
        use_alpha = rule not in (Finish.RAW, Finish.CLIPPED)
        ones = None if use_alpha else np.ones(len(self.weight), np.float32)
        self.y, self.saved = self.conv.forward(self.x, self.weight, ones, (slope, shift) if affine else None)
        seen = self.x * slope + shift if affine else self.x
        images = np.ascontiguousarray(seen.transpose(0, 3, 1, 2))
        self.alpha = (
            abs(self.weight.astype(np.float64)).mean(axis=(1, 2, 3)) if use_alpha else np.ones(len(self.weight))
        )
        self.k = np.ones(self.dy.shape[:3], np.float32)
        if scale != "off":
            self.k = reference.input_scale_map(images, self.window, scale)[:, 0]
        self.signs, self.filters = sign(seen), sign(self.weight)

    def backward(self, rounding=None, dy=None, need_input=True):
        return self.conv.backward(
            self.dy if dy is None else dy, self.saved, self.weight, self.rule, rounding, need_input
        )

    def expected(self):
        """Y, dW and dX, and the same of absolute values."""
        dy, filters = self.dy * self.k[..., None], self.filters * self.alpha[:, None, None, None]
        y, dw, dx = exact(self.signs, filters, dy, self.window, self.pad_value)
        all_y, all_dw, all_dx = exact(abs(self.signs), abs(filters), abs(dy), self.window, abs(self.pad_value))
        k = self.k[..., None]
        dw = latent(dw, self.weight, self.alpha, self.rule)
        all_dw = abs(latent(all_dw, abs(self.weight), self.alpha, self.rule))
        return (y * k, dw, dx), (all_y * k, all_dw, all_dx)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**20),
    place=places(),
    pad_value=st.sampled_from([0, 1, -1]),
    scale=st.sampled_from(["off", "plain", "valid"]),
    affine=st.booleans(),
    rule=st.sampled_from(list(Finish)),
)
def test_sign_convolution(seed, place, pad_value, scale, affine, rule):
    layer = Signs(seed, place, pad_value, scale, affine, rule)
    found = layer.y, *layer.backward()
    expected, magnitudes = layer.expected()
    magnitudes = magnitudes[0], *of_tiles(place, magnitudes)[1:]  # forward there are no tiles
    for one, number, magnitude in zip(found, expected, magnitudes, strict=True):
        assert_close(one, number, magnitude)
    dw, nothing = layer.backward(need_input=False)
    assert nothing is None and np.array_equal(dw, found[1])


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**20),
    place=places(),
    biased=st.booleans(),
    rule=st.sampled_from(list(Finish)),
)
def test_real_convolution(seed, place, biased, rule):
    x, weight, dy = drawn(seed, place)
    _, shape, *geometry = place
    latents = np.random.default_rng(seed + 1).standard_normal(shape, dtype=np.float32)
    bias = latents.reshape(len(weight), -1).sum(axis=1) if biased else None
    alpha = abs(latents).mean(axis=(1, 2, 3))
    window = Window.of(shape[2:], *geometry)
    conv = RealConvolution(shape, x.shape[1:3], window)
    padded = conv.pad(x)
    found = conv.forward(padded, weight, bias), *conv.backward(dy, padded, weight, True, latents, rule, alpha)
    (y, dw, dx), (all_y, all_dw, all_dx) = (
        exact(x, weight, dy, window),
        exact(abs(x), abs(weight), abs(dy), window),
    )
    add = 0 if bias is None else bias
    magnitudes = all_y + abs(add), abs(latent(all_dw, abs(latents), alpha, rule)), all_dx
    expected = y + add, latent(dw, latents, alpha, rule), dx
    for one, number, magnitude in zip(found, expected, of_tiles(place, magnitudes), strict=True):
        assert_close(one, number, magnitude)
    dw, nothing = conv.backward(dy, padded, weight, False, latents, rule, alpha)
    assert nothing is None and np.array_equal(dw, found[1])


def test_weights_may_change_between_calls():
    place = (2, 6, 6, 32), (17, 32, 3, 3), (1, 1), (1, 1)
    layer, other = Signs(0, place, rule=Finish.CORRECTED), Signs(5, place, rule=Finish.CORRECTED)
    first = layer.backward()
    layer.conv.forward(other.x, other.weight)  # the forward pass of another batch, before the backward
    again = layer.backward()
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("outputs", [16, 96, 160, 200])
@pytest.mark.parametrize("place", [((7, 9), (1, 1), (1, 1), (0, 0)), ((9, 8), (3, 2), (2, 1), (1, 0))])
def test_results_past_the_caches_are_the_same(outputs, place, monkeypatch):
    size, kernel, *rest = place
    x, weight, _ = drawn(0, ((3, *size, 20), (outputs, 20, *kernel), *rest))
    window = Window.of(kernel, *rest)
    sign_conv = SignConvolution(weight.shape, size, window, 1, "plain")
    real_conv = RealConvolution(weight.shape, size, window)

    def results():
        return sign_conv.forward(x, weight)[0], real_conv.forward(real_conv.pad(x), weight, None)

    cached = results()
    monkeypatch.setattr(convolution, "CACHED", 0)
    streams = convolution._is_long(cached[0])
    assert streams == (outputs % 16 == 0) and all(map(np.array_equal, results(), cached))


# --- in bytes


def hashed(numbers, seed):
    h = numbers.astype(np.uint32) * np.uint32(0x9E3779B1) ^ np.uint32(seed)
    for right, by in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ (h >> np.uint32(right))) * np.uint32(by)
    return h ^ (h >> np.uint32(16))


def rounded(value, factor, seed, shift):
    """Integers from float32 numbers (..., O) times `factor`, with the dice that `gradient_layout.quantize` throws."""
    outputs = value.shape[-1]
    h = hashed(np.arange(0, value.size, outputs), seed)[:, None] ^ hashed(np.arange(outputs), 0)
    h = h * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0xC2B2AE35)
    dice = (h >> np.uint32(shift) & np.uint32(0xFFFF)).astype(np.float32) / np.float32(65536) + np.float32(128)
    return (np.floor(value * factor + dice.reshape(value.shape)) - 128).astype(np.int64)


def unit_of(value):
    return max(float(abs(value).max()) / 126.999, 2.0**-126)


LARGE = (  # longer than pieces, with ends: of a row of pixels, of sums, of the blocks of outputs and of inputs
    ((3, 33, 40, 35), (200, 35, 1, 1), (1, 1), (0, 0)),
    ((9, 6, 17, 50), (290, 50, 3, 3), (1, 1), (1, 1)),
    ((37, 4, 4, 20), (97, 20, 3, 3), (1, 1), (1, 1)),
    ((5, 21, 35, 18), (64, 18, 5, 5), (2, 1), (2, 2)),
)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**20),
    place=places(),
    pad_value=st.sampled_from([0, 1, -1]),
    scale=st.sampled_from(["off", "plain", "valid"]),
    rule=st.sampled_from([Finish.RAW, Finish.CLIPPED, Finish.STE]),
)
@example(0, LARGE[0], 0, "off", Finish.RAW)
@example(1, LARGE[1], 1, "plain", Finish.STE)
@example(2, LARGE[2], 0, "plain", Finish.CLIPPED)
@example(3, LARGE[3], -1, "off", Finish.STE)
def test_sums_of_bytes_are_exact(seed, place, pad_value, scale, rule):
    layer = Signs(seed, place, pad_value, scale, rule=rule)
    dw, dx = layer.backward(Rounding(seed))
    value, alpha = layer.dy * layer.k[..., None], layer.alpha.astype(np.float32)
    largest = abs(value).max(axis=(0, 1, 2))
    for_weight, for_input = unit_of(largest), unit_of(largest * alpha)
    q = rounded(value, np.float32(1 / for_weight), seed, 16)
    p = rounded(value, alpha * np.float32(1 / for_input), seed, 0)
    assert abs(q).max() <= 127 and abs(p).max() <= 127
    grad = exact(layer.signs, layer.filters, q, layer.window, layer.pad_value)[1].astype(np.float32)
    grad *= np.float32(for_weight)
    if rule is not Finish.RAW:
        grad *= alpha.reshape(-1, 1, 1, 1) * (abs(layer.weight) <= 1)
    assert np.array_equal(dw, grad)
    assert np.array_equal(
        dx, exact(layer.signs, layer.filters, p, layer.window)[2].astype(np.float32) * np.float32(for_input)
    )
    assert all(np.array_equal(a, b) for a, b in zip(layer.backward(Rounding(seed)), (dw, dx), strict=True))


def test_the_mean_of_many_roundings_is_the_gradient():
    """Errors of a sum of P roundings are as wide as those of even fractions, unit * sqrt(P/6), and fall as 1/sqrt."""
    layer = Signs(3, ((8, 8, 8, 32), (33, 32, 3, 3), (1, 1), (1, 1)), scale="plain")
    largest = abs(layer.dy * layer.k[..., None]).max()
    terms = 8 * 64, 33 * 8  # of dW and, but for those at the border, of dX
    true = layer.expected()[0][1:]
    totals = [np.zeros_like(one) for one in true]
    errors = []
    for seed in range(256):
        for total, one in zip(totals, layer.backward(Rounding(seed)), strict=True):
            total += one
        if seed in (0, 15, 255):
            means = [total / (seed + 1) for total in totals]
            errors.append([np.sqrt(np.square(a - b).mean()) for a, b in zip(means, true, strict=True)])
    for once, often, most, count in zip(*errors, terms, strict=True):
        assert 0.85 < once / (largest / 127 * np.sqrt(count / 6)) < 1.15
        assert 3.4 < once / often < 4.6 and 3.4 < often / most < 4.6


def test_the_largest_number_is_not_rounded_beyond_a_byte():
    rng = np.random.default_rng(0)
    conv = SignConvolution((1, 32, 1, 1), (64, 128), Window((1, 1)), 0, "off")
    _, saved = conv.forward(np.ones((32, 64, 128, 32), np.float32), np.ones((1, 32, 1, 1), np.float32))
    for value in rng.random(3, dtype=np.float32):
        dy = np.full((32, 64, 128, 1), value)
        dw, dx = conv.backward(dy, saved, np.ones((1, 32, 1, 1), np.float32), Finish.RAW, Rounding(1), True)
        np.testing.assert_allclose(dx, value, rtol=0.01)
        np.testing.assert_allclose(dw, value * dy.size, rtol=1e-4)


def test_too_many_pixels_for_sums_of_bytes_are_taken_in_float32(monkeypatch):
    layer = Signs(1, ((2, 5, 5, 3), (4, 3, 3, 3), (1, 1), (1, 1)))
    monkeypatch.setattr(convolution, "MAX_SUM", 49)
    for a, b in zip(layer.backward(Rounding(1)), layer.backward(), strict=True):
        assert np.array_equal(a, b)


# --- in both arithmetics

ROUNDINGS = pytest.mark.parametrize("rounding", [None, Rounding(7)], ids=["fp32", "int8"])
PLACES = [
    ((2, 4, 4, 32), (33, 32, 1, 1), (1, 1), (0, 0)),
    ((5, 2, 2, 32), (7, 32, 2, 2), (1, 1), (0, 0)),
    ((5, 2, 2, 5), (7, 5, 2, 2), (1, 1), (0, 0)),
]


@ROUNDINGS
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("rule", list(Finish))
def test_no_gradient_and_tiny_ones(rounding, place, rule):
    layer = Signs(2, place, rule=rule)
    for one in layer.backward(rounding, np.zeros_like(layer.dy)):
        assert not one.any()
    for exponent in (-149, -140, -130, -127, -120):
        dy = np.ldexp(sign(layer.dy), exponent).astype(np.float32)
        layer.dy = dy
        for one, _, magnitude in zip(layer.backward(rounding), *[part[1:] for part in layer.expected()], strict=True):
            assert np.isfinite(one).all() and (abs(one) <= 40 * (magnitude + 2.0**-120)).all()


@ROUNDINGS
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("rule", list(Finish))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(rounding, place, rule, value):
    layer = Signs(2, place, rule=rule)
    for at in ((0, 0, 0, 0), (1, 0, 0, 6), (-1, -1, -1, -1)):
        dy = layer.dy.copy()
        dy[at] = value
        dw, dx = layer.backward(rounding, dy)
        if layer.weight.shape[1] > 1 or rule is not Finish.OFFICIAL:
            assert not np.isfinite(dw if rounding else dw[at[3]]).any()
        pixel = dx[at[0]] if place[1][2] > 1 else dx[at[:3]]
        assert not np.isfinite(dx if rounding else pixel).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [*PLACES, ((2, 4, 4, 3), (7, 3, 1, 1), (1, 1), (0, 0))])
def test_what_is_not_finite_stays_so_in_a_real_convolution(value, place):
    x, weight, dy = drawn(0, place)
    weight[weight == 0] = 1
    conv = RealConvolution(place[1], x.shape[1:3], Window.of(place[1][2:], *place[2:]))
    padded = conv.pad(x)
    dy[1, 0, 0, 3] = value
    dw, dx = conv.backward(dy, padded, weight, True, weight)
    assert not np.isfinite(dw[3]).any() and np.isfinite(np.delete(dw, 3, axis=0)).all()
    assert not np.isfinite(dx[1, 0, 0]).any() and np.isfinite(dx[0]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so_in_tiles(value):
    x, weight, dy = drawn(0, ((3, 6, 6, 33), (40, 33, 3, 3), (1, 1), (1, 1)))
    conv = RealConvolution(weight.shape, (6, 6), Window.of(3, padding=1))
    for at in ((1, 0, 0, 3), (1, 5, 5, 3), (1, 2, 3, 3)):
        bad = dy.copy()
        bad[at] = value
        dw, dx = conv.backward(bad, x, weight, True, weight)
        assert not np.isfinite(dw[3]).all() and np.isfinite(np.delete(dw, 3, axis=0)).all()
        inside = dx[1, max(0, at[1] - 1) : at[1] + 2, max(0, at[2] - 1) : at[2] + 2]
        assert not np.isfinite(inside).any() and np.isfinite(dx[[0, 2]]).all()


def test_the_largest_of_an_image_is_nan_wherever_one_is():
    dy, k = np.ones((3, 2, 2, 37), np.float32), np.full((3, 4), 2, np.float32)
    dy[1, 0, 1, 5], dy[2, 1, 1, 36], dy[0, 0, 0, 0] = np.nan, -np.inf, -3
    top = np.zeros((3, 37), np.float32)
    gradient_layout.largest(0, 3, dy, k, top.view(np.int32))
    expected = np.full((3, 37), np.float32(2))
    expected[1, 5], expected[2, 36], expected[0, 0] = np.nan, np.inf, 6
    assert np.array_equal(top, expected, equal_nan=True)


@pytest.fixture
def threads():
    yield set_threads
    set_threads(None)


@ROUNDINGS
@pytest.mark.parametrize(
    "place",
    [
        ((13, 9, 7, 65), (70, 65, 3, 3), (2, 1), (1, 1)),
        ((33, 2, 2, 64), (40, 64, 2, 2), (1, 1), (0, 0)),
        ((150, 9, 7, 65), (70, 65, 3, 3), (1, 1), (1, 1)),  # by tiles
        ((90, 9, 7, 65), (70, 65, 5, 5), (1, 1), (1, 1)),
        ((37, 40, 36, 3), (97, 3, 5, 5), (1, 2), (2, 2)),  # few channels: groups of images
    ],
)
def test_the_number_of_threads_changes_no_bit(rounding, place, threads):
    results = []
    for count in (1, 2, 3):
        threads(count)
        layer = Signs(4, place, 1, "plain", True, rule=Finish.CORRECTED)
        x, weight, dy = drawn(4, place)
        conv = RealConvolution(place[1], x.shape[1:3], Window.of(place[1][2:], *place[2:]))
        padded = conv.pad(x)
        real = conv.forward(padded, weight, None), *conv.backward(dy, padded, weight, True, weight)
        results.append([layer.y, *layer.backward(rounding), *real])
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


@ROUNDINGS
@pytest.mark.parametrize(
    "place", [((3, 5, 6, 65), (150, 65, 3, 3), (2, 1), (1, 1)), ((33, 2, 2, 64), (192, 64, 2, 2), (1, 1), (0, 0))]
)
def test_sums_block_by_block_are_the_same(rounding, place, monkeypatch):
    """As they are taken where there are many outputs."""
    results = []
    for least in (16, 1):
        monkeypatch.setattr(gradients, "ENOUGH_BLOCKS", least)
        layer = Signs(5, place, 1, "plain", True, rule=Finish.CORRECTED)
        x, weight, dy = drawn(5, place)
        conv = RealConvolution(place[1], x.shape[1:3], Window.of(place[1][2:], *place[2:]))
        real = conv.backward(dy, conv.pad(x), weight, False, weight)[0]
        results.append([*layer.backward(rounding), real])
        assert conv._gradients(len(x))[0].in_blocks == (least == 1)
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


@ROUNDINGS
@pytest.mark.parametrize(
    "place", [((2, 9, 8, 33), (37, 33, 3, 3), (1, 1), (1, 1)), ((3, 6, 7, 40), (20, 40, 2, 3), (2, 1), (0, 1))]
)
def test_the_gradient_of_alpha_is_the_sum_over_its_filter(place, rounding):
    """Where a layer wants it, G is split: what goes straight to the weights, and sum_j G_j sign(W_j)."""
    layer, dalpha = Signs(5, place), np.zeros(place[1][0], np.float32)
    g = layer.conv.backward(layer.dy, layer.saved, layer.weight, Finish.RAW, rounding, False)[0]
    ste = layer.conv.backward(layer.dy, layer.saved, layer.weight, Finish.STE, rounding, False)[0]
    split = layer.conv.backward(layer.dy, layer.saved, layer.weight, Finish.SPLIT, rounding, False, None, dalpha)[0]
    assert np.array_equal(split, ste)
    np.testing.assert_allclose(dalpha, (g * sign(layer.weight)).sum(axis=(1, 2, 3)), rtol=1e-4, atol=1e-4)
