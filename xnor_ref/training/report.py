"""The end of a run: both networks are written, evaluated, compared and reported."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from xnor_ref import models
from xnor_ref.datasets import Dataset
from xnor_ref.packed import load_packed
from xnor_ref.packed.freeze import freeze
from xnor_ref.storage import sha256_file, write_atomically
from xnor_ref.training.distributed.team import Team
from xnor_ref.training.fitting.evaluation import evaluate_both, require_agreement
from xnor_ref.training.fitting.observer import Observer
from xnor_ref.training.storing.float_file import save_float
from xnor_ref.training.storing.runs import RunFolder


def finish(
    folder: RunFolder,
    model: models.Network,
    data: Dataset,
    about: dict[str, Any],
    observer: Observer,
    team: Team | None = None,
) -> dict[str, Any]:
    """Write both networks, evaluate each by its own code, compare, and report.

    The processes of a team share the images, and the first one writes.

    Raises EquivalenceError if they disagree on an image.
    """
    team = team or Team()
    packed = freeze(model, **about)
    if team.writes:
        save_float(folder.float_path, model, about)
        packed.save(folder.packed_path)
        save_sample(folder.path / "sample.png", data)
        packed = load_packed(folder.packed_path)
    result = evaluate_both(model, packed, data, observer, team)
    if not team.writes:
        return result
    lines = folder.metrics()
    whole = [line["seconds"] + line.get("val_seconds", 0.0) for line in lines if line.get("whole_epoch")]
    best = max(lines, key=lambda line: line.get("val_top1", -1.0), default={})
    report = {
        "run": str(folder.path),
        **{key: about["training"][key] for key in ("dataset", "model", "method", "epochs", "seed")},
        **result,
        "best_epoch": best.get("epoch"),
        "best_val_top1": best.get("val_top1"),
        "float_bytes": folder.float_path.stat().st_size,
        "packed_bytes": folder.packed_path.stat().st_size,
        "float_sha256": sha256_file(folder.float_path),
        "packed_sha256": sha256_file(folder.packed_path),
        "seconds_per_epoch": sum(whole) / len(whole) if whole else None,
    }
    require_agreement(result)
    folder.write_json(folder.report_path, report)
    return report


def finished_report(folder: RunFolder) -> dict[str, Any] | None:
    """Return the report of a finished run, or None if its files no longer match the report."""
    try:
        report = json.loads(folder.report_path.read_bytes())
        found = sha256_file(folder.float_path), sha256_file(folder.packed_path)
        if found != (report["float_sha256"], report["packed_sha256"]) or "packed_halves" not in report:
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    report["run"] = str(folder.path)
    return report


def save_sample(path: Path, data: Dataset) -> None:
    """Write the first validation image as PNG, as a sample for `predict`."""
    from PIL import Image

    pixels, buffer = np.asarray(data.val.images[0]), io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())
