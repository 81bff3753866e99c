"""Importing networks from other libraries, and exporting networks to them. docs/interop.md shows how."""

from importlib import import_module
from typing import TYPE_CHECKING

_PUBLIC = {
    "from_keras": "xnor_ref.interop.keras.model",
    "from_onnx": "xnor_ref.interop.onnx_in.reading",
    "from_torch": "xnor_ref.interop.pytorch.incoming",
    "to_onnx": "xnor_ref.interop.onnx_out",
    "to_qonnx": "xnor_ref.interop.onnx_out",
    "to_torch": "xnor_ref.interop.pytorch.out",
}

if TYPE_CHECKING:
    from xnor_ref.interop.keras.model import from_keras as from_keras
    from xnor_ref.interop.onnx_in.reading import from_onnx as from_onnx
    from xnor_ref.interop.onnx_out import to_onnx as to_onnx
    from xnor_ref.interop.onnx_out import to_qonnx as to_qonnx
    from xnor_ref.interop.pytorch.incoming import from_torch as from_torch
    from xnor_ref.interop.pytorch.out import to_torch as to_torch


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'xnor_ref.interop' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
