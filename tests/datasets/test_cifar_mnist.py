"""CIFAR-10's records and MNIST's idx files, whole and damaged."""

import gzip
import os
import shutil
import struct

import numpy as np
import pytest

from xnor_ref import datasets
from xnor_ref.datasets import cifar
from xnor_ref.errors import DatasetError

RECORD = 3073


def cifar_folder(root, records=3):
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]:
        data = rng.integers(0, 256, (records, RECORD)).astype(np.uint8)
        data[:, 0] %= 10
        (root / name).write_bytes(data.tobytes())
    return root


@pytest.mark.parametrize("sub", ["", "cifar-10-batches-bin", "cifar10", "cifar10/cifar10"])
def test_cifar_pixels_are_where_they_belong(tmp_path, sub):
    root = cifar_folder(tmp_path / sub)
    calls = []
    dataset = datasets.load("cifar10", data_dir=tmp_path, progress=lambda *call: calls.append(call))
    assert dataset.train.images.shape == (15, 32, 32, 3)
    assert dataset.val.images.shape == (3, 32, 32, 3)
    record = (root / "data_batch_2.bin").read_bytes()[RECORD : 2 * RECORD]
    assert dataset.train.labels[4] == record[0]
    for c, y, x in ((0, 0, 0), (0, 0, 31), (1, 2, 3), (2, 31, 31)):
        assert dataset.train.images[4, y, x, c] == record[1 + c * 1024 + y * 32 + x]
    assert dataset.classes[0] == "airplane"
    assert calls[-1] == ("reading cifar10", 6, 6)


def test_cifar_batches_of_different_lengths_and_own_names(tmp_path):
    cifar_folder(tmp_path)
    data = (tmp_path / "data_batch_1.bin").read_bytes()
    (tmp_path / "data_batch_3.bin").write_bytes(data[:RECORD])
    names = "".join(f"class {k}\n" for k in range(10)) + "\n"
    for encoding in ("utf-8", "utf-8-sig"):  # with a byte-order mark
        (tmp_path / "batches.meta.txt").write_text(names, encoding=encoding)
        dataset = datasets.load("cifar10", data_dir=tmp_path)
        assert len(dataset.train) == 13
        assert dataset.classes == tuple(f"class {k}" for k in range(10))


def set_label(path):
    data = bytearray(path.read_bytes())
    data[RECORD] = 10
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: os.truncate(root / "data_batch_4.bin", RECORD + 1), r"data_batch_4\.bin: 3074 bytes"),
        (lambda root: os.truncate(root / "test_batch.bin", 0), r"test_batch\.bin: 0 bytes"),
        (lambda root: (root / "data_batch_5.bin").unlink(), r"data_batch_5\.bin: no such file"),
        (lambda root: set_label(root / "data_batch_1.bin"), r"data_batch_1\.bin: record 1 has label 10"),
        (lambda root: (root / "batches.meta.txt").write_text("a\nb\n"), "ten different classes"),
        (lambda root: (root / "batches.meta.txt").write_bytes(b"\xff\xfe"), "not UTF-8"),
        (lambda root: ((root / "data_batch_2.bin").unlink(), (root / "data_batch_2.bin").mkdir()), "not a file"),
    ],
)
def test_bad_cifar(tmp_path, change, message):
    change(cifar_folder(tmp_path))
    with pytest.raises(DatasetError, match=message):
        datasets.load("cifar10", data_dir=tmp_path)


def test_a_cifar_file_too_large_to_read(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "_MAX_RECORDS", 2)
    with pytest.raises(DatasetError, match="the limit is 6146"):
        datasets.load("cifar10", data_dir=cifar_folder(tmp_path))


FILES = {
    "train-images-idx3-ubyte": (7, 28, 28),
    "train-labels-idx1-ubyte": (7,),
    "t10k-images-idx3-ubyte": (4, 28, 28),
    "t10k-labels-idx1-ubyte": (4,),
}


def idx(array, magic=None):
    magic = 0x0800 + array.ndim if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


def mnist_folder(root, zipped=True):
    root.mkdir(parents=True, exist_ok=True)
    for name, shape in FILES.items():
        array = np.random.default_rng(len(name)).integers(0, 256 if len(shape) > 1 else 10, shape).astype(np.uint8)
        data = idx(array)
        (root / f"{name}{'.gz' if zipped else ''}").write_bytes(gzip.compress(data) if zipped else data)
    return root


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mnist(tmp_path, name, zipped):
    mnist_folder(tmp_path / name, zipped)
    dataset = datasets.load(name, data_dir=tmp_path)
    assert dataset.name == name
    assert dataset.train.images.shape == (7, 28, 28, 1)
    assert dataset.channels == 1
    assert dataset.classes[1] == {"mnist": "1", "fashion-mnist": "Trouser"}[name]
    raw = np.random.default_rng(len("t10k-images-idx3-ubyte")).integers(0, 256, (4, 28, 28))
    assert np.array_equal(dataset.val.images[..., 0], raw)
    assert datasets.load(name, data_dir=tmp_path / name).sha256 == dataset.sha256  # the files' own folder will do


def test_mnist_as_unpackers_leave_it(tmp_path):
    wanted = datasets.load("mnist", data_dir=mnist_folder(tmp_path / "a")).sha256
    folder = mnist_folder(tmp_path / "b" / "mnist" / "mnist", zipped=False)
    for path in sorted(folder.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert datasets.load("mnist", data_dir=tmp_path / "b").sha256 == wanted


def test_its_own_folder_comes_first(tmp_path):
    mnist_folder(tmp_path)
    mnist_folder(tmp_path / "fashion-mnist")
    labels = np.full(7, 3, np.uint8)
    (tmp_path / "fashion-mnist" / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    assert datasets.load("fashion-mnist", data_dir=tmp_path).train.labels.tolist() == [3] * 7
    assert datasets.load("mnist", data_dir=tmp_path).train.labels.tolist() != [3] * 7


def put(name, data):
    return lambda root: (root / f"{name}.gz").write_bytes(gzip.compress(data))


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
ZEROS = np.zeros((7, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(IMAGES, b""), "ends within its header"),
        (put(IMAGES, b"\0\0\x08\x03\0\0"), "ends within its header"),
        (put(IMAGES, idx(ZEROS, 0x0801)), "starts with 0x00000801 instead of 0x00000803"),
        (put(LABELS, idx(np.zeros(7, np.uint8), 0x0803)), "starts with 0x00000803"),
        (put(IMAGES, idx(np.zeros((7, 27, 28), np.uint8))), "announces 7 x 27 x 28"),
        (put(IMAGES, idx(np.zeros((0, 28, 28), np.uint8))), "announces 0 x 28 x 28"),
        (put(IMAGES, struct.pack(">4I", 0x0803, 2**32 - 1, 28, 28)), "announces 4294967295"),
        (put(IMAGES, idx(ZEROS)[:-1]), "holds only 5487 bytes"),
        (put(IMAGES, idx(ZEROS) + b"x"), "holds more bytes"),
        (put(IMAGES, idx(ZEROS) + bytes(50_000_000)), "holds more bytes"),  # a bomb, not unfolded
        (put(LABELS, idx(np.full(7, 10, np.uint8))), "has the label 10"),
        (put(LABELS, idx(np.zeros(6, np.uint8))), "holds 7 images, but .* 6 labels"),
        (lambda root: (root / f"{LABELS}.gz").unlink(), rf"{LABELS}\[\.gz\]: no such file"),
        (lambda root: (root / f"{IMAGES}.gz").write_bytes(b"no gzip"), "damaged"),
        (lambda root: os.truncate(root / f"{IMAGES}.gz", 900), "damaged"),
    ],
)
def test_bad_mnist(tmp_path, change, message):
    change(mnist_folder(tmp_path))
    with pytest.raises(DatasetError, match=message):
        datasets.load("mnist", data_dir=tmp_path)


def test_a_changed_byte_inside_the_gzip(tmp_path):
    path = mnist_folder(tmp_path) / f"{IMAGES}.gz"
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # its checksum
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="damaged"):
        datasets.load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "mnist", "fashion-mnist"])
def test_nothing_there(tmp_path, name):
    with pytest.raises(DatasetError) as caught:
        datasets.load(name, data_dir=tmp_path / "nowhere")
    message = str(caught.value)
    assert str(tmp_path / "nowhere") in message
    assert f"python cli.py train --dataset {name} --data-dir DIR" in message


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "train", "val", "mean"),
    [
        ("cifar10", 8068, 1017, (0.4930, 0.4834, 0.4469)),
        ("mnist", 60000, 10000, (0.1307,)),
        ("fashion-mnist", 60000, 10000, (0.2860,)),
    ],
)
def test_real_files(real_data, name, train, val, mean):
    dataset = datasets.load(name, data_dir=real_data)
    assert (len(dataset.train), len(dataset.val)) == (train, val)
    np.testing.assert_allclose(dataset.mean, mean, atol=1e-4)  # the known values of the official sets
    assert set(np.unique(dataset.val.labels)) == set(range(10))


@pytest.mark.realdata
def test_a_real_file_cut_short(real_data, tmp_path):
    for path in (real_data / "cifar-10-batches-bin").iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    os.truncate(tmp_path / "data_batch_3.bin", 3_125_000)
    with pytest.raises(DatasetError, match=r"data_batch_3\.bin: 3125000 bytes"):
        datasets.load("cifar10", data_dir=tmp_path)
