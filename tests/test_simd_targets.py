"""Other processors, emulated by Numba's own settings: the fitting code is chosen by itself and gives the same bits."""

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
from xnor_ref.cli import main
from xnor_ref.kernels.target import target
print(target())
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
    assert ("planned layers" in result.stdout) == bool(lanes)
