"""Where a version of Numba lacks a private part that is used, kernels compute the same, and a warning says so."""

import os
import subprocess
import sys

import pytest

from tests.conftest import JIT_DISABLED, REPOSITORY

CODE = """
import numba, warnings
import numba.core.codegen, numba.core.compiler, numba.core.compiler_lock
del numba.core.{missing}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import numpy as np
    import xnor_ref
    from tests.soak_startup import compute
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape, dtype=np.float32) for shape in ((2, 70, 5, 5), (3, 70, 3, 3)))
    found, known = (xnor_ref.binary_conv2d(x, w, padding=1, backend=name) for name in ("numba", "reference"))
    assert (found == known).all()
    print(compute("optimiser"))
for warning in caught:
    print(warning.category.__name__, warning.message)
"""


def run(code, cache):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")
@pytest.mark.parametrize(
    "missing", ["codegen.JITCodeLibrary", pytest.param("compiler.CompileResult._rebuild", marks=pytest.mark.soak)]
)
def test_kernels_compute_the_same_without_a_private_part_of_numba(tmp_path, missing):
    known = run("from tests.soak_startup import compute; print(compute('optimiser'))", tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.kernel")}
    found, warning = run(CODE.format(missing=missing), tmp_path)
    assert [found] == known
    assert warning.startswith("RuntimeWarning xnor_ref was not tried with Numba ")
    assert missing.rpartition(".")[2] in warning
    assert warning.endswith("; kernels compute the same, but are compiled again at every start")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.kernel")} == kept
