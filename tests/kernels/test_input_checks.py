"""What the public kernels refuse, in which words, and before they allocate anything."""

import tracemalloc

import numpy as np
import pytest

import xnor_ref
from tests.conftest import JIT_DISABLED
from xnor_ref.errors import InputError, InputTypeError
from xnor_ref.kernels.basics import checks, memory, rungs

X = np.ones((1, 3, 4, 5), np.float32)
W = np.ones((2, 3, 3, 3), np.float32)
CONVS = ["binary_conv2d", "xnor_conv2d"]


def refused(error, function, *args, **options):
    with pytest.raises(error) as caught:
        getattr(xnor_ref, function)(*args, **options)
    message = str(caught.value)
    assert message.startswith(f"{function}: "), message
    return message


def with_value(x, index, value):
    x = x.copy()
    x[index] = value
    return x


@pytest.mark.parametrize("function", CONVS)
@pytest.mark.parametrize(
    ("x", "weight", "error", "message"),
    [
        (X.tolist(), W, InputTypeError, "x must be a numpy.ndarray, got list"),
        (X, None, InputTypeError, "weight must be a numpy.ndarray, got NoneType"),
        (np.ma.masked_array(X), W, InputTypeError, "x must be a numpy.ndarray, got MaskedArray"),
        (
            X.astype(np.float64),
            W,
            InputTypeError,
            "x must be float32, got float64; convert it yourself, since rounding",
        ),
        (X, W.astype(np.float16), InputTypeError, "weight must be float32, got float16"),
        (X.astype(np.int8), W, InputTypeError, "x must be float32, got int8"),
        (X > 0, W, InputTypeError, "x must be float32, got bool"),
        (X.astype(object), W, InputTypeError, "x must be float32, got object"),
        (X.astype(np.complex64), W, InputTypeError, "x must be float32, got complex64"),
        (X[0], W, InputError, "x must have 4 axes (N, C, H, W), got shape (3, 4, 5)"),
        (X, W[0, 0], InputError, "weight must have 4 axes (O, C, KH, KW), got shape (3, 3)"),
        (X[:0], W, InputError, "x has no elements, shape (0, 3, 4, 5)"),
        (X, W[:, :, :0], InputError, "weight has no elements, shape (2, 3, 0, 3)"),
        (
            X,
            np.ones((2, 4, 3, 3), np.float32),
            InputError,
            "weight has C=4, input has C=3; both must match (weight (2, 4, 3, 3), input (1, 3, 4, 5))",
        ),
        (
            X,
            np.ones((2, 3, 5, 3), np.float32),
            InputError,
            "kernel height 5 exceeds the padded input height 4 (4 + 2*0) (weight (2, 3, 5, 3), input (1, 3, 4, 5))",
        ),
        (X, np.ones((2, 3, 3, 6), np.float32), InputError, "kernel width 6 exceeds the padded input width 5 (5 + 2*0)"),
        (with_value(X, (0, 2, 1, 3), np.nan), W, InputError, "x must be finite, but holds nan at index (0, 2, 1, 3)"),
        (with_value(X, (0, 0, 0, 4), np.inf), W, InputError, "x must be finite, but holds inf at index (0, 0, 0, 4)"),
        (
            X,
            with_value(W, (1, 0, 2, 2), -np.inf),
            InputError,
            "weight must be finite, but holds -inf at index (1, 0, 2, 2)",
        ),
    ],
)
def test_arrays(function, x, weight, error, message):
    assert message in refused(error, function, x, weight)


@pytest.mark.parametrize("function", CONVS)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stride": 0}, InputError, "stride must be an int from 1 to 2**31 - 1 or a pair, got 0"),
        ({"stride": -1}, InputError, "stride must be an int from 1"),
        ({"stride": (1, 0)}, InputError, "stride must be an int from 1 to 2**31 - 1 or a pair, got (1, 0)"),
        ({"stride": (1, 1, 1)}, InputError, "or a pair, got (1, 1, 1)"),
        ({"stride": ()}, InputError, "or a pair, got ()"),
        ({"stride": 2**31}, InputError, "got 2147483648"),
        ({"stride": True}, InputTypeError, "stride must be an int or a pair of ints, got True"),
        ({"stride": 1.0}, InputTypeError, "stride must be an int or a pair of ints, got 1.0"),
        ({"stride": "1"}, InputTypeError, "stride must be an int or a pair of ints, got '1'"),
        ({"stride": None}, InputTypeError, "stride must be an int or a pair of ints, got None"),
        ({"padding": -1}, InputError, "padding must be an int from 0 to 2**31 - 1 or a pair, got -1"),
        ({"padding": (0, False)}, InputTypeError, "padding must be an int or a pair of ints, got (0, False)"),
        ({"padding": "Same"}, InputError, 'padding must be numbers, "same" or "valid", got \'Same\''),
        (
            {"padding": ((0, 1), (2, -1))},
            InputError,
            "padding must be an int from 0 to 2**31 - 1 or a pair",
        ),
        ({"padding": ((0, 1), (2, 3), (4, 5))}, InputError, "padding must be ((top, bottom), (left, right)), got"),
        ({"padding": ((0, 1), None)}, InputTypeError, "padding must be an int or a pair of ints, got None"),
        ({"dilation": 0}, InputError, "dilation must be an int from 1 to 2**31 - 1 or a pair, got 0"),
        ({"dilation": (1, 2.0)}, InputTypeError, "dilation must be an int or a pair of ints, got (1, 2.0)"),
        ({"dilation": (1, 3)}, InputError, "kernel width 3, dilated to 7, exceeds the padded input width 5 (5 + 2*0)"),
        ({"groups": 0}, InputError, "groups must be at least 1, got 0"),
        ({"groups": 2.0}, InputTypeError, "groups must be an int, got 2.0"),
        ({"groups": 2}, InputError, "groups=2 must divide C=3 and O=2"),
        ({"padding": np.nan}, InputTypeError, "padding must be an int or a pair of ints, got nan"),
        ({"pad_value": 2}, InputError, "pad_value must be 0, 1 or -1, got 2"),
        ({"pad_value": 1.0}, InputTypeError, "pad_value must be the int 0, 1 or -1, got 1.0"),
        ({"pad_value": True}, InputTypeError, "pad_value must be the int 0, 1 or -1, got True"),
        ({"pad_value": None}, InputTypeError, "pad_value must be the int 0, 1 or -1, got None"),
        ({"backend": "cuda"}, InputError, "backend must be one of auto, reference, numba, simd, float; got 'cuda'"),
        ({"backend": None}, InputError, "backend must be one of auto, reference, numba, simd, float; got None"),
        ({"backend": ["auto"]}, InputError, "backend must be one of"),
        ({"threads": 0}, InputError, "threads must be from 1 to 1024, got 0"),
        ({"threads": 10**6}, InputError, "threads must be from 1 to 1024, got 1000000"),
        ({"threads": True}, InputTypeError, "threads must be an int, got True"),
        ({"threads": 1.5}, InputTypeError, "threads must be an int, got 1.5"),
    ],
)
def test_options(function, options, error, message):
    assert message in refused(error, function, X, W, **options)


@pytest.mark.parametrize("function", CONVS)
def test_weights_must_see_the_channels_of_a_group(function):
    x, weight = np.ones((1, 6, 3, 3), np.float32), np.ones((4, 6, 1, 1), np.float32)
    assert "weight has C=6; 6 input channels in 2 groups need C=3" in refused(InputError, function, x, weight, groups=2)
    assert "groups=4 must divide C=6 and O=4" in refused(InputError, function, x, weight[:, :1], groups=4)
    assert getattr(xnor_ref, function)(x, weight[:, :3], groups=2).shape == (1, 4, 3, 3)


@pytest.mark.parametrize("input_scale", ["mean", None, 1, ["plain"]])
def test_input_scale(input_scale):
    message = refused(InputError, "xnor_conv2d", X, W, input_scale=input_scale)
    assert f"input_scale must be one of off, plain, valid; got {input_scale!r}" in message


@pytest.mark.parametrize(
    ("x", "weight", "options", "error", "message"),
    [
        ([[1.0]], W[0, 0], {}, InputTypeError, "x must be a numpy.ndarray, got list"),
        (X[0, 0], W[0, 0].astype("f8"), {}, InputTypeError, "weight must be float32, got float64"),
        (X, W[0, 0], {}, InputError, "x must have 2 axes (N, I), got shape (1, 3, 4, 5)"),
        (X[0, 0, :0], W[0, 0], {}, InputError, "x has no elements, shape (0, 5)"),
        (
            X[0, 0],
            W[0, 0],
            {},
            InputError,
            "weight has I=3, input has I=5; both must match (weight (3, 3), input (4, 5))",
        ),
        (
            with_value(X[0, 0], (3, 4), np.nan),
            X[0, 0],
            {},
            InputError,
            "x must be finite, but holds nan at index (3, 4)",
        ),
        (X[0, 0], X[0, 0], {"backend": "gpu"}, InputError, "backend must be one of"),
        (X[0, 0], X[0, 0], {"threads": -1}, InputError, "threads must be from 1 to 1024, got -1"),
    ],
)
def test_linear(x, weight, options, error, message):
    assert message in refused(error, "binary_linear", x, weight, **options)


def test_ints_of_numpy_and_lists_as_pairs_are_taken():
    want = xnor_ref.binary_conv2d(X, W, (1, 2), (1, 0), -1)
    got = xnor_ref.binary_conv2d(X, W, [np.int64(1), 2], np.array([1, 0]).tolist(), np.int8(-1), threads=np.int32(2))
    np.testing.assert_array_equal(got, want)


def ones(*shape):
    """An array of any logical size that takes four bytes."""
    return np.broadcast_to(np.float32(1), shape)


@pytest.mark.parametrize(
    ("x", "weight", "options"),
    [
        (ones(1, 1, 2**20, 2**20), ones(1, 1, 1, 1), {}),  # the input itself
        (ones(2**20, 1, 2**10, 2**10), ones(1, 1, 1024, 1024), {}),
        (ones(1, 1, 1, 1), ones(2**45, 1, 1, 1), {}),  # many filters
        (ones(1, 1, 1, 1), ones(1, 1, 1, 1), {"padding": 2**31 - 1}),  # a vast border
        (ones(1, 1, 1, 1), ones(1, 1, 1, 1), {"padding": (2**30, 2**30), "pad_value": -1}),
        (ones(1, 1, 1, 1), ones(1, 1, 1, 1), {"padding": 2**24, "stride": 2**25, "backend": "float"}),
        (ones(2**26, 1, 64, 64), ones(1000, 1, 1, 1), {}),
    ],
)
@pytest.mark.parametrize("function", CONVS)
def test_sizes_beyond_the_machine_are_refused_before_anything_is_allocated(function, x, weight, options):
    tracemalloc.start()
    try:
        message = refused(InputError, function, x, weight, **options)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    assert "this would take" in message and "GiB of memory, but the machine has" in message
    assert f"weight {weight.shape}, input {x.shape}" in message


def test_linear_sizes_beyond_the_machine_are_refused():
    message = refused(InputError, "binary_linear", ones(2**30, 16), ones(2**30, 16))
    assert "this would take" in message and "(weight (1073741824, 16), input (1073741824, 16))" in message


def test_dot_products_longer_than_the_result_can_hold_are_refused():
    message = refused(InputError, "binary_conv2d", ones(1, 2**21, 32, 32), ones(1, 2**21, 32, 32))
    assert "C*KH*KW = 2147483648 signs per output; the int32 result holds at most 2**31 - 1" in message
    message = refused(InputError, "binary_linear", ones(1, 2**31), ones(1, 2**31))
    assert "I = 2147483648 signs per output" in message


def test_dot_products_that_float32_cannot_add_are_refused_by_the_float_backend():
    message = refused(InputError, "binary_linear", ones(1, 2**24), ones(1, 2**24), backend="float")
    assert '16777216 signs per output, but backend "float" is exact only below 2**24' in message


def test_the_estimate_follows_the_memory_of_the_machine(monkeypatch):
    monkeypatch.setattr(memory, "physical_memory", lambda: 100)
    assert "this would take 0.0 GiB" in refused(InputError, "binary_conv2d", X, W)


@pytest.mark.parametrize("backend", ["reference", "numba", "float"] + ["simd"] * rungs.has_vectors())
@pytest.mark.parametrize("pad_value", [0, 1])
def test_the_estimate_covers_what_is_really_allocated(monkeypatch, backend, pad_value):
    if JIT_DISABLED and backend == "numba":
        pytest.skip("too slow with NUMBA_DISABLE_JIT=1")
    asked = []
    check = checks.check_memory
    monkeypatch.setattr(
        checks, "check_memory", lambda caller, need, what: (asked.append(need), check(caller, need, what))
    )
    rng = np.random.default_rng(0)
    x = np.asfortranarray(rng.standard_normal((2, 70, 40, 30), np.float32))
    weight = np.asfortranarray(rng.standard_normal((70, 70, 3, 3), np.float32))
    options = {"padding": 3, "pad_value": pad_value, "backend": backend, "threads": 1}
    xnor_ref.xnor_conv2d(x, weight, **options)  # imports and compiles
    tracemalloc.start()
    try:
        xnor_ref.xnor_conv2d(x, weight, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < asked[-1] + 2**20


def test_packing_beyond_the_machine_is_refused():
    for function, arguments in (
        (xnor_ref.pack_bits, (np.broadcast_to(np.float32(1), (10**14,)),)),
        (xnor_ref.unpack_bits, (np.broadcast_to(np.uint64(1), (10**12,)), 64 * 10**12)),
    ):
        with pytest.raises(InputError, match="GiB of memory, but the machine has"):
            function(*arguments)
