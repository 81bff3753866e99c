"""The whole job: the same bytes however often it is stopped, and its errors."""

import dataclasses
import errno
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.training.training_samples import result_bytes, tiny_config
from xnor_ref import models, storage
from xnor_ref.errors import EquivalenceError, InputError, ModelFileError, NonFiniteError, OutputError
from xnor_ref.nn import backend
from xnor_ref.packed import load_packed
from xnor_ref.training import export, job
from xnor_ref.training.callbacks import finite, progress
from xnor_ref.training.export import export_run
from xnor_ref.training.fitting import evaluation
from xnor_ref.training.fitting.evaluation import compare, score
from xnor_ref.training.fitting.interrupt import Interrupted
from xnor_ref.training.fitting.observer import Observer
from xnor_ref.training.job import train_run
from xnor_ref.training.report import finished_report
from xnor_ref.training.storing import environment
from xnor_ref.training.storing.checkpoint import BEST
from xnor_ref.training.storing.runs import RunFolder, check_free, find_run, is_empty


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """A run that was never stopped: (config, folder, report)."""
    config = tiny_config(data_dir)
    out = tmp_path_factory.mktemp("run") / "whole"
    return config, out, train_run(config, out=out)


class StopAfter(Observer):
    """Sends this process a signal after some steps, or after some images of a validation."""

    def __init__(self, steps: int, number: int = signal.SIGINT):
        self.steps, self.number = steps, number
        self.notes: list[str] = []

    def progress(self, what, done, total, **figures):
        if "loss" in figures:
            self.steps -= 1
            if self.steps == 0:
                signal.raise_signal(self.number)

    def note(self, text):
        self.notes.append(text)


def test_the_report_and_the_files(finished):
    config, out, report = finished
    assert report["disagreements"] == 0 and report["max_logit_difference"] == 0
    assert report["float"] == report["packed"] and report["images"] == 24
    assert report["packed_bytes"] == (out / "model.safetensors").stat().st_size
    assert report["float_bytes"] == (out / "float.safetensors").stat().st_size
    assert json.loads((out / "report.json").read_text()) == report
    assert json.loads((out / "config.json").read_text())["config"] == config.to_dict()
    assert json.loads((out / "env.json").read_text())["numpy"] == np.__version__
    lines = RunFolder(out).metrics()
    assert [line["epoch"] for line in lines] == [1, 2, 3] and all(line["whole_epoch"] for line in lines)
    assert lines[-1]["val_top1"] == report["float"]["top1"]
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == [
        "best.safetensors",
        *(f"step-{step:09d}.safetensors" for step in (4, 8, 12)),
    ]


def test_stopping_at_every_step_ends_in_the_same_bytes(finished, data_dir, tmp_path):
    config, whole, _ = finished
    out, stops = tmp_path / "stopped", 0
    while True:
        resume = RunFolder(out) if out.exists() else None
        number = signal.SIGTERM if stops % 2 else signal.SIGINT
        try:
            report = train_run(config, out=out, resume=resume, observer=StopAfter(1, number))
            break
        except Interrupted as interrupt:
            stops += 1
            assert interrupt.signal_number == number and interrupt.run == out and "saved" in str(interrupt)
    assert stops == 12
    assert result_bytes(out) == result_bytes(whole)
    assert [line["epoch"] for line in RunFolder(out).metrics()] == [1, 2, 3]
    assert report["float"] == finished[2]["float"]


@pytest.mark.parametrize("changes", [{"checkpoint_every": 0}, {"threads": 1}, {"keep": 1}])
def test_what_is_no_part_of_the_identity_changes_no_byte(finished, tmp_path, changes):
    config, whole, _ = finished
    train_run(dataclasses.replace(config, **changes), out=tmp_path / "other")
    assert result_bytes(tmp_path / "other") == result_bytes(whole)


def test_the_seed_does(finished, data_dir, tmp_path):
    train_run(tiny_config(data_dir, seed=1, epochs=1), out=tmp_path / "a")
    train_run(tiny_config(data_dir, seed=2, epochs=1), out=tmp_path / "b")
    assert (tmp_path / "a/float.safetensors").read_bytes() != (tmp_path / "b/float.safetensors").read_bytes()


def test_a_finished_run_reports_again_without_computing(finished, monkeypatch):
    config, out, report = finished
    monkeypatch.setattr(job, "load_data", None)
    assert train_run(config, resume=RunFolder(out)) == report


def test_a_finished_run_that_lost_a_file_writes_it_again(finished, data_dir, tmp_path):
    config = tiny_config(data_dir, epochs=1)
    train_run(config, out=tmp_path)
    packed = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(packed[:-5])
    train_run(config, resume=RunFolder(tmp_path))
    assert (tmp_path / "model.safetensors").read_bytes() == packed


def test_resuming_falls_back_past_damaged_checkpoints(finished, data_dir, tmp_path):
    config, whole, _ = finished
    with pytest.raises(Interrupted):
        train_run(config, out=tmp_path, observer=StopAfter(10))
    newest, older = sorted((tmp_path / "checkpoints").glob("step-*"), reverse=True)[:2]
    newest.write_bytes(newest.read_bytes()[:-1])
    older.write_bytes(b"")
    observer = StopAfter(0)
    train_run(config, resume=RunFolder(tmp_path), observer=observer)
    assert sum("skipped" in note for note in observer.notes) == 2
    assert any("resuming from" in note and "step 5" in note for note in observer.notes)
    assert result_bytes(tmp_path) == result_bytes(whole)
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(b"x")
    (tmp_path / "report.json").unlink()
    with pytest.raises(ModelFileError, match="none of the 4 checkpoints"):
        train_run(config, resume=RunFolder(tmp_path))


def test_a_checkpoint_that_cannot_be_read_now_is_not_deleted(finished, data_dir, tmp_path, monkeypatch):
    config, whole, _ = finished
    with pytest.raises(Interrupted):
        train_run(config, out=tmp_path, observer=StopAfter(10))
    newest = max((tmp_path / "checkpoints").glob("step-*"))
    real, seen = storage.safe_open, []

    def unreadable(path, **options):
        if Path(path) == newest and not seen:
            raise OSError(errno.EIO, "Input/output error")
        return real(path, **options)

    class Look(Observer):
        def progress(self, what, done, total, **figures):
            seen.append(newest.exists())

    monkeypatch.setattr(storage, "safe_open", unreadable)
    train_run(config, resume=RunFolder(tmp_path), observer=Look())
    assert seen and all(seen) and result_bytes(tmp_path) == result_bytes(whole)


def test_other_versions_are_pointed_out(finished, tmp_path):
    config, _, _ = finished
    train_run(config, out=tmp_path)
    (tmp_path / "report.json").unlink()
    observer = StopAfter(0)
    train_run(config, resume=RunFolder(tmp_path), observer=observer)
    assert not any("other conditions" in note for note in observer.notes)
    (tmp_path / "report.json").unlink()
    env = json.loads((tmp_path / "env.json").read_text())
    (tmp_path / "env.json").write_text(json.dumps({**env, "numpy": "1.0"}))
    train_run(config, resume=RunFolder(tmp_path), observer=observer)
    assert any(f"numpy 1.0, now {np.__version__}" in note for note in observer.notes)


def test_a_run_without_a_checkpoint_starts_at_the_beginning(finished, tmp_path):
    config, whole, _ = finished
    run = RunFolder(tmp_path)
    run.write_json(run.config_path, {"config": config.to_dict()})
    observer = StopAfter(0)
    train_run(config, resume=run, observer=observer)
    assert any("no checkpoint" in note for note in observer.notes)
    assert result_bytes(tmp_path) == result_bytes(whole)


def test_a_run_goes_on_from_a_chosen_checkpoint(finished, tmp_path):
    config, whole, _ = finished
    train_run(config, out=tmp_path)
    start = tmp_path / "checkpoints/step-000000004.safetensors"
    train_run(config, resume=RunFolder(tmp_path), start=start)
    assert result_bytes(tmp_path) == result_bytes(whole)
    start.write_bytes(b"")
    with pytest.raises(ModelFileError, match="empty"):
        train_run(config, resume=RunFolder(tmp_path), start=start)


def test_a_checkpoint_of_other_data_is_refused(finished, data_dir, tmp_path):
    with pytest.raises(Interrupted):
        train_run(tiny_config(data_dir), out=tmp_path, observer=StopAfter(2))
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ModelFileError, match=r"val_size: 24 there, 36 requested"):
        train_run(tiny_config(data_dir, val_size=36), resume=RunFolder(tmp_path))  # on the run's own packed images
    with pytest.raises(ModelFileError, match=r"val_size: 24 there, 36 requested.*sha256"):
        train_run(tiny_config(tmp_path / "elsewhere", val_size=36), resume=RunFolder(tmp_path))
    assert (tmp_path / "config.json").read_bytes() == before


def test_time_based_checkpoints_are_written_inside_an_epoch(data_dir, tmp_path):
    class Look(Observer):
        seen: set[str] = set()

        def progress(self, what, done, total, **figures):
            self.seen |= {p.name for p in tmp_path.glob("checkpoints/step-*")}

    train_run(tiny_config(data_dir, epochs=1, checkpoint_every=0), out=tmp_path, observer=Look())
    assert {f"step-{step:09d}.safetensors" for step in (1, 2, 3)} <= Look.seen


def test_a_huge_learning_rate_ends_with_the_name_of_the_layer(data_dir, tmp_path):
    with pytest.raises(NonFiniteError, match=r"step \d+: .*(classifier|last|block|stem).*smaller lr"):
        train_run(tiny_config(data_dir, lr=1e30, optimizer="sgd"), out=tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("where", ["loss", "gradient", "parameter"])
def test_a_nan_is_caught_and_the_last_checkpoint_kept(finished, data_dir, tmp_path, monkeypatch, where):
    config, whole, _ = finished
    config = dataclasses.replace(config, check_agreement=False)  # which would take forward passes of its own
    build = models.build

    def poisoned(*arguments, **options):
        model = build(*arguments, **options)
        classifier = dict(model.named_modules())["classifier"]
        steps = 0

        def forward(x, real=classifier.forward):
            nonlocal steps
            steps += model.training
            y = real(x)
            if steps == 6 and where == "loss":
                y.data[0, 0] = np.nan
            return y

        monkeypatch.setattr(type(classifier), "forward", lambda self, x: forward(x))
        if where == "parameter":
            last, real_step = dict(model.named_modules())["last.bn"], None

            def after_step():
                nonlocal real_step
                if steps == 6:
                    last.weight.data[1] = np.inf

            last.after_step = after_step
        return model

    monkeypatch.setattr(models, "build", poisoned)
    if where == "gradient":
        real_check = finite.FiniteCheck.after_backward

        def check(self, trainer, step):
            if step.number == 5:
                dict(trainer.model.named_parameters())["block1.conv.weight"].grad[0, 0, 0, 0] = np.nan
            real_check(self, trainer, step)

        monkeypatch.setattr(finite.FiniteCheck, "after_backward", check)
    names = {
        "loss": r"step 6: the loss is nan",
        "gradient": r"step 6: the gradient of block1\.conv\.weight \(8, 4, 3, 3\)",
        "parameter": r"step 7: .*last\.bn\.weight",
    }
    with pytest.raises(NonFiniteError, match=names[where]) as caught:
        train_run(config, out=tmp_path / "run")
    assert "the last good checkpoint is" in str(caught.value) and "step-000000004" in str(caught.value)
    monkeypatch.undo()
    train_run(config, resume=RunFolder(tmp_path / "run"))
    assert result_bytes(tmp_path / "run") == result_bytes(whole)


def test_the_layer_that_overflows_first_is_found():
    model = models.build("shapes-net", image_size=16, in_channels=3, num_classes=2, width=2)
    x = np.ones((2, 3, 16, 16), np.float32)
    assert finite.first_non_finite(model, x) == "all activations are finite"
    parameters = dict(model.named_parameters())
    parameters["last.bn.weight"].data[:] = 3e38
    parameters["last.bn.bias"].data[:] = 3e38
    with np.errstate(over="ignore", invalid="ignore"):
        assert "last.bn (BatchNorm2d)" in finite.first_non_finite(model, x)
    parameters["stem.conv.weight"].data[0, 0, 0, 0] = np.nan
    assert "stem.conv.weight" in finite.first_non_finite(model, x)
    assert not any("forward" in vars(module) for _, module in model.named_modules())


def test_disagreement_ends_the_job(finished, data_dir, tmp_path, monkeypatch):
    real = evaluation.packed_logits
    monkeypatch.setattr(evaluation, "packed_logits", lambda *arguments: -real(*arguments))
    with pytest.raises(EquivalenceError, match=r"disagree on \d+ of 24 images"):
        train_run(tiny_config(data_dir, epochs=1), out=tmp_path)
    assert not (tmp_path / "report.json").exists()


def test_an_image_that_is_too_small_leaves_no_folder(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "build", lambda *a, **k: (_ for _ in ()).throw(InputError("too small")))
    with pytest.raises(InputError):
        train_run(tiny_config(data_dir), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(finished, tmp_path, monkeypatch):
    from xnor_ref import storage

    config, whole, _ = finished
    real, calls = os.replace, 0

    def full(source, target):
        nonlocal calls
        calls += "step-" in str(target)
        if calls == 3:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(storage.os, "replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        train_run(config, out=tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.part"))
    train_run(config, resume=RunFolder(tmp_path))
    assert result_bytes(tmp_path) == result_bytes(whole)


def test_limits_pick_the_same_images_each_time(data_dir):
    config = tiny_config(data_dir, limit_train=20, limit_val=5)
    a, b = job.load_data(config), job.load_data(config)
    assert len(a.train) == 20 and len(a.val) == 5 and len(set(a.train.labels.tolist())) > 3
    np.testing.assert_array_equal(a.train.images, b.train.images)
    with pytest.raises(InputError, match="at least 2 images"):
        train_run(tiny_config(data_dir, limit_train=1))


def test_the_first_classes_alone(data_dir, tmp_path):
    whole, part = (job.load_data(tiny_config(data_dir, limit_classes=count)) for count in (None, 5))
    assert part.classes == whole.classes[:5] and part.sha256 == whole.sha256
    for name in ("train", "val"):
        all_of, own = getattr(whole, name), getattr(part, name)
        assert own.labels.max() == 4
        np.testing.assert_array_equal(own.images, all_of.images[all_of.labels < 5])
    train_run(tiny_config(data_dir, limit_classes=5, limit_train=30, epochs=1), out=tmp_path / "run")
    packed = load_packed(tmp_path / "run" / "model.safetensors")
    assert tuple(packed.classes) == part.classes
    with pytest.raises(InputError, match=r"limit_classes \(=13\): the data set shapes has 12 classes"):
        job.load_data(tiny_config(data_dir, limit_classes=13))


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "full"},
        {"optimizer": "sgd", "lr": 0.01},
        {"schedule": "step", "warmup_epochs": 0.5},
        {"loss": "squared-hinge"},
        {"label_smoothing": 0.1, "augment": False},
        {"input_scale": "off", "pad_value": -1, "grad_mode": "paper", "centre": True, "clamp": True},
        {"input_scale": "valid", "pad_value": 1, "grad_mode": "ste", "k_grad": True},
        {"weight_scale": "off", "grad_mode": "ste"},
        {"weight_scale": "learned"},
        {"block_order": "cbap"},
        {"method": "bwn"},
        {"method": "bwn", "weight_scale": "learned", "optimizer": "sgd"},
        {"method": "xnor++"},
        {"method": "xnor++", "gamma": "ohw", "gamma_init": "alpha"},
        {"method": "binaryconnect"},
        {"method": "binaryconnect", "stochastic": True, "loss": "cross-entropy"},
        {"method": "bnn"},
    ],
)
def test_every_kind_of_training_agrees_with_its_bits(data_dir, tmp_path, changes):
    report = train_run(tiny_config(data_dir, epochs=1, **changes), out=tmp_path)
    assert report["disagreements"] == 0 and report["max_logit_difference"] == 0


def test_export(finished, tmp_path):
    _, out, report = finished
    result = export_run(out, tmp_path / "last.safetensors")
    assert (tmp_path / "last.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert result["packed_bytes"] == report["packed_bytes"] and result["max_logit_difference"] == 0
    best = export_run(out, tmp_path / "best.safetensors", "best")
    assert best["epochs"] == report["best_epoch"] and best["checkpoint"].endswith(BEST)
    with pytest.raises(ModelFileError, match="not a run folder"):
        export_run(tmp_path, tmp_path / "x")


def test_export_notices_a_file_that_answers_otherwise(finished, tmp_path, monkeypatch):
    real = export.load_packed

    def altered(path):
        packed = real(path)
        monkeypatch.setattr(packed, "logits", lambda x, logits=packed.logits: logits(x) * np.float32(1.5))
        return packed

    monkeypatch.setattr(export, "load_packed", altered)
    with pytest.raises(EquivalenceError, match="give different answers"):
        export_run(finished[1], tmp_path / "x.safetensors")


def test_scores_by_hand():
    logits = np.array([[3, 1, 2, 0, 0, 0], [0, 0, 0, 0, 0, 0], [5, 4, 3, 2, 1, 0]], np.float32)
    scores = score(logits, np.array([0, 0, 5]))
    assert (scores.top1, scores.top5, scores.images) == (2 / 3, 2 / 3, 3)
    assert score(logits, np.array([0, 1, 0])).top1 == 2 / 3  # of equal logits the first class is the answer
    assert score(np.zeros((1, 2), np.float32), np.array([1])).top5 == 1.0
    assert score(np.zeros((1, 4), np.float32), np.array([1])).loss == pytest.approx(np.log(4))
    with pytest.raises(NonFiniteError, match="logits of 1 images"):
        score(np.array([[0, np.nan]], np.float32), np.array([0]))


def test_compare():
    a = np.array([[1, 2], [4, 3]], np.float32)
    assert compare(a, a).disagreements == 0 and compare(a, a).max_logit_difference == 0
    b = np.array([[2, 1], [4, 3.5]], np.float32)
    assert (compare(a, b).disagreements, compare(a, b).max_logit_difference) == (1, 1.0)


def test_a_stop_outside_the_main_thread_changes_nothing(finished, tmp_path):
    import threading

    config, whole, _ = finished
    thread = threading.Thread(target=train_run, args=(config,), kwargs={"out": tmp_path})
    started = time.monotonic()
    thread.start()
    thread.join(120)
    assert time.monotonic() - started < 120 and result_bytes(tmp_path) == result_bytes(whole)


def test_what_a_killed_write_left_is_removed_when_the_run_goes_on(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for name in (".xnor_ref-0123.part", "checkpoints/.xnor_ref-4567.part", "checkpoints/kept.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    others = {".xnor_ref-packed", ".xnor_ref-folder.part", "deeper"}
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / "deeper/.xnor_ref-0123.part").write_bytes(b"x")
    with folder.lock():
        assert {path.name for path in tmp_path.iterdir()} == {".lock", "checkpoints"} | others
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["kept.safetensors"]
        assert list((tmp_path / "deeper").iterdir())


def test_a_folder_with_nothing_but_what_a_kill_left_is_free(tmp_path):
    for name in (".lock", ".xnor_ref-0123.part"):
        (tmp_path / name).write_bytes(b"{")
    assert is_empty(tmp_path) and find_run({}, tmp_path) is None
    check_free(tmp_path)
    (tmp_path / ".xnor_ref-packed").mkdir()
    assert not is_empty(tmp_path)
    with pytest.raises(InputError, match="is not empty"):
        check_free(tmp_path)
    with pytest.raises(ModelFileError, match=r"no config\.json"):
        find_run({}, tmp_path)


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"config": ' + b'{"a":' * 100_000])
def test_json_that_is_nested_too_deep_is_damaged(tmp_path, text):
    folder = RunFolder(tmp_path)
    for path in (folder.config_path, folder.report_path, folder.metrics_path, folder.env_path):
        path.write_bytes(text)
    with pytest.raises(ModelFileError, match=r"config\.json is damaged"):
        folder.config()
    assert finished_report(folder) is None and folder.metrics() == []
    assert environment.changes(folder.env_path, {}) == ""


@pytest.mark.parametrize(
    "options, rates",
    [
        ({"schedule": "step", "milestones": [1]}, [0.01, 0.001, 0.001]),
        ({"schedule": "linear", "final_lr": 0.001}, [0.01 - 0.009 * step / 12 for step in (3, 7, 11)]),
        ({"schedule": "polynomial", "power": 1}, [0.01 - 0.01 * step / 12 for step in (3, 7, 11)]),
    ],
)
def test_the_schedule_takes_its_options(data_dir, tmp_path, options, rates):
    train_run(tiny_config(data_dir, **options), out=tmp_path)
    assert [line["lr"] for line in RunFolder(tmp_path).metrics()] == pytest.approx(rates)


@pytest.mark.parametrize(
    "trial, stated",
    [(2, "of epoch 3, without validation; saved"), (6, "of epoch 3; saved")],  # in the first and the second epoch
)
def test_a_long_run_says_how_long_and_how_to_go_on(data_dir, tmp_path, monkeypatch, trial, stated):
    monkeypatch.setattr(progress, "TRIAL", trial)
    for name, seconds in (("short", 1e6), ("long", 0)):
        monkeypatch.setattr(progress, "LONG", seconds)
        observer = StopAfter(0)
        train_run(tiny_config(data_dir), out=tmp_path / name, observer=observer)
        told = [note for note in observer.notes if f"minutes to the end {stated}" in note and "--resume auto" in note]
        assert len(told) == (name == "long")


def test_the_references_train_without_a_kernel(data_dir, tmp_path, monkeypatch):
    """--backend reference: NumPy alone, and a packed network that agrees."""
    from xnor_ref.kernels.compiling import jit

    config = tiny_config(data_dir, epochs=1, backend="reference")
    with monkeypatch.context() as patch:

        def kernel(*_):
            raise AssertionError("a compiled kernel was called")

        patch.setattr(jit.Kernel, "__call__", kernel, raising=False)
        report = train_run(config, out=tmp_path / "reference")
    assert report["disagreements"] == 0 and report["max_logit_difference"] == 0
    other = train_run(tiny_config(data_dir, epochs=1, backward="fp32"), out=tmp_path / "kernels")
    assert abs(report["float"]["loss"] - other["float"]["loss"]) < 0.1


def test_the_time_left_is_that_of_the_whole_run_also_after_resuming(data_dir, tmp_path, monkeypatch):
    class Left(StopAfter):
        def __init__(self, steps):
            super().__init__(steps)
            self.told, self.epochs = [], []

        def progress(self, what, done, total, **figures):
            if "loss" in figures:
                self.told.append((round(figures["seconds_left"], 6), figures["with_validation"]))
            super().progress(what, done, total, **figures)

        def epoch(self, line):
            self.epochs.append(round(line["seconds_left"], 6))

    class SecondPerStep(progress.Pace):
        def step(self, seconds):
            super().step(1.0)

        def figures(self, position):
            self.validation = self.validation and 10.0
            return super().figures(position)

    monkeypatch.setattr(progress, "Pace", SecondPerStep)
    first, second = Left(6), Left(0)
    with pytest.raises(Interrupted):
        train_run(tiny_config(data_dir), out=tmp_path, observer=first)
    assert first.told == [*((left, False) for left in (11, 10, 9, 8)), (27, True), (26, True)]
    assert first.epochs == [28]
    train_run(tiny_config(data_dir), resume=RunFolder(tmp_path), observer=second)
    assert second.told == [(5, False), (4, False), *((left, True) for left in (13, 12, 11, 10))]
    assert second.epochs == [14, 0]


def test_the_arithmetic_of_a_run_is_recorded_and_a_change_pointed_out(finished, data_dir, tmp_path, monkeypatch):
    config, out, _ = finished
    before = json.loads((out / "env.json").read_text())
    assert before["binary_gradients"] == ("int8" if backend.multiplies_bytes() else "fp32") and before["vectors"]
    plain = dataclasses.replace(config, backend="reference", backward="int8", epochs=1)
    observer = StopAfter(0)
    train_run(plain, out=tmp_path, observer=observer)
    assert "the NumPy references are in use: gradients are multiplied in fp32" in observer.notes
    here = json.loads((tmp_path / "env.json").read_text())
    assert (here["vectors"], here["binary_gradients"]) == ("none", "fp32")
    monkeypatch.setattr(backend, "multiplies_bytes", lambda: True)
    for more, found in (({"backward": "int8"}, "int8"), ({}, "int8"), ({"k_grad": True}, "fp32")):
        assert job.trains_in_bytes(dataclasses.replace(config, **more)) == (found == "int8")
    assert "binary_gradients" not in environment.describe()
    now = {**before, "vectors": "AVX9", "binary_gradients": "int4"}
    changed = environment.changes(out / "env.json", now)
    assert changed == (
        f"vectors {before['vectors']}, now AVX9, binary_gradients {before['binary_gradients']}, now int4"
    )
    older = tmp_path / "older.json"
    older.write_text(json.dumps({"numpy": "1.0"}))
    assert environment.changes(older, now) == f"numpy 1.0, now {np.__version__}"
