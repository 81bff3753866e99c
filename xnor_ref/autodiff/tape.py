"""The tape: a record of which op computed which array from which others, and `backward`, which walks it in reverse.

The room's page follows it in numbers (Griewank and Walther 2008, ch. 3). The tape knows no ops, and its only arithmetic
is the addition of gradients.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.threads import parallel_chunks
from xnor_ref.steady import steady

Backward = Callable[[NDArray], tuple[NDArray | None, ...]]

_WORTH = 1 << 18  # least elements per thread in an addition
_mode = threading.local()
_order = itertools.count()


def is_grad_enabled() -> bool:
    """Whether this thread records ops."""
    return getattr(_mode, "enabled", True)


@contextmanager
def no_grad() -> Iterator[None]:
    """Stop recording: `with no_grad():`, or `@no_grad()` above a function. It applies only to this thread."""
    before = is_grad_enabled()
    _mode.enabled = False
    try:
        yield
    finally:
        _mode.enabled = before


def add(x: NDArray, y: NDArray, out: NDArray | None = None) -> NDArray:
    """Return x + y of equal shape, by several threads if large. If x and y share a memory layout, so does the sum."""
    if x.size < _WORTH or x.shape != y.shape:
        return np.asarray(np.add(x, y, out=out))
    result = np.empty_like(x) if out is None else out
    chunk = max(1, _WORTH // x[0].size)
    parallel_chunks(lambda a, b: np.add(x[a:b], y[a:b], out=result[a:b]), len(x), chunk)
    return result


class Record:
    """How one array was computed. Parents are recorded before their children, so `order` sorts topologically."""

    __slots__ = ("backward", "fresh", "op", "order", "parents")

    def __init__(self, op: str, parents: Sequence["Taped"], backward: Backward, fresh: bool = False):
        self.op = op
        self.parents = tuple(parents)
        self.backward: Backward | None = backward  # None after the record was freed
        self.fresh = fresh  # whether `backward` returns new arrays that nothing else refers to
        self.order = next(_order)

    def gradients(self, dy: NDArray) -> Iterator[tuple["Taped", NDArray]]:
        """Yield (parent, checked gradient) for each parent that requires a gradient."""
        assert self.backward is not None
        result = self.backward(dy)
        if not isinstance(result, tuple) or len(result) != len(self.parents):
            raise InputError(
                f"{self.op}: backward must return a tuple of {len(self.parents)} gradients, got {result!r:.80}"
            )
        for index, (parent, gradient) in enumerate(zip(self.parents, result)):
            if gradient is None or not parent.requires_grad:
                continue
            if np.shape(gradient) != parent.shape:
                raise InputError(
                    f"{self.op}: backward returned a gradient of shape {np.shape(gradient)} "
                    f"for parent {index} of shape {parent.shape}"
                )
            yield parent, np.asarray(gradient, dtype=parent.dtype)

    def leaves(self) -> Iterator["Taped"]:
        """The parents that nothing was computed for and that want a gradient, as often as they are parents."""
        return (parent for parent in self.parents if parent.record is None and parent.requires_grad)

    def free(self) -> None:
        """Drop the parents and all arrays that the op kept for its gradient."""
        self.backward, self.parents = None, ()


class Taped:
    """The part of a Tensor that the tape uses: its array, its gradient, its record."""

    data: NDArray
    grad: NDArray | None
    requires_grad: bool
    record: Record | None  # None for a leaf

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    def numpy(self) -> NDArray:
        """Return the array itself, not a copy."""
        return self.data

    def item(self) -> float:
        """Return the only element as a Python number."""
        if self.size != 1:
            raise InputError(f"item: needs exactly one element, got shape {self.shape}")
        return self.data.item()

    __float__ = item

    def zero_grad(self) -> None:
        """Set the gradient to None."""
        self.grad = None

    @steady
    def backward(
        self,
        grad: NDArray | None = None,
        *,
        keep_tape: bool = False,
        deliver: Callable[["Taped", NDArray], None] | None = None,
    ) -> None:
        """Add dC/d(leaf) to the `grad` of every leaf that this Tensor was computed from.

        Parameters
        ----------
        grad : dC/d(this), of this Tensor's shape. Default 1, for a Tensor with one element only.
        keep_tape : keep the record, so that backward can run again. By default each record is freed once it is used.
        deliver : called with a leaf and dC/d(leaf) as soon as the latter is complete, before the rest is computed. It
            owns the array, and `grad` of the leaf is not changed.

        Raises
        ------
        InputError : nothing was recorded, the record was freed, or shapes clash. No leaf is changed.
        """
        if not self.requires_grad:
            raise InputError("backward: nothing was recorded; no input requires a gradient, or no_grad was active")
        if grad is None and self.size != 1:
            raise InputError(
                f"backward: a Tensor of shape {self.shape} needs grad; it may be left out only for one element"
            )
        seed = np.ones(self.shape, self.dtype) if grad is None else np.asarray(grad, dtype=self.dtype)
        if seed.shape != self.shape:
            raise InputError(f"backward: grad has shape {seed.shape}, but the Tensor has {self.shape}")

        gradients: dict[Taped, NDArray] = {self: seed}
        owned: set[Taped] = set()  # Tensors whose gradient array is not shared; only these are written to
        todo = self._recorded()

        def finished(leaf: Taped) -> NDArray:
            gradient = gradients.pop(leaf)
            return np.ascontiguousarray(gradient) if leaf in owned else np.array(gradient, order="C")

        awaited = Counter(leaf for _, record in todo for leaf in record.leaves()) if deliver else Counter()
        while todo:
            node, record = todo.pop()  # popping drops the list's reference, so memory is freed on the way
            dy = gradients.pop(node, None)
            owned.discard(node)
            fresh = record.fresh
            for parent, gradient in record.gradients(dy) if dy is not None else ():
                if parent not in gradients:
                    gradients[parent] = gradient
                    if fresh:
                        owned.add(parent)
                elif parent in owned:
                    add(gradients[parent], gradient, out=gradients[parent])
                else:
                    gradients[parent] = add(gradients[parent], gradient, out=gradient if fresh else None)
                    owned.add(parent)
            if deliver:
                for leaf in record.leaves():
                    awaited[leaf] -= 1
                    if not awaited[leaf] and leaf in gradients:
                        deliver(leaf, finished(leaf))
            if not keep_tape:
                record.free()

        for leaf in list(gradients):
            if deliver:
                deliver(leaf, finished(leaf))
            elif leaf.grad is not None:
                np.add(leaf.grad, gradients[leaf], out=leaf.grad)
            else:
                leaf.grad = finished(leaf)

    def _recorded(self) -> list[tuple["Taped", Record]]:
        """Return all recorded nodes that this one depends on, parents first.

        It does not recurse, since graphs are deep.
        """
        found, seen, stack = [], {self}, [self]
        while stack:
            node = stack.pop()
            if node.record is None:
                continue
            if node.record.backward is None:
                raise InputError(
                    f"backward: the record of {node.record.op!r} was freed by an earlier backward; pass "
                    "keep_tape=True to that call, or compute the value again"
                )
            found.append((node, node.record))
            for parent in node.record.parents:
                if parent.requires_grad and parent not in seen:
                    seen.add(parent)
                    stack.append(parent)
        return sorted(found, key=lambda pair: pair[1].order)
