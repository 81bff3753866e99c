"""The training loop, and the interface of callbacks."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff import Tensor
from xnor_ref.datasets import AugmentSpec, Dataset, batches
from xnor_ref.errors import InputError, ModelFileError, NonFiniteError, UnreadableError
from xnor_ref.nn import Module, cross_entropy
from xnor_ref.nn.shards import WHOLE, Shard
from xnor_ref.optim import Optimizer
from xnor_ref.steady import steady
from xnor_ref.training.distributed.team import Team
from xnor_ref.training.fitting.evaluation import Logits, Scores, all_logits, float_logits, score
from xnor_ref.training.fitting.interrupt import Interrupted, StopRequest
from xnor_ref.training.storing.checkpoint import CheckpointFolder, MismatchError, Position, read, state_of

OF_GRADIENTS = "gradients"  # what the tensors begin with that the team keeps from one step to the next


@dataclass
class Step:
    """One training step. Hooks may replace values that the step has not used yet."""

    number: int  # from 0, over all epochs
    images: NDArray[np.float32]  # (N, C, H, W), augmented and normalised
    labels: NDArray[np.int64]  # (N,)
    logits: Tensor = field(init=False)  # (N, classes), from `after_forward` on
    loss: Tensor = field(init=False)  # (), from `after_forward` on


class Callback:
    """Base class of code that joins training. The hooks do nothing; subclasses override those that they need.

    If a batch is cut into shards, `before_step` and `after_forward` are called for each shard, with its images and its
    own loss. The other hooks are called once, with the first shard of the process, after all gradients are added.

    The trainer calls these hooks of all its callbacks, in order:

        before_training
        per epoch:  before_epoch
                    per step:  before_step, after_forward, after_backward, after_step
                    evaluating (around the validation), figures, after_epoch
        after_training

    A checkpoint stores the result of `state_dict`. A callback that keeps anything between steps must return it there. A
    callback must not draw from a running random stream, since a resumed run would then differ.

    `ClipNorm` in `callbacks/clip.py` is a short example.
    """

    @property
    def name(self) -> str:
        """The prefix of its tensors in a checkpoint, without the dot."""
        return type(self).__name__

    def before_training(self, trainer: "Trainer") -> None:
        """Run once, after a resumed run has loaded its checkpoint. `trainer.batch(0, 0)` is the run's first batch."""

    def before_epoch(self, trainer: "Trainer") -> None:
        """Run when epoch `trainer.position.epoch` begins or is resumed."""

    def before_step(self, trainer: "Trainer", step: Step) -> None:
        """Run before the forward pass. May replace `step.images` and `step.labels`."""

    def after_forward(self, trainer: "Trainer", step: Step) -> None:
        """Run after the forward pass. May replace `step.loss`, such as by a sum with another loss."""

    def after_backward(self, trainer: "Trainer", step: Step) -> None:
        """Run after the backward pass. May change the `grad` of each parameter before the optimiser uses it."""

    def after_step(self, trainer: "Trainer", step: Step) -> None:
        """Run after the optimiser has updated the parameters. `trainer.position` counts this step."""

    def evaluating(self, trainer: "Trainer") -> AbstractContextManager:
        """Return a context manager around validation. It may set other weights and restore the old ones at the end."""
        return nullcontext()

    def figures(self, trainer: "Trainer") -> dict[str, Any]:
        """Return JSON values for the epoch's line in metrics.jsonl."""
        return {}

    def after_epoch(self, trainer: "Trainer", line: dict[str, Any]) -> None:
        """Run after the epoch is saved. `line` holds its figures."""

    def after_training(self, trainer: "Trainer") -> None:
        """Run after the last epoch. May set the final parameters."""

    def state_dict(self) -> dict[str, NDArray]:
        """Return what a resumed run needs: arrays by name."""
        return {}

    def load_state_dict(self, state: dict[str, NDArray]) -> None:
        """Load the result of `state_dict`. Raises InputError, KeyError, ValueError or ModelFileError."""


class Trainer:
    """Trains a network in place.

    Parameters
    ----------
    model : takes images (N, C, H, W), returns logits (N, classes)
    optimizer : updates the parameters of `model`
    learning_rate : takes the number of a step, returns its learning rate
    epochs, batch_size : see `steps_per_epoch`
    seed : determines the order of the images and all random numbers
    loss : takes logits (Tensor) and labels (int64), returns the mean loss (Tensor)
    validator : returns a function from images (N, H, W, C) of the data set to logits of the current network; the
        default is the network's own inference. Not called without validation images
    checkpoints : where the state is saved; None writes nothing
    record : called with the figures of each epoch, before its checkpoint is written
    team : the processes that compute the shards of a batch; by default this process computes whole batches. All
        processes of a team make the same calls. The first one records and writes checkpoints

    Raises
    ------
    InputError : fewer than 2 training images, a batch that the team cannot cut evenly, or two callbacks whose state has
        the same name
    """

    def __init__(
        self,
        model: Module,
        data: Dataset,
        optimizer: Optimizer,
        learning_rate: Callable[[int], float],
        *,
        epochs: int,
        batch_size: int,
        seed: int = 0,
        loss: Callable[[Tensor, NDArray[np.int64]], Tensor] = cross_entropy,
        augment: AugmentSpec | None = None,
        callbacks: Sequence[Callback] = (),
        validator: Callable[[], Callable[[NDArray], Logits]] | None = None,
        checkpoints: CheckpointFolder | None = None,
        record: Callable[[dict[str, Any]], None] = lambda line: None,
        team: Team | None = None,
    ) -> None:
        self.model, self.data, self.optimizer, self.learning_rate = model, data, optimizer, learning_rate
        self.epochs, self.seed, self.loss, self.augment = epochs, seed, loss, augment
        self.steps = steps_per_epoch(len(data.train), batch_size)
        self.batch_size = min(batch_size, len(data.train))
        self.callbacks, self.checkpoints, self.record = callbacks, checkpoints, record
        self.team = team or Team()
        self.team.check_batch(self.batch_size)
        self.position = Position()
        _require_names(callbacks)
        self._table = batches.table_of(data)
        self._validator = validator or partial(float_logits, model, self._table)
        self._order = lru_cache(maxsize=1)(partial(batches.epoch_order, len(data.train), seed))
        self._stop, self._asked = StopRequest(), 0
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}

    # --- the loop

    @steady
    def fit(self) -> None:
        """Train from `position` to the end of the last epoch.

        Raises
        ------
        NonFiniteError : a parameter or logit became NaN or infinite; the last checkpoint is older
        Interrupted : SIGINT or SIGTERM arrived; the step was finished and a checkpoint written
        """
        self._saved, self._stop, self._asked = time.monotonic(), StopRequest(), 0
        with self._stop, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            self._require_one_state()
            self._call("before_training")
            try:
                while self.position.epoch < self.epochs:
                    self._epoch()
                    self._stop_if_asked()
            except Interrupted:
                self.save()
                raise
            self._call("after_training")

    def _epoch(self) -> None:
        """Take the remaining steps of an epoch, validate, record and save."""
        position, started, whole = self.position, time.monotonic(), self.position.step == 0
        self._call("before_epoch")
        self.model.train()
        while position.step < self.steps:
            self.step()
            self._stop_if_asked()
            if self._due and position.step < self.steps:
                self.save()
        trained = time.monotonic()
        self.team.ranks.working("validation")
        self._require_one_state()
        scores = self._validate()
        is_best = scores is not None and scores.top1 > position.best_top1
        if scores is not None and is_best:
            position.best_top1, position.best_epoch = scores.top1, position.epoch
        done = (position.epoch + 1) * self.steps
        line = {
            "epoch": position.epoch + 1,
            "step": done,
            "lr": self.learning_rate(done - 1),
            "train_loss": position.loss_sum / max(position.seen, 1),
            "train_top1": position.correct / max(position.seen, 1),
            **{f"val_{key}": None if scores is None else getattr(scores, key) for key in ("loss", "top1", "top5")},
            "best": is_best,
            "seconds": round(trained - started, 3),
            "val_seconds": round(time.monotonic() - trained, 3),
            "whole_epoch": whole,  # False: `seconds` covers only the steps since the run was resumed
        }
        for callback in self.callbacks:
            line |= callback.figures(self)
        position.next_epoch()
        if self.team.writes:
            self.record(line)
        self.save(best=is_best)
        self._call("after_epoch", line)

    def step(self) -> float:
        """Take the next step of the epoch, and return its loss."""
        number, position = self.steps_done, self.position
        self.team.ranks.working("step")
        self.model.set_position(self.seed, number)
        self.optimizer.lr = self.learning_rate(number)
        self.optimizer.zero_grad()
        steps = self.team.run(partial(self._differentiate, number))
        self.team.gradients.finish()
        self._call("after_backward", steps[0])
        self.optimizer.step()
        loss, correct, images = self._counted(steps)
        position.count(loss, correct, images)
        self._call("after_step", steps[0])
        return loss

    def _differentiate(self, number: int, shard: Shard) -> Step:
        """Forward and backward for a shard of the next batch."""
        step = Step(number, *self.batch(self.position.epoch, self.position.step, shard))
        self._call("before_step", step)
        step.logits = self.model(Tensor(step.images))
        step.loss = self.loss(step.logits, step.labels)
        self._call("after_forward", step)
        if self.team.whole:
            step.loss.backward()
        else:  # the mean over the batch is the sum over shards of their shares
            share = np.full(step.loss.shape, 1 / shard.count, step.loss.dtype)
            take = self.team.deliver_to(shard)

            def deliver(leaf: Any, gradient: NDArray) -> None:
                if not np.isfinite(gradient.sum()) and not np.isfinite(gradient).all():
                    where = f"the gradient of {self._names.get(leaf)} {gradient.shape}, in shard {shard.index}"
                    raise NonFiniteError(f"step {number + 1}: {where}, holds NaN or infinity")
                take(leaf, gradient)

            step.loss.backward(share, deliver=deliver)
        return step

    def _counted(self, steps: list[Step]) -> tuple[float, int, int]:
        """Mean loss, images that were right, and images of a batch; all ranks learn here whether to stop or to save."""
        due = self.checkpoints and time.monotonic() - self._saved >= self.checkpoints.every
        here = [bool(due and self.team.writes), self._stop.signal_number or 0]
        own = [
            (float(step.loss.data), (step.logits.data.argmax(axis=1) == step.labels).sum(), len(step.labels), *here)
            for step in steps
        ]
        loss, correct, images, any_due, asked = self.team.gather(np.array(own, np.float64)).T
        self._due, self._asked = bool(any_due.any()), int(asked.max())
        return sum(loss.tolist()) / len(loss), int(correct.sum()), int(images.sum())

    def _validate(self) -> Scores | None:
        split = self.data.val
        if not len(split):
            return None
        with ExitStack() as stack:
            for callback in self.callbacks:
                stack.enter_context(callback.evaluating(self))
            logits = all_logits(self._validator(), split.images, lambda *_: self._stop_if_asked(), team=self.team)
        return score(logits, split.labels, f"validation after epoch {self.position.epoch + 1}")

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, *arguments)

    def _stop_if_asked(self) -> None:
        number = self._asked or (self._stop.signal_number if self.team.ranks.size == 1 else None)
        if number:
            saved = ", everything is saved" if self.checkpoints else ""
            raise Interrupted(number, f"stopped in epoch {self.position.epoch + 1}{saved}")

    def _require_one_state(self) -> None:
        """Raise EquivalenceError where the processes of the team do not have the same numbers."""
        if self.team.ranks.size > 1:
            digest = sha256(repr(self.position).encode())
            for array in self.model.state_dict().values():
                digest.update(np.ascontiguousarray(array).tobytes())
            self.team.require_same(digest.hexdigest(), f"the networks after step {self.steps_done}")

    # --- batches

    @property
    def steps_done(self) -> int:
        """The steps of all epochs up to `position`, which is the number of the next step."""
        return self.position.epoch * self.steps + self.position.step

    def indices(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Return the indices of the training images of a step (both counted from 0). Only this method decides them."""
        return self._order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]

    def batch(self, epoch: int, step: int, shard: Shard = WHOLE) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the images (N, C, H, W), augmented and normalised, and labels (N,) of a step, or of a shard of it."""
        split, indices = self.data.train, self.indices(epoch, step)
        size = len(indices) // shard.count
        indices = indices[shard.index * size : (shard.index + 1) * size]
        how: dict[str, Any] = {"seed": self.seed, "epoch": epoch, "augment": self.augment}
        return batches.make_batch(split.images, indices, self._table, **how), split.labels[indices]

    # --- checkpoints

    def save(self, best: bool = False) -> None:
        """Write a checkpoint, if there is a folder. `best` writes a second copy."""
        if self.checkpoints:
            states = {f"{one.name}.{key}": array for one in self.callbacks for key, array in one.state_dict().items()}
            of_gradients = self.team.gradients.state_dict(self._names)
            states |= {f"{OF_GRADIENTS}.{name}": array for name, array in of_gradients.items()}
            if self.team.writes:
                self.checkpoints.save(
                    self.model, self.optimizer, self.position, self.steps_done, best=best, others=states
                )
        self._saved = time.monotonic()

    def load(self, path: Path) -> None:
        """Load a checkpoint and its position. Raises ModelFileError, or MismatchError if it belongs to another run."""
        tensors, metadata = read(path, self.checkpoints.identity if self.checkpoints else None)
        try:
            self.model.load_state_dict(state_of(tensors, "model."))
            self.optimizer.load_state_dict(state_of(tensors, "optimizer."))
            for callback in self.callbacks:
                callback.load_state_dict(state_of(tensors, f"{callback.name}."))
            self.team.gradients.load_state_dict(state_of(tensors, f"{OF_GRADIENTS}."), self._names)
        except (InputError, KeyError, ValueError) as error:
            raise ModelFileError(f"{path} does not match this network: {error}") from None
        self.position = metadata["position"]

    def resume(self, start: Path | None = None, note: Callable[[str], None] = lambda text: None) -> None:
        """Load the checkpoint `start`, or the folder's newest valid one. Without any, start at the beginning.

        `note` is called with a line that names it. Raises ModelFileError if there are checkpoints but none can be used.
        """
        assert self.checkpoints is not None, "a trainer without checkpoints cannot resume"
        refused: list[ModelFileError] = []
        for path in [start] if start else self.checkpoints.candidates():
            try:
                self.load(path)
            except ModelFileError as error:
                if start or isinstance(error, MismatchError):
                    raise
                refused.append(error)
                note(f"skipped a checkpoint that cannot be used: {error}")
                continue
            sound = not any(isinstance(error, UnreadableError) for error in refused)  # unreadable ones may be intact
            if sound and self.team.writes:
                self.checkpoints.discard_after(self.steps_done)
            note(f"resuming from {path}: epoch {self.position.epoch + 1}, step {self.steps_done + 1}")
            return
        if refused:
            raise ModelFileError(
                f"none of the {len(refused)} checkpoints in {self.checkpoints.folder} can be used; "
                "leave --resume out to start a new run"
            )
        note("there is no checkpoint yet: starting at the beginning")


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return the whole batches per epoch, at least one. Raises InputError for fewer than 2 images."""
    if images < 2:
        raise InputError(f"training needs at least 2 images, got {images}")
    return max(1, images // batch_size)


def _require_names(callbacks: Sequence[Callback]) -> None:
    names = [one.name for one in callbacks if type(one).state_dict is not Callback.state_dict]
    for name in names:
        if name in ("model", "optimizer", OF_GRADIENTS) or "." in name or names.count(name) > 1:
            raise InputError(
                "callbacks with a state need different names, without dots, that are not model, optimizer or "
                f"gradients; got {', '.join(names)}"
            )
