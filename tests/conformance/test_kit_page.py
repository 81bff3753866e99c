"""docs/conformance-kit.md: its programs work, a fault in them is found, and its tables are the code's."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.run_docs import files_of
from xnor_ref import conformance as c
from xnor_ref.conformance.basics.conventions import VALUES
from xnor_ref.conformance.basics.restrictions import Restrictions
from xnor_ref.conformance.foreign.libraries import SIGNATURES

TEXT = (REPOSITORY / "docs" / "conformance-kit.md").read_text()
FILES = files_of(TEXT)


def compiled(folder, text):
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not there")
    (folder / "program.c").write_text(text)
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", "program", "program.c"], cwd=folder, check=True)
    return c.program(str(folder / "program"))


def test_the_program_in_c_is_right(tmp_path):
    program = compiled(tmp_path, FILES["program.c"])
    report = c.Kit(conv2d=program).run(examples=10, seed=1)
    program.close()
    assert report.passed, report
    assert report.conventions["conv2d"]["sign_of_zero"] == 1


def test_the_product_in_c_is_right_and_short(tmp_path):
    assert len(FILES["product.c"].splitlines()) <= 24
    program = compiled(tmp_path, FILES["product.c"])
    report = c.Kit(linear=program, largest_dot=300).run(examples=10, seed=1)
    program.close()
    assert report.passed, report


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("y < X[2] &&", "y <= X[2] &&"),  # reads behind the image
        ("int32_t sum = 0;\n", "static int32_t sum; if (!j) sum = 0;\n"),
        ("fwrite(&sum, 4, 1, out)", "if (sum < 20) fwrite(&sum, 4, 1, out)"),  # a file that is too short
    ],
)
def test_a_fault_in_the_program_is_found(tmp_path, right, wrong):
    assert right in FILES["program.c"]
    program = compiled(tmp_path, FILES["program.c"].replace(right, wrong))
    kit = c.Kit(conv2d=program, channels=(1, 33), largest_dot=300)
    report = kit.run(examples=15, seed=1, names=[kit.property_names()[0][1]], shrink=False)
    program.close()
    assert not report.passed and report.failures[0].kind in ("fault", "crash")


def test_the_program_in_python_is_right_and_can_be_kept_running(tmp_path):
    (tmp_path / "program.py").write_text(FILES["program.py"])
    assert set(re.findall(r"^(?:import|from) (.*)$", FILES["program.py"], re.MULTILINE)) == {
        "ast, struct, sys, zipfile"
    }
    program = c.program([sys.executable, str(tmp_path / "program.py")], keep=True)
    report = c.Kit(linear=program, channels=(1, 33), largest_dot=33).run(examples=10, seed=1)
    program.close()
    assert report.passed, report
    once = c.program([sys.executable, str(tmp_path / "program.py")])
    assert once.for_role("linear")(np.float32([[1, -2]]), np.float32([[3, 4], [5, -6]])).tolist() == [[0, 2]]
    once.close()


def rows_of(heading):
    """The first cells of the table below a heading."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    return [re.findall(r"`([^`]+)`", line.split("|")[1]) for line in section.splitlines() if line.startswith("| `")]


def test_the_tables_name_what_there_is():
    assert [name for (name,) in rows_of("Roles")] == list(c.ROLES)
    assert sorted(name for row in rows_of("Conventions") for name in row) == sorted(VALUES)
    told = {name for row in rows_of("Restrictions") for name in row}
    assert set(Restrictions.__dataclass_fields__) <= told
    assert {name for row in rows_of("Reading a report") for name in row} == {"FAULT", "DEMAND", "ERROR", "CRASH"}


def test_the_signatures_of_c_functions_are_those_that_are_called():
    (block,) = re.findall(r"^```c\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    shown = [" ".join(one.split()) for one in block.split(";") if one.strip()]
    assert shown == list(SIGNATURES.values())
