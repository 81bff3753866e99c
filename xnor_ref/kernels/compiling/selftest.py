"""Known answers: what each kernel must compute before it is used.

A module of kernels, or the module that `ANSWERS` names for it, has a function `known_answers`. It returns one or more
cases for each kernel. A case is the kernel, a function without arguments that calls it in this thread and returns its
results, and the answer. An answer is a literal, or the `digest` of longer results. Cases are small (a few hundred
numbers) and test what fails first: lengths that are not a multiple of the vector or word, windows at and beyond the
border, zeros of both signs. Where the compiler chooses the order of sums, the numbers need no rounding. The uncompiled
functions give the same answers; the digests come from them.

    def known_answers():
        return (
            (double, lambda: doubled(reals(5)), [-1.0, 0.5, 3.25, -7.0, 15.5]),
            (double, lambda: doubled(reals(37)), "0123456789abcdef"),
        )
"""

import hashlib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

Case = tuple[Callable, Callable[[], Any], Any]  # the kernel, what to run, its answer


_ANSWERS = "xnor_ref.kernels.answers."
ANSWERS = {  # modules whose known answers need other kernels, and are therefore in a separate module
    "xnor_ref.kernels.readable.plain": _ANSWERS + "plain_answers",
    "xnor_ref.kernels.vectors.grouped": _ANSWERS + "vector_answers",
    "xnor_ref.kernels.vectors.nhwc": _ANSWERS + "vector_answers",
    "xnor_ref.kernels.vectors.signs": _ANSWERS + "vector_answers",
    "xnor_ref.kernels.vectors.simd": _ANSWERS + "vector_answers",
    "xnor_ref.kernels.training.gradient_layout": _ANSWERS + "gradient_answers",
    "xnor_ref.kernels.training.gradients": _ANSWERS + "gradient_answers",
    "xnor_ref.kernels.training.winograd": _ANSWERS + "winograd_answers",
    "xnor_ref.compress.tree_kernels": "xnor_ref.compress.tree_answers",
}


def cases_of(module: str) -> Sequence[Case]:
    """Return the known answers of a module's kernels."""
    holder = import_module(ANSWERS[module]) if module in ANSWERS else sys.modules.get(module)
    return getattr(holder, "known_answers", tuple)()


def wrong_answer(kernel: Any) -> str:
    """Return how a kernel's first wrong answer differs, or "" if all are right or there are none."""
    own = [case for case in cases_of(kernel.py_func.__module__) if case[0] is kernel]
    for number, (_, run, known) in enumerate(own, 1):
        try:
            answer = run()
            found = digest(answer) if isinstance(known, str) else numbers(answer)
        except Exception as error:  # for example from code for other arguments
            found = repr(error)
        if found != known:
            return f"case {number} of {len(own)}: {found} in place of {known}"
    return ""


def numbers(answer: Any) -> Any:
    """Return arrays and scalars, single or in a tuple, as Python numbers and lists."""
    return [numbers(part) for part in answer] if isinstance(answer, tuple) else np.asarray(answer).tolist()


def digest(answer: Any) -> str:
    """Return the first 64 bits of the SHA-256 of an array or a tuple of arrays, as 16 hexadecimal digits."""
    parts = answer if isinstance(answer, tuple) else (answer,)
    little = [np.ascontiguousarray(part, part.dtype.newbyteorder("<")) for part in parts]
    return hashlib.sha256(b"".join(part.tobytes() for part in little)).hexdigest()[:16]


def words(*shape: int) -> NDArray[np.uint64]:
    """Return pseudo-random words, the same each time. The first is 0."""
    x = np.arange(np.prod(shape), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return (x ^ (x >> np.uint64(27))).reshape(shape)


def reals(*shape: int) -> NDArray[np.float32]:
    """Return pseudo-random multiples of 1/16 from -8 to below 8, the same each time. The first is -8."""
    return (((words(*shape) >> np.uint64(56)).astype(np.float32) - 128) / 16).astype(np.float32, copy=False)
