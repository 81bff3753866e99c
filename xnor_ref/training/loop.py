"""The training loop, on one page.

Whatever is random in a step follows from (seed, epoch, image) or (seed, step, layer), never from a running stream; so a
run that stops after any step and resumes from a checkpoint computes the same bytes as one that never stopped.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.datasets.batches import epoch_order, make_batch
from xnor_ref.errors import InputError, NonFiniteError
from xnor_ref.nn import LOSSES
from xnor_ref.training.callbacks.mst import MstPull
from xnor_ref.training.callbacks.sources import Teacher
from xnor_ref.training.evaluation import all_logits, score
from xnor_ref.training.interrupt import Interrupted, StopRequest
from xnor_ref.training.observer import Observer
from xnor_ref.training.pace import Pace
from xnor_ref.training.settings.config import TrainConfig
from xnor_ref.training.storing.checkpoint import CheckpointFolder, Position

TRIAL, LONG = 20, 600  # steps after which a run is estimated, and the seconds that are worth telling


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Whole batches only: what is left over comes in another epoch's order. A smaller set is one batch."""
    if images < 2:
        raise InputError(f"training needs at least 2 images, got {images}")
    return max(1, images // batch_size)


def train(
    model,
    optimizer,
    learning_rate: Callable[[int], float],
    data,
    lut,
    augment,
    frozen: Callable[[], Callable[..., Any]],
    config: TrainConfig,
    position: Position,
    checkpoints: CheckpointFolder,
    observer: Observer,
    stop: StopRequest,
    record: Callable[[dict[str, Any]], None],
    regularizer: MstPull | None = None,
    teacher: Teacher | None = None,
) -> None:
    """Train `model` in place, from `position` to the last epoch.

    Parameters
    ----------
    learning_rate : function of the global step
    data : Dataset
    lut : float32 (256, C), normalised value of each pixel value
    augment : AugmentSpec or None
    frozen : makes a function from images to logits of the network as it stands, for validation
    record : called with the figures of each epoch, before its checkpoint is written
    teacher : whose answers are part of the loss
    regularizer : adds to the gradients of the task before each step, and to the figures of each epoch

    Raises
    ------
    NonFiniteError
        The loss, a gradient or a parameter became NaN or infinite; the last checkpoint is from before.
    Interrupted
        A signal came; the step was finished and a checkpoint written.
    """
    images, labels = data.train.images, data.train.labels
    steps = steps_per_epoch(len(labels), config.batch_size)
    batch_size = min(config.batch_size, len(labels))
    loss_of = LOSSES[config.loss]
    loss_options = config.options_of("loss")
    saved, pace = time.monotonic(), Pace(config.epochs, steps, batch_size)

    def save(best: bool = False) -> None:
        nonlocal saved
        extra = regularizer.state_dict() if regularizer else {}
        checkpoints.save(model, optimizer, position, position.epoch * steps + position.step, best=best, extra=extra)
        saved = time.monotonic()

    def stop_if_asked(*_: int) -> None:
        if stop.signal_number is not None:
            save()
            raise Interrupted(stop.signal_number, f"stopped in epoch {position.epoch + 1}, everything is saved")

    while position.epoch < config.epochs:
        epoch, first_step, started = position.epoch, position.step, time.monotonic()
        trained, order = started, epoch_order(len(labels), config.seed, epoch)
        model.train()
        while position.step < steps:
            step = epoch * steps + position.step
            indices = order[position.step * batch_size : (position.step + 1) * batch_size]
            x = make_batch(images, indices, lut, seed=config.seed, epoch=epoch, augment=augment)
            y = labels[indices]
            model.set_position(config.seed, step)
            optimizer.lr = learning_rate(step)
            optimizer.zero_grad()
            logits = model(Tensor(x))
            loss = loss_of(logits, y, **loss_options)
            if teacher:
                loss = teacher.mixed_loss(loss, logits, x)
            if not np.isfinite(loss.data):
                raise NonFiniteError(f"step {step + 1}: the loss is {loss.data}; {first_non_finite(model, x)}")
            loss.backward()
            if regularizer:
                regularizer.add_gradients(step)
            check_gradients(model, step)
            optimizer.step()
            for _, module in model.named_modules():
                module.after_step()

            position.step += 1
            position.loss_sum += float(loss.data) * len(y)
            position.correct += int((logits.data.argmax(axis=1) == y).sum())
            position.seen += len(y)
            before, trained = trained, time.monotonic()
            pace.step(trained - before)
            figures = pace.figures(position)
            if pace.taken == TRIAL and figures["seconds_left"] > LONG:
                observer.note(
                    f"about {figures['seconds_left'] / 60:.0f} minutes to the end of epoch {config.epochs}"
                    f"{'' if figures['with_validation'] else ', without validation'}; "
                    f"saved every {config.checkpoint_every:g} seconds, --resume auto goes on"
                )
            observer.progress(
                f"epoch {epoch + 1}/{config.epochs}",
                position.step,
                steps,
                loss=position.loss_sum / position.seen,
                accuracy=position.correct / position.seen,
                **figures,
            )
            stop_if_asked()
            if time.monotonic() - saved >= config.checkpoint_every and position.step < steps:
                save()

        validation = all_logits(frozen(), data.val.images, stop_if_asked)
        scores = score(validation, data.val.labels, f"validation after epoch {epoch + 1}")
        pace.validation = round(time.monotonic() - trained, 3)
        is_best = scores.top1 > position.best_top1
        if is_best:
            position.best_top1, position.best_epoch = scores.top1, epoch
        line = {
            "epoch": epoch + 1,
            "step": (epoch + 1) * steps,
            "lr": learning_rate((epoch + 1) * steps - 1),
            "train_loss": position.loss_sum / max(position.seen, 1),
            "train_top1": position.correct / max(position.seen, 1),
            "val_loss": scores.loss,
            "val_top1": scores.top1,
            "val_top5": scores.top5,
            "best": is_best,
            "seconds": round(trained - started, 3),
            "val_seconds": pace.validation,
            "whole_epoch": first_step == 0,  # False: `seconds` covers only the steps since the run was resumed
        }
        if regularizer:
            line |= regularizer.figures()
        position.next_epoch()
        record(line)
        save(best=is_best)
        observer.epoch(line | pace.figures(position))
        stop_if_asked()


def check_gradients(model, step: int) -> None:
    """Raise NonFiniteError for the first parameter whose gradient holds NaN or infinity.

    A sum is NaN or infinite if a term is; it may also overflow by itself, so only then are the terms looked at.
    """
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        if grad is not None and not np.isfinite(grad.sum()) and not np.isfinite(grad).all():
            raise NonFiniteError(f"step {step + 1}: the gradient of {name} {grad.shape} holds NaN or infinity")


def first_non_finite(model, x: np.ndarray) -> str:
    """Say where the first NaN or infinity of a forward pass comes from, by running it again and looking."""
    for name, parameter in model.named_parameters():
        if not np.isfinite(parameter.data).all():
            return f"the first NaN or infinity is in {name} {parameter.shape}"
    found: list[str] = []

    def watch(name: str, module) -> None:
        forward = module.forward

        def watched(value):
            out = forward(value)
            if not found and not np.isfinite(out.data).all():
                found.append(f"the first NaN or infinity is in the output {out.shape} of {name}")
            return out

        module.forward = watched

    layers = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    for name, module in layers:
        watch(f"{name} ({type(module).__name__})", module)
    try:
        with no_grad():
            model(Tensor(x))
    finally:
        for _, module in layers:
            del module.forward
    return found[0] if found else "all activations are finite"
