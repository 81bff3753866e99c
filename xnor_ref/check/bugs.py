"""Find the bug: small programs, each with one planted fault. The tests of the conformance kit use them, too.

Each program is right but for the lines that a bug replaces. Names of bugs say what is wrong, so they are not shown.
"""

from dataclasses import dataclass, field, replace

from xnor_ref.check.basics.exercise import Exercise
from xnor_ref.check.course import exercise_of
from xnor_ref.errors import InputError

_WORDS = '''import numpy as np


def to_words(signs):
    """Signs (..., n) to words (..., ceil(n / 64)): bit i % 64 of word i // 64 is 1 for +1; the tail is 0."""
    octets = np.packbits(signs > 0, axis=-1, bitorder="little")
    octets = np.pad(octets, [(0, 0)] * (octets.ndim - 1) + [(0, -octets.shape[-1] % 8)])
    return np.ascontiguousarray(octets).view(np.uint64)


def dots(a, b, n):
    """Words (..., count) and (O, count) to sums of n products of signs, (..., O)."""
    different = np.bitwise_count(a[..., None, :] ^ b).sum(axis=-1, dtype=np.int64)
    return n - 2 * different
'''
PROGRAMS = {
    "my_binary_conv2d": f'''{_WORDS}

kept = {{}}


def my_binary_conv2d(x, weight, stride, padding, pad_value):
    """Sums of products of signs (N, O, OH, OW), of x (N, C, H, W) and weight (O, C, KH, KW)."""
    images, channels, height, width = x.shape
    filters, _, kh, kw = weight.shape
    oh = (height + 2 * padding[0] - kh) // stride[0] + 1
    ow = (width + 2 * padding[1] - kw) // stride[1] + 1
    pixels = to_words(np.where(x >= 0, 1, -1).transpose(0, 2, 3, 1))  # (N, H, W, count)
    signs = np.where(weight >= 0, 1, -1)
    key = weight.tobytes(), weight.shape
    if key not in kept:
        kept[key] = to_words(signs.transpose(2, 3, 0, 1))  # (KH, KW, O, count)
    taps = kept[key]
    out = np.zeros((images, oh, ow, filters), np.int64)
    for i in range(oh):
        for j in range(ow):
            for k in range(kh):
                for m in range(kw):
                    row = i * stride[0] + k - padding[0]
                    column = j * stride[1] + m - padding[1]
                    if 0 <= row < height and 0 <= column < width:
                        out[:, i, j] += dots(pixels[:, row, column], taps[k, m], channels)
                    else:
                        out[:, i, j] += pad_value * signs[:, :, k, m].sum(axis=1)
    return out.transpose(0, 3, 1, 2)
''',
    "my_linear": f'''{_WORDS}

def my_linear(x, weight):
    """Sums of products of signs (rows, filters), of x (rows, n) and weight (filters, n)."""
    a = to_words(np.where(x >= 0, 1, -1))
    b = to_words(np.where(weight >= 0, 1, -1))
    out = np.zeros((len(x), len(weight)), np.int64)
    for row in range(len(x)):
        out[row] = dots(a[row], b, x.shape[1])
    return out
''',
    "my_pack": '''import numpy as np


def my_pack(x):
    """Signs of x (rows, n) as bits, 64 in a word: (rows, ceil(n / 64)), the first sign in the lowest bit."""
    rows, n = x.shape
    words = np.zeros((rows, (n + 63) // 64), np.uint64)
    for row in range(rows):
        for place in range(n):
            if x[row, place] >= 0:
                words[row, place // 64] |= np.uint64(1) << np.uint64(place % 64)
    return words
''',
    "my_scale_map": '''import numpy as np


def my_scale_map(x, kernel, stride, padding):
    """K (N, 1, OH, OW): the mean of abs(x) over each window of x (N, C, H, W)."""
    mean = np.abs(x).mean(axis=1, dtype=np.float64)
    mean = np.pad(mean, ((0, 0), (padding[0],) * 2, (padding[1],) * 2))
    oh, ow = [(size - k) // s + 1 for size, k, s in zip(mean.shape[1:], kernel, stride)]
    out = np.zeros((len(x), 1, oh, ow))
    for i in range(oh):
        for j in range(ow):
            top, left = i * stride[0], j * stride[1]
            out[:, 0, i, j] = mean[:, top : top + kernel[0], left : left + kernel[1]].mean(axis=(1, 2))
    return out
''',
    "my_ste": '''import numpy as np


def my_ste(x, dy):
    """The gradient of x, if dy is that of sign(x)."""
    inside = np.abs(x) <= 1
    return np.where(inside, dy, 0)
''',
    "my_alpha": '''import numpy as np


def my_alpha(weight):
    """The mean of abs(W) of each filter of weight (O, C, KH, KW): (O,)."""
    alpha = np.zeros(len(weight))
    for index, one in enumerate(weight):
        alpha[index] = np.abs(one).mean(dtype=np.float64)
    return alpha
''',
}
CONV, LINEAR = "my_binary_conv2d", "my_linear"


@dataclass(frozen=True)
class Bug:
    """A fault: the lines that it replaces in the program of an exercise."""

    name: str  # what is wrong; not for who looks for it
    exercise: str
    lines: tuple[tuple[str, str], ...]  # (right, wrong)
    hint: str
    limits: dict = field(default_factory=dict)  # of the cases that are tried

    @property
    def source(self) -> str:
        """The program with its fault."""
        text = PROGRAMS[self.exercise]
        for right, wrong in self.lines:
            assert text.count(right) == 1
            text = text.replace(right, wrong)
        return text

    def to_check(self) -> Exercise:
        """The exercise that the program must fulfil."""
        limits = {"batch": 3, "largest_image": 5, **self.limits}
        return replace(exercise_of(self.exercise), limits=limits, last_hint=self.hint)


def _bug(name: str, exercise: str, hint: str, *lines: tuple[str, str], **limits) -> Bug:
    return Bug(name, exercise, lines, hint, limits)


BUGS = (
    _bug("return inside the batch loop", LINEAR, "Compare the first row of the result with the others.",
         ("    return out\n", "        return out\n")),
    _bug("n_bits rounded up to 64", CONV, "Try 64 channels, then 63.",
         ("return n - 2 *", "return 64 * a.shape[-1] - 2 *")),
    _bug("pad_value or default", CONV, "Try all three pad values. Which one comes out wrong?",
         ("+= pad_value *", "+= (pad_value or -1) *")),
    _bug("stride of one axis for both", CONV, "Try strides that differ in their two numbers.",
         ("j * stride[1]", "j * stride[0]")),
    _bug("the gradient's mask from dy", "my_ste", "Try x = 2 with dy = 0.5, and x = 0.5 with dy = 2.",
         ("np.abs(x) <= 1", "np.abs(dy) <= 1")),
    _bug("last output row not written", CONV, "Look at the last row of the output.",
         ("for i in range(oh):", "for i in range(oh - 1):")),
    _bug("mean of x instead of |x|", "my_scale_map", "Try an image of -1 everywhere. How large is each number?",
         ("np.abs(x).mean", "x.mean")),
    _bug("height from the horizontal padding", CONV, "Try paddings that differ in their two numbers.",
         ("2 * padding[0] - kh", "2 * padding[1] - kh")),
    _bug("words of the tail dropped", CONV, "Try 64 channels, then 65.",
         ("(a[..., None, :] ^ b)", "(a[..., None, : n // 64] ^ b[:, : n // 64])")),
    _bug("last image column taken for padding", CONV, "Look at the right border, and at images one pixel wide.",
         ("column < width:", "column < width - 1:")),
    _bug("rows packed in reverse", "my_pack", "Pack one row, then two.",
         ("    return words\n", "    return words[::-1]\n")),
    _bug("int8 results", LINEAR, "How large can a sum of 200 products be? Which numbers does your result hold?",
         ("len(weight)), np.int64)", "len(weight)), np.int8)")),
    _bug("paddings swapped", CONV, "Try paddings that differ in their two numbers.",
         ("k - padding[0]", "k - padding[1]"), ("m - padding[1]", "m - padding[0]")),
    _bug("tail bits counted", LINEAR, "Try 64 signs in a row, then 10.",
         ("    b = to_words(np.where(weight >= 0, 1, -1))", "    b = ~to_words(np.where(weight >= 0, -1, 1))")),
    _bug("width from the kernel's height", CONV, "Try filters that are not square.",
         ("2 * padding[1] - kw", "2 * padding[1] - kh")),
    _bug("last bit of a word lost", "my_pack", "Try a row of 63 signs, then of 64.",
         ("if x[row, place] >= 0:", "if x[row, place] >= 0 and place % 64 < 63:")),
    _bug("alphas mixed among filters", "my_alpha", "Try filters that differ much in size. Which gets which scale?",
         ("alpha[index] =", "alpha[index - 1] =")),
    _bug("weights kept by their shape", CONV, "Call it twice, with other weights of the same shape.",
         ("weight.tobytes(), weight.shape", "weight.shape")),
)  # fmt: skip


def bug_of(number: int) -> Bug:
    """The bug of a number, from 1. Raises InputError where there is none."""
    if not 1 <= number <= len(BUGS):
        raise InputError(f"there is no bug {number}; bugs are 1 to {len(BUGS)}")
    return BUGS[number - 1]


def program(number: int, command: str) -> str:
    """The file in which a bug is to be found; `command` checks it."""
    head = f'"""Bug {number}: this program has one fault. Find it and mend it, then run: {command}"""\n\n'
    return head + bug_of(number).source
