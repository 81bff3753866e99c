"""The trainer and its callbacks: what is called when, what a callback may change, and what a checkpoint holds of it."""

import contextlib
import signal

import numpy as np
import pytest

from tests.training.training_samples import TINY_OPTIONS, run_cli
from xnor_ref import datasets, models, optim
from xnor_ref.autodiff import Tensor
from xnor_ref.datasets import Split
from xnor_ref.datasets.base import make_dataset
from xnor_ref.errors import InputError, ModelFileError, NonFiniteError
from xnor_ref.nn.backend import backward_in
from xnor_ref.training.callbacks.clip import ClipNorm
from xnor_ref.training.fitting.interrupt import Interrupted
from xnor_ref.training.fitting.trainer import Callback
from xnor_ref.training.job import make_trainer
from xnor_ref.training.storing.checkpoint import CheckpointFolder, read, state_of

STEPS, EPOCHS = 3, 2
IDENTITY = {"config": {}, "data": {}}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)

    def split(count):
        return Split(rng.integers(0, 256, (count, 16, 16, 3), np.uint8), rng.integers(0, 3, count))

    return make_dataset("noise", ("a", "b", "c"), split(4 * STEPS + 2), split(5))


def trainer_of(data, *callbacks, folder=None, rate=0.01, clamp=False, **others):
    """A trainer of a small network, made of plain parts."""
    model = models.build("shapes-net", image_size=16, in_channels=3, num_classes=3, width=2, clamp=clamp)
    optimizer = optim.Adam(model.named_parameters(), rate)
    schedule = optim.make_schedule("cosine", rate, EPOCHS * STEPS)
    checkpoints = folder and CheckpointFolder(folder, IDENTITY)
    return make_trainer(
        model,
        data,
        optimizer,
        schedule,
        callbacks=callbacks,
        epochs=EPOCHS,
        batch_size=4,
        checkpoints=checkpoints,
        **others,
    )


def weights(trainer):
    return {name: array.tobytes() for name, array in trainer.model.state_dict().items()}


def last_of(folder):
    return max(folder.glob("step-*")).read_bytes()


class Diary(Callback):
    """Notes every hook that is called."""

    def __init__(self):
        self.lines = []

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name.startswith(("before_", "after_")) or name == "figures":
            self.lines.append(name)
        return found

    @contextlib.contextmanager
    def evaluating(self, trainer):
        self.lines.append("evaluating")
        yield
        self.lines.append("evaluated")


def test_hooks_are_called_in_their_order(data):
    diary = Diary()
    trainer_of(data, diary).fit()
    step = ["before_step", "after_forward", "after_backward", "after_step"]
    epoch = ["before_epoch", *step * STEPS, "evaluating", "evaluated", "figures", "after_epoch"]
    assert diary.lines == ["before_training", *epoch * EPOCHS, "after_training"]


def test_every_hook_of_the_interface_is_in_its_order():
    hooks = {name for name in vars(Callback) if not name.startswith("_")} - {"name", "state_dict", "load_state_dict"}
    listed = Callback.__doc__
    assert all(listed.count(hook) >= 1 for hook in hooks)


def test_hooks_see_the_step(data):
    seen = []

    class Look(Callback):
        def after_step(self, trainer, step):
            again, labels = trainer.batch(*divmod(step.number, STEPS))
            np.testing.assert_array_equal(step.images, again)
            np.testing.assert_array_equal(step.labels, labels)
            assert step.logits.shape == (4, 3) and trainer.steps_done == step.number + 1
            seen.append((step.number, float(step.loss.data)))

    trainer = trainer_of(data, Look())
    trainer.fit()
    assert [number for number, _ in seen] == list(range(EPOCHS * STEPS))
    assert len({loss for _, loss in seen}) == len(seen)


def test_plain_parts_train_to_the_bytes_of_the_command_line(tmp_path):
    code, _, error = run_cli("train", "--quiet", *TINY_OPTIONS, "--out", "run", cwd=tmp_path)
    assert code == 0, error
    options = {"train_size": 48, "val_size": 24, "seed": 0}
    data = datasets.load("shapes", data_dir=tmp_path / "data", **options)
    model = models.build("shapes-net", image_size=64, in_channels=3, num_classes=12, width=4, relu=True)
    optimizer = optim.Adam(model.named_parameters(), 0.01)
    schedule = optim.make_schedule("cosine", 0.01, 12)
    augment, lines = datasets.default_augment("shapes"), []
    trainer = make_trainer(
        model, data, optimizer, schedule, epochs=3, batch_size=12, augment=augment, record=lines.append
    )
    with backward_in("auto"):  # as the command line has it
        trainer.fit()
    tensors, metadata = read(tmp_path / "run/checkpoints/step-000000012.safetensors")
    for found, prefix in ((model.state_dict(), "model."), (optimizer.state_dict(), "optimizer.")):
        expected = state_of(tensors, prefix)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert found[name].tobytes() == array.tobytes(), name
    assert trainer.position == metadata["position"]
    assert len(lines) == 3


class Decaying(Callback):
    """Makes each gradient a decaying sum of all so far."""

    def __init__(self):
        self.sums = {}

    def after_backward(self, trainer, step):
        for name, parameter in trainer.model.named_parameters():
            if parameter.grad is not None:
                parameter.grad = self.sums[name] = parameter.grad + np.float32(0.5) * self.sums.get(name, np.float32(0))

    def figures(self, trainer):
        return {"sums": len(self.sums)}

    def state_dict(self):
        return self.sums

    def load_state_dict(self, state):
        self.sums = state


class StopEach(Callback):
    """Asks for a stop after every step."""

    def after_step(self, trainer, step):
        signal.raise_signal(signal.SIGTERM)


def test_the_state_of_a_callback_survives_a_stop_after_every_step(data, tmp_path):
    whole, plain = trainer_of(data, Decaying(), folder=tmp_path / "whole"), trainer_of(data)
    whole.fit()
    plain.fit()
    assert weights(whole) != weights(plain)
    stops = 0
    while True:
        stopped = trainer_of(data, Decaying(), StopEach(), folder=tmp_path / "stopped")
        stopped.resume()
        try:
            stopped.fit()
            break
        except Interrupted as interrupt:
            assert interrupt.signal_number == signal.SIGTERM
            stops += 1
    assert stops == EPOCHS * STEPS and weights(stopped) == weights(whole)
    assert last_of(tmp_path / "stopped") == last_of(tmp_path / "whole")
    names = read(max((tmp_path / "whole").glob("step-*")))[0]
    assert {f"Decaying.{name}" for name, _ in whole.model.named_parameters()} <= names.keys()


def test_without_its_state_a_callback_would_end_elsewhere(data, tmp_path):
    """The test above sees a state that is not stored."""

    class Forgetful(Decaying):
        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            assert state == {}

    whole = trainer_of(data, Forgetful())
    whole.fit()
    with pytest.raises(Interrupted):
        trainer_of(data, Forgetful(), StopEach(), folder=tmp_path).fit()
    resumed = trainer_of(data, Forgetful(), folder=tmp_path)
    resumed.resume()
    resumed.fit()
    assert weights(resumed) != weights(whole)


def test_a_callback_may_change_images_loss_and_gradients(data):
    class Same(Callback):
        def before_step(self, trainer, step):
            step.images = np.zeros_like(step.images)

    class Double(Callback):
        def after_forward(self, trainer, step):
            self.before, step.loss = float(step.loss.data), step.loss * 2

    class Freeze(Callback):
        def after_backward(self, trainer, step):
            for parameter in trainer.model.parameters():
                parameter.grad = None

    double = Double()
    trainer = trainer_of(data, Same(), double, Freeze())
    before = {name: parameter.data.copy() for name, parameter in trainer.model.named_parameters()}
    assert trainer.step() == 2 * double.before
    trainer.fit()
    for name, parameter in trainer.model.named_parameters():
        np.testing.assert_array_equal(parameter.data, before[name])
    assert not np.ptp(trainer.model(Tensor(np.zeros((2, 3, 16, 16), np.float32))).data, axis=0).any()


def test_after_a_step_a_callback_sees_projected_weights(data):
    seen = []

    class Look(Callback):
        def after_step(self, trainer, step):
            seen.append(max(abs(p.data).max() for p in trainer.model.parameters() if p.latent))

    trainer_of(data, Look(), rate=3.0, clamp=True).fit()
    assert set(seen) == {1.0}
    trainer_of(data, Look(), rate=3.0).fit()
    assert max(seen) > 1


def test_what_a_callback_makes_of_loss_and_gradients_is_checked(data):
    class Poison(Callback):
        def __init__(self, hook):
            setattr(self, hook, self.poison)

        def poison(self, trainer, step):
            if step.number == 1 and hook == "after_forward":
                step.loss = step.loss * np.float32(np.inf)
            elif step.number == 1:
                dict(trainer.model.named_parameters())["block1.conv.weight"].grad[0] = np.nan

    for hook, told in (("after_forward", "the loss is inf"), ("after_backward", "the gradient of block1.conv.weight")):
        with pytest.raises(NonFiniteError, match=f"^step 2: {told}"):
            trainer_of(data, Poison(hook)).fit()


class OtherWeights(Callback):
    """Validates with a classifier that answers the first class, and leaves it in the end."""

    def __init__(self, stop=False):
        self.stop = stop

    @contextlib.contextmanager
    def evaluating(self, trainer):
        bias = dict(trainer.model.named_parameters())["classifier.bias"].data
        before = bias.copy()
        bias[:] = (1000, 0, 0)
        if self.stop:
            signal.raise_signal(signal.SIGINT)
        try:
            yield
        finally:
            bias[:] = before

    def after_training(self, trainer):
        dict(trainer.model.named_parameters())["classifier.bias"].data[:] = 7


def test_other_weights_validate_and_are_taken_out_again(data, tmp_path):
    lines = []
    plain = trainer_of(data, folder=tmp_path / "plain")
    other = trainer_of(data, OtherWeights(), folder=tmp_path / "other", record=lines.append)
    plain.fit()
    other.fit()
    assert {line["val_top1"] for line in lines} == {(data.val.labels == 0).mean()}
    trained = [read(max((tmp_path / name).glob("step-*")))[0] for name in ("plain", "other")]
    assert all(trained[0][name].tobytes() == array.tobytes() for name, array in trained[1].items())
    assert (dict(other.model.named_parameters())["classifier.bias"].data == 7).all()


def test_a_stop_while_other_weights_validate_saves_the_trained_ones(data, tmp_path):
    with pytest.raises(Interrupted, match="stopped in epoch 1, everything is saved"):
        trainer_of(data, OtherWeights(stop=True), folder=tmp_path).fit()
    tensors, metadata = read(max(tmp_path.glob("step-*")))
    assert (metadata["position"].epoch, metadata["position"].step) == (0, STEPS)
    assert abs(tensors["model.classifier.bias"]).max() < 1


def test_figures_are_part_of_the_line(data):
    lines = []
    trainer_of(data, Decaying(), record=lines.append).fit()
    assert [line["epoch"] for line in lines] == [1, 2] and all(line["sums"] > 0 for line in lines)


def test_a_trainer_without_a_folder_writes_nothing(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Interrupted, match=r"^stopped in epoch 1$"):
        trainer_of(data, StopEach()).fit()
    trainer_of(data).fit()
    assert not list(tmp_path.iterdir())


def test_a_trainer_that_was_stopped_goes_on(data):
    class StopOnce(Callback):
        def after_step(self, trainer, step):
            if step.number == 1:
                signal.raise_signal(signal.SIGINT)

    whole, stopped = trainer_of(data), trainer_of(data, StopOnce())
    whole.fit()
    with pytest.raises(Interrupted):
        stopped.fit()
    stopped.fit()
    assert weights(stopped) == weights(whole)


def test_every_epoch_has_an_order_of_its_own(data):
    def order(epoch, **others):
        trainer = trainer_of(data, **others)
        return [index for step in range(STEPS) for index in trainer.indices(epoch, step).tolist()]

    orders = [order(0), order(1), order(0, seed=1)]
    assert all(len(set(found)) == 4 * STEPS for found in orders)
    assert len({tuple(found) for found in orders}) == 3 and order(0) == orders[0]


def test_going_on_from_an_earlier_checkpoint_removes_the_later_ones(data, tmp_path):
    trainer_of(data, folder=tmp_path).fit()
    trainer, notes = trainer_of(data, folder=tmp_path), []
    trainer.resume(tmp_path / f"step-{STEPS:09d}.safetensors", notes.append)
    assert [path.name for path in tmp_path.glob("step-*")] == [f"step-{STEPS:09d}.safetensors"]
    assert trainer.steps_done == STEPS and notes[0].endswith(f"epoch 2, step {STEPS + 1}")


def test_names_of_states_are_taken_once(data):
    class Model(Decaying):
        name = "model"

    class Dotted(Decaying):
        name = "a.b"

    for callbacks in ([Decaying(), Decaying()], [Model()], [Dotted()]):
        with pytest.raises(InputError, match=r"need different names.*; got"):
            trainer_of(data, *callbacks)
    trainer_of(data, StopEach(), StopEach())  # without a state, the name does not matter


def test_a_state_that_does_not_fit_is_refused(data, tmp_path):
    class Strict(Decaying):
        name = "Decaying"

        def load_state_dict(self, state):
            raise KeyError("sums")

    trainer_of(data, Decaying(), folder=tmp_path).fit()
    with pytest.raises(ModelFileError, match="none of the 3 checkpoints"):
        trainer_of(data, Strict(), folder=tmp_path).resume()


def test_the_common_norm_of_gradients_is_limited(data):
    norms = []

    class Norm(Callback):
        def after_backward(self, trainer, step):
            norms.append(sum(float((p.grad**2).sum()) for p in trainer.model.parameters() if p.grad is not None) ** 0.5)

    trainer_of(data, Norm(), ClipNorm(0.01), Norm()).fit()
    before, after = norms[::2], norms[1::2]
    assert min(before) > 0.01 and after == pytest.approx([0.01] * len(after), rel=1e-5)
