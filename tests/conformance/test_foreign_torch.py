"""Functions on torch tensors and torch layers in the place of functions on arrays."""

import re

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from xnor_ref import conformance as c
from xnor_ref.errors import InputError

torch = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = pytest.mark.interop
torch.set_num_threads(1)
FEW = {"examples": 15, "seed": 1}


def sign(x):
    return torch.where(x < 0, -1.0, 1.0)


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return sign(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * (x.abs() <= 1)


class BinaryConv2d(torch.nn.Conv2d):
    def forward(self, x):
        return torch.nn.functional.conv2d(
            sign(x), sign(self.weight), self.bias, self.stride, self.padding, self.dilation
        )


class Packed(torch.nn.Module):
    """Its weight is int8 and lies one module deeper."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.held = torch.nn.Module()
        self.held.register_buffer("signs", torch.zeros(out_features, in_features, dtype=torch.int8))

    def forward(self, x):
        return sign(x) @ self.held.signs.T.float()


class Forgets(BinaryConv2d):
    def forward(self, x):
        return super().forward(x) + (x.shape[1] > 64)


def test_functions_on_tensors_are_checked():
    report = c.Kit(linear=c.torch_function(lambda x, w: sign(x) @ sign(w).T), ste=c.torch_function(Straight.apply)).run(
        **FEW
    )
    assert report.passed, report
    assert report.conventions["ste"]["gradient"] == "|x| <= 1" and report.conventions["linear"]["sign_of_zero"] == 1


def test_a_layer_gets_the_weight_of_each_case():
    report = c.Kit(conv2d=c.torch_module(BinaryConv2d), pad_values=0, dilations=(1, 2)).run(**FEW)
    assert report.passed, report
    assert not c.Kit(conv2d=c.torch_module(Forgets), pad_values=0).run(**FEW).passed
    assert c.Kit(linear=c.torch_module(Packed, weight="held.signs"), zero_free=True).run(**FEW).passed


def test_a_layer_with_its_own_weight_is_checked():
    torch.manual_seed(0)
    layer = BinaryConv2d(33, 5, (3, 2), stride=(2, 1), padding=1, bias=False)
    assert c.Kit(layer=c.torch_module(layer)).run(**FEW).passed
    report = c.Kit(layer=c.torch_module(Forgets(65, 5, 3, bias=False))).run(**FEW)
    assert not report.passed


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: c.Kit(conv2d=c.torch_module(BinaryConv2d(3, 4, 1))), "a module has fixed sizes"),
        (lambda: c.Kit(pack=c.torch_module(BinaryConv2d)), "modules can be conv2d, linear or layer, not pack"),
        (lambda: c.torch_module(3), "module must be a module, or a class or function that makes one, got 3"),
        (lambda: c.torch_function(3), "function must be a function of tensors, got 3"),
        (lambda: c.Kit(layer=c.torch_module(BinaryConv2d(3, 4, 1), weight="latent")), "has no 'latent'"),
        (
            lambda: c.Kit(layer=c.torch_module(BinaryConv2d(3, 4, 1), weight="stride")),
            "stride is a tuple, but must be a tensor",
        ),
    ],
)
def test_what_cannot_be_checked_says_why(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_tensors_share_no_memory_with_the_arrays_of_the_kit():
    def changes(x, weight):
        return sign(x.mul_(-1)) @ sign(weight).T

    x, weight = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
    assert c.torch_function(changes).for_role("linear")(x, weight).min() == -3 and x.min() == 1


def test_the_examples_of_the_page_run():
    (block,) = re.findall(r"^```py\n(.*?)^```", (REPOSITORY / "docs" / "conformance-kit.md").read_text(), re.M | re.S)
    network = torch.nn.Module()
    network.conv1 = BinaryConv2d(3, 4, 3, bias=False)
    exec(block, {"MySign": Straight, "BinaryConv2d": BinaryConv2d, "network": network})
