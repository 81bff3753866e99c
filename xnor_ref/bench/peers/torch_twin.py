"""One of our networks in torch: the same layers with the same weights, and torch's fast ways to run it."""

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from numpy.typing import NDArray

from xnor_ref import nn
from xnor_ref.bench.measuring.layers import F32
from xnor_ref.bench.peers.baselines import import_torch
from xnor_ref.errors import InputError
from xnor_ref.nn.layers.real_layers import BatchNorm

Run = Callable[[], Any]


def to_torch(model: nn.Module) -> Any:
    """Return a torch.nn.Module that computes the same in inference as `model`, which has real layers only.

    Raises baselines.Unavailable without torch, InputError for a layer that torch has no module for.
    """
    import_torch()
    import torch

    class Residual(torch.nn.Module):
        def __init__(self, body: Any, shortcut: Any):
            super().__init__()
            self.body, self.shortcut = body, shortcut

        def forward(self, x: Any) -> Any:
            return self.body(x) + self.shortcut(x)

    def filled(layer: Any, **arrays: NDArray | None) -> Any:
        """Return `layer` with our values in its parameters and statistics."""
        with torch.no_grad():
            for name, array in arrays.items():
                if array is not None:
                    getattr(layer, name).copy_(torch.from_numpy(array))
        return layer

    def convert(module: Any) -> Any:
        layer: Any
        match module:
            case nn.Sequential():
                return torch.nn.Sequential(*(convert(layer) for _, layer in module.children()))
            case nn.Residual():
                shortcut = torch.nn.Identity() if module.shortcut is None else convert(module.shortcut)
                return Residual(convert(module.body), shortcut)
            case nn.Conv2d():
                shape = module.in_channels, module.out_channels, module.kernel_size, module.stride, _padding(module)
                more = {"dilation": module.dilation, "groups": module.groups, "bias": module.bias is not None}
                layer = torch.nn.Conv2d(*shape, **more)
                return filled(layer, **_parameters(module))
            case nn.IdentityShortcut():
                channels = module.in_channels
                layer = torch.nn.Conv2d(channels, module.out_channels, 1, module.stride, groups=channels, bias=False)
                return filled(layer, weight=module.weight())
            case nn.Linear():
                layer = torch.nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
                return filled(layer, **_parameters(module))
            case BatchNorm():
                kind = torch.nn.BatchNorm2d if module.ndim == 4 else torch.nn.BatchNorm1d
                layer = kind(module.channels, module.eps)
                statistics = {"running_mean": module.running_mean, "running_var": module.running_var}
                return filled(layer, **_parameters(module), **statistics)
            case nn.ReLU():
                return torch.nn.ReLU(inplace=True)
            case nn.MaxPool2d():
                window = module.kernel_size, module.stride, _padding(module)
                return torch.nn.MaxPool2d(*window, ceil_mode=module.ceil_mode)
            case nn.AvgPool2d():
                window = module.kernel_size, module.stride, _padding(module)
                return torch.nn.AvgPool2d(*window, module.ceil_mode, module.count_include_pad)
            case nn.GlobalAvgPool2d():
                return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
            case nn.Flatten():
                return torch.nn.Flatten()
        raise InputError(f"bench: {type(module).__name__} has no counterpart in torch")

    return convert(model).eval()


def _padding(module: Any) -> Any:
    """Return the padding as a pair, the form that torch's layers accept."""
    if module.padding == "same" or isinstance(module.padding[0], tuple):
        raise InputError(f"bench: padding {module.padding} has no counterpart in torch")
    return module.padding


def _parameters(module: Any) -> dict[str, NDArray | None]:
    return {"weight": module.weight.data, "bias": None if module.bias is None else module.bias.data}


# --- as fast as torch can --------------------------------------------------------------------------------------


def variants(model: nn.Module, images: F32, threads: int, compiled: bool) -> dict[str, Callable[[], Run]]:
    """Return functions that prepare ways to run the torch twin of `model` on `images` (N, C, H, W), by name.

    A function may raise anything if a part of torch is missing. Raises baselines.Unavailable without torch.
    """
    torch = import_torch(threads)
    plain = replace_whole_convs(to_torch(model), torch.from_numpy(images[:1]))
    folded = fold_batch_norm(copy.deepcopy(plain))
    makers: dict[str, Callable[[], Run]] = {
        "torch.jit, optimised for inference": partial(_scripted, torch, plain, images)
    }
    for layout, form in (("", torch.contiguous_format), (", channels_last", torch.channels_last)):
        makers["torch eager" + layout] = partial(_eager, torch, plain, images, form)
        makers["torch, BatchNorm folded" + layout] = partial(_eager, torch, folded, images, form)
        if compiled:
            makers["torch.compile" + layout] = partial(_compiled, torch, folded, images, form)
    return makers


def replace_whole_convs(model: Any, x: Any) -> Any:
    """Replace convolutions that cover their whole input by linear layers, which torch computes ten times as fast.

    `x` is an image for finding them. Changes `model`.
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
        alone = output.shape[2:] == (1, 1) and conv.padding == (0, 0) and conv.groups == 1
        if inputs[0].shape[2:] == conv.weight.shape[2:] and alone:
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
    """Fold each BatchNorm into the convolution before it, in every Sequential. Changes `model`."""
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
            elif isinstance(after, torch.nn.BatchNorm2d) and hasattr(before, "linear"):
                before.linear, module[index] = fuse_linear_bn_eval(before.linear, after), torch.nn.Identity()
            elif isinstance(after, torch.nn.BatchNorm1d) and isinstance(before, torch.nn.Linear):
                module[index - 1], module[index] = fuse_linear_bn_eval(before, after), torch.nn.Identity()
    return model


def _running(torch: Any, function: Any, images: F32, form: Any, guard: Any) -> Run:
    """Return a run of `function` on the images in a memory format, without gradients."""
    x = torch.from_numpy(images)

    def run() -> Any:
        with guard():
            return function(x.contiguous(memory_format=form))

    return run


def _eager(torch: Any, model: Any, images: F32, form: Any) -> Run:
    model = copy.deepcopy(model).to(memory_format=form)
    return _running(torch, model, images, form, torch.inference_mode)


def _scripted(torch: Any, model: Any, images: F32) -> Run:
    x = torch.from_numpy(images)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but sometimes still the fastest
        traced = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(model, x)))
        traced(x)  # the first calls optimise further
        traced(x)
    return _running(torch, traced, images, torch.contiguous_format, torch.no_grad)


def _compiled(torch: Any, model: Any, images: F32, form: Any) -> Run:
    model = copy.deepcopy(model).to(memory_format=form)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = _running(torch, torch.compile(model, options={"freezing": True}), images, form, torch.no_grad)
        run()
    return run
