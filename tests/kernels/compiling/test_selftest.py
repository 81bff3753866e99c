"""Kernels are tested before they are used, and a stale, damaged or foreign file of the cache never computes."""

import contextlib
import gc
import hashlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numba
import numpy as np
import pytest

from tests import soak_startup
from tests.conftest import JIT_DISABLED, REPOSITORY
from xnor_ref.errors import EquivalenceError
from xnor_ref.kernels.basics import numba_private
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.compiling import cache, jit, selftest

compiler = pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")


def modules_with(line):
    """Names of this package's modules with a line that begins so."""
    paths = sorted((REPOSITORY / "xnor_ref").rglob("*.py"))
    found = [path for path in paths if re.search(f"^{line}", path.read_text(), re.MULTILINE)]
    return [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in found]


WITH_KERNELS = modules_with(r"from xnor_ref.kernels.compiling.jit import .*\bcompiled\b")
MODULES = sorted({*modules_with("def known_answers"), *selftest.ANSWERS} - set(selftest.ANSWERS.values()))
WITHOUT_ANSWERS = {
    "xnor_ref.bench.peers.naive",  # what others are timed against
    "xnor_ref.bench.measuring.roof",  # loops that are timed, and compute nothing
}
VECTOR_CODE = {
    "xnor_ref.compress.tree_kernels",
    "xnor_ref.kernels.training.gradient_layout",
    "xnor_ref.kernels.training.gradients",
    "xnor_ref.kernels.vectors.grouped",
    "xnor_ref.kernels.vectors.nhwc",
    "xnor_ref.kernels.training.batch_norm",
    "xnor_ref.kernels.training.pooling",
    "xnor_ref.kernels.vectors.signs",
    "xnor_ref.kernels.vectors.simd",
    "xnor_ref.kernels.training.winograd",
}
SAMPLE = """
import numpy as np
from numba import float32, void
from xnor_ref.kernels.compiling.jit import compiled, readonly, writable

@compiled(float32(float32), forceinline=True)
def one_more(x):
    return x + np.float32(1)

@compiled(void(readonly(float32, 1), writable(float32, 1)))
def double(x, y):
    for i in range(x.size):
        y[i] = one_more(x[i]) * np.float32(2)

def answer():
    y = np.zeros(3, np.float32)
    double(np.array([-1, 0.5, 7], np.float32), y)
    return y

def known_answers():
    return ((one_more, lambda: one_more(np.float32(2)), 3.0), (double, answer, [0.0, 3.0, 16.0]))
"""
WRONG = SAMPLE.replace("* np.float32(2)", "* np.float32(3)")


def kernels_of(module):
    members = vars(module).items()
    return {name: v for name, v in members if isinstance(v, jit.Kernel) and v.__module__ == module.__name__}


# --- the known answers of this project


@pytest.mark.kernels
@pytest.mark.parametrize("name", MODULES)
def test_uncompiled_kernels_give_the_known_answers(name, monkeypatch):
    if name in VECTOR_CODE:
        pytest.skip("exists compiled only; its tests compare with the reference")
    module = importlib.import_module(name)
    for attribute, kernel in kernels_of(module).items():
        monkeypatch.setattr(module, attribute, kernel.py_func)
    for _, run, known in selftest.cases_of(name):
        with np.errstate(over="ignore"):  # of NumPy scalars in the popcount
            answer = run()
        assert known == (selftest.digest(answer) if isinstance(known, str) else selftest.numbers(answer))


@compiler
@pytest.mark.kernels
@pytest.mark.parametrize("name", MODULES)
def test_every_kernel_has_known_answers_and_gives_them(name):
    if name in VECTOR_CODE and not has_vectors():
        pytest.skip("no vectors that it pays on")
    module = importlib.import_module(name)
    tested = [kernel for kernel, _, _ in selftest.cases_of(name)]
    for attribute, kernel in kernels_of(module).items():
        assert any(case is kernel for case in tested), f"{attribute} has no known answer"
        kernel.prepare()
        assert selftest.wrong_answer(kernel) == ""


def test_no_module_of_kernels_is_left_out():
    assert set(WITH_KERNELS) - set(MODULES) <= WITHOUT_ANSWERS


def test_an_answer_is_told_from_others():
    assert selftest.digest(np.float32([0.0])) != selftest.digest(np.float32([-0.0]))
    assert selftest.digest((np.int32([1]), np.int32([2]))) == selftest.digest(np.int32([1, 2]))
    assert selftest.digest(np.array([1, 2], ">i4")) == selftest.digest(np.array([[1, 2], [3, 4]], "<i4")[0])
    assert selftest.numbers((np.uint64(3), np.float32([0.5]))) == [3, [0.5]]


# --- a kernel's first use


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """A function that makes a module of kernels, whose files are kept in `tmp_path`, from its text."""
    monkeypatch.setattr(cache, "folder_of", lambda function: str(tmp_path))

    def make(text=SAMPLE, name="sample"):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return make


@compiler
def test_nothing_is_compiled_before_it_is_used(sample, tmp_path):
    module = sample()
    assert module.double._ready is None and not list(tmp_path.glob("*.kernel"))
    module.one_more(np.float32(1))
    assert module.one_more._ready and module.double._ready is None


@compiler
def test_a_kernel_that_is_wrong_even_when_new_computes_nothing(sample, tmp_path):
    module = sample(WRONG)
    x, y = np.ones(3, np.float32), np.zeros(3, np.float32)
    wrong = r"sample.double: .* \(case 1 of 1: \[0.0, 4.5, 24.0\] in place of \[0.0, 3.0, 16.0\]\).*NUMBA_DISABLE_JIT=1"
    for _ in range(2):
        with pytest.raises(EquivalenceError, match=wrong):
            module.double(x, y)
    assert not y.any()
    assert not list(tmp_path.glob("sample.double.*.kernel")) and list(tmp_path.glob("sample.one_more.*.kernel"))


@compiler
def test_threads_that_come_while_a_kernel_is_tested_wait(sample, monkeypatch):
    module, tests, answers = sample(), [], []
    monkeypatch.setattr(jit, "wrong_answer", lambda kernel: tests.append(kernel) or selftest.wrong_answer(kernel))
    barrier = threading.Barrier(8)

    def work():
        barrier.wait()
        answers.append(module.answer().tolist())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[0.0, 3.0, 16.0]] * 8
    assert len(tests) == 2 and {kernel.__name__ for kernel in tests} == {"one_more", "double"}


@compiler
def test_the_first_call_checks_its_arguments_as_later_ones_do(sample):
    module = sample()
    for _ in range(2):
        with pytest.raises(TypeError, match=r"float64"):
            module.double(np.ones(3), np.ones(3, np.float32))
        with pytest.raises(TypeError):
            module.double(np.ones(3, np.float32))
    module.double(np.ones(3, np.float32)[:2], np.ones(3, np.float32))


@compiler
@pytest.mark.parametrize("text", [SAMPLE, SAMPLE.replace("x.size", "x.unknown")])
def test_numba_compiles_other_functions_as_before(sample, monkeypatch, text):
    library, rounds = numba_private.JITCodeLibrary, []
    first_round = library._optimize_functions
    monkeypatch.setattr(library, "_optimize_functions", lambda *args: rounds.append(1) or first_round(*args))
    with contextlib.suppress(numba.TypingError):
        sample(text).answer()
    assert not rounds and gc.isenabled()
    assert numba.njit(lambda x: x + 1)(1) == 2
    assert rounds


@compiler
def test_a_kernel_that_cannot_be_kept_still_computes(sample, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cache, "folder_of", lambda function: str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="cannot be cached, so it will be compiled again at the next start"):
        assert sample().answer().tolist() == [0.0, 3.0, 16.0]


def test_compiled_code_is_kept_in_folders_of_this_user_only(tmp_path, monkeypatch):
    """The source's own folder cannot be written here: it lies below a file."""
    (tmp_path / "file").write_text("")
    home = tmp_path / "home"
    home.mkdir(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def found() -> Path:
        cache._private_folder.cache_clear()
        return Path(cache._folder_beside.__wrapped__(str(tmp_path / "file" / "kernels"), ""))

    private = tmp_path / f"xnor_ref-kernels-{os.getuid()}"
    assert found().parent == home / ".cache" / "xnor_ref" and found().stat().st_mode & 0o777 == 0o700
    chosen = Path(cache._folder_beside.__wrapped__(str(tmp_path / "file" / "kernels"), str(tmp_path / "chosen")))
    assert chosen.parent == tmp_path / "chosen"
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", "here")
        assert found() == private and not (tmp_path / "here").exists()
    home.chmod(0o777)  # whoever can write there can replace what lies there
    assert found() == private and private.stat().st_mode & 0o777 == 0o700
    home.chmod(0o755)
    with monkeypatch.context() as patch:  # a home of another user, and a folder that another one made
        patch.setattr(os, "getuid", lambda: 12345)
        (tmp_path / "xnor_ref-kernels-12345").mkdir()
        assert found().parent == tmp_path and found().name not in ("xnor_ref-kernels-12345", private.name)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no HOME, and no entry in /etc/passwd
    assert found() == private and not (tmp_path / "~").exists()
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path / "file"))
    assert cache._private_folder.__wrapped__() == ""  # nothing can be kept
    cache._private_folder.cache_clear()


@compiler
def test_what_does_not_show_in_the_source_is_not_kept(sample, tmp_path):
    text = SAMPLE.split("@compiled(void")[0] + "\n\ndef make(step):\n    @compiled(float32(float32))\n"
    text += "    def more(x):\n        return x + step\n    return more\n"
    module = sample(text)
    assert module.make(np.float32(1))(np.float32(1)) == 2
    assert module.make(np.float32(2))(np.float32(1)) == 3
    assert not list(tmp_path.glob("*.kernel"))


# --- files of the cache


@compiler
@pytest.mark.parametrize("version", ["numba.__version__", "llvmlite.__version__", "numpy.__version__", "sys.version"])
def test_the_stamp_covers_the_compilers(sample, version, monkeypatch):
    kernel = sample().double
    before = cache.KernelFile(kernel)
    monkeypatch.setattr(version, "0.0")
    monkeypatch.setattr(cache, "_compilers", cache._compilers.__wrapped__)
    assert cache.KernelFile(kernel)._stamp != before._stamp


@compiler
@pytest.mark.parametrize("option", ["BOUNDSCHECK", "OPT", "CPU_NAME"])
def test_another_processor_or_option_has_another_file(sample, option, monkeypatch):
    kernel = sample().double
    before = cache.KernelFile(kernel)
    if option == "CPU_NAME":
        triple, name, features = numba_private.processor()
        monkeypatch.setattr(numba_private, "processor", lambda: (triple, name + "x", features))
    else:
        monkeypatch.setattr(f"numba.config.{option}", "another")
    after = cache.KernelFile(kernel)
    assert after.path != before.path and after._stamp != before._stamp


FAULTS = ("intact", "empty", "cut", "flipped", "garbage", "foreign", "planted", "stale", "folder")
START = """
import importlib, json, sys, warnings
found = {}
for name in sys.argv[1:]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answer = importlib.import_module(name).answer().tolist()
    found[name] = [answer, [f"{w.category.__name__} {w.message}" for w in caught]]
print(json.dumps(found))
"""


def start(folder, *names):
    """Modules of `folder` in a new process: name to what it computed and the warnings."""
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(folder),
        "PYTHONPATH": os.pathsep.join([*(str(folder / name) for name in names), str(REPOSITORY)]),
        "PYTHONDONTWRITEBYTECODE": "1",  # Python's own cache takes a source of the same size and time for unchanged
    }
    run = subprocess.run([sys.executable, "-c", START, *names], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def kept(folder, name):
    (path,) = folder.rglob(f"{name}.double.*.kernel")
    return path


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """What a start computes after `FAULTS`, and the folder; each fault has a module, of which one file was changed."""
    folder, other = tmp_path_factory.mktemp("right"), tmp_path_factory.mktemp("wrong")
    for name in FAULTS:
        (folder / name).mkdir()
        (folder / name / f"{name}.py").write_text(SAMPLE)
    (other / "planted").mkdir()
    (other / "planted" / "planted.py").write_text(WRONG.replace("known_answers", "unknown_answers"))
    start(folder, *FAULTS)
    start(other, "planted")

    paths = {name: kept(folder, name) for name in FAULTS}
    content = {name: path.read_bytes() for name, path in paths.items()}
    paths["empty"].write_bytes(b"")
    paths["cut"].write_bytes(content["cut"][: len(content["cut"]) // 2])
    middle = bytearray(content["flipped"])
    middle[len(middle) // 2] ^= 1
    paths["flipped"].write_bytes(middle)
    paths["foreign"].write_bytes(content["intact"])  # sound, but of another kernel
    for name, payload in (("garbage", b"no pickle"), ("planted", kept(other, "planted").read_bytes()[:-64])):
        sealed = payload + content[name][-64:-32]  # with the right stamp and a digest that fits
        paths[name].write_bytes(sealed + hashlib.sha256(sealed).digest())
    source = folder / "stale" / "stale.py"
    times = source.stat()
    source.write_text(SAMPLE.replace("* np.float32(2)", "* np.float32(4)").replace("3.0, 16.0", "6.0, 32.0"))
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    paths["folder"].unlink()
    paths["folder"].mkdir()
    intact = paths["intact"].stat().st_mtime_ns
    return start(folder, *FAULTS), folder, paths, intact


@compiler
@pytest.mark.parametrize(
    ("fault", "warning"),
    [
        ("intact", None),
        ("empty", "it is damaged"),
        ("cut", "it is damaged"),
        ("flipped", "it is damaged"),
        ("garbage", r"Numba cannot load it: UnpicklingError"),
        ("foreign", None),
        ("planted", r"the kernel in it gives a wrong answer \(case 1 of 1: \[0.0, 4.5, 24.0\] in place of \[0.0, 3.0"),
        ("stale", None),
        ("folder", "it cannot be read"),
    ],
)  # fmt: skip
def test_no_file_of_the_cache_makes_a_wrong_number(damaged, fault, warning):
    found, _, paths, _ = damaged
    answer, warnings = found[fault]
    assert answer == ([0.0, 6.0, 32.0] if fault == "stale" else [0.0, 3.0, 16.0])
    if warning is None:
        assert warnings == []
    else:
        start = rf"RuntimeWarning {re.escape(str(paths[fault]))}: {warning}"
        what = "kernel is" if fault == "folder" else "file is removed and the kernel"
        assert re.fullmatch(f"{start}.*; the {what} compiled again", warnings[0], re.DOTALL)
        assert len(warnings) == (2 if fault == "folder" else 1)  # a folder in its place stays, and nothing can be kept


@compiler
def test_what_was_dropped_is_kept_anew(damaged):
    _, folder, paths, intact = damaged
    for name in set(FAULTS) - {"folder"}:
        content = paths[name].read_bytes()
        assert content[-32:] == hashlib.sha256(content[:-32]).digest()
    assert paths["intact"].stat().st_mtime_ns == intact
    paths["folder"].rmdir()
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    answers = start(folder, "planted", "stale", "folder")
    assert answers == {"planted": [[0, 3, 16], []], "stale": [[0, 6, 32], []], "folder": [[0, 3, 16], []]}


@compiler
def test_processes_that_start_together_agree(tmp_path):
    """`python -m tests.soak_startup` does it at length."""
    alone = soak_startup.alone(tmp_path / "first", "optimiser")
    soak_startup.race(tmp_path / "second", "optimiser", 3, alone)
