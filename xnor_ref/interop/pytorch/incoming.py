"""Importing PyTorch networks, from a live module, or from a file of weights with a layout of its layers."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref import nn
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.errors import InputError, InputTypeError
from xnor_ref.interop import build
from xnor_ref.interop.description import INPUT, Description, Reasons, refuse_all
from xnor_ref.interop.pytorch.layout import described, read_layout, read_numbers
from xnor_ref.interop.pytorch.modules import torch
from xnor_ref.interop.pytorch.reading import Reader, numbers
from xnor_ref.interop.pytorch.trace import trace, unchanged
from xnor_ref.nn.layers.binary_layers import BinaryLayer

SOFT = {"_softmax": torch.softmax, "_log_softmax": torch.log_softmax} if torch else {}  # left out at the end
TRACED = 2  # images on which the module is traced
TRIED = 8  # images on which its answers are compared
NEAR = 1e-4  # largest accepted difference, relative to the largest value


def from_torch(
    source: Any,
    *,
    input_shape: Sequence[int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    images: NDArray | None = None,
    layout: Any = None,
    names: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    report: Callable[[str], Any] | None = None,
) -> nn.Graph:
    """Import a PyTorch network as a network of `nn`, which can be trained further and frozen.

    A live module is run on a few images while every operation is recorded, so the names of its classes and its way of
    taking signs do not matter. Each layer is then compared with torch's result, and the whole network is compared on
    other images. The module is in inference mode meanwhile, and unchanged afterwards. A softmax at the end is left out.

    Parameters
    ----------
    source : torch.nn.Module, path or mapping
        A live module, which needs the extra `torch`; or a `.safetensors` file, or a dict of arrays or tensors by name,
        which need a `layout`.
    input_shape : (C, H, W)
        Shape of an image. The layout may give it instead.
    mean, std : number, or a number per channel
        Mean and standard deviation of pixel/255 that normalise raw pixels; by default those of the layout, or 0 and 1.
    classes : names in label order, optional
    images : float32 (N, C, H, W), optional
        Normalised images for the comparison, at least two; by default random ones.
    layout : path or dict
        A TOML file or its content, which describes the layers of a file of weights (docs/interop.md).
    names : mapping, optional
        The prefix of the weights' names, for layers of the layout. Others are guessed.
    settings : mapping, optional
        Settings of `LayerSettings` for training all binary layers, such as {"sign_gradient": "bireal"}.
    report : callable, optional
        Called with a text that lists what was converted to what, such as `print`.

    Returns
    -------
    nn.Graph
        In inference mode. Its layers have the names of the modules.

    Raises
    ------
    InputError
        Layers cannot be imported (each is named with the reason), answers differ, or torch is missing.
    InputTypeError
        `source` is none of these.
    ModelFileError
        The file cannot be read, or is a pickle, which is rejected unread.
    """
    told: dict[str, Any] = {"input_shape": input_shape, "mean": mean, "std": std, "classes": classes}
    told = {key: value for key, value in told.items() if value is not None}
    wanted = dict(settings or {})
    unknown = sorted(wanted.keys() - set(BinaryLayer.takes))
    if unknown:
        raise InputError(
            f"from_torch: settings has {', '.join(unknown)}; binary layers take {', '.join(BinaryLayer.takes)}"
        )
    if torch is not None and isinstance(source, torch.nn.Module):
        if layout is not None or names is not None:
            raise InputError("from_torch: a live module needs neither layout nor names")
        return _from_module(source, told, images, wanted, report)
    if not isinstance(source, str | os.PathLike | Mapping):
        raise InputTypeError(
            f"from_torch: source must be a torch.nn.Module, a path or a dict, got {type(source).__name__}"
            f"{'; torch is missing' if torch is None else ''}"
        )
    if layout is None:
        raise InputError("from_torch: the source holds weights alone; give a layout of the layers (docs/interop.md)")
    description, table = described(read_numbers(source), read_layout(layout), told, dict(names or {}), wanted)
    network = build.network(description)
    if report is not None:
        report(table)
    return network


def _from_module(module: Any, told: dict[str, Any], images: Any, settings: dict[str, Any], report: Any) -> nn.Graph:
    for wrapped in ("_orig_mod", "module"):  # wrappers of torch.compile and DataParallel
        inner = getattr(module, wrapped, None)
        if type(module).__module__.startswith("torch.") and isinstance(inner, torch.nn.Module):
            module = inner
    if "input_shape" not in told:
        raise InputError("from_torch: input_shape (C, H, W) must be given")
    source = f"torch module {type(module).__name__}"
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError(f"from_torch: {source} is TorchScript; give the original module")
    tried = _images(module, tuple(told["input_shape"]), images)
    with unchanged(module):
        nodes, last = trace(module, tried[:TRACED])
        with torch.no_grad():
            wanted = numbers(module(tried))
    alone = {name for name, child in module.named_modules() if not any(child.children())}
    soft = None
    if last.op in SOFT and last.args[1] % last.value.ndim == 1:
        soft, last = SOFT[last.op], last.parents[0]
    reader = Reader(nodes, last, alone, settings)
    refuse_all(f"from_torch: {source}", reader.reasons)
    if not reader.layers:
        raise InputError(f"from_torch: {source} returns its images unchanged")
    description = Description(tuple(reader.layers), source=source, **told)
    network = build.network(description)
    _compare_layers(network, description, reader.values, numbers(tried[:TRACED]))
    with no_grad():
        found = network(Tensor(numbers(tried))).data
    _compare_logits(source, found if soft is None else numbers(soft(torch.from_numpy(found), 1)), wanted)
    if report is not None:
        report(_as_table(description.table()))
    return network


def _images(module: Any, shape: tuple[int, ...], images: Any) -> Any:
    """Return images to try, as a tensor on the module's device."""
    place = next(module.parameters(), torch.zeros(1))
    if place.dtype not in (torch.float32, torch.float64):
        raise InputError(f"from_torch: parameters are {place.dtype}, but must be float32; use module.float()")
    if images is None:
        images = np.random.default_rng(0).standard_normal((TRIED, *shape), dtype=np.float32)
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.float32
        or images.shape[1:] != shape
        or len(images) < TRACED
    ):
        got = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise InputError(
            f"from_torch: images must be float32 (N, {', '.join(map(str, shape))}) with N >= {TRACED}, got {got}"
        )
    return torch.from_numpy(np.ascontiguousarray(images)).to(place.device, place.dtype)


def _compare_layers(network: nn.Graph, description: Description, values: Mapping[str, Any], images: Any) -> None:
    """Compare each layer with torch's, on torch's inputs of that layer."""
    reasons: Reasons = []
    found: dict[str, Any] = {INPUT: images}
    for layer, (name, module) in zip(description.layers, network.children(), strict=True):
        with no_grad():
            y = module(*(Tensor(found[source]) for source in network.inputs[name])).data
        if layer.name in values:
            wanted = numbers(values[layer.name])
            if wanted.size != y.size:
                reasons.append(
                    (f"layer {layer.name!r} ({layer.kind})", f"returns {y.shape}, but torch returns {wanted.shape}")
                )
                break
            wanted = wanted.reshape(y.shape)
            far = float(np.abs(y - wanted).max() / max(np.abs(wanted).max(), 1e-3))
            if not far <= NEAR:
                reasons.append(
                    (f"layer {layer.name!r} ({layer.kind})", f"differs from torch's by {far:.2g} of the largest")
                )
            y = wanted
        found[name] = y
    refuse_all(f"from_torch: {description.source}", reasons)


def _compare_logits(source: str, found: NDArray, wanted: NDArray) -> None:
    """Compare logits. In a few images, rounding may flip the sign of a value near 0."""
    far = np.abs(found - wanted).max(axis=1) / max(np.abs(wanted).max(), 1e-3)
    alike = int((far <= NEAR).sum())
    if 2 * alike < len(far):
        raise InputError(
            f"from_torch: {source} gives other logits for {len(far) - alike} of {len(far)} images, although its layers "
            "agree on the first two; its computation may depend on the images"
        )


def _as_table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
