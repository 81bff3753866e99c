"""Sums in explicit vector code: two over rows of channels, the inner loops of `batch_norm`, and one over a filter."""

from llvmlite import ir
from numba import types

from xnor_ref.kernels.microkernels.ir import (
    F32,
    F64,
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


def _two_sums(element: ir.Type, n_vectors: int, terms):
    """An intrinsic that adds two terms for each element of a run to two float64 sums.

    Takes the addresses of x and d, how many vectors a run has, the addresses of three vectors of `element` that lie
    beside it, of which the first `n_vectors` are read, those of the two sums, and two limits. `terms` gives the terms
    from x, a function that reads d, the vectors and the limits.
    """
    scale = 2 if element is F64 else 1

    @intrinsic
    def add_up(context, x, d, n, first, second, third, one, two, low, high):
        def generate(context, b, signature, arguments):
            x, d, n, *vectors, one, two, low, high = arguments
            limits = spread(b, low), spread(b, high)

            def step(values):
                (at,) = values
                beside, wide = b.mul(at, const(scale)), b.mul(at, const(2))
                given = [load(b, b.add(v, beside), vector(element)) for v in vectors[:n_vectors]]
                value = load(b, b.add(x, at), vector(F32))
                pair = terms(b, value, lambda: load(b, b.add(d, at), vector(F32)), given, limits)
                for sums, term in zip((one, two), pair, strict=True):
                    place = b.add(sums, wide)
                    store(b, b.fadd(load(b, place, vector(F64)), term), place)
                return [b.add(at, const(4 * LANES))]

            repeat(b, n, [const(0)], step)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8, types.float32, types.float32), generate

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
