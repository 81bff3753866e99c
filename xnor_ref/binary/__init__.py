"""The papers' mathematics on NumPy arrays: sign and its straight-through estimator, scale factors, gradient rules."""

from xnor_ref.binary.inputs import INPUT_SCALES as INPUT_SCALES
from xnor_ref.binary.inputs import InputScale as InputScale
from xnor_ref.binary.kbit import MAX_BITS as MAX_BITS
from xnor_ref.binary.kbit import QUANTIZERS as QUANTIZERS
from xnor_ref.binary.kbit import SIGNS as SIGNS
from xnor_ref.binary.kbit import Code as Code
from xnor_ref.binary.kbit import Levels as Levels
from xnor_ref.binary.kbit import Quantizer as Quantizer
from xnor_ref.binary.kbit import quantize as quantize
from xnor_ref.binary.kbit import quantize_gradient as quantize_gradient
from xnor_ref.binary.power import ap2 as ap2
from xnor_ref.binary.rules import Registry as Registry
from xnor_ref.binary.rules import Rule as Rule
from xnor_ref.binary.sign import SIGN_GRADIENTS as SIGN_GRADIENTS
from xnor_ref.binary.sign import STE as STE
from xnor_ref.binary.sign import SignGradient as SignGradient
from xnor_ref.binary.sign import sign as sign
from xnor_ref.binary.sign import ste_mask as ste_mask
from xnor_ref.binary.sign import stochastic_sign as stochastic_sign
from xnor_ref.binary.weights import MEAN_ABS as MEAN_ABS
from xnor_ref.binary.weights import WEIGHT_GRADIENTS as WEIGHT_GRADIENTS
from xnor_ref.binary.weights import WEIGHT_SCALES as WEIGHT_SCALES
from xnor_ref.binary.weights import WeightGradient as WeightGradient
from xnor_ref.binary.weights import WeightScale as WeightScale
from xnor_ref.binary.weights import centre_weights as centre_weights
from xnor_ref.binary.weights import clamp_weights as clamp_weights
