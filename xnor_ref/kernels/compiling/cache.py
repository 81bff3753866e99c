"""Where compiled kernels are kept between runs: one file for each kernel, processor and set of compiler options.

Numba's own cache can hand out wrong code without a word. It looks at the kernel's own source file alone, not at what
is inlined from others; options like NUMBA_BOUNDSCHECK are no part of its key; index and data are two files, which
processes on machines of two kinds can mix up; and what is read is run, damaged or not. Here a file carries a stamp of
all that its code depends on, and a digest. With another stamp it is compiled anew and replaced; with a wrong digest
too, and a warning is given. Files are written in one step, so that any number of processes may start at once, and a
kernel is reserved while it is compiled (a lock on FILE.lock), so that they do not all compile the same.

Whoever can write into the folder can make us run their code. It is that of NUMBA_CACHE_DIR, `__pycache__` beside the
source, or the user's cache. Where these cannot be written, or the home is none or another's, it is one in the system's
temporary folder that belongs to this user alone.
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
except ImportError:  # not on this operating system: then every process compiles
    fcntl = None  # type: ignore[assignment]

_OPTIONS = (  # of Numba, beside the processor's name and features: what changes the machine code
    "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "DEBUG_NRT", "LLVM_REFPRUNE_FLAGS", "LLVM_REFPRUNE_PASS", "LOOP_VECTORIZE",
    "NRT_STATS", "OPT", "SLP_VECTORIZE", "USING_SVML",
)  # fmt: skip
_SIZE = 32  # bytes of a SHA-256
_PATIENCE = 60.0  # seconds to wait for another process that compiles


class KernelFile:
    """The file of a `jit.Kernel`: what Numba serialised, then the stamp, then a digest of both."""

    path: str | None = None  # None: not kept, since nothing can be written, or it shows nowhere when it changes
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
        """Give Numba's dispatcher the compiled kernel; False where there is none that can be used."""
        if self.path is None:
            return False
        try:
            with open(self.path, "rb") as file:
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            _warn(f"{self.path}: it cannot be read: {error.strerror or error}; the kernel is compiled anew")
            return False
        if _sha256(data[:-_SIZE]) != data[-_SIZE:]:
            return self.drop("it is damaged")
        if data[-2 * _SIZE : -_SIZE] != self._stamp:
            return False
        self.found = True
        try:
            private.add_serialized(dispatcher, data)  # does not look at what follows
        except Exception as error:
            return self.drop(f"Numba cannot load it: {error!r}")
        return True

    def is_kept(self) -> bool:
        """Whether the file is there and up to date; a damaged one is told when it is loaded."""
        try:
            with open(self.path or "", "rb") as file:
                file.seek(-2 * _SIZE, os.SEEK_END)
                return file.read(_SIZE) == self._stamp
        except OSError:
            return False

    @contextlib.contextmanager
    def reserved(self) -> Iterator[bool]:
        """Keep other processes from compiling this kernel too; gives whether one of them was waited for.

        An abandoned reservation ends with its process. Whoever cannot reserve compiles all the same.
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
            except FileNotFoundError:  # the one before has just removed it
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
        """Keep a compiled kernel, or warn that it cannot be kept."""

        content = None if self.path is None else private.serialized(dispatcher)
        if self.path is None or content is None:
            return
        content += self._stamp
        try:
            write_atomically(self.path, content + _sha256(content), flush=False)  # its digest tells what was lost
        except OutputError as error:
            _warn(f"a compiled kernel cannot be kept, and will be compiled again at the next start: {error}")

    def drop(self, reason: str) -> bool:
        """Remove the file, and warn; False, since nothing can be used."""
        assert self.path is not None
        with contextlib.suppress(OSError):  # it will be replaced, or met with the same warning again
            os.remove(self.path)
        _warn(f"{self.path}: {reason}; the file is dropped and the kernel compiled anew")
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
    """What turns a kernel into machine code: versions, and how this project has Numba compile."""
    versions = repr((numba.__version__, llvmlite.__version__, np.__version__, sys.version))
    return versions.encode() + stamp.digest_of(private.compile_once)


def folder_of(function: Any) -> str:
    """Where the compiled code of a function is kept."""
    source = os.path.dirname(os.path.abspath(function.__code__.co_filename))
    return _folder_beside(source, config.CACHE_DIR)  # type: ignore[attr-defined]


@functools.cache
def _folder_beside(source: str, chosen: str) -> str:
    """Where the code of a folder of sources is kept; `chosen` is what NUMBA_CACHE_DIR says."""
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
    """Whether a folder can be written; it is made if it is not there."""
    try:
        os.makedirs(folder, mode, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _is_ours(folder: str) -> bool:
    """Whether a folder belongs to this user, and nobody else can write there."""
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    own = not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o022)
    return own and stat.S_ISDIR(found.st_mode)


@functools.cache
def _private_folder() -> str:
    """A folder for this user's kernels under the system's temporary one, the same every time if it can be trusted.

    "" where nothing can be written.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    try:
        path = os.path.join(tempfile.gettempdir(), f"xnor_ref-kernels-{user}")
        return path if _is_writable(path, 0o700) and _is_ours(path) else tempfile.mkdtemp(prefix="xnor_ref-kernels-")
    except OSError:
        return ""
