"""Damaged caches of compiled kernels: `python -m tests.harness.cache --count 250`.

A cache is filled once. Then a file of it has one bit flipped (four times of five) or is cut short, and a process starts
on it and computes a packed network, by three backends, and steps of optimisers. It must compute what the first process
did. If it reads the damaged file, it must warn, and leave a sound one in its place. (Files of kernels that are only a
part of others are not read.)

Processes are forked from one that has imported everything and called no kernel.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path


def computed(folder: Path) -> tuple[str, str]:
    """(what a forked process computes with the cache in `folder`, its warnings)."""
    from tests.soak_startup import compute

    answer, told = folder.parent / "answer.txt", folder.parent / "told.txt"
    answer.write_text("")
    pid = os.fork()
    if not pid:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                answer.write_text(compute("optimiser") + compute("network"))
            told.write_text("\n".join(str(one.message) for one in caught))
        except BaseException:
            told.write_text(traceback.format_exc())
        finally:
            os._exit(0)
    status = os.waitpid(pid, 0)[1]
    return answer.read_text() or f"nothing, status {status}: {told.read_text()}", told.read_text()


def run(count: int, seed: int = 0) -> int:
    """Damage caches; print what was found, and return the number of faults."""
    rng, faults, warned = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory(prefix="xnor_ref-cache-") as place:
        folder, sound = Path(place) / "cache", Path(place) / "sound"
        folder.mkdir()
        before, os.environ["NUMBA_CACHE_DIR"] = os.environ.get("NUMBA_CACHE_DIR"), str(folder)
        try:
            wanted, _ = computed(folder)
            shutil.copytree(folder, sound)
            files = sorted(path.relative_to(sound) for path in sound.rglob("*.kernel"))
            if not files:
                raise SystemExit(f"no kernel was kept in {folder}: {wanted[-2000:]}")
            for number in range(count):
                name = files[number % len(files)]
                data = bytearray((sound / name).read_bytes())
                if number % 5:
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                else:
                    del data[rng.randrange(len(data)) :]
                (folder / name).write_bytes(data)
                found, told = computed(folder)
                warned += bool(told)
                if found != wanted:
                    faults += 1
                    print(f"{name}, number {number}: {found[-2000:]}", flush=True)
                elif told and (folder / name).read_bytes() == bytes(data):
                    faults += 1
                    print(f"{name}, number {number}: the damaged file was left", flush=True)
                shutil.copyfile(sound / name, folder / name)
        finally:
            if before is None:
                del os.environ["NUMBA_CACHE_DIR"]
            else:
                os.environ["NUMBA_CACHE_DIR"] = before
    print(f"{count} damaged caches of {len(files)} kernels: {warned} warnings, {faults} faults")
    return faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=250)
    sys.exit(6 if run(parser.parse_args().count) else 0)
