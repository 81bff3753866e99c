"""The rooms' pages: what they name is there, they name every file, and their examples give what they show."""

import doctest
import re

import pytest

from tests.conftest import REPOSITORY
from tests.test_architecture import MODULES, ROOMS, arrows_of_the_package, room_of
from xnor_ref.kernels.basics.rungs import has_vectors

PACKAGE = REPOSITORY / "xnor_ref"
PAGES = sorted(PACKAGE.rglob("*.md"))
ROOM_PAGES = [path for path in PAGES if path.name == "README.md"]
NEEDS_VECTORS = "<!-- examples: vectors -->"


def name_of(path):
    return str(path.relative_to(PACKAGE))


def files_of(room):
    """The Python files that a room's page describes: those of sub-rooms too, unless they are to have their own."""
    folders = [room, *(f for f in room.iterdir() if f.is_dir() and room.name != "kernels")]
    files = [path.relative_to(room) for folder in folders for path in folder.glob("*.py")]
    return {str(path) for path in files if path.name != "__init__.py"}


def named_paths(text):
    """Paths of files and folders in backticks."""
    return re.findall(r"`([\w./-]+(?:\.py|\.md|/))`", text)


def examples_of(text):
    """The `python` blocks; other lines are empty, so that a failure names the line of the page."""
    parts = re.split(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = ["\n" * part.count("\n") for part in parts[::2]]
    return "\n".join(parts)


def is_defined(name, source):
    return re.search(rf"^(?:(?:def|class) {name}\b|{name}\b.* = |@intrinsic\ndef {name}\b)", source, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_examples_of_a_page_give_what_they_show(page):
    text = page.read_text()
    if NEEDS_VECTORS in text and not has_vectors():
        pytest.skip("needs a processor with vectors, and Numba's compiler")
    test = doctest.DocTestParser().get_doctest(examples_of(text), {}, name_of(page), str(page), 0)
    assert bool(test.examples) == ("```python" in text)
    assert doctest.DocTestRunner().run(test).failed == 0


def untold_imports(room, section, imports):
    """(module, target) of a room's imports from other rooms that the section of its page does not allow."""
    if section.lower().startswith("everything") or "everything below" in section:
        return []
    told, found = set(re.findall(r"`([\w.]+)`", section)), []
    for module, targets in imports.items():
        for target in targets if f"{module}.".startswith(f"{room}.") else ():
            first, *rest = target.split(".")[1:]
            names = {first, ".".join([first, *rest]), *rest[:1], *(f"{first}.{part}" for part in rest[:1])}
            if not f"{target}.".startswith(f"{room}.") and not names & told:
                found.append((module, target))
    return found


@pytest.mark.parametrize("page", ROOM_PAGES, ids=name_of)
def test_a_room_imports_only_what_its_page_says(page):
    (section,) = re.findall(r"^## What it may import\n\n(.+?)(?:\n\n|\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert untold_imports("xnor_ref." + name_of(page.parent).replace("/", "."), section, arrows_of_the_package()) == []


def test_an_import_that_a_page_does_not_tell_is_seen():
    imports = {"xnor_ref.nn.a": {"xnor_ref.nn.b", "xnor_ref.kernels.ops.c"}, "xnor_ref.nnn.a": {"xnor_ref.errors"}}
    assert untold_imports("xnor_ref.nn", "`errors`.", imports) == [("xnor_ref.nn.a", "xnor_ref.kernels.ops.c")]
    for told in ("`kernels`", "`kernels.ops`", "`kernels.ops.c`", "Everything"):
        assert untold_imports("xnor_ref.nn", told, imports) == []


def test_every_room_has_a_page():
    rooms = {path.parent for place in ("*", "kernels/*") for path in PACKAGE.glob(f"{place}/__init__.py")}
    assert {name_of(room) for room in rooms if not (room / "README.md").exists()} == set()


@pytest.mark.parametrize("page", ROOM_PAGES, ids=name_of)
def test_a_page_names_every_file_of_its_room(page):
    assert files_of(page.parent) - set(named_paths(page.read_text())) == set()


@pytest.mark.parametrize(
    "page", [*PAGES, REPOSITORY / "docs" / "architecture.md"], ids=lambda page: str(page.relative_to(REPOSITORY))
)
def test_what_a_page_names_is_there(page):
    text = page.read_text()
    roots = page.parent, page.parent.parent, PACKAGE, REPOSITORY
    assert [path for path in named_paths(text) if not any((root / path).exists() for root in roots)] == []
    for module, name in re.findall(r"`(\w+)\.(\w+)`", text):
        source = page.parent / f"{module}.py"
        if source.exists() and name != "py":
            assert is_defined(name, source.read_text()), f"{module}.{name}"


def test_the_arrows_between_rooms_are_those_of_the_imports():
    lines = re.findall(r"^(\w+) +─► (.*)$", (REPOSITORY / "docs" / "architecture.md").read_text(), re.MULTILINE)
    files = {room for room in ROOMS if not (PACKAGE / room).is_dir()}
    told = {room: files | set(re.findall(r"\w+", text)) for room, text in lines}
    assert list(told) == [room for room in ROOMS if room not in files]
    for module, targets in arrows_of_the_package().items():
        room = room_of(module)
        if room not in told or "everything" in told[room]:
            continue
        below = ROOMS[ROOMS.index("training") :] if "below" in told[room] else ()
        assert {room_of(target) for target in targets} <= {room, *told[room], *below}, module


def test_files_that_a_docstring_names_are_there():
    for path in MODULES.values():
        roots = path.parent, path.parent.parent, PACKAGE, REPOSITORY
        named = [name for name in named_paths(path.read_text()) if name.endswith(".py")]
        assert [name for name in named if not any((root / name).exists() for root in roots)] == [], path


def test_a_name_that_is_not_there_is_seen():
    assert named_paths("`a.py` and `b/c.py` in `b/`, b.c") == ["a.py", "b/c.py", "b/"]
    assert is_defined("f", "def f(x):") and is_defined("A", "class A:") and is_defined("x", "x: int = 1")
    assert not is_defined("f", "def fold():") and not is_defined("f", "    def f():")
