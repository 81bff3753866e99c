"""Shared fixtures: where real images lie, and what the compiled and uncompiled runs have in common."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
JIT_DISABLED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


def pytest_collection_modifyitems(items):
    if JIT_DISABLED:
        skip = pytest.mark.skip(reason="too slow with NUMBA_DISABLE_JIT=1")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real images, from XNOR_REF_TEST_DATA or beside the repository; skips where there is none."""
    folder = Path(os.environ.get("XNOR_REF_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} is not a folder; set XNOR_REF_TEST_DATA to one that holds them")
    return folder
