"""Training for MST-compression: the filters of each binary layer are pulled together during training.

docs/compression.md has the penalty and its strength.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref import models
from xnor_ref.compress import pull, tree
from xnor_ref.errors import InputError, ModelFileError
from xnor_ref.kernels.basics.layout import n_words, pack_mask, signs_of_words
from xnor_ref.nn import BinaryConv2d, BinaryLinear
from xnor_ref.nn.layers.binary_layers import BinaryLayer
from xnor_ref.training.fitting.trainer import Callback, Step, Trainer

LAYERS = (BinaryConv2d, BinaryLinear)  # not their subclasses with more bits or real inputs

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Targets:
    """The targets of a layer's filters until the next refresh.

    row : int32 (O,), the parent in the tree, or 0 for the centre; -1 for no target, or one that is near enough
    centre : uint64 (n_words(n),), the signs of the centre; None if filters are pulled towards each other
    """

    row: NDArray[np.int32]
    centre: NDArray[np.uint64] | None

    @cached_property
    def near(self) -> pull.Neighbours:
        """`row` as lists of neighbours. The edges of a tree pull at both ends."""
        if self.centre is None:
            return pull.neighbours(self.row)
        first = np.concatenate([[0], np.cumsum(self.row >= 0)])
        return pull.Neighbours(first.astype(np.int32), self.row[self.row >= 0])

    def toward(self, weight: F32) -> F32:
        """Return the rows to which `row` refers, for latent weights (O, n)."""
        return weight if self.centre is None else signs_of_words(self.centre[None], weight.shape[1])


class MstPull(Callback):
    """Pulls the filters of all binary layers of a network, with its trees.

    Parameters
    ----------
    steps : number of steps per epoch
    strength : the largest lambda; with 0 there is no pull, only figures
    pull : {"tree", "centre"}; the target of a filter: its neighbours in the layer's minimum spanning tree, or the signs
        that most filters have (the sum of distances to these signs bounds the tree's weight)
    start, ramp : epochs before the pull begins, and epochs over which lambda then rises
    refresh : steps between two searches for trees and centres; by default an epoch, at most 100 steps
    margin : filters that differ in at most this share of their signs are not pulled, so that none become equal

    Raises
    ------
    InputError : no layer has binary weights, binary inputs and more than one output channel
    """

    name = "extra"

    def __init__(
        self,
        model: models.Network,
        steps: int,
        strength: float,
        *,
        pull: str = "tree",
        start: float = 0.0,
        ramp: float = 0.0,
        refresh: int | None = None,
        margin: float = 0.0,
    ) -> None:
        self._strength, self._kind, self._margin = strength, pull, margin
        self._first, self._ramp = round(start * steps), round(ramp * steps)
        self._refresh = refresh or min(steps, 100)
        self._layers = {
            name: layer
            for name, layer in model.named_modules()
            if isinstance(layer, BinaryLayer)
            and type(layer) in LAYERS
            and len(layer.weight.data) > 1
            and getattr(layer, "groups", 1) == 1
        }
        if not self._layers:
            raise InputError(
                f"mst_lambda (={strength:g}) needs layers with one-bit weights and inputs, more than one output "
                f"channel and no groups; {model.config['name']} with method {model.config['method']!r} has none"
            )
        self._targets: dict[str, Targets] = {}

    def strength(self, step: int) -> float:
        """Return lambda at a global step, counted from 0."""
        return self._strength * min(1.0, max(0.0, (step - self._first + 1) / (self._ramp + 1)))

    def after_backward(self, trainer: Trainer, step: Step) -> None:
        strength = self.strength(step.number)
        if not strength:
            return
        refresh = (step.number - self._first) % self._refresh == 0
        for name, layer in self._layers.items():
            if layer.weight.grad is None:
                continue
            if refresh or name not in self._targets:
                self._targets[name] = self._found(_rows(layer.weight.data))
            grad = layer.weight.grad = np.ascontiguousarray(layer.weight.grad)
            weight, flat, targets = _rows(layer.weight.data), grad.reshape(-1), self._targets[name]
            rms = float(np.sqrt(np.dot(flat, flat) / flat.size))
            pull.add_pull(weight, targets.toward(weight), targets.near, strength * rms, _rows(grad))

    def _found(self, weight: F32) -> Targets:
        """Return the targets for the current filters (O, n)."""
        rows, n_bits = tree.filter_rows(weight), weight.shape[1]
        if self._kind == "tree":
            made = tree.build(rows, n_bits, starts=1)
            return Targets(np.where(made.distance > self._margin * n_bits, made.parent, -1).astype(np.int32), None)
        positive = np.count_nonzero(weight >= 0, axis=0)
        centre = pack_mask(2 * positive >= len(weight), -1)
        distance = np.bitwise_count(rows ^ centre).sum(axis=1, dtype=np.int32)
        return Targets(np.where(distance > self._margin * n_bits, 0, -1).astype(np.int32), centre)

    def figures(self, trainer: Trainer) -> dict[str, Any]:
        """Return figures of the current network, over all layers.

        mst_distance, mst_depth : total distance of the minimum spanning trees, and the depth of the deepest
        mst_ratio : weights visited along the trees, relative to the network's: (n + E)/(o n), summed over layers. If
            all layers have maps of the same size, it is the ratio of XNORs as well
        mst_penalty : mean of P over the weights of the pulled layers; 0 before the pull begins
        mst_equal : filters that equal another filter or its negative, and are redundant
        """
        trees, equal, far, count = [], 0, 0.0, 0
        for name, layer in self._layers.items():
            weight = _rows(layer.weight.data)
            trees.append(tree.build(tree.filter_rows(weight), weight.shape[1]))
            equal += len(weight) - _different(weight)
            count += weight.size
            if name in self._targets:
                far += pull.penalty(weight, self._targets[name].toward(weight), self._targets[name].near)
        distance = sum(made.total_distance for made in trees)
        return {
            "mst_distance": distance,
            "mst_depth": max(made.depth for made in trees),
            "mst_ratio": (distance + sum(made.n_bits for made in trees)) / count,
            "mst_penalty": far / count,
            "mst_equal": equal,
        }

    def state_dict(self) -> dict[str, NDArray]:
        """Return the targets: "<layer>.row" and, with a centre, "<layer>.centre"."""
        state: dict[str, NDArray] = {f"{name}.row": targets.row for name, targets in self._targets.items()}
        return state | {f"{name}.centre": t.centre for name, t in self._targets.items() if t.centre is not None}

    def load_state_dict(self, state: dict[str, NDArray]) -> None:
        """Load the result of `state_dict`. Raises ModelFileError."""
        found: dict[str, Targets] = {}
        left = dict(state)
        for name, layer in self._layers.items():
            row, centre = left.pop(f"{name}.row", None), left.pop(f"{name}.centre", None)
            if row is None and centre is None:
                continue
            weight = _rows(layer.weight.data)
            last = len(weight) if self._kind == "tree" else 1
            fits = row is not None and row.dtype == np.int32 and row.shape == (len(weight),)
            if row is None or not fits or row.min() < -1 or row.max() >= last:
                raise ModelFileError(f"{name}.row must be int32 ({len(weight)},) with values from -1 to {last - 1}")
            if (centre is None) != (self._kind == "tree"):
                raise ModelFileError(f"{name}.centre is {'unexpected' if self._kind == 'tree' else 'missing'}")
            if centre is not None and (centre.dtype != np.uint64 or centre.shape != (n_words(weight.shape[1]),)):
                raise ModelFileError(f"{name}.centre must be uint64 ({n_words(weight.shape[1])},)")
            found[name] = Targets(row.copy(), None if centre is None else centre.copy())
        if left:
            raise ModelFileError(f"{next(iter(left))} belongs to no layer with a pull")
        self._targets = found


def _rows(weight: F32) -> F32:
    return weight.reshape(len(weight), -1)


def _different(weight: F32) -> int:
    """Return how many filters differ, counting equal and opposite ones as one."""
    positive = weight >= 0
    return len(np.unique(pack_mask(positive == positive[:, :1], -1), axis=0))
