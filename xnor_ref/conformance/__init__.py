"""Check anyone's binary convolution against a float64 definition: `Kit(conv2d=function).run()`.

The parts that draw cases are loaded at first use, since they need Hypothesis.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from xnor_ref.conformance.basics.conventions import exact as exact
from xnor_ref.conformance.basics.conventions import scaled as scaled
from xnor_ref.conformance.basics.report import Failure as Failure
from xnor_ref.conformance.basics.report import Report as Report
from xnor_ref.conformance.basics.report import Result as Result
from xnor_ref.conformance.basics.restrictions import multiple_of as multiple_of
from xnor_ref.conformance.basics.roles import ROLES as ROLES
from xnor_ref.conformance.basics.roles import Crashed as Crashed
from xnor_ref.conformance.basics.roles import Layer as Layer
from xnor_ref.conformance.foreign.libraries import c_library as c_library
from xnor_ref.conformance.foreign.programs import program as program
from xnor_ref.conformance.foreign.python_files import python_file as python_file
from xnor_ref.conformance.foreign.torch_functions import torch_function as torch_function
from xnor_ref.conformance.foreign.torch_functions import torch_module as torch_module
from xnor_ref.conformance.kit import DEFAULT_EXAMPLES as DEFAULT_EXAMPLES
from xnor_ref.conformance.kit import Kit as Kit

if TYPE_CHECKING:
    from xnor_ref.conformance.suite import cases as cases
    from xnor_ref.conformance.suite import expected as expected
    from xnor_ref.conformance.suite import pytest_suite as pytest_suite
    from xnor_ref.conformance.vectors import check_golden as check_golden
    from xnor_ref.conformance.vectors import export_golden as export_golden

_LATER = {
    "cases": "suite",
    "expected": "suite",
    "pytest_suite": "suite",
    "check_golden": "vectors",
    "export_golden": "vectors",
}


def __getattr__(name: str):
    if name not in _LATER:
        raise AttributeError(f"module 'xnor_ref.conformance' has no attribute {name!r}")
    value = getattr(import_module(f"xnor_ref.conformance.{_LATER[name]}"), name)
    globals()[name] = value
    return value
