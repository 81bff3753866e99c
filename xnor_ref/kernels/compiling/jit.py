"""How kernels are compiled. Every module of kernels starts from here.

A kernel has one signature. It is compiled or loaded from the cache (`cache.py`) when it is first called or when another
kernel that calls it is compiled. In both cases it must give its known answers (`selftest.py`) before it is used.
"""

import functools
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numba
from numba import config, extending, types

from xnor_ref.errors import EquivalenceError
from xnor_ref.kernels.basics import numba_private as private
from xnor_ref.kernels.compiling.cache import KernelFile
from xnor_ref.kernels.compiling.selftest import wrong_answer

# Division by 0 raises no error, as in NumPy. Kernels are called only from Python and from each other.
_OPTIONS = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}


def compiled(signature: Any, **options: Any) -> Callable:
    """Decorator: make a kernel with one explicit signature that runs without the GIL.

    If Numba's compiler is disabled (NUMBA_DISABLE_JIT), return the function itself.

    Parameters
    ----------
    signature : such as `float32(readonly(float32, 1), intp)`
    options : options of `numba.njit`
    """

    def decorate(function: Callable) -> Callable:
        if config.DISABLE_JIT:  # type: ignore[attr-defined]
            return function
        return Kernel(function, signature, {**_OPTIONS, **options})

    return decorate


def readonly(dtype: Any, ndim: int) -> types.Array:
    """Return the type of a C-contiguous array that a kernel only reads. Writable arrays are accepted too."""
    return types.Array(dtype, ndim, "C", readonly=True)


def writable(dtype: Any, ndim: int) -> types.Array:
    """Return the type of a C-contiguous array that a kernel writes."""
    return types.Array(dtype, ndim, "C")


class Kernel:
    """A compiled function that is loaded or compiled, and tested, at first use.

    Raises
    ------
    EquivalenceError
        From a call: even after compiling it again, the kernel gives wrong answers.
    TypeError
        From a call: the arguments do not match the signature.
    """

    __name__: str
    __qualname__: str
    made_of: bytes | None = None  # its stamp, see `stamp.py`
    _ready: Any = None  # Numba's dispatcher of the compiled function
    _candidate: Any = None  # a dispatcher that is not yet tested
    _compiling = False  # whether any kernel of this process is being compiled; under Numba's lock

    def __init__(self, function: Callable, signature: Any, options: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self.py_func, self.signature, self.options = function, signature, options

    def __call__(self, *args: Any) -> Any:
        return (self._ready or self.prepare())(*args)

    def __reduce__(self) -> str:
        return self.__qualname__  # another process uses its own kernel of this name

    def prepare(self) -> Any:
        """Return Numba's dispatcher of the kernel. At first use it is loaded or compiled, and tested.

        During a test, the testing thread gets the candidate, and all other threads wait.
        """
        with private.compiler_lock:
            if self._ready is None and self._candidate is None:
                try:
                    self._ready = self._loaded_or_compiled()
                finally:
                    self._candidate = None
            return self._ready or self._candidate

    def _loaded_or_compiled(self) -> Any:
        self.made_of = None
        file = KernelFile(self)
        self.made_of = file.made_of
        found = self._loaded(file)
        if found:
            return found
        # Reserve only one kernel at a time: two processes that wait for each other's kernels would deadlock.
        outermost = not Kernel._compiling
        Kernel._compiling = True
        try:
            with file.reserved() if outermost else nullcontext(False) as waited:
                return (self._loaded(file) if waited else None) or self._compiled(file)
        finally:
            Kernel._compiling = not outermost

    def _loaded(self, file: KernelFile) -> Any:
        """Return the tested kernel of the file, or None."""
        loaded = numba.njit(**self.options)(self.py_func)
        if not file.load_into(loaded):
            return None
        self._candidate = loaded
        loaded.disable_compile()
        wrong = wrong_answer(self)
        if wrong:
            file.drop(f"the kernel in it gives a wrong answer ({wrong})")
            return None
        private.link(loaded)
        return loaded

    def _compiled(self, file: KernelFile) -> Any:
        if file.found:  # with the names of the loaded code, LLVM could choose either version
            self.py_func.__qualname__ += "_"
        made = numba.njit(**self.options)(self.py_func)
        if private.MISSING:
            _warn_of_what_is_missing()
            made.compile(self.signature)
        else:
            private.compile_once(made, self.signature)
        made.disable_compile()
        self._candidate = made
        wrong = wrong_answer(self)
        if wrong:
            raise EquivalenceError(
                f"{self.__module__}.{self.__name__}: even newly compiled, it gives a wrong answer ({wrong}); this "
                "version "
                "of Numba works on this machine only with its compiler disabled (NUMBA_DISABLE_JIT=1)"
            )
        file.save(made)
        return made


@extending.typeof_impl.register(Kernel)
def _type_of(kernel: Kernel, context: Any) -> types.Type:
    """Return what Numba needs when another compiled function refers to a kernel."""
    return types.Dispatcher(kernel.prepare())


@functools.cache
def _warn_of_what_is_missing() -> None:
    warnings.warn(
        f"xnor_ref was not tried with Numba {numba.__version__}: {private.MISSING}; "
        "kernels compute the same, but are compiled again at every start",
        RuntimeWarning,
        stacklevel=2,
    )
