"""All that this project uses of Numba's private parts; no other file imports any.

Where a version of Numba lacks one, `MISSING` says which. Then nothing else of this file is called but `host_features`,
and kernels are compiled by `numba.njit` alone: they compute the same, but are compiled anew at every start.
"""

import gc
import threading
from typing import Any

import llvmlite.binding as llvm

MISSING = ""
compiler_lock: Any = threading.RLock()
try:
    from numba.core.codegen import JITCodeLibrary, JITCPUCodegen, get_host_cpu_features
    from numba.core.compiler import CompileResult
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.dispatcher import Dispatcher
    from numba.core.environment import Environment
    from numba.core.registry import cpu_target
    from numba.core.runtime import rtsys
    from numba.core.serialize import dumps, loads

    compiler_lock = global_compiler_lock
    _METHODS = (
        CompileResult._rebuild, CompileResult._reduce, Dispatcher.add_overload,
        JITCodeLibrary._optimize_functions, JITCPUCodegen._library_class, JITCPUCodegen.magic_tuple, rtsys.initialize,
    )  # fmt: skip

    class _Library(JITCodeLibrary):
        """Machine code in the making. Numba optimises every function alone, then all together; here only the latter."""

        def _optimize_functions(self, module: Any) -> None:
            module.data_layout = self._codegen._data_layout  # all that is left to do

except (ImportError, AttributeError) as error:
    MISSING, Dispatcher = str(error), ()  # type: ignore[assignment,misc]


def host_features() -> str:
    """The features of this processor that Numba compiles for, as LLVM writes them."""
    return llvm.get_host_cpu_features().flatten() if MISSING else get_host_cpu_features()


def processor() -> tuple[str, ...]:
    """What Numba compiles for: the triple, the processor's name and its features."""
    return cpu_target.target_context.codegen().magic_tuple()


def compile_once(dispatcher: Any, signature: Any) -> None:
    """As `dispatcher.compile`, in a quarter less time for the same code: optimised once, no garbage collected."""
    codegen = dispatcher.targetctx.codegen()
    library, codegen._library_class = codegen._library_class, _Library
    collecting = gc.isenabled()
    gc.disable()
    try:
        dispatcher.compile(signature)
    finally:
        codegen._library_class = library
        if collecting:
            gc.enable()


def serialized(dispatcher: Any) -> bytes | None:
    """The only compiled version of a dispatcher, for `add_serialized`; None if it holds addresses of this process."""
    (result,) = dispatcher.overloads.values()
    if result.library.has_dynamic_globals:
        return None
    *parts, environments = result._reduce()
    return dumps((*parts, [_light(environment) for environment in environments]))


def _light(environment: Any) -> Any:
    """The same constants with other globals, which nothing but Numba's object mode looks at.

    For those of what is inlined from Numba itself, loading would import much of the compiler.
    """
    light = Environment({"__name__": "builtins"})
    light.consts[:] = environment.consts
    light.env_name = environment.env_name
    return light


def add_serialized(dispatcher: Any, content: bytes) -> None:
    """Give a dispatcher the version that was serialised; it can be called then, but not from other compiled code."""
    rtsys.initialize(cpu_target.target_context)  # all of Numba that loaded code needs; the rest is for compiling
    dispatcher.add_overload(CompileResult._rebuild(cpu_target.target_context, *loads(content)))


def link(dispatcher: Any) -> None:
    """Let other compiled code call what `add_serialized` has loaded."""
    (result,) = dispatcher.overloads.values()
    cpu_target.target_context.insert_user_function(result.entry_point, result.fndesc, [result.library])


def fixed_signatures(dispatcher: Any) -> list[Any]:
    """What arguments a function of `numba.njit` takes, if it was given signatures."""
    return [] if dispatcher._can_compile else list(dispatcher.overloads)
