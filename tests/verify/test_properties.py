"""The properties of `xnor_ref.verify` hold for the kernels, on cases that are the same in every run."""

import pytest

from xnor_ref import verify
from xnor_ref.verify import kernels
from xnor_ref.verify.runner import run_all, run_property


@pytest.mark.parametrize("prop", kernels.PROPERTIES, ids=lambda prop: prop.name)
def test_property_holds(prop):
    result = run_property(prop, kernels.Implementation(), verify.DEFAULT_EXAMPLES, seed=20160316)
    assert result.passed, f"{result.failure}\nsmallest example: {result.example}"
    assert result.examples >= 5


def test_run_reports_each_property_and_what_was_tried():
    lines = []
    results = verify.run(examples=5, seed=1, report=lines.append)
    assert len(results) == len(verify.PROPERTIES) == len(lines)
    assert all(result.passed and result.examples >= 5 for result in results)
    assert lines[0].startswith("ok") and " 5 examples " in lines[0] and results[0].name in lines[0]


def test_the_seed_decides_the_cases():
    def cases_of(seed):
        seen = []
        prop = verify.Property("any", kernels.cases.convs(), lambda _, case: seen.append(case))
        run_property(prop, None, 20, seed)
        return seen

    assert cases_of(1) == cases_of(1) != cases_of(2)
    assert cases_of(None) != cases_of(None)


def test_a_broken_property_names_its_smallest_example():
    def check(implementation, conv):
        if conv.x.shape[1] > 63:
            raise ArithmeticError("too many channels")

    lines = []
    prop = verify.Property("few channels", kernels.cases.convs(), check)
    (result,) = run_all([prop], None, 100, 1, lines.append)
    assert not result.passed and result.failure == "ArithmeticError: too many channels"
    assert "shape=(1, 64, 1, 1)" in result.example
    assert lines[0].startswith("FAIL") and "few channels" in lines[0]
    assert "too many channels" in lines[1] and "shape=(1, 64, 1, 1)" in lines[2]
