"""What the tests of training and of the command line share: a tiny job, and ways to run it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY
from xnor_ref.training.settings.config import TrainConfig
from xnor_ref.training.settings.resolve import resolve

TINY = {
    "train_size": 48,
    "val_size": 24,
    "batch_size": 12,
    "epochs": 3,
    "lr": 0.01,
    "model_options": {"width": 4},
    "checkpoint_every": 1e9,
}
TINY_OPTIONS = (
    *("--train-size", "48", "--val-size", "24", "--batch-size", "12"),
    *("--epochs", "3", "--lr", "0.01", "--model-option", "width=4"),
)
RESULTS = ("model.safetensors", "float.safetensors", "checkpoints/best.safetensors")


def tiny_config(data_dir: Path, **changes) -> TrainConfig:
    """A training job of a second or two."""
    return resolve({**TINY, "data_dir": str(data_dir), **changes})


def result_bytes(run: Path) -> dict[str, bytes]:
    """What a finished run computed: both networks, the best and the last checkpoint."""
    last = max((run / "checkpoints").glob("step-*.safetensors"))
    return {name: (run / name).read_bytes() for name in RESULTS} | {last.name: last.read_bytes()}


def start_cli(*arguments: str, cwd: Path, **options) -> subprocess.Popen:
    """`python cli.py ARGUMENTS` as a process of its own, in the folder `cwd`."""
    environment = {**os.environ, "PYTHONWARNINGS": "default", **options.pop("environment", {})}
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "cli.py"), *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run_cli(*arguments: str, cwd: Path, **options) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `python cli.py ARGUMENTS`."""
    process = start_cli(*arguments, cwd=cwd, **options)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def stop(process: subprocess.Popen, number: signal.Signals) -> tuple[int, str, str]:
    """Send a signal and wait: (exit code, stdout, stderr)."""
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err
