"""Words of LLVM's vector language, for the kernels that are written out in it (`tile.py`, `pack.py`).

Addresses are int64, in bytes: arrays passed between compiled functions would cost reference counts.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending, types

from xnor_ref.kernels.basics.target import Target, target

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
F32, F64 = ir.FloatType(), ir.DoubleType()
_SUFFIXES = {F32: "f32", F64: "f64", I64: "i64", I32: "i32", I8: "i8"}  # in LLVM's names of functions

# Without vectors none of these kernels is ever called; a shape only keeps the modules importable.
TARGET = target() or Target("none", 4, 1, False)
LANES = TARGET.lanes

intrinsic: Callable[..., Any] = extending.intrinsic


def const(value: int) -> ir.Constant:
    """A 64-bit constant."""
    return ir.Constant(I64, value)


def vector(element: ir.Type, lanes: int = LANES) -> ir.VectorType:
    """A vector type."""
    return ir.VectorType(element, lanes)


def declared(b: ir.IRBuilder, signature: ir.FunctionType, name: str) -> ir.Function:
    """A function that LLVM or another library defines."""
    return b.module.globals.get(name) or ir.Function(b.module, signature, name)


def load(b: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    """Read a scalar or a vector, which need not be aligned."""
    return b.load(b.inttoptr(address, kind.as_pointer()), align=4)


def masked_load(b: ir.IRBuilder, address: ir.Value, kind: ir.VectorType, mask: ir.Value) -> ir.Value:
    """Read the lanes of a vector where `mask` is 1; the others are 0, and their memory is not touched."""
    pointer = kind.as_pointer()
    signature = ir.FunctionType(kind, [pointer, I32, mask.type, kind])
    name = f"llvm.masked.load.v{kind.count}{_SUFFIXES[kind.element]}.p0"
    read = declared(b, signature, name)
    return b.call(read, [b.inttoptr(address, pointer), ir.Constant(I32, 4), mask, ir.Constant(kind, None)])


def masked_store(b: ir.IRBuilder, value: ir.Value, address: ir.Value, mask: ir.Value) -> None:
    """Write the lanes of a vector where `mask` is 1; the memory of the others is not touched."""
    kind = value.type
    pointer = kind.as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [kind, pointer, I32, mask.type])
    write = declared(b, signature, f"llvm.masked.store.v{kind.count}{_SUFFIXES[kind.element]}.p0")
    b.call(write, [value, b.inttoptr(address, pointer), ir.Constant(I32, 4), mask])


def store(b: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    """Write a scalar or a vector."""
    b.store(value, b.inttoptr(address, value.type.as_pointer()), align=4)


def stream(b: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    """Write a vector past the caches, to a multiple of its size; `fence` must follow before others read it."""
    size = value.type.count * 4
    write = b.store(value, b.inttoptr(address, value.type.as_pointer()), align=size)
    write.set_metadata("nontemporal", b.module.add_metadata([ir.Constant(I32, 1)]))


@intrinsic
def fence(context):
    """Nothing written before is seen later than what is written after."""

    def generate(context, b, signature, arguments):
        b.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def spread(b: ir.IRBuilder, scalar: ir.Value, lanes: int = LANES) -> ir.Value:
    """The scalar in every lane."""
    nothing = ir.Constant(vector(scalar.type, lanes), ir.Undefined)
    first = b.insert_element(nothing, scalar, ir.Constant(I32, 0))
    return b.shuffle_vector(first, nothing, ir.Constant(vector(I32, lanes), [0] * lanes))


def smaller(b: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """The smaller of two signed integers."""
    return b.select(b.icmp_signed("<", one, other), one, other)


def first_lanes(b: ir.IRBuilder, count: ir.Value, lanes: int = LANES) -> ir.Value:
    """The mask of the first `count` (64 bits) lanes."""
    numbers = ir.Constant(vector(I32, lanes), list(range(lanes)))
    return b.icmp_unsigned("<", numbers, spread(b, b.trunc(count, I32), lanes))


def total_of(b: ir.IRBuilder, sums: ir.Value) -> ir.Value:
    """The sum of a vector's lanes, added up by halves."""
    lanes = sums.type.count
    while lanes > 1:
        lanes //= 2
        halves = (ir.Constant(vector(I32, lanes), list(range(a, a + lanes))) for a in (0, lanes))
        sums = b.fadd(*(b.shuffle_vector(sums, sums, half) for half in halves))
    return b.extract_element(sums, ir.Constant(I32, 0))


def instruction(b: ir.IRBuilder, name: str, kind: ir.VectorType, *operands: ir.Value) -> ir.Value:
    """An operation that LLVM offers as a function of vectors of one type, such as ctpop or fma."""
    signature = ir.FunctionType(kind, [kind] * len(operands))
    return b.call(
        declared(b, signature, f"llvm.{name}.v{kind.count}{_SUFFIXES[kind.element]}"),
        operands,
    )


def repeat(b: ir.IRBuilder, count: ir.Value, values: list, body: Callable[[list], list]) -> list:
    """A loop: `values = body(values)`, `count` times."""
    start = b.block
    head, inside, after = (b.function.append_basic_block(name) for name in ("head", "inside", "after"))
    b.branch(head)
    b.position_at_end(head)
    carried = [b.phi(value.type) for value in (const(0), *values)]
    for phi, value in zip(carried, (const(0), *values), strict=True):
        phi.add_incoming(value, start)
    b.cbranch(b.icmp_signed("<", carried[0], count), inside, after)
    b.position_at_end(inside)
    following = [b.add(carried[0], const(1)), *body(carried[1:])]
    for phi, value in zip(carried, following, strict=True):
        phi.add_incoming(value, b.block)
    b.branch(head)
    b.position_at_end(after)
    return carried[1:]
