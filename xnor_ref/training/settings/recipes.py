"""Default settings for each data set: what `train --dataset X` does when nothing else is said.

docs/results/tiny-imagenet.md has what was tried.
"""

from collections.abc import Mapping
from typing import Any

from xnor_ref import box
from xnor_ref.errors import InputError
from xnor_ref.nn.methods import METHODS
from xnor_ref.training.settings.config import FIELDS
from xnor_ref.training.settings.faithful import of_full_precision
from xnor_ref.training.settings.fields import has_effect

RECIPES: dict[str, dict[str, Any]] = {
    "shapes": {"model": "shapes-net", "epochs": 6, "batch_size": 50, "lr": 0.005},
    "mnist": {"model": "lenet5", "epochs": 10, "batch_size": 100, "lr": 0.002, "augment": False},
    "fashion-mnist": {"model": "lenet5", "epochs": 15, "batch_size": 100, "lr": 0.002, "augment": False},
    "cifar10": {"model": "vgg-small", "epochs": 60, "batch_size": 100, "lr": 0.001},
    "tiny-imagenet": {"model": "vgg-small", "epochs": 10, "batch_size": 128, "lr": 0.001},
    "imagenet": {"model": "alexnet", "epochs": 16, "batch_size": 512, "lr": 0.001},
    "folder": {"model": "vgg-small", "epochs": 10, "batch_size": 64, "lr": 0.001},
}
# What other networks need on a data set: as the XNOR-Net paper trained them on ImageNet, with its scale augmentation.
MODEL_RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("imagenet", "resnet18"): {"epochs": 58, "batch_size": 256, "scale_to": 480},
    ("imagenet", "googlenet"): {"epochs": 80, "batch_size": 128, "scale_to": 320},
}
# What a method needs otherwise: `glorot` multiplies the learning rates of these two.
METHOD_RECIPES: dict[str, dict[str, Any]] = {"binaryconnect": {"lr": 0.002}, "bnn": {"lr": 0.01}}

NAMES = {
    "default": "blocks as in the XNOR-Net paper: BatchNorm, sign, XNOR convolution, activation, pooling",
    "best": "the most accurate network with one-bit weights and inputs for 64-pixel photographs",
    "paper": "AlexNet, trained as in the authors' released code",
}
_BEST_FOR = ("tiny-imagenet", "folder")
_BEST: dict[str, Any] = {"model": "vgg-small", "shortcut": "bireal", "block_order": "acbp", "rprelu": True}
_BEST_TWIN: dict[str, Any] = {"model": "vgg-small"}

_WITHOUT_K = {"relu": True, "input_scale": "off"}
# Settings for the network of `RECIPES`, with those methods that take them; other networks have ReLU and no K.
BINARY_RECIPES: dict[str, dict[str, Any]] = {
    "shapes": {"relu": True},
    "mnist": {},
    "fashion-mnist": {},
    **dict.fromkeys(("cifar10", "tiny-imagenet", "imagenet", "folder"), _WITHOUT_K),
}


def recipe(dataset: str, method: str = "xnor", said: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings for a data set and a method: a fresh dict of config fields, `dataset` and `method` included.

    A ReLU that does not go with the fields that were `said` is left out: where another activation stands in its place,
    where it would make signs that follow +1, and where it would cut the stream that Bi-Real shortcuts carry.
    """
    said = said or {}
    of_model = MODEL_RECIPES.get((dataset, said.get("model", "")), {})
    settings = {**RECIPES[dataset], **of_model, **METHOD_RECIPES.get(method, {})}
    if said.get("crop") == "resized":
        settings.pop("scale_to", None)
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


def named(name: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe by name adds to what was said: settings that were not said and that have an effect.

    Raises
    ------
    InputError : no such recipe, or none for this data set or method
    """
    if name not in NAMES:
        raise InputError(f"recipe must be one of {', '.join(NAMES)}, got {name!r}")
    method = said.get("method", FIELDS["method"].default)
    dataset = said.get("dataset", FIELDS["dataset"].default)
    brought: dict[str, Any] = {}
    if name == "paper":
        brought = {"model": "alexnet", **(of_full_precision() if method == "full" else {"faithful": "allenai"})}
    elif name == "best":
        if dataset not in _BEST_FOR:
            raise InputError(f"recipe best is for the data sets {' and '.join(_BEST_FOR)}, got {dataset}")
        brought = dict(_BEST if METHODS[method].on_bits else _BEST_TWIN)
    together = {**{key: field.default for key, field in FIELDS.items()}, **brought, **said}
    return {key: value for key, value in brought.items() if key not in said and has_effect(FIELDS[key], together)}


def listed(dataset: str = "tiny-imagenet") -> list[dict[str, Any]]:
    """Each recipe for a data set and what it sets, for XNOR-Net and its full-precision twin.

    `measured` are the cards of the networks in the box that were trained with it.
    """
    return [
        {
            "recipe": name,
            "summary": summary,
            "method": method,
            "settings": named(name, {"dataset": dataset, "method": method}) or recipe(dataset, method),
            "measured": [card for card in box.cards() if (card["recipe"], card["method"]) == (name, method)],
        }
        for name, summary in NAMES.items()
        for method in ("xnor", "full")
    ]
