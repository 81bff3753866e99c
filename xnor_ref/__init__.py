"""xnor_ref: a reference implementation of XNOR-Net. It trains in NumPy and runs on packed bits with Numba.

The names below are the stable public functions and packages. Everything else is internal, in the subpackages.
Names are loaded at first use, so importing the package is quick and compiles nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_PUBLIC = {
    "Callback": "xnor_ref.training.fitting.trainer",
    "XnorClassifier": "xnor_ref.training.classifier",
    "pack_bits": "xnor_ref.kernels.basics.layout",
    "unpack_bits": "xnor_ref.kernels.basics.layout",
    "binary_conv2d": "xnor_ref.kernels.ops.binary_ops",
    "xnor_conv2d": "xnor_ref.kernels.ops.binary_ops",
    "binary_linear": "xnor_ref.kernels.ops.binary_ops",
    "conv2d_words": "xnor_ref.kernels.ops.words",
    "linear_words": "xnor_ref.kernels.ops.words",
    "max_pool2d_words": "xnor_ref.kernels.ops.words",
    "fit": "xnor_ref.training.fit",
    "freeze": "xnor_ref.packed.freeze",
    "load_packed": "xnor_ref.packed",
    "set_threads": "xnor_ref.kernels.basics.threads",
    "get_threads": "xnor_ref.kernels.basics.threads",
}
_PACKAGES = ("autodiff", "conformance", "errors", "interop", "models", "nn", "optim", "verify")

__all__ = [*_PUBLIC, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from xnor_ref import autodiff as autodiff
    from xnor_ref import conformance as conformance
    from xnor_ref import errors as errors
    from xnor_ref import interop as interop
    from xnor_ref import models as models
    from xnor_ref import nn as nn
    from xnor_ref import optim as optim
    from xnor_ref import verify as verify
    from xnor_ref.kernels.basics.layout import pack_bits as pack_bits
    from xnor_ref.kernels.basics.layout import unpack_bits as unpack_bits
    from xnor_ref.kernels.basics.threads import get_threads as get_threads
    from xnor_ref.kernels.basics.threads import set_threads as set_threads
    from xnor_ref.kernels.ops.binary_ops import binary_conv2d as binary_conv2d
    from xnor_ref.kernels.ops.binary_ops import binary_linear as binary_linear
    from xnor_ref.kernels.ops.binary_ops import xnor_conv2d as xnor_conv2d
    from xnor_ref.kernels.ops.words import conv2d_words as conv2d_words
    from xnor_ref.kernels.ops.words import linear_words as linear_words
    from xnor_ref.kernels.ops.words import max_pool2d_words as max_pool2d_words
    from xnor_ref.packed import load_packed as load_packed
    from xnor_ref.packed.freeze import freeze as freeze
    from xnor_ref.training.classifier import XnorClassifier as XnorClassifier
    from xnor_ref.training.fit import fit as fit
    from xnor_ref.training.fitting.trainer import Callback as Callback


def __getattr__(name: str):
    if name in _PACKAGES:
        return import_module(f"xnor_ref.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'xnor_ref' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC, *_PACKAGES})
