"""Compiling on a second processor: the list, the reservations, and that no kernel is compiled twice."""

import os
import subprocess
import sys

import pytest

import xnor_ref
from tests.conftest import JIT_DISABLED, REPOSITORY
from tests.training.training_samples import tiny_config
from xnor_ref.kernels.basics import threads
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.compiling import ahead, jit
from xnor_ref.kernels.compiling.cache import KernelFile
from xnor_ref.nn.backend import multiplies_bytes
from xnor_ref.training.ahead import _AFTER, kernels_of
from xnor_ref.training.job import compile_steps, trains_in_bytes

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")
vectors = pytest.mark.skipif(not has_vectors(), reason="layers are fused on processors with vectors only")

# Prints the kernels of a run that are not inside of others, up to the end of the first step and to that of the run.
RECORDED = """
import sys
from pathlib import Path
from tests.training.training_samples import tiny_config
import xnor_ref
from xnor_ref.kernels.compiling import jit
from xnor_ref.optim import Adam
from xnor_ref.training import job
names, inside = [], []
take, step = jit.Kernel._loaded_or_compiled, Adam.step
def taken(kernel):
    inside.append(kernel)
    found = take(kernel)
    inside.pop()
    if not inside:
        names.append(f"{kernel.__module__}:{kernel.__name__.rstrip('_')}")
    return found
def stepped(self):
    step(self)
    if "--" not in names:
        names.append("--")
jit.Kernel._loaded_or_compiled, Adam.step = taken, stepped
job.compile_steps = lambda config: False
config = tiny_config(Path(sys.argv[1]), epochs=1, model_options={}, **{"check_agreement": False, **eval(sys.argv[2])})
job.train_run(config, out=Path(sys.argv[1]) / "run")
print(*names)
"""


def listed_for(config):
    return kernels_of(config.method, config.options_of("method"), config.optimizer, trains_in_bytes(config))


def recorded(folder, **settings):
    done = subprocess.run(
        [sys.executable, "-c", RECORDED, folder, repr(settings)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    return names[: names.index("--")], names[names.index("--") + 1 :]


@vectors
@pytest.mark.parametrize("settings", [{}, {"backward": "fp32"}, {"method": "bwn"}], ids=str)
def test_the_list_is_what_a_step_takes_in_its_order(tmp_path, settings):
    step, later = recorded(tmp_path, **settings)
    listed = listed_for(tiny_config(tmp_path, **settings))
    assert set(step) - set(listed) <= {"xnor_ref.kernels.vectors.simd:_to_planes"}
    assert set(listed) <= set(step)
    order = [name for name in listed if name in step]
    assert order == sorted(order, key=step.index)
    if not settings:
        assert set(_AFTER) <= set(later)


@vectors
def test_the_check_before_the_first_step_takes_what_training_needs_anyway(tmp_path):
    """Else a first start, which compiles everything, would take longer for it."""
    step, _ = recorded(tmp_path, check_agreement=True)
    own = {"xnor_ref.kernels.vectors.simd:_to_planes"}
    assert set(step) - set(listed_for(tiny_config(tmp_path))) <= set(_AFTER) | own


def test_every_name_is_a_kernel(tmp_path):
    for settings in ({}, {"backward": "fp32"}, {"method": "full"}):
        for name in (*listed_for(tiny_config(tmp_path, **settings)), *_AFTER):
            assert isinstance(ahead._kernel(name), jit.Kernel)


def test_nothing_is_started_without_need(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail("a process was started"))
    config = tiny_config(tmp_path, backend="reference")
    monkeypatch.setattr(threads, "_threads", 2)
    monkeypatch.setattr(ahead, "_is_kept", lambda name: True)
    assert not ahead.start(["some.module:kernel"] * 5)
    monkeypatch.setattr(ahead, "_is_kept", lambda name: False)
    assert not ahead.start(["some.module:kernel"] * (ahead.WORTH - 1))
    monkeypatch.setattr(threads, "_threads", 1)
    assert not ahead.start(["some.module:kernel"] * 5)
    from xnor_ref.kernels.basics.rungs import reference_only

    with reference_only():
        assert not compile_steps(config)


SLOW = """
import sys, time
import numpy as np
from numba import float32
from xnor_ref.kernels.compiling import jit

@jit.compiled(float32(float32))
def double(x):
    return x * np.float32(2)

def known_answers():
    with open(sys.argv[1], "a") as log:
        log.write("tested\\n")
    return ((double, lambda: double(np.float32(4)), 8.0),)

if __name__ == "__main__":
    import slow
    compile_ = jit.private.compile_once
    def patiently(*args):
        with open(sys.argv[1], "a") as log:
            log.write("compiled\\n")
        time.sleep(1.5)
        return compile_(*args)
    jit.private.compile_once = patiently
    assert slow.double(np.float32(3)) == 6
"""


def test_processes_that_start_together_compile_a_kernel_once(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{tmp_path}",
        "NUMBA_CACHE_DIR": str(tmp_path / "c"),
    }
    command = [sys.executable, tmp_path / "slow.py", tmp_path / "log"]
    together = [subprocess.Popen(command, env=environment, cwd=tmp_path) for _ in range(3)]
    assert [process.wait() for process in together] == [0, 0, 0]
    lines = (tmp_path / "log").read_text().split()
    assert lines.count("compiled") == 1 and lines.count("tested") == 3
    assert not list(tmp_path.rglob("*.lock"))


def test_an_abandoned_reservation_stops_nobody(tmp_path, monkeypatch):
    kernel = ahead._kernel("xnor_ref.optim._kernels:sgd")
    file = KernelFile(kernel)
    file.path = str(tmp_path / "made" / "x.kernel")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "x.kernel.lock").touch()  # of a process that was killed
    with file.reserved() as waited:
        assert waited is False
        other = KernelFile(kernel)
        other.path = file.path
        monkeypatch.setattr("xnor_ref.kernels.compiling.cache._PATIENCE", 0.05)
        with other.reserved() as waited:  # patience is at an end: it compiles too
            assert waited is True
        assert (tmp_path / "made" / "x.kernel.lock").exists()
    assert not list((tmp_path / "made").iterdir())
    file.path = str(tmp_path / ("x" * 300) / "y.kernel")
    with file.reserved() as waited:  # no place for a reservation
        assert waited is False


def test_nothing_more_is_compiled_for_a_process_that_is_gone(monkeypatch):
    parents, prepared = iter((7, 7, 7, 1)), []
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(sys, "argv", ["-c", "a:a", "a:b", "a:c", "a:d"])
    monkeypatch.setattr(ahead, "_kernel", lambda name: type("", (), {"prepare": lambda self: prepared.append(name)})())
    ahead.prepare()
    assert prepared == ["a:a", "a:b"]


@pytest.mark.parametrize(
    ("settings", "has_k"),
    [
        ({"input_scale": None}, True),
        ({"input_scale": "off"}, False),
        ({"block_order": "cbap"}, False),
        ({"method": "xnor++"}, False),
    ],
    ids=str,
)
@vectors
def test_the_box_means_are_compiled_where_there_is_a_k(tmp_path, settings, has_k):
    listed = listed_for(tiny_config(tmp_path, **settings))
    assert ("xnor_ref.kernels.readable.plain:box_means" in listed) == has_k


@vectors
@pytest.mark.skipif(not multiplies_bytes(), reason="of gradients in bytes")
def test_the_other_process_compiles(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(threads, "_threads", 2)
    names = [
        "xnor_ref.optim._kernels:sgd",
        "xnor_ref.optim._kernels:momentum_sgd",
        "xnor_ref.kernels.vectors.nhwc:affine",
    ]
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *args, **kwargs: started.append(popen(*args, **kwargs)) or started[0]
    )
    monkeypatch.setattr(ahead, "_is_kept", lambda name: False)
    assert ahead.start(names[:2] + names[:1], names[2:])
    assert started[0].wait() == 0
    assert len(list(tmp_path.rglob("*.kernel"))) == 3


def test_another_interpreter_imports_nothing_from_the_current_folder(tmp_path, monkeypatch):
    for name in ("random", "secrets", "xnor_ref"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(f'{__name__} of the current folder')")
    monkeypatch.setattr(sys, "path", ["", *sys.path])  # as in an interactive session
    command = ahead.interpreter("import secrets, xnor_ref; print(xnor_ref.__file__, *sys.argv)", "a", "b")
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout.split() == [xnor_ref.__file__, "-c", "a", "b"], run.stderr
