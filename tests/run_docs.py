"""Run the commands of the documents in a scratch folder, shortened, as CI does: `python tests/run_docs.py`.

Every line of a `sh` block that starts with `python cli.py`, `gcc` or `for` is run, in order. Training is cut down by
more options.
Of CONTRIBUTING.md the other lines are run too, but for those that CI runs itself: `cmp` beside the runs, the rest in
the repository.
A command on real images runs where XNOR_REF_TEST_DATA names them; elsewhere it must fail with exit code 3.
`--download` is not run: its option is checked by the parser only, and the download itself by the tests.
Commands on ONNX files run where onnx is installed.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SHORT = {
    "shapes": ["--epochs", "1", "--train-size", "200", "--val-size", "60"],
    "other": ["--epochs", "1", "--limit-train", "128", "--limit-val", "64", "--batch-size", "32"],
}
RUN = ("python cli.py ", "gcc ", "for ")  # how the lines begin that are run of every document
RUN_BY_CI = ("python3 -m venv", "pip install", "pre-commit", "python -m pytest tests/test_", ".ci/run", "sphinx-build")
DEFAULT_RUN = "runs/shapes-shapes-net-xnor-0"  # which takes a minute to make; a quicker one will do


def find_real_data() -> Path | None:
    """The folder of real images that XNOR_REF_TEST_DATA names, or one that lies beside the repository, if any."""
    folder = Path(os.environ.get("XNOR_REF_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


def shell_lines(text: str) -> list[str]:
    """The lines of the `sh` blocks of a Markdown text."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def documented_commands(text: str) -> list[list[str]]:
    """The arguments of each `python cli.py` line in the `sh` blocks of a Markdown text."""
    lines = [line for line in shell_lines(text) if line.startswith("python cli.py ")]
    return [shlex.split(line, comments=True)[2:] for line in lines]


def files_of(text: str) -> dict[str, str]:
    """The files that a document shows whole: python and C blocks with a title."""
    return dict(re.findall(r"^```(?:python|c) title=(\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def prepared(arguments: list[str], scratch: Path, data: Path | None) -> tuple[list[str], int]:
    """The arguments to run in `scratch`, and the exit code to expect."""
    arguments = [argument.replace(DEFAULT_RUN, "runs/first") for argument in arguments]
    if arguments[:2] == ["verify", "--examples"]:
        return [*arguments, "--examples", "5"], 0
    if arguments[0] == "bench":
        return [*arguments, "--quick"], 0
    if arguments[0] == "reproduce" and not {"--list", "--summary"} & set(arguments):
        return arguments + SHORT["shapes"], 0
    if arguments[0] != "train" or "--resume" in arguments:
        return arguments, 0
    if "--dataset" not in arguments and "--tiny-imagenet" not in arguments:
        return arguments + SHORT["shapes"], 0
    arguments = [*arguments, *SHORT["other"]]
    if "folder" in arguments:
        return arguments, 0
    if data is None:
        return arguments, 3
    if "--data-dir" in arguments:
        arguments[arguments.index("--data-dir") + 1] = str(data)
        return arguments, 0
    if "--archive" not in arguments:
        arguments += ["--archive", ""]
    arguments[arguments.index("--archive") + 1] = str(data / "tiny-imagenet-5.zip")
    return arguments, 0


def make_folder_of_photos(folder: Path) -> None:
    """Two classes of coloured images, for `--dataset folder` and `predict`."""
    from PIL import Image

    for split, count in (("train", 70), ("val", 4)):
        for name, colour in (("red", (200, 30, 20)), ("blue", (10, 40, 210))):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                shade = tuple(value + index for value in colour)
                Image.new("RGB", (80, 64), shade).save(folder / split / name / f"{index}.png")


def lines_to_run(path: Path) -> list[str]:
    """The commands of a document that are run."""
    own = path.name == "CONTRIBUTING.md"
    return [
        line
        for line in shell_lines(path.read_text())
        if "--download" not in line
        and (".onnx" not in line or find_spec("onnx") is not None)
        and (line.startswith(RUN) or (own and not line.startswith(RUN_BY_CI)))
    ]


def run_line(line: str, scratch: Path, data: Path | None) -> bool:
    """Run a command of a document and print how it ended; returns whether it ended as it should."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    here = line.startswith(("cmp ", *RUN))
    command, expected, folder = ["bash", "-c", line], 0, scratch if here else REPOSITORY
    if line.startswith("python cli.py "):
        arguments, expected = prepared(shlex.split(line, comments=True)[2:], scratch, data)
        command, folder = [sys.executable, str(REPOSITORY / "cli.py"), *arguments], scratch
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    good = run.returncode == expected
    print("ok  " if good else "FAIL", run.returncode, shlex.join(command[2:]), flush=True)
    if not good:
        print(run.stdout, run.stderr)
    return good


def main() -> int:
    data = find_real_data()
    docs = REPOSITORY / "docs"
    pages = sorted(docs.glob("*.md")), sorted(docs.glob("how-to/*.md"))  # command-line.md comes first, and trains a run
    documents = [REPOSITORY / "README.md", *pages[0], *pages[1], REPOSITORY / "CONTRIBUTING.md"]
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        make_folder_of_photos(scratch / "photos")
        for path in documents:
            for file, text in files_of(path.read_text()).items():
                (scratch / file).write_text(text)
        lines = dict.fromkeys(line.split("  #")[0].rstrip() for path in documents for line in lines_to_run(path))
        ended = [run_line(line, scratch, data) for line in lines]  # each once
    return 0 if all(ended) else 1


if __name__ == "__main__":
    sys.exit(main())
