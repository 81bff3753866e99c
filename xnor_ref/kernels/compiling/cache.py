"""Where compiled kernels are kept between runs: one file for each kernel, processor and set of compiler options.

Numba's own cache can hand out wrong code without a word. It looks at the kernel's own source file alone, not at what
is inlined from others; options like NUMBA_BOUNDSCHECK are no part of its key; index and data are two files, which
processes on machines of two kinds can mix up; and what is read is run, damaged or not. Here a file carries a stamp of
all that its code depends on, and a digest. With another stamp it is compiled anew and replaced; with a wrong digest
too, and a warning is given. Files are written in one step, so that any number of processes may start at once, and a
kernel is reserved while it is compiled (a lock on FILE.lock), so that they do not all compile the same.

The folder is the one that Numba would take: that of NUMBA_CACHE_DIR, `__pycache__`, or the user's. Where none can be
written (a read-only installation without a home), it is one in the system's temporary folder that belongs to this
user alone, since whoever can write there can make us run their code.
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
from numba.core.caching import CompileResultCacheImpl, IndexDataCacheFile
from numba.core.compiler import CompileResult
from numba.core.environment import Environment
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from xnor_ref.kernels.basics.target import multiplies_tiles

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

    path: str | None = None  # None: not kept, since its sources are no files, or do not tell all (a closure)
    found = False  # whether code was loaded from it

    def __init__(self, kernel: Any) -> None:
        self._context = kernel.targetctx
        code = kernel.py_func.__code__
        options = tuple((name, repr(getattr(config, name, None))) for name in _OPTIONS)
        processor = *self._context.codegen().magic_tuple(), multiplies_tiles()
        key = repr((kernel.args, kernel.return_type, processor, options))
        name = f"{kernel.__module__}.{kernel.__qualname__.replace('<locals>.', '')}.{sys.implementation.cache_tag}"
        name += f"-{_sha256(key.encode()).hex()[:16]}.kernel"
        try:
            sources = _state_of_sources(code.co_filename)
        except OSError:
            return
        if not code.co_freevars:
            self.path = os.path.join(folder_of(kernel.py_func), name)
            self._stamp = _sha256(sources, repr((name, key, code.co_firstlineno)).encode(), code.co_code)

    def load(self) -> Any:
        """Numba's record of the compiled kernel, or None where there is none that can be used."""
        if self.path is None:
            return None
        try:
            with open(self.path, "rb") as file:
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            return self.drop(f"it cannot be read: {error.strerror or error}")
        if _sha256(data[:-_SIZE]) != data[-_SIZE:]:
            return self.drop("it is damaged")
        if data[-2 * _SIZE : -_SIZE] != self._stamp:
            return None
        self.found = True
        folder, name = os.path.split(self.path)
        try:
            content = IndexDataCacheFile(folder, "", None)._load_data(name)  # does not look at what follows
            rtsys.initialize(self._context)  # all of Numba that loaded code needs; the rest is for compiling
            return CompileResult._rebuild(self._context, *content)
        except Exception as error:
            return self.drop(f"Numba cannot load it: {error!r}")

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

    def save(self, result: Any) -> None:
        """Keep a compiled kernel, or warn that it cannot be kept."""
        from xnor_ref.errors import OutputError
        from xnor_ref.storage import write_atomically

        if self.path is None or result.library.has_dynamic_globals:  # addresses of this process are built in
            return
        *parts, environments = result._reduce()
        content = dumps((*parts, [_light(environment) for environment in environments])) + self._stamp
        try:
            write_atomically(self.path, content + _sha256(content), flush=False)  # its digest tells what was lost
        except OutputError as error:
            _warn(f"a compiled kernel cannot be kept, and will be compiled again at the next start: {error}")

    def drop(self, reason: str) -> None:
        """Remove the file, and warn."""
        assert self.path is not None
        with contextlib.suppress(OSError):  # it will be replaced, or met with the same warning again
            os.remove(self.path)
        _warn(f"{self.path}: {reason}; the file is dropped and the kernel compiled anew")


def _light(environment: Environment) -> Environment:
    """The same constants with other globals, which nothing but Numba's object mode looks at.

    For those of what is inlined from Numba itself, loading would import much of the compiler.
    """
    light = Environment({"__name__": "builtins"})
    light.consts[:] = environment.consts
    light.env_name = environment.env_name
    return light


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=2)


def _sha256(*parts: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


@functools.cache
def _state_of_sources(source: str) -> bytes:
    """What the kernels of a source file may depend on: the files of its folder and of this one, and the compilers."""
    digest = hashlib.sha256(repr((numba.__version__, llvmlite.__version__, np.__version__, sys.version)).encode())
    kernels = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    rooms = [os.path.join(kernels, room) for room in sorted(os.listdir(kernels)) if room not in ("ops", "answers")]
    for folder in sorted({os.path.dirname(os.path.abspath(source)), *filter(os.path.isdir, rooms)}):
        for name in sorted(os.listdir(folder)):
            if name.endswith(".py") and not name.startswith("."):
                with open(os.path.join(folder, name), "rb") as file:
                    digest.update(_sha256(file.read()))
    return digest.digest()


def folder_of(function: Any) -> str:
    """Where the compiled code of a function is kept."""
    try:
        return CompileResultCacheImpl(function).locator.get_cache_path()
    except RuntimeError:  # Numba found no place
        return _private_folder()


@functools.cache
def _private_folder() -> str:
    """A folder for this user's kernels under the system's temporary one, the same every time if it can be trusted."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    path = os.path.join(tempfile.gettempdir(), f"xnor_ref-kernels-{user}")
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o077:
            return tempfile.mkdtemp(prefix="xnor_ref-kernels-")
    return path
