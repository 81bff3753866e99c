"""Prepared copies: written whole or not at all, opened only when they are what they say, made again otherwise."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from xnor_ref.datasets import DatasetWarning, store, verify
from xnor_ref.errors import DatasetError, OutputError
from xnor_ref.storage import canonical_json, sha256_bytes

COUNTS = {"train": 20, "val": 6}
IDENTITY = {"kind": "made", "number": 1}


def blocks(split):
    rng = np.random.default_rng(len(split))
    for start in range(0, COUNTS[split], 8):
        n = min(8, COUNTS[split] - start)
        yield rng.integers(0, 256, (n, 4, 4, 3)).astype(np.uint8), np.arange(n, dtype=np.int64) % 2


def source(of=blocks, counts=COUNTS):
    return store.Source(("a", "b"), (4, 4, 3), counts, of)


def pack(folder, identity=IDENTITY, **keywords):
    return store.open_or_pack(folder, "made", identity, source, **keywords)


def refuse():
    raise AssertionError("packed again")


def place_of(folder):
    (place,) = (path for path in folder.iterdir() if not path.name.startswith("."))
    return place


def test_packed_then_mapped(tmp_path):
    calls = []
    first = pack(tmp_path / "deep" / "er", progress=lambda *call: calls.append(call))
    assert calls[0] == ("packing made train", 8, 20)
    assert calls[-1] == ("packing made val", 6, 6)
    again = store.open_or_pack(tmp_path / "deep" / "er", "made", IDENTITY, refuse)
    assert again.sha256 == first.sha256
    assert isinstance(again.train.images, np.memmap)
    assert not again.train.images.flags.writeable
    wanted = np.concatenate([images for images, _ in blocks("train")])
    assert np.array_equal(again.train.images, wanted)
    assert again.train.labels.tolist() == [*[0, 1] * 10]
    assert (again.mean, again.std) == (first.mean, first.std)
    verify(again)


def test_in_memory_gives_the_same_data_set(tmp_path, monkeypatch):
    packed = pack(tmp_path / "a")

    def read_only(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.warns(DatasetWarning, match="kept in memory"):
        memory = pack(tmp_path / "b")
    assert memory.sha256 == packed.sha256
    assert (memory.mean, memory.std, memory.classes) == (packed.mean, packed.std, packed.classes)
    assert not (tmp_path / "b").exists()


def test_different_identities_do_not_clash(tmp_path):
    pack(tmp_path)
    pack(tmp_path, {**IDENTITY, "number": 2})
    assert len(list(tmp_path.iterdir())) == 2


def write_manifest(place, manifest, sign=True):
    if sign:
        manifest.pop("digest", None)
        manifest["digest"] = sha256_bytes(canonical_json(manifest))
    (place / "manifest.json").write_text(json.dumps(manifest))


def edit(**changes):
    def damage(place):
        manifest = json.loads((place / "manifest.json").read_text())
        write_manifest(place, {**manifest, **changes})

    return damage


def cut(name):
    def damage(place):
        os.truncate(place / name, (place / name).stat().st_size - 1)

    return damage


def change_labels(place):
    path = place / "train-labels.npy"
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)


def change_header(place):
    path = place / "val-images.npy"
    path.write_bytes(path.read_bytes().replace(b"(6, 4, 4, 3)", b"(3, 8, 4, 3)"))


def object_array(place):
    path = place / "val-images.npy"
    path.write_bytes(path.read_bytes().replace(b"'|u1'", b"'|O' "))


def unsigned(place):
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["classes"] = ["b", "a"]
    write_manifest(place, manifest, sign=False)


DAMAGES = {
    "no manifest": (lambda place: (place / "manifest.json").unlink(), "No such file"),
    "bad JSON": (lambda place: (place / "manifest.json").write_text("{"), "not usable"),
    "deep JSON": (lambda place: (place / "manifest.json").write_text("[" * 10**5), "not usable"),
    "a list": (lambda place: (place / "manifest.json").write_text("[]"), "not usable"),
    "large manifest": (lambda place: (place / "manifest.json").write_text(" " * 5 * 2**20), "too large"),
    "other version": (edit(version=2), "version 2"),
    "other format": (edit(format="something"), "not usable"),
    "other identity": (edit(identity={}), "something else"),
    "other classes": (edit(classes=["b", "a"]), "its digest does not match"),
    "unsigned change": (unsigned, "digest"),
    "missing key": (edit(splits={}), "not usable"),
    "strange shape": (edit(shape=7), "not usable"),
    "images cut": (cut("train-images.npy"), "bytes instead of"),
    "labels cut": (cut("val-labels.npy"), "bytes instead of"),
    "images missing": (lambda place: (place / "val-images.npy").unlink(), "No such file"),
    "labels changed": (change_labels, "train-labels.npy was altered"),
    "other header": (change_header, "holds uint8"),
    "objects": (object_array, "not usable"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_copy_is_made_again(tmp_path, what):
    damage, message = DAMAGES[what]
    good = pack(tmp_path)
    damage(place_of(tmp_path))
    with pytest.warns(DatasetWarning, match=message):
        again = pack(tmp_path)
    assert again.sha256 == good.sha256
    verify(again)
    assert [path.name for path in tmp_path.iterdir()] == [place_of(tmp_path).name]
    store.open_or_pack(tmp_path, "made", IDENTITY, refuse)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_a_copy_that_cannot_be_read_now_is_left_alone(tmp_path, monkeypatch, number):
    pack(tmp_path)
    before = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*"))

    def unreadable(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store, "_read_manifest", unreadable)
    with pytest.raises(DatasetError, match=f"is not usable: {os.strerror(number)}"):
        pack(tmp_path)
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*")) == before


def test_a_file_or_dangling_link_in_its_place_is_replaced(tmp_path):
    pack(tmp_path)
    place = place_of(tmp_path)
    for make in (lambda: place.write_text("x"), lambda: place.symlink_to(tmp_path / "nowhere")):
        os.rename(place, tmp_path.parent / f"{tmp_path.name}-{time.monotonic_ns()}")
        make()
        with pytest.warns(DatasetWarning, match="being prepared again"):
            pack(tmp_path)
        assert place.is_dir()
        assert not place.is_symlink()


def test_changed_pixels_are_found_by_verify(tmp_path):
    pack(tmp_path)
    path = place_of(tmp_path) / "val-images.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    dataset = pack(tmp_path)  # opened without reading the pixels
    with pytest.raises(DatasetError, match="SHA-256"):
        verify(dataset)


@pytest.mark.parametrize("error", [DatasetError("bad image"), KeyboardInterrupt()])
def test_an_interrupted_pack_leaves_nothing(tmp_path, error):
    def broken(split):
        yield next(blocks(split))
        raise error

    with pytest.raises(type(error)):
        store.open_or_pack(tmp_path, "made", IDENTITY, lambda: source(broken))
    assert not list(tmp_path.iterdir())


def test_a_source_that_gives_too_few_images(tmp_path):
    with pytest.raises(DatasetError, match="gave 20 images but announced 21"):
        store.open_or_pack(tmp_path, "made", IDENTITY, lambda: source(counts={"train": 21, "val": 6}))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_while_writing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        pack(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_seen_before_writing(tmp_path, monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(OutputError, match="0 MB are free"):
        pack(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "packed").write_text("")
    with pytest.raises(OutputError, match="cannot prepare made"):
        pack(tmp_path / "packed")


def test_left_over_temporary_folders_go_when_they_are_old(tmp_path):
    pack(tmp_path)
    place = place_of(tmp_path)
    old, young = (tmp_path / f".{place.name}-{name}.part" for name in ("0ld", "y0ung"))
    for folder in (old, young):
        folder.mkdir()
        (folder / "train-images.npy").write_bytes(b"x")
    for path in (old / "train-images.npy", old):
        os.utime(path, (time.time() - 10**5,) * 2)
    (place / "manifest.json").unlink()
    with pytest.warns(DatasetWarning):
        pack(tmp_path)
    assert not old.exists()
    assert young.exists()


def test_packing_at_the_same_time(tmp_path):
    barrier, results = threading.Barrier(4), []

    def waiting(split):
        barrier.wait()  # nobody finishes before everybody has begun
        yield from blocks(split)

    def work():
        results.append(store.open_or_pack(tmp_path, "made", IDENTITY, lambda: source(waiting)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result.sha256 for result in results}) == 1
    assert len(results) == 4
    assert [path.name for path in tmp_path.iterdir()] == [place_of(tmp_path).name]
    for result in results:
        verify(result)


def test_a_killed_pack_is_not_taken_for_complete(tmp_path):
    code = f"""
import os, signal, sys
from pathlib import Path
import numpy as np
from xnor_ref.datasets import store

def blocks(split):
    if split == "val":
        os.kill(os.getpid(), signal.SIGKILL)
    yield np.zeros((20, 4, 4, 3), np.uint8), np.zeros(20, np.int64)

source = store.Source(("a", "b"), (4, 4, 3), {COUNTS!r}, blocks)
store.open_or_pack(Path({str(tmp_path)!r}), "made", {IDENTITY!r}, lambda: source)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    verify(pack(tmp_path))


def test_the_manifest_holds_what_the_docs_say(tmp_path):
    dataset = pack(tmp_path)
    manifest = json.loads((place_of(tmp_path) / "manifest.json").read_text())
    assert manifest["format"] == "xnor_ref packed data set"
    assert manifest["identity"] == IDENTITY
    assert manifest["sha256"] == dataset.sha256
    assert manifest["splits"]["train"]["count"] == 20
    pixels = np.ascontiguousarray(dataset.train.images).tobytes()
    assert manifest["splits"]["train"]["images"]["sha256"] == sha256_bytes(pixels)
