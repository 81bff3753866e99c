"""Functions named after roles in a Python file, which is run only in a worker process."""

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xnor_ref.conformance.basics.roles import ROLES
from xnor_ref.conformance.foreign.calls import TIMEOUT
from xnor_ref.conformance.foreign.worker import Worker
from xnor_ref.errors import InputError


def _load(file: Path, shown: str) -> dict[str, Callable[..., Any]]:
    spec = importlib.util.spec_from_file_location("xnor_ref_implementation", file)
    if spec is None or spec.loader is None:
        raise InputError(f"{shown} is not a Python file (.py)")
    module = sys.modules["xnor_ref_implementation"] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = error.lineno if isinstance(error, SyntaxError) else own[-1] if own else 0
        raise InputError(f"{shown}, line {line}: {type(error).__name__}: {error}") from None
    found = {role: getattr(module, role) for role in ROLES if role != "layer" and hasattr(module, role)}
    bound = {role: f.for_role(role) if hasattr(f, "for_role") else f for role, f in found.items()}
    if not bound:
        raise InputError(f"{shown} has no function with the name of a role; the names are {', '.join(ROLES)}")
    if wrong := [role for role, function in bound.items() if not callable(function)]:
        raise InputError(f"{shown}: {wrong[0]} is {bound[wrong[0]]!r:.80}, which is not a function")
    return bound


def python_file(path: str, timeout: float = TIMEOUT) -> Worker:
    """Make checkable the functions of a Python file that are named after roles: `conv2d`, `linear`, `pack` and so on.

    The file is run in a worker process, so give only a file whose code you trust. The attribute `roles` lists its
    roles.

    Raises
    ------
    InputError : the file is missing, raises (the message gives the line), or has no function with the name of a role
    """
    file = Path(path).expanduser().absolute()
    if not file.is_file():
        raise InputError(f"{path}: no such file")
    return Worker(lambda: _load(file, path), path, timeout).loaded()
