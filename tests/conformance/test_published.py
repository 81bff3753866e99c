"""The table of other implementations, and the adapters behind it."""

import re
import runpy

import pytest

from tests.conftest import REPOSITORY
from xnor_ref import conformance

FOLDER = REPOSITORY / "docs" / "conformance"
ADAPTERS = sorted(FOLDER.glob("*.py"))
PAGE = (REPOSITORY / "docs" / "conformance.md").read_text()


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.stem)
def test_adapters_are_short_and_compile(path):
    text = path.read_text()
    compile(text, str(path), "exec")
    assert 4 <= len(text.splitlines()) <= 30


def test_each_row_has_an_adapter_that_names_the_versions():
    checks = {path.name: path.read_text() for path in ADAPTERS if path.name.startswith("check_")}
    rows = re.findall(r"`python docs/conformance/(check_\w+\.py)", PAGE)
    assert sorted(rows) == sorted(checks)
    for name, text in checks.items():
        (row,) = (line for line in PAGE.splitlines() if f"conformance/{name}" in line)
        (version,) = re.findall(r"\| (\d[\d.]+) \|", row)
        library = name.removeprefix("check_").removesuffix(".py").replace("larq_engine", "larq-compute-engine")
        assert f"{library}=={version}" in text and "pip install" in text


@pytest.mark.interop
def test_the_convolution_of_torch_is_clean():
    pytest.importorskip("torch", reason="the adapter is for torch")
    adapter = runpy.run_path(str(FOLDER / "check_torch.py"))
    kit = conformance.Kit(conv2d=adapter["conv2d"], linear=adapter["linear"], dilations=(1, 2), groups=(1, 2))
    report = kit.run(examples=15, seed=0)
    assert report.passed and report.conventions["conv2d"]["sign_of_zero"] == 1
