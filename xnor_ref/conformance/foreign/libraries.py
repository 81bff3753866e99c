"""Functions of a C library with documented signatures, called in a worker process.

`SIGNATURES` holds the signatures as C text, for the docstring of `c_library` and docs/conformance-kit.md.
"""

import ctypes
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xnor_ref.conformance.basics import oracle
from xnor_ref.conformance.foreign.calls import TIMEOUT
from xnor_ref.conformance.foreign.worker import Worker
from xnor_ref.errors import InputError

GUARD = 4096  # bytes before and after a result that must not change
_CANARY = 0xA5
WORDS = ("uint8", "uint16", "uint32", "uint64")
TYPES = ("float32", "float64", "int8", "int16", "int32", "int64", *WORDS)
SIGNATURES = {
    "conv2d": "void conv2d(const FLOAT *x, const FLOAT *weight, RESULT *out, int n, int c, int h, int w, int o, "
    "int kh, int kw, int oh, int ow, int stride_h, int stride_w, int top, int left, int pad_value)",
    "linear": "void linear(const FLOAT *x, const FLOAT *weight, RESULT *out, int rows, int n, int o)",
    "pack": "void pack(const FLOAT *x, WORD *words, int rows, int n)",
    "unpack": "void unpack(const WORD *words, RESULT *out, int rows, int n)",
    "dot": "void dot(const WORD *a, const WORD *b, RESULT *out, int n)",
    "alpha": "void alpha(const FLOAT *weight, float *out, int o, int n)",
    "scale_map": "void scale_map(const FLOAT *x, float *out, int n, int c, int h, int w, int kh, int kw, int oh, "
    "int ow, int stride_h, int stride_w, int top, int left)",
    "binarize": "void binarize(const FLOAT *weight, float *out, int o, int n)",
    "ste": "void ste(const FLOAT *x, const FLOAT *dy, float *dx, int n)",
}


class _Caller:
    """Calls of one library, which is loaded at the first call."""

    def __init__(self, path: str, symbols: Mapping[str, str], x: str, out: str, word: str):
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            raise InputError(f"c_library: {error}") from None
        self.x, self.out, self.word = np.dtype(x), np.dtype(out), np.dtype(word)
        self.functions: dict[str, Callable[..., np.ndarray]] = {}
        for role, symbol in symbols.items():
            try:
                function = getattr(library, symbol)
            except AttributeError:
                raise InputError(f"c_library: {path} has no function {symbol!r}, given for {role}") from None
            function.restype = None
            self.functions[role] = partial(getattr(self, role), function)

    def call(self, function: Any, inputs: list[np.ndarray], shape: tuple[int, ...], dtype: np.dtype, *sizes: int):
        """Return the result, after checking that the function wrote only inside it."""
        size = int(np.prod(shape)) * dtype.itemsize
        memory = np.full(size + 2 * GUARD, _CANARY, np.uint8)
        kept = [array.copy() for array in inputs]
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in inputs]
        function(*pointers, ctypes.c_void_p(memory.ctypes.data + GUARD), *map(ctypes.c_int, sizes))
        for before, array, place in zip(kept, inputs, ("first", "second")):
            if before.tobytes() != array.tobytes():
                raise AssertionError(f"the function changed its {place} argument")
        for what, edge in (("before", memory[:GUARD][::-1]), ("behind", memory[GUARD + size :])):
            if wrong := np.flatnonzero(edge != _CANARY).tolist():
                raise AssertionError(
                    f"the function wrote {len(wrong)} bytes {what} its result, up to {wrong[-1] + 1} bytes away"
                )
        return memory[GUARD : GUARD + size].view(dtype).reshape(shape)

    def floats(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """Convert inputs to the library's type. Integers are signs, with +1 for zeros."""
        if self.x.kind != "f":
            arrays = tuple(oracle.signs(array) for array in arrays)
        return [np.array(array, self.x, order="C") for array in arrays]

    def conv2d(self, function, x, weight, stride, padding, pad_value) -> np.ndarray:
        _agree("conv2d", x, weight)
        (top, _), (left, _), *size = _window(x, weight.shape[2:], stride, padding)
        sizes = *x.shape, len(weight), *weight.shape[2:], *size, *stride, top, left, pad_value
        return self.call(function, self.floats(x, weight), (len(x), len(weight), *size), self.out, *sizes)

    def linear(self, function, x, weight) -> np.ndarray:
        _agree("linear", x, weight)
        return self.call(function, self.floats(x, weight), (len(x), len(weight)), self.out, *x.shape, len(weight))

    def pack(self, function, x) -> np.ndarray:
        shape = len(x), -(-x.shape[1] // (8 * self.word.itemsize))
        return self.call(function, self.floats(x), shape, self.word, *x.shape)

    def unpack(self, function, words, n) -> np.ndarray:
        return self.call(function, [np.array(words, self.word, order="C")], (len(words), n), self.out, len(words), n)

    def dot(self, function, a_words, b_words, n) -> np.ndarray:
        operands = [np.array(words, self.word, order="C") for words in (a_words, b_words)]
        return self.call(function, operands, (), self.out, n)

    def alpha(self, function, weight) -> np.ndarray:
        (weight,) = self.floats(weight)
        return self.call(function, [weight], (len(weight),), np.dtype("f4"), *_rows(weight))

    def scale_map(self, function, x, kernel, stride, padding) -> np.ndarray:
        (top, _), (left, _), *size = _window(x, kernel, stride, padding)
        sizes = *x.shape, *kernel, *size, *stride, top, left
        return self.call(function, self.floats(x), (len(x), 1, *size), np.dtype("f4"), *sizes)

    def binarize(self, function, weight) -> np.ndarray:
        return self.call(function, self.floats(weight), weight.shape, np.dtype("f4"), *_rows(weight))

    def ste(self, function, x, dy) -> np.ndarray:
        return self.call(function, self.floats(x, dy), x.shape, np.dtype("f4"), x.size)


def _rows(weight: np.ndarray) -> tuple[int, int]:
    return len(weight), weight.size // len(weight)


def _agree(role: str, x: np.ndarray, weight: np.ndarray) -> None:
    """Check the channels, since a C function would read beyond its arguments."""
    if x.shape[1] != weight.shape[1]:
        raise InputError(f"{role}: x {x.shape} and weight {weight.shape} must have equally many channels (NCHW, OIHW)")


def _window(x: np.ndarray, kernel, stride, padding) -> list[Any]:
    """Return the padding of each side, and the height and width of the result."""
    pads = oracle.same_padding(x.shape[2:], kernel, stride) if padding == "same" else oracle.sides(padding)
    size = [(n + sum(pad) - k) // s + 1 for n, pad, k, s in zip(x.shape[2:], pads, kernel, stride)]
    return [*pads, *size]


def c_library(
    path: str | os.PathLike[str],
    *,
    x: str = "float32",
    out: str = "int32",
    word: str = "uint64",
    timeout: float = TIMEOUT,
    **symbols: str,
) -> Worker:
    """Make functions of a C library for `Kit(conv2d=...)`: `c_library("./libmine.so", conv2d="my_conv")`.

    Their signatures are in `SIGNATURES`: pointers to arrays, last axis fastest, and sizes. Any function name is
    allowed. The functions run in a worker process. Writes outside the result are detected.

    Parameters
    ----------
    path : the shared library
    symbols : by role, the name of the function in the library
    x : type of FLOAT, the elements of x and weights; with an integer type they are signs, +1 and -1
    out : type of RESULT
    word : type of WORD
    timeout : most seconds per call

    Raises
    ------
    InputError : there is no such file, role, type or function
    """
    if unknown := sorted(set(symbols) - set(SIGNATURES)):
        raise InputError(
            f"c_library: {', '.join(unknown)} is not a role of C functions; choose from {', '.join(SIGNATURES)}"
        )
    if not symbols:
        raise InputError(f"c_library: name at least one function by its role: {', '.join(SIGNATURES)}")
    for name, given, known in (("x", x, TYPES), ("out", out, TYPES), ("word", word, WORDS)):
        if given not in known:
            raise InputError(f"c_library: {name} must be one of {', '.join(known)}, got {given!r}")
    file = Path(path).expanduser().absolute()
    if not file.is_file():
        raise InputError(f"c_library: {path} is not a file")
    worker = Worker(lambda: _Caller(str(file), symbols, x, out, word).functions, f"the library {file.name}", timeout)
    return worker.loaded()
