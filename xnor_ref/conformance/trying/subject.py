"""The implementation under test: calls of its functions by its conventions, and comparison of the results."""

from collections.abc import Callable
from typing import Any

import numpy as np

from xnor_ref import steady
from xnor_ref.conformance.basics import bits, definitions
from xnor_ref.conformance.basics.arrays import Case
from xnor_ref.conformance.basics.conventions import Conventions
from xnor_ref.conformance.basics.definitions import SUMMATIONS, U, Want
from xnor_ref.conformance.basics.roles import Layer

TO = {"NHWC": (0, 2, 3, 1), "HWIO": (2, 3, 1, 0), "OHWI": (0, 2, 3, 1)}  # axes of (N, C, H, W) or (O, C, KH, KW)
BACK = {"NHWC": (0, 3, 1, 2)}


class Mode:
    """Keeps the kit's floating-point mode at the default, and the mode of foreign code as that code set it."""

    def __init__(self) -> None:
        self.foreign: Any = None  # the mode of foreign code, if not the default
        self.notes: list[str] = []

    def look(self, when: str) -> None:
        """Record the mode that foreign code set, and restore the default."""
        if steady.is_usual():
            self.foreign = None
            return
        if not self.notes:
            self.notes.append(
                f"the processor was set to flush subnormal numbers to zero, or to another rounding mode, {when}: "
                "foreign code continues with this mode, and the kit computes without it"
            )
        self.foreign = steady.setting()
        steady.settle()

    def call(self, what: str, function: Callable, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        if self.foreign is not None:
            steady.restore(self.foreign)
        try:
            return function(*arguments, **keywords)
        finally:
            self.look(f"in a call of {what}")


class Subject:
    """Functions by role, and the conventions under which they are compared."""

    def __init__(self, functions: dict[str, Callable], layer: Layer | None = None) -> None:
        self.functions, self.layer, self.mode = functions, layer, Mode()
        self.by: dict[str, Conventions] = {}
        self.rivals: dict[str, list[Conventions]] = {}  # other conventions that nothing has distinguished yet
        self.summation: dict[str, int] = {}  # the loosest class of sums detected, by role
        self.unexplained: dict[str, list[Case]] = {}  # by role: cases for which no known convention holds
        self.slow: set[str] = set()  # roles that did not answer in time

    @property
    def own_layer(self) -> Layer:
        assert self.layer is not None  # there is one wherever the role is given
        return self.layer

    # --- calls

    def call(self, case: Case, by: Conventions, arguments: dict[str, Any] | None = None) -> np.ndarray:
        """Call the function. x and weights are converted to its layout, and its result is converted back."""
        made: dict[str, Any] = case.arguments() if arguments is None else dict(arguments)
        back: tuple[int, ...] | None = None
        if case.role in ("unpack", "dot"):
            for name, words in (("x", "words"), ("a", "a_words"), ("b", "b_words")):
                if name in made:
                    made = {words: self.words(made.pop(name), by)} | made
            made = {name: made[name] for name in ("words", "a_words", "b_words", "n") if name in made}
        elif case.role == "conv2d" and by.layout != "NCHW OIHW":
            of_x, of_weight = by.layout.split()
            if of_x in TO:
                made["x"], back = np.ascontiguousarray(made["x"].transpose(TO[of_x])), BACK[of_x]
            if of_weight in TO:
                made["weight"] = np.ascontiguousarray(made["weight"].transpose(TO[of_weight]))
        elif case.role == "linear" and by.transposed:
            made["weight"] = np.ascontiguousarray(made["weight"].T)
        got = self.mode.call(case.role, self.functions[case.role], list(made.values()), case.keywords)
        got = np.asarray(got)
        return got.transpose(back) if back and got.ndim == 4 else got

    def words(self, x: np.ndarray, by: Conventions) -> np.ndarray:
        """Return words of rows (or of one row), packed by the implementation's own `pack` if it has one."""
        rows = x.reshape(-1, x.shape[-1])
        if "pack" in self.functions:
            made = np.asarray(self.mode.call("pack", self.functions["pack"], [rows.copy()], {}))
        else:
            made = bits.write(np.where(rows < 0, -1.0, 1.0), by)
        return made if x.ndim > 1 else made.reshape(-1)

    # --- comparison

    def want(self, case: Case, by: Conventions, arguments: dict[str, Any] | None = None) -> Want:
        made = case.arguments() if arguments is None else arguments
        if case.role == "layer":
            layer = self.own_layer
            if layer.weight.ndim == 2:
                return definitions.linear(by, made["x"], layer.weight)
            place = layer.stride, layer.padding, layer.pad_value, layer.dilation, layer.groups
            return definitions.conv2d(by, made["x"], layer.weight, *place)
        return definitions.DEFINITIONS[case.role](by, **{k: v for k, v in made.items() if k != "n"}, **case.keywords)

    def compare(self, case: Case, got: np.ndarray, want: Want, by: Conventions) -> str | None:
        """Return what is wrong with a result, or None. Records how sums were rounded, and what tails held."""
        if case.role == "pack":
            read = self._read(got, want.value.shape, by)
            if isinstance(read, str):
                return read
            got, tail = read
            if by.tail != "any" and by.tail in (0, 1) and (tail != by.tail).any():
                return f"pack: bits after the {want.value.shape[1]} of a row are set to {1 - int(by.tail)}"
        if case.role == "dot" and got.size == 1:
            got = got.reshape(())
        if case.role == "alpha" and got.size == want.value.size:
            got = got.reshape(want.value.shape)
        if case.role == "scale_map" and got.ndim == 3 and want.value.shape[1] == 1:
            got = got[:, None]
        wrong, summation = differ(case.role, got, want, by.summation)
        if wrong is None:
            self.summation[case.role] = max(summation, self.summation.get(case.role, 0))
        return wrong

    @np.errstate(invalid="ignore", over="ignore")
    def agree(self, case: Case, a: np.ndarray, b: np.ndarray, part: slice = slice(None)) -> bool:
        """Whether two results of a case, or of part of its batch, agree up to rounding of floats."""
        if a.shape != b.shape or np.array_equal(a, b, equal_nan="f" == a.dtype.kind == b.dtype.kind):
            return a.shape == b.shape
        by = self.by[case.role]
        want = self.want(case, by)
        if a.dtype.kind != "f" or want.terms is None:
            return False
        allowed = np.broadcast_to(2 * want.allowed(by.summation, _u(a.dtype)), want.value.shape)[part]
        return allowed.size == a.size and bool((np.abs(np.subtract(a, b)).reshape(allowed.shape) <= allowed).all())

    def _read(self, words: np.ndarray, shape: tuple[int, ...], by: Conventions) -> Any:
        """Return signs and tail bits of the words of `pack`, or what is wrong with them."""
        if words.dtype.kind not in "iu":
            return f"pack: dtype {words.dtype}, should be an integer type"
        size = 8 * words.dtype.itemsize
        if size != by.word_size:
            return f"pack: words of {size} bits, should be of {by.word_size}"
        rows, n = shape
        if by.rows == "padded" and words.size % rows:
            return f"pack: {words.size} words, which {rows} rows cannot share"
        read = bits.read(words, rows, n, by)
        return read or f"pack: shape {words.shape} of {size}-bit words, too few for {rows} rows of {n} bits"


@np.errstate(invalid="ignore", over="ignore")
def differ(what: str, got: np.ndarray, want: Want, summation: str) -> tuple[str | None, int]:
    """Return what is wrong with a result, or None; and its class of sums."""
    if got.dtype.kind not in "biuf":
        return f"{what}: dtype {got.dtype}, should hold numbers", 0
    if got.shape != want.value.shape:
        return f"{what}: shape {got.shape}, should be {want.value.shape}", 0
    values = got.astype(np.float64)
    off = np.where(np.isnan(want.value), 0.0, np.abs(values - want.value))
    if want.terms is None:
        wrong, seen = off != 0, 0  # NaN is wrong too
    else:
        u = _u(got.dtype)
        for seen, name in enumerate(SUMMATIONS):  # noqa: B007 - it is returned
            wrong = ~(off <= want.allowed(name, u))
            if name == summation or not wrong.any():
                break
    if not wrong.any():
        return None, seen
    index = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
    about = ""
    if want.terms is not None:
        about = f" +- {np.broadcast_to(np.asarray(want.allowed(SUMMATIONS[seen], u)), off.shape)[index]:.3g}"
    elif got.dtype.kind in "iu" and not np.iinfo(got.dtype).min <= want.value[index] <= np.iinfo(got.dtype).max:
        about = f", which {got.dtype} cannot hold"
    where = f"the first at {index}: " if wrong.ndim else ""
    shown = got[index].item()
    return (
        f"{what}: {int(wrong.sum())} of {wrong.size} differ, {where}{shown:.9g}, not {want.value[index]:.9g}{about}"
    ), seen


def _u(dtype: np.dtype) -> float:
    """Return half the spacing of numbers around 1, for float32 or a coarser dtype."""
    return max(U, float(np.finfo(dtype).eps) / 2) if dtype.kind == "f" else U
