"""The examples of docs/interop.md run, where what they import is installed, and are as short as they should be."""

import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.conftest import REPOSITORY
from tests.interop.onnx_in.onnx_files import binary_network
from tests.run_docs import files_of

pytestmark = pytest.mark.interop
PAGE = (REPOSITORY / "docs" / "interop.md").read_text()
EXAMPLES = {name: text for name, text in files_of(PAGE).items() if name != "from_keras.py"}  # test_keras.py runs it
MOST_LINES = 8
NEEDS = {"to_onnx": "onnx", "to_qonnx": "onnx", "from_keras": "h5py", "from_torch": "torch", "to_torch": "torch"}


def needed(source):
    """The packages that an example imports, or has our functions import."""
    own = {package for function, package in NEEDS.items() if function in source}
    return own | {name.partition(".")[0] for name in re.findall(r"^(?:import|from) (\S+)", source, re.MULTILINE)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, tmp_path, monkeypatch):
    """In the order of the page, from a folder in which the files of the examples before it lie."""
    missing = sorted(package for package in needed(EXAMPLES[name]) if find_spec(package) is None)
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    monkeypatch.chdir(tmp_path)
    for file, text in EXAMPLES.items():
        (tmp_path / file).write_text(text)
    binary_network().save(tmp_path / "net.onnx", "logits")
    with ZipFile(Path(__file__).with_name("keras.zip")) as archive:
        (tmp_path / "model.keras").write_bytes(archive.read("chain.keras"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other libraries
        exec(compile(EXAMPLES[name], name, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short(name):
    lines = [line for line in EXAMPLES[name].splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(lines) <= MOST_LINES
