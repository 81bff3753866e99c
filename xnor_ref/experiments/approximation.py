"""How well scaled binary convolutions approximate the real one, on the features of a trained network.

For each binary convolution of the network, X is its input (after BatchNorm) in inference, W its latent weights,
Y = X (*) W the real convolution and Z = sign(X) (*) sign(W). Errors (see the room's page) are computed over all images,
channels and pixels of one layer. Scales are fitted by least squares.

| approximation | Y' |
|---|---|
| `number` | c Z: signs only, with one fitted number for the layer |
| `alpha` | c alpha Z, alpha of eq. 6 (Rastegari et al. 2016), and one fitted number instead of K |
| `alpha K` | alpha K Z, eq. 11; nothing is fitted |
| `c alpha K` | the same with one fitted number, for a fair comparison with the others |
| `c alpha K valid` | the same, K over the taps inside the image |
| `o`, `ohw`, `o-hw`, `o-h-w` | Gamma Z, the constructions of XNOR-Net++ (`nn.GAMMAS`), fitted |
| `trained` | c Gamma Z, the network's own learned Gamma; XNOR-Net++ does not use the size of W, so c is fitted |

Only three sums over the images are stored. For a Gamma that is the same for all images, the squared error is
sum Y^2 - 2 sum Gamma P + sum Gamma^2 Q. P is the sum over images of Y Z, and Q that of Z^2, each (O, OH, OW).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.datasets import Dataset, Split
from xnor_ref.datasets.batches import make_batch, normalization_table
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.geometry import spatial
from xnor_ref.kernels.ops import binary_ops, float_ops
from xnor_ref.nn import GAMMAS, BinaryConv2d, binary_backend
from xnor_ref.nn.layers.scale_layers import Scale

F64 = NDArray[np.float64]
IMAGES = 200
_BATCH = 25
_ROUNDS = 100


@dataclass
class Sums:
    """The sums from which the errors of one layer are computed."""

    total: float = 0.0  # of Y^2
    products: F64 = field(default_factory=lambda: np.zeros(()))  # P
    squares: F64 = field(default_factory=lambda: np.zeros(()))  # Q
    with_k: dict[str, F64] = field(default_factory=lambda: {"plain": np.zeros(2), "valid": np.zeros(2)})
    """Sums of Y Y' and Y'^2 for Y' = alpha K Z, by the kind of K."""

    def add(self, layer: BinaryConv2d, x: NDArray[np.float32]) -> None:
        """Add the images x (N, C, H, W), inputs of `layer`, to the sums."""
        weight, window = layer.weight.data, layer.window(spatial(x))
        y = float_ops.conv2d(x, weight, None, window, layer.groups).astype(np.float64)
        z = binary_ops.sign_conv2d(x, weight, window, layer.pad_value, groups=layer.groups).astype(np.float64)
        self.total += float((y * y).sum())
        self.products = self.products + (y * z).sum(axis=0)
        self.squares = self.squares + (z * z).sum(axis=0)
        alpha = binary_ops.weight_scale(weight)[:, None, None]
        for mode, sums in self.with_k.items():
            near = z * alpha
            float_ops.times_input_scale(near, binary_ops.input_scale_map(x, window, mode, groups=layer.groups))
            sums += (y * near).sum(), (near * near).sum()

    def error(self, gamma: NDArray | float) -> float:
        """Return ||Y - Gamma Z|| / ||Y|| for a Gamma that broadcasts to (O, OH, OW)."""
        return self._relative(float((gamma * self.products).sum()), float((gamma * gamma * self.squares).sum()))

    def error_with_k(self, mode: str, c: float = 1.0) -> float:
        """Return ||Y - c alpha K Z|| / ||Y||."""
        product, square = self.with_k[mode]
        return self._relative(c * product, c * c * square)

    def _relative(self, product: float, square: float) -> float:
        return (max(self.total - 2 * product + square, 0.0) / self.total) ** 0.5


def fit(sums: Sums, gamma: str) -> F64:
    """Return a construction's Gamma of least squared error, by alternating least squares over its factors."""
    p, q = sums.products, sums.squares
    axes = [tuple(axis - 1 for axis in of_factor) for of_factor in GAMMAS[gamma].values()]
    factors = [np.ones([p.shape[axis] if axis in kept else 1 for axis in range(3)]) for kept in axes]
    last = np.inf
    for _ in range(_ROUNDS if len(factors) > 1 else 1):
        for index, kept in enumerate(axes):
            rest = math.prod(factors[:index] + factors[index + 1 :], start=np.ones(()))
            summed = tuple(axis for axis in range(3) if axis not in kept)
            above, below = (p * rest).sum(summed, keepdims=True), (q * rest**2).sum(summed, keepdims=True)
            factors[index] = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        error = sums.error(math.prod(factors))
        if last - error < 1e-9:
            break
        last = error
    return np.asarray(math.prod(factors))


def number(sums: Sums, gamma: NDArray | float = 1.0) -> float:
    """Return the c for which c Gamma Z is nearest to Y."""
    below = float((gamma * gamma * sums.squares).sum())
    return float((gamma * sums.products).sum()) / below if below else 0.0


def layer_errors(layer: BinaryConv2d, fitted: Sums, held_out: Sums, trained: NDArray | None = None) -> dict[str, float]:
    """Return the error of every approximation of the table above; `trained` is the network's own Gamma, (O, OH, OW)."""
    alpha = binary_ops.weight_scale(layer.weight.data)[:, None, None].astype(np.float64)
    gammas: dict[str, Any] = {"number": number(fitted), "alpha": number(fitted, alpha) * alpha}
    gammas |= {name: fit(fitted, name) for name in GAMMAS}
    if trained is not None:
        gammas["trained"] = number(fitted, trained) * trained
    errors = {name: held_out.error(gamma) for name, gamma in gammas.items()}
    errors["alpha K"] = held_out.error_with_k("plain")
    for name, mode in (("c alpha K", "plain"), ("c alpha K valid", "valid")):
        product, square = fitted.with_k[mode]
        errors[name] = held_out.error_with_k(mode, product / square if square else 0.0)
    return errors


def network_errors(model, data: Dataset, images: int = IMAGES) -> dict[str, dict[str, float]]:
    """Return the errors of each binary convolution of a trained network: layer name -> approximation -> relative error.

    Scales are fitted on `images` training images, spread over the set. The errors are measured on as many validation
    images. Raises InputError if the network has no binary convolution.
    """
    modules = dict(model.named_modules())
    layers = {name: module for name, module in modules.items() if isinstance(module, BinaryConv2d)}
    if not layers:
        raise InputError("network_errors: the network has no layer with binary weights and inputs")
    lut = normalization_table(data.mean, data.std)
    fitted, held_out = (_all_sums(model, layers, split, lut, images) for split in (data.train, data.val))
    out = {}
    for name, layer in layers.items():
        scale = modules.get(f"{name.rpartition('.')[0]}.scale")
        trained = _gamma(scale, held_out[name]) if isinstance(scale, Scale) else None
        out[name] = layer_errors(layer, fitted[name], held_out[name], trained)
    return out


def mean_errors(errors: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the mean error over layers of each approximation."""
    layers = list(errors.values())
    return {name: sum(layer[name] for layer in layers) / len(layers) for name in layers[0]}


def _gamma(scale: Scale, sums: Sums) -> F64:
    """Return the learned scale as (O, OH, OW)."""
    with no_grad():
        ones = Tensor(np.ones((1, *sums.products.shape), np.float32))
        return scale(ones).data[0].astype(np.float64)


def _all_sums(model, layers: dict[str, BinaryConv2d], split: Split, lut, images: int) -> dict[str, Sums]:
    sums = {name: Sums() for name in layers}
    picked = np.unique(np.linspace(0, len(split) - 1, min(images, len(split))).astype(np.int64))
    for start in range(0, len(picked), _BATCH):
        x = make_batch(split.images, picked[start : start + _BATCH], lut)
        for name, entering in _inputs(model, layers, x):
            sums[name].add(layers[name], entering)
    return sums


def _inputs(model, layers: dict[str, BinaryConv2d], x: NDArray) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield (name, input) of each layer while the network computes x in inference."""
    seen: dict[str, NDArray[np.float32]] = {}

    def watch(name: str, layer: Any) -> None:
        forward = layer.forward

        def watched(value: Tensor) -> Tensor:
            seen[name] = np.ascontiguousarray(value.data)
            return forward(value)

        layer.forward = watched

    was_training = model.training
    model.eval()
    for name, layer in layers.items():
        watch(name, layer)
    try:
        with no_grad(), binary_backend("float"):  # layer by layer, on matrices of +-1
            model(Tensor(x))
    finally:
        for layer in layers.values():
            del layer.forward
        model.train(was_training)
    yield from ((name, seen[name]) for name in layers)
