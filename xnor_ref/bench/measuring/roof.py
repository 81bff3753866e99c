"""The roof: what one core can do at most, measured with loops that touch nothing but registers.

A binary multiply-accumulate on bits is `count += popcount(a ^ b)`: three vector operations, each on as many bits as a
register has. The loop here does just that, on a tile of operands that stay in registers: four weights and four
activations meet in 16 counts, nothing is loaded or stored. No kernel that takes these three operations for its work is
faster. (One that gathers bits in carry-save adders first needs fewer popcounts; that pays where a popcount is slow.)

The operands pass through an empty piece of inline assembly in every round. It costs no instruction, but LLVM must take
its result for a new value; without it, LLVM would compute the unchanging popcounts once, before the loop.

The roofs of float32 multiply-adds, of products of bytes and of reading main memory are measured the same way.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

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
from xnor_ref.kernels.microkernels.ir import F32, I32, I64, LANES, const, declared, instruction, repeat, vector

VECTOR_BITS = 32 * LANES
_CHAIN = 32  # additions of one round
_VNNI = f"llvm.x86.avx512.vpdpbusd.{VECTOR_BITS}"  # sums of four products of an unsigned and a signed byte
_TILE = amx.ROWS * LINE  # bytes of a register of AMX
_SUMS = 12  # independent multiply-adds: more than latency times pipelines, and with two operands within 16 registers

# Processors differ in what they count at once and in their number of registers; the fastest form is the roof.
_FORMS = ((32, 4, 4), (8, 4, 4), (32, 2, 2), (8, 2, 2))  # bits of a count, rows and columns of the tile


# --- loops in registers ----------------------------------------------------------------------------------------


def _opaque(b: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """`value` in a register, of which LLVM knows nothing any more; no instruction."""
    kind = "r"
    if isinstance(value.type, ir.VectorType):
        architecture = binding.get_process_triple().partition("-")[0]
        x86 = "v" if VECTOR_BITS == 512 else "x"
        kind = {"x86_64": x86, "i686": x86, "aarch64": "w", "arm64": "w"}.get(architecture, "v")
    return b.asm(ir.FunctionType(value.type, [value.type]), "", f"={kind},0", [value], side_effect=True)


def _counting_loop(bits: int, rows: int, columns: int):
    """An intrinsic (rounds) -> sum: a tile of rows x columns counts, `rounds` times."""

    @intrinsic
    def count(typing_context, rounds):
        def codegen(context, b, signature, arguments):
            kind = vector(ir.IntType(bits), VECTOR_BITS // bits)
            n_counts = rows * columns
            first = [ir.Constant(kind, None)] * n_counts
            first += [ir.Constant(kind, [3 * i + 1] * kind.count) for i in range(rows + columns)]

            def body(values):
                operands = [_opaque(b, operand) for operand in values[n_counts:]]
                different = [b.xor(operands[i // columns], operands[rows + i % columns]) for i in range(n_counts)]
                counts = [b.add(n, instruction(b, "ctpop", kind, d)) for n, d in zip(values, different)]
                return counts + operands

            counts = repeat(b, arguments[0], first, body)[:n_counts]
            for other in counts[1:]:
                counts[0] = b.add(counts[0], other)
            total = const(0)
            for lane in range(kind.count):
                total = b.add(total, b.zext(b.extract_element(counts[0], ir.Constant(I32, lane)), I64))
            return total

        return uint64(intp), codegen

    return count


_words, _bytes, _few_words, _few_bytes = (_counting_loop(*form) for form in _FORMS)


@compiled(uint64(intp, intp))
def _count(form, rounds):
    if form == 0:
        return _words(rounds)
    if form == 1:
        return _bytes(rounds)
    if form == 2:
        return _few_words(rounds)
    return _few_bytes(rounds)


@intrinsic
def _multiply_add_loop(typing_context, rounds):
    """(rounds) -> a number: `_SUMS` independent vector sums s += a * b in float32, `rounds` times."""

    def codegen(context, b, signature, arguments):
        kind = vector(F32)
        first = [ir.Constant(kind, [0.0] * LANES)] * _SUMS
        first += [ir.Constant(kind, [value] * LANES) for value in (1.0, 0.5)]

        def body(values):
            x, y = (_opaque(b, operand) for operand in values[_SUMS:])
            # One instruction where there is one, else two.
            return [instruction(b, "fmuladd", kind, x, y, value) for value in values[:_SUMS]] + [x, y]

        sums = repeat(b, arguments[0], first, body)[:_SUMS]
        for other in sums[1:]:
            sums[0] = b.fadd(sums[0], other)
        return b.zext(b.bitcast(b.extract_element(sums[0], ir.Constant(I32, 0)), I32), I64)

    return uint64(intp), codegen


@compiled(uint64(intp))
def _multiply_add(rounds):
    return _multiply_add_loop(rounds)  # type: ignore[call-arg]


@intrinsic
def _dot_product_loop(typing_context, rounds):
    """(rounds) -> a number: `_SUMS` vector sums of the products of four bytes a lane (VNNI), `rounds` times."""

    def codegen(context, b, signature, arguments):
        kind = vector(I32)
        dot = declared(b, ir.FunctionType(kind, [kind] * 3), _VNNI)
        first = [ir.Constant(kind, [value] * LANES) for value in (*[0] * _SUMS, 0x01020304, 0x02FF0103)]

        def body(values):
            x, y = (_opaque(b, operand) for operand in values[_SUMS:])
            return [b.call(dot, [value, x, y]) for value in values[:_SUMS]] + [x, y]

        sums = repeat(b, arguments[0], first, body)[:_SUMS]
        for other in sums[1:]:
            sums[0] = b.add(sums[0], other)
        return b.zext(b.extract_element(sums[0], ir.Constant(I32, 0)), I64)

    return uint64(intp), codegen


@compiled(uint64(intp))
def _dot_product(rounds):
    return _dot_product_loop(rounds)  # type: ignore[call-arg]


@intrinsic
def _tile_product_loop(typing_context, rounds, operands, sums):
    """(rounds, addresses): add the products of a register's rows with three registers of columns to `sums` (AMX)."""

    def codegen(context, b, signature, arguments):
        rounds, operands, sums = arguments
        for number, register in enumerate((amx.ROW, *amx.COLUMNS)):
            amx.move(b, "tileloadd64", register, b.add(operands, const(number * _TILE)), const(LINE))
        for number, _ in enumerate(amx.COLUMNS):
            amx.instruct(b, "tilezero", number)

        def body(values):
            for number, column in enumerate(amx.COLUMNS):
                amx.instruct(b, "tdpbusd", number, amx.ROW, column)
            return values

        repeat(b, rounds, [], body)
        for number, _ in enumerate(amx.COLUMNS):
            amx.move(b, "tilestored64", number, b.add(sums, const(number * _TILE)), const(LINE))
        return context.get_dummy_value()

    return void(intp, intp, intp), codegen


@compiled(void(intp, readonly(uint8, 1), writable(int32, 1)))
def _tile_products(rounds, operands, sums):
    amx.shape(amx.ROWS)
    _tile_product_loop(rounds, operands.ctypes.data, sums.ctypes.data)  # type: ignore[call-arg]
    amx.release()


@intrinsic
def _chain_loop(typing_context, rounds):
    """(rounds) -> sum: `_CHAIN` additions that wait for one another, each one clock cycle long, `rounds` times."""

    def codegen(context, b, signature, arguments):
        one = _opaque(b, const(1))  # some processors add numbers that stand in the instruction in no time

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
    """Work of a known amount: `work` operations (multiply-accumulates, bytes, clock cycles) each time it is run."""

    run: Callable[[], object]
    work: int


def binary_roof(threads: int = 1) -> Load:
    """Binary multiply-accumulates (xor, popcount, add) on `threads` threads at once, in the fastest form there is."""
    form = fastest_form()
    _, rows, columns = _FORMS[form]
    rounds = _rounds(20_000, threads)
    return Load(_on_threads(lambda: _count(form, rounds), threads), threads * rounds * rows * columns * VECTOR_BITS)


@cache
def fastest_form() -> int:
    """Which of `_FORMS` is the fastest here; measured once."""
    require_compiler()
    fastest, best = 0, 0.0
    for form, (_, rows, columns) in enumerate(_FORMS):
        rate = 0.0
        for _ in range(15):
            start = time.perf_counter()
            _count(form, 10_000)
            rate = max(rate, rows * columns / (time.perf_counter() - start))
        if rate > 1.03 * best:  # of forms that are about equally fast the first
            fastest, best = form, rate
    return fastest


def float_roof(threads: int = 1) -> Load:
    """float32 multiply-accumulates in registers, on `threads` threads at once."""
    require_compiler()
    rounds = _rounds(40_000, threads)
    return Load(_on_threads(lambda: _multiply_add(rounds), threads), threads * rounds * _SUMS * LANES)


def int8_roof(threads: int = 1) -> Load | None:
    """Multiply-accumulates of bytes into int32 (AMX, VNNI) on `threads` threads; None where no instruction does them.

    AMX's operands are no zeros: power is its limit, which numbers without pattern need most of.
    """
    require_compiler()
    if multiplies_tiles():
        rounds, n_sums = _rounds(2_000, threads), len(amx.COLUMNS)
        operands = words((1 + n_sums) * _TILE // 8).view(np.uint8)

        def run() -> None:
            _tile_products(rounds, operands, np.empty(n_sums * _TILE // 4, np.int32))

        return Load(_on_threads(run, threads), threads * rounds * n_sums * amx.ROWS * _TILE)
    if not multiplies_bytes():
        return None
    rounds = _rounds(40_000, threads)
    return Load(_on_threads(lambda: _dot_product(rounds), threads), threads * rounds * _SUMS * 4 * LANES)


def memory_roof(megabytes: int = 256) -> Load:
    """Bytes read in order from main memory by one thread; the array should be several times the size of the caches."""
    require_compiler()
    words = np.ones(megabytes * 125_000, np.uint64)
    return Load(lambda: _read(words), words.nbytes)


def clock(cycles: int = 1_000_000) -> Load:
    """Additions that wait for one another, one a clock cycle: shows the processor's pace, and what disturbs it."""
    require_compiler()
    rounds = cycles // _CHAIN
    return Load(lambda: _chain(rounds), rounds * _CHAIN)


def instruction_set() -> str:
    """The vectors that our kernels and the roof use."""
    found = target()
    name = found.name if found else "none that the SIMD rung uses"
    return f"{name}, vectors of {VECTOR_BITS} bits" + (", AMX" if multiplies_tiles() else "")


def require_compiler() -> None:
    """Raise InputError where Numba's compiler is off."""
    if jit_disabled():
        raise InputError("bench: Numba's compiler is off (NUMBA_DISABLE_JIT=1), so there is nothing to measure")


def _rounds(rounds: int, threads: int) -> int:
    """Waking threads takes some 0.05 ms, which must not count: longer runs where there are several."""
    return rounds if threads == 1 else 16 * rounds


def _on_threads(function: Callable[[], object], threads: int) -> Callable[[], object]:
    if threads == 1:
        return function

    def one_of_them(start: int, stop: int) -> None:
        function()

    return lambda: parallel_chunks(one_of_them, threads, 1, threads)
