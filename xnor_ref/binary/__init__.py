"""The papers' mathematics on NumPy arrays: sign and its straight-through estimator, scale factors, gradient rules."""

from xnor_ref.binary.sign import sign as sign
from xnor_ref.binary.sign import ste_mask as ste_mask
from xnor_ref.binary.sign import stochastic_sign as stochastic_sign
from xnor_ref.binary.weights import GRAD_MODES as GRAD_MODES
from xnor_ref.binary.weights import centre_weights as centre_weights
from xnor_ref.binary.weights import clamp_weights as clamp_weights
from xnor_ref.binary.weights import weight_gradient as weight_gradient
