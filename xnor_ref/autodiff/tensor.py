"""Tensor: an ndarray that remembers how it was computed. Each op stands beside its gradient.

As in NumPy, operators and array methods are methods here, and functions (`exp`, `where`, `concatenate`, ...) are in
`ops.py`. `tape.py` has `backward`.

>>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
>>> (x * x + x).sum().backward()
>>> x.grad
array([3., 5., 7.], dtype=float32)
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partialmethod
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.typing import NDArray

from xnor_ref.autodiff.tape import Backward, Record, Taped, add, is_grad_enabled
from xnor_ref.errors import InputError, InputTypeError

Axis = int | tuple[int, ...] | None


def apply(
    name: str, data: NDArray, parents: tuple["Tensor", ...], backward: Backward, *, fresh: bool = False
) -> "Tensor":
    """Return the output of an op. Record the op if gradients are enabled and a parent requires one.

    Parameters
    ----------
    name : the op's name in error messages
    data : the computed value
    parents : what `data` was computed from
    backward : callable
        Takes dC/d(data), an array of the shape and dtype of `data`. It must not write to that array, which may be
        shared or a broadcast view. It returns a tuple with dC/d(parent), or None, for each parent, and may return the
        array itself.
    fresh : whether all arrays that `backward` returns are new and not referred to elsewhere; then they are not copied

    >>> x = Tensor([3.0], requires_grad=True)
    >>> apply("square", x.data**2, (x,), lambda dy: (dy * 2 * x.data,)).backward()
    >>> x.grad
    array([6.], dtype=float32)
    """
    out = Tensor(np.asarray(data))
    if is_grad_enabled() and any(parent.requires_grad for parent in parents):
        out.requires_grad = True
        out.record = Record(name, parents, backward, fresh)
    return out


class Tensor(Taped):
    """An ndarray with a gradient.

    Parameters
    ----------
    data : float32 and float64 arrays are used without a copy. Lists and Python numbers become float32. Integer and
        boolean arrays are used without a copy, but are constants.
    requires_grad : whether `backward` stores dC/d(this) in `grad`
    name : used in messages

    Raises
    ------
    InputTypeError : another dtype, or requires_grad for integers or booleans

    Notes
    -----
    float32 stays float32. Constants (numbers and arrays) and 0-d Tensors take the dtype of the other operand. Two
    larger Tensors of different dtypes are an error. `==` compares identity, so that Tensors can be dictionary keys.
    """

    __array_ufunc__ = None  # array * Tensor goes to Tensor.__rmul__

    def __init__(self, data: Any, requires_grad: bool = False, name: str = ""):
        if isinstance(data, (np.ndarray, np.generic)):
            data = np.asarray(data)
        elif isinstance(data, (bool, int, float, list, tuple)):
            try:
                data = np.array(data, dtype=np.float32)
            except (TypeError, ValueError) as error:
                raise InputTypeError(f"Tensor: data is not an array of numbers: {error}") from None
        else:
            raise InputTypeError(f"Tensor: data must be an array, a number or a list, got {type(data).__name__}")
        if not _is_float(data) and (requires_grad or data.dtype.kind not in "iub"):
            raise InputTypeError(f"Tensor: a gradient needs float32 or float64 data, got {data.dtype}")
        self.data: NDArray = data
        self.grad: NDArray | None = None
        self.requires_grad = requires_grad
        self.name = name
        self.record: Record | None = None

    @property
    def T(self) -> "Tensor":
        """Return a Tensor with the axes in reverse order."""
        return self.transpose()

    def detach(self) -> "Tensor":
        """Return the same array as a constant."""
        return Tensor(self.data, name=self.name)

    def __repr__(self) -> str:
        made_by = f", made by {self.record.op}" if self.record else ", requires_grad" * self.requires_grad
        return f"Tensor({self.data!r}{made_by}{', ' + self.name if self.name else ''})"

    def __array__(self, dtype=None, copy=None):
        raise InputTypeError(
            "Tensor: NumPy would drop the gradient silently; use .data or the functions of xnor_ref.autodiff"
        )

    # Arithmetic, with broadcasting.

    def __add__(self, other: Any) -> "Tensor":
        a, b = operands("add", self, other)
        return apply("add", add(a.data, b.data), (a, b), lambda dy: (to(a, lambda: dy), to(b, lambda: dy)))

    def __sub__(self, other: Any) -> "Tensor":
        a, b = operands("sub", self, other)
        return apply("sub", a.data - b.data, (a, b), lambda dy: (to(a, lambda: dy), to(b, lambda: -dy)))

    def __mul__(self, other: Any) -> "Tensor":
        a, b = operands("mul", self, other)
        x, y = a.data, b.data
        return apply("mul", x * y, (a, b), lambda dy: (to(a, lambda: dy * y), to(b, lambda: dy * x)))

    def __truediv__(self, other: Any) -> "Tensor":
        a, b = operands("div", self, other)
        y, out = b.data, a.data / b.data
        return apply("div", out, (a, b), lambda dy: (to(a, lambda: dy / y), to(b, lambda: -dy * out / y)))

    def __pow__(self, other: Any) -> "Tensor":
        a, b = operands("pow", self, other)
        x, p = a.data, b.data
        out = x**p

        def dx():  # p x^(p-1), which is 0 where p = 0, even at x = 0
            return p * x ** np.where(p == 0, p, p - 1)

        def dp():  # x^p log x, and its limit 0 at x = 0
            return out * np.log(np.where(x == 0, x + 1, x))

        return apply("pow", out, (a, b), lambda dy: (to(a, lambda: dy * dx()), to(b, lambda: dy * dp())))

    def __matmul__(self, other: Any) -> "Tensor":
        """np.matmul: vectors, matrices, and stacks of matrices that broadcast."""
        a, b = operands("matmul", self, other, broadcast=False)
        try:
            out = np.matmul(a.data, b.data)
        except ValueError:
            raise InputError(f"matmul: shapes {a.shape} and {b.shape} cannot be multiplied") from None
        x = a.data[None, :] if a.ndim == 1 else a.data  # (..., N, K)
        y = b.data[:, None] if b.ndim == 1 else b.data  # (..., K, M)

        def backward(dy):
            dy = np.expand_dims(dy, -1) if b.ndim == 1 else dy
            dy = np.expand_dims(dy, -2) if a.ndim == 1 else dy  # (..., N, M)
            da = unbroadcast(dy @ y.swapaxes(-1, -2), x.shape).reshape(a.shape) if a.requires_grad else None
            db = unbroadcast(x.swapaxes(-1, -2) @ dy, y.shape).reshape(b.shape) if b.requires_grad else None
            return da, db

        return apply("matmul", out, (a, b), backward)

    def __neg__(self) -> "Tensor":
        return apply("neg", -self.data, (self,), lambda dy: (-dy,))

    def __abs__(self) -> "Tensor":
        """|x|; the gradient at 0 is 0."""
        return apply("abs", np.abs(self.data), (self,), lambda dy: (dy * np.sign(self.data),))

    def __radd__(self, other: Any) -> "Tensor":
        return self + other

    def __rsub__(self, other: Any) -> "Tensor":
        return constant("sub", other, self) - self

    def __rmul__(self, other: Any) -> "Tensor":
        return self * other

    def __rtruediv__(self, other: Any) -> "Tensor":
        return constant("div", other, self) / self

    def __rpow__(self, other: Any) -> "Tensor":
        return constant("pow", other, self) ** self

    def __rmatmul__(self, other: Any) -> "Tensor":
        return constant("matmul", other, self) @ self

    # Comparisons have no gradient: they return boolean arrays.

    def _compared(self, other: Any, how: np.ufunc) -> NDArray[np.bool_]:
        a, b = operands(how.__name__, self, other)
        return np.asarray(how(a.data, b.data))

    __lt__ = partialmethod(_compared, how=np.less)
    __le__ = partialmethod(_compared, how=np.less_equal)
    __gt__ = partialmethod(_compared, how=np.greater)
    __ge__ = partialmethod(_compared, how=np.greater_equal)

    # Reductions, over one axis, several, or all (axis=None).

    def sum(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """Sum over axes."""
        axes = _axes("sum", self, axis)

        def backward(dy):
            return (np.broadcast_to(dy if keepdims else np.expand_dims(dy, axes), self.shape),)

        return apply("sum", self.data.sum(axis=axes, keepdims=keepdims), (self,), backward)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """Mean over axes."""
        count = math.prod(self.shape[i] for i in _axes("mean", self, axis))
        if count == 0:
            raise InputError(f"mean: nothing to average over axis {axis} of shape {self.shape}")
        return self.sum(axis, keepdims) / count

    def var(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """Biased variance over axes: mean((x - mean(x))^2)."""
        centred = self - self.mean(axis, keepdims=True)
        return (centred * centred).mean(axis, keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """Maximum over axes. Among equal elements the first, in C order of those axes, gets the gradient."""
        axes = _axes("max", self, axis)
        last = tuple(range(-len(axes), 0))
        moved = np.moveaxis(self.data, axes, last)  # (kept..., reduced...)
        kept = moved.shape[: self.ndim - len(axes)]
        flat = moved.reshape(*kept, math.prod(moved.shape[len(kept) :]))
        if flat.shape[-1] == 0:
            raise InputError(f"max: nothing to compare over axis {axis} of shape {self.shape}")
        winner = flat.argmax(axis=-1)[..., None]
        out = np.take_along_axis(flat, winner, axis=-1)[..., 0]

        def backward(dy):
            dx = np.zeros(flat.shape, dy.dtype)
            np.put_along_axis(dx, winner, dy.reshape(*kept, 1), axis=-1)
            return (np.moveaxis(dx.reshape(moved.shape), last, axes),)

        return apply("max", np.expand_dims(out, axes) if keepdims else out, (self,), backward)

    # Shapes.

    def reshape(self, *shape: Any) -> "Tensor":
        """Return the same elements in another shape. One size may be -1; it is computed from the others."""
        with named("reshape", self, shape):
            out = self.data.reshape(*shape)
        return apply("reshape", out, (self,), lambda dy: (dy.reshape(self.shape),))

    def transpose(self, *axes: Any) -> "Tensor":
        """Return a Tensor with the axes in another order, reversed by default."""
        order = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
        order = tuple(order) or tuple(reversed(range(self.ndim)))
        with named("transpose", self, order):
            out = self.data.transpose(order)
        return apply("transpose", out, (self,), lambda dy: (dy.transpose(np.argsort([i % self.ndim for i in order])),))

    def swapaxes(self, first: int, second: int) -> "Tensor":
        """Return a Tensor with two axes exchanged."""
        with named("swapaxes", self, (first, second)):
            out = self.data.swapaxes(first, second)
        return apply("swapaxes", out, (self,), lambda dy: (dy.swapaxes(first, second),))

    def __getitem__(self, index: Any) -> "Tensor":
        """NumPy's indexing. An element picked several times gets the sum of the gradients."""
        with named("getitem", self, index):
            out = self.data[index]
        parts = index if isinstance(index, tuple) else (index,)
        basic = all(part is None or isinstance(part, (int, np.integer, slice, EllipsisType)) for part in parts)

        def backward(dy):
            dx = np.zeros(self.shape, dy.dtype)
            if basic:
                dx[index] = dy
            else:
                np.add.at(dx, index, dy)
            return (dx,)

        return apply("getitem", out, (self,), backward)

    def __iter__(self) -> Iterator["Tensor"]:
        """Iterate over the Tensors along the first axis."""
        if self.ndim == 0:
            raise InputTypeError("iter: a 0-d Tensor has no axis to iterate over")
        return (self[i] for i in range(self.shape[0]))

    def astype(self, dtype: Any) -> "Tensor":
        """Convert to float32 or float64. The gradient returns in the old dtype."""
        out = self.data.astype(dtype)
        if not _is_float(out):
            raise InputTypeError(f"astype: needs float32 or float64, got {np.dtype(dtype)}")
        return apply("astype", out, (self,), lambda dy: (dy.astype(self.dtype),))


# Helpers of the ops.


def _is_float(array: NDArray) -> bool:
    return array.dtype in (np.float32, np.float64)


def require_float(op: str, x: Tensor) -> NDArray:
    """Return the array of a Tensor, after checking that it is float32 or float64."""
    if not isinstance(x, Tensor) or not _is_float(x.data):
        raise InputTypeError(f"{op}: needs a float32 or float64 Tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    return x.data


@contextmanager
def named(op: str, x: Tensor, argument: Any) -> Iterator[None]:
    """Turn NumPy's error about an argument into one that names the op and the shape."""
    try:
        yield
    except (ValueError, IndexError, TypeError) as error:
        raise InputError(f"{op}: {argument!r:.80} does not fit shape {x.shape}: {error}") from None


def _axes(op: str, x: Tensor, axis: Axis) -> tuple[int, ...]:
    """Return the axes to reduce, ascending and not negative."""
    if axis is None:
        return tuple(range(x.ndim))
    with named(op, x, axis):
        return tuple(sorted(normalize_axis_tuple(axis, x.ndim)))


def constant(op: str, value: Any, like: Tensor) -> Tensor:
    """Return a Tensor unchanged, a number or array as a constant of `like`'s dtype."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (bool, int, float)) or (
        isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "fiub"
    ):
        return Tensor(np.asarray(value, dtype=like.dtype))
    raise InputTypeError(f"{op}: operands must be Tensors, arrays or numbers, got {type(value).__name__}")


def operands(op: str, left: Any, right: Any, *, broadcast: bool = True) -> tuple[Tensor, Tensor]:
    """Return both operands as Tensors of one float dtype, with shapes that broadcast. At least one must be a Tensor."""
    a = left if isinstance(left, Tensor) else constant(op, left, right)
    b = constant(op, right, a)
    if a.dtype != b.dtype and b.ndim == 0:
        b = b.astype(a.dtype)
    elif a.dtype != b.dtype and a.ndim == 0:
        a = a.astype(b.dtype)
    if a.dtype != b.dtype or not _is_float(a.data):
        raise InputTypeError(f"{op}: needs two float32 or two float64 operands, got {a.dtype} and {b.dtype}")
    if broadcast and a.shape != b.shape:
        try:
            np.broadcast_shapes(a.shape, b.shape)
        except ValueError:
            raise InputError(f"{op}: shapes {a.shape} and {b.shape} do not broadcast") from None
    return a, b


def unbroadcast(dy: NDArray, shape: tuple[int, ...]) -> NDArray:
    """Sum `dy` to `shape`, over the axes that broadcasting added or stretched: the adjoint of broadcasting."""
    extra = dy.ndim - len(shape)
    axes = tuple(i for i in range(dy.ndim) if i < extra or shape[i - extra] != dy.shape[i])
    return dy.sum(axis=axes).reshape(shape) if axes else dy


def to(parent: Tensor, gradient: Callable[[], NDArray]) -> NDArray | None:
    """Return `gradient()` summed to the shape of `parent`, or None without computing it for a constant."""
    return unbroadcast(gradient(), parent.shape) if parent.requires_grad else None
