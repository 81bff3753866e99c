"""Default settings for each data set: what `train --dataset X` does when nothing else is said.

| data set | network | why |
|---|---|---|
| shapes | shapes-net | trains in about a minute on two cores |
| mnist, fashion-mnist | lenet5 | 28 x 28 grey digits and clothes |
| cifar10 | vgg-small | the network of the binary-network literature on CIFAR-10 |
| tiny-imagenet, folder | vgg-small | the most accurate for its time here on 64 x 64 images |
"""

from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    "shapes": {"model": "shapes-net", "epochs": 6, "batch_size": 50, "lr": 0.005},
    "mnist": {"model": "lenet5", "epochs": 10, "batch_size": 100, "lr": 0.002, "augment": False},
    "fashion-mnist": {"model": "lenet5", "epochs": 15, "batch_size": 100, "lr": 0.002, "augment": False},
    "cifar10": {"model": "vgg-small", "epochs": 60, "batch_size": 100, "lr": 0.001},
    "tiny-imagenet": {"model": "vgg-small", "epochs": 6, "batch_size": 128, "lr": 0.002},
    "folder": {"model": "vgg-small", "epochs": 10, "batch_size": 64, "lr": 0.002},
}

METHOD_RECIPES: dict[str, dict[str, Any]] = {  # what the papers train otherwise with
    "binaryconnect": {"loss": "squared-hinge"},
    "bnn": {"loss": "squared-hinge"},
}


def recipe(dataset: str, method: str = "xnor") -> dict[str, Any]:
    """Settings for a data set and a method: a fresh dict of config fields, `dataset` and `method` included."""
    return {**RECIPES[dataset], **METHOD_RECIPES.get(method, {}), "dataset": dataset, "method": method}
