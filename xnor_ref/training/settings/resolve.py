"""From what was said to the settings of a run."""

from collections.abc import Mapping
from typing import Any

from xnor_ref.training.settings.config import FIELDS, TrainConfig, check_values
from xnor_ref.training.settings.faithful import preset
from xnor_ref.training.settings.recipes import recipe


def resolve(said: Mapping[str, Any]) -> TrainConfig:
    """The config of a run: what was said, then what it is to be faithful to, then the recipe of its data set, then the
    defaults.

    Parameters
    ----------
    said : field names to values, of the config file and the command line together

    Raises
    ------
    InputError, InputTypeError : as `TrainConfig`; and something was said that has no effect, even if it is the default
    """
    check_values(said)
    dataset = said.get("dataset", FIELDS["dataset"].default)
    method = said.get("method", FIELDS["method"].default)
    brought = recipe(dataset, method, said) | preset(said)
    if said.get("k_grad"):
        brought.pop("input_scale", None)  # "off", which would leave no K
    config = TrainConfig(**{**brought, **said})
    for key, value in said.items():
        if value is not None:
            config.require_effect(FIELDS[key])
    return config
