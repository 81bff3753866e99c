"""One layer at a time: our kernel against the roof, the parts of the whole operation, and the baselines."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from xnor_ref.bench.measuring import roof
from xnor_ref.bench.measuring.layers import F32, Layer, Linear, check_size, random_data
from xnor_ref.bench.measuring.timing import FULL, Pace, limited, measure
from xnor_ref.bench.peers import baselines
from xnor_ref.errors import EquivalenceError
from xnor_ref.kernels.ops import binary_ops
from xnor_ref.kernels.ops.planned import PlannedConv2d, PlannedLinear

LAYOUTS = ("NHWC", "NCHW")
Runs = dict[str, Callable[[], Any]]


def measure_layers(
    layers: Iterable[Layer], batch: int, threads: int, names: tuple[str, ...], pace: Pace = FULL
) -> Iterator[dict[str, Any]]:
    """`measure_layer` for each of `layers`, which are all checked first."""
    layers = tuple(layers)
    roof.require_compiler()
    for layer in layers:
        check_size(layer, batch)
    with limited(threads):
        for layer in layers:
            yield measure_layer(layer, batch, threads, names, pace)


def measure_layer(
    layer: Layer, batch: int = 1, threads: int = 1, names: tuple[str, ...] = (), pace: Pace = FULL
) -> dict[str, Any]:
    """Measure one layer and compare it with the roof and the baselines in `names` (groups of `baselines.BASELINES`).

    Returns
    -------
    dict of JSON values
        "ours" holds seconds of the "kernel" alone (packed bits to int32), of the parts "pack" (sign, pack, A), "scale"
        (K) and "convolve" (popcounts times alpha and K), and of the whole operation in each layout. "roof" is the
        seconds that the roof needs for the same number of multiply-accumulates. "baselines" holds for each baseline a
        ratio, its time divided by ours in the same layout. "absent" says why the others could not be measured.
        "timings" holds all medians with quartiles.
    ------
    EquivalenceError : our result, or a baseline's result for signs, differs from that of the checked functions
    """
    x, weight = random_data(layer, batch)
    runs = ours(layer, x, weight, threads)
    load = roof.binary_roof(threads)
    others, absent = _others(layer, x, weight, threads, names)
    contenders: Runs = {"roof": load.run, **runs, **{name: ready.run for name, (_, ready) in others.items()}}
    timings = measure(contenders, pace, threads)
    seconds = {name: timing.seconds for name, timing in timings.items()}
    roof_seconds = seconds["roof"] / load.work * layer.macs(batch)
    return {
        "layer": layer.name,
        "batch": layer.rows(batch),
        "threads": threads,
        "macs": layer.macs(batch),
        "roof": roof_seconds,
        "roof_macs_per_second": load.work / seconds["roof"],
        "percent_of_roof": 100 * roof_seconds / seconds["kernel"],
        "ours": {name: seconds[name] for name in runs},
        "baselines": [_ratio(baseline, seconds) for baseline, _ in others.values()],
        "absent": absent,
        "timings": {name: timing.to_dict() for name, timing in timings.items()},
    }


def _ratio(baseline: baselines.Baseline, seconds: dict[str, float]) -> dict[str, Any]:
    ours = baseline.layout if baseline.layout in seconds else "NHWC"  # a linear layer has one layout only
    return {
        "baseline": baseline.name,
        "what": baseline.what,
        "seconds": seconds[baseline.name],
        "against": f"ours {ours}",
        "ratio": seconds[baseline.name] / seconds[ours],
    }


def _others(
    layer: Layer, x: F32, weight: F32, threads: int, names: tuple[str, ...]
) -> tuple[dict[str, tuple[baselines.Baseline, baselines.Prepared]], dict[str, str]]:
    """Return the baselines that can be measured, and why the others cannot."""
    found, absent = {}, {}
    for name in names:
        for baseline in baselines.BASELINES[name]:
            try:
                found[baseline.name] = baseline, baselines.prepared(baseline, layer, x, weight, threads)
            except baselines.Unavailable as reason:
                absent[baseline.name] = str(reason)
    return found, absent


def ours(layer: Layer, x: F32, weight: F32, threads: int) -> Runs:
    """Return our planned kernels by name, checked against the public functions; x (N, C, H, W) or (N, I)."""
    wanted = whole_operation(layer, x, weight)
    runs: Runs = {}
    for layout in LAYOUTS if not isinstance(layer, Linear) else ("NHWC",):
        plan = planned(layer, weight, len(x), layout)
        images = np.ascontiguousarray(np.moveaxis(x, 1, -1)) if layout == "NHWC" else x
        out = plan.run(images, threads=threads)
        got = np.moveaxis(out, -1, 1) if layout == "NHWC" else out
        if not np.array_equal(got, wanted):
            raise EquivalenceError(f"bench: the planned kernel ({layout}) and xnor_conv2d differ on {layer.name}")
        if layout == "NHWC":
            runs |= {
                "kernel": partial(plan.count, threads=threads),
                "pack": partial(plan.pack, images, threads=threads),
                "scale": partial(plan.scale, threads=threads),
                "convolve": partial(plan.convolve, out, threads=threads),
            }
        runs[layout] = partial(plan.run, images, out=out, threads=threads)
    return runs


def planned(layer: Layer, weight: F32, batch: int, layout: str = "NHWC") -> Any:
    """Return our fastest kernel, planned for the layer."""
    if isinstance(layer, Linear):
        return PlannedLinear(weight, batch=batch)
    size = layer.size, layer.size
    return PlannedConv2d(weight, size, layout=layout, batch=batch, **layer.geometry)


def whole_operation(layer: Layer, x: F32, weight: F32) -> F32:
    """Return (Z * alpha) * K, computed by the public functions (Rastegari et al. 2016, eq. 11)."""
    if isinstance(layer, Linear):
        scaled = binary_ops.binary_linear(x, weight).astype(np.float32) * binary_ops.weight_scale(weight)
        return scaled * binary_ops.input_scale_rows(x)
    return binary_ops.xnor_conv2d(x, weight, **layer.geometry)
