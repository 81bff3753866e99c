"""A batch in shards computes what it computes in one piece; how many ranks share the shards changes no bit.

Here ranks are threads. `test_ranks.py` has processes.
"""

import sys

import numpy as np
import pytest

from tests.training.distributed.threads import on_ranks
from tests.training.training_samples import TINY_OPTIONS
from xnor_ref import models, optim
from xnor_ref.autodiff import Tensor
from xnor_ref.cli import main
from xnor_ref.datasets import AugmentSpec, Split
from xnor_ref.datasets.base import make_dataset
from xnor_ref.errors import InputError, NonFiniteError
from xnor_ref.nn import shards
from xnor_ref.nn.backend import backward_in, binary_backend
from xnor_ref.nn.layers.real_layers import BatchNorm2d, Dropout
from xnor_ref.training.callbacks.average import WeightAverage
from xnor_ref.training.callbacks.clip import ClipNorm
from xnor_ref.training.callbacks.image_size import SmallerImages
from xnor_ref.training.callbacks.mst import MstPull
from xnor_ref.training.callbacks.teacher import Teacher
from xnor_ref.training.distributed import gradients
from xnor_ref.training.distributed import ranks as mpi
from xnor_ref.training.distributed.gradients import BLOCK, FEW, SignSums, pairwise
from xnor_ref.training.distributed.team import Alone, Team, usual_shards
from xnor_ref.training.fitting.trainer import Callback
from xnor_ref.training.job import make_trainer
from xnor_ref.training.storing.checkpoint import CheckpointFolder, read

BATCH, STEPS = 16, 2
LAYERS = [  # of networks, each with what it trains by
    {},
    {"method": "full"},
    {"method": "bwn", "weight_scale": "layer"},
    {"method": "xnor++"},
    {"method": "bnn", "shift_batch_norm": True},
    {"method": "binaryconnect", "stochastic": True, "glorot": True},
    {"weight_bits": 2, "input_bits": 2},
    {"k_grad": True, "centre": True, "clamp": True},
    {"grad_bits": 4, "grad_rounding": "random", "grad_for": "all"},
    {"grad_bits": 8, "grad_range": "sample"},
    {"shortcut": "bireal", "react": True},
]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)

    def split(count):
        return Split(rng.integers(0, 256, (count, 16, 16, 3), np.uint8), rng.integers(0, 4, count))

    return make_dataset("noise", ("a", "b", "c", "d"), split(STEPS * BATCH + 3), split(230))


def network(**options):
    return models.build("shapes-net", image_size=16, in_channels=3, num_classes=4, seed=1, **{"width": 8, **options})


def trainer_of(data, team, *callbacks, folder=None, epochs=1, sgd=False, **options):
    model = network(**options)
    kind = optim.SGD if sgd else optim.Adam
    joined = [make(model) for make in callbacks]
    return make_trainer(
        model,
        data,
        kind(model.named_parameters(), 0.01),
        optim.make_schedule("cosine", 0.01, epochs * STEPS),
        epochs=epochs,
        batch_size=BATCH,
        augment=AugmentSpec(None, flip=True),
        callbacks=joined,
        checkpoints=folder and CheckpointFolder(folder, {"config": {}, "data": {}}),
        team=team,
    )


def distance(found, wanted):
    """The length of the difference of two states, for that of the second."""
    far = sum(float(np.square(np.float64(found[name]) - wanted[name]).sum()) for name in wanted)
    return (far / sum(float(np.square(wanted[name], dtype=np.float64).sum()) for name in wanted)) ** 0.5


IN_BYTES = ({}, {"method": "bnn"}, {"method": "xnor++"}, {"shortcut": "bireal", "react": True})


@pytest.mark.parametrize(
    "options, arithmetic", [*((one, "fp32") for one in LAYERS), *((one, "int8") for one in IN_BYTES)], ids=str
)
def test_shards_compute_what_the_batch_does(data, options, arithmetic):
    """Up to the order of float32 sums; in particular the same numbers are drawn."""

    def stepped(count):
        trainer = trainer_of(data, Team(count), **options)
        trainer.model.train()
        loss = trainer.step()
        return loss, {name: p.grad for name, p in trainer.model.named_parameters()}, trainer.model.state_dict()

    with backward_in(arithmetic):
        loss, wanted, state = stepped(1)
        for count in (2, 4):
            found = stepped(count)
            assert abs(found[0] - loss) < 1e-6 and found[1].keys() == wanted.keys()
            assert distance(found[1], wanted) < 1e-5
            buffers = {name: array for name, array in state.items() if "running" in name}
            assert distance({name: found[2][name] for name in buffers}, buffers) < 1e-6


def test_the_readable_layers_and_dropout_share_as_well(data):
    def found(count):
        trainer = trainer_of(data, Team(count), sgd=True)
        dropout, whole = Dropout(0.5), trainer.model.forward
        dropout.set_position(0, 0)
        trainer.model.forward = lambda x: whole(dropout(x))
        trainer.model.train()
        trainer.step()
        return {name: parameter.grad for name, parameter in trainer.model.named_parameters()}

    with binary_backend("numba"):
        assert distance(found(4), found(1)) < 1e-5


def test_an_epoch_ends_where_it_does_in_one_piece(data):
    ends = [trainer_of(data, Team(count), method="full") for count in (1, 2, 4)]
    for trainer in ends:
        trainer.fit()
    wanted = ends[0].model.state_dict()
    assert all(distance(trainer.model.state_dict(), wanted) < 1e-5 for trainer in ends[1:])
    assert all(trainer.position.correct == ends[0].position.correct for trainer in ends)


def drawn_job(rng, data, tmp_path):
    """Options, callbacks and a team, drawn from all that training has."""
    options, pull = LAYERS[rng.integers(len(LAYERS))], str(rng.choice(["tree", "centre"]))
    joins = {
        "average": lambda model: WeightAverage(model, 0.9),
        "clip": lambda model: ClipNorm(0.5),
        "small": lambda model: SmallerImages(model, data, 12, 1),
        "teacher": lambda model: Teacher(tmp_path / "teacher.safetensors", data),
        "mst": lambda model: MstPull(model, STEPS, 0.5, refresh=1, pull=pull),
    }
    if options.get("method", "xnor") != "xnor" or "weight_bits" in options:
        del joins["mst"]
    del joins[str(rng.choice(["small", "teacher"]))]  # the teacher takes images of one size
    if options.get("method") == "xnor++":
        joins.pop("small", None)
    names = [name for name in joins if rng.random() < 0.5]
    of_team = {"apart": bool(rng.random() < 0.3), "compress": "sign" if rng.random() < 0.3 else None}
    return options, names, [joins[name] for name in names], of_team, str(rng.choice(["fp32", "int8"]))


def require_same_bits(data, tmp_path, seed):
    from xnor_ref import freeze

    freeze(network(), classes=data.classes, mean=data.mean, std=data.std).save(tmp_path / "teacher.safetensors")
    results, lines = {}, {}
    for size in (1, 2, 4):
        options, names, callbacks, of_team, arithmetic = drawn_job(np.random.default_rng(seed), data, tmp_path)

        def train(ranks, size=size, options=options, callbacks=callbacks, of_team=of_team):
            team = Team(4, ranks=ranks if size > 1 else None, **of_team)
            trainer = trainer_of(data, team, *callbacks, folder=tmp_path / str(size), epochs=2, **options)
            trainer.record = lines.setdefault(size, []).append
            trainer.fit()
            return {name: array.tobytes() for name, array in trainer.model.state_dict().items()}

        with backward_in(arithmetic):
            states = on_ranks(size, train)
        assert all(state == states[0] for state in states)
        files = {path.name: path.read_bytes() for path in (tmp_path / str(size)).iterdir()}
        figures = [{key: line[key] for key in line if "seconds" not in key} for line in lines[size]]
        results[size] = states[0], files, figures
    assert results[1] == results[2] == results[4], (options, names, of_team, arithmetic)
    assert [line["epoch"] for line in lines[4]] == [1, 2]


@pytest.mark.parametrize("seed", range(3))
def test_how_many_ranks_share_the_shards_changes_no_bit(data, tmp_path, seed):
    require_same_bits(data, tmp_path, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3, 15))
def test_many_draws_change_no_bit(data, tmp_path, seed):
    require_same_bits(data, tmp_path, seed)


@pytest.mark.parametrize("compress", [None, "sign"])
def test_a_run_goes_on_with_another_number_of_ranks(data, tmp_path, compress):
    def train(folder, epochs, size, shards=4):
        def one(ranks):
            team = Team(shards, ranks=ranks, compress=compress)
            trainer = trainer_of(data, team, folder=tmp_path / folder, epochs=3, width=16)
            trainer.resume()
            trainer.epochs = epochs
            trainer.fit()

        on_ranks(size, one)
        return max((tmp_path / folder).glob("step-*")).read_bytes()

    whole = train("whole", 3, 1)
    train("cut", 1, 2)
    train("cut", 2, 4)
    assert train("cut", 3, 1) == whole
    train("fewer", 1, 4)
    before, _ = read(max((tmp_path / "fewer").glob("step-*")))
    train("fewer", 2, 1, shards=2)  # not the same bits, but nothing is lost
    after, _ = read(max((tmp_path / "fewer").glob("step-*")))
    assert before.keys() == after.keys() and any("gradients." in name for name in after) == bool(compress)


def test_batch_norm_of_each_shard(data):
    """Each is normalised by its own moments, and the running ones move by their mean."""
    x = np.random.default_rng(0).normal(size=(8, 3, 4, 4)).astype(np.float32)
    team, norm = Team(2, apart=True), BatchNorm2d(3)
    found = team.run(lambda shard: norm(Tensor(x[4 * shard.index :][:4])).data)
    apart = BatchNorm2d(3), BatchNorm2d(3)
    wanted = [layer(Tensor(part)).data for layer, part in zip(apart, (x[:4], x[4:]), strict=True)]
    np.testing.assert_array_equal(found, wanted)
    for name in ("running_mean", "running_var"):
        mean = (getattr(apart[0], name) + getattr(apart[1], name)) / 2
        np.testing.assert_allclose(getattr(norm, name), mean, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 3), (1, 5, 3)])
def test_each_shard_draws_its_part_of_the_numbers_of_the_batch(dtype, shape):
    whole = np.random.default_rng(3).random((4 * shape[0], *shape[1:]), dtype)
    parts = Team(4).run(lambda shard: shard.drawn(np.random.default_rng(3), shape, dtype))
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert shards.current() is shards.WHOLE


def test_sums_are_a_tree():
    numbers = np.float32([[2**24], [1], [1], [1]])
    assert pairwise(list(numbers))[0] == 2**24 + 2  # (2**24 + 1) + (1 + 1)
    assert pairwise(list(np.ones((7, 1), np.float32)))[0] == 7
    assert usual_shards(2, 32, None) == usual_shards(1, 32, None) == 4 and usual_shards(2, 50, None) == 2
    assert usual_shards(3, 48, None) == 3 and usual_shards(8, 64, None) == 8 and usual_shards(2, 32, "sign") == 2


def test_signs_keep_what_they_leave_out():
    rng, leaf = np.random.default_rng(0), Tensor(np.zeros((5, FEW // 4), np.float32))
    sums, total, given = SignSums(Alone(), 2, 2), 0.0, 0.0
    for _ in range(3):
        both = rng.normal(size=(2, *leaf.shape)).astype(np.float32)
        for own, gradient in enumerate(both):
            sums.take(own, leaf, gradient)
        sums.finish()
        total, given = total + leaf.grad.astype(np.float64), given + both.sum(axis=0, dtype=np.float64)
    left = sums.state_dict({leaf: "w"})
    kept = left["w.shards"].sum(axis=0) + left["w.sums"]
    np.testing.assert_allclose(total + kept.reshape(leaf.shape), given, atol=1e-5)
    blocks = np.zeros((-(-leaf.size // BLOCK), BLOCK), np.float32)
    blocks.reshape(-1)[: leaf.size] = np.abs(leaf.grad).reshape(-1)
    assert all(len(np.unique(block[block > 0])) == 1 for block in blocks)


def test_signs_are_32_times_fewer_bytes():
    leaf = Tensor(np.zeros(64 * BLOCK, np.float32))

    def sent(ranks, compress):
        team = Team(2, ranks=ranks, compress=compress)
        team.gradients.take(0, leaf, np.ones(leaf.size, np.float32))
        team.gradients.finish()
        return ranks.sent

    whole, signs = (on_ranks(2, lambda ranks, how=how: sent(ranks, how))[0] for how in (None, "sign"))
    assert whole == 2 * 4 * leaf.size and 31 < whole / signs <= 32


def test_gradients_leave_before_the_backward_pass_ends(data, monkeypatch):
    monkeypatch.setattr(gradients, "BUCKET", 1)
    trainer, events = trainer_of(data, Team(2)), []
    names, sums = trainer._names, trainer.team.gradients
    take, travel = sums.take, sums._travel

    def taken(own, leaf, array):
        events.append((own, names[leaf]))
        take(own, leaf, array)

    def sent(bucket):
        events.append(("sent", names[bucket[0][0]]))
        travel(bucket)

    monkeypatch.setattr(sums, "take", taken)
    monkeypatch.setattr(sums, "_travel", sent)
    trainer.model.train()
    trainer.step()
    assert events.index(("sent", "classifier.weight")) < events.index((0, "stem.conv.weight"))
    assert [event for event in events if event[0] == "sent"] == [("sent", name) for own, name in events if own == 1]


class Broken(Callback):
    def after_forward(self, trainer, step):
        if shards.current().index == 2:
            step.loss = step.loss * float("nan")


def test_a_shard_that_fails_is_told(data):
    trainer = trainer_of(data, Team(4), lambda model: Broken())
    trainer.callbacks = trainer.callbacks[1:2]
    with pytest.raises(NonFiniteError, match=r"step 1: the gradient of .*, in shard 2, holds NaN"):
        trainer.fit()
    trainer.callbacks = []
    trainer.fit()  # nothing hangs, and no gradient of that step is left
    fresh = trainer_of(data, Team(4))
    fresh.callbacks = []
    fresh.fit()
    for found, wanted in zip(trainer.model.parameters(), fresh.model.parameters(), strict=True):
        np.testing.assert_array_equal(found.data, wanted.data)


def test_what_cannot_be_shared_is_refused(data):
    with pytest.raises(InputError, match="batch of 16 images cannot be cut into 3 shards"):
        trainer_of(data, Team(3))
    with pytest.raises(InputError, match=r"shards \(=3\) must be a multiple of the number of ranks, 2"):
        on_ranks(2, lambda ranks: Team(3, ranks=ranks))


def command(tmp_path, monkeypatch, capsys, *options):
    monkeypatch.chdir(tmp_path)
    return main(["train", *TINY_OPTIONS, *options, "--quiet"]), capsys.readouterr().err


def test_the_command_names_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    code, err = command(tmp_path, monkeypatch, capsys, "--distributed")
    assert code == 2 and "pip install 'xnor_ref[mpi]'" in err
    code, err = command(tmp_path, monkeypatch, capsys, "--norm-over", "shard")
    assert code == 2 and "norm_over (=shard) needs shards" in err
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    assert mpi.started_together() == 4
    code, err = command(tmp_path, monkeypatch, capsys)
    assert code == 2 and "4 processes were started together; add --distributed" in err
