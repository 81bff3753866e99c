"""The command `bench`: what it prints, writes and refuses. Every run is a quick one."""

import json
from pathlib import Path

import pytest

from tests.bench.test_bench_layers import without
from tests.conftest import JIT_DISABLED
from tests.packed.packed_samples import every_op, tiny
from xnor_ref.bench import ladder, startup
from xnor_ref.bench.measuring import process, timing
from xnor_ref.charts import files
from xnor_ref.cli import main
from xnor_ref.cli.bench import bench_text
from xnor_ref.errors import InputError, XnorRefError

compiled_only = pytest.mark.skipif(JIT_DISABLED, reason="bench measures compiled code")
QUICK = timing.Pace(rounds=3, turn=1e-5, budget=0.01, quick=True)


@pytest.fixture
def bench(tmp_path, monkeypatch, capfd):
    """Runs `bench ARGUMENTS` in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing, "QUICK", QUICK)
    monkeypatch.setattr(timing, "load_warning", lambda: None)
    monkeypatch.setattr(timing, "pace_warning", lambda: None)
    monkeypatch.setattr(timing.Bystanders, "warning", lambda self: None)

    def run(*arguments):
        code = main(["bench", *arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run


@compiled_only
def test_the_table_names_the_machine_the_parts_and_each_baseline(bench):
    code, out, err = bench("--quick")
    assert code == 0 and err == "measuring ...\n"
    for words in ("roofs of one core", "G binary MAC/s", "threads: 1, batch: 1", "numpy 2", "numba 0", "BLAS"):
        assert words in out
    lines = out.splitlines()
    header = " ".join(line for line in lines if line.startswith("layer"))
    assert all(name in header for name in ("kernel", "NCHW", "of roof", "pack, A"))
    (*parts, theirs) = [line for line in lines if line.startswith("256@14x14 3x3 -> 256")]
    ours = " ".join(parts)
    assert "115.6" in ours and " %" in ours and theirs.endswith("x")
    assert "NumPy  im2col and sgemm in NumPy, float32; / ours NCHW" in out


@compiled_only
def test_json_to_a_file_and_instead_of_the_table(bench, tmp_path):
    code, out, err = bench("--layer", "70,5,3,9,2", "--batch", "3", "--quick", "--json")
    printed = json.loads(out)
    assert code == 0 and err == ""
    (row,) = printed["layers"]
    assert row["layer"] == "70@5x5 3x3/2 -> 9" and row["batch"] == 3 and row["macs"] == 3 * 9 * 70 * 9 * 9
    assert printed["machine"]["roofs"]["binary_macs"] > 0 and printed["machine"]["cpu"]
    code, out, _ = bench("gemm", "--quick", "--baselines", "none", "--json", "result.json")
    assert code == 0 and "GEMM 1024x1024x1024" in out and "Whole operation" not in out
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["layers"][0]["baselines"] == [] and "NCHW" not in written["layers"][0]["ours"]


@compiled_only
def test_figure4_has_theory_and_measurement_side_by_side(bench):
    code, out, _ = bench("figure4", "--quick", "--json")
    result = json.loads(out)
    assert code == 0
    by_place = {(point["curve"], point["channels"], point["filter"]): point for point in result["points"]}
    assert round(by_place["channels", 256, 3]["theory"], 2) == 62.27
    for point in result["points"]:
        measured = point["measured"]["NumPy"]
        assert measured["kernel"] == pytest.approx(measured["seconds"] / point["ours"]["kernel"])
        assert measured["whole"] == pytest.approx(measured["seconds"] / point["ours"]["NCHW"])
        assert point["float32_bits"] == 32 * point["binary_bits"] == 32 * 256 * point["channels"] * point["filter"] ** 2
    text = bench_text.figure4(result)
    assert "62.27" in text and "baseline's time / ours" in text and "ResNet-18" in text


@compiled_only
def test_the_ladder_climbs(bench):
    code, out, _ = bench("ladder", "--layer", "64,6,3,16", "--quick")
    assert code == 0
    names = ("float loops", "bit loops", "word loops", "reference", "numba", "simd", "whole operation, NHWC")
    lines = [line for line in out.splitlines() if line.startswith(names)]
    assert [line.startswith(name) for line, name in zip(lines, names)] == [True] * len(names)
    assert "float baselines, microseconds: NumPy" in out and "64 bits at a time" in out
    assert "1.00x" in lines[0]  # against itself


@compiled_only
def test_whole_networks(bench):
    code, out, _ = bench("network", "resnet18", "--size", "16", "--classes", "5", "--batch", "2", "--quick")
    assert code == 0
    assert "XNOR resnet18, 16x16 pixels, 5 classes, a batch of 2" in out
    assert "ours, from uint8" in out and "stage4_2.body.conv2.conv" in out and "whole network" in out
    assert max(map(len, out[out.index("\nlayer ") :].splitlines())) <= 80


@compiled_only
def test_depthwise_layers(bench):
    code, out, _ = bench("depthwise", "--batch", "2", "--quick", "--json")
    result = json.loads(out)
    rows = result["layers"]
    assert code == 0 and len(rows) == 13
    first, strided, grouped = rows[0], rows[4], rows[9]
    assert first["macs"] == 2 * 9 * 64 * 56 * 56 and first["bytes"] == 2 * 2 * 4 * 64 * 56 * 56
    assert strided["layer"] == "64@56x56 3x3/2" and strided["macs"] * 4 == first["macs"]
    assert grouped["layer"] == "128@28x28 3x3 g32" and grouped["macs"] == 2 * first["macs"]
    for row in rows:
        work = {"float32": row["macs"], "memory": row["bytes"]}
        assert row["limit"] == pytest.approx(max(work[name] / row["rates"][name] for name in work))
        assert row["over_limit"] == pytest.approx(row["ours"]["forward"] / row["limit"])
    text = bench_text.depthwise(result)
    assert max(map(len, text[text.index("\nlayer ") :].splitlines())) <= 90


@compiled_only
def test_a_packed_file_layer_by_layer(bench, tmp_path):
    every_op().network().save(tmp_path / "own.safetensors")
    code, out, _ = bench("--model", "own.safetensors", "--quick", "--batch", "2", "--json")
    result = json.loads(out)
    assert code == 0 and result["file"] == "own.safetensors" and result["batch"] == 2 and result["ours"]["ours"] > 0
    assert sum(stage["share"] for stage in result["layers"]) == pytest.approx(1)
    assert "binary_conv2d" in " ".join(stage["op"] for stage in result["layers"])
    code, out, _ = bench("network", "--model=own.safetensors", "--quick")
    assert code == 0 and "own.safetensors, 3x9x8, a batch of 1" in out


@compiled_only
@pytest.mark.soak
def test_startup_counts_processes_from_their_start(bench, tmp_path, monkeypatch):
    code, out, _ = bench("startup", "--quick", "--json")
    result = json.loads(out)
    assert code == 0 and result["model"] is None
    for kind in ("cold", "cached"):
        stages = result[kind]["stages"]
        assert list(stages)[:3] == ["interpreter", "numpy", "numba"] and min(stages.values()) > 0
        assert 0 < result[kind]["own"] < result[kind]["total"]
    assert result["cold"]["stages"]["first answer"] > result["cached"]["stages"]["first answer"]
    text = bench_text.startup(result)
    assert "seconds" in text and f"{result['cold']['total']:.3f}" in text and "ResNet-18" in text

    tiny().network().save(tmp_path / "own.safetensors")
    started = []
    monkeypatch.setattr(startup, "_start", lambda path, cache: started.append(path) or [0.25] * 7)
    code, out, _ = bench("startup", "--model", "own.safetensors", "--quick")
    assert code == 0 and set(started) == {Path("own.safetensors")} and "through own.safetensors" in out


@compiled_only
@pytest.mark.soak
def test_an_emulated_processor_uses_its_own_instructions_only(bench):
    try:
        ladder.emulation("haswell")
    except InputError as error:
        pytest.skip(str(error))
    code, out, _ = bench("ladder", "--layer", "64,6,3,16", "--cpu", "haswell", "--quick")
    assert code == 0
    assert "AVX2, vectors of 256 bits" in out and "limited to the instructions of haswell" in out


def test_emulation_needs_the_instructions(monkeypatch):
    monkeypatch.setattr(ladder.llvm, "get_host_cpu_features", lambda: {"avx2": True, "fma": True, "avx512f": True})
    settings = ladder.emulation("haswell")
    assert settings["NUMBA_CPU_NAME"] == "haswell" and settings["NUMBA_CPU_FEATURES"] == "+avx2,-avx512f,+fma"
    assert settings["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    with pytest.raises(InputError, match="cannot emulate skylake-avx512: it has no avx512bw, avx512dq, avx512vl"):
        ladder.emulation("skylake-avx512")


# --- plots -------------------------------------------------------------------------------------------------------


@compiled_only
@pytest.mark.parametrize(
    "arguments, name",
    [
        (["--layer", "70,5,3,9", "--layer", "64,4,1,8"], "layers.svg"),
        (["figure4"], "figure4.png"),
        (["ladder", "--layer", "64,6,3,16"], "ladder.pdf"),
        (["network", "resnet18", "--size", "16"], "network.png"),
    ],
)
def test_plots(bench, tmp_path, arguments, name):
    if not name.endswith("svg"):
        pytest.importorskip("matplotlib")
    code, out, err = bench(*arguments, "--quick", "--plot", name)
    assert code == 0 and "warning" not in err and out
    beginnings = {"png": b"\x89PNG", "svg": b"<!-- xnor_ref chart", "pdf": b"%PDF"}
    assert (tmp_path / name).read_bytes().startswith(beginnings[name.rpartition(".")[2]])
    assert [path.name for path in tmp_path.iterdir()] == [name]


# --- what users get wrong ----------------------------------------------------------------------------------------


@compiled_only
@pytest.mark.parametrize(
    "arguments, words",
    [
        (["papr"], "Did you mean 'paper'?"),
        (["figure5"], "Did you mean 'figure4'?"),
        (["vgg"], "There are paper, alexnet, resnet18, gemm, geometry, layers, depthwise, network, figure4"),
        (["paper", "vgg"], "there is no layer set 'vgg'; there are paper, alexnet, resnet18, gemm"),
        (["--layer", "256,14,3"], "a layer is C,H,K,O or C,H,K,O,STRIDE"),
        (["--layer", "256,14,3,0"], "O must be from 1 to 65536, got 0"),
        (["--layer", "65536,65536,3,65536"], "GiB of memory"),
        (["--batch", "0"], "batch must be at least 1, got 0"),
        (["--batch", "many"], "'many' is not a valid integer"),
        (["--threads", "0"], "threads must be from 1 to 1024, got 0"),
        (["--baselines", "numpi"], "there is no baseline 'numpi'; there are numpy, torch"),
        (["--plot", "plot.doc"], "ends in one of svg, png, pdf; got 'plot.doc'"),
        (["--json", "a.png", "--plot", "a.png"], "--json, --plot name the same file; give each its own"),
        (["--epochs", "3"], "No such option"),
        (["network", "resnet"], "there is no network 'resnet'; there are shapes-net, lenet5, nin"),
        (["network", "resnet18", "--size", "4"], "resnet18 needs images of at least 16 pixels, got 4"),
        (["network", "resnet18", "--batch", "-1"], "batch must be at least 1, got -1"),
        (["network", "resnet18", "--model", "x"], "--model gives the network, so names would have no effect"),
        (["--model", "x", "--size", "64"], "so size would have no effect"),
        (["--model", "x", "--no-compile"], "so compile would have no effect"),
        (["ladder", "--cpu", "z80"], "--cpu must be one of skylake-avx512, haswell, got 'z80'"),
        (["ladder", "--layer", "1,2"], "a layer is C,H,K,O"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_exits_2_and_says_why(bench, tmp_path, arguments, words):
    code, out, err = bench(*arguments)
    assert code == 2 and words in err and out == ""
    assert list(tmp_path.iterdir()) == []


@compiled_only
@pytest.mark.parametrize("option", [["--json", "no/such/x.png"], ["--plot", "no/such/x.png"], ["--json", "."]])
def test_what_cannot_be_written_exits_7_before_anything_is_measured(bench, option):
    code, out, err = bench(*option)
    assert code == 7 and " ".join(option) in err and out == ""


@compiled_only
def test_a_file_that_is_no_model_is_refused(bench, tmp_path):
    (tmp_path / "x").write_bytes(b"GIF89a")
    for arguments in (["--model", "x"], ["startup", "--model", "x"], ["--model", "missing"]):
        code, _, err = bench(*arguments)
        assert code == 4 and "error: " in err


@compiled_only
def test_missing_extras_are_named(bench, monkeypatch):
    without(monkeypatch, "torch", "onnxruntime")
    code, _, err = bench("--baselines", "torch", "--quick")
    assert code == 2 and "torch is not installed (pip install 'xnor_ref[bench]')" in err
    usual = "--layer", "64,4,3,8", "--baselines"
    code, out, _ = bench(*usual[:2], "--quick")
    assert code == 0 and "not measured" not in out
    monkeypatch.setattr(timing, "FULL", QUICK)
    code, out, _ = bench(*usual[:2])
    assert code == 0 and "not measured: torch NHWC: torch is not installed" in out and "ORT int8: onnxruntime is" in out
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    code, _, err = bench("--quick", "--plot", "plot.png")
    assert code == 2 and "--plot: png needs matplotlib, which is not installed (pip install 'xnor_ref[plot]')" in err


@compiled_only
def test_warnings_go_to_stderr_and_into_the_json(bench, monkeypatch):
    monkeypatch.setattr(timing, "load_warning", lambda: "the machine is busy: a test")
    code, out, err = bench("--layer", "64,4,3,8", "--quick", "--json", "--threads", "1")
    assert code == 0 and err == "warning: the machine is busy: a test\n"
    assert json.loads(out)["machine"]["warnings"] == ["the machine is busy: a test"]
    monkeypatch.setattr(timing.Bystanders, "warning", lambda self: "others compute")
    code, out, err = bench("--layer", "64,4,3,8", "--quick", "--json")
    assert code == 0 and err.endswith("\nwarning: others compute\n")
    assert json.loads(out)["machine"]["warnings"][1] == "others compute"
    monkeypatch.setattr("xnor_ref.kernels.basics.threads.available_threads", lambda: 1)
    code, _, err = bench("--layer", "64,4,3,8", "--quick", "--threads", "2")
    assert code == 0 and "warning: 2 threads run on 1 processors" in err


@pytest.mark.skipif(not JIT_DISABLED, reason="the compiler is on")
@pytest.mark.parametrize("arguments", [[], ["figure4"], ["ladder"], ["network"], ["startup"]], ids=" ".join)
def test_without_the_compiler_there_is_nothing_to_measure(bench, arguments):
    code, out, err = bench(*arguments, "--quick")
    assert code == 2 and "NUMBA_DISABLE_JIT=1" in err and out == ""


def test_a_process_that_fails_says_why():
    value = process.run_python("import json, sys; print(1); print(json.dumps([2, sys.argv[1]]))", "3")
    assert value == [2, "3"]
    value = process.run_python("import os; print(os.environ['A'])", environment={"A": "7"})
    assert value == 7
    with pytest.raises(InputError, match=r"^no such layer$"):
        process.run_python("import sys; print('no such layer', file=sys.stderr); sys.exit(2)")
    with pytest.raises(XnorRefError, match="ZeroDivisionError") as error:
        process.run_python("1 / 0")
    assert not isinstance(error.value, InputError)
    with pytest.raises(XnorRefError, match="exit code 0"):
        process.run_python("")
