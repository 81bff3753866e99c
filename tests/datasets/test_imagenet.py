"""ImageNet: every layout, the store, crops."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zlib
from functools import cache

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY
from tests.datasets import imagenet_trees as trees
from xnor_ref import datasets
from xnor_ref.bench.training import train_worker
from xnor_ref.cli import main
from xnor_ref.datasets import AugmentSpec, DatasetWarning
from xnor_ref.datasets.batches import make_batch, table_of
from xnor_ref.datasets.imagenet import load as loading
from xnor_ref.datasets.imagenet import shards
from xnor_ref.datasets.imagenet.layout import Layout
from xnor_ref.datasets.imagenet.mat5 import read_structs
from xnor_ref.datasets.imagenet.photos import Crops, decoded
from xnor_ref.datasets.imagenet.stand_in import draw_photos
from xnor_ref.datasets.images import load_photo
from xnor_ref.errors import DatasetError, InputError, OutputError
from xnor_ref.training.settings.resolve import resolve

pytest.importorskip("scipy", reason="meta.mat of the trees is written by SciPy: pip install 'xnor_ref[test]'")
SIZE = 32
AUGMENT = AugmentSpec(None, flip=True)


@cache
def photos():
    return trees.photos(train=2, val=1)


def load(root, **options):
    return datasets.load("imagenet", data_dir=root, **{"image_size": SIZE, **options})


@pytest.fixture(scope="module")
def by_folders(tmp_path_factory):
    return load(trees.folders(tmp_path_factory.mktemp("imagenet"), photos()))


@pytest.mark.parametrize("in_place", [False, True])
def test_all_layouts_hold_the_same_data_set(tmp_path, in_place):
    found = [load(make(tmp_path / make.__name__, photos()), in_place=in_place) for make in trees.LAYOUTS]
    first = found[0]
    assert (len(first.train), len(first.val), first.num_classes) == (40, 20, 20)
    assert first.train.labels.tolist() == np.repeat(np.arange(20), 2).tolist()
    synsets = [synset.decode() for synset in photos()["labels"].values()]
    assert [trees.SYNSETS[label] for label in first.val.labels] == synsets
    assert first.classes[:5] == ("thing 0", "thing 1", "thing 2", "crane (n02000003)", "crane (n02000004)")
    for other in found[1:]:
        assert (other.sha256, other.classes, other.mean, other.std) == (
            *(first.sha256, first.classes, first.mean, first.std),
        )
        assert np.array_equal(other.train.images[:14], first.train.images[:14])
    for make, dataset in zip(trees.LAYOUTS, found):
        datasets.verify(dataset)
        assert load(tmp_path / make.__name__, in_place=in_place).sha256 == dataset.sha256
        assert any((tmp_path / make.__name__ / "packed").glob("*/train-*.jpegs")) == (not in_place)


def test_indexing_is_that_of_an_array(by_folders):
    images = by_folders.train.images
    whole = images[:]
    assert images.shape == whole.shape == (40, SIZE, SIZE, 3) and whole.dtype == images.dtype
    assert np.array_equal(images[-1], whole[-1])
    assert np.array_equal(images[np.array([5, 1, 5])], whole[[5, 1, 5]])
    assert np.array_equal(images[whole[:, 0, 0, 0] > 99], whole[whole[:, 0, 0, 0] > 99])
    assert np.array_equal(images.subset(np.array([7, 3]))[:], whole[[7, 3]])
    for wrong, error in ((40, IndexError), ([[1]], InputError), ([40], InputError), ([0.5], InputError)):
        with pytest.raises(error):
            images[wrong]
    with pytest.raises(InputError, match="not all decoded at once"):
        np.asarray(images)


def test_a_line_is_no_photo():
    with pytest.raises(DatasetError, match="line: 2x200 pixels are too narrow"):
        decoded(trees.photo(1, 2, 200), "line", 256)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_photos_of_every_kind(tmp_path):
    kinds = {
        "cmyk": trees.photo(1, 60, 40, "CMYK"),
        "grey": trees.photo(2, 60, 40, "L"),
        "turned": trees.photo(3, 60, 40, exif=trees.exif(6)),
        "png": trees.photo(4, 60, 40, kind="PNG"),
        "metadata": trees.photo(6, 60, 40, exif=b"Exif\0\0II*\0\xff\xff\xff\x7fnothing"),
        "large": trees.photo(5, 1500, 1000),
    }
    for name, data in kinds.items():
        photo, _ = decoded(data, name, 40)
        assert photo.size == ((40, 60) if name == "turned" else (60, 40)), name
        path = tmp_path / f"{name}.JPEG"
        path.write_bytes(data)
        middle = photo.crop((0, 10, 40, 50) if name == "turned" else (10, 0, 50, 40)).convert("RGB")
        difference = np.abs(np.asarray(middle, np.int16) - load_photo(path, 40))
        assert difference.mean() < (3 if name == "large" else 0.1), name
        small = shards.small(data, name)
        with Image.open(io.BytesIO(small)) as stored:
            assert stored.format == "JPEG" and min(stored.size) == (256 if name == "large" else 40)
        assert (small == data) == (name in ("grey", "metadata"))


def test_the_same_crops_for_any_threads_batches_and_order(by_folders):
    images, lut = by_folders.train.images, table_of(by_folders)

    def batch(indices, **options):
        return make_batch(images, np.array(indices), lut, **{"seed": 3, "epoch": 5, "augment": AUGMENT, **options})

    whole = batch(range(12), threads=1)
    assert np.array_equal(batch(range(12), threads=2), whole)
    assert np.array_equal(np.concatenate([batch(range(6, 12)), batch(range(6))]), np.roll(whole, 6, axis=0))
    assert not np.array_equal(batch(range(12), epoch=6), whole)
    assert not np.array_equal(batch(range(12), seed=4), whole)
    assert np.array_equal(batch([3], augment=None), make_batch(images[3:4], np.zeros(1, np.int64), lut))
    assert np.array_equal(batch(range(12), backend="reference"), whole)


@pytest.mark.parametrize("crops", [Crops(), Crops("random", 480), Crops("resized")], ids=str)
def test_crops_lie_in_the_photo_and_reach_all_of_it(crops):
    rng = np.random.default_rng(0)
    for width, height in ((256, 256), (341, 256), (256, 1000)):
        boxes = np.array([crops.box(width, height, 224, rng.random) for _ in range(300)])
        assert boxes.min() >= -1e-9 and (boxes[:, 2] <= width + 1e-9).all() and (boxes[:, 3] <= height + 1e-9).all()
        assert boxes[:, 0].min() < width / 20 and boxes[:, 2].max() > width * 0.95
        sides = boxes[:, 2:] - boxes[:, :2]
        if crops.kind == "random":
            assert np.allclose(sides[:, 0], sides[:, 1]) and sides.max() <= 224
            assert sides.min() == 224 if crops.scale_to == 256 else 119 < sides.min() < 125
        else:
            share, ratio = sides.prod(axis=1) / (width * height), sides[:, 0] / sides[:, 1]
            assert 0.079 < share.min() and 0.74 < ratio.min() < ratio.max() < 1.34


def test_a_random_crop_is_a_part_of_the_photo(tmp_path):
    files = draw_photos(tmp_path, 3)
    images = loading.Photos(files, 224, Crops())
    photo = np.asarray(decoded(files.read(0), "", 256)[0])
    crop = images.random_crops(np.array([0]), 0, 0)[0]
    windows = np.lib.stride_tricks.sliding_window_view(photo[:, :, 0], (224, 224))
    assert any(np.array_equal(window, crop[:, :, 0]) for window in windows.reshape(-1, 224, 224))
    assert np.array_equal(images[0], photo[16:240, 58:282])


# --- the store -------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from xnor_ref import datasets
from xnor_ref.datasets.imagenet import shards
shards.PHOTOS_OF_A_SHARD = 8
def progress(what, done, total):
    if what == "preparing imagenet train" and done == 24:
        os.kill(os.getpid(), signal.SIGKILL)
datasets.load("imagenet", data_dir=Path(sys.argv[1]), progress=progress)
"""


def test_a_killed_process_leaves_what_it_had_done(tmp_path, monkeypatch, by_folders):
    trees.folders(tmp_path, photos())
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=REPOSITORY)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "packed").iterdir() if path.is_dir()] == [".imagenet.part"]
    monkeypatch.setattr(shards, "PHOTOS_OF_A_SHARD", 8)
    made = []
    small = shards.small
    monkeypatch.setattr(shards, "small", lambda data, what: made.append(what) or small(data, what))
    again = load(tmp_path)
    assert len(made) == 40 + 20 - 24
    assert np.array_equal(again.train.images[:], by_folders.train.images[:])
    assert (again.mean, again.classes) == (by_folders.mean, by_folders.classes)
    (place,) = (tmp_path / "packed").glob("[!.]*")
    assert sorted(path.suffix for path in place.iterdir()) == [".jpegs"] * 8 + [".json"] * 9 + [".npz"] * 2


def test_damaged_photos_are_named_and_nothing_is_done_twice(tmp_path, monkeypatch):
    trees.folders(tmp_path, photos())
    monkeypatch.setattr(shards, "PHOTOS_OF_A_SHARD", 8)
    bad = tmp_path / "train" / trees.SYNSETS[9] / f"{trees.SYNSETS[9]}_5.JPEG"
    good = bad.read_bytes()
    bad.write_bytes(good[: len(good) // 2])
    with pytest.raises(DatasetError, match=rf"photos that cannot be used: 1\.(.|\n)*{bad.stem}\.JPEG: damaged image"):
        load(tmp_path)
    bad.write_bytes(good)
    made = []
    small = shards.small
    monkeypatch.setattr(shards, "small", lambda data, what: made.append(what) or small(data, what))
    whole = load(tmp_path)
    assert len(whole.train) == 40 and len(made) == 8
    (tmp_path / "val" / "ILSVRC2012_val_00000020.JPEG").unlink()  # another store, of the same shards but the last
    fewer = load(tmp_path)
    assert len(made) == 8 + 3 and len(fewer.val) == 19
    assert np.array_equal(fewer.train.images[:], whole.train.images[:])
    assert np.array_equal(fewer.val.images[:], whole.val.images[:19])


def test_a_damaged_photo_that_is_read_in_place_is_named(tmp_path):
    root = trees.folders(tmp_path, photos())
    dataset = load(root, in_place=True)
    bad = root / "val" / "ILSVRC2012_val_00000003.JPEG"
    bad.write_bytes(b"\xff\xd8\xff" + bytes(len(bad.read_bytes()) - 3))
    with pytest.raises(DatasetError, match=r"val_00000003\.JPEG: damaged image"):
        dataset.val.images[:5]
    bad.unlink()
    with pytest.raises(DatasetError, match=r"val_00000003\.JPEG: cannot be read"):
        dataset.val.images[:5]


def test_a_store_is_checked_and_lives_without_its_source(tmp_path):
    root = trees.folders(tmp_path, photos())
    dataset = load(root)
    (place,) = (root / "packed").glob("imagenet-*")
    shard = place / "val-00000.jpegs"
    data = shard.read_bytes()
    for part in ("train", "val"):
        (root / part).rename(root / f"old-{part}")
    assert load(root).sha256 == dataset.sha256
    shard.write_bytes(data[:-1] + b"x")
    with pytest.raises(DatasetError, match="delete its folder"):
        datasets.verify(load(root))
    for part in ("train", "val"):
        (root / f"old-{part}").rename(root / part)
    shard.write_bytes(data[:-1])
    with pytest.warns(DatasetWarning, match="another size"):
        assert load(root).sha256 == dataset.sha256
    manifest = json.loads((place / "manifest.json").read_bytes())
    (place / "manifest.json").write_text(json.dumps({**manifest, "mean": [0, 0, 0]}))
    with pytest.warns(DatasetWarning, match="does not match"):
        assert load(root).mean == dataset.mean


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    root = trees.folders(tmp_path / "images", photos())
    wanted = load(root, in_place=True, store_dir=tmp_path / "elsewhere")
    assert not (root / "packed").exists()

    def refuse(*_):
        raise OutputError("cannot prepare imagenet") from PermissionError(13, "Permission denied")

    monkeypatch.setattr(loading, "make", refuse)
    with pytest.warns(DatasetWarning, match="listed anew"):
        assert load(root, in_place=True).sha256 == wanted.sha256
    with pytest.raises(OutputError):
        load(root)


# --- what is missing, damaged or hostile -----------------------------------------------------------------------


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(DatasetError) as error:
        load(tmp_path)
    assert error.value.exit_code == 3
    for part in (
        "ILSVRC2012_img_train.tar",
        "ILSVRC2012_img_val.tar",
        "ILSVRC2012_devkit_t12.tar.gz",
        "does not download",
    ):
        assert part in str(error.value)
    root = trees.folders(tmp_path, photos())
    (root / "ILSVRC2012_devkit_t12" / "data" / "meta.mat").unlink()
    with pytest.raises(
        DatasetError, match=r"labels of the validation images(.|\n)*of these only .*ground_truth\.txt is there"
    ):
        load(root)
    with pytest.raises(DatasetError, match="no such folder"):
        load(tmp_path / "nowhere")


def test_lists_that_do_not_fit(tmp_path):
    root = trees.folders(tmp_path, photos())
    truth = root / "ILSVRC2012_devkit_t12" / "data" / trees.TRUTH
    lines = truth.read_text().split()
    for changed, fault in ((lines[:-1], "none for this image"), (["99", *lines[1:]], "line 1: '99' is no class")):
        truth.write_text("\n".join(changed))
        with pytest.raises(DatasetError, match=fault):
            load(root)


@pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"])
def test_damaged_archives_are_named(tmp_path, name):
    path = trees.archives(tmp_path, photos()) / name
    data = path.read_bytes()
    at = data.find(b"ustar", 1000) if path.suffix == ".tar" else 1000  # of the header of another entry
    for damaged in (data[: len(data) // 2], data[:at] + b"x" * 300 + data[at + 300 :], b"", b"no tar" * 1000):
        path.write_bytes(damaged)
        try:
            load(tmp_path, store_dir=tmp_path / "store")
        except DatasetError as error:
            assert name in str(error)
        else:
            pytest.fail("it was taken")


def test_a_link_in_an_archive_and_a_devkit_that_unpacks_to_too_much(tmp_path):
    root = trees.archives(tmp_path, photos())
    info = tarfile.TarInfo("ILSVRC2012_val_00000001.JPEG")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    val = root / "ILSVRC2012_img_val.tar"
    with tarfile.open(val, "a") as tar:
        tar.addfile(info)
    with pytest.raises(DatasetError, match=r"val_00000001\.JPEG: not a plain file"):
        load(root)
    packing = zlib.compressobj(wbits=31)
    block = bytes(2**20)
    bomb = b"".join(packing.compress(block) for _ in range(80)) + packing.flush()
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(bomb)
    with pytest.raises(DatasetError, match="unpacks to more than"):
        load(root)


def test_options_out_of_range(tmp_path):
    for options in ({"image_size": 225}, {"image_size": 513, "in_place": True}, {"scale_to": 300, "crop": "resized"}):
        with pytest.raises(InputError):
            load(tmp_path, **options)
    assert resolve({"dataset": "imagenet", "model": "resnet18"}).scale_to == 480
    assert resolve({"dataset": "imagenet", "model": "resnet18", "crop": "resized"}).scale_to is None
    assert resolve({"dataset": "imagenet", "faithful": "allenai"}).batch_size == 800


# --- meta.mat --------------------------------------------------------------------------------------------------

FIELDS = ("ILSVRC2012_ID", "WNID", "words")


@pytest.mark.parametrize("compressed", [False, True])
def test_meta_mat_reads_as_scipy_reads_it(compressed):
    from scipy.io import loadmat

    data = trees.meta_mat(compressed)
    found = read_structs(data, "synsets", FIELDS, "meta.mat")
    wanted = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
    assert len(found) == len(wanted) == 21
    for one, other in zip(found, wanted):
        assert (one["ILSVRC2012_ID"][0], one["WNID"], one["words"]) == tuple(other[field] for field in FIELDS)


def test_damaged_meta_mat():
    data = trees.meta_mat(False)
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        for at in rng.integers(124, len(data), 3):
            damaged[at] = rng.integers(0, 256)
        cut = bytes(damaged)[: rng.integers(100, len(data))] if rng.random() < 0.3 else bytes(damaged)
        try:
            read_structs(cut, "synsets", FIELDS, "meta.mat")
        except DatasetError as error:
            assert str(error).startswith("meta.mat: cannot be read as a MATLAB 5 file")
    for name, fields, fault in (
        ("other", FIELDS, "no variable"),
        ("synsets", ("x",), "no field"),
        ("first", (), "struct"),
    ):
        with pytest.raises(DatasetError, match=fault):
            read_structs(data, name, fields, "meta.mat")
    bomb = data[:128] + np.array([15, 100_000], "<u4").tobytes() + zlib.compress(bytes(80 * 2**20))
    with pytest.raises(DatasetError, match="unpacks to more"):
        read_structs(bomb + bytes(100_000), "synsets", FIELDS, "meta.mat")


# --- many photos -----------------------------------------------------------------------------------------------


def test_listing_an_archive_keeps_little(tmp_path):
    inner = trees.tar_of({f"{trees.SYNSETS[0]}_{n}.JPEG": b"x" for n in range(1000)})
    root = trees.archives(tmp_path, photos())
    train = trees.tar_of({f"{synset}.tar": inner for synset in trees.SYNSETS[:2]})
    (root / "ILSVRC2012_img_train.tar").write_bytes(train)
    tracemalloc.start()
    try:
        with pytest.warns(DatasetWarning, match="18 validation images of classes without training images"):
            listed = Layout(root).scan()
        assert len(listed.train) == 2000 and tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_photos(tmp_path):
    tracemalloc.start()
    try:
        dataset = datasets.stand_in("imagenet", tmp_path)
        after, most = tracemalloc.get_traced_memory()
        assert len(dataset.train) == 1_281_167 and after < 100 * 1_281_167 and most < 2 * after
        tracemalloc.reset_peak()
        make_batch(dataset.train.images, np.arange(3) + 1_200_000, table_of(dataset), augment=AUGMENT)
        assert tracemalloc.get_traced_memory()[1] - after < 20 * 2**20
    finally:
        tracemalloc.stop()
    assert os.listdir(tmp_path) == ["drawn.jpegs"]


# --- training and experiments ----------------------------------------------------------------------------------


def test_a_run_from_the_archives_to_the_report(tmp_path, capsys):
    root, out = trees.archives(tmp_path / "images", photos()), str(tmp_path / "run")
    options = ["--data-dir", str(root), "--quiet"]
    said = ["--dataset", "imagenet", "--image-size", "32", "--model", "lenet5", "--epochs", "1", "--batch-size", "8"]
    assert main(["train", *said, "--limit-train", "24", "--crop", "resized", "--out", out, *options]) == 0
    assert "disagree: 0 of 20" in capsys.readouterr().out
    assert main(["evaluate", out, *options]) == 0
    packed = [f"{out}/model.safetensors", "--limit-val", "7"]
    assert main(["evaluate", *packed, *options]) == 0
    assert "on 7 validation images of imagenet" in capsys.readouterr().out
    assert main(["train", *said, "--data-dir", str(tmp_path / "nowhere")]) == 3


def test_what_a_table_costs_is_said_without_the_images(tmp_path, capsys):
    options = ["--dataset", "imagenet", "--data-dir", str(tmp_path), "--model", "lenet5", "--image-size", "32"]
    asked = [
        "reproduce",
        "table1",
        *options,
        "--rows",
        "xnor",
        "--dry-run",
        "--out",
        str(tmp_path),
        "--quiet",
        "--json",
    ]
    assert main([*asked, "--machines", "4,1000"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert run["images"] == 16 * (1_281_167 // 512) * 512
    steps, few, many = run["images"] / 512, run["on_machines"]["4"], run["on_machines"]["1000"]
    assert run["seconds"] / 4 < few < run["seconds"] / 4 + steps  # of a small network: milliseconds a step
    assert many - run["seconds"] / 1000 == pytest.approx((few - run["seconds"] / 4) * (2 * 0.999) / 1.5)
    assert os.listdir(tmp_path) == []
    for wrong in (["--machines", "1"], ["--machines", "two"]):
        assert main([*asked, *wrong]) == 2


def test_a_bench_decodes_jpegs():
    task = train_worker.Task("shapes-net", size=32, classes=10, batch=4, threads=1)
    trainer = train_worker.Ours(task, "fp32", {}, jpegs=True)
    assert isinstance(trainer.data.train.images, loading.Photos) and len(trainer.data.train) == 16
    images, labels = trainer.batch(0, 0)
    train_worker._settings.close()
    assert images.shape == (4, 3, 32, 32) and labels.max() < 10 and trainer.data_seconds > 0


@pytest.mark.soak
def test_crops_a_second(tmp_path):
    """At least 250 a second of processor time, from JPEGs as a store has them."""
    dataset = datasets.stand_in("imagenet", tmp_path, train=1000, val=1)
    lut, seconds = table_of(dataset), []
    for epoch in range(6):
        start = time.process_time()
        make_batch(dataset.train.images, np.arange(64), lut, epoch=epoch, augment=AUGMENT, threads=1)
        seconds.append(time.process_time() - start)
    rate = 64 / min(seconds)
    print(f"{rate:.0f} crops of 224 a second and processor")
    assert rate > 250
