"""Disks that are full, read-only or closed to the user: `python -m tests.harness.disk --count 200` (as root).

A small run writes to a tmpfs of its own. Its size is drawn anew each time, so the disk is full at another file or in
another part of one. Or the folders lose their permission while the run is at work; or the run is killed, and resumed on
a disk that has become read-only. The
command must end with exit code 7 and a message that names the file, and what stands under its final name must be
readable. Then there is room again: the run must go on to the bytes of one that was never stopped.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.kills import OPTIONS, RUN, SAVED, Notes, faults_after_a_kill, never_stopped, start
from tests.training.training_samples import result_bytes
from xnor_ref.storage import TEMPORARY

LARGE = "size=64m"


def may_mount() -> bool:
    """Whether this process can mount a disk of its own."""
    with tempfile.TemporaryDirectory() as place:
        return (
            hasattr(os, "geteuid")
            and os.geteuid() == 0
            and shutil.which("mount") is not None
            and not _mount("-t", "tmpfs", "-o", LARGE, "tmpfs", place, check=False)
            and not subprocess.run(["umount", place]).returncode
        )


def _mount(*arguments: str, check: bool = True) -> int:
    return subprocess.run(["mount", *arguments], check=check, stderr=subprocess.DEVNULL).returncode


@contextmanager
def disk(options: str) -> Iterator[Path]:
    """A folder that is a disk of its own."""
    with tempfile.TemporaryDirectory(prefix="xnor_ref-disk-") as place:
        _mount("-t", "tmpfs", "-o", options, "tmpfs", place)
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", "-l", place], check=True)


def trial(kind: str, rng: random.Random, used: int, seconds: float, wanted: dict[str, bytes], notes: Notes) -> str:
    """What goes wrong with a disk of one kind, or ""."""
    notes[SAVED] = 0
    first = f"size={rng.randint(4, used // 1024)}k" if kind == "full" else LARGE
    with disk(first) as place:
        work = place / "work"
        work.mkdir()
        if kind == "closed":  # root may write anywhere
            os.chown(place, _NOBODY, -1)
            os.chown(work, _NOBODY, -1)
        log = Path(tempfile.gettempdir()) / f"{place.name}.txt"
        pid = start(work, OPTIONS, notes, log=log, user=_NOBODY if kind == "closed" else None)
        if kind == "closed":
            time.sleep(rng.uniform(0, seconds))
            for folder in (work, *(p for p in work.rglob("*") if p.is_dir())):
                os.chown(folder, 0, -1)
                os.chmod(folder, 0o555)
        elif kind == "read-only":  # a disk with a file open for writing cannot become so
            time.sleep(rng.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)
            if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
                log.unlink()
                return ""
            _mount("-o", "remount,ro", str(place))
            pid = start(work, OPTIONS, notes, log=log)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        told = log.read_text()
        log.unlink()
        if code == 0:
            return ""
        if code != 7 or (str(place.name) not in told and "cannot" not in told) or "Traceback" in told:
            return f"exit code {code}: {told[-1500:]}"
        faults = faults_after_a_kill(work, notes[SAVED])
        if kind == "closed":
            for folder in (work, *(p for p in work.rglob("*") if p.is_dir())):
                os.chown(folder, _NOBODY, -1)
                os.chmod(folder, 0o755)
        else:
            _mount("-o", f"remount,rw,{LARGE}", str(place))
        pid = start(work, OPTIONS, notes, log=log, user=_NOBODY if kind == "closed" else None)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code:
            faults.append(f"resumed with room: exit code {code}: {log.read_text()[-1500:]}")
        elif result_bytes(work / RUN) != wanted:
            faults.append("the resumed run has other bytes than one that was never stopped")
        log.unlink()
        faults += [f"left behind: {path.name}" for path in work.rglob(f"{TEMPORARY}*")]
        return "; ".join(faults) or "stopped"


_NOBODY = 65534


def run(count: int, seed: int = 0) -> int:
    """Fill disks; print what was found, and return the number of faults."""
    rng, notes, found, faults = random.Random(seed), Notes(), Counter[str](), 0
    with disk(LARGE) as place:
        wanted, _, seconds = never_stopped(place / "whole", OPTIONS, notes)
        used = sum(path.stat().st_size for path in (place / "whole").rglob("*") if path.is_file())
    for number in range(count):
        kind = ("full", "read-only", "closed")[number % 3]
        result = trial(kind, rng, used, seconds, wanted, notes)
        if result in ("", "stopped"):
            found[f"{kind}: {result or 'came to its end first'}"] += 1
        else:
            faults += 1
            print(f"{kind}: {result}", flush=True)
    for kind, number in sorted(found.items()):
        print(f"{number:6d} {kind}")
    print(f"{count} disks: {faults} faults")
    return faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=200)
    sys.exit(6 if run(parser.parse_args().count) else 0)
