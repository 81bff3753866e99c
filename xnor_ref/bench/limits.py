"""The least time that the layers of a packed network need on this machine: the roof of arithmetic, or of memory."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from xnor_ref.bench.measuring import roof
from xnor_ref.packed import PackedNetwork

SMALLEST = (
    1 << 19
)  # bytes of the smallest array read to measure memory, so that the call's own time is negligible; powers of two


def _size(n_bytes: int) -> int:
    return max(SMALLEST, 1 << (n_bytes - 1).bit_length())


@dataclass(frozen=True)
class Limit:
    """The least seconds that a layer needs, and what limits it: "bits", "float32" or "memory"."""

    seconds: float
    bound: str


class Limits:
    """The limits of a packed network's stages, for a batch of images and a number of threads.

    Multiply-accumulates, those with padded taps included, are done at the roof of their kind. Activations are read and
    written as fast as an array of that size is read again and again. Weights are read as fast as an array as large as
    all weights of the network: between two uses of a weight all others are used. The longest time is a layer's limit.
    """

    def __init__(self, network: PackedNetwork, batch: int, threads: int) -> None:
        self._work, self._batch = network.work(), batch
        self._weights = _size(sum(work.weights for work in self._work))
        sizes = {self._weights, *(_size(batch * work.activations) for work in self._work)}
        self.loads = {"bits": roof.binary_roof(threads), "float32": roof.float_roof(threads)}
        self.loads |= {f"memory, {size} bytes": roof.memory_roof(size / 1e6, threads) for size in sorted(sizes)}

        self._samples: dict[str, list[float]] = {name: [] for name in self.loads}

    @property
    def runs(self) -> dict[str, Callable[[], object]]:
        """Return the roofs, to be measured together with the network.

        Each call is timed, as each stage of the network is.
        """
        return {f"roof: {name}": partial(self._run, name) for name in self.loads}

    def _run(self, name: str) -> None:
        start = time.perf_counter()
        self.loads[name].run()
        self._samples[name].append(time.perf_counter() - start)

    def rates(self) -> dict[str, float]:
        """Return multiply-accumulates and bytes per second, from the medians of all calls."""
        return {name: load.work / statistics.median(self._samples[name]) for name, load in self.loads.items()}

    def of_stages(self, rates: dict[str, float]) -> list[Limit]:
        """Return the limit of each stage of `PackedNetwork.profile`."""

        def memory(n_bytes: int, size: int) -> float:
            return n_bytes / rates[f"memory, {size} bytes"]

        found = []
        for work in self._work:
            activations = self._batch * work.activations
            takes = {
                "bits": self._batch * work.binary_macs / rates["bits"],
                "float32": self._batch * work.real_macs / rates["float32"],
                "memory": memory(activations, _size(activations)) + memory(work.weights, self._weights),
            }
            bound = max(takes, key=takes.__getitem__)
            found.append(Limit(takes[bound], bound))
        return found

    def of_network(self, stages: list[dict[str, Any]], rates: dict[str, float], seconds: float) -> dict[str, Any]:
        """Return JSON values: `stages` with their limits, the sum of limits, and `seconds` divided by it."""
        limits = self.of_stages(rates)
        rows = [
            {**stage, "limit": limit.seconds, "bound": limit.bound, "over_limit": stage["seconds"] / limit.seconds}
            for stage, limit in zip(stages, limits, strict=True)
        ]
        total = sum(limit.seconds for limit in limits)
        return {"layers": rows, "roofs": rates, "limit": total, "over_limit": seconds / total}
