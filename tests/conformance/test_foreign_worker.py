"""Python functions and C libraries in a worker: same results, and every way to fail is told and survived."""

import ctypes
import gc
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from xnor_ref import steady
from xnor_ref.conformance import Crashed, Kit, c_library, python_file
from xnor_ref.conformance.basics import oracle
from xnor_ref.conformance.basics.roles import Late
from xnor_ref.conformance.foreign.worker import Failed, Worker
from xnor_ref.errors import InputError


def work(x, how, pairs=((1, 2), (3, 4)), *, name="none"):
    if how == "signal":
        print("about to go")
        ctypes.string_at(0)
    elif how == "exit":
        sys.exit(3)
    elif how == "quick exit":
        os._exit(5)
    elif how == "raise":
        raise ValueError(f"not {name}")
    elif how == "objects":
        return [None, "a"]
    elif how == "hang":
        time.sleep(60)
    elif how == "heap":
        small = np.empty(5000, np.uint8)
        ctypes.memset(small.ctypes.data, 1, small.nbytes + 40)
    elif how == "flush":
        ctypes.CDLL(None).fesetenv(ctypes.byref(_flushing()))
        return steady.is_usual()
    return [
        x.strides[0],
        x.flags.writeable,
        x.ctypes.data % 64,
        x.dtype.byteorder == ">",
        pairs == ((1, 2), (3, 4)),
        x.sum(),
    ]


def _flushing():
    """The floating-point environment of x86 with subnormal numbers taken for 0."""
    environment = (ctypes.c_uint32 * 8)()
    ctypes.CDLL(None).fegetenv(environment)
    environment[7] |= 0x8040  # MXCSR: flush to zero, and subnormals are zeros
    return environment


@pytest.fixture(scope="module")
def worker():
    worker = Worker(lambda: {"conv2d": work}, "mine", timeout=30)
    yield worker
    worker.close()


def test_arrays_arrive_as_they_are(worker):
    call = worker.for_role("conv2d")
    plain = np.arange(20, dtype=np.float32)
    misaligned = np.frombuffer(bytes(1) + plain.tobytes(), np.uint8)[1:].view(np.float32)
    for x in (plain, plain[::-2], plain.astype(">f4")[3:], misaligned, np.broadcast_to(plain[:1], (4, 1)), plain[:0]):
        x = x.view()
        x.flags.writeable = False
        strides, writeable, phase, swapped, pairs, total = call(x, "")
        assert (strides, writeable, swapped, pairs) == (x.strides[0], False, x.dtype.byteorder == ">", True)
        assert (phase == x.ctypes.data % 64 or not x.size) and total == x.sum()


@pytest.mark.parametrize(
    "how, message",
    [
        ("signal", r"^mine died of signal 11 \(SIGSEGV\); its output: about to go$"),
        ("exit", "^mine exited with status 3$"),
        ("quick exit", "^mine exited with status 5$"),
        ("heap", r"^mine died of signal 6 \(SIGABRT\)"),
    ],
)
def test_a_crash_is_told_and_survived(worker, how, message):
    call, x = worker.for_role("conv2d"), np.ones(3, np.float32)
    with pytest.raises(Crashed, match=message):
        call(x, how)
    assert call(x, "")[5] == 3


def test_what_crashed_once_is_not_tried_again(tmp_path):
    """Hypothesis would call it flaky if it did not fail again."""

    def once(x):
        mark = tmp_path / "mark"
        if not mark.exists():
            mark.touch()
            os._exit(1)
        return x

    call = Worker(lambda: {"alpha": once}, "mine").for_role("alpha")
    for _ in range(2):
        with pytest.raises(Crashed, match="status 1"):
            call(np.ones(2))
    assert call(np.ones(3)).tolist() == [1, 1, 1]


def test_exceptions_and_results_that_are_no_numbers_come_back_as_exceptions(worker):
    call = worker.for_role("conv2d")
    with pytest.raises(Failed, match="ValueError: not this"):
        call(np.ones(1), "raise", name="this")
    with pytest.raises(Failed, match="TypeError: the result is object"):
        call(np.ones(1), "objects")


def test_a_kit_can_isolate_functions_and_a_crash_is_its_finding():
    def linear(x, weight):
        if x.shape[1] == 33:
            os.kill(os.getpid(), 9)
        return oracle.signs(x) @ oracle.signs(weight).T

    kit = Kit(linear=linear, channels=(1, 33), isolate=True)
    report = kit.run(examples=20, seed=1, names=[kit.property_names()[0][1]])
    (failure,) = report.failures
    assert failure.kind == "crash" and failure.message == "linear: linear died of signal 9 (SIGKILL)"
    assert failure.case.arguments()["x"].shape == (1, 33)


def test_nobody_waits_for_ever():
    worker = Worker(lambda: {"conv2d": work}, "mine", timeout=1.5)
    begin = time.monotonic()
    with pytest.raises(Late, match=r"^mine did not answer within 1.5 s and was stopped$"):
        worker.for_role("conv2d")(np.ones(1), "hang")
    assert worker.for_role("conv2d")(np.ones(1), "")[5] == 1 and time.monotonic() - begin < 30
    with pytest.raises(InputError, match="timeout must be a number of seconds above 0, got 0"):
        Worker(dict, "mine", timeout=0)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="sets the environment of x86")
def test_flush_to_zero_stays_in_the_worker():
    worker = Worker(lambda: {"conv2d": work}, "mine")
    assert not worker.for_role("conv2d")(np.ones(1), "flush") and steady.is_usual()


def test_the_processes_end_with_the_worker():
    worker = Worker(lambda: {"alpha": lambda x: [os.getpid(), os.getppid()]}, "mine")
    pids = worker.for_role("alpha")(np.ones(1)).tolist()
    assert all(_runs(pid) for pid in pids)
    del worker
    gc.collect()
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(_runs(pid) for pid in pids)


def _runs(pid):
    """Whether the process is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "no such file"),
        ("x = 1", "has no function with the name of a role; the names are conv2d, linear, "),
        ("alpha = 3", "alpha is 3, which is not a function"),
        ("\nimport nothing_of_this_name", "line 2: ModuleNotFoundError"),
        ("def alpha(:", "line 1: SyntaxError"),
        ("import os; os._exit(3)", "exited with status 3 while it was loaded"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path, text, message):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        python_file(str(path))


def test_a_file_runs_in_the_worker_only_and_may_import_its_neighbours(tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text("TWO = 2")
    (tmp_path / "mine.py").write_text(
        "from neighbour_of_mine import TWO\ndef alpha(w): return TWO * w\ndef other(): 1/0"
    )
    found = python_file(str(tmp_path / "mine.py"))
    assert list(found.roles) == ["alpha"] and found.for_role("alpha")(np.ones(2)).tolist() == [2, 2]
    assert "neighbour_of_mine" not in sys.modules and str(tmp_path) not in sys.path


LIBRARY = """
#include <stdint.h>
#include <stdlib.h>
void conv(const float *x, const float *weight, int32_t *out, int n, int c, int h, int w, int o, int kh, int kw, int oh,
          int ow, int stride_h, int stride_w, int top, int left, int pad_value) {
  for (int a = 0; a < n; a++) for (int f = 0; f < o; f++) for (int i = 0; i < oh; i++) for (int j = 0; j < ow; j++) {
    *out = 0;
    for (int k = 0; k < c; k++) for (int y = 0; y < kh; y++) for (int z = 0; z < kw; z++) {
      int r = i * stride_h + y - top, q = j * stride_w + z - left;
      int s = r < 0 || r >= h || q < 0 || q >= w ? pad_value : x[((a * c + k) * h + r) * w + q] < 0 ? -1 : 1;
      *out += weight[((f * c + k) * kh + y) * kw + z] < 0 ? -s : s;
    }
    out++;
  }
}
void product(const int8_t *x, const int8_t *weight, float *out, int rows, int n, int o) {
  for (int i = 0; i < rows; i++) for (int j = 0; j < o; j++, out++) {
    *out = 0;
    for (int k = 0; k < n; k++) *out += x[i * n + k] * weight[j * n + k];
  }
}
void bits(const float *x, uint32_t *words, int rows, int n) {
  int each = (n + 31) / 32;
  for (int i = 0; i < rows * each; i++) words[i] = 0;
  for (int i = 0; i < rows; i++) for (int j = 0; j < n; j++)
    words[i * each + j / 32] |= (uint32_t)(x[i * n + j] >= 0) << j % 32;
}
void numbers(const uint32_t *words, float *out, int rows, int n) {
  int each = (n + 31) / 32;
  for (int i = 0; i < rows; i++) for (int j = 0; j < n; j++) *out++ = words[i * each + j / 32] >> j % 32 & 1 ? 1 : -1;
}
void agree(const uint32_t *a, const uint32_t *b, float *out, int n) {
  *out = n;
  for (int i = 0; i < (n + 31) / 32; i++) *out -= 2 * __builtin_popcount(a[i] ^ b[i]);
}
void mean(const float *weight, float *out, int o, int n) {
  for (int i = 0; i < o; i++) {
    double sum = 0;
    for (int j = 0; j < n; j++) sum += weight[i * n + j] < 0 ? -weight[i * n + j] : weight[i * n + j];
    out[i] = sum / n;
  }
}
void straight(const float *x, const float *dy, float *dx, int n) {
  for (int i = 0; i < n; i++) dx[i] = x[i] >= -1 && x[i] <= 1 ? dy[i] : 0;
}
void behind(const float *x, const float *weight, int32_t *out, int rows, int n, int o) { out[rows * o] = 1; }
void before(const float *x, const float *weight, int32_t *out, int rows, int n, int o) { out[-2] = 1; }
void input(float *x, const float *weight, int32_t *out, int rows, int n, int o) { x[0] += 1; }
void death(const float *x, const float *weight, int32_t *out, int rows, int n, int o) { abort(); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not there")
    folder = tmp_path_factory.mktemp("library")
    (folder / "mine.c").write_text(LIBRARY)
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", "libmine.so", "mine.c"], cwd=folder, check=True)
    return folder / "libmine.so"


def test_functions_of_a_c_library_are_called_as_documented(library):
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape, np.float32) for shape in ((2, 33, 5, 4), (3, 33, 3, 2)))
    conv2d = c_library(library, conv2d="conv").for_role("conv2d")
    for stride, padding, pad_value in (((1, 2), (0, 1), -1), ((2, 1), ((1, 0), (2, 1)), 0), ((2, 2), "same", 1)):
        pads = oracle.same_padding((5, 4), (3, 2), stride) if padding == "same" else padding
        got = conv2d(x, weight, stride, padding, pad_value)
        np.testing.assert_array_equal(got, oracle.sign_convolution(x, weight, stride, pads, pad_value))
    rows, columns = x[:, :, 0, 0], weight[:, :, 0, 0]
    linear = c_library(library, linear="product", x="int8", out="float32").for_role("linear")
    np.testing.assert_array_equal(linear(rows, columns), oracle.signs(rows) @ oracle.signs(columns).T)
    packing = c_library(library, word="uint32", out="float32", pack="bits", unpack="numbers", dot="agree")
    words = packing.for_role("pack")(rows)
    assert words.dtype == np.uint32 and words.shape == (2, 2)
    np.testing.assert_array_equal(packing.for_role("unpack")(words, 33), oracle.signs(rows))
    assert packing.for_role("dot")(words[0], words[1], 33) == oracle.signs(rows[0]) @ oracle.signs(rows[1])
    real = c_library(library, alpha="mean", ste="straight")
    np.testing.assert_allclose(real.for_role("alpha")(weight), oracle.weight_scale(weight), rtol=1e-6)
    assert real.for_role("ste")(np.float32([-2, -1, 0.5]), np.float32([3, 4, 5])).tolist() == [0, 4, 5]


@pytest.mark.parametrize(
    "symbol, error, message",
    [
        ("behind", Failed, "wrote 4 bytes behind its result, up to 4 bytes away"),
        ("before", Failed, "wrote 4 bytes before its result, up to 8 bytes away"),
        ("input", Failed, "changed its first argument"),
        ("death", Crashed, r"the library libmine.so died of signal 6 \(SIGABRT\)"),
        ("nothing", InputError, "has no function 'nothing', given for linear"),
    ],
)
def test_a_c_function_that_misbehaves_is_told(library, symbol, error, message):
    with pytest.raises(error, match=message):
        c_library(library, linear=symbol).for_role("linear")(np.ones((2, 3), np.float32), np.ones((4, 3), np.float32))


@pytest.mark.parametrize(
    "named, message",
    [
        ({}, "name at least one function by its role"),
        ({"layer": "f"}, "layer is not a role of C functions"),
        ({"linear": "f", "out": "complex64"}, "out must be one of float32, .*got 'complex64'"),
        ({"linear": "f", "word": "int8"}, "word must be one of uint8"),
    ],
)
def test_c_library_refuses_what_it_cannot_call(library, named, message):
    with pytest.raises(InputError, match=message):
        c_library(library, **named)
    with pytest.raises(InputError, match="is not a file"):
        c_library("no/such.so", linear="f")
