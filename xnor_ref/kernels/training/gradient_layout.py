"""Copies activations, gradients and weights into the layouts of `gradients.py`, and turns its sums into gradients.

Each kernel's first arguments are a range of images, blocks or filters, so `simd.split` can divide them among threads.
No kernel adds up floats of more than one filter.
"""

import numpy as np
from numba import boolean, float32, float64, int32, int64, intp, uint8, uint32, void

from xnor_ref.kernels.basics.modes import Finish
from xnor_ref.kernels.compiling.jit import compiled
from xnor_ref.kernels.compiling.jit import readonly as _in
from xnor_ref.kernels.compiling.jit import writable as _out
from xnor_ref.kernels.microkernels import words32
from xnor_ref.kernels.microkernels.ir import LANES
from xnor_ref.kernels.microkernels.pack import sign_sum, transpose
from xnor_ref.kernels.microkernels.sums import signed_sum
from xnor_ref.kernels.vectors.simd import NARROW, WIDE

_mixed, _dice, _octet, _with_byte, _sum_of_bytes, _larger = (
    words32.mixed, words32.dice, words32.octet, words32.with_byte, words32.sum_of_bytes, words32.larger,
)  # fmt: skip
_sign_of_bit, _chosen_byte, _sign_word, _four_signs, _integer = (
    words32.sign_of_bit, words32.chosen_byte, words32.sign_word, words32.four_signs, words32.integer_of,
)  # fmt: skip
_vector = _in(float32, 1)
_RAW, _CLIPPED, _CORRECTED, _PAPER, _, _OFFICIAL, _SPLIT = (int(mode) for mode in Finish)
_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))


# --- weights ------------------------------------------------------------------------------------------------------


@compiled(void(intp, intp, _vector, _in(int64, 1), intp, intp, _in(int64, 1), _out(float32, 1)))
def fill_real_panels(start, stop, weight, source, n_inner, inner_step, offsets, panels):
    """Fill blocks start..stop of lanes, in the order in which tiles read them.

    Lane l of step (t, r), t < len(offsets), r < n_inner, holds weight[source[l] + r * inner_step + offsets[t]].
    """
    lanes = len(source)
    for block in range(start, stop):
        first = block * WIDE
        used = min(WIDE, lanes - first)
        width = NARROW if used <= NARROW else WIDE
        at = np.uint64(first * len(offsets) * n_inner)
        for t in range(len(offsets)):
            for r in range(n_inner):
                base = np.uint64(r * inner_step + offsets[t])
                for lane in range(np.uint64(used)):
                    panels[at + lane] = weight[np.uint64(source[np.uint64(first) + lane]) + base]
                at += np.uint64(width)


@compiled(
    void(
        intp, intp, boolean, _in(uint32, 2), _vector, intp, _in(int64, 1),
        _out(uint32, 1), _out(float32, 1), _out(int32, 2),
    )
)  # fmt: skip
def fill_sign_panels(start, stop, in_bytes, words, alpha, lanes, offsets, panels, reals, sums):
    """Do the same for signs: step (t, r) holds the sign of bit l of words (O, n), from word offsets[t] on, of filter r.

    The sign times alpha[r] is written to `reals`. Or it is written as a byte to `panels`, four filters per word, and
    the sums over filters to `sums` (len(offsets), lanes).
    """
    outputs = len(words)
    steps = -(-outputs // 4) if in_bytes else outputs
    for block in range(start, stop):
        first = block * WIDE
        used = min(WIDE, lanes - first)
        width = NARROW if used <= NARROW else WIDE
        at = np.uint64(first * len(offsets) * steps)
        for t in range(len(offsets)):
            begin, bit = (
                offsets[t] + first // 32,
                np.uint64(first % 32),
            )  # a block is whole words, or lies within one word
            if in_bytes:
                for group in range(-(-used // 32)):
                    total = sums[t, first + 32 * group :]
                    for o in range(outputs):
                        bits = words[o, begin + group]
                        for lane in range(np.uint64(min(32, used - 32 * group))):
                            total[lane] += _sign_word(bits, np.uint32(bit + lane))
            for r in range(steps):
                for group in range(-(-used // 32)):
                    here = at + np.uint64(32 * group)
                    n = np.uint64(min(32, used - 32 * group))
                    if in_bytes:
                        o, last = 4 * r, outputs - 1
                        a, b = words[o, begin + group], words[min(o + 1, last), begin + group]
                        c, d = words[min(o + 2, last), begin + group], words[min(o + 3, last), begin + group]
                        keep = np.uint32(0xFFFFFFFF) >> np.uint32(8 * max(0, o + 3 - last))
                        for lane in range(n):
                            panels[here + lane] = _four_signs(a, b, c, d, np.uint32(bit + lane)) & keep
                    else:
                        bits, scale = words[r, begin + group], alpha[r]
                        for lane in range(n):
                            reals[here + lane] = _sign_of_bit(bits, np.uint32(bit + lane)) * scale
                at += np.uint64(width)


@compiled(void(intp, intp, _in(float32, 3), _out(uint32, 3), _out(float32, 1)))
def pack_filters(start, stop, weight, words, alpha):
    """Pack the signs of filters start..stop of weight (O, C, T) into words (O, T, words), and compute alpha (eq. 6)."""
    channels, taps, row = weight.shape[1], weight.shape[2], words.shape[2] * 4
    size, n = weight.size, channels * taps
    by_tap = np.empty((taps + LANES if taps > 1 else 0, channels), np.float32)
    for o in range(start, stop):
        source, of, step = weight.ctypes.data + o * n * 4, np.uint64(o * n), channels * 4
        if taps > 1:  # transposed, so that the channels of a tap are contiguous
            done = 0
            while done + LANES <= channels and o * n + (done + LANES + 1) * taps + LANES <= size:
                for t in range(0, taps, LANES):
                    transpose(source + (done * taps + t) * 4, taps * 4, by_tap.ctypes.data + t * step + done * 4, step)
                done += LANES
            flat = weight.reshape(-1)
            for t in range(taps):
                for c in range(done, channels):
                    by_tap[t, c] = flat[of + np.uint64(c * taps + t)]
            source = by_tap.ctypes.data
        total = 0.0
        for t in range(taps):
            total += sign_sum(source + t * step, channels, words.ctypes.data + (o * taps + t) * row)
        alpha[o] = total / n


@compiled(
    void(
        intp, intp, _in(float32, 2), boolean, float64, _in(int64, 1), _in(float32, 2), _vector, intp, intp,
        _out(float32, 2), _out(float32, 1),
    )
)  # fmt: skip
def finish(start, stop, sums, integers, scale, offset, weight, alpha, mode, channels, out, dalpha):
    """Compute the gradients of filters start..stop, out (O, n), from sums over pixels (n, padded O).

    If the sums are `integers` instead of float32, they are (sum - offset[o]) * scale. `mode`, one of `Finish`, selects
    how G becomes the gradient of the latent weight. With `SPLIT`, the gradient of alpha, sum_j G_j sign(W_j), is
    written to `dalpha` (O,).
    """
    n = weight.shape[1]
    one, zero = np.float32(1), np.float32(0)
    part, factor, limit = zero, one, one
    if mode == _PAPER or mode == _OFFICIAL:
        part = np.float32(1 / np.float64(n))
    if mode == _OFFICIAL:
        factor, limit = np.float32((1 - 1 / np.float64(channels)) * n), _BELOW_ONE
    for begin in range(start, stop, LANES):
        end = min(begin + LANES, stop)
        row = sums.shape[1]
        if end - begin == LANES and n >= LANES:
            for piece in range(0, n, LANES):
                j = min(piece, n - LANES)
                source = sums.ctypes.data + (j * row + begin) * 4
                transpose(source, row * 4, out.ctypes.data + (begin * n + j) * 4, n * 4)
        else:
            for j in range(n):
                for o in range(begin, end):
                    out[o, j] = sums[j, o]
        for o in range(begin, end):
            w, g = weight[o], out[o]
            if integers:
                less, unit = offset[o], np.float32(scale)
                for j in range(n):
                    g[j] = np.float32(_integer(g[j]) - less) * unit
            if mode == _RAW:
                continue
            share = zero
            if mode == _CORRECTED or mode == _SPLIT:
                total = signed_sum(g.ctypes.data, w.ctypes.data, n)
                if mode == _CORRECTED:
                    share = np.float32(total / np.float64(n))
                else:
                    dalpha[o] = total
            a = one if mode == _CLIPPED else alpha[o]
            for j in range(n):
                v = g[j] * ((part + (a if abs(w[j]) <= limit else zero)) * factor)
                g[j] = v + (share if w[j] >= zero else -share)


@compiled(void(intp, intp, _in(uint32, 2), _vector, _out(float32, 2)))
def add_signs(start, stop, words, scales, out):
    """Add the signs of the bits of words (B, n), times scales (B,), to rows start..stop of `out` (B, 32 n)."""
    for row in range(start, stop):
        scale, target = scales[row], out[row]
        for word in range(words.shape[1]):
            bits = words[row, word]
            for bit in range(np.uint64(32)):
                target[np.uint64(32 * word) + bit] += _sign_of_bit(bits, np.uint32(bit)) * scale


# --- activations --------------------------------------------------------------------------------------------------


@compiled(void(intp, intp, _in(uint32, 4), intp, intp, intp, intp, _out(uint8, 5), _out(float32, 5)))
def expand_bits(start, stop, bits, width, top, left, pad_value, octets, reals):
    """Copy images start..stop of bits (N, H, W + padding, words) to planes (N, C, rows, phases, pitch).

    They are written as sign + 1 to `octets`, or as signs to `reals`; the other array is empty. `top` rows and `left`
    columns before the image, and the rest behind it, get the value of the padding.
    """
    in_bytes = octets.size > 0
    shape = octets.shape if in_bytes else reals.shape
    channels, phases, pitch = shape[1], shape[3], shape[4]
    height, columns, words = bits.shape[1], bits.shape[2], bits.shape[3]
    before, plane = (columns - width) // 2, np.uint64(shape[2] * phases * pitch)
    source, to_octets, to_reals = bits.reshape(-1), octets.reshape(-1), reals.reshape(-1)
    line = np.empty(plane, np.uint32)  # one word of every pixel, at the pixels' places in a plane
    keep, fill = np.empty(plane, np.uint32), np.empty(plane, np.uint32)
    inside, border = np.empty(plane, np.float32), np.empty(plane, np.float32)
    for p in range(plane):
        line[p], keep[p], fill[p], inside[p], border[p] = 0, 0, pad_value + 1, 0, pad_value
    place = np.empty(height * width, np.uint64)
    for y in range(height):
        for x in range(width):
            at = ((top + y) * phases + (x + left) % phases) * pitch + (x + left) // phases
            place[y * width + x] = at
            keep[at], fill[at], inside[at], border[at] = 2, 0, 1, 0
    for image in range(start, stop):
        for word in range(words):
            for y in range(height):
                of = np.uint64(((image * height + y) * columns + before) * words + word)
                for x in range(np.uint64(width)):
                    line[place[np.uint64(y * width) + x]] = source[of + x * np.uint64(words)]
            first = 32 * word
            at = np.uint64(image * channels + first) * plane
            for c in range(min(32, channels - first)):
                bit = np.uint32(c)
                if in_bytes:
                    for p in range(plane):
                        to_octets[at + p] = _chosen_byte(line[p], bit, keep[p], fill[p])
                else:
                    for p in range(plane):
                        to_reals[at + p] = _sign_of_bit(line[p], bit) * inside[p] + border[p]
                at += plane


@compiled(void(intp, intp, _in(float32, 4), intp, intp, _out(float32, 5)))
def to_planes(start, stop, x, width, left, planes):
    """Copy images start..stop of x (N, H, W + padding, C) to planes (N, C, H, phases, pitch), with zeros around."""
    channels, phases, pitch = planes.shape[1], planes.shape[3], planes.shape[4]
    before = (x.shape[2] - width) // 2
    plane = planes.shape[2] * phases * pitch
    whole = channels // LANES * LANES if width >= LANES and phases == 1 else 0
    for image in range(start, stop):
        for y in range(x.shape[1]):
            for c in range(channels):
                if phases > 1:
                    planes[image, c, y] = 0
                else:
                    planes[image, c, y, 0, :left] = 0
                    planes[image, c, y, 0, left + width :] = 0
            for c in range(0, whole, LANES):
                for piece in range(0, width, LANES):
                    column = min(piece, width - LANES)
                    source = x.ctypes.data + ((image * x.shape[1] + y) * x.shape[2] + before + column) * channels * 4
                    target = ((image * channels + c) * planes.shape[2] + y) * pitch + left + column
                    transpose(source + c * 4, channels * 4, planes.ctypes.data + target * 4, plane * 4)
            for c in range(whole, channels):
                for column in range(width):
                    at = column + left
                    planes[image, c, y, at % phases, at // phases] = x[image, y, before + column, c]


# --- gradients of outputs -----------------------------------------------------------------------------------------


@compiled(
    void(
        intp, intp, intp, intp, _in(float32, 4), _in(float32, 2), intp, _out(float32, 4),
        _out(float32, 1),
    )
)  # fmt: skip
def pack_gradient(start, stop, origin, n, dy, k, left, padded, panels):
    """Write images start..stop of dy, times k (N, OH*OW), to `padded` and `panels`; dy begins with image `origin`.

    `padded` (N, OH, columns, O) has zeros before (`left`) and after. `panels` has blocks of WIDE or NARROW outputs,
    (N, OH, OW, block). If k is empty, there is no factor. If `padded` is empty, only `panels` is filled.
    """
    scaled, padding = k.size > 0, padded.size > 0
    _, height, width, outputs = dy.shape
    source, target, columns = dy.reshape(-1), padded.reshape(-1), padded.shape[2]
    of = np.uint64((start - origin) * height * width * outputs)
    size = np.uint64(outputs)
    for image in range(start, stop):
        for y in range(height):
            at = np.uint64((image * height + y) * columns * outputs)
            if padding:
                for edge in range(np.uint64(left * outputs)):
                    target[at + edge] = 0
                for edge in range(np.uint64((left + width) * outputs), np.uint64(columns * outputs)):
                    target[at + edge] = 0
            at += np.uint64(left * outputs)
            for x in range(width):
                factor = k[image, y * width + x] if scaled else np.float32(1)
                if padding:
                    for o in range(size):
                        target[at + o] = source[of + o] * factor
                    at += size
                pixel = (image * height + y) * width + x
                for first in range(0, outputs, WIDE):
                    used = min(WIDE, outputs - first)
                    block = NARROW if used <= NARROW else WIDE
                    to = np.uint64(first * n * height * width + pixel * block)
                    begin = of + np.uint64(first)
                    for lane in range(np.uint64(used)):
                        panels[to + lane] = source[begin + lane] * factor
                    for lane in range(np.uint64(used), np.uint64(block)):
                        panels[to + lane] = 0
                of += size


@compiled(void(intp, intp, _in(float32, 4), _in(float32, 2), _out(int32, 2)))
def largest(start, stop, dy, k, out):
    """Write the bits of the largest |dy * k| (NaN if there is one) of each image and output channel to out (N, O)."""
    pixels, outputs = dy.shape[1] * dy.shape[2], dy.shape[3]
    source, size = dy.reshape(-1), np.uint64(outputs)
    of = np.uint64(start * pixels * outputs)
    for image in range(start, stop):
        top = out[image]
        top[:] = 0
        for p in range(pixels):
            factor = k[image, p] if k.size else np.float32(1)
            for o in range(size):
                top[o] = _larger(top[o], source[of + o] * factor)
            of += size


@compiled(
    void(
        intp, intp, _in(float32, 4), _in(float32, 2), _vector, float32, float32, uint32, intp, intp,
        _out(uint8, 4), _out(uint32, 1), _out(int64, 2),
    )
)  # fmt: skip
def quantize(start, stop, dy, k, alpha, for_input, for_weight, seed, origin, left, padded, panels, totals):
    """Round images start..stop of dy (N, OH, OW, O), times k, at random to bytes, in two ways.

    `panels` gets q = dy * for_weight as signed bytes, four pixels per word, in blocks (N, OH, words, WIDE or NARROW).
    `totals` (N, O) gets the sums of q. `padded` (N, OH, columns, O rounded up to a multiple of 4) gets
    dy * alpha[o] * for_input + 128 as unsigned bytes, with 128 around. A number is rounded up with a probability equal
    to its fraction, to 16 bits, so the mean is the number itself. The random number is a hash of `seed` and the
    number's place; dy begins with place `origin`.
    """
    n, height, width, outputs = dy.shape
    columns, wide = padded.shape[2], padded.shape[3]
    source, target = dy.reshape(-1), padded.reshape(-1)
    words, total = np.empty(outputs, np.uint32), np.empty(outputs, np.int32)
    names, back = np.empty(outputs, np.uint32), np.empty(outputs, np.float32)
    for o in range(outputs):
        names[o], back[o] = _mixed(np.uint32(o), np.uint32(0), np.uint32(0)), alpha[o] * for_input
    size, run = np.uint64(outputs), -(-width // 4)
    of = np.uint64(start * height * width * outputs)
    for image in range(start, stop):
        total[:] = 0
        for y in range(height):
            at = np.uint64((image * height + y) * columns * wide)
            for edge in range(np.uint64(columns * wide)):
                target[at + edge] = np.uint8(128)
            at += np.uint64(left * wide)
            for group in range(run):
                used = min(4, width - 4 * group)
                absent = np.uint32(0x80808080 << 8 * used & 0x80808080)
                for o in range(size):
                    words[o] = absent
                for part in range(used):
                    factor = k[image, y * width + 4 * group + part] if k.size else np.float32(1)
                    shift, here = np.uint32(8 * part), _mixed(np.uint32(of + np.uint64(origin)), np.uint32(0), seed)
                    for o in range(size):
                        value, dice = source[of + o] * factor, _dice(names[o], here)
                        words[o] = _with_byte(words[o], value * for_weight, dice, shift)
                        target[at + o] = _octet(value * back[o], dice)
                    of += size
                    at += np.uint64(wide)
                for first in range(0, outputs, WIDE):
                    lanes = min(WIDE, outputs - first)
                    block = NARROW if lanes <= NARROW else WIDE
                    to = np.uint64(first * n * height * run + ((image * height + y) * run + group) * block)
                    begin = np.uint64(first)
                    for lane in range(np.uint64(lanes)):
                        panels[to + lane] = words[begin + lane] ^ np.uint32(0x80808080)
                        total[begin + lane] += _sum_of_bytes(words[begin + lane])
                    for lane in range(np.uint64(lanes), np.uint64(block)):
                        panels[to + lane] = 0
        for o in range(outputs):
            totals[image, o] = total[o] - 512 * height * run
