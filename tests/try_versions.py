"""The core of the suite under other versions: `python -m tests.try_versions python3.13 numpy==2.4.* numba==0.68.*`.

Builds an environment of that interpreter with this package and the requirements, in a temporary folder. Runs the core
there with no kernel compiled yet, and a short training, whose float and packed network must agree. Prints a row of
docs/versions.md; exits with 1 if anything failed.
"""

import datetime
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import REPOSITORY

CORE = (
    "tests/kernels/test_binary_conv.py",
    "tests/kernels/test_layout.py",
    "tests/kernels/compiling/test_numba_private.py",
    "tests/kernels/compiling/test_selftest.py",
    "tests/kernels/compiling/test_stamp.py",
    "tests/nn/test_binary_layers.py",
    "tests/optim",
    "tests/packed/test_runtime.py",
    "tests/training/test_checkpoint.py",
)  # every kernel is compiled, and gives its known answers
VERSIONS = "import platform, numpy, numba; print(platform.python_version(), numpy.__version__, numba.__version__)"


def main(interpreter: str, *requirements: str) -> int:
    """Try one set of versions; the exit code."""
    with tempfile.TemporaryDirectory(prefix="xnor_ref-versions-") as folder:
        python = str(Path(folder) / "venv" / "bin" / "python")
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(Path(folder) / "cache")}

        def run(*command: str) -> str:
            done = subprocess.run(command, cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE)
            print(done.stdout, end="", file=sys.stderr)
            failed.extend([command] if done.returncode else [])
            return done.stdout

        failed: list[tuple[str, ...]] = []
        run(interpreter, "-m", "venv", str(Path(folder) / "venv"))
        run(python, "-m", "pip", "install", "--quiet", str(REPOSITORY), "pytest", *requirements)
        tests = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *CORE).splitlines()[-1:]
        run(python, "cli.py", "train", "--quiet", "--train-size", "600", "--epochs", "1", "--out", f"{folder}/run")
        found = run(python, "-c", VERSIONS).split()
    result = f"{''.join(tests).partition(' in ')[0]}; trains{', FAILED' if failed else ''}"
    print("|", " | ".join([*found, f"{datetime.date.today()}", result]), "|")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
