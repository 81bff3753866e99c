"""Lesson 8: popcount, a compiled kernel, the roof."""

import numpy as np
from hypothesis import strategies as st

from xnor_ref.check.basics.exercise import Exercise, Lesson, mistake
from xnor_ref.check.basics.strategies import one_of
from xnor_ref.check.lessons.bits import ROUNDED, WORD
from xnor_ref.errors import InputTypeError

LOW = (1 << 32) - 1


def popcount(words, bits=WORD, of="ones"):
    values = [int(word) & bits for word in words]
    return np.array([
        {"ones": v.bit_count(), "zeros": 64 - v.bit_count(), "length": v.bit_length(), "parity": v.bit_count() & 1}[of]
        for v in values
    ])  # fmt: skip


def kernel(a, b, n, rounded=False, form="dot", bits=WORD, rows=True, filters=True, first=False):
    if first:
        a, b = a[:, :1], b[:, :1]
    mask = np.uint64(bits)
    different = np.bitwise_count((a[:, None] ^ b[None]) & mask).sum(axis=2, dtype=np.int64)
    n = 64 * a.shape[1] if rounded else n
    z = {"dot": n - 2 * different, "equal": n - different, "different": different, "turned": 2 * different - n}[form]
    if not rows and len(a) % 2:
        z[-1] = 0
    if not filters and len(b) % 2:
        z[:, -1] = 0
    return z


def roof(clock, bits, instructions, each, forgotten=False, octets=False, alone=False, times=False):
    if times:
        return clock * instructions * each * bits
    return clock / (1 if forgotten else instructions) * (1 if alone else each) * (bits / 8 if octets else bits)


def call_compiled(function, a, b, n):
    if not hasattr(function, "py_func"):
        raise InputTypeError("my_kernel is not compiled: put @numba.njit above it")
    return function(a, b, n)


@st.composite
def words(draw):
    word = st.one_of(one_of(0, 1, WORD, 1 << 63, LOW, WORD ^ LOW), st.integers(0, WORD))
    return (np.array(draw(st.lists(word, min_size=1, max_size=5)), np.uint64),)


@st.composite
def products(draw):
    """Rows of words whose tails are 0."""
    n = draw(one_of(1, 10, 64, 65, 128, 130))
    count = -(-n // 64)
    keep = (1 << n) - 1
    shapes = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    made = []
    for rows in shapes:
        values = draw(st.lists(st.one_of(one_of(0, keep), st.integers(0, keep)), min_size=rows, max_size=rows))
        made.append(np.array([[v >> 64 * i & WORD for i in range(count)] for v in values], np.uint64))
    return *made, n


LESSON = Lesson(
    8,
    "From loops to the roof",
    "08-speed.md",
    (
        Exercise(
            "my_popcount",
            """The number of ones in each word. Write it with shifts, masks and additions, not with a loop over bits.

    words : uint64 (n,)

    Returns integers (n,).""",
            ("words",),
            popcount,
            (
                mistake("Only the lower 32 bits are counted. Are your masks 64 bits long?", bits=LOW),
                mistake("Only the lowest 8 bits are counted: add up the counts of all bytes.", bits=255),
                mistake("You count zeros.", of="zeros"),
                mistake("That is the place of the highest one, not the number of ones.", of="length"),
                mistake("That is whether the number of ones is odd.", of="parity"),
            ),
            (np.array([89, 19, 74], np.uint64),),
            words(),
        ),
        Exercise(
            "my_kernel",
            """A binary matrix product, compiled by Numba, with a tile of 2 x 2 sums.

    a : uint64 (rows, count), packed rows; their tails are 0
    b : uint64 (filters, count), packed filters; their tails are 0
    n : how many signs a row has; count is ceil(n / 64)

    Returns int64 (rows, filters): sums of n products of signs. rows and filters may be odd.""",
            ("a", "b", "n"),
            kernel,
            (
                mistake(
                    "The last of an odd number of rows is lost. Your tile has two rows; what is left over?", rows=False
                ),
                mistake(
                    "The last of an odd number of filters is lost. Your tile has two; what is left over?", filters=False
                ),
                mistake(
                    "What does not fill a tile of 2 x 2 is lost: the last row and the last filter.",
                    rows=False,
                    filters=False,
                ),
                mistake(ROUNDED, rounded=True),
                mistake("You count equal signs. The sum is what is equal less what differs.", form="equal"),
                mistake("You return the count of differing bits. How does M(10) go on?", form="different"),
                mistake("The sum has the wrong sign. XOR finds the signs that differ.", form="turned"),
                mistake("Only the lower 32 bits of each word are counted.", bits=LOW),
                mistake("Only the first word of each row counts.", first=True),
            ),
            (np.array([[19]], np.uint64), np.array([[89]], np.uint64), 8),
            products(),
            call=call_compiled,
        ),
        Exercise(
            "my_roof",
            """How many products of signs a processor can compute in a second at most.

    clock : cycles in a second
    bits : of a vector
    instructions : how many instructions a vector takes (XOR, popcount, addition: 3)
    each : how many such instructions begin in one cycle

    Returns products a second, on one core.""",
            ("clock", "bits", "instructions", "each"),
            roof,
            (
                mistake("Each vector takes several instructions: fewer vectors are done in a second.", forgotten=True),
                mistake("A vector of 512 bits holds 512 signs, not 64.", octets=True),
                mistake("A processor may start several instructions in a cycle.", alone=True),
                mistake("More instructions make it slower, not faster.", times=True),
            ),
            (3e9, 512, 3, 1),
            st.tuples(one_of(1e9, 3e9, 2.5e9), one_of(64, 128, 256, 512), one_of(1, 2, 3, 4), one_of(1, 2, 3)),
            tolerance=1e-6,
        ),
    ),
    imports=("import numba",),
)
