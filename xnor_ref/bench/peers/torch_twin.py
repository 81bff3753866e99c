"""A network of ours in torch: the same layers with the same weights, and the ways in which torch runs it fast."""

import copy
import warnings
from collections.abc import Callable
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref import nn
from xnor_ref.bench.peers.baselines import import_torch
from xnor_ref.errors import InputError
from xnor_ref.nn.layers.real_layers import BatchNorm

F32 = NDArray[np.float32]
Run = Callable[[], Any]


def to_torch(model: nn.Module) -> Any:
    """A torch.nn.Module that computes what `model`, of real layers only, computes in inference.

    Raises baselines.Unavailable without torch, InputError for a layer that torch has no module for.
    """
    import_torch()
    return _convert(model).eval()


@singledispatch
def _convert(module: object) -> Any:
    raise InputError(f"bench: {type(module).__name__} has no counterpart in torch")


@_convert.register
def _(module: nn.Sequential) -> Any:
    import torch

    return torch.nn.Sequential(*(_convert(layer) for _, layer in module.children()))


@_convert.register
def _(module: nn.Residual) -> Any:
    import torch

    class Residual(torch.nn.Module):
        def __init__(self, body: Any, shortcut: Any):
            super().__init__()
            self.body, self.shortcut = body, shortcut

        def forward(self, x: Any) -> Any:
            return self.body(x) + self.shortcut(x)

    shortcut = torch.nn.Identity() if module.shortcut is None else _convert(module.shortcut)
    return Residual(_convert(module.body), shortcut)


@_convert.register
def _(module: nn.Conv2d) -> Any:
    import torch

    shape = module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding
    layer = torch.nn.Conv2d(*shape, groups=module.groups, bias=module.bias is not None)
    return _with_parameters(layer, module)


@_convert.register
def _(module: nn.IdentityShortcut) -> Any:
    import torch

    channels = module.in_channels
    layer = torch.nn.Conv2d(channels, module.out_channels, 1, module.stride, groups=channels, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(module.weight()))
    return layer


@_convert.register
def _(module: nn.Linear) -> Any:
    import torch

    layer = torch.nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
    return _with_parameters(layer, module)


@_convert.register
def _(module: BatchNorm) -> Any:
    import torch

    layer = (torch.nn.BatchNorm2d if module.ndim == 4 else torch.nn.BatchNorm1d)(module.channels, module.eps)
    layer.running_mean = torch.from_numpy(module.running_mean.copy())
    layer.running_var = torch.from_numpy(module.running_var.copy())
    return _with_parameters(layer, module)


@_convert.register
def _(module: nn.ReLU) -> Any:
    import torch

    return torch.nn.ReLU(inplace=True)


@_convert.register
def _(module: nn.MaxPool2d) -> Any:
    import torch

    return torch.nn.MaxPool2d(module.kernel_size, module.stride, module.padding)


@_convert.register
def _(module: nn.AvgPool2d) -> Any:
    import torch

    return torch.nn.AvgPool2d(module.kernel_size, module.stride, module.padding)


@_convert.register
def _(module: nn.GlobalAvgPool2d) -> Any:
    import torch

    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


@_convert.register
def _(module: nn.Flatten) -> Any:
    import torch

    return torch.nn.Flatten()


def _with_parameters(layer: Any, module: Any) -> Any:
    import torch

    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(module.weight.data))
        if module.bias is not None:
            layer.bias.copy_(torch.from_numpy(module.bias.data))
    return layer


# --- as fast as torch can --------------------------------------------------------------------------------------


def variants(model: nn.Module, images: F32, threads: int, compiled: bool) -> dict[str, Callable[[], Run]]:
    """Makers of the ways to run the torch twin of `model` on `images` (N, C, H, W), by name.

    A maker may raise whatever a part of torch that is missing raises. Raises baselines.Unavailable without torch.
    """
    torch = import_torch(threads)
    plain = replace_whole_convs(to_torch(model), torch.from_numpy(images[:1]))
    folded = fold_batch_norm(copy.deepcopy(plain))
    contiguous, channels_last = torch.contiguous_format, torch.channels_last
    makers: dict[str, Callable[[], Run]] = {
        "torch eager": lambda: _eager(torch, plain, images, contiguous),
        "torch eager, channels_last": lambda: _eager(torch, plain, images, channels_last),
        "torch, BatchNorm folded": lambda: _eager(torch, folded, images, contiguous),
        "torch, BatchNorm folded, channels_last": lambda: _eager(torch, folded, images, channels_last),
        "torch.jit, optimised for inference": lambda: _scripted(torch, plain, images),
    }
    if compiled:
        makers["torch.compile"] = lambda: _compiled(torch, folded, images, contiguous)
        makers["torch.compile, channels_last"] = lambda: _compiled(torch, folded, images, channels_last)
    return makers


def replace_whole_convs(model: Any, x: Any) -> Any:
    """Turn convolutions that cover their whole input into linear layers, which torch does ten times as fast.

    `x` is an image to find them with; changes `model`.
    """
    import torch

    class Whole(torch.nn.Module):
        def __init__(self, conv: Any):
            super().__init__()
            self.linear = torch.nn.Linear(conv.weight[0].numel(), conv.out_channels, bias=conv.bias is not None)
            self.linear.weight, self.linear.bias = torch.nn.Parameter(conv.weight.flatten(1)), conv.bias

        def forward(self, x: Any) -> Any:
            return self.linear(x.flatten(1))[:, :, None, None]

    whole = set()

    def look(conv: Any, inputs: Any, output: Any) -> None:
        if inputs[0].shape[2:] == conv.weight.shape[2:] and output.shape[2:] == (1, 1) and conv.padding == (0, 0):
            whole.add(conv)

    hooks = [m.register_forward_hook(look) for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.inference_mode():
        model(x)
    for hook in hooks:
        hook.remove()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if child in whole:
                setattr(module, name, Whole(child).eval())
    return model


def fold_batch_norm(model: Any) -> Any:
    """The convolution before each BatchNorm takes its scale and shift, in every Sequential; changes `model`."""
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

    for module in model.modules():
        if not isinstance(module, torch.nn.Sequential):
            continue
        for index in range(1, len(module)):
            before: Any = module[index - 1]
            after: Any = module[index]
            if isinstance(after, torch.nn.BatchNorm2d) and isinstance(before, torch.nn.Conv2d):
                module[index - 1], module[index] = fuse_conv_bn_eval(before, after), torch.nn.Identity()
            elif isinstance(after, torch.nn.BatchNorm2d) and isinstance(
                getattr(before, "linear", None), torch.nn.Linear
            ):
                before.linear, module[index] = fuse_linear_bn_eval(before.linear, after), torch.nn.Identity()
            elif isinstance(after, torch.nn.BatchNorm1d) and isinstance(before, torch.nn.Linear):
                module[index - 1], module[index] = fuse_linear_bn_eval(before, after), torch.nn.Identity()
    return model


def _eager(torch: Any, model: Any, images: F32, form: Any) -> Run:
    model = copy.deepcopy(model).to(memory_format=form)
    x = torch.from_numpy(images)

    def run() -> Any:
        with torch.inference_mode():
            return model(x.contiguous(memory_format=form))

    return run


def _scripted(torch: Any, model: Any, images: F32) -> Run:
    x = torch.from_numpy(images)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and still the fastest in places
        traced = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(model, x)))
        traced(x)  # optimises further in the first calls
        traced(x)

    def run() -> Any:
        with torch.no_grad():
            return traced(x)

    return run


def _compiled(torch: Any, model: Any, images: F32, form: Any) -> Run:
    x = torch.from_numpy(images)
    model = copy.deepcopy(model).to(memory_format=form)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        function = torch.compile(model, options={"freezing": True})
        function(x.contiguous(memory_format=form))

    def run() -> Any:
        with torch.no_grad():
            return function(x.contiguous(memory_format=form))

    return run
