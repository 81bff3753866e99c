"""The stamp of a kernel: a digest of everything that determines its machine code.

Machine code depends on a kernel's bytecode and on every value that it names: constants, arrays, other kernels and
intrinsics. The Python code of an intrinsic writes machine code, so its functions, closures, default arguments and
classes count as well. `made_of` follows all of them through the objects in memory, whichever module defines them.
Comments, docstrings, line numbers and unused code do not count.

Objects of Numba, llvmlite, NumPy and Python's library count by name; `cache.py` adds their versions. For some names it
cannot be seen what they stand for: an object with hidden state, a module passed as a value, an import inside a
function. Then the whole source of the module counts, and of all that it imports. Three things are not followed: what
code reads from files or the environment while it generates, implementations registered by `numba.extending.overload`
and similar functions, and methods of a `jitclass` that arrive by an argument's type. This package uses none of the
three.
"""

import ast
import builtins
import dis
import functools
import hashlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir

from xnor_ref.kernels.basics.numba_private import Dispatcher, fixed_signatures

_BY_VERSION = {"numba", "llvmlite", "numpy", *sys.stdlib_module_names}
_PLAIN = {types.NoneType, types.EllipsisType, types.NotImplementedType, bool, int, float, complex, str, bytes}
_ASIDE = {  # attributes that are not code or state
    "__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__",
    "__dict__", "__doc__", "__firstlineno__", "__static_attributes__", "__weakref__", "_abc_impl", "_Intrinsic__uuid",
}  # fmt: skip
_BLIND = (globals, locals, vars, eval, exec, __import__, importlib.import_module)  # code with these may use any name


class NotFollowed(Exception):
    """Part of a kernel shows neither its state nor its source, so changes of it could not be detected."""


def made_of(kernel: Any, known: dict[int, bytes] | None = None) -> bytes:
    """Return the digest of a `jit.Kernel`. Kernels that call it include this digest.

    Raises
    ------
    NotFollowed
        Part of it shows neither its state nor its source.
    """
    known = {} if known is None else known
    if kernel.made_of is None and id(kernel) not in known:
        known[id(kernel)] = b"itself"  # for a kernel that calls itself
        walk = _Walk(known, {})
        walk.add((kernel.options, kernel.signature.args, kernel.signature.return_type))
        walk.function(kernel.py_func, compiled=True)
        known[id(kernel)] = walk.digest()
    return kernel.made_of or known[id(kernel)]


def digest_of(function: Callable) -> bytes:
    """Return the digest of a Python function."""
    walk = _Walk({}, {})
    walk.add(function)
    return walk.digest()


class _Walk:
    """Adds every value that it meets to a digest. A value met again is added as a reference."""

    def __init__(self, known: dict[int, bytes], modules: dict[str, None]) -> None:
        self._words: list[Any] = []
        self._say = self._words.append  # only plain values, whose text is complete
        self._known = known  # digests of kernels
        self._modules = modules  # modules of the values met
        self._met: dict[int, tuple[int, Any]] = {}  # holds the values too, so that no id is reused
        self._read: set[str] = set()

    def digest(self) -> bytes:
        """Return the digest of all that was added."""
        return hashlib.sha256(repr(self._words).encode()).digest()

    def add(self, value: Any) -> None:
        """Add a value and all its parts."""
        kind = type(value)
        if kind in _PLAIN:
            self._say(value)
        elif id(value) in self._met:
            self._say((self._met[id(value)][0],))
        else:
            self._met[id(value)] = len(self._met), value
            name = _name_by_version(value)
            if name:
                self._say((name,))
            elif isinstance(value, types.ModuleType):
                self._sources(value.__name__)
            elif kind is types.FunctionType:
                self.function(value)
            elif hasattr(kind, "made_of"):
                self._say((made_of(value, self._known),))
            else:
                parts = self._parts(value)
                self._say((kind.__name__, None if parts is None else len(parts)))
                for part in parts or ():
                    self.add(part)
                if parts is None:  # its maker is among the values met
                    for module in [*self._modules]:
                        self._sources(module)

    def function(self, function: types.FunctionType, compiled: bool = False) -> None:
        """Add a Python function; `compiled` if Numba compiles it, and Python does not run it."""
        self._modules[function.__globals__.get("__name__", "")] = None
        self._code(function.__code__, function.__globals__, compiled)
        for part in (function.__defaults__, function.__kwdefaults__, function.__closure__, _state(function)):
            self.add(part)

    def _code(self, code: types.CodeType, names: dict[str, Any], compiled: bool) -> None:
        text, constants, chains, hidden = _scan(code)
        self._say(text)
        for constant in constants:
            if type(constant) is types.CodeType:
                self._code(constant, names, compiled)
            else:
                self.add(constant)
        for chain in chains:
            value = names.get(chain[0], getattr(builtins, chain[0], None))
            for name in chain[1:]:
                if not isinstance(value, types.ModuleType):
                    break
                self._modules[value.__name__] = None
                value = getattr(value, name, None)
            self.add(value)
            hidden = hidden or any(value is one for one in _BLIND)
            if compiled and type(value) is types.FunctionType and not _name_by_version(value):  # or an overload
                self._sources(value.__module__)
                hidden = True
        if hidden:
            self._sources(names.get("__name__", ""))

    def _parts(self, value: Any) -> Sequence[Any] | None:
        """Return the parts of a value, or None if they cannot be seen."""
        kind = type(value)
        if kind in (tuple, list):
            return value
        if kind in (dict, types.MappingProxyType):
            return [part for item in value.items() for part in item]
        if kind in (set, frozenset):
            return sorted(self._apart(part) for part in value)
        if kind is types.CellType:
            try:
                return [value.cell_contents]
            except ValueError:  # empty
                return []
        if kind is property:
            return [value.fget, value.fset, value.fdel]
        if kind in (types.GetSetDescriptorType, types.MemberDescriptorType):
            return []
        if isinstance(value, np.ndarray):
            return [kind, value.dtype, value.shape, value.strides, value.flags.num, value.tobytes()]
        if isinstance(value, numba.types.Type):
            return [kind, value.key]
        if isinstance(value, Dispatcher):  # of numba.njit
            return [value.py_func, value.targetoptions, fixed_signatures(value)]
        if isinstance(value, (ir.Type, ir.Constant)) and not isinstance(value, ir.IdentifiedStructType):
            return [kind, str(value)]
        if isinstance(value, type) and not hasattr(value, "class_type"):  # of numba.experimental.jitclass
            self._modules[value.__module__] = None
            return [kind, value.__qualname__, value.__bases__, _state(value)]
        if _name_by_version(kind) and hasattr(value, "__wrapped__"):
            return [kind, value.__wrapped__, _state(value)]
        return _reduced(value)

    def _apart(self, value: Any) -> bytes:
        walk = _Walk(self._known, self._modules)
        walk.add(value)
        return walk.digest()

    def _sources(self, name: str) -> None:
        """Add the whole source of a module and of all that it imports."""
        if name in self._read or name.partition(".")[0] in _BY_VERSION:
            return
        self._read.add(name)
        path = _path_of(name)
        try:
            with open(path, "rb") as file:
                source = file.read()
            self._say((name, source))
            for imported in _imports(source, name, path) if path.endswith(".py") else ():
                if _path_of(imported):
                    self._sources(imported)
        except (OSError, SyntaxError) as error:
            raise NotFollowed(f"{name}: {error}") from error


def _path_of(name: str) -> str:
    """Return the file of a module, or ""."""
    try:
        found = sys.modules[name] if name in sys.modules else importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return ""
    return getattr(found, "__file__", None) or getattr(found, "origin", None) or ""


def _imports(source: bytes, name: str, path: str) -> Iterator[str]:
    """Yield names of the modules that a module's source imports, and some that are not modules."""
    package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _name_by_version(value: Any) -> str:
    """Return the name of a value in a library of `_BY_VERSION`, or ""."""
    module = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    if not isinstance(module, str) or module.partition(".")[0] not in _BY_VERSION:
        return ""
    if isinstance(value, types.ModuleType):
        return module
    name = str(getattr(value, "__qualname__", None))
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}.{name}" if found is value else ""


def _state(value: Any) -> dict[str, Any]:
    """Return a value's own attributes."""
    return {name: part for name, part in getattr(value, "__dict__", {}).items() if name not in _ASIDE}


def _reduced(value: Any) -> Sequence[Any] | None:
    """Return the parts of a value by Python's protocol for copying."""
    kind = type(value)
    known = _name_by_version(kind)
    try:
        made = value.__reduce_ex__(4)
    except Exception:
        return None
    if isinstance(made, str):  # a name stands for the value only if versions determine its meaning
        return [kind, made] if known else None
    slots = [slot for c in kind.__mro__ for slot, v in vars(c).items() if isinstance(v, types.MemberDescriptorType)]
    own = [] if known else [_state(value), *(getattr(value, slot, None) for slot in slots)]
    return [kind, *own, *(list(part) if isinstance(part, Iterator) else part for part in made)]


_CONSTANTS = {dis.opmap[name] for name in ("LOAD_CONST", "RETURN_CONST", "KW_NAMES") if name in dis.opmap}
_GLOBALS = {dis.opmap[n] for n in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS") if n in dis.opmap}
_ATTRIBUTES = {dis.opmap[name] for name in ("LOAD_ATTR", "LOAD_METHOD") if name in dis.opmap}
_FLAGS = {"LOAD_GLOBAL": 1, "LOAD_ATTR": int(sys.version_info >= (3, 12))}  # low bits beside the number of the name
_SHIFTS = {code: _FLAGS.get(dis.opname[code], 0) for code in (*_GLOBALS, *_ATTRIBUTES)}
_IMPORT, _EXTENDED, _CACHE = dis.opmap["IMPORT_NAME"], dis.opmap["EXTENDED_ARG"], dis.opmap["CACHE"]
_DOCSTRING = 0x4000000  # the flag of code with a docstring, since Python 3.14


@functools.cache
def _scan(code: types.CodeType) -> tuple[Any, list[Any], list[tuple[str, ...]], bool]:
    """Return bytecode without the numbers of constants (which a docstring shifts), and what it refers to.

    These are the constants that it loads, the global names with the attributes read from them at once, and whether it
    imports more.
    """
    raw = bytearray(code.co_code)
    constants: list[Any] = []
    chains: dict[tuple[str, ...], None] = {}
    chain: tuple[str, ...] = ()
    hidden, wide = False, 0
    for at in range(0, len(raw), 2):
        operation, argument = raw[at], raw[at + 1] | wide
        wide = 0
        if operation == _CACHE:
            continue
        if operation == _EXTENDED:
            wide = argument << 8
            continue
        if chain and operation not in _ATTRIBUTES:
            chains[chain] = None
            chain = ()
        if operation in _CONSTANTS:
            constants.append(code.co_consts[argument])
            raw[at + 1] = 0
        elif operation in _GLOBALS:
            chain = (code.co_names[argument >> _SHIFTS[operation]],)
        elif operation in _ATTRIBUTES and chain:
            chain = (*chain, code.co_names[argument >> _SHIFTS[operation]])
        elif operation == _IMPORT:
            hidden = hidden or code.co_names[argument].partition(".")[0] not in _BY_VERSION
    text = (
        code.co_name, code.co_flags & ~_DOCSTRING, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount,
        code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_exceptiontable, bytes(raw),
    )  # fmt: skip
    return text, constants, list(chains), hidden
