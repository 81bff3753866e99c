"""How kernels are compiled. Every module of kernels starts from here.

A kernel has one signature, and is compiled or taken from the cache (`cache.py`) when it is first called or built into
another one. Either way it must give its known answers (`selftest.py`) before anything is computed with it.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from numba import config, types
from numba.core import sigutils
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher

from xnor_ref.errors import EquivalenceError
from xnor_ref.kernels.compiling.cache import KernelFile
from xnor_ref.kernels.compiling.selftest import wrong_answer

# Divisions go as in NumPy, without an error for 0; kernels are called from Python and from each other only.
_OPTIONS = {"nopython": True, "nogil": True, "boundscheck": None, "error_model": "numpy", "no_cfunc_wrapper": True}


def compiled(signature: Any, **options: Any) -> Callable:
    """Decorator: a kernel of one explicit signature that runs without the GIL; `options` are those of `numba.njit`.

    Where Numba's compiler is off (NUMBA_DISABLE_JIT), the function itself.
    """

    def decorate(function: Callable) -> Callable:
        if config.DISABLE_JIT:  # type: ignore[attr-defined]
            return function
        kernel = Kernel(function, targetoptions={**_OPTIONS, **options})
        kernel.args, kernel.return_type = sigutils.normalize_signature(signature)
        return kernel

    return decorate


def readonly(dtype: Any, ndim: int) -> types.Array:
    """Type of a C-contiguous array that a kernel only reads; writable arrays fit as well."""
    return types.Array(dtype, ndim, "C", readonly=True)


def writable(dtype: Any, ndim: int) -> types.Array:
    """Type of a C-contiguous array that a kernel writes."""
    return types.Array(dtype, ndim, "C")


class _Library(JITCodeLibrary):
    """Machine code in the making. Numba optimises every function alone, and then all together; here only the latter."""

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout  # all that is left to do


@contextmanager
def _one_round(codegen: Any) -> Iterator[None]:
    """Optimise once while inside, and collect no garbage: a quarter less time to compile, for the same code."""
    library, codegen._library_class = codegen._library_class, _Library
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        codegen._library_class = library
        if collecting:
            gc.enable()


class Kernel(CPUDispatcher):
    """A compiled function that appears when it is first needed, and is tested then.

    Raises
    ------
    EquivalenceError
        From a call: even freshly compiled, the kernel gives wrong answers.
    """

    __name__: str
    _compiler: Any
    args: tuple[types.Type, ...]
    return_type: types.Type | None
    _candidate: Any = None  # compiled, but not tested yet
    _compiling = False  # whether any kernel of this process is; under Numba's lock

    def prepare(self) -> Any:
        """Numba's record of the compiled kernel; it is loaded or compiled, and tested, the first time.

        While a test is under way, the thread that carries it out gets what is tested, and all others wait.
        """
        with global_compiler_lock:
            if not self.overloads and self._candidate is None:
                try:
                    self.add_overload(self._loaded_or_compiled())
                finally:
                    self._candidate = None
                self.disable_compile()
            return self._candidate or self.overloads[self.args]

    def _loaded_or_compiled(self) -> Any:
        file = KernelFile(self)
        found = self._loaded(file)
        if found:
            return found
        # One reservation at a time: two processes that wait for each other's kernels would wait for ever.
        outermost = not Kernel._compiling
        Kernel._compiling = True
        try:
            with file.reserved() if outermost else nullcontext(False) as waited:
                return (self._loaded(file) if waited else None) or self._compiled(file)
        finally:
            Kernel._compiling = not outermost

    def _loaded(self, file: KernelFile) -> Any:
        """The kernel in the file, tested, or None."""
        found = self._candidate = file.load()
        if found:
            wrong = wrong_answer(self)
            if not wrong:
                self.targetctx.insert_user_function(found.entry_point, found.fndesc, [found.library])
                return found
            file.drop(f"the kernel in it gives a wrong answer ({wrong})")
        return None

    def _compiled(self, file: KernelFile) -> Any:
        if file.found:  # with the names of what was loaded, it would be LLVM's choice which of the two runs
            self.py_func.__qualname__ += "_"
        with _one_round(self.targetctx.codegen()):  # type: ignore[attr-defined]
            made = self._candidate = self._compiler.compile(self.args, self.return_type)
        wrong = wrong_answer(self)
        if wrong:
            raise EquivalenceError(
                f"{self.__module__}.{self.__name__}: freshly compiled, it gives a wrong answer ({wrong}); this version "
                "of Numba cannot be used on this machine, unless with its compiler off (NUMBA_DISABLE_JIT=1)"
            )
        file.save(made)
        return made

    def _compile_for_args(self, *args: Any, **_: Any) -> Any:
        """What Numba calls for arguments that it has no compiled code for yet; the result is called with them."""
        found = self.prepare()
        for given, wanted in zip(args, self.args, strict=True):
            if self.typingctx.can_convert(self.typeof_pyval(given), wanted) is None:
                raise TypeError(f"{self.__name__}: got {self.typeof_pyval(given)}, takes {wanted}")
        return found.entry_point

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """What Numba asks for when another kernel calls this one."""
        self.prepare()
        return super().get_call_template(args, kws)
