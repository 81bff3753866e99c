"""A kernel is compiled anew when something that it is made of changes, and only then."""

import importlib
import json
import os
import subprocess
import sys

import numba
import pytest

from tests.conftest import JIT_DISABLED, REPOSITORY
from xnor_ref.kernels.basics import numba_private
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.kernels.compiling import ahead, stamp

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")

# A stranger's package: what its kernels are made of lies in other modules.
PACKAGE = {
    "constants.py": '''
from enum import IntEnum
import numpy as np

STEP = np.int64(10)
FACTOR = 3
TABLE = np.arange(4)
PAIR = (5, 6)
WIDTHS = {"narrow": 2, "wide": 4}
CHOSEN = frozenset({"narrow", "wide"})

class Tag(IntEnum):
    LEFT = 1
    RIGHT = 2
''',
    "building.py": '''
import functools
from llvmlite import ir
from numba import int64
from numba.extending import intrinsic
from . import constants

def number(value):
    """A constant."""
    return ir.Constant(ir.IntType(64), value)

def scaled(b, x, offset=0):
    return b.add(b.mul(x, number(constants.FACTOR)), number(offset))

def twice(b, x):
    return scaled(b, scaled(b, x))

def unused(b, x):
    return b.sub(x, number(1))

@functools.cache
def width(name):
    return constants.WIDTHS[name]

class Place:
    shift = 1

    def __init__(self, value):
        self.value = value

    def moved(self, b, x):
        return b.add(x, number(self.value + self.shift))

PLACE = Place(7)

def operation(generate):
    """An intrinsic from a function."""
    @intrinsic
    def one(context, x):
        return int64(int64), lambda context, b, signature, operands: generate(b, operands[0])
    return one

OPERATIONS = {
    "twice": operation(twice),
    "wide": operation(lambda b, x: b.mul(x, number(width("wide")))),
    "moved": operation(lambda b, x: PLACE.moved(b, x)),
    "chosen": operation(lambda b, x: b.add(x, number(len(constants.CHOSEN)))),
}
''',
    "helpers.py": '''
from numba import int64
from xnor_ref.kernels.compiling.jit import compiled
from . import constants

@compiled(int64(int64), forceinline=True)
def step(x):
    return x + constants.STEP

@compiled(int64(int64), forceinline=True)
def back(x):
    return x - constants.STEP

@compiled(int64(int64))
def two_steps(x):
    return step(step(x))
''',
    "main.py": '''
from numba import int32, int64
from xnor_ref.kernels.compiling.jit import compiled
from . import building, constants, helpers
from .building import OPERATIONS
from .constants import PAIR, TABLE
from .helpers import step as go

wide, moved, chosen = (OPERATIONS[name] for name in ("wide", "moved", "chosen"))
twice = OPERATIONS["twice"]
LOCAL = 1

@compiled(int64(int64))
def alone(x):
    """Nothing else."""
    return x + 1

@compiled(int64(int64))
def local(x):
    return x + LOCAL

@compiled(int64(int64))
def looks_up(x):
    return TABLE[x] + PAIR[1]

@compiled(int64(int64))
def tagged(x):
    return x + int64(constants.Tag.RIGHT)

@compiled(int64(int64))
def steps(x):
    return go(x)

@compiled(int64(int64))
def steps_twice(x):
    return helpers.two_steps(x)

@compiled(int64(int64))
def generated(x):
    return twice(x)

@compiled(int64(int64))
def widened(x):
    return wide(x)

@compiled(int64(int64))
def placed(x):
    return moved(x)

@compiled(int64(int64))
def counted(x):
    return chosen(x)

def answers():
    kernels = (alone, local, looks_up, tagged, steps, steps_twice, generated, widened, placed, counted)
    return {kernel.__name__: int(kernel(2)) for kernel in kernels}
''',
}  # fmt: skip
ANSWERS = {
    "alone": 3, "local": 3, "looks_up": 8, "tagged": 4, "steps": 12, "steps_twice": 22, "generated": 18, "widened": 8,
    "placed": 10, "counted": 4,
}  # fmt: skip
STEPS, BUILT = {"steps", "steps_twice"}, {"generated", "widened", "placed", "counted"}


def write(folder, *edits):
    """The package as files in a folder, after some edits: (file, old, new)."""
    files = dict(PACKAGE)
    for file, old, new in edits:
        assert old in files[file]
        files[file] = files[file].replace(old, new)
    (folder / "strange").mkdir(parents=True, exist_ok=True)
    for name, text in {"__init__.py": "", **files}.items():
        (folder / "strange" / name).write_text(text)


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    """A function from edits to what each kernel of `main` is made of then."""

    def of(*edits):
        folder = tmp_path_factory.mktemp("edited")
        write(folder, *edits)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(folder)
            try:
                module = importlib.import_module("strange.main")
                return {name: stamp.made_of(getattr(module, name)) for name in ANSWERS}
            finally:
                for name in [name for name in sys.modules if name.partition(".")[0] == "strange"]:
                    del sys.modules[name]

    return of


@pytest.fixture(scope="module")
def before(digests):
    return digests()


MAIN, BUILDING, HELPERS, CONSTANTS = "main.py", "building.py", "helpers.py", "constants.py"


@pytest.mark.parametrize(
    ("edit", "changed"),
    [
        ((MAIN, '"""Nothing else."""', '"""Something else, at length."""'), set()),
        ((MAIN, '    """Nothing else."""\n', ""), set()),
        ((MAIN, "def local(x):\n", 'def local(x):\n    """New."""\n    # A comment.\n'), set()),
        ((MAIN, "LOCAL = 1\n", "\n\n\nLOCAL = 1\nANOTHER = 2\n"), set()),
        ((MAIN, "def answers():", "def unused():\n    return 5\n\ndef answers():"), set()),
        ((BUILDING, '"""A constant."""', '"""A constant of 64 bits."""'), set()),
        ((BUILDING, "b.sub(x, number(1))", "b.sub(x, number(2))"), set()),
        ((HELPERS, "x - constants.STEP", "x - 2 * constants.STEP"), set()),
        ((CONSTANTS, "(5, 6)", "(5, 6)\nMORE = 7"), set()),
        ((MAIN, "LOCAL = 1", "LOCAL = 2"), {"local"}),
        ((MAIN, "LOCAL = 1", "LOCAL = 1.0"), {"local"}),
        ((MAIN, "LOCAL = 1", "LOCAL = True"), {"local"}),
        ((MAIN, "return x + 1\n", "return x - 1\n"), {"alone"}),
        ((MAIN, "return x + 1\n", "return x + 3\n"), {"alone"}),
        ((MAIN, "@compiled(int64(int64))\ndef alone", "@compiled(int64(int64), fastmath=True)\ndef alone"), {"alone"}),
        ((MAIN, "(int64(int64))\ndef alone", "(int64(int32))\ndef alone"), {"alone"}),
        ((MAIN, "import step as go", "import back as go"), {"steps"}),
        ((MAIN, 'twice = OPERATIONS["twice"]', 'twice = OPERATIONS["wide"]'), {"generated"}),
        ((CONSTANTS, "np.arange(4)", "np.arange(4)[::-1].copy()"), {"looks_up"}),
        ((CONSTANTS, "np.arange(4)", "np.repeat(np.arange(4), 2)[::2]"), {"looks_up"}),
        ((CONSTANTS, "np.arange(4)", "np.arange(4, dtype=np.int32)"), {"looks_up"}),
        ((CONSTANTS, "(5, 6)", "(5, 7)"), {"looks_up"}),
        ((CONSTANTS, "RIGHT = 2", "RIGHT = 3"), {"tagged"}),
        ((CONSTANTS, "np.int64(10)", "np.int64(11)"), STEPS),
        ((CONSTANTS, "np.int64(10)", "np.int32(10)"), STEPS),
        ((HELPERS, "x + constants.STEP", "x + constants.STEP + 1"), STEPS),
        ((HELPERS, "step(step(x))", "step(step(step(x)))"), {"steps_twice"}),
        ((HELPERS, "forceinline=True)\ndef step", "inline='always')\ndef step"), STEPS),
        ((CONSTANTS, "FACTOR = 3", "FACTOR = 4"), {"generated"}),
        ((BUILDING, "offset=0", "offset=1"), {"generated"}),
        ((BUILDING, "scaled(b, scaled(b, x))", "scaled(b, x)"), {"generated"}),
        ((BUILDING, "b.mul(x, number(constants", "b.add(x, number(constants"), {"generated"}),
        ((BUILDING, "IntType(64), value", "IntType(64), value + 1"), BUILT),
        ((BUILDING, "generate(b, operands[0])", "generate(b, generate(b, operands[0]))"), BUILT),
        ((BUILDING, "int64(int64), lambda", "int64(int64), lambda *_: None if 0 else lambda"), BUILT),
        ((CONSTANTS, '"wide": 4}', '"wide": 8}'), {"widened"}),
        ((BUILDING, "return constants.WIDTHS[name]", "return constants.WIDTHS[name] // 2"), {"widened"}),
        ((BUILDING, "Place(7)", "Place(8)"), {"placed"}),
        ((BUILDING, "shift = 1", "shift = 2"), {"placed"}),
        ((BUILDING, "self.value + self.shift", "self.value - self.shift"), {"placed"}),
        ((CONSTANTS, 'frozenset({"narrow", "wide"})', 'frozenset({"narrow"})'), {"counted"}),
    ],
)  # fmt: skip
def test_an_edit_changes_the_digests_of_exactly_its_users(digests, before, edit, changed):
    after = digests(edit)
    assert {name for name in before if after[name] != before[name]} == changed


# What cannot be followed: a change in any module that may be behind it must show.
@pytest.mark.parametrize(
    ("hidden", "edit"),
    [
        ([(BUILDING, "constants.FACTOR", "getattr(constants, 'FACTOR')")], (CONSTANTS, "FACTOR = 3", "FACTOR = 4")),
        ([(BUILDING, "constants.FACTOR", "globals()['constants'].FACTOR")], (CONSTANTS, "FACTOR = 3", "FACTOR = 4")),
        (
            [(BUILDING, "    return scaled(b, sc", "    from .constants import FACTOR\n    return scaled(b, sc")],
            (CONSTANTS, "FACTOR = 3", "FACTOR = 4"),
        ),
        (
            [
                (CONSTANTS, "FACTOR = 3", "HIDDEN = 3\nFACTOR = (HIDDEN for _ in range(9))"),
                (BUILDING, "constants.FACTOR", "next(constants.FACTOR)"),
            ],
            (CONSTANTS, "HIDDEN = 3", "HIDDEN = 4"),
        ),
        (
            [
                (MAIN, "LOCAL = 1", "LOCAL = 1\ndef plain(x):\n    return x\nfrom . import registered"),
                (MAIN, "return x + LOCAL", "return plain(x)"),
            ],
            (MAIN, "from . import registered", "from . import registered as other"),
        ),
    ],
    ids=["getattr", "globals", "import inside", "state that does not show", "a plain function in a kernel"],
)  # fmt: skip
def test_what_cannot_be_followed_counts_with_its_whole_source(digests, hidden, edit, monkeypatch):
    monkeypatch.setitem(PACKAGE, "registered.py", "")
    user = "local" if hidden[0][0] == MAIN else "generated"
    assert digests(*hidden)[user] == digests(*hidden)[user] != digests(*hidden, edit)[user]


def test_what_shows_nowhere_is_not_followed():
    names = {"hidden": (x for x in ())}
    exec("def f():\n    return hidden", names)
    with pytest.raises(stamp.NotFollowed):
        stamp.digest_of(names["f"])


def test_a_kernel_counts_as_what_it_was_when_it_was_compiled(tmp_path, monkeypatch):
    """Of a table that changes between two kernels, each holds the values at its own time."""
    write(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    helpers, constants = (importlib.import_module(f"strange.{name}") for name in ("helpers", "constants"))
    try:
        alone, both = stamp.made_of(helpers.step), stamp.made_of(helpers.two_steps)
        assert helpers.step(1) == 11 and stamp.made_of(helpers.two_steps) == both
        constants.STEP += 1
        assert helpers.step.made_of == stamp.made_of(helpers.step) == alone != stamp.made_of(helpers.back)
        assert helpers.back(1) == -10 and helpers.two_steps(1) == 21 and helpers.two_steps.made_of == both
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "strange"]:
            del sys.modules[name]


@pytest.mark.skipif(not has_vectors(), reason="the kernels are of explicit vector code")
@pytest.mark.parametrize("name", ["training.gradient_layout:quantize", "training.gradients:_convolve_bytes"])
def test_code_that_runs_while_a_kernel_is_compiled_is_followed(name, monkeypatch):
    kernel = ahead._kernel(f"xnor_ref.kernels.{name}")
    kernel.prepare()  # and with it the kernels that it calls
    rooms = tuple(str(REPOSITORY / "xnor_ref" / "kernels" / room) for room in ("microkernels", "training"))
    followed, ran, scan = set(), set(), stamp._scan
    monkeypatch.setattr(stamp, "_scan", lambda code: followed.add(code) or scan(code))
    monkeypatch.setattr(kernel, "made_of", None)
    stamp.made_of(kernel)

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(rooms):
            ran.add(frame.f_code)

    dispatcher = numba.njit(**kernel.options)(kernel.py_func)
    sys.setprofile(note)
    try:
        numba_private.compile_once(dispatcher, kernel.signature)
    finally:
        sys.setprofile(None)
    assert ran <= followed and len(ran) > 5


START = "import json; from strange import main; print(json.dumps(main.answers()))"


def start(folder):
    """What the kernels answer in a new process, and the names of those that it compiled."""

    def kept():
        return {path.name.split(".")[2]: path.stat().st_mtime_ns for path in folder.rglob("*.kernel")}

    earlier = kept()
    path = os.pathsep.join([str(folder), str(REPOSITORY)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("NUMBA_CACHE_DIR", None)
    run = subprocess.run([sys.executable, "-W", "error", "-c", START], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout), {name for name, time in kept().items() if earlier.get(name) != time}


def test_a_start_after_an_edit_compiles_what_was_edited(tmp_path):
    helpers = {"step", "two_steps"}
    write(tmp_path)
    assert start(tmp_path) == (ANSWERS, set(ANSWERS) | helpers)
    assert start(tmp_path) == (ANSWERS, set())
    documented = [(MAIN, '"""Nothing else."""', '"""Told otherwise."""'), (BUILDING, '"""A constant."""', "")]
    documented[1] = (BUILDING, '    """A constant."""\n', "    # A constant\n\n")
    write(tmp_path, *documented)
    assert start(tmp_path) == (ANSWERS, set())
    write(tmp_path, *documented, (HELPERS, "x + constants.STEP", "x + constants.STEP + 1"))
    stepped = {**ANSWERS, "steps": 13, "steps_twice": 24}
    assert start(tmp_path) == (stepped, STEPS | helpers)
    write(tmp_path, *documented, (CONSTANTS, "FACTOR = 3", "FACTOR = 4"))
    assert start(tmp_path) == ({**ANSWERS, "generated": 32}, STEPS | helpers | {"generated"})
