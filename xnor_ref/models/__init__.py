"""Networks by name. Each has one file; the room's page describes its contents."""

from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np

from xnor_ref.binary import Rule
from xnor_ref.errors import InputError
from xnor_ref.nn.blocks import BinaryOptions, Builder
from xnor_ref.nn.layers.real_layers import positive
from xnor_ref.nn.methods import options_of
from xnor_ref.nn.module import Module, Sequential

_NETWORKS: dict[str, Any] = {  # modules, or registered networks
    "shapes-net": "xnor_ref.models.shapes_net",
    "lenet5": "xnor_ref.models.lenet",
    "nin": "xnor_ref.models.nin",
    "vgg-small": "xnor_ref.models.vgg_small",
    "alexnet": "xnor_ref.models.alexnet",
    "resnet18": "xnor_ref.models.resnet",
    "resnet20": "xnor_ref.models.resnet20",
    "googlenet": "xnor_ref.models.googlenet",
}


class Network(Sequential):
    """A network made by `build`; `config` holds the arguments that build it again."""

    config: dict


def register(
    name: str, *, smallest: int = 1, usual: tuple[int, int, int] = (64, 3, 12), options: tuple[str, ...] = ()
) -> Callable:
    """Decorator: register your own network, a function of (Builder, image size, channels, classes, **options).

    The function returns the layers by name, in order. `smallest`, `usual` and `options` are the SMALLEST, USUAL and
    OPTIONS of the room's page. Raises InputError for a name that is taken.
    """
    if name in _NETWORKS:
        raise InputError(f"register: the name {name!r} is taken; choose another name for the network")

    def decorate(layers: Callable[..., dict[str, Module]]) -> Callable[..., dict[str, Module]]:
        _NETWORKS[name] = SimpleNamespace(layers=layers, SMALLEST=smallest, USUAL=usual, OPTIONS=options)
        return layers

    return decorate


def names() -> tuple[str, ...]:
    """Return the names of all networks."""
    return tuple(_NETWORKS)


def usual_input(name: str) -> tuple[int, int, int]:
    """Return a network's usual image size, channels and classes. Raises InputError for an unknown name."""
    return _module(name).USUAL


def combined(of_method: dict[str, Any], of_network: dict[str, Any]) -> dict[str, Any]:
    """Merge options for `build`. Raises InputError if both have one, or if one is an argument of `build`."""
    for key, value in of_network.items():
        if key in of_method or key in ("name", "image_size", "in_channels", "num_classes", "method", "seed"):
            raise InputError(f"model option {key} (={value}): this is a separate setting, not an option of the network")
    return {**of_method, **of_network}


def _module(name: str) -> Any:
    if name not in _NETWORKS:
        raise InputError(f"build: model must be one of {', '.join(_NETWORKS)}, got {name!r}")
    found = _NETWORKS[name]
    return import_module(found) if isinstance(found, str) else found


def _limited(value: Any, name: str, most: int) -> int:
    if positive(value, name, "build") > most:
        raise InputError(f"build: {name} must be at most {most:,}, got {value:,}")
    return int(value)


def build(
    name: str, *, image_size: int, in_channels: int, num_classes: int, method: str = "xnor", seed: int = 0, **options
) -> Network:
    """Build a network with weights drawn from `seed`.

    Parameters
    ----------
    name : one of `names()`.
    image_size, in_channels, num_classes : square images (N, in_channels, image_size, image_size) -> (N, num_classes).
    method : one of `nn.methods.METHODS`.
    options : settings of the binary layers (`BinaryOptions`) that the method leaves open, or options of the network.

    Raises
    ------
    InputError : an unknown name, method or option; an option without effect; an image too small for the network;
        weights that do not fit into memory.

    Examples
    --------
    >>> net = build("lenet5", image_size=28, in_channels=1, num_classes=10, method="bnn")
    >>> net(np.zeros((2, 1, 28, 28), np.float32)).shape
    (2, 10)
    """
    module = _module(name)
    size = _limited(image_size, "image_size", 4096)
    _limited(in_channels, "in_channels", 4096)
    _limited(num_classes, "num_classes", 100_000)
    if size < module.SMALLEST:
        raise InputError(f"build: {name} needs images of at least {module.SMALLEST} pixels, got {size}")
    binary = {key: value for key, value in options.items() if key in BinaryOptions.names()}
    own = {key: value for key, value in options.items() if key not in binary}
    unknown = sorted(own.keys() - set(module.OPTIONS))
    if unknown:
        allowed = ", ".join((*BinaryOptions.names(), *module.OPTIONS))
        raise InputError(f"build: {name} has no option {', '.join(unknown)}; its options are {allowed}")
    rng = np.random.default_rng([seed, 0x786E6F72])
    builder = Builder(method, options_of(method, binary), rng, (size, size))
    network = Network(**module.layers(builder, size, in_channels, num_classes, **own))
    network.config = {
        "name": name,
        "image_size": size,
        "in_channels": in_channels,
        "num_classes": num_classes,
        "method": method,
        "seed": seed,
        **{key: value.name if isinstance(value, Rule) else value for key, value in options.items()},
    }
    return network
