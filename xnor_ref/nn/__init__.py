"""Layers that train, and losses.

A layer takes a Tensor or a float32 array and returns a Tensor. Images are (N, C, H, W), rows are (N, features), and
activations take any shape. Parameters are Tensors with names.

>>> import numpy as np
>>> from xnor_ref import nn
>>> x = np.ones((2, 3, 8, 8), np.float32)
>>> conv = nn.BinaryConv2d(3, 16, 3, stride=2, padding=1)
>>> conv(x).shape, conv.weight.shape, conv.alpha().shape
((2, 16, 4, 4), (16, 3, 3, 3), (16,))
>>> net = nn.Sequential(conv=conv, pool=nn.MaxPool2d(2), flat=nn.Flatten(), last=nn.Linear(16 * 2 * 2, 5))
>>> logits = net(x)
>>> logits.shape, [name for name, _ in net.named_parameters()]
((2, 5), ['conv.weight', 'last.weight', 'last.bias'])
>>> loss = nn.cross_entropy(logits, np.array([0, 4]))
>>> loss.backward()
>>> net["last"].weight.grad.shape
(5, 64)
"""

from xnor_ref.nn.graph import Add as Add
from xnor_ref.nn.graph import Concat as Concat
from xnor_ref.nn.graph import Graph as Graph
from xnor_ref.nn.layers.binary_layers import BinaryConv2d as BinaryConv2d
from xnor_ref.nn.layers.binary_layers import BinaryLinear as BinaryLinear
from xnor_ref.nn.layers.binary_layers import binary_backend as binary_backend
from xnor_ref.nn.layers.binary_weight_layers import BinaryWeightConv2d as BinaryWeightConv2d
from xnor_ref.nn.layers.binary_weight_layers import BinaryWeightLinear as BinaryWeightLinear
from xnor_ref.nn.layers.kbit_layers import KBitConv2d as KBitConv2d
from xnor_ref.nn.layers.kbit_layers import KBitLinear as KBitLinear
from xnor_ref.nn.layers.react_layers import Shift as Shift
from xnor_ref.nn.layers.real_layers import Affine as Affine
from xnor_ref.nn.layers.real_layers import AvgPool2d as AvgPool2d
from xnor_ref.nn.layers.real_layers import BatchNorm1d as BatchNorm1d
from xnor_ref.nn.layers.real_layers import BatchNorm2d as BatchNorm2d
from xnor_ref.nn.layers.real_layers import Conv2d as Conv2d
from xnor_ref.nn.layers.real_layers import Dropout as Dropout
from xnor_ref.nn.layers.real_layers import Flatten as Flatten
from xnor_ref.nn.layers.real_layers import GlobalAvgPool2d as GlobalAvgPool2d
from xnor_ref.nn.layers.real_layers import Hardtanh as Hardtanh
from xnor_ref.nn.layers.real_layers import Linear as Linear
from xnor_ref.nn.layers.real_layers import MaxPool2d as MaxPool2d
from xnor_ref.nn.layers.real_layers import PReLU as PReLU
from xnor_ref.nn.layers.real_layers import ReLU as ReLU
from xnor_ref.nn.layers.real_layers import Sign as Sign
from xnor_ref.nn.layers.scale_layers import GAMMAS as GAMMAS
from xnor_ref.nn.layers.scale_layers import Scale as Scale
from xnor_ref.nn.layers.shift_norm import ShiftBatchNorm1d as ShiftBatchNorm1d
from xnor_ref.nn.layers.shift_norm import ShiftBatchNorm2d as ShiftBatchNorm2d
from xnor_ref.nn.layers.shortcuts import IdentityShortcut as IdentityShortcut
from xnor_ref.nn.losses import LOSSES as LOSSES
from xnor_ref.nn.losses import cross_entropy as cross_entropy
from xnor_ref.nn.losses import distillation as distillation
from xnor_ref.nn.losses import squared_hinge as squared_hinge
from xnor_ref.nn.module import Module as Module
from xnor_ref.nn.module import Parameter as Parameter
from xnor_ref.nn.module import Residual as Residual
from xnor_ref.nn.module import Sequential as Sequential
