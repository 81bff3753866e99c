"""`compress` as a user runs it: reports, files that give the same answers, and what it refuses."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.compress.test_compress_file import close_filters, one_convolution
from tests.conftest import JIT_DISABLED
from tests.packed.packed_samples import Sample
from tests.training.training_samples import TINY_OPTIONS
from xnor_ref.cli import main
from xnor_ref.packed import load_packed


@pytest.fixture
def close(tmp_path, monkeypatch):
    """The current folder, with `close.safetensors`: a network of one layer of 20 filters that lie close together."""
    monkeypatch.chdir(tmp_path)
    sample = one_convolution(close_filters(20, 0.05))
    sample.network().save("close.safetensors")
    return sample


@pytest.fixture
def run(capfd):
    """Runs a command; exit code, stdout, stderr."""

    def command(*arguments):
        code = main(list(arguments))
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return command


def test_report(close, run):
    code, out, err = run("compress", "close.safetensors")
    assert code == 0 and err == ""
    parts = [line.split() for line in out.splitlines() if line.startswith("n0.binary_conv2d")]
    row = [parts[0][0], *(cell for part in parts for cell in part[1:])]  # of a table in parts
    assert row[1:3] == ["20", "576"] and row[-2:] == ["of", "1,440"]
    assert float(row[3]) < 0.12 and 0.1 < float(row[9]) < 0.17 and float(row[11]) > 0.4
    for words in ("times fewer", "184,320 directly", "with positions wired", "column 'random'", "deepest tree"):
        assert words in out
    assert not list(Path().glob("*.json")) and len(list(Path().iterdir())) == 1


def test_the_file_says_so_and_gives_the_same_answers(close, run):
    code, out, _ = run("compress", "close.safetensors", "-o", "small.safetensors")
    assert code == 0 and "1 of 1 binary layers stored along trees" in out and "the same answers, bit for bit" in out
    assert "rho" not in out
    assert Path("small.safetensors").stat().st_size < Path("close.safetensors").stat().st_size
    small, pixels = load_packed("small.safetensors"), close.pixels(3)
    assert np.array_equal(small.logits(pixels), close.network().logits(pixels))
    assert small.metadata["version"] == 2 and small.metadata["training"] == close.metadata["training"]
    code, out, _ = run("info", "small.safetensors")
    assert code == 0 and "binary_conv2d, tree" in out
    again = Path("small.safetensors").read_bytes()
    assert run("compress", "small.safetensors", "-o", "small.safetensors", "--force")[0] == 0
    assert Path("small.safetensors").read_bytes() == again


def test_json(close, run):
    code, out, _ = run("compress", "close.safetensors", "-o", "small", "--json", "costs.json", "--complement")
    assert code == 0 and "rho" not in out
    saved = json.loads(Path("costs.json").read_text())
    code, out, _ = run("compress", "close.safetensors", "--json", "-", "--complement")
    shown = json.loads(out)
    assert code == 0 and saved.pop("output")["bytes"] == Path("small").stat().st_size and saved == shown
    (layer,) = shown["layers"]
    assert layer["parent"].count(-1) == 1 and sum(layer["distance"]) == layer["costs"]["wired_bits"] - 576
    assert layer["costs"]["ratio"] == (576 + sum(layer["distance"])) / (20 * 576) == shown["total"]["ratio"]
    assert layer["bytes"]["tree"] < layer["bytes"]["gaps lzma"] and layer["stored"] == "tree" and layer["note"] == ""
    assert shown["total"]["direct_xnors"] == 20 * 576 * 16


def test_only_results_of_its_own_are_replaced(close, run):
    command = ["compress", "close.safetensors", "--json"]
    Path("empty").touch()
    Path("nested").write_text("[" * 100_000)
    Path("config.json").write_text('{"model": "x"}')
    for name, expected in (("new", 0), ("new", 0), ("empty", 0), ("nested", 2), ("config.json", 2)):
        before = Path(name).read_bytes() if expected else b""
        assert run(*command, name)[0] == expected and (not expected or Path(name).read_bytes() == before)


def test_layers_that_stay_bits_are_named(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    one_convolution(Sample().normal(20, 64, 3, 3)).network().save("far")
    code, out, _ = run("compress", "far", "-o", "same", "--report")
    assert code == 0 and "1,440  as bits: 1,4" in out and "bytes along its tree" in " ".join(out.split())
    assert "0 of 1 binary layers" in out and "no layer got smaller" in out
    assert Path("same").read_bytes() == Path("far").read_bytes()
    code, out, _ = run("compress", "far", "-o", "forced", "--store", "tree", "--tree", "star")
    assert code == 0 and "1 of 1 binary layers stored along trees" in out


@pytest.mark.skipif(JIT_DISABLED, reason="of compiled kernels")
def test_measure(close, run, monkeypatch):
    from xnor_ref.compress import measure

    monkeypatch.setattr(measure, "_SECONDS", 0.0)
    code, out, _ = run("compress", "close.safetensors", "--measure", "--threads", "1")
    assert code == 0 and "on 1 thread" in out and "tree weights" in out and "crossover, numba" in out
    times = out.partition("times of one image")[2]
    assert re.search(r"^n0.binary_conv2d +[\d,]+ us ", times, re.MULTILINE)
    code, out, _ = run("compress", "close.safetensors", "--measure", "--json", "-")
    measured = json.loads(out)["layers"][0]["measured"]
    assert all(0 <= value <= 0.5 for value in measured["crossover"].values())
    assert set(measured["seconds"]) >= {"direct numba", "tree weights", "tree words"}


def test_where_lines_cross():
    from xnor_ref.compress.measure import FRACTIONS, _crossing

    times = [1 + 10 * fraction for fraction in FRACTIONS]
    assert _crossing(times, 1.75) == pytest.approx(0.075) and _crossing(times, 4) == pytest.approx(0.3)
    assert _crossing(times, 1) == 0 and _crossing(times, 0.5) == 0 and _crossing(times, 5.1) == 0.5


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_plot(close, run, kind):
    if kind != "svg":
        pytest.importorskip("matplotlib")
    code, _, err = run("compress", "close.safetensors", "--plot", f"tree.{kind}", "--layer", "n0.binary_conv2d")
    assert code == 0, err
    begins = {"png": b"\x89PNG", "svg": b"<!-- xnor_ref chart", "pdf": b"%PDF"}[kind]
    assert Path(f"tree.{kind}").read_bytes().startswith(begins)
    assert run("compress", "close.safetensors", "--plot", f"tree.{kind}")[0] == 0
    Path(f"tree.{kind}").write_bytes(begins[:8])
    assert run("compress", "close.safetensors", "--plot", f"tree.{kind}")[0] == 2
    assert Path(f"tree.{kind}").read_bytes() == begins[:8]


def test_plot_without_matplotlib(close, run, monkeypatch):
    monkeypatch.setattr("xnor_ref.charts.files.find_spec", lambda name: None)
    code, _, err = run("compress", "close.safetensors", "--plot", "tree.png")
    assert code == 2 and "pip install 'xnor_ref[plot]'" in err and not Path("tree.png").exists()


def test_places_of_a_plot():
    from xnor_ref.compress.plot import positions
    from xnor_ref.compress.tree import from_parents

    rows = np.zeros((5, 1), np.uint64)
    at = positions(from_parents(rows, 9, np.array([-1, 0, 0, 1, 1], np.int32)))
    assert np.allclose(np.hypot(*at.T), [0, 1, 1, 2, 2])
    assert len({tuple(p) for p in np.round(at, 6)}) == 5


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["missing"], 4, "missing: no such file"),
        ([".", "-o", "x"], 4, "model.safetensors: no such file"),
        (["close.safetensors", "-o", "close.safetensors"], 2, "exists already; add --force"),
        (["close.safetensors", "-o", "notes.txt", "--force"], 2, "is not a packed model file"),
        (["close.safetensors", "-o", "."], 2, "is a folder"),
        (["close.safetensors", "-o", "no/such/x"], 7, "does not exist"),
        (["close.safetensors", "--json", "no/such/x"], 7, "does not exist"),
        (["close.safetensors", "--plot", "no/such/x.png"], 7, "does not exist"),
        (["close.safetensors", "--json", "close.safetensors"], 2, "exists and was not written by this command"),
        (["close.safetensors", "--json", "notes.txt"], 2, "exists and was not written by this command"),
        (["close.safetensors", "-o", "x", "--json", "./x"], 2, "name the same file; give each its own"),
        (["close.safetensors", "--plot", "tree.gif"], 2, "ends in one of svg, png, pdf; got 'tree.gif'"),
        (
            ["close.safetensors", "--plot", "x.png", "--layer", "block9"],
            2,
            "'block9' is not a binary layer; choose one of n0.",
        ),
        (["close.safetensors", "--layer", "n0.binary_conv2d"], 2, "--layer needs --plot"),
        (["close.safetensors", "--force"], 2, "--force needs -o"),
        (["close.safetensors", "--tree", "oak"], 2, "'oak' is not one of"),
        (["close.safetensors", "--threads", "0"], 2, "threads must be at least 1"),
        (["notes.txt"], 4, "not a safetensors file"),
        (["real"], 2, "no layer has both binary weights and binary inputs"),
        (["single"], 2, "at least two output channels, but n0.binary_conv2d has only one"),
        (["broken"], 4, "broken"),
    ],
)
def test_bad_input(close, run, arguments, code, words):
    Path("notes.txt").write_text("milk, bread, a number of eggs\n")
    real = Sample(shape=(1, 2, 2), classes=2)
    real.node("flatten")
    real.linear(4, 2)
    real.network().save("real")
    single = Sample(shape=(1, 2, 2), classes=1)
    single.binary_conv2d(1, 1)
    single.node("global_avg_pool")
    single.network().save("single")
    damaged = bytearray(Path("close.safetensors").read_bytes())
    damaged[-3] ^= 1
    Path("broken").write_bytes(damaged)
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    found, _, err = run("compress", *arguments)
    assert found == code and words in err, err
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.slow
def test_evaluate_and_predict_give_the_same_answers(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    assert run("train", *TINY_OPTIONS, "--quiet", "--out", "run")[0] == 0
    assert run("compress", "run", "-o", "small.safetensors", "--store", "tree")[0] == 0
    answers = []
    for model in ("run/model.safetensors", "small.safetensors"):
        code, scores, err = run("evaluate", model, "--json", "--quiet")
        assert code == 0, err
        code, classes, err = run("predict", model, "run/sample.png", "--json")
        assert code == 0, err
        answers.append((json.loads(scores)["packed"], json.loads(classes)["results"]))
    assert answers[0] == answers[1]
