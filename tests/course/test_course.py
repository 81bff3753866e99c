"""The lessons run cell by cell, have the parts that the course's page promises, and agree with their notebooks."""

import json
import re
from importlib.util import find_spec

import pytest

from tests.conftest import REPOSITORY
from tests.course.notebooks import FOLDER, LESSONS, notebook
from xnor_ref.check.course import LESSONS as EXERCISES

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


def test_the_network_in_one_file_agrees_with_the_library_in_every_gradient():
    """What takes long in lesson 6, training, comes after that."""
    text = (FOLDER / "06-a-network.md").read_text().partition("## Training")[0]
    cells = [body for _, body in CELL.findall(text)]
    (file,) = (body for body in cells if "class BinaryConv(" in body)
    assert len([line for line in file.splitlines() if line.strip()]) <= 150 and "xnor_ref" not in file
    names = {}
    for body in cells:
        exec(compile(body, "lesson 6", "exec"), names)
    assert names["worst"] < 1e-5 and len(names["pairs"]) == 13


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_has_its_parts(path):
    text = path.read_text()
    title = re.search(r"^# (.*)$", text, re.MULTILINE).group(1)
    assert f"[{title}]({path.name})" in (FOLDER / "README.md").read_text()
    assert "After this lesson you can\n\n- " in text and "tags: [picture]" in text
    parts = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert parts[-4:] == ["What goes wrong, and how it looks", "Exercises", "Summary", "Read on in the source"]
    by_hand = next(part for part in parts if "by hand" in part or "in a byte" in part)
    assert "assert " in text.partition(f"## {by_hand}")[2].partition("\n## ")[0]  # the example is a test, too
    assert re.search(r"M\(\d+\)", text) or path.stem == "12-experiments"
    sources = re.split(r"`((?:xnor_ref|tests)/[\w/]+\.py)`", text.partition("## Read on")[2])
    names = {file: re.findall(r"`(\w+)`", words) for file, words in zip(sources[1::2], sources[2::2], strict=True)}
    assert any(names.values())  # files, and functions in them
    for file, found in names.items():
        source = (REPOSITORY / file).read_text()
        assert [name for name in found if not re.search(rf"^(def|class) {name}\b", source, re.MULTILINE)] == []
    assert [line for line in text.splitlines() if len(line) > 120 and not line.startswith(("|", " ", "$"))] == []


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_says_how_its_three_exercises_are_checked(path):
    lesson = EXERCISES[int(path.stem[:2])]
    text = path.read_text()
    exercises = text.partition("## Exercises")[2].partition("## Summary")[0]
    assert re.findall(r"^(\d)\. `(\w+)\((.*?)\)`: ", exercises, re.MULTILINE) == [
        (str(place), one.name, ", ".join(one.parameters)) for place, one in enumerate(lesson.exercises, 1)
    ]
    number = lesson.number
    assert f"python cli.py check {number} my_lesson_{number}.py" in exercises
    assert lesson.page == path.name and f"# {number}. {lesson.title}\n" in text


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_notebook_holds_what_its_lesson_holds(path):
    kept = json.loads(path.with_suffix(".ipynb").read_text())
    text = path.read_text()
    code = ["".join(cell["source"]) for cell in kept["cells"] if cell["cell_type"] == "code"]
    assert code == [body.rstrip("\n") for _, body in CELL.findall(text)]
    assert all("".join(cell["source"]) in text for cell in kept["cells"])
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in kept["cells"])


@pytest.mark.interop
def test_notebooks_are_what_jupytext_makes_of_lessons():
    pytest.importorskip("jupytext", reason="needs jupytext; it comes with the extra `course`")
    for path in LESSONS:
        assert json.loads(path.with_suffix(".ipynb").read_text()) == json.loads(notebook(path)), (
            f"{path.stem} has changed: python tests/course/notebooks.py"
        )
