"""Lesson 3: sizes of outputs, binary convolution, what padding with zeros needs."""

import numpy as np
from hypothesis import strategies as st

from xnor_ref.check.basics.drawing import meeting
from xnor_ref.check.basics.exercise import Exercise, Lesson, mistake
from xnor_ref.check.basics.strategies import NOT_ZERO, array, f32, one_of
from xnor_ref.check.lessons.signs import sign
from xnor_ref.conformance.basics import oracle

IMAGE = f32([[[[1, 1, -1, -1], [1, -1, -1, -1]]]])
KERNEL = f32([[[[1, -1], [-1, 1]]]])


def places(size, k, stride, before, after, dilation, one=1, span=True, up=False, both=True, least=0):
    reach = dilation * (k - 1) + 1 if span else k
    room = size + before + (after if both else before) - reach
    count = (-(-room // stride) if up else room // stride) + one
    return count if least is None else max(count, least) if room >= 0 else least


def conv2d(
    x, weight, stride, padding, pad_value, zero=1.0, weight_zero=None, border=None, stride_of=(0, 1), pad_of=(0, 1),
    placed=(0, 1), flipped=False, no_pad=False, axes=False, real=False,
):  # fmt: skip
    at = border.get(pad_value, pad_value) if border else pad_value
    a, b = sign(x, zero), sign(weight, zero if weight_zero is None else weight_zero)
    b = weight if real else b
    if flipped:
        b = b[..., ::-1, ::-1]
    if axes:
        b = b.swapaxes(2, 3)
    stride, padding = [stride[i] for i in stride_of], [padding[i] for i in pad_of]
    padding = [0, 0] if no_pad else padding
    size = [n + 2 * p - k for n, p, k in zip(x.shape[2:], padding, b.shape[2:])]
    if min(size) < 0:
        return None
    if placed == (0, 1):
        return oracle.convolve(a, b, stride, padding, float(at))
    everywhere = oracle.convolve(a, b, (1, 1), padding, float(at))  # the size is right, and the places are not
    rows, columns = (np.arange(n // s + 1) * stride[i] for n, s, i in zip(size, stride, placed))
    return everywhere[:, :, rows[:, None], columns]


def correction(weight, size, padding, times=-1, real=False, inside=False, count=False, minus_one=False):
    """What a convolution padded with +1 lacks, so that it is right for padding with 0."""
    w = weight.astype(np.float64) if real else sign(weight)
    w = np.ones_like(w) if count else w
    outside = 1 - np.pad(np.ones(size), padding)
    outside = 1 - outside if inside else outside
    image = np.broadcast_to(outside, (1, weight.shape[1], *outside.shape))
    return times * oracle.convolve(image, w, (1, 1), (0, 0), 0.0)[0]


def conv_picture(arguments, index):
    x, weight, stride, padding, pad_value = arguments
    n, o, row, column = index
    sides = [(0, 0), *((p, p) for p in padding)]
    image = np.pad(sign(x[n]), sides, constant_values=pad_value)
    kh, kw = weight.shape[2:]
    top, left = row * stride[0], column * stride[1]
    window = image[:, top : top + kh, left : left + kw]
    whole = [f"  the window at [{row}, {column}], channel by channel, row by row:"]
    return "\n".join([*whole, meeting(window.ravel(), sign(weight[o]).ravel())])


RANGES = ((1, 30), (1, 7), (1, 4), (0, 3), (0, 3), (1, 3))  # of size, k, stride, before, after, dilation
SIZES = st.tuples(*(st.integers(low, high) for low, high in RANGES))


@st.composite
def borders(draw):
    k, o, c = draw(one_of(1, 2, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    padding = draw(st.integers(0, 2))
    size = tuple(max(k - 2 * padding, 1) + draw(st.integers(0, 2)) for _ in range(2))
    return draw(array((o, c, k, k), NOT_ZERO)), size, padding


LESSON = Lesson(
    3,
    "A filter slides over an image, and padding is no sign",
    "03-convolution.md",
    (
        Exercise(
            "my_places",
            """How many places a filter fits along one axis.

    size : pixels along the axis
    k : taps of the filter along it
    stride : pixels from one place to the next
    before, after : pixels of padding on the two sides
    dilation : pixels from one tap to the next

    Returns an int; 0 where the filter is larger than the padded image.""",
            ("size", "k", "stride", "before", "after", "dilation"),
            places,
            (
                mistake("One place is missing. A filter as large as the image fits once.", one=0),
                mistake("With dilation, the filter reaches further than its number of taps.", span=False),
                mistake("A part of a step is no step: round down.", up=True),
                mistake("You count the padding before twice. The two sides may differ.", both=False),
                mistake(
                    "The filter is larger than the image: how many places are there? Not fewer than none.", least=None
                ),
            ),
            (4, 2, 1, 0, 0, 1),
            SIZES,
        ),
        Exercise(
            "my_binary_conv2d",
            """Binary convolution: sums of products of signs at each place of the filter.

    x : float32 (N, C, H, W), images
    weight : float32 (O, C, KH, KW), filters
    stride, padding : pairs of ints, (vertical, horizontal); padding is the same on opposite sides
    pad_value : 0, +1 or -1: what surrounds the signs of the image

    Returns numbers (N, O, OH, OW). The filter is not turned round.""",
            ("x", "weight", "stride", "padding", "pad_value"),
            conv2d,
            (
                mistake(
                    "Padding with 0 came out as padding with -1. A 0 is false in Python: look for `or`.", border={0: -1}
                ),
                mistake(
                    "Padding with 0 came out as padding with +1. Take the signs first, and pad them afterwards.",
                    border={0: 1},
                ),
                mistake("Padding is 0, whatever is asked for. Use pad_value.", border={1: 0, -1: 0}),
                mistake("Padding with -1 came out as +1.", border={-1: 1}),
                mistake("Padding is always -1. Use pad_value.", border={0: -1, 1: -1}),
                mistake("Vertical and horizontal stride are exchanged.", stride_of=(1, 0)),
                mistake("The vertical stride is used for both axes.", stride_of=(0, 0)),
                mistake("The output has the right size. But windows are placed with strides exchanged.", placed=(1, 0)),
                mistake(
                    "The output has the right size. But the vertical stride places windows on both axes.", placed=(0, 0)
                ),
                mistake("Vertical and horizontal padding are exchanged.", pad_of=(1, 0)),
                mistake("The vertical padding is used for both axes.", pad_of=(0, 0)),
                mistake("The image is not padded.", no_pad=True),
                mistake("The filter is turned round. In this field it is not.", flipped=True),
                mistake("Height and width of the filter are exchanged.", axes=True),
                mistake("What is the sign of 0? M(1) has +1.", zero=-1),
                mistake("What is the sign of 0? M(1) has +1, and np.sign has 0.", zero=0),
                mistake("Zero among the weights has another sign than in the image.", weight_zero=-1),
                mistake("Zero among the weights has another sign than in the image.", weight_zero=0),
                mistake("The signs of the weights were not taken.", real=True),
            ),
            (IMAGE, KERNEL, (1, 1), (0, 0), 0),
            role="conv2d",
            limits={"channels": (1, 2, 3), "out_channels": (1, 2), "batch": 2, "largest_image": 4, "largest_dot": 75},
            picture=conv_picture,
            signs=("x", "weight"),
        ),
        Exercise(
            "my_correction",
            """What must be added to a convolution that padded with +1, so that it is right for padding with 0.

    weight : float32 (O, C, K, K)
    size : (H, W) of the image, without its padding
    padding : pixels on each side

    Returns numbers (O, OH, OW), at stride 1.""",
            ("weight", "size", "padding"),
            correction,
            (
                mistake(
                    "That corrects padding with -1. Here each tap outside added +w, and must be taken away.", times=1
                ),
                mistake("You use latent weights. What was added were their signs.", real=True),
                mistake("You count the taps outside. Each of them added the sign of its weight.", count=True),
                mistake(
                    "You sum over the taps inside the image. Those outside are the ones that were padded.", inside=True
                ),
            ),
            (f32([[[[0.5, -1], [-2, 1]]]]), (2, 2), 1),
            borders(),
            tolerance=1e-6,
        ),
    ),
)
