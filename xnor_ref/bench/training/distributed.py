"""Training on several ranks: how fast, how much of the traffic is hidden, and what many machines would reach.

Each measurement is a job of its own that mpirun starts (`distributed_worker.py`), on the ranks of one machine or of
two hosts (`hosts.py`). What is computed for more machines comes from a cost model, which the measured jobs are held
against.
"""

import json
import math
import os
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xnor_ref import models
from xnor_ref.bench.measuring.process import Unavailable
from xnor_ref.bench.training.hosts import as_root, mpirun, two_hosts
from xnor_ref.errors import InputError, XnorRefError
from xnor_ref.kernels.compiling.ahead import interpreter
from xnor_ref.nn.layers.binary_layers import BinaryLayer
from xnor_ref.nn.layers.real_layers import BatchNorm

TIMEOUT = 900  # seconds of a job
BACKWARD = 2 / 3  # of a step's products are made in the backward pass, beside which gradients can travel
IMAGENET, EPOCHS, CLASSES = 1_281_167, 90, 1000
NODES = (16, 64, 1024)
NETWORKS = ("alexnet", "resnet18")
_CODE = "import sys; from xnor_ref.bench.training.distributed_worker import main; main(sys.argv[1])"


@dataclass(frozen=True)
class Link:
    """What joins ranks: seconds until a message arrives, and bytes a second that a rank sends while it receives."""

    name: str
    latency: float
    bandwidth: float

    def meeting(self, ranks: int) -> float:
        """Seconds until all ranks know a few numbers of all."""
        return self.latency * math.log2(ranks) if ranks > 1 else 0.0

    def sum(self, ranks: int, size: float, buckets: float) -> float:
        """Seconds until `size` bytes of each rank are added up, in so many pieces."""
        return 2 * buckets * self.meeting(ranks) + 2 * size * (ranks - 1) / ranks / self.bandwidth


NETWORK_LINKS = (Link("10 Gbit/s Ethernet", 50e-6, 1.25e9 * 0.9), Link("100 Gbit/s, 2 us", 2e-6, 12.5e9 * 0.9))


def step_seconds(
    compute: float, link: Link, ranks: int, size: float, meetings: float, buckets: float
) -> tuple[float, float]:
    """Seconds of a step by the model, and those in which gradients travel.

    step = compute + meetings * meeting(N) + max(0, travel - 2/3 compute)
    travel = 2 buckets * meeting(N) + 2 size (N - 1)/N / bandwidth,   meeting(N) = latency log2 N
    """
    travel = link.sum(ranks, size, buckets)
    return compute + meetings * link.meeting(ranks) + max(0.0, travel - BACKWARD * compute), travel


def fitted(name: str, job: dict[str, Any]) -> Link:
    """The link that fits the exchanges of a job best: least squares of seconds over bytes."""
    ranks, points = job["ranks"], [(4 * one["numbers"], one["seconds"]) for one in job["link"]]
    sizes, seconds = [2 * size * (ranks - 1) / ranks for size, _ in points], [one for _, one in points]
    slope, _ = statistics.linear_regression(sizes, seconds)
    return Link(name, job["meeting"] / math.log2(ranks), 1 / max(slope, 1e-12))


def measure_distributed(
    network: str,
    *,
    size: int,
    classes: int,
    method: str,
    images: int,
    steps: int,
    ranks: Sequence[int],
    hosts: bool,
    rate: str | None,
    delay: str | None,
    compress: str | None,
    imagenet_images: int,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure jobs on one machine and on two hosts, hold the model against them, and compute larger ones.

    Returns
    -------
    dict of JSON values
        "jobs": of each its figures (`distributed_worker.measured`), with "where", "images_per_second", "hidden" (the
        share of the time in which gradients travelled that the backward pass hid) and "model_seconds"; "links"; "notes"
        of what could not be measured; "computed": rows of the table for ImageNet, which nothing was measured of but the
        step of one node.

    Raises
    ------
    InputError : mpirun or mpi4py is missing, or ranks make no sense
    """
    if not ranks or min(ranks) < 1:
        raise InputError(f"bench: --ranks must be at least 1, got {','.join(map(str, ranks))}")
    task = {"network": network, "size": size, "classes": classes, "method": method, "images": images, "steps": steps}
    jobs, links, notes = [], [], []
    here = [mpirun(), "--oversubscribe"]
    for count in sorted({1, *ranks}):
        say(f"{count} rank{'s' * (count > 1)} on this machine")
        jobs.append({"where": "this machine", **_job([*here, "-n", str(count)], {**task, "compress": compress})})
    for shaped in ((None, None), (rate, delay)) if hosts else ():
        try:
            with two_hosts(*shaped) as (start, words):
                say(f"2 hosts, {words}")
                jobs.append({"where": f"2 hosts, {words}", **_job([*start, "-n", "2"], {**task, "compress": compress})})
        except Unavailable as error:
            notes.append(str(error))
    alone = jobs[0]["seconds"]
    for job in jobs:
        job["images_per_second"] = job["ranks"] * job["images"] / job["seconds"]
        job["hidden"] = max(0.0, 1 - job["unhidden"] / job["travelling"]) if job["travelling"] else None
        if job["ranks"] > 1:
            links.append(fitted(job["where"], job))
            buckets = max(1.0, 4 * job["parameters"] / 2**20)
            shared = job["bytes"] / (2 * (job["ranks"] - 1) / job["ranks"])
            together = max(1.0, job["threads"] * job["ranks"] / _processors())  # ranks that share a processor
            compute = alone * jobs[0]["threads"] / job["threads"] * together
            job["model_seconds"] = step_seconds(compute, links[-1], job["ranks"], shared, job["meetings"], buckets)[0]
    say("a step of each network on 224x224 pixels")
    computed = []
    for name in NETWORKS:
        of_one = {"network": name, "size": 224, "classes": CLASSES, "method": method, "images": imagenet_images}
        one = _job([*here, "-n", "1"], {**of_one, "steps": 1, "compress": None})
        computed += rows_of(name, one, meetings=_meetings(name))
    return {**task, "compress": compress, "jobs": jobs, "links": [vars(link) for link in links], "notes": notes,
            "computed": computed, "epochs": EPOCHS}  # fmt: skip


def rows_of(name: str, one: dict[str, Any], meetings: int) -> list[dict[str, Any]]:
    """Computed, not measured: a network on ImageNet on many nodes, each as fast as the one of which `one` tells."""
    found = []
    for link in NETWORK_LINKS:
        for compress, share in ((None, 1.0), ("sign", 1 / 31.5)):
            for nodes in NODES:
                size, buckets = 4 * one["parameters"] * share, max(1.0, 4 * one["parameters"] * share / 2**20)
                seconds, travel = step_seconds(one["seconds"], link, nodes, size, meetings, buckets)
                speed = nodes * one["images"] / seconds
                found.append(
                    {
                        **{"network": name, "nodes": nodes, "link": link.name, "compress": compress},
                        **{"images": one["images"], "images_per_second": speed, "travel_seconds": travel},
                        "efficiency": one["seconds"] / seconds,
                        "hours": EPOCHS * IMAGENET / speed / 3600,
                    }
                )
    return found


def _meetings(name: str) -> int:
    """How often the ranks of a step meet beside the gradients: twice a BatchNorm, once a binary layer, once a step."""
    model = models.build(name, image_size=224, in_channels=3, num_classes=CLASSES)
    modules = [module for _, module in model.named_modules()]
    return 1 + sum(2 * isinstance(module, BatchNorm) + isinstance(module, BinaryLayer) for module in modules)


def _job(start: Sequence[str], task: dict[str, Any]) -> dict[str, Any]:
    """What rank 0 of a job reports."""
    command = [*start, *interpreter(_CODE, json.dumps(task))]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **as_root()},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise XnorRefError(f"bench: a job took longer than {TIMEOUT} s: {' '.join(start)}") from None
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        words = [line for line in done.stderr.splitlines() if "Error" in line or "error" in line]
        kind = InputError if done.returncode == InputError.exit_code or "mpi4py" in done.stderr else XnorRefError
        raise kind(f"bench: a job failed: {(words or [f'exit code {done.returncode}'])[0].strip()}")
    return json.loads(lines[-1])


def _processors() -> int:
    return os.cpu_count() or 1
