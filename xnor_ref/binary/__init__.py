"""The papers' mathematics on NumPy arrays: sign and its straight-through estimator, scale factors, gradient rules."""

from xnor_ref.binary.kbit import MAX_BITS as MAX_BITS
from xnor_ref.binary.kbit import kbit_weight_gradient as kbit_weight_gradient
from xnor_ref.binary.kbit import quantize as quantize
from xnor_ref.binary.kbit import quantize_gradient as quantize_gradient
from xnor_ref.binary.power import ap2 as ap2
from xnor_ref.binary.sign import SIGN_GRADIENTS as SIGN_GRADIENTS
from xnor_ref.binary.sign import sign as sign
from xnor_ref.binary.sign import sign_derivative as sign_derivative
from xnor_ref.binary.sign import ste_mask as ste_mask
from xnor_ref.binary.sign import stochastic_sign as stochastic_sign
from xnor_ref.binary.weights import GRAD_MODES as GRAD_MODES
from xnor_ref.binary.weights import centre_weights as centre_weights
from xnor_ref.binary.weights import clamp_weights as clamp_weights
from xnor_ref.binary.weights import weight_gradient as weight_gradient
