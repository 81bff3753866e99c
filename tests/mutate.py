"""Do the tests notice a fault? Change the code in one place after another, and run the tests of the room.

`python -m tests.mutate --count 200` draws places from a seed, changes each in a copy of the repository, and prints the
score: the share of changes that some test notices. A change is a comparison, an operator or a constant for another, a
condition turned round, or a statement left out. Results are appended to --record, and a further run goes on from there.
`--survivors` runs the changes that no test has noticed once more, with the tests that are named.
"""

import argparse
import ast
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.conftest import REPOSITORY

STAGES = {  # of each room, the tests that notice most first; the next ones run on what these have not noticed
    "binary": ("tests/nn/test_binary_layers.py tests/nn/test_rules.py", "tests/nn tests/optim"),
    "autodiff": ("tests/autodiff",),
    "kernels/readable": (
        "NUMBA_DISABLE_JIT=1 tests/kernels/compiling/test_selftest.py",
        "NUMBA_DISABLE_JIT=1 -m kernels tests",
    ),
    "packed": ("tests/packed/test_file.py tests/packed/test_format.py", "tests/packed"),
}
SAME_CODE = "--deselect=tests/kernels/test_simd_targets.py"  # for other processors, which takes long
PATIENCE = 900  # seconds; a test that never ends has noticed
COMPARED = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In},
}
COMPUTED = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.Mod: ast.FloorDiv, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr},
    **{ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd, ast.MatMult: ast.Add, ast.Pow: ast.Mult},
}


def changed(node: ast.AST) -> str | None:
    """The source of a node with a fault in it, or None for one that is left alone."""
    match node:
        case ast.Compare(left, [op, *others], comparators) if type(op) in COMPARED:
            return ast.unparse(ast.Compare(left, [COMPARED[type(op)](), *others], comparators))
        case ast.BinOp(left, op, right) if type(op) in COMPUTED:
            return ast.unparse(ast.BinOp(left, COMPUTED[type(op)](), right))
        case ast.BoolOp(op, values):
            return ast.unparse(ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values))
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            return ast.unparse(operand)
        case ast.IfExp(test, body, orelse):
            return ast.unparse(ast.IfExp(test, orelse, body))
        case ast.Constant(bool(value)):
            return str(not value)
        case ast.Constant(int(value) | float(value)):
            return str(value + 1)
        case ast.AugAssign() | ast.Expr(ast.Call()):
            return "pass"
    return None


def places(source: str) -> list[tuple[ast.AST, str]]:
    """Every node that can be changed, with its fault; not those of annotations, decorators, messages and imports."""
    found = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.arg | ast.Import | ast.ImportFrom | ast.Assert):
            return
        if (fault := changed(node)) is not None:
            found.append((node, fault))
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns", "decorator_list"):
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        visit(child)

    visit(ast.parse(source))
    return found


def draw(count: int, seed: int) -> list[dict]:
    """So many changes, as many of each room: file, number of the place in it, room, and how the change reads."""
    found, rng = [], random.Random(seed)
    for room in STAGES:
        of_room = []
        for path in sorted((REPOSITORY / "xnor_ref" / room).rglob("*.py")):
            for number, (node, fault) in enumerate(places(path.read_text())):
                name, text = str(path.relative_to(REPOSITORY)), f"{node.lineno}: {ast.unparse(node)} -> {fault}"
                of_room.append({"file": name, "number": number, "room": room, "change": text})
        found += rng.sample(of_room, count // len(STAGES))
    rng.shuffle(found)
    return found


def is_noticed(mutation: dict, copy: Path, stages: Sequence[str]) -> bool:
    """Whether a test fails, crashes or never ends with the change made in a copy of the repository."""
    path = copy / mutation["file"]
    source = path.read_text()
    node, fault = places(source)[mutation["number"]]
    lines = source.encode().splitlines(keepends=True)
    start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
    fault = fault if fault == "pass" else f"({fault})"
    path.write_bytes(source.encode()[:start] + fault.encode() + source.encode()[end:])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-qx",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        str(copy / "tmp"),
        SAME_CODE,
    ]
    try:
        for stage in stages:
            settings = [word for word in stage.split() if word.startswith("NUMBA_")]
            run = ["env", *settings, *command, *(word for word in stage.split() if word not in settings)]
            if subprocess.run(run, cwd=copy, capture_output=True, timeout=PATIENCE).returncode:
                return True
        return False
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--record", type=Path, default=Path("mutations.jsonl"))
    parser.add_argument("--survivors", nargs="+", metavar="STAGE", help="what to run on the survivors so far")
    options = parser.parse_args()
    done = [json.loads(line) for line in options.record.read_text().splitlines()] if options.record.exists() else []
    known = {(one["file"], one["change"]): one for one in done}
    chosen = draw(options.count, options.seed)
    chosen = [known.get((one["file"], one["change"]), one) for one in chosen]
    left = [one for one in chosen if (not one.get("noticed", True) if options.survivors else "noticed" not in one)]
    copies, lock = threading.local(), threading.Lock()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.processes) as pool:

        def run(mutation: dict) -> None:
            if not hasattr(copies, "folder"):
                copies.folder = Path(tempfile.mkdtemp(dir=scratch)) / "copy"
                ignored = shutil.ignore_patterns(".git", ".venv", "runs", ".mypy_cache", ".hypothesis")
                shutil.copytree(REPOSITORY, copies.folder, ignore=ignored)
            stages = options.survivors or STAGES[mutation["room"]]
            mutation["noticed"] = is_noticed(mutation, copies.folder, stages)
            with lock, options.record.open("a") as record:
                record.write(json.dumps(mutation) + "\n")
                print(
                    "noticed " if mutation["noticed"] else "SURVIVED", mutation["file"], mutation["change"], flush=True
                )

        list(pool.map(run, left))
    for room in STAGES:
        of_room = [one for one in chosen if one["room"] == room]
        print(f"{room}: {sum(one['noticed'] for one in of_room)} of {len(of_room)} noticed")
    print(f"score: {sum(one['noticed'] for one in chosen)} of {len(chosen)}")


if __name__ == "__main__":
    main()
