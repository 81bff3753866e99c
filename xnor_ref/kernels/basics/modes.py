"""Names of what compiled kernels can be asked for, where more than one room has to know them."""

from enum import IntEnum, StrEnum


class KMode(StrEnum):
    """K, the input scale of a binary layer, as kernels and model files know it; see `binary.INPUT_SCALES`."""

    OFF = "off"
    PLAIN = "plain"
    VALID = "valid"


class Finish(IntEnum):
    """What `gradient_layout.finish` makes of G, the gradient of binary weights; see `binary.WEIGHT_GRADIENTS`."""

    RAW = 0  # G itself
    CLIPPED = 1  # `ste` without alpha
    CORRECTED = 2  # for alpha = mean |W|, as the next one and the last
    PAPER = 3
    STE = 4
    OFFICIAL = 5
    SPLIT = 6  # `STE`, and the gradient of alpha, which the layer takes further
