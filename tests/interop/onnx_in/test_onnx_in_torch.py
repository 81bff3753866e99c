"""Binary networks as PyTorch projects write them, by way of torch's ONNX exporter."""

import warnings

import numpy as np
import pytest

from xnor_ref import freeze
from xnor_ref.interop import from_onnx

pytestmark = pytest.mark.interop
KINDS = {
    "XNOR-Net": {"binary_conv2d": 2},
    "XNOR-Net with K": {"binary_conv2d": 2},
    "ReActNet": {"binary_conv2d": 6},
    "IR-Net": {"binary_conv2d": 2},
    "DoReFa-Net": {"kbit_conv2d": 2},
    "sign(sign(x) + 0.1)": {"binary_conv2d": 2},
    "fully connected": {"binary_linear": 2},
}


@pytest.mark.parametrize("name", KINDS)
def test_networks_of_pytorch_projects(name, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from tests.interop.onnx_in.torch_networks import exported, trained

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = trained(name)
        packed = freeze(from_onnx(exported(module, tmp_path / "net.onnx")))
    kinds = [layer.kind for layer in packed.layers]
    assert {kind: kinds.count(kind) for kind in set(kinds) if kind.startswith(("binary", "kbit", "sign"))} == KINDS[
        name
    ]
    x = torch.randn(50, 3, 16, 16)
    with torch.no_grad():
        wanted = module(x).numpy()
    difference = np.abs(packed.logits(x.numpy()) - wanted).max(axis=1) / np.abs(wanted).max(axis=1)
    assert (difference < 1e-4).mean() > 0.9  # where rounding decides a sign, all else may differ
