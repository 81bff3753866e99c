"""Right solutions of all exercises, and three wrong ones of each: what is written in place of a part of the right one.

They are kept here alone: the package holds definitions, which share no code with them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Solution:
    """A right solution, and (part of it, what a student writes instead, words of the hint) three times."""

    text: str
    wrong: tuple[tuple[str, str, str], ...]


SOLUTIONS = {
    "my_sign": Solution(
        """
def my_sign(x):
    return np.where(x >= 0, np.float32(1), np.float32(-1))
""",
        (
            ("np.where(x >= 0, np.float32(1), np.float32(-1))", "np.sign(x)", "third value"),
            ("x >= 0", "x > 0", "counts zero as positive"),
            ("np.float32(-1)", "np.float32(0)", "those are bits"),
        ),
    ),
    "my_ste": Solution(
        """
def my_ste(x, dy):
    return dy * (np.abs(x) <= 1)
""",
        (
            ("dy * (np.abs(x) <= 1)", "dy", "passes everywhere"),
            ("<= 1", "< 1", "ends of the interval"),
            ("np.abs(x)", "x", "two ends"),
        ),
    ),
    "my_step": Solution(
        """
def my_step(w, g, rate):
    return np.clip(w - rate * g * (np.abs(w) <= 1), -1, 1)
""",
        (
            (" * (np.abs(w) <= 1)", "", "The estimator gives it none"),
            ("np.clip(w - rate * g * (np.abs(w) <= 1), -1, 1)", "w - rate * g * (np.abs(w) <= 1)", "left the interval"),
            ("w - rate", "w + rate", "uphill"),
        ),
    ),
    "my_pack": Solution(
        """
def my_pack(x):
    rows, n = x.shape
    words = np.zeros((rows, -(-n // 64)), np.uint64)
    for i in range(n):
        words[:, i // 64] |= (x[:, i] >= 0).astype(np.uint64) << np.uint64(i % 64)
    return words
""",
        (
            (">= 0", "> 0", "Which bit does a 0 get"),
            ("np.uint64(i % 64)", "np.uint64(63 - i % 64)", "order of your bits is turned"),
            (">= 0", "< 0", "bits are turned"),
        ),
    ),
    "my_dot": Solution(
        """
def my_dot(a, b, n):
    different = 0
    for i, (p, q) in enumerate(zip(a, b)):
        inside = min(64, n - 64 * i)
        different += ((int(p) ^ int(q)) & ((1 << inside) - 1)).bit_count()
    return n - 2 * different
""",
        (
            (" & ((1 << inside) - 1)", "", "Mask the bits behind"),
            ("n - 2 * different", "64 * len(a) - 2 * different", "n is the number of signs"),
            ("n - 2 * different", "n - different", "count equal signs"),
        ),
    ),
    "my_linear": Solution(
        """
def my_linear(x, weight):
    a, b = np.where(x >= 0, 1, -1), np.where(weight >= 0, 1, -1)
    return a @ b.T
""",
        (
            ("np.where(x >= 0, 1, -1), np.where(weight >= 0, 1, -1)", "np.sign(x), np.sign(weight)", "adds nothing"),
            ("a @ b.T", "b @ a.T", "Rows and filters are exchanged"),
            ("a @ b.T", "a @ b.T + -x.shape[1] % 64", "length of the tail"),
        ),
    ),
    "my_places": Solution(
        """
def my_places(size, k, stride, before, after, dilation):
    return max(0, (size + before + after - dilation * (k - 1) - 1) // stride + 1)
""",
        (
            (" // stride + 1", " // stride", "One place is missing"),
            ("dilation * (k - 1) - 1", "k", "reaches further"),
            ("max(0, ", "(", "how many places are there"),
        ),
    ),
    "my_binary_conv2d": Solution(
        """
def my_binary_conv2d(x, weight, stride, padding, pad_value):
    signs = np.where(x >= 0, 1, -1)
    signs = np.pad(signs, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2), constant_values=pad_value)
    windows = np.lib.stride_tricks.sliding_window_view(signs, weight.shape[2:], axis=(2, 3))
    windows = windows[:, :, :: stride[0], :: stride[1]]
    return np.einsum("nchwkl,ockl->nohw", windows, np.where(weight >= 0, 1, -1))
""",
        (
            ("constant_values=pad_value", "constant_values=pad_value or -1", "look for `or`"),
            (":: stride[0], :: stride[1]", ":: stride[1], :: stride[0]", "stride are exchanged"),
            ("windows, np", "windows[..., ::-1, ::-1], np", "turned round"),
        ),
    ),
    "my_correction": Solution(
        """
def my_correction(weight, size, padding):
    outside = 1 - np.pad(np.ones(size), padding)
    windows = np.lib.stride_tricks.sliding_window_view(outside, weight.shape[2:])
    return -np.einsum("yxkl,ockl->oyx", windows, np.where(weight >= 0, 1, -1))
""",
        (
            ("return -", "return ", "corrects padding with -1"),
            ("np.where(weight >= 0, 1, -1)", "weight", "latent weights"),
            ("outside = 1 - ", "outside = ", "taps inside the image"),
        ),
    ),
    "my_alpha": Solution(
        """
def my_alpha(weight):
    return np.abs(weight).mean(axis=(1, 2, 3))
""",
        (
            ("(1, 2, 3)", "(0, 2, 3)", "wrong axes"),
            ("np.abs(weight).mean(axis=(1, 2, 3))", "weight.mean(axis=(1, 2, 3))", "absolute values are missing"),
            (".mean", ".sum", "divides by n"),
        ),
    ),
    "my_scale_map": Solution(
        """
def my_scale_map(x, kernel, stride, padding):
    mean = np.abs(x).mean(axis=1, keepdims=True)
    mean = np.pad(mean, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(mean, kernel, axis=(2, 3))
    return windows[:, :, :: stride[0], :: stride[1]].mean(axis=(4, 5))
""",
        (
            ("np.abs(x).mean", "x.mean", "absolute values are missing"),
            (".mean(axis=1, keepdims=True)", ".sum(axis=1, keepdims=True)", "sum over the channels"),
            (".mean(axis=(4, 5))", ".sum(axis=(4, 5))", "K's divisor is missing"),
        ),
    ),
    "my_error": Solution(
        """
def my_error(W):
    return np.sqrt(max(0, 1 - len(W) * np.abs(W).mean() ** 2 / (W**2).sum()))
""",
        (
            ("np.sqrt(max(0, 1", "(max(0, 1", "the square of the relative error"),
            ("1 - len(W) * np.abs(W).mean() ** 2 / (W**2).sum()", "(W**2).sum() - len(W) * np.abs(W).mean() ** 2",
             "divided by the norm"),
            ("np.sqrt(max(0, 1 - len(W) * np.abs(W).mean() ** 2 / (W**2).sum()))",
             "np.linalg.norm(W - np.sign(W)) / np.linalg.norm(W)", "Where is alpha"),
        ),
    ),
    "my_relu": Solution(
        """
def my_relu(x):
    return np.maximum(x, 0), lambda dy: dy * (x > 0)
""",
        (
            ("(x > 0)", "(x >= 0)", "exactly 0"),
            ("dy * (x > 0)", "dy", "passes everywhere"),
            ("dy * (x > 0)", "(x > 0)", "multiplies it by dy"),
        ),
    ),
    "my_scale": Solution(
        """
def my_scale(W):
    return np.abs(W).mean(), lambda dy: dy * np.sign(W) / W.size
""",
        (
            (" / W.size", "", "1/n is missing"),
            ("np.sign(W)", "np.ones_like(W)", "The sign is missing"),
            ("np.sign(W)", "np.sign(W) * (np.abs(W) <= 1)", "no estimator"),
        ),
    ),
    "my_bireal": Solution(
        """
def my_bireal(x, dy):
    return dy * np.maximum(2 - 2 * np.abs(x), 0)
""",
        (
            ("np.maximum(2 - 2 * np.abs(x), 0)", "(2 - 2 * np.abs(x))", "negative"),
            ("2 - 2 * np.abs(x)", "1 - np.abs(x)", "factor 2"),
            ("np.maximum(2 - 2 * np.abs(x), 0)", "(np.abs(x) <= 1)", "plain straight-through"),
        ),
    ),
    "my_backward": Solution(
        """
def my_backward(x, w, dy):
    signs = np.where(w >= 0, 1, -1)
    alpha = np.abs(w).mean(axis=1, keepdims=True)
    dx = dy @ (alpha * signs) * (np.abs(x) <= 1)
    g = dy.T @ np.where(x >= 0, 1, -1)
    first = signs * (g * signs).sum(axis=1, keepdims=True) / w.shape[1]
    return dx, first + alpha * (np.abs(w) <= 1) * g
""",
        (
            (" / w.shape[1]", "", "1/n is missing"),
            ("first + alpha", "alpha", "alpha depends on every weight"),
            ("(alpha * signs)", "w", "dx uses the latent weights"),
        ),
    ),
    "my_batchnorm": Solution(
        """
def my_batchnorm(x, dy):
    s = 1 / np.sqrt(x.var(axis=0) + 1e-5)
    normal = (x - x.mean(axis=0)) * s
    return s * (dy - dy.mean(axis=0) - normal * (dy * normal).mean(axis=0))
""",
        (
            (" - dy.mean(axis=0) - normal * (dy * normal).mean(axis=0)", "", "Two terms are missing"),
            (" - normal * (dy * normal).mean(axis=0)", "", "variance depends on x"),
            ("return s * ", "return ", "standard deviation is missing"),
        ),
    ),
    "my_block": Solution(
        """
def my_block(x, w):
    def norm(x):
        x = x - x.mean(axis=(0, 2, 3), keepdims=True)
        return x / np.sqrt((x**2).mean(axis=(0, 2, 3), keepdims=True) + 1e-5)

    def conv(x):
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
        return np.einsum("nchwkl,ockl->nohw", windows, np.where(w >= 0, 1, -1))

    def sign(x):
        return np.where(x >= 0, 1, -1)

    def pool(x):
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))

    return pool(conv(sign(norm(x))))
""",
        (
            ("pool(conv(sign(norm(x))))", "pool(sign(norm(conv(x))))", "C-B-A-P"),
            ("pool(conv(sign(norm(x))))", "pool(conv(sign(x)))", "BatchNorm is missing"),
            ("2).max(", "2).mean(", "not its mean"),
        ),
    ),
    "my_flips": Solution(
        """
def my_flips(before, after):
    return ((before >= 0) != (after >= 0)).mean()
""",
        (
            ("(before >= 0) != (after >= 0)", "before != after", "only if its sign changes"),
            (".mean()", ".sum()", "The share divides"),
            ("(before >= 0) != (after >= 0)", "np.sign(before) != np.sign(after)", "from 0.5 to 0"),
        ),
    ),
    "my_twice": Solution(
        """
def my_twice(signs, within):
    count = 0
    for column in (signs[1:] != signs[:-1]).T:
        steps = np.flatnonzero(column)
        count += any(b - a <= within for a, b in zip(steps, steps[1:]))
    return count
""",
        (
            ("any(b - a <= within for a, b in zip(steps, steps[1:]))", "len(steps) >= 2", "far apart"),
            ("<= within", "< within", "exactly `within` steps"),
            ("any(", "sum(", "A weight counts once"),
        ),
    ),
    "my_paper": Solution(
        """
def my_paper(W, G):
    alpha = np.abs(W).mean(axis=1, keepdims=True)
    return (1 / W.shape[1] + alpha * (np.abs(W) <= 1)) * G
""",
        (
            ("1 / W.shape[1] + ", "", "term 1/n is missing"),
            ("(1 / W.shape[1] + alpha * (np.abs(W) <= 1))", "(1 / W.shape[1] + alpha) * (np.abs(W) <= 1)",
             "second term alone"),
            ("np.abs(W).mean(axis=1, keepdims=True)", "np.abs(W).mean()", "its own alpha"),
        ),
    ),
    "my_popcount": Solution(
        """
def my_popcount(words):
    v = words - ((words >> np.uint64(1)) & np.uint64(0x5555555555555555))
    v = (v & np.uint64(0x3333333333333333)) + ((v >> np.uint64(2)) & np.uint64(0x3333333333333333))
    v = (v + (v >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (v * np.uint64(0x0101010101010101)) >> np.uint64(56)
""",
        (
            ("v = words -", "words = words & np.uint64(0xFFFFFFFF)\n    v = words -", "lower 32 bits"),
            ("return (v * np.uint64(0x0101010101010101)) >> np.uint64(56)",
             "return v & np.uint64(255)", "lowest 8 bits"),
            ("return (v * np.uint64(0x0101010101010101)) >> np.uint64(56)",
             "return np.uint64(64) - ((v * np.uint64(0x0101010101010101)) >> np.uint64(56))", "count zeros"),
        ),
    ),
    "my_kernel": Solution(
        """
@numba.njit
def ones(v):
    v = v - ((v >> np.uint64(1)) & np.uint64(0x5555555555555555))
    v = (v & np.uint64(0x3333333333333333)) + ((v >> np.uint64(2)) & np.uint64(0x3333333333333333))
    v = (v + (v >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((v * np.uint64(0x0101010101010101)) >> np.uint64(56))


@numba.njit
def my_kernel(a, b, n):
    rows, filters = len(a), len(b)
    out = np.zeros((rows, filters), np.int64)
    for i in range(0, rows, 2):
        for j in range(0, filters, 2):
            for p in range(i, min(i + 2, rows)):
                for q in range(j, min(j + 2, filters)):
                    different = 0
                    for k in range(a.shape[1]):
                        different += ones(a[p, k] ^ b[q, k])
                    out[p, q] = n - 2 * different
    return out
""",
        (
            ("range(0, rows, 2)", "range(0, rows - 1, 2)", "odd number of rows"),
            ("n - 2 * different", "64 * a.shape[1] - 2 * different", "length of the tail"),
            ("n - 2 * different", "different", "count of differing bits"),
        ),
    ),
    "my_roof": Solution(
        """
def my_roof(clock, bits, instructions, each):
    return clock * each / instructions * bits
""",
        (
            (" / instructions", "", "several instructions: fewer"),
            ("* bits", "* bits / 8", "holds 512 signs"),
            ("clock * each", "clock", "several instructions in a cycle"),
        ),
    ),
    "my_threshold": Solution(
        """
def my_threshold(s, t):
    x = np.float32(-t / s)
    while s * x + t >= 0:
        x = np.nextafter(x, np.float32(-np.inf))
    while s * x + t < 0:
        x = np.nextafter(x, np.float32(np.inf))
    return x
""",
        (
            ("    while s * x + t >= 0:\n        x = np.nextafter(x, np.float32(-np.inf))\n"
             "    while s * x + t < 0:\n        x = np.nextafter(x, np.float32(np.inf))\n", "", "try its neighbours"),
            ("np.float32(-t / s)", "np.float32(-t / s)\n    s, t = np.float64(s), np.float64(t)", "in float64"),
            ("return x", "return np.nextafter(x, np.float32(-np.inf))", "One number too small"),
        ),
    ),
    "my_weights": Solution(
        """
def my_weights(words, shape):
    o, c, kh, kw = shape
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, : c * kh * kw]
    signs = np.where(bits == 1, 1, -1)
    return signs.reshape(o, kh, kw, c).transpose(0, 3, 1, 2)
""",
        (
            ("signs.reshape(o, kh, kw, c).transpose(0, 3, 1, 2)", "signs.reshape(shape)", "plain reshape"),
            ("bits == 1, 1, -1", "bits == 1, 1, 0", "You return bits"),
            ("bits == 1", "bits == 0", "wrong sign"),
        ),
    ),
    "my_array": Solution(
        """
def my_array(data, name):
    length = struct.unpack("<Q", data[:8])[0]
    about = json.loads(data[8 : 8 + length])[name]
    begin, end = (8 + length + place for place in about["data_offsets"])
    return np.frombuffer(data[begin:end], "<f4").reshape(about["shape"])
""",
        (
            ("(8 + length + place", "(length + place", "8 bytes before the header"),
            ('.reshape(about["shape"])', "", "The array is flat"),
            ('"<f4"', '">f4"', "little-endian"),
        ),
    ),
    "my_gamma": Solution(
        """
def my_gamma(alpha, beta, gamma):
    return alpha[:, None, None] * beta[:, None] * gamma
""",
        (
            ("beta[:, None] * gamma", "gamma[:, None] * beta", "beta belongs to the rows"),
            ("beta[:, None] * gamma", "beta[:, None] + 0 * gamma", "gamma is missing"),
            ("alpha[:, None, None] * beta[:, None] * gamma",
             "alpha[:, None, None] + beta[:, None] + gamma", "not added"),
        ),
    ),
    "my_gradients": Solution(
        """
def my_gradients(D, Z, alpha, beta, gamma):
    E = (D * Z).sum(axis=0)
    return (
        np.einsum("oyx,y,x->o", E, beta, gamma),
        np.einsum("oyx,o,x->y", E, alpha, gamma),
        np.einsum("oyx,o,y->x", E, alpha, beta),
    )
""",
        (
            ("(D * Z).sum(axis=0)", "D.sum(axis=0)", "Z is missing"),
            (".sum(axis=0)", ".mean(axis=0)", "not averaged"),
            ("    return", "    alpha, beta, gamma = (np.ones_like(f) for f in (alpha, beta, gamma))\n    return",
             "other two factors"),
        ),
    ),
    "my_best": Solution(
        """
def my_best(real, Z):
    return (real * Z).sum(axis=(0, 2, 3)) / (Z * Z).sum(axis=(0, 2, 3))
""",
        (
            ("(real * Z).sum(axis=(0, 2, 3)) / (Z * Z).sum(axis=(0, 2, 3))",
             "np.abs(real).mean(axis=(0, 2, 3)) / np.abs(Z).mean(axis=(0, 2, 3))", "ratio of sizes"),
            ("(real * Z).sum(axis=(0, 2, 3)) / (Z * Z).sum(axis=(0, 2, 3))",
             "np.full(Z.shape[1], (real * Z).sum() / (Z * Z).sum())", "One scale serves all"),
            ("(Z * Z)", "(real * real)", "scales the real one"),
        ),
    ),
    "my_tree": Solution(
        """
def my_tree(filters):
    count, n = filters.shape
    distance = (n - filters @ filters.T) / 2
    parents = np.full(count, -1)
    nearest, left = distance[-1].copy(), set(range(count - 1))
    parents[: count - 1] = count - 1
    while left:
        new = min(left, key=lambda i: nearest[i])
        left.remove(new)
        for i in left:
            if distance[new, i] < nearest[i]:
                nearest[i], parents[i] = distance[new, i], new
    return parents
""",
        (
            ("    return parents", "    return np.arange(-1, count - 1)", "hangs on the one before"),
            ("    return parents", "    parents[:] = 0\n    parents[0] = -1\n    return parents", "hang on the root"),
            ("    return parents",
             "    return np.array([-1] + [int(distance[i, :i].argmin()) for i in range(1, count)])",
             "The order matters"),
        ),
    ),
    "my_layer": Solution(
        """
def my_layer(x, filters, parents):
    out, done = np.zeros((len(x), len(filters))), set()
    while len(done) < len(filters):
        for i, parent in enumerate(parents):
            if i in done:
                continue
            if parent < 0:
                out[:, i] = x @ filters[i]
            elif parent in done:
                places = filters[i] != filters[parent]
                out[:, i] = out[:, parent] + 2 * x[:, places] @ filters[i][places]
            else:
                continue
            done.add(i)
    return out
""",
        (
            ("2 * x", "x", "twice itself"),
            ("@ filters[i][places]", "@ filters[parent][places]", "those of the child"),
            ("elif parent in done", "elif True", "Compute parents first"),
        ),
    ),
    "my_distance": Solution(
        """
def my_distance(filters):
    n = filters.shape[1]
    distance = (n - filters @ filters.T) / 2
    return np.minimum(distance, n - distance)
""",
        (
            ("np.minimum(distance, n - distance)", "distance", "leave the opposite out"),
            ("np.minimum", "np.maximum", "larger of the two"),
            ("np.minimum(distance, n - distance)", "n - np.abs(filters @ filters.T)", "doubled"),
        ),
    ),
    "my_interval": Solution(
        """
def my_interval(a, b):
    va, vb = np.var(a, ddof=1) / len(a), np.var(b, ddof=1) / len(b)
    degrees = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    middle, reach = b.mean() - a.mean(), quantile(0.975, degrees) * np.sqrt(va + vb)
    return middle - reach, middle + reach
""",
        (
            ("quantile(0.975, degrees)", "1.96", "1.96 is for many runs"),
            ("np.var(a, ddof=1) / len(a), np.var(b, ddof=1) / len(b)", "np.var(a) / len(a), np.var(b) / len(b)",
             "divisor n"),
            ("b.mean() - a.mean()", "a.mean() - b.mean()", "Yours is the opposite"),
        ),
    ),
    "my_seeds": Solution(
        """
def my_seeds(sd, difference):
    z = statistics.NormalDist().inv_cdf(0.975) + statistics.NormalDist().inv_cdf(0.9)
    return int(np.ceil(2 * (z * sd / difference) ** 2))
""",
        (
            ("2 * (z", "(z", "factor 2"),
            ("0.975", "0.95", "two-sided"),
            (" + statistics.NormalDist().inv_cdf(0.9)", "", "power is missing"),
        ),
    ),
    "my_verdict": Solution(
        """
def my_verdict(low, high, margin):
    if (low > 0 or high < 0) and abs(low + high) / 2 > margin:
        return "different"
    return "same" if low > -margin and high < margin else "not settled"
""",
        (
            ('(low > 0 or high < 0) and abs(low + high) / 2 > margin:\n        return "different"\n'
             '    return "same" if low > -margin and high < margin else "not settled"',
             'low > 0 or high < 0:\n        return "different"\n    return "same"', "does not show that methods"),
            ('low > -margin and high < margin else "not settled"', 'True else ""', "third answer"),
            (" and abs(low + high) / 2 > margin", "", "too small to matter"),
        ),
    ),
}  # fmt: skip
