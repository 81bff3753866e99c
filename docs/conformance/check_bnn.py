# pip install bnn==0.1.2 torch==2.13.0
from functools import partial

import torch
from bnn import BConfig
from bnn.layers import Conv2d, Linear
from bnn.ops import BasicInputBinarizer, SignActivation, XNORScaleBinarizer, XNORWeightBinarizer

from xnor_ref import conformance as c


def scale_map(x, kernel, stride, padding):
    return XNORScaleBinarizer(torch.nn.Conv2d(x.shape[1], 1, kernel, stride, padding))(1, torch.tensor(x)).numpy()


def kit(scaled):
    weights = XNORWeightBinarizer.with_args(compute_alpha=scaled)
    signs = BConfig(activation_pre_process=BasicInputBinarizer, weight_pre_process=weights)
    layers = {"conv2d": partial(Conv2d, bconfig=signs), "linear": partial(Linear, bconfig=signs)}
    roles = {role: c.torch_module(layer) for role, layer in layers.items()}
    roles |= {"binarize": c.torch_function(weights()), "ste": c.torch_function(SignActivation.apply)}
    return c.Kit(**roles, scale_map=scale_map, pad_values=0)


if __name__ == "__main__":
    for scaled in (False, True):
        print(f"compute_alpha={scaled}\n{kit(scaled).run(seed=0)}\n")
