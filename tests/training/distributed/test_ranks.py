"""`mpirun -n N train --distributed`: the same bytes on any number of ranks; what happens when one is lost."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.training.training_samples import result_bytes
from xnor_ref.bench.measuring.process import Unavailable
from xnor_ref.bench.training.hosts import as_root, two_hosts
from xnor_ref.errors import NonFiniteError, RankError

MPIRUN = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
CLI = (sys.executable, str(REPOSITORY / "cli.py"))
pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("mpi4py") is None or MPIRUN is None, reason="needs mpi4py and mpirun (xnor_ref[mpi])"
    ),
]
JOB = ("train", "--train-size", "64", "--val-size", "150", "--batch-size", "16", "--epochs", "2", "--lr", "0.01")
OPTIONS = ("--model-option", "width=16", "--checkpoint-every", "0", "--plugin", "faults.py", "--distributed")
SMALL = (*JOB, *OPTIONS, "--quiet")
FAULTS = """
import os, time
from xnor_ref.training.fitting.trainer import Trainer

step = Trainer.step


def faulty(self):
    if self.steps_done == 5 and os.environ.get("OMPI_COMM_WORLD_RANK") == "1" and (fault := os.environ.get("FAULT")):
        print("FAULT", time.time(), flush=True)
        if fault == "sleep":
            time.sleep(600)
        elif fault == "nan":
            next(self.model.parameters()).data[...] = float("nan")
        else:
            os.kill(os.getpid(), int(fault))
    return step(self)


Trainer.step = faulty
"""


def on_ranks(count, *arguments, cwd, **environment):
    """(exit code, output) of cli.py on so many ranks."""
    return started([MPIRUN, "--oversubscribe", "-n", str(count)], *arguments, cwd=cwd, **environment)


def started(start, *arguments, cwd, **environment):
    done = subprocess.run(
        [*start, *CLI, *arguments],
        cwd=cwd,
        env={**os.environ, **as_root(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The results of a run on 2 ranks, in a folder with the plugin that it names."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "faults.py").write_text(FAULTS)
    code, out = on_ranks(2, *SMALL, "--out", "run", cwd=folder)
    assert code == 0, out
    return result_bytes(folder / "run")


def test_any_number_of_ranks_and_hosts_writes_the_same_bytes(tmp_path, whole):
    (tmp_path / "faults.py").write_text(FAULTS)
    code, out = on_ranks(1, *SMALL, "--out", "run-1", cwd=tmp_path)
    assert code == 0, out
    assert result_bytes(tmp_path / "run-1") == whole
    with suppress(Unavailable), two_hosts("1gbit") as (start, words):  # it takes root and network namespaces
        assert words == "1gbit"
        code, out = started([*start, "-n", "2"], *SMALL, "--out", "run-hosts", cwd=tmp_path)
        assert code == 0, out
        assert result_bytes(tmp_path / "run-hosts") == whole


def test_what_all_ranks_refuse_is_said_once(tmp_path):
    (tmp_path / "faults.py").write_text(FAULTS)
    code, out = on_ranks(2, *SMALL, "--batch-size", "15", cwd=tmp_path)
    assert code == 2 and out.count("a batch of 15 images cannot be cut into 2 shards") == 1


@pytest.mark.parametrize(
    "fault, code, words",
    [
        ("9", 137, "rank 1"),
        ("19", RankError.exit_code, "rank 1 on {host}"),
        ("sleep", RankError.exit_code, "rank 1 on {host}"),
        ("nan", NonFiniteError.exit_code, r"rank \d on {host}: error: step 6: .*NaN"),
    ],
)
def test_a_rank_that_is_lost_ends_the_job_and_it_goes_on(tmp_path, whole, fault, code, words):
    (tmp_path / "faults.py").write_text(FAULTS)
    job = (*SMALL, "--rank-timeout", "4", "--out", "run", "--resume", "auto")
    found, out = on_ranks(2, *job, cwd=tmp_path, FAULT=fault)
    assert found == code and re.search(words.format(host=re.escape(socket.gethostname())), out), out
    assert time.time() - float(re.search(r"FAULT (\S+)", out)[1]) < 30
    saved = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert saved.name == "step-000000005.safetensors"
    if fault == "sleep":
        assert on_ranks(1, *job, cwd=tmp_path)[0] == 0
        assert result_bytes(tmp_path / "run") == whole
