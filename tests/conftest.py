"""What all tests share: where real images lie, which rooms reach compiled kernels, which tests must be asked for."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.run_docs import find_real_data

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
JIT_DISABLED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")

# Whose tests are marked `kernels`, beside those that say so themselves. They alone run again without the compiler and
# with bounds checking. They reach every line of the readable kernels, every place that calls a kernel, and by their
# known answers (`compiling/test_selftest.py`) every kernel; the others do nothing with kernels that these do not do.
REACHING_KERNELS = {
    **{"kernels": "binary_conv gradients grouped input_checks layout nhwc_training planned simd_targets steady words"},
    **{"verify": "conv_grid properties trees", "compress": "compress_file execute planned_trees tree"},
    **{"nn": "binary_layers binarynet_options fused nn_layers random_networks windows", "optim": "optim"},
    **{"packed": "plan runtime thresholds", "datasets": "batches"},
}
MARKED = {TESTS / room / f"test_{name}.py" for room, names in REACHING_KERNELS.items() for name in names.split()}

collect_ignore_glob = ["*/make_*_fixtures.py"]  # scripts that need other packages

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the tests marked soak, too")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """For `-m kernels`, files without such tests are not even imported."""
    if config.option.markexpr != "kernels" or collection_path.suffix != ".py" or collection_path in MARKED:
        return None
    return True if "mark.kernels" not in collection_path.read_text() else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path in MARKED:
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
