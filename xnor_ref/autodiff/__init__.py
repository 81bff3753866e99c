"""Automatic differentiation on NumPy: Tensor, tape, ops and a gradient check. It knows no layers."""

from xnor_ref.autodiff.gradcheck import GradientError as GradientError
from xnor_ref.autodiff.gradcheck import gradcheck as gradcheck
from xnor_ref.autodiff.ops import broadcast_to as broadcast_to
from xnor_ref.autodiff.ops import clip as clip
from xnor_ref.autodiff.ops import concatenate as concatenate
from xnor_ref.autodiff.ops import exp as exp
from xnor_ref.autodiff.ops import log as log
from xnor_ref.autodiff.ops import log_softmax as log_softmax
from xnor_ref.autodiff.ops import logsumexp as logsumexp
from xnor_ref.autodiff.ops import maximum as maximum
from xnor_ref.autodiff.ops import minimum as minimum
from xnor_ref.autodiff.ops import pad as pad
from xnor_ref.autodiff.ops import relu as relu
from xnor_ref.autodiff.ops import sigmoid as sigmoid
from xnor_ref.autodiff.ops import sqrt as sqrt
from xnor_ref.autodiff.ops import stack as stack
from xnor_ref.autodiff.ops import tanh as tanh
from xnor_ref.autodiff.ops import where as where
from xnor_ref.autodiff.tape import is_grad_enabled as is_grad_enabled
from xnor_ref.autodiff.tape import no_grad as no_grad
from xnor_ref.autodiff.tensor import Tensor as Tensor
from xnor_ref.autodiff.tensor import apply as apply
