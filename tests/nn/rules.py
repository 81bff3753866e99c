"""The rules of `binary` in the short form that tests of layers want."""

from xnor_ref.binary import WEIGHT_GRADIENTS, WEIGHT_SCALES, Code


def latent_gradient(grad, weight, alpha, grad_mode, bits=1):
    """The gradient of latent weights by a rule, with alpha by the least-squares scale or none."""
    scale = WEIGHT_SCALES["off" if alpha is None else "alpha"]
    return WEIGHT_GRADIENTS.find(grad_mode).latent(grad, weight, alpha, scale, Code(bits))
