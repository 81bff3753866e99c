"""Runs that start from another network's weights, or learn from a teacher."""

import dataclasses
import json

import numpy as np
import pytest

from tests.training.training_samples import result_bytes, run_cli, tiny_config
from xnor_ref import models
from xnor_ref.datasets.batches import make_batch, normalization_table
from xnor_ref.errors import InputError, ModelFileError
from xnor_ref.kernels.basics.threads import get_threads, set_threads
from xnor_ref.nn import cross_entropy, distillation
from xnor_ref.packed import load_packed
from xnor_ref.training.callbacks.teacher import Teacher
from xnor_ref.training.fitting.observer import Observer
from xnor_ref.training.fitting.trainer import Step
from xnor_ref.training.job import load_data, make_callbacks, train_run
from xnor_ref.training.storing.checkpoint import read
from xnor_ref.training.storing.sources import load_network, start_from


@pytest.fixture(autouse=True)
def _same_threads():
    before = get_threads()
    yield
    set_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A finished run of binary inputs and real weights, and one of XNOR-Net."""
    folder = tmp_path_factory.mktemp("sources")
    before = get_threads()
    train_run(tiny_config(folder / "data", method="binary-inputs", epochs=1), out=folder / "first")
    train_run(tiny_config(folder / "data", epochs=1, seed=3), out=folder / "xnor")
    set_threads(before)
    return folder


class Notes(Observer):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def network(place, **changes):
    options = {"name": "shapes-net", "image_size": 64, "in_channels": 3, "num_classes": 12, "width": 4, **changes}
    return models.build(**options)


def module(model, name):
    return dict(model.named_modules())[name]


@pytest.mark.parametrize("what", ["", "float.safetensors", "checkpoints/best.safetensors"])
def test_weights_are_taken_over_by_name(place, what):
    source, _ = load_network(place / "first" / what)
    model = network(place, method="xnor", seed=9, react=True)
    note = start_from(model, place / "first" / what)
    found, state = model.state_dict(), source.state_dict()
    for name, array in state.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert not found["block1.shift.shift"].any()  # which the other has not
    assert f"{len(state)} tensors; new here: block1.shift.shift, " in note


def test_latent_weights_are_projected_at_once(place):
    model = network(place, method="xnor", clamp=True, centre=True)
    start_from(model, place / "first")
    weight = model.state_dict()["block1.conv.weight"]
    np.testing.assert_allclose(weight.mean(axis=1), 0, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4])
def test_real_weights_are_spread_over_all_levels_of_several_bits(place, bits):
    first, model = load_network(place / "first")[0], network(place, weight_bits=bits)
    start_from(model, place / "first")
    weight, source = model.state_dict()["block2.conv.weight"], first.state_dict()["block2.conv.weight"]
    np.testing.assert_allclose(weight, np.clip(source / np.sqrt(3 * (source**2).mean()), -1, 1), rtol=1e-5)
    assert len(np.unique(module(model, "block2.conv").weight_levels())) == 2**bits


def test_weights_of_as_many_bits_are_taken_as_they_are(place, tmp_path):
    config = tiny_config(place / "data", epochs=1, weight_bits=2)
    train_run(config, out=tmp_path / "run")
    model = network(place, weight_bits=2, seed=9)
    start_from(model, tmp_path / "run")
    for name, array in load_network(tmp_path / "run")[0].state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array, err_msg=name)


@pytest.mark.parametrize(
    "options", [{"method": "xnor++", "gamma": "o", "gamma_init": "alpha"}, {"weight_scale": "learned"}]
)
def test_learned_scales_begin_with_the_weights_that_were_taken(place, options):
    model = network(place, **options)
    start_from(model, place / "first")
    weight = module(model, "block2.conv").weight.data
    np.testing.assert_allclose(
        module(model, "block2.scale").channel.data, np.abs(weight).mean(axis=(1, 2, 3)), rtol=1e-6
    )


def test_the_first_stage_with_learned_scales_hands_them_on(place, tmp_path):
    train_run(tiny_config(place / "data", epochs=1, method="binary-inputs++"), out=tmp_path / "run")
    model, first = network(place, method="xnor++", seed=9), load_network(tmp_path / "run")[0]
    start_from(model, tmp_path / "run")
    assert model.state_dict().keys() == first.state_dict().keys()
    assert first.state_dict()["block2.scale.channel"].std() > 0
    for name, array in first.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array, err_msg=name)


def test_learned_scales_that_the_other_has_are_taken(place, tmp_path):
    options = {"method": "xnor++", "gamma": "o", "gamma_init": "alpha"}
    train_run(tiny_config(place / "data", epochs=1, **options), out=tmp_path / "run")
    model = network(place, seed=9, **options)
    start_from(model, tmp_path / "run")
    trained = load_network(tmp_path / "run")[0].state_dict()["block2.scale.channel"]
    np.testing.assert_array_equal(module(model, "block2.scale").channel.data, trained)


def test_of_a_run_under_way_the_newest_checkpoint_counts(place, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    names = sorted(path.name for path in (place / "xnor" / "checkpoints").glob("step-*"))
    (run / "checkpoints" / names[-1]).write_bytes((place / "xnor" / "checkpoints" / names[-1]).read_bytes())
    model = network(place)
    start_from(model, run)
    np.testing.assert_array_equal(
        model.state_dict()["classifier.weight"], load_network(place / "xnor")[0].state_dict()["classifier.weight"]
    )


@pytest.mark.parametrize(
    ("changes", "what", "error", "text"),
    [
        ({"width": 8}, "first", InputError, r"stem.conv.weight is \(4, 3, 5, 5\) there, but \(8, 3, 5, 5\) here"),
        ({"num_classes": 5}, "first", InputError, r"classifier.weight is \(12, 16\) there, but \(5, 16\) here"),
        ({"shortcut": "bireal"}, "first", InputError, "it has no block1.sum.body.conv.weight"),
        ({}, "xnor/model.safetensors", ModelFileError, "needs a float network, .*'xnor_ref packed network'"),
        ({}, "nothing", ModelFileError, "no such file"),
        ({}, "data", ModelFileError, "not a run with a network or a checkpoint"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_anything_is_changed(place, changes, what, error, text):
    model = network(place, **changes)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    with pytest.raises(error, match=text):
        start_from(model, place / what)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_run_from_other_weights_and_with_a_teacher_is_resumed_to_the_same_bytes(place, tmp_path):
    changes = {"init_from": str(place / "first"), "teacher": str(place / "xnor" / "model.safetensors")}
    config = tiny_config(place / "data", epochs=2, **changes)
    notes = Notes()
    train_run(config, out=tmp_path / "whole", observer=notes)
    assert sum(line.startswith("weights from") for line in notes.lines) == 1
    first = sorted((tmp_path / "whole" / "checkpoints").glob("step-*"))[0]
    expected = result_bytes(tmp_path / "whole")
    from xnor_ref.training.storing.runs import RunFolder

    notes = Notes()
    train_run(config, resume=RunFolder(tmp_path / "whole"), start=first, observer=notes)
    assert result_bytes(tmp_path / "whole") == expected
    assert not any(line.startswith("weights from") for line in notes.lines)
    trained = load_packed(tmp_path / "whole" / "model.safetensors").metadata["training"]
    assert trained["init_from"] == "first" and trained["teacher"] == "model.safetensors"
    assert str(place) not in json.dumps(trained)
    assert len(read(first)[1]["data"]["teacher"]) == 64
    other = dataclasses.replace(config, teacher=str(place / "xnor"))
    with pytest.raises(ModelFileError, match="teacher"):
        train_run(other, resume=RunFolder(tmp_path / "whole"), start=first)


@pytest.mark.parametrize("what", ["xnor", "xnor/model.safetensors", "first"])
def test_a_teacher_takes_part_in_the_loss(place, what):
    config = tiny_config(place / "data", teacher=str(place / what), distill_weight=0.25, temperature=3)
    data = load_data(config)
    (teacher,) = make_callbacks(config, None, data, steps=1)
    x = make_batch(data.val.images, np.arange(6), normalization_table(data.mean, data.std))
    if what.endswith("safetensors"):
        answers = load_packed(place / what).logits(x)
    else:
        from xnor_ref.autodiff import Tensor, no_grad

        with no_grad():
            answers = load_network(place / what)[0].eval()(Tensor(x)).data
    from xnor_ref.autodiff import Tensor

    student = np.random.default_rng(0).standard_normal((6, 12)).astype(np.float32)
    logits = Tensor(student, requires_grad=True)
    step = Step(0, x, data.val.labels[:6])
    step.logits, step.loss = logits, cross_entropy(logits, data.val.labels[:6])
    teacher.after_forward(None, step)
    step.loss.backward()
    parts = []
    for loss in (lambda z: cross_entropy(z, data.val.labels[:6]), lambda z: distillation(z, answers, 3.0)):
        z = Tensor(student, requires_grad=True)
        value = loss(z)
        value.backward()
        parts.append((float(value.data), z.grad))
    assert float(step.loss.data) == pytest.approx(0.75 * parts[0][0] + 0.25 * parts[1][0], rel=1e-5)
    np.testing.assert_allclose(logits.grad, 0.75 * parts[0][1] + 0.25 * parts[1][1], rtol=1e-4, atol=1e-6)


def test_teachers_that_do_not_fit_are_refused(place):
    data = load_data(tiny_config(place / "data"))
    with pytest.raises(ModelFileError, match=r"neither a float network .* nor a packed one"):
        Teacher(place / "nothing", data, 0.5, 1)
    path = place / "xnor"
    for change, text in (
        ({"mean": (0.1, 0.2, 0.3)}, r"its mean are .* but \(0.1, 0.2, 0.3\)"),
        ({"classes": tuple(f"c{i}" for i in range(12))}, "its classes are"),
    ):
        with pytest.raises(InputError, match=text):
            Teacher(path, dataclasses.replace(data, **change), 0.5, 1)


def test_settings_of_a_teacher_need_one(place):
    with pytest.raises(InputError, match=r"temperature \(=2\) needs a teacher"):
        tiny_config(place / "data", temperature=2)
    with pytest.raises(InputError, match="distill_weight must be more than 0 and at most 1, got 0"):
        tiny_config(place / "data", teacher="x", distill_weight=0)


def test_the_command_line_makes_paths_absolute(place, tmp_path):
    options = ("--train-size", "48", "--val-size", "24", "--batch-size", "12", "--epochs", "1", "--quiet")
    options += ("--model-option", "width=4", "--data-dir", str(place / "data"))
    said = ("--init-from", "../first", "--weight-bits", "2", "--input-bits", "2", "--out", "k")
    (place / "here").mkdir()
    code, out, err = run_cli("train", *options, *said, cwd=place / "here")
    assert code == 0 and "images on which the two disagree: 0 of 24" in out, err
    config = json.loads((place / "here" / "k" / "config.json").read_text())["config"]
    assert config["init_from"] == str(place / "first")
    code, _, err = run_cli("train", *options, "--init-from", "k/model.safetensors", cwd=place / "here")
    assert code == 4 and "init_from needs a float network" in err and "Traceback" not in err
