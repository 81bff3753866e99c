"""The result of each role under given conventions, and the largest error of a rounded result.

**The bound.** Let u = 2^-24, half the distance of float32 numbers around 1. A sum of n terms t_i, each addition
rounded, is off by at most gamma(r) sum(abs(t_i)), where gamma(r) = r u / (1 - r u) and r is the largest number of
roundings that a term meets on its way into the sum (Higham, Accuracy and Stability of Numerical Algorithms, section
4.2): r = n - 1 if terms are added one after the other, and ceil(log2 n) if they are added in pairs. A scaled result
rounds up to three such sums: alpha, of n = C KH KW magnitudes; K, of as many; and the sum of products itself, if its
terms are +-alpha K rather than +-1 (sums of signs are exact below 2^24). Magnitudes add up without cancellation, so
alpha and K have a relative error of gamma(r), which they pass on to the result z alpha K. Five further roundings are
left: the two divisions by n, z as a float, and the products with alpha and K. With T = n alpha K, the sum of the
magnitudes of all terms,

    abs(result - exact) <= gamma(2 r + 5) abs(exact) + gamma(r + 5) T

Classes of `summation`; the report names the tightest one that holds:

| | r | the second part |
|---|---|---|
| "once" | 0: sums are exact, or in float64, and rounded once | none: signs are added before they are scaled |
| "careful" | ceil(log2 n) + 16, at most n: added in pairs, of blocks of 16 | as above |
| "naive" | n | as above |

So the bound grows with n: a naive mean of 76,800 numbers may be off by 0.5 %, and by 0.1 % if all are 0.1. If weights
are centred, the error of alpha is relative to the alpha of the weights before centring, since digits cancel. Numbers
below the normal range of float32 may be flushed, or rounded to multiples of 2^-149; so each factor may be off by 2^-126
("once": 2^-149).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xnor_ref.conformance.basics import oracle
from xnor_ref.conformance.basics.conventions import Conventions

SUMMATIONS = ("once", "careful", "naive")
U = 2.0**-24


@dataclass(frozen=True)
class Want:
    """An expected result. It is exact if `terms` is None."""

    value: np.ndarray  # float64; NaN where any value is accepted
    terms: np.ndarray | None = None  # T of the bound
    n: int = 1  # terms of a sum
    factor: np.ndarray | float = 1.0  # factor of an error of 2^-126 in alpha or K
    size: np.ndarray | None = None  # the size to which errors are relative, if not the value

    def allowed(self, summation: str, u: float = U) -> np.ndarray | float:
        """Return the largest accepted difference."""
        if self.terms is None:
            return 0.0
        once = summation == "once"
        pairs = int(np.ceil(np.log2(max(self.n, 1)))) + 16
        r = {"once": 0, "careful": min(pairs, self.n), "naive": self.n}[summation]
        relative = gamma(2 * r + 5, u) * np.abs(np.nan_to_num(self.value) if self.size is None else self.size)
        return (
            relative
            + (0.0 if once else gamma(r + 5, u)) * self.terms
            + 2.0 ** (-149 if once else -126) * (2 + self.factor)
        )


def gamma(r: int, u: float) -> float:
    """Return the relative error of r roundings, at most 1."""
    return r * u / (1 - r * u) if r * u < 0.5 else 1.0


def sides_of(x: np.ndarray, kernel, stride, padding, dilation) -> Any:
    """Return padding as two pairs. "same" is resolved."""
    return oracle.same_padding(x.shape[2:], kernel, stride, dilation) if isinstance(padding, str) else padding


def centred(weight: np.ndarray, centring: str) -> tuple[np.ndarray, np.ndarray]:
    """Return weights minus their mean, and which filters have a weight so close to 0 that rounding decides its sign."""
    w = weight.astype(np.float64)
    if centring == "none":
        return weight, np.zeros(len(w), bool)
    mean = w.mean(axis=tuple(range(1, w.ndim)) if centring == "filter" else 1, keepdims=True)
    near = np.abs(w - mean) <= 4 * (w[0].size + 2) * U * np.abs(w).max(axis=tuple(range(1, w.ndim)), keepdims=True)
    return w - mean, near.any(axis=tuple(range(1, w.ndim)))


def weight_signs(weight: np.ndarray, by: Conventions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the weights' signs as correlated, which filters are uncertain, and the weights that define the scale."""
    w, unsure = centred(weight, by.centring)
    flush = by.weight_subnormals == "flushed" and by.centring == "none"
    signs = oracle.signs(w, by.weight_sign_of_zero, flush)
    return signs[..., ::-1, ::-1] if by.kernel == "convolution" and signs.ndim == 4 else signs, unsure, w


def formed(z: np.ndarray, taps: np.ndarray | int, n: int, form: str) -> np.ndarray:
    """Return sums of `taps` products in the form of the output."""
    if form == "dot":
        return z
    return ((taps if "ments" in form else n) + (z if form in ("agreements", "(dot + n)/2") else -z)) / 2


def filter_scale(weight: np.ndarray, scale: str) -> np.ndarray:
    """Return alpha (O,), of each filter or the same for all."""
    alpha = oracle.weight_scale(weight)
    return np.full_like(alpha, alpha.mean()) if scale == "layer" else alpha


def conv2d(
    by: Conventions, x, weight, stride, padding, pad_value: int, dilation=(1, 1), groups: int = 1, **options: Any
) -> Want:
    kernel = weight.shape[2:]
    padding = sides_of(x, kernel, stride, padding, dilation)
    signs, unsure, held = weight_signs(weight, by)
    border, n = float(by.border(pad_value)), weight[0].size
    place = stride, padding, border, dilation, groups
    z = oracle.grouped(oracle.signs(x, by.sign_of_zero, by.subnormals == "flushed"), signs, *place)
    if by.form != "dot":
        inside = np.ones_like(x, np.float64), np.ones_like(weight, np.float64)
        z = formed(z, oracle.grouped(*inside, stride, padding, abs(border), dilation, groups), n, by.form)
    want = scaled(by, x, held, weight, z, (stride, padding, dilation, groups))
    want.value[:, unsure] = np.nan
    return want


def scaled(by: Conventions, x, held, weight, z, place) -> Want:
    """Return sums times alpha and K, by the convention `scale`."""
    if by.scale == "none":
        return Want(z + 0.0)
    stride, padding, dilation, groups = place
    alpha = filter_scale(held, by.scale)[:, None, None]
    k: Any = 1.0
    if "K" in by.scale:
        mode = "valid" if "valid" in by.scale else "plain"
        k = oracle.input_scale(x, weight.shape[2:], stride, padding, mode, dilation, groups)
        k = np.repeat(k, len(weight) // groups, axis=1)
    size = np.maximum(alpha, filter_scale(weight, by.scale)[:, None, None])  # centring cancels digits
    n = weight[0].size
    terms = np.broadcast_to(n * size * k, z.shape)
    return Want(z * alpha * k, terms, n, np.abs(z) * (alpha + k), np.abs(z) * size * k)


def linear(by: Conventions, x, weight, **options: Any) -> Want:
    want = conv2d(by, x[:, :, None, None], weight[:, :, None, None], (1, 1), (0, 0), 0)
    parts = {name: getattr(want, name) for name in ("value", "terms", "factor", "size")}
    return Want(n=want.n, **{k: v[:, :, 0, 0] if isinstance(v, np.ndarray) else v for k, v in parts.items()})


def pack(by: Conventions, x, **options: Any) -> Want:
    return Want(oracle.signs(x, by.sign_of_zero, by.subnormals == "flushed"))


def unpack(by: Conventions, x, **options: Any) -> Want:
    signs = oracle.signs(x)
    return Want(signs if by.values == "+1, -1" else (1 + (signs if by.values == "1, 0" else -signs)) / 2)


def dot(by: Conventions, a, b, **options: Any) -> Want:
    n = a.shape[-1]
    return Want(formed((oracle.signs(a) * oracle.signs(b)).sum(axis=-1), n, n, by.form).reshape(()))


def alpha(by: Conventions, weight, **options: Any) -> Want:
    found = filter_scale(weight, by.mean) * (weight[0].size if by.mean == "sum" else 1)
    return Want(found, found, weight.size if by.mean == "layer" else weight[0].size)


def scale_map(by: Conventions, x, kernel, stride, padding, dilation=(1, 1), groups: int = 1, **options: Any) -> Want:
    padding = sides_of(x, kernel, stride, padding, dilation)
    found = oracle.input_scale(x, kernel, stride, padding, by.divisor, dilation, groups)
    return Want(found, found, x.shape[1] // groups * kernel[0] * kernel[1])


def binarize(by: Conventions, weight, **options: Any) -> Want:
    signs, unsure, held = weight_signs(weight, by)
    n = weight[0].size
    want = Want(signs + 0.0)
    if by.scale != "none":
        size = [filter_scale(w, by.scale)[:, None, None, None] for w in (held, weight)]
        terms = np.broadcast_to(np.maximum(*size), signs.shape)
        want = Want(signs * size[0], terms, n, 1.0, terms)
    want.value[unsure] = np.nan
    return want


def ste(by: Conventions, x, dy, **options: Any) -> Want:
    size = np.abs(x.astype(np.float64))
    slope = {
        "|x| <= 1": size <= 1,
        "|x| < 1": size < 1,
        "identity": np.ones_like(size),
        "bireal": np.maximum(2 - 2 * size, 0),
    }[by.gradient]
    want = dy * slope
    return Want(want, np.abs(dy) * (1 + size))


DEFINITIONS: dict[str, Callable[..., Want]] = {
    "conv2d": conv2d, "linear": linear, "pack": pack, "unpack": unpack, "dot": dot, "alpha": alpha,
    "scale_map": scale_map, "binarize": binarize, "ste": ste,
}  # fmt: skip
