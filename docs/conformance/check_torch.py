# pip install torch==2.13.0
import torch
from torch.nn.functional import conv2d as convolve
from torch.nn.functional import pad

from xnor_ref import conformance as c


def signs(x):
    return torch.where(torch.tensor(x) < 0, -1.0, 1.0)


def conv2d(x, weight, stride, padding, pad_value, dilation, groups):
    around = pad(signs(x), (padding[1], padding[1], padding[0], padding[0]), value=pad_value)
    return convolve(around, signs(weight), stride=stride, dilation=dilation, groups=groups).numpy()


def linear(x, weight):
    return (signs(x) @ signs(weight).T).numpy()


if __name__ == "__main__":
    print(c.Kit(conv2d=conv2d, linear=linear, dilations=(1, 2), groups=(1, 2)).run(seed=0))
