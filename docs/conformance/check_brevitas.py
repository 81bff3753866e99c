# pip install brevitas==0.13.4 torch==2.13.0
import torch
from brevitas.nn import QuantConv2d, QuantIdentity, QuantLinear
from brevitas.quant.binary import SignedBinaryActPerTensorConst as Activations
from brevitas.quant.binary import SignedBinaryWeightPerTensorConst as Weights

from xnor_ref import conformance as c


class Signs(Weights):
    scaling_const = 1.0


def layer(kind, *sizes, **window):
    quantised = kind(*sizes, bias=False, weight_quant=Signs, **window)
    quantised.ignore_missing_keys = True
    return torch.nn.Sequential(QuantIdentity(act_quant=Activations), quantised)


if __name__ == "__main__":
    conv2d = c.torch_module(lambda *sizes, **window: layer(QuantConv2d, *sizes, **window), "1.weight")
    linear = c.torch_module(lambda *sizes: layer(QuantLinear, *sizes), "1.weight")
    sign = QuantIdentity(act_quant=Activations).train()
    kit = c.Kit(conv2d=conv2d, linear=linear, ste=c.torch_function(sign), pad_values=0, dilations=(1, 2), groups=(1, 2))
    print(kit.run(seed=0))
