"""Shared fixtures: where real images lie, and what the compiled and uncompiled runs have in common."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.run_docs import find_real_data

REPOSITORY = Path(__file__).resolve().parent.parent
JIT_DISABLED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real images, from XNOR_REF_TEST_DATA or beside the repository; skips where there is none."""
    folder = find_real_data()
    if folder is None:
        pytest.skip("no real images: XNOR_REF_TEST_DATA does not name a folder that holds them")
    return folder
