"""Data sets as values: checks, statistics, fingerprint, the registry."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xnor_ref import datasets
from xnor_ref.datasets import AugmentSpec, Dataset, Split
from xnor_ref.datasets.base import PixelStatistics, make_dataset
from xnor_ref.errors import DatasetError, InputError


def split_of(n, seed=0, size=6, channels=3, classes=3):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, size, size, channels)).astype(np.uint8)
    return Split(images, np.arange(n, dtype=np.int64) % classes)


def dataset_of(train=None, val=None, classes=("a", "b", "c")):
    return make_dataset("made", classes, train or split_of(7), val or split_of(4, seed=1))


def test_properties():
    dataset = dataset_of()
    assert (dataset.image_size, dataset.channels, dataset.num_classes) == (6, 3, 3)
    assert (len(dataset.train), len(dataset.val)) == (7, 4)


def test_statistics_are_those_of_the_training_pixels():
    train = split_of(300, seed=3)
    dataset = dataset_of(train)
    pixels = train.images.reshape(-1, 3) / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, pixels.std(axis=0), rtol=1e-12)


def test_statistics_do_not_depend_on_the_blocks():
    images = split_of(600, size=3).images
    results = []
    for cut in (1, 255, 256, 599):
        statistics = PixelStatistics(3)
        statistics.add(images[:cut])
        statistics.add(images[cut:])
        results.append(statistics.result())
    assert all(result == results[0] for result in results)


def test_statistics_of_extreme_images_do_not_overflow():
    statistics = PixelStatistics(1)
    statistics.add(np.full((600, 64, 64, 1), 255, np.uint8))
    assert statistics.result() == ((1.0,), (1 / 255,))  # a constant channel still has a std to divide by


def test_fingerprint_sees_every_part():
    base = dataset_of()
    assert base.sha256 == dataset_of().sha256
    pixel = split_of(7)
    pixel.images[3, 2, 1, 0] ^= 1
    label = split_of(7)
    label.labels[0] = 1
    others = [
        dataset_of(train=pixel),
        dataset_of(train=label),
        dataset_of(classes=("a", "b", "d")),
        dataset_of(train=split_of(4, seed=1), val=split_of(7)),
    ]
    assert len({base.sha256, *(other.sha256 for other in others)}) == 5


def test_verify_finds_an_altered_pixel():
    dataset = dataset_of()
    datasets.verify(dataset)
    dataset.val.images[-1, -1, -1, -1] ^= 128
    with pytest.raises(DatasetError, match="SHA-256"):
        datasets.verify(dataset)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ()}, "class names"),
        ({"classes": ("a", "a", "b")}, "class names"),
        ({"classes": ("a", "b")}, "labels run from 0 to 2"),
        ({"mean": (0.5,)}, "mean has 1 channels"),
        ({"val": split_of(4, size=5)}, r"val images are \(5, 5, 3\)"),
        ({"val": split_of(0)}, "at least one image"),
        ({"val": Split(split_of(4).images[:, :, :3], split_of(4).labels)}, "square"),
        ({"val": Split(split_of(4).images.astype(np.int16), split_of(4).labels)}, "int16"),
        ({"val": Split(split_of(4).images, split_of(4).labels.astype(np.int32))}, "int32"),
        ({"val": Split(split_of(4).images, split_of(5).labels)}, "one int64 label per image"),
        ({"val": Split(split_of(4).images, -split_of(4).labels)}, "from -2"),
    ],
)
def test_inconsistent_data_is_refused(change, message):
    base = dataset_of()
    fields = {name: getattr(base, name) for name in Dataset.__dataclass_fields__}
    with pytest.raises(DatasetError, match=message):
        Dataset(**{**fields, **change})


def test_names_and_augmentation():
    assert datasets.names() == ("shapes", "tiny-imagenet", "cifar10", "mnist", "fashion-mnist", "imagenet", "folder")
    for name in datasets.names():
        assert isinstance(datasets.default_augment(name), AugmentSpec)
    assert not datasets.default_augment("mnist").flip
    assert datasets.default_augment("shapes").crop_padding == 4  # what docs/results.md was trained with
    assert datasets.default_augment("tiny-imagenet").flip


def test_unknown_name_and_options(tmp_path):
    with pytest.raises(InputError, match=r"no data set is named 'imagenette'.*shapes, tiny-imagenet"):
        datasets.load("imagenette", data_dir=tmp_path)
    with pytest.raises(InputError, match="no data set"):
        datasets.default_augment("imagenette")
    with pytest.raises(InputError, match="shapes has no option colour; it takes seed, train_size, val_size"):
        datasets.load("shapes", data_dir=tmp_path, colour=1)
    with pytest.raises(InputError, match="mnist has no option archive; it takes none"):
        datasets.load("mnist", data_dir=tmp_path, archive=Path("x.zip"))
    with pytest.raises(InputError, match="cifar10 has no option download"):
        datasets.load("cifar10", data_dir=tmp_path, download=True)


def test_importing_loads_neither_pillow_nor_numba():
    code = (
        "import sys, xnor_ref.datasets as d\n"
        "import xnor_ref.datasets.shapes, xnor_ref.datasets.tiny_imagenet, xnor_ref.datasets.folder\n"
        "d.default_augment('mnist')\n"
        "sys.exit(any(name in sys.modules for name in ('PIL', 'numba')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
