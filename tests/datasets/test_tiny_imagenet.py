"""Tiny ImageNet from zip and folder, the right layout and every wrong one, and zips that mean harm."""

import errno
import io
import os
import shutil
import stat
import struct
import time
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from xnor_ref import datasets
from xnor_ref.datasets import DatasetWarning, tiny_imagenet
from xnor_ref.datasets.archives import Limits, ZipFiles
from xnor_ref.datasets.download import RemoteFile
from xnor_ref.errors import DatasetError, InputError

TOP = "tiny-imagenet-200/"
IDS = ["n01443537", "n02124075", "n00000001"]


def jpeg(colour, size=(64, 64), mode="RGB"):
    stream = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def colour(label, number):
    return (60 * label + 20, 20 * number, 128)


def layout():
    """Name -> content of a data set of three classes, in the official layout without its top folder."""
    files = {
        "wnids.txt": "\n".join(IDS) + "\n",
        "words.txt": "n00000000\tnothing\nn01443537\tgoldfish, Carassius auratus\nn02124075\tEgyptian cat\n",
    }
    annotations = []
    for label, wnid in enumerate(IDS):
        files[f"train/{wnid}/{wnid}_boxes.txt"] = "".join(f"{wnid}_{k}.JPEG\t0\t0\t63\t63\n" for k in range(4))
        for k in range(4):
            files[f"train/{wnid}/images/{wnid}_{k}.JPEG"] = jpeg(colour(label, k), mode="L" if k == 3 else "RGB")
        for k in range(2):
            files[f"val/images/val_{2 * label + k}.JPEG"] = jpeg(colour(label, k + 5))
            annotations.append(f"val_{2 * label + k}.JPEG\t{wnid}\t0\t32\t44\t62")
    files["val/val_annotations.txt"] = "\n".join(annotations) + "\n"
    files["test/images/test_0.JPEG"] = b"never read"
    return files


def write_zip(path, files, top=TOP, method=zipfile.ZIP_DEFLATED):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names given twice
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in files.items() if isinstance(files, dict) else files:
                archive.writestr(name if isinstance(name, zipfile.ZipInfo) else top + name, content)
    return path


def write_folder(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def load(data_dir, **options):
    return datasets.load("tiny-imagenet", data_dir=data_dir, **options)


def from_zip(tmp_path, files, **keywords):
    tmp_path.mkdir(exist_ok=True)
    return load(tmp_path / "data", archive=write_zip(tmp_path / "set.zip", files, **keywords))


def changed(**changes):
    """The layout with files replaced, or left out where None; double underscores stand for slashes in names."""
    files = {**layout(), **{name.replace("__", "/"): content for name, content in changes.items()}}
    return {name: content for name, content in files.items() if content is not None}


# The layout


def test_from_a_zip(tmp_path):
    dataset = from_zip(tmp_path, layout())
    assert dataset.classes == ("goldfish", "Egyptian cat", "n00000001")
    assert dataset.train.images.shape == (12, 64, 64, 3)
    assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset.val.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for label in range(3):
        for k in range(3):
            got = dataset.train.images[4 * label + k].astype(int)
            assert np.abs(got - colour(label, k)).max() <= 4
        grey = dataset.train.images[4 * label + 3]
        assert (grey[..., 0] == grey[..., 2]).all()
        assert np.abs(dataset.val.images[2 * label + 1].astype(int) - colour(label, 6)).max() <= 4


def test_zip_folder_and_order_of_entries_give_the_same(tmp_path):
    files = layout()
    wanted = from_zip(tmp_path, files).sha256
    backwards = write_zip(tmp_path / "b.zip", dict(reversed(files.items())), top="", method=zipfile.ZIP_STORED)
    assert load(tmp_path / "b", archive=backwards).sha256 == wanted
    folder = write_folder(tmp_path / "c" / "tiny-imagenet-200", files)
    for data_dir, archive in (
        (tmp_path / "c", None),
        (folder, None),
        (tmp_path / "d", folder),
        (tmp_path / "e", folder.parent),
    ):
        assert load(data_dir, archive=archive).sha256 == wanted
    nested = write_zip(tmp_path / "n.zip", files, top="some/" + TOP)
    assert load(tmp_path / "n", archive=nested).sha256 == wanted


@pytest.mark.parametrize("name", ["tiny-imagenet-200.zip", "tiny-imagenet-200 (1).zip", "tiny-imagenet-200(2).zip"])
def test_a_zip_in_the_data_folder_is_found(tmp_path, name):
    write_zip(tmp_path / name, layout())
    assert len(load(tmp_path).train) == 12


def test_one_more_folder_of_the_same_name_does_no_harm(tmp_path):
    folder = write_folder(tmp_path / "tiny-imagenet-200" / "tiny-imagenet-200", layout())
    wanted = load(tmp_path / "a", archive=folder).sha256
    assert load(tmp_path).sha256 == load(folder.parent).sha256 == wanted
    assert load(tmp_path / "b", archive=folder.parent).sha256 == load(tmp_path / "c", archive=tmp_path).sha256 == wanted


def test_a_byte_order_mark_is_passed_over(tmp_path):
    files = layout()
    wanted = from_zip(tmp_path, files)
    for name in ("wnids.txt", "words.txt", "val/val_annotations.txt"):
        marked = {**files, name: "\ufeff" + files[name]}
        assert from_zip(tmp_path / name.replace("/", "-"), marked).sha256 == wanted.sha256


def test_what_systems_leave_behind_is_not_seen_in_a_zip(tmp_path):
    wanted = from_zip(tmp_path, layout()).sha256
    files = layout() | {f"train/{IDS[0]}/images/{name}": b"x" for name in ("._a.JPEG", "Thumbs.db", "Icon\r")}
    files |= {f"__MACOSX/{TOP}._wnids.txt": b"x", ".DS_Store": b"x", f"train/{IDS[0]}/images/__MACOSX/b.JPEG": b"x"}
    assert from_zip(tmp_path / "b", files).sha256 == wanted


def test_the_packed_copy_is_used_again_and_outlives_its_source(tmp_path, monkeypatch):
    first = from_zip(tmp_path, layout())
    monkeypatch.setattr(tiny_imagenet, "scan", None)  # a second scan would fail
    assert load(tmp_path / "data", archive=tmp_path / "set.zip").sha256 == first.sha256
    shutil.copyfile(tmp_path / "set.zip", tmp_path / "moved.zip")
    assert load(tmp_path / "data", archive=tmp_path / "moved.zip").sha256 == first.sha256
    assert load(tmp_path / "data").sha256 == first.sha256


def test_two_archives_do_not_clash(tmp_path):
    first = from_zip(tmp_path, layout())
    smaller = write_zip(tmp_path / "small.zip", changed(**{f"train__{IDS[0]}__images__{IDS[0]}_0.JPEG": None}))
    assert len(load(tmp_path / "data", archive=smaller).train) == 11
    assert load(tmp_path / "data", archive=tmp_path / "set.zip").sha256 == first.sha256
    with pytest.raises(DatasetError, match="found 2 packed copies, but only one can be used"):
        load(tmp_path / "data")


def test_a_damaged_packed_copy_is_packed_again(tmp_path):
    first = from_zip(tmp_path, layout())
    (place,) = (tmp_path / "data" / "packed").iterdir()
    (place / "manifest.json").write_text("{}")
    with pytest.raises(DatasetError, match="found nothing"):
        load(tmp_path / "data")
    with pytest.warns(DatasetWarning, match="being prepared again"):
        assert load(tmp_path / "data", archive=tmp_path / "set.zip").sha256 == first.sha256


def test_fewer_classes_than_folders(tmp_path):
    dataset = from_zip(tmp_path, changed(**{"wnids.txt": f"{IDS[2]}\n{IDS[0]}\n"}))
    assert dataset.classes == ("n00000001", "goldfish")
    assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4
    assert dataset.val.labels.tolist() == [0, 0, 1, 1]


def test_names_are_optional_and_made_different(tmp_path):
    (tmp_path / "a").mkdir()
    assert from_zip(tmp_path / "a", changed(**{"words.txt": None})).classes == tuple(IDS)
    words = "".join(f"{wnid}\tcrane, a bird\n" for wnid in IDS[:2])
    classes = from_zip(tmp_path, changed(**{"words.txt": words})).classes
    assert classes == ("crane (n01443537)", "crane (n02124075)", "n00000001")


def test_other_files_are_ignored(tmp_path):
    wanted = from_zip(tmp_path, layout()).sha256
    extra = {"train/Thumbs.db": b"x", f"train/{IDS[0]}/images/.DS_Store": b"x", "readme.md": b"x", "val/val_x.txt": b""}
    archive = write_zip(tmp_path / "more.zip", {**layout(), **extra})
    assert load(tmp_path / "more", archive=archive).sha256 == wanted


IMAGE = f"train__{IDS[1]}__images__{IDS[1]}_2.JPEG"
ANNOTATIONS = "val__val_annotations.txt"


@pytest.mark.parametrize("packed_as", ["zip", "folder"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wnids.txt": None}, r"wnids\.txt: found none"),
        ({"wnids.txt": ""}, r"wnids\.txt: no class ids"),
        ({"wnids.txt": f"{IDS[0]}\n{IDS[0]}\n"}, r"wnids\.txt: a class id occurs twice"),
        ({"wnids.txt": f"{IDS[0]}\n../evil\n"}, r"wnids\.txt: '\.\./evil' is not a class id"),
        ({"wnids.txt": b"\xff\xfe\x00"}, r"wnids\.txt: not UTF-8"),
        ({"wnids.txt": "\n".join([*IDS, "n09999999"])}, r"train/n09999999/images: no images of this class"),
        ({f"train__{IDS[0]}__images__{IDS[0]}_{k}.JPEG": None for k in range(4)}, "no images of this class"),
        ({ANNOTATIONS: None}, r"val/val_annotations\.txt"),
        ({ANNOTATIONS: ""}, r"no line for the image 'val_0\.JPEG'"),
        ({ANNOTATIONS: "val_0.JPEG\tn09999999\t0\t0\t1\t1\n"}, "line 1: unknown class 'n09999999'"),
        ({ANNOTATIONS: "val_0.JPEG\n"}, "line 1: unknown class ''"),
        ({ANNOTATIONS: f"../../x.JPEG\t{IDS[0]}\n"}, r"line 1: val/images has no image '\.\./\.\./x\.JPEG'"),
        ({ANNOTATIONS: f"val_0.JPEG\t{IDS[0]}\n" * 2}, r"line 2: the image 'val_0\.JPEG' occurs twice"),
        ({"val__images__val_3.JPEG": None}, r"line 4: val/images has no image 'val_3\.JPEG'"),
        ({**{f"val__images__val_{k}.JPEG": None for k in range(6)}, ANNOTATIONS: ""}, "no validation images"),
        ({IMAGE: b""}, rf"{IDS[1]}_2\.JPEG: not an image"),
        ({IMAGE: b"\x89PNG\r\n\x1a\n"}, rf"{IDS[1]}_2\.JPEG: not an image"),
        ({IMAGE: jpeg("red")[:-200]}, rf"{IDS[1]}_2\.JPEG: damaged image"),
        ({IMAGE: jpeg("red", (64, 65))}, rf"{IDS[1]}_2\.JPEG: 64x65 pixels instead of 64x64"),
    ],
)
def test_wrong_layouts(tmp_path, packed_as, changes, message):
    files = changed(**changes)
    if packed_as == "zip":
        archive = write_zip(tmp_path / "set.zip", files)
    else:
        archive = write_folder(tmp_path / "set", files)
    with pytest.raises(DatasetError, match=message) as caught:
        load(tmp_path / "data", archive=archive)
    assert str(archive) in str(caught.value)
    assert not list((tmp_path / "data").glob("packed/*"))


def test_two_layouts_in_one_zip(tmp_path):
    files = layout()
    both = {**files, **{f"other/{name}": content for name, content in files.items()}}
    with pytest.raises(DatasetError, match="found 2 of them"):
        from_zip(tmp_path, both)


def test_links_that_leave_the_folder(tmp_path):
    root = write_folder(tmp_path / "set", layout())
    (tmp_path / "secret.JPEG").write_bytes(jpeg("red"))
    (root / "train" / IDS[0] / "images" / "x.JPEG").symlink_to(tmp_path / "secret.JPEG")
    with pytest.raises(DatasetError, match=r"x\.JPEG: a symbolic link that leads out"):
        load(tmp_path / "data", archive=root)


# Nothing there, and the download


def test_nothing_there(tmp_path):
    with pytest.raises(DatasetError) as caught:
        load(tmp_path / "nowhere")
    message = str(caught.value)
    for option in ("--archive PATH", "--data-dir DIR", "--download"):
        assert f"python cli.py train --tiny-imagenet {option}" in message
    assert str(tmp_path / "nowhere") in message
    assert not (tmp_path / "nowhere").exists()


def test_an_archive_that_is_not_there(tmp_path):
    with pytest.raises(DatasetError, match=r"no\.zip: no such archive"):
        load(tmp_path, archive=tmp_path / "no.zip")


def test_download_only_when_asked_and_only_when_needed(tmp_path, monkeypatch):
    asked = []

    def fetch(remote, target, progress):
        asked.append(remote)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_zip(target, layout())

    monkeypatch.setattr(tiny_imagenet, "fetch", fetch)
    remote = RemoteFile("http://127.0.0.1/x", 1, "0" * 32)
    data_dir = tmp_path / "data"
    assert len(load(data_dir, download=True, remote=remote).train) == 12
    assert len(load(data_dir, download=True, remote=remote).train) == 12
    assert len(load(data_dir).train) == 12
    assert asked == [remote]


def test_where_it_comes_from(monkeypatch):
    monkeypatch.delenv(tiny_imagenet.URL_VARIABLE, raising=False)
    assert tiny_imagenet._remote() == tiny_imagenet.OFFICIAL
    assert tiny_imagenet.OFFICIAL.size == 248_100_043
    monkeypatch.setenv(tiny_imagenet.URL_VARIABLE, "https://mirror/x.zip")
    assert tiny_imagenet._remote() == RemoteFile("https://mirror/x.zip", 248_100_043, tiny_imagenet.OFFICIAL.md5)
    monkeypatch.setenv(tiny_imagenet.URL_VARIABLE, f"http://mirror/y.zip 12 {'a' * 32}")
    assert tiny_imagenet._remote() == RemoteFile("http://mirror/y.zip", 12, "a" * 32)
    for wrong in ("http://x 12", "http://x twelve " + "a" * 32, "http://x 12 abc", "a b c d"):
        monkeypatch.setenv(tiny_imagenet.URL_VARIABLE, wrong)
        with pytest.raises(InputError, match=tiny_imagenet.URL_VARIABLE):
            tiny_imagenet._remote()


# Zips that mean harm


def entry(name, mode=None, **attributes):
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    if mode is not None:
        info.create_system, info.external_attr = 3, mode << 16
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (entry("../evil.txt"), r"'\.\./evil\.txt' is rejected: its name leads out"),
        (entry(TOP + "train/../../../evil.txt"), "leads out"),
        (entry("/etc/passwd"), "absolute path"),
        (entry("C:/evil.txt"), "drive letter"),
        (entry(TOP + "a\\..\\evil.txt"), "backslash"),
        (entry(TOP + "a//b.txt"), "empty part"),
        (entry(TOP + "./b.txt"), "empty part"),
        (entry(TOP + "a\nb"), "control character"),
        (entry(TOP + "a" * 600), "its name has"),
        (entry(TOP + "link", stat.S_IFLNK | 0o777), "symbolic link"),
        (entry(TOP + "device", stat.S_IFCHR | 0o666), "neither a file nor a folder"),
        (entry(TOP + "fifo", stat.S_IFIFO | 0o666), "neither a file nor a folder"),
        (entry(TOP + "wnids.txt"), "occurs twice"),
        (entry(TOP + "WNIDS.TXT"), "occurs twice"),
        (entry(TOP + "x.bz2", compress_type=zipfile.ZIP_BZIP2), "compression method 12"),
        (entry(TOP + "x.xz", compress_type=zipfile.ZIP_LZMA), "compression method 14"),
    ],
)
def test_hostile_entries(tmp_path, extra, message):
    files = [*((TOP + name, content) for name, content in layout().items()), (extra, b"content")]
    with pytest.raises(DatasetError, match=message) as caught:
        from_zip(tmp_path, files, top="")
    assert "set.zip" in str(caught.value)
    assert not list((tmp_path / "data").glob("packed/*"))


def patched(tmp_path, signature, offset, value, files=None):
    """A zip with bytes of its first record of a kind overwritten."""
    path = write_zip(tmp_path / "set.zip", files or layout())
    data = bytearray(path.read_bytes())
    at = data.index(signature) + offset
    data[at : at + len(value)] = value
    path.write_bytes(data)
    return path


CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"


def test_an_encrypted_entry(tmp_path):
    archive = patched(tmp_path, CENTRAL, 8, b"\x01\x00")
    with pytest.raises(DatasetError, match="is encrypted"):
        load(tmp_path / "data", archive=archive)


def test_a_name_with_a_nul(tmp_path):
    files = {"wnids.txtX": b"", **layout()}
    archive = write_zip(tmp_path / "set.zip", files)
    archive.write_bytes(archive.read_bytes().replace(b"wnids.txtX", b"wnids.txt\0"))
    with pytest.raises(DatasetError, match="control character"):
        load(tmp_path / "data", archive=archive)


def test_a_local_header_that_disagrees(tmp_path):
    archive = patched(tmp_path, LOCAL, 30, b"Tiny")
    with pytest.raises(DatasetError, match=r"wnids\.txt: damaged"):
        load(tmp_path / "data", archive=archive)


def test_changed_content_is_found_by_its_checksum(tmp_path):
    archive = write_zip(tmp_path / "set.zip", layout(), method=zipfile.ZIP_STORED)
    image = layout()[IMAGE.replace("__", "/")]
    data = archive.read_bytes()
    archive.write_bytes(data.replace(image, image[:-3] + bytes([image[-3] ^ 1]) + image[-2:]))
    with pytest.raises(DatasetError, match=rf"{IDS[1]}_2\.JPEG: damaged: Bad CRC"):
        load(tmp_path / "data", archive=archive)


@pytest.mark.parametrize("keep", [0, 10, 1000, -1, -30, -3000])
def test_zips_cut_short(tmp_path, keep):
    archive = write_zip(tmp_path / "set.zip", layout())
    data = archive.read_bytes()
    archive.write_bytes(data[:keep])
    with pytest.raises(DatasetError, match=r"set\.zip"):
        load(tmp_path / "data", archive=archive)


def test_random_damage_is_an_error_or_the_same_data(tmp_path):
    archive = write_zip(tmp_path / "set.zip", layout())
    wanted = load(tmp_path / "data", archive=archive).sha256
    data, rng = archive.read_bytes(), np.random.default_rng(0)
    for number in range(60):
        damaged = bytearray(data)
        # Half of them within the directory at the end, where the structure is.
        low = len(data) * 2 // 3 if number % 2 else 0
        for _ in range(3):
            damaged[int(rng.integers(low, len(data)))] ^= int(rng.integers(1, 256))
        archive.write_bytes(damaged)
        try:
            got = load(tmp_path / str(number), archive=archive)
        except DatasetError as error:
            assert "set.zip" in str(error)
        else:
            assert got.sha256 == wanted or set(got.classes) <= {*IDS, "goldfish", "Egyptian cat"}


def test_no_zip_at_all(tmp_path):
    (tmp_path / "set.zip").write_bytes(os.urandom(5000))
    with pytest.raises(DatasetError, match="not a zip archive"):
        load(tmp_path / "data", archive=tmp_path / "set.zip")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DatasetError, match="not a file"):
        load(tmp_path / "data", archive=tmp_path / "fifo")


def test_a_bomb_by_its_headers(tmp_path):
    with pytest.raises(DatasetError, match=r"'tiny-imagenet-200/words\.txt' is rejected: it unpacks from"):
        from_zip(tmp_path, changed(**{"words.txt": bytes(30_000_000)}))


def test_a_bomb_that_hides_its_size(tmp_path):
    """Headers say 100 bytes; what really comes is counted and checked."""
    path = write_zip(tmp_path / "set.zip", {"wnids.txt": bytes(30_000_000), **changed(**{"wnids.txt": None})})
    data = bytearray(path.read_bytes())
    for signature, offset in ((CENTRAL, 24), (LOCAL, 22)):
        struct.pack_into("<L", data, data.index(signature) + offset, 100)
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"wnids\.txt: "):
        load(tmp_path / "data", archive=path)


def test_many_small_bombs(tmp_path):
    """Each below the limit of one file, all together above that of the archive."""
    limits = Limits(total_bytes=3_000_000)
    archive = write_zip(tmp_path / "set.zip", {f"{k}.txt": os.urandom(10_000) + bytes(900_000) for k in range(5)})
    with ZipFiles(archive, limits) as files, pytest.raises(DatasetError, match="the limit is 3000000"):
        files.names()


def test_what_is_read_is_counted_whatever_the_headers_say(tmp_path):
    archive = write_zip(tmp_path / "set.zip", {"a.txt": os.urandom(900_000)}, top="")
    with ZipFiles(archive, Limits(total_bytes=1_000_000)) as files:
        assert len(files.read("a.txt")) == 900_000
        with pytest.raises(DatasetError, match=r"a\.txt: unpacks to more than the limit of 100000 bytes"):
            files.read("a.txt")


def test_entries_that_share_their_bytes(tmp_path):
    """One packed block under many names, as in the densest bombs; total size is counted per name."""
    path = write_zip(tmp_path / "set.zip", {f"{k:04}.txt": b"" for k in range(1, 1200)} | {"0000.txt": bytes(900_000)})
    data = bytearray(path.read_bytes())
    entries, at = [], data.index(CENTRAL)
    while data[at : at + 4] == CENTRAL:
        entries.append(at)
        at += 46 + struct.unpack_from("<H", data, at + 28)[0]
    source = entries[-1]
    for target in entries[:-1]:
        data[target + 16 : target + 28] = data[source + 16 : source + 28]  # checksum and both sizes
        data[target + 42 : target + 46] = data[source + 42 : source + 46]  # where the packed bytes lie
    path.write_bytes(data)
    with ZipFiles(path) as files, pytest.raises(DatasetError, match=r"set\.zip: unpacks from \d+ to 1080000000 bytes"):
        files.names()


def test_too_many_entries_are_refused_before_they_are_listed(tmp_path):
    archive = write_zip(tmp_path / "set.zip", {f"{k}.txt": b"" for k in range(50)})
    with pytest.raises(DatasetError, match="50 entries in a directory"):
        ZipFiles(archive, Limits(entries=49))
    with pytest.raises(DatasetError, match=r"limits are .* 1000 bytes"):
        ZipFiles(archive, Limits(directory_bytes=1000))
    data = bytearray(archive.read_bytes())
    at = data.index(b"PK\x05\x06")
    struct.pack_into("<HH", data, at + 8, 1, 1)  # a count that lies
    archive.write_bytes(data)
    with (
        ZipFiles(archive, Limits(entries=49)) as files,
        pytest.raises(DatasetError, match="50 entries; the limit is 49"),
    ):
        files.names()


def test_zip64_counts_are_seen(tmp_path):
    path = write_zip(tmp_path / "set.zip", {f"{k}.txt": b"" for k in range(50)})
    data = path.read_bytes()
    end = data.index(b"PK\x05\x06")
    length, start = struct.unpack_from("<LL", data, end + 12)

    def with_zip64(entries, length):
        record = struct.pack("<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, entries, entries, length, start)
        locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
        path.write_bytes(data[:end] + record + locator + data[end:])

    with_zip64(50, length)
    with ZipFiles(path) as files:
        assert len(files.names()) == 50
        assert files.identity()["bytes"] == len(data) + 76
    for entries, claimed, message in (
        (10**9, length, "1000000000 entries in a directory"),
        (50, 2**62, "a directory of 4611686018427387904 bytes"),
        (50, 10**6, "truncated"),
    ):
        with_zip64(entries, claimed)
        with pytest.raises(DatasetError, match=message):
            ZipFiles(path)


# Real archives


@pytest.mark.realdata
def test_real_five_classes(real_data, tmp_path):
    dataset = load(tmp_path, archive=real_data / "tiny-imagenet-5.zip")
    assert dataset.classes == ("Egyptian cat", "reel", "volleyball", "rocking chair", "lemon")
    assert dataset.train.images.shape == (200, 64, 64, 3)
    assert dataset.val.images.shape == (50, 64, 64, 3)
    assert np.bincount(dataset.train.labels).tolist() == [40] * 5
    with zipfile.ZipFile(real_data / "tiny-imagenet-5.zip") as archive:
        with archive.open("tiny-imagenet-200/train/n02124075/images/n02124075_0.JPEG") as file:
            wanted = np.asarray(Image.open(file).convert("RGB"))
        archive.extractall(tmp_path / "unpacked")
    assert any(np.array_equal(image, wanted) for image in dataset.train.images[:40])
    assert load(tmp_path / "unpacked").sha256 == dataset.sha256


@pytest.mark.realdata
@pytest.mark.soak
def test_real_hundred_classes(real_data, tmp_path):
    dataset = load(tmp_path, archive=real_data / "tiny-imagenet-100.zip")
    assert (len(dataset.train), len(dataset.val), dataset.num_classes) == (50_000, 5_000, 100)
    np.testing.assert_allclose(dataset.mean, (0.4774, 0.4453, 0.3979), atol=1e-4)
    start = time.monotonic()
    again = load(tmp_path, archive=real_data / "tiny-imagenet-100.zip")
    assert time.monotonic() - start < 2
    assert again.sha256 == dataset.sha256
    shutil.rmtree(tmp_path / "packed")  # 676 MB, which pytest would keep for a while


def test_a_zip_that_cannot_be_read_now_is_not_called_damaged(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "set.zip", layout())

    def unreadable(self, *arguments):
        raise OSError(errno.EIO, "Input/output error")

    with ZipFiles(path) as files:
        files.names()
        monkeypatch.setattr(zipfile.ZipExtFile, "read", unreadable)
        with pytest.raises(DatasetError, match=r"wnids\.txt: cannot be read: .*Input/output error"):
            files.read(f"{TOP}wnids.txt")
