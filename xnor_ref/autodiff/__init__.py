"""Automatic differentiation on NumPy: Tensor, tape, ops and a gradient check. It knows no layers.

>>> import numpy as np
>>> from xnor_ref import autodiff
>>> x = autodiff.Tensor(np.array([1.0, 2.0]), requires_grad=True)
>>> y = (autodiff.exp(x) * 3).sum()
>>> y.backward()
>>> bool(np.allclose(x.grad, 3 * np.exp([1.0, 2.0])))
True
>>> with autodiff.no_grad():
...     (x * x).requires_grad
False
"""

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
