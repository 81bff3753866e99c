"""Autodiff: gradients against central differences, the tape, dtypes, errors."""

import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from xnor_ref import autodiff as ad
from xnor_ref.autodiff import Tensor, apply, gradcheck, is_grad_enabled, no_grad
from xnor_ref.errors import EquivalenceError, InputError, InputTypeError


def values(shape, seed=0, low=-2.0, high=2.0):
    return np.random.default_rng(seed).uniform(low, high, shape)


def distinct(shape, seed=0):
    """Values at least 0.1 apart, and 0.05 from 0: away from every kink."""
    size = int(np.prod(shape))
    return ((np.random.default_rng(seed).permutation(size) - size // 2) * 0.1 + 0.05).reshape(shape)


# Gradients against central differences.

BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "maximum": ad.maximum,
    "minimum": ad.minimum,
    "where": lambda a, b: ad.where(a.data < b.data, a * a, b),
}
SMOOTH = {
    "neg": lambda x: -x,
    "exp": ad.exp,
    "log": lambda x: ad.log(x + 3),
    "sqrt": lambda x: ad.sqrt(x + 3),
    "tanh": ad.tanh,
    "sigmoid": ad.sigmoid,
    "square": lambda x: x**2,
    "cube": lambda x: x**3,
    "inverse": lambda x: (x + 3) ** -1,
    "power of a number": lambda x: 2.0**x,
    "number over x": lambda x: 2.0 / (x + 3),
    "number minus x": lambda x: 2 - x,
    "times an array": lambda x: np.arange(24.0).reshape(2, 3, 4) * x + np.ones((1, 4)),
    "sum": lambda x: x.sum(),
    "sum axis": lambda x: x.sum(axis=1),
    "sum axes kept": lambda x: x.sum(axis=(0, -1), keepdims=True) * x,
    "sum of no axes": lambda x: x.sum(axis=()) * x,
    "mean": lambda x: x.mean() * x,
    "mean axis": lambda x: x.mean(axis=-1),
    "var": lambda x: x.var(axis=(1, 2)),
    "var kept": lambda x: x.var(axis=0, keepdims=True),
    "reshape": lambda x: x.reshape(6, -1) ** 2,
    "reshape tuple": lambda x: x.reshape((4, 6)) ** 2,
    "T": lambda x: x.T**2,
    "transpose": lambda x: x.transpose(2, 0, 1) ** 2,
    "transpose negative": lambda x: x.transpose((-1, 0, 1)) ** 2,
    "swapaxes": lambda x: x.swapaxes(0, -1) ** 2,
    "broadcast_to": lambda x: ad.broadcast_to(x, (5, 2, 3, 4)) * values((5, 2, 3, 4), 1),
    "row": lambda x: x[1] ** 2,
    "slices": lambda x: x[:, ::2, 1:3] ** 2,
    "reversed": lambda x: x[..., ::-1] * x,
    "new axis": lambda x: x[:, None] * x[:, :, None],
    "repeated indices": lambda x: x[[0, 1, 1, 0, 1]] ** 2,
    "two index arrays": lambda x: x[np.array([0, 1, 1]), :, np.array([2, 2, 2])] ** 2,
    "mask": lambda x: x[values((2, 3, 4), 1) > 0] ** 2,
    "concatenate": lambda x: ad.concatenate([x, x * x, np.ones((2, 1, 4))], axis=1) ** 2,
    "concatenate negative axis": lambda x: ad.concatenate([x, x * x], axis=-1) ** 2,
    "stack": lambda x: ad.stack([x, x * x, x], axis=-1) ** 2,
    "pad": lambda x: ad.pad(x, ((0, 0), (1, 2), (0, 1)), 0.5) ** 2,
    "pad number": lambda x: ad.pad(x, 1) ** 2,
    "logsumexp": ad.logsumexp,
    "logsumexp axis": lambda x: ad.logsumexp(x, axis=0, keepdims=True),
    "log_softmax": ad.log_softmax,
    "log_softmax axis": lambda x: ad.log_softmax(x, axis=1),
}
KINKED = {
    "abs": abs,
    "relu": ad.relu,
    "clip": lambda x: ad.clip(x, -0.5, 0.7),
    "max": lambda x: x.max(),
    "max axis": lambda x: x.max(axis=1),
    "max axes": lambda x: x.max(axis=(2, 0)),
    "max kept": lambda x: x.max(axis=(0, 1), keepdims=True) * x,
}


@settings(max_examples=12, deadline=None)
@given(shapes=mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3, min_side=1), seed=st.integers(0, 999))
@pytest.mark.parametrize("name", BINARY)
def test_binary_ops_with_broadcasting(name, shapes, seed):
    first, second = shapes.input_shapes
    gradcheck(BINARY[name], [values(first, seed, 0.5, 2), values(second, seed + 1, 0.5, 2)], seed=seed)


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_ops(name):
    assert gradcheck(SMOOTH[name], [values((2, 3, 4))]) < 1e-6


@pytest.mark.parametrize("name", KINKED)
def test_kinked_ops_away_from_their_kinks(name):
    assert gradcheck(KINKED[name], [distinct((2, 3, 4))]) < 1e-6


@pytest.mark.parametrize(
    "first, second",
    [
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 4)),
        ((2, 3), (3, 4)),
        ((5, 2, 3), (3,)),
        ((3,), (5, 3, 2)),
        ((5, 2, 3), (3, 4)),
        ((5, 1, 2, 3), (6, 3, 4)),
        ((2, 3), (5, 3, 4)),
    ],
)
def test_matmul(first, second):
    assert gradcheck(lambda a, b: a @ b, [values(first), values(second, 1)]) < 1e-6


def test_array_at_tensor():
    a = values((2, 3), 1)
    x = Tensor(values((3, 4)), requires_grad=True)
    (a @ x).sum().backward()
    np.testing.assert_allclose(x.grad, np.broadcast_to(a.sum(axis=0)[:, None], (3, 4)))


def test_a_small_network():
    def network(x, w1, b1, w2):
        hidden = ad.tanh(x @ w1 + b1)
        return -ad.log_softmax(hidden @ w2)[np.arange(5), np.array([0, 1, 2, 1, 0])].mean()

    inputs = [values((5, 4)), values((4, 6), 1), values((6,), 2), values((6, 3), 3)]
    assert gradcheck(network, inputs) < 1e-6


# Values worked out by hand.


def test_by_hand():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    y = Tensor([10.0, 20.0], requires_grad=True)
    (x * y + x).sum().backward()
    assert x.grad.tolist() == [[11, 21], [11, 21]]
    assert y.grad.tolist() == [4, 6]


def test_ties_go_to_the_first():
    x = Tensor([[1.0, 5.0, 5.0], [5.0, 0.0, 5.0]], requires_grad=True)
    x.max().backward()
    assert x.grad.tolist() == [[0, 1, 0], [0, 0, 0]]
    x.zero_grad()
    x.max(axis=0).sum().backward()
    assert x.grad.tolist() == [[0, 1, 1], [1, 0, 0]]
    a, b = Tensor([1.0], requires_grad=True), Tensor([1.0], requires_grad=True)
    (ad.maximum(a, b) + 10 * ad.minimum(a, b)).sum().backward()
    assert (a.grad.tolist(), b.grad) == ([11], [0])


def test_kinks():
    x = Tensor([-1.0, 0.0, 1.0], requires_grad=True)
    (abs(x) + 10 * ad.relu(x) + 100 * ad.clip(x, -1, 0.5)).sum().backward()
    assert x.grad.tolist() == [99, 100, 11]


def test_power_at_zero():
    x, p = Tensor([0.0, 0.0, 2.0], requires_grad=True), Tensor([0.0, 2.0, 0.0], requires_grad=True)
    (x**p).sum().backward()
    assert x.grad.tolist() == [0, 0, 0]
    np.testing.assert_allclose(p.grad, [0, 0, np.log(2)], rtol=1e-6)


def test_large_inputs_neither_overflow_nor_warn():
    x = Tensor([-1e4, 0.0, 1e4], requires_grad=True)
    assert ad.sigmoid(x).data.tolist() == [0, 0.5, 1]
    assert ad.log_softmax(x).data.tolist() == [-2e4, -1e4, 0]
    assert ad.logsumexp(x).item() == 1e4
    (ad.sigmoid(x).sum() + ad.log_softmax(x)[2] + ad.logsumexp(x)).backward()
    assert np.isfinite(x.grad).all()
    assert ad.sigmoid(Tensor(-80.0)).item() == pytest.approx(np.exp(-80), rel=1e-5, abs=0)


def test_comparisons_return_boolean_arrays():
    x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    assert (x < 2).tolist() == [True, False, False]
    assert (x <= Tensor(2.0)).tolist() == [True, True, False]
    assert (x > np.array([0.0, 2.0, 4.0])).tolist() == [True, False, False]
    assert (x >= 2).dtype == np.bool_
    assert (2 > x).tolist() == [True, False, False]


# The tape.


def test_long_chains():
    length = 100_000
    x = Tensor(1.0, requires_grad=True)
    y = x
    for _ in range(length):
        y = y + 1
    y.backward()
    assert x.grad == 1
    del y  # nor may freeing recurse
    y = x
    for _ in range(length):
        y = y * 1
    del y


def test_shared_subgraphs_are_walked_once():
    calls = []

    def double(x):
        return apply("double", x.data * 2, (x,), lambda dy: (calls.append(1), (dy * 2,))[1])

    x = Tensor(1.0, requires_grad=True)
    y = x
    for _ in range(40):  # 2^40 paths
        y = double(y)
        y = y + y
    y.backward()
    assert (x.grad, len(calls)) == (4.0**40, 40)


def test_diamond_with_arms_of_different_length():
    x = Tensor(3.0, requires_grad=True)
    square = x * x
    (square + ad.exp(-square) * 0 + (square * 2 + x) * x).backward()
    assert x.grad == 2 * 3 + 6 * 9 + 2 * 3


def test_shared_gradients_are_not_aliased():
    x, y = Tensor([1.0, 2.0], requires_grad=True), Tensor([3.0, 4.0], requires_grad=True)
    seed = np.array([1.0, 10.0], np.float32)
    z = x + y  # passes one array to both
    (x + x + z + z).backward(seed)
    assert (x.grad.tolist(), y.grad.tolist()) == ([4, 40], [2, 20])
    assert seed.tolist() == [1, 10]
    assert not np.shares_memory(x.grad, y.grad)
    (x + y).backward(seed)
    assert (x.grad.tolist(), y.grad.tolist(), seed.tolist()) == ([5, 50], [3, 30], [1, 10])


def test_gradients_are_own_writeable_contiguous_arrays():
    constant = np.ones((2, 3), np.float32)
    x, y = Tensor(np.zeros((2, 3), np.float32), requires_grad=True), Tensor([0.0, 0.0], requires_grad=True)
    (x.sum() + y.T.sum() + apply("dot", np.sum(x.data), (x,), lambda dy: (constant,))).backward()
    apply("dot", np.sum(x.data), (x,), lambda dy: (constant,)).backward()
    x.grad += 1
    y.grad += 1
    assert constant.tolist() == np.ones((2, 3)).tolist()
    assert x.grad.flags.c_contiguous and x.grad.tolist() == np.full((2, 3), 4).tolist()
    w = Tensor(np.zeros((3, 2), np.float32), requires_grad=True)
    w.T.backward(np.arange(6.0).reshape(2, 3))
    assert w.grad.flags.c_contiguous and w.grad.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_gradients_add_up_until_they_are_zeroed():
    x = Tensor([2.0], requires_grad=True)
    for expected in (4, 8):
        (x * x).backward()
        assert x.grad == expected
    x.zero_grad()
    assert x.grad is None


def test_only_leaves_get_gradients():
    x = Tensor([2.0], requires_grad=True)
    constant = Tensor([3.0])
    y = x * constant
    y.sum().backward()
    assert y.grad is None and constant.grad is None and x.grad == 3
    x.backward()  # a leaf itself
    assert x.grad == 4


def test_second_backward_needs_keep_tape():
    x = Tensor([2.0], requires_grad=True)
    y = x * x
    y.backward(keep_tape=True)
    y.backward()
    assert x.grad == 8
    with pytest.raises(InputError, match=r"'mul' was freed.*keep_tape=True"):
        y.backward()
    with pytest.raises(InputError, match="freed"):
        (y + 1).backward()
    assert x.grad == 8


def test_backward_frees_what_the_ops_kept():
    class Array(np.ndarray):  # can be weakly referenced
        pass

    kept = np.zeros(3, np.float32).view(Array)
    watch = weakref.ref(kept)
    x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = apply("op", x.data, (x,), lambda dy, kept=kept: (dy + np.asarray(kept),)).sum()
    del kept
    assert watch() is not None
    y.backward()
    assert watch() is None


def test_backward_lets_go_of_tensors_on_the_way():
    alive = []
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = apply("probe", x.data, (x,), lambda dy: (alive.append(watch()), (dy,))[1])
    double = y * 2
    watch = weakref.ref(double)
    total = (double + double).sum()
    del y, double
    assert watch() is not None
    total.backward()
    assert alive == [None] and x.grad.tolist() == [4, 4]


def test_a_single_element_is_a_number():
    assert float(Tensor(2.5)) == Tensor([[2.5]]).item() == 2.5
    with pytest.raises(InputError, match="needs exactly one element"):
        float(Tensor([1.0, 2.0]))


def test_no_grad():
    x = Tensor([1.0], requires_grad=True)
    with no_grad():
        assert not is_grad_enabled()
        with no_grad():
            pass
        assert not is_grad_enabled()
        assert not (x * 2).requires_grad
    assert is_grad_enabled() and (x * 2).requires_grad

    @no_grad()
    def inference(depth):
        assert not is_grad_enabled()
        return inference(depth - 1) if depth else x * 2

    assert not inference(3).requires_grad and is_grad_enabled()
    with pytest.raises(ZeroDivisionError), no_grad():
        _ = 1 / 0
    assert is_grad_enabled()


def test_no_grad_holds_for_one_thread():
    seen = []
    with no_grad():
        thread = threading.Thread(target=lambda: seen.append(is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_nothing_is_recorded_for_constants():
    y = Tensor([1.0]) * Tensor([2.0])
    assert y.record is None and not y.requires_grad
    x = Tensor([1.0], requires_grad=True)
    assert x.detach().record is None and (x.detach() * 2).record is None
    assert x.detach().data is x.data


def test_constants_cost_no_gradient():
    computed = []

    class Counting(np.ndarray):
        def __mul__(self, other):
            computed.append(self)
            return np.asarray(self) * np.asarray(other)

    x, constant = Tensor([2.0], requires_grad=True), Tensor([3.0])
    y = x * constant
    y.record.backward(np.ones(1, np.float32).view(Counting))
    assert len(computed) == 1


# dtypes.

ALL = SMOOTH | KINKED


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ALL)
def test_dtype_is_kept(name, dtype):
    x = Tensor(distinct((2, 3, 4)).astype(dtype), requires_grad=True)
    y = ALL[name](x)
    seen = []
    apply("probe", y.data, (y,), lambda dy: (seen.append(dy.dtype), (dy,))[1]).sum().backward()
    assert y.dtype == dtype and x.grad.dtype == dtype and seen == [dtype]
    assert type(y.data) is np.ndarray and type(x.grad) is np.ndarray and x.grad.shape == x.shape


@pytest.mark.parametrize("number", [2, 0.1, True, np.float64(0.1), np.int64(3), np.array(0.1), np.array([0.1] * 3)])
@pytest.mark.parametrize("name", [*BINARY, "matmul"])
def test_numbers_and_arrays_do_not_promote(name, number):
    op = BINARY.get(name, lambda a, b: a @ b)
    if name == "where" or (name == "matmul" and np.ndim(number) == 0):
        number = Tensor(np.float32([0.1] * 3))
    x = Tensor(np.float32([1, 2, 3]), requires_grad=True)
    y = op(x, number)
    assert y.dtype == np.float32
    y.sum().backward()
    assert x.grad.dtype == np.float32
    if name in ("add", "sub", "mul", "div", "pow"):
        assert op(number, x).dtype == np.float32 and isinstance(op(number, x), Tensor)


@pytest.mark.parametrize("name", BINARY)
def test_zero_d_tensors_do_not_promote(name):
    x = Tensor(np.float32([1, 2, 3]), requires_grad=True)
    zero_d = Tensor(np.array(2.5), requires_grad=True)
    for pair in ((x, zero_d), (zero_d, x)):
        y = BINARY[name](*pair)
        assert y.dtype == np.float32
        y.sum().backward()
        assert x.grad.dtype == np.float32 and zero_d.grad.dtype == np.float64


def test_astype():
    x = Tensor(np.float32([1, 2]), requires_grad=True)
    y = x.astype(np.float64)
    (y * y).sum().backward()
    assert y.dtype == np.float64 and x.grad.dtype == np.float32 and x.grad.tolist() == [2, 4]


def test_data_is_kept_as_it_is():
    for dtype in (np.float32, np.float64, np.int64, np.bool_):
        data = np.ones((2, 2), dtype)
        assert Tensor(data).data is data and Tensor(data).numpy() is data
    assert Tensor([1, 2]).dtype == Tensor(1.5).dtype == Tensor((True,)).dtype == np.float32
    assert Tensor(np.float64(1)).dtype == np.float64
    x = Tensor([[1.0, 2.0]], name="x")
    assert (x.shape, x.ndim, x.size, x.T.shape) == ((1, 2), 2, 2, (2, 1))
    assert repr(x).endswith(", x)") and "made by mul" in repr(Tensor([1.0], requires_grad=True) * 2)
    assert Tensor([2.5]).item() == 2.5 and isinstance(Tensor([2.5]).item(), float)
    assert [row.data.tolist() for row in Tensor([[1.0, 2.0], [3.0, 4.0]])] == [[1, 2], [3, 4]]


# Errors.


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda x: x @ Tensor(np.ones((4, 2), np.float32)), InputError, r"matmul: shapes \(2, 3\) and \(4, 2\)"),
        (lambda x: x @ 2, InputError, r"matmul: shapes \(2, 3\) and \(\)"),
        (lambda x: x + np.ones(4), InputError, r"add: shapes \(2, 3\) and \(4,\)"),
        (lambda x: np.ones(4) - x, InputError, r"sub: shapes \(4,\) and \(2, 3\)"),
        (lambda x: x < np.ones(4), InputError, "less: shapes"),
        (lambda x: x * Tensor(np.ones((2, 3))), InputTypeError, "mul: needs two float32 .*float32 and float64"),
        (lambda x: x / "2", InputTypeError, "div: operands must be .* got str"),
        (lambda x: x + 1j, InputTypeError, "add: .* complex"),
        (lambda x: x + None, InputTypeError, "add: .* NoneType"),
        (lambda x: Tensor(np.arange(3)) * 0.5, InputTypeError, "mul: .* int64"),
        (lambda x: x.reshape(4, 2), InputError, r"reshape: \(4, 2\) does not fit shape \(2, 3\)"),
        (lambda x: x.transpose(0, 0), InputError, "transpose: "),
        (lambda x: x.swapaxes(0, 2), InputError, "swapaxes: "),
        (lambda x: x[2], InputError, r"getitem: 2 does not fit shape \(2, 3\)"),
        (lambda x: x["a"], InputError, "getitem: "),
        (lambda x: x.sum(axis=2), InputError, r"sum: 2 does not fit shape \(2, 3\)"),
        (lambda x: x.max(axis=(0, 0)), InputError, "max: "),
        (lambda x: x[:0].max(), InputError, "max: nothing"),
        (lambda x: x[:, :0].mean(axis=1), InputError, "mean: nothing"),
        (lambda x: ad.logsumexp(x, axis=5), InputError, "logsumexp: 5"),
        (lambda x: ad.logsumexp(x[:0], axis=0), InputError, "logsumexp: "),
        (lambda x: ad.clip(x, 1, -1), InputError, r"clip: lo \(=1\)"),
        (lambda x: ad.clip(x, float("nan"), 1), InputError, "clip: "),
        (lambda x: ad.exp(x.data), InputTypeError, "exp: .* got float32"),
        (lambda x: ad.exp(Tensor(np.arange(3))), InputTypeError, "exp: .* int64"),
        (lambda x: ad.where(np.ones(3), x, x), InputTypeError, "where: condition .* float64"),
        (lambda x: ad.where(np.ones(4, bool), x, x), InputError, r"where: shapes \(4,\), \(2, 3\)"),
        (lambda x: ad.broadcast_to(x, (3, 2)), InputError, "broadcast_to: "),
        (lambda x: ad.concatenate([x, x[0]]), InputError, r"concatenate: shapes \[\(2, 3\), \(3,\)\]"),
        (lambda x: ad.concatenate([np.ones(3)]), InputTypeError, "concatenate: .* Tensor"),
        (lambda x: ad.stack([x, x[0]]), InputError, "stack: shapes"),
        (lambda x: ad.stack([x, Tensor(np.ones((2, 3)))]), InputTypeError, "stack: dtypes"),
        (lambda x: ad.pad(x, -1), InputError, "pad: "),
        (lambda x: ad.pad(x, ((1, 1),) * 3), InputError, "pad: "),
        (lambda x: x.item(), InputError, r"item: .*\(2, 3\)"),
        (lambda x: x.astype(np.int32), InputTypeError, "astype: .* int32"),
        (lambda x: list(x.sum()), InputTypeError, "iter: "),
        (lambda x: np.asarray(x), InputTypeError, r"\.data"),
        (lambda x: x.backward(), InputError, r"backward: .*\(2, 3\) needs grad"),
        (lambda x: x.backward(np.ones(3)), InputError, r"backward: grad has shape \(3,\)"),
        (lambda x: x.detach().sum().backward(), InputError, "backward: nothing was recorded"),
        (lambda x: Tensor(np.arange(3), requires_grad=True), InputTypeError, "Tensor: .* int64"),
        (lambda x: Tensor(np.array([True]), requires_grad=True), InputTypeError, "Tensor: .* bool"),
        (lambda x: Tensor(np.ones(3, np.float16)), InputTypeError, "Tensor: .* float16"),
        (lambda x: Tensor(np.ones(3, ">f4")), InputTypeError, "Tensor: .* >f4"),
        (lambda x: Tensor(np.array(["a"])), InputTypeError, "Tensor: "),
        (lambda x: Tensor(["a"]), InputTypeError, "Tensor: "),
        (lambda x: Tensor([[1], [1, 2]]), InputTypeError, "Tensor: "),
        (lambda x: Tensor(None), InputTypeError, "Tensor: .* NoneType"),
        (lambda x: Tensor(x), InputTypeError, "Tensor: .* got Tensor"),
    ],
)
def test_errors_name_the_op_and_the_values(call, error, message):
    x = Tensor(np.arange(6, dtype=np.float32).reshape(2, 3), requires_grad=True)
    with pytest.raises(error, match=message):
        call(x)
    assert x.grad is None


@pytest.mark.parametrize(
    "result, message",
    [
        ((np.ones(3),), r"wrong: backward returned a gradient of shape \(3,\) for parent 0 of shape \(2,\)"),
        ((np.ones((1, 2)),), r"wrong: .* \(1, 2\)"),
        ((), "wrong: backward must return a tuple of 1"),
        (np.ones(2), "wrong: backward must return a tuple"),
    ],
)
def test_wrong_backward_functions_are_refused(result, message):
    x = Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(InputError, match=message):
        (apply("wrong", x.data, (x,), lambda dy: result) + x).sum().backward()
    assert x.grad is None


def test_importing_loads_no_layers_and_no_compiler():
    code = "import sys, xnor_ref.autodiff, xnor_ref.optim; print({'numba', 'PIL', 'xnor_ref.nn'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


# gradcheck itself.


def test_gradcheck_finds_wrong_gradients():
    def wrong(factor):
        return lambda x: apply("wrong", x.data**2, (x,), lambda dy: (dy * 2 * x.data * factor,))

    x = values((3, 4))
    assert gradcheck(wrong(1), [x]) < 1e-7
    for factor in (1.0001, 0, -1, np.nan):
        with pytest.raises(ad.GradientError, match="input 0") as caught:
            gradcheck(wrong(factor), [x])
        assert isinstance(caught.value, (EquivalenceError, AssertionError)) and caught.value.exit_code == 6
    with pytest.raises(ad.GradientError, match="input 1"):
        gradcheck(lambda a, b: a + wrong(1.01)(b), [x, x])
    one_wrong = np.ones((3, 4))
    one_wrong[1, 2] = 1.1
    with pytest.raises(ad.GradientError):
        gradcheck(wrong(one_wrong), [x])


def test_gradcheck_takes_unused_inputs_and_leaves_all_unchanged():
    x, before = values((3,)), values((3,))
    gradcheck(lambda a, b: a * 2, [x, x])
    assert (x == before).all()


@pytest.mark.parametrize(
    "inputs, options, error",
    [
        ([np.ones(3, np.float32)], {}, InputTypeError),
        ([[1.0]], {}, InputTypeError),
        ([], {}, InputError),
        ([np.ones(3)], {"directions": 0}, InputError),
        ([np.ones(3)], {"eps": 0}, InputError),
    ],
)
def test_gradcheck_refuses(inputs, options, error):
    with pytest.raises(error, match="gradcheck: "):
        gradcheck(lambda x: x * 1, inputs, **options)


def test_iteration_runs_over_the_first_axis():
    assert [row.data.tolist() for row in Tensor(np.arange(6.0).reshape(2, 3))] == [[0, 1, 2], [3, 4, 5]]


def test_a_parent_that_wants_no_gradient_gets_none_and_costs_no_check():
    """Its part of what `backward` returns is not looked at, so an op may leave there whatever it has."""
    x, constant = Tensor(np.ones(3), requires_grad=True), Tensor(np.full(3, 2.0))
    apply("product", x.data * 2, (x, constant), lambda dy: (dy * 2, np.ones((7, 7)))).sum().backward()
    assert constant.grad is None and x.grad.tolist() == [2, 2, 2]
