"""The documents say what is true: commands parse, examples run, links lead somewhere, every exit code is told."""

import doctest
import inspect
import re
from importlib import import_module

import pytest

from tests.check_distribution import differences
from tests.conftest import REPOSITORY
from tests.run_docs import documented_commands
from xnor_ref import errors
from xnor_ref.cli.group import COMMANDS as NAMES
from xnor_ref.datasets import shapes
from xnor_ref.training.settings.config import load_toml
from xnor_ref.training.settings.recipes import RECIPES
from xnor_ref.training.settings.resolve import resolve

PLACES = "*.md", "docs/**/*.md", "data/*.md", "xnor_ref/**/*.md"
DOCUMENTS = sorted(path for place in PLACES for path in REPOSITORY.glob(place))
COMMANDS = [command for path in DOCUMENTS for command in documented_commands(path.read_text())]


def test_commands_are_found():
    assert ["train", "--resume", "auto"] in COMMANDS
    assert documented_commands("```sh\npython cli.py info  # x\n```\n```text\npython cli.py no\n```\n") == [["info"]]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_documented_commands_parse(arguments):
    assert arguments[0] in NAMES
    command = import_module(f"xnor_ref.cli.commands.{arguments[0]}").command
    command.make_context(arguments[0], list(arguments[1:]))


def test_python_examples_give_what_they_show():
    text = (REPOSITORY / "README.md").read_text()
    examples = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    test = doctest.DocTestParser().get_doctest(examples, {}, "README.md", "README.md", 0)
    assert len(test.examples) > 5
    assert doctest.DocTestRunner().run(test).failed == 0


def anchors(text):
    """What a link can name after its #: headings in small letters, with hyphens and without other punctuation."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", path.read_text()):
        found = path.parent / target if target else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text()), f"{target}#{anchor}"


def test_an_anchor_is_a_heading():
    assert anchors("# Why it's so: a-b\n```\n# no\n```\n## Second one\n") == {"why-its-so-a-b", "second-one"}


def test_the_defaults_of_each_data_set_are_told():
    text = (REPOSITORY / "docs" / "training-options.md").read_text()
    (table,) = re.findall(r"^\| `--dataset` .*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = {
        cells[0]: cells[1:]
        for cells in ([c.strip() for c in line.strip("|").split("|")] for line in table.splitlines())
    }
    assert list(rows) == list(RECIPES)
    for dataset, row in rows.items():
        found = resolve({"dataset": dataset})
        shown = [found.model, *(str(v) for v in (found.epochs, found.batch_size, found.lr))]
        has_k = found.input_scale != "off"
        assert row == [*shown, *("yes" if v else "no" for v in (found.augment, found.relu, has_k))]
    assert "6,000 images for training and 1,200 for validation" in text
    assert inspect.signature(shapes.load).parameters["train_size"].default == 6000


def test_the_example_of_a_config_file_is_one(tmp_path):
    (example,) = re.findall(r"^```toml\n(.*?)^```", (REPOSITORY / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "settings.toml").write_text(example)
    assert resolve(load_toml(tmp_path / "settings.toml")).epochs == 20


def test_every_exit_code_is_in_the_readme():
    text = (REPOSITORY / "README.md").read_text()
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    for code in {value.exit_code for value in classes} | {0, 130, 143}:
        assert re.search(rf"^\| (.*\b)?{code}\b.* \|", text, re.MULTILINE), code


def test_archives_are_compared_with_the_repository():
    kept = {"LICENSE": (REPOSITORY / "LICENSE").read_bytes(), "cli.py": b"", "more.py": b""}
    assert differences(kept, {"LICENSE", "cli.py", "README.md"}) == [
        "differs: cli.py",
        "missing: README.md",
        "not expected: more.py",
    ]
