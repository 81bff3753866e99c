"""Our layers as torch modules: the same names in the state, the same forward, and our gradients in torch's autograd.

What is exact stays exact: convolutions of signs and of integers of a few bits are whole numbers, alpha and K are summed
in float64 and rounded once, and BatchNorm in inference is one product and one sum. Real convolutions are torch's own,
so they differ from ours in the last places. Random numbers, of dropout and of stochastic weights, are torch's.
"""

import math
from collections.abc import Callable
from typing import Any

from xnor_ref.binary.inputs import NoInputScale, Plain, Valid
from xnor_ref.binary.kbit import Uniform
from xnor_ref.binary.sign import BiReal, StraightThrough
from xnor_ref.binary.weights import Corrected, LayerScale, LearnedScale, MeanAbs, NoScale, Official, Paper, Ste
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.ops.bit_planes import exact_in_float32, largest

try:
    import torch
    from torch.nn import functional as F
except ImportError:  # `out.torch_itself` says what to install
    torch = None

_Module: Any = torch.nn.Module if torch else object
_Function: Any = torch.autograd.Function if torch else object
T = Any  # torch.Tensor


class Layer(_Module):
    """Base of the modules here."""

    def after_step(self) -> None:
        """Project the latent weights of all layers below, where they ask for it; call it after each optimiser step."""
        for module in self.modules():
            if isinstance(module, _Binary):
                module.project()


# --- what stands in for derivatives


class Straight(_Function):
    """`value`, with `derivative` as that of x."""

    @staticmethod
    def forward(ctx: Any, x: T, value: T, derivative: T) -> T:
        ctx.save_for_backward(derivative)
        return value

    @staticmethod
    def backward(ctx: Any, dy: T) -> Any:  # type: ignore[override]
        return dy * ctx.saved_tensors[0], None, None


def sign(x: T) -> T:
    """+1 where x >= 0, else -1, without a gradient."""
    return torch.where(x.detach() >= 0, 1.0, -1.0)


def _inside(x: T) -> T:
    return (x.detach().abs() <= 1).to(x.dtype)


def _levels(x: T, bits: int) -> T:
    """(2^k - 1) q_k(x), odd whole numbers."""
    if bits == 1:
        return sign(x)
    return 2 * torch.floor(x.detach().clamp(-1, 1) * (largest(bits) / 2)) + 1


SIGN_GRADIENTS: dict[type, Callable[[T], T]] = {
    StraightThrough: _inside,
    BiReal: lambda x: (2 - 2 * x.detach().abs()).clamp(min=0),
}


def signs(x: T, rule: Any) -> T:
    """sign(x) with the derivative of a rule."""
    return Straight.apply(x, sign(x), SIGN_GRADIENTS[type(rule)](x))


def quantize_gradient(grad: T, bits: int) -> T:
    """`binary.quantize_gradient`."""
    top = grad.abs().max()
    safe = torch.where(top == 0, torch.ones_like(top), top)
    return torch.where(grad == 0, torch.zeros_like(grad), _levels(grad / safe, bits) / largest(bits) * top)


# --- scales of weights, and gradients of latent weights


def _per_filter(values: T, like: T) -> T:
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def _mean_abs(weight: T, m: T, bits: int) -> T:
    rows, m = weight.flatten(1).double(), m.flatten(1).double()
    return rows.abs().mean(1) if bits == 1 else (rows * m).sum(1) / (m * m).sum(1) * largest(bits)


def _of_layer(weight: T, m: T, bits: int) -> T:
    b = m.double() / largest(bits)
    return ((weight.double() * b).sum() / (b * b).sum()).expand(len(weight))


WEIGHT_SCALES: dict[type, Callable[[T, T, int], T] | None] = {
    MeanAbs: _mean_abs,
    LayerScale: _of_layer,
    NoScale: None,
    LearnedScale: None,
}


def _through_mean_abs(dalpha: T, b: T) -> T:
    return b * _per_filter(dalpha / (b * b).flatten(1).sum(1), b)


ALPHA_GRADIENTS: dict[type, Callable[[T, T], T]] = {
    MeanAbs: _through_mean_abs,
    LayerScale: lambda dalpha, b: b * (dalpha.sum() / (b * b).sum()),
}


def _ste(grad: T, weight: T, alpha: T | None, b: T, scale: type) -> T:
    inside = _inside(weight)
    return grad * (inside if alpha is None else _per_filter(alpha, weight) * inside)


def _corrected(grad: T, weight: T, alpha: T, b: T, scale: type) -> T:
    dalpha = (grad * b).flatten(1).sum(1)
    return ALPHA_GRADIENTS[scale](dalpha, b) + _ste(grad, weight, alpha, b, scale)


def _paper(grad: T, weight: T, alpha: T, b: T, scale: type) -> T:
    return grad * (1 / weight[0].numel() + _per_filter(alpha, weight) * _inside(weight))


def _official(grad: T, weight: T, alpha: T, b: T, scale: type) -> T:
    n, channels = weight[0].numel(), weight.shape[1]
    inside = (weight.abs() < 1).to(weight.dtype)
    return grad * ((1 / n + _per_filter(alpha, weight) * inside) * ((1 - 1 / channels) * n))


WEIGHT_GRADIENTS: dict[type, Callable[..., T]] = {
    Ste: _ste,
    Corrected: _corrected,
    Paper: _paper,
    Official: _official,
}
INPUT_SCALES = (NoInputScale, Plain, Valid)
QUANTIZERS = (Uniform,)


class Latent(_Function):
    """W~, the numbers that stand for latent weights in gradients; theirs is by the rule of a layer."""

    @staticmethod
    def forward(ctx: Any, weight: T, scaled: T, alpha: T | None, layer: Any) -> T:
        ctx.save_for_backward(weight, alpha)
        ctx.layer = layer
        return scaled

    @staticmethod
    def backward(ctx: Any, grad: T) -> Any:  # type: ignore[override]
        (weight, alpha), layer = ctx.saved_tensors, ctx.layer
        b = _levels(weight, layer.weight_bits) / largest(layer.weight_bits)
        rule = WEIGHT_GRADIENTS[type(layer.rules["grad_mode"])]
        return rule(grad, weight, alpha, b, type(layer.rules["weight_scale"])), None, None, None


class Products(_Function):
    """The whole numbers Z = m (*) B, times s; gradients are those of x (*) W~, where x is m / top.

    Sizes are (N, C, H, W) and (O, C/groups, KH, KW), or (N, I) and (O, I). Real inputs have no `top`, and are m.
    """

    @staticmethod
    def forward(ctx: Any, x: T, scaled: T, whole: T, s: T | None, layer: Any) -> T:
        ctx.save_for_backward(x, scaled)
        ctx.layer = layer
        m = torch.round(x * layer.top) if layer.top not in (None, 1) else x
        z = layer.product(m, whole) if layer.top is None else layer.whole_product(m, whole)
        return z if s is None else z * s.reshape(1, -1, *(1,) * (z.ndim - 2))

    @staticmethod
    def backward(ctx: Any, dy: T) -> Any:  # type: ignore[override]
        (x, scaled), layer = ctx.saved_tensors, ctx.layer
        of_input = dy if layer.grad_bits is None else quantize_gradient(dy, layer.grad_bits)
        dx = layer.input_gradient(x, scaled, of_input) if ctx.needs_input_grad[0] else None
        return dx, layer.weight_gradient(x, scaled, dy), None, None, None


# --- layers with binary weights


class _Binary(Layer):
    """What all layers with binary weights share; `settings` are plain values, `rules` those of `binary`."""

    top: int | None = None  # the largest whole number that stands for an input
    grad_bits: int | None = None

    def __init__(self, shape: tuple[int, ...], bias: bool, rules: dict[str, Any], settings: dict[str, Any]):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(shape))
        self.bias = torch.nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.rules = rules
        for name, value in settings.items():
            setattr(self, name, value)

    def project(self) -> None:
        """Centre and clamp the latent weights, if the layer does."""
        with torch.no_grad():
            if self.centre:
                self.weight -= self.weight.mean(dim=1, keepdim=True)
            if self.clamp:
                self.weight.clamp_(-1, 1)

    def alpha(self) -> T | None:
        """The scale of each filter (O,), or None."""
        rule, weight = WEIGHT_SCALES[type(self.rules["weight_scale"])], self.weight.detach()
        return None if rule is None else rule(weight, _levels(weight, self.weight_bits), self.weight_bits)

    def weights(self) -> tuple[T, T, T | None]:
        """W~ with its gradient, the whole numbers B, and s (O,)."""
        alpha, bits, weight = self.alpha(), self.weight_bits, self.weight.detach()
        if self.stochastic and self.training:
            whole = torch.where(2 * torch.rand_like(weight) - 1 < weight, 1.0, -1.0)
        else:
            whole = _levels(weight, bits)
        unit = (self.top or 1) * largest(bits)
        s = None if alpha is None and unit == 1 else self._scale(alpha, unit)
        scaled = whole if s is None else whole * _per_filter(s * (self.top or 1), whole)
        single = None if alpha is None or s is None else s * unit
        return Latent.apply(self.weight, scaled, single, self), whole, s

    def _scale(self, alpha: T | None, unit: int) -> T:
        found = torch.ones(len(self.weight), dtype=torch.float64, device=self.weight.device) if alpha is None else alpha
        if alpha is not None and unit > 1:
            found = found.float().double()  # alpha is rounded once before it is divided
        return (found / unit).to(self.weight.dtype)

    def coded(self, x: T) -> T:
        """What stands for the input in the product, from -1 to 1, with its gradient."""
        if self.top is None:
            return x
        if self.input_bits == 1:
            return signs(x, self.rules["sign_gradient"])
        if self.input_levels == "ternary":
            m = (x.detach() > 0.5).to(x.dtype) - (x.detach() < -0.5).to(x.dtype)
        else:
            m = _levels(x, self.input_bits)
        return Straight.apply(x, m / self.top, _inside(x))

    def whole_product(self, m: T, whole: T) -> T:
        """`product` of whole numbers, without a rounding."""
        few = exact_in_float32(whole[0].numel(), (self.input_bits, self.weight_bits))
        z = self.product(m, whole) if few else self.product(m.double(), whole.double())
        return torch.round(z).to(m.dtype)

    def finished(self, x: T, k: T | None) -> T:
        """The product of codes, times K, plus the bias."""
        scaled, whole, s = self.weights()
        y = Products.apply(x, scaled, whole, s, self)
        y = y if k is None else y * k
        return y if self.bias is None else y + self.bias.reshape(1, -1, *(1,) * (y.ndim - 2))

    def absolute(self, x: T) -> T:
        """|x| in float64, with a gradient only where K has one; that at 0 is +1."""
        x = x if self.k_grad else x.detach()
        return x.double() * sign(x)


class BinaryConv2d(_Binary):
    """BinaryConv2d, KBitConv2d and, with real inputs, BinaryWeightConv2d."""

    def forward(self, x: T) -> T:
        window = self.geometry.window(x)
        k = self._scale_map(x, window)
        return self.finished(padded(self.coded(x), window, self.pad_value), k)

    def _scale_map(self, x: T, window: Window) -> T | None:
        kind = type(self.rules["input_scale"])
        if kind is NoInputScale:
            return None
        groups = self.geometry.groups
        mean = self.absolute(x).unflatten(1, (groups, -1)).mean(2)

        def box(a: T) -> T:
            ones = torch.ones(groups, 1, *window.kernel, dtype=a.dtype, device=a.device)
            return F.conv2d(padded(a, window, 0.0), ones, None, window.stride, 0, window.dilation, groups)

        taps = box(torch.ones_like(mean)).clamp(min=1) if kind is Valid else math.prod(window.kernel)
        k = (box(mean) / taps).to(x.dtype)
        return k.repeat_interleave(len(self.weight) // groups, dim=1)

    def product(self, x: T, weight: T) -> T:
        """The convolution of a padded x."""
        return F.conv2d(x, weight, None, *self._place)

    @property
    def _place(self) -> tuple[Any, ...]:
        return self.geometry.stride, 0, self.geometry.dilation, self.geometry.groups

    def input_gradient(self, x: T, weight: T, dy: T) -> T:
        return torch.nn.grad.conv2d_input(x.shape, weight, dy, *self._place)

    def weight_gradient(self, x: T, weight: T, dy: T) -> T:
        return torch.nn.grad.conv2d_weight(x, weight.shape, dy, *self._place)


class BinaryLinear(_Binary):
    """BinaryLinear, KBitLinear and, with real inputs, BinaryWeightLinear."""

    def forward(self, x: T) -> T:
        off = type(self.rules["input_scale"]) is NoInputScale
        return self.finished(self.coded(x), None if off else self.absolute(x).mean(1, keepdim=True).to(x.dtype))

    def product(self, x: T, weight: T) -> T:
        return F.linear(x, weight)

    def input_gradient(self, x: T, weight: T, dy: T) -> T:
        return dy @ weight

    def weight_gradient(self, x: T, weight: T, dy: T) -> T:
        return dy.T @ x


# --- real layers


class Geometry:
    """What `Window.of` takes, and how a window lies on an image."""

    def __init__(self, layer: Any):
        self.kernel, self.stride, self.padding = layer.kernel_size, layer.stride, layer.padding
        self.dilation, self.groups = getattr(layer, "dilation", (1, 1)), getattr(layer, "groups", 1)
        self.ceil_mode = getattr(layer, "ceil_mode", False)

    def window(self, x: T) -> Window:
        size = x.shape[2], x.shape[3]
        window = Window.of(self.kernel, self.stride, self.padding, self.dilation, size)
        return window.to_the_end(size) if self.ceil_mode else window


def padded(x: T, window: Window, value: float) -> T:
    """x with the window's padding around it."""
    (top, bottom), (left, right) = window.padding
    return F.pad(x, (left, right, top, bottom), value=value) if top or bottom or left or right else x


class Conv2d(Layer):
    def __init__(self, shape: tuple[int, ...], bias: bool, geometry: Geometry):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(shape))
        self.bias = torch.nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.geometry = geometry

    def forward(self, x: T) -> T:
        window = self.geometry.window(x)
        x = padded(x, window, 0.0)
        return F.conv2d(x, self.weight, self.bias, window.stride, 0, window.dilation, self.geometry.groups)


class BatchNorm(Layer):
    """Both, of images and of rows; statistics and what follows from them are in float64 and rounded once."""

    def __init__(self, channels: int, eps: float, momentum: float, affine: bool):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        for name, number in (("weight", 1.0), ("bias", 0.0)):
            values = torch.full((channels,), number)
            if affine:
                setattr(self, name, torch.nn.Parameter(values))
            else:
                self.register_buffer(name, values, persistent=False)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: T) -> T:
        if not self.training:
            return self.inference(x)
        axes = (0, *range(2, x.ndim))
        with torch.no_grad():
            mean = x.mean(axes, dtype=torch.float64)
            var = (x - mean.reshape(1, -1, *(1,) * (x.ndim - 2))).square().mean(axes)
            self.move(mean, var, x.numel() // x.shape[1])
            inv = 1 / torch.sqrt(var + self.eps)
            scale = self.weight * inv
            y = _affine(x, scale.to(x.dtype), (self.bias - mean * scale).to(x.dtype))
        return Normalised.apply(x, self.weight, self.bias, y, mean, inv, self.weight.detach())

    def inference(self, x: T) -> T:
        with torch.no_grad():
            scale = self.weight / torch.sqrt(self.running_var.double() + self.eps)
            shift = self.bias - self.running_mean * scale
        return _affine(x, scale.to(x.dtype), shift.to(x.dtype))

    def move(self, mean: T, var: T, count: int) -> None:
        """Move the running statistics by `momentum`; the running variance is the unbiased one."""
        with torch.no_grad():
            for running, new in ((self.running_mean, mean), (self.running_var, var * (count / (count - 1)))):
                running.copy_((1 - self.momentum) * running + self.momentum * new)


def _affine(x: T, scale: T, shift: T) -> T:
    shape = 1, -1, *(1,) * (x.ndim - 2)
    return x * scale.reshape(shape) + shift.reshape(shape)


def ap2(x: T) -> T:
    """The nearest powers of two, as `binary.ap2`."""
    bits = x.detach().float().contiguous().view(torch.int32)
    return ((bits + 0x4AFB0C) & -0x800000).view(torch.float32)


class Normalised(_Function):
    """y = factor (x - mean) inv + beta; its gradients have `factor` and `inv` in place of gamma and 1/std."""

    @staticmethod
    def forward(ctx: Any, x: T, gamma: T, beta: T, y: T, mean: T, inv: T, factor: T) -> T:
        ctx.save_for_backward(x, mean, inv, factor)
        return y

    @staticmethod
    def backward(ctx: Any, dy: T) -> Any:  # type: ignore[override]
        x, mean, inv, factor = ctx.saved_tensors
        axes, shape, count = (0, *range(2, dy.ndim)), (1, -1, *(1,) * (dy.ndim - 2)), dy.numel() // dy.shape[1]
        dy, unit = dy.double(), (x - mean.reshape(shape)) * inv.reshape(shape)
        dbeta, dgamma = dy.sum(axes), (dy * unit).sum(axes)
        dx = (dy - (dbeta.reshape(shape) + unit * dgamma.reshape(shape)) / count) * (factor * inv).reshape(shape)
        return *(value.to(x.dtype) for value in (dx, dgamma, dbeta)), None, None, None, None


class ShiftBatchNorm(BatchNorm):
    def forward(self, x: T) -> T:
        if not self.training:
            return self.inference(x)
        axes, shape = (0, *range(2, x.ndim)), (1, -1, *(1,) * (x.ndim - 2))
        with torch.no_grad():
            mean = x.mean(axes, dtype=torch.float64)
            centred = x - mean.to(x.dtype).reshape(shape)
            var = (centred.double() * ap2(centred)).mean(axes)
            self.move(mean, var, x.numel() // x.shape[1])
            inv, factor = self._inverse_root(var), ap2(self.weight)
            y = _affine(centred, factor * inv, self.bias)
        return Normalised.apply(x, self.weight, self.bias, y, mean, inv.double(), factor)

    def inference(self, x: T) -> T:
        with torch.no_grad():
            scale = ap2(self.weight) * self._inverse_root(self.running_var)
            shift = self.bias - self.running_mean * scale.double()
        return _affine(x, scale, shift.to(x.dtype))

    def _inverse_root(self, var: T) -> T:
        return ap2((1 / torch.sqrt(var.double() + self.eps)).float())


class Affine(Layer):
    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("shift", torch.zeros(channels))

    def forward(self, x: T) -> T:
        return _affine(x, self.scale, self.shift)


class Shift(Layer):
    def __init__(self, channels: int):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(channels))

    def forward(self, x: T) -> T:
        return x + self.shift.reshape(1, -1, *(1,) * (x.ndim - 2))


class Scale(Layer):
    def __init__(self, factors: dict[str, tuple[int, ...]], axes: dict[str, tuple[int, ...]]):
        super().__init__()
        self.axes = axes
        for name, shape in factors.items():
            setattr(self, name, torch.nn.Parameter(torch.ones(shape)))

    def forward(self, x: T) -> T:
        gamma: T = None
        for name, own in self.axes.items():
            factor = getattr(self, name).reshape([x.shape[axis] if axis in own else 1 for axis in range(x.ndim)])
            gamma = factor if gamma is None else gamma * factor
        return x * gamma


class PReLU(Layer):
    def __init__(self, slopes: int, learned: bool):
        super().__init__()
        values = torch.full((slopes,), 0.25)
        if learned:
            self.weight = torch.nn.Parameter(values)
        else:
            self.register_buffer("weight", values, persistent=False)

    def forward(self, x: T) -> T:
        return torch.where(x >= 0, x, x * self.weight.reshape(1, -1, *(1,) * (x.ndim - 2)))


class Hardtanh(Layer):
    def forward(self, x: T) -> T:
        return Straight.apply(x, x.detach().clamp(-1, 1), _inside(x))


class Sign(Layer):
    def __init__(self, rule: Any):
        super().__init__()
        self.rule = rule

    def forward(self, x: T) -> T:
        return signs(x, self.rule)


class MaxPool2d(Layer):
    def __init__(self, geometry: Geometry):
        super().__init__()
        self.geometry = geometry

    def forward(self, x: T) -> T:
        window = self.geometry.window(x)
        return F.max_pool2d(padded(x, window, -math.inf), window.kernel, window.stride)


class AvgPool2d(Layer):
    def __init__(self, geometry: Geometry, count_include_pad: bool):
        super().__init__()
        self.geometry, self.count_include_pad = geometry, count_include_pad

    def forward(self, x: T) -> T:
        window = self.geometry.window(x)

        def sums(image: T, border: float) -> T:
            return F.avg_pool2d(padded(image, window, border), window.kernel, window.stride, divisor_override=1)

        return sums(x, 0.0) * (1 / sums(torch.ones_like(x[:1, :1]), float(self.count_include_pad)))


class GlobalAvgPool2d(Layer):
    def forward(self, x: T) -> T:
        return x.mean((2, 3), dtype=torch.float64).to(x.dtype)


class IdentityShortcut(Layer):
    def __init__(self, outputs: int, stride: tuple[int, int]):
        super().__init__()
        self.outputs, self.stride = outputs, stride

    def forward(self, x: T) -> T:
        kept = x[:, :, :: self.stride[0], :: self.stride[1]]
        zeros = self.outputs // kept.shape[1] - 1
        return F.pad(kept.unsqueeze(2), (0, 0, 0, 0, 0, zeros)).flatten(1, 2)


class Flatten(Layer):
    def forward(self, x: T) -> T:
        return x.flatten(1)


class ReLU(Layer):
    def forward(self, x: T) -> T:
        return F.relu(x)


class Linear(Layer):
    def __init__(self, inputs: int, outputs: int, bias: bool):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = torch.nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: T) -> T:
        return F.linear(x, self.weight, self.bias)


class Dropout(Layer):
    def __init__(self, probability: float, whole_channels: bool):
        super().__init__()
        self.probability = probability
        self.drop = F.dropout2d if whole_channels else F.dropout

    def forward(self, x: T) -> T:
        return self.drop(x, self.probability, self.training)


class Add(Layer):
    def forward(self, x: T, *others: T) -> T:
        for other in others:
            x = x + other
        return x


class Concat(Layer):
    def forward(self, *inputs: T) -> T:
        return torch.cat(inputs, 1)


# --- containers


class Sequential(Layer):
    """Also the folder of layers whose names share a beginning."""

    def forward(self, x: T) -> T:
        for layer in self.children():
            x = layer(x)
        return x


class Residual(Layer):
    def __init__(self, body: Any, shortcut: Any):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: T) -> T:
        return self.body(x) + (x if self.shortcut is None else self.shortcut(x))


class Graph(Layer):
    """Layers by their names, and what each reads; "input" is what the network is given."""

    def __init__(self, layers: dict[str, Any], inputs: dict[str, tuple[str, ...]]):
        super().__init__()
        self.inputs = inputs
        for name, layer in layers.items():
            folder, *rest = name.split(".")
            place: Any = self
            while rest:
                if folder not in place._modules:
                    place.add_module(folder, Sequential())
                place = place._modules[folder]
                folder, *rest = rest
            place.add_module(folder, layer)

    def forward(self, x: T) -> T:
        values = {"input": x}
        for name, sources in self.inputs.items():
            values[name] = x = self.get_submodule(name)(*(values[source] for source in sources))
        return x
