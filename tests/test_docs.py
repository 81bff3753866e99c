"""The documents say what is true: commands parse, examples run, links lead somewhere, every exit code is told."""

import doctest
import re
from importlib import import_module

import pytest

from tests.conftest import REPOSITORY
from tests.run_docs import documented_commands
from xnor_ref import errors
from xnor_ref.cli.group import COMMANDS as NAMES

DOCUMENTS = sorted(path for pattern in ("*.md", "docs/**/*.md", "data/*.md") for path in REPOSITORY.glob(pattern))
COMMANDS = [command for path in DOCUMENTS for command in documented_commands(path.read_text())]


def test_commands_are_found():
    assert ["train", "--resume", "auto"] in COMMANDS
    assert documented_commands("```sh\npython cli.py info  # x\n```\n```text\npython cli.py no\n```\n") == [["info"]]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_documented_commands_parse(arguments):
    assert arguments[0] in NAMES
    command = import_module(f"xnor_ref.cli.{arguments[0]}").command
    command.make_context(arguments[0], list(arguments[1:]))


def test_python_examples_give_what_they_show():
    text = (REPOSITORY / "README.md").read_text()
    examples = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    test = doctest.DocTestParser().get_doctest(examples, {}, "README.md", "README.md", 0)
    assert len(test.examples) > 5
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_exit_code_is_in_the_readme():
    text = (REPOSITORY / "README.md").read_text()
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    for code in {value.exit_code for value in classes} | {0, 130, 143}:
        assert re.search(rf"^\| (.*\b)?{code}\b.* \|", text, re.MULTILINE), code
