"""What was measured on: the processor, its roofs, versions; and whether the machine was idle."""

from typing import Any

from xnor_ref.bench.measuring import roof, timing
from xnor_ref.training.storing import environment

OPTIONAL = ("torch", "onnxruntime")


def describe(pace: timing.Pace = timing.FULL) -> dict[str, Any]:
    """JSON values: the environment, the instruction set in use, the roofs of one core, and warnings.

    "roofs" are binary and float32 multiply-accumulates, bytes read from memory, and clock cycles, all per second.
    Raises InputError where Numba's compiler is off.
    """
    roof.require_compiler()
    warnings = [text for text in (timing.load_warning(), timing.pace_warning()) if text]
    return {
        **environment.describe(),
        **{name: environment.version_of(name) for name in OPTIONAL},
        "instruction_set": roof.instruction_set(),
        "roofs": _roofs(pace),
        "warnings": warnings,
    }


def _roofs(pace: timing.Pace) -> dict[str, float]:
    loads = {
        "binary_macs": roof.binary_roof(),
        "float32_macs": roof.float_roof(),
        "memory_bytes": roof.memory_roof(32 if pace.quick else 256),
        "clock": roof.clock(),
    }
    short = timing.Pace(rounds=5, turn=pace.turn, budget=pace.budget)
    return timing.rates(loads, short)
