"""An average of the weights of all steps, which is validated and stored."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.nn import Module
from xnor_ref.nn.layers.real_layers import BatchNorm
from xnor_ref.nn.shards import Shard
from xnor_ref.training.fitting.trainer import Callback, Step, Trainer
from xnor_ref.training.storing.checkpoint import AVERAGE

MOST_BATCHES = 16  # most batches for estimating BatchNorm's statistics


class WeightAverage(Callback):
    """Replaces all parameters by their exponential moving average, in validation and at the end.

    After step t (counted from 0), the average moves towards the parameters by the share 1 - min(decay, (1 + t) / (10 +
    t)), so that the first steps do not dominate. Latent weights are averaged as real numbers and binarised afterwards.
    The running statistics of BatchNorm belong to other weights, so they are estimated again from training images each
    time.

    Parameters
    ----------
    decay : from 0 to below 1
    """

    name = AVERAGE

    def __init__(self, model: Module, decay: float) -> None:
        self._decay = decay
        self._mean = {name: parameter.data.copy() for name, parameter in model.named_parameters()}
        self._statistics: dict[str, NDArray] = {}

    def after_step(self, trainer: Trainer, step: Step) -> None:
        share = np.float32(1 - min(self._decay, (1 + step.number) / (10 + step.number)))
        for name, parameter in trainer.model.named_parameters():
            change = parameter.data - self._mean[name]
            change *= share
            self._mean[name] += change

    @contextmanager
    def evaluating(self, trainer: Trainer) -> Iterator[None]:
        own = {name: array.copy() for name, array in trainer.model.state_dict().items()}
        try:
            self._take_over(trainer)
            yield
        finally:
            trainer.model.load_state_dict(own)

    def after_training(self, trainer: Trainer) -> None:
        self._take_over(trainer)

    def state_dict(self) -> dict[str, NDArray]:
        return {**self._mean, **self._statistics}

    def load_state_dict(self, state: dict[str, NDArray]) -> None:
        self._mean = {name: state[name].copy() for name in self._mean}
        self._statistics = {name: array.copy() for name, array in state.items() if name not in self._mean}

    def _take_over(self, trainer: Trainer) -> None:
        """Set the network's parameters to the average, and estimate its statistics."""
        model = trainer.model
        for name, parameter in model.named_parameters():
            parameter.data[...] = self._mean[name]
        estimate_statistics(trainer)
        buffers = model.state_dict().keys() - self._mean.keys()
        self._statistics = {name: model.state_dict()[name].copy() for name in sorted(buffers)}


def _normalise(trainer: Trainer, index: int, shard: Shard) -> None:
    """Let BatchNorm see a shard of a batch."""
    with no_grad():  # holds for one thread
        trainer.model(Tensor(trainer.batch(0, index, shard)[0]))


def estimate_statistics(trainer: Trainer) -> None:
    """Set BatchNorm's running statistics to means over the first batches of the run."""
    norms = [module for _, module in trainer.model.named_modules() if isinstance(module, BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    trainer.model.eval()
    for norm in norms:
        norm.training = True
    try:
        for index in range(min(trainer.steps, MOST_BATCHES) if norms else 0):
            for norm in norms:
                norm.momentum = 1 / (index + 1)
            trainer.team.run(partial(_normalise, trainer, index))
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
        trainer.model.eval()
