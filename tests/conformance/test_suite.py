"""In pytest: a line makes a test of each property, with names and messages that say what is wrong."""

import numpy as np
import pytest
from hypothesis import given, settings

from xnor_ref import conformance as c
from xnor_ref.conformance import Kit, cases, expected, pytest_suite
from xnor_ref.conformance.basics import oracle
from xnor_ref.errors import InputError


def right(x, weight):
    return (oracle.signs(x) @ oracle.signs(weight).T).astype(np.int32)


def wrong(x, weight):
    """It loses the last of 33 and more elements."""
    return right(x[:, :-1], weight[:, :-1]) if x.shape[1] > 32 else right(x, weight)


test_a_suite_of_a_right_function_passes = pytest_suite(linear=right, examples=10, seed=0)

MODULE = """
import numpy as np
from tests.conformance.test_suite import right, wrong
from xnor_ref.conformance import pytest_suite

test_mine = pytest_suite(linear=wrong, examples=40, seed=1)
test_both = pytest_suite(linear=right, pack=lambda x: np.packbits(x > 0, axis=1), examples=10, seed=1)
"""


def test_failures_are_shown_with_the_smallest_case_and_without_a_traceback(pytester_like):
    code, text = pytester_like(MODULE)
    assert code == 1
    assert "test_mine[binary matrix product equals its definition in float64]" in text
    assert (
        "test_both[all roles follow the same conventions]" in text and "sign_of_zero differs: linear 1, pack -1" in text
    )
    assert "x = np.array([" in text and "Traceback" not in text and "hypothesis" not in text.lower()
    assert text.count("FAILED") == 3


@pytest.fixture
def pytester_like(tmp_path, capfd):
    """Runs pytest on the text of a module, in this process."""

    def run(text):
        (tmp_path / "test_own.py").write_text(text)
        code = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={tmp_path}", str(tmp_path)])
        return int(code), capfd.readouterr().out

    return run


@settings(max_examples=20)
@given(cases("conv2d", channels=c.multiple_of(32), kernels=(1, 3), paddings=0, pad_values=0, batch=1))
def test_cases_are_drawn_inside_their_restrictions(case):
    x, weight, stride, padding, pad_value = case.arguments().values()
    assert x.shape[1] % 32 == 0 and len(x) == 1 and set(weight.shape[2:]) <= {1, 3} and pad_value == 0
    want = oracle.sign_convolution(x, weight, stride, padding, pad_value)
    np.testing.assert_array_equal(expected(case), want)
    np.testing.assert_array_equal(expected(case, form="(dot + n)/2"), (want + weight[0].size) / 2)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(InputError, match="'convolve' is not a role"):
        cases("convolve")
    with pytest.raises(InputError, match="'colour' is not a restriction"):
        cases("conv2d", colour=1)
    with pytest.raises(InputError, match="leave no"):
        cases("conv2d", channels=c.multiple_of(1000), largest_dot=10)


def test_names_of_properties_are_those_that_run_tries():
    kit = Kit(linear=right)
    assert kit.property_names() == [(result.role, result.name) for result in kit.run(examples=5, seed=0).results]
