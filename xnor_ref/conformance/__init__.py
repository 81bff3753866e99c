"""Check anyone's binary convolution against a float64 definition: `Kit(conv2d=function).run()`."""

from importlib import import_module

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

_LATER = {"cases": "xnor_ref.conformance.trying.cases"}  # Hypothesis is imported only where it is needed


def __getattr__(name: str):
    if name not in _LATER:
        raise AttributeError(f"module 'xnor_ref.conformance' has no attribute {name!r}")
    return import_module(_LATER[name])
