"""BatchNorm, ReLU, sign and pooling of training on images (N, H, W, C), against plain formulas and `float_ops`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import JIT_DISABLED
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.ops import float_ops
from xnor_ref.kernels.training import batch_norm as norm
from xnor_ref.kernels.training import pooling as pool

SHAPES = [(1, 1, 1, 1), (2, 5, 7, 3), (3, 4, 3, 31), (2, 3, 4, 33), (2, 3, 2, 96), (1, 2, 3, 128), (1, 1, 2, 600)]
EPS = 1e-3
WINDOWS = [
    ((1, 1), (1, 1), (0, 0)),
    ((2, 2), (2, 2), (0, 0)),
    ((3, 3), (2, 2), (1, 1)),
    ((3, 2), (1, 2), (1, 0)),
    ((1, 2), (3, 3), (0, 1)),
]
shapes = pytest.mark.parametrize("shape", SHAPES)


def planes(x):
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def sample(shape, seed=0):
    """x, and scale and shift of its BatchNorm with mean, var and gamma; the first gamma is 0."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(shape) * 2 + 3).astype(np.float32)
    gamma, beta = rng.standard_normal((2, shape[-1])).astype(np.float32)
    gamma[0] = 0
    rows = x.reshape(-1, shape[-1]).astype(np.float64)
    mean, var = rows.mean(0), rows.var(0)
    exact = gamma / np.sqrt(var + EPS)
    return x, exact.astype(np.float32), (beta - mean * exact).astype(np.float32), mean, var, gamma


def whole(gradient, x, threads=None):
    """All of dx, with dgamma and dbeta."""
    write, *rest = gradient
    return norm.written(write, np.empty_like(x), threads), *rest


def same(results):
    first, *others = results
    return all(np.array_equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def same_at_any_number_of_threads(function):
    return same([function(threads) for threads in (1, 2, 3)])


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """So that small images, too, are several chunks."""
    monkeypatch.setattr(norm, "ROWS_CHUNK", 300)


@shapes
def test_moments(shape):
    x, _, _, mean, var, _ = sample(shape)
    found = norm.moments(x)
    np.testing.assert_allclose(found[0], mean, rtol=1e-12)
    np.testing.assert_allclose(found[1], var, rtol=1e-9, atol=1e-13)
    assert same_at_any_number_of_threads(lambda threads: norm.moments(x, threads))


def test_moments_far_from_zero_and_of_a_constant():
    x = np.full((2, 3, 3, 40), np.float32(0.1))
    x[..., 1] = 1e6 + np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    mean, var = norm.moments(x)
    assert var[1] == pytest.approx(np.arange(18).var(), rel=1e-12)
    var[1], mean[1] = 0, np.float32(0.1)
    assert not var.any() and (mean == np.float32(0.1)).all()


@pytest.mark.parametrize("channels", [3, 33, 64])
def test_parts_taken_elsewhere_add_up_to_the_same(channels):
    """Plain per-channel vectors do as well as repeated ones, in chunks of any size."""
    x, scale, shift, mean, var, _ = sample((5, 2, 3, channels))
    rows, d = norm.rows_of(x), np.ones((30, channels), np.float32)
    start, centre = rows[0].astype(np.float64), mean.astype(np.float32)
    parts, sums = np.empty((2, 5, 2, channels))
    for image in range(5):
        at = image * 6, image * 6 + 6
        norm.partial_moments(*at, rows, start, parts[image])
        norm.partial_gradients(*at, d, rows, scale, shift, centre, norm.MASKS[False], sums[image])
    np.testing.assert_allclose(norm.moments_of(parts, start, 30), (mean, var), rtol=1e-9)
    dgamma, dbeta = norm.gradients_of(sums, mean, var, centre, EPS)
    np.testing.assert_allclose(dgamma, 0, atol=1e-4)
    np.testing.assert_array_equal(dbeta, 30)


@shapes
@pytest.mark.parametrize("relu", [True, False])
def test_norm_relu(shape, relu):
    x, scale, shift, *_ = sample(shape)
    y = x * scale + shift
    assert np.array_equal(norm.norm_relu(x, scale, shift, relu, 2), np.maximum(y, 0) if relu else y)


@shapes
@pytest.mark.parametrize("mask", ["sign", "relu", False])
def test_gradient_of_norm(shape, mask):
    x, scale, shift, mean, var, gamma = sample(shape)
    d = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    y = x * scale + shift
    passes = {"sign": abs(y) <= 1, "relu": y > 0, False: np.full(shape, True)}[mask]
    inner, inv_std = np.where(passes, d, 0).astype(np.float64), 1 / np.sqrt(var + EPS)
    normal, axes = (x - mean) * inv_std, (0, 1, 2)
    dgamma, dbeta = (inner * normal).sum(axes), inner.sum(axes)
    dx = gamma * inv_std * (inner - inner.mean(axes) - normal * (inner * normal).mean(axes))

    def sums_of(mask):
        return norm.GradientSums(x, scale, shift, mean, mask)

    def gradient(threads):
        return whole(norm.norm_gradient(d, sums_of(mask), var, gamma, EPS, threads), x, threads)

    for found, exact in zip(gradient(1), (dx, dgamma, dbeta), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=3e-5)
    assert same_at_any_number_of_threads(gradient)
    kept, sums = gradient(1)[0], sums_of(mask)
    for image in reversed(range(len(d))):
        sums(d, image, image + 1)
    by_images = whole(norm.norm_gradient(d, sums, var, gamma, EPS), x)
    np.testing.assert_allclose(by_images[0], kept, rtol=1e-4, atol=3e-6)
    write, *_ = norm.norm_gradient(d, sums_of(mask), var, gamma, EPS)
    assert np.array_equal(norm.written(write, d), kept)


def test_the_edges_of_the_masks():
    y = np.float32([-1.0000001, -1, 0, 1e-45, 1, 1.0000001]).reshape(1, 1, 6, 1)
    one, zero, nothing = np.ones(1, np.float32), np.zeros(1, np.float32), np.zeros(1)
    for mask, count in (("sign", 4), ("relu", 3), (False, 6)):
        dbeta = norm.norm_gradient(np.ones_like(y), norm.GradientSums(y, one, zero, nothing, mask), nothing, one, 1)[2]
        assert dbeta == count


def cases():
    for shape in SHAPES:
        for kernel, stride, padding in WINDOWS:
            if kernel[0] <= shape[1] + 2 * padding[0] and kernel[1] <= shape[2] + 2 * padding[1]:
                yield shape, Window.of(kernel, stride, padding)


windows = pytest.mark.parametrize(("shape", "window"), list(cases()))


@windows
def test_max_pool_and_its_gradient(shape, window):
    x = np.round(sample(shape)[0])  # with ties
    y, winner = pool.max_pool(x, window)
    expected = float_ops.max_pool2d_winners(planes(x), window)
    assert np.array_equal(planes(y), expected[0]) and np.array_equal(planes(winner), expected[1])
    dy = np.random.default_rng(1).standard_normal(y.shape, dtype=np.float32)
    dx = pool.max_pool_gradient(dy, winner, shape[1:3], window)
    routed = float_ops.max_pool2d_gradient(planes(dy), expected[1], shape[1:3], window)
    np.testing.assert_allclose(planes(dx), routed, rtol=1e-6, atol=1e-6)  # uncompiled, it adds in another order
    assert same_at_any_number_of_threads(lambda threads: pool.max_pool(x, window, threads))
    assert same_at_any_number_of_threads(
        lambda threads: [pool.max_pool_gradient(dy, winner, shape[1:3], window, threads)]
    )


@windows
def test_norm_relu_pool_is_one_after_the_other(shape, window):
    x, scale, shift, mean, var, gamma = sample(shape)
    y, winner = pool.norm_relu_pool(x, scale, shift, window)
    expected, first = pool.max_pool(norm.norm_relu(x, scale, shift), window)
    assert np.array_equal(y, expected) and np.array_equal(winner, np.where(y > 0, first, pool.NOBODY))
    dy = np.random.default_rng(1).standard_normal(y.shape, dtype=np.float32)

    def gradient(threads):
        given = dy, winner, x, scale, shift, mean, var, gamma, EPS, window
        return whole(pool.norm_relu_pool_gradient(*given, threads=threads), x, threads)

    d = pool.max_pool_gradient(dy, first, shape[1:3], window)
    apart = whole(norm.norm_gradient(d, norm.GradientSums(x, scale, shift, mean, "relu"), var, gamma, EPS), x)
    for found, exact in zip(gradient(1), apart, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=3e-5)
    assert same_at_any_number_of_threads(gradient)


@windows
def test_means(shape, window):
    x = sample(shape)[0]
    shares = float_ops.tap_shares(shape[1:3], window)
    y = pool.avg_pool(x, window, shares)
    np.testing.assert_allclose(planes(y), float_ops.avg_pool2d(planes(x), window, shares), rtol=1e-6)
    dy = np.random.default_rng(1).standard_normal(y.shape, dtype=np.float32)
    dx = pool.avg_pool_gradient(dy, shape[1:3], window, shares)
    np.testing.assert_allclose(
        planes(dx), float_ops.avg_pool2d_gradient(planes(dy), shape[1:3], window, shares), rtol=1e-5, atol=1e-6
    )
    assert np.array_equal(pool.global_avg_pool(x), float_ops.global_avg_pool2d(planes(x)))
    spread = pool.global_avg_pool_gradient(y[:, 0, 0], shape[1:3])
    assert np.array_equal(spread, np.broadcast_to(y[:, :1, :1] / np.float32(shape[1] * shape[2]), shape))


@settings(max_examples=5 if JIT_DISABLED else 40)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(1, 70)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    data=st.data(),
)
def test_any_shape(shape, kernel, stride, data):
    least = [max(0, -(-(k - size) // 2)) for k, size in zip(kernel, shape[1:3], strict=True)]
    padding = tuple(data.draw(st.integers(low, k - 1)) for low, k in zip(least, kernel, strict=True))
    test_max_pool_and_its_gradient(shape, Window.of(kernel, stride, padding))
    test_norm_relu_pool_is_one_after_the_other(shape, Window.of(kernel, stride, padding))
    test_gradient_of_norm(shape, "sign")
