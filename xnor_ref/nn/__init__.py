"""Layers of networks that train: real-valued ones, binary ones, blocks and losses."""

from xnor_ref.nn.binary_layers import BinaryConv2d as BinaryConv2d
from xnor_ref.nn.binary_layers import BinaryLinear as BinaryLinear
from xnor_ref.nn.binary_layers import binary_backend as binary_backend
from xnor_ref.nn.layers import AvgPool2d as AvgPool2d
from xnor_ref.nn.layers import BatchNorm1d as BatchNorm1d
from xnor_ref.nn.layers import BatchNorm2d as BatchNorm2d
from xnor_ref.nn.layers import Conv2d as Conv2d
from xnor_ref.nn.layers import Dropout as Dropout
from xnor_ref.nn.layers import Flatten as Flatten
from xnor_ref.nn.layers import GlobalAvgPool2d as GlobalAvgPool2d
from xnor_ref.nn.layers import Hardtanh as Hardtanh
from xnor_ref.nn.layers import Linear as Linear
from xnor_ref.nn.layers import MaxPool2d as MaxPool2d
from xnor_ref.nn.layers import PReLU as PReLU
from xnor_ref.nn.layers import ReLU as ReLU
from xnor_ref.nn.losses import LOSSES as LOSSES
from xnor_ref.nn.losses import cross_entropy as cross_entropy
from xnor_ref.nn.losses import squared_hinge as squared_hinge
from xnor_ref.nn.module import Module as Module
from xnor_ref.nn.module import Parameter as Parameter
from xnor_ref.nn.module import Residual as Residual
from xnor_ref.nn.module import Sequential as Sequential
