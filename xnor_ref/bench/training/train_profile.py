"""How the time of a training step is divided: the functions that do the work are timed from outside.

A function's own time is its time minus that of the timed functions that it calls, so shares add up to one. The rest is
work of other functions: losses, additions, the tape, Python itself. For a new kernel, add its name to `TIMED`.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from importlib import import_module
from math import prod
from threading import get_ident
from typing import Any, NamedTuple

from xnor_ref.bench.measuring import roof
from xnor_ref.bench.measuring.timing import Pace, rates

SHARES = (
    "forward",
    "input gradient",
    "weight gradient",
    "operands of both",
    "BatchNorm",
    "activation",
    "pooling",
    "update",
    "data",
    "rest",
)


class Gemm(NamedTuple):
    """The matrix product of one call."""

    name: str
    macs: int
    roof: str = "float32"  # a key of the roofs


@dataclass(frozen=True)
class Timed:
    """A function to time: where callers look it up, its share, and the matrix product of a call."""

    share: str
    module: str
    name: str  # "Class.method" for a method
    gemm: Callable[[Any, Any], Gemm] | None = None  # computed from the arguments and the result


def _gemm(over: Any, filters: Any, kind: str = "float32") -> Gemm:
    """Count the products of filters (O, C[, KH, KW]) in a convolution with the output `over` (N, O[, OH, OW])."""
    outputs, inputs = filters.shape[:2]
    name = f"{inputs} -> {outputs}"
    if filters.ndim == 4:
        kernel, pixels = ("x".join(map(str, array.shape[2:])) for array in (filters, over))
        name = f"{inputs} {kernel} -> {outputs} at {pixels}"
    return Gemm(name, over.size * filters[0].size, kind)


def _forward(arguments: Any, result: Any, kind: str = "float32") -> Gemm:
    return _gemm(result, arguments[1], kind)


def _to_input(arguments: Any, result: Any) -> Gemm:
    return _gemm(arguments[0], arguments[1])


def _to_weight(arguments: Any, result: Any) -> Gemm:
    return _gemm(arguments[0], result)


def _geometry(conv: Any, images: int, kind: str, by: Any = None) -> Gemm:
    """Count the same from an object with channels, outputs, size and window; `by` may have tiles."""
    pixels = conv.window.count(conv.size)
    kernel, place = "x".join(map(str, conv.window.kernel)), "x".join(map(str, pixels))
    products = images * prod(pixels) * conv.outputs * conv.channels * prod(conv.window.kernel)
    name = f"{conv.channels} {kernel} -> {conv.outputs} at {place}"
    if hasattr(by, "tiles"):  # Winograd: one product for each element of a tile and pair of channels
        return Gemm(name + " (tiles)", images * prod(by.tiles) * by.side**2 * conv.outputs * conv.channels, kind)
    return Gemm(name, products, kind)


def _real_convolution(arguments: Any, result: Any) -> Gemm:
    return _geometry(arguments[0], len(result), "float32", arguments[0].in_tiles)


def _sign_convolution(arguments: Any, result: Any) -> Gemm:
    return _geometry(arguments[0], len(result[0]), "binary")


def _convolution_to_input(arguments: Any, result: Any) -> Gemm:
    conv, gradient = arguments[:2]
    return _geometry(conv, len(result), _kind(gradient), gradient)


def _sum_over_pixels(arguments: Any, result: Any) -> Gemm:
    gradient, images = arguments[0], arguments[3]
    return _geometry(gradient, images, _kind(gradient), gradient)


def _kind(gradient: Any) -> str:
    return "int8" if gradient.in_bytes else "float32"


_FLOAT, _BINARY = "xnor_ref.kernels.ops.float_ops", "xnor_ref.kernels.ops.binary_ops"
_FUSED, _SUMS = "xnor_ref.kernels.training.convolution", "xnor_ref.kernels.training.gradients"
_TILES = "xnor_ref.kernels.training.winograd"
_NORM, _POOL = "xnor_ref.kernels.training.batch_norm", "xnor_ref.kernels.training.pooling"
_NN, _LAYERS = "xnor_ref.nn.functional", "xnor_ref.nn.layers.binary_layers"


def _timed(share: str, module: str, *names: str, gemm: Callable[[Any, Any], Gemm] | None = None) -> list[Timed]:
    return [Timed(share, module, name, gemm) for name in names]


TIMED = (
    *_timed("forward", _FUSED, "SignConvolution.forward", gemm=_sign_convolution),
    *_timed("forward", _FUSED, "RealConvolution.forward", gemm=_real_convolution),
    *_timed("operands of both", _FUSED, "SignConvolution.backward", "RealConvolution.backward"),
    # `each_block` includes what is computed from the sums, `RowsGradient` BatchNorm's last pass
    *_timed("weight gradient", _SUMS, "WeightGradient.__call__", "WeightGradient.each_block", gemm=_sum_over_pixels),
    *_timed("weight gradient", _SUMS, "RowsGradient.__call__", gemm=_sum_over_pixels),
    *_timed("weight gradient", _TILES, "WeightGradient.__call__", gemm=_sum_over_pixels),
    *_timed("weight gradient", _FUSED, "_Convolution._gradient_of_weight"),
    *_timed("input gradient", _FUSED, "_Convolution._run_input_gradient", gemm=_convolution_to_input),
    *_timed("BatchNorm", _NORM, "moments", "norm_relu", "norm_gradient", "written"),
    *_timed("pooling", _POOL, "norm_relu_pool", "norm_relu_pool_gradient"),  # includes BatchNorm's sums
    *_timed("pooling", _POOL, "max_pool", "max_pool_gradient", "avg_pool", "avg_pool_gradient"),
    *_timed("pooling", _POOL, "global_avg_pool", "global_avg_pool_gradient"),
    *_timed("forward", _FLOAT, "conv2d", "linear", gemm=_forward),
    *_timed("forward", _BINARY, "sign_conv2d", "sign_linear", gemm=partial(_forward, kind="binary")),
    *_timed("forward", _BINARY, "input_scale_map", "input_scale_rows", "weight_scale"),
    *_timed("forward", _FLOAT, "scale_output"),
    *_timed("forward", _NN, "scale"),
    *_timed("input gradient", _FLOAT, "conv2d_input_gradient", "linear_input_gradient", gemm=_to_input),
    *_timed("input gradient", _FLOAT, "mask_ste"),
    *_timed("weight gradient", _FLOAT, "conv2d_weight_gradient", "linear_weight_gradient", gemm=_to_weight),
    *_timed("weight gradient", _LAYERS, "BinaryLayer.latent_gradient"),
    *_timed("BatchNorm", _FLOAT, "batch_norm", "batch_norm_gradient"),
    *_timed("activation", _NN, "relu", "sign"),
    *_timed("activation", "xnor_ref.binary", "sign"),
    *_timed("pooling", _FLOAT, "max_pool2d_winners", "max_pool2d_gradient", "avg_pool2d", "avg_pool2d_gradient"),
    *_timed("pooling", _FLOAT, "global_avg_pool2d"),
    *_timed("update", "xnor_ref.optim.optimizers", "Optimizer.step"),
    *_timed("update", _LAYERS, "BinaryLayer.after_step"),
    *_timed("update", "xnor_ref.training.callbacks.finite", "FiniteCheck.after_backward"),
    *_timed("data", "xnor_ref.datasets.batches", "make_batch"),
)


class Shares:
    """Seconds of each share and GEMM, while `TIMED` functions are watched on the thread that made this object."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(SHARES[:-1], 0.0)
        self.gemms: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0, 0, 0.0])  # calls, MACs, seconds
        self._inner: list[float] = []  # for each running timed function: seconds of the timed functions that it called
        self._thread = get_ident()

    @contextmanager
    def watch(self, functions: tuple[Timed, ...] = TIMED) -> Iterator[None]:
        """Replace the functions by timed ones inside the `with` block."""
        before = []
        try:
            for entry in functions:
                *owners, name = entry.name.split(".")
                owner = reduce(getattr, owners, import_module(entry.module))
                before.append((owner, name, getattr(owner, name)))
                setattr(owner, name, self._timed(entry, getattr(owner, name)))
            yield
        finally:
            for owner, name, function in reversed(before):
                setattr(owner, name, function)

    def _timed(self, entry: Timed, function: Callable) -> Callable:
        def timed(*arguments: Any, **options: Any) -> Any:
            if get_ident() != self._thread:
                return function(*arguments, **options)
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                result = function(*arguments, **options)
            finally:
                spent = time.perf_counter() - start
                self.seconds[entry.share] += spent - self._inner.pop()
                if self._inner:
                    self._inner[-1] += spent
            if entry.gemm:
                gemm = entry.gemm(arguments, result)
                work = self.gemms[entry.share, gemm.name, gemm.roof]
                work[0] += 1
                work[1] += gemm.macs
                work[2] += spent
            return result

        return timed


def profile(step: Callable[[], object], count: int, threads: int) -> dict[str, Any]:
    """Take `count` steps and measure how their time is divided.

    Returns
    -------
    dict of JSON values
        "seconds" of one step; "shares" of `SHARES`; "roofs" in multiply-accumulates per second of all `threads`, None
        if the processor has no such instruction; "gemms", each with its share, name, calls and seconds per step, MACs
        per second (im2col and packing count as its time) and percent of its roof.
    """
    shares = Shares()
    with shares.watch():
        start = time.perf_counter()
        for _ in range(count):
            step()
        whole = time.perf_counter() - start
    seconds = shares.seconds | {"rest": whole - sum(shares.seconds.values())}
    loads = {"binary": roof.binary_roof(threads), "float32": roof.float_roof(threads)}
    if (load := roof.int8_roof(threads)) is not None:
        loads["int8"] = load
    roofs: dict[str, float | None] = {"int8": None, **rates(loads, Pace(rounds=5), threads)}
    return {
        "seconds": whole / count,
        "shares": {name: spent / whole for name, spent in seconds.items()},
        "roofs": roofs,
        "gemms": [
            {
                "share": share,
                "gemm": name,
                "calls": calls / count,
                "seconds": spent / count,
                "macs_per_second": macs / spent,
                "roof": kind,
                "percent_of_roof": 100 * macs / spent / rate if (rate := roofs[kind]) else None,
            }
            for (share, name, kind), (calls, macs, spent) in shares.gemms.items()
        ],
    }
