"""Exporting a network of `nn` as a torch module that computes and trains in the same way."""

import importlib.util
from collections.abc import Callable
from types import FunctionType
from typing import Any

from xnor_ref import nn
from xnor_ref.autodiff import Tensor
from xnor_ref.errors import InputError, InputTypeError
from xnor_ref.interop.description import Reasons, refuse_all
from xnor_ref.interop.pytorch import modules
from xnor_ref.nn.layers.binary_layers import BinaryLayer
from xnor_ref.nn.module import overrides


def torch_itself(caller: str) -> Any:
    """Import torch. Raises InputError with the command that installs it if it is missing."""
    if modules.torch is None:
        there = importlib.util.find_spec("torch") is not None
        why = "torch cannot be imported" if there else "torch is missing"
        raise InputError(f'{caller}: {why}; install it with: pip install "xnor_ref[torch]"')
    return modules.torch


def to_torch(network: nn.Module) -> Any:
    """Return a torch module with the state names, the forward pass and the gradients of `network`.

    Parameters
    ----------
    network : nn.Module
        Made of the layers of `nn`, trained or not. Not changed.

    Returns
    -------
    torch.nn.Module
        It is in the mode (training or inference) of `network`, and has its own copy of the weights. It takes normalised
        float32 images (N, C, H, W). `load_state_dict` loads the `float.safetensors` of a run. Its `after_step()`
        centres and clamps latent weights; call it after each step of the optimiser.

    Raises
    ------
    InputTypeError
        `network` is not an nn.Module.
    InputError
        torch is missing, or the network has custom layers or rules; the message names each.

    Notes
    -----
    Binary and k-bit convolutions give the same integers. Real convolutions sum in another order than ours, so rounding
    may flip the sign of a value near 0.
    """
    if not isinstance(network, nn.Module):
        raise InputTypeError(f"to_torch: network must be an nn.Module, got {type(network).__name__}")
    torch = torch_itself("to_torch")
    reasons: Reasons = []
    module = _converted(network, "", reasons)
    refuse_all("to_torch", reasons)
    assert module is not None
    own = dict(network.named_modules())
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            place, _, key = name.rpartition(".")
            value = getattr(own[place], key)
            tensor.copy_(torch.from_numpy(value.data.copy() if isinstance(value, Tensor) else value.copy()))
    return module.train(network.training)


def _converted(module: Any, name: str, reasons: Reasons) -> Any:
    """Return the torch module for one of ours, without its weights.

    If there is none, note the reason and return None.
    """
    kind: Any = next((kind for kind in type(module).__mro__ if kind in LAYERS), None)
    if kind is None or overrides(module, kind, *_methods(kind)):
        why = "torch has no equivalent of it" if kind is None else f"it overrides what {kind.__name__} computes"
        what = f"layer {name!r}" if name else "the network"
        reasons.append((f"{what} ({type(module).__name__})", why))
        return None
    children = {
        child: _converted(layer, f"{name}.{child}" if name else child, reasons) for child, layer in module.children()
    }
    rules = _rules(module).items()
    foreign = [f"{option} {rule.name!r} is a custom rule" for option, rule in rules if not _known(option, rule)]
    if foreign:
        reasons.append((f"layer {name!r} ({kind.__name__})", ", ".join(foreign)))
    return None if reasons else LAYERS[kind](module, children)


def _methods(kind: type) -> tuple[str, ...]:
    """Return the methods that a subclass must not override."""
    own = (name for name in dir(kind) if not name.startswith("__"))
    return "__call__", *(name for name in own if isinstance(getattr(kind, name), FunctionType | property))


RULES: dict[str, Any] = {
    "weight_scale": modules.WEIGHT_SCALES,
    "input_scale": modules.INPUT_SCALES,
    "grad_mode": modules.WEIGHT_GRADIENTS,
    "sign_gradient": modules.SIGN_GRADIENTS,
    "gradient": modules.SIGN_GRADIENTS,
}


def _rules(module: nn.Module) -> dict[str, Any]:
    found = {option: rule for option in RULES if (rule := getattr(module, option, None)) is not None}
    return found | ({"weight_quantizer": module.code.quantizer} if isinstance(module, BinaryLayer) else {})


def _known(option: str, rule: Any) -> bool:
    kinds = modules.QUANTIZERS if option == "weight_quantizer" else RULES[option]
    return type(rule) in kinds and not vars(rule)


def _sequential(module: nn.Sequential, children: dict[str, Any]) -> Any:
    made = modules.Sequential()
    for name, child in children.items():
        made.add_module(name, child)
    return made


def _binary(module: Any, children: dict[str, Any]) -> Any:
    convolution = isinstance(module, nn.BinaryConv2d | nn.BinaryWeightConv2d)
    names = "k_grad", "centre", "clamp", "stochastic", "weight_bits", "input_bits", "input_levels", "grad_bits"
    settings = {name: getattr(module, name) for name in names}
    settings["pad_value"] = float(getattr(module, "pad_value", 0))
    real = isinstance(module, nn.BinaryWeightConv2d | nn.BinaryWeightLinear)
    settings["top"] = None if real else module.inputs.top
    if convolution:
        settings["geometry"] = modules.Geometry(module)
    kind = modules.BinaryConv2d if convolution else modules.BinaryLinear
    return kind(module.weight.shape, module.bias is not None, _rules(module), settings)


def _norm(kind: Any) -> Callable[[Any, Any], Any]:
    return lambda m, children: kind(m.channels, m.eps, m.momentum, m.weight.requires_grad)


LAYERS: dict[type, Callable[[Any, dict[str, Any]], Any]] = {  # a function of our layer and its children in torch
    nn.Sequential: _sequential,
    nn.Residual: lambda m, children: modules.Residual(children["body"], children.get("shortcut")),
    nn.Graph: lambda m, children: modules.Graph(children, m.inputs),
    nn.Add: lambda m, children: modules.Add(),
    nn.Concat: lambda m, children: modules.Concat(),
    nn.Conv2d: lambda m, children: modules.Conv2d(m.weight.shape, m.bias is not None, modules.Geometry(m)),
    nn.Linear: lambda m, children: modules.Linear(m.in_features, m.out_features, m.bias is not None),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), _norm(modules.BatchNorm)),
    **dict.fromkeys((nn.ShiftBatchNorm1d, nn.ShiftBatchNorm2d), _norm(modules.ShiftBatchNorm)),
    nn.Affine: lambda m, children: modules.Affine(m.channels),
    nn.Shift: lambda m, children: modules.Shift(m.channels),
    nn.Scale: lambda m, children: modules.Scale(
        {name: factor.shape for name, factor in m.factors().items()}, nn.GAMMAS[m.gamma]
    ),
    nn.ReLU: lambda m, children: modules.ReLU(),
    nn.PReLU: lambda m, children: modules.PReLU(m.channels, m.weight.requires_grad),
    nn.Hardtanh: lambda m, children: modules.Hardtanh(),
    nn.Sign: lambda m, children: modules.Sign(m.gradient),
    nn.MaxPool2d: lambda m, children: modules.MaxPool2d(modules.Geometry(m)),
    nn.AvgPool2d: lambda m, children: modules.AvgPool2d(modules.Geometry(m), m.count_include_pad),
    nn.GlobalAvgPool2d: lambda m, children: modules.GlobalAvgPool2d(),
    nn.IdentityShortcut: lambda m, children: modules.IdentityShortcut(m.out_channels, m.stride),
    nn.Flatten: lambda m, children: modules.Flatten(),
    nn.Dropout: lambda m, children: modules.Dropout(m.probability, m.whole_channels),
    **dict.fromkeys(
        (nn.BinaryConv2d, nn.BinaryLinear, nn.KBitConv2d, nn.KBitLinear, nn.BinaryWeightConv2d, nn.BinaryWeightLinear),
        _binary,
    ),
}
