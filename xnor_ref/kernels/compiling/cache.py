"""The cache of compiled kernels: one file for each kernel, processor and set of compiler options.

Numba's own cache can silently return wrong code. It checks only the kernel's own source file, not code inlined from
other files. Options like NUMBA_BOUNDSCHECK are not part of its key. Index and data are two files, which processes on
different machines can mix up. Damaged files are executed. Here, a file holds a stamp of everything that its code
depends on, and a digest. With another stamp, the kernel is compiled again and replaced. With a wrong digest too, after
a warning. Files are written in one step, so any number of processes may start at once. A kernel is reserved while it is
compiled (a lock on FILE.lock), so that processes do not all compile the same kernel.

Whoever can write to the folder can make us run their code. The folder is that of NUMBA_CACHE_DIR, `__pycache__` beside
the source, or the user's cache. If these cannot be written, or there is no home folder of this user, it is a folder in
the system's temporary folder that belongs to this user alone.
"""

import contextlib
import functools
import hashlib
import os
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from typing import Any

import llvmlite
import numba
import numpy as np
from numba import config

from xnor_ref.errors import OutputError
from xnor_ref.kernels.basics import numba_private as private
from xnor_ref.kernels.basics.target import multiplies_tiles
from xnor_ref.kernels.compiling import stamp
from xnor_ref.storage import write_atomically

try:
    import fcntl
except ImportError:  # not available on this operating system: every process compiles
    fcntl = None  # type: ignore[assignment]

_OPTIONS = (  # options of Numba, besides the processor's name and features, that change the machine code
    "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "DEBUG_NRT", "LLVM_REFPRUNE_FLAGS", "LLVM_REFPRUNE_PASS", "LOOP_VECTORIZE",
    "NRT_STATS", "OPT", "SLP_VECTORIZE", "USING_SVML",
)  # fmt: skip
_SIZE = 32  # bytes of a SHA-256
_PATIENCE = 60.0  # seconds to wait for another process's compilation


class KernelFile:
    """The file of a `jit.Kernel`: Numba's serialised code, the stamp, and a digest of both."""

    path: str | None = (
        None  # None: not cached, because nothing can be written, or because changes of the kernel cannot be detected
    )
    made_of: bytes | None = None
    found = False  # whether code was loaded from it

    def __init__(self, kernel: Any) -> None:
        code = kernel.py_func.__code__
        if private.MISSING or code.co_freevars or not os.path.isfile(code.co_filename):
            return
        try:
            self.made_of = stamp.made_of(kernel)
        except (stamp.NotFollowed, RecursionError):
            return
        options = tuple((name, repr(getattr(config, name, None))) for name in _OPTIONS)
        key = repr((kernel.signature, private.processor(), multiplies_tiles(), options))
        name = f"{kernel.__module__}.{kernel.__qualname__.replace('<locals>.', '')}.{sys.implementation.cache_tag}"
        name += f"-{_sha256(key.encode()).hex()[:16]}.kernel"
        folder = folder_of(kernel.py_func)
        self.path = os.path.join(folder, name) if folder else None
        self._stamp = _sha256(_compilers(), repr((name, key)).encode(), self.made_of)

    def load_into(self, dispatcher: Any) -> bool:
        """Load the compiled kernel into Numba's dispatcher. Return False if there is no usable one."""
        if self.path is None:
            return False
        try:
            with open(self.path, "rb") as file:
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            _warn(f"{self.path}: it cannot be read: {error.strerror or error}; the kernel is compiled again")
            return False
        if _sha256(data[:-_SIZE]) != data[-_SIZE:]:
            return self.drop("it is damaged")
        if data[-2 * _SIZE : -_SIZE] != self._stamp:
            return False
        self.found = True
        try:
            private.add_serialized(dispatcher, data)  # ignores the bytes after it
        except Exception as error:
            return self.drop(f"Numba cannot load it: {error!r}")
        return True

    def is_kept(self) -> bool:
        """Whether the file exists and is up to date. Damage is reported on loading."""
        try:
            with open(self.path or "", "rb") as file:
                file.seek(-2 * _SIZE, os.SEEK_END)
                return file.read(_SIZE) == self._stamp
        except OSError:
            return False

    @contextlib.contextmanager
    def reserved(self) -> Iterator[bool]:
        """Context manager: reserve this kernel's compilation. Yields whether another process was waited for.

        An abandoned reservation ends with its process. A process that cannot reserve compiles without a reservation.
        """
        handle, waited = self._lock() if self.path and fcntl else (None, False)
        try:
            yield waited
        finally:
            if handle is not None:
                with contextlib.suppress(OSError):
                    os.remove(f"{self.path}.lock")
                os.close(handle)

    def _lock(self) -> tuple[int | None, bool]:
        path, waited, end = f"{self.path}.lock", False, time.monotonic() + _PATIENCE
        while True:
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError:
                return None, waited
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    return handle, waited
            except FileNotFoundError:  # the previous owner has just removed it
                pass
            except BlockingIOError:
                if time.monotonic() > end:
                    os.close(handle)
                    return None, waited
                waited = True
                time.sleep(0.01)
            except OSError:  # a file system without locks
                os.close(handle)
                return None, waited
            os.close(handle)

    def save(self, dispatcher: Any) -> None:
        """Save a compiled kernel, or warn that it cannot be saved."""

        content = None if self.path is None else private.serialized(dispatcher)
        if self.path is None or content is None:
            return
        content += self._stamp
        try:
            write_atomically(self.path, content + _sha256(content), flush=False)  # its digest detects losses
        except OutputError as error:
            _warn(f"a compiled kernel cannot be cached, so it will be compiled again at the next start: {error}")

    def drop(self, reason: str) -> bool:
        """Remove the file, and warn. Return False."""
        assert self.path is not None
        with contextlib.suppress(OSError):  # it will be replaced, or cause the same warning again
            os.remove(self.path)
        _warn(f"{self.path}: {reason}; the file is removed and the kernel compiled again")
        return False


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=2)


def _sha256(*parts: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


@functools.cache
def _compilers() -> bytes:
    """Return what determines the machine code: versions, and this project's way of compiling."""
    versions = repr((numba.__version__, llvmlite.__version__, np.__version__, sys.version))
    return versions.encode() + stamp.digest_of(private.compile_once)


def folder_of(function: Any) -> str:
    """Return the folder of a function's compiled code."""
    source = os.path.dirname(os.path.abspath(function.__code__.co_filename))
    return _folder_beside(source, config.CACHE_DIR)  # type: ignore[attr-defined]


@functools.cache
def _folder_beside(source: str, chosen: str) -> str:
    """Return the folder for the code of a folder of sources. `chosen` is the value of NUMBA_CACHE_DIR."""
    name = f"{os.path.basename(source)}_{_sha256(os.fsencode(source)).hex()[:40]}"
    for folder in (os.path.join(chosen, name) if chosen else "", os.path.join(source, "__pycache__")):
        if folder and _is_writable(folder):
            return os.path.abspath(folder)
    home = os.path.expanduser("~")
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    folder = os.path.join(caches, "xnor_ref", name)
    if os.path.isabs(home) and os.path.isabs(caches) and _is_ours(os.path.realpath(home)):
        if _is_writable(folder, 0o700) and _is_ours(folder):
            return folder
    return _private_folder()


def _is_writable(folder: str, mode: int = 0o777) -> bool:
    """Whether a folder can be written. It is created if missing."""
    try:
        os.makedirs(folder, mode, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _is_ours(folder: str) -> bool:
    """Whether a folder belongs to this user, and nobody else can write to it."""
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    own = not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o022)
    return own and stat.S_ISDIR(found.st_mode)


@functools.cache
def _private_folder() -> str:
    """Return a folder for this user's kernels under the system's temporary folder, or "" if none can be written.

    It is the same each time if it can be trusted.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    try:
        path = os.path.join(tempfile.gettempdir(), f"xnor_ref-kernels-{user}")
        return path if _is_writable(path, 0o700) and _is_ours(path) else tempfile.mkdtemp(prefix="xnor_ref-kernels-")
    except OSError:
        return ""
