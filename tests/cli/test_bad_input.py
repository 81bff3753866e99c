"""What users get wrong: an exit code, a message that names the thing, no traceback, nothing half-written."""

import dataclasses
import errno
import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.packed.packed_samples import every_op
from tests.training.training_samples import TINY_OPTIONS
from xnor_ref.cli import main, say
from xnor_ref.kernels.basics import memory
from xnor_ref.storage import load_tensors, save_tensors
from xnor_ref.training import job
from xnor_ref.training.fitting import evaluation


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with the tiny data set drawn and one finished run in it."""
    folder = tmp_path_factory.mktemp("work")
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert main(["train", *TINY_OPTIONS, "--quiet", "--out", "runs/done"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def at_work(workplace, tmp_path, monkeypatch, capfd):
    """A copy of the work place as the current folder; a function that runs a command there."""
    shutil.copytree(workplace, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    monkeypatch.delenv("XNOR_REF_DATA", raising=False)
    capfd.readouterr()

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        out, err = capfd.readouterr()
        assert "Traceback" not in err + out
        return code, out, err

    return command


def tree() -> dict[str, int]:
    """Size of every file below the current folder."""
    return {str(path): path.stat().st_size for path in Path(".").rglob("*") if path.is_file()}


def damage(path: str, how: str) -> None:
    """Cut a file short, flip one bit in it, or fill it with something else."""
    whole = Path(path).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    Path(path).write_bytes({"cut": whole[:-7], "flip": bytes(flipped), "other": b"GIF89a" * 50, "empty": b""}[how])


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["trian"], "Did you mean 'train'?"),
        (
            ["zzz"],
            "There are train, evaluate, predict, import, export, compress, show, reproduce, bench, verify, check, ",
        ),
        (["train", "--epoch", "3"], "--epochs"),
        (["train", "--epochs", "many"], "'many' is not a valid integer"),
        (["train", "--epochs", "0"], "epochs must be at least 1"),
        (["train", "--epochs", "99999999999999999999999"], "epochs must be at least 1 and at most 100,000"),
        (["train", "--lr", "nan"], "lr must be more than 0 and finite, got nan"),
        (["train", "--lr", "inf"], "lr must be more than 0 and finite, got inf"),
        (["train", "--weight-decay", "-1"], "weight_decay must be at least 0"),
        (["train", "--checkpoint-every", "nan"], "checkpoint_every must be"),
        (["train", "--model", "resnet-18"], "did you mean 'resnet18'?"),
        (["train", "--dataset", "cifar"], "did you mean 'cifar10'?"),
        (["train", "--method", "xnr"], "method must be one of xnor, full, binary-inputs, "),
        (["train", "--pad-value", "2"], "pad_value must be one of -1, 0, 1; got 2"),
        (["train", "--threads", "0"], "threads must be at least 1"),
        (["train", "--seed", "-1"], "seed must be at least 0"),
        (["train", "--model-option", "width"], "--model-option must be KEY=VALUE"),
        (["train", *TINY_OPTIONS, "--model-option", "with=4"], "shapes-net has no option with"),
        (["train", *TINY_OPTIONS, "--model-option", "width=0"], "at least 1"),
        (["train", *TINY_OPTIONS, "--model-option", "width=20000"], "width must be at most 1024, got 20000"),
        (["train", *TINY_OPTIONS, "--model-option", "width=[4]"], "width must be an int, got '[4]'"),
        (["train", *TINY_OPTIONS, "--model-option", "width=" + "[" * 9_999], "width must be an int, got '[[["),
        (
            ["train", *TINY_OPTIONS, "--model-option", "width=" + "[" * 900 + "]" * 900],
            "width must be an int, got '[[[",
        ),
        (["train", *TINY_OPTIONS, "--method", "full", "--model-option", "clamp=true"], "clamp would have no effect"),
        (
            ["train", "--method", "full", "--no-clamp"],
            "clamp (=False) needs method xnor or bwn or xnor++, got method 'full'",
        ),
        (["train", "--momentum", "0.9"], "momentum (=0.9) needs optimizer sgd, got optimizer 'adam'"),
        (["train", "--schedule", "step", "--milestones", "2,x"], "--milestones must be integers such as 30,60"),
        (["train", "--milestones", "2"], "milestones (=[2]) needs schedule step, got schedule 'cosine'"),
        (["train", "--config", "deep.toml"], "config file deep.toml"),
        (["train", "--config", "missing.toml"], "missing.toml: No such file"),
        (["train", "--config", "bad.toml"], "unknown key 'epoch'; did you mean 'epochs'?"),
        (["train", "--tiny-imagenet", "--dataset", "mnist"], "contradict each other"),
        (["train", "--out", ""], "--out needs the name of a folder"),
        (["train", "--out", "runs/done"], "--out runs/done is not empty: add --resume auto"),
        (["train", "--resume", "runs/done", "--lr", "nan"], "lr must be more than 0 and finite, got nan"),
        (["train", "--resume", "runs/done", "--out", "x"], "--out is the folder of a new run"),
        (["train", "--download"], "no option download"),
        (["train", "--train-size", "5"], "train_size must be from 12"),
        (["train", *TINY_OPTIONS, "--limit-train", "1"], "at least 2 images"),
        (["train", "extra"], "unexpected extra argument"),
        (["evaluate"], "Missing argument 'RUN|MODEL'"),
        (["evaluate", "runs/done", "--limit-val", "0"], "limit_val must be at least 1"),
        (["evaluate", "runs/done/model.safetensors", "--dataset", "shape"], "did you mean 'shapes'?"),
        (["evaluate", "runs/done", "--archive", "x.zip"], "data set shapes has no option archive"),
        (["predict", "runs/done", "runs/done/sample.png", "--threads", "0"], "threads must be at least 1"),
        (["verify", "--threads", "0"], "threads must be at least 1"),
        (["predict", "runs/done"], "runs/done is a network; name at least one image after it"),
        (["predict"], "Missing argument '[MODEL|RUN] IMAGE...'"),
        (["predict", "runs/done", "runs/done/sample.png", "--top", "0"], "--top"),
        (["export", "runs/done"], "Missing option '-o'"),
        (["export", "runs/done", "-o", "runs"], "is a folder"),
        (["export", "runs/done", "-o", "bad.toml"], "exists already; add --force"),
        (["export", "runs/done", "-o", "runs/done/config.json", "--force"], "is not a packed model file"),
        (["train", "--config", "/dev/zero"], "config file /dev/zero: not a regular file"),
        (["train", "--config", "runs"], "config file runs: not a regular file"),
        (["export", "runs/done", "-o", "x", "--which", "first"], "'first' is not one of 'best', 'last'"),
        (["verify", "--examples", "0"], "--examples"),
    ],
)
def test_wrong_usage_exits_2_and_changes_nothing(at_work, arguments, words):
    Path("bad.toml").write_text("epoch = 3\n")
    Path("deep.toml").write_text("model_options = " + "[" * 9_999)
    before = tree()
    code, _, err = at_work(*arguments)
    assert code == 2
    assert words in err.replace("\n", " ")
    assert tree() == before


@pytest.mark.parametrize("name", ["tiny-imagenet", "mnist", "fashion-mnist", "cifar10"])
def test_a_missing_data_set_exits_3(at_work, name):
    before = tree()
    code, _, err = at_work("train", "--dataset", name, "--data-dir", "empty")
    assert code == 3 and "empty" in err and tree() == before
    if name == "tiny-imagenet":
        assert "--download" in err and "--archive" in err


def test_images_that_cannot_be_read_exit_3_after_the_others(at_work):
    Path("text.jpg").write_text("no image")
    whole = Path("runs/done/sample.png").read_bytes()
    Path("cut.png").write_bytes(whole[: len(whole) // 2])
    arguments = ["text.jpg", "runs/done/sample.png", "missing.png", "cut.png", "runs"]
    code, out, err = at_work("predict", "runs/done", *arguments)
    assert code == 3
    assert "sample.png" in out and "%" in out
    assert all(name in err for name in ("text.jpg", "missing.png", "cut.png"))
    assert "4 of 5 images could not be read" in err
    code, out, _ = at_work("predict", "runs/done", "--json", *arguments)
    results = json.loads(out)["results"]
    assert code == 3 and ["error" in result for result in results] == [True, False, True, True, True]


@pytest.mark.parametrize("how", ["cut", "flip", "other", "empty"])
@pytest.mark.parametrize(
    "file, arguments",
    [
        ("model.safetensors", ["predict", "runs/done", "runs/done/sample.png"]),
        ("model.safetensors", ["evaluate", "runs/done"]),
        ("model.safetensors", ["evaluate", "runs/done/model.safetensors"]),
        ("model.safetensors", ["info", "runs/done/model.safetensors"]),
        ("float.safetensors", ["evaluate", "runs/done"]),
        ("checkpoints/step-000000012.safetensors", ["export", "runs/done", "-o", "new"]),
        ("checkpoints/best.safetensors", ["export", "runs/done", "-o", "new", "--which", "best"]),
        ("config.json", ["evaluate", "runs/done"]),
        ("config.json", ["train", "--resume", "runs/done"]),
    ],
)
def test_damaged_files_exit_4(at_work, file, arguments, how):
    path = f"runs/done/{file}"
    if how == "flip" and file == "config.json":
        pytest.skip("one changed bit may leave a sound config")
    damage(path, how)
    before = tree()
    code, out, err = at_work(*arguments)
    assert code == 4 and file.rpartition("/")[2] in err and out == ""
    assert tree() == before


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["evaluate", "nothing"], "no such file"),
        (["evaluate", "data"], "not a run folder"),
        (["predict", "data", "runs/done/sample.png"], "no such file"),
        (["info", "data"], "not a run folder"),
        (["export", "nothing", "-o", "x"], "not a run folder"),
        (["train", "--resume", "nothing"], "no such run folder"),
        (["train", "--resume", "data"], "not a run folder"),
        (["train", "--resume", "runs/done", "--lr", "0.5"], "lr: 0.01 there, 0.5 requested"),
        (["train", "--resume", "auto", "--epochs", "4"], "epochs: 3 there, 4 requested"),
        (["evaluate", "/dev/null"], "not a regular file"),
    ],
)
def test_what_is_no_model_or_another_one_exits_4(at_work, arguments, words):
    before = tree()
    code, _, err = at_work(*arguments)
    assert code == 4 and words in err and tree() == before


@pytest.mark.parametrize(
    "classes, size, words",
    [
        (12, "32", "takes images (C, H, W) = (3, 64, 64), but the data set folder has (3, 32, 32)"),
        (2, "64", "has 12 classes, but the data set folder has 2"),
        (12, "64", "was trained for other classes than those of the data set folder"),
    ],
)
def test_a_model_for_other_images_or_classes_is_refused(at_work, classes, size, words):
    from PIL import Image

    for split in ("train", "val"):
        for k in range(classes):
            Path("pictures", split, f"class-{k}").mkdir(parents=True)
            Image.new("RGB", (40, 40), (k, 9, 9)).save(f"pictures/{split}/class-{k}/0.png")
    options = ("--dataset", "folder", "--data-dir", "pictures", "--image-size", size)
    code, out, err = at_work("evaluate", "runs/done/model.safetensors", *options)
    assert code == 2 and words in err and out == ""


def test_a_run_on_another_data_set_leaves_the_settings_of_its_own(at_work):
    code, _, err = at_work("evaluate", "runs/done", "--dataset", "mnist", "--data-dir", "data")
    assert code == 3 and "mnist" in err
    code, _, err = at_work("evaluate", "runs/done", "--dataset", "mnist", "--val-size", "60")
    assert code == 2 and "val_size (=60) needs dataset shapes, got dataset 'mnist'" in err


@pytest.mark.parametrize("text", ["garbage", "garbage\ngarbage\n", '{"epoch": 1}\n'])
def test_info_says_that_the_small_files_of_a_run_are_damaged(at_work, text):
    code, out, err = at_work("info", "runs/done")
    assert code == 0 and err == "" and "not finished" not in out
    Path("runs/done/metrics.jsonl").write_text(text)
    code, _, err = at_work("info", "runs/done")
    assert code == 0 and "warning: runs/done/metrics.jsonl is damaged" in err and "report.json" not in err
    Path("runs/done/report.json").write_text(text)
    code, out, err = at_work("info", "runs/done")
    assert code == 0 and "warning: runs/done/report.json is damaged" in err and "not finished" in out


def test_info_says_that_there_is_no_data_folder(at_work):
    assert "data dir           nowhere (this folder does not exist)\n" in at_work("info", "--data-dir", "nowhere")[1]
    assert "no such folder" not in at_work("info", "--data-dir", "data")[1]


def test_numbers_that_overflow_exit_5(at_work):
    code, _, err = at_work("train", *TINY_OPTIONS, "--lr", "1e30", "--optimizer", "sgd", "--out", "o")
    assert code == 5 and "step" in err and "A smaller lr usually helps (it was 1e+30)" in err
    assert not Path("o/model.safetensors").exists() and not Path("o/report.json").exists()


def test_a_disagreement_exits_6(at_work, monkeypatch):
    real = evaluation.packed_logits
    monkeypatch.setattr(evaluation, "packed_logits", lambda *arguments: -real(*arguments))
    code, out, err = at_work("evaluate", "runs/done")
    assert code == 6 and "disagree on" in err and "top-1" in out and "note:" not in out


@pytest.mark.parametrize("arguments", [["evaluate", "runs/done"], ["train", *TINY_OPTIONS, "--out", "new"]])
def test_logits_that_differ_without_changing_an_answer_are_pointed_out(at_work, monkeypatch, arguments):
    note = "note: the logits differ by up to 0.25, but all answers agree"
    code, out, _ = at_work(*arguments, "--quiet")
    assert code == 0 and "note:" not in out
    real = evaluation.compare
    monkeypatch.setattr(evaluation, "compare", lambda a, b: dataclasses.replace(real(a, b), max_logit_difference=0.25))
    arguments[-1] = arguments[-1].replace("new", "other")
    code, out, err = at_work(*arguments, "--quiet")
    assert code == 0 and note in out and err == ""


def test_what_cannot_be_written_exits_7(at_work):
    Path("file").write_text("")
    for arguments in (
        ["train", *TINY_OPTIONS, "--out", "file/run"],
        ["train", *TINY_OPTIONS, "--out", "file"],
        ["export", "runs/done", "-o", "file/model"],
        ["export", "runs/done", "-o", "no/such/folder/model"],
    ):
        before = tree()
        code, _, err = at_work(*arguments)
        assert code == 7 and arguments[-1].split("/")[0] in err and tree() == before


@pytest.mark.parametrize("file", ["float.safetensors", "checkpoints/best.safetensors"])
@pytest.mark.parametrize(
    "model, words",
    [
        ({"name": "alexnet", "image_size": 2048, "width": None}, "GiB of memory"),
        ({"width": 100_000}, "width must be at most 1024"),
        ({"seed": -1}, "cannot be built"),
        ({"name": ["shapes-net"]}, "cannot be built"),
        ({"width": 5}, "but float32 (5, 3, 5, 5) is needed"),
    ],
)
def test_a_sound_file_with_a_hostile_description_exits_4(at_work, monkeypatch, file, model, words):
    monkeypatch.setattr(memory, "physical_memory", lambda: 2**30)
    path = Path("runs/done", file)
    kind = "xnor_ref float network" if file.startswith("float") else "xnor_ref checkpoint"
    tensors, metadata = load_tensors(path, expect_format=kind, max_version=1)
    changed = {key: value for key, value in {**metadata["model"], **model}.items() if value is not None}
    save_tensors(path, tensors, {**metadata, "model": changed})
    command = ["evaluate", "runs/done"] if "float" in file else ["export", "runs/done", "-o", "x", "--which", "best"]
    code, out, err = at_work(*command)
    assert code == 4 and words in err and file.rpartition("/")[2] in err and out == "" and not Path("x").exists()


def test_class_names_that_no_file_may_hold_are_refused_before_training(at_work):
    for split in ("train", "val"):
        for name in ("a\x1b[31m", "b"):
            Path("pictures", split, name).mkdir(parents=True)
            for k in range(2):
                Image.new("RGB", (32, 32), (k, 9, 9)).save(f"pictures/{split}/{name}/{k}.jpg")
    before = {path for path in tree() if not path.startswith("pictures")}
    code, _, err = at_work("train", "--dataset", "folder", "--data-dir", "pictures", "--model", "shapes-net")
    assert code == 3 and "\x1b" not in err and "the class name 'a\\x1b[31m' has unprintable characters" in err
    assert {path for path in tree() if not path.startswith("pictures")} == before


def test_a_run_goes_on_with_its_packed_images_where_their_source_is_gone(at_work):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        Path("pictures", name).mkdir(parents=True)
        for k in range(8):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(f"pictures/{name}/{k}.png")
    options = ("--model", "shapes-net", "--epochs", "1", "--batch-size", "4", "--image-size", "16", "--quiet")
    assert at_work("train", "--dataset", "folder", "--data-dir", "pictures", *options, "--out", "run")[0] == 0
    known = at_work("evaluate", "run", "--json")[1]
    for name in ("cat", "dog"):
        shutil.rmtree(f"pictures/{name}")
    code, out, err = at_work("evaluate", "run", "--json", "--quiet")
    assert code == 0 and out == known and "no class folders" in err and "the packed copy of the images" in err
    Path("run/report.json").unlink()
    assert at_work("train", "--resume", "run", "--quiet")[0] == 0
    shutil.rmtree("pictures/.xnor_ref-packed")
    code, _, err = at_work("evaluate", "run")
    assert code == 3 and "no class folders" in err


def test_a_run_is_judged_with_the_normalisation_that_it_was_trained_with(at_work):
    """On other images, whose own statistics are others."""
    code, out, err = at_work("evaluate", "runs/done", "--train-size", "60", "--val-size", "30", "--json")
    result = json.loads(out)
    assert code == 0 and result["disagreements"] == result["max_logit_difference"] == 0 and result["images"] == 30
    assert "these images differ from those that the run was trained and validated with" in err


def test_a_bug_shows_its_traceback(workplace, monkeypatch, capfd):
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(job, "load_data", lambda *a, **k: 1 / 0)
    assert main(["evaluate", "runs/done"]) == 1
    err = capfd.readouterr().err
    assert "ZeroDivisionError" in err and "this is a bug in xnor_ref" in err


def test_out_of_memory_is_said_plainly(at_work, monkeypatch):
    def exhausted(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(job, "load_data", exhausted)
    code, _, err = at_work("evaluate", "runs/done")
    assert code == 1 and "out of memory" in err


@pytest.mark.parametrize(
    "number, code, words",
    [
        (errno.EIO, 1, "error: there.png: Input/output error\n"),
        (errno.EMFILE, 1, "error: there.png: Too many open files\n"),
        (errno.ENAMETOOLONG, 2, "error: there.png: File name too long\n"),
        (errno.ENOSPC, 7, "error: cannot write there.png: No space left on device\n"),
    ],
)
def test_what_the_system_refuses_is_no_bug(at_work, monkeypatch, number, code, words):
    def refused(*arguments, **options):
        raise OSError(number, os.strerror(number), "there.png")

    monkeypatch.setattr(job, "load_data", refused)
    assert at_work("evaluate", "runs/done") == (code, "", words)


def test_a_current_folder_that_is_gone(tmp_path, monkeypatch, capfd):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["train", "--epochs", "1", "--quiet", "--out", str(tmp_path / "r")]) == 2
    assert capfd.readouterr().err == "error: the current folder no longer exists; change to another folder\n"


@pytest.mark.parametrize("threads", ["0", "+00", " -3"])
def test_numba_without_threads(monkeypatch, capfd, threads):
    monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
    assert main(["info"]) == 2
    assert f"NUMBA_NUM_THREADS in the environment must be at least 1, got {threads}\n" in capfd.readouterr().err


@pytest.mark.parametrize("threads", ["", "+10", "some", "+-3", "2.5"])
def test_what_numba_takes_or_passes_over_is_left_to_it(monkeypatch, capfd, threads):
    monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
    assert main(["verify", "--help"]) == 0 and capfd.readouterr().err == ""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_names_may_have_letters_that_the_terminal_lacks(tmp_path, monkeypatch, encoding):
    sample = every_op()
    sample.metadata["classes"] = ["grün 😀", "café", "日本", "b", "c"]
    path = tmp_path / "naïve 😀.safetensors"
    sample.network().save(path)
    for arguments in (["info", str(path)], ["info", str(tmp_path / "none 😀")]):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2)]
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        code = main(arguments)
        shown = b"".join(stream.buffer.getvalue() for stream in streams).decode(encoding)
        assert (
            code == (0 if path.name in arguments[1] else 4) and [stream.errors for stream in streams] == ["strict"] * 2
        )
        names = [path.name, *sample.metadata["classes"]] if code == 0 else ["none 😀"]
        shown = " ".join(shown.split())  # lines are wrapped
        assert all(name.encode(encoding, "backslashreplace").decode(encoding) in shown for name in names)


def test_messages_cannot_steer_the_terminal(capfd):
    say("a\x1b[31mb\x07\udcff")
    assert capfd.readouterr().err == "a\\x1b[31mb\\x07\\udcff\n"


def test_names_of_files_cannot_steer_the_terminal(at_work):
    shutil.copy("runs/done/sample.png", "a\x1b[31mb.png")
    code, out, err = at_work("predict", "runs/done", "a\x1b[31mb.png", "\x1b[32m.png")
    assert code == 3 and "\x1b" not in out + err
