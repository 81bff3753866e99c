"""What the explorer's tests share: the page that stands in the docs, and the model file inside."""

import base64
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from xnor_ref.kernels.basics.rungs import has_vectors

PAGE = REPOSITORY / "docs" / "_static" / "explorer.html"
SCRIPTS = REPOSITORY / "xnor_ref" / "explorer"

needs_extra = pytest.mark.skipif(find_spec("selenium") is None, reason="needs pip install -e '.[browser]'")
needs_vectors = pytest.mark.skipif(not has_vectors(), reason="real layers add up in another order without vectors")


def held_model(page: bytes) -> bytes:
    """The model file that a page holds."""
    (text,) = re.findall(rb'<script type="text/plain" id="model">([\w+/=]+)</script>', page)
    return base64.b64decode(text)


def model_of_the_docs(folder: Path) -> Path:
    """The network of the default command, trained, from the page in the docs."""
    path = folder / "model.safetensors"
    path.write_bytes(held_model(PAGE.read_bytes()))
    return path


def program(*names: str) -> str:
    """The first of these programs that is there; skips where none is."""
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"needs {' or '.join(names)}, which is not installed")
