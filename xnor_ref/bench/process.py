"""Python in a process of its own: for what can only be measured from outside, or set before anything is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import xnor_ref
from xnor_ref.errors import InputError, XnorRefError

TIMEOUT = 600  # seconds


def run_python(code: str, *arguments: str, environment: dict[str, str] | None = None) -> Any:
    """Run `code` in a new interpreter and give the JSON value on the last line that it prints.

    Raises InputError with the process's own words where it fails with exit code 2, else XnorRefError.
    """
    paths = [str(Path(xnor_ref.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    full = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **(environment or {})}
    try:
        run = subprocess.run(
            [sys.executable, "-c", code, *arguments], env=full, capture_output=True, text=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise XnorRefError(f"bench: a process that measures took longer than {TIMEOUT} s") from None
    lines = run.stdout.strip().splitlines()
    if run.returncode or not lines:
        error = InputError if run.returncode == InputError.exit_code else XnorRefError
        raise error(run.stderr.strip() or f"bench: a process that measures ended with exit code {run.returncode}")
    return json.loads(lines[-1])
