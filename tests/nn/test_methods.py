"""The methods of the papers: layers against their formulas, blocks, training and freezing of each method."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import JIT_DISABLED
from tests.models.test_models import build, images, packed_twin, settle
from tests.nn.rules import latent_gradient
from tests.nn.test_binary_layers import sign, spread, windows
from xnor_ref import binary, nn, optim
from xnor_ref.autodiff import Tensor, gradcheck, no_grad
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.ops import products, sign_sums
from xnor_ref.nn import functional
from xnor_ref.nn.methods import METHODS, methods_with
from xnor_ref.packed.freeze import freeze

BACKENDS = ("auto", "numba", "simd", "reference", "float")
CASES = {  # every choice that changes what is computed
    "full": [{}],
    "xnor": [{"weight_scale": "learned"}, {"weight_scale": "learned", "input_scale": "off"}, {"block_order": "cbap"}],
    "bwn": [{}, {"weight_scale": "learned"}, {"weight_scale": "off"}, {"grad_mode": "official", "centre": True}],
    "xnor++": [*({"gamma": gamma} for gamma in nn.GAMMAS), {"gamma_init": "alpha", "pad_value": 1}],
    "binaryconnect": [{}, {"stochastic": True}],
    "bnn": [{}, {"pad_value": -1}],
    "binary-inputs": [{}],
    "binary-inputs++": [{}],
}
SEVERAL = {  # with which methods, each at least once; with all of them in the soak
    "nin": ("binaryconnect", "bnn"),
    "resnet18": ("bwn", "binary-inputs++"),
    "resnet20": ("full", "xnor++"),
    "googlenet": ("binary-inputs",),
}
ALL = [(method, options) for method, cases in CASES.items() for options in cases]


# --- sums in a fixed order


@st.composite
def convolutions(draw):
    """x (N, C, H, W), weight (O, C/groups, KH, KW), the window and groups."""
    sides = st.tuples(st.integers(0, 2), st.integers(0, 2))
    axes = st.tuples(st.integers(1, 3), st.integers(1, 2), sides, st.integers(1, 2))
    window = Window(*zip(draw(axes), draw(axes), strict=True))
    size = tuple(draw(st.integers(pixels, pixels + 3)) for pixels in window.extent)
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    c, o = draw(st.sampled_from([1, 2, 31, 64, 65])), groups * draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal((draw(st.integers(1, 4)), groups * c, *size), dtype=np.float32)
    x[rng.random(x.shape) < 0.1] = -0.0
    return x, rng.standard_normal((o, c, *window.kernel), dtype=np.float32), window, groups


def added_one_by_one(x, weight, window, groups=1, outputs=None):
    """The definition, for the first `outputs`: float32 sums over kernel rows, kernel columns, channels."""
    x = np.pad(x, ((0, 0), (0, 0), *window.padding))
    (down, right), (dy, dx) = window.stride, window.dilation
    rows, columns = ((n - e) // s + 1 for n, e, s in zip(x.shape[2:], window.extent, window.stride, strict=True))
    y, own = np.empty((len(x), len(weight[:outputs]), rows, columns), np.float32), weight.shape[1]
    for n, o, i, j in np.ndindex(*y.shape):
        first = o * groups // len(weight) * own
        seen, total = x[n, first : first + own, i * down :, j * right :], np.float32(0)
        for ky, kx, c in np.ndindex(*window.kernel, own):
            value = seen[c, ky * dy, kx * dx]
            total = total + value if weight[o, c, ky, kx] >= 0 else total - value
        y[n, o, i, j] = total
    return y


@pytest.mark.kernels
@settings(max_examples=25, deadline=None)
@given(convolutions())
def test_sums_follow_their_order_on_every_backend(case):
    x, weight, window, groups = case
    expected = added_one_by_one(x[:1], weight, window, groups, 2)
    words = sign_sums.compact_bits(weight)
    results = [sign_sums.conv2d(x, words, window, b, t, groups) for b in BACKENDS for t in (1, 2)]
    np.testing.assert_array_equal(results[0][:1, :2], expected)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    np.testing.assert_array_equal(sign_sums.conv2d(x[-1:], words, window, groups=groups), results[0][-1:])


@pytest.mark.kernels
@pytest.mark.parametrize("features", [1, 63, 64, 65, 130])
def test_sums_of_rows(features):
    rng = np.random.default_rng(features)
    x, weight = (rng.standard_normal((n, features), dtype=np.float32) for n in (5, 7))
    expected = added_one_by_one(x[:, :, None, None], weight[:, :, None, None], Window((1, 1)))[:, :, 0, 0]
    for backend in BACKENDS:
        np.testing.assert_array_equal(sign_sums.linear(x, sign_sums.compact_bits(weight), backend), expected)


def test_the_order_of_a_sum_matters():
    """1e8 + 1 - 1e8 is 0 in float32, 1e8 - 1e8 + 1 is 1: two orders, two results, so one has to be chosen."""
    x = np.float32([[1e8, 1, 1e8], [1e8, 1e8, 1]])
    words = [sign_sums.compact_bits(np.float32([w])) for w in ((1, 1, -1), (1, -1, 1))]
    for backend in BACKENDS:
        assert [sign_sums.linear(x[i : i + 1], words[i], backend)[0, 0] for i in (0, 1)] == [0, 1]


# --- binary weights, real inputs


@pytest.mark.parametrize("grad_mode", binary.WEIGHT_GRADIENTS)
@pytest.mark.parametrize(("stride", "padding"), [((1, 1), (1, 1)), ((2, 1), (0, 2))])
def test_binary_weight_convolution_against_the_formulas(grad_mode, stride, padding):
    """Y = (X (*) s(W)) alpha; dX = convT(D, alpha s(W)); G = corr(X, D), then the rule for latent weights."""
    rng = np.random.default_rng(3)
    layer = nn.BinaryWeightConv2d(5, 4, (3, 2), stride, padding, grad_mode=grad_mode, rng=rng)
    layer.weight.data *= np.float32(4)
    w = np.float64(layer.weight.data)
    x = Tensor(rng.standard_normal((3, 5, 6, 7), dtype=np.float32), requires_grad=True)
    columns = windows(x.data, (3, 2), stride, padding, 0)
    alpha = np.abs(w).mean(axis=(1, 2, 3))
    y = layer(x)
    expected = np.einsum("nijcab,ocab->noij", columns, sign(w)) * alpha[:, None, None]
    np.testing.assert_allclose(y.data, expected, rtol=1e-4, atol=1e-5)
    with no_grad():
        np.testing.assert_allclose(layer(x).data, expected, rtol=1e-4, atol=1e-5)
    d = rng.standard_normal(y.shape).astype(np.float32)
    y.backward(d)
    grad = np.einsum("nijcab,noij->ocab", columns, d)
    np.testing.assert_allclose(layer.weight.grad, latent_gradient(grad, w, alpha, grad_mode), rtol=1e-3, atol=1e-3)
    back = np.einsum("noij,ocab->nijcab", d * alpha[:, None, None], sign(w))
    np.testing.assert_allclose(x.grad, spread(back, x.shape, (3, 2), stride, padding), rtol=1e-3, atol=1e-4)


def test_binary_weight_linear_against_the_formulas():
    rng = np.random.default_rng(4)
    layer = nn.BinaryWeightLinear(70, 6, rng=rng)
    x = Tensor(rng.standard_normal((5, 70), dtype=np.float32), requires_grad=True)
    w, alpha = np.float64(layer.weight.data), np.abs(np.float64(layer.weight.data)).mean(axis=1)
    y = layer(x)
    np.testing.assert_allclose(y.data, x.data @ sign(w).T * alpha, rtol=1e-4, atol=1e-5)
    d = rng.standard_normal(y.shape).astype(np.float32)
    y.backward(d)
    np.testing.assert_allclose(layer.weight.grad, latent_gradient(d.T @ x.data, w, alpha, "corrected"), atol=1e-4)
    np.testing.assert_allclose(x.grad, d * alpha @ sign(w), rtol=1e-3, atol=1e-4)


def test_inference_takes_the_same_bits_on_every_backend():
    rng = np.random.default_rng(5)
    layers = nn.Sequential(
        nn.BinaryWeightConv2d(3, 70, 3, rng=rng), nn.Flatten(), nn.BinaryWeightLinear(70 * 9, 5, rng=rng)
    )
    x = Tensor(rng.standard_normal((4, 3, 5, 5), dtype=np.float32))
    results = []
    for backend in BACKENDS:
        with no_grad(), nn.binary_backend(backend):
            results.append(layers(x).data)
    assert all(np.array_equal(result, results[0]) for result in results)


# --- BinaryConnect


def test_stochastic_signs_follow_the_hard_sigmoid():
    rng = np.random.default_rng(0)
    for value, chance in ((-1.5, 0), (-1, 0), (-0.5, 0.25), (0, 0.5), (0.8, 0.9), (1, 1), (3, 1)):
        drawn = binary.stochastic_sign(np.full(20_000, value, np.float32), rng)
        assert set(np.unique(drawn)) <= {-1, 1}
        assert abs((drawn > 0).mean() - chance) <= (0.015 if 0 < chance < 1 else 0)


def test_layers_that_were_never_told_a_position_draw_anew_each_time():
    x = Tensor(np.ones((1, 50), np.float32))
    layers = [nn.BinaryWeightLinear(50, 40, weight_scale="off", stochastic=True) for _ in range(2)]
    for layer in layers:
        layer.weight.data[...] = 0
    drawn = [layer(x).data for layer in layers for _ in range(2)]
    assert len({y.tobytes() for y in drawn}) == 4
    drop = nn.Dropout(0.5)
    assert drop(x).data.tobytes() != drop(x).data.tobytes()


def test_stochastic_layers_draw_by_their_position_and_only_in_training():
    layer = nn.BinaryWeightLinear(40, 3, weight_scale="off", stochastic=True, rng=np.random.default_rng(0))
    x = Tensor(np.random.default_rng(1).standard_normal((2, 40), dtype=np.float32))
    results = []
    for step in (5, 6, 5):
        layer.set_position(1, step)
        results.append(layer(x).data)
    assert np.array_equal(results[0], results[2]) and not np.array_equal(results[0], results[1])
    layer.eval()
    with no_grad():
        np.testing.assert_allclose(layer(x).data, x.data @ sign(layer.weight.data).T, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_drawn_weights_goes_straight_to_the_latent_ones():
    layer = nn.BinaryWeightLinear(4, 1, weight_scale="off", stochastic=True)
    layer.weight.data[...] = [[0.5, -0.5, 2, -1]]
    x = Tensor(np.float32([[1, 2, 3, 4]]))
    layer(x).backward(np.float32([[10]]))
    np.testing.assert_array_equal(layer.weight.grad, [[10, 20, 0, 40]])  # none beyond [-1, 1]


def test_glorot_learning_rates_by_hand():
    """128 -> 128, 3x3: 1/sqrt(1.5 / (2 * 1152)) = 39.19; a step moves that much farther, and stays in [-1, 1]."""
    layer = nn.BinaryWeightConv2d(128, 128, 3, weight_scale="off", clamp=True, glorot=True)
    assert layer.weight.lr_scale == pytest.approx(39.19, abs=0.01)
    assert np.abs(layer.weight.data).max() <= 1 and layer.weight.data.std() == pytest.approx(1 / np.sqrt(3), abs=0.01)
    for make in (lambda p: optim.SGD(p, 0.001), lambda p: optim.SGD(p, 0.001, 0.9), lambda p: optim.Adam(p, 0.001)):
        before = layer.weight.data.copy()
        layer.weight.grad = np.ones_like(before)
        make([layer.weight]).step()
        np.testing.assert_allclose(before - layer.weight.data, 0.03919, atol=1e-5)
    layer.weight.data += np.float32(2)
    layer.after_step()
    assert layer.weight.data.max() <= 1


# --- learned scales


@pytest.mark.parametrize("gamma", nn.GAMMAS)
def test_gradients_of_gamma(gamma):
    rng = np.random.default_rng(6)
    axes = list(nn.GAMMAS[gamma].values())
    x = rng.standard_normal((3, 4, 5, 6))
    factors = [rng.standard_normal([x.shape[axis] for axis in own]) for own in axes]
    gradcheck(lambda x, *factors: functional.scale(x, factors, axes), [x, *factors])


@settings(max_examples=60)
@given(
    shape=st.tuples(*(st.integers(1, size) for size in (20, 9, 5, 5))),
    gamma=st.sampled_from([*nn.GAMMAS, "rows"]),
    orders=st.tuples(*[st.sampled_from([(0, 1, 2, 3), (0, 2, 3, 1), (1, 0, 3, 2)])] * 2),
    seed=st.integers(0, 999),
)
def test_gamma_in_any_layout_and_on_any_number_of_threads(shape, gamma, orders, seed):
    """Held to the plain formula; x and dy lie in memory in their own orders, and the results lie as x does."""
    rng = np.random.default_rng(seed)
    shape, axes = (shape[:2], [(1,)]) if gamma == "rows" else (shape, list(nn.GAMMAS[gamma].values()))
    factors = [rng.standard_normal([shape[axis] for axis in own], dtype=np.float32) for own in axes]
    arrays = rng.standard_normal((2, *shape), dtype=np.float32)
    if gamma != "rows":
        arrays = [
            np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))
            for array, order in zip(arrays, orders, strict=True)
        ]
    x, dy = arrays

    def scaled(count):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("xnor_ref.kernels.basics.threads._threads", count)
            patch.setattr(products, "PRODUCTS", 30)
            patch.setattr(products, "SUMS_TOGETHER", (7, 3))
            first, *others = (Tensor(array, requires_grad=True) for array in (x, *factors))
            y = functional.scale(first, others, axes)
            return y.data, *y.record.backward(dy)

    spread = [f.reshape([n if axis in own else 1 for axis, n in enumerate(shape)]) for f, own in zip(factors, axes)]
    whole = np.float32(1)
    for part in spread:
        whole = whole * part
    y, dx, *gradients = scaled(1)
    np.testing.assert_array_equal(y, x * whole)
    np.testing.assert_array_equal(dx, dy * whole)
    for index, (found, own) in enumerate(zip(gradients, axes, strict=True)):
        terms = dy.astype(np.float64) * x
        for other in spread[:index] + spread[index + 1 :]:
            terms = terms * other
        rest = tuple(axis for axis in range(len(shape)) if axis not in own)
        assert found.dtype == np.float32
        assert (abs(found - terms.sum(rest)) <= 1e-6 * abs(terms).sum(rest)).all()
    last = len(shape) == 4 and x.transpose(0, 2, 3, 1).flags.c_contiguous
    for result in (y, dx):
        assert (result.transpose(0, 2, 3, 1) if last else result).flags.c_contiguous
    for count in (2, 3):
        for found, expected in zip(scaled(count), (y, dx, *gradients), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_gamma_of_rows_and_columns_by_hand():
    """Gamma_oij = alpha_o beta_i gamma_j; with E = D . Z, dalpha_o = sum E beta_i gamma_j, and so on (one image)."""
    layer = nn.Scale(1, "o-h-w", (2, 2))
    layer.channel.data[...], layer.row.data[...], layer.column.data[...] = 2, [1, 3], [5, 7]
    z = Tensor(np.float32([[[[1, -1], [2, 4]]]]), requires_grad=True)
    y = layer(z)
    assert y.data.tolist() == [[[[10, -14], [60, 168]]]]
    y.backward(np.ones_like(y.data))
    assert z.grad.tolist() == [[[[10, 14], [30, 42]]]]
    assert layer.channel.grad.tolist() == [1 * 5 - 1 * 7 + 2 * 15 + 4 * 21]
    assert layer.row.grad.tolist() == [2 * (5 - 7), 2 * (10 + 28)]
    assert layer.column.grad.tolist() == [2 * (1 + 6), 2 * (-1 + 12)]


def test_gamma_starts_at_ones_or_at_the_analytic_alpha():
    for gamma, axes in nn.GAMMAS.items():
        alpha = np.float32([0.5, 2])
        x = Tensor(np.ones((1, 2, 3, 4), np.float32))
        np.testing.assert_array_equal(nn.Scale(2, gamma, (3, 4))(x).data, x.data)
        np.testing.assert_array_equal(nn.Scale(2, gamma, (3, 4), alpha)(x).data, x.data * alpha[:, None, None])
        sizes = {1: 2, 2: 3, 3: 4}
        count = sum(p.size for p in nn.Scale(2, gamma, (3, 4)).parameters())
        assert count == sum(np.prod([sizes[axis] for axis in own]) for own in axes.values())
    network = build("shapes-net", 64, "xnor++", gamma="o-hw", gamma_init="alpha")
    state = network.state_dict()
    alpha = np.abs(state["block2.conv.weight"]).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(state["block2.scale.channel"], alpha, rtol=1e-6)
    assert state["block2.scale.plane"].shape == (8, 8) and state["block1.scale.plane"].shape == (16, 16)


def test_one_scale_a_channel_becomes_alpha_where_nobody_else_reads():
    def packed(*layers):
        names = tuple("abcd")
        return freeze(nn.Sequential(*layers), input_shape=(3, 4, 4), mean=(0,) * 3, std=(1,) * 3, classes=names)

    conv = nn.BinaryConv2d(3, 4, 3, weight_scale="off", input_scale="off")
    with_k = nn.BinaryConv2d(3, 4, 3, weight_scale="off")
    weights = nn.BinaryWeightConv2d(3, 4, 3, weight_scale="off")
    scale = nn.Scale(4, alpha=np.float32([1, -2, 3, 0]))
    end = nn.GlobalAvgPool2d()
    for layer in (conv, weights):
        network = packed(layer, scale, end)
        assert [row["op"] for row in network.summary()][1:] == ["global_avg_pool"]
        assert network.summary()[0]["float_params"] == 4
    assert packed(conv, scale, end).metadata["version"] == 1 and packed(weights, end).metadata["version"] == 3
    for layers in ((with_k, scale, end), (conv, nn.Residual(scale), end)):
        assert "scale" in [row["op"] for row in packed(*layers).summary()]
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4), dtype=np.float32)
    for layers in ((conv, scale), (with_k, scale), (weights, scale), (conv, nn.Residual(scale))):
        with no_grad(), nn.binary_backend("float"):
            expected = nn.Sequential(*layers, end)(Tensor(x)).data
        np.testing.assert_array_equal(packed(*layers, end).logits(x), expected)


def test_the_gradient_of_a_sign_is_that_of_hardtanh():
    x = Tensor(np.float32([-2, -1, -0.0, 0.5, 1, 1.5]), requires_grad=True)
    y = nn.Sign()(x)
    y.backward(np.float32([1, 2, 3, 4, 5, 6]))
    assert y.data.tolist() == [-1, -1, 1, 1, 1, 1] and x.grad.tolist() == [0, 2, 3, 4, 5, 0]


# --- networks


def kinds(module):
    return [type(layer).__name__ for _, layer in module.children()]


@pytest.mark.parametrize("method", ["xnor", "bwn", "bnn", "binaryconnect"])
@pytest.mark.parametrize("ends", nn.methods.ENDS)
def test_the_weights_of_the_ends_may_be_chosen(method, ends):
    network = build("lenet5", 28, method, ends=ends)
    names = {name for name, one in network.named_parameters() if one.latent}
    binary = {"stem.conv.weight", "fc2.linear.weight"}
    assert names & binary == (binary if ends == "binary" else set()) and "conv2.conv.weight" in names
    usual = build("lenet5", 28, method)
    if (ends == "binary") == METHODS[method].ends:
        assert usual.state_dict().keys() == network.state_dict().keys()
    x = images(network, 2)
    assert packed_twin(settle(network)).logits(x).std() > 0


@pytest.mark.parametrize("options", [{}, {"shortcut": "bireal"}, {"method": "bwn"}, {"block_order": "cbap"}], ids=str)
def test_a_network_may_have_no_batch_norm(options):
    network = build("shapes-net", 64, **{"method": "xnor", **options}, batch_norm="none")
    assert not [one for _, one in network.named_modules() if isinstance(one, nn.BatchNorm2d)]
    relu = [name for name, one in network.named_modules() if isinstance(one, nn.ReLU)]
    assert ("stem.relu" in relu) == ("method" in options)  # else every sign after it would be +1
    x = images(network, 3)
    with no_grad(), nn.binary_backend("float"):
        expected = network.eval()(Tensor(x)).data
    np.testing.assert_array_equal(packed_twin(network).logits(x), expected)
    assert expected.std() > 0


def test_blocks_have_the_order_of_their_method():
    pooled = {
        ("full", None): ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"],
        ("bwn", None): ["BinaryWeightConv2d", "BatchNorm2d", "ReLU", "MaxPool2d"],
        ("xnor", "bacp"): ["BatchNorm2d", "BinaryConv2d", "MaxPool2d"],
        ("xnor", "acbp"): ["BinaryConv2d", "BatchNorm2d", "MaxPool2d"],
        ("xnor", "cbap"): ["BinaryConv2d", "BatchNorm2d", "Sign", "MaxPool2d"],
        ("xnor++", None): ["BatchNorm2d", "BinaryConv2d", "Scale", "MaxPool2d"],
        ("binaryconnect", None): ["BinaryWeightConv2d", "MaxPool2d", "BatchNorm2d", "ReLU"],
        ("bnn", None): ["BinaryConv2d", "MaxPool2d", "BatchNorm2d"],
    }
    stems = {"full": "Conv2d", "bwn": "Conv2d", "xnor": "Conv2d", "xnor++": "Conv2d"}
    for (method, order), block in pooled.items():
        network = build("lenet5", 28, method, **({"block_order": order} if order else {}))
        parts = dict(network.children())
        assert kinds(parts["conv2"]) == block, method
        assert kinds(parts["stem"])[0] == stems.get(method, "BinaryWeightConv2d")
        assert type(parts["fc2"]).__name__ == ("Linear" if method in stems else "Sequential")
    assert kinds(parts["stem"]) == ["BinaryWeightConv2d", "MaxPool2d", "BatchNorm2d"]
    assert kinds(parts["fc2"]) == ["BinaryLinear", "BatchNorm1d"]
    assert {name for name, method in METHODS.items() if not method.weights} == {
        "full",
        "binary-inputs",
        "binary-inputs++",
    }
    alone = build("shapes-net", 64, "xnor", block_order="acbp", react=True, shortcut="bireal")
    parts = dict(alone.children())
    assert kinds(parts["stem"]) == ["Conv2d", "BatchNorm2d", "MaxPool2d"] and kinds(parts["last"]) == ["ReLU"]
    assert kinds(parts["block2"]["sum"].body) == ["Shift", "BinaryConv2d", "BatchNorm2d"]


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [(name, *case) for name in ("shapes-net", "lenet5") for case in ALL]
    + [
        pytest.param(name, method, CASES[method][0], marks=[pytest.mark.soak] * (method not in methods))
        for name, methods in SEVERAL.items()
        for method in METHODS
        if method != "xnor"
    ],
    ids=str,
)
def test_packed_logits_are_those_of_the_float_network(name, method, options):
    if JIT_DISABLED and name in SEVERAL:
        pytest.skip("sums one by one in NumPy take half a minute for each of these")
    network = settle(build(name, 32, method, **options))
    x = images(network, 3)
    with no_grad(), nn.binary_backend("float"):
        expected = network(Tensor(x)).data
    packed = packed_twin(network)
    assert expected.std() > 0
    np.testing.assert_array_equal(packed.logits(x), expected)
    np.testing.assert_array_equal(packed.logits(x[1:2]), expected[1:2])
    if name == "shapes-net":
        for backend in ("numba", "reference"):
            np.testing.assert_array_equal(packed.logits(x, backend=backend), expected)


def test_batch_norms_of_binaryconnect_and_binarynet_have_the_eps_of_their_codes():
    for method in METHODS:
        norms = [m for _, m in build("shapes-net", 32, method).named_modules() if isinstance(m, nn.BatchNorm2d)]
        assert {norm.eps for norm in norms} == ({1e-4} if method in ("binaryconnect", "bnn") else {1e-5})


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gamma_begins_with_the_least_squares_scale(bits):
    network = build("shapes-net", 32, "xnor++", gamma="o", gamma_init="alpha", weight_bits=bits)
    layers = dict(network.named_modules())
    w, layer = layers["block2.conv"].weight.data.astype(np.float64), layers["block2.conv"]
    q = sign(w) if bits == 1 else layer.weight_levels() / (2**bits - 1)
    expected = (w * q).sum(axis=(1, 2, 3)) / (q * q).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(layers["block2.scale"].channel.data, expected, rtol=1e-5)


def test_binary_weights_take_a_bit_on_disk(tmp_path):
    """Each is one bit of the file in place of 32; what is left over are words' tails, scales and real layers."""
    for method in ("bwn", "binaryconnect"):
        network = build("vgg-small", 32, method)
        latent = sum(p.size for p in network.parameters() if p.latent)
        packed = packed_twin(network)
        assert sum(row["bits"] for row in packed.summary()) == latent
        held = sum(row["bytes"] for row in packed.summary() if row["bits"])
        assert latent / 8 <= held <= 1.01 * latent / 8 + 4 * 2000


@pytest.mark.parametrize(("method", "options"), ALL, ids=str)
def test_some_steps_lower_the_loss(method, options):
    network = build("lenet5", 28, method, **options)
    rng = np.random.default_rng(2)
    labels = np.arange(30) % 10
    x = rng.standard_normal((10, 1, 28, 28), dtype=np.float32)[labels]
    x += rng.standard_normal(x.shape, dtype=np.float32) / 2
    loss_of = nn.squared_hinge if METHODS[method].ends else nn.cross_entropy
    optimizer = optim.Adam(network.named_parameters(), 0.003)
    losses = []
    for step in range(12):
        network.set_position(0, step)
        optimizer.zero_grad()
        loss = loss_of(network(Tensor(x)), labels)
        loss.backward()
        optimizer.step()
        for _, module in network.named_modules():
            module.after_step()
        losses.append(float(loss.data))
    assert np.mean(losses[-3:]) < 0.8 * losses[0]
    if METHODS[method].ends:
        assert all(np.abs(p.data).max() <= 1 for p in network.parameters() if p.latent)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: build("lenet5", 28, "bnn", weight_scale="alpha"), "'bnn' does not take weight_scale; its options are"),
        (lambda: build("lenet5", 28, "bwn", input_scale="off"), "'bwn' does not take input_scale"),
        (lambda: build("lenet5", 28, "xnor", gamma="o"), "'xnor' does not take gamma"),
        (lambda: build("lenet5", 28, batch_norm="none", relu=True), "relu with batch_norm none would make every"),
        (lambda: build("lenet5", 28, ends="binary", weight_bits=2), r"ends \(=binary\) needs weight_bits 1, got 2"),
        (lambda: build("lenet5", 28, ends="both"), "ends must be one of real, binary, got 'both'"),
        (lambda: build("lenet5", 28, "full", ends="real"), "'full' has no binary layers"),
        (lambda: build("lenet5", 28, "full", stochastic=True), "no binary layers, so stochastic would have no effect"),
        (lambda: build("lenet5", 28, "xnor++", gamma="hw"), "gamma must be one of o, ohw, o-hw, o-h-w, got 'hw'"),
        (lambda: build("lenet5", 28, "xnor++", gamma_init="two"), "gamma_init must be one of ones, alpha, got 'two'"),
        (lambda: build("lenet5", 28, "xnor", block_order="abcp"), "must be one of bacp, acbp, cbap, got 'abcp'"),
        (lambda: build("lenet5", 28, "bwn", weight_scale="beta"), "one of alpha, layer, off, learned, got 'beta'"),
        (lambda: build("lenet5", 28, "bwn", weight_scale="learned", grad_mode="paper"), "'learned' has no alpha"),
        (lambda: build("lenet5", 28, block_order="cbap", input_scale="plain"), "input_scale .=plain. needs block_"),
        (lambda: build("lenet5", 28, block_order="cbap", k_grad=True), "k_grad is the gradient through K"),
        (lambda: build("lenet5", 28, input_scale="off", k_grad=True), "k_grad is the gradient through K"),
        (lambda: build("resnet18", 32, "xnor", block_order="cbap"), "resnet18: block_order 'cbap'"),
        (lambda: nn.BinaryWeightConv2d(3, 4, 3, stochastic=True), "stochastic signs need weight_scale 'off'"),
        (lambda: nn.BinaryWeightConv2d(3, 4, 3)(Tensor(np.zeros((1, 4, 5, 5), np.float32))), "C=4"),
        (lambda: nn.Scale(3, "ohw"), "gamma 'ohw' needs `size`"),
        (lambda: nn.Scale(3, alpha=np.ones(2, np.float32)), r"must be \(3,\), got \(2,\)"),
        (
            lambda: nn.Scale(3, "o-hw", 4)(Tensor(np.zeros((1, 3, 4, 5), np.float32))),
            r"made for images of size \(4, 4\), got \(4, 5\)",
        ),
        (
            lambda: build("shapes-net", 64, "xnor++")(Tensor(np.zeros((2, 3, 32, 32), np.float32))),
            r"made for images of size \(16, 16\), got \(8, 8\)",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make, text):
    with pytest.raises(InputError, match=text):
        make()


def test_methods_say_which_options_they_take():
    assert methods_with("gamma") == ("binary-inputs++", "xnor++") and methods_with("stochastic") == ("binaryconnect",)
    for name, method in METHODS.items():
        known = set(nn.methods.BinaryOptions.names())
        assert set(method.options) <= known and {key for key, _ in method.fixed} <= known, name
