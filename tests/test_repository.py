"""The files that outsiders look for say what the package says: versions, stable names, what CI runs."""

import configparser
import re

import xnor_ref
from tests.conftest import MARKED, REPOSITORY, TESTS
from tests.run_docs import RUN_BY_CI, lines_to_run, shell_lines
from xnor_ref.packed import PackedNetwork

SETUP = configparser.ConfigParser()
SETUP.read(REPOSITORY / "setup.cfg")


def text(name: str) -> str:
    return (REPOSITORY / name).read_text()


def test_the_stable_names_are_those_of_the_package():
    (table,) = re.findall(r"## Python names\n(.*?)\n## ", text("docs/stability.md"), re.DOTALL)
    names = re.findall(r"`xnor_ref\.(\w+)`", table)
    assert sorted(names) == sorted([*xnor_ref.__all__, *xnor_ref._PACKAGES])
    for name in names:
        assert getattr(xnor_ref, name) is not None
    (attributes,) = re.findall(r"of what they return: (.*) \|", table)
    assert all(hasattr(PackedNetwork, name) for name in re.findall(r"`(\w+)`", attributes))


def test_the_hosted_ci_runs_the_script_on_the_pythons_of_the_package():
    workflow = text(".github/workflows/ci.yml")
    classifiers = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
    may_fail = re.findall(r"python-version == '(3\.\d+)'", workflow)
    assert re.findall(r'"(3\.\d+)"', workflow) == classifiers + may_fail
    assert SETUP["options"]["python_requires"].startswith(f">={classifiers[0]}")
    assert "- run: .ci/run\n" in workflow and (REPOSITORY / ".ci/run").stat().st_mode & 0o111


def test_the_citation_names_this_version():
    assert f"\nversion: {xnor_ref.__version__}\n" in text("CITATION.cff")


def test_the_commands_for_contributors_are_run_by_the_script():
    path = REPOSITORY / "CONTRIBUTING.md"
    left = set(shell_lines(path.read_text())) - set(lines_to_run(path))
    assert len(lines_to_run(path)) > 5 and all(line.startswith(RUN_BY_CI) for line in left)
    assert "pre-commit run --all-files" in text(".ci/run")


def test_files_whose_tests_are_marked_are_there():
    assert [str(path) for path in MARKED if not path.exists()] == []
    assert set((TESTS / "kernels").glob("test_*.py")) - MARKED == set()
