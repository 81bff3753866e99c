"""The embedded data set: the same pixels from the same seed, balanced, quick to open again."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xnor_ref import datasets
from xnor_ref.datasets import shapes
from xnor_ref.errors import InputError, InputTypeError


def load(folder, **options):
    return datasets.load("shapes", data_dir=folder, **{"train_size": 36, "val_size": 24, **options})


def test_what_is_drawn(tmp_path):
    dataset = load(tmp_path)
    assert dataset.name == "shapes"
    assert dataset.num_classes == 12
    assert dataset.classes[:3] == ("circle", "pentagon", "square")
    assert dataset.train.images.shape == (36, 64, 64, 3)
    assert dataset.val.images.shape == (24, 64, 64, 3)
    assert np.bincount(dataset.train.labels).tolist() == [3] * 12
    assert np.bincount(dataset.val.labels).tolist() == [2] * 12
    assert min(dataset.train.images.std(axis=(1, 2, 3))) > 5  # something is in every picture


def test_same_seed_same_bytes_wherever_it_is_drawn(tmp_path):
    first, second = load(tmp_path / "a"), load(tmp_path / "b")
    assert first.sha256 == second.sha256
    assert first.train.images.tobytes() == second.train.images.tobytes()
    assert first.mean == second.mean


def test_an_image_does_not_depend_on_the_sizes(tmp_path):
    small, large = load(tmp_path), load(tmp_path, train_size=300)
    assert np.array_equal(small.train.images, large.train.images[:36])
    assert np.array_equal(large.train.images[299], shapes.draw(0, "train", 299))


def test_seeds_splits_and_indices_differ():
    pictures = [
        shapes.draw(0, "train", 0),
        shapes.draw(1, "train", 0),
        shapes.draw(0, "val", 0),
        shapes.draw(0, "train", 12),  # the same kind
    ]
    assert len({picture.tobytes() for picture in pictures}) == 4


def test_drawn_once_then_opened(tmp_path, monkeypatch):
    calls = []
    load(tmp_path, progress=lambda *call: calls.append(call))
    assert calls[-1] == ("drawing shapes val", 24, 24)
    monkeypatch.setattr(shapes, "draw", None)  # a second drawing would fail
    again = load(tmp_path)
    datasets.verify(again)
    assert not again.train.images.flags.writeable
    assert len(list((tmp_path / "packed").iterdir())) == 1


@pytest.mark.parametrize("option", [{"seed": -1}, {"train_size": 11}, {"val_size": 0}, {"train_size": 10**7}])
def test_options_out_of_range(tmp_path, option):
    with pytest.raises(InputError, match=next(iter(option))):
        load(tmp_path, **option)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [{"seed": 1.0}, {"train_size": "20"}, {"val_size": True}])
def test_options_of_a_wrong_type(tmp_path, option):
    with pytest.raises(InputTypeError, match=next(iter(option))):
        load(tmp_path, **option)


def test_outlines_lie_about_the_unit_circle():
    for kind, variants in zip(shapes.CLASSES, shapes._outlines()):
        for outline in variants:
            radii = np.hypot(*np.array(outline).T)
            assert 0.85 <= radii.max() <= 1.25, kind


def test_the_picture_in_the_readme_shows_what_is_drawn():
    """A column for each kind, five images of it; it was saved by `sheet.quantize(128).save(path, optimize=True)`."""
    columns, step = len(shapes.CLASSES), shapes.IMAGE_SIZE + 2
    sheet = Image.new("RGB", (columns * step - 2, 5 * step - 2), "white")
    for index in range(5 * columns):
        row, column = divmod(index, columns)
        sheet.paste(Image.fromarray(shapes.draw(0, "val", index)), (column * step, row * step))
    with Image.open(Path(__file__).parents[2] / "docs" / "shapes.png") as shown:
        difference = np.abs(np.asarray(sheet, np.int16) - np.asarray(shown.convert("RGB"), np.int16))
    assert np.median(difference) < 10
