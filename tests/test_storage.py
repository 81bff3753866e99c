"""Atomic writes, and the checked tensor file that models and checkpoints are kept in."""

import errno
import json
import os
import resource
import stat
import struct
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from xnor_ref import storage
from xnor_ref.errors import InputError, InputTypeError, ModelFileError, OutputError, UnreadableError
from xnor_ref.storage import canonical_json, load_tensors, save_tensors, write_atomically

REPOSITORY = Path(__file__).resolve().parent.parent
TENSORS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4) - 5,
    "a.bits": np.array([[2**64 - 1, 1], [0, 3]], np.uint64),
    "step": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.uint8),
    "flag": np.array([True, False]),
    "double": np.array([1e-300, -0.0, 5e-324]),
}
DESCRIPTION = {"format": "test file", "version": 1, "name": "é", "rate": 1e-5, "list": [1, None, True]}


def load(path, **options):
    return load_tensors(path, **{"expect_format": "test file", "max_version": 1, **options})


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "file.safetensors"
    save_tensors(path, TENSORS, DESCRIPTION)
    return path


def refused(path, pattern=None, **options):
    """The file is refused with a message that begins with its path and matches."""
    with pytest.raises(ModelFileError, match=pattern) as caught:
        load(path, **options)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


# write_atomically


def leftovers(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("."))


def test_writes_bytes_and_replaces(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"one")
    write_atomically(str(path), lambda file: file.write(b"two") and None)
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_new_files_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_longest_file_name(tmp_path):
    path = tmp_path / ("x" * 255)
    write_atomically(path, b"long")
    assert path.read_bytes() == b"long"


def test_symbolic_link_stays_and_its_target_is_replaced(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_atomically(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder", "not a regular file"),
        ("pipe", "not a regular file"),
        ("missing/file", "does not exist"),
        ("plain/file", "not a folder"),
        ("x" * 256, "too long"),
        ("a\0b", "NUL"),
    ],
)
def test_impossible_targets(tmp_path, name, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain").write_bytes(b"plain")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match=reason):
        write_atomically(os.path.join(tmp_path, name), b"data")
    assert (tmp_path / "plain").read_bytes() == b"plain"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert leftovers(tmp_path) == []


def test_devices_are_never_replaced():
    with pytest.raises(OutputError, match="not a regular file"):
        write_atomically("/dev/null", b"data")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_failing_disk_leaves_the_old_file(tmp_path, monkeypatch, step, code):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(storage.os, step, fail)
    with pytest.raises(OutputError, match=os.strerror(code)) as caught:
        write_atomically(path, b"new")
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old" and leftovers(tmp_path) == []


def test_folder_that_cannot_be_flushed(tmp_path, monkeypatch):
    real, calls = os.fsync, []

    def fail_on_folder(code):
        def fsync(descriptor):
            calls.append(descriptor)
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(code, os.strerror(code))
            real(descriptor)

        return fsync

    monkeypatch.setattr(storage.os, "fsync", fail_on_folder(errno.EINVAL))  # a file system that has no such thing
    write_atomically(tmp_path / "file", b"one")
    assert len(calls) == 2
    monkeypatch.setattr(storage.os, "fsync", fail_on_folder(errno.EIO))
    with pytest.raises(OutputError, match="is written, but"):
        write_atomically(tmp_path / "file", b"two")
    assert (tmp_path / "file").read_bytes() == b"two"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("x"), ModelFileError("x")])
def test_interrupted_writer_leaves_nothing(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        write_atomically(path, write)
    assert path.read_bytes() == b"old" and leftovers(tmp_path) == []


FULL_DISK = """
import resource, sys
from xnor_ref.errors import OutputError
from xnor_ref.storage import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    write_atomically(sys.argv[1], bytes(1_000_000))
except OutputError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_limit_on_file_size(tmp_path):
    """The kernel itself refuses the bytes, as it does when the disk is full."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 7, result.stderr
    assert result.stdout == f"cannot write {path}: File too large\n"
    assert path.read_bytes() == b"old" and leftovers(tmp_path) == []


@contextmanager
def not_root():
    """Without the right to ignore permissions, which root has."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_folder_without_write_permission(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    tmp_path.chmod(0o555)
    try:
        with not_root(), pytest.raises(OutputError, match="Permission denied"):
            write_atomically(path, b"new")
    finally:
        tmp_path.chmod(0o755)
    assert path.read_bytes() == b"old" and leftovers(tmp_path) == []


# canonical_json


def test_canonical_json():
    assert canonical_json({"b": 1.0, "a": [1e-05, "é", None]}) == b'{"a":[1e-05,"\\u00e9",null],"b":1.0}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2, "1": 3}, object(), b"x", {(1,): 2}])
def test_canonical_json_refuses(value):
    with pytest.raises(InputError):
        canonical_json(value)


# save_tensors and load_tensors


def test_round_trip(saved):
    tensors, metadata = load(saved)
    assert list(tensors) == sorted(TENSORS)
    for name, array in TENSORS.items():
        assert tensors[name].dtype == array.dtype and tensors[name].shape == array.shape
        assert tensors[name].tobytes() == array.tobytes()
    assert {**DESCRIPTION, "digest": metadata["digest"]} == metadata
    assert len(metadata["digest"]) == 64


def test_loaded_arrays_are_writable_and_apart_from_the_file(saved):
    before = saved.read_bytes()
    tensors, _ = load(saved)
    for array in tensors.values():
        assert array.flags.writeable and array.flags.c_contiguous and array.flags.aligned
        array[...] = 0
    assert saved.read_bytes() == before


def test_equal_content_gives_equal_bytes(saved, tmp_path):
    other = tmp_path / "other"
    shuffled = dict(reversed(TENSORS.items()))
    shuffled["a.weight"] = np.asfortranarray(TENSORS["a.weight"])
    shuffled["double"] = TENSORS["double"].astype(">f8")
    shuffled["a.bits"] = np.repeat(TENSORS["a.bits"], 2, axis=1)[:, ::2]
    save_tensors(other, shuffled, {**dict(reversed(DESCRIPTION.items())), "digest": "stale"})
    assert other.read_bytes() == saved.read_bytes()


def test_safetensors_library_reads_it(saved):
    for name, array in load_file(saved).items():
        assert array.tobytes() == TENSORS[name].tobytes()


def test_digest_by_hand(tmp_path):
    """The rule of docs/model-format.md, written out."""
    path = tmp_path / "file"
    save_tensors(path, {"b": np.uint8([1, 2]), "a": np.float32([[1]])}, {"version": 1, "format": "test file"})
    text = (
        b'{"metadata":{"format":"test file","version":1},'
        b'"tensors":[["a","float32",[1,1]],["b","uint8",[2]]]}' + b"\x00\x00\x80\x3f" + b"\x01\x02"
    )
    assert load(path)[1]["digest"] == storage.sha256_bytes(text)


@pytest.mark.parametrize(
    "bad", [{"x": np.array(["a"])}, {"x": np.array([None])}, {"x": [1.0]}, {"x": np.complex64([1])}]
)
def test_save_refuses_types(tmp_path, bad):
    with pytest.raises(InputTypeError, match="'x'"):
        save_tensors(tmp_path / "file", bad, DESCRIPTION)
    assert list(tmp_path.iterdir()) == []


def test_a_path_is_needed():
    with pytest.raises(InputTypeError, match="path must be a str or PathLike, got 3"):
        save_tensors(3, {}, DESCRIPTION)


@pytest.mark.parametrize("name", ["", "__metadata__"])
def test_save_refuses_names(tmp_path, name):
    with pytest.raises(InputError, match="cannot name"):
        save_tensors(tmp_path / "file", {name: np.zeros(1)}, DESCRIPTION)


@pytest.mark.parametrize(
    "metadata", [{}, {"format": "x"}, {"format": "x", "version": "1"}, {"format": "x", "version": True}]
)
def test_save_needs_format_and_version(tmp_path, metadata):
    with pytest.raises(InputError, match="format"):
        save_tensors(tmp_path / "file", {}, metadata)


def test_missing_and_strange_paths(tmp_path, saved):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "link").symlink_to(saved)
    (tmp_path / "empty").write_bytes(b"")
    refused(tmp_path / "nowhere", "no such file")
    refused(tmp_path / "dangling", "no such file")
    refused(tmp_path / "loop", "Too many levels")
    refused(tmp_path, "is a folder")
    refused(tmp_path / "pipe", "not a regular file")
    refused(tmp_path / "empty", "empty")
    refused(saved / "below", "Not a directory")
    refused("/dev/zero", "not a regular file")
    refused(saved, "the limit is", max_bytes=10)
    assert load(tmp_path / "link")[1]["name"] == "é"


def test_unreadable_file(saved, monkeypatch):
    saved.chmod(0)
    with not_root(), pytest.raises(UnreadableError, match="Permission denied"):
        load(saved)
    with pytest.raises(UnreadableError, match="Too many open files"), open_files_used_up():
        load(saved)

    def exhausted(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(storage, "safe_open", exhausted)  # which says nothing of the file
    with pytest.raises(MemoryError):
        load(saved)


@contextmanager
def open_files_used_up():
    """No descriptor is free inside."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    taken = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_every_truncation_is_refused(saved):
    content = saved.read_bytes()
    for length in range(len(content)):
        saved.write_bytes(content[:length])
        refused(saved)


def test_appended_bytes_are_refused(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    refused(saved, "damaged")


def test_flipped_bits_are_refused(saved):
    """Two bits of every byte; bit 5 among them, which changes a letter's case."""
    content = bytearray(saved.read_bytes())
    for index in range(len(content)):
        for bit in {5, index % 8}:
            content[index] ^= 1 << bit
            saved.write_bytes(content)
            refused(saved)
            content[index] ^= 1 << bit


def test_random_bytes_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    for length in [*range(1, 40), 100, 1000, 10_000]:
        path = tmp_path / "noise"
        path.write_bytes(rng.bytes(length))
        refused(path)


def forge(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def description_only(path: Path, text: str) -> Path:
    return forge(path, json.dumps({"__metadata__": {"xnor_ref": text}}).encode())


def test_foreign_and_wrong_files(tmp_path, saved):
    path = tmp_path / "other"
    save_file({"x": np.zeros(3, np.float32)}, path)
    refused(path, "another program")
    save_file({"x": np.zeros(3, np.float32)}, path, metadata={"format": "pt"})
    refused(path, "another program")
    refused(saved, "'test file'; a 'model' is needed", expect_format="model")
    for text in ["", "{", "[]", "3", "null", '"x"', '{"a": NaN}', '{"a":1e999}', "[" * 100_000, "1" * 5000]:
        refused(description_only(path, text), "does not hold a JSON object|holds a")
    refused(description_only(path, "{}"), "holds a None")
    refused(description_only(path, '{"format":"%s"}' % ("y" * 10_000)), "holds a 'yyy")


@pytest.mark.parametrize("version", [0, 2, -1, "1", None, True, 1.0, 10**30])
def test_other_versions_say_what_is_read(tmp_path, version):
    text = canonical_json({**DESCRIPTION, "version": version}).decode()
    path = description_only(tmp_path / "file", text)
    refused(path, f"of version {version!r}; this program reads version 1")
    refused(path, "this program reads versions 1 to 3" if version != 2 else "digest", max_version=3)


def test_deeply_nested_descriptions(tmp_path):
    path = tmp_path / "file"
    for depth, fine in ((99, True), (101, False), (300, False), (900, False)):
        value = []
        for _ in range(depth - 1):
            value = [value]
        save_tensors(path, {}, {**DESCRIPTION, "list": value})
        if fine:
            assert load(path)[1]["list"] == value
        else:
            refused(path, "nested more than 100 deep")


def test_digest_must_be_there(tmp_path):
    refused(description_only(tmp_path / "file", canonical_json(DESCRIPTION).decode()), "digest")


def test_description_must_be_canonical(tmp_path):
    """One text for one content: otherwise bits could change without a trace."""
    path = tmp_path / "file"
    save_tensors(path, {}, DESCRIPTION)
    good = load(path)[1]
    refused(description_only(path, json.dumps(good)), "canonical")
    refused(description_only(path, canonical_json(good).decode().replace("1e-05", "1E-05")), "canonical")
    description_only(path, canonical_json(good).decode())
    assert load(path)[1] == good


@pytest.mark.parametrize(
    "header",
    [
        b"x" * 9,
        b"{}",
        b'{"x":{"dtype":"F32","shape":[9999999999,9999999999],"data_offsets":[0,4]}}',
        b'{"x":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]}}',
        b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
        b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}}',
        b'{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b'{"x":{"dtype":"WAT","shape":[1],"data_offsets":[0,4]}}',
        b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"__metadata__":{"xnor_ref":"{}"}}',
        b'{"x":{"dtype":"F32","shape":[1]}}',
        b'{"x":7}',
        b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"[" * 100_000,
    ],
)
def test_hostile_headers(tmp_path, header):
    refused(forge(tmp_path / "file", header, bytes(4)), "damaged|another program|holds a None")


def test_hostile_tensors_below_a_good_description(tmp_path):
    """Shapes and types that the safetensors library lets through."""
    text = canonical_json({**DESCRIPTION, "digest": "0" * 64}).decode()
    for dtype, shape, size in [("BF16", [2], 4), ("F32", [1] * 100, 4), ("F8_E4M3", [4], 4), ("C64", [1], 8)]:
        entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
        header = json.dumps({"__metadata__": {"xnor_ref": text}, "x": entry}).encode()
        refused(forge(tmp_path / "file", header, bytes(size)), "damaged|unexpected type|altered")


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**31, 17 * 2**20, 100])
def test_header_length_is_checked_before_use(tmp_path, length):
    path = tmp_path / "file"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", length) + b"{}")
        if length == 17 * 2**20:
            file.truncate(18 * 2**20)
    refused(path, "the limit is" if length == 17 * 2**20 else "truncated")
