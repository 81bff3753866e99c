"""Build the sdist and the wheel, compare what they hold with git, and use the installed wheel in an empty folder.

`python tests/check_distribution.py`, as CI does; it takes under a minute and needs a package index. The wheel is built
from the sdist, so the sdist is known to be complete. The wheel holds the package alone: no tests, no documents.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
ADDED_TO_WHEEL = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
IMPORT_ALL = """
import importlib, pkgutil, sys, numpy, xnor_ref
assert xnor_ref.__file__.startswith(sys.prefix), xnor_ref.__file__
names = [module.name for module in pkgutil.walk_packages(xnor_ref.__path__, "xnor_ref.")]
for name in names:
    importlib.import_module(name)
assert len(names) > 150
assert xnor_ref.pack_bits(numpy.float32([[0.5, -2.0, 0.0]])).tolist() == [[5]]
"""
COMMANDS = (
    ["python", "-c", IMPORT_ALL],
    ["python", "-m", "xnor_ref", "info"],
    ["xnor-ref", "verify", "--examples", "5"],
    ["xnor-ref", "train", "--epochs", "1", "--train-size", "200", "--val-size", "60", "--quiet", "--out", "run"],
    ["xnor-ref", "predict", "run", "run/sample.png"],
)


def files_of_git() -> set[str]:
    """Every file under version control that is still there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return {name for name in listed.stdout.split("\0") if (REPOSITORY / name).is_file()}


def differences(kept: dict[str, bytes], expected: set[str]) -> list[str]:
    """Files that an archive lacks, has in excess or has with other contents than the repository."""
    wrong = [f"missing: {name}" for name in expected - kept.keys()]
    wrong += [f"not expected: {name}" for name in kept.keys() - expected]
    same = expected & kept.keys()
    wrong += [f"differs: {name}" for name in same if kept[name] != (REPOSITORY / name).read_bytes()]
    return sorted(wrong)


def build(scratch: Path, tracked: set[str]) -> tuple[Path, Path]:
    """Make the sdist and the wheel from copies of the tracked files; returns their paths."""
    for name in tracked:
        (scratch / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, scratch / "source" / name)
    command = [sys.executable, "-m", "build", "--outdir", "dist", "source"]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}error: the build failed")
    (sdist,), (wheel,) = (scratch / "dist").glob("*.tar.gz"), (scratch / "dist").glob("*.whl")
    return sdist, wheel


def wrong_in_sdist(path: Path, tracked: set[str]) -> list[str]:
    """What the sdist should not hold, or holds otherwise than git; setuptools adds PKG-INFO and its own folder."""
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile()]
        kept = {member.name.split("/", 1)[1]: archive.extractfile(member).read() for member in members}
    kept.pop("PKG-INFO")
    kept.pop("setup.cfg")  # is written anew, with a section of setuptools
    kept = {name: data for name, data in kept.items() if not name.startswith("xnor_ref.egg-info/")}
    return differences(kept, tracked - {"setup.cfg"})


def wrong_in_wheel(path: Path, tracked: set[str]) -> list[str]:
    """The same for the wheel, and its records."""
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    records = {name for name in kept if ".dist-info/" in name}
    code = {
        name
        for name in tracked
        if name.startswith("xnor_ref/") and name.endswith((".py", ".typed", ".js", ".css", ".html"))
    }
    found = {name.split(".dist-info/")[1] for name in records}
    wrong = [f"records: {found} in place of {ADDED_TO_WHEEL}"] if found != ADDED_TO_WHEEL else []
    return wrong + differences({name: data for name, data in kept.items() if name not in records}, code)


def failed_commands(scratch: Path, wheel: Path) -> list[str]:
    """Commands that fail with the wheel in a new environment and an empty folder."""
    venv.create(scratch / "venv", with_pip=True)
    programs = scratch / "venv" / ("Scripts" if os.name == "nt" else "bin")
    install = [programs / "python", "-m", "pip", "install", "--quiet", "--no-compile", wheel]
    subprocess.run(install, check=True)
    (scratch / "empty").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    failed = []
    for program, *arguments in COMMANDS:
        done = subprocess.run([programs / program, *arguments], cwd=scratch / "empty", env=environment)
        if done.returncode:
            failed.append(f"exit code {done.returncode}: {program} {' '.join(arguments)}")
    return failed


def main() -> int:
    tracked = files_of_git()
    with tempfile.TemporaryDirectory() as name:
        sdist, wheel = build(Path(name), tracked)
        wrong = wrong_in_sdist(sdist, tracked) + wrong_in_wheel(wheel, tracked) + failed_commands(Path(name), wheel)
    print("\n".join(wrong) or "the sdist and the wheel are sound")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
