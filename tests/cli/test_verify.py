"""`verify`: what it prints, and its exit code where a property fails."""

import dataclasses
import json

import pytest

from xnor_ref import verify
from xnor_ref.cli import main
from xnor_ref.verify import kernels


@pytest.mark.slow
def test_verify_lists_what_was_tried(capfd):
    assert main(["verify", "--examples", "5", "--seed", "1"]) == 0
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert lines[0].split()[:2] == ["property", "examples"] and "seconds" in out
    assert sum(line.endswith("holds") for line in lines) == len(verify.PROPERTIES)
    assert "threads; xnor_ref" in lines[-1] and "numpy" in lines[-1]
    assert err == "checking ...\n"


@pytest.mark.slow
def test_verify_as_json(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "--examples", "5", "--json"]) == 0
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert result["passed"] and err == "" and len(result["properties"]) == len(verify.PROPERTIES)
    assert result["examples"] == sum(p["examples"] for p in result["properties"])
    assert not list(tmp_path.iterdir())  # nothing is left in the current folder


@pytest.mark.slow
def test_a_property_that_fails_exits_6_with_the_smallest_example(monkeypatch, capfd):
    implementation = kernels.Implementation()

    def off_by_two(*arguments, **options):
        return implementation.binary_conv2d(*arguments, **options) + 2

    faulty = dataclasses.replace(implementation, binary_conv2d=off_by_two)
    monkeypatch.setattr(kernels, "Implementation", lambda: faulty)
    assert main(["verify", "--examples", "5", "--seed", "1"]) == 6
    out, err = capfd.readouterr()
    assert "FAILS" in out and "holds" in out
    assert "properties do not hold" in err and "smallest example: Case(" in err and "Traceback" not in err
