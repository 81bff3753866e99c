"""The separate process of `bench train`: it trains one of our networks, or its full-precision twin in torch.

Our network is trained with the steps of `Trainer`, on uint8 images that it crops, flips and normalises itself. torch
gets a finished batch in the layout that it computes in, so its input costs no time.
"""

import tempfile
import time
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref import models, optim
from xnor_ref.bench import networks
from xnor_ref.bench.measuring.layers import check_batch
from xnor_ref.bench.measuring.process import Unavailable, serve
from xnor_ref.bench.measuring.timing import let_threads_sleep
from xnor_ref.bench.peers import torch_twin
from xnor_ref.bench.peers.baselines import import_torch
from xnor_ref.bench.training import train_profile
from xnor_ref.datasets import Dataset, Split, batches
from xnor_ref.datasets.imagenet.stand_in import stand_in
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.threads import check_threads, set_threads
from xnor_ref.nn import backend
from xnor_ref.nn.methods import METHODS
from xnor_ref.nn.shards import WHOLE, Shard
from xnor_ref.training.allocator import keep_freed_memory
from xnor_ref.training.callbacks.finite import FiniteCheck
from xnor_ref.training.callbacks.projections import Projections
from xnor_ref.training.distributed.team import Team
from xnor_ref.training.fitting.trainer import Trainer
from xnor_ref.training.job import compile_steps
from xnor_ref.training.settings import plugins
from xnor_ref.training.settings.resolve import resolve

MEAN, STD = (0.48, 0.45, 0.40), (0.23, 0.23, 0.23)
AUGMENT = batches.AugmentSpec(crop_padding=8, flip=True)
RATES = {"sgd": 0.01, "adam": 0.001}
MORE: dict[str, dict[str, Any]] = {"sgd": {"momentum": 0.9}, "adam": {}}
BACKWARDS = ("fp32", "int8", "reference", "auto")

_settings = ExitStack()  # of the whole process


def apply_backward(mode: str) -> None:
    """Use the backward pass `mode` of `BACKWARDS` in this process; "reference" computes layer by layer in fp32.

    Raises Unavailable if the processor has no instructions for it.
    """
    if mode == "int8" and not backend.multiplies_bytes():
        raise Unavailable("this processor cannot multiply bytes (it lacks VNNI)")
    _settings.enter_context(backend.binary_backend("numba" if mode == "reference" else "auto"))
    _settings.enter_context(backend.backward_in("fp32" if mode == "reference" else mode))


@dataclass(frozen=True)
class Task:
    """What to train: a network of `models.build` on square colour images.

    Raises InputError for an unknown network or method, or an invalid size or number of classes.
    """

    network: str
    size: int = 64
    classes: int = 200
    method: str = "xnor"
    optimizer: str = "sgd"
    batch: int = 64
    threads: int = 2

    def __post_init__(self) -> None:
        networks.check_names([self.network])
        if self.method not in METHODS:
            raise InputError(f"bench: there is no method {self.method!r}; there are {', '.join(METHODS)}")
        if self.classes < 1:
            raise InputError(f"bench: classes must be at least 1, got {self.classes}")
        check_batch(self.batch, self.size)
        if self.batch < 2:
            raise InputError(f"bench: BatchNorm needs a batch of at least 2 images to train on, got {self.batch}")
        check_threads(self.threads, "bench")

    def build(self, method: str, **options: Any) -> models.Network:
        """Build the network with a method."""
        size, classes = self.size, self.classes
        return models.build(self.network, image_size=size, in_channels=3, num_classes=classes, method=method, **options)


class Ours(Trainer):
    """A trainer of a network of `models.build`, on a few random images of its own or the first images of a file.

    With `jpegs` it decodes each image from a JPEG with 256 pixels on the shorter side, as training on ImageNet does.
    """

    def __init__(
        self,
        task: Task,
        backward: str,
        options: dict[str, Any],
        path: str | None = None,
        images: int | None = None,
        team: Team | None = None,
        jpegs: bool = False,
    ):
        set_threads(task.threads)
        keep_freed_memory()
        apply_backward(backward)
        if backward != "reference":
            said = {"method": task.method, "optimizer": task.optimizer, "backward": backward, **options}
            compile_steps(resolve(said))
        count = 4 * task.batch if images is None else images
        if jpegs:
            folder = Path(_settings.enter_context(tempfile.TemporaryDirectory(prefix="xnor_ref-bench-")))
            data = stand_in(folder, image_size=task.size, train=count, val=1, classes=task.classes)
        else:
            pixels, labels = _data(count, task, path)
            train, val = Split(pixels, labels), Split(pixels[:1], labels[:1])
            data = Dataset("random", tuple(map(str, range(task.classes))), train, val, MEAN, STD, "")
        self.data_seconds = 0.0
        forget_peak()
        self.memory_before = resident()
        model = task.build(task.method, **options)
        model.train()
        rate = RATES[task.optimizer]
        super().__init__(
            model,
            data,
            optim.OPTIMIZERS[task.optimizer](model.named_parameters(), rate, **MORE[task.optimizer]),
            lambda step: rate,
            epochs=1,
            batch_size=task.batch,
            augment=AUGMENT,
            callbacks=[Projections(), FiniteCheck()],
            team=team,
        )

    def batch(self, epoch: int, step: int, shard: Shard = WHOLE) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the batch of a step; the time is added to `data_seconds`."""
        start = time.perf_counter()
        found = super().batch(epoch, step, shard)
        self.data_seconds += time.perf_counter() - start
        return found

    def step(self) -> float:
        """Run forward, backward and update on the next images, across epochs. Return the loss."""
        if self.position.step == self.steps:
            self.position.next_epoch()
        return super().step()


class Torch:
    """The full-precision twin in torch, trained in one of torch's ways."""

    data_seconds = 0.0

    def __init__(self, task: Task, precision: str, layout: str, compiled: bool):
        torch = self.torch = import_torch(task.threads)
        form = getattr(torch, "channels_last" if layout == "NHWC" else "contiguous_format")
        images, labels = _data(task.batch, task)
        order = np.arange(task.batch)
        x = batches.make_batch(images, order, batches.normalization_table(MEAN, STD), augment=AUGMENT)
        self.x, self.y = torch.from_numpy(x).contiguous(memory_format=form), torch.from_numpy(labels)
        self.bf16 = precision == "bf16"
        self.memory_before = resident()
        twin = torch_twin.replace_whole_convs(torch_twin.to_torch(task.build("full")), self.x[:1])
        self.model = twin.to(memory_format=form).train()
        self.optimizer = self._optimizer(task.optimizer)
        self.function = torch.compile(self.model) if compiled else self.model
        forget_peak()

    def _optimizer(self, name: str) -> Any:
        make = getattr(self.torch.optim, {"sgd": "SGD", "adam": "Adam"}[name])
        try:
            return make(self.model.parameters(), RATES[name], fused=True, **MORE[name])
        except (RuntimeError, TypeError):  # a version of torch without it
            return make(self.model.parameters(), RATES[name], **MORE[name])

    def step(self) -> float:
        """Run forward, backward and update. Return the loss."""
        torch = self.torch
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = torch.nn.functional.cross_entropy(self.function(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def _data(images: int, task: Task, path: str | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    rng, shape = np.random.default_rng(0), (images, task.size, task.size, 3)
    labels = rng.integers(0, task.classes, images)
    if path is not None:
        return np.memmap(path, np.uint8, "r", shape=shape), labels
    return rng.integers(0, 256, shape, dtype=np.uint8), labels


# --- memory ----------------------------------------------------------------------------------------------------


def resident(what: str = "VmRSS") -> int | None:
    """Return this process's bytes in memory: now, its peak ("VmHWM"), or without mapped files ("RssAnon"); Linux."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith(f"{what}:"))
    except (OSError, StopIteration):
        return None


def forget_peak() -> None:
    """Reset "VmHWM"; Linux only."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass


# --- questions and answers -------------------------------------------------------------------------------------

_trainer: Any = None


def begin(kind: str, task: dict[str, Any], plugin: str | None = None, **setup: Any) -> float:
    """Build the network, which `plugin` may register, and take the first step. Return its loss."""
    global _trainer
    if plugin is not None:
        plugins.load(plugin)
    if kind == "ours":
        _trainer = Ours(task=Task(**task), **setup)
        return _quiet_step()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _trainer = Torch(task=Task(**task), **setup)
            return _quiet_step()
    except Unavailable:
        raise
    except Exception as error:  # a missing or broken part of torch may raise anything
        raise Unavailable(str(error).strip().partition("\n")[0] or type(error).__name__) from None


def _quiet_step() -> float:
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _trainer.step()


def steps(count: int, before: int = 0) -> dict[str, float]:
    """Return seconds per step and per input, over `count` steps after `before` others; then let all threads sleep."""
    for _ in range(before):
        _quiet_step()
    data, start = _trainer.data_seconds, time.perf_counter()
    for _ in range(count):
        _quiet_step()
    seconds = time.perf_counter() - start
    let_threads_sleep()
    return {"seconds": seconds / count, "data": (_trainer.data_seconds - data) / count}


def memory() -> dict[str, int | None]:
    """Return bytes of this process: before the network was made, the peak since, and now without mapped files."""
    return {"before": _trainer.memory_before, "peak": resident("VmHWM"), "own": resident("RssAnon")}


def profile(count: int, threads: int) -> dict[str, Any]:
    """Return `train_profile.profile` of `count` steps, after one other step."""
    _quiet_step()
    return train_profile.profile(_quiet_step, count, threads)


def main() -> None:
    with _settings:
        serve({"begin": begin, "steps": steps, "memory": memory, "profile": profile})
