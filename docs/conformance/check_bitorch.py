# pip install bitorch==0.4.1 torch==2.13.0
import torch
from bitorch.layers import QActivation, QConv2d, QLinear

from xnor_ref import conformance as c


def given(layer, weight):
    layer.weight.data = torch.tensor(weight)
    return layer


@torch.no_grad()
def conv2d(x, weight, stride, padding, pad_value, dilation, groups):
    window = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "pad_value": pad_value}
    layer = QConv2d(x.shape[1], len(weight), weight.shape[2:], **window)
    return given(layer, weight)(torch.tensor(x)).numpy()


@torch.no_grad()
def linear(x, weight):
    return given(QLinear(x.shape[1], len(weight), bias=False), weight)(torch.tensor(x)).numpy()


if __name__ == "__main__":
    sign = c.torch_function(QActivation("sign"))
    print(c.Kit(conv2d=conv2d, linear=linear, ste=sign, dilations=(1, 2), groups=(1, 2)).run(seed=0))
