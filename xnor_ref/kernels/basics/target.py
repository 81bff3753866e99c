"""The vectors of the processor, found from the machine code that LLVM makes of two vector operations.

The code is compiled with Numba's settings: for the processor of this machine, with or without AVX (NUMBA_ENABLE_AVX),
or for the one that NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name. Looking at the code covers all of these, and future
processors.
"""

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from functools import cache

import llvmlite.binding as llvm
from numba import config

from xnor_ref.kernels.basics.numba_private import host_features

_PROBE = """
declare <16 x i32> @llvm.ctpop.v16i32(<16 x i32>)
define <16 x i32> @count(<16 x i32> %x) {
  %y = call <16 x i32> @llvm.ctpop.v16i32(<16 x i32> %x)
  %z = add <16 x i32> %x, %y
  ret <16 x i32> %z
}
"""


@dataclass(frozen=True)
class Target:
    """The vectors of a processor, and the micro-kernel tile that fits its registers."""

    name: str
    lanes: int  # 32-bit lanes of a vector
    pixels: int  # rows of a tile
    counts_words: bool  # one instruction counts the ones of each lane; otherwise bytes are counted and summed later


@cache
def target() -> Target | None:
    """Return the processor's vectors, or None if a micro-kernel would not be faster on them."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name = config.CPU_NAME or llvm.get_host_cpu_name()  # type: ignore[attr-defined]
    machine = llvm.Target.from_default_triple().create_target_machine(cpu=name, features=_features())
    assembly = machine.emit_assembly(llvm.parse_assembly(_PROBE))
    counts = "vpopcntd" in assembly
    if "zmm" in assembly:
        return Target("AVX-512 with VPOPCNTDQ" if counts else "AVX-512", 16, 4, counts)
    if "ymm" in assembly and "vpaddd" in assembly:
        return Target("AVX2 with VPOPCNTDQ" if counts else "AVX2", 8, 4 if counts else 2, counts)
    if machine.triple.startswith(("aarch64", "arm64")):
        return Target("NEON", 4, 4, False)
    return None


@cache
def multiplies_bytes() -> bool:
    """Whether the processor has VNNI on its widest vectors: in each lane, the sum of four products of bytes."""
    found = target()
    named = set(_features().split(","))
    if found is None or found.lanes not in (8, 16):
        return False
    return "+avx512vnni" in named and (found.lanes == 16 or "+avx512vl" in named)


@cache
def multiplies_tiles() -> bool:
    """Whether the processor has AMX for bytes (products of whole tiles), and the system lets this process use it.

    XNOR_REF_AMX=off in the environment disables it, to measure what AMX gains over VNNI.
    """
    if os.environ.get("XNOR_REF_AMX") == "off":
        return False
    found = target()
    named = set(_features().split(","))
    return found is not None and found.lanes == 16 and {"+amx-tile", "+amx-int8"} <= named and _may_use_tiles()


def _may_use_tiles() -> bool:
    """Request AMX's registers from Linux by arch_prctl(ARCH_REQ_XCOMP_PERM), and return whether it grants them."""
    if not (sys.platform == "linux" and platform.machine() == "x86_64"):
        return False
    arch_prctl, ask, registers = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, ask, registers) == 0


def _features() -> str:
    """Return the processor features that Numba compiles for."""
    given = config.CPU_FEATURES  # type: ignore[attr-defined]
    return host_features() if given is None else given
