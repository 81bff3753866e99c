"""Rules and layers that this file makes up: every backend honours them, in training, in inference and frozen.

Nothing here is known to the package. The fused path may compute such a rule with the kernels, ask the layer for it, or
stand back; the numbers have to be those of the layers taken one by one.
"""

import copy
import pickle

import numpy as np
import pytest

from tests.nn.test_fused import distance, normal
from xnor_ref import binary, nn
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.binary import (
    INPUT_SCALES,
    WEIGHT_SCALES,
    InputScale,
    Quantizer,
    SignGradient,
    WeightGradient,
    WeightScale,
)
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.basics.modes import Finish
from xnor_ref.kernels.basics.rungs import has_vectors, reference_only
from xnor_ref.nn import backend
from xnor_ref.nn.backend import backward_in, binary_backend
from xnor_ref.optim import SGD
from xnor_ref.packed.freeze import freeze

BACKENDS = ["auto", "numba", "reference", "float"]


def rows(weight):
    return weight.reshape(len(weight), -1)


class Median(WeightScale):
    name, equation, source = "median", "alpha = median |W|", "made up"

    def alpha(self, weight, code=binary.SIGNS):
        return np.median(np.abs(rows(weight)), axis=1)


class MedianWithGradient(Median):
    name = "median-with-gradient"

    def alpha_gradient(self, dalpha, weight, code=binary.SIGNS):
        near = np.abs(np.abs(rows(weight)) - self.alpha(weight)[:, None])
        middle = near == near.min(axis=1, keepdims=True)
        share = middle / middle.sum(axis=1, keepdims=True) * dalpha[:, None]
        return (np.sign(rows(weight)) * share).reshape(weight.shape).astype(np.float32)


class OneForAll(WeightScale):
    """One scale for the whole layer, negative at that, in float64."""

    name = "one-for-all"

    def alpha(self, weight, code=binary.SIGNS):
        return np.full(len(weight), -np.abs(weight).mean(dtype=np.float64))


class Tripled(type(binary.MEAN_ABS)):
    """A built-in rule with another alpha: what the kernels compute for the built-in one must not stand for it."""

    name = "tripled"

    def alpha(self, weight, code=binary.SIGNS):
        return 3 * super().alpha(weight, code)


def replaced():
    """A built-in rule whose method was replaced on the object."""
    rule = type(binary.MEAN_ABS)()
    rule.alpha = lambda weight, code=binary.SIGNS: 2 * binary.MEAN_ABS.alpha(weight, code)
    return rule


class Halved(WeightGradient):
    name = "halved"

    def latent(self, grad, weight, alpha, scale, code=binary.SIGNS):
        return 0.5 * binary.WEIGHT_GRADIENTS["ste"].latent(grad, weight, alpha, scale, code)


class Wide(SignGradient):
    name = "wide"

    def derivative(self, x):
        return np.exp(-np.square(x))


class MaskByChannel(SignGradient):
    """Depends on the place of a number, (N, C, H, W)."""

    name = "mask-by-channel"

    def derivative(self, x):
        odd = np.arange(x.shape[1]) % 2 == 1
        return odd.reshape(1, -1, *(1,) * (x.ndim - 2)) * np.ones_like(x)


class Wider(type(binary.STE)):
    """The built-in rule over a wider range: the kernels' mask must not stand for it."""

    name = "wider"

    def derivative(self, x):
        return np.abs(x) <= 2


class RowsOnly(type(INPUT_SCALES["plain"])):
    """K as built in, but for fully connected layers."""

    name = "rows-only"

    def of_rows(self, x):
        return 2 * super().of_rows(x)


class Largest(InputScale):
    """The largest |x| of an image."""

    name = "largest"

    def of_images(self, x, window):
        shape = INPUT_SCALES["plain"].of_images(x, window).shape
        return np.broadcast_to(np.abs(x).max(axis=(1, 2, 3), keepdims=True), shape)

    def of_rows(self, x):
        return np.abs(x).max(axis=1, keepdims=True)


class Coarse(Quantizer):
    """The lowest and the highest level only."""

    name = "coarse"

    def levels(self, x, bits):
        return np.where(x >= 0, np.int16(2**bits - 1), np.int16(1 - 2**bits))


class OwnAlpha(nn.BinaryConv2d):
    def alpha(self):
        return super().alpha() * np.float32(1.5)


class AlphaWithoutRule(nn.BinaryConv2d):
    """Has a scale although its rule has none."""

    def alpha(self):
        return np.full(len(self.weight.data), 0.3, np.float32)


class AlphaWithoutRuleOfWeights(nn.BinaryWeightConv2d):
    def alpha(self):
        return np.full(len(self.weight.data), 0.3, np.float32)


class OwnAnalyticScale(nn.BinaryConv2d):
    def analytic_scale(self):
        return super().analytic_scale() + np.float32(0.25)


class OwnLatentGradient(nn.BinaryConv2d):
    def latent_gradient(self, grad, alpha):
        return np.sign(grad)


class OwnThroughSign(nn.BinaryConv2d):
    def through_sign(self, x, dx):
        return dx * (np.abs(x) <= 0.5)


class OwnIntegers(nn.BinaryConv2d):
    def _integers(self, images):
        return 2 * super()._integers(images)


class OwnScaleMap(nn.BinaryConv2d):
    def scale_map(self, images):
        return super().scale_map(images) ** 2


class NoScaleMap(nn.BinaryConv2d):
    def scale_map(self, images):
        return None


class OwnSigns(nn.BinaryConv2d):
    def scaled_signs(self, alpha):
        return super().scaled_signs(alpha) * np.float32(0.75)


class OwnCorrelation(nn.BinaryConv2d):
    def _correlate(self, dz, images):
        return super()._correlate(dz, images) + 1


class OwnForward(nn.BinaryConv2d):
    def forward(self, x):
        return super().forward(x) * 2


class OwnNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) * 3


class OwnWeightAlpha(nn.BinaryWeightConv2d):
    def alpha(self):
        return super().alpha() * np.float32(1.5)


class OwnWeightGradient(nn.BinaryWeightConv2d):
    def latent_gradient(self, grad, alpha):
        return np.sign(grad)


class OwnKBitIntegers(nn.KBitConv2d):
    def _integers(self, images):
        return 2 * super()._integers(images)


RULES = {
    "median": {"weight_scale": Median()},
    "median, ste": {"weight_scale": Median(), "grad_mode": "ste"},
    "median with gradient": {"weight_scale": MedianWithGradient()},
    "negative, one for all": {"weight_scale": OneForAll(), "input_scale": "off"},
    "tripled": {"weight_scale": Tripled()},
    "replaced on the object": {"weight_scale": replaced()},
    "halved gradient": {"grad_mode": Halved()},
    "halved gradient, no alpha": {"grad_mode": Halved(), "weight_scale": "off"},
    "wide sign": {"sign_gradient": Wide()},
    "sign by channel": {"sign_gradient": MaskByChannel(), "input_scale": "off"},
    "wider sign": {"sign_gradient": Wider()},
    "largest": {"input_scale": Largest()},
    "rows only": {"input_scale": RowsOnly()},
    "all": {
        "weight_scale": MedianWithGradient(), "grad_mode": Halved(), "sign_gradient": Wide(), "input_scale": Largest()
    },
}  # fmt: skip
LAYERS = [
    OwnAlpha, OwnAnalyticScale, OwnLatentGradient, OwnThroughSign, OwnIntegers, OwnScaleMap, NoScaleMap, OwnSigns,
    OwnCorrelation, OwnForward,
]  # fmt: skip
CASES = {
    **{name: lambda rng, o=options: nn.BinaryConv2d(33, 40, 3, 1, 1, rng=rng, **o) for name, options in RULES.items()},
    **{kind.__name__: lambda rng, kind=kind: kind(33, 40, 3, 1, 1, rng=rng) for kind in LAYERS},
    "AlphaWithoutRule": lambda rng: AlphaWithoutRule(33, 40, 3, 1, 1, weight_scale="off", rng=rng),
    "AlphaWithoutRuleOfWeights": lambda rng: AlphaWithoutRuleOfWeights(33, 40, 3, 1, 1, weight_scale="off", rng=rng),
    "bwn, median": lambda rng: nn.BinaryWeightConv2d(33, 40, 3, 1, 1, weight_scale=MedianWithGradient(), rng=rng),
    "bwn, halved": lambda rng: nn.BinaryWeightConv2d(33, 40, 3, 1, 1, grad_mode=Halved(), rng=rng),
    "OwnWeightAlpha": lambda rng: OwnWeightAlpha(33, 40, 3, 1, 1, rng=rng),
    "OwnWeightGradient": lambda rng: OwnWeightGradient(33, 40, 3, 1, 1, rng=rng),
    "2 bits, median": lambda rng: nn.KBitConv2d(33, 40, 3, 1, 1, weight_bits=2, weight_scale=Median(), rng=rng),
    "2 bits, coarse": lambda rng: nn.KBitConv2d(33, 40, 3, 1, 1, weight_bits=2, weight_quantizer=Coarse(), rng=rng),
    "2 bits, largest": lambda rng: nn.KBitConv2d(33, 40, 3, 1, 1, input_bits=2, input_scale=Largest(), rng=rng),
    "OwnKBitIntegers": lambda rng: OwnKBitIntegers(33, 40, 3, 1, 1, weight_bits=2, rng=rng),
}
UNEVEN = {"padding": ((0, 2), (1, 0)), "dilation": (2, 1)}
PLACES = {
    "dilated": (33, 40, {"dilation": 2, "padding": "same"}),
    "uneven": (33, 40, {"padding": ((0, 2), (1, 0))}),
    "groups": (34, 40, {"groups": 2, "stride": (2, 1), "padding": 1}),
    "depthwise": (36, 36, {"groups": 36, "padding": "same", "stride": 2}),
    "all": (66, 64, {"groups": 2, **UNEVEN}),
}
KINDS = {
    "xnor": (nn.BinaryConv2d, {"pad_value": 1}),
    "largest": (nn.BinaryConv2d, {"input_scale": Largest(), "pad_value": -1}),
    "bwn": (nn.BinaryWeightConv2d, {}),
    "2 bits": (nn.KBitConv2d, {"weight_bits": 2}),
    "ternary": (nn.KBitConv2d, {"input_bits": 2, "input_levels": "ternary", "input_scale": "valid"}),
    "real": (nn.Conv2d, {}),
}
CASES |= {
    f"{place}, {name}": lambda rng, kind=kind, sizes=(c, o), more=more | given: kind(*sizes, 3, **more, rng=rng)
    for place, (c, o, more) in PLACES.items()
    for name, (kind, given) in KINDS.items()
}
NOT_FROZEN = {
    *(f"{place}, largest" for place in PLACES),
    "largest",
    "rows only",
    "all",
    "2 bits, largest",
    "OwnIntegers",
    "OwnScaleMap",
    "NoScaleMap",
    "OwnForward",
    "OwnKBitIntegers",
}


def network(case, norm=nn.BatchNorm2d):
    """A real convolution, BatchNorm, the layer that is tested, and what makes classes of its output."""
    rng = np.random.default_rng(3)
    layer = CASES[case](rng)
    before = norm(layer.in_channels)
    before.bias.data += 0.3 * normal(4, layer.in_channels)  # else a depthwise layer lets no gradient to its scale
    return nn.Sequential(
        stem=nn.Conv2d(3, layer.in_channels, 3, 1, 1, rng=rng),
        norm=before,
        layer=layer,
        after=nn.BatchNorm2d(layer.out_channels),
        relu=nn.ReLU(),
        pool=nn.GlobalAvgPool2d(),
        classifier=nn.Linear(layer.out_channels, 5, rng=rng),
    )


def step(model, x, path):
    """Output and gradients of one layer or network by one path."""
    x = Tensor(x, requires_grad=True)
    model.set_position(0, 1)
    with binary_backend(path), backward_in("fp32"):
        y = model(x)
        y.backward(normal(9, *y.shape))
    return {"y": y.data, "dx": x.grad} | {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("path", BACKENDS[:1] + BACKENDS[2:])
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_readable_path(case, path):
    layers = [CASES[case](np.random.default_rng(1)) for _ in range(2)]
    x = normal(2, 3, layers[0].in_channels, 7, 6)
    found, wanted = (step(layer, x, way) for layer, way in zip(layers, (path, "numba")))
    assert {name: d for name in wanted if (d := distance(found[name], wanted[name])) > 1e-5} == {}
    assert np.abs(wanted["weight"]).max() > 0


@pytest.mark.parametrize("case", CASES)
def test_gradients_behind_a_batch_norm_are_those_of_the_readable_path(case):
    found, wanted = (step(network(case), normal(2, 3, 3, 7, 6), way) for way in ("auto", "numba"))
    assert {name: d for name in wanted if (d := distance(found[name], wanted[name])) > 1e-4} == {}


@pytest.mark.skipif(not backend.multiplies_bytes(), reason="this processor does not multiply bytes (VNNI)")
@pytest.mark.parametrize("case", RULES)
def test_gradients_in_bytes_are_near_those_in_floats(case):
    """Rounding is random and its mean is the number, so many roundings come near."""
    model = CASES[case](np.random.default_rng(1))
    wanted = step(model, normal(2, 3, 33, 7, 6), "auto")
    sums: dict = {}
    for draw in range(60):
        x = Tensor(normal(2, 3, 33, 7, 6), requires_grad=True)
        model.set_position(draw, 0)
        model.weight.grad = None
        with backward_in("int8"):
            y = model(x)
            y.backward(normal(9, *y.shape))
        for name, grad in (("dx", x.grad), ("weight", model.weight.grad)):
            sums[name] = sums.get(name, 0) + grad / np.float32(60)
    assert {name: d for name in sums if (d := distance(sums[name], wanted[name])) > 0.01} == {}


def trained(case, path):
    """The network after an epoch of four steps."""
    model = network(case)
    optimizer = SGD(list(model.named_parameters()), 0.02)
    images, labels = normal(5, 32, 3, 7, 6), np.arange(32) % 5
    with binary_backend(path), backward_in("fp32"):
        for at in range(0, 32, 8):
            model.set_position(0, at)
            optimizer.zero_grad()
            nn.cross_entropy(model(Tensor(images[at : at + 8])), labels[at : at + 8]).backward()
            optimizer.step()
            for _, module in model.named_modules():
                module.after_step()
    return model


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.soak] * case.startswith(("dilated,", "uneven,"))) for case in CASES]
)  # "all" is dilated and uneven, too
def test_an_epoch_evaluation_and_the_frozen_network_agree_on_every_backend(case):
    models = {path: trained(case, path) for path in BACKENDS}
    wanted = models["numba"].state_dict()
    for model in models.values():
        assert {n: d for n, a in model.state_dict().items() if (d := distance(a, wanted[n])) > 1e-4} == {}

    model, images = models["auto"].eval(), normal(6, 9, 3, 7, 6)
    answers = []
    for path in BACKENDS:
        with binary_backend(path), no_grad():
            answers.append(model(Tensor(images)).data)
    assert all(np.array_equal(answer, answers[0]) for answer in answers)

    about = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "classes": tuple("abcde")}
    if case in NOT_FROZEN:
        with pytest.raises(InputError, match="freeze: layer 'layer'"):
            freeze(model, input_shape=(3, 7, 6), **about)
    else:
        assert np.array_equal(freeze(model, input_shape=(3, 7, 6), **about).logits(images), answers[0])


def test_integers_are_exact_on_every_backend():
    layer = nn.BinaryConv2d(70, 5, 3, 1, 1, weight_scale="off", input_scale="off", sign_gradient=Wide())
    x = normal(0, 2, 70, 6, 6)
    z = [step(layer, x, path)["y"] for path in BACKENDS]
    assert all(np.array_equal(a, z[0]) and np.array_equal(a, np.rint(a)) for a in z)


def test_a_norm_with_its_own_forward_stays_alone():
    found, wanted = (step(network("median", OwnNorm), normal(2, 3, 3, 7, 6), way) for way in ("auto", "numba"))
    assert {name: d for name in wanted if (d := distance(found[name], wanted[name])) > 1e-5} == {}


def test_a_method_replaced_on_a_layer_is_called():
    model = network("median")
    model.named = dict(model.children())["layer"]
    model.named.latent_gradient = lambda grad, alpha: np.full_like(grad, 7)
    assert np.all(step(model, normal(2, 3, 3, 7, 6), "auto")["layer.weight"] == 7)


@pytest.mark.skipif(not has_vectors(), reason="no fused path")
def test_what_the_kernels_know_they_compute():
    """A rule without compiled form still trains on the fast convolution; only its own part is left to NumPy."""
    rng = np.random.default_rng(0)

    def finish(**options):
        layer = nn.BinaryConv2d(4, 4, 3, rng=rng, **options)
        return layer.finish(layer.alpha())

    assert [finish(grad_mode=mode) for mode in ("corrected", "paper", "ste", "official")] == [
        Finish.CORRECTED, Finish.PAPER, Finish.STE, Finish.OFFICIAL
    ]  # fmt: skip
    assert finish(weight_scale="off") is Finish.CLIPPED
    assert finish(weight_scale=Median()) is Finish.STE  # alpha counts as a constant
    assert finish(weight_scale=MedianWithGradient()) is Finish.SPLIT
    assert finish(weight_scale=Tripled()) is Finish.SPLIT and finish(weight_scale=replaced()) is Finish.SPLIT
    assert finish(grad_mode=Halved()) is Finish.RAW
    assert nn.BinaryConv2d(4, 4, 3, weight_scale=Tripled()).fuses and not OwnSigns(4, 4, 3).fuses_alone


def test_a_registered_rule_goes_by_its_name():
    WEIGHT_SCALES.register(Median)
    try:
        assert nn.BinaryConv2d(3, 4, 3, weight_scale="median").weight_scale is WEIGHT_SCALES["median"]
        assert "weight scale median" in repr(nn.BinaryLinear(3, 4, weight_scale="median"))
        with pytest.raises(InputError, match="'median' needs a name that is not taken"):
            WEIGHT_SCALES.register(Median())
    finally:
        WEIGHT_SCALES.remove("median")
    with pytest.raises(InputError, match="must be one of alpha, layer, off, learned, got 'median'"):
        nn.BinaryConv2d(3, 4, 3, weight_scale="median")


@pytest.mark.parametrize(
    "rule, text",
    [
        (Wide(), "a weight_scale must be a WeightScale, got"),
        (int, "a weight_scale must be a WeightScale, got"),
        (type("Nameless", (WeightScale,), {}), "needs a name"),
    ],
)
def test_what_is_no_rule_is_not_registered(rule, text):
    with pytest.raises(InputError, match=text):
        WEIGHT_SCALES.register(rule)


def test_a_rule_that_gives_too_much_is_refused():
    class PerWeight(WeightScale):
        name = "per-weight"

        def alpha(self, weight, code=binary.SIGNS):
            return np.abs(weight)

    with pytest.raises(InputError, match=r"'per-weight' returned an alpha of shape \(4, 3, 3, 3\) .* must be \(4,\)"):
        nn.BinaryConv2d(3, 4, 3, weight_scale=PerWeight()).alpha()

    class PerPixel(Largest):
        def of_images(self, x, window):
            return np.abs(x[:, :1])

    with pytest.raises(InputError, match=r"returned a K of shape \(2, 1, 5, 5\); the shape must be \(2, 1, 3, 3\)"):
        nn.BinaryConv2d(3, 4, 3, input_scale=PerPixel())(Tensor(normal(0, 2, 3, 5, 5)))


@pytest.mark.parametrize("grad_mode", ["paper", "official"])
def test_rules_printed_for_the_mean_are_refused_with_another_scale(grad_mode):
    with pytest.raises(InputError, match=f"{grad_mode!r} is derived for weight_scale 'alpha' and 1 bit"):
        nn.BinaryConv2d(3, 4, 3, weight_scale=Median(), grad_mode=grad_mode)


def test_a_copied_layer_keeps_its_rules():
    layer = nn.BinaryConv2d(3, 4, 3, weight_scale=Median())
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(nn.BinaryConv2d(3, 4, 3)))):
        assert twin.finish(twin.alpha()) is (Finish.STE if twin.weight_scale.name == "median" else Finish.CORRECTED)
    assert copy.deepcopy(layer).weight_scale is layer.weight_scale


@pytest.mark.parametrize("registry", nn.settings.RULES.values(), ids=lambda r: r.option)
def test_every_rule_says_what_it_is(registry):
    for name, rule in registry.items():
        assert rule.name == name and rule.equation and rule.source and type(rule).__doc__


def test_a_rule_that_changes_k_of_rows_keeps_that_of_images():
    x = normal(0, 2, 5, 6, 6)
    window = Window.of(3, padding=1)
    with reference_only():
        assert np.array_equal(RowsOnly().of_images(x, window), INPUT_SCALES["plain"].of_images(x, window))
    assert np.array_equal(RowsOnly().of_images(x, window), INPUT_SCALES["plain"].of_images(x, window))
