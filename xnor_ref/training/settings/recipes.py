"""Default settings for each data set: what `train --dataset X` does when nothing else is said.

docs/results.md, "The recipes", has what was tried.
"""

from collections.abc import Mapping
from typing import Any

from xnor_ref.nn.methods import METHODS

RECIPES: dict[str, dict[str, Any]] = {
    "shapes": {"model": "shapes-net", "epochs": 6, "batch_size": 50, "lr": 0.005},
    "mnist": {"model": "lenet5", "epochs": 10, "batch_size": 100, "lr": 0.002, "augment": False},
    "fashion-mnist": {"model": "lenet5", "epochs": 15, "batch_size": 100, "lr": 0.002, "augment": False},
    "cifar10": {"model": "vgg-small", "epochs": 60, "batch_size": 100, "lr": 0.001},
    "tiny-imagenet": {"model": "vgg-small", "epochs": 10, "batch_size": 128, "lr": 0.001},
    "folder": {"model": "vgg-small", "epochs": 10, "batch_size": 64, "lr": 0.001},
}
# What a method needs otherwise: `glorot` multiplies the learning rates of these two.
METHOD_RECIPES: dict[str, dict[str, Any]] = {"binaryconnect": {"lr": 0.002}, "bnn": {"lr": 0.01}}

_WITHOUT_K = {"relu": True, "input_scale": "off"}
# Settings for the network of `RECIPES`, with those methods that take them; other networks have ReLU and no K.
BINARY_RECIPES: dict[str, dict[str, Any]] = {
    "shapes": {"relu": True},
    "mnist": {},
    "fashion-mnist": {},
    **dict.fromkeys(("cifar10", "tiny-imagenet", "folder"), _WITHOUT_K),
}


def recipe(dataset: str, method: str = "xnor", said: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings for a data set and a method: a fresh dict of config fields, `dataset` and `method` included.

    A ReLU that does not go with the fields that were `said` is left out: where another activation stands in its place,
    where it would make signs that follow +1, and where it would cut the stream that Bi-Real shortcuts carry.
    """
    said, settings = said or {}, {**RECIPES[dataset], **METHOD_RECIPES.get(method, {})}
    if method in METHODS:
        own = said.get("model", settings["model"]) == settings["model"]
        binary = BINARY_RECIPES[dataset] if own else _WITHOUT_K
        settings |= {key: value for key, value in binary.items() if key in METHODS[method].options}
    without = {
        "react": (True,),
        "rprelu": (True,),
        "block_order": ("cbap", "acbp"),
        "shortcut": ("bireal",),
        "batch_norm": ("none",),
    }
    if any(said.get(name) in values for name, values in without.items()):
        settings.pop("relu", None)
    return {**settings, "dataset": dataset, "method": method}
