"""Settings as words of a command line."""

import os
from collections.abc import Mapping
from typing import Any

from xnor_ref.errors import InputError
from xnor_ref.training.settings.config import TrainConfig, default_data_dir
from xnor_ref.training.settings.resolve import resolve

_CHOOSING = ("dataset", "method", "model", "faithful", "plugin")  # settings on which other defaults depend


def words(values: Mapping[str, Any]) -> list[str]:
    """Return options and values, such as ["--lr", "0.1", "--no-augment"]. None is left out."""
    found: list[str] = []
    for key, value in values.items():
        name = key.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            found.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, dict):
            found += [word for item in value.items() for word in ("--model-option", "{}={}".format(*item))]
        else:
            shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            found += [f"--{name}", shown]
    return found


def train_words(config: TrainConfig) -> list[str]:
    """Return options of `train` that resolve to `config`, without those that equal the defaults."""
    values = {name: value for name, value in config.to_dict().items() if value is not None and value != {}}
    if values["data_dir"] == os.path.abspath(default_data_dir()):
        del values["data_dir"]
    chosen = {key: values[key] for key in _CHOOSING if key in values}
    usual = resolve(chosen)
    said = chosen | {key: value for key, value in values.items() if value != getattr(usual, key)}
    for key in _CHOOSING:
        without = {name: value for name, value in said.items() if name != key}
        if _resolves_to(config, without):
            said = without
    return words(said if _resolves_to(config, said) else values)


def _resolves_to(config: TrainConfig, said: Mapping[str, Any]) -> bool:
    try:
        return resolve(said).identity() == config.identity()
    except InputError:
        return False
