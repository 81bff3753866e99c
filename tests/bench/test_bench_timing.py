"""How `bench` measures: turns, medians, warnings, threads; the loops of the roof."""

import gc
import re

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from tests.conftest import JIT_DISABLED
from xnor_ref.bench import compare
from xnor_ref.bench.measuring import layers, roof, timing
from xnor_ref.bench.measuring.timing import Pace
from xnor_ref.errors import EquivalenceError, InputError
from xnor_ref.kernels.basics.target import target

compiled_only = pytest.mark.skipif(JIT_DISABLED, reason="the subject is compiled code")


class Clock:
    """A clock that only the contenders advance."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.log: list[str] = []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def contender(self, name, *seconds):
        """Takes each of `seconds` in turn."""
        calls = iter(range(10**9))

        def run():
            self.log.append(name)
            self.now += seconds[next(calls) % len(seconds)]

        return run


def test_figures_are_medians_of_rounds(monkeypatch):
    clock = Clock(monkeypatch)
    contenders = {"fast": clock.contender("fast", 1.0), "slow": clock.contender("slow", 3.0)}
    timings = timing.measure(contenders, Pace(rounds=5, turn=6.0, budget=1e9))
    assert timings["fast"] == timing.Timing(1.0, 1.0, 1.0, rounds=5, calls=6)
    assert timings["slow"] == timing.Timing(3.0, 3.0, 3.0, rounds=5, calls=2)
    assert set(timings["fast"].to_dict()) == {"seconds", "quartiles", "rounds", "calls"}


def test_one_bad_round_changes_no_median(monkeypatch):
    clock = Clock(monkeypatch)
    usual = [1.0] * 3  # two for the pace, and the first call
    turns = [9.0, 1.0, 9.0, 50.0, 9.0, 1.0, 9.0, 1.0, 9.0, 1.0]  # the first of each turn is not timed
    timings = timing.measure({"a": clock.contender("a", *usual, *turns)}, Pace(rounds=5, turn=1.0, budget=1e9))
    assert timings["a"].seconds == 1.0 and timings["a"].rounds == 5


def test_contenders_take_turns_and_none_always_follows_the_same(monkeypatch):
    clock = Clock(monkeypatch)
    contenders = {name: clock.contender(name, 2.0) for name in "abc"}
    timing.measure(contenders, Pace(rounds=3, turn=1.0, budget=1e9))  # slower than a turn: one call each
    assert "".join(clock.log) == "aaabbbccc" + "abc" + "bca" + "cab"


def test_slow_contenders_have_fewer_turns_but_three(monkeypatch):
    clock = Clock(monkeypatch)
    contenders = {"quick": clock.contender("quick", 0.1), "slow": clock.contender("slow", 40.0)}
    timings = timing.measure(contenders, Pace(rounds=12, turn=1.0, budget=100.0))
    assert timings["slow"].rounds == 3 and timings["slow"].calls == 1
    assert timings["quick"].rounds == 12
    assert clock.log.count("slow") == 3 + 3
    log = "".join("s" if name == "slow" else "q" for name in clock.log)
    assert all(log.split("s")[-4:-1])  # quick turns before each of the three


def test_the_garbage_collector_rests_meanwhile():
    seen = []
    timing.measure({"a": lambda: seen.append(gc.isenabled())}, Pace(rounds=3, turn=1e-6, budget=1.0))
    assert gc.isenabled() and not seen[-1]
    with pytest.raises(ZeroDivisionError), timing._collector_off():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_blas_is_held_to_the_threads_asked_for():
    np.ones((8, 8), np.float32) @ np.ones((8, 8), np.float32)

    def blas():
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    before = blas()
    with timing.limited(1):
        assert set(blas()) == {1}
    assert blas() == before


def test_a_busy_machine_is_pointed_out(monkeypatch):
    monkeypatch.setattr(timing, "_others_running", lambda: 1.5)
    assert "the machine is busy: 1.5 other processes" in timing.load_warning()
    monkeypatch.setattr(timing, "_others_running", lambda: 0.1)
    assert timing.load_warning() is None

    def no_such_file():
        raise FileNotFoundError

    monkeypatch.setattr(timing, "_others_running", no_such_file)
    monkeypatch.setattr(timing.os, "getloadavg", lambda: (2.25, 0.0, 0.0), raising=False)
    assert "2.2 other processes" in timing.load_warning() and "last minute" in timing.load_warning()
    monkeypatch.delattr(timing.os, "getloadavg")
    assert timing.load_warning() is None


def test_what_others_compute_meanwhile_is_pointed_out(monkeypatch):
    clock = Clock(monkeypatch)
    seconds = iter((100.0, 100.5, 102.0))  # of others
    monkeypatch.setattr(timing, "_seconds_of_others", lambda: next(seconds))
    others = timing.Bystanders()
    clock.now = 10.0
    assert others.warning() is None
    assert "other processes used 20% of a processor" in others.warning()
    monkeypatch.setattr(timing, "_seconds_of_others", lambda: None)
    assert timing.Bystanders().warning() is None


def test_our_own_work_is_not_that_of_others():
    before = timing._seconds_of_others()
    if before is None:
        pytest.skip("this system does not tell")
    used = sum(timing.os.times()[:4])
    while sum(timing.os.times()[:4]) - used < 0.1:
        pass
    assert timing._seconds_of_others() - before > -0.05  # ticks of 10 ms


@pytest.mark.parametrize("slow, warned", [(1.05, False), (1.5, True)])
def test_an_unsteady_machine_is_pointed_out(monkeypatch, slow, warned):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(roof, "clock", lambda cycles: roof.Load(clock.contender("loop", 0.001, 0.001 * slow), cycles))
    warning = timing.pace_warning()
    assert (warning is not None) == warned
    assert not warned or "varies by 50%" in warning


# --- the roof ----------------------------------------------------------------------------------------------------


@compiled_only
def test_the_loop_counts_what_it_claims():
    """Were anything hoisted out of the loop or folded, the sum over several rounds would still be this one."""
    side = range(roof._SIDE)
    per_round = sum(((3 * i + 1) ^ (3 * (roof._SIDE + j) + 1)).bit_count() for i in side for j in side)
    for rounds in (0, 1, 3):
        assert roof._count(rounds) == rounds * per_round * roof._COUNTS.count


@compiled_only
@pytest.mark.skipif(not (target() and target().counts_words), reason="no instruction here counts the ones of a word")
def test_the_loop_of_the_roof_is_16_times_three_instructions_in_registers():
    from numba import intp, njit, uint64

    function = njit(uint64(intp))(roof._count.py_func)
    (assembly,) = function.inspect_asm().values()
    blocks = re.split(r"\n(?=\.L\w+:)", assembly)
    loops = [block.partition("\tjne\t")[0] for block in blocks if block.count("vpopcntd") == 16]
    assert loops
    for loop in loops:
        operations = [line.split()[0] for line in loop.splitlines() if re.match(r"\t[a-z]", line)]
        assert operations.count("vpaddd") == 16 and sum(op.startswith("vpxor") for op in operations) == 16
        assert len(operations) - 48 <= 2  # the loop's own counter
        assert "(" not in loop.partition("\n")[2], "memory is touched"


@compiled_only
def test_roofs_are_known_amounts_of_work():
    for threads in (1, 2):
        for load in (roof.binary_roof(threads), roof.float_roof(threads)):
            load.run()
            assert load.work % (threads * roof.LANES) == 0
    assert roof.memory_roof(1).work == 1_000_000
    assert roof._chain(5) == 5 * roof._CHAIN and roof.clock(6400).work == 6400
    assert roof._read(np.arange(10, dtype=np.uint64)) == 45
    assert "bits" in roof.instruction_set()


@pytest.mark.skipif(not JIT_DISABLED, reason="the compiler is on")
def test_without_the_compiler_there_is_nothing_to_measure():
    with pytest.raises(InputError, match="NUMBA_DISABLE_JIT"):
        roof.binary_roof()


# --- one layer ---------------------------------------------------------------------------------------------------

SHORT = Pace(rounds=3, turn=1e-5, budget=0.01)


@compiled_only
@pytest.mark.parametrize("layer", (layers.Conv(65, 6, 3, 70, 2), layers.Linear(130, 7, 3)), ids=lambda one: one.name)
def test_a_layer_is_measured_against_the_roof_and_a_named_baseline(layer):
    row = compare.measure_layer(layer, 2, 1, ("numpy",), SHORT)
    layouts = {"NHWC", "NCHW"} if isinstance(layer, layers.Conv) else {"NHWC"}
    assert set(row["ours"]) == {"kernel", "pack", "scale", "convolve"} | layouts
    assert row["macs"] == layer.macs(2) and all(seconds > 0 for seconds in row["ours"].values())
    assert row["percent_of_roof"] == pytest.approx(100 * row["roof"] / row["ours"]["kernel"])
    (entry,) = row["baselines"]
    against = entry["against"].removeprefix("ours ")
    assert entry["baseline"] == "NumPy" and against in layouts
    assert entry["ratio"] == entry["seconds"] / row["ours"][against]
    assert row["timings"]["kernel"]["seconds"] == row["ours"]["kernel"] and row["absent"] == {}


@compiled_only
def test_a_planned_kernel_that_is_wrong_is_not_measured(monkeypatch):
    class Wrong(compare.PlannedConv2d):
        def run(self, x, out=None, threads=None):
            return super().run(x, out, threads) + 1

    monkeypatch.setattr(compare, "PlannedConv2d", Wrong)
    with pytest.raises(EquivalenceError, match=r"planned kernel \(NHWC\) and xnor_conv2d differ on 3@4x4 3x3 -> 2"):
        compare.measure_layer(layers.Conv(3, 4, 3, 2), pace=SHORT)
