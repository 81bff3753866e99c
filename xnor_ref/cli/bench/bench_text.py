"""Tables that `bench` prints. Each ratio names its baseline."""

from collections.abc import Iterable
from typing import Any

from xnor_ref.cli import options

Row = tuple[str, ...]
_NUMBERS = range(1, 99)  # right-aligned columns: all but the first

_LIMITS = (
    "limit: the least possible microseconds, by the peak rate of the layer's\n"
    "arithmetic (padded taps included) or of memory, whichever takes longer (by).\n"
    "x: time / limit; for the network, time / the sum of limits. Peak rates are\n"
    "measured in the same run. Activations are read from the smallest cache that\n"
    "holds them, weights from the smallest cache that holds all weights."
)
_PADDING = "Padded taps count as work. A kernel may skip them, so with many of them it can exceed its roof."


def layers(result: dict[str, Any]) -> str:
    """Return tables of our times, and of the baselines' times divided by ours."""
    rows = result["layers"]
    names = list(dict.fromkeys(entry["baseline"] for row in rows for entry in row["baselines"]))
    ours: list[Row] = [("layer", "MMAC", "kernel", "of roof", "pack, A", "K", "conv, scale", "NHWC", "NCHW")]
    theirs: list[Row] = [("layer", *names)]
    for row in rows:
        times = row["ours"]
        several = row["batch"] > 1 and not row["layer"].startswith("GEMM")
        name = f"{row['batch']} x {row['layer']}" if several else row["layer"]
        kernel = _microseconds(times["kernel"]), f"{row['percent_of_roof']:.0f} %"
        keys = ("pack", "scale", "convolve", "NHWC", "NCHW")
        others = (_microseconds(times[key]) if key in times else "" for key in keys)
        ours.append((name, f"{row['macs'] / 1e6:,.1f}", *kernel, *others))
        ratios = {entry["baseline"]: f"{entry['ratio']:.1f}x" for entry in row["baselines"]}
        theirs.append((row["layer"], *(ratios.get(name, "-") for name in names)))
    parts = [
        "Ours, in microseconds: the kernel alone (bits to int32), its share of the roof, the parts, and the whole\n"
        "operation (float32 in, sign, pack, A, K, convolution, K * alpha, float32 out) in each layout",
        options.table(ours, _NUMBERS),
        _PADDING,
    ]
    if names:
        found = {e["baseline"]: f"{e['what']}; / {e['against']}" for row in rows for e in row["baselines"]}
        parts += [
            "Whole operation: the baseline's time / ours, both in the baseline's layout",
            options.table(theirs, _NUMBERS),
            options.table([(f"  {name}", text) for name, text in found.items()]),
        ]
    return _joined(result, parts, rows)


def depthwise(result: dict[str, Any]) -> str:
    """Return a table of depthwise layers and their limits."""
    rows: list[Row] = [("layer", "us", "limit", "x", "by", "GB/s", "of main", "dX", "dW", "NCHW")]
    for row in result["layers"]:
        forward, *others = row["ours"].values()
        times = _microseconds(forward), _microseconds(row["limit"]), f"{row['over_limit']:.2f}", row["bound"]
        rate = f"{row['bytes'] / forward / 1e9:.0f}", f"{row['of_memory']:.0%}"
        rows.append((row["layer"], *times, *rate, *map(_microseconds, others)))
    text = (
        "g: groups, where these are fewer than channels; us: microseconds of a planned layer,\n"
        "channels innermost; limit: at the roof of float32 or of reading an array of this size,\n"
        "whichever is more (by); x: us / limit; of main: bytes a second over those that can be\n"
        "read from main memory; dX, dW: the gradients of input and weights; NCHW: the public\n"
        "function, which allocates"
    )
    return _joined(result, [options.table(rows, _NUMBERS), text])


def networks(result: dict[str, Any]) -> str:
    """Return tables of whole networks against other libraries, and of our time by layer."""
    return _joined(result, map(_network, result["networks"]), result["networks"])


def _network(result: dict[str, Any]) -> str:
    rows: list[Row] = [("images to logits", "ms", "/ ours")]
    rows += [(name, _milliseconds(seconds), "") for name, seconds in result["ours"].items()]
    for entry in sorted(result["baselines"], key=lambda entry: entry["seconds"]):
        rows.append((entry["baseline"], _milliseconds(entry["seconds"]), f"{entry['ratio']:.1f}x"))
    title = f"XNOR {result['network']}, {result['size']}x{result['size']} pixels, {result['classes']} classes"
    text = (
        f"{title}, a batch of {result['batch']}, against the full-precision network\n\n{options.table(rows, _NUMBERS)}"
    )
    if result["best"]:
        best = next(entry for entry in result["baselines"] if entry["baseline"] == result["best"])
        text += f"\n\ntorch fp32 at its best ({result['best']}) / ours: {best['ratio']:.1f}x"
    return f"{text}\n\n{_layer_table(result)}"


def model(result: dict[str, Any]) -> str:
    """Return tables of a packed model: the whole network, and each layer."""
    rows = [("images to logits", "ms"), *((name, _milliseconds(seconds)) for name, seconds in result["ours"].items())]
    channels, height, width = result["input_shape"]
    title = f"{result['file']}, {channels}x{height}x{width}, a batch of {result['batch']}"
    return _joined(result, [title, options.table(rows, _NUMBERS), _layer_table(result)])


def _layer_table(result: dict[str, Any]) -> str:
    """Return a table of each layer's time and its limit, with the whole network last."""
    rows: list[Row] = [("layer", "op", "us", "limit", "x", "by")]
    for stage in result["layers"]:
        times = _microseconds(stage["seconds"]), _microseconds(stage["limit"]), f"{stage['over_limit']:.2f}"
        rows.append((stage["name"], stage["op"], *times, stage["bound"]))
    whole = _microseconds(result["ours"]["ours"]), _microseconds(result["limit"]), f"{result['over_limit']:.2f}"
    rows.append(("whole network", "", *whole, ""))
    return f"{options.table(rows, (2, 3, 4))}\n\n{_LIMITS}"


def figure4(result: dict[str, Any]) -> str:
    """Return tables of speed-up in theory and measured, and of the networks' memory."""
    rows = result["points"]
    names = list(dict.fromkeys(name for row in rows for name in row["measured"]))
    parts = []
    for curve, title in (("channels", "(b) 3x3 filters"), ("filter", "(c) 256 channels")):
        table: list[Row] = [(curve, "S", "S'", *names, "of roof", "weights, float32", "as bits")]
        for row in rows:
            if row["curve"] == curve:
                cells = (_kernel_and_whole(row["measured"].get(name)) for name in names)
                size = str(row["channels"]) if curve == "channels" else f"{row['filter']}x{row['filter']}"
                bytes_ = (options.size_text(row[key] / 8) for key in ("float32_bits", "binary_bits"))
                theory = f"{row['theory']:.2f}", f"{row['theory_with_scales']:.2f}"
                table.append((size, *theory, *cells, f"{row['percent_of_roof']:.0f} %", *bytes_))
        parts += [f"{title}, 14x14 pixels, 256 filters", options.table(table, _NUMBERS)]
    memory: list[Row] = [("(a) memory", "parameters", "double", "float32", "bits", "first and last layer real")]
    for row in result["memory"]:
        sizes = (f"{row[key] / 2**20:,.2f} MiB" for key in ("double", "float32", "bits", "first_and_last_real"))
        memory.append((row["network"], f"{row['parameters']:,}", *sizes))
    parts += [
        options.table(memory, _NUMBERS),
        "S = 64 c N_W / (c N_W + 64) counts operations, 64 bits in one; S' counts A and K too. Measured:\n"
        "the baseline's time / ours, for our kernel alone (packed bits to int32) and for the whole operation\n"
        f"(float32 to float32, in the baseline's layout).\n{_PADDING}",
    ]
    return _joined(result, parts, rows)


def _kernel_and_whole(measured: dict[str, float] | None) -> str:
    return "-" if measured is None else f"{measured['kernel']:.1f}x, {measured['whole']:.1f}x"


def training(network: dict[str, Any]) -> str:
    """Return tables of a network's training steps, ours and torch's, and of our time by part."""
    profiles = [_profile(entry) for entry in network["contenders"] if "profile" in entry]
    return "\n\n".join([_training(network), *profiles, *_absences([network])])


def _training(result: dict[str, Any]) -> str:
    precisions = list(result["best"])
    head = ("images/s", "middle half", *(f"/ torch {precision}" for precision in precisions))
    rows: list[Row] = [("", *head, "network, memory", "process at most", "input")]
    for entry in result["contenders"]:
        low, high = entry["quartiles"]
        ratios = (_ratio(entry["ratios"][precision]) for precision in precisions)
        sizes = (options.size_text(entry["memory"][key]) if entry["memory"] else "-" for key in ("network", "peak"))
        speed = f"{entry['images_per_second']:,.1f}", f"{low:,.1f}-{high:,.1f}"
        rows.append((entry["name"], *speed, *ratios, *sizes, f"{entry['data']:.1%}" if entry["ours"] else "-"))
    starts = [
        f"{entry['name']} {', '.join(f'{value:.1f} ({kind})' for kind, value in entry['start'].items())}"
        for entry in result["contenders"]
        if "start" in entry
    ]
    ways: list[Row] = [("what torch was tried in", "images/s, roughly")]
    ways += [(name, f"{speed:,.1f}") for name, speed in sorted(result["tried"].items(), key=lambda way: -way[1])]
    return (
        f"{result['network']} ({result['method']}), {result['size']}x{result['size']} pixels, {result['classes']} "
        f"classes, {result['optimizer']}, a batch of {result['batch']}; torch trains the full-precision network\n\n"
        f"{options.table(rows, _NUMBERS)}\n\n"
        f"seconds from the start of a process to the end of its first step: {'; '.join(starts)}"
        + (f"\n\n{options.table(ways, _NUMBERS)}" if result["tried"] else "")
    )


def _ratio(ratio: dict[str, Any]) -> str:
    low, high = ratio["quartiles"]
    return f"{ratio['ratio']:.2f}x ({low:.2f}-{high:.2f})"


def _profile(entry: dict[str, Any]) -> str:
    profile = entry["profile"]
    shares: list[Row] = [(f"{entry['name']}: a step", "ms", "share")]
    for name, share in profile["shares"].items():
        shares.append((name, f"{1e3 * share * profile['seconds']:,.1f}", f"{share:.1%}"))
    gemms: list[Row] = [("share", "GEMM", "calls", "ms", "GMAC/s", "of its roof")]
    for gemm in profile["gemms"]:
        percent = "-" if gemm["percent_of_roof"] is None else f"{gemm['percent_of_roof']:.0f} % ({gemm['roof']})"
        speed = f"{1e3 * gemm['seconds']:,.2f}", f"{gemm['macs_per_second'] / 1e9:,.1f}"
        gemms.append((gemm["share"], gemm["gemm"], f"{gemm['calls']:g}", *speed, percent))
    roofs = (f"{name} {rate / 1e9:,.0f}" for name, rate in profile["roofs"].items() if rate)
    return (
        f"{options.table(shares, _NUMBERS)}\n\n{options.table(gemms, (2, 3, 4, 5))}\n\n"
        f"roofs of all threads, GMAC/s: {', '.join(roofs)}"
    )


def scale(result: dict[str, Any]) -> str:
    """Return a table of training on data sets of different sizes, and memory by epoch."""
    rows: list[Row] = [("images", "images/s", "middle half", "time an image", "input")]
    for entry in result["sets"]:
        low, high = entry["quartiles"]
        speed = f"{entry['images_per_second']:,.1f}", f"{low:,.1f}-{high:,.1f}"
        rows.append((f"{entry['images']:,}", *speed, _ratio(entry["ratio"]), f"{1e6 * entry['input_seconds']:,.1f} us"))
    memory = ", ".join(map(options.size_text, result["memory"] or ())) or "not known on this system"
    fewest = result["sets"][0]["images"]
    parts = [
        f"{result['network']} ({result['method']}), {result['size']}x{result['size']} pixels; time an image over "
        f"time an image with {fewest:,} images",
        options.table(rows, range(5)),
        f"private memory of the process after each epoch over {fewest:,} images: {memory}",
    ]
    return _joined(result, parts)


def distributed(result: dict[str, Any]) -> str:
    """Return a table of training on several ranks, and one that is computed for many."""
    heads = "where", "ranks", "images/s", "a step", "model", "travel", "hidden", "meetings", "sent a step"
    rows: list[Row] = [heads]
    for job in result["jobs"]:
        several = job["ranks"] > 1
        figures = (
            f"{1e3 * job['model_seconds']:,.1f} ms" if several else "",
            f"{1e3 * job['travelling']:,.1f} ms" if several else "",
            f"{job['hidden']:.0%}" if several else "",
            f"{1e3 * job['waiting']:,.1f} ms" if several else "",
            options.size_text(round(job["bytes"])) if several else "",
        )
        speed = f"{job['images_per_second']:,.1f}", f"{1e3 * job['seconds']:,.1f} ms"
        rows.append((job["where"], str(job["ranks"]), *speed, *figures))
    links: list[Row] = [("link", "latency", "bandwidth")]
    for link in result["links"]:
        links.append((link["name"], f"{1e6 * link['latency']:,.0f} us", f"{link['bandwidth'] / 1e6:,.0f} MB/s"))
    many: list[Row] = [
        ("network", "link", "gradients", "nodes", "images/s", "efficiency", f"{result['epochs']} epochs")
    ]
    for row in result["computed"]:
        what = row["network"], row["link"], row["compress"] or "whole", f"{row['nodes']:,}"
        many.append((*what, f"{row['images_per_second']:,.0f}", f"{row['efficiency']:.0%}", f"{row['hours']:,.1f} h"))
    parts = [
        f"{result['network']} ({result['method']}), {result['size']}x{result['size']} pixels, {result['images']} "
        f"images a rank, gradients {result['compress'] or 'whole'}; measured",
        options.table(rows, range(1, 9)),
        "links, fitted to exchanges on them",
        options.table(links, (1, 2)),
        *(f"not measured: {note}" for note in result["notes"]),
        "ImageNet, 224x224 pixels: COMPUTED by the model from one step on this machine, not measured",
        options.table(many, range(3, 7)),
    ]
    return _joined(result, parts)


def startup(result: dict[str, Any]) -> str:
    """Return a table of the time from the start of a process to its first logits."""
    both = result["cold"], result["cached"]
    rows: list[Row] = [("seconds", *(f"{kind} ({result[kind]['processes']})" for kind in ("cold", "cached")))]
    rows += [(f"  {stage}", *(f"{one['stages'][stage]:.3f}" for one in both)) for stage in both[0]["stages"]]
    for key, label in (("total", "start to first answer"), ("own", "without interpreter, numpy, numba")):
        rows.append((label, *(f"{one[key]:.3f}" for one in both)))
    what = result["model"] or "a ResNet-18 for 128x128 pixels"
    text = f"New processes, one image through {what}: kernels compiled (cold) or read from the cache, medians"
    return _joined(result, [text, options.table(rows, _NUMBERS)])


def ladder(result: dict[str, Any]) -> str:
    """Return a table of one layer on each rung of the ladder."""
    names = list(result["rungs"][0]["ratios"])
    rows: list[Row] = [("rung", "time, us", "GMAC/s", "of roof", *names, "")]
    for rung in result["rungs"]:
        rate = result["macs"] / rung["seconds"] / 1e9
        ratios = (f"{rung['ratios'][name]:,.2f}x" for name in names)
        share = f"{rung['percent_of_roof']:.1f} %"
        rows.append((rung["rung"], _microseconds(rung["seconds"]), f"{rate:,.1f}", share, *ratios, rung["what"]))
    emulated = f", limited to the instructions of {result['emulated']}" if result["emulated"] else ""
    times = ", ".join(f"{name} {_microseconds(spent)}" for name, spent in result["baselines"].items())
    parts = [
        f"{result['layer']}{emulated}; x: time of a float baseline / time of the rung",
        options.table(rows, range(1, 4 + len(names))),
        f"float baselines, microseconds: {times or 'none'}",
    ]
    return _joined(result, parts, [result])


def machine(about: dict[str, Any], threads: int, batch: int | str) -> str:
    """Return the processor, instruction set, roofs and versions, in three lines."""
    roofs = about["roofs"]
    versions = ", ".join(f"{name} {about[name]}" for name in ("xnor_ref", "python", "numpy", "numba"))
    optional = "".join(f", {name} {about[name]}" for name in ("torch", "onnxruntime") if about[name])
    return (
        f"{about['cpu']}: {about['instruction_set']}; threads: {threads}, batch: {batch}\n"
        f"roofs of one core: {roofs['binary_macs'] / 1e9:,.0f} G binary MAC/s, {roofs['float32_macs'] / 1e9:.1f} G "
        f"float32 MAC/s ({roofs['binary_macs'] / roofs['float32_macs']:.1f}x), "
        f"memory {roofs['memory_bytes'] / 1e9:.0f} GB/s, clock {roofs['clock'] / 1e9:.2f} GHz\n"
        f"{versions}, BLAS {about['blas']}{optional}"
    )


def caption(about: dict[str, Any], threads: int, batch: int) -> str:
    """Return the caption of a chart, one line."""
    libraries = (f"{name} {about[name]}" for name in ("numpy", "numba", "torch", "onnxruntime") if about[name])
    return f"{about['cpu']}, {about['instruction_set']}; threads: {threads}, batch: {batch}; {', '.join(libraries)}"


def _absences(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Return a list of at most one text: why baselines of `rows` were not measured."""
    reasons = {name: reason for row in rows for name, reason in row["absent"].items()}
    return ["\n".join(f"not measured: {name}: {reason}" for name, reason in reasons.items())] if reasons else []


def _joined(result: dict[str, Any], parts: Iterable[str], rows: Iterable[dict[str, Any]] = ()) -> str:
    """Return the whole text: the machine, `parts`, and the baselines missing from `rows`."""
    about = machine(result["machine"], result.get("threads", 1), result.get("batch", 1))
    return "\n\n".join([about, *parts, *_absences(rows)])


def _microseconds(seconds: float) -> str:
    value = 1e6 * seconds
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.3f}"
