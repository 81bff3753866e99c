"""Modes of compiled kernels that several rooms use."""

from enum import IntEnum, StrEnum


class KMode(StrEnum):
    """The input scale K of a binary layer, by its name in kernels and model files; see `binary.INPUT_SCALES`."""

    OFF = "off"
    PLAIN = "plain"
    VALID = "valid"


class Finish(IntEnum):
    """What `gradient_layout.finish` computes from G, the gradient of binary weights; see `binary.WEIGHT_GRADIENTS`."""

    RAW = 0  # G itself
    CLIPPED = 1  # `ste` without alpha
    CORRECTED = 2  # for alpha = mean |W|, like the next one and the last
    PAPER = 3
    STE = 4
    OFFICIAL = 5
    SPLIT = 6  # `STE`, and the gradient of alpha, which the layer processes further
