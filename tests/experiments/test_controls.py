"""Controls: intervals and verdicts, the choice of a learning rate, and which runs that takes."""

import dataclasses
import json
import statistics

import numpy as np
import pytest

from tests.experiments.test_reproduce import TINY, data_dir
from xnor_ref.cli import main
from xnor_ref.experiments import catalogue, execute, plan, report, verdict
from xnor_ref.experiments.definition import Experiment, Row
from xnor_ref.experiments.verdict import Claim

__all__ = ["data_dir"]  # the fixture

BETTER, WORSE, SAME = (Claim("it is", "a", "b", sign) for sign in (1, -1, 0))
LOW, HIGH, NEAR, WIDE = [50.0, 50.5, 51.0], [55.0, 55.5, 56.5], [50.2, 50.6, 50.8], [40.0, 52.0, 61.0]


@pytest.mark.parametrize(
    ("claim", "base", "other", "said", "why"),
    [
        (BETTER, LOW, HIGH, "reproduced", "better"),
        (BETTER, HIGH, LOW, "not reproduced", "worse"),
        (BETTER, LOW, NEAR, "not reproduced", "the same within 1.5 points"),
        (BETTER, LOW, WIDE, "undecided", "not settled"),
        (WORSE, HIGH, LOW, "reproduced", "worse"),
        (WORSE, LOW, HIGH, "not reproduced", "better"),
        (SAME, LOW, NEAR, "reproduced", "the same within 1.5 points"),
        (SAME, LOW, HIGH, "not reproduced", "better"),
        (SAME, LOW, WIDE, "undecided", "not settled"),
    ],
)
def test_verdicts(claim, base, other, said, why):
    found = verdict.judge(claim, base, other)
    assert (found["verdict"], found["why"]) == (said, why)
    assert found["low"] < found["difference"] < found["high"]


def test_an_interval_by_hand():
    """Variances 1 and 4 of three each: error sqrt(5/3), degrees (5/3)^2 / (1/9/2 + 16/9/2) = 50/17."""
    found, low, high = verdict.difference([1, 2, 3], [4, 6, 8], 0.95)
    reach = verdict.quantile(0.975, 50 / 17) * (5 / 3) ** 0.5
    assert (found, low, high) == pytest.approx((4, 4 - reach, 4 + reach)) and reach == pytest.approx(4.15, abs=0.01)
    assert verdict.difference([1, 1], [2, 2], 0.95) == (1, 1, 1)


def test_intervals_cover_as_often_as_they_say():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(2000):
        _, low, high = verdict.difference(rng.normal(0, 1, 3).tolist(), rng.normal(1, 2, 4).tolist(), 0.9)
        inside += low < 1 < high
    assert 0.88 < inside / 2000 < 0.93


@pytest.fixture(scope="module")
def control(data_dir, tmp_path_factory):
    """Two arms with two rates each, one of them hopeless, and three seeds: (plan, results)."""
    rows = tuple(
        Row(f"{arm}-lr{rate:g}", f"{arm}, lr {rate:g}", {"weight_scale": arm, "lr": rate}, arm=arm)
        for arm in ("alpha", "off")
        for rate in (1e-7, 0.01)
    )
    claims = (Claim("alpha helps", "off", "alpha", 1, 10.6),)
    made = Experiment(
        "control-test", "A control", "Does it?", rows, settings={"all": {"method": "xnor"}}, claims=claims
    )
    said = {**TINY, "epochs": 3, "data_dir": str(data_dir)}
    planned = plan.make_plan(made, said, seeds=3, root=tmp_path_factory.mktemp("control"))
    return planned, execute.run_plan(planned)


def test_further_seeds_are_of_the_best_rate_only(control):
    made, results = control
    seeds = {row["name"]: [run["seed"] for run in row["runs"]] for row in results["rows"]}
    assert sorted(map(len, seeds.values())) == [1, 1, 3, 3] and results["complete"]
    assert len(list(made.folder.glob("*/report.json"))) == 8
    for arm in ("alpha", "off"):
        names = [row["name"] for row in results["rows"] if row["arm"] == arm]
        tops = {row["name"]: row["runs"][0]["top1"] for row in results["rows"]}
        assert max(names, key=lambda name: (len(seeds[name]), tops[name])) == max(names, key=tops.__getitem__)


def test_the_figures_leave_out_the_seed_that_chose(control):
    made, results = control
    by_arm = {arm["arm"]: arm for arm in results["judged"]["arms"]}
    for arm in by_arm.values():
        (row,) = (row for row in results["rows"] if row["name"] == arm["row"])
        assert arm["top1"] == [100 * run["top1"] for run in row["runs"] if run["seed"] != 0] and len(arm["top1"]) == 2
    (claim,) = results["judged"]["claims"]
    means = [statistics.fmean(by_arm[arm]["top1"]) for arm in ("alpha", "off")]
    assert claim["difference"] == pytest.approx(means[0] - means[1]) and claim["paper"] == 10.6
    text = (made.folder / "table.md").read_text()
    assert f"| +10.6 | {claim['difference']:+.1f} ({claim['low']:+.1f} to" in text and claim["verdict"] in text


def test_a_control_goes_on_where_it_stopped(control, tmp_path):
    made, results = control
    again = execute.run_plan(made)
    assert json.loads(json.dumps(again["judged"])) == json.loads(json.dumps(results["judged"]))
    fresh = dataclasses.replace(made, folder=tmp_path / "control-test-shapes-quick", runs=made.runs)
    states = {run.name: execute.State(run.folder, None, 0) for run in fresh.runs}
    assert len(execute.planned_runs(fresh, states)) == 4 + 2 * 2  # each arm's first rate stands for the best


def test_a_rate_that_fails_does_not_win():
    rows = [
        {"arm": "a", "name": "a-lr1", "runs": [], "failures": {"a-lr1-seed0": "NaN"}},
        {"arm": "a", "name": "a-lr2", "runs": [{"seed": 0, "top1": 0.1}], "failures": {}},
        {"arm": "b", "name": "b-lr1", "runs": [{"seed": 0, "top1": 0.1}], "failures": {}},
        {"arm": "b", "name": "b-lr2", "runs": [], "failures": {}},
    ]
    assert verdict.best_rates(rows, 0) == {"a": "a-lr2"}
    assert verdict.judged(rows, [BETTER], 0) == {"arms": [{"arm": "a", "row": "a-lr2", "top1": []}], "claims": []}


def test_claims_name_arms_that_there_are():
    for experiment in catalogue.GROUPS["controls"]:
        arms = {row.arm for row in experiment.rows}
        assert {name for claim in experiment.claims for name in (claim.base, claim.other)} <= arms
        assert all(report.needed(made, [], made.runs) for made in [plan.make_plan(experiment, {}, seeds=4)])


def test_a_group_is_asked_for_by_name(capfd):
    assert main(["reproduce", "controls", "--rows", "x"]) == 2
    assert "--rows needs the name of one experiment, not controls" in capfd.readouterr().err
    assert main(["reproduce", "control"]) == 2
    assert "did you mean 'controls'" in capfd.readouterr().err
