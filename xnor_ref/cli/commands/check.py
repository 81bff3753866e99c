"""`check`: exercises that check themselves, and bugs to find."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xnor_ref.cli import options
from xnor_ref.cli.group import Command
from xnor_ref.cli.text import program, say, show
from xnor_ref.errors import EquivalenceError, InputError

if TYPE_CHECKING:
    from xnor_ref.check.basics.exercise import Exercise
    from xnor_ref.check.grading import Graded


@click.command(
    cls=Command,
    examples=(
        "check --list",
        "check 1",
        "check --bug 1",
        "check 1 mine.py",
    ),
)
@click.argument("words", metavar="[LESSON] [FILE]...", nargs=-1)
@click.option("--list", "list_all", is_flag=True, help="List lessons, exercises and bugs.")
@click.option("--bug", type=click.IntRange(1), metavar="N", help="In place of LESSON: find the bug of this number.")
@click.option("--only", metavar="NAME", help="Check this exercise alone.")
@click.option("-o", "output", metavar="FILE", help="Where to write the starter file.  [default: my_lesson_N.py]")
@click.option("--examples", type=click.IntRange(1, 100_000), help="Cases to try for each exercise.  [default: 60]")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Try the same cases again [new ones each time].")
@click.option("--timeout", type=float, metavar="S", help="Seconds for one call of a function.  [default: 20]")
@options.json_option
def command(
    words: tuple[str, ...],
    list_all: bool,
    bug: int | None,
    only: str | None,
    output: str | None,
    examples: int | None,
    seed: int | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Check the exercises of a lesson of the course, or find a bug.

    Without a FILE, a starter file is written: functions with their docstrings, to be completed. With a FILE, each
    function is tried on cases that are drawn. Of one that is wrong, the smallest case that was found is drawn, with a
    hint. Several files give a table, for who marks them.

    A FILE is run, so give only files that you trust. Exit codes: 0 all is right; 6 something is wrong or still to do;
    2 the file cannot be imported, or a function fails, takes too long, or returns the wrong type or shape.
    """
    from xnor_ref.check.bugs import bug_of
    from xnor_ref.check.bugs import program as with_bug
    from xnor_ref.check.course import lesson_of, starter, write_new
    from xnor_ref.check.grading import chosen, grade
    from xnor_ref.check.student import TIMEOUT
    from xnor_ref.check.trying import EXAMPLES

    if list_all:
        if words or bug is not None:
            raise click.UsageError("--list goes alone")
        options.answer(_listing(), as_json, _listing_text)
        return
    if bug is None and not words:
        raise click.UsageError("which lesson? `check --list` lists them")
    number, files = (_number(words[0]), words[1:]) if bug is None else (bug, words)
    lesson = lesson_of(number) if bug is None else None
    exercises: tuple[Exercise, ...] = lesson.exercises if lesson else (bug_of(number).to_check(),)
    what = str(number) if lesson else f"--bug {number}"
    if not files:
        target = output or (f"my_lesson_{number}.py" if lesson else f"bug_{number}.py")
        check_it = f"{program()} check {what} {target}"
        write_new(target, starter(lesson, check_it) if lesson else with_bug(number, check_it))
        show(
            f"wrote {target}\n\ncomplete it, then: {check_it}"
            if lesson
            else f"wrote {target}\n\nmend it, then: {check_it}"
        )
        return
    if output is not None:
        raise click.UsageError("-o is for a starter file, and goes without a FILE")
    if timeout is not None and not 0 < timeout < float("inf"):
        raise InputError(f"--timeout must be a number of seconds above 0, got {timeout:g}")
    exercises = chosen(exercises, only)
    graded = []
    for file in files:
        if not as_json and len(files) > 1:
            say(f"checking {file}")
        graded.append(grade(file, exercises, examples or EXAMPLES, seed, timeout or TIMEOUT))
    found: dict[str, Any] = {"lesson": number} if lesson else {"bug": number}
    found |= {"of": len(exercises), "files": [one.as_json() for one in graded]}
    options.answer(found, as_json, lambda _: _text(graded, exercises))
    problems = [problem for one in graded if (problem := one.problem(len(exercises)))]
    if len(files) == 1 and problems:
        raise problems[0]
    if problems:
        text = f"{len(files) - len(problems)} of {len(files)} files are right"
        wrong = any(isinstance(problem, EquivalenceError) for problem in problems)
        raise EquivalenceError(text) if wrong else InputError(text)


def _number(word: str) -> int:
    """The number of a lesson: "3", or the name of its page or starter file by mistake."""
    if not word.isdecimal():
        hint = "; the lesson comes first, as in: check 1 my_lesson_1.py" if Path(word).suffix else ""
        raise click.UsageError(f"LESSON must be a number, got {word!r}{hint}")
    return int(word)


def _listing() -> dict[str, Any]:
    from xnor_ref.check.bugs import BUGS
    from xnor_ref.check.course import LESSONS

    return {
        "lessons": [
            {"lesson": number, "title": lesson.title, "exercises": [one.name for one in lesson.exercises]}
            for number, lesson in LESSONS.items()
        ],
        "bugs": [{"bug": number, "exercise": bug.exercise} for number, bug in enumerate(BUGS, 1)],
    }


def _listing_text(found: dict[str, Any]) -> str:
    rows = [("lesson", "exercises"), *((str(one["lesson"]), ", ".join(one["exercises"])) for one in found["lessons"])]
    bugs = [("bug", "in"), *((str(one["bug"]), one["exercise"]) for one in found["bugs"])]
    return f"{options.table(rows, right=(0,))}\n\n{options.table(bugs, right=(0,))}"


def _text(graded: list["Graded"], exercises: tuple["Exercise", ...]) -> str:
    if len(graded) > 1:
        rows = [("file", *(one.name for one in exercises), "right")]
        for one in graded:
            states = [finding.status for finding in one.findings] or ["not imported"] * len(exercises)
            rows.append((one.file, *states, f"{one.count('right')}/{len(exercises)}"))
        return options.table(rows)
    rows = [(finding.exercise.name, finding.status) for finding in graded[0].findings]
    parts = [options.table(rows)] if rows else []
    parts += [str(finding) for finding in graded[0].findings if finding.status in ("wrong", "unusable")]
    return "\n\n".join(parts)
