"""Whole networks, from an image array to logits: our binary network compared with the full-precision network in torch.

The weights are random and the BatchNorm statistics randomised; neither changes the time. Both sides start from
the same float32 images; ours is also measured from raw uint8 pixels, which it normalises itself.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref import models, nn
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.bench.limits import Limits
from xnor_ref.bench.measuring import roof
from xnor_ref.bench.measuring.layers import F32, check_batch
from xnor_ref.bench.measuring.timing import FULL, Pace, limited, measure
from xnor_ref.bench.peers import baselines, onnx_twin, torch_twin
from xnor_ref.errors import EquivalenceError, InputError
from xnor_ref.kernels.basics.threads import check_threads
from xnor_ref.nn.layers.real_layers import BatchNorm
from xnor_ref.packed import PackedNetwork, load_packed
from xnor_ref.packed.freeze import freeze
from xnor_ref.storage import PathLike

NETWORKS = ("vgg-small", "resnet18", "nin", "alexnet")
TOLERANCE = 1e-3  # relative to the largest logit: float32 sums are added in another order
MEAN, STD = (0.48, 0.45, 0.40), (0.23, 0.23, 0.23)


def check_names(names: Iterable[str]) -> None:
    """Raise InputError if `models` does not know one of them."""
    for name in names:
        if name not in models.names():
            raise InputError(f"bench: there is no network {name!r}; there are {', '.join(models.names())}")


def measure_network(
    name: str,
    size: int,
    batch: int = 1,
    threads: int = 1,
    classes: int = 1000,
    pace: Pace = FULL,
    *,
    compiled: bool = True,
    others: bool = True,
) -> dict[str, Any]:
    """Measure a packed network of `models.build` and its full-precision twin in torch and onnxruntime.

    Parameters
    ----------
    name, size, classes : arguments of `models.build`
    compiled : whether to measure torch.compile, too, which takes half a minute
    others : whether to measure other libraries

    Returns
    -------
    dict of JSON values
        "ours" from float32 and from uint8 images, and "baselines", in seconds per batch. "ratio" is a baseline's time
        divided by ours from float32 images. "best" is the fastest run of torch. "layers" are the stages of ours: each
        has its "limit" on this machine in seconds, what limits it ("bound") and its time divided by its limit
        ("over_limit"). The whole has the same, with the sum of limits (`limits.Limits`) and the "roofs" used for them.

    Raises
    ------
    EquivalenceError : two of our rungs give different logits, or the full-precision twins differ by more than rounding
    """
    roof.require_compiler()
    check_batch(batch, size)
    check_threads(threads, "bench")
    made = random_network(name, size, classes)
    peers = partial(_full_precision, name, size, classes, threads, compiled and not pace.quick) if others else None
    measured, seconds, absent = _measured(made, batch, threads, pace, peers)
    ours = measured["ours"]["ours"]
    torch_runs = [run for run in seconds if run.startswith("torch")]
    return {
        "network": name,
        "size": size,
        "classes": classes,
        **measured,
        "baselines": [
            {"baseline": run, "seconds": spent, "against": "ours", "ratio": spent / ours}
            for run, spent in seconds.items()
        ],
        "best": min(torch_runs, key=seconds.__getitem__, default=None),
        "absent": absent,
    }


def measure_file(path: PathLike, batch: int = 1, threads: int = 1, pace: Pace = FULL) -> dict[str, Any]:
    """Measure a packed model file on random images: the whole, and each layer. Raises ModelFileError."""
    roof.require_compiler()
    network = load_packed(path)
    check_batch(batch, max(network.input_shape))
    check_threads(threads, "bench")
    measured, *_ = _measured(network, batch, threads, pace)
    shape = {"input_shape": list(network.input_shape), "classes": len(network.classes)}
    return {"file": str(path), **shape, **measured}


def _measured(
    network: PackedNetwork, batch: int, threads: int, pace: Pace, peers: Callable | None = None
) -> tuple[dict[str, Any], dict[str, float], dict[str, str]]:
    """Measure a packed network on random images with the runs of `peers(images)`; add why others are absent."""
    images, pixels = random_images(network, batch)
    check_network(network, images)
    ours: dict[str, Callable] = {
        "ours": lambda: network.logits(images, threads=threads),
        "ours, from uint8": lambda: network.logits(pixels, threads=threads),
    }
    limits, profiles = Limits(network, batch, threads), []

    def profile() -> None:
        profiles.append(network.profile(images, threads))

    with limited(threads):
        others, absent = peers(images) if peers else ({}, {})
        timings = measure(ours | others | {"stages": profile} | limits.runs, pace, threads)
    seconds = {run: timing.seconds for run, timing in timings.items()}
    stages = layer_times(profiles)
    measured = {
        "batch": batch,
        "threads": threads,
        "ours": {run: seconds[run] for run in ours},
        **limits.of_network(stages, limits.rates(), seconds["ours"]),
        "timings": {run: timing.to_dict() for run, timing in timings.items()},
    }
    return measured, {run: seconds[run] for run in others}, absent


def check_network(network: PackedNetwork, images: F32) -> None:
    """Raise EquivalenceError if the plain rung gives other logits than the rung that is measured."""
    if not np.array_equal(network.logits(images[:1]), network.logits(images[:1], backend="numba")):
        raise EquivalenceError(
            "bench: two rungs give different logits for this network; `verify` shows where they differ"
        )


def layer_times(rounds: list[list[tuple[str, str, float]]]) -> list[dict[str, Any]]:
    """Return the name, operation, median seconds and share of each stage, from several `PackedNetwork.profile`."""
    medians = [float(np.median([stages[i][2] for stages in rounds])) for i in range(len(rounds[0]))]
    whole = sum(medians)
    return [
        {"name": name, "op": op, "seconds": seconds, "share": seconds / whole}
        for (name, op, _), seconds in zip(rounds[0], medians)
    ]


def random_network(name: str, size: int, classes: int) -> PackedNetwork:
    """Return a packed XNOR network of `models.build` with random weights and statistics."""
    model = models.build(name, image_size=size, in_channels=3, num_classes=classes)
    randomise(model)
    names = tuple(f"class {i}" for i in range(classes))
    return freeze(model, input_shape=(3, size, size), mean=MEAN, std=STD, classes=names)


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Change the statistics of every BatchNorm in `model` from their initial values, so that nothing cancels."""
    rng = np.random.default_rng(seed)
    for _, module in model.named_modules():
        if isinstance(module, BatchNorm):
            n = module.channels
            module.weight.data[...], module.bias.data[...] = rng.uniform(0.5, 1.5, n), rng.normal(0, 0.5, n)
            module.running_mean[...], module.running_var[...] = rng.normal(0, 0.5, n), rng.uniform(0.5, 2, n)


def random_images(network: PackedNetwork, batch: int) -> tuple[F32, NDArray[np.uint8]]:
    """Return the same random images twice: float32 (N, C, H, W), normalised, and uint8 (N, H, W, C)."""
    channels, height, width = network.input_shape
    pixels = np.random.default_rng(0).integers(0, 256, (batch, height, width, channels), dtype=np.uint8)
    scaled = (pixels / 255 - np.array(network.mean)) / np.array(network.std)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32), pixels


def _full_precision(
    name: str, size: int, classes: int, threads: int, compiled: bool, images: F32
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return runs of the full-precision twin in other libraries, checked against ours, and why some are absent."""
    model = models.build(name, image_size=size, in_channels=3, num_classes=classes, method="full")
    randomise(model)
    model.eval()
    with no_grad():
        logits = model(Tensor(images)).data
    makers: dict[str, Any] = {"onnxruntime": lambda: onnx_twin.to_onnx(model, images, threads)}
    absent: dict[str, str] = {}
    try:
        makers |= torch_twin.variants(model, images, threads, compiled)
    except baselines.Unavailable as reason:
        absent["torch"] = str(reason)
    runs = {}
    for run_name, make in makers.items():
        try:
            run = make()
            got = np.asarray(run()).reshape(logits.shape)
        except Exception as error:  # a missing or broken part of a library may raise anything
            absent[run_name] = str(error).partition("\n")[0] or type(error).__name__
            continue
        difference = np.abs(got - logits).max()
        if not difference <= TOLERANCE * np.abs(logits).max():
            raise EquivalenceError(f"bench: the logits of {run_name} for {name} differ from ours by {difference:g}")
        runs[run_name] = run
    return runs, absent
