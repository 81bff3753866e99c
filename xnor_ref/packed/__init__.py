"""Frozen networks on packed bits: the model file, and inference that imports none of the training code."""

from xnor_ref.packed.runtime import PackedNetwork as PackedNetwork
from xnor_ref.packed.runtime import load_packed as load_packed
