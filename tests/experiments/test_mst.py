"""`reproduce mst`: what networks cost along the trees of their filters, as figures, table and picture."""

import json

import pytest

from tests.training.training_samples import tiny_config
from xnor_ref.compress import costs
from xnor_ref.experiments import catalogue, execute, mst, plan, report
from xnor_ref.packed import compressing
from xnor_ref.training.job import train_run

TINY = {"train_size": 48, "val_size": 24, "batch_size": 12, "epochs": 2, "lr": 0.01, "model_options": {"width": 4}}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """(plan, results) of three of its rows at the smallest size."""
    root = tmp_path_factory.mktemp("mst")
    said = {**TINY, "data_dir": str(root)}
    rows = ["none", "tree-0.3", "centre-0.1"]
    made = plan.make_plan(catalogue.find("mst"), said, rows=rows, root=root / "runs")
    return made, execute.run_plan(made)


def test_every_run_has_the_costs_of_its_file(results):
    made, found = results
    assert json.loads((made.folder / report.RESULTS).read_bytes()) == found
    assert [row["name"] for row in found["rows"]] == ["none", "tree-0.3", "centre-0.1"]
    for row in found["rows"]:
        network = compressing.compress(*compressing.read(made.folder / f"{row['name']}-seed0" / "model.safetensors"))
        want = costs.total(layer.costs for layer in network.layers)
        figures = row["runs"][0]["compression"]
        assert figures["ratio"] == want.ratio and figures["depth"] == want.depth
        assert figures["direct_xnors"] == want.direct_xnors and set(figures["layers"]) == {
            layer.node.name for layer in network.layers
        }
        assert 0.4 < figures["random_ratio"] < 0.55  # 8 and 16 filters of 36 and 72 signs
        assert figures["packed_bytes"] == sum(layer.packed_bytes for layer in network.layers)


def test_the_table_marks_what_random_filters_need(results):
    made, found = results
    text = (made.folder / report.TABLE).read_text()
    (row,) = (line for line in text.splitlines() if line.startswith("| not pulled |") and " M of " in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    of = found["rows"][0]["runs"][0]["compression"]
    assert cells[2:4] == [f"{1 / of['ratio']:.2f}", f"{1 / of['random_ratio']:.2f}"]
    assert mst._best(found) in text


def rows_of(**values):
    """Results with rows of (ratio, top-1 on the half that chooses, on the other)."""
    rows = []
    for name, (ratio, *halves) in values.items():
        compression = dict.fromkeys((*mst._MEANS, "tree_bytes", "packed_bytes"), 1.0) | {"ratio": ratio, "depth": 3}
        runs = [{"compression": compression | {"random_ratio": 0.5}, "top1": sum(halves) / 2, "halves": halves}]
        rows.append({"name": name, "base": "none", "label": name, "runs": runs, "settings": {}})
    return {"rows": rows, "title": "title"}


def test_the_best_row_is_the_smallest_within_a_point():
    found = rows_of(none=(0.4, 0.700, 0.71), near=(0.25, 0.691, 0.68), far=(0.1, 0.689, 0.72))
    best = mst._best(found)
    assert (
        "first row: near, 4.00 times fewer (1.60 times fewer than the first row, 2.00 times fewer than random" in best
    )
    assert "-3.0 points. The row was chosen on one half" in best
    alone = rows_of(none=(0.4, 0.7, 0.7), far=(0.1, 0.6, 0.7))
    assert "No other row is finished that lies within 1 point" in mst._best(alone)
    assert "nothing to compare" in mst._best(rows_of(near=(0.25, 0.69, 0.69)))


def test_the_picture(results, tmp_path):
    mst.plot(results[1], tmp_path / "frontier.svg")
    drawn = (tmp_path / "frontier.svg").read_text()
    assert "random filters, wired" in drawn and "no numbers" not in drawn


def test_figures_of_a_network_of_its_own(tmp_path):
    train_run(tiny_config(tmp_path, epochs=1), out=tmp_path / "run")
    found = mst.figures(tmp_path / "run" / "model.safetensors")
    assert found["tree_bytes"] <= found["packed_bytes"] and found["wired_bits"] < found["direct_bits"]
