"""Optimisers against numbers by hand and float64 loops, both backends, state; schedules."""

import math

import numpy as np
import pytest

from xnor_ref.autodiff import Tensor
from xnor_ref.errors import InputError, InputTypeError, ModelFileError
from xnor_ref.kernels.basics.rungs import jit_disabled
from xnor_ref.optim import KINDS, SGD, Adam, Optimizer, make_schedule
from xnor_ref.optim.optimizers import CHUNK

BOTH = pytest.mark.parametrize("backend", ["reference", "numba"])
OPTIMIZERS = {
    "sgd": lambda params, **kw: SGD(params, 0.1, **kw),
    "sgd decay": lambda params, **kw: SGD(params, 0.1, weight_decay=0.01, **kw),
    "momentum": lambda params, **kw: SGD(params, 0.1, 0.9, **kw),
    "momentum decay": lambda params, **kw: SGD(params, 0.1, momentum=0.9, weight_decay=0.01, **kw),
    "nesterov": lambda params, **kw: SGD(params, 0.1, 0.9, 0.01, nesterov=True, **kw),
    "adam": lambda params, **kw: Adam(params, 0.1, **kw),
    "adam decay": lambda params, **kw: Adam(params, 0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.01, **kw),
    "adamw": lambda params, **kw: Adam(params, 0.1, weight_decay=0.01, decoupled=True, **kw),
}
EVERY = pytest.mark.parametrize("name", OPTIMIZERS)


def parameter(values, decay=True):
    param = Tensor(np.array(values, np.float32), requires_grad=True)
    param.decay = decay
    return param


def path(optimizer, param, gradients):
    """The parameter after each step."""
    points = []
    for gradient in gradients:
        param.grad = np.full(param.shape, gradient, np.float32)
        optimizer.step()
        points.append(param.data.tolist())
    return points


def bits(array):
    return array.view(np.uint32).tolist()


# Numbers by hand, all exact in float32 unless said otherwise.


@BOTH
def test_sgd_by_hand(backend):
    p = parameter([1.0, 2.0])
    assert path(SGD([p], 0.5, backend=backend), p, [0.5, -1]) == [[0.75, 1.75], [1.25, 2.25]]
    p = parameter([2.0])
    assert path(SGD([p], 0.25, weight_decay=0.5, backend=backend), p, [1, 0]) == [[1.5], [1.3125]]


@BOTH
def test_momentum_by_hand(backend):
    p = parameter([0.0])  # velocity 1, 1.5, 1.75
    assert path(SGD([p], 1, 0.5, backend=backend), p, [1, 1, 1]) == [[-1], [-2.5], [-4.25]]
    p = parameter([0.0])  # gradient + velocity / 2
    assert path(SGD([p], 1, 0.5, nesterov=True, backend=backend), p, [1, 1, 1]) == [[-1.5], [-3.25], [-5.125]]
    p = parameter([2.0])  # gradients 2, 1.5; velocity 2, 2.5
    assert path(SGD([p], 0.25, 0.5, 0.5, backend=backend), p, [1, 0.75]) == [[1.5], [0.875]]


@BOTH
def test_adam_by_hand(backend):
    # mean 1, 0.5; square 1, 0.75; corrected 2, 0.5/0.75; 4, 0.75/0.4375
    p = parameter([0.0])
    points = path(Adam([p], 1, betas=(0.5, 0.75), eps=2, backend=backend), p, [2, 0])
    np.testing.assert_allclose(points, [[-0.5], [-0.5 - (2 / 3) / (math.sqrt(12 / 7) + 2)]], rtol=1e-6)
    # a constant gradient g gives lr g / (|g| + eps) each time
    p = parameter([0.0, 0.0])
    points = path(Adam([p], 0.125, eps=1, backend=backend), p, [3, 3, 3])
    np.testing.assert_allclose(points, [[-0.09375] * 2, [-0.1875] * 2, [-0.28125] * 2], rtol=1e-5)
    # decay 0.5: coupled, the gradient is 2; decoupled, the parameter is halved first
    p = parameter([2.0])
    np.testing.assert_allclose(path(Adam([p], 1, eps=2, weight_decay=0.5, backend=backend), p, [1]), [[1.5]], rtol=1e-6)
    p = parameter([2.0])
    adamw = Adam([p], 1, eps=2, weight_decay=0.5, decoupled=True, backend=backend)
    np.testing.assert_allclose(path(adamw, p, [2]), [[0.5]], rtol=1e-6)


# Against plain float64 loops.


def float64_loop(name, start, gradients):
    """The papers' formulas, element by element in Python floats."""
    wd = 0.0 if name in ("sgd", "momentum", "adam") else 0.01
    b1, b2, eps = (0.8, 0.95, 1e-6) if name == "adam decay" else (0.9, 0.999, 1e-8)
    end = []
    for i, w in enumerate(start):
        w, v, m, s = float(w), 0.0, 0.0, 0.0
        for t, gradient in enumerate(gradients, 1):
            g = float(gradient[i])
            if name.startswith("adam"):
                if name == "adamw":
                    w -= 0.1 * wd * w
                else:
                    g += wd * w
                m = b1 * m + (1 - b1) * g
                s = b2 * s + (1 - b2) * g * g
                w -= 0.1 * (m / (1 - b1**t)) / (math.sqrt(s / (1 - b2**t)) + eps)
            else:
                g += wd * w
                v = (0 if name.startswith("sgd") else 0.9) * v + g
                w -= 0.1 * (g + 0.9 * v if name == "nesterov" else v)
        end.append(w)
    return end


@EVERY
def test_against_a_float64_loop(name):
    rng = np.random.default_rng(1)
    p = parameter(rng.standard_normal((4, 5)))
    start = p.data.ravel().copy()
    gradients = rng.standard_normal((30, 20)).astype(np.float32)
    optimizer = OPTIMIZERS[name]([p])
    for gradient in gradients:
        p.grad = gradient.reshape(4, 5)
        optimizer.step()
    np.testing.assert_allclose(p.data.ravel(), float64_loop(name, start, gradients), rtol=2e-5, atol=2e-5)


# Both backends, any number of threads: the same bits.


def trained(name, start, gradients, **options):
    p = parameter(start)
    optimizer = OPTIMIZERS[name]([p], **options)
    for gradient in gradients:
        p.grad = gradient
        optimizer.step()
    return [p.data, *(array for key, array in optimizer.state_dict().items() if key != "step")]


@EVERY
def test_backends_have_the_same_bits_on_awkward_values(name):
    special = np.float32([0, -0.0, 1e-45, -1e-40, 1e-20, 3e-39, 1, -1, 1 + 2**-23, 1e18, -3e18, 0.1])
    start, gradient = (part.ravel() for part in np.meshgrid(special, special))
    first, second = (trained(name, start, [gradient, -gradient, gradient], backend=b) for b in ("reference", "numba"))
    assert [bits(array) for array in first] == [bits(array) for array in second]


@EVERY
@BOTH
def test_overflow_neither_warns_nor_stops(name, backend):
    if backend == "numba" and jit_disabled():
        pytest.skip("uncompiled kernels do warn")
    gradients = np.full((3, 2), 3e38, np.float32) * np.float32([1, -1])
    data = trained(name, [3e38, -3e38], gradients, backend=backend)[0]
    np.testing.assert_array_equal(data, trained(name, [3e38, -3e38], gradients, backend="reference")[0])


@pytest.mark.slow
@EVERY
def test_backends_and_threads_have_the_same_bits(name):
    rng = np.random.default_rng(2)
    size = 2 * CHUNK + 77
    start = rng.standard_normal(size, np.float32)
    gradients = [rng.standard_normal(size, np.float32) for _ in range(3)]
    expected = trained(name, start, gradients, backend="reference", threads=1)
    for options in ({"backend": "reference", "threads": 3}, {"backend": "numba", "threads": 1}, {"threads": 2}):
        for array, same in zip(trained(name, start, gradients, **options), expected):
            assert (array.view(np.uint32) == same.view(np.uint32)).all()


# Which parameters, and what is left alone.


@EVERY
def test_decay_only_where_it_applies(name):
    with_decay, without, unmarked = parameter([1.0]), parameter([1.0], decay=False), parameter([1.0])
    del unmarked.decay
    optimizer = OPTIMIZERS[name]([with_decay, without, unmarked])
    for p in (with_decay, without, unmarked):
        p.grad = np.zeros(1, np.float32)
    optimizer.step()
    decays = name not in ("sgd", "momentum", "adam")
    assert (with_decay.data < 1) == decays and (unmarked.data < 1) == decays and without.data == 1


@EVERY
def test_parameters_without_gradient_are_skipped(name):
    first, second = parameter([1.0]), parameter([1.0])
    optimizer = OPTIMIZERS[name]([("first", first), ("second", second)])
    first.grad = second.grad = np.ones(1, np.float32)
    optimizer.step()
    optimizer.zero_grad()
    assert first.grad is None and second.grad is None
    before = {key: array.copy() for key, array in optimizer.state_dict().items()} | {"data": second.data.copy()}
    first.grad = np.ones(1, np.float32)
    optimizer.step()
    after = optimizer.state_dict() | {"data": second.data}
    assert all(after[key] == before[key] for key in after if key == "data" or key.startswith("second."))
    assert first.data < second.data and after["step"] == 2


@EVERY
def test_updates_are_in_place_and_leave_gradients_alone(name):
    p = parameter(np.ones((3, 2)))
    data = p.data
    p.grad = gradient = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2))
    gradient.flags.writeable = False
    OPTIMIZERS[name]([p]).step()
    assert p.data is data and (gradient == np.arange(6).reshape(3, 2)).all()
    changed = np.argsort(-data.ravel(), kind="stable")  # a larger gradient, a smaller parameter
    assert data[0, 0] > data[0, 1] and changed[0] == 0


def test_learning_rate_can_be_set_before_each_step():
    p = parameter([0.0])
    optimizer = SGD([p], 1)
    p.grad = np.ones(1, np.float32)
    for lr, expected in ((0.5, -0.5), (0, -0.5), (0.25, -0.75)):
        optimizer.lr = lr
        optimizer.step()
        assert p.data == expected and optimizer.lr == lr
    for bad in (-1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="SGD: lr"):
            optimizer.lr = bad


def test_training_with_autodiff():
    rng = np.random.default_rng(3)
    x, target = rng.standard_normal((64, 5), np.float32), np.float32([1, -2, 3, 0, 0.5])
    for name in OPTIMIZERS:
        w = parameter(np.zeros(5))
        optimizer = OPTIMIZERS[name]([w])
        for _ in range(200):
            optimizer.zero_grad()
            ((x @ w - x @ target) ** 2).mean().backward()
            optimizer.step()
        np.testing.assert_allclose(w.data, target, atol=0.1)


# State.


@EVERY
def test_resume_is_bit_exact(name):
    rng = np.random.default_rng(4)
    gradients = rng.standard_normal((6, 2, 3), np.float32)

    def run(p, optimizer, part):
        for gradient in part:
            p.grad = gradient
            optimizer.step()

    straight = parameter(np.ones((2, 3)))
    optimizer = OPTIMIZERS[name]([("w", straight)])
    run(straight, optimizer, gradients)

    first = parameter(np.ones((2, 3)))
    before = OPTIMIZERS[name]([("w", first)])
    run(first, before, gradients[:3])
    saved = {key: array.copy() for key, array in before.state_dict().items()}
    run(first, before, gradients[:1])  # what comes after saving does not matter

    resumed = parameter(np.ones((2, 3)))
    run(resumed, OPTIMIZERS[name]([resumed]), gradients[:3])
    after = OPTIMIZERS[name]([("w", resumed)])
    after.load_state_dict(saved)
    run(resumed, after, gradients[3:])
    assert bits(resumed.data) == bits(straight.data)
    for key, array in optimizer.state_dict().items():
        assert array.tobytes() == after.state_dict()[key].tobytes()


def test_state_names_shapes_and_dtypes():
    params = [("conv.weight", parameter(np.ones((2, 3)))), ("bias", parameter([1.0]))]
    state = Adam(params, 0.1).state_dict()
    assert {key: (array.shape, str(array.dtype)) for key, array in state.items()} == {
        "conv.weight.mean": ((2, 3), "float32"),
        "conv.weight.square": ((2, 3), "float32"),
        "bias.mean": ((1,), "float32"),
        "bias.square": ((1,), "float32"),
        "step": ((), "int64"),
    }
    assert list(SGD([p for _, p in params], 0.1, 0.9).state_dict()) == ["0.velocity", "1.velocity", "step"]
    assert list(SGD(params, 0.1).state_dict()) == ["step"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"0.velocity": None}, r"missing \['0.velocity'\]"),
        ({"step": None}, "missing"),
        ({"1.velocity": np.zeros(2, np.float32)}, r"missing \[\], unknown \['1.velocity'\]"),
        ({"0.velocity": np.zeros(3, np.float32)}, r"0.velocity is float32 \(3,\), but must be float32 \(2,\)"),
        ({"0.velocity": np.zeros(2)}, "0.velocity is float64"),
        ({"step": np.array(3, np.int32)}, "step is int32"),
        ({"step": np.array(-1)}, "step is -1"),
    ],
)
def test_foreign_states_are_refused(change, message):
    p = parameter([1.0, 2.0])
    optimizer = SGD([p], 0.1, 0.9)
    path(optimizer, p, [1])
    before = {key: array.copy() for key, array in optimizer.state_dict().items()}
    state = {"0.velocity": np.zeros(2, np.float32), "step": np.array(7)} | change
    with pytest.raises(ModelFileError, match=f"SGD.load_state_dict: {message}"):
        optimizer.load_state_dict({key: array for key, array in state.items() if array is not None})
    assert all((array == before[key]).all() for key, array in optimizer.state_dict().items())


# Errors.

P = parameter([1.0])


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: SGD([], 0.1), InputError, "SGD: params holds no parameters"),
        (lambda: SGD([P, P], 0.1), InputError, "SGD: parameter '1' is given twice"),
        (lambda: SGD([("a", P), ("a", parameter([1.0]))], 0.1), InputError, "'a' is given twice"),
        (lambda: SGD([np.ones(3)], 0.1), InputTypeError, "got ndarray at 0"),
        (
            lambda: SGD([Tensor(np.ones(3), requires_grad=True)], 0.1),
            InputTypeError,
            "'0' must be float32, got float64",
        ),
        (lambda: SGD([Tensor([1.0])], 0.1), InputError, "requires a gradient"),
        (lambda: SGD([P * 2], 0.1), InputError, "leaf"),
        (lambda: SGD([Tensor(np.ones((2, 3), np.float32).T, requires_grad=True)], 0.1), InputError, "C-contiguous"),
        (lambda: SGD([P], 0), InputError, "lr must be above 0 and finite, got 0.0"),
        (lambda: SGD([P], -1), InputError, "lr"),
        (lambda: SGD([P], float("nan")), InputError, "lr"),
        (lambda: SGD([P], float("inf")), InputError, "lr"),
        (lambda: SGD([P], "0.1"), InputTypeError, "lr must be a number, got '0.1'"),
        (lambda: SGD([P], True), InputTypeError, "lr"),
        (lambda: SGD([P], 0.1, 1), InputError, "momentum must be at least 0 and below 1, got 1.0"),
        (lambda: SGD([P], 0.1, -0.1), InputError, "momentum"),
        (lambda: SGD([P], 0.1, nesterov=True), InputError, "nesterov needs a momentum"),
        (lambda: SGD([P], 0.1, weight_decay=-1), InputError, "weight_decay"),
        (lambda: SGD([P], 0.1, backend="cuda"), InputError, "backend must be one of .* got 'cuda'"),
        (lambda: SGD([P], 0.1, threads=0), InputError, "threads"),
        (lambda: Adam([P], 0.1, betas=(0.9, 1.0)), InputError, r"Adam: betas\[1\]"),
        (lambda: Adam([P], 0.1, betas=(-0.1, 0.9)), InputError, r"betas\[0\]"),
        (lambda: Adam([P], 0.1, betas=0.9), InputTypeError, "betas must be a pair"),
        (lambda: Adam([P], 0.1, eps=0), InputError, "eps"),
        (lambda: Adam([P], 0.1, eps=1e-50), InputError, "eps"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_bad_gradients_change_nothing():
    first, second = parameter([1.0]), parameter([1.0])
    optimizer = SGD([first, ("second", second)], 0.1, 0.9)
    first.grad = np.ones(1, np.float32)
    for bad in (np.ones(2, np.float32), np.ones((1, 1), np.float32), np.ones(1)):
        second.grad = bad
        with pytest.raises(InputError, match=r"SGD.step: parameter 'second' is float32 \(1,\), but its gradient"):
            optimizer.step()
    assert first.data == 1 and optimizer.state_dict()["step"] == 0


def test_exchanged_data_that_cannot_be_updated_in_place_is_refused():
    p = parameter(np.ones((2, 3)))
    optimizer = SGD([p], 0.1)
    p.data = np.ones((3, 2), np.float32).T
    p.grad = np.ones((2, 3), np.float32)
    with pytest.raises(InputError, match="SGD: parameter '0' must be a writeable, C-contiguous leaf"):
        optimizer.step()


def test_the_base_class_updates_nothing():
    p = parameter([1.0])
    p.grad = np.ones(1, np.float32)
    with pytest.raises(NotImplementedError):
        Optimizer([p], 0.1).step()


# Schedules.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("warmup", [0, 10])
def test_schedules_begin_at_the_base_and_never_rise_after_warmup(kind, warmup):
    lr = make_schedule(kind, 0.5, 100, warmup_steps=warmup, final_lr=0.125)
    values = [lr(step) for step in range(130)]
    assert values[warmup] == 0.5 and all(type(value) is float for value in values)
    assert all(later <= earlier for earlier, later in zip(values[warmup:], values[warmup + 1 :]))
    assert len(set(values[100:])) == 1
    assert values[100] == {"constant": 0.5, "step": pytest.approx(0.005)}.get(kind, 0.125)
    np.testing.assert_allclose(values[:warmup], 0.5 * np.arange(1, warmup + 1) / (warmup + 1))


def test_schedules_by_hand():
    linear, cosine, poly = (make_schedule(kind, 1.0, 8) for kind in ("linear", "cosine", "polynomial"))
    assert [linear(s) for s in (0, 2, 4, 8)] == [1, 0.75, 0.5, 0]
    assert [poly(s) for s in (0, 2, 4, 8)] == [1, 0.75**4, 0.0625, 0]
    np.testing.assert_allclose([cosine(s) for s in (0, 2, 4, 8)], [1, (1 + math.sqrt(0.5)) / 2, 0.5, 0], atol=1e-15)
    assert make_schedule("polynomial", 1.0, 8, power=2)(4) == 0.25
    shifted = make_schedule("linear", 1.0, 10, warmup_steps=2, final_lr=0.5)
    np.testing.assert_allclose([shifted(s) for s in (0, 1, 2, 6, 10)], [1 / 3, 2 / 3, 1, 0.75, 0.5])


def test_step_schedule():
    lr = make_schedule("step", 1.0, 8)
    assert [lr(s) for s in range(8)] == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    lr = make_schedule("step", 1.0, 8, milestones=[1, 5], gamma=0.5)
    assert [lr(s) for s in range(8)] == [1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert make_schedule("step", 1.0, 8, milestones=[])(7) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_shortest_training_begins_at_the_base(kind):
    assert make_schedule(kind, 1.0, 1)(0) == 1
    assert make_schedule(kind, 1.0, 1, warmup_steps=1)(0) == 0.5
    assert math.isfinite(make_schedule(kind, 1.0, 1, warmup_steps=1)(1))


@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        (("exponential", 0.1, 10), {}, InputError, "kind must be one of .* got 'exponential'"),
        (("cosine", 0, 10), {}, InputError, "base_lr"),
        (("cosine", float("nan"), 10), {}, InputError, "base_lr"),
        (("cosine", float("inf"), 10), {}, InputError, "base_lr"),
        (("cosine", 0.1, 0), {}, InputError, "total_steps must be at least 1, got 0"),
        (("cosine", 0.1, 1.5), {}, InputTypeError, "total_steps must be an int"),
        (("cosine", 0.1, True), {}, InputTypeError, "total_steps"),
        (("cosine", 0.1, 10), {"warmup_steps": 11}, InputError, r"warmup_steps \(=11\)"),
        (("cosine", 0.1, 10), {"warmup_steps": -1}, InputError, "warmup_steps"),
        (("cosine", 0.1, 10), {"final_lr": 0.2}, InputError, r"final_lr \(=0.2\)"),
        (("cosine", 0.1, 10), {"final_lr": -0.2}, InputError, "final_lr"),
        (("step", 0.1, 10), {"milestones": [5, 5]}, InputError, "milestones must ascend"),
        (("step", 0.1, 10), {"milestones": [-1]}, InputError, "milestones"),
        (("step", 0.1, 10), {"milestones": [1.5]}, InputTypeError, "milestones"),
        (("step", 0.1, 10), {"gamma": 0}, InputError, "gamma"),
        (("polynomial", 0.1, 10), {"power": 0}, InputError, "power"),
        (("polynomial", 0.1, 10), {"power": float("nan")}, InputError, "power"),
    ],
)
def test_bad_schedules(arguments, options, error, message):
    with pytest.raises(error, match=f"make_schedule: {message}"):
        make_schedule(*arguments, **options)


def test_bad_steps():
    lr = make_schedule("cosine", 0.1, 10)
    assert lr(np.int64(3)) == lr(3)
    for bad in (-1, 1.0, True):
        with pytest.raises(InputError, match="schedule: step"):
            lr(bad)
