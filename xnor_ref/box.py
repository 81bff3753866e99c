"""The trained networks that come with the project: packed files in `data/models`, each with a card.

A card is a JSON object beside the file: what the network was trained on and how, and what was measured.
"""

import json
import sys
from pathlib import Path
from typing import Any

from xnor_ref.errors import ModelFileError

_PLACES = (  # a checkout, and where a wheel puts them
    Path(__file__).resolve().parents[1] / "data" / "models",
    Path(sys.prefix) / "share" / "xnor_ref" / "models",
)


def cards() -> list[dict[str, Any]]:
    """The cards, the most accurate network first; `file` in each is the path of the packed network."""
    found: dict[str, dict[str, Any]] = {}
    for place in _PLACES:
        for path in sorted(place.glob("*.json")):
            model = path.with_suffix(".safetensors")
            if path.stem not in found and model.is_file():
                found[path.stem] = {**json.loads(path.read_text("utf-8")), "file": str(model)}
    return sorted(found.values(), key=lambda card: -card["top1"])


def best() -> Path:
    """The packed file of the most accurate network. Raises ModelFileError where there is none."""
    known = cards()
    if not known:
        raise ModelFileError(
            f"no trained network came with this installation ({_PLACES[0]} has none): name a model file or a run folder"
        )
    return Path(known[0]["file"])
