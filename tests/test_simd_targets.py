"""Other processors, emulated by Numba's own settings: the fitting code is chosen by itself, exact, and trains."""

import os
import platform
import subprocess
import sys

import pytest

from tests.conftest import JIT_DISABLED, REPOSITORY
from xnor_ref.kernels.checks import has_vectors

if JIT_DISABLED or not has_vectors() or platform.machine() not in ("x86_64", "AMD64"):
    pytest.skip("emulates x86 processors by way of Numba's compiler", allow_module_level=True)

from xnor_ref.kernels.target import target

LANES = target().lanes
# What runs here must not need more than the processor has; each name is an instruction set with another road.
EMULATED = [("nehalem", 0, "None"), ("haswell", 8, "'AVX2'"), ("skylake-avx512", 16, "'AVX-512'")]
PROGRAM = """
import sys
import numpy as np
from xnor_ref import nn
from xnor_ref.autodiff import Tensor
from xnor_ref.cli import main
from xnor_ref.kernels.target import multiplies_bytes, target
from xnor_ref.nn.backend import backward_in, binary_backend

def step(path, arithmetic):
    rng = np.random.default_rng(0)
    model = nn.Sequential(
        nn.Conv2d(3, 40, 3, 1, 1, rng=rng), nn.BatchNorm2d(40), nn.BinaryConv2d(40, 40, 3, 1, 1, rng=rng),
        nn.Conv2d(40, 40, 3, 1, 1, rng=rng), nn.BatchNorm2d(40), nn.BinaryConv2d(40, 33, 3, 2, 1, rng=rng),
        nn.BatchNorm2d(33), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(33, 5, 2, bias=True, rng=rng),
    )
    x = Tensor(rng.standard_normal((4, 3, 9, 9), dtype=np.float32), requires_grad=True)
    with binary_backend(path), backward_in(arithmetic):
        y = model(x)
        last = y.record.parents[0].record.op
        y.backward(rng.standard_normal(y.shape, dtype=np.float32))
    return last, [y.data, x.grad, *(p.grad for p in model.parameters())]

print(target())
(op, found), (_, auto), (_, expected) = step("auto", "fp32"), step("auto", "auto"), step("numba", "fp32")
close = all(np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b) for a, b in zip(found, expected, strict=True))
same = all(np.array_equal(a, b) for a, b in zip(found, auto, strict=True))
print("training:", op, "close" if close else "wrong", "bytes" if multiplies_bytes() else "fp32", same)
sys.exit(main(["verify", "--examples", "4", "--seed", "1"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("processor", "lanes", "name"), EMULATED)
def test_every_rung_is_exact(processor, lanes, name, tmp_path):
    if lanes > LANES:
        pytest.skip(f"this processor cannot run code for {processor}")
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": processor,
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert name in result.stdout.splitlines()[0]
    assert result.stdout.splitlines()[1] == f"training: {'batch_norm' if lanes else 'max_pool2d'} close fp32 True"
    assert ("planned layers" in result.stdout) == bool(lanes)
