"""Bi-Real shortcuts and sign gradient, ReActNet's shifts, real weights behind signs, distillation's loss."""

import numpy as np
import pytest

from tests.conftest import JIT_DISABLED
from tests.models.test_models import build, images, packed_twin, settle
from tests.nn.test_binary_layers import sign, spread
from xnor_ref import binary, nn, optim
from xnor_ref.autodiff import Tensor, gradcheck, no_grad
from xnor_ref.errors import InputError
from xnor_ref.nn.layers.react_layers import rprelu

BIREAL = {"shortcut": "bireal", "sign_gradient": "bireal"}
CASES = [
    ("xnor", BIREAL),
    ("xnor", {"react": True, "input_scale": "off"}),
    ("xnor", {"react": True, "shortcut": "bireal", "weight_bits": 2, "input_bits": 2}),
    ("xnor++", {"react": True, **BIREAL}),
    ("binary-inputs", {}),
    ("binary-inputs", {"react": True, **BIREAL}),
    ("xnor", {"rprelu": True, **BIREAL}),
    ("xnor", {"relu": True}),
    ("xnor", {"block_order": "acbp", "shortcut": "bireal"}),
    ("xnor", {"block_order": "acbp", "react": True, "input_scale": "off"}),
    ("binary-inputs++", {"gamma": "o-hw", "react": True}),
    ("xnor", {"relu": True, "input_scale": "off", "shortcut": "bireal"}),
]


# --- the gradient of sign


def test_the_polynomial_gradient_of_sign():
    """(2 - 2|x|) inside (-1, 1): the derivative of 2x + x^2 below 0 and of 2x - x^2 above, which run from -1 to 1."""
    x = np.float32([-2, -1, -0.75, -0.0, 0.25, 1, 1.5])
    assert binary.SIGN_GRADIENTS["bireal"].derivative(x).tolist() == [0, 0, 0.5, 2, 1.5, 0, 0]
    assert binary.SIGN_GRADIENTS["ste"].derivative(x).tolist() == [False, True, True, True, True, True, False]
    inside = np.linspace(-0.99, 0.99, 101)
    h = 1e-6

    def polynomial(v):
        return np.where(v < 0, 2 * v + v * v, 2 * v - v * v)

    slope = (polynomial(inside + h) - polynomial(inside - h)) / (2 * h)
    np.testing.assert_allclose(binary.SIGN_GRADIENTS["bireal"].derivative(inside), slope, atol=1e-5)


@pytest.mark.parametrize("linear", [False, True])
def test_layers_take_the_gradient_that_they_are_told(linear):
    rng = np.random.default_rng(1)
    if linear:
        layer = nn.BinaryLinear(9, 4, input_scale="off", sign_gradient="bireal", rng=rng)
        x, d = rng.standard_normal((5, 9), dtype=np.float32), rng.standard_normal((5, 4), dtype=np.float32)
        back = d * layer.alpha() @ sign(layer.weight.data)
    else:
        layer = nn.BinaryConv2d(3, 4, 3, 1, 1, input_scale="off", sign_gradient="bireal", rng=rng)
        x, d = rng.standard_normal((2, 3, 5, 5), dtype=np.float32), rng.standard_normal((2, 4, 5, 5), dtype=np.float32)
        weight = sign(layer.weight.data) * layer.alpha()[:, None, None, None]
        back = spread(np.einsum("noij,ocab->nijcab", d, weight), x.shape, (3, 3), (1, 1), (1, 1))
    given = Tensor(x, requires_grad=True)
    layer(given).backward(d)
    expected = back * np.maximum(2 - 2 * np.abs(x), 0)
    np.testing.assert_allclose(given.grad, expected, rtol=1e-3, atol=1e-4)
    alone = Tensor(x, requires_grad=True)
    nn.Sign("bireal")(alone).backward(np.ones_like(x))
    np.testing.assert_array_equal(alone.grad, np.maximum(2 - 2 * np.abs(x), 0))


# --- ReActNet


@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (6, 3)])
def test_shifts_are_learned_a_channel(shape):
    rng = np.random.default_rng(2)
    layer = nn.Shift(3)
    x = Tensor(rng.standard_normal(shape).astype(np.float32), requires_grad=True)
    np.testing.assert_array_equal(layer(x).data, x.data)
    layer.shift.data[...] = [1, -2, 0.5]
    d = rng.standard_normal(shape).astype(np.float32)
    y = layer(x)
    y.backward(d)
    np.testing.assert_array_equal(y.data, x.data + np.float32([1, -2, 0.5]).reshape(-1, *(1,) * (len(shape) - 2)))
    np.testing.assert_array_equal(x.grad, d)
    np.testing.assert_allclose(layer.shift.grad, d.sum(axis=(0, *range(2, len(shape)))), rtol=1e-4, atol=1e-5)


def test_a_shifted_prelu_by_hand():
    """PReLU(x - 1) + 2 with slope 1/4."""
    act = rprelu(1)
    (_, before), (_, prelu), (_, after) = act.children()
    before.shift.data[...], after.shift.data[...] = -1, 2
    assert prelu.weight.data.tolist() == [0.25]
    assert act(Tensor(np.float32([[3], [1], [-3]]))).data.tolist() == [[4], [2], [1]]


def test_a_shift_moves_the_threshold_of_a_sign():
    """Without K it becomes the thresholds of the layer after it, and nothing is left over."""
    rng = np.random.default_rng(3)
    conv = nn.BinaryConv2d(2, 3, 3, input_scale="off", rng=rng)
    shift = nn.Shift(2)
    shift.shift.data[...] = [0.5, -1]
    network = nn.Sequential(shift, conv, nn.GlobalAvgPool2d()).eval()
    from xnor_ref.packed.freeze import freeze

    packed = freeze(network, input_shape=(2, 5, 5), mean=(0, 0), std=(1, 1), classes=("a", "b", "c"))
    assert [row["op"] for row in packed.summary()] == ["binary_conv2d", "global_avg_pool"]
    x = rng.standard_normal((4, 2, 5, 5), dtype=np.float32)
    with no_grad(), nn.binary_backend("float"):
        np.testing.assert_array_equal(packed.logits(x), network(Tensor(x)).data)


# --- networks


def names(module):
    return [name for name, _ in module.children()]


def test_blocks_have_the_parts_that_are_asked_for():
    network = dict(build("shapes-net", 64, "xnor", react=True, **BIREAL).children())
    assert names(network["block1"]) == ["sum", "act", "pool"] and names(network["block2"]) == ["sum", "act"]
    body, shortcut = (module for _, module in network["block1"].children().__next__()[1].children())
    assert names(body) == ["bn", "shift", "conv"] and names(shortcut) == ["conv", "bn"]
    assert names(dict(network["block2"].children())["sum"]) == ["body"]  # the identity
    network = dict(build("shapes-net", 64, "binary-inputs").children())
    assert names(network["block1"]) == ["bn", "sign", "conv", "pool"]
    network = dict(build("shapes-net", 64, "xnor", relu=True).children())
    assert names(network["block1"]) == ["bn", "conv", "act", "pool"]
    assert isinstance(dict(network["block1"].children())["act"], nn.ReLU)
    assert names(dict(build("lenet5", 28, relu=True).children())["fc1"]) == ["bn", "linear", "act"]
    resnet = build("resnet18", 64, "xnor", shortcut="bireal")
    around = [module for _, module in resnet.named_modules() if isinstance(module, nn.Residual)]
    binary_convs = [module for _, module in resnet.named_modules() if isinstance(module, nn.BinaryConv2d)]
    assert len(around) == len(binary_convs) == 16
    halved = dict(resnet.named_modules())["stage2_1.conv1.sum.shortcut"]
    assert names(halved) == ["pool", "conv", "bn"]


@pytest.mark.parametrize("name", ["shapes-net", "vgg-small", "resnet18", "nin"])
@pytest.mark.parametrize(("method", "options"), CASES, ids=str)
def test_packed_logits_are_those_of_the_float_network(name, method, options):
    if name != "shapes-net" and (JIT_DISABLED or (method, options) not in (CASES[0], CASES[5], CASES[6])):
        pytest.skip("the widest choices only, and compiled")
    network = settle(build(name, 32, method, **options))
    for _, module in network.named_modules():  # as if learned
        if isinstance(module, nn.Shift):
            module.shift.data += np.random.default_rng(0).normal(0, 0.3, module.channels).astype(np.float32)
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


@pytest.mark.parametrize(("method", "options"), CASES, ids=str)
def test_some_steps_lower_the_loss(method, options):
    network = build("shapes-net", 32, method, width=8, **options)
    rng = np.random.default_rng(2)
    labels = np.arange(30) % 10
    x = rng.standard_normal((10, 3, 32, 32), dtype=np.float32)[labels]
    optimizer = optim.Adam(network.named_parameters(), 0.01)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = nn.cross_entropy(network(Tensor(x)), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.data))
    assert np.mean(losses[-3:]) < 0.8 * losses[0]
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: build("lenet5", 28, shortcut="bireal"), "change the image's size by their stride only"),
        (lambda: build("lenet5", 28, shortcut="yes"), "shortcut must be one of none, bireal, got 'yes'"),
        (lambda: build("lenet5", 28, sign_gradient="swish"), "sign_gradient must be one of ste, bireal, got 'swish'"),
        (lambda: build("lenet5", 28, react=True, block_order="cbap"), "react .=True. needs block_order bacp"),
        (lambda: build("lenet5", 28, relu=True, block_order="cbap"), "relu .=True. needs block_order bacp"),
        (lambda: build("lenet5", 28, relu=True, block_order="acbp"), "relu with block_order acbp would make every"),
        (lambda: build("lenet5", 28, relu=True, react=True), "are activations of the same place"),
        (lambda: build("lenet5", 28, sign_gradient="bireal", block_order="cbap"), "needs block_order bacp"),
        (lambda: build("lenet5", 28, "bwn", react=True), "'bwn' does not take react"),
        (lambda: build("lenet5", 28, "bnn", shortcut="bireal"), "'bnn' does not take shortcut"),
        (lambda: build("lenet5", 28, "binary-inputs", pad_value=1), "'binary-inputs' does not take pad_value"),
        (lambda: build("resnet18", 32, shortcut="bireal", downsample="real"), "downsample .=real. would have no"),
        (lambda: nn.BinaryConv2d(3, 4, 3, sign_gradient="x"), "sign_gradient must be one of ste, bireal, got 'x'"),
        (lambda: nn.Sign("x"), "gradient must be one of ste, bireal, got 'x'"),
        (lambda: nn.Shift(3)(Tensor(np.zeros((2, 4), np.float32))), r"input has shape \(2, 4\), .* \(N, 3, ...\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make, text):
    with pytest.raises(InputError, match=text):
        make()


# --- distillation


def test_soft_targets_by_hand():
    """T 2, logits 0 and 2 ln 3, so q = (1/4, 3/4); teacher even: 4 (ln 4 + ln 4/3) / 2; gradient 2 (q - p)."""
    logits = Tensor(np.float32([[0, 2 * np.log(3)]]), requires_grad=True)
    loss = nn.distillation(logits, np.float32([[5, 5]]), 2.0)
    assert float(loss.data) == pytest.approx(2 * (np.log(4) + np.log(4 / 3)), rel=1e-6)
    loss.backward()
    np.testing.assert_allclose(logits.grad, [[2 * (0.25 - 0.5), 2 * (0.75 - 0.5)]], rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_gradient_of_the_soft_loss(temperature):
    rng = np.random.default_rng(5)
    teacher = rng.standard_normal((4, 6))
    gradcheck(lambda z: nn.distillation(z, teacher, temperature), [rng.standard_normal((4, 6))])
    same = Tensor(teacher, requires_grad=True)
    nn.distillation(same, teacher, temperature).backward()
    np.testing.assert_allclose(same.grad, 0, atol=1e-12)


def test_soft_targets_that_do_not_fit():
    logits = Tensor(np.zeros((2, 3), np.float32))
    with pytest.raises(InputError, match=r"logits have shape \(2, 3\), the teacher's \(2, 4\)"):
        nn.distillation(logits, np.zeros((2, 4), np.float32), 1)
    with pytest.raises(InputError, match="temperature must be above 0, got 0"):
        nn.distillation(logits, np.zeros((2, 3), np.float32), 0)


# --- PReLU and shifts as one node


class _Doubled(nn.Shift):
    """A shift of a reader's own."""

    def forward(self, x):
        return super().forward(x) * 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.PReLU(20)),
        lambda: nn.Sequential(nn.PReLU(1), nn.Shift(20)),
        lambda: nn.Sequential(nn.PReLU(20, learned=False), nn.Shift(20)),
        lambda: nn.Sequential(nn.Shift(20), nn.PReLU(20)),
        lambda: rprelu(20),
        lambda: nn.Sequential(nn.BatchNorm2d(20), nn.PReLU(20)),
        lambda: nn.Sequential(nn.BatchNorm2d(20), nn.Shift(20), nn.PReLU(1)),
        lambda: nn.Sequential(nn.Shift(20), nn.PReLU(20), _Doubled(20)),
        lambda: nn.Sequential(_Doubled(20), nn.PReLU(20), nn.Shift(20)),
    ],
)
def test_prelu_with_its_shifts_is_what_its_layers_compute_one_by_one(make):
    """Outputs and input gradients bit for bit; gradients of parameters up to the order of float64 sums."""
    rng = np.random.default_rng(3)
    x, d = rng.standard_normal((2, 9, 20, 5, 7), dtype=np.float32)
    together, apart = make(), make()
    for one, other in zip(together.parameters(), apart.parameters(), strict=True):
        one.data[:] = other.data[:] = rng.standard_normal(one.shape, dtype=np.float32)
    given, alone = Tensor(x, requires_grad=True), Tensor(x, requires_grad=True)
    y, by_layer = together(given), alone
    for _, layer in apart.children():
        by_layer = layer.forward(by_layer)
    y.backward(d)
    by_layer.backward(d)
    np.testing.assert_array_equal(y.data, by_layer.data)
    np.testing.assert_array_equal(given.grad, alone.grad)
    for one, other in zip(together.parameters(), apart.parameters(), strict=True):
        np.testing.assert_allclose(one.grad, other.grad, rtol=1e-6, atol=1e-5)
