"""Lesson 9: exact thresholds, weights of a file, the bytes of a file."""

import json
import struct
from typing import Any

import numpy as np
from hypothesis import strategies as st

from xnor_ref.check.basics.exercise import Exercise, Lesson, mistake
from xnor_ref.check.basics.strategies import one_of
from xnor_ref.check.lessons.bits import WORD

F32 = np.float32
UP, DOWN = F32(np.inf), F32(-np.inf)


def threshold(s, t, how="rounded", strict=False, below=False):
    if how == "formula":
        return F32(-t / s)

    def holds(x):
        value = s * x + t if how == "rounded" else float(s) * float(x) + float(t)
        return value > 0 if strict else value >= 0

    x = F32(-t / s)
    while holds(x):
        x = np.nextafter(x, DOWN)
    while not holds(x):
        x = np.nextafter(x, UP)
    return np.nextafter(x, DOWN) if below else x


def weights(words, shape, order="channels last", bit="least", minus=-1, turned=False):
    o, c, kh, kw = shape
    n = c * kh * kw
    bits = np.array([[int(row[i // 64]) >> (i % 64 if bit == "least" else 63 - i % 64) & 1 for i in range(n)]
                     for row in words]).reshape(o, n)  # fmt: skip
    bits = 1 - bits if turned else bits
    signs = np.where(bits == 1, 1, minus)
    if order == "channels first":
        return signs.reshape(o, c, kh, kw)
    if order == "taps turned":
        return signs.reshape(o, kw, kh, c).transpose(0, 3, 2, 1)
    return signs.reshape(o, kh, kw, c).transpose(0, 3, 1, 2)


def array_of(data, name, eight=True, header=True, order="<", flat=False, first=False):
    raw = data.tobytes()
    length = struct.unpack("<Q", raw[:8])[0]
    entries = {key: value for key, value in json.loads(raw[8 : 8 + length]).items() if key != "__metadata__"}
    about = next(iter(entries.values())) if first else entries[name]
    begin, end = (place + (8 if eight else 0) + (length if header else 0) for place in about["data_offsets"])
    values = np.frombuffer(raw[begin:end], f"{order}f4").astype(F32)
    return values if flat else values.reshape(about["shape"])


def file_of(arrays):
    """The bytes of a safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"made": "by hand"}}
    body = b""
    for name, values in arrays.items():
        end = len(body) + values.nbytes
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(body), end]}
        body += values.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return np.frombuffer(struct.pack("<Q", len(text)) + text + body, np.uint8)


def call_with_bytes(function, data, name):
    return function(data.tobytes(), name)


@st.composite
def scales(draw):
    """s and t; half of them where the formula -t/s is wrong."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    s, t = np.abs(rng.standard_normal(200)).astype(F32) + F32(0.05), rng.standard_normal(200).astype(F32)
    x = (-t / s).astype(F32)
    wrong = np.flatnonzero((s * x + t < 0) | (s * np.nextafter(x, DOWN) + t >= 0))
    at = int(wrong[0]) if draw(st.booleans()) and len(wrong) else 0
    return s[at], t[at]


@st.composite
def packed(draw):
    o, c, kh, kw = draw(one_of(1, 2)), draw(one_of(1, 2, 3, 8)), draw(one_of(1, 2, 3)), draw(one_of(1, 2, 3))
    n = c * kh * kw
    values = draw(st.lists(st.integers(0, (1 << n) - 1), min_size=o, max_size=o))
    words = [[v >> 64 * i & WORD for i in range(-(-n // 64))] for v in values]
    return np.array(words, np.uint64), (o, c, kh, kw)


@st.composite
def files(draw):
    shapes = draw(st.lists(st.sampled_from(((1,), (2,), (3,), (2, 2), (1, 3))), min_size=1, max_size=3))
    arrays = {f"layer{i}.weight": np.arange(1, 1 + np.prod(shape), dtype=F32).reshape(shape) * (i + 1)
              for i, shape in enumerate(shapes)}  # fmt: skip
    return file_of(arrays), draw(st.sampled_from(sorted(arrays, reverse=True)))


LESSON = Lesson(
    9,
    "Freezing: from real numbers to bits, with nothing lost",
    "09-freezing.md",
    (
        Exercise(
            "my_threshold",
            """The smallest float32 number x for which s * x + t >= 0, computed in float32.

    s, t : np.float32 scalars, s > 0, t not 0

    Returns a np.float32 scalar. Both the product and the sum are rounded to float32.""",
            ("s", "t"),
            threshold,
            (
                mistake(
                    "That is -t/s, rounded. Near it, the rounding of s * x + t decides: try its neighbours.",
                    how="formula",
                ),
                mistake(
                    "You compute s * x + t in float64, where it is rounded otherwise. Is a Python float involved?",
                    how="float64",
                ),
                mistake("Where s * x + t is exactly 0, the sign is + already: >= 0, not > 0.", strict=True),
                mistake("One number too small: that is the largest x below the threshold.", below=True),
            ),
            (F32(2), F32(-1)),
            scales(),
        ),
        Exercise(
            "my_weights",
            """The weights of a binary layer, from the words of a model file.

    words : uint64 (O, ceil(C KH KW / 64)); bit (kh KW + kw) C + c of a row is weight [o, c, kh, kw]
    shape : (O, C, KH, KW)

    Returns +1 and -1, in that shape.""",
            ("words", "shape"),
            weights,
            (
                mistake(
                    "The bits of one tap lie side by side, channel after channel. A plain reshape to"
                    " (O, C, KH, KW) runs, and is wrong.",
                    order="channels first",
                ),
                mistake("Height and width of the filter are exchanged.", order="taps turned"),
                mistake("The lowest bit of a word comes first.", bit="most"),
                mistake("You return bits. A weight is +1 or -1.", minus=0),
                mistake("Every weight has the wrong sign: a bit 1 stands for +1.", turned=True),
            ),
            (np.array([[0b10011]], np.uint64), (1, 2, 2, 2)),
            packed(),
        ),
        Exercise(
            "my_array",
            """One array of a safetensors file.

    data : bytes, the whole file: 8 bytes with the length of the header (little-endian), the header in JSON, the arrays
    name : of an array of dtype F32; its "data_offsets" count from the end of the header

    Returns the array, float32, in its shape.""",
            ("data", "name"),
            array_of,
            (
                mistake("The offset forgets the 8 bytes before the header.", eight=False),
                mistake("The offset forgets the header: data_offsets count from its end.", header=False),
                mistake("The offset forgets both the 8 bytes and the header.", eight=False, header=False),
                mistake("The bytes of a number are read in the wrong order: the file is little-endian.", order=">"),
                mistake("The array is flat. Its shape stands in the header.", flat=True),
                mistake("That is the first array of the file, not the one that was asked for.", first=True),
            ),
            (file_of({"layer0.weight": np.array([1, 2], np.float32)}), "layer0.weight"),
            files(),
            call=call_with_bytes,
        ),
    ),
    imports=("import json", "import struct"),
)
