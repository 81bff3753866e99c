"""The shape of the code: imports point one way, importing is cheap, nothing is unpickled, no file outgrows its room."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "xnor_ref"
ROOMS = (  # from the top: each may import only from those after it
    "cli",
    "bench",
    "verify",
    "experiments",
    "training",
    "packed",
    "compress",
    "datasets",
    "models",
    "optim",
    "nn",
    "binary",
    "autodiff",
    "kernels",
    "storage",
    "errors",
)
SOURCES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "xnor_ref" else None


def imported_modules(source: str):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def upward_imports(room: str, source: str) -> list[str]:
    below = ROOMS[ROOMS.index(room) :]
    return [m for m in imported_modules(source) if (target := room_of(m)) in ROOMS and target not in below]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return  # the lazy public names
    assert room in ROOMS, f"{room} has no place in the order of rooms"
    assert upward_imports(room, path.read_text()) == []


def test_an_upward_import_is_seen():
    assert upward_imports("kernels", "from xnor_ref.nn import layers") == ["xnor_ref.nn", "xnor_ref.nn.layers"]
    assert upward_imports("nn", "import xnor_ref.kernels.layout") == []


PICKLE = re.compile(r"\b(import pickle|from pickle|allow_pickle\s*=\s*True|\beval\(|\bexec\()")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_is_unpickled_or_evaluated(path):
    found = [line for line in path.read_text().splitlines() if PICKLE.search(line) and ".eval()" not in line]
    assert [line for line in found if "def eval" not in line] == []


def test_a_pickle_is_seen():
    assert PICKLE.search("import pickle") and PICKLE.search("np.load(f, allow_pickle=True)")


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    return set(run.stdout.split())


def test_importing_the_package_is_light():
    heavy = {"PIL", "click", "hypothesis", "numba", "safetensors", "matplotlib", "numpy"}
    assert modules_after("import xnor_ref") & heavy == set()


def test_inference_needs_none_of_the_training_code():
    loaded = modules_after("import xnor_ref; xnor_ref.load_packed; import xnor_ref.packed.runtime")
    rooms = {room_of(module) for module in loaded} - {None}
    assert rooms <= {"packed", "kernels", "storage", "errors"}, rooms
    assert not loaded & {"PIL", "click", "hypothesis"}


def test_public_names_are_there():
    import xnor_ref

    for name in xnor_ref.__all__:
        assert getattr(xnor_ref, name) is not None
    assert set(xnor_ref.__all__) <= set(dir(xnor_ref))
    with pytest.raises(AttributeError, match="no attribute 'pack'"):
        _ = xnor_ref.pack


def test_kernels_compile_where_neither_the_package_nor_the_home_can_be_written(tmp_path):
    """Numba finds no place for its cache there and would refuse; `kernels/cache.py` has a private one."""
    code = (
        "import tempfile; tempfile.tempdir = sys.argv[1]\n"
        "import numba.core.caching as caching\n"
        "[c for c in vars(caching).values() if hasattr(c, '_locator_classes')][0]._locator_classes = []\n"
        "from xnor_ref.kernels import cache\n"
        "folder = cache.folder_of(cache.folder_of)\n"
        "print(folder, oct(os.stat(folder).st_mode & 0o777))"
    )
    command = [sys.executable, "-c", "import os, sys, numba\n" + code, str(tmp_path)]
    environment = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT")}
    run = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment)
    folder, mode = run.stdout.split()
    assert Path(folder).parent == tmp_path and mode == "0o700", run.stderr
