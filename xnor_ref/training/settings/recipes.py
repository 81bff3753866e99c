"""Default settings for each data set: what `train --dataset X` does when nothing else is said.

| data set | network | why |
|---|---|---|
| shapes | shapes-net | trains in about a minute on two cores |
| mnist, fashion-mnist | lenet5 | 28 x 28 grey digits and clothes |
| cifar10 | vgg-small | the network of the binary-network literature on CIFAR-10 |
| tiny-imagenet, folder | vgg-small | the most accurate for its time here on 64 x 64 images |
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
"""What was tried for Tiny ImageNet is in docs/results.md: Adam with a cosine, and neither warm-up nor weight decay."""

METHOD_RECIPES: dict[str, dict[str, Any]] = {
    "binaryconnect": {"lr": 0.002},
    "bnn": {"lr": 0.01},
}
"""What a method needs otherwise. The learning rates of these two are multiplied by 1/sqrt(1.5/(fan_in + fan_out)) for
latent weights (`glorot`), so those of other methods do not suit them. Tried, top-1 in percent of one seed, Adam,
cosine, cross-entropy or their authors' squared hinge loss:

| | method | lr | top-1 |
|---|---|---|---|
| shapes, 3,000 images, 8 epochs | binaryconnect | 0.001, **0.002**, 0.005 | 73, **78**, 73 |
| | binaryconnect, squared hinge | 0.001, 0.002 | 51, 49 |
| | bnn | 0.002, 0.005, **0.01**, 0.02 | 43, 47, **52**, 54 |
| | bnn, another seed | 0.005, 0.01 | 47, 49 |
| | bnn, squared hinge | 0.005, 0.01 | 41, 40 |
| CIFAR-10, 8,068 images, shapes-net, 6 epochs | binaryconnect | 0.002 | 59 |
| | bnn | 0.002, **0.01**, 0.02 | 49, **51**, 47 |
| | bnn, squared hinge | 0.005 | 48 |

The squared hinge loss of their authors, who train for hundreds of epochs, is behind in so few.
"""


_WITHOUT_K = {"relu": True, "input_scale": "off"}
BINARY_RECIPES: dict[str, dict[str, Any]] = {
    "shapes": {"relu": True},
    "mnist": {},
    "fashion-mnist": {},
    **dict.fromkeys(("cifar10", "tiny-imagenet", "folder"), _WITHOUT_K),
}
"""Settings for the network of `RECIPES`, with those methods that take them; other networks have ReLU and no K.

docs/results.md has what they are worth on shapes and Tiny ImageNet, and why K is no help in deep networks. On CIFAR-10
(8,068 images, 4 epochs, seed 0) K alone gave 49.5 % top-1, K and ReLU 52.6 %, ReLU alone 54.4 %; with LeNet-5 they made
no difference (mnist 98.9 to 99.0 %, fashion-mnist 89.6 %).
"""


def recipe(dataset: str, method: str = "xnor", said: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings for a data set and a method: a fresh dict of config fields, `dataset` and `method` included.

    An activation that does not go with the fields that were `said` is left out.
    """
    said, settings = said or {}, {**RECIPES[dataset], **METHOD_RECIPES.get(method, {})}
    if method in METHODS:
        own = said.get("model", settings["model"]) == settings["model"]
        binary = BINARY_RECIPES[dataset] if own else _WITHOUT_K
        settings |= {key: value for key, value in binary.items() if key in METHODS[method].options}
    if said.get("react") or said.get("block_order") == "cbap":
        settings.pop("relu", None)  # another activation stands in its place
    return {**settings, "dataset": dataset, "method": method}
