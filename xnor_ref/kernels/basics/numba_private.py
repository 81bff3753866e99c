"""The private parts of Numba that this project uses. No other file imports any.

If a version of Numba lacks one, `MISSING` names it. Then only `host_features` of this file is called, and kernels are
compiled by `numba.njit` alone. They compute the same results, but are compiled anew in every process.
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
        """A code library that optimises only once. Numba optimises each function alone and then all together."""

        def _optimize_functions(self, module: Any) -> None:
            module.data_layout = self._codegen._data_layout  # the only step left

except (ImportError, AttributeError) as error:
    MISSING, Dispatcher = str(error), ()  # type: ignore[assignment,misc]


def host_features() -> str:
    """Return the processor features that Numba compiles for, in LLVM's notation."""
    return llvm.get_host_cpu_features().flatten() if MISSING else get_host_cpu_features()


def processor() -> tuple[str, ...]:
    """Return Numba's target: the triple, the processor's name and its features."""
    return cpu_target.target_context.codegen().magic_tuple()


def compile_once(dispatcher: Any, signature: Any) -> None:
    """Compile like `dispatcher.compile`, 25 % faster to the same code: one optimisation, no garbage collection."""
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
    """Serialise a dispatcher's only compiled version for `add_serialized`.

    None if it holds addresses of this process.
    """
    (result,) = dispatcher.overloads.values()
    if result.library.has_dynamic_globals:
        return None
    *parts, environments = result._reduce()
    return dumps((*parts, [_light(environment) for environment in environments]))


def _light(environment: Any) -> Any:
    """Return the same constants with empty globals, which only Numba's object mode reads.

    With the real globals of functions inlined from Numba, loading would import much of the compiler.
    """
    light = Environment({"__name__": "builtins"})
    light.consts[:] = environment.consts
    light.env_name = environment.env_name
    return light


def add_serialized(dispatcher: Any, content: bytes) -> None:
    """Add a serialised version to a dispatcher. Python can then call it, but compiled code cannot before `link`."""
    rtsys.initialize(cpu_target.target_context)  # loaded code needs only this part of Numba
    dispatcher.add_overload(CompileResult._rebuild(cpu_target.target_context, *loads(content)))


def link(dispatcher: Any) -> None:
    """Let other compiled code call the version that `add_serialized` loaded."""
    (result,) = dispatcher.overloads.values()
    cpu_target.target_context.insert_user_function(result.entry_point, result.fndesc, [result.library])


def fixed_signatures(dispatcher: Any) -> list[Any]:
    """Return the signatures given to a function of `numba.njit`, or []."""
    return [] if dispatcher._can_compile else list(dispatcher.overloads)
