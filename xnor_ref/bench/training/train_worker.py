"""What trains in a process of its own for `bench train`: a network of ours, or its full-precision twin in torch.

Ours takes the steps of `training/loop.py`, from uint8 images that it crops, flips and normalises itself. torch gets its
batch ready-made, in the layout that it computes in, and spends nothing on its input.
"""

import time
import warnings
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref import models, nn, optim
from xnor_ref.autodiff import Tensor
from xnor_ref.bench.measuring.process import Unavailable, serve
from xnor_ref.bench.measuring.timing import let_threads_sleep
from xnor_ref.bench.peers import torch_twin
from xnor_ref.bench.peers.baselines import import_torch
from xnor_ref.bench.training import train_profile
from xnor_ref.datasets import batches
from xnor_ref.kernels.basics.threads import set_threads
from xnor_ref.nn import backend
from xnor_ref.training import loop
from xnor_ref.training.ahead import compile_ahead
from xnor_ref.training.allocator import keep_freed_memory
from xnor_ref.training.settings.resolve import resolve

MEAN, STD = (0.48, 0.45, 0.40), (0.23, 0.23, 0.23)
AUGMENT = batches.AugmentSpec(crop_padding=8, flip=True)
RATES = {"sgd": 0.01, "adam": 0.001}
BACKWARDS = ("fp32", "int8", "reference", "auto")

_settings = ExitStack()  # of the whole process


def apply_backward(mode: str) -> None:
    """Train in this process by `mode` of `BACKWARDS`; "reference" takes the layers one by one, in fp32.

    Raises Unavailable where the processor has no instructions for it.
    """
    if mode == "int8" and not backend.multiplies_bytes():
        raise Unavailable("this processor does not multiply bytes (VNNI)")
    _settings.enter_context(backend.binary_backend("numba" if mode == "reference" else "auto"))
    _settings.enter_context(backend.backward_in("fp32" if mode == "reference" else mode))


class Ours:
    """A network of `models.build` and its optimiser, on random images: a few of its own, or the first in a file."""

    def __init__(
        self,
        network: str,
        size: int,
        classes: int,
        method: str,
        optimizer: str,
        batch: int,
        threads: int,
        backward: str,
        options: dict[str, Any],
        path: str | None = None,
        images: int | None = None,
    ):
        set_threads(threads)
        keep_freed_memory()
        apply_backward(backward)
        if backward != "reference":
            compile_ahead(resolve({"method": method, "optimizer": optimizer, "backward": backward, **options}))
        self.images, self.labels = _data(4 * batch if images is None else images, size, classes, path)
        self.order = batches.epoch_order(len(self.labels), 0, 0)
        self.table = batches.normalization_table(MEAN, STD)
        self.batch = batch
        self.steps = 0
        self.data_seconds = 0.0
        forget_peak()
        self.memory_before = resident()
        self.model = models.build(
            network, image_size=size, in_channels=3, num_classes=classes, method=method, **options
        )
        self.model.train()
        momentum: dict[str, Any] = {"momentum": 0.9} if optimizer == "sgd" else {}
        self.optimizer = optim.OPTIMIZERS[optimizer](self.model.named_parameters(), RATES[optimizer], **momentum)

    def step(self) -> float:
        """Forward, backward and update on the next images; the loss."""
        start = time.perf_counter()
        epoch, position = divmod(self.steps, len(self.labels) // self.batch)
        if position == 0:
            self.order = batches.epoch_order(len(self.labels), 0, epoch)
        indices = self.order[position * self.batch : (position + 1) * self.batch]
        x = batches.make_batch(self.images, indices, self.table, epoch=epoch, augment=AUGMENT)
        y = self.labels[indices]
        self.data_seconds += time.perf_counter() - start
        self.model.set_position(0, self.steps)
        self.optimizer.zero_grad()
        loss = nn.LOSSES["cross-entropy"](self.model(Tensor(x)), y)
        loss.backward()
        loop.check_gradients(self.model, self.steps)
        self.optimizer.step()
        for _, module in self.model.named_modules():
            module.after_step()
        self.steps += 1
        return float(loss.data)


class Torch:
    """The full-precision twin in torch, in one of the ways that torch has to train it."""

    data_seconds = 0.0

    def __init__(
        self,
        network: str,
        size: int,
        classes: int,
        optimizer: str,
        batch: int,
        threads: int,
        precision: str,
        layout: str,
        compiled: bool,
    ):
        torch = self.torch = import_torch(threads)
        form = getattr(torch, "channels_last" if layout == "NHWC" else "contiguous_format")
        images, labels = _data(batch, size, classes)
        order = np.arange(batch)
        x = batches.make_batch(images, order, batches.normalization_table(MEAN, STD), augment=AUGMENT)
        self.x, self.y = torch.from_numpy(x).contiguous(memory_format=form), torch.from_numpy(labels)
        self.bf16 = precision == "bf16"
        self.memory_before = resident()
        ours = models.build(network, image_size=size, in_channels=3, num_classes=classes, method="full")
        twin = torch_twin.replace_whole_convs(torch_twin.to_torch(ours), self.x[:1])
        self.model = twin.to(memory_format=form).train()
        self.optimizer = self._optimizer(optimizer)
        self.function = torch.compile(self.model) if compiled else self.model
        forget_peak()

    def _optimizer(self, name: str) -> Any:
        kind, more = {"sgd": ("SGD", {"momentum": 0.9}), "adam": ("Adam", {})}[name]
        make = getattr(self.torch.optim, kind)
        try:
            return make(self.model.parameters(), RATES[name], fused=True, **more)
        except (RuntimeError, TypeError):  # a torch without it
            return make(self.model.parameters(), RATES[name], **more)

    def step(self) -> float:
        """Forward, backward and update; the loss."""
        torch = self.torch
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = torch.nn.functional.cross_entropy(self.function(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def _data(images: int, size: int, classes: int, path: str | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    rng, shape = np.random.default_rng(0), (images, size, size, 3)
    labels = rng.integers(0, classes, images)
    if path is not None:
        return np.memmap(path, np.uint8, "r", shape=shape), labels
    return rng.integers(0, 256, shape, dtype=np.uint8), labels


# --- memory ----------------------------------------------------------------------------------------------------


def resident(what: str = "VmRSS") -> int | None:
    """Bytes of this process in memory now, at most ("VmHWM"), or of no file ("RssAnon"); Linux only."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith(f"{what}:"))
    except (OSError, StopIteration):
        return None


def forget_peak() -> None:
    """Let "VmHWM" begin anew; Linux only."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass


# --- questions and answers -------------------------------------------------------------------------------------

_trainer: Any = None


def begin(kind: str, **setup: Any) -> float:
    """Make the network and take the first step; its loss."""
    global _trainer
    if kind == "ours":
        _trainer = Ours(**setup)
        return _quiet_step()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _trainer = Torch(**setup)
            return _quiet_step()
    except Unavailable:
        raise
    except Exception as error:  # whatever a part of torch that is missing or broken raises
        raise Unavailable(str(error).strip().partition("\n")[0] or type(error).__name__) from None


def _quiet_step() -> float:
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _trainer.step()


def steps(count: int, before: int = 0) -> dict[str, float]:
    """Seconds of a step and of its input, over `count` steps after some that do not count; then all threads sleep."""
    for _ in range(before):
        _quiet_step()
    data, start = _trainer.data_seconds, time.perf_counter()
    for _ in range(count):
        _quiet_step()
    seconds = time.perf_counter() - start
    let_threads_sleep()
    return {"seconds": seconds / count, "data": (_trainer.data_seconds - data) / count}


def memory() -> dict[str, int | None]:
    """Bytes: of this process before the network was made, at most since then, and now without files it has mapped."""
    return {"before": _trainer.memory_before, "peak": resident("VmHWM"), "own": resident("RssAnon")}


def profile(count: int, threads: int) -> dict[str, Any]:
    """`train_profile.profile` of `count` steps, after one."""
    _quiet_step()
    return train_profile.profile(_quiet_step, count, threads)


def main() -> None:
    serve({"begin": begin, "steps": steps, "memory": memory, "profile": profile})
