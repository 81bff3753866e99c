"""The average of the weights: its numbers, the statistics that fit it, and what a stop and a checkpoint keep of it."""

import numpy as np
import pytest

from tests.training.test_job import data_dir
from tests.training.test_trainer import EPOCHS, STEPS, StopEach, data, last_of, trainer_of, weights
from tests.training.training_samples import tiny_config
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.training.callbacks.average import WeightAverage
from xnor_ref.training.fitting.interrupt import Interrupted
from xnor_ref.training.fitting.trainer import Callback
from xnor_ref.training.job import train_run
from xnor_ref.training.storing.checkpoint import read, state_of
from xnor_ref.training.storing.sources import load_network

__all__ = ["data", "data_dir"]  # fixtures


class Path(Callback):
    """Keeps the weights of every step."""

    def __init__(self):
        self.steps = []

    def after_step(self, trainer, step):
        self.steps.append({name: one.data.astype(np.float64) for name, one in trainer.model.named_parameters()})


def averaged(data, *callbacks, decay=0.5, **others):
    trainer = trainer_of(data, *callbacks, **others)
    trainer.callbacks.append(WeightAverage(trainer.model, decay))
    return trainer


def test_the_network_ends_as_the_average_of_its_steps(data):
    path = Path()
    trainer = averaged(data, path)
    mean = {name: one.data.astype(np.float64) for name, one in trainer.model.named_parameters()}
    trainer.fit()
    for number, step in enumerate(path.steps):
        kept = min(0.5, (1 + number) / (10 + number))
        mean = {name: kept * mean[name] + (1 - kept) * step[name] for name in mean}
    for name, one in trainer.model.named_parameters():
        np.testing.assert_allclose(one.data, mean[name], rtol=1e-5, atol=1e-6)
    assert any(np.abs(mean[name] - path.steps[-1][name]).max() > 1e-4 for name in mean)


def test_its_statistics_are_those_of_its_own_activations(data):
    trainer = averaged(data)
    trainer.fit()
    stem = trainer.model["stem"]
    with no_grad():
        maps = [stem[0](Tensor(trainer.batch(0, index)[0])).data.astype(np.float64) for index in range(STEPS)]
    np.testing.assert_allclose(stem[1].running_mean, np.mean([m.mean(axis=(0, 2, 3)) for m in maps], 0), rtol=1e-4)
    unbiased = [m.var(axis=(0, 2, 3)) * (m[:, 0].size / (m[:, 0].size - 1)) for m in maps]
    np.testing.assert_allclose(stem[1].running_var, np.mean(unbiased, 0), rtol=1e-4)
    assert stem[1].momentum == 0.1 and not stem[1].training


def test_training_itself_goes_on_with_its_own_weights(data, tmp_path):
    plain, trainer = trainer_of(data, folder=tmp_path / "plain"), averaged(data, folder=tmp_path / "averaged")
    plain.fit()
    trainer.fit()
    states = [state_of(read(max((tmp_path / name).glob("step-*")))[0], "model.") for name in ("plain", "averaged")]
    assert all(states[0][name].tobytes() == states[1][name].tobytes() for name in states[0])
    assert weights(plain) != weights(trainer)


def test_it_survives_a_stop_after_every_step(data, tmp_path):
    whole, stops = averaged(data, folder=tmp_path / "whole"), 0
    whole.fit()
    while True:
        stopped = averaged(data, StopEach(), folder=tmp_path / "stopped")
        stopped.resume()
        try:
            stopped.fit()
            break
        except Interrupted:
            stops += 1
    assert stops == EPOCHS * STEPS and weights(stopped) == weights(whole)
    assert last_of(tmp_path / "stopped") == last_of(tmp_path / "whole")


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_run_keeps_validates_and_exports_it(data_dir, tmp_path, decay):
    report = train_run(tiny_config(data_dir, average=decay), out=tmp_path / "run")
    assert report["disagreements"] == 0
    path = max((tmp_path / "run/checkpoints").glob("step-*"))
    state, kept = (load_network(file)[0].state_dict() for file in (path, tmp_path / "run"))
    assert all(state[name].tobytes() == kept[name].tobytes() for name in kept)
    own = state_of(read(path)[0], "model.")
    assert (own["stem.conv.weight"].tobytes() == state["stem.conv.weight"].tobytes()) == (decay == 0)
