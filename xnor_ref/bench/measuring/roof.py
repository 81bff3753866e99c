"""The roof: the most that one core can do, measured with loops that use registers only.

The loop of bits has a tile of operands that stay in registers. Four weights and four activations make 16 counts (two
and two make four, if there are 16 registers). A kernel that first adds bits in carry-save adders needs fewer popcounts
than this roof has. That is faster only where a popcount is slow.

In every round the operands pass through an empty piece of inline assembly. It costs no instruction, but LLVM must treat
its result as a new value. Without it, LLVM would compute the unchanging popcounts once, before the loop.

The roofs of float32 multiply-adds, of products of bytes and of reading main memory are measured the same way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np
from llvmlite import binding, ir
from numba import int32, intp, uint8, uint64, void
from numba.extending import intrinsic

from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.memory import LINE
from xnor_ref.kernels.basics.rungs import jit_disabled
from xnor_ref.kernels.basics.target import multiplies_bytes, multiplies_tiles, target
from xnor_ref.kernels.basics.threads import parallel_chunks
from xnor_ref.kernels.compiling.jit import compiled, readonly, writable
from xnor_ref.kernels.compiling.selftest import words
from xnor_ref.kernels.microkernels import amx
from xnor_ref.kernels.microkernels.ir import (
    F32,
    I8,
    I32,
    I64,
    LANES,
    TARGET,
    const,
    declared,
    instruction,
    repeat,
    vector,
)

VECTOR_BITS = 32 * LANES
_CHAIN = 32  # additions per round
_VNNI = f"llvm.x86.avx512.vpdpbusd.{VECTOR_BITS}"  # sums of four products of an unsigned and a signed byte
_TILE_BYTES = amx.ROWS * LINE  # bytes of a register of AMX
_SUMS = 12  # independent multiply-adds: more than latency times pipelines, and with two operands within 16 registers


# --- loops in registers ----------------------------------------------------------------------------------------


def _opaque(b: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Return `value` in a register, as a value unknown to LLVM; adds no instruction."""
    kind = "r"
    if isinstance(value.type, ir.VectorType):
        architecture = binding.get_process_triple().partition("-")[0]
        x86 = "v" if VECTOR_BITS == 512 else "x"
        kind = {"x86_64": x86, "i686": x86, "aarch64": "w", "arm64": "w"}.get(architecture, "v")
    return b.asm(ir.FunctionType(value.type, [value.type]), "", f"={kind},0", [value], side_effect=True)


def _loop_in_registers(kind: ir.VectorType, n_sums: int, operands: tuple, step: Callable, add: Callable):
    """Return an intrinsic (rounds) -> number that adds `rounds` times to `n_sums` vectors, which start at zero.

    `step(b, index, total, x)` adds a term to one of the vectors. The term is computed from the operands x, vectors with
    one value in all lanes. `add(b, one, other)` adds two vectors at the end. The result is the sum of all lanes, as
    an integer.
    """

    @intrinsic
    def loop(typing_context, rounds):
        def codegen(context, b, signature, arguments):
            first = [ir.Constant(kind, None)] * n_sums
            first += [ir.Constant(kind, [value] * kind.count) for value in operands]

            def body(values):
                x = [_opaque(b, operand) for operand in values[n_sums:]]
                return [step(b, index, total, x) for index, total in enumerate(values[:n_sums])] + x

            sums = repeat(b, arguments[0], first, body)[:n_sums]
            total, lanes = reduce(partial(add, b), sums), const(0)
            whole = ir.IntType(VECTOR_BITS // kind.count)
            for lane in range(kind.count):
                number = b.bitcast(b.extract_element(total, ir.Constant(I32, lane)), whole)
                lanes = b.add(lanes, b.zext(number, I64))
            return lanes

        return uint64(intp), codegen

    return loop


def _count_bits(b, index, count, x):
    different = b.xor(x[index // _SIDE], x[_SIDE + index % _SIDE])
    return b.add(count, instruction(b, "ctpop", _COUNTS, different))


def _add_product(b, index, total, x):
    return instruction(b, "fmuladd", vector(F32), *x, total)  # one instruction if the processor has it, else two


def _add_products_of_bytes(b, index, total, x):
    kind = vector(I32)
    dot = declared(b, ir.FunctionType(kind, [kind] * 3), _VNNI)
    return b.call(dot, [total, *x])


# As in the micro-kernels: ones are counted in words or bytes, in a tile that leaves registers for its operands.
_SIDE = 2 if LANES == 8 else 4
_COUNTS = vector(I32) if TARGET.counts_words else vector(I8, 4 * LANES)
_counting_loop = _loop_in_registers(
    _COUNTS, _SIDE**2, tuple(3 * i + 1 for i in range(2 * _SIDE)), _count_bits, ir.IRBuilder.add
)
_multiply_add_loop = _loop_in_registers(vector(F32), _SUMS, (1.0, 0.5), _add_product, ir.IRBuilder.fadd)
_dot_product_loop = _loop_in_registers(
    vector(I32), _SUMS, (0x01020304, 0x02FF0103), _add_products_of_bytes, ir.IRBuilder.add
)


@compiled(uint64(intp))
def _count(rounds):
    return _counting_loop(rounds)  # type: ignore[call-arg]


@compiled(uint64(intp))
def _multiply_add(rounds):
    return _multiply_add_loop(rounds)  # type: ignore[call-arg]


@compiled(uint64(intp))
def _dot_product(rounds):
    return _dot_product_loop(rounds)  # type: ignore[call-arg]


@intrinsic
def _tile_product_loop(typing_context, rounds, operands, sums):
    """(rounds, addresses): add the products of a register's rows with three registers of columns to `sums` (AMX)."""

    def codegen(context, b, signature, arguments):
        rounds, operands, sums = arguments
        for number, register in enumerate((amx.ROW, *amx.COLUMNS)):
            amx.move(b, "tileloadd64", register, b.add(operands, const(number * _TILE_BYTES)), const(LINE))
        for number, _ in enumerate(amx.COLUMNS):
            amx.instruct(b, "tilezero", number)

        def body(values):
            for number, column in enumerate(amx.COLUMNS):
                amx.instruct(b, "tdpbusd", number, amx.ROW, column)
            return values

        repeat(b, rounds, [], body)
        for number, _ in enumerate(amx.COLUMNS):
            amx.move(b, "tilestored64", number, b.add(sums, const(number * _TILE_BYTES)), const(LINE))
        return context.get_dummy_value()

    return void(intp, intp, intp), codegen


@compiled(void(intp, readonly(uint8, 1), writable(int32, 1)))
def _tile_products(rounds, operands, sums):
    amx.shape(amx.ROWS)
    _tile_product_loop(rounds, operands.ctypes.data, sums.ctypes.data)  # type: ignore[call-arg]
    amx.release()


@intrinsic
def _chain_loop(typing_context, rounds):
    """(rounds) -> sum: `rounds` times `_CHAIN` additions; each takes one cycle and waits for the one before."""

    def codegen(context, b, signature, arguments):
        one = _opaque(b, const(1))  # some processors take no time to add a constant of the instruction

        def body(values):
            for _ in range(_CHAIN):
                values = [_opaque(b, b.add(values[0], one))]
            return values

        return repeat(b, arguments[0], [const(0)], body)[0]

    return uint64(intp), codegen


@compiled(uint64(intp))
def _chain(rounds):
    return _chain_loop(rounds)  # type: ignore[call-arg]


@compiled(uint64(readonly(uint64, 1)))
def _read(words):
    total = np.uint64(0)
    for i in range(words.size):
        total += words[i]
    return total


# --- roofs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """A known amount of work: `work` operations (multiply-accumulates, bytes, clock cycles) per run."""

    run: Callable[[], object]
    work: int


def binary_roof(threads: int = 1) -> Load:
    """Binary multiply-accumulates (xor, popcount, add) on `threads` threads at once."""
    return _load(_count, 20_000, _SIDE**2 * VECTOR_BITS, threads)


def float_roof(threads: int = 1) -> Load:
    """float32 multiply-accumulates in registers, on `threads` threads at once."""
    return _load(_multiply_add, 40_000, _SUMS * LANES, threads)


def int8_roof(threads: int = 1) -> Load | None:
    """Multiply-accumulates of bytes into int32 (AMX, VNNI) on `threads` threads; None if no instruction does them.

    AMX's operands are random numbers, not zeros: it is limited by power, and random numbers need the most.
    """
    if multiplies_tiles():
        n_sums = len(amx.COLUMNS)
        operands = words((1 + n_sums) * _TILE_BYTES // 8).view(np.uint8)

        def run(rounds: int) -> None:
            _tile_products(rounds, operands, np.empty(n_sums * _TILE_BYTES // 4, np.int32))

        return _load(run, 2_000, n_sums * amx.ROWS * _TILE_BYTES, threads)
    return _load(_dot_product, 40_000, _SUMS * 4 * LANES, threads) if multiplies_bytes() else None


def memory_roof(megabytes: float = 256, threads: int = 1) -> Load:
    """Bytes of an array read in order, again and again, in pieces, one for each of `threads` threads.

    An array several times as large as the caches is read from main memory, a smaller one from the nearest cache.
    """
    require_compiler()
    words = np.ones(int(megabytes * 125_000), np.uint64)
    if threads == 1:
        return Load(lambda: _read(words), words.nbytes)
    pieces = np.array_split(words, threads)
    return Load(lambda: parallel_chunks(lambda start, _: _read(pieces[start]), threads, 1, threads), words.nbytes)


def clock(cycles: int = 1_000_000) -> Load:
    """Additions that each wait for the one before, one per clock cycle: shows the clock and disturbances."""
    return _load(_chain, cycles // _CHAIN, _CHAIN)


def instruction_set() -> str:
    """Describe the vectors that our kernels and the roof use."""
    found = target()
    name = found.name if found else "none that the SIMD rung uses"
    return f"{name}, vectors of {VECTOR_BITS} bits" + (", AMX" if multiplies_tiles() else "")


def require_compiler() -> None:
    """Raise InputError if Numba's compiler is off."""
    if jit_disabled():
        raise InputError("bench: Numba's compiler is off (NUMBA_DISABLE_JIT=1), so there is nothing to measure")


def _load(function: Callable[[int], object], rounds: int, work: int, threads: int = 1) -> Load:
    """Return a load that runs `function(rounds)` on `threads` threads at once; it does `work` per round."""
    require_compiler()
    if threads == 1:
        return Load(lambda: function(rounds), rounds * work)
    rounds *= 16  # waking threads takes about 0.05 ms, which must be negligible

    def one_of_them(start: int, stop: int) -> None:
        function(rounds)

    return Load(lambda: parallel_chunks(one_of_them, threads, 1, threads), threads * rounds * work)
