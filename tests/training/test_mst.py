"""Training towards MST-compression: the pull's gradient, its schedule and trees, resuming, and what it reaches."""

import json
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import JIT_DISABLED
from tests.training.training_samples import result_bytes, tiny_config
from xnor_ref import models
from xnor_ref.cli.progress import Progress
from xnor_ref.compress import pull, tree
from xnor_ref.errors import InputError, ModelFileError
from xnor_ref.kernels.basics.layout import unpack_bits
from xnor_ref.training.export import export_run
from xnor_ref.training.fitting.interrupt import Interrupted
from xnor_ref.training.fitting.observer import Observer
from xnor_ref.training.job import make_callbacks, train_run
from xnor_ref.training.storing.runs import RunFolder

STEPS = 4  # of an epoch of the tiny job


def network(**options):
    return models.build("shapes-net", image_size=64, in_channels=3, num_classes=12, seed=0, width=4, **options)


def with_gradients(model, seed=0):
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.grad = rng.standard_normal(parameter.shape, np.float32)
    return {name: p.grad.copy() for name, p in model.named_parameters()}


def pulled(tmp_path, **settings):
    """(network, its pull) with a config of these settings."""
    model, config = network(), tiny_config(tmp_path, **{"mst_lambda": 0.5, **settings})
    return model, make_callbacks(config, model, None, STEPS)[0]


def add_gradients(made, number):
    """What the pull does in the step of this number."""
    made.after_backward(None, SimpleNamespace(number=number))


# --- the gradient


@given(st.integers(1, 9), st.sampled_from((1, 2, 15, 16, 17, 64, 130)), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_the_compiled_pull_has_the_bits_of_the_reference(channels, n_bits, threads, seed):
    rng = np.random.default_rng(seed)
    values = np.float32([0.0, -0.0, 1e-45, -1e-45, 1, -1, 3])
    weight, grad = rng.choice(values, (2, channels, n_bits))
    for toward in (weight, rng.choice(values, (2, n_bits))):
        first = np.sort(rng.integers(0, 9, channels + 1)).astype(np.int32)
        near = pull.Neighbours(first, rng.integers(0, len(toward), 8).astype(np.int32))
        want, got = grad.copy(), grad.copy()
        pull.add_pull_reference(weight, toward, near, np.float32(0.3), want)
        pull.add_pull(weight, toward, near, 0.3, got, threads)
        assert want.tobytes() == got.tobytes()


def test_the_pull_is_the_gradient_of_the_penalty():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((5, 40)).astype(np.float32)
    near, grad = pull.neighbours(np.array([1, -1, 1, 0, 3], np.int32)), np.zeros((5, 40), np.float32)
    pull.add_pull(weight, weight, near, 1.0, grad)
    edges = [(1, 0), (1, 2), (0, 3), (3, 4)]
    signs = np.where(weight >= 0, 1, -1)  # held constant

    def value(at):
        return sum((np.maximum(0, -signs[j] * at[i]) + np.maximum(0, -signs[i] * at[j])).sum() for i, j in edges)

    assert pull.penalty(weight, weight, near) == pytest.approx(value(weight))
    away = np.abs(weight) > 0.01  # from the kink
    for o, p in zip(*np.nonzero(away)):
        change = np.zeros((5, 40))
        change[o, p] = 0.005
        slope = (value(weight + change) - value(weight - change)) / 0.01
        assert grad[o, p] == pytest.approx(slope, abs=1e-9)


def test_following_the_gradient_makes_filters_equal():
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((6, 50)).astype(np.float32)
    made = tree.build(tree.filter_rows(weight), 50)
    for _ in range(400):
        grad = np.zeros_like(weight)
        pull.add_pull(weight, weight, pull.neighbours(made.parent), 1.0, grad)
        weight -= np.float32(0.01) * grad
    assert made.total_distance > 50 and tree.build(tree.filter_rows(weight), 50).total_distance < 5


def test_neighbours_of_a_tree_are_both_ends_of_its_edges():
    near = pull.neighbours(np.array([2, 2, -1, -1, 1], np.int32))
    lists = [near.other[start:stop].tolist() for start, stop in zip(near.first, near.first[1:])]
    assert lists == [[2], [2, 4], [0, 1], [], [1]]


# --- what is added to a network's gradients


def test_the_strength_follows_the_schedule(tmp_path):
    _, made = pulled(tmp_path, mst_start=1.5, mst_ramp=1.0)
    assert [made.strength(step) for step in range(12)] == [0] * 6 + [0.1, 0.2, 0.3, 0.4, 0.5, 0.5]
    _, made = pulled(tmp_path)
    assert made.strength(0) == 0.5


@pytest.mark.parametrize("kind", ["tree", "centre"])
def test_gradients_of_binary_layers_alone_change_by_their_root_mean_square(tmp_path, kind):
    model, made = pulled(tmp_path, mst_pull=kind)
    before = with_gradients(model)
    add_gradients(made, 0)
    latent = {name for name, p in model.named_parameters() if p.latent}
    assert len(latent) == 3
    for name, parameter in model.named_parameters():
        change = parameter.grad - before[name]
        if name not in latent:
            assert not change.any()
            continue
        rms = np.sqrt(np.square(before[name], dtype=np.float64).mean())
        units = change / (0.5 * rms)  # so many neighbours more pull upwards than downwards
        assert np.abs(units).max() > 0.9 and np.allclose(units, np.round(units), atol=1e-3)
        layer, rows = name.removesuffix(".weight"), tree.filter_rows(parameter.data)
        if kind == "tree":
            parent = tree.build(rows, parameter.data[0].size, starts=1).parent
            assert np.array_equal(made.state_dict()[f"{layer}.row"], parent)
        else:
            filters = parameter.data.reshape(len(rows), -1) >= 0
            signs = unpack_bits(made.state_dict()[f"{layer}.centre"], filters.shape[1])
            assert ((filters.mean(axis=0) >= 0.5) == (signs > 0)).all()
            assert (np.sign(change) == np.where(filters == (signs > 0), 0, -signs).reshape(change.shape)).all()


def test_trees_are_found_again_at_fixed_steps_only(tmp_path):
    model, made = pulled(tmp_path, mst_refresh=3, mst_start=0.25)  # so at steps 1, 4, 7
    rng = np.random.default_rng(2)
    found = []
    for step in range(8):
        with_gradients(model)
        add_gradients(made, step)
        found.append(made.state_dict().get("block3.conv.row"))
        for parameter in model.parameters():
            parameter.data[...] = rng.standard_normal(parameter.shape)
    assert found[0] is None
    changed = [step for step in range(2, 8) if not np.array_equal(found[step], found[step - 1])]
    assert changed == [4, 7]


def test_filters_nearer_than_the_margin_are_let_go(tmp_path):
    model, made = pulled(tmp_path, mst_margin=0.1)
    weight = dict(model.named_parameters())["block2.conv.weight"].data
    weight[...] = weight[0]
    weight[0, 0, 0, 0] *= -1  # one of 72 signs of the others: within the margin
    weight[1, :2] *= -1  # 18 of 72: beyond it
    with_gradients(model)
    add_gradients(made, 0)
    target = made.state_dict()["block2.conv.row"]
    assert target[1] >= 0 and (np.delete(target, 1) == -1).all()
    assert made.figures(None)["mst_equal"] >= len(weight) - 3


def test_the_figures_are_those_of_the_trees(tmp_path):
    model, made = pulled(tmp_path, mst_lambda=0)
    trees = [tree.build(tree.filter_rows(p.data), p.data[0].size) for _, p in model.named_parameters() if p.latent]
    figures = made.figures(None)
    assert figures["mst_distance"] == sum(t.total_distance for t in trees)
    assert figures["mst_depth"] == max(t.depth for t in trees)
    weights = sum(t.out_channels * t.n_bits for t in trees)
    assert figures["mst_ratio"] == sum(t.n_bits + t.total_distance for t in trees) / weights
    assert figures["mst_penalty"] == 0 and figures["mst_equal"] == 0
    weight = dict(model.named_parameters())["block1.conv.weight"].data
    weight[3], weight[5] = weight[1], -weight[2]
    assert made.figures(None)["mst_equal"] == 2


# --- runs


SETTINGS = {"mst_lambda": 0.3, "mst_refresh": 3, "mst_start": 0.5, "mst_ramp": 1.0, "mst_margin": 0.05}


class StopAfter(Observer):
    def __init__(self, steps):
        self.steps = steps

    def progress(self, what, done, total, **figures):
        if "loss" in figures:
            self.steps -= 1
            if self.steps == 0:
                signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module", params=["tree", "centre"])
def finished(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mst")
    config = tiny_config(folder, **SETTINGS, mst_pull=request.param)
    train_run(config, out=folder / "whole")
    return config, folder / "whole"


def test_stopping_between_trees_ends_in_the_same_bytes(finished, tmp_path):
    config, whole = finished
    out, stops = tmp_path / "stopped", 0
    while True:
        try:
            train_run(config, out=out, resume=RunFolder(out) if out.exists() else None, observer=StopAfter(1))
            break
        except Interrupted:
            stops += 1
    assert stops == 3 * STEPS and result_bytes(out) == result_bytes(whole)
    assert [json.dumps(_timeless(line)) for line in RunFolder(out).metrics()] == [
        json.dumps(_timeless(line)) for line in RunFolder(whole).metrics()
    ]


def _timeless(line):
    return {key: value for key, value in line.items() if key not in ("seconds", "val_seconds", "whole_epoch")}


def test_threads_change_no_byte(finished, tmp_path):
    import dataclasses

    config, whole = finished
    train_run(dataclasses.replace(config, threads=1), out=tmp_path / "one")
    assert result_bytes(tmp_path / "one") == result_bytes(whole)


def test_a_run_logs_every_epoch_and_can_be_exported(finished, tmp_path):
    _, whole = finished
    lines = RunFolder(whole).metrics()
    assert all(line["mst_distance"] > 0 and 0 < line["mst_ratio"] < 1 and line["mst_depth"] > 0 for line in lines)
    assert [line["mst_penalty"] > 0 for line in lines] == [True] * 3
    export_run(whole, tmp_path / "best.safetensors", which="best")


def test_an_epochs_line_says_how_light_the_trees_are(finished, capfd):
    line = RunFolder(finished[1]).metrics()[-1]
    Progress(quiet=False).epoch(line | {"mst_equal": 3})
    assert f"trees {line['mst_ratio']:.3f}, depth {line['mst_depth']}, 3 filters lost" in capfd.readouterr().err
    Progress(quiet=False).epoch({key: value for key, value in line.items() if not key.startswith("mst")})
    assert "trees" not in capfd.readouterr().err


def test_nothing_is_pulled_with_lambda_0(tmp_path):
    plain, logged = tmp_path / "plain", tmp_path / "logged"
    train_run(tiny_config(tmp_path, epochs=1), out=plain)
    train_run(tiny_config(tmp_path, epochs=1, mst_lambda=0.0), out=logged)
    assert "mst_ratio" in RunFolder(logged).metrics()[0] and "mst_ratio" not in RunFolder(plain).metrics()[0]
    one, other = (RunFolder(out).metrics()[0]["train_loss"] for out in (plain, logged))
    assert one == other


@pytest.mark.skipif(JIT_DISABLED, reason="of more steps than uncompiled kernels are patient for")
def test_training_with_the_pull_lowers_the_distance(tmp_path):
    ratio = {}
    for strength in (0.0, 1.0):
        config = tiny_config(tmp_path, epochs=8, mst_lambda=strength, train_size=96)
        train_run(config, out=tmp_path / f"run-{strength}")
        ratio[strength] = RunFolder(tmp_path / f"run-{strength}").metrics()[-1]["mst_ratio"]
    assert ratio[1.0] < 0.8 * ratio[0.0]


# --- errors


def test_a_network_without_binary_layers_is_refused_before_anything_is_written(tmp_path):
    for method in ("full", "bwn"):
        with pytest.raises(InputError, match=rf"mst_lambda \(=0.1\) needs layers .* method '{method}' has none"):
            train_run(tiny_config(tmp_path, method=method, mst_lambda=0.1), out=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("field", ["mst_start", "mst_ramp", "mst_margin"])
def test_settings_without_a_pull_are_refused(tmp_path, field):
    with pytest.raises(InputError, match=rf"{field} \(=0.25\) needs mst_lambda above 0, got None"):
        tiny_config(tmp_path, **{field: 0.25})
    with pytest.raises(InputError, match=r"got 0\.0"):
        tiny_config(tmp_path, mst_lambda=0, **{field: 0.25})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"block9.row": np.zeros(8, np.int32)}, "block9.row belongs to no layer"),
        ({"block1.conv.row": np.zeros(7, np.int32)}, r"block1.conv.row must be int32 \(8,\) with values from -1 to 7"),
        ({"block1.conv.row": np.zeros(8, np.int64)}, "must be int32"),
        ({"block1.conv.row": np.full(8, 8, np.int32)}, "with values from -1 to 7"),
        ({"block1.conv.row": np.full(8, -2, np.int32)}, "with values from -1 to 7"),
        ({"block1.conv.centre": np.zeros(1, np.uint64)}, "must be int32"),
        (
            {"block1.conv.row": np.zeros(8, np.int32), "block1.conv.centre": np.zeros(1, np.uint64)},
            "centre is unexpected",
        ),
    ],
)
def test_a_state_of_other_layers_is_refused(tmp_path, state, message):
    _, made = pulled(tmp_path)
    with pytest.raises(ModelFileError, match=message):
        made.load_state_dict(state)
    assert made.state_dict() == {}


def test_a_centre_of_another_length_is_refused(tmp_path):
    _, made = pulled(tmp_path, mst_pull="centre")
    state = {"block1.conv.row": np.zeros(8, np.int32), "block1.conv.centre": np.zeros(2, np.uint64)}
    with pytest.raises(ModelFileError, match=r"block1.conv.centre must be uint64 \(1,\)"):
        made.load_state_dict(state)
    with pytest.raises(ModelFileError, match="centre is missing"):
        made.load_state_dict({"block1.conv.row": np.zeros(8, np.int32)})


def test_no_setting_no_pull(tmp_path):
    assert make_callbacks(tiny_config(tmp_path), network(), None, STEPS) == []
