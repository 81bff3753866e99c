"""`--faithful allenai`: settings that follow the authors' released code; see docs/faithful.md."""

from collections.abc import Mapping
from typing import Any

from xnor_ref.errors import InputError
from xnor_ref.training.settings.config import FIELDS
from xnor_ref.training.settings.fields import has_effect

PRESETS = ("allenai",)
_ALL: dict[str, Any] = {
    "grad_mode": "official",
    "centre": True,
    "clamp": True,
    "batch_norm": "official",
    "epochs": 55,
    "schedule": "step",
    "milestones": [18, 29, 43, 52],
    "lr_factors": [0.5, 0.1, 0.05, 0.01],
    "augment": True,
}
_METHODS: dict[str, dict[str, Any]] = {
    "xnor": {"input_scale": "off", "pad_value": 0, "relu": False, "optimizer": "adam", "batch_size": 800},
    "bwn": {"optimizer": "sgd", "batch_size": 128},
}
_OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"lr": 0.001, "eps": 1e-17, "weight_decay": 0.0},
    "sgd": {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "decay_epochs": 29, "decay_all": True},
}


def preset(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that `said["faithful"]` implies, or none if it is missing.

    Settings that were given are not overridden. If the other optimiser of the code is given, its settings are used.
    Settings that begin after the last epoch, or would have no effect beside the given ones, are left out.

    Raises
    ------
    InputError : the released code lacks the method, or its schedule needs more epochs
    """
    name = said.get("faithful")
    if name is None:
        return {}
    method = said.get("method", FIELDS["method"].default)
    if method not in _METHODS:
        raise InputError(f"faithful {name} needs method {' or '.join(_METHODS)}, got method {method!r}")
    values = {**_ALL, **_METHODS[method]}
    values |= _OPTIMIZERS.get(said.get("optimizer", values["optimizer"]), {})
    if said.get("weight_decay") == 0:
        values = {key: value for key, value in values.items() if not key.startswith("decay_")}
    if "milestones" in said:
        del values["lr_factors"]
    elif said.get("schedule") == "step" and said.get("epochs", values["epochs"]) <= values["milestones"][0]:
        raise InputError(
            f"faithful {name}: its schedule step begins to fall after epoch {values['milestones'][0]}, and epochs is "
            f"{said['epochs']}; give milestones too, or leave out the schedule for a constant learning rate"
        )
    elif kept := [epoch for epoch in values["milestones"] if epoch < said.get("epochs", values["epochs"])]:
        values |= {"milestones": kept, "lr_factors": values["lr_factors"][: len(kept)]}
    else:
        values |= {"schedule": "constant"}
        del values["milestones"], values["lr_factors"]
    together = {"method": method, **values, **said}
    return {key: value for key, value in values.items() if has_effect(FIELDS[key], together)}


def of_full_precision() -> dict[str, Any]:
    """What the released code trains AlexNet with where nothing is binary: as its Binary-Weight-Network."""
    values = {**_ALL, **_METHODS["bwn"], **_OPTIMIZERS["sgd"]}
    return {key: value for key, value in values.items() if has_effect(FIELDS[key], {"method": "full", **values})}


def overridden(said: Mapping[str, Any]) -> list[str]:
    """Return 'batch_size 100 instead of 800' for each given setting that differs from the preset's.

    `k_grad` also turns on K, which the preset turns off.
    """
    alone = preset({key: said[key] for key in ("faithful", "method") if key in said})
    chosen = {"input_scale": "plain", **said} if said.get("k_grad") else said
    return [
        f"{key} {chosen[key]} instead of {value}" for key, value in alone.items() if chosen.get(key, value) != value
    ]
