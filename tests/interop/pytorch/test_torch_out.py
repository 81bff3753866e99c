"""Networks as torch modules: the same logits, gradients, statistics and state, for all methods and settings."""

import copy

import numpy as np
import pytest

from tests.packed.test_freeze import every_layer, lived_in
from xnor_ref import binary, interop, models, nn
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.errors import InputError
from xnor_ref.interop.pytorch import modules as torch_layers
from xnor_ref.nn.backend import backward_in
from xnor_ref.storage import save_tensors

pytestmark = pytest.mark.interop
needs_torch = pytest.mark.skipif(torch_layers.torch is None, reason="needs the extra torch")
torch = torch_layers.torch
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def logits(network, images):
    with no_grad():
        return np.concatenate([network(Tensor(part)).data for part in np.array_split(images, -(-len(images) // 100))])


def torch_logits(module, images):
    with torch.no_grad():
        return module(torch.from_numpy(images)).numpy()


def assert_alike(network, images, labels, tolerance=1e-5):
    """The logits in inference; a step of training: logits, gradients, running statistics."""
    with no_grad():
        network.train()(Tensor(images))  # statistics of real data
    ours, theirs = (make(network.eval()) for make in (copy.deepcopy, interop.to_torch))
    assert {name: array.shape for name, array in ours.state_dict().items()} == {
        name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()
    }
    found, wanted = torch_logits(theirs, images), logits(ours, images)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * max(1, np.abs(wanted).max()), rtol=0)
    assert not theirs.training
    ours.train(), theirs.train()
    with backward_in("fp32"):
        y = ours(Tensor(images))
        nn.cross_entropy(y, labels).backward()
    their_y = theirs(torch.from_numpy(images))
    torch.nn.functional.cross_entropy(their_y, torch.from_numpy(labels)).backward()
    np.testing.assert_allclose(their_y.detach().numpy(), y.data, atol=1e-4 * max(1, np.abs(y.data).max()), rtol=0)
    grads = {name: parameter.grad for name, parameter in ours.named_parameters()}
    least = 0.1 * max(np.abs(grad).max() for grad in grads.values())  # what a BatchNorm cancels is rounding alone
    for name, parameter in theirs.named_parameters():
        scale = max(np.abs(grads[name]).max(), least)
        assert np.abs(parameter.grad.numpy() - grads[name]).max() < tolerance * scale, name
    for name, array in ours.state_dict().items():
        np.testing.assert_allclose(theirs.state_dict()[name].numpy(), array, rtol=1e-5, atol=1e-6, err_msg=name)


SETTINGS = [
    {},
    {"grad_mode": "paper", "input_scale": "valid", "pad_value": -1},
    {"grad_mode": "official", "centre": True, "clamp": True, "input_scale": "off", "pad_value": 1},
    {"weight_scale": "layer", "sign_gradient": "bireal", "k_grad": True},
    {"weight_bits": 2, "input_bits": 3, "grad_bits": 4},
    {"method": "bnn", "shift_batch_norm": True},
    {"method": "xnor++", "gamma": "o-hw", "react": True, "shortcut": "bireal"},
]
MORE = [
    {"grad_mode": "ste"},
    {"weight_scale": "learned", "grad_mode": "ste"},
    {"input_bits": 2, "input_levels": "ternary"},
    {"grad_bits": 4},
    {"block_order": "cbap"},
    {"method": "full"},
    {"method": "binary-inputs", "relu": True},
    {"method": "bwn", "weight_scale": "layer", "centre": True},
    {"method": "binaryconnect"},
]


@needs_torch
@pytest.mark.parametrize(
    "options", [*SETTINGS, *(pytest.param(options, marks=pytest.mark.soak) for options in MORE)], ids=str
)
def test_every_setting(options):
    network = models.build("shapes-net", image_size=16, in_channels=3, num_classes=4, width=8, seed=1, **options)
    assert_alike(network, normal(12, 3, 16, 16), np.arange(12) % 4)


@needs_torch
@pytest.mark.soak
def test_a_residual_network():
    network = models.build("resnet20", image_size=16, in_channels=3, num_classes=4, seed=1)
    assert_alike(network, normal(6, 3, 16, 16), np.arange(6) % 4)


@needs_torch
def test_every_layer_with_uneven_windows_and_groups():
    rng = np.random.default_rng(3)
    settings = {"padding": ((2, 0), (0, 1)), "dilation": (1, 2), "groups": 3, "bias": True, "rng": rng}
    network = nn.Graph({
        "a.conv": nn.Conv2d(3, 6, 3, 2, "same", rng=rng, bias=True),
        "a.norm": nn.BatchNorm2d(6, 1e-3, 0.3, affine=False),
        "b": nn.BinaryConv2d(6, 6, 3, pad_value=-1, input_scale="valid", k_grad=True, **settings),
        "k": (nn.KBitConv2d(6, 6, 3, pad_value=1, weight_bits=2, input_bits=2, **settings), "a.norm"),
        "w": (nn.BinaryWeightConv2d(6, 6, 3, **settings), "a.norm"),
        "sum": (nn.Add(), "b", "k", "w"),
        "join": (nn.Concat(), "sum", "k"),
        "pool": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        "max": nn.MaxPool2d(2, 1, "same"),
        "short": nn.IdentityShortcut(12, 24, 2),
        "leaky": nn.PReLU(1, 0.1, learned=False),
        "affine": nn.Affine(24),
        "tanh": nn.Hardtanh(),
        "sign": nn.Sign("bireal"),
        "real": nn.Conv2d(24, 8, 1, rng=rng),
        "flat": nn.Flatten(),
        "linear": nn.BinaryLinear(32, 9, bias=True, k_grad=True, rng=rng),
        "kbit": nn.KBitLinear(9, 9, input_bits=2, input_levels="ternary", rng=rng),
        "last": nn.BinaryWeightLinear(9, 4, rng=rng),
    })  # fmt: skip
    assert_alike(lived_in(network), normal(9, 3, 13, 14), np.arange(9) % 4)


@needs_torch
@pytest.mark.soak
@pytest.mark.parametrize(
    "name", ["shapes-net", "lenet5", "nin", "vgg-small", "alexnet", "resnet18", "resnet20", "googlenet"]
)
@pytest.mark.parametrize("method", ["xnor", "full", "bwn", "bnn", "xnor++"])
def test_all_networks(name, method):
    size = 64 if name in ("alexnet", "googlenet") else 32
    network = models.build(name, image_size=size, in_channels=3, num_classes=4, method=method, seed=1)
    assert_alike(network, normal(4, 3, size, size), np.arange(4), 1e-4)


@needs_torch
def test_a_float_file_loads(tmp_path):
    build = {"image_size": 16, "in_channels": 3, "num_classes": 4, "width": 8}
    trained, fresh = (lived_in(models.build("shapes-net", seed=seed, **build), seed) for seed in (1, 2))
    save_tensors(tmp_path / "float.safetensors", trained.state_dict(), {"format": "float", "version": 1})
    from safetensors.torch import load_file

    module = interop.to_torch(fresh.eval())
    module.load_state_dict(load_file(tmp_path / "float.safetensors"))
    images = normal(8, 3, 16, 16)
    np.testing.assert_allclose(torch_logits(module, images), logits(trained.eval(), images), atol=1e-4)


@needs_torch
def test_latent_weights_are_projected_after_a_step():
    layer = nn.BinaryConv2d(3, 4, 3, centre=True, clamp=True)
    module = interop.to_torch(nn.Sequential(layer))
    wide = normal(4, 3, 3, 3) * 3
    layer.weight.data[...] = wide
    with torch.no_grad():
        next(module.parameters()).copy_(torch.from_numpy(wide))
    layer.after_step()
    module.after_step()
    np.testing.assert_allclose(next(module.parameters()).detach().numpy(), layer.weight.data, atol=1e-6)


@needs_torch
def test_stochastic_weights_are_drawn_in_training_only():
    layer = nn.BinaryWeightLinear(50, 60, weight_scale="off", stochastic=True)
    layer.weight.data[...] = 0.5
    module, x = interop.to_torch(layer), torch.eye(50)
    drawn = module(x)
    assert abs(float((drawn > 0).float().mean()) - 0.75) < 0.05 and set(np.unique(drawn.detach())) == {-1, 1}
    assert (module.eval()(x) == 1).all()


class Mine(nn.BinaryConv2d):
    def alpha(self):
        return super().alpha() / 2


class Twice(nn.Module):
    def forward(self, x):
        return x + x


@needs_torch
def test_what_has_no_form_in_torch_is_named():
    class Third(binary.SignGradient):
        name = "third"

        def derivative(self, x):
            return x * 0 + 1 / 3

    network = nn.Sequential(
        a=Twice(), b=nn.Sequential(Mine(3, 3, 1)), c=nn.BinaryConv2d(3, 3, 1, sign_gradient=Third())
    )
    with pytest.raises(InputError, match="3 layers cannot be converted") as caught:
        interop.to_torch(network)
    for text in (
        "layer 'a' (Twice): torch has no equivalent of it",
        "layer 'b.0' (Mine): it overrides what BinaryConv2d computes",
        "layer 'c' (BinaryConv2d): sign_gradient 'third' is a custom rule",
    ):
        assert text in str(caught.value)
    with pytest.raises(InputError, match=r"network must be an nn\.Module, got str"):
        interop.to_torch("network")


def test_torch_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch_layers, "torch", None)
    with pytest.raises(InputError, match=r'install it with: pip install "xnor_ref\[torch\]"'):
        interop.to_torch(nn.ReLU())


@needs_torch
def test_every_layer_of_nn_has_a_form():
    from xnor_ref.interop.pytorch.out import LAYERS

    layers = {value for value in vars(nn).values() if isinstance(value, type) and issubclass(value, nn.Module)}
    assert layers - set(LAYERS) == {nn.Module}
    interop.to_torch(every_layer())
