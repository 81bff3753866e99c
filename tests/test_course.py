"""The lessons run, cell by cell, and have the parts that the course's page promises."""

import re
from importlib.util import find_spec

import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "docs/course"
LESSONS = sorted(FOLDER.glob("[0-9]*.md"))
CELL = re.compile(r"^```\{code-cell\} python\n(---\n.*?---\n)?(.*?)^```", re.MULTILINE | re.DOTALL)


LONG = ("06", "07")  # they train networks


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.soak] if path.name.startswith(LONG) else []) for path in LESSONS],
    ids=lambda path: path.stem,
)
def test_a_lesson_runs(path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    pictures, names = find_spec("matplotlib") is not None, {}
    for options, body in CELL.findall(path.read_text()):
        if pictures or "picture" not in options:
            exec(compile(body, path.name, "exec"), names)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_has_its_parts(path):
    text = path.read_text()
    title = re.search(r"^# (.*)$", text, re.MULTILINE).group(1)
    assert f"[{title}]({path.name})" in (FOLDER / "README.md").read_text()
    parts = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert parts[-4:] == ["What goes wrong, and how it looks", "Exercises", "Summary", "Read on in the source"]
    exercises = text.partition("## Exercises")[2].partition("## Summary")[0]
    assert re.findall(r"^(\d)\. ", exercises, re.MULTILINE) == ["1", "2", "3"]
    assert "by hand" in text or "in a byte" in text
