"""Experiments: what they ask of the papers, their runs, what they cost, and how they are shown."""

import json
import shutil
import signal
import statistics
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import JIT_DISABLED
from xnor_ref import models
from xnor_ref.cli import main
from xnor_ref.errors import InputError, ModelFileError, NonFiniteError
from xnor_ref.experiments import catalogue, estimate, execute, plan, plot, report
from xnor_ref.experiments.catalogue import EXPERIMENTS
from xnor_ref.training.fitting.interrupt import Interrupted
from xnor_ref.training.fitting.observer import Observer
from xnor_ref.training.fitting.trainer import Trainer
from xnor_ref.training.job import load_data
from xnor_ref.training.settings.config import FIELDS
from xnor_ref.training.storing.runs import RunFolder

TINY = {"train_size": 60, "val_size": 24, "batch_size": 12, "epochs": 1, "model_options": {"width": 4}}
TINY_OPTIONS = (
    *("--train-size", "60", "--val-size", "24", "--batch-size", "12", "--epochs", "1"),
    *("--model-option", "width=4"),
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def table3b(data_dir, tmp_path_factory):
    """Table 3b, run with two seeds and never stopped: (plan, results)."""
    root = tmp_path_factory.mktemp("whole")
    made = tiny_plan("table3b", data_dir, root, seeds=2)
    return made, execute.run_plan(made)


def tiny_plan(name: str, data_dir: Path, root: Path, rows=None, seeds=1, **changes) -> plan.Plan:
    said = {**TINY, "data_dir": str(data_dir), **changes}
    return plan.make_plan(catalogue.find(name), said, seeds=seeds, rows=rows, root=root)


def without_folders(results: dict) -> dict:
    """Results without what depends on the clock or the place."""
    text = json.dumps(results)
    rows = json.loads(text)["rows"]
    for run in (run for row in rows for run in row["runs"]):
        del run["folder"], run["seconds"]
    return {"rows": rows, "data": results["dataset"]}


# --- the catalogue ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("budget", plan.BUDGETS)
def test_every_experiment_has_runs_that_can_be_configured_and_built(name, budget):
    experiment = EXPERIMENTS[name]
    settings = [{**experiment.settings.get("all", {}), **row.settings} for row in experiment.rows]
    missing = {key for row in settings for key in row if key not in FIELDS}
    missing |= {row["model"] for row in settings if row.get("model", "resnet18") not in models.names()}
    if missing:
        pytest.skip(f"not there yet: {', '.join(sorted(missing))}")
    made = plan.make_plan(experiment, {}, budget=budget, seeds=2)
    names = [run.name for run in made.runs]
    assert len(set(names)) == len(names) == 2 * len(experiment.rows)
    assert {row.base for row in experiment.rows} <= {None, *(row.name for row in experiment.rows)}
    built = set()
    for run in made.runs[: len(experiment.rows)]:
        config, first = run.config, made.runs[0].config
        assert config.dataset == plan.BUDGETS[budget] and config.seed == 0
        assert config.epochs == run.row.length * first.epochs and config.batch_size == first.batch_size
        network = (config.model, config.method, repr(config.options_of("method")))
        if budget == "quick" and network not in built:
            built.add(network)
            options = {**config.options_of("method"), **config.model_options}
            models.build(config.model, image_size=64, in_channels=3, num_classes=12, method=config.method, **options)


def test_the_papers_figures():
    """Tables 1 to 3 of Rastegari et al. 2016 (v4), and the headline of Bulat and Tzimiropoulos 2019."""

    def printed(name):
        return {row.name: (row.paper.top1, row.paper.top5) for row in EXPERIMENTS[name].rows if row.paper}

    table1 = {
        "full": (56.6, 80.2),
        "bwn": (56.8, 79.4),
        "binaryconnect": (35.4, 61.0),
        "xnor": (44.2, 69.2),
        "bnn": (27.9, 50.42),
    }
    assert printed("table1") == table1
    assert printed("figure5") == {key: value for key, value in table1.items() if key != "full"}
    assert printed("table2") == {
        "resnet18-full": (69.3, 89.2),
        "resnet18-bwn": (60.8, 83.0),
        "resnet18-xnor": (51.2, 73.2),
        "googlenet-full": (71.3, 90.0),
        "googlenet-bwn": (65.5, 86.1),
    }
    assert printed("table3a") == {"alpha": (56.8, 79.4), "learned": (46.2, 69.5)}
    assert printed("table3b") == {"bacp": (44.2, 69.2), "cbap": (30.3, 57.5)}
    assert printed("xnorpp") == {"alpha-k": (51.2, 73.2), "o-h-w": (57.1, None)}
    assert printed("gradients") == printed("padding") == printed("kbit") == {}


def test_a_plan_knows_its_command_without_the_folders_of_this_machine():
    said = {
        "archive": "/somewhere/part.zip",
        "data_dir": "/elsewhere",
        "limit_classes": 20,
        "relu": False,
        "model_options": {"width": 8},
    }
    made = plan.make_plan(EXPERIMENTS["padding"], said, budget="full", seeds=2, rows=["plus"])
    options = "--limit-classes 20 --no-relu --archive part.zip --model-option width=8"
    assert made.command == f"reproduce padding --budget full --seeds 2 --rows plus {options}"
    assert plan.make_plan(EXPERIMENTS["table3b"], {}).command == "reproduce table3b"


def test_rows_differ_in_nothing_but_what_they_name(data_dir, tmp_path):
    made = tiny_plan("xnorpp", data_dir, tmp_path)
    assert plan.differing(made)["alpha"] == {"method": "xnor", "input_scale": "off"}
    assert plan.differing(made)["ohw"] == {"method": "xnor++", "gamma": "ohw"}
    assert plan.differing(tiny_plan("table3b", data_dir, tmp_path)) == {
        "bacp": {"input_scale": "off", "relu": False},
        "cbap": {"block_order": "cbap"},
        "bacp-relu": {"input_scale": "off", "relu": True},
    }


def test_alexnets_have_one_layout():
    for said, layout in (
        ({}, "xnor"),
        ({"model_options": None}, "xnor"),
        ({"model_options": {"layout": "bwn"}}, "bwn"),
    ):
        made = plan.make_plan(EXPERIMENTS["table1"], said, budget="full")
        assert {run.config.model_options["layout"] for run in made.runs} == {layout}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("tabel1",), "there is no experiment 'tabel1'; did you mean 'table1'"),
        (("table3b", "--rows", "bacp,abc"), "table3b has no row 'abc'"),
        (("table3b", "--budget", "huge"), "budget must be one of quick, full, got 'huge'"),
        (("table3b", "--seeds", "0"), "seeds must be from 1 to 1000, got 0"),
        (("table3b", "--epochs", "0"), "row bacp: epochs must be at least 1"),
        (("table3b", "--model", "resnet19"), "model must be one of"),
        (("table3b", "--model", "resnet18", *TINY_OPTIONS[:-2], "--quiet"), "row cbap: resnet18: block_order 'cbap'"),
        (
            ("table3b", "--model", "resnet18", "--rows", "cbap", *TINY_OPTIONS[:-2], "--quiet", "--dry-run"),
            "row cbap: resnet18",
        ),
        (("table3b", "--dataset", "mnist", "--train-size", "100"), "needs dataset shapes"),
        (("--all", "--rows", "xnor"), "--rows needs the name of one experiment"),
        ((), "give the name of an experiment"),
        (("table3b", "--list"), "give the name of an experiment"),
        (("table3b", "--out", ""), "--out needs the name of a folder"),
    ],
)
def test_what_cannot_be_run_is_refused(arguments, words, data_dir, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XNOR_REF_DATA", str(data_dir))
    assert main(["reproduce", *arguments]) == 2
    assert words in capfd.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "runs").exists()


def test_what_an_experiment_compares_cannot_be_chosen(data_dir, tmp_path):
    with pytest.raises(InputError, match="table2 sets model itself"):
        plan.make_plan(EXPERIMENTS["table2"], {"model": "nin"}, root=tmp_path)
    with pytest.raises(InputError, match="table3a sets method itself"):
        tiny_plan("table3a", data_dir, tmp_path, method="xnor")


# --- runs ------------------------------------------------------------------------------------------------------


def test_results_are_those_of_the_runs(table3b):
    made, results = table3b
    assert results == json.loads((made.folder / "results.json").read_text()) and results["complete"]
    assert [row["name"] for row in results["rows"]] == ["bacp", "cbap", "bacp-relu"] and results["seeds"] == [0, 1]
    for row in results["rows"]:
        reports = [json.loads((made.folder / f"{row['name']}-seed{s}/report.json").read_text()) for s in (0, 1)]
        top1 = [one["packed"]["top1"] for one in reports]
        assert [run["top1"] for run in row["runs"]] == top1
        assert row["top1"] == {"mean": statistics.fmean(top1), "std": statistics.stdev(top1)}
        assert [len(run["by_epoch"]) for run in row["runs"]] == [1, 1]
    text = (made.folder / "table.md").read_text()
    bacp, cbap = (line for line in text.splitlines() if line.startswith(("| B-A-C-P |", "| C-B-A-P |")))
    assert "| 44.2 / 69.2 |" in bacp and "| 30.3 / 57.5 | -13.9 |" in cbap and "block_order cbap" in cbap
    mean = 100 * results["rows"][1]["top1"]["mean"]
    assert f"| {mean:.1f} ± " in cbap and f"| {mean - 100 * results['rows'][0]['top1']['mean']:+.1f} |" in cbap
    for words in (
        "60 training and 24 validation images",
        "Seeds: 0, 1",
        "standard deviation",
        f"NumPy {np.__version__}",
    ):
        assert words in text


def test_the_same_seed_sees_the_same_data_in_every_row(table3b):
    made, _ = table3b
    configs = [json.loads((run.folder / "config.json").read_text()) for run in made.runs]
    assert all(config["data"] == configs[0]["data"] for config in configs)
    for config in configs:
        for key in ("seed", "block_order", "relu", "input_scale"):
            del config["config"][key]
    assert all(config == configs[0] for config in configs)


def test_a_finished_experiment_is_not_computed_again(table3b, monkeypatch):
    made, results = table3b
    monkeypatch.setattr(execute, "train_run", None)
    assert without_folders(execute.run_plan(made)) == without_folders(results)


class StopAfter(Observer):
    """Sends this process SIGINT after some steps."""

    def __init__(self, steps: int):
        self.steps = steps

    def progress(self, what, done, total, **figures):
        if "loss" in figures:
            self.steps -= 1
            if self.steps == 0:
                signal.raise_signal(signal.SIGINT)


def test_an_interrupted_experiment_goes_on_to_the_same_results(table3b, data_dir, tmp_path):
    made, results = table3b
    again = tiny_plan("table3b", data_dir, tmp_path, seeds=2)
    with pytest.raises(Interrupted, match="the same command continues") as caught:
        execute.run_plan(again, observer=StopAfter(8))  # in the second of six runs
    assert caught.value.run is None
    half = json.loads((again.folder / "results.json").read_text())
    assert not half["complete"] and [len(row["runs"]) for row in half["rows"]] == [1, 0, 0]
    assert "Not all runs are finished" in (again.folder / "table.md").read_text()
    _, states = execute.prepare(again)
    assert [state.report is not None for state in states.values()] == [True] + [False] * 5
    assert without_folders(execute.run_plan(again)) == without_folders(results)
    for run, other in zip(made.runs, again.runs):
        for name in ("model.safetensors", "float.safetensors"):
            assert (run.folder / name).read_bytes() == (other.folder / name).read_bytes()


def test_some_rows_first_and_the_others_later(table3b, data_dir, tmp_path):
    results = execute.run_plan(tiny_plan("table3b", data_dir, tmp_path, rows=["cbap"]))
    assert [row["name"] for row in results["rows"]] == ["cbap"] and not results["complete"]
    assert results["rows"][0]["runs"][0]["top1"] == table3b[1]["rows"][1]["runs"][0]["top1"]
    assert "| - |" in report.markdown(results)  # there is no row to compare it with
    results = execute.run_plan(tiny_plan("table3b", data_dir, tmp_path, rows=["bacp", "bacp-relu"]))
    assert [row["name"] for row in results["rows"]] == ["bacp", "cbap", "bacp-relu"] and results["complete"]


def test_other_settings_or_other_data_are_refused(table3b, data_dir, tmp_path):
    shutil.copytree(table3b[0].folder.parent, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ModelFileError, match=r"bacp-seed0 has other settings: .*epochs: 1 there, 2 requested"):
        execute.run_plan(tiny_plan("table3b", data_dir, tmp_path, epochs=2))
    with pytest.raises(ModelFileError, match=r"val_size: 24 there, 36 requested.*sha256"):
        execute.run_plan(tiny_plan("table3b", data_dir, tmp_path, val_size=36))
    (tmp_path / "table3b-shapes-quick/bacp-seed0/config.json").unlink()
    with pytest.raises(ModelFileError, match="exists but holds no run"):
        execute.prepare(tiny_plan("table3b", data_dir, tmp_path))


def test_a_run_from_before_a_setting_was_there_is_still_known(table3b, data_dir, tmp_path):
    shutil.copytree(table3b[0].folder.parent, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "table3b-shapes-quick/cbap-seed0/config.json"
    known = json.loads(path.read_text())
    del known["config"]["loss"]
    path.write_text(json.dumps(known))
    states = execute.prepare(tiny_plan("table3b", data_dir, tmp_path))[1]
    assert all(state.report is not None for state in states.values())


def test_a_run_that_another_experiment_has_finished_is_taken_from_there(table3b, data_dir, tmp_path, monkeypatch):
    shutil.copytree(table3b[0].folder.parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(execute, "train_run", None)
    results = execute.run_plan(tiny_plan("xnorpp", data_dir, tmp_path, rows=["alpha"], seeds=2))
    (row,) = results["rows"]
    assert row["runs"][1]["folder"] == str(tmp_path / "table3b-shapes-quick/bacp-relu-seed1")
    assert row["top1"] == table3b[1]["rows"][2]["top1"]
    other = tiny_plan("xnorpp", data_dir, tmp_path, rows=["alpha"], seeds=2, lr=0.02)
    assert all(state.report is None for state in execute.prepare(other)[1].values())


def test_a_row_that_diverges_does_not_stop_the_others(data_dir, tmp_path, monkeypatch, capfd):
    real = execute.train_run

    def diverging(config, **options):
        if config.relu is False:
            raise NonFiniteError("step 3: the loss is nan")
        return real(config, **options)

    monkeypatch.setattr(execute, "train_run", diverging)
    monkeypatch.setenv("XNOR_REF_DATA", str(data_dir))
    assert main(["reproduce", "table3b", *TINY_OPTIONS, "--out", str(tmp_path), "--quiet"]) == 5
    out, err = capfd.readouterr()
    assert "not finite: bacp-seed0" in out and "| C-B-A-P" in out and "bacp-seed0" in err
    results = json.loads((tmp_path / "table3b-shapes-quick/results.json").read_text())
    assert results["rows"][0]["failures"] == {"bacp-seed0": "step 3: the loss is nan"} and results["rows"][1]["runs"]


# --- costs -----------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_is_left_and_trains_nothing(table3b, data_dir, tmp_path):
    shutil.copytree(table3b[0].folder.parent, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "table3b-shapes-quick/cbap-seed1")
    made = tiny_plan("table3b", data_dir, tmp_path, seeds=3)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    lines = estimate.estimate(made, *execute.prepare(made))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    rows = ("bacp", "cbap", "bacp-relu")
    assert [line["name"] for line in lines] == [f"{row}-seed{seed}" for seed in range(3) for row in rows]
    left = [0, 0, 0, 0, 1, 0, 1, 1, 1]
    assert [line["images"] for line in lines] == [60 * n for n in left]
    assert [line["epochs"] for line in lines] == left
    assert lines[0]["finished"] and lines[0]["seconds"] == 0 and lines[4]["seconds"] > 0
    assert lines[-1]["seconds_so_far"] == pytest.approx(sum(line["seconds"] for line in lines))
    assert lines[6]["images_per_second"] > 0 and lines[7]["images_per_second"] == lines[4]["images_per_second"] > 0


@pytest.mark.parametrize("schedule", [{}, {"schedule": "step", "milestones": [2, 3], "warmup_epochs": 2.0}])
def test_the_cost_of_a_row_can_be_measured_whatever_its_schedule(data_dir, tmp_path, schedule):
    made = tiny_plan("table3b", data_dir, tmp_path, epochs=4)
    config = replace(made.runs[0].config, **schedule)
    training, validation = estimate.measure(replace(made.runs[0], config=config), load_data(config))
    assert training > 0 and validation > 0


@pytest.mark.parametrize(
    "constant, of_image, images",
    [
        (0.5, 0.25, [2, 2, 8]),  # a slow network: the rest of the batch is extrapolated
        (0.0, 0.001, [2, 2, 50]),  # a fast one takes the whole batch
    ],
)
def test_the_cost_of_a_batch_is_told_by_few_images(data_dir, tmp_path, monkeypatch, constant, of_image, images):
    made = tiny_plan("table3b", data_dir, tmp_path, batch_size=50)
    now, seen = 0.0, []

    def step(trainer):
        nonlocal now
        assert len(trainer.batch(0, trainer.position.step)[1]) == trainer.batch_size
        seen.append(trainer.batch_size)
        now += constant + of_image * trainer.batch_size

    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr(estimate, "time", SimpleNamespace(perf_counter=lambda: now))
    training, _ = estimate.measure(made.runs[0], load_data(made.runs[0].config))
    assert training == pytest.approx((constant + of_image * 50) / 50) and seen == images


def test_the_command_shows_costs_and_then_runs(data_dir, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XNOR_REF_DATA", str(data_dir))
    arguments = ["reproduce", "table3b", *TINY_OPTIONS, "--rows", "bacp", "--quiet"]
    assert main([*arguments, "--dry-run"]) == 0
    out = capfd.readouterr().out
    assert "bacp-seed0" in out and "cbap" not in out and " 60 " in out and not (tmp_path / "runs").exists()
    assert main([*arguments, "--dry-run", "--json"]) == 0
    (line,) = json.loads(capfd.readouterr().out)["runs"]
    assert line["images"] == 60 and line["finished"] is None
    assert main(arguments) == 0
    out, err = capfd.readouterr()
    folder = tmp_path / "runs/reproduce/table3b-shapes-quick"
    assert out.startswith((folder / "table.md").read_text().rstrip()) and err == ""
    assert "no numbers" not in (folder / "plot.svg").read_text()
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == json.loads((folder / "results.json").read_text())


def test_the_list_and_the_document_of_all(table3b, tmp_path, monkeypatch, capfd):
    assert main(["reproduce", "--list"]) == 0
    out = capfd.readouterr().out
    assert all(name in out for name in EXPERIMENTS)
    root, target = tmp_path / "root", tmp_path / "results.md"
    shutil.copytree(table3b[0].folder.parent, root)
    assert main(["reproduce", "--summary", str(target), "--out", str(root)]) == 0
    other = json.loads((root / "table3b-shapes-quick/results.json").read_text()) | {"budget": "full"}
    (root / "table3b-shapes-full").mkdir()
    (root / "table3b-shapes-full/results.json").write_text(json.dumps(other))
    assert main(["reproduce", "--summary", str(target), "--out", str(root)]) == 0
    text = target.read_text()
    assert text.count("## Table 3b") == 1 and text.count("### shapes, budget full") == 1
    assert "## Table 3b" in text and "| C-B-A-P |" in text and "Not run yet: `reproduce table1`" in text
    assert "### shapes, budget quick" in text and "`python cli.py reproduce table3b --seeds 2 " in text
    assert "Not run yet: `reproduce table3b`" not in text
    assert text.endswith(f"\n\n{report.KEPT}\n")
    target.write_text(f"old\n\n{report.KEPT}\n\nwords\n")
    assert main(["reproduce", "--summary", str(target), "--out", str(root)]) == 0
    assert target.read_text() == f"{text}\nwords\n"
    for foreign in (b"# Notes\n", f"\xff{report.KEPT}".encode("latin-1")):
        target.write_bytes(foreign)
        assert main(["reproduce", "--summary", str(target), "--out", str(root)]) == 2
        assert "exists and was not written by this command" in capfd.readouterr().err and target.read_bytes() == foreign
    target.write_text(text)
    for damaged in (b"{", b"[1]", b'{"format": "other"}', b"[" * 100_000):
        (root / "table3b-shapes-quick/results.json").write_bytes(damaged)
        assert main(["reproduce", "--summary", str(target), "--out", str(root)]) == 4
        assert "is not a results file of this program" in capfd.readouterr().err and target.read_text() == text


def test_the_plot_has_every_row(table3b, tmp_path):
    plot.plot(table3b[1], tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    names = [row["name"] for row in table3b[1]["rows"]]
    assert names and all(drawn.count(f">{name}<") == 2 for name in names)  # below its bar, and in the legend


@pytest.mark.skipif(JIT_DISABLED, reason="a process of its own takes long without compiled code")
def test_an_experiment_is_stopped_with_saved_runs_and_a_plain_message(data_dir, tmp_path):
    from tests.training.training_samples import start_cli, stop

    environment = {"XNOR_REF_DATA": str(data_dir)}
    options = [*TINY_OPTIONS, "--epochs", "1000", "--rows", "bacp"]
    process = start_cli("reproduce", "table3b", *options, cwd=tmp_path, environment=environment)
    folder = tmp_path / "runs/reproduce/table3b-shapes-quick/bacp-seed0"
    while not RunFolder(folder).metrics():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    code, _, err = stop(process, signal.SIGTERM)
    assert code == 143 and "the same command continues it" in err and "Traceback" not in err
    assert "resume" not in err  # of `train`, which would not go on with the rows that come after


def test_the_xnorpp_table_holds_the_errors(data_dir, tmp_path):
    results = execute.run_plan(tiny_plan("xnorpp", data_dir, tmp_path, rows=["alpha-k", "o"]))
    measured = results["approximation"]["networks"]
    assert list(measured) == ["alpha-k", "o"] and list(measured["o"]["layers"]) == [f"block{i}.conv" for i in (1, 2, 3)]
    text = (tmp_path / "xnorpp-shapes-quick/table.md").read_text()
    mean = measured["o"]["mean"]
    assert f"| Gamma, case 1: o | {mean['number']:.3f} | {mean['alpha']:.3f} | {mean['alpha K']:.3f} |" in text
    assert f"| {mean['trained']:.3f} |" in text
