"""Files of a data set by name, from a folder or directly from an untrusted zip archive.

A zip is never unpacked to disk. Every entry is checked when the archive is opened, before anything is read. The real
size of an entry is counted while it is read, whatever its header says.
"""

import hashlib
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from xnor_ref.errors import DatasetError, is_of_the_system
from xnor_ref.storage import canonical_json, sha256_bytes

_END = b"PK\x05\x06"
_END_BYTES = 22
_END64_LOCATOR = b"PK\x06\x07"
_END64 = b"PK\x06\x06"
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # flag bits: encrypted, strong encryption, masked headers


@dataclass(frozen=True)
class Limits:
    """The limits of an archive. The official Tiny ImageNet has 120,609 entries of 2 KB on average."""

    entries: int = 400_000
    directory_bytes: int = 128 * 2**20
    file_bytes: int = 64 * 2**20
    total_bytes: int = 4 * 2**30
    ratio: int = (
        100  # most unpacked bytes per packed byte, for entries larger than `ratio_from` and for the whole archive
    )
    ratio_from: int = 2**20
    name_length: int = 512


_LEFT_BEHIND = {  # files that systems and tools leave behind; in lower case
    *("__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("lost+found", "@eadir", "__pycache__"),
}


def is_seen(name: str) -> bool:
    """Whether a file or folder may belong to a data set: it is not hidden, and not left behind by a system or tool."""
    return name in (".", "..") or not (name.startswith(".") or name.lower() in _LEFT_BEHIND)


def doubled(*folders: Path) -> Iterator[Path]:
    """Yield each folder, and the folder of the same name in it, which unpacking often creates."""
    for folder in folders:
        yield from (folder, folder / folder.name)


class Files(Protocol):
    """Read access to the files of a data set for which `is_seen` holds. Names use forward slashes."""

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""

    def read(self, name: str) -> bytes:
        """Return the content of a file. Raises DatasetError if it is missing or damaged."""

    def describe(self, name: str) -> str:
        """Return the file's name with its place, for messages."""

    def identity(self) -> dict[str, Any]:
        """Return JSON values that are quick to compute and differ for different content."""


class ZipFiles:
    """Files inside a zip archive.

    Raises
    ------
    DatasetError : when made or at first use: the archive is missing, damaged or not a zip; or an entry is rejected: its
        name leads out of the archive, is not valid for a file or occurs twice; it is a symbolic link or encrypted; or
        entries exceed `limits`. The message names archive and entry.
    """

    def __init__(self, path: Path, limits: Limits = Limits()) -> None:
        self._path, self._limits, self._unpacked = path, limits, 0
        self._file: BinaryIO
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise DatasetError(f"{path}: not a file")
            self._file = open(path, "rb")
        except FileNotFoundError:
            raise DatasetError(f"{path}: no such archive") from None
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path}: cannot be read: {error}") from error
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._directory = _find_directory(self._file, self._size, path, limits)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "ZipFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def names(self) -> list[str]:
        """Return the names of all files, sorted, without folders."""
        return sorted(self._entries)

    def describe(self, name: str) -> str:
        """`archive.zip: member`."""
        return f"{self._path}: {name}"

    def identity(self) -> dict[str, Any]:
        """Return size and hash of the archive's directory, which holds name, size and checksum of every entry."""
        start = self._directory
        self._file.seek(start)
        digest = hashlib.sha256(self._file.read(self._size - start)).hexdigest()
        return {"kind": "zip", "bytes": self._size, "directory_sha256": digest}

    def read(self, name: str) -> bytes:
        """Return the content of an entry. Limits are checked while it is read, then its checksum."""
        entry, limits = self._entries.get(name), self._limits
        if entry is None:
            raise DatasetError(f"{self._path}: no entry {name}")
        allowed = min(limits.file_bytes, max(limits.ratio_from, entry.compress_size * limits.ratio))
        allowed = min(allowed, self._total_allowed() - self._unpacked)
        try:
            with self._zip.open(entry) as stream:
                data = stream.read(allowed + 1)
                self._unpacked += len(data)
                if len(data) > allowed:
                    raise DatasetError(f"{self.describe(name)}: unpacks to more than the limit of {allowed} bytes")
                if stream.read(1) or len(data) != entry.file_size:
                    raise DatasetError(
                        f"{self.describe(name)}: unpacks to {len(data)} bytes, but its header says {entry.file_size}"
                    )
        except (
            *(zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError),
            *(struct.error, NotImplementedError, RuntimeError),
        ) as error:
            fault = "cannot be read" if is_of_the_system(error) else "damaged"
            raise DatasetError(f"{self.describe(name)}: {fault}: {str(error) or type(error).__name__}") from error
        return data

    def _total_allowed(self) -> int:
        # The size of the archive is reliable, unlike its headers. Entries that share packed bytes count each time.
        return min(self._limits.total_bytes, max(self._limits.ratio_from, self._size * self._limits.ratio))

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self._file)
        except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
            fault = "cannot be read" if is_of_the_system(error) else "damaged or not a zip archive"
            raise DatasetError(f"{self._path}: {fault}: {error}") from error

    @cached_property
    def _entries(self) -> dict[str, zipfile.ZipInfo]:
        """Every file, after checking all entries. Done only when needed: the official archive takes a second."""
        limits, seen, total = self._limits, set(), 0
        infos = self._zip.infolist()
        if len(infos) > limits.entries:
            raise DatasetError(f"{self._path}: {len(infos)} entries; the limit is {limits.entries}")
        files = {}
        for info in infos:
            parts = info.orig_filename.rstrip("/").split("/")
            if ".." not in parts and not all(map(is_seen, parts)):
                continue
            fault = _name_fault(info.orig_filename, limits) or _kind_fault(info, limits)
            folded = info.orig_filename.rstrip("/").casefold()
            if folded in seen:
                fault = fault or "its name occurs twice (upper and lower case count as equal)"
            if fault:
                raise DatasetError(f"{self._path}: entry {info.orig_filename!r} is rejected: {fault}")
            seen.add(folded)
            total += info.file_size
            if not info.is_dir():
                files[info.filename] = info
        if total > self._total_allowed():
            raise DatasetError(
                f"{self._path}: unpacks from {self._size} to {total} bytes; the limit is {self._total_allowed()}"
            )
        return files


def _name_fault(name: str, limits: Limits) -> str | None:
    parts = name.removesuffix("/").split("/")
    faults = {
        f"has {len(name)} characters": len(name) > limits.name_length,
        "has a control character": any(ord(letter) < 32 or ord(letter) == 127 for letter in name),
        "has a backslash": "\\" in name,
        "is an absolute path": name.startswith("/"),
        "has a drive letter or a colon": ":" in name,
        "leads out of the archive": ".." in parts,
        "has an empty part": "." in parts or "" in parts,
    }
    return next((f"its name {fault}" for fault, found in faults.items() if found), None)


def _kind_fault(info: zipfile.ZipInfo, limits: Limits) -> str | None:
    if info.flag_bits & _ENCRYPTED:
        return "it is encrypted"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "it is a symbolic link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR and not info.is_dir()):
        return "it is neither a file nor a folder"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"its compression method {info.compress_type} is not used by this data set"
    if info.file_size > limits.file_bytes or (info.is_dir() and info.file_size):
        return f"it unpacks to {info.file_size} bytes"
    if info.file_size > max(limits.ratio_from, info.compress_size * limits.ratio):
        return f"it unpacks from {info.compress_size} to {info.file_size} bytes"
    return None


def _find_directory(file: BinaryIO, size: int, path: Path, limits: Limits) -> int:
    """Return the offset of the central directory. Raises DatasetError if it is too large for memory.

    `zipfile` reads the whole directory before it tells the size, so this finds the directory first, in the same way.
    """
    tail_bytes = min(size, _END_BYTES + 2**16 + 20 + 56)
    file.seek(size - tail_bytes)
    tail = file.read(tail_bytes)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_BYTES:
        raise DatasetError(f"{path}: not a zip archive, or a truncated one (it has no directory)")
    entries, length = struct.unpack_from("<H", tail, at + 10)[0], struct.unpack_from("<L", tail, at + 12)[0]
    end = at
    if at >= 76 and tail[at - 20 : at - 16] == _END64_LOCATOR and tail[at - 76 : at - 72] == _END64:
        entries, length = struct.unpack_from("<QQ", tail, at - 76 + 32)
        end = at - 76
    if entries > limits.entries or length > limits.directory_bytes:
        raise DatasetError(
            f"{path}: {entries} entries in a directory of {length} bytes; "
            f"the limits are {limits.entries} entries and {limits.directory_bytes} bytes"
        )
    start = size - tail_bytes + end - length
    if start < 0:
        raise DatasetError(f"{path}: a truncated zip archive")
    return start


class FolderFiles:
    """Files under a folder, or under its folders and files `parts`.

    Raises DatasetError if a file cannot be read, or a link leads out of the folder.
    """

    def __init__(self, root: Path, parts: tuple[str, ...] | None = None) -> None:
        self._root, self._parts = root, parts
        self._sizes: dict[str, tuple[int, int]] = {}  # name -> (bytes, modification time in ns)
        self._folders: list[str] = []
        try:
            self._real_root = os.path.realpath(root, strict=True)
            self._walk("")
        except OSError as error:
            raise DatasetError(f"{root}: cannot be read: {error}") from error

    def names(self) -> list[str]:
        """All files, sorted."""
        return sorted(self._sizes)

    def describe(self, name: str) -> str:
        """Return the file's path."""
        return os.fspath(self.path(name))

    def folders(self, prefix: str) -> list[str]:
        """Return the sorted names of folders directly under `prefix`, which is empty or ends with a slash."""
        found = (name.removeprefix(prefix) for name in self._folders if name.startswith(prefix))
        return sorted(name for name in found if "/" not in name)

    def path(self, name: str) -> Path:
        """The file's path."""
        return self._root / name

    def identity(self) -> dict[str, Any]:
        """Return a hash of every file's name, size and time of change."""
        listing = [[name, *self._sizes[name]] for name in self.names()]
        return {"kind": "folder", "files": len(listing), "listing_sha256": sha256_bytes(canonical_json(listing))}

    def read(self, name: str) -> bytes:
        """Content of a file."""
        if name not in self._sizes:
            raise DatasetError(f"{self.describe(name)}: no such file")
        limit = Limits().file_bytes
        try:
            with open(self.path(name), "rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise DatasetError(f"{self.describe(name)}: cannot be read: {error.strerror}") from error
        if len(data) > limit:
            raise DatasetError(f"{self.describe(name)}: the file has more than the limit of {limit} bytes")
        return data

    def _walk(self, folder: str, depth: int = 0) -> None:
        if depth > 8:
            raise DatasetError(
                f"{self.describe(folder)}: folders are nested too deep; check for links that form a cycle"
            )
        with os.scandir(self._root / folder) as entries:
            for entry in entries:
                if not is_seen(entry.name) or not (folder or self._parts is None or entry.name in self._parts):
                    continue
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_symlink():
                    real = os.path.realpath(entry.path)
                    if os.path.commonpath([real, self._real_root]) != self._real_root:
                        raise DatasetError(f"{entry.path}: a symbolic link that leads out of {self._root}")
                if entry.is_dir():
                    self._folders.append(name)
                    self._walk(name, depth + 1)
                elif entry.is_file():
                    status = entry.stat()
                    self._sizes[name] = (status.st_size, status.st_mtime_ns)
