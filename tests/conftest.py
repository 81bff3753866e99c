"""What all tests share: where real images lie, which rooms reach compiled kernels, which tests must be asked for."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.run_docs import find_real_data

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
JIT_DISABLED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")

# Rooms whose tests reach compiled kernels, marked `kernels`. They alone run again without the compiler and with bounds
# checking; those of the rooms above do nothing with kernels that these have not done.
REACHING_KERNELS = {"kernels", "optim", "nn", "compress", "packed", "datasets", "verify"}

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the tests marked soak, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(TESTS) and item.path.relative_to(TESTS).parts[0] in REACHING_KERNELS:
            item.add_marker("kernels")
        if "soak" in item.keywords and not config.getoption("--soak"):
            item.add_marker(pytest.mark.skip(reason="takes long: runs with --soak"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real images, from XNOR_REF_TEST_DATA or beside the repository; skips where there is none."""
    folder = find_real_data()
    if folder is None:
        pytest.skip("no real images: XNOR_REF_TEST_DATA does not name a folder that holds them")
    return folder
