"""The shape of the code: imports point one way, importing is cheap, nothing is unpickled, no file outgrows its room."""

import ast
import importlib
import re
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.try_versions import CORE

PACKAGE = REPOSITORY / "xnor_ref"
ROOMS = (  # from the top: each may import only from those after it, and from files of its own room
    "__main__",
    "cli",
    "show",
    "explorer",
    "bench",
    "verify",
    "check",
    "experiments",
    "training",
    "interop",
    "packed",
    "compress",
    "charts",
    "datasets",
    "models",
    "optim",
    "nn",
    "binary",
    "autodiff",
    "box",
    "kernels",
    "conformance",
    "steady",
    "storage",
    "errors",
)
SUB_ROOMS = {  # in the same order; "" are the files that lie in the room itself
    "kernels": ("answers", "ops", "training", "vectors", "readable", "microkernels", "compiling", "basics"),
    "bench": ("training", "", "peers", "measuring"),
    "cli": ("commands", "bench", ""),
    "conformance": ("", "foreign", "trying", "basics"),
    "check": ("", "lessons", "basics"),
    "training": ("", "callbacks", "fitting", "distributed", "storing", "settings"),
    "interop": ("loading", "keras", "onnx_in", "pytorch", ""),
    "datasets": ("imagenet", ""),
}
MOST_FILES = 13  # of a folder, without its __init__.py
SOURCES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES}


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "xnor_ref" else None


def sub_room_of(module: str) -> str:
    parts = module.split(".")
    return parts[2] if len(parts) > 2 and parts[2] in SUB_ROOMS[parts[1]] else ""


@cache
def imported_modules(source: str) -> list[str]:
    """What a file imports, also inside of functions."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def upward_imports(module: str, source: str) -> list[str]:
    """What a module imports from a room, or a sub-room of its own room, that is above it."""
    room = room_of(module)
    below = ROOMS[ROOMS.index(room) :]
    found = []
    for name in imported_modules(source):
        target = room_of(name)
        if target not in ROOMS or name not in MODULES:
            continue
        if target not in below:
            found.append(name)
        elif target == room in SUB_ROOMS and MODULES[name].name != "__init__.py":
            order = SUB_ROOMS[room]
            if order.index(sub_room_of(name)) < order.index(sub_room_of(module)):
                found.append(name)
    return found


def arrows(sources: dict[str, str]) -> dict[str, set[str]]:
    """What each module imports of the others: of `from a import b`, a.b where that is a module, else a."""
    found: dict[str, set[str]] = {}
    for module, source in sources.items():
        names = set(imported_modules(source)) & set(sources)
        packages = {name for name in names if any(other.startswith(f"{name}.") for other in names)}
        found[module] = names - packages - {module}
    return found


@cache
def arrows_of_the_package() -> dict[str, set[str]]:
    return arrows({module: path.read_text() for module, path in MODULES.items()})


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that need each other."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        left = list(graph[start])
        while left:
            module = left.pop()
            if module not in seen:
                seen.add(module)
                left += graph[module]
        reached[start] = seen
    groups = {frozenset(b for b in reached[a] if a in reached[b]) for a in graph if a in reached[a]}
    return sorted(sorted(group) for group in groups)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    module = module_of(path)
    if module in ("xnor_ref", "xnor_ref.interop"):
        return  # the lazy public names
    assert room_of(module) in ROOMS, f"{module} has no place in the order of rooms"
    assert upward_imports(module, path.read_text()) == []


def test_an_upward_import_is_seen():
    def found(module, name):
        return upward_imports(module, f"def f():\n    import {name}")

    assert found("xnor_ref.kernels.ops.planned", "xnor_ref.nn.module") == ["xnor_ref.nn.module"]
    assert found("xnor_ref.nn.module", "xnor_ref.kernels.basics.layout") == []
    assert found("xnor_ref.kernels.basics.layout", "xnor_ref.kernels.ops.planned") == ["xnor_ref.kernels.ops.planned"]
    assert found("xnor_ref.kernels.ops.planned", "xnor_ref.kernels.basics.layout") == []
    assert found("xnor_ref.bench.peers.naive", "xnor_ref.bench.compare") == ["xnor_ref.bench.compare"]


SETTINGS_AS_A_WHOLE = re.compile(  # the door of training, what stores config.json, and what lies above
    r"xnor_ref\.(cli\.|show\.|experiments\.|training\.(settings\.|job$|storing\.runs$))"
)


def test_only_the_door_of_training_knows_all_settings():
    """Below, each file takes what it needs."""
    importers = [m for m, path in MODULES.items() if CONFIG in imported_modules(path.read_text())]
    assert len(importers) > 3 and [m for m in importers if not SETTINGS_AS_A_WHOLE.match(m)] == []
    assert not SETTINGS_AS_A_WHOLE.match("xnor_ref.training.fitting.trainer")


CONFIG = "xnor_ref.training.settings.config.TrainConfig"


def test_every_sub_room_has_its_place():
    folders = {path.parent for path in SOURCES if len(path.relative_to(PACKAGE).parts) == 3}
    for room in SUB_ROOMS:
        found = {folder.name for folder in folders if folder.parent.name == room}
        assert found == set(SUB_ROOMS[room]) - {""}


def test_no_two_files_need_each_other():
    assert circles(arrows_of_the_package()) == []


def test_a_circle_is_seen():
    sources = {"p": "", "p.a": "from p import b", "p.b": "def f():\n    from p.c import x", "p.c": "import p.a"}
    assert circles(arrows(sources)) == [["p.a", "p.b", "p.c"]]
    assert circles(arrows({**sources, "p.c": ""})) == []


def test_no_folder_has_too_many_files():
    folders = {path.parent for path in [*SOURCES, *(REPOSITORY / "tests").rglob("*.py")]}
    counts = {folder: sum(path.name != "__init__.py" for path in folder.glob("*.py")) for folder in folders}
    assert {str(folder): count for folder, count in counts.items() if count > MOST_FILES} == {}


LAZY = {  # files with imports inside of functions, and what they buy
    "help, completion and wrong usage are answered before what they do not need is imported: 0.1 s in place of 0.5": (
        "cli/__init__.py", "cli/bench/bench_distributed.py", "cli/bench/bench_options.py", "cli/bench/bench_scale.py",
        "cli/bench/bench_train.py",
        "cli/commands/bench.py", "cli/commands/check.py", "cli/commands/compress.py", "cli/commands/evaluate.py",
        "cli/commands/export.py", "cli/commands/import_.py", "cli/commands/info.py", "cli/commands/predict.py",
        "cli/commands/reproduce.py", "cli/commands/show.py", "cli/commands/train.py", "cli/commands/verify.py",
        "cli/kit_options.py", "cli/onnx_text.py", "cli/options.py", "cli/ranks.py", "training/settings/config.py",
    ),
    "Hypothesis, 0.2 s, is imported only where cases are drawn": ("conformance/kit.py",),
    "Numba, 0.25 s, is imported only where compiled kernels compute": (
        "bench/peers/baselines.py", "compress/execute.py", "compress/visits.py", "datasets/batches.py",
        "kernels/basics/rungs.py", "kernels/ops/binary_ops.py", "kernels/ops/float_ops.py", "kernels/ops/sign_sums.py",
        "nn/backend.py", "nn/fused.py", "optim/optimizers.py", "packed/runtime.py", "packed/trees.py",
        "training/distributed/gradients.py", "training/storing/environment.py",
    ),
    "Pillow is imported only where a picture is read, drawn or written": (
        "datasets/images.py", "datasets/imagenet/photos.py", "datasets/imagenet/stand_in.py", "datasets/shapes.py",
        "explorer/writing.py", "training/report.py",
    ),
    "torch, onnx, h5py, matplotlib, scikit-learn, pytest and mpi4py are extras": (
        "bench/peers/torch_twin.py", "check/plugin.py", "conformance/suite.py", "interop/keras/files.py",
        "interop/onnx_check.py", "interop/onnx_in/running.py", "interop/onnx_out_graph.py", "charts/files.py",
        "training/classifier.py", "training/distributed/ranks.py",
    ),
}  # fmt: skip


def lazy_imports(source: str) -> list[str]:
    """The imports inside of functions."""
    functions = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    inside = {node for function in functions for node in ast.walk(function)}
    return sorted(ast.unparse(node) for node in inside if isinstance(node, ast.Import | ast.ImportFrom))


def test_imports_inside_of_functions_are_declared():
    found = {str(path.relative_to(PACKAGE)) for path in SOURCES if lazy_imports(path.read_text())}
    declared = [name for names in LAZY.values() for name in names]
    assert sorted(found) == sorted(declared)


def test_an_import_inside_of_a_function_is_seen():
    assert lazy_imports("import a\nclass B:\n    def f(self):\n        if a:\n            from c import d") == [
        "from c import d"
    ]


@pytest.mark.parametrize("command", ["compress", "export", "predict", "verify"])
def test_help_needs_neither_numpy_nor_numba(command):
    assert modules_after(f"import xnor_ref.cli.commands.{command}") & {"numpy", "numba"} == set()


PUBLIC = {"numba", "numba.config", "numba.extending", "numba.types", "llvmlite", "llvmlite.binding", "llvmlite.ir"}
UNSEEN = {"jitclass", "overload", "overload_attribute", "overload_method", "register_jitable", "vectorize"}


def holder_of(name: str) -> str:
    """The module in which the dotted name of a module or of a value in it is looked up."""
    with suppress(ImportError):
        importlib.import_module(name)
        return name
    return holder_of(name.rpartition(".")[0])


def private_parts(source: str) -> set[str]:
    """What a file uses of Numba and llvmlite that is private, or that a kernel's stamp cannot follow."""
    attributes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    used = {*imported_modules(source), *map(ast.unparse, attributes)}
    libraries = {name for name in used if name.partition(".")[0] in ("numba", "llvmlite")}
    unseen = {node.attr for node in attributes} | {name.rpartition(".")[2] for name in libraries}
    return {name for name in libraries if {name, holder_of(name)}.isdisjoint(PUBLIC)} | unseen & UNSEEN


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_one_file_uses_private_parts_of_numba(path):
    found = private_parts(path.read_text())
    assert bool(found) == (path.name == "numba_private.py"), found


def test_a_private_part_of_numba_is_seen():
    for private in ("from numba.core import cgutils", "from numba import core", "import numba.np", "numba.core.types"):
        assert private_parts(private)
    for unseen in ("from numba.extending import overload", "extending.overload(f)", "numba.vectorize"):
        assert private_parts(unseen)
    assert not private_parts("from numba import float32, types\nfrom numba.extending import intrinsic\nnumba.njit(f)")


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
    assert rooms <= {"packed", "kernels", "steady", "storage", "errors"}, rooms
    assert not loaded & {"PIL", "click", "hypothesis"}


def test_freezing_needs_none_of_the_training_loop():
    """The layers of `nn`, and what they are made of."""
    rooms = {room_of(module) for module in modules_after("import xnor_ref; xnor_ref.freeze; xnor_ref.nn")} - {None}
    assert rooms <= {"packed", "nn", "binary", "autodiff", "kernels", "steady", "storage", "errors"}, rooms


def test_public_names_are_there():
    import xnor_ref

    for name in xnor_ref.__all__:
        assert getattr(xnor_ref, name) is not None
    assert set(xnor_ref.__all__) <= set(dir(xnor_ref))
    assert modules_after("import xnor_ref; xnor_ref.errors.InputError; xnor_ref.nn.Linear") >= {"xnor_ref.nn"}
    with pytest.raises(AttributeError, match="no attribute 'pack'"):
        _ = xnor_ref.pack


def test_the_oldest_versions_that_are_admitted_were_tried():
    admitted = dict(re.findall(r"^    (numpy|numba)>=(\S+)", (REPOSITORY / "setup.cfg").read_text(), re.MULTILINE))
    rows = (REPOSITORY / "docs" / "versions.md").read_text()
    tried = re.findall(r"^\| 3\S+ \| (\S+) \| (\S+) \| \S+ \| \d+ passed, \d+ skipped; trains \|$", rows, re.MULTILINE)
    assert any(numpy.startswith(admitted["numpy"]) and numba.startswith(admitted["numba"]) for numpy, numba in tried)
    assert all((REPOSITORY / name).exists() for name in CORE)
