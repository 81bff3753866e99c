"""Products of bytes on AMX: they replace those of `tile_gradients.py` where the processor has it.

AMX has eight registers of 16 rows of 64 bytes. One instruction multiplies two of them and adds the products to a third,
which holds 16x16 sums in int32. The first has 16 rows of 64 bytes (unsigned here), the second 16 groups of four bytes
(signed) for each of 16 columns:

                 column: 16 rows, four bytes of each of 16 outputs          | sum 0 | sum 1 | sum 2 | sum 3 |
    row: 16 x, 64 bytes of each                                             sum += row x column, 16,384 products

A row of columns is one vector of the other micro-kernels, so operands lie in memory as they do there. Where x has less
than 64 bytes left at the end of a sum, zeros follow; the columns are then read up to `BEYOND`.
"""

from llvmlite import ir
from numba import types

from xnor_ref.kernels.basics.memory import LINE
from xnor_ref.kernels.microkernels.ir import (
    I8,
    I32,
    I64,
    const,
    declared,
    first_lanes,
    intrinsic,
    load,
    masked_load,
    repeat,
    spread,
    store,
    vector,
)

ROWS = 16  # of a register
GROUPS = 16  # of four bytes, in a row
BEYOND = GROUPS - 1  # groups of w, of all columns, behind the last one: they are read, though they do not count
_STEPS = 16
ROW, COLUMNS = 4, (5, 6, 7)  # registers; the first four are sums, and columns take turns so that none has to wait
_POINTER = I8.as_pointer()


def instruct(b, name: str, *operands) -> None:
    """An instruction of AMX; Python numbers are registers."""
    operands = tuple(ir.Constant(I8, one) if isinstance(one, int) else one for one in operands)
    signature = ir.FunctionType(ir.VoidType(), [one.type for one in operands])
    b.call(declared(b, signature, f"llvm.x86.{name}"), operands)


def move(b, name: str, register: int, address, stride) -> None:
    """Load or store a register, whose rows lie `stride` bytes apart."""
    instruct(b, name, register, b.inttoptr(address, _POINTER), stride)


def _room(b, size: int):
    """The address of so many bytes on the stack."""
    with b.goto_entry_block():  # Numba's own function would fill them with zeros
        return b.ptrtoint(b.alloca(ir.ArrayType(I8, size)), I64)


@intrinsic
def shape(context, rows):
    """Shape the registers, for `rows` <= ROWS rows of x and of sums; takes some hundred cycles."""

    def generate(context, b, signature, arguments):
        place = _room(b, 64)
        for part in range(4):
            store(b, ir.Constant(vector(I32, 4), None), b.add(place, const(16 * part)))
        store(b, ir.Constant(I8, 1), place)  # the palette
        for register in range(8):
            store(b, ir.Constant(I8, LINE), b.add(place, const(16 + 2 * register)))
            n_rows = ir.Constant(I8, ROWS) if register in COLUMNS else b.trunc(arguments[0], I8)
            store(b, n_rows, b.add(place, const(48 + register)))
        instruct(b, "ldtilecfg", b.inttoptr(place, _POINTER))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def release(context):
    """Give the registers back."""

    def generate(context, b, signature, arguments):
        instruct(b, "tilerelease")
        return context.get_dummy_value()

    return types.void(), generate


def _walk(b, vectors, x, x_row, x_step, w, steps):
    """Add the products of so many steps to the sums; the address of w that follows, and of x."""
    w_row = vectors * LINE

    def step(values):
        x, w = values
        move(b, "tileloadd64", ROW, x, x_row)
        for v in range(vectors):
            column = COLUMNS[v % len(COLUMNS)]
            move(b, "tileloadd64", column, b.add(w, const(v * LINE)), const(w_row))
            instruct(b, "tdpbusd", v, ROW, column)
        return [b.add(x, x_step), b.add(w, const(GROUPS * w_row))]

    return repeat(b, steps, [x, w], step)


def row(vectors: int, epilogue):
    """As `tile._row`, of bytes: rows of a register are pixels. `epilogue` takes a pixel's sums and p0 and p2.

    p1 is the address of four int64: how many images there are, the bytes from one to the next in x and in the output,
    and how many of an image's pixels go into a register; `shape` must have been called with those of all images. Pixels
    of several images are gathered, and go into one.
    """

    @intrinsic
    def pixels(
        context, kind, n, x, hops, x_pixel, n_pieces, run, w, p0, p1, p2, p3, p3_pixel, out, out_pixel, past
    ):  # fmt: skip
        def generate(context, b, signature, arguments):
            _, n, x, hops, x_pixel, n_pieces, run, w, table, images, scale, _, _, out, out_pixel, _ = arguments
            w_piece = b.mul(run, const(vectors * LINE))
            n_images, x_image, out_image, size = (load(b, b.add(images, const(8 * k)), I64) for k in range(4))
            tiles = b.udiv(b.add(n, b.sub(size, const(1))), size)
            alone = b.icmp_signed("==", n_images, const(1))
            sums, gathered = _room(b, ROWS * vectors * LINE), _room(b, _STEPS * ROWS * LINE)

            def gather(x, groups, to):
                """Copy one step's bytes of all pixels of all images to rows of 64 bytes."""
                mask = first_lanes(b, groups, GROUPS)

                def image(values):
                    x, to = values

                    def pixel(values):
                        x, to = values
                        store(b, masked_load(b, x, vector(I32, GROUPS), mask), to)
                        return [b.add(x, x_pixel), b.add(to, const(LINE))]

                    _, to = repeat(b, size, [x, to], pixel)
                    return [b.add(x, x_image), to]

                repeat(b, n_images, [x, to], image)

            def tile(values):
                (first,) = values
                end = b.sub(n, size)  # the last tile goes over some pixels again
                here = b.select(b.icmp_signed("<", first, end), first, end)
                for v in range(vectors):
                    instruct(b, "tilezero", v)

                def line(values):
                    hop, x, w = values
                    whole = b.select(alone, b.udiv(run, const(GROUPS)), const(0))
                    there, weights = _walk(b, vectors, x, x_pixel, const(LINE), w, whole)
                    left = b.sub(run, b.mul(whole, const(GROUPS)))
                    _in_pieces(b, vectors, gather, there, left, gathered, weights)
                    return [b.add(hop, const(8)), b.add(x, load(b, hop, I64)), b.add(w, w_piece)]

                repeat(b, n_pieces, [hops, b.add(x, b.mul(here, x_pixel)), w], line)
                for v in range(vectors):
                    move(b, "tilestored64", v, b.add(sums, const(v * LINE)), const(vectors * LINE))

                def image(values):
                    of, to = values

                    def pixel(values):
                        of, to = values
                        totals = [load(b, b.add(of, const(v * LINE)), vector(I32)) for v in range(vectors)]
                        for v, result in enumerate(epilogue(b, totals, 0, table, None, scale, None)):
                            store(b, result, b.add(to, const(v * LINE)))
                        return [b.add(of, const(vectors * LINE)), b.add(to, out_pixel)]

                    of, _ = repeat(b, size, [of, to], pixel)
                    return [of, b.add(to, out_image)]

                repeat(b, n_images, [sums, b.add(out, b.mul(here, out_pixel))], image)
                return [b.add(first, size)]

            repeat(b, tiles, [const(0)], tile)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 16), generate

    return pixels


def _in_pieces(b, vectors, gather, x, groups, gathered, w) -> None:
    """As `_walk`, by way of `gathered`: `gather(x, groups, to)` copies a step there, `_STEPS` of them at a time."""

    def piece(values):
        x, w, left = values

        def one(values):
            x, to, left = values
            gather(x, left, to)
            return [b.add(x, const(LINE)), b.add(to, const(ROWS * LINE)), b.sub(left, const(GROUPS))]

        steps = _steps(b, left)
        x, _, left = repeat(b, steps, [x, gathered, left], one)
        return [x, _walk(b, vectors, gathered, const(LINE), const(ROWS * LINE), w, steps)[1], left]

    repeat(b, _pieces(b, groups), [x, w, groups], piece)


def _pieces(b, groups):
    """How many times `_STEPS` steps so many groups are, the last time perhaps less."""
    return b.udiv(b.add(groups, const(_STEPS * GROUPS - 1)), const(_STEPS * GROUPS))


def _steps(b, left):
    """Those of the next piece."""
    steps = b.udiv(b.add(left, const(GROUPS - 1)), const(GROUPS))
    return b.select(b.icmp_signed("<", steps, const(_STEPS)), steps, const(_STEPS))


def products(vectors: int):
    """As `tile_gradients._integer`, of `n` <= ROWS inputs: rows of a register are inputs.

    Before the offsets lie two more int64: the number of blocks of outputs, and the bytes from one's w to the next's.
    Words that do not lie in a row are gathered, once for all blocks. `shape` must have been called with n.
    """

    @intrinsic
    def inputs(context, n, x, offsets, x_input, w, count, out, out_input):
        def generate(context, b, signature, arguments):
            n, x, offsets, x_input, w, count, out, out_input = arguments
            n_blocks, w_block = load(b, b.sub(offsets, const(16)), I64), load(b, b.sub(offsets, const(8)), I64)
            gathered = _room(b, _STEPS * ROWS * LINE)

            def move_sums(name, at):
                for v in range(vectors):
                    move(b, name, v, b.add(at, const(v * LINE)), out_input)

            def piece(values):
                offsets, w, left = values
                steps = _steps(b, left)
                n_groups = b.mul(steps, const(GROUPS))
                less = b.icmp_signed("<", left, n_groups)
                end = b.sub(b.select(less, left, n_groups), const(1))
                first, last = load(b, offsets, I64), load(b, b.add(offsets, b.mul(end, const(8))), I64)
                apart = b.or_(less, b.icmp_signed("!=", b.sub(last, first), b.mul(end, const(4))))
                with b.if_then(apart):
                    _gather(b, n, x, x_input, offsets, left, steps, gathered)
                address = b.select(apart, gathered, b.add(x, first))
                row = b.select(apart, const(LINE), x_input)
                step = b.select(apart, const(ROWS * LINE), const(LINE))

                def block(values):
                    w, out = values
                    move_sums("tileloadd64", out)
                    _walk(b, vectors, address, row, step, w, steps)
                    move_sums("tilestored64", out)
                    return [b.add(w, w_block), b.add(out, const(vectors * LINE))]

                repeat(b, n_blocks, [w, out], block)
                offsets, w = (
                    b.add(offsets, b.mul(n_groups, const(8))),
                    b.add(w, b.mul(n_groups, const(vectors * LINE))),
                )
                return [offsets, w, b.sub(left, n_groups)]

            repeat(b, _pieces(b, count), [offsets, w, count], piece)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return inputs


def _gather(b, n, x, x_input, offsets, left, steps, to) -> None:
    """Copy the words at x + offsets, of which `left` are left, of `n` inputs to rows of 64 bytes, step by step."""
    pointers, kind = vector(I32.as_pointer(), GROUPS), vector(I32, GROUPS)

    def step(values):
        offsets, to, left = values
        mask = first_lanes(b, left, GROUPS)
        apart = masked_load(b, offsets, vector(I64, GROUPS), mask)
        signature = ir.FunctionType(kind, [pointers, I32, mask.type, kind])
        gather = declared(b, signature, f"llvm.masked.gather.v{GROUPS}i32.v{GROUPS}p0")

        def one(values):
            x, to = values
            places = b.inttoptr(b.add(spread(b, x, GROUPS), apart), pointers)
            store(b, b.call(gather, [places, ir.Constant(I32, 4), mask, ir.Constant(kind, None)]), to)
            return [b.add(x, x_input), b.add(to, const(LINE))]

        repeat(b, n, [x, to], one)
        offsets, to = b.add(offsets, const(8 * GROUPS)), b.add(to, const(ROWS * LINE))
        return [offsets, to, b.sub(left, const(GROUPS))]

    repeat(b, steps, [offsets, to, left], step)
