"""`verify` of other implementations: files, programs, libraries and golden vectors; exit codes, JSON and JUnit XML."""

import json
import shutil
import subprocess
from xml.etree import ElementTree

import numpy as np
import pytest

from xnor_ref import conformance as c
from xnor_ref.cli import kit_options, main
from xnor_ref.conformance.foreign import npz

RIGHT = """
import numpy as np

def signs(a):
    return np.where(a < 0, -1.0, 1.0)

def linear(x, weight):
    return signs(x) @ signs(weight).T
"""
WRONG = RIGHT + "\ndef pack(x):\n    return np.packbits(x >= 0, axis=1, bitorder='little') * (x.shape[1] % 32 == 0)\n"
LIBRARY = """
void product(const signed char *x, const signed char *weight, float *out, int rows, int n, int o) {
  for (int i = 0; i < rows; i++) for (int j = 0; j < o; j++, out++) {
    *out = 0;
    for (int k = 0; k < n; k++) *out += x[i * n + k] * weight[j * n + k];
  }
}
"""
FEW = ["--examples", "20", "--seed", "1"]


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / "mine.py").write_text(text)
        return "mine.py"

    return write


def test_a_right_file_passes_and_its_conventions_are_told(file, capfd):
    assert main(["verify", "--implementation", file(RIGHT), *FEW]) == 0
    out, err = capfd.readouterr()
    assert "ok " in out and "sign_of_zero 1" in out and "not tested" in out and err == "checking ...\n"


def test_a_wrong_file_exits_6_with_the_smallest_counterexample(file, capfd):
    assert main(["verify", "--implementation", file(WRONG), *FEW, "--junit", "junit.xml", "--json"]) == 6
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert not found["passed"] and found["seed"] == 1 and "layer" in found["not_tested"]
    (bad,) = {p["role"] for p in found["properties"] if not p["passed"]}
    first = next(p for p in found["properties"] if not p["passed"])
    assert bad == "pack" and np.array(first["failure"]["arguments"]["x"]).shape[1] == 1
    assert "properties do not hold; signs to words" in err and "Traceback" not in err
    suites = ElementTree.parse("junit.xml").getroot()
    assert int(suites.get("tests")) == len(found["properties"]) == len(suites.findall(".//testcase"))
    failures = suites.findall(".//testcase[@classname='pack']/failure")
    assert len(failures) == int(suites.get("failures")) > 0 and "x = np.array([" in failures[0].text


def test_a_crash_is_a_finding(file, capfd):
    assert main(["verify", "--implementation", file("import os\ndef alpha(w): os._exit(9)"), *FEW]) == 6
    out, err = capfd.readouterr()
    assert "CRASH" in out and "mine.py exited with status 9" in out and "Traceback" not in out + err


def test_restrictions_reach_the_function(file, capfd):
    text = """
import numpy as np
def conv2d(x, weight, stride, padding, pad_value, dilation, groups):
    assert x.shape[1] % 32 == 0 and len(x) == 1 and weight.shape[2:] in ((1, 1), (3, 1)) and stride == (2, 2), x.shape
    assert padding == (0, 0) and pad_value == 0 and groups == 1 and dilation == (1, 1)
    raise ValueError("all of them are right")
"""
    limits = [
        "--channels",
        "32x",
        "--kernels",
        "1,3x1",
        "--strides",
        "2",
        "--pad",
        "0",
        "--pad-value",
        "0",
        "--batch",
        "1",
    ]
    assert main(["verify", "--implementation", file(text), *FEW, *limits, "--groups", "1", "--dilations", "1"]) == 6
    out = capfd.readouterr().out
    assert "all of them are right" in out and "AssertionError" not in out


def test_a_convention_can_be_demanded(file, capfd):
    assert main(["verify", "--implementation", file(RIGHT), *FEW, "--sign-of-zero", "-1"]) == 6
    assert "sign_of_zero is 1, but -1 is demanded" in capfd.readouterr().out
    assert main(["verify", "--implementation", "mine.py", *FEW, "--sign-of-zero", "1", "--output", "dot"]) == 0


def test_a_program_and_a_library_are_checked(tmp_path, capfd, monkeypatch):
    (tmp_path / "mine.sh").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "mine.sh").chmod(0o755)
    assert main(["verify", "--program", str(tmp_path / "mine.sh"), "--role", "linear,pack", *FEW]) == 6
    out = capfd.readouterr().out
    assert "exited with status 3" in out and "signs to words" in out
    if shutil.which("gcc"):
        (tmp_path / "mine.c").write_text(LIBRARY)
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", "libmine.so", "mine.c"], cwd=tmp_path, check=True)
        of = ["--library", str(tmp_path / "libmine.so"), "--library-types", "int8,float32"]
        assert main(["verify", *of, "--role", "linear=product", "--largest-dot", "300", *FEW]) == 0
        capfd.readouterr()
    (tmp_path / "empty.so").touch()
    assert main(["verify", "--library", str(tmp_path / "empty.so"), "--role", "linear=f", *FEW]) == 2
    assert "file too short" in capfd.readouterr().err


def test_vectors_are_exported_answered_and_checked(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "--export-vectors", "golden", "--role", "linear", "--channels", "64x", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["cases"].keys() == {"linear"}
    for path in (tmp_path / "golden" / "linear").glob("*.npz"):
        np.save(path.with_suffix(".answer.npy"), npz.read_file(path)["expected"])
    assert main(["verify", "--check-vectors", "golden"]) == 0
    assert "ok " in capfd.readouterr().out
    np.save(tmp_path / "golden" / "linear" / "003.answer.npy", np.zeros(3))
    assert main(["verify", "--check-vectors", "golden"]) == 6
    assert "linear/003.npz: linear: shape (3,), should be" in capfd.readouterr().err
    assert main(["verify", "--export-vectors", "golden"]) == 2
    assert "is not empty" in capfd.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--implementation", "no.py"], "no.py: no such file"),
        (["--program", "./no"], "'./no' is not an executable file"),
        (["--library", "./no.so"], "c_library: ./no.so is not a file"),
        (["--program", "true", "--library", "x.so"], "--program and --library exclude each other"),
        (["--program", "true", "--export-vectors", "x"], "exclude each other"),
        (["--channels", "32x"], "channels needs an implementation to check"),
        (["--role", "pack"], "pack needs an implementation to check"),
        (["--keep-running"], "--keep-running needs --program"),
        (["--library", "x.so", "--keep-running"], "--keep-running needs --program"),
        (["--timeout", "3"], "--timeout needs --implementation or --program or --library"),
        (["--library-types", "int8"], "--library-types needs --library"),
        (["--program", "true", "--timeout", "0"], "timeout must be a number of seconds above 0, got 0.0"),
        (["--program", "true", "--timeout", "nan"], "timeout must be a number of seconds above 0, got nan"),
        (["--program", "true", "--role", "convolve"], "--role: 'convolve' is not a role; choose from conv2d"),
        (["--program", "true", "--role", "conv2d=f"], "only functions of a --library are named; write conv2d"),
        (["--program", "true", "--role", "layer"], "layer"),
        (["--program", "true", "--threads", "2"], "--threads applies only to the checks of this project"),
        (["--program", "true", "--channels", "x"], "--channels must be integers at least 1 with commas"),
        (["--program", "true", "--channels", "0"], "--channels must be integers at least 1"),
        (["--program", "true", "--kernels", "3x3x3"], "--kernels must be numbers such as 3 or pairs such as 3x1"),
        (["--program", "true", "--pad", "-1"], "--pad must be integers at least 0"),
        (["--program", "true", "--pad-value", "2"], "--pad-value must be integers from -1 to 1"),
        (["--program", "true", "--kernels", "same"], "--kernels must be"),
        (["--program", "true", "--sign-of-zero", "2"], "--sign-of-zero must be one of 1, -1, 0, sign bit, got '2'"),
        (["--program", "true", "--output", "sum"], "--output must be one of dot, agreements"),
        (["--program", "true", "--convention", "colour=red"], "'colour' is not a convention; choose one of layout"),
        (
            ["--program", "true", "--convention", "kernel"],
            "--convention kernel must be one of correlation, convolution",
        ),
        (["--library", "x.so", "--library-types", "a,b,c,d"], "--library-types must be up to three types"),
        (["--check-vectors", "none"], "none holds no golden vectors"),
        (["--implementation", "mine.py", "--role", "pack"], "mine.py has no such function; it has linear"),
        (["--junit", "mine.py"], "--junit mine.py exists and is not a JUnit file"),
    ],
)
def test_wrong_options_say_so_and_exit_2(file, capfd, arguments, message):
    file(RIGHT)
    assert main(["verify", *arguments]) == 2
    out, err = capfd.readouterr()
    assert message in err and "Traceback" not in err and out == ""


def test_a_file_of_results_that_cannot_be_written_is_refused_before_any_work(file, capfd):
    assert main(["verify", "--implementation", file(RIGHT), "--junit", "no/junit.xml"]) == 7
    assert "the folder no does not exist" in capfd.readouterr().err


def test_every_form_and_scale_has_an_output():
    from xnor_ref.conformance.basics.conventions import VALUES

    assert {scale for _, scale in kit_options.OUTPUTS.values()} == set(VALUES["scale"])
    assert {form for form, _ in kit_options.OUTPUTS.values()} <= set(VALUES["form"])
    assert c.scaled("alpha").scale == kit_options.OUTPUTS["alpha"][1]
