"""The harnesses, in short: they pass, and they notice what they are there for."""

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import JIT_DISABLED, REPOSITORY
from tests.harness import damage, disk, inputs, kills, memory, resumes
from xnor_ref import storage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"),
    pytest.mark.skipif(JIT_DISABLED, reason="compiled only: minutes without the compiler"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # Python 3.12 warns of threads
]


def test_killed_runs_lose_nothing(capfd):
    assert kills.run(6, seed=1) == 0
    assert "0 faults" in capfd.readouterr().out


def test_files_that_are_written_in_place_are_noticed(capfd, monkeypatch):
    def in_place(path, data, *, flush=True):
        with storage.open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), "wb") as file:
            data(file) if callable(data) else file.write(data)

    monkeypatch.setattr(storage, "open", open, raising=False)
    monkeypatch.setattr(storage, "write_atomically", in_place)
    assert kills.run(60, seed=1) > 0
    assert re.search(r"run/.*: (damaged|truncated|the file is empty)", capfd.readouterr().out)


def test_runs_that_are_killed_at_each_step_end_with_the_same_bytes(capfd):
    assert resumes.run("random rounding", range(4, 20, 7)) == 0
    assert "1 runs, each killed at 3 steps: 0 faults" in capfd.readouterr().out


def test_damaged_files_are_refused_or_loaded_rightly(capfd):
    assert damage.run(600) == 0
    printed = re.search(r"600 changes: (\d+) refused, (\d+) loaded, 0 faults", capfd.readouterr().out)
    assert int(printed[1]) > 400 and int(printed[2]) > 10


def test_a_loader_that_trusts_a_file_is_noticed(capfd, monkeypatch):
    monkeypatch.setattr(storage, "tensors_digest", lambda tensors, metadata: metadata.get("digest"))
    assert damage.run(300) > 0
    assert "a changed file that was not signed again was loaded" in capfd.readouterr().out


@pytest.mark.skipif(not disk.may_mount(), reason="mounts disks: needs root")
def test_full_and_closed_disks_end_a_run_with_its_files_intact(capfd):
    assert disk.run(6) == 0
    assert "6 disks: 0 faults" in capfd.readouterr().out


def test_damaged_inputs_are_refused_or_read(capfd):
    assert inputs.run(400) == 0
    assert re.search(r"400 changes: [1-9]\d+ refused, [1-9]\d+ loaded, 0 faults", capfd.readouterr().out)


@pytest.mark.soak
def test_damaged_caches_are_noticed():
    """In a process of its own, which has not loaded any kernel."""
    command = [sys.executable, "-m", "tests.harness.cache", "--count", "6"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"6 damaged caches of \d+ kernels: [3-6] warnings, 0 faults", done.stdout)


@pytest.mark.soak
def test_memory_stays_flat(capfd):
    assert memory.run({"epochs": 20, "predictions": 500, "loads": 200}) == 0
    assert "too much" not in capfd.readouterr().out


def test_what_is_kept_is_noticed():
    kept = []
    more, threads, files = memory.growth(20, lambda: kept.append(bytearray(2**20)))
    assert more > 15 * 2**20 and threads == files == 0
    more, _, files = memory.growth(20, lambda: kept.append(open(__file__)))
    assert files == 18
    for file in kept[20:]:
        file.close()
