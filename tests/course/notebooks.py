"""Write the lessons of the course as notebooks: `python tests/course/notebooks.py`, with the extra `course` installed.

Each lesson in docs/course/ is a text notebook, NAME.md. jupytext pairs it with NAME.ipynb, which is kept without
outputs. The tests see that both hold the same.
"""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "course"
LESSONS = sorted(FOLDER.glob("[0-9]*.md"))


def notebook(path: Path) -> str:
    """The text of the notebook that belongs to a lesson; the same each time, whatever the version of jupytext."""
    import jupytext

    made = jupytext.read(path)
    del made.metadata["jupytext"]["text_representation"]
    for index, cell in enumerate(made.cells):
        cell["id"] = f"{path.stem[:2]}-{index}"
    return jupytext.writes(made, fmt="ipynb") + "\n"


def main() -> int:
    for path in LESSONS:
        path.with_suffix(".ipynb").write_text(notebook(path), encoding="utf-8")
        print(path.with_suffix(".ipynb"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
