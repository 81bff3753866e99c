"""`bench train`: ours and torch in processes that take turns, memory, and where the time of a step goes."""

import json

import numpy as np
import pytest

from tests.bench.test_bench_layers import without
from tests.conftest import JIT_DISABLED
from xnor_ref import models, nn
from xnor_ref.autodiff import Tensor
from xnor_ref.bench.measuring import process, roof, timing
from xnor_ref.bench.peers import baselines, torch_twin
from xnor_ref.bench.training import train, train_profile, train_worker
from xnor_ref.cli import main
from xnor_ref.cli.bench import bench_text
from xnor_ref.errors import InputError, XnorRefError
from xnor_ref.kernels.basics.geometry import Window
from xnor_ref.kernels.basics.modes import Finish
from xnor_ref.kernels.basics.target import multiplies_tiles
from xnor_ref.kernels.basics.threads import set_threads
from xnor_ref.kernels.ops import float_ops
from xnor_ref.kernels.training import convolution
from xnor_ref.nn import backend

compiled_only = pytest.mark.skipif(JIT_DISABLED, reason="bench measures compiled code")
TINY = {"size": 16, "classes": 5, "batch": 3, "threads": 1}


@pytest.fixture
def bench(tmp_path, monkeypatch, capfd):
    """Runs `bench train ARGUMENTS` in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing, "QUICK", timing.Pace(rounds=3, turn=1e-5, budget=0.01, quick=True))
    monkeypatch.setattr(timing, "load_warning", lambda: None)
    monkeypatch.setattr(timing, "pace_warning", lambda: None)
    monkeypatch.setattr(timing.Bystanders, "warning", lambda self: None)

    def run(*arguments, command="train"):
        code = main(["bench", command, *arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run


@compiled_only
@pytest.mark.soak
def test_scale(bench, tmp_path):
    arguments = "lenet5", "--images", "300,100", "--batch", "10", "--epochs", "2", "--quick", "--threads", "1"
    code, out, err = bench(*arguments, "--json", "result.json", command="scale")
    assert code == 0 and "writing 300 images" in err and "epoch 2 of 2" in err
    result = json.loads((tmp_path / "result.json").read_text())
    assert [entry["images"] for entry in result["sets"]] == [100, 300]
    for entry in result["sets"]:
        assert 0 < entry["quartiles"][0] <= entry["images_per_second"] <= entry["quartiles"][1]
        assert 0 < entry["input_seconds"] < 1 / entry["quartiles"][0]
    assert result["sets"][0]["ratio"]["ratio"] == 1
    assert result["memory"] is None or len(result["memory"]) == 2
    assert "time an image over time an image with 100 images" in out and "after each epoch over 100 images" in out
    assert bench_text.scale(result) == out.rstrip("\n")


@compiled_only
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--images", "many"), "--images must be integers"),
        (("--images", "100,200"), "needs at least two batches of 64 images, got 100"),
        (("--epochs", "0", "--images", "200"), "epochs must be at least 1, got 0"),
    ],
)
def test_scale_refuses(bench, arguments, words):
    code, _, err = bench("lenet5", *arguments, "--quick", command="scale")
    assert code == 2 and words in err


# --- the command -------------------------------------------------------------------------------------------------

SMALL = ("lenet5", "--size", "16", "--classes", "5", "--batch", "3", "--quick", "--backward", "fp32")


def test_methods_without_binary_products_have_no_gradients_in_bytes():
    task = train.Task("vgg-small", method="full")
    assert list(train.ours(task, ("fp32", "int8"), ("off",))) == ["ours, fp32 backward"]
    with pytest.raises(InputError, match="which method full does not have"):
        train.ours(task, ("int8",), ("off",))


@compiled_only
def test_ours_alone_with_its_profile(bench, tmp_path):
    code, out, err = bench(*SMALL, "--profile", "--json", "result.json")
    assert code == 0 and "lenet5: in turns ..." in err and "torch" not in err
    result = json.loads((tmp_path / "result.json").read_text())
    (network,) = result["networks"]
    assert (network["network"], network["method"], network["batch"], network["size"]) == ("lenet5", "xnor", 3, 16)
    assert network["best"] == network["tried"] == network["absent"] == {}
    (ours,) = network["contenders"]
    assert ours["name"] == "ours, fp32 backward" and ours["ours"] and ours["ratios"] == {}
    assert 0 < ours["quartiles"][0] <= ours["images_per_second"] <= ours["quartiles"][1]
    assert 0 < ours["data"] < 1 and set(ours["start"]) == {"cached"}
    assert ours["memory"] is None or 0 < ours["memory"]["network"] < ours["memory"]["peak"]
    profile = ours["profile"]
    assert tuple(profile["shares"]) == train_profile.SHARES
    assert sum(profile["shares"].values()) == pytest.approx(1) and min(profile["shares"].values()) >= 0
    for words in ("a batch of 3", "network, memory", "weight gradient", "GMAC/s", "roofs of all threads", "(cached)"):
        assert words in out
    head = bench_text.machine(result["machine"], result["threads"], "3")
    assert out == f"{head}\n\n{bench_text.training(network)}\n"


@compiled_only
def test_each_network_is_shown_when_it_is_measured(bench, monkeypatch):
    measured, found = [], train.measure_training

    def measure(task, *arguments, **options):
        if measured:
            raise XnorRefError("no more")
        measured.append(found(task, *arguments, **options))
        return measured[0]

    monkeypatch.setattr(train, "measure_training", measure)
    code, out, err = bench("lenet5", *SMALL)
    assert code == 1 and "no more" in err and bench_text.training(measured[0]) in out


@compiled_only
@pytest.mark.soak
def test_k_is_measured_beside_its_absence(bench):
    code, out, _ = bench(*SMALL[:-1], "fp32,reference", "--input-scale", "off,plain", "--json")
    assert code == 0
    (network,) = json.loads(out)["networks"]
    names = [entry["name"] for entry in network["contenders"]]
    ways = ["ours, fp32 backward", "ours, layer by layer"]
    assert names == [*ways, *(f"{way}, K" for way in ways)]


@compiled_only
def test_what_is_missing_is_named(bench, monkeypatch):
    without(monkeypatch, "torch")
    code, _, err = bench(*SMALL, "--baselines", "torch")
    assert code == 2 and "baseline torch: torch is not installed (pip install 'xnor_ref[bench]')" in err
    monkeypatch.setattr(train, "FULL", train.QUICK)
    code, out, _ = bench(*(word for word in SMALL if word != "--quick"))
    assert code == 0 and "not measured: torch fp32: torch is not installed" in out and "torch bf16: torch is" in out


@compiled_only
def test_a_plot(bench, tmp_path):
    pytest.importorskip("matplotlib")
    code, _, _ = bench(*SMALL, "--plot", "speeds.png", "--method", "full", "--optimizer", "adam")
    assert code == 0 and (tmp_path / "speeds.png").read_bytes().startswith(b"\x89PNG")


@compiled_only
@pytest.mark.parametrize(
    "arguments, words",
    [
        (["resnet"], "there is no network 'resnet'; there are shapes-net, lenet5, nin"),
        (["--method", "xor"], "there is no method 'xor'; there are xnor, "),
        (["--method", "bwn", "--input-scale", "plain"], "method 'bwn' has no K, so input-scale (=plain) would have no"),
        (["--input-scale", "valid"], "there is no input scale 'valid'; there are off, plain"),
        (["--backward", "int4"], "there is no backward 'int4'; there are fp32, int8, reference"),
        (["--baselines", "numpy"], "there is no baseline 'numpy'; there are torch, torch-bf16"),
        (["--baselines", ""], "there is no baseline ''; there are torch, torch-bf16"),
        (["--batch", "1"], "BatchNorm needs a batch of at least 2 images to train on, got 1"),
        (["--batch", "-3"], "batch must be at least 1, got -3"),
        (["--batch", "0"], "batch must be at least 1, got 0"),
        (["--classes", "0"], "classes must be at least 1, got 0"),
        (["--threads", "0"], "threads must be from 1 to 1024, got 0"),
        (["--optimizer", "lion"], "'lion' is not one of 'sgd', 'adam'"),
        (["lenet5", "--size", "4", "--quick", "--backward", "fp32"], "lenet5 needs images of at least"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_exits_2_and_says_why(bench, arguments, words):
    code, out, err = bench(*arguments)
    assert code == 2 and words in err and out == ""


@pytest.mark.skipif(not JIT_DISABLED, reason="the compiler is on")
def test_without_the_compiler_there_is_nothing_to_measure(bench):
    code, out, err = bench("--quick")
    assert code == 2 and "NUMBA_DISABLE_JIT=1" in err and out == ""


# --- turns -------------------------------------------------------------------------------------------------------


class FakeWorker:
    """Says how long its steps take, and that it was asked."""

    def __init__(self, name, log, *seconds):
        self.name, self.log, self.seconds = name, log, list(seconds)

    def ask(self, what, count, before):
        assert what == "steps"
        self.log.append((self.name, (count, before)))
        return {"seconds": self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0], "data": 0.0}


def test_contenders_take_turns_of_about_the_same_length():
    log = []
    workers = {name: FakeWorker(name, log, seconds) for name, seconds in (("a", 0.5), ("b", 0.2), ("c", 9.0))}
    turns = train.take_turns(workers, timing.Pace(rounds=3, turn=1.0))
    assert log[:3] == [("a", (1, 1)), ("b", (1, 1)), ("c", (1, 1))]  # to know their pace
    assert "".join(name for name, _ in log[3:]) == "abcbcacab"
    assert dict(log[3:]) == {"a": (2, 0), "b": (5, 1), "c": (1, 0)}  # timed, not timed
    assert [turn["seconds"] for turn in turns["b"]] == [0.2] * 3


def test_ratios_are_of_throughput_with_their_spread_round_by_round():
    ratio = train.ratio_of([2.0, 4.0, 6.0], [1.0, 1.0, 2.0])
    assert ratio == {"ratio": 4.0, "quartiles": [2.5, 3.5]}
    speed = train.throughput([0.5, 0.25, 0.0])
    assert speed == {"images_per_second": 4.0, "quartiles": [1 / 0.375, 8.0], "rounds": 3}
    assert train._memory({"before": None, "peak": None}) is None
    assert train._memory({"before": 3, "peak": 10}) == {"network": 7, "peak": 10}


def test_the_best_way_of_torch_is_found_one_setting_at_a_time(monkeypatch):
    monkeypatch.setattr(baselines, "require", lambda package: None)
    speeds = {
        train.Way("fp32", 64): 10.0,
        train.Way("fp32", 64, "NCHW"): 9.0,
        train.Way("fp32", 64, compiled=True): None,
        train.Way("fp32", 128): 12.0,
        train.Way("fp32", 128, tuned=False): 11.0,
    }

    def rate(task, way):
        if speeds[way] is None:
            raise baselines.Unavailable("no compiler here")
        return speeds[way]

    monkeypatch.setattr(train, "_rate", rate)
    task, tried, absent, said = train.Task("lenet5"), {}, {}, []
    best = train.best_way(task, "fp32", True, tried, absent, said.append)
    assert best == train.Way("fp32", 128) and best.name == "torch fp32, eager, NHWC, batch 128, allocator tuned"
    assert len(tried) == 4 and len(said) == 5
    assert absent == {"torch fp32, compile, NHWC, batch 64, allocator tuned": "no compiler here"}
    speeds |= dict.fromkeys(speeds, None)
    speeds[train.Way("fp32", 64, tuned=False)] = None
    with pytest.raises(baselines.Unavailable, match="none of torch's ways works: no compiler here"):
        train.best_way(task, "fp32", True, {}, {}, said.append)


# --- processes ---------------------------------------------------------------------------------------------------

SERVE = """
import sys
from xnor_ref.bench.measuring.process import Unavailable
from xnor_ref.bench.measuring.process import serve
from xnor_ref.errors import InputError
def refuse(kind):
    raise {"input": InputError, "unavailable": Unavailable}[kind]("told why")
def double(n):
    print("not an answer", flush=True)
    return 2 * n
serve({"double": double, "refuse": refuse, "fail": lambda: sys.exit("it broke")})
"""


def test_a_worker_answers_refuses_and_fails():
    with process.Worker(SERVE) as worker:
        assert worker.ask("double", n=21) == 42
        with pytest.raises(InputError, match=r"^told why$"):
            worker.ask("refuse", kind="input")
        with pytest.raises(baselines.Unavailable, match=r"^told why$"):
            worker.ask("refuse", kind="unavailable")
        assert worker.ask("double", n="ab") == "abab"
        with pytest.raises(XnorRefError, match="it broke") as error:
            worker.ask("fail")
        assert not isinstance(error.value, InputError)


def test_a_worker_that_never_answers_is_ended(monkeypatch):
    monkeypatch.setattr(process, "TIMEOUT", 0.5)
    with process.Worker("import time; time.sleep(60)") as worker, pytest.raises(XnorRefError, match="exit code -9"):
        worker.ask("double", n=1)


# --- torch -------------------------------------------------------------------------------------------------------


@compiled_only
def test_a_network_against_torch_in_one_of_its_ways(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(train, "best_way", lambda task, precision, *_: train.Way(precision, 2))
    result = train.measure_training(train.Task("lenet5", **TINY), ("torch",), train.QUICK, backwards=("fp32",))
    ours, theirs = result["contenders"]
    assert result["best"] == {"fp32": theirs["name"]} and theirs["name"].startswith("torch fp32, eager, NHWC, batch 2")
    assert not theirs["ours"] and theirs["batch"] == 2 and "start" not in theirs
    assert theirs["ratios"]["fp32"]["ratio"] == 1
    ratio = ours["images_per_second"] / theirs["images_per_second"]
    assert ours["ratios"]["fp32"]["ratio"] == pytest.approx(ratio)


@pytest.mark.parametrize("name", ["resnet18", "nin", "alexnet"])
def test_the_twin_has_our_gradients(name):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    ours = models.build(name, image_size=16, in_channels=3, num_classes=5, method="full")
    images = np.random.default_rng(0).standard_normal((4, 3, 16, 16), np.float32)
    labels = np.array([0, 3, 4, 3])
    x = torch.from_numpy(images)
    twin = torch_twin.replace_whole_convs(torch_twin.to_torch(ours), x[:1]).train()
    theirs = torch.nn.functional.cross_entropy(twin(x), torch.from_numpy(labels))
    theirs.backward()
    loss = nn.LOSSES["cross-entropy"](ours.train()(Tensor(images)), labels)
    loss.backward()
    assert float(loss.data) == pytest.approx(float(theirs.detach()), rel=1e-5)
    pairs = list(zip(ours.parameters(), twin.parameters(), strict=True))
    for mine, other in pairs:
        got, wanted = other.grad.numpy().ravel(), mine.grad.ravel()
        assert np.abs(got - wanted).max() <= 2e-3 * np.abs(wanted).max() + 1e-6


@pytest.mark.parametrize("precision, layout", [("fp32", "NHWC"), ("fp32", "NCHW"), ("bf16", "NHWC")])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_torch_learns_its_batch_in_each_way(precision, layout, optimizer):
    pytest.importorskip("torch")
    task = train.Task("lenet5", **{**TINY, "size": 32, "optimizer": optimizer})
    trainer = train_worker.Torch(task, precision, layout, compiled=False)
    losses = [trainer.step() for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]


def test_a_torch_that_breaks_is_unavailable(monkeypatch):
    def broken(**setup):
        raise RuntimeError("no kernel for this\nmore")

    monkeypatch.setattr(train_worker, "Torch", broken)
    with pytest.raises(baselines.Unavailable, match=r"^no kernel for this$"):
        train_worker.begin("torch", task={"network": "lenet5"})


# --- ours --------------------------------------------------------------------------------------------------------


def ours(method="xnor", optimizer="sgd"):
    trainer = train_worker.Ours(train.Task("lenet5", **TINY, method=method, optimizer=optimizer), "fp32", options={})
    train_worker._settings.close()
    set_threads(None)
    return trainer


@pytest.mark.parametrize("method", ["xnor", "full"])
def test_shares_cover_a_step_and_functions_are_put_back(method):
    trainer = ours(method)
    before = [getattr(float_ops, name) for name in ("conv2d", "batch_norm")]
    shares = train_profile.Shares()
    with nn.binary_backend("reference"), shares.watch():
        assert float_ops.conv2d is not before[0]
        trainer.step()
    assert [getattr(float_ops, name) for name in ("conv2d", "batch_norm")] == before
    for share in ("forward", "input gradient", "weight gradient", "BatchNorm", "pooling", "update", "data"):
        assert shares.seconds[share] > 0, share
    kinds = {kind for _, _, kind in shares.gemms}
    assert kinds == ({"float32", "binary"} if method == "xnor" else {"float32"})
    forward = {name: work for (share, name, _), work in shares.gemms.items() if share == "forward"}
    weight = {name: work for (share, name, _), work in shares.gemms.items() if share == "weight gradient"}
    assert forward.keys() == weight.keys()
    for name in forward:
        assert forward[name][1] == weight[name][1]  # as many multiply-accumulates
    calls, macs, _ = forward["3 5x5 -> 20 at 12x12"]
    assert (calls, macs) == (1, TINY["batch"] * 20 * 3 * 25 * 12 * 12)


@compiled_only
def test_fused_convolutions_are_profiled_with_the_same_work():
    x, weight = np.ones((2, 6, 6, 8), np.float32), np.ones((40, 8, 3, 3), np.float32)
    dy = np.ones((2, 3, 3, 40), np.float32)
    place = (6, 6), Window.of(3, 2, 1)
    shares = train_profile.Shares()

    def convolve():
        signs = convolution.SignConvolution(weight.shape, *place, 0, "off")
        _, saved = signs.forward(x, weight)
        for rounding in (None, convolution.Rounding(1)):
            signs.backward(dy, saved, weight, Finish.STE, rounding, True)
        real = convolution.RealConvolution(weight.shape, *place)
        padded = real.pad(x)
        real.forward(padded, weight, None)
        real.backward(dy, padded, weight, True, weight)

    convolve()  # kernels are compiled, and give their known answers, before anything is counted
    with shares.watch():
        convolve()
    assert {name for _, name, _ in shares.gemms} == {"8 3x3 -> 40 at 3x3"}
    calls = {(share, kind): work[0] for (share, _, kind), work in shares.gemms.items()}
    both = {(f"{side} gradient", kind): n for side in ("input", "weight") for kind, n in (("float32", 2), ("int8", 1))}
    assert calls == {("forward", "binary"): 1, ("forward", "float32"): 1, **both}
    for work in shares.gemms.values():
        assert work[1] == work[0] * 2 * 40 * 8 * 9 * 9
    assert shares.seconds["operands of both"] > 0


@compiled_only
@pytest.mark.parametrize(
    ("channels", "kernel", "products", "name"),
    [
        (32, 3, 9 * 16, "32 3x3 -> 40 at 6x6 (tiles)"),  # 9 tiles of 2x2 outputs, each of 4x4 products
        (32, 5, 9 * 36, "32 5x5 -> 40 at 6x6 (tiles)"),
        (3, 5, 36 * 25, "3 5x5 -> 40 at 6x6"),  # a stem
    ],
)
def test_each_gemm_of_a_real_convolution_is_profiled_with_its_products(channels, kernel, products, name):
    x, weight = np.ones((2, 6, 6, channels), np.float32), np.ones((40, channels, kernel, kernel), np.float32)
    dy = np.ones((2, 6, 6, 40), np.float32)
    conv = convolution.RealConvolution(weight.shape, (6, 6), Window.of(kernel, 1, kernel // 2))
    shares = train_profile.Shares()
    with shares.watch():
        padded = conv.pad(x)
        conv.forward(padded, weight, None)
        conv.backward(dy, padded, weight, True, weight)
    work = [1, 2 * products * channels * 40]  # calls, multiply-accumulates
    places = [(share, name, "float32") for share in ("forward", "weight gradient", "input gradient")]
    assert {place: found[:2] for place, found in shares.gemms.items()} == dict.fromkeys(places, work)


def test_time_of_inner_functions_counts_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(train_profile.time, "perf_counter", lambda: now[0])

    class Kernels:
        @staticmethod
        def inner():
            now[0] += 2.0

        @staticmethod
        def outer():
            now[0] += 1.0
            Kernels.inner()

    monkeypatch.setattr(train_profile, "import_module", lambda name: Kernels)
    shares = train_profile.Shares()
    with shares.watch((train_profile.Timed("forward", "", "outer"), train_profile.Timed("pooling", "", "inner"))):
        Kernels.outer()
    assert shares.seconds["forward"] == 1.0 and shares.seconds["pooling"] == 2.0


def test_bytes_need_their_instructions(monkeypatch):
    monkeypatch.setattr(backend, "multiplies_bytes", lambda: False)
    with pytest.raises(baselines.Unavailable, match="cannot multiply bytes"):
        train_worker.apply_backward("int8")


def test_the_way_of_training_holds_for_the_process():
    try:
        train_worker.apply_backward("reference")
        assert backend.current_backend() == "numba" and not backend.gradients_in_bytes()
    finally:
        train_worker._settings.close()
    assert backend.current_backend() == "auto"


def test_memory_is_that_of_this_process():
    now, most = train_worker.resident(), train_worker.resident("VmHWM")
    if now is None:
        pytest.skip("this system does not tell")
    assert 10_000_000 < now <= most
    assert train_worker.resident("no such line") is None


@compiled_only
def test_the_loop_of_bytes_multiplies_what_it_claims():
    load = roof.int8_roof()
    if load is None:
        pytest.skip("this processor multiplies no bytes")
    products = 4 * 3 + 3 * 1 + 2 * -1 + 1 * 2
    for rounds in (0, 1, 3):
        assert roof._dot_product(rounds) == rounds * roof._SUMS * products * roof.LANES
    assert load.work % (4 * roof.LANES) == 0


@compiled_only
@pytest.mark.skipif(not multiplies_tiles(), reason="this processor has no AMX")
def test_the_loop_of_tiles_multiplies_what_it_claims():
    rows, *columns = operands = np.random.default_rng(0).integers(0, 256, (4, 16, 64), dtype=np.uint8)
    for rounds in (0, 1, 3):
        sums = np.full((3, 16, 16), 7, np.int32)
        roof._tile_products(rounds, operands.reshape(-1), sums.reshape(-1))
        for found, column in zip(sums, columns, strict=True):
            signed = column.reshape(16, 16, 4).transpose(0, 2, 1).reshape(64, 16).view(np.int8).astype(np.int64)
            assert np.array_equal(found, rounds * (rows.astype(np.int64) @ signed))
    assert roof.int8_roof(2).work % (2 * 3 * 16 * 16 * 64) == 0
