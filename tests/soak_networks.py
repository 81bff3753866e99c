"""Random networks of all layers and settings: `python -m tests.soak_networks --count 100000`.

Each number stands for a network that fits together on paper. It is trained one step by the fused path, and layer by
layer; the results must agree up to rounding. Then it is frozen, saved, loaded, copied, compressed and run by every
backend: the logits must be those of the network in inference, bit for bit. A number that fails is printed, and
`--first N --count 1` repeats it.
"""

import argparse
import pickle
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np

import xnor_ref
from xnor_ref import binary, nn
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.nn.backend import backward_in, binary_backend
from xnor_ref.packed import compressing
from xnor_ref.packed.runtime import PackedNetwork

_CHANNELS = (1, 2, 3, 8, 16, 31, 32, 33, 40, 64, 65)
_LARGEST = 12  # pixels a side


class Draw:
    """A random network, layer by layer; `shape` is that of one image or row where it stands."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        height, width = self.rng.integers(1, _LARGEST + 1, 2).tolist()
        self.shape: tuple[int, ...] = (self.one(_CHANNELS), height, width)
        self.input_shape, self.images = self.shape, self.one((1, 2, 3, 5))
        self.network = nn.Sequential(*self.layers(self.one(range(1, 8))), *self.end())
        for _, parameter in self.network.named_parameters():
            if parameter.data.ndim == 1:  # norms, biases and slopes that do something
                parameter.data += 0.3 * self.rng.standard_normal(parameter.shape, dtype=np.float32)

    def one(self, choices):
        """One of several things."""
        return list(choices)[self.rng.integers(len(choices))]

    def layers(self, count: int) -> list[nn.Module]:
        found = []
        while len(found) < count:
            makers = self.of_images if len(self.shape) == 3 else self.of_rows
            before = self.shape
            try:
                found.append(getattr(self, "_" + self.one(makers))())
            except InputError:  # settings or a window that do not go together: another one
                self.shape = before
        return found

    def end(self) -> list[nn.Module]:
        """What makes rows of images."""
        return [] if len(self.shape) == 1 else [self.one((self._flatten, self._mean))()]

    of_images = (
        *("conv", "binary_conv", "binary_conv", "kbit_conv", "weight_conv", "norm", "norm", "norm", "shift_norm"),
        *("relu", "relu", "prelu", "hardtanh", "sign", "shift", "scale", "max_pool", "avg_pool", "dropout", "identity"),
        *("residual", "nested", "flatten", "mean"),
    )
    of_rows = (
        *("linear", "binary_linear", "kbit_linear", "weight_linear", "norm", "shift_norm", "relu", "prelu"),
        *("hardtanh", "sign", "shift", "scale", "dropout", "nested"),
    )

    def _window(self, most: int = 4) -> dict:
        """Kernel, stride and padding, which may be one for each side; more padding than kernel is refused later."""
        kernel = tuple(self.rng.integers(1, most + 1, 2).tolist())
        padding = self.one(("half", "half", "sides", "same", "valid"))
        if padding == "half":
            padding = tuple(self.rng.integers(0, k // 2 + 1).item() for k in kernel)
        elif padding == "sides":
            padding = tuple(tuple(self.rng.integers(0, k // 2 + 1, 2).tolist()) for k in kernel)
        return {"kernel_size": kernel, "stride": tuple(self.rng.integers(1, 4, 2).tolist()), "padding": padding}

    def _spread(self, outputs: int) -> dict:
        """Dilation and groups of a convolution."""
        groups = self.one((1, 1, 1, 2, self.shape[0]))
        fits = self.shape[0] % groups == 0 and outputs % groups == 0
        return {"dilation": self.one((1, 1, 1, 2, (1, 2))), "groups": groups if fits else 1}

    def _placed(self, layer: nn.Module) -> nn.Module:
        """A layer at the end of those that were drawn; InputError where images of this shape do not fit."""
        with no_grad():
            self.shape = layer.eval()(Tensor(np.zeros((1, *self.shape), np.float32))).shape[1:]
        return layer.train()

    def _settings(self, kind: type) -> dict:
        """Some settings of a layer with binary weights."""
        choices: dict[str, tuple] = {
            "weight_scale": tuple(binary.WEIGHT_SCALES),
            "input_scale": tuple(binary.INPUT_SCALES),
            "grad_mode": tuple(binary.WEIGHT_GRADIENTS),
            "sign_gradient": tuple(binary.SIGN_GRADIENTS),
            **dict.fromkeys(("k_grad", "centre", "clamp", "glorot", "stochastic"), (True, False)),
            **dict.fromkeys(("weight_bits", "input_bits"), (1, 2, 3, 8)),
            "input_levels": ("even", "ternary"),
            "grad_bits": (1, 2, 8),
        }
        taken = [name for name in choices if name in kind.takes]
        names = [name for name in taken if self.rng.random() < 0.3]
        found = {name: self.one(choices[name]) for name in names}
        if kind in (nn.KBitConv2d, nn.KBitLinear):
            found |= {self.one(("weight_bits", "input_bits")): self.one((2, 3, 8))}
        return found | {"bias": self.one((False, False, True)), "rng": self.rng}

    def _convolution(self, kind: type, **more) -> nn.Module:
        outputs = self.one(_CHANNELS)
        return self._placed(kind(self.shape[0], outputs, **self._window(), **more, **self._spread(outputs)))

    def _conv(self):
        return self._convolution(nn.Conv2d, bias=self.one((False, True)), rng=self.rng)

    def _binary_conv(self):
        more = self._settings(nn.BinaryConv2d)
        return self._convolution(nn.BinaryConv2d, pad_value=self.one((0, 1, -1)), **more)

    def _kbit_conv(self):
        more = self._settings(nn.KBitConv2d)
        return self._convolution(nn.KBitConv2d, pad_value=self.one((0, 0, 1, -1)), **more)

    def _weight_conv(self):
        return self._convolution(nn.BinaryWeightConv2d, **self._settings(nn.BinaryWeightConv2d))

    def _norm(self):
        kind = nn.BatchNorm2d if len(self.shape) == 3 else nn.BatchNorm1d
        return self._normed(kind, affine=self.one((True, True, False)))

    def _shift_norm(self):
        return self._normed(nn.ShiftBatchNorm2d if len(self.shape) == 3 else nn.ShiftBatchNorm1d)

    def _normed(self, kind, **more):
        if self.images * np.prod(self.shape[1:], dtype=int) < 4:  # of two values a channel, only signs are left
            raise InputError("too few values")
        return kind(self.shape[0], eps=0.1, **more)  # a smaller one amplifies the rounding of constant channels

    def _relu(self):
        return nn.ReLU()

    def _prelu(self):
        return nn.PReLU(self.one((1, self.shape[0])))

    def _hardtanh(self):
        return nn.Hardtanh()

    def _sign(self):
        return nn.Sign(self.one(tuple(binary.SIGN_GRADIENTS)))

    def _shift(self):
        return nn.Shift(self.shape[0])

    def _scale(self):
        gamma = self.one(tuple(nn.GAMMAS)) if len(self.shape) == 3 else "o"
        alpha = self.rng.random(self.shape[0], dtype=np.float32) + np.float32(0.5)
        return nn.Scale(self.shape[0], gamma, self.shape[1:] or None, alpha)

    def _pool(self, kind, **more):
        return self._placed(kind(**self._window(), ceil_mode=self.one((False, False, True)), **more))

    def _max_pool(self):
        return self._pool(nn.MaxPool2d)

    def _avg_pool(self):
        return self._pool(nn.AvgPool2d, count_include_pad=self.one((None, None, True, False)))

    def _dropout(self):
        return nn.Dropout(self.one((0.0, 0.3)), self.one((False, True)))

    def _identity(self):
        channels, stride = self.shape[0], self.one((1, 2))
        outputs = channels * self.one((1, 2))
        self.shape = (outputs, *(-(-size // stride) for size in self.shape[1:]))
        return nn.IdentityShortcut(channels, outputs, stride)

    def _residual(self):
        channels, height, width = self.shape
        body = nn.Sequential(nn.BatchNorm2d(channels), nn.BinaryConv2d(channels, channels, 3, 1, 1, rng=self.rng))
        shortcut = self.one((None, nn.Sequential(nn.Conv2d(channels, channels, 1, rng=self.rng))))
        if self.images * height * width < 4:
            raise InputError("too few values")
        return nn.Residual(body, shortcut)

    def _nested(self):
        return nn.Sequential(*self.layers(2))

    def _flatten(self):
        self.shape = (int(np.prod(self.shape)),)
        return nn.Flatten()

    def _mean(self):
        self.shape = self.shape[:1]
        return nn.GlobalAvgPool2d()

    def _rows(self, kind: type, **more):
        outputs = self.one(_CHANNELS)
        layer = kind(self.shape[0], outputs, **more)
        self.shape = (outputs,)
        return layer

    def _linear(self):
        return self._rows(nn.Linear, bias=self.one((True, False)), rng=self.rng)

    def _binary_linear(self):
        return self._rows(nn.BinaryLinear, **self._settings(nn.BinaryLinear))

    def _kbit_linear(self):
        return self._rows(nn.KBitLinear, **self._settings(nn.KBitLinear))

    def _weight_linear(self):
        return self._rows(nn.BinaryWeightLinear, **self._settings(nn.BinaryWeightLinear))


def step(network: nn.Module, x, backend: str, noise: float = 0.0) -> dict[str, np.ndarray]:
    """Output, gradients and running statistics of a step; with noise, of a network that is a little different."""
    copied, rng = pickle.loads(pickle.dumps(network)), np.random.default_rng(1)
    if noise:
        x = x * (1 + noise * rng.standard_normal(x.shape, dtype=np.float32))
        for array in copied.state_dict().values():
            array *= 1 + np.float32(noise) * rng.standard_normal(array.shape, dtype=np.float32)
    given = Tensor(x, requires_grad=True)
    copied.set_position(0, 3)
    with binary_backend(backend), backward_in("fp32"):
        y = copied(given)
        y.backward(np.random.default_rng(2).standard_normal(y.shape, dtype=np.float32))
    found = {"y": y.data, "dx": given.grad} | {name: p.grad for name, p in copied.named_parameters()}
    found |= {name: array for name, array in copied.state_dict().items() if "running" in name}
    return {name: array for name, array in found.items() if array is not None}


def distances(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, float]:
    """Of results by name, relative to their length, or to a third of the longest gradient where that is more.

    Before a norm, the gradient of a bias is 0 but for rounding.
    """
    assert a.keys() == b.keys(), (sorted(a), sorted(b))
    lengths = {name: float(np.linalg.norm(array)) for name, array in b.items()}
    least = max(0.01, 0.3 * max(length for name, length in lengths.items() if name != "y" and "running" not in name))
    return {name: float(np.linalg.norm(a[name].astype(np.float64) - b[name])) / max(lengths[name], least) for name in a}


def check(seed: int) -> nn.Module:
    """Draw a network and hold all its paths together; the network. AssertionError where they disagree."""
    draw = Draw(seed)
    x = np.random.default_rng(seed).standard_normal((draw.images, *draw.input_shape), dtype=np.float32)
    network = draw.network
    if has_vectors():
        plain = step(network, x, "numba")
        found = distances(step(network, x, "auto"), plain)
        if any(getattr(module, "grad_bits", None) for _, module in network.named_modules()):
            found = {name: found[name] for name in found if name == "y" or "running" in name}  # 0 may round either way
        if max(found.values()) > 0.01:  # a sign that rounding turned changes much: then so does noise of that size
            noisy = [distances(step(network, x, "numba", noise), plain) for noise in (3e-7, -1e-6, 3e-6)]
            assert max(found.values()) <= 3 * max(max(one.values()) for one in noisy), found
    network.eval()
    check_packed(network, x, draw.input_shape)
    return network


def check_packed(network: nn.Module, x: np.ndarray, input_shape: tuple[int, ...]) -> None:
    """A network in inference, and all that becomes of it."""
    with no_grad(), binary_backend("float"):
        known = network(Tensor(x)).data

    def same(packed: PackedNetwork, what: str, backend: str = "auto", threads: int | None = None) -> None:
        found = packed.logits(x, threads, backend)
        assert np.array_equal(found, known), (what, backend, float(np.abs(found - known).max()))

    packed = xnor_ref.freeze(network, input_shape=input_shape, mean=0.5, std=1)
    for backend, threads in (("auto", 1), ("auto", 3), ("numba", 2), ("reference", 1), ("float", 1)):
        same(packed, "frozen", backend, threads)
    same(pickle.loads(pickle.dumps(packed)), "pickled")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        packed.save(path)
        same(xnor_ref.load_packed(path), "loaded")
        try:
            smaller = compressing.compress(*compressing.read(path), store="tree")
        except InputError:  # nothing in it has a tree
            return
        smaller = PackedNetwork(smaller.metadata, smaller.tensors)
        for backend in ("auto", "numba"):
            same(smaller, "compressed", backend)


def main() -> int:
    """Check the networks that the command line asks for; the number of those that fail."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    options, failed = parser.parse_args(), 0
    for seed in range(options.first, options.first + options.count):
        try:
            check(seed)
        except Exception:
            failed += 1
            print(f"network {seed}:\n{traceback.format_exc()}", flush=True)
    print(f"{options.count} networks from number {options.first} on, {failed} of them failed")
    return failed


if __name__ == "__main__":
    sys.exit(bool(main()))
