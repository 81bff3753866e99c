"""The explorer's scripts, run by node: every number of every layer has the bits of `trace`."""

import hashlib
import json
import subprocess
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from tests.explorer.explorer_samples import SCRIPTS, needs_extra, needs_vectors, program
from tests.models.test_models import packed_twin, settle
from tests.packed import packed_samples
from tests.packed.test_contents import frozen, small
from tests.packed.test_freeze import lived_in
from xnor_ref import models
from xnor_ref.datasets.images import load_photo
from xnor_ref.explorer.writing import columns_first
from xnor_ref.nn.methods import METHODS
from xnor_ref.packed import PackedNetwork, compressing

pytestmark = [pytest.mark.interop, needs_extra]  # once, beside the tests in a browser


def hashed(array) -> str:
    """As run_engine.js does it; -0 counts as 0."""
    return hashlib.sha256(np.ascontiguousarray(array + array.dtype.type(0)).tobytes()).hexdigest()[:16]


@pytest.fixture
def engine(tmp_path):
    """Runs jobs of run_engine.js."""
    node = program("node")

    def answers(jobs: list[dict]) -> list:
        command = [node, str(SCRIPTS.parents[1] / "tests" / "explorer" / "run_engine.js"), str(SCRIPTS)]
        done = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return answers


def check(engine, folder, networks: list[tuple[PackedNetwork, np.ndarray]]) -> None:
    """Every array of a trace that the engine has, too, has the same bits there."""
    jobs = []
    for at, (packed, pixels) in enumerate(networks):
        model, images = folder / f"{at}.safetensors", folder / f"{at}.bin"
        packed.save(model)
        images.write_bytes(pixels.tobytes())
        jobs.append({"model": str(model), "pixels": str(images)})
    for (packed, pixels), found in zip(networks, engine(jobs), strict=True):
        assert found.get("intact") is True, found
        assert np.array_equal(np.float32([image["logits"] for image in found["images"]]), packed.logits(pixels))
        for layer, arrays in packed.trace(pixels).items():
            kept = {name for name in arrays if not name.startswith("input")}
            for at, image in enumerate(found["images"]):
                assert image["layers"][layer] == {name: hashed(arrays[name][at]) for name in kept}, (layer, at)


@needs_vectors
def test_every_operation(engine, tmp_path):
    padded = (packed_samples.every_op, packed_samples.version_4, packed_samples.version_5)
    made = [sample(pad_value) for sample in padded for pad_value in (0, 1, -1)]
    made += [packed_samples.version_3(), packed_samples.version_6()]
    check(engine, tmp_path, [(sample.network(), sample.pixels(2)) for sample in made])


def twin(name: str, method: str = "xnor", size: int = 32, **options) -> tuple[PackedNetwork, np.ndarray]:
    network = models.build(name, image_size=size, in_channels=3, num_classes=5, method=method, **options)
    pixels = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    return packed_twin(settle(network, n=2)), pixels


@needs_vectors
def test_every_network(engine, tmp_path):
    check(engine, tmp_path, [twin(name, size=16 if name == "alexnet" else 32) for name in models.names()])


@needs_vectors
@pytest.mark.parametrize(
    "name", ["lenet5", *(pytest.param(name, marks=pytest.mark.soak) for name in models.names()[1:])]
)
def test_every_method(engine, tmp_path, name):
    size = 16 if name == "alexnet" else 32
    check(engine, tmp_path, [twin(name, method, size) for method in METHODS])


@needs_vectors
def test_thresholds_borders_bits_and_trees(engine, tmp_path):
    cases = []
    for options in (
        {"input_scale": "off"},
        {"input_scale": "valid", "pad_value": -1},
        {"weight_bits": 2, "input_bits": 3},
    ):
        network = lived_in(models.build("lenet5", image_size=32, in_channels=3, num_classes=5, **options))
        cases.append((packed_twin(network.eval()), np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), np.uint8)))
    frozen(small()).save(tmp_path / "bits")
    tree = compressing.compress(*compressing.read(tmp_path / "bits"), store="tree")
    cases.append((PackedNetwork(tree.metadata, tree.tensors), cases[0][1][:, :10, :9].copy()))
    check(engine, tmp_path, cases)


def fused(total: np.float32, x: np.float32, weight: np.float32) -> np.float32:
    """x * weight + total, rounded once: of neighbouring float32 numbers the nearest one, in exact fractions."""
    exact = Fraction(float(x)) * Fraction(float(weight)) + Fraction(float(total))
    guess = np.float32(float(exact))
    near = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    return min(near, key=lambda number: (abs(Fraction(float(number)) - exact), int(number.view(np.uint32)) & 1))


@needs_vectors
def test_sums_that_lie_just_beside_the_middle_of_two_numbers(engine, tmp_path):
    """1 + 2^-24 (1 + d) with abs(d) < 2^-29: rounded to float64 it is the middle, and d is lost."""
    inputs = (np.arange(1, 256) / 255).astype(np.float32)
    weights = (1 / inputs).astype(np.float32)
    off = inputs.astype(np.float64) * weights - 1
    values = 1 + np.flatnonzero((abs(off) < 2.0**-29) & (off != 0))
    assert (off[values - 1] > 0).any() and (off[values - 1] < 0).any()
    sample = packed_samples.Sample(shape=(1, 1, 1 + len(values)), classes=len(values))
    sample.metadata["input"] |= {"mean": [0.0], "std": [1.0]}
    weight = np.zeros((len(values), 1 + len(values)), np.float32)
    weight[:, 0] = 1
    weight[range(len(values)), range(1, 1 + len(values))] = weights[values - 1] * np.float32(2.0**-24)
    sample.node("flatten")
    sample.node("linear", tensors={"weight": weight})
    pixels = np.uint8([255, *values])
    packed = sample.network()
    expected = [fused(np.float32(1), inputs[v - 1], weights[v - 1] * np.float32(2.0**-24)) for v in values]
    assert packed.logits(pixels[None, None, :, None])[0].tolist() == expected
    twice = (1 + inputs[values - 1].astype(np.float64) * weights[values - 1] * 2.0**-24).astype(np.float32)
    assert (twice != np.float32(expected)).any(), "rounding twice would do"
    check(engine, tmp_path, [(packed, pixels[None, None, :, None])])


SIZES = [(500, 375, 64, 64, 3), (333, 500, 224, 224, 3), (37, 91, 64, 64, 1), (64, 64, 64, 64, 3), (65, 64, 32, 32, 3),
         (1, 7, 16, 24, 3), (640, 480, 24, 40, 1), (129, 77, 77, 129, 3), (1000, 3, 28, 28, 1)]  # fmt: skip


def test_photos_are_resized_as_by_pillow(engine, tmp_path):
    rng, jobs, expected = np.random.default_rng(0), [], []
    for at, (width, height, rows, columns, channels) in enumerate(SIZES):
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        if at % 2:
            pixels = np.where(pixels > 127, np.uint8(255), np.uint8(0))
        photo, raw = tmp_path / f"{at}.png", tmp_path / f"{at}.bin"
        Image.fromarray(pixels).save(photo)
        raw.write_bytes(np.dstack([pixels, np.full((height, width), 255, np.uint8)]).tobytes())
        size = {"width": width, "height": height, "size": [rows, columns], "channels": channels}
        jobs.append({"photo": str(raw), "columnsFirst": columns_first(), **size})
        expected.append(load_photo(photo, (rows, columns), channels))
    for pixels, found, size in zip(expected, engine(jobs), SIZES, strict=True):
        assert found == pixels.ravel().tolist(), size


def test_files_that_cannot_be_run_are_refused(engine, tmp_path):
    sample = packed_samples.tiny()
    sample.network().save(tmp_path / "good")
    content = (tmp_path / "good").read_bytes()
    changes = {
        "too short": content[:5],
        "not a packed model file": b"\x10" + bytes(7) + b"no JSON at all!!",
        "cannot run the operation flettan of layer n1.flatten": content.replace(
            b'op\\":\\"flatten', b'op\\":\\"flettan'
        ),
        "versions 1 to 6, not 9": content.replace(b'version\\":1', b'version\\":9'),
    }
    jobs = []
    for at, changed in enumerate([content, *changes.values()]):
        path = tmp_path / f"{at}"
        path.write_bytes(changed)
        (tmp_path / "pixels").write_bytes(bytes(9))
        jobs.append({"model": str(path), "pixels": str(tmp_path / "pixels")})
    path = tmp_path / "other"
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    good, *bad, altered = engine([*jobs, jobs[0] | {"model": str(path)}])
    assert good["intact"] is True and altered["intact"] is False
    for message, found in zip(changes, bad, strict=True):
        assert message in found.get("error", ""), (message, found)
