"""Networks of ONNX and QONNX drawn at random: what the reader must read as their runtimes do."""

import numpy as np

from tests.interop.onnx_in.onnx_files import QONNX, File

F = np.float32


class Drawn:
    """A file with two images a batch; `x` is the value that grows, (c, h, w) its size, which `size_of` finds.

    Signs are of values with an odd shift, so that none lies beside a threshold by itself.
    """

    def __init__(self, seed, custom, size_of):
        self.rng, self.custom, self.size_of = np.random.default_rng(seed), custom, size_of
        self.c, self.h, self.w = (int(n) for n in self.rng.integers((1, 5, 5), (6, 12, 12)))
        self.last = not custom and self.rng.random() < 0.2  # channels last
        size = (self.h, self.w, self.c) if self.last else (self.c, self.h, self.w)
        self.file = File((1 if custom else 2, *size))
        self.add = self.file.add
        self.x = self.add("Transpose", "x", perm=[0, 3, 1, 2]) if self.last else "x"
        self.kept = []

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def each(self, low=0.3, high=2.0, signs=False):
        values = self.rng.uniform(low, high, (self.c, 1, 1)).astype(F)
        return values * self.rng.choice([-1, 1], values.shape).astype(F) if signs else values

    def measure(self):
        self.c, self.h, self.w = self.size_of(self.file, self.x)

    def affine(self):
        scaled = self.add("Mul", self.x, self.each(signs=self.rng.random() < 0.3))
        self.x = self.add("Add", scaled, self.rng.normal(0, 1, (1, self.c, 1, 1)).astype(F))

    def norm(self):
        rng, c = self.rng, self.c
        numbers = rng.uniform(0.3, 2, c) * rng.choice([1, -1], c), rng.normal(0, 1, c), rng.normal(0, 1, c)
        arrays = (array.astype(F) for array in (*numbers, rng.uniform(0.2, 3, c)))
        self.x = self.add("BatchNormalization", self.x, *arrays, epsilon=float(self.pick(1e-5, 0.1, 2.0)))

    def elementwise(self):
        x, each = self.x, self.each(signs=True)
        options = {
            "Mul": (x, self.pick(F(1.7), each)), "Div": (x, each), "Add": (x, each),
            "Sub": self.pick((x, each), (each, x)),
            "Neg": (x,), "Relu": (x,), "PRelu": (x, self.each(0.05, 0.6)), "LeakyRelu": (x,), "HardSigmoid": (x,),
            "Clip": (x, F(-1.1), F(self.pick(0.9, 2.0))),
        }  # fmt: skip
        op = self.pick(*options)
        self.x = self.add(op, *options[op])

    def sign(self):
        self.affine()
        add, x = self.add, self.x
        if self.custom:
            self.x = self.pick(
                lambda: add("BipolarQuant", x, self.pick(F(0.7), self.each()), domain=QONNX),
                lambda: add("Quant", x, F(0.5), F(0), F(1), domain=QONNX, signed=1, narrow=0, rounding_mode="ROUND"),
            )()
            return
        self.x = self.pick(
            lambda: add("Sub", add("Mul", add("Cast", add("GreaterOrEqual", x, F(0)), to=1), F(2)), F(1)),
            lambda: add("Add", add("Mul", add("Cast", add("Less", x, self.each(signs=True)), to=1), F(-2)), F(1)),
            lambda: add("Where", add("Greater", x, F(0.1)), self.each(), F(-1)),
            lambda: add("Cast", add("Not", add("LessOrEqual", F(0.2), x)), to=1),
            lambda: add("Sign", x),
        )()

    def levels(self):
        self.affine()
        if self.custom:
            how = {"signed": int(self.rng.integers(2)), "narrow": int(self.rng.integers(2))}
            bits, scale = self.pick(2, 2, 3, 4, 8), self.pick(F(self.rng.uniform(0.05, 0.7)), self.each(0.1, 0.7))
            rounding = self.pick("ROUND", "ROUND", "FLOOR", "CEIL")
            zero = F(self.pick(0, 0, 1))
            self.x = self.add("Quant", self.x, scale, zero, F(bits), domain=QONNX, rounding_mode=rounding, **how)
            return
        count, (low, high) = self.pick(1, 3, 7, 15), self.pick((0.0, 1.0), (-1.0, 1.0), (-1.5, 1.5))
        moved = self.add("Sub", self.add("Clip", self.x, F(low), F(high)), F(low))
        steps = self.add(self.pick("Round", "Floor", "Ceil"), self.add("Mul", moved, F(count / (high - low) * 0.9999)))
        self.x = self.add("Add", self.add("Mul", steps, F((high - low) / count)), F(self.pick(low, 0.0)))

    def conv(self):
        rng = self.rng
        groups = self.pick(1, 1, *(n for n in range(1, self.c + 1) if self.c % n == 0))
        shape = (groups * int(rng.integers(1, 5)), self.c // groups, *(int(n) for n in rng.integers(1, 4, 2)))
        how = {"strides": rng.integers(1, 3, 2).tolist(), "dilations": rng.integers(1, 3, 2).tolist(), "group": groups}
        padding = self.pick("pads", "none", "SAME_UPPER", "SAME_LOWER", "VALID")
        if padding == "pads":
            how["pads"] = rng.integers(0, 3, 4).tolist()
        elif padding != "none":
            how |= {"auto_pad": padding, "dilations": [1, 1]}
        weight = rng.standard_normal(shape).astype(F)
        scale = self.pick(F(1), rng.uniform(0.1, 1, (len(weight), 1, 1, 1)).astype(F))
        weight = self.pick(weight, np.sign(weight) * scale, (2 * rng.integers(-2, 2, shape) + 1).astype(F) * scale)
        if self.custom and rng.random() < 0.5:
            weight = self.add("BipolarQuant", weight, scale, domain=QONNX)
        bias = [rng.standard_normal(shape[0]).astype(F)] if rng.random() < 0.4 else []
        self.x = self.add("Conv", self.x, weight, *bias, **how)
        self.measure()

    def pool(self):
        kernel = self.rng.integers(1, 4, 2).tolist()
        how = {"kernel_shape": kernel, "strides": self.rng.integers(1, 4, 2).tolist()}
        padding = self.pick("pads", "none", "SAME_UPPER", "SAME_LOWER")
        if padding == "pads":
            how["pads"] = [int(self.rng.integers(0, kernel[at % 2] // 2 + 1)) for at in range(4)]
        elif padding != "none":
            how["auto_pad"] = padding
        if self.rng.random() < 0.5:
            self.x = self.add("AveragePool", self.x, count_include_pad=int(self.rng.integers(2)), **how)
        else:
            self.x = self.add("MaxPool", self.x, ceil_mode=int(padding in ("pads", "none")), **how)
        self.measure()

    def join(self):
        alike = [x for x, size in self.kept if size == (self.c, self.h, self.w)]
        wide = [(x, size[0]) for x, size in self.kept if size[1:] == (self.h, self.w)]
        if alike and self.rng.random() < 0.6:
            self.x = self.add(self.pick("Add", "Sub"), self.x, self.pick(*alike))
        elif wide:
            other, channels = self.pick(*wide)
            self.x, self.c = self.add("Concat", other, self.x, axis=1), self.c + channels

    def last_channels(self):
        y = self.add("Mul", self.add("Transpose", self.x, perm=[0, 2, 3, 1]), self.each().reshape(-1))
        self.c, before = int(self.rng.integers(1, 7)), self.c
        y = self.add("MatMul", y, self.rng.choice([-1, 1], (before, self.c)).astype(F))
        self.x = self.add("Transpose", y, perm=[0, 3, 1, 2])

    def end(self):
        count = self.c
        way = self.pick("mean", "rows", "last")
        if way == "mean":
            y = self.add("Flatten", self.add("GlobalAveragePool", self.x))
        else:
            x = self.x if way == "rows" else self.add("Transpose", self.x, perm=[0, 2, 3, 1])
            y, count = self.add("Reshape", x, np.int64([0, -1])), self.c * self.h * self.w
        for _ in range(self.rng.integers(0, 3)):
            outputs = int(self.rng.integers(2, 9))
            weight = self.rng.standard_normal((count, outputs)).astype(F)
            if self.rng.random() < 0.5:
                y = self.add("Add", self.add("Mul", y, self.rng.uniform(0.5, 1.5, count).astype(F)), F(0.123))
                y = self.add("Where", self.add("GreaterOrEqual", y, F(0)), F(1), F(-1))
                weight = np.sign(weight) * F(0.5)
            bias = self.rng.standard_normal(outputs).astype(F)
            if self.rng.random() < 0.5:
                y = self.add("Add", self.add("MatMul", y, weight), bias)
            else:
                y = self.add("Gemm", y, np.ascontiguousarray(weight.T), bias, transB=1, alpha=0.5, beta=2.0)
            count = outputs
        return y

    def draw(self):
        """The name of the output."""
        both = [self.conv, self.elementwise, self.pool, self.join, self.last_channels, self.sign, self.norm]
        for _ in range(self.rng.integers(2, 9)):
            part = self.pick(*both, "signs", "signs", "levels")
            if isinstance(part, str):
                (self.sign if part == "signs" else self.levels)()
                self.conv()
            else:
                part()
            if self.rng.random() < 0.3:
                self.kept.append((self.x, (self.c, self.h, self.w)))
        return self.end()
