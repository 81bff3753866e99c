"""A network planned for the SIMD kernels: all decisions and buffers first, then runs that allocate nothing.

Values are float32 (N, H, W, C). BatchNorm and ReLU after a real convolution are computed in its epilogue. BatchNorm
before a binary layer is computed while the signs are packed, so its output is never stored. Where a binary layer
without K is followed by another, only the signs are stored. Values that are not alive at the same time share buffers.
The bits are the same as those of the step-by-step run in `runtime.py`; a test compares them.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.errors import InputError
from xnor_ref.kernels.basics.geometry import NO_PADDING, Window
from xnor_ref.kernels.basics.memory import empty
from xnor_ref.kernels.basics.modes import KMode
from xnor_ref.kernels.ops.planned import Workspace
from xnor_ref.kernels.ops.planned_planes import PlannedPlanes
from xnor_ref.kernels.vectors import grouped, nhwc, signs, simd
from xnor_ref.packed.file import ExaminedNetwork, ExaminedNode
from xnor_ref.packed.ops import Settings

F32 = NDArray[np.float32]
Run = Callable[[int, int], object]  # (number of images, threads)
Works = dict[int, Workspace]
IMAGE = -1
ONE = Window((1, 1))  # window of a matrix product


@dataclass(frozen=True)
class Stage:
    """One or several nodes of the network that are computed together."""

    name: str
    op: str
    source: tuple[int, ...]  # nodes whose float32 outputs it reads
    result: int | None  # node whose float32 output it writes; None: bits, in the next layer's workspace
    build: Callable[..., list[Run]]  # build(works, batch, *inputs[, output]) returns the calls of a run, in order
    workspace: Callable[[int], Workspace] | None = None  # makes a binary layer's workspace for a number of images
    index: int = -1  # of that layer, the key of its workspace in `works`


@dataclass(frozen=True)
class Work:
    """The work of a stage for one image, independent of the implementation."""

    binary_macs: int  # multiply-accumulates of signs, including padded taps
    real_macs: int  # multiply-accumulates in float32
    activations: int  # bytes of float32 read and written
    weights: int  # bytes of weights, read once for all images


@dataclass(frozen=True)
class Follower:
    """A binary layer that takes its bits from the layer before, with the lower limit and max pooling in between."""

    layer: int
    floor: float
    pool: dict[str, Any] | None


class Blueprint:
    """The part that all plans of a network share: its stages, and the weights arranged for the kernels.

    Layers stored along trees are computed directly, like the others. Along a tree a layer could not be combined with
    its neighbours, and no distance of the filters made up for that (docs/compression.md).

    Raises
    ------
    InputError
        The SIMD kernels cannot plan the padding of a layer.
    """

    def __init__(self, network: ExaminedNetwork) -> None:
        self.network = network
        self.nodes = network.nodes
        self._readers: dict[int, list[int]] = {index: [] for index in range(IMAGE, len(self.nodes))}
        for index, node in enumerate(self.nodes):
            for source in node.inputs:
                self._readers[source].append(index)
        self._alias: dict[int, int] = {}
        self._done: set[int] = set()
        self._packed: set[int] = set()  # binary layers that get their input as bits
        self.stages = list(self._stages())
        self.result = self._value(len(self.nodes) - 1)
        self.image_padding = self._padding_of_the_image()

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of a node's output for one image, channels last."""
        shape = self.network.input_shape if index == IMAGE else self.nodes[index].step.shape
        return shape if len(shape) == 1 else (*shape[1:], shape[0])

    def work(self) -> list[Work]:
        """Return the work of each stage, in the order of `Plan.profile`."""
        nodes = {node.name: node for node in self.nodes}
        found = [Work(0, 0, 8 * int(np.prod(self.shape(IMAGE))), 0)]
        for stage in self.stages:
            node = nodes[stage.name]
            step, numbers = node.step, 0 if stage.result is None else int(np.prod(self.shape(stage.result)))
            for source in stage.source:
                shape = self.shape(source)
                if "window" in step.arguments:  # pixels outside all windows are not read
                    window: Window = step.arguments["window"]
                    met = zip(shape, window.count((shape[0], shape[1])), window.kernel)
                    shape = *(min(size, count * taps) for size, count, taps in met), shape[2]
                numbers += int(np.prod(shape))
            macs = step.work if step.weight_shape else 0
            binary = macs if node.op.startswith(("binary", "kbit")) else 0
            weights = -(-step.weight_bits // 8) or 4 * int(np.prod(step.weight_shape or 0))
            found.append(Work(binary, macs - binary, 4 * numbers, weights))
        return found

    def _stages(self) -> Iterator[Stage]:
        for index, node in enumerate(self.nodes):
            if index in self._done:
                continue
            sources = [self._value(source) for source in node.inputs]
            if node.op == "affine" and self._only_binary(index):
                continue  # computed together with its readers
            if node.op == "flatten" and np.prod(self.shape(sources[0])[:-1], dtype=int) == 1:
                self._alias[index] = sources[0]  # the same numbers in the same order
                continue
            if node.op in ("conv2d", "linear"):
                yield self._real(index, node, sources[0])
            elif node.op in ("binary_conv2d", "binary_linear"):
                yield self._binary(index, node, sources[0])
            elif node.op == "affine":
                yield self._affine(index, node, sources[0])
            elif node.op in ("kbit_conv2d", "kbit_linear"):
                yield self._kbit(index, node, sources[0])
            else:
                yield Stage(node.name, node.op, tuple(sources), index, self._simple(node))

    def _value(self, index: int) -> int:
        """Return the value that holds a node's output. Some nodes share their input's value."""
        return self._alias.get(index, index)

    def _only_binary(self, index: int) -> bool:
        readers = [self.nodes[reader] for reader in self._readers[index]]
        return bool(readers) and all(
            node.op.startswith("binary") and node.step.arguments["rule"] is None for node in readers
        )

    def _only_reader(self, index: int, op: str) -> int | None:
        """Return the only node that reads this output, if it is of this kind, else None."""
        readers = self._readers[index]
        return readers[0] if len(readers) == 1 and self.nodes[readers[0]].op == op else None

    def _real(self, index: int, node: ExaminedNode, source: int) -> Stage:
        """Return the stage of a real convolution or linear layer with the BatchNorm and ReLU after it."""
        arguments, last, op = node.step.arguments, index, node.op
        weight, scale, shift = arguments["weight"], None, None
        following = self._only_reader(last, "affine")
        if following is not None and not self._only_binary(following):
            last = following
            scale, shift = (self.nodes[last].step.arguments[key] for key in ("scale", "shift"))
            self._done.add(last)
            op += "+affine"
        last, more, floor = self._relu_after(last)
        shape = self.shape(source)
        size = shape[:2] if len(shape) == 3 else (1, 1)
        window = arguments.get("window", ONE)
        kernel = weight if weight.ndim == 4 else weight[:, :, None, None]
        values = arguments["bias"], scale, shift, floor
        groups = arguments.get("groups", 1)
        if groups == 1:
            conv: Any = simd.RealConv(kernel, size, window, *values)
        else:
            conv = grouped.planned(kernel, groups, size, window, *values)

        def build(works: Works, batch: int, x: F32, out: F32) -> list[Run]:
            if x[0].size == np.prod(conv.padded_shape):  # already padded, or no padding needed
                return [conv.bind(x, out)]
            wide = np.zeros((batch, *conv.padded_shape), np.float32)
            height = x.shape[1]
            return [_split(nhwc.copy_inside, height, x, wide), conv.bind(wide, out)]

        return Stage(node.name, op + more, (source,), last, build)

    def _binary(self, index: int, node: ExaminedNode, source: int) -> Stage:
        """Return the stage of a binary layer with the BatchNorm before it."""
        arguments, op = node.step.arguments, node.op
        before = node.inputs[0]
        affine = None
        if arguments["rule"] is not None:
            threshold, flip = arguments["rule"]
            direction = np.where(flip, np.float32(-1), np.float32(1))  # x <= t equals -x >= -t exactly
            affine = direction, np.zeros_like(threshold), direction * threshold
        elif before != IMAGE and self.nodes[before].op == "affine" and self._only_binary(before):
            source = self._value(self.nodes[before].inputs[0])
            scale, shift = (self.nodes[before].step.arguments[key] for key in ("scale", "shift"))
            affine = scale, shift, np.zeros_like(scale)
            op = "affine+" + op
        words = arguments["words"]
        shape = self.shape(source)
        if node.op == "binary_linear":
            words = words[:, None, None]
            shape = (1, 1, shape[-1])
        window, size = arguments.get("window", ONE), (shape[0], shape[1])
        packed, step = index in self._packed, (1, 1)
        if window.kernel == (1, 1) and window.padding == NO_PADDING and not packed:
            step, size, window = window.stride, window.count(size), ONE  # pixels outside all windows are not packed
        if not simd.table_fits(len(words), size, window):
            raise InputError(
                f"{node.name}: padding {window.brief_padding} gives too many cases of clipped windows to plan"
            )
        conv = simd.SignConv(
            words, shape[2], size, window, arguments.get("pad_value", 0), groups=arguments.get("groups", 1)
        )
        alpha, input_scale = arguments["alpha"], arguments["input_scale"]
        follower = self._takes_bits(index)

        def workspace(batch: int) -> Workspace:
            return Workspace(conv, alpha, input_scale, batch, affine, step)

        def build(works: Works, batch: int, *arrays: F32) -> list[Run]:
            work, runs = works[index], []
            if not packed:
                x = arrays[0].reshape(batch, *shape)
                runs.append(lambda n, threads: work.pack_pixels(x[:n], threads))
            if input_scale != KMode.OFF:
                runs.append(work.scale)
            if follower is None:
                return [*runs, work.bind(arrays[-1])]
            return [*runs, *self._to_bits(work, works[follower.layer], follower)]

        if follower is not None:
            op += ("+relu" if follower.floor == 0 else "") + "+sign" + ("+max_pool" if follower.pool else "")
        sources = () if packed else (source,)
        return Stage(node.name, op, sources, index if follower is None else None, build, workspace, index)

    def _kbit(self, index: int, node: ExaminedNode, source: int) -> Stage:
        """Return the stage of a k-bit layer."""
        arguments, shape = node.step.arguments, self.shape(source)
        window = arguments.get("window", ONE)
        shape = shape if "window" in arguments else (1, 1, int(np.prod(shape)))
        size, outputs = (shape[0], shape[1]), len(arguments["alpha"])
        if not simd.table_fits(outputs, size, window):
            return Stage(node.name, node.op, (source,), index, self._simple(node))
        layer = PlannedPlanes(
            arguments["words"], shape[2], size, window, arguments["pad_value"], arguments["groups"],
            arguments["inputs"], arguments["alpha"], arguments["input_scale"],
        )  # fmt: skip

        def build(works: Works, batch: int, x: F32, out: F32) -> list[Run]:
            return [layer.bind(x.reshape(batch, *shape), out.reshape(batch, *window.count(size), outputs))]

        return Stage(node.name, node.op, (source,), index, build)

    def _takes_bits(self, index: int) -> "Follower | None":
        """Return the binary layer that uses only the signs of this layer's output, perhaps after ReLU and pooling.

        Without K the output is alpha times an integer, so a threshold on it becomes a threshold on the integer. The
        sign of a maximum is the OR of the signs.
        """
        arguments = self.nodes[index].step.arguments
        alpha = arguments["alpha"]
        if arguments["input_scale"] != KMode.OFF or (alpha is not None and (alpha < 0).any()):
            return None
        relu = self._only_reader(index, "relu")
        last = index if relu is None else relu
        pool = self._only_reader(last, "max_pool")
        last = last if pool is None else pool
        layer = self._only_reader(last, "binary_conv2d")
        if layer is None or self.nodes[layer].step.arguments["rule"] is None:
            return None
        self._packed.add(layer)
        self._done |= {node for node in (relu, pool) if node is not None}
        floor = -np.inf if relu is None else 0.0
        return Follower(layer, floor, None if pool is None else self.nodes[pool].step.arguments)

    def _to_bits(self, work: Workspace, target: Workspace, follower: Follower) -> list[Run]:
        """Count bits, compare with the next layer's thresholds, and write the result bits to its workspace."""
        limit, flip = work.integer_limits(*target.thresholds, follower.floor)
        pool = follower.pool
        _, width, words = target.conv.padded_shape
        left = target.conv.windows.window.margin * words
        if pool is None:
            place = target.bits[0].nbytes, width * words * 4, words * 4, left
            return [work.conv.bind(simd.BITS, work.bits, target.bits, limit, flip, place=place)]
        height, columns, _ = work.conv.out_shape
        bits = np.zeros((len(work.bits), height, columns, words), np.uint32)
        place = bits[0].nbytes, columns * words * 4, words * 4, 0
        size, window = target.conv.windows.size, pool["window"].numbers
        return [
            work.conv.bind(simd.BITS, work.bits, bits, limit, flip, place=place),
            _split(signs.pool_bits, size[0], bits, flip, window, size[1], target.bits),
        ]

    def _relu_after(self, index: int) -> tuple[int, str, float]:
        """Return the last node of this stage (the ReLU, if one follows), its part of the name, and the lower limit."""
        following = self._only_reader(index, "relu")
        if following is None:
            return index, "", -np.inf
        self._done.add(following)
        return following, "+relu", 0.0

    def _affine(self, index: int, node: ExaminedNode, source: int) -> Stage:
        """Return the stage of a BatchNorm with the ReLU after it."""
        last, more, floor = self._relu_after(index)
        scale, shift = (node.step.arguments[key] for key in ("scale", "shift"))

        def build(works: Works, batch: int, x: F32, out: F32) -> list[Run]:
            a, b = (array.reshape(-1, array.shape[-1]) for array in (x, out))
            return [_split(nhwc.affine, len(a) // batch, a, scale, shift, np.float32(floor), b)]

        return Stage(node.name, node.op + more, (source,), last, build)

    def _simple(self, node: ExaminedNode) -> Callable[..., list[Run]]:
        """Return the build function of a node that is one call of a kernel or of NumPy."""
        arguments, op = node.step.arguments, node.op

        def build(works: Works, batch: int, *arrays: F32) -> list[Run]:
            *inputs, out = arrays
            if op in ("relu", "hardtanh", "scale", "add"):  # the same on rows and on images
                inputs = [array.reshape(out.shape) for array in inputs]
            x = inputs[0]
            pixels = [array.reshape(-1, array.shape[-1]) for array in arrays]
            per_image = len(pixels[0]) // batch
            if op == "relu":
                return [lambda n, threads: np.maximum(x[:n], np.float32(0), out=out[:n])]
            if op == "hardtanh":
                return [lambda n, threads: np.clip(x[:n], np.float32(-1), np.float32(1), out=out[:n])]
            if op == "scale":
                gamma = arguments["gamma"]
                gamma = np.ascontiguousarray(np.moveaxis(gamma, 0, -1)) if gamma.ndim == 3 else gamma
                return [lambda n, threads: np.multiply(x[:n], gamma, out=out[:n])]
            if op == "add":
                return [lambda n, threads: np.add(x[:n], inputs[1][:n], out=out[:n])]
            if op == "concat":
                parts = [array.reshape(*out.shape[:-1], -1) for array in inputs]
                return [lambda n, threads: np.concatenate([part[:n] for part in parts], axis=-1, out=out[:n])]
            if op == "prelu":
                slope = np.broadcast_to(arguments["slope"], pixels[0].shape[-1:]).copy()
                return [_split(nhwc.prelu, per_image, pixels[0], slope, pixels[1])]
            if op == "max_pool":
                return [_split(nhwc.max_pool, out.shape[1], x, arguments["window"].numbers, out)]
            if op == "avg_pool":
                return [_split(nhwc.avg_pool, out.shape[1], x, arguments["window"].numbers, arguments["shares"], out)]
            if op == "global_avg_pool":
                return [_split(nhwc.global_mean, 1, x, out)]
            if op == "flatten":
                return [_split(nhwc.turned, 1, x.reshape(batch, -1, x.shape[3]), out.reshape(batch, x.shape[3], -1))]
            return [self._by_its_step(node, inputs, out)]

        return build

    def _by_its_step(self, node: ExaminedNode, inputs: list[F32], out: F32) -> Run:
        """Return the run of any other operation, on (N, C, H, W), as without a plan."""

        shapes = [self.network.input_shape if i == IMAGE else self.nodes[i].step.shape for i in node.inputs]

        def run(n: int, threads: int) -> None:
            planes = [np.moveaxis(x[:n], -1, 1).reshape(n, *shape) for x, shape in zip(inputs, shapes)]
            planes = [np.ascontiguousarray(x) for x in planes]
            out[:n] = np.moveaxis(node.step.run(Settings(threads), *planes), 1, -1)

        return run

    def _padding_of_the_image(self) -> int:
        """Return the columns of zeros on each side that the image's only reader needs."""
        readers = [self.nodes[index] for index in self._readers[IMAGE]]
        if len(readers) == 1 and readers[0].op == "conv2d" and readers[0].step.arguments["groups"] == 1:
            return readers[0].step.arguments["window"].margin
        return 0


class Plan:
    """Buffers for up to `batch` images, and the calls that fill them. Not for use by several threads at once."""

    def __init__(self, blueprint: Blueprint, batch: int) -> None:
        self.batch = batch
        self._network = blueprint.network
        channels, height, width = self._network.input_shape
        self._image = np.zeros((batch, height, width + 2 * blueprint.image_padding, channels), np.float32)
        values: dict[int, F32] = {IMAGE: self._image}
        buffers: dict[int, F32] = {}
        free: list[F32] = []
        uses = Counter(source for stage in blueprint.stages for source in stage.source)
        uses[blueprint.result] += 1
        self._calls: list[tuple[str, str, list[Run]]] = []
        works = {stage.index: stage.workspace(batch) for stage in blueprint.stages if stage.workspace}
        for stage in blueprint.stages:
            arrays = [values[source] for source in stage.source]
            if stage.result is not None:
                shape = (batch, *blueprint.shape(stage.result))
                buffers[stage.result] = memory = _take(free, int(np.prod(shape)))
                values[stage.result] = memory[: np.prod(shape)].reshape(shape)
                arrays.append(values[stage.result])
            self._calls.append((stage.name, stage.op, stage.build(works, batch, *arrays)))
            for source in stage.source:
                uses[source] -= 1
                if uses[source] == 0 and source in buffers:
                    free.append(buffers.pop(source))
        self._logits = values[blueprint.result].reshape(batch, -1)

    def run(self, images: NDArray, out: F32, threads: int) -> None:
        """Write logits to out (n, classes), for n <= `batch` images, uint8 (n, H, W, C) or float32 (n, C, H, W)."""
        for _ in self._steps(images, threads):
            pass
        out[:] = self._logits[: len(images)]

    def profile(self, images: NDArray, threads: int) -> list[tuple[str, str, float]]:
        """Run, and return name, operation and seconds of each stage."""
        begin = time.perf_counter()
        rows = []
        for name, op in self._steps(images, threads):
            end = time.perf_counter()
            rows.append((name, op, end - begin))
            begin = end
        return rows

    def _steps(self, images: NDArray, threads: int) -> Iterator[tuple[str, str]]:
        n, height = len(images), self._network.input_shape[1]
        if images.dtype == np.uint8:
            simd.split(threads, n * height, nhwc.look_up, images, self._network.table, self._image)
        else:
            planes = images.reshape(n, images.shape[1], -1)
            simd.split(threads, n * height, nhwc.from_planes, planes, images.shape[3], self._image)
        yield "image", "normalise"
        for name, op, runs in self._calls:
            for run in runs:
                run(n, threads)
            yield name, op


def _split(kernel: Callable, per_image: int, *arguments: Any) -> Run:
    """Return a run that calls `kernel` for all items of n images. The last argument is the output."""
    work = 200 * arguments[-1][0].size
    return lambda n, threads: simd.split(simd.worth(threads, n * work), n * per_image, kernel, *arguments)


def _take(free: list[F32], size: int) -> F32:
    """Return the smallest free buffer that holds `size` numbers, or a new one."""
    fitting = [index for index, buffer in enumerate(free) if buffer.size >= size]
    if not fitting:
        return empty((size,))
    return free.pop(min(fitting, key=lambda index: free[index].size))
