"""From the given settings to the complete settings of a run."""

from collections.abc import Mapping
from typing import Any

from xnor_ref.training.settings.config import FIELDS, TrainConfig, check_values
from xnor_ref.training.settings.faithful import preset
from xnor_ref.training.settings.recipes import recipe


def resolve(said: Mapping[str, Any]) -> TrainConfig:
    """Return the config of a run.

    Given settings come first, then `faithful`, then the data set's recipe, then defaults.

    Parameters
    ----------
    said : field names to values, from the config file and the command line

    Raises
    ------
    InputError, InputTypeError : as `TrainConfig`, or a given setting has no effect, even if it is the default
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
