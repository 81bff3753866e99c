"""The page of one run."""

from pathlib import Path

from xnor_ref.show.page import page, table
from xnor_ref.training.storing.runs import RunFolder


def run_page(path: Path) -> bytes:
    """What a run did. Raises ModelFileError where `path` is no run."""
    config = RunFolder(path).config()
    rows = [(key, value) for key, value in config.to_dict().items() if value is not None]
    return page(str(path), "", [("Settings", table(("setting", "value"), rows))])
