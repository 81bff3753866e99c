"""A folder of one's own images."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xnor_ref import datasets
from xnor_ref.datasets import DatasetWarning, folder
from xnor_ref.errors import DatasetError, InputError, InputTypeError

COLOURS = {"apple": (200, 0, 0), "leaf": (0, 200, 0), "sky": (0, 0, 200)}


def add(path, colour, size=(20, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def plain_folder(root, count=12):
    for one, colour in COLOURS.items():
        for number in range(count):
            add(root / one / f"{number}.png", (*colour[:2], colour[2] + number))
    return root


def split_folder(root):
    for one, colour in COLOURS.items():
        for number, suffix in enumerate(("jpg", "png", "bmp", "webp", "tif", "ppm", "JPEG")):
            add(root / "train" / one / f"{number}.{suffix}", colour)
        add(root / "val" / one / "v.png", colour)
    return root


def load(root, **options):
    return datasets.load("folder", data_dir=root, **options)


def test_given_splits(tmp_path):
    dataset = load(split_folder(tmp_path), image_size=16)
    assert dataset.classes == ("apple", "leaf", "sky")
    assert dataset.train.images.shape == (21, 16, 16, 3)
    assert dataset.train.labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert dataset.val.labels.tolist() == [0, 1, 2]
    for images, labels in ((dataset.train.images, dataset.train.labels), (dataset.val.images, dataset.val.labels)):
        wanted = np.array(list(COLOURS.values()))[labels]
        assert np.abs(images.mean(axis=(1, 2)) - wanted).max() < 4


def test_default_size_and_the_prepared_copy(tmp_path, monkeypatch):
    first = load(split_folder(tmp_path))
    assert first.image_size == 64
    assert (tmp_path / ".xnor_ref-packed").is_dir()
    monkeypatch.setattr(folder, "_scan", None)  # a second scan would fail
    assert load(tmp_path).sha256 == first.sha256


def test_a_changed_file_makes_a_new_copy(tmp_path):
    before = load(split_folder(tmp_path)).sha256
    add(tmp_path / "train" / "sky" / "more.png", (0, 0, 0))
    assert load(tmp_path).sha256 != before
    assert len(load(tmp_path).train) == 22


def test_the_copy_can_be_kept_elsewhere(tmp_path):
    load(split_folder(tmp_path / "images"), cache_dir=tmp_path / "cache")
    assert not (tmp_path / "images" / ".xnor_ref-packed").exists()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_tenth_becomes_validation(tmp_path):
    dataset = load(plain_folder(tmp_path, 25), image_size=8)
    assert np.bincount(dataset.val.labels).tolist() == [2, 2, 2]
    assert np.bincount(dataset.train.labels).tolist() == [23, 23, 23]
    together = np.concatenate([dataset.train.images, dataset.val.images]).reshape(75, -1)
    assert len(np.unique(together, axis=0)) == 75  # no image on both sides
    assert load(plain_folder(tmp_path.parent / "other", 25), image_size=8).sha256 == dataset.sha256


def test_hidden_files_are_not_seen(tmp_path):
    before = load(split_folder(tmp_path)).sha256
    (tmp_path / "train" / "sky" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "train" / ".hidden").mkdir()
    assert load(tmp_path).sha256 == before


LEFT_BEHIND = ("._0.png", "Thumbs.db", "desktop.ini", "Icon\r", "__MACOSX/apple/._0.png", "@eaDir/0.png")


def test_what_systems_leave_behind_is_not_seen(tmp_path, recwarn):
    before = load(split_folder(tmp_path)).sha256
    for place in ("", "train", "train/sky", "val"):
        for name in LEFT_BEHIND:
            path = tmp_path / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    assert load(tmp_path).sha256 == before and not recwarn.list


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (("train", "val"), 3),
        (("Training", "Validation"), 3),
        (("TRAIN", "valid"), 3),
        (("train", "test"), 3),
        (("pack/train", "pack/val"), 3),
        (("pack/pack/train", "pack/pack/test"), 3),
        (("train/train", "val/val"), 3),
        (("train", "elsewhere/val"), 6),  # as if there were none: some of the training images
        (("pack/train/train", "pack/elsewhere/val"), 6),
    ],
)
def test_splits_under_their_usual_names(tmp_path, names, kept):
    split_folder(tmp_path / "made")
    for split, name in zip(("train", "val"), names):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "made" / split).rename(tmp_path / "set" / name)
    dataset = load(tmp_path / "set", image_size=16)
    assert dataset.classes == ("apple", "leaf", "sky")
    assert (len(dataset.train), len(dataset.val)) == ((21, 3) if kept == 3 else (18, 3))


def test_validation_images_are_preferred_to_test_images(tmp_path):
    root = split_folder(tmp_path)
    wanted = load(root).sha256
    add(root / "test" / "moon" / "a.png", 0)
    assert load(root).sha256 == wanted


def test_a_class_may_be_called_train(tmp_path):
    root = plain_folder(tmp_path)
    (root / "apple").rename(root / "train")
    assert load(root).classes == ("leaf", "sky", "train")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("train/0.png", "test/0.png"),
            "test, train: these names are not classes; .*train must hold",
        ),
        (("val/sky/0.png",), "val: these names are not classes"),
        (("train/a/0.png", "Training/a/0.png", "val/a/0.png"), "which of these should be used"),
        (("train/a/0.png", "val/a/0.png", "valid/a/0.png"), "which of these should be used"),
    ],
)
def test_splits_are_never_taken_for_classes(tmp_path, names, message):
    for name in names:
        add(tmp_path / name, 0)
    with pytest.raises(DatasetError, match=message):
        load(tmp_path)


def test_images_that_lie_loose_are_left_out_with_a_warning(tmp_path):
    plain_folder(tmp_path)
    add(tmp_path / "loose.png", 0)
    with pytest.warns(DatasetWarning, match=r"not in a class folder: loose\.png"):
        assert load(tmp_path).classes == ("apple", "leaf", "sky")


def test_a_folder_that_is_a_link_is_not_gone_into(tmp_path):
    plain_folder(tmp_path / "elsewhere")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "inside").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="symbolic link that leads out"):
        load(tmp_path / "set")


def test_class_names_do_not_depend_on_the_locale_or_on_how_accents_are_written(tmp_path, monkeypatch):
    root = split_folder(tmp_path)
    (root / "train" / "apple").rename(root / "train" / "caf\u00e9")
    (root / "val" / "apple").rename(root / "val" / "cafe\u0301")
    assert load(root).classes == ("caf\u00e9", "leaf", "sky")
    monkeypatch.setattr(folder.os, "fsencode", lambda name: name.encode("latin-1"))
    assert folder._class_name("gr\u00c3\u00bcn") == "gr\u00fcn"  # UTF-8 on the disk, read as Latin-1
    assert folder._class_name("gr\u00fcn") == "gr\u00fcn"  # Latin-1 on the disk


def test_other_files_are_left_out_with_a_warning(tmp_path):
    split_folder(tmp_path)
    (tmp_path / "train" / "sky" / "notes.txt").write_text("x")
    with pytest.warns(DatasetWarning, match=r"in a class folder: train/sky/notes\.txt"):
        assert len(load(tmp_path).train) == 21


def test_a_read_only_folder_is_read_into_memory(tmp_path, monkeypatch):
    split_folder(tmp_path)
    wanted = load(tmp_path, cache_dir=tmp_path.parent / "cache").sha256

    def read_only(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.warns(DatasetWarning, match="kept in memory"):
        assert load(tmp_path).sha256 == wanted


def test_links_inside_are_followed_and_links_that_leave_refused(tmp_path):
    root = split_folder(tmp_path / "root")
    (root / "train" / "sky" / "again.png").symlink_to(root / "train" / "sky" / "1.png")
    assert len(load(root).train) == 22
    secret = tmp_path / "secret.png"
    add(secret, (1, 2, 3))
    link = root / "train" / "sky" / "link.png"
    link.symlink_to(secret)
    with pytest.raises(DatasetError, match=r"link\.png: a symbolic link that leads out"):
        load(root)
    link.unlink()
    link.symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(DatasetError, match="symbolic link that leads out"):
        load(root)


def test_links_in_a_circle(tmp_path):
    root = split_folder(tmp_path)
    (root / "train" / "sky" / "up").symlink_to(root / "train", target_is_directory=True)
    with pytest.raises(DatasetError, match=r"form a cycle|directly in their class"):
        load(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "train" / "empty").mkdir(), r"train/empty: no images in this class folder"),
        (lambda root: (root / "val" / "empty").mkdir(), r"val/empty: no images in this class folder"),
        (lambda root: add(root / "val" / "moon" / "a.png", 0), r"val/moon: there is no class train/moon"),
        (lambda root: add(root / "train" / "sky" / "deep" / "a.png", 0), "must lie directly in their class"),
        (lambda root: (root / "train" / "sky" / "1.png").write_bytes(b"hello"), r"1\.png: not an image"),
        (lambda root: os.truncate(root / "train" / "sky" / "0.jpg", 500), r"0\.jpg: damaged image"),
    ],
)
def test_bad_folders(tmp_path, change, message):
    change(split_folder(tmp_path))
    with pytest.raises(DatasetError, match=message):
        load(tmp_path)
    assert not list((tmp_path / ".xnor_ref-packed").glob("*"))


def test_folders_that_are_none(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        load(tmp_path / "nowhere")
    (tmp_path / ".set.zip").write_bytes(b"PK")
    with pytest.raises(DatasetError, match="not a folder; unpack it"):
        load(tmp_path / ".set.zip")
    with pytest.raises(DatasetError, match="no class folders"):
        load(tmp_path)
    add(tmp_path / "single" / "a.png", 0)
    with pytest.raises(DatasetError, match="needs at least two"):
        load(tmp_path)


def test_options(tmp_path):
    for size in (7, 1025):
        with pytest.raises(InputError, match="from 8 to 1024"):
            load(tmp_path, image_size=size)
    for size in (64.0, True, "64"):
        with pytest.raises(InputTypeError, match="image_size must be an int"):
            load(tmp_path, image_size=size)
