"""Your own files that register rules and networks. `train --plugin my_rules.py` runs such a file."""

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

from xnor_ref.errors import InputError

_loaded: dict[Path, str] = {}


def load(path: str) -> str:
    """Run a Python file, once per process. Return the SHA-256 of its text as hexadecimal digits.

    Raises InputError if there is no such file, or if it raises; the message gives the line.
    """
    file = Path(path).resolve()
    if file not in _loaded:
        try:
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(f"plugin {path}: {error.strerror}") from None
        name = f"xnor_ref_plugin_{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise InputError(f"plugin {path}: not a Python file (.py)")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
            line = error.lineno if isinstance(error, SyntaxError) else own[-1] if own else 0
            raise InputError(f"plugin {path}, line {line}: {type(error).__name__}: {error}") from None
        _loaded[file] = digest
    return _loaded[file]


def plugin_hint(settings: Any) -> str:
    """Return a hint for users who open a plugin's results without the plugin, or "" if there was none."""
    plugin = settings.get("plugin") if isinstance(settings, dict) else None
    return f"; it was made with --plugin {plugin}; give this option again" if plugin else ""
