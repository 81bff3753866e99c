"""Other processors, emulated by Numba's own settings: the fitting code is chosen by itself, exact, and trains."""

import os
import platform
import subprocess
import sys

import pytest
from numba import config

from tests.conftest import JIT_DISABLED, REPOSITORY, TESTS
from xnor_ref.kernels.basics.rungs import has_vectors

if JIT_DISABLED or not has_vectors() or platform.machine() not in ("x86_64", "AMD64"):
    pytest.skip("emulates x86 processors by way of Numba's compiler", allow_module_level=True)

from xnor_ref.kernels.basics.target import multiplies_bytes, multiplies_tiles, target

LANES = target().lanes
# Processors with code of their own: features to add, lanes, name of the target, and arithmetic of the gradients.
# What runs here must not need more than the processor has.
EMULATED = {
    "nehalem": ("", 0, "None", "fp32"),
    "haswell": ("", 8, "'AVX2'", "fp32"),
    "cascadelake": ("+avx512vnni", 16, "'AVX-512'", "bytes"),
    "skylake-avx512": ("", 16, "'AVX-512'", "fp32"),  # cascadelake's vectors with haswell's arithmetic
}
# Without AMX, a processor that can run cascadelake's code has its lanes and arithmetic, so all other tests run them.
OWN = ["cascadelake"] * (not multiplies_tiles())
RARELY = ["skylake-avx512"]
# The tile of ARM's NEON in the place of the processor's own: LLVM makes code for any of vectors of 4 lanes.
NEON = """
from xnor_ref.kernels.basics import target as module
neon = module.Target("NEON", 4, 4, False)
module.target = lambda: neon
"""
QUICKLY = {"NUMBA_OPT": "0"}  # where the kernels are checked, not what LLVM makes of them; compiling takes half as long
PROGRAM = """
import importlib
import pkgutil
import sys
import numpy as np
from xnor_ref import nn
from xnor_ref.autodiff import Tensor
from xnor_ref.cli import main
from xnor_ref.kernels import training, vectors
from xnor_ref.kernels.compiling.jit import Kernel
from xnor_ref.kernels.basics.target import multiplies_bytes, target
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
if target():  # every kernel made of vectors gives its known answers, or raises; the others' code knows no target
    for found in [f for room in (training, vectors) for f in pkgutil.iter_modules(room.__path__, room.__name__ + ".")]:
        for kernel in vars(importlib.import_module(found.name)).values():
            if isinstance(kernel, Kernel):
                kernel.prepare()
if multiplies_bytes():
    import tests.conftest  # sets hypothesis up
    from tests.kernels.test_gradients import test_sums_of_bytes_are_exact
    test_sums_of_bytes_are_exact()
(op, found), (_, auto), (_, expected) = step("auto", "fp32"), step("auto", "auto"), step("numba", "fp32")
close = all(np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b) for a, b in zip(found, expected, strict=True))
same = all(np.array_equal(a, b) for a, b in zip(found, auto, strict=True))
print("training:", op, "close" if close else "wrong", "bytes" if multiplies_bytes() else "fp32", same)
sys.exit(main(["verify", "--examples", "4", "--seed", "1"]))
"""


def run(program=PROGRAM, **settings):
    """What the program says of the target, of training and of the rest, under Numba's settings.

    Code for each processor is kept in the one cache, by the processor's name.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CPU_")} | settings
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.split("\n", 2)


def check(said, name, arithmetic="fp32"):
    found, training, rest = said
    vectors = found != "None"
    assert name in found
    op = "batch_norm" if vectors else "max_pool2d"
    assert training == f"training: {op} close {arithmetic} {arithmetic == 'fp32'}"
    assert ("planned layers" in rest) == vectors


# Compiling for another processor takes long: once in the soak, and once with bounds checking.
LATER = [] if config.BOUNDSCHECK else [pytest.mark.soak]


@pytest.mark.slow
@pytest.mark.parametrize(
    "processor",
    [
        pytest.param(name, marks=[pytest.mark.soak] if name in RARELY else LATER if name == "haswell" else [])
        for name in EMULATED
    ],
)
def test_every_rung_is_exact(processor):
    features, lanes, name, arithmetic = EMULATED[processor]
    if processor in OWN:
        pytest.skip("all other tests run its code")
    if lanes > LANES or (arithmetic == "bytes" and not multiplies_bytes()):
        pytest.skip(f"this processor cannot run code for {processor}")
    if config.BOUNDSCHECK and lanes in (0, LANES):
        pytest.skip("bounds are checked with each number of lanes once")
    quickly = QUICKLY if config.BOUNDSCHECK or processor in RARELY else {}
    check(run(NUMBA_CPU_NAME=processor, NUMBA_CPU_FEATURES=features, **quickly), name, arithmetic)


@pytest.mark.slow
@(pytest.mark.slow if config.BOUNDSCHECK else pytest.mark.soak)
def test_four_lanes_are_exact():
    folder = TESTS / "__pycache__" / "neon"  # the cache's names do not tell this target from the processor's own
    check(run(NEON + PROGRAM, NUMBA_CACHE_DIR=str(folder), **QUICKLY), "'NEON'")


def test_without_avx_the_target_is_what_numba_compiles_for():
    """That may be vectors of AVX2, which haswell has, too: Numba leaves FMA and VAES on, which bring them along."""
    program = "from xnor_ref.kernels.basics.target import target; print(target())"
    assert "AVX-512" not in run(program, NUMBA_ENABLE_AVX="0")[0]


SYSTEM = """
from xnor_ref.kernels.compiling import cache
from xnor_ref.kernels.basics import target
{}
from xnor_ref.kernels.training import gradients
from xnor_ref.kernels.microkernels import tile_gradients
print(tile_gradients.BYTES == tile_gradients.REALS, gradients._convolve_bytes.prepare() is not None)
print(cache.KernelFile(gradients._convolve_bytes).path)
"""


@pytest.mark.skipif(not multiplies_tiles(), reason="this processor has no AMX")
def test_where_the_system_grants_no_amx_vnni_multiplies():
    granted = " ".join(run(SYSTEM.format(""))).split()
    refused = " ".join(run(SYSTEM.format("target._may_use_tiles = lambda: False"))).split()
    assert granted[:2] == ["False", "True"] and refused[:2] == ["True", "True"]
    assert granted[2] != refused[2]  # neither takes the other's code
