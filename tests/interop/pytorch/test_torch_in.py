"""Networks of PyTorch as networks of ours: the same answers in every style, or a refusal that names the layer."""

import numpy as np
import pytest

from tests.interop.pytorch.torch_styles import F, lived_in, made, nn, torch
from xnor_ref import freeze, interop, models
from xnor_ref import nn as ours
from xnor_ref.errors import InputError, InputTypeError

pytestmark = pytest.mark.interop
SHAPE = (3, 32, 32)
IMAGES = np.random.default_rng(0).standard_normal((1000, *SHAPE), dtype=np.float32)


def torch_logits(module, images):
    with torch.no_grad():
        return np.concatenate([module(torch.from_numpy(part)).numpy() for part in np.array_split(images, 10)])


def kinds(network):
    return [layer.kind for layer in freeze(network).layers]


def assert_equal(network, module, images, may_differ=0):
    """Frozen, on all images but so many, in which a value within a rounding of 0 may have turned its sign."""
    wanted, found = torch_logits(module, images), freeze(network).logits(images)
    far = np.abs(wanted - found).max(axis=1)
    assert (far > 1e-4).sum() <= may_differ, np.sort(far)[-5:]
    assert (wanted.argmax(1) != found.argmax(1)).sum() <= may_differ


@pytest.mark.parametrize(
    ("name", "binary", "latent"),
    [
        ("in place", 3, "xnor.3.conv"),
        ("org", 3, "features.3"),
        ("shortcuts", 3, "layers.0.conv"),
        ("moves", 8, "feature.1.conv"),
        ("mixed", 3, "c3"),
    ],
)
def test_a_style(name, binary, latent):
    module = made(name)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    network = interop.from_torch(module, input_shape=SHAPE, mean=0.5, std=0.25)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items()) and not module.training
    if name == "org":
        module.classifier[2] = nn.Identity()
    assert_equal(network, module, IMAGES[:40], may_differ=1)
    found = kinds(network)
    assert sum(kind in ("binary_conv2d", "binary_linear") for kind in found) == binary
    names = {key for key in network.state_dict() if key.startswith(latent)}
    weight = next(network.state_dict()[key] for key in names if key.endswith("weight"))
    wanted = module.get_parameter(f"{latent}.weight")
    sign = -1 if name == "mixed" else 1  # which takes -1 at 0
    assert np.array_equal(weight, sign * getattr(wanted, "org", wanted).detach().numpy())
    logits = network.train()(IMAGES[:8])
    ours.cross_entropy(logits, np.arange(8)).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.soak
@pytest.mark.parametrize("name", ["in place", "org", "shortcuts", "moves", "mixed"])
def test_a_thousand_images(name):
    module = made(name)
    network = interop.from_torch(module, input_shape=SHAPE)
    if name == "org":
        module.classifier[2] = nn.Identity()
    assert_equal(network, module, IMAGES, may_differ=3)


class Case(nn.Module):
    """A stem, what `f(self, x)` makes of it, and a classifier."""

    def __init__(self, f, channels=8, **parts):
        super().__init__()
        self.stem, self.f = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8)), f
        self.conv, self.other = nn.Conv2d(8, 8, 3, bias=False), nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(channels, 5)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.fc(F.adaptive_avg_pool2d(self.f(self, self.stem(x)), 1).flatten(1))


def signs(x):
    return torch.where(x >= 0, 1.0, -1.0)


def by_index(x):
    y = x.new_empty(x.shape)
    y[x > 0] = 1
    y[x <= 0] = -1
    return y


def with_signs(take, border=None):
    def f(self, x):
        x = take(x)
        x = x if border is None else F.pad(x, (1, 1, 1, 1), value=border)
        return F.conv2d(x, signs(self.conv.weight), padding=1 if border is None else 0)

    return f


def with_k(order):
    def f(self, x):
        alpha = self.conv.weight.abs().mean((1, 2, 3)).view(1, -1, 1, 1)
        inside = F.avg_pool2d(x.abs().mean(1, keepdim=True), 3, 1, 1, count_include_pad=order == "plain")
        y = F.conv2d(signs(x), signs(self.conv.weight), padding=1)
        return y * inside * alpha if order == "plain" else (y * alpha) * inside

    return f


CASES = {
    "index": (with_signs(by_index), "binary_conv2d"),
    "2 (x > 0) - 1": (with_signs(lambda x: 2 * (x > 0).float() - 1), "binary_conv2d"),
    "rounded": (with_signs(lambda x: 2 * torch.round((x.clamp(-1, 1) + 1) / 2) - 1), "binary_conv2d"),
    "-sign": (with_signs(lambda x: -torch.sign(x)), "binary_conv2d"),
    "threshold": (with_signs(lambda x: signs(x - 0.3)), "binary_conv2d"),
    "written threshold": (with_signs(lambda x: torch.where(x > 0.3, 1.0, -1.0)), "binary_conv2d"),
    "border +1": (with_signs(signs, 1.0), "binary_conv2d"),
    "border -1": (with_signs(by_index, -1.0), "binary_conv2d"),
    "border before": (lambda s, x: F.conv2d(signs(F.pad(x, (1, 0, 2, 1))), signs(s.conv.weight)), "binary_conv2d"),
    "0 or 1": (with_signs(lambda x: (x > 0).float()), "sign_weight_conv2d"),
    "relu, sign": (with_signs(lambda x: torch.sign(F.relu(x))), "sign_weight_conv2d"),
    "K": (with_k("plain"), "binary_conv2d"),
    "K inside": (with_k("inside"), "binary_conv2d"),
    "ternary weights": (lambda s, x: F.conv2d(signs(x), s.conv.weight.sign() * (s.conv.weight > -0.02)), "conv2d"),
    "two readers": (lambda s, x: s.conv(signs(x)) + F.conv2d(signs(x), signs(s.other.weight)), "binary_conv2d"),
    "one layer twice": (lambda s, x: s.conv(F.relu(s.conv(x))), "conv2d"),
    "relu by hand": (lambda s, x: x * (x > 0), "relu"),
    "slope by hand": (lambda s, x: torch.where(x > 0, x, 0.2 * x), "prelu"),
    "difference": (lambda s, x: 0.5 * x - 2 * s.conv(F.pad(x, (1, 1, 1, 1))), "add"),
    "zeros then -inf": (lambda s, x: F.max_pool2d(F.pad(x, (0, 1, 1, 0), value=-np.inf), 3, 2), "max_pool"),
    "scales": (lambda s, x: x * s.a * s.b, "scale"),
    "one pixel": (lambda s, x: s.point(F.adaptive_avg_pool2d(x, 1)).squeeze(-1).unsqueeze(-1), "linear"),
    "every second": (lambda s, x: x[:, :, ::2, ::2], "max_pool"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_way_of_writing(name):
    f, kind = CASES[name]
    torch.manual_seed(2)
    a, b = nn.Parameter(torch.rand(8, 1, 1)), nn.Parameter(torch.rand(8, 15, 15))
    module = lived_in(Case(f, a=a, b=b, point=nn.Conv2d(8, 8, 1)))
    network = interop.from_torch(module, input_shape=SHAPE)
    assert_equal(network, module, IMAGES[:40])
    assert kind in kinds(network)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "bnn", "pad_value": 1},
        pytest.param({"method": "bwn"}, marks=pytest.mark.soak),
        pytest.param({"method": "xnor++", "gamma": "o-hw"}, marks=pytest.mark.soak),
        {"input_scale": "valid", "react": True, "shortcut": "bireal", "weight_scale": "layer"},
    ],
    ids=str,
)
def test_there_and_back(options):
    network = models.build("shapes-net", image_size=32, in_channels=3, num_classes=5, width=8, seed=1, **options)
    network.train()(IMAGES[:32])
    network.eval()
    back = interop.from_torch(interop.to_torch(network), input_shape=SHAPE)
    wanted, found = (freeze(net, input_shape=SHAPE, mean=0, std=1) for net in (network, back))
    np.testing.assert_allclose(found.logits(IMAGES[:40]), wanted.logits(IMAGES[:40]), rtol=1e-4, atol=1e-4)
    of_signs = [layer.kind for layer in wanted.layers if "binary" in layer.kind]
    assert of_signs == [layer.kind for layer in freeze(back).layers if "binary" in layer.kind]


REFUSED = {
    "swish": (lambda s, x: F.silu(x), "operation silu|.silu.: there is no layer that does this to single values"),
    "zeros": (with_signs(lambda x: torch.sign(F.max_pool2d(F.relu(x), 1))), "gives 0 where its input is 0"),
    "product": (lambda s, x: x * x.mean((2, 3), keepdim=True), "multiplies two results that both depend on the image"),
    "transposed": (lambda s, x: F.conv_transpose2d(x, s.conv.weight), "it is transposed"),
    "instances": (lambda s, x: F.instance_norm(x), "by the statistics of the batch in inference"),
    "dilated pool": (lambda s, x: F.max_pool2d(x, 2, dilation=2), "it has a dilation"),
    "cut": (lambda s, x: x[:, :, 1:], "takes a part of a result"),
    "uneven": (lambda s, x: F.adaptive_avg_pool2d(x, 4), r"makes \(4, 4\) of \(15, 15\)"),
    "pixels": (lambda s, x: x + s.b, "adds numbers that differ from pixel to pixel"),
    "random": (lambda s, x: x + torch.rand_like(x), "no layer for the operation rand_like"),
    "of its data": (lambda s, x: x * 2 if len(x) > 2 else x, "gives other logits for 8 of 8 images"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_that_cannot_come_is_named(name):
    f, message = REFUSED[name]
    torch.manual_seed(2)
    module = Case(f, b=nn.Parameter(torch.rand(8, 15, 15))).eval()
    with pytest.raises(InputError, match=message):
        interop.from_torch(module, input_shape=SHAPE)


def test_all_that_cannot_come_are_named_at_once():
    apart = nn.Sequential(nn.SiLU(), nn.AdaptiveAvgPool2d(1)), nn.Sequential(nn.GELU(), nn.AdaptiveAvgPool2d(1))

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = apart

        def forward(self, x):
            return torch.cat([self.a(x), self.b(x)], 1).flatten(1)

    with pytest.raises(
        InputError, match=r"2 layers cannot be converted\n  layer 'a.0' \(silu\).*\n  layer 'b.0' \(gelu\)"
    ):
        interop.from_torch(Both(), input_shape=SHAPE)


@pytest.mark.parametrize(
    ("module", "more", "message"),
    [
        (nn.Flatten(), {}, "input_shape .* must be given"),
        (nn.Linear(3, 5), {"input_shape": SHAPE}, r"the module fails on images \(2, 3, 32, 32\)"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(7, 5)),
            {"input_shape": SHAPE},
            "fails on images .*cannot be multiplied",
        ),
        (nn.Identity(), {"input_shape": SHAPE}, "returns its images unchanged"),
        (nn.Conv2d(3, 4, 3).half(), {"input_shape": SHAPE}, r"parameters are torch\.float16"),
        (nn.Flatten(), {"input_shape": SHAPE, "layout": {}}, "needs neither layout nor names"),
        (nn.Flatten(), {"input_shape": SHAPE, "settings": {"alpha": 1}}, "settings has alpha; binary layers take"),
        (
            nn.Flatten(),
            {"input_shape": SHAPE, "images": IMAGES[:1]},
            r"images must be float32 \(N, 3, 32, 32\) with N >= 2",
        ),
        (nn.MultiheadAttention(8, 2), {"input_shape": SHAPE}, "the module fails on images"),
    ],
)
def test_modules_and_arguments_that_do_not_go(module, more, message):
    with pytest.raises(InputError, match=message):
        interop.from_torch(module, **more)


def test_what_is_no_module_is_said():
    with pytest.raises(InputTypeError, match=r"source must be a torch\.nn\.Module, a path or a dict, got int"):
        interop.from_torch(3)


def test_settings_of_training_and_the_report():
    lines = []
    network = interop.from_torch(
        made("shortcuts"), input_shape=SHAPE, images=IMAGES[:4], report=lines.append,
        classes=list("abcdefghij"), settings={"sign_gradient": "bireal", "grad_mode": "ste", "clamp": True},
    )  # fmt: skip
    layer = network["layers.0.conv"]
    assert (layer.sign_gradient.name, layer.grad_mode.name, layer.clamp) == ("bireal", "ste", True)
    assert (
        "layers.0.conv" in lines[0] and "binary_conv2d" in lines[0] and freeze(network).classes == tuple("abcdefghij")
    )


def test_wrapped_modules_and_the_training_mode():
    module = made("shortcuts").train()
    statistics = module.bn1.running_mean.clone()
    network = interop.from_torch(nn.DataParallel(module), input_shape=SHAPE)
    assert "conv1.weight" in network.state_dict() and module.training and module.bn1.training
    assert torch.equal(statistics, module.bn1.running_mean)
