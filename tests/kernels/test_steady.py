"""Threads compute alike whatever another library set the processor to, and as many as there can be."""

import contextlib
import copy
import ctypes
import platform
import sys
import threading
from queue import SimpleQueue

import numpy as np
import pytest

import xnor_ref
from tests.conftest import JIT_DISABLED
from xnor_ref import nn, optim, steady
from xnor_ref.autodiff import Tensor
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics import threads

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the bits of MXCSR are those of x86-64"
)
FLUSH, ZERO_INPUTS, DOWN, UP = 0x8000, 0x0040, 0x2000, 0x4000


@contextlib.contextmanager
def processor_set_to(bits):
    library, before = ctypes.CDLL(None), ctypes.create_string_buffer(32)
    library.fegetenv(before)
    changed = ctypes.create_string_buffer(before.raw, 32)
    changed[28:32] = (int.from_bytes(before[28:32], "little") | bits).to_bytes(4, "little")
    library.fesetenv(changed)
    try:
        yield
        assert not steady.is_usual()  # the caller has its setting back
    finally:
        library.fesetenv(before)
    assert steady.is_usual()


def results(x, weight, network, count):
    """Of everything public that computes, on so many threads."""
    yield xnor_ref.pack_bits(x)
    for backend in ("auto", "reference", "numba"):
        yield xnor_ref.binary_conv2d(x, weight, backend=backend, threads=count)
        yield xnor_ref.xnor_conv2d(x, weight, backend=backend, threads=count)
    yield xnor_ref.binary_linear(x[..., 0, 0], weight[..., 0, 0])
    words, filters = (xnor_ref.pack_bits(array, axis=1) for array in (x, weight))
    affine = {"output": "float32", "scale": 0.3, "bias": 0.7}
    yield xnor_ref.conv2d_words(words, filters, 64, threads=count, **affine)
    yield xnor_ref.linear_words(words[..., 0, 0], filters[..., 0, 0], 64, threads=count, **affine)
    yield xnor_ref.linear_words(words[..., 0, 0], filters[..., 0, 0], 64, output="bits", threshold=1e-310)
    optimizer = optim.Adam(list(network.named_parameters()), 0.01)
    network(Tensor(x)).backward(np.ones((len(x), 3), np.float32))
    optimizer.step()
    yield from network.state_dict().values()
    packed = xnor_ref.freeze(network.eval(), input_shape=(64, 9, 9), mean=0.5, std=1, classes=("a", "b", "c"))
    yield packed.logits(x, threads=count)
    for shown in packed.trace(x, threads=count).values():
        yield from shown.values()


@pytest.mark.parametrize("bits", [FLUSH, ZERO_INPUTS, FLUSH | ZERO_INPUTS, DOWN, UP], ids=hex)
def test_results_do_not_depend_on_the_processor_s_state(bits, monkeypatch):
    if JIT_DISABLED and bits not in (FLUSH | ZERO_INPUTS, UP):
        pytest.skip("NumPy computes all of it, and once is enough")
    rng = np.random.default_rng(3)
    x = rng.standard_normal((70, 64, 9, 9), dtype=np.float32)
    x[::2] *= np.float32(1e-42)  # subnormal
    weight = rng.standard_normal((8, 64, 3, 3), dtype=np.float32)
    layers = nn.BatchNorm2d(64), nn.BinaryConv2d(64, 8, 3, rng=rng), nn.GlobalAvgPool2d(), nn.Linear(8, 3, rng=rng)
    networks = [nn.Sequential(*copy.deepcopy(layers)) for _ in range(3)]
    known = [array.copy() for array in results(x, weight, networks[0], 1)]
    for count in (1, 2):
        monkeypatch.setattr(threads, "_threads", count)
        monkeypatch.setattr(threads, "_tasks", SimpleQueue())
        monkeypatch.setattr(threads, "_pool_size", 0)  # threads that begin in this state
        with processor_set_to(bits):
            found = [array.copy() for array in results(x, weight, networks[count], count)]
        assert len(found) == len(known)
        assert all(np.array_equal(one, other) for one, other in zip(found, known))


def test_a_state_that_cannot_be_mended_is_told(monkeypatch):
    monkeypatch.setattr(steady, "is_usual", lambda: False)
    with pytest.raises(InputError, match="another library set this thread"):
        xnor_ref.pack_bits(np.ones(3, np.float32))


def test_work_goes_on_where_no_more_threads_can_be_started(monkeypatch):
    """The system may limit the number of tasks; what there is does the work."""
    done, begun = [], []

    def start(thread):
        if begun:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        original(thread)

    original = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(threads, "_tasks", SimpleQueue())
    monkeypatch.setattr(threads, "_pool_size", 0)
    for _ in range(2):
        done.clear()
        threads.parallel_chunks(lambda start, stop: done.append(start), 50, threads=8)
        assert sorted(done) == list(range(50)) and len(begun) == 1
    assert threads._grow_pool(5) == 1
