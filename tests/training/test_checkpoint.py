"""Checkpoints and run folders: bytes, what is kept, what is refused."""

import json
import multiprocessing

import numpy as np
import pytest

from tests.training.training_samples import tiny_config
from xnor_ref import models, optim
from xnor_ref.errors import InputError, ModelFileError, NonFiniteError, OutputError
from xnor_ref.training.storing.checkpoint import BEST, CheckpointFolder, MismatchError, Position, read, state_of
from xnor_ref.training.storing.runs import RunFolder, find_run, new_run

IDENTITY = {"config": {"lr": 0.1, "seed": 0}, "data": {"sha256": "ab"}}


@pytest.fixture
def network():
    model = models.build("shapes-net", image_size=16, in_channels=3, num_classes=2, width=2)
    return model, optim.Adam(list(model.named_parameters()), 0.1)


def test_saves_the_same_bytes_and_reads_them_back(tmp_path, network):
    model, optimizer = network
    position = Position(2, 3, 0.1 + 0.2, 7, 36, 0.25, 1)
    a = CheckpointFolder(tmp_path / "a", IDENTITY).save(model, optimizer, position, 11)
    b = CheckpointFolder(tmp_path / "b", IDENTITY).save(model, optimizer, position, 11)
    assert a.read_bytes() == b.read_bytes()
    tensors, metadata = read(a, IDENTITY)
    assert metadata["position"] == position
    of_model, of_optimizer = (state_of(tensors, prefix) for prefix in ("model.", "optimizer."))
    assert of_model.keys() == model.state_dict().keys() and of_optimizer.keys() == optimizer.state_dict().keys()
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(of_model[name], array)


def test_keeps_the_newest_and_the_best(tmp_path, network):
    folder = CheckpointFolder(tmp_path, IDENTITY, keep=2)
    for step in (1, 20, 3, 1_000_000_000, 100):
        folder.save(*network, Position(step=step), step, best=step == 3)
    assert [p.name for p in folder.candidates()] == [
        "step-1000000000.safetensors",
        "step-000000100.safetensors",
        BEST,
    ]
    assert read(tmp_path / BEST)[1]["position"].step == 3
    folder.discard_after(100)
    assert [p.name for p in folder.newest_first()] == ["step-000000100.safetensors"]


def test_writes_nothing_that_is_not_finite(tmp_path, network):
    model, optimizer = network
    folder = CheckpointFolder(tmp_path, IDENTITY)
    good = folder.save(model, optimizer, Position(), 1)
    model.state_dict()["classifier.bias"][1] = np.inf
    with pytest.raises(NonFiniteError, match=r"step 2: classifier\.bias"):
        folder.save(model, optimizer, Position(), 2)
    assert list(tmp_path.iterdir()) == [good]


def test_refuses_another_config_or_data_set_by_name(tmp_path, network):
    path = CheckpointFolder(tmp_path, IDENTITY).save(*network, Position(), 1)
    with pytest.raises(MismatchError, match=r"lr: 0\.1 there, 0\.2 requested"):
        read(path, {**IDENTITY, "config": {"lr": 0.2, "seed": 0}})
    with pytest.raises(MismatchError, match="sha256: 'ab' there, 'cd' requested"):
        read(path, {**IDENTITY, "data": {"sha256": "cd"}})


@pytest.mark.parametrize("position", [{"epoch": "2"}, {"epoch": -1}, {"epoch": True}, {"apoch": 1}, [1], None])
def test_refuses_a_position_that_makes_no_sense(tmp_path, position):
    from xnor_ref.storage import save_tensors

    path = tmp_path / "x.safetensors"
    save_tensors(path, {}, {"format": "xnor_ref checkpoint", "version": 1, **IDENTITY, "position": position})
    with pytest.raises(ModelFileError, match="not a checkpoint of this program"):
        read(path)


def test_a_damaged_or_foreign_file_is_refused(tmp_path, network):
    path = CheckpointFolder(tmp_path, IDENTITY).save(*network, Position(), 1)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:100], whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], b"x" * 50):
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=path.name):
            read(path)


def test_a_folder_that_cannot_be_made(tmp_path, network):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot make the folder"):
        CheckpointFolder(tmp_path / "file" / "x", IDENTITY).save(*network, Position(), 1)
    with pytest.raises(OutputError, match="cannot make the run folder"):
        new_run("name", tmp_path / "file" / "x")
    with pytest.raises(OutputError, match="cannot make the run folder"):
        new_run("name", tmp_path / "file")


def make_run(folder, config, age=0):
    run = RunFolder(folder)
    run.create()
    run.write_json(run.config_path, {"config": config.to_dict()})
    import os

    os.utime(run.config_path, (1e9 - age, 1e9 - age))
    return run


def test_new_runs_get_names_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [str(new_run("shapes-net-0", None).path) for _ in range(3)] == [
        "runs/shapes-net-0",
        "runs/shapes-net-0-2",
        "runs/shapes-net-0-3",
    ]
    (tmp_path / "mine").mkdir()
    assert new_run("shapes-net-0", tmp_path / "mine").path == tmp_path / "mine"
    (tmp_path / "mine" / "x").write_text("")
    with pytest.raises(InputError, match=r"--out .* is not empty: it holds no run"):
        new_run("shapes-net-0", tmp_path / "mine")


def test_resume_auto_finds_the_newest_run_that_agrees(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_run({}, None) is None
    make_run(tmp_path / "runs/a", tiny_config(tmp_path, epochs=3), age=100)
    make_run(tmp_path / "runs/b", tiny_config(tmp_path, epochs=4), age=50)
    make_run(tmp_path / "runs/c", tiny_config(tmp_path, seed=1, epochs=4), age=0)
    (tmp_path / "runs/broken").mkdir()
    (tmp_path / "runs/broken/config.json").write_text("{")

    def found(said, out=None):
        run = find_run(said, out)
        return run and run.path.name

    assert found({}) == "c"
    assert found({"seed": 0}) == "b"
    assert found({"epochs": 3}) == "a"
    assert found({"epochs": 3, "threads": 5, "data_dir": "elsewhere"}) == "a"
    assert found({"model": "nin"}) is None
    with pytest.raises(ModelFileError, match="epochs: 4 there, 9 requested"):
        found({"seed": 0, "epochs": 9})
    assert found({"epochs": 3}, tmp_path / "runs/a") == "a"
    assert found({}, tmp_path / "runs/new") is None
    with pytest.raises(ModelFileError, match="epochs: 3 there, 4 requested"):
        found({"epochs": 4}, tmp_path / "runs/a")
    with pytest.raises(ModelFileError, match="damaged"):
        found({}, tmp_path / "runs/broken")


@pytest.mark.parametrize("text", ["", "[]", '{"config": 3}', '{"config": {"epochs": 0}}', '{"config": {"x": 0}}'])
def test_a_damaged_config_file_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelFileError, match=r"config\.json is damaged"):
        RunFolder(tmp_path).config()


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    run = RunFolder(tmp_path)
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch})
    with open(run.metrics_path, "a") as file:
        file.write('{"epoch": 4, "tr')
    assert [line["epoch"] for line in run.metrics()] == [1, 2, 3]
    run.truncate_metrics(2)
    assert [json.loads(line) for line in run.metrics_path.read_text().splitlines()] == [{"epoch": 1}, {"epoch": 2}]
    run.truncate_metrics(0)
    assert run.metrics() == []


def _hold(path, ready, done):
    with RunFolder(path).lock():
        ready.set()
        done.wait(30)


def test_a_run_folder_is_for_one_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready, done))
    process.start()
    try:
        assert ready.wait(30)
        with pytest.raises(InputError, match="another process is training in"), RunFolder(tmp_path).lock():
            pass
    finally:
        done.set()
        process.join()
    with RunFolder(tmp_path).lock():
        pass
