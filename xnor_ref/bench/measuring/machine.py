"""The machine that was measured: the processor, its roofs, versions, and whether it was idle."""

import dataclasses
from typing import Any

from xnor_ref.bench.measuring import roof, timing
from xnor_ref.training.storing import environment

OPTIONAL = ("torch", "onnxruntime")


def describe(pace: timing.Pace = timing.FULL) -> dict[str, Any]:
    """Return JSON values: the environment, the instruction set in use, the roofs of one core, and warnings.

    "roofs" are binary and float32 multiply-accumulates, bytes read from memory, and clock cycles, all per second.
    Raises InputError if Numba's compiler is off.
    """
    roof.require_compiler()
    warnings = [text for text in (timing.load_warning(), timing.pace_warning()) if text]
    loads = {
        "binary_macs": roof.binary_roof(),
        "float32_macs": roof.float_roof(),
        "memory_bytes": roof.memory_roof(32 if pace.quick else 256),
        "clock": roof.clock(),
    }
    return {
        **environment.describe(),
        **{name: environment.version_of(name) for name in OPTIONAL},
        "instruction_set": roof.instruction_set(),
        "roofs": timing.rates(loads, dataclasses.replace(pace, rounds=5)),
        "warnings": warnings,
    }
