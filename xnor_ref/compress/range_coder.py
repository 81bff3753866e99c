"""The arithmetic coder of `codec.py`, which describes the stream.

`_put` narrows the interval [low, low + width) and writes the bytes that can no longer change. `_take` follows it. All
numbers are below 2**57, so int64 holds them.
"""

import numpy as np
from numba import int64, intp, types, uint8, uint64

from xnor_ref.kernels.compiling.jit import compiled, readonly, writable

_TOP = 1 << 32
_BOTTOM = 1 << 24
_writer = types.UniTuple(int64, 3)  # low, width, bytes written
_reader = types.UniTuple(int64, 3)  # code, width, bytes read


@compiled(_writer(writable(uint8, 1), _writer, int64, int64), forceinline=True)
def _put(out, state, start, size):
    """Narrow the interval to [start, start + size)."""
    low, width, used = state
    low, width = low + start, size
    if low >= _TOP:  # carry into bytes already written
        low -= _TOP
        at = used - 1
        while out[at] == 255:
            out[at] = 0
            at -= 1
        out[at] += 1
    while width < _BOTTOM:
        out[used] = low >> 24
        low, width, used = (low & 0xFFFFFF) << 8, width << 8, used + 1
    return low, width, used


@compiled(_writer(writable(uint8, 1), _writer, int64, int64), forceinline=True)
def _put_one_of(out, state, count, value):
    """Write one of `count` equally likely values. The last value takes the rest of the interval."""
    step = state[1] // count
    return _put(out, state, step * value, step if value + 1 < count else state[1] - step * value)


@compiled(
    intp(readonly(uint64, 2), readonly(int64, 1), readonly(int64, 1), readonly(int64, 1), intp, writable(uint8, 1))
)
def encode(flips, parent, negated, differ, n_bits, out):
    """Write the whole stream into `out`. Return its length."""
    channels = len(parent)
    state = (0, _TOP, 0)
    for o in range(channels):
        state = _put_one_of(out, state, channels, parent[o])
    for o in range(channels):
        if parent[o] != o:
            state = _put_one_of(out, state, 2, negated[o])
        state = _put_one_of(out, state, n_bits + 1, differ[o])
        ones = differ[o]
        for p in range(n_bits):
            left = n_bits - p
            if ones == 0 or ones == left:  # the rest is known
                break
            same = state[1] * (left - ones) // left
            if (flips[o, p // 64] >> np.uint64(p % 64)) & np.uint64(1):
                state = _put(out, state, same, state[1] - same)
                ones -= 1
            else:
                state = _put(out, state, 0, same)
    low, _, used = state
    for shift in (24, 16, 8, 0):
        out[used] = (low >> shift) & 255
        used += 1
    return used


@compiled(_reader(readonly(uint8, 1), _reader, int64, int64), forceinline=True)
def _take(stream, state, start, size):
    """Follow `_put`. The stream counts as zeros after its end."""
    code, width, used = state
    code, width = code - start, size
    while width < _BOTTOM:
        code, width = code << 8, width << 8
        if used < len(stream):
            code += np.int64(stream[used])
        used += 1
    return code, width, used


@compiled(types.Tuple((_reader, int64))(readonly(uint8, 1), _reader, int64), forceinline=True)
def _take_one_of(stream, state, count):
    """Read one of `count` equally likely values."""
    step = state[1] // count
    value = min(state[0] // step, count - 1)
    size = step if value + 1 < count else state[1] - step * value
    return _take(stream, state, step * value, size), value


@compiled(
    types.UniTuple(int64, 2)(readonly(uint8, 1), intp, writable(int64, 1), writable(int64, 1), writable(uint64, 2))
)
def decode(stream, n_bits, parent, negated, flips):
    """Fill `parent`, `negated` and `flips` (given as zeros).

    Return the bytes read, and the rest of the code, which is 0.
    """
    channels = len(parent)
    code, width, used = np.int64(0), np.int64(_TOP), np.int64(4)
    for at in range(min(4, len(stream))):
        code += np.int64(stream[at]) << (24 - 8 * at)
    state = (code, width, used)
    for o in range(channels):
        state, parent[o] = _take_one_of(stream, state, channels)
    for o in range(channels):
        if parent[o] != o:
            state, negated[o] = _take_one_of(stream, state, 2)
        state, ones = _take_one_of(stream, state, n_bits + 1)
        for p in range(n_bits):
            left = n_bits - p
            if ones == 0:
                break
            same = state[1] * (left - ones) // left
            if ones < left and state[0] < same:
                state = _take(stream, state, 0, same)
                continue
            flips[o, p // 64] |= np.uint64(1) << np.uint64(p % 64)
            if ones < left:
                state = _take(stream, state, same, state[1] - same)
            ones -= 1
    return state[2], state[0]


def known_answers():
    """Return cases: a carry through a full byte; values at both ends; a root, a negated channel and an equal one."""
    written = np.zeros(64, np.uint8)

    def put(function, *arguments):
        written[:3] = 1, 255, 255
        return function(written, *arguments), written[:8]

    flips = np.array([[0b101, 0], [1 << 63, 1], [0, 0], [2**64 - 1, 3]], np.uint64)
    parent, negated, differ = np.array([0, 0, 1, 0]), np.array([0, 1, 0, 0]), np.array([2, 2, 0, 66])
    stream = np.array([4, 11, 117, 196, 162, 81, 105, 36, 202, 248, 0], np.uint8)

    def coded():
        out = np.zeros(64, np.uint8)
        return out[: encode(flips, parent, negated, differ, 66, out)]

    def decoded():
        tree, rows = np.zeros((2, 4), np.int64), np.zeros((4, 2), np.uint64)
        return decode(stream, 66, tree[0], tree[1], rows), tree, rows

    return (
        (_put, lambda: put(_put, (0xFFFFFFFF, 1 << 25, 3), 5, 3), [[67108864, 50331648, 6], [2, 0, 0, 0, 0, 0, 0, 0]]),
        (
            _put_one_of,
            lambda: put(_put_one_of, (10, 1000, 3), 3, 2),
            [[44302336, 21889024, 5], [1, 255, 255, 0, 0, 0, 0, 0]],
        ),
        (encode, coded, stream.tolist()),
        (_take, lambda: _take(np.array([1, 2, 3], np.uint8), (9, 1 << 25, 2), 5, 1 << 12), [262912, 268435456, 4]),
        (_take_one_of, lambda: _take_one_of(np.zeros(3, np.uint8), (999, 1000, 3), 3), [[21823488, 21889024, 5], 2]),
        (decode, decoded, [[11, 0], [[0, 0, 1, 0], [0, 1, 0, 0]], flips.tolist()]),
    )
