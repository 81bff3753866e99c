"""Lesson 2: packing, the dot product of words, tails."""

import numpy as np
from hypothesis import strategies as st

from xnor_ref.check.basics.drawing import meeting
from xnor_ref.check.basics.exercise import Exercise, Lesson, mistake
from xnor_ref.check.basics.strategies import f32, one_of
from xnor_ref.check.lessons.signs import EIGHT, sign

INPUTS = f32([1, 1, -1, -1, 1, -1, -1, -1])
WORD = (1 << 64) - 1


def pack(x, zero=1.0, order="least", one=1, tail=0, used=64, joined=False):
    bits = (sign(x, zero) == one).astype(np.uint8)
    if joined:
        bits = bits.reshape(1, -1)
    bits = np.pad(bits, ((0, 0), (0, -bits.shape[1] % 64)), constant_values=tail).reshape(len(bits), -1, 64)
    bits[:, :, used:] = 0
    if order == "most":
        bits = bits[:, :, ::-1]
    octets = np.packbits(bits, axis=-1, bitorder="big" if order == "bytes" else "little")
    words = np.ascontiguousarray(octets).view("<u8")[..., 0].astype(np.uint64)
    return words.reshape(len(x), -1) if joined and words.size % len(x) == 0 else words


def dot(a, b, n, mask=True, rounded=False, form="dot", first=False):
    if first:
        a, b, n = a[:1], b[:1], min(n, 64)
    full = sum(int(p ^ q) << 64 * i for i, (p, q) in enumerate(zip(a, b)))
    different = (full & ((1 << n) - 1) if mask else full).bit_count()
    total = 64 * len(a) if rounded else n
    return {
        "dot": total - 2 * different,
        "turned": 2 * different - total,
        "equal": total - different,
        "different": different,
    }[form]


def linear(x, weight, zero=1.0, weight_zero=None, rounded=False, form="dot", transposed=False, real=None):
    a, b = sign(x, zero), sign(weight, zero if weight_zero is None else weight_zero)
    a, b = (x if real == "x" else a), (weight if real == "weight" else b)
    z = a.astype(np.float64) @ b.T.astype(np.float64)
    n = x.shape[1]
    z = z + (-n % 64 if rounded else 0)
    z = {"dot": z, "turned": -z, "equal": (n + z) / 2, "different": (n - z) / 2}[form]
    return z.T if transposed else z


def linear_picture(arguments, index):
    x, weight = arguments
    return meeting(sign(x[index[0]]), sign(weight[index[1]]))


def dot_picture(arguments, index):
    a, b, n = arguments
    signs = [np.array([1 if int(words[i // 64]) >> (i % 64) & 1 else -1 for i in range(n)]) for words in (a, b)]
    return meeting(signs[0], signs[1], "a", "b")


@st.composite
def words(draw):
    """Two rows of words whose tails hold anything."""
    n = draw(one_of(1, 2, 10, 63, 64, 65, 100, 128, 130))
    count = -(-n // 64)
    word = st.one_of(st.just(0), st.just(WORD), st.integers(0, WORD))
    rows = [np.array(draw(st.lists(word, min_size=count, max_size=count)), np.uint64) for _ in range(2)]
    return *rows, n


ROUNDED = "Every sum is too large by the length of the tail: n is the number of signs, not of bits in all words."
LESSON = Lesson(
    2,
    "Sixty-four products at a time",
    "02-bits.md",
    (
        Exercise(
            "my_pack",
            """Signs as bits, 64 in a word. Write it without np.packbits.

    x : float32 (rows, n)

    Returns uint64 (rows, ceil(n / 64)). Bit i % 64 of word i // 64 is 1 where x[row, i] >= 0. Bit 0 is the lowest,
    with the value 1. Each row begins a new word. The bits behind the last sign, the tail, are 0.""",
            ("x",),
            pack,
            (
                mistake("Which bit does a 0 get? Compare `x > 0` with M(1).", zero=-1),
                mistake(
                    "The order of your bits is turned round: the first sign is the lowest bit, with the value 1.",
                    order="most",
                ),
                mistake(
                    "Inside each byte, your first sign is the highest bit. np.packbits does so by default.",
                    order="bytes",
                ),
                mistake("Your bits are turned: 1 stands for +1.", one=-1),
                mistake("Your tail is 1. The bits behind the last sign must be 0.", tail=1),
                mistake("Only the lower half of each word is used. Does your shift compute with 32 bits?", used=32),
                mistake("The second row goes on in the word of the first. Each row begins a new word.", joined=True),
            ),
            (EIGHT[None],),
            role="pack",
            limits={"batch": 2, "channels": (1, 2, 8, 33, 63, 64, 65, 130)},
            signs=("x",),
        ),
        Exercise(
            "my_dot",
            """The sum of n products of signs, from words.

    a, b : uint64 (ceil(n / 64),), packed as by my_pack, but their tails may hold anything
    n : how many signs there are

    Returns an int, by M(10).""",
            ("a", "b", "n"),
            dot,
            (
                mistake("The tail was counted. Mask the bits behind the last sign, in the last word.", mask=False),
                mistake(ROUNDED, rounded=True),
                mistake("The tail was counted, and n was rounded up to whole words.", mask=False, rounded=True),
                mistake("You count equal signs. The sum is what is equal less what differs.", form="equal"),
                mistake("You count the ones of the XOR. How does M(10) go on?", form="different"),
                mistake(
                    "The sum has the wrong sign. Which pairs does XOR find: equal ones, or different ones?",
                    form="turned",
                ),
                mistake("Only the first word counts. Add the counts of all words.", first=True),
            ),
            (np.array([19], np.uint64), np.array([89], np.uint64), 8),
            words(),
            picture=dot_picture,
        ),
        Exercise(
            "my_linear",
            """Every row of x with every row of weight: sums of products of their signs, by my_pack and my_dot.

    x : float32 (rows, n)
    weight : float32 (filters, n)

    Returns integers (rows, filters).""",
            ("x", "weight"),
            linear,
            (
                mistake("What is the sign of 0 in your function? M(1) has +1, for x and for the weights.", zero=-1),
                mistake(
                    "What is the sign of 0 in your function? A product with 0 adds nothing, and that is no sign.",
                    zero=0,
                ),
                mistake("Zero among the weights has another sign than among x.", weight_zero=-1),
                mistake("Rows and filters are exchanged: the result is (rows, filters).", transposed=True),
                mistake(ROUNDED, rounded=True),
                mistake("You count equal signs. The sum is what is equal less what differs.", form="equal"),
                mistake("The signs of x were not taken.", real="x"),
                mistake("The signs of the weights were not taken.", real="weight"),
            ),
            (INPUTS[None], EIGHT[None]),
            role="linear",
            limits={"batch": 2, "channels": (1, 2, 8, 63, 64, 65, 100), "out_channels": (1, 2, 3), "largest_dot": 130},
            picture=linear_picture,
            signs=("x", "weight"),
        ),
    ),
)
