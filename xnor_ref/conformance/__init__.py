"""Check anyone's binary convolution against a float64 definition: `Kit(conv2d=function).run()`."""

from xnor_ref.conformance.conventions import exact as exact
from xnor_ref.conformance.conventions import scaled as scaled
from xnor_ref.conformance.kit import DEFAULT_EXAMPLES as DEFAULT_EXAMPLES
from xnor_ref.conformance.kit import Kit as Kit
from xnor_ref.conformance.report import Failure as Failure
from xnor_ref.conformance.report import Report as Report
from xnor_ref.conformance.report import Result as Result
from xnor_ref.conformance.restrictions import multiple_of as multiple_of
from xnor_ref.conformance.roles import ROLES as ROLES
from xnor_ref.conformance.roles import Crashed as Crashed
from xnor_ref.conformance.roles import Layer as Layer
