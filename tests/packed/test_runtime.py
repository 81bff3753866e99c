"""Inference with packed networks: what goes in, what comes out, and that it never depends on how it was run."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.packed import packed_samples
from tests.packed.packed_samples import Sample
from xnor_ref.errors import InputError, InputTypeError, NonFiniteError
from xnor_ref.kernels.ops import binary_ops, float_ops
from xnor_ref.kernels.ops.float_ops import pixel_table
from xnor_ref.packed import load_packed, runtime
from xnor_ref.packed.ops import OPS

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sample():
    return packed_samples.every_op()


@pytest.fixture(scope="module")
def network(sample):
    return sample.network()


def normalised(sample, pixels):
    given = sample.metadata["input"]
    values = (pixels / 255.0 - np.array(given["mean"])) / np.array(given["std"])
    return np.ascontiguousarray(values.astype(np.float32).transpose(0, 3, 1, 2))


def test_raw_and_normalised_images_agree(sample, network):
    pixels = sample.pixels(3)
    expected = network.logits(pixels)
    assert expected.dtype == np.float32 and expected.shape == (3, 5)
    assert np.array_equal(network.logits(normalised(sample, pixels)), expected)
    assert np.array_equal(network.logits(pixels[1]), expected[1:2])


def test_pixel_table():
    table = pixel_table((0.5, 0.25), (0.2, 2.0))
    assert table.shape == (256, 2) and table.dtype == np.float32
    assert table[255, 0] == np.float32((1 - 0.5) / 0.2) and table[51, 1] == np.float32((51 / 255 - 0.25) / 2)


def test_predict(sample, network):
    pixels = sample.pixels(6)
    labels = network.predict(pixels)
    assert labels.dtype == np.int64 and np.array_equal(labels, network.logits(pixels).argmax(axis=1))


def test_equal_logits_give_the_first_label():
    sample = Sample(shape=(1, 1, 1), classes=3)
    sample.node("flatten")
    sample.node("linear", None, {"weight": np.zeros((3, 1), np.float32)})
    assert sample.network().predict(sample.pixels(2)).tolist() == [0, 0]


@pytest.mark.parametrize("pad_value", [-1, 0, 1])
def test_batches_do_not_change_results(pad_value, monkeypatch):
    sample = packed_samples.every_op(pad_value, seed=1)
    network = sample.network()
    pixels = sample.pixels(19)
    expected = network.logits(pixels)
    assert np.array_equal(np.concatenate([network.logits(image) for image in pixels]), expected)
    assert np.array_equal(network.logits(pixels[::-1])[::-1], expected)
    for size in (1, 2, 7):
        monkeypatch.setattr(runtime, "MAX_BATCH", size)
        assert np.array_equal(network.logits(pixels), expected)
    monkeypatch.setattr(runtime, "BATCH_MEMORY", 1)
    assert np.array_equal(network.logits(pixels), expected)


def test_threads_and_backends_do_not_change_results(sample, network):
    pixels = sample.pixels(9)
    expected = network.logits(pixels, threads=1)
    for threads in (None, 2, 3, 8):
        assert np.array_equal(network.logits(pixels, threads=threads), expected)
    for backend in ("reference", "float"):
        assert np.array_equal(network.logits(pixels, backend=backend), expected)


def test_callers_in_several_threads(sample, network):
    pixels = sample.pixels(8)
    expected = network.logits(pixels)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: network.logits(pixels, threads=2), range(8)):
            assert np.array_equal(result, expected)


def test_copies_and_other_processes_answer_alike(sample, network):
    """Whatever was laid out before holds addresses, which mean nothing elsewhere."""
    images = sample.pixels(3)
    known = network.logits(images)
    for copied in (copy.copy(network), copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        np.testing.assert_array_equal(copied.logits(images), known)
        assert copied.metadata == network.metadata
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(network.logits, (images,)), known)


def test_awkward_arrays(sample, network):
    pixels = sample.pixels(4)
    expected = network.logits(pixels)
    images = normalised(sample, pixels)
    pixels.flags.writeable = images.flags.writeable = False
    assert np.array_equal(network.logits(pixels), expected)
    assert np.array_equal(network.logits(images), expected)
    assert np.array_equal(network.logits(np.asfortranarray(pixels)), expected)
    assert np.array_equal(network.logits(np.asfortranarray(images)), expected)
    assert np.array_equal(network.logits(np.repeat(images, 2, axis=0)[::2]), expected)


def test_images_are_not_changed(sample, network):
    pixels = sample.pixels(4)
    images = normalised(sample, pixels)
    copies = pixels.copy(), images.copy()
    network.logits(pixels)
    network.logits(images)
    assert np.array_equal(copies[0], pixels) and np.array_equal(copies[1], images)


@pytest.mark.parametrize(
    ("images", "error", "pattern"),
    [
        (np.zeros((2, 3, 9, 8), np.uint8), InputError, r"uint8 \(2, 3, 9, 8\); images must be uint8 \(N, 9, 8, 3\)"),
        (np.zeros((2, 9, 8, 3), np.float32), InputError, r"float32 \(2, 9, 8, 3\)"),
        (np.zeros((3, 9, 8), np.float32), InputError, "float32"),
        (np.zeros((9, 8, 1), np.uint8), InputError, "images must be"),
        (np.zeros((9, 8), np.uint8), InputError, "images must be"),
        (np.zeros((), np.uint8), InputError, "images must be"),
        (np.zeros((0, 9, 8, 3), np.uint8), InputError, "no images"),
        (np.zeros((0, 3, 9, 8), np.float32), InputError, "no images"),
        (np.zeros((1, 3, 9, 8), np.float64), InputTypeError, "float64"),
        (np.zeros((1, 3, 9, 8), ">f4"), InputTypeError, ">f4"),
        (np.zeros((1, 9, 8, 3), np.int8), InputTypeError, "int8"),
        (np.zeros((1, 9, 8, 3), bool), InputTypeError, "bool"),
        ([[1, 2]], InputTypeError, "list"),
        (None, InputTypeError, "NoneType"),
    ],
)
def test_refused_images(network, images, error, pattern):
    for call in (network.logits, network.predict):
        with pytest.raises(error, match=pattern):
            call(images)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_images(network, bad):
    images = np.zeros((3, 3, 9, 8), np.float32)
    images[2, 1, 4, 4] = bad
    with pytest.raises(InputError, match="NaN or infinity"):
        network.logits(images)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_bad_threads(network, sample, threads):
    with pytest.raises(InputError, match=r"PackedNetwork\.logits: threads"):
        network.logits(sample.pixels(1), threads=threads)


def test_bad_backend(network, sample):
    for backend in ("cuda", "", None):
        with pytest.raises(InputError, match="backend"):
            network.logits(sample.pixels(1), backend=backend)


def test_overflow_is_an_error():
    sample = Sample(shape=(1, 2, 2), classes=2)
    sample.node("flatten")
    for _ in range(2):
        sample.node("affine", None, {"scale": np.full(4, 1e38, np.float32), "shift": np.zeros(4, np.float32)})
    sample.linear(4, 2)
    with pytest.raises(NonFiniteError, match="overflow"):
        sample.network().logits(np.full((1, 2, 2, 1), 255, np.uint8))


def test_summary(sample, network):
    rows = network.summary()
    assert [row["name"] for row in rows] == [node["name"] for node in sample.metadata["graph"]]
    assert rows[3] == {
        "op": "binary_conv2d",
        "name": "n3.binary_conv2d",
        "output_shape": (70, 9, 9),
        "bits": 70 * 6 * 3 * 2,
        "float_params": 70,
        "bytes": 70 * 8 + 70 * 4,
        "stored": "bits",
    }
    assert sum(row["bytes"] for row in rows) == sum(array.nbytes for array in sample.tensors.values())


def test_intermediates_are_freed(monkeypatch):
    """At no time are more results held than the graph still needs."""
    sample = Sample(shape=(1, 4, 4), classes=2)
    for _ in range(50):
        sample.node("relu")
    sample.node("flatten")
    sample.linear(16, 2)
    network = sample.network()
    alive = []

    class Counted(np.ndarray):
        pass

    def relu(x):
        import weakref

        y = np.maximum(x, 0).view(Counted)
        alive.append(weakref.ref(y))
        assert sum(ref() is not None for ref in alive) <= 3
        return y

    monkeypatch.setattr(float_ops, "relu", relu)
    network.logits(sample.pixels(2), backend="float")  # without a plan
    assert len(alive) == 50


@pytest.mark.parametrize("channels", [1, 2, 63, 64, 65, 130])
@pytest.mark.parametrize("pad_value", [-1, 0, 1])
def test_bits_of_the_file_reach_the_kernels(channels, pad_value):
    """One binary layer of a packed network against the integer convolution of the same weights."""
    sample = Sample(shape=(channels, 5, 4), classes=3)
    sample.metadata["input"] |= {"mean": [0.5] * channels, "std": [0.25] * channels}
    rng = np.random.default_rng(channels)
    weight = rng.normal(size=(3, channels, 3, 2)).astype(np.float32)
    sample.normal = lambda *shape: weight
    sample.binary_conv2d(channels, 3, (3, 2), (2, 1), (1, 1), pad_value, "off", alpha=False)
    sample.node("global_avg_pool")
    images = rng.normal(size=(2, channels, 5, 4)).astype(np.float32)
    exact = binary_ops.binary_conv2d(images, weight, (2, 1), (1, 1), pad_value)
    assert np.array_equal(sample.network().logits(images), exact.mean(axis=(2, 3)).astype(np.float32))


def test_every_op_is_one_registry_line():
    for name, op in OPS.items():
        assert op.examine.__name__ == name and op.examine.__doc__


LIGHT = """
import sys
import numpy as np
from xnor_ref import load_packed
network = load_packed(sys.argv[1])
network.predict(np.zeros((1, 9, 8, 3), np.uint8))
heavy = ("autodiff", "nn", "models", "training", "datasets", "optim", "binary", "cli", "packed.freeze")
found = [m for m in sys.modules if any(m == f"xnor_ref.{h}" or m.startswith(f"xnor_ref.{h}.") for h in heavy)]
found += [m for m in ("PIL", "click", "hypothesis") if m in sys.modules]
print(found)
"""


def test_inference_needs_no_training_code(tmp_path, network):
    path = tmp_path / "model"
    network.save(path)
    result = subprocess.run(
        [sys.executable, "-c", LIGHT, path],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "[]\n"


def test_path_types(tmp_path, network):
    network.save(str(tmp_path / "a"))
    assert load_packed(str(tmp_path / "a")).classes == load_packed(tmp_path / "a").classes
