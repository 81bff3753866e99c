"""Downloading one known file over HTTP.

It is resumable, limited in size and tries, and checked before it gets its name.

Bytes are appended to `<name>.part`. A later call, or a later try after the connection broke, requests only the rest. If
the server sends the whole file again, the part is replaced. The complete part is renamed if its size and MD5 are right,
and removed if they are not.
"""

import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from xnor_ref.datasets.base import Progress
from xnor_ref.errors import DatasetError, InputError, OutputError
from xnor_ref.storage import lock_alone

_CHUNK = 2**18
_TRY_AGAIN_STATUS = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server, with its size and MD5."""

    url: str  # http or https
    size: int  # in bytes
    md5: str  # 32 hexadecimal digits


class _Interrupted(Exception):
    """This try ended early. The bytes received are kept."""


def download(
    remote: RemoteFile,
    target: Path,
    progress: Progress | None = None,
    *,
    tries: int = 4,
    timeout: float = 20.0,
    pause: float = 1.0,
) -> None:
    """Download a file, or the rest of a partial download.

    Parameters
    ----------
    target : the file; it is written complete and checked, or not at all. Its folder is created if missing
    tries : most consecutive connections that each bring less than 1 % of the file
    timeout : seconds without data after which a connection counts as broken
    pause : seconds before the second try, doubled for each further try, at most 30

    Raises
    ------
    InputError : the address is not http or https
    DatasetError : the server cannot be reached or refuses; the size or content is wrong (nothing is kept); or the
        connection broke too often (the bytes received are kept for the next call)
    OutputError : the disk is full or cannot be written; the bytes received are kept
    """
    try:
        parts = urllib.parse.urlsplit(remote.url)
        scheme, host, _ = parts.scheme, parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError as error:
        raise InputError(f"{remote.url!r} is not a valid address: {error}") from None
    if scheme not in ("http", "https"):
        raise InputError(f"cannot download {remote.url!r}: only http and https addresses are allowed")
    if not host or not remote.url.isascii():
        fault = "letters outside ASCII must be encoded, as in %C3%A4" if host else "it names no host"
        raise InputError(f"{remote.url!r} is not a valid address: {fault}")
    part = target.with_name(target.name + ".part")
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        file = open(part, "a+b", buffering=0)  # unbuffered, so that closing does not write, which could fail
    with file:
        if not lock_alone(file):
            raise DatasetError(f"another process is downloading into {part}; wait for it and run again")
        failures, validator = 0, None
        while (have := _size(file)) != remote.size:
            try:
                validator = _fetch(remote, file, validator, timeout, progress, target)
                reason = "the connection ended early"
            except _Interrupted as error:
                reason = str(error)
            arrived = _size(file)
            failures = 0 if arrived - have >= max(1, remote.size // 100) else failures + 1
            if arrived != remote.size and failures >= tries:
                if arrived == 0:
                    part.unlink(missing_ok=True)
                raise DatasetError(
                    f"downloading {remote.url} failed after {tries} tries with almost no data ({reason}); {arrived} of "
                    f"{remote.size} bytes are kept in {part}; run the same command to resume"
                )
            if failures:
                if progress is not None:
                    progress(f"downloading {target.name}: {reason}; trying again", arrived, remote.size)
                time.sleep(min(30.0, pause * 2 ** (failures - 1)))
        _check(remote, file)
        with _writing(target):
            os.fsync(file.fileno())
            os.replace(part, target)


def _fetch(
    remote: RemoteFile, file: FileIO, validator: str | None, timeout: float, progress: Progress | None, target: Path
) -> str | None:
    """Append the data of one connection. Return the ETag to send with the next request."""
    have = _size(file)
    if have > remote.size:
        file.truncate(have := 0)
    headers = {"Accept-Encoding": "identity", "User-Agent": "xnor_ref"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator
    try:
        with _opener().open(urllib.request.Request(remote.url, headers=headers), timeout=timeout) as response:
            if response.status != 206:
                file.truncate(have := 0)
            elif response.headers.get("Content-Range", "").strip() != f"bytes {have}-{remote.size - 1}/{remote.size}":
                file.truncate(0)
                raise _Interrupted("the server sent another part than requested")
            length = response.headers.get("Content-Length", "")
            if response.status == 200 and length.isdigit() and int(length) != remote.size:
                _discard(file)
                raise DatasetError(
                    f"cannot download {remote.url}: the server offers {length} bytes, but the file must have "
                    f"{remote.size}"
                )
            _check_room(target, remote.size - have)
            while chunk := _some(response):
                have += len(chunk)
                if have > remote.size:
                    _discard(file)
                    raise DatasetError(
                        f"cannot download {remote.url}: it is longer than the expected {remote.size} bytes"
                    )
                with _writing(target):
                    _write_all(file, chunk)
                if progress is not None:
                    progress(f"downloading {target.name}", have, remote.size)
            etag = response.headers.get("ETag")
            return etag if etag and not etag.startswith("W/") else None
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # our part does not belong to the server's file
            file.truncate(0)
        elif error.code not in _TRY_AGAIN_STATUS:
            if have == 0:
                _discard(file)
            raise DatasetError(f"cannot download {remote.url}: {error.code} {error.reason}") from None
        raise _Interrupted(f"{error.code} {error.reason}") from None
    except (DatasetError, OutputError):
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:  # of the network or of a redirect's target
        reason = getattr(error, "reason", None) or error
        raise _Interrupted(str(reason) or type(error).__name__) from error


def _some(response: http.client.HTTPResponse) -> bytes:
    """Return the next data, or nothing at the end or when the connection broke."""
    try:
        return response.read1(_CHUNK)
    except (OSError, http.client.HTTPException):
        return b""  # the caller requests the missing rest


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for HTTP(S) only. A redirect cannot lead to a local file or FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _check(remote: RemoteFile, file: FileIO) -> None:
    file.seek(0)
    found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != remote.md5.lower():
        _discard(file)
        raise DatasetError(
            f"{remote.url} has MD5 {found}, expected {remote.md5}: the file on the server, the transfer or an earlier "
            "partial download was damaged; the file was removed, and the same command starts again "
            "from the beginning"
        )


def _discard(file: FileIO) -> None:
    file.truncate(0)
    with suppress(OSError):  # an empty part is harmless
        os.unlink(file.name)


def _write_all(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _size(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_size


def _check_room(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise OutputError(f"cannot write {target}: {needed / 1e6:.0f} MB are needed, but {free / 1e6:.0f} MB are free")


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Context manager: turn errors of the disk into OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
