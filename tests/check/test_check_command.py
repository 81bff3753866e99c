"""`check` and `pytest --lesson`: starter files, what is said of right, wrong and broken files, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.check.solutions import SOLUTIONS
from tests.conftest import REPOSITORY
from xnor_ref.check.bugs import BUGS, PROGRAMS
from xnor_ref.check.course import LESSONS, starter
from xnor_ref.cli import main

FEW = ("--examples", "20", "--seed", "1")


@pytest.fixture
def here(tmp_path, monkeypatch, capfd):
    """Runs a command in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def command(*words):
        code = main(["check", *map(str, words)])
        return code, *capfd.readouterr()

    return command


def answers(number: int, **replaced: str) -> str:
    """A file with right answers to a lesson, but for those that are replaced."""
    lesson = LESSONS[number]
    texts = [replaced.get(one.name, SOLUTIONS[one.name].text) for one in lesson.exercises]
    return "\n".join(["import numpy as np", *lesson.imports, *texts])


def test_a_starter_file_is_written_once_and_is_still_to_do(here):
    code, out, err = here(3)
    text = Path("my_lesson_3.py").read_text()
    assert code == 0 and err == "" and "check 3 my_lesson_3.py" in out and "check 3 my_lesson_3.py" in text
    assert all(f"def {one.name}(" in text for one in LESSONS[3].exercises) and text.count("NotImplementedError") == 3
    code, out, err = here(3)
    assert code == 2 and "not overwritten" in err and Path("my_lesson_3.py").read_text() == text
    code, out, err = here(3, "my_lesson_3.py")
    assert code == 6 and out.count("to do") == 3 and "0 of 3 right" in err
    assert here(3, "-o", "other.py")[0] == 0 and Path("other.py").exists()


def test_starter_files_are_python_and_no_line_is_long():
    for lesson in LESSONS.values():
        text = starter(lesson, "xnor-ref check")
        compile(text, "starter", "exec")
        assert max(map(len, text.splitlines())) <= 120 and text.endswith("raise NotImplementedError\n")


@pytest.mark.parametrize("number", [1, 5, 8, 9, 12])
def test_right_answers_pass(here, number):
    """Those that need text, bytes, tuples, operations and compiled functions to reach the other process, and back."""
    Path("mine.py").write_text(answers(number))
    code, out, err = here(number, "mine.py", *FEW)
    assert code == 0 and out.count("right") == 3 and err == "", out + err


def test_a_wrong_answer_is_drawn_with_a_hint(here):
    wrong = SOLUTIONS["my_pack"].text.replace(">= 0", "> 0").replace("    rows", "    print('seen')\n    rows")
    Path("mine.py").write_text(answers(2, my_pack=wrong))
    code, out, err = here(2, "mine.py", "--seed", "1")
    assert code == 6 and "my_pack    wrong" in out and "hint: Which bit does a 0 get?" in out
    assert "x  (1, 1) float32\n  0\n" in out and "  00000000 ...\n  ^\n" in out and "it printed: seen" in out
    assert err.strip().endswith("mine.py: 2 of 3 right; my_pack wrong")
    code, out, _ = here(2, "mine.py", *FEW, "--only", "my_dot", "--json")
    found = json.loads(out)
    assert code == 0 and found["lesson"] == 2 and found["files"][0]["right"] == found["of"] == 1
    assert here(2, "mine.py", "--only", "my_sign")[0] == 2


@pytest.mark.parametrize(
    "name, body, words",
    [
        ("my_sign", "    return x.reshape(-1)[:1]", "an array of shape (1,), should return a number"),
        ("my_sign", "    x[...] = 1\n    return x", "changes its argument x"),
        ("my_sign", "    pass", "is a `return` missing?"),
        ("my_sign", "    return {'x': x}", "of type dict"),
        ("my_sign", "    return helper(x)\n\n\ndef helper(x):\n    return x @ x[:1]", "in helper"),
        ("my_sign", "    import os\n    os._exit(3)", "exited with status 3"),
        ("my_sign", "    while True:\n        pass", "no answer within 0.5 s"),
        ("my_step", "    return 1", "the file has no such function"),
    ],
)  # fmt: skip
def test_what_gives_no_result_is_told(here, name, body, words):
    own = f"def {name if name == 'my_sign' else 'another'}(x):\n{body}\n"
    Path("mine.py").write_text(answers(1, **{name: own}))
    code, out, err = here(1, "mine.py", *FEW, "--timeout", "0.5")
    assert words in out or (words == "the file has no such function" and f"{name}  to do" in out), out
    expected = 6 if "changes" in words or name == "my_step" else 2
    assert code == expected and "site-packages" not in out + err and "xnor_ref/" not in out + err, out + err


@pytest.mark.parametrize(
    "text, words",
    [
        ("def f(:\n", "SyntaxError"),
        ("import numpy as np\nx = np.zeros(3)[5]\n", 'File "mine.py", line 2'),
        ("import no_such_module\n", "ModuleNotFoundError"),
        ("while True:\n    pass\n", "could not be loaded within 0.5 s"),
        ("raise SystemExit(4)", "exited with status 4"),
        ("my_sign = 3", "is no function"),
        (None, "no such file; without FILE"),
    ],
)
def test_a_file_that_cannot_be_imported_exits_2(here, text, words):
    if text is not None:
        Path("mine.py").write_text(text)
    code, _, err = here(1, "mine.py", "--timeout", "0.5")
    assert code == 2 and words in err and "site-packages" not in err and "xnor_ref/" not in err, err


def test_several_files_give_a_table(here):
    Path("a.py").write_text(answers(1))
    Path("b.py").write_text(answers(1, my_ste=SOLUTIONS["my_ste"].text.replace("<= 1", "< 1")))
    Path("c.py").write_text("1 / 0")
    code, out, err = here(1, "a.py", "b.py", "c.py", *FEW)
    rows = [line.split() for line in out.splitlines()]
    assert rows[1:] == [["a.py", *["right"] * 3, "3/3"], ["b.py", "right", "wrong", "right", "2/3"],
                        ["c.py", *["not", "imported"] * 3, "0/3"]]  # fmt: skip
    assert code == 6 and "1 of 3 files are right" in err


def test_a_bug_is_written_found_and_mended(here):
    number = next(i for i, bug in enumerate(BUGS, 1) if bug.exercise == "my_ste")
    assert here("--bug", number)[0] == 0
    code, out, _ = here("--bug", number, f"bug_{number}.py", *FEW)
    assert code == 6 and "hint: " in out
    Path("mended.py").write_text(PROGRAMS["my_ste"])
    assert here("--bug", number, "mended.py", *FEW)[0] == 0


@pytest.mark.parametrize(
    "words, message",
    [
        ((), "which lesson"),
        ((13,), "lessons are 1 to 12"),
        (("mine.py",), "the lesson comes first"),
        (("--bug", 99), "bugs are 1 to"),
        (("--list", 1), "--list goes alone"),
        ((1, "mine.py", "-o", "x.py"), "goes without a FILE"),
        ((1, "mine.py", "--timeout", "0"), "above 0"),
        ((1, "-o", "no/folder.py"), "no/folder.py"),
    ],
)
def test_wrong_usage(here, words, message):
    code, _, err = here(*words)
    assert code in (2, 7) and message in err, err


def test_the_list_names_all(here):
    code, out, _ = here("--list")
    assert code == 0 and all(one.name in out for lesson in LESSONS.values() for one in lesson.exercises)
    found = json.loads(here("--list", "--json")[1])
    assert len(found["lessons"]) == 12 and len(found["bugs"]) == len(BUGS)


def test_pytest_checks_a_lesson(tmp_path):
    (tmp_path / "mine.py").write_text(answers(1, my_ste=SOLUTIONS["my_ste"].text.replace("<= 1", "< 1")))
    command = [sys.executable, "-m", "pytest", "-p", "xnor_ref.check.plugin", "-p", "no:cacheprovider"]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": ""}
    run = subprocess.run([*command, "--lesson", "1", "mine.py"], cwd=tmp_path, capture_output=True, text=True,
                         env=environment)  # fmt: skip
    assert run.returncode == 1 and "1 failed, 2 passed" in run.stdout, run.stdout + run.stderr
    assert "ends of the interval" in run.stdout and "trying.py" not in run.stdout
