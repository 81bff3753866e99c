"""Windows of layers, of any padding, dilation and number of groups, against definitions in float64."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xnor_ref import nn
from xnor_ref.autodiff import Tensor, no_grad
from xnor_ref.binary import InputScale
from xnor_ref.errors import InputError, InputTypeError
from xnor_ref.kernels.basics.rungs import has_vectors
from xnor_ref.nn.backend import backward_in, binary_backend

BACKENDS = ("auto", "numba", "reference", "float", *(["simd"] if has_vectors() else []))
SEEDS = st.integers(0, 999)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def sides_of(padding, size, kernel, stride, dilation):
    """((top, bottom), (left, right)); "same" by TensorFlow's rule, as its documentation words it."""
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding != "same":
        pairs = padding if isinstance(padding, tuple) else (padding, padding)
        return tuple(side if isinstance(side, tuple) else (side, side) for side in pairs)
    found = []
    for pixels, taps, step, apart in zip(size, kernel, stride, dilation):
        extent = (taps - 1) * apart + 1
        along = max(extent - (step if pixels % step == 0 else pixels % step), 0)
        found.append((along // 2, along - along // 2))
    return tuple(found)


def patches(x, kernel, stride, sides, dilation, border=0.0):
    """What each tap of each window meets, float64 (N, C, OH, OW, KH, KW)."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *sides), constant_values=border)
    (kh, kw), (sh, sw), (dh, dw) = kernel, stride, dilation
    oh, ow = ((x.shape[2 + i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1))
    found = np.zeros((*x.shape[:2], oh, ow, kh, kw))
    for y, z, i, j in itertools.product(range(oh), range(ow), range(kh), range(kw)):
        found[:, :, y, z, i, j] = x[:, :, y * sh + i * dh, z * sw + j * dw]
    return found


def put_back(cols, shape, stride, sides, dilation):
    """The transpose of `patches`."""
    (top, bottom), (left, right) = sides
    out = np.zeros((*shape[:2], shape[2] + top + bottom, shape[3] + left + right))
    for y, z, i, j in itertools.product(*map(range, cols.shape[2:])):
        out[:, :, y * stride[0] + i * dilation[0], z * stride[1] + j * dilation[1]] += cols[:, :, y, z, i, j]
    return out[:, :, top : top + shape[2], left : left + shape[3]]


def convolved(cols, weight, groups):
    """(N, O, OH, OW) of `patches` and weights (O, C/groups, KH, KW)."""
    n, c, oh, ow = cols.shape[:4]
    cols = cols.reshape(n, groups, c // groups, *cols.shape[2:])
    filters = weight.astype(np.float64).reshape(groups, -1, *weight.shape[1:])
    return np.einsum("ngcyzij,gocij->ngoyz", cols, filters).reshape(n, -1, oh, ow)


def of_weight(cols, dy, groups):
    """The gradient of `convolved` by the weights."""
    n, c = cols.shape[:2]
    cols = cols.reshape(n, groups, c // groups, *cols.shape[2:])
    found = np.einsum("ngcyzij,ngoyz->gocij", cols, dy.reshape(n, groups, -1, *dy.shape[2:]))
    return found.reshape(-1, *found.shape[2:])


def of_patches(weight, dy, groups):
    """The gradient of `convolved` by the patches."""
    filters = weight.astype(np.float64).reshape(groups, -1, *weight.shape[1:])
    found = np.einsum("ngoyz,gocij->ngcyzij", dy.reshape(len(dy), groups, -1, *dy.shape[2:]), filters)
    return found.reshape(len(dy), -1, *found.shape[3:])


def near(found, wanted, tolerance=1e-5):
    """Equal up to a part of the largest number."""
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max(initial=0) <= tolerance * max(np.abs(wanted).max(initial=0), 1)


def step(layer, x, backend):
    """Output, gradient of it, and gradients of a layer."""
    x = Tensor(x, requires_grad=True)
    layer.set_position(0, 1)
    for _, parameter in layer.named_parameters():
        parameter.grad = None
    with binary_backend(backend), backward_in("fp32"):
        y = layer(x)
        dy = normal(9, *y.shape)
        y.backward(dy)
    return y.data, dy, x.grad, {name: p.grad for name, p in layer.named_parameters()}


@st.composite
def places(draw, most_dilation=3):
    """(image size, kernel, stride, padding, dilation) that fit together."""
    kernel, stride, dilation = (
        (draw(st.integers(1, most)), draw(st.integers(1, most))) for most in (3, 3, most_dilation)
    )
    side = st.integers(0, 3)
    padding = draw(
        st.one_of(
            side, st.tuples(side, side), st.tuples(*[st.tuples(side, side)] * 2), st.sampled_from(["same", "valid"])
        )
    )
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    ends = [(9, 9)] * 2 if padding == "same" else sides_of(padding, (1, 1), kernel, stride, dilation)
    size = tuple(draw(st.integers(max(1, e - sum(p)), 8 + e)) for e, p in zip(extent, ends))
    return size, kernel, stride, padding, dilation


GROUPS = st.sampled_from([(1, 3, 4), (1, 33, 5), (3, 3, 3), (2, 4, 6), (4, 4, 8), (2, 66, 34), (5, 5, 5)])


@settings(max_examples=60)
@given(places(), GROUPS, st.booleans(), SEEDS)
def test_real_convolution(place, sizes, bias, seed):
    (size, kernel, stride, padding, dilation), (groups, c, o) = place, sizes
    layer = nn.Conv2d(c, o, kernel, stride, padding, groups, bias, dilation=dilation, rng=np.random.default_rng(seed))
    if bias:
        layer.bias.data[...] = normal(seed + 1, o)
    x, sides = normal(seed, 2, c, *size), sides_of(padding, size, kernel, stride, dilation)
    cols, weight = patches(x, kernel, stride, sides, dilation), layer.weight.data
    wanted = convolved(cols, weight, groups) + (layer.bias.data[:, None, None] if bias else 0)
    for backend in BACKENDS:
        y, dy, dx, grads = step(layer, x, backend)
        near(y, wanted)
        near(dx, put_back(of_patches(weight, dy, groups), x.shape, stride, sides, dilation))
        near(grads["weight"], of_weight(cols, dy, groups))
        if bias:
            near(grads["bias"], dy.sum(axis=(0, 2, 3), dtype=np.float64))
        with no_grad(), binary_backend(backend):
            near(layer(Tensor(x)).data, wanted)


# --- binary layers


def sign(x):
    return np.where(x >= 0, 1.0, -1.0)


def levels(x, bits, kind):
    """What x is rounded to, from -1 to 1."""
    if kind == "ternary":
        return np.where(np.abs(x) <= 0.5, 0, sign(x))
    steps = 2**bits - 1
    return (2 * np.floor(np.clip(x, -1, 1) * (steps / 2)) + 1) / steps


def scale_of_inputs(x, groups, place, mode):
    """K (N, groups, OH, OW), and what a tap counts in it (OH, OW)."""
    size, kernel, stride, sides, dilation = place
    a = np.abs(x.astype(np.float64)).reshape(len(x), groups, -1, *size).mean(axis=2)
    taps = patches(np.ones((1, 1, *size)), kernel, stride, sides, dilation)[0, 0]
    count = np.full(taps.shape[:2], np.prod(kernel)) if mode == "plain" else np.maximum(taps.sum(axis=(2, 3)), 1)
    return patches(a, kernel, stride, sides, dilation).sum(axis=(4, 5)) / count, 1 / count


def definition(layer, x, dy, groups, place):
    """(y, dx, dW) of a layer with binary weights, as the papers have them, in float64."""
    _, kernel, stride, sides, dilation = place
    weight, binary = layer.weight.data.astype(np.float64), not isinstance(layer, nn.BinaryWeightConv2d)
    signs, flat = sign(weight), (slice(None), None, None)
    scales = layer.weight_scale.name == "alpha"
    alpha = np.abs(weight).mean(axis=(1, 2, 3)) if scales else np.ones(len(weight))
    seen = x.astype(np.float64)
    if binary:
        bits, kind = layer.input_bits, getattr(layer, "input_levels", "even")
        seen = sign(seen) if bits == 1 else levels(x, bits, kind)
    cols = patches(seen, kernel, stride, sides, dilation, getattr(layer, "pad_value", 0))
    z = convolved(cols, signs, groups) * alpha[flat]
    k, share = np.ones((1, groups, 1, 1)), 0
    if binary and layer.input_scale.name != "off":
        k, share = scale_of_inputs(x, groups, place, layer.input_scale.name)
    k = np.repeat(k, len(weight) // groups, axis=1)
    dz = dy * k
    dx = put_back(of_patches(signs * alpha[:, None, None, None], dz, groups), x.shape, stride, sides, dilation)
    if binary:
        dx *= np.abs(x) <= 1
        if layer.k_grad:
            dk = (dy * z).reshape(len(x), groups, -1, *dy.shape[2:]).sum(axis=2) * share
            da = np.broadcast_to(dk[..., None, None], (*dk.shape, *kernel))
            da = put_back(da, (len(x), groups, *x.shape[2:]), stride, sides, dilation)
            dx += sign(x) * np.repeat(da, x.shape[1] // groups, axis=1) / (x.shape[1] // groups)
    grad = of_weight(cols, dz, groups)
    straight = alpha[:, None, None, None] * (np.abs(weight) <= 1) * grad
    through = signs * (grad * signs).mean(axis=(1, 2, 3), keepdims=True) if scales else 0
    return z * k, dx, straight + through


def check(layer, x, groups, place, tolerance=1e-5):
    """A layer by every backend, in training and inference, against its definition."""
    for backend in BACKENDS:
        y, dy, dx, grads = step(layer, x, backend)
        wanted = definition(layer, x, dy.astype(np.float64), groups, place)
        near(y, wanted[0], tolerance)
        near(dx, wanted[1], tolerance)
        near(grads["weight"], wanted[2], tolerance)
        with no_grad(), binary_backend(backend):
            near(layer(Tensor(x)).data, wanted[0], tolerance)


BINARY = {"weight_scale": ("alpha", "off"), "input_scale": ("off", "plain", "valid")}


@settings(max_examples=60)
@given(places(), GROUPS, st.sampled_from([0, 1, -1]), st.booleans(), st.data(), SEEDS)
def test_binary_convolution(place, sizes, pad_value, k_grad, data, seed):
    (size, kernel, stride, padding, dilation), (groups, c, o) = place, sizes
    options = {name: data.draw(st.sampled_from(choices)) for name, choices in BINARY.items()}
    options["k_grad"] = k_grad and options["input_scale"] != "off"
    layer = nn.BinaryConv2d(
        c, o, kernel, stride, padding, pad_value,
        dilation=dilation, groups=groups, rng=np.random.default_rng(seed), **options,
    )  # fmt: skip
    sides = sides_of(padding, size, kernel, stride, dilation)
    check(layer, normal(seed, 2, c, *size), groups, (size, kernel, stride, sides, dilation))


@settings(max_examples=30)
@given(places(), GROUPS, st.sampled_from(["alpha", "off"]), SEEDS)
def test_binary_weights(place, sizes, weight_scale, seed):
    (size, kernel, stride, padding, dilation), (groups, c, o) = place, sizes
    layer = nn.BinaryWeightConv2d(
        c, o, kernel, stride, padding,
        dilation=dilation, groups=groups, rng=np.random.default_rng(seed), weight_scale=weight_scale,
    )  # fmt: skip
    sides = sides_of(padding, size, kernel, stride, dilation)
    check(layer, normal(seed, 2, c, *size), groups, (size, kernel, stride, sides, dilation))


@settings(max_examples=40)
@given(places(), GROUPS, st.sampled_from([0, 1, -1]), st.sampled_from(["2", "3", "ternary"]), st.data(), SEEDS)
def test_inputs_of_a_few_bits(place, sizes, pad_value, kind, data, seed):
    (size, kernel, stride, padding, dilation), (groups, c, o) = place, sizes
    options = {name: data.draw(st.sampled_from(choices)) for name, choices in BINARY.items()}
    options |= {"input_bits": 2, "input_levels": kind} if kind == "ternary" else {"input_bits": int(kind)}
    options["k_grad"] = options["input_scale"] != "off" and data.draw(st.booleans())
    layer = nn.KBitConv2d(
        c, o, kernel, stride, padding, pad_value,
        dilation=dilation, groups=groups, rng=np.random.default_rng(seed), **options,
    )  # fmt: skip
    sides = sides_of(padding, size, kernel, stride, dilation)
    check(layer, normal(seed, 2, c, *size), groups, (size, kernel, stride, sides, dilation))


class Largest(InputScale):
    """The largest |x| of an image: a rule that says nothing of groups."""

    name = "largest"

    def of_images(self, x, window):
        return np.broadcast_to(np.abs(x).max(axis=(1, 2, 3), keepdims=True), (len(x), 1, *window.count(x.shape[2:])))


@pytest.mark.parametrize("kind", ["conv", "binary", "weights", "kbit"])
@pytest.mark.parametrize("c, o, groups", [(6, 4, 2), (66, 10, 2), (4, 8, 4), (5, 5, 5)])
@pytest.mark.parametrize("input_scale", ["plain", Largest()])
def test_a_layer_with_groups_is_the_layers_of_its_groups_side_by_side(kind, c, o, groups, input_scale):
    def make(inputs, outputs, groups):
        place = inputs, outputs, (3, 2), (2, 1), ((1, 0), (2, 1))
        more = {"dilation": (1, 2), "groups": groups, "rng": np.random.default_rng(0)}
        if kind == "conv":
            return nn.Conv2d(*place, **more)
        if kind == "weights":
            return nn.BinaryWeightConv2d(*place, **more)
        more["input_scale"] = input_scale
        if kind == "binary":
            return nn.BinaryConv2d(*place, -1, **more)
        return nn.KBitConv2d(*place, 1, weight_bits=2, input_bits=3, **more)

    whole, x = make(c, o, groups), normal(1, 2, c, 7, 8)
    for backend in BACKENDS:
        y, dy, dx, grads = step(whole, x, backend)
        with no_grad(), binary_backend(backend):
            answer = whole(Tensor(x)).data
        for group, part in enumerate(np.split(x, groups, axis=1)):
            own = slice(group * o // groups, (group + 1) * o // groups)
            layer = make(c // groups, o // groups, 1)
            layer.weight.data[...] = whole.weight.data[own]
            given = Tensor(np.ascontiguousarray(part), requires_grad=True)
            with binary_backend(backend):
                found = layer(given)
                found.backward(np.ascontiguousarray(dy[:, own]))
            with no_grad(), binary_backend(backend):
                near(layer(given).data, answer[:, own])
            near(found.data, y[:, own])
            near(given.grad, dx[:, group * c // groups : (group + 1) * c // groups])
            near(layer.weight.grad, grads["weight"][own])


# --- pooling


@st.composite
def pools(draw):
    """(image size, kernel, stride, padding, ceil_mode)."""
    kernel, stride = ((draw(st.integers(1, 4)), draw(st.integers(1, 4))) for _ in range(2))
    ends = tuple(tuple(draw(st.integers(0, k // 2)) for _ in range(2)) for k in kernel)
    even = tuple(first for first, _ in ends)
    padding = draw(st.sampled_from([0, even, ends, "same", "valid"]))
    size = tuple(draw(st.integers(k, 9)) for k in kernel)
    return size, kernel, stride, padding, draw(st.booleans())


def windows_of(size, kernel, stride, sides, ceil_mode):
    """For each axis, the first and the last pixel but one of each window, as PyTorch counts windows."""
    found = []
    for pixels, taps, step, (before, after) in zip(size, kernel, stride, sides):
        room = pixels + before + after - taps
        count = (-(-room // step) if ceil_mode else room // step) + 1
        if ceil_mode and (count - 1) * step >= pixels + before:
            count -= 1
        found.append([(at * step - before, at * step - before + taps) for at in range(count)])
    return found


def taps_inside(size, kernel, stride, sides, ceil_mode):
    """For each window its pixels: ((oy, ox), slices of rows and columns)."""
    rows, columns = windows_of(size, kernel, stride, sides, ceil_mode)
    for (oy, (top, bottom)), (ox, (left, right)) in itertools.product(enumerate(rows), enumerate(columns)):
        yield (oy, ox), (slice(max(top, 0), min(bottom, size[0])), slice(max(left, 0), min(right, size[1])))


@settings(max_examples=60)
@given(pools(), st.sampled_from([3, 33]), st.sampled_from([None, True, False]), SEEDS)
def test_pooling(place, c, count, seed):
    size, kernel, stride, padding, ceil_mode = place
    sides = sides_of(padding, size, kernel, stride, (1, 1))
    inside = list(taps_inside(size, kernel, stride, sides, ceil_mode))
    x, shape = normal(seed, 2, c, *size), (2, c, inside[-1][0][0] + 1, inside[-1][0][1] + 1)
    none = not any(map(sum, sides))
    if count is None:
        count = padding != "same" and not (ceil_mode and none)
    if count and ceil_mode:
        with pytest.raises(InputError, match=r"ceil_mode with padding .* needs count_include_pad=False"):
            nn.AvgPool2d(kernel, stride, padding, ceil_mode, count)
        count = False
    most, mean, taps = np.zeros(shape), np.zeros(shape), np.zeros(shape[2:])
    for (oy, ox), (rows, columns) in inside:
        patch = x[:, :, rows, columns].astype(np.float64)
        taps[oy, ox] = np.prod(kernel) if count else patch[0, 0].size
        most[:, :, oy, ox], mean[:, :, oy, ox] = patch.max(axis=(2, 3)), patch.sum(axis=(2, 3)) / taps[oy, ox]
    for backend in BACKENDS:
        for kind in (nn.MaxPool2d, nn.AvgPool2d):
            layer = kind(kernel, stride, padding, ceil_mode, *([count] if kind is nn.AvgPool2d else []))
            y, dy, found, _ = step(layer, x, backend)
            near(y, most if kind is nn.MaxPool2d else mean)
            dx = np.zeros(x.shape)
            for (oy, ox), (rows, columns) in inside:
                patch, grad = x[:, :, rows, columns], dy[:, :, oy, ox, None, None]
                won = patch == patch.max(axis=(2, 3), keepdims=True)
                dx[:, :, rows, columns] += grad * won if kind is nn.MaxPool2d else grad / taps[oy, ox]
            near(found, dx)
            with no_grad(), binary_backend(backend):
                near(layer(Tensor(x)).data, most if kind is nn.MaxPool2d else mean)


def test_same_padding_of_odd_sizes():
    """OH = ceil(H / stride); of an odd number of rows of padding the one more is at the bottom."""
    layer = nn.Conv2d(1, 1, 4, (2, 3), "same")
    layer.weight.data[...] = 1
    x = np.ones((1, 1, 5, 7), np.float32)
    with no_grad():
        y = layer(Tensor(x)).data[0, 0]
    assert y.shape == (3, 3)  # rows: (3 - 1) * 2 + 4 - 5 = 3 = 1 + 2; columns: (3 - 1) * 3 + 4 - 7 = 3 = 1 + 2
    assert y.tolist() == [[9, 12, 6], [12, 16, 8], [6, 8, 4]]
    with no_grad():
        assert layer(Tensor(np.ones((1, 1, 1, 2), np.float32))).shape == (1, 1, 1, 1)
    assert nn.MaxPool2d(3, 2, "same").window((6, 5)).padding == ((0, 1), (1, 1))


# --- what is refused

KINDS = {
    "Conv2d": nn.Conv2d,
    "BinaryConv2d": nn.BinaryConv2d,
    "BinaryWeightConv2d": nn.BinaryWeightConv2d,
    "KBitConv2d": lambda *sizes, **more: nn.KBitConv2d(*sizes, **more, input_bits=2),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "arguments, more, error, text",
    [
        ((4, 6, 3), {"groups": 3}, InputError, "groups=3 must divide C=4 and O=6"),
        ((6, 4, 3), {"groups": 3}, InputError, "groups=3 must divide C=6 and O=4"),
        ((6, 4, 3), {"groups": 0}, InputError, "groups must be at least 1, got 0"),
        ((4, 4, 3), {"dilation": 0}, InputError, "dilation must be at least 1, got 0"),
        ((4, 4, 3), {"dilation": (1, 2, 3)}, InputTypeError, "dilation must be an int or a pair of ints"),
        ((4, 4, 3), {"padding": -1}, InputError, r"padding must be an int from 0 to 2\*\*31 - 1 or a pair, got -1"),
        ((4, 4, 3), {"padding": ((0, 1), (-2, 0))}, InputError, r"padding must be an int from 0 .*, got \(-2, 0\)"),
        ((4, 4, 3), {"padding": (1, 2, 3)}, InputError, r"padding must be an int .* or a pair, got \(1, 2, 3\)"),
        ((4, 4, 3), {"padding": ((1, 2), (3,))}, InputError, r"padding must be an int .* or a pair, got \(3,\)"),
        ((4, 4, 3), {"padding": 0.5}, InputTypeError, "padding must be an int or a pair of ints, got 0.5"),
        ((4, 4, 3), {"padding": "full"}, InputError, """padding must be numbers, "same" or "valid", got 'full'"""),
    ],
)
def test_wrong_sizes_are_refused(kind, arguments, more, error, text):
    with pytest.raises(error, match=f"{kind}: {text}"):
        KINDS[kind](*arguments, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_a_dilated_kernel_larger_than_the_image_is_refused(kind):
    text = r"kernel \(9, 5\) \(of \(3, 3\) with dilation \(4, 2\)\) is larger than the image \(7, 7\) with"
    with pytest.raises(InputError, match=text):
        KINDS[kind](4, 4, 3, padding=(0, 1), dilation=(4, 2))(Tensor(normal(0, 1, 4, 7, 7)))


@pytest.mark.parametrize("padding", [2, (0, 2), ((0, 0), (2, 0))])
def test_padding_of_a_pool_is_at_most_half_of_its_kernel(padding):
    with pytest.raises(InputError, match="is more than half the kernel"):
        nn.MaxPool2d(3, 1, padding)
