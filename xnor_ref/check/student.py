"""A student's file: run in a process of its own, with a time limit, and its errors told as the student's own."""

import contextlib
import importlib.util
import io
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xnor_ref.conformance.basics.roles import Crashed, Late
from xnor_ref.conformance.foreign.worker import Worker, packed, unpacked
from xnor_ref.errors import InputError, InputTypeError

TIMEOUT = 20.0  # seconds for one call, and for the file to be imported
FRAMES = 4  # of a traceback
PRINTED = 400  # characters of what a function printed
MODULE = "xnor_ref_student"


class Unusable(Exception):
    """A function gave no result. `kind` is "to do", "raised", "type", "crashed" or "late"."""

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind = kind


class Student:
    """The functions of a file.

    Parameters
    ----------
    path : the file; it is run, in a worker process
    calls : for each function that is wanted, how it is called: (function, arguments) to its result
    timeout : seconds for one call, and for the import

    Raises
    ------
    InputError : no such file, or it cannot be imported; the message has the traceback, cut to the file
    """

    def __init__(self, path: str, calls: Mapping[str, Callable[..., Any]], timeout: float = TIMEOUT):
        file = Path(path).expanduser().absolute()
        if not file.is_file():
            raise InputError(f"{path}: no such file; without FILE, check writes a starter file")
        self._worker = Worker(lambda: _load(file, path, calls), path, timeout).loaded()
        self.names = [name for name in self._worker.roles if name in calls]
        self.printed = ""  # by the last call

    def call(self, name: str, *arguments: Any) -> Any:
        """The result of a call: a number, text or array, or a tuple of these. Raises Unusable."""
        if name not in self.names:
            raise Unusable("to do", "the file has no such function")
        try:
            answer = unpacked(self._worker.for_role(name)(*arguments).tobytes())
        except Late as late:
            raise Unusable(
                "late", f"no answer within {self._worker.timeout:g} s; is there a loop without end?"
            ) from late
        except Crashed as crash:
            raise Unusable("crashed", str(crash)) from crash
        self.printed = answer["printed"]
        if "error" in answer:
            raise Unusable(answer["kind"], answer["error"])
        return answer["value"]

    def close(self) -> None:
        self._worker.close()


def _load(file: Path, shown: str, calls: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """In the worker: the functions that there are, each wrapped so that it answers in bytes."""
    spec = importlib.util.spec_from_file_location(MODULE, file)
    if spec is None or spec.loader is None:
        raise InputError(f"{shown} is no Python file (.py)")
    module = sys.modules[MODULE] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))
    sys.dont_write_bytecode = True
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{shown} cannot be imported\n{cut_traceback(error, file, shown)}") from None
    found = {name: getattr(module, name) for name in calls if hasattr(module, name)}
    for name, function in found.items():
        if not callable(function):
            raise InputError(f"{shown}: {name} is {function!r:.60}, which is no function")
    wrapped = {name: _answering(function, calls[name], file, shown) for name, function in found.items()}
    return wrapped or {"": lambda: 0}  # a worker needs one


def _answering(function: Callable[..., Any], call: Callable[..., Any], file: Path, shown: str) -> Callable[..., Any]:
    def answer(*arguments: Any) -> np.ndarray:
        out = io.StringIO()
        made: dict[str, Any]
        try:
            with contextlib.redirect_stdout(out), np.errstate(all="ignore"):
                made = {"value": plain(call(function, *arguments))}
        except NotImplementedError:
            made = {"kind": "to do", "error": "not written yet"}
        except InputTypeError as error:
            made = {"kind": "type", "error": str(error)}
        except Exception as error:
            made = {"kind": "raised", "error": cut_traceback(error, file, shown)}
        return np.frombuffer(packed({**made, "printed": out.getvalue()[-PRINTED:]}), np.uint8)

    return answer


def plain(value: Any) -> Any:
    """A result as numbers, texts, arrays, and tuples of these; else InputTypeError."""
    if value is None or isinstance(value, str | bool | int | float):
        return value if not isinstance(value, int) or abs(value) < 2**63 else float(value)
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "biuf":
            raise InputTypeError(f"it returns an array of dtype {value.dtype}, should hold numbers")
        return np.array(value)
    if isinstance(value, tuple):
        return tuple(plain(one) for one in value)
    if isinstance(value, list):
        try:
            return plain(np.array(value))
        except ValueError:
            raise InputTypeError("it returns a list of lists of several lengths") from None
    raise InputTypeError(f"it returns {value!r:.60}, which is of type {type(value).__name__}")


def cut_traceback(error: BaseException, file: Path, shown: str) -> str:
    """The traceback of an error, cut to the frames of a file."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines = traceback.format_exception_only(error)
    else:
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        lines = [*traceback.format_list(own[-FRAMES:]), *traceback.format_exception_only(error)]
    return "".join(lines).replace(str(file), shown).rstrip()
