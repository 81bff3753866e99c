"""Sums in explicit vector code: two over rows of channels, the inner loops of `nhwc_norm`, and one over a filter.

The two sums of a block of channels stay in registers while some rows pass. That is no order which a processor foresees,
so the same place of the next rows is asked for meanwhile.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils

from xnor_ref.kernels.vector_ir import (
    F32,
    F64,
    I8,
    I32,
    I64,
    LANES,
    const,
    first_lanes,
    intrinsic,
    load,
    masked_load,
    repeat,
    spread,
    store,
    total_of,
    vector,
)

GROUPS = 2
BLOCK = GROUPS * LANES  # channels whose sums are in registers together


def _fetch(b: ir.IRBuilder, address: ir.Value) -> None:
    """Have a place of memory brought to the nearest cache, whether it exists or not."""
    pointer = I8.as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
    fetch = cgutils.get_or_insert_function(b.module, signature, "llvm.prefetch.p0")
    b.call(fetch, [b.inttoptr(address, pointer), *(ir.Constant(I32, n) for n in (0, 3, 1))])  # to read, keep, data


def _two_sums(element: ir.Type, n_vectors: int, terms):
    """An intrinsic that adds two terms for each row and channel to float64 sums.

    Takes the addresses of x and d, the bytes from row to row, the rows, the blocks of channels, the addresses of three
    per-channel vectors, of which the first `n_vectors` are read, that of the sums, the bytes from the first sums to the
    second, and two limits. `terms` gives the terms from x, a function that reads d, the vectors and the limits.
    """
    bytes_of_an_element = 8 if element is F64 else 4

    @intrinsic
    def add_up(context, x, d, step, n_rows, n_blocks, first, second, third, sums, gap, low, high):
        def generate(context, b, signature, arguments):
            x, d, step, n_rows, n_blocks, *vectors, sums, gap, low, high = arguments
            limits = spread(b, low), spread(b, high)
            ahead = b.mul(step, n_rows)

            def block(values):
                (lane,) = values
                lanes = [b.add(lane, const(i * LANES)) for i in range(GROUPS)]
                offsets = [b.mul(lane, const(4)) for lane in lanes]
                places = [b.add(sums, b.mul(lane, const(8))) for lane in lanes]
                places += [b.add(place, gap) for place in places]
                given = [
                    [load(b, b.add(v, b.mul(lane, const(bytes_of_an_element))), vector(element)) for v in vectors]
                    for lane in lanes
                ]

                def row(values):
                    x, d, *totals = values
                    for i, at in enumerate(offsets):
                        for place in (x, d)[: 1 + (n_vectors > 1)]:
                            _fetch(b, b.add(b.add(place, at), ahead))
                        value = load(b, b.add(x, at), vector(F32))
                        pair = terms(b, value, lambda at=at, d=d: load(b, b.add(d, at), vector(F32)), given[i], limits)
                        for place, term in zip((i, i + GROUPS), pair, strict=True):
                            totals[place] = b.fadd(totals[place], term)
                    return [b.add(x, step), b.add(d, step), *totals]

                totals = [load(b, place, vector(F64)) for place in places]
                totals = repeat(b, n_rows, [x, d, *totals], row)[2:]
                for place, total in zip(places, totals, strict=True):
                    store(b, total, place)
                return [b.add(lane, const(BLOCK))]

            vectors = vectors[:n_vectors]
            repeat(b, n_blocks, [const(0)], block)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10, types.float32, types.float32), generate

    return add_up


def _moments(b, x, d, given, limits):
    v = b.fsub(b.fpext(x, vector(F64)), given[0])
    return v, b.fmul(v, v)


def _gradients(b, x, d, given, limits):
    scale, shift, centre = given
    y = b.fadd(b.fmul(x, scale), shift)
    passes = b.and_(b.fcmp_ordered(">", y, limits[0]), b.fcmp_ordered("<=", y, limits[1]))
    v = b.select(passes, d(), ir.Constant(vector(F32), None))
    return b.fpext(v, vector(F64)), b.fpext(b.fmul(v, b.fsub(x, centre)), vector(F64))


moments = _two_sums(F64, 1, _moments)
gradients = _two_sums(F32, 3, _gradients)


@intrinsic
def signed_sum(context, x, w, n):
    """The float64 sum of n numbers x, each times the sign of its w; takes addresses of float32."""

    def generate(context, b, signature, arguments):
        x, w, n = arguments
        nothing = ir.Constant(vector(F32), None)

        def more(total, x, w):
            signed = b.select(b.fcmp_ordered(">=", w, nothing), x, b.fneg(x))
            return b.fadd(total, b.fpext(signed, vector(F64)))

        def whole(values):
            x, w, total = values
            following = more(total, load(b, x, vector(F32)), load(b, w, vector(F32)))
            return [b.add(x, const(4 * LANES)), b.add(w, const(4 * LANES)), following]

        def rest(values):
            x, w, total = values
            used = first_lanes(b, left)
            return [x, w, more(total, *(masked_load(b, at, vector(F32), used) for at in (x, w)))]

        left = b.urem(n, const(LANES))
        values = repeat(b, b.udiv(n, const(LANES)), [x, w, ir.Constant(vector(F64), None)], whole)
        *_, total = repeat(b, b.zext(b.icmp_signed("!=", left, const(0)), I64), values, rest)
        return total_of(b, total)

    return types.float64(*[types.int64] * 3), generate
