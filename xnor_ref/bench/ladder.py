"""Speed of one layer on each rung, from naive loops to explicit vectors, compared with the roof and float libraries.

With an emulated processor, the same is measured in a separate process. There all code, with torch and BLAS, uses only
that processor's instructions.
"""

import dataclasses
from typing import Any, NamedTuple

import llvmlite.binding as llvm

from xnor_ref.bench.compare import LAYOUTS, measure_layers
from xnor_ref.bench.measuring import machine
from xnor_ref.bench.measuring.layers import PAPER, Conv
from xnor_ref.bench.measuring.process import Worker, serve
from xnor_ref.bench.measuring.timing import FULL, Pace
from xnor_ref.bench.peers.baselines import BASELINES
from xnor_ref.errors import InputError

RUNGS = {  # groups of `baselines.BASELINES`, from the slowest to our fastest kernel, and what each does
    "float-loops": "one multiply-add at a time",
    "bit-loops": "one bit at a time",
    "word-loops": "64 bits at a time",
    "reference": "whole arrays in NumPy",
    "numba": "loops that LLVM vectorises",
}
FLOATS = ("numpy", "torch")
_CHILD = "from xnor_ref.bench.ladder import child; child()"

_WITHOUT_VPOPCNT = (
    *("avx512vpopcntdq", "avx512bitalg", "avx512vbmi", "avx512ifma", "avx512vnni", "avx512bf16", "avx512fp16"),
    *("avx512vp2intersect", "avx10", "amx", "avxvnni", "avxifma", "avxneconvert", "gfni", "vaes", "vpclmulqdq"),
)


_SETTINGS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE", "MKL_ENABLE_INSTRUCTIONS")


class Cpu(NamedTuple):
    """A processor that can be emulated."""

    lacks: tuple[str, ...]  # prefixes of LLVM's names of the features that it lacks
    needs: tuple[str, ...]
    told: tuple[str, ...]  # values of `_SETTINGS`, the environment variables of other libraries


_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
CPUS = {
    "skylake-avx512": Cpu(_WITHOUT_VPOPCNT, _AVX512, ("avx512", "AVX512_CORE", "SkylakeX", "AVX512")),
    "haswell": Cpu((*_WITHOUT_VPOPCNT, "avx512"), ("avx2", "fma"), ("avx2", "AVX2", "Haswell", "AVX2")),
}


def measure_ladder(
    layer: Conv = PAPER, names: tuple[str, ...] = FLOATS, pace: Pace = FULL, cpu: str | None = None
) -> dict[str, Any]:
    """Measure a convolution, batch 1, one thread, on every rung.

    Parameters
    ----------
    names : groups of float baselines to compare every rung with
    cpu : a name in `CPUS`: use only its instructions

    Returns
    -------
    dict of JSON values
        "machine"; "rungs": name, seconds, percent of the roof, and for each baseline its time divided by the rung's;
        "baselines", and why some are "absent"; "emulated", the processor's name or None.
    """
    if cpu is not None:
        with Worker(_CHILD, emulation(cpu)) as worker:
            found = worker.ask("measure", layer=dataclasses.astuple(layer), names=names, pace=dataclasses.astuple(pace))
        return found | {"emulated": cpu}
    about = machine.describe(pace)
    (row,) = measure_layers([layer], 1, 1, (*RUNGS, *names), pace)
    found = {entry["baseline"]: entry["seconds"] for entry in row["baselines"]}
    steps = {BASELINES[group][0].name: text for group, text in RUNGS.items()}
    seconds = {name: found.pop(name) for name in steps if name in found}
    ours, whole = row["ours"], {f"whole operation, {layout}": row["ours"][layout] for layout in LAYOUTS}
    seconds |= {"simd": ours["kernel"], **whole}
    steps |= {"simd": "explicit vectors", **dict.fromkeys(whole, "with packing and scales")}
    compared = {"float loops": seconds["float loops"], **found}
    return {
        "machine": about,
        "layer": row["layer"],
        "macs": row["macs"],
        "rungs": [
            {
                "rung": name,
                "what": steps[name],
                "seconds": spent,
                "percent_of_roof": 100 * row["roof"] / spent,
                "ratios": {baseline: base / spent for baseline, base in compared.items()},
            }
            for name, spent in seconds.items()
        ],
        "baselines": found,
        "absent": row["absent"],
        "emulated": None,
    }


def emulation(cpu: str) -> dict[str, str]:
    """Return environment variables that limit Numba, torch and BLAS to the instructions of `cpu`.

    Raises InputError for a name that is not in `CPUS`, or a processor that this one cannot emulate.
    """
    if cpu not in CPUS:
        raise InputError(f"bench: --cpu must be one of {', '.join(CPUS)}, got {cpu!r}")
    host, wanted = dict(llvm.get_host_cpu_features()), CPUS[cpu]
    missing = [feature for feature in wanted.needs if not host.get(feature)]
    if missing:
        raise InputError(f"bench: this processor cannot emulate {cpu}: it has no {', '.join(missing)}")
    features = (("+" if on and not name.startswith(wanted.lacks) else "-") + name for name, on in sorted(host.items()))
    return {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ",".join(features), **dict(zip(_SETTINGS, wanted.told))}


def child() -> None:
    """Run in the process of an emulated processor: measure and print JSON."""
    serve({"measure": lambda layer, names, pace: measure_ladder(Conv(*layer), tuple(names), Pace(*pace))})
