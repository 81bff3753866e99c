"""Atomic writing of files, and safetensors files with a digest.

`write_atomically` replaces a file in one step or leaves it unchanged. `save_tensors` and `load_tensors` store arrays
and a JSON description in a safetensors file. The description holds a SHA-256 digest of itself and of every array, so
a file that was truncated or altered is rejected when it is read. Models and checkpoints are stored this way.
docs/model-format.md has the byte layout and the digest rule.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable
from typing import IO, Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from xnor_ref.errors import InputError, InputTypeError, ModelFileError, OutputError, UnreadableError, is_integer

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PathLike = str | os.PathLike[str]

METADATA_KEY = "xnor_ref"
TEMPORARY = ".xnor_ref-"  # prefix of the names of unfinished files
MAX_HEADER_BYTES = 16 * 2**20  # names, shapes and metadata; a real header takes a few kilobytes
MAX_DEPTH = 100  # of nested JSON; code that walks it may recurse
MAX_FILE_BYTES = 16 * 2**30
_INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
_DTYPES = {np.dtype(name) for name in ("bool", *_INTEGERS, "float16", "float32", "float64")}
_CANNOT_SYNC_FOLDERS = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM}


def write_atomically(path: PathLike, data: bytes | Callable[[BinaryIO], None], *, flush: bool = True) -> None:
    """Write a whole file, or leave the old one unchanged.

    The bytes go to a temporary file in the same folder and are flushed to the disk. That file then replaces `path` in
    one step, so a reader sees the old file or the new one, even after a crash. A symbolic link is followed: the file
    that it names is replaced, and the link stays.

    Parameters
    ----------
    path : the file to write; its folder must exist
    data : bytes, or a function that takes the open binary file and writes to it
    flush : whether to wait for the disk; without it, a power failure may leave an empty file

    Raises
    ------
    OutputError : disk full, read-only, no permission, no such folder, or `path` exists and is not a regular file. The
        temporary file is removed, and the old file is unchanged.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputTypeError(f"path must be a str or PathLike, got {path!r}")
    if "\0" in os.fspath(path):
        raise OutputError(f"cannot write {os.fspath(path)!r}: a file name cannot hold a NUL character")
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    # The temporary name leaves out the target's name: names near the limit of 255 bytes would become too long.
    temporary = os.path.join(folder, f"{TEMPORARY}{secrets.token_hex(8)}.part")
    try:
        if os.path.lexists(target) and not stat.S_ISREG(os.lstat(target).st_mode):
            raise OutputError(f"cannot write {path}: it exists and is not a regular file")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(temporary, flags, 0o666)
        try:
            with open(descriptor, "wb") as file:
                if callable(data):
                    data(file)
                else:
                    file.write(data)
                if flush:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):  # report the first error, not one of the cleaning up
                os.unlink(temporary)
            raise
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {_reason(error, folder)}") from error
    try:
        if flush:
            sync_folder(folder)
    except OSError as error:
        raise OutputError(f"{path} is written, but its folder was not flushed to the disk: {error.strerror}") from error


def _reason(error: OSError, folder: str) -> str:
    if isinstance(error, FileNotFoundError):
        return f"the folder {folder} does not exist"
    if isinstance(error, NotADirectoryError):
        return f"{folder} is not a folder"
    return error.strerror or str(error)


def sync_folder(folder: PathLike) -> None:
    """Flush a folder's list of names to the disk, if the file system supports it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDERS:
            raise


def lock_alone(file: IO) -> bool:
    """Lock an open file against other processes until it is closed. Return False if another process holds the lock.

    On systems without file locks (Windows, some file systems) it always returns True.
    """
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system without locks
    return True


def canonical_json(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, ASCII only. Raises InputError for what JSON cannot represent."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"canonical_json: {error}") from error
    return text.encode("ascii")


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: PathLike) -> str:
    """Return the SHA-256 of a file, read in chunks. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_digest(tensors: dict[str, np.ndarray], metadata: dict[str, Any]) -> str:
    """Return the SHA-256 of a description and its arrays. The key "digest" of the description is left out.

    The hash runs over `canonical_json({"metadata": ..., "tensors": [[name, dtype, shape], ...]})` and then
    each array's bytes (little-endian, last axis fastest), arrays sorted by name.
    """
    ordered = sorted(tensors.items())
    head = {
        "metadata": {key: value for key, value in metadata.items() if key != "digest"},
        "tensors": [[name, array.dtype.name, list(array.shape)] for name, array in ordered],
    }
    digest = hashlib.sha256(canonical_json(head))
    for _, array in ordered:
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def save_tensors(path: PathLike, tensors: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
    """Write named arrays and their description to a safetensors file, atomically. Equal content gives equal bytes.

    Parameters
    ----------
    tensors : booleans, integers or floats of any shape
    metadata : JSON values only, with "format" (str) and "version" (int); "digest" is added or replaced

    Raises
    ------
    InputError, InputTypeError : a name, dtype or description cannot be stored
    OutputError : the file could not be written; an old file is unchanged
    """
    if not isinstance(metadata.get("format"), str) or not is_integer(metadata.get("version")):
        raise InputError('save_tensors: metadata needs "format" (str) and "version" (int)')
    arrays = {}
    for name in sorted(tensors):
        array = tensors[name]
        if not isinstance(array, np.ndarray) or array.dtype.newbyteorder("=") not in _DTYPES:
            what = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise InputTypeError(f"save_tensors: tensor {name!r} is {what}; only bool, int and float can be stored")
        if not isinstance(name, str) or not name or name == "__metadata__":
            raise InputError(f"save_tensors: {name!r} cannot name a tensor")
        arrays[name] = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    described = {**metadata, "digest": tensors_digest(arrays, metadata)}
    text = canonical_json(described).decode("ascii")
    write_atomically(path, save(arrays, metadata={METADATA_KEY: text}))


def load_tensors(
    path: PathLike, *, expect_format: str, max_version: int, max_bytes: int = MAX_FILE_BYTES
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file written by `save_tensors`. Everything in it is checked before it is used.

    Parameters
    ----------
    path : a regular file, or a symbolic link to one
    expect_format : the "format" that the description must have
    max_version : versions 1 to `max_version` are accepted
    max_bytes : larger files are rejected without reading them

    Returns
    -------
    tensors : dict of ndarray
        Fresh, writable, C-contiguous arrays sorted by name. They share no memory with the file.
    metadata : dict
        The description, with "digest". Floating-point arrays may hold NaN; the caller must check.

    Raises
    ------
    InputTypeError : `path` is not a str or PathLike
    ModelFileError : the file is missing, not regular, empty, truncated, altered, or of another format or version
    UnreadableError : the file exists but the system cannot read it
    """
    if not isinstance(path, str | os.PathLike):
        raise InputTypeError(f"path must be a str or PathLike, got {path!r}")
    try:
        _check_size(path, max_bytes)
        with safe_open(os.fspath(path), framework="np") as file:
            metadata = _parse_description((file.metadata() or {}).get(METADATA_KEY), expect_format, max_version)
            tensors = {name: np.require(file.get_tensor(name), None, ["C", "W"]) for name in sorted(file.keys())}
        for name, array in tensors.items():
            if array.dtype not in _DTYPES:
                raise _Refused(f"tensor {name!r} has the unexpected type {array.dtype}")
        if metadata.get("digest") != tensors_digest(tensors, metadata):
            raise _Refused("it was altered: its content does not match its SHA-256 digest")
        return tensors, metadata
    except _Refused as refusal:
        raise ModelFileError(f"{path}: {refusal}") from None
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file") from None
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        if "(os error " in str(error):
            raise UnreadableError(f"{path}: cannot be read: {error}") from error
        raise ModelFileError(f"{path}: damaged or not a safetensors file ({error})") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ModelFileError(f"{path}: damaged: {type(error).__name__}: {error}") from error


class _Refused(Exception):
    """The reason why a file is rejected."""


def _check_size(path: PathLike, max_bytes: int) -> None:
    """Check the kind of file at `path` and its length fields, before anything is parsed or allocated."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would block
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise _Refused(f"it is {kind}; a regular file is needed")
    if status.st_size == 0:
        raise _Refused("the file is empty")
    if status.st_size > max_bytes:
        raise _Refused(f"it has {status.st_size} bytes; the limit is {max_bytes}")
    with open(path, "rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if status.st_size < 8 or header > status.st_size - 8:
        raise _Refused("truncated, or not a safetensors file (its header is longer than the file)")
    if header > MAX_HEADER_BYTES:
        raise _Refused(f"its header has {header} bytes; the limit is {MAX_HEADER_BYTES}")


def _parse_description(text: str | None, expect_format: str, max_version: int) -> dict[str, Any]:
    if text is None:
        raise _Refused(f'a safetensors file of another program (no metadata key "{METADATA_KEY}")')
    try:
        metadata = json.loads(text)
        canonical = canonical_json(metadata) == text.encode("utf-8")
    except (ValueError, RecursionError):
        metadata, canonical = None, False
    if _nested_deeper(metadata, MAX_DEPTH):
        raise _Refused(f"damaged: its metadata is nested more than {MAX_DEPTH} deep")
    if not isinstance(metadata, dict):
        raise _Refused(f'damaged: its metadata key "{METADATA_KEY}" does not hold a JSON object')
    found, version = metadata.get("format"), metadata.get("version")
    if found != expect_format:
        raise _Refused(f"it holds a {_shown(found)}; a {expect_format!r} is needed")
    if not is_integer(version) or not 1 <= version <= max_version:
        readable = "version 1" if max_version == 1 else f"versions 1 to {max_version}"
        raise _Refused(f"{expect_format!r} of version {_shown(version)}; this program reads {readable}")
    if not canonical:
        raise _Refused("it was altered: its metadata is not in canonical form")
    return metadata


def _nested_deeper(value: Any, limit: int) -> bool:
    """Whether lists and objects are nested more than `limit` deep. Does not recurse."""
    level = [value]
    for _ in range(limit + 1):
        inside = [list(v.values()) if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
        level = [v for container in inside for v in container]
    return bool(level)


def _shown(value: Any) -> str:
    """A value from an untrusted file, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
