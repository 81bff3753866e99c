"""Controls: for each claim of the paper that was not reproduced, the comparison that would decide it.

The arms of a control are compared. Each arm has rows for several learning rates and several lengths of training.
`verdict` chooses the learning rate that counts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from xnor_ref.experiments.definition import XNOR_NET, Experiment, Row
from xnor_ref.experiments.verdict import Claim

Arms = Mapping[str, tuple[str, Mapping[str, Any]]]  # label and settings by name
RATES = {"adam": (0.001, 0.003, 0.01), "sgd": (0.01, 0.03, 0.1)}
DOREFA = "DoReFa-Net's AlexNet with 1-bit weights and 2-bit inputs, as trained by the Tensorpack project"


def _rows(
    arms: Arms,
    rates: Mapping[str, Sequence[float]] | Sequence[float] = RATES["adam"],
    lengths: Sequence[int] = (1, 3),
) -> tuple[Row, ...]:
    """Return all rows of arms (label, settings): for each length of training, each arm with each of its rates."""
    return tuple(
        Row(
            f"{arm}-lr{rate:g}-x{length}",
            f"{label}, lr {rate:g}, {length} x epochs",
            {**settings, "lr": rate},
            arm=_arm(arm, length),
            length=length,
        )
        for length in lengths
        for arm, (label, settings) in arms.items()
        for rate in (rates[arm] if isinstance(rates, Mapping) else rates)
    )


def _arm(arm: str, length: int) -> str:
    return f"{arm} x{length}"


def _claims(
    compared: Sequence[tuple[str, str, str, int, float | None]], lengths: Sequence[int] = (1, 3)
) -> tuple[Claim, ...]:
    """Return claims from (text, base, other, sign, the paper's difference), for each length of training."""
    return tuple(
        Claim(text, _arm(base, length), _arm(other, length), sign, paper)
        for text, base, other, sign, paper in compared
        for length in lengths
    )


# --- alpha where nothing absorbs it

_SCALES = {"alpha": "closed form", "learned": "learned", "off": "no scale"}
_PLACES: Arms = {
    "bireal": ("shortcuts", {"shortcut": "bireal"}),
    "plain": ("no BatchNorm", {"batch_norm": "none", "clip_norm": 5.0}),
}
_ALPHA: Arms = {
    f"{scale}-{place}-{optimizer}": (
        f"{label}, {where}, {optimizer}",
        {"weight_scale": scale, **settings, "optimizer": optimizer},
    )
    for optimizer in RATES
    for place, (where, settings) in _PLACES.items()
    for scale, label in _SCALES.items()
}

# --- BinaryConnect beside BWN

_BC_LENGTHS = (1, 2, 4)
_BC: Arms = {
    "bwn": ("BWN", {"method": "bwn"}),
    "real-glorot": ("BinaryConnect, real ends, Glorot", {"method": "binaryconnect", "ends": "real"}),
    "real-plain": ("BinaryConnect, real ends", {"method": "binaryconnect", "ends": "real", "glorot": False}),
    "binary-glorot": ("BinaryConnect, binary ends, Glorot", {"method": "binaryconnect"}),
    "binary-plain": ("BinaryConnect, binary ends", {"method": "binaryconnect", "glorot": False}),
}
_BC_RATES = {arm: (0.0007, 0.002, 0.006) if arm.endswith("glorot") else RATES["adam"] for arm in _BC}

# --- XNOR-Net beside BinaryNet

_BNN: Arms = {
    f"{ends}-{order}-{scale}": (
        f"{ends} ends, {'-'.join(order.upper())}, {_SCALES[scale]}",
        {"ends": ends, "block_order": order, "weight_scale": scale},
    )
    for ends in ("real", "binary")
    for order in ("bacp", "cbap")
    for scale in ("alpha", "off")
}

# --- gradients of few bits

_DITHERED = {"grad_rounding": "random", "grad_range": "sample", "grad_for": "all"}
_BITS: dict[str, tuple[str, Mapping[str, Any]]] = {"real": ("real gradient", {})}
for _bits in (8, 6, 4, 2, 1):
    _BITS[f"random{_bits}"] = (f"{_bits} bits, at random, by sample", {"grad_bits": _bits, **_DITHERED})
for _bits in (4, 1):
    _random = _BITS[f"random{_bits}"][1]
    _BITS[f"nearest{_bits}"] = (f"{_bits} bits, nearest, by sample", {**_random, "grad_rounding": "nearest"})
    _BITS[f"layer{_bits}"] = (f"{_bits} bits, at random, by layer", {**_random, "grad_range": "layer"})
_BITS["paper1"] = ("1 bit as in XNOR-Net: nearest, by layer, inputs only", {"grad_bits": 1})

# --- K in shallow and deep networks

_K: Arms = {
    f"{model}-{k}": (f"{model}, {'K' if k == 'plain' else 'no K'}", {"model": model, "input_scale": k})
    for model in ("shapes-net", "vgg-small", "resnet18")
    for k in ("plain", "off")
}

CONTROLS = (
    Experiment(
        "control-alpha",
        "Control: alpha where nothing absorbs a scale",
        "Is the closed form of alpha better than a learned scale or none, where no BatchNorm follows a binary layer?",
        _rows({arm: of for arm, of in _ALPHA.items() if arm.endswith("adam")})
        + _rows({arm: of for arm, of in _ALPHA.items() if arm.endswith("sgd")}, RATES["sgd"]),
        model="vgg-small",
        settings={"all": {"method": "xnor", "input_scale": "off"}},
        claims=_claims(
            [
                (
                    f"alpha in closed form beats {what} ({where}, {optimizer})",
                    f"{scale}-{place}-{optimizer}",
                    f"alpha-{place}-{optimizer}",
                    1,
                    10.6 if scale == "learned" else None,
                )
                for optimizer in RATES
                for place, (where, _) in _PLACES.items()
                for scale, what in (("learned", "a learned scale"), ("off", "none"))
            ]
        ),
        notes=(f"{XNOR_NET}, Table 3a: 56.8 against 46.2 top-1.",),
    ),
    Experiment(
        "control-binaryconnect",
        "Control: BinaryConnect beside Binary-Weight-Networks",
        "How much of the distance comes from the first and the last layer, how much from the initial weights?",
        _rows(_BC, _BC_RATES, _BC_LENGTHS),
        model="vgg-small",
        claims=_claims([(f"BWN beats {_BC[arm][0]}", arm, "bwn", 1, 21.4) for arm in _BC if arm != "bwn"], _BC_LENGTHS),
        notes=(f"{XNOR_NET}, Table 1: 56.8 against 35.4 top-1.",),
    ),
    Experiment(
        "control-binarynet",
        "Control: XNOR-Net beside BinaryNet",
        "Which of the three differences counts: the weights of the ends, the order in a block, or alpha?",
        _rows(_BNN),
        model="vgg-small",
        settings={"all": {"method": "xnor", "input_scale": "off", "relu": False}},
        claims=_claims(
            [
                ("XNOR-Net beats BinaryNet", "binary-cbap-off", "real-bacp-alpha", 1, 16.3),
                ("real ends beat binary ones", "binary-bacp-alpha", "real-bacp-alpha", 1, None),
                ("B-A-C-P beats C-B-A-P", "real-cbap-alpha", "real-bacp-alpha", 1, 13.9),
                ("alpha beats no scale", "real-bacp-off", "real-bacp-alpha", 1, None),
            ]
        ),
        notes=(f"{XNOR_NET}, Tables 1 and 3b: 44.2 against 27.9 and 30.3 top-1.",),
    ),
    Experiment(
        "control-gradient-bits",
        "Control: gradients of few bits",
        "Does the published curve come out, on which 6 bits are free and 4 cost several points?",
        _rows(_BITS),
        model="vgg-small",
        settings={"all": {"method": "xnor", "input_bits": 2, "input_scale": "off"}},
        claims=_claims(
            [
                ("6 bits cost nothing", "real", "random6", 0, -0.2),
                ("4 bits cost several points", "real", "random4", -1, -7.4),
                ("1 bit as in XNOR-Net costs no more than the margin", "real", "paper1", 0, -1.4),
            ]
        ),
        notes=(
            f"The positive control: {DOREFA}, has 53.4, 53.2 and 46.0 top-1 with 32, 6 and 4 bits. {XNOR_NET} says "
            "that binary gradients cost 1.4 points.",
        ),
    ),
    Experiment(
        "control-k",
        "Control: K in shallow and deep networks",
        "Does the input scale K help?",
        _rows(_K),
        settings={"all": {"method": "xnor"}},
        claims=_claims(
            [
                (f"K helps {model}", f"{model}-off", f"{model}-plain", 1, None)
                for model in ("shapes-net", "vgg-small", "resnet18")
            ]
        ),
        notes=("The paper gives no figure without K; its authors put it at under one point.",),
    ),
)
