"""The commands as a user runs them, most in a process of their own."""

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.check.solutions import SOLUTIONS
from tests.conftest import JIT_DISABLED, REPOSITORY
from tests.interop.onnx_in.onnx_files import binary_network
from tests.training.training_samples import TINY_OPTIONS, result_bytes, run_cli, start_cli, stop
from xnor_ref import box, cli
from xnor_ref.cli import main
from xnor_ref.cli.group import COMMANDS, command_of
from xnor_ref.cli.help import TRAIN, wrapped
from xnor_ref.cli.options import table
from xnor_ref.cli.progress import Progress, bar, clock
from xnor_ref.training.settings.config import FIELDS
from xnor_ref.training.settings.recipes import NAMES

RUN = "runs/shapes-shapes-net-xnor-0"
OWN_CONVOLUTION = """
import xnor_ref

def conv2d(x, w, stride, padding, pad_value):
    return xnor_ref.binary_conv2d(x, w, stride=stride, padding=padding, pad_value=pad_value)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, stdout, stderr) of `train` with tiny settings, never stopped."""
    folder = tmp_path_factory.mktemp("work")
    code, out, err = run_cli("train", *TINY_OPTIONS, cwd=folder)
    assert code == 0, err
    return folder, out, err


@pytest.mark.slow
def test_train_reports_what_matters(trained):
    folder, out, err = trained
    assert re.search(r"float network +\d+\.\d\d% +\d+\.\d\d% +\d\.\d{4} +[\d.]+ kB", out)
    assert re.search(r"packed network +\d+\.\d\d% +\d+\.\d\d% +\d\.\d{4} +[\d.]+ kB", out)
    assert "images on which the two disagree: 0 of 24; largest difference of a logit: 0" in out
    assert re.search(r"the packed file is \d+\.\d times smaller", out)
    assert re.search(r"time per epoch: \d+\.\d s", out) and f"run folder: {RUN}" in out
    assert len(re.findall(r"^epoch +\d+  train loss .* s  \d+ images/s  \d:\d\d left", err, re.M)) == 3
    assert "\r" not in err and "\x1b" not in err and "warning" not in err.lower()
    assert {p.name for p in (folder / RUN).iterdir() if p.name != ".lock"} == {
        *("config.json", "env.json", "metrics.jsonl", "report.json", "sample.png"),
        *("checkpoints", "float.safetensors", "model.safetensors"),
    }


@pytest.mark.slow
def test_the_next_commands_work_when_pasted(trained, monkeypatch, capfd):
    folder, out, _ = trained
    monkeypatch.chdir(folder)
    commands = re.findall(r"^  python \S*cli\.py (.*)$", out, re.M)
    assert len(commands) == 6 and commands[-1] == "train --method full"
    for command in commands[:-1]:
        arguments = shlex.split(command)
        if arguments[0] == "verify":
            continue  # has a test of its own
        code = main(arguments)
        shown, err = capfd.readouterr()
        assert code == 0 and shown, (command, err)


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.soak) if n == "bench" else n for n in COMMANDS])
def test_every_example_of_the_help_runs(trained, monkeypatch, capfd, name):
    monkeypatch.chdir(trained[0])
    if name == "import":
        binary_network().save(Path("net.onnx"), "logits")
    if name == "verify":
        Path("mine.py").write_text(OWN_CONVOLUTION)
    if name == "check":
        texts = [SOLUTIONS[exercise].text for exercise in ("my_sign", "my_ste", "my_step")]
        Path("mine.py").write_text("\n".join(["import numpy as np", *texts]))
    command = command_of(name)
    assert command.examples
    for example in command.examples:
        arguments = shlex.split(example)
        assert arguments[0] == name
        if name in ("export", "verify") and (".onnx" in example or "--program" in arguments):
            continue  # needs onnx, or a program that is compiled; has tests of its own
        if "controls" in arguments:
            continue  # chooses the learning rates itself; has tests of its own
        if name == "train" or (name == "reproduce" and "--list" not in arguments):
            arguments += TINY_OPTIONS
        if name == "verify":
            arguments += ["--examples", "2"]
        if name == "bench":
            if JIT_DISABLED:
                continue  # there is nothing to measure
            if "startup" in arguments:
                continue  # has a test of its own
            arguments += ["--quick"]
            if "--batch" in arguments:
                arguments += ["--batch", "2"]  # the last one counts
        assert main(arguments) == 0, (example, capfd.readouterr().err)


@pytest.mark.slow
def test_json_and_quiet(trained, monkeypatch, capfd):
    folder, _, _ = trained
    monkeypatch.chdir(folder)
    code, out, err = run_cli("train", *TINY_OPTIONS, "--quiet", "--json", "--out", "again", cwd=folder)
    report = json.loads(out)
    assert code == 0 and err == ""
    assert report["disagreements"] == 0 and report["run"] == "again" and report["float"] == report["packed"]
    assert result_bytes(folder / "again") == result_bytes(folder / RUN)
    for arguments in (
        ["evaluate", RUN],
        ["evaluate", f"{RUN}/model.safetensors"],
        ["predict", RUN, f"{RUN}/sample.png"],
        ["info"],
        ["info", RUN],
        ["info", f"{RUN}/model.safetensors"],
        ["export", RUN, "-o", "exported"],
    ):
        code = main([*arguments, "--json", *(["--quiet"] if arguments[0] == "evaluate" else [])])
        out, err = capfd.readouterr()
        assert code == 0 and json.loads(out) and err == ""
    assert (folder / "exported").read_bytes() == (folder / RUN / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_finished_run_only_reports_again(trained):
    folder, out, _ = trained
    for arguments in (["--resume", "auto", "--out", RUN], ["--resume", RUN], ["--resume", RUN, *TINY_OPTIONS]):
        code, again, err = run_cli("train", *arguments, cwd=folder)
        assert code == 0 and "finished" in err and again == out


def wait_for(condition, process: subprocess.Popen, seconds: float = 60) -> None:
    """Wait until `condition()` holds while the process lives."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.slow
def test_predict_without_a_network_takes_the_most_accurate_in_the_box(trained, tmp_path, monkeypatch, capfd):
    run = trained[0] / RUN
    monkeypatch.setattr(box, "_PLACES", (tmp_path, tmp_path / "missing"))
    assert main(["predict", str(run / "sample.png")]) == 4
    assert "no trained network came with this installation" in capfd.readouterr().err
    for name, top1 in (("worse", 41.5), ("better", 52.0), ("between", 45.0)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"top1": top1}))
        (tmp_path / f"{name}.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    (tmp_path / "without-its-file.json").write_text('{"top1": 99.0}')
    assert main(["predict", "--json", str(run / "sample.png"), str(run / "sample.png")]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer["model"] == str(tmp_path / "better.safetensors") and len(answer["results"]) == 2
    assert main(["predict", "--json", str(run), str(run / "sample.png")]) == 0
    assert json.loads(capfd.readouterr().out)["results"] == answer["results"][:1]


def test_the_recipes_are_listed_with_their_settings(capfd):
    assert main(["train", "--recipe", "list"]) == 0
    text = capfd.readouterr().out
    assert all(f"{name}, method {method}: " in text for name in NAMES for method in ("xnor", "full"))
    assert max(map(len, text.splitlines())) <= 80
    assert main(["train", "--recipe", "list", "--json"]) == 0
    listed = json.loads(capfd.readouterr().out)
    assert [entry["recipe"] for entry in listed[::2]] == list(NAMES)
    for entry in listed:
        for card in entry["measured"]:
            assert Path(card["file"]).is_file()


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """A run of 160 steps that was never stopped."""
    folder = tmp_path_factory.mktemp("long")
    options = (*TINY_OPTIONS, "--epochs", "40")
    code, _, err = run_cli("train", *options, "--out", "run", cwd=folder)
    assert code == 0, err
    return folder, options


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, code", [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.soak)]
)
def test_a_signal_saves_and_the_printed_command_goes_on(long_run, number, code):
    folder, options = long_run
    out = folder / f"stopped-{code}"
    process = start_cli("train", *options, "--out", out.name, cwd=folder)
    wait_for(lambda: (out / "checkpoints").is_dir(), process)
    returned, printed, err = stop(process, number)
    assert returned == code and printed == "" and "everything is saved" in err and "Traceback" not in err
    command = re.search(r"resume with: python \S*cli\.py (.*)", err)[1]
    assert command == f"train --resume {out.name}"
    returned, printed, err = run_cli(*shlex.split(command), cwd=folder)
    assert returned == 0 and "resuming from" in err
    assert result_bytes(out) == result_bytes(folder / "run")


def newest(run: Path) -> str:
    """Name of the newest checkpoint."""
    return max((p.name for p in (run / "checkpoints").glob("step-*.safetensors")), default="")


@pytest.mark.soak
def test_kill_9_at_random_moments_then_resume_auto(long_run):
    folder, options = long_run
    out, rng, kills = folder / "killed", random.Random(1), 0
    for attempt in range(40):
        process = start_cli(
            "train", *options, "--out", out.name, "--resume", "auto", "--checkpoint-every", "0.02", cwd=folder
        )
        if attempt < 6:
            before = newest(out)
            if attempt:
                wait_for(lambda before=before: newest(out) > before, process)
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
        _, err = process.communicate(timeout=120)
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, err
    assert kills >= 3
    assert result_bytes(out) == result_bytes(folder / "run")
    lines = [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(1, 41))
    assert not list(out.rglob("*.part"))


@pytest.mark.slow
def test_a_second_process_in_the_same_folder_is_refused(long_run):
    folder, options = long_run
    process = start_cli("train", *options, "--out", "busy", cwd=folder)
    try:
        wait_for(lambda: (folder / "busy/checkpoints").is_dir(), process)
        code, _, err = run_cli("train", "--resume", "busy", cwd=folder)
        assert code == 2 and "another process is training in busy" in err
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_disk_limit_exits_7_and_leaves_no_part(trained):
    folder, _, _ = trained
    script = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); "
        f"sys.argv[1:] = {['train', *TINY_OPTIONS, '--out', 'full', '--model-option', 'width=16']!r}; "
        f"sys.path.insert(0, {str(REPOSITORY)!r}); "
        "from xnor_ref.cli import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 7 and "File too large" in done.stderr and "Traceback" not in done.stderr
    assert not list((folder / "full").rglob("*.part")) and not (folder / "full/model.safetensors").exists()


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(trained):
    folder, _, _ = trained
    process = start_cli("info", f"{RUN}/model.safetensors", cwd=folder)
    process.stdout.close()
    process.wait(60)
    assert process.stderr.read() == "" and process.returncode == 141
    process.stderr.close()


@pytest.mark.slow
def test_a_terminal_gets_a_bar(trained):
    pty = pytest.importorskip("pty")
    folder, _, _ = trained
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "cli.py"), "train", *TINY_OPTIONS, "--out", "bar"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=follower,
        env={**os.environ, "COLUMNS": "100"},
    )
    os.close(follower)
    drawn = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:
            break
        if not piece:
            break
        drawn += piece
    os.close(leader)
    out, _ = process.communicate(timeout=60)
    text = drawn.decode()
    assert process.returncode == 0 and b"packed network" in out and b"\x1b" not in out
    assert re.search(r"\repoch|\x1b\[Kepoch", text) and "images/s" in text and "left" in text and "accuracy" in text


FIGURES = {
    **{"loss": 1.25, "accuracy": 0.5},
    **{"images_per_second": 812.3, "seconds_left": 65.4, "with_validation": True},
}


def test_the_bar_fits_its_line():
    line = bar("epoch 1/8", 30, 120, FIGURES, 99)
    assert re.fullmatch(
        r"epoch 1/8 \[#{7}\.{21}\]  25%  loss 1\.250  accuracy 50\.0%  812 images/s  1:05 left", line
    ), line
    for width in (10, 40, 60, 79):
        assert len(bar("epoch 1/8", 120, 120, FIGURES, width)) <= width
    assert bar("unpacking", 1, 2, {}, 60).endswith(" 50%") and bar("x", 0, 0, {}, 60).endswith("100%")
    assert (clock(59.6), clock(3661)) == ("1:00", "1:01:01")


def test_plain_lines_where_there_is_no_terminal(capfd):
    progress = Progress()
    for done in range(3):
        progress.progress("unpacking", done, 2)
        progress.progress("epoch 1/2", done, 2, loss=1.0)
    assert capfd.readouterr().err == "unpacking ...\n"
    quiet = Progress(quiet=True)
    quiet.progress("unpacking", 0, 2)
    quiet.note("x")
    assert capfd.readouterr().err == ""


def test_a_log_gets_a_line_a_minute_and_the_speed_of_each_epoch(capfd, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("xnor_ref.cli.progress.time.monotonic", lambda: now)
    progress = Progress()
    for seconds in range(0, 130, 2):
        now = 1000.0 + seconds
        progress.progress("epoch 1/8", seconds, 200, **FIGURES | {"with_validation": seconds > 90})
    assert capfd.readouterr().err.splitlines() == [
        "epoch 1/8   30%  loss 1.250  accuracy 50.0%  812 images/s  1:05 and validation left",
        "epoch 1/8   60%  loss 1.250  accuracy 50.0%  812 images/s  1:05 left",
    ]
    now = 1179.0
    scores = {"train_loss": 1, "train_top1": 0.5, "val_loss": 1, "val_top1": 0.5, "val_top5": 1, "best": True}
    progress.epoch({"epoch": 1, "seconds": 4, "val_seconds": 1, **scores, **FIGURES})
    assert capfd.readouterr().err.endswith("top-5 100.00%  5.0 s  812 images/s  1:05 left  best\n")
    now = 1238.0  # a minute after the last minute's line, but not after the epoch's
    progress.progress("epoch 2/8", 1, 200, **FIGURES)
    assert capfd.readouterr().err == ""


def test_help_lists_all_commands_and_exit_codes(tmp_path):
    code, out, err = run_cli("--help", cwd=tmp_path)
    assert code == 0 and err == "" and all(name in out for name in (*COMMANDS, "Exit codes", "130", "141", "143"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_ends_with_examples(command, capfd):
    assert main([command, "--help"]) == 0
    out = capfd.readouterr().out
    examples = out.partition("Examples:\n")[2].replace("\\\n", "").strip().splitlines()
    assert examples and all(re.match(rf" *(python \S*cli\.py|xnor-ref) {command}\b", line) for line in examples)


def every_command():
    """The arguments that name each command, and each command of a command."""
    for name in COMMANDS:
        yield [name]
        yield from ([name, part] for part in getattr(command_of(name), "commands", ()))


@pytest.mark.parametrize("arguments", [[], *every_command()], ids=" ".join)
def test_help_fits_80_columns(arguments, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main([*arguments, "--help"]) == 0
    assert [line for line in capfd.readouterr().out.splitlines() if len(line) > 80] == []


def test_every_setting_of_a_run_has_a_heading():
    grouped = " ".join(TRAIN.values()).split()
    assert len(set(grouped)) == len(grouped) and {*FIELDS} <= {*grouped}
    assert {*grouped} <= {parameter.name for parameter in command_of("train").params}


def test_an_example_is_cut_between_its_words():
    command = f"python cli.py a --out {'x' * 60} --flag b"
    assert list(wrapped(command, 2)) == ["  python cli.py a \\", f"    --out {'x' * 60} \\", "    --flag b"]
    assert list(wrapped("python cli.py a", 2)) == ["  python cli.py a"]


@pytest.mark.parametrize(
    "arguments, kept_out",
    [(["--help"], {"numba", "PIL", "hypothesis", "numpy"}), (["train", "--help"], {"numba", "PIL", "hypothesis"})],
)
def test_help_is_quick_because_it_loads_little(arguments, kept_out):
    code = f"import sys; from xnor_ref.cli import main; main({arguments}); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0 and "click" in done.stderr.split()
    assert not kept_out & set(done.stderr.split())


@pytest.mark.skipif(os.name != "posix", reason="a shell closes the streams")
@pytest.mark.parametrize(
    "command, code", [("info >&-", 0), ("train --epochs 0 >&-", 2), ("zzz >&- 2>&-", 2), ("train --epochs 0 2>&-", 2)]
)
def test_closed_streams_are_no_error(tmp_path, command, code):
    program = shlex.join([sys.executable, str(REPOSITORY / "cli.py")])
    done = subprocess.run(f"{program} {command}", shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_ctrl_c_before_anything_has_begun(monkeypatch, capfd):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_handle_sigterm", interrupted)
    assert main(["info"]) == 130
    assert capfd.readouterr() == ("", "stopped\n")


def test_the_data_folder_comes_from_the_environment(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XNOR_REF_DATA", "elsewhere")
    assert main(["train", "--dataset", "mnist"]) == 3
    assert "elsewhere" in capfd.readouterr().err
    assert main(["train", "--dataset", "mnist", "--data-dir", "here"]) == 3
    assert "elsewhere" not in capfd.readouterr().err
    Path("run.toml").write_text('dataset = "mnist"\ndata_dir = "filed"')
    assert main(["train", "--config", "run.toml"]) == 3
    assert "filed" in capfd.readouterr().err


def test_milestones_are_said_with_commas(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY_OPTIONS, "--schedule", "step", "--milestones", "1,2", "--out", "run", "--quiet"]) == 0
    assert json.loads(Path("run/config.json").read_text())["config"]["milestones"] == [1, 2]
    assert main(["train", "--resume", "run", "--milestones", "1,2"]) == 0
    assert main(["train", "--resume", "run", "--milestones", "2"]) == 4
    assert "milestones: [1, 2] there, [2] requested" in capfd.readouterr().err


def test_the_command_line_overrides_the_config_file(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(
        'train-size = 48\nval_size = 24\nbatch_size = 12\nepochs = 2\nmodel_options = {width = 4}\nmethod = "full"\n'
    )
    assert main(["train", "--config", "run.toml", "--epochs", "1", "--no-augment", "--out", "run", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert (report["epochs"], report["method"]) == (1, "full")
    config = json.loads(Path("run/config.json").read_text())["config"]
    assert (config["epochs"], config["augment"], config["model_options"]) == (1, False, {"width": 4})
    assert main(["train", "--resume", "run", "--config", "run.toml"]) == 4
    assert "epochs: 1 there, 2 requested" in capfd.readouterr().err


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--tiny-imagenet", "--archive", "tiny-imagenet-5.zip", "--model", "shapes-net"),
        ("--dataset", "mnist"),
        ("--dataset", "fashion-mnist", "--method", "full"),
        ("--dataset", "cifar10", "--model", "shapes-net"),
    ],
)
def test_train_on_real_images(real_data, tmp_path, monkeypatch, capfd, options):
    monkeypatch.chdir(tmp_path)
    options = tuple(str(real_data / o) if o.endswith(".zip") else o for o in options)
    limits = ("--limit-train", "64", "--limit-val", "32", "--epochs", "1", "--batch-size", "16")
    for name in ("mnist", "fashion-mnist", "cifar-10-batches-bin"):  # prepared copies must not go to the real data
        if (real_data / name).exists():
            Path("data").mkdir(exist_ok=True)
            (Path("data") / name).symlink_to(real_data / name)
    assert main(["train", *options, *limits, "--json", "--quiet", "--out", "run"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["disagreements"] == 0 and report["max_logit_difference"] == 0
    photos = sorted(str(p) for p in (real_data / "photos").iterdir())[:2]
    assert main(["predict", "run", *photos]) == 0
    assert main(["evaluate", "run", "--quiet"]) == 0


@pytest.mark.parametrize("columns", [2, 3, 9, 14])
def test_a_table_fits_80_columns_and_loses_nothing(columns):
    rng = random.Random(columns)
    texts = (
        lambda: " ".join("ab" * rng.randint(1, 9) for _ in range(rng.randint(1, 30))),
        lambda: f"{rng.random():.6f}",
    )
    rows = [tuple(texts[i % 2 if i else 1]() for i in range(columns)) for _ in range(5)]
    shown = table(rows, right=range(1, columns, 2))
    assert max(map(len, shown.splitlines())) <= 80
    words = sorted(word for row in rows for cell in row for word in cell.split())
    repeated = [row[0] for row in rows] * shown.count("\n\n")
    assert sorted(shown.split()) == sorted([*words, *repeated])


def test_a_table_that_fits_is_one():
    assert table([("a", "1"), ("bcd", "20")], right=(1,)) == "a     1\nbcd  20"
