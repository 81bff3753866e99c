"""The cost model of training on several ranks, its table, and what `bench distributed` says where it cannot run."""

import pytest

from xnor_ref.bench.measuring.process import Unavailable
from xnor_ref.bench.training import distributed, hosts
from xnor_ref.cli import main
from xnor_ref.cli.bench import bench_text

LINK = distributed.Link("cable", 1e-4, 1e9)


def job(ranks, **more):
    link = [{"numbers": numbers, "seconds": LINK.sum(ranks, 4 * numbers, 1)} for numbers in (1 << 12, 1 << 16, 1 << 20)]
    figures = {"seconds": 0.1, "waiting": 0.01, "unhidden": 0.001, "travelling": 0.004, "meetings": 10.0, "bytes": 8e6}
    about = {"where": "this machine", "images": 32, "threads": 1, "parameters": 10**6, "meeting": LINK.meeting(ranks)}
    return {"ranks": ranks, **about, **figures, "link": link, **more}


def test_the_model_of_a_step():
    assert distributed.step_seconds(0.3, LINK, 1, 4e6, 10, 4) == (0.3, 0.0)
    seconds, travel = distributed.step_seconds(0.3, LINK, 4, 4e6, 10, 4)
    assert travel == pytest.approx(8 * 2e-4 + 6e-3) and seconds == pytest.approx(0.3 + 10 * 2e-4)  # all is hidden
    seconds, travel = distributed.step_seconds(0.003, LINK, 4, 4e6, 0, 4)
    assert seconds == pytest.approx(0.003 + travel - 0.002)


def test_a_link_is_fitted_to_exchanges():
    for ranks in (2, 4):
        found = distributed.fitted("cable", job(ranks))
        assert found.latency == pytest.approx(LINK.latency) and found.bandwidth == pytest.approx(LINK.bandwidth)


def test_the_table_says_that_it_is_computed(monkeypatch):
    rows = distributed.rows_of("alexnet", job(1, images=32), meetings=5)
    assert len(rows) == 12 and {row["nodes"] for row in rows} == {16, 64, 1024}
    assert all(0 < row["efficiency"] <= 1 and row["hours"] > 0 for row in rows)
    slow = [row["images_per_second"] for row in rows if row["link"].startswith("10 ") and row["nodes"] == 1024]
    assert slow[1] >= slow[0]  # signs
    monkeypatch.setattr(distributed, "_job", lambda start, task: job(int(start[-1])))
    monkeypatch.setattr(distributed, "mpirun", lambda: "mpirun")
    task = {"size": 64, "classes": 200, "method": "xnor", "images": 32, "steps": 1, "compress": None}
    more = {"ranks": (1, 2, 4), "hosts": False, "rate": None, "delay": None, "imagenet_images": 4}
    result = distributed.measure_distributed("vgg-small", **task, **more)
    assert [one["hidden"] for one in result["jobs"][1:]] == [0.75, 0.75]
    machine = {"cpu": "?", "isa": "?"}
    monkeypatch.setattr(bench_text, "machine", lambda *_: str(machine))
    text = bench_text.distributed({**result, "machine": machine})
    assert "COMPUTED" in text and "not measured" in text and " 75%" in text


def test_where_it_cannot_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(hosts.shutil, "which", lambda *_, **__: None)
    assert main(["bench", "distributed", "--quick"]) == 2
    assert "pip install 'xnor_ref[mpi]'" in capsys.readouterr().err
    with pytest.raises(Unavailable, match="two hosts need ip, tc, unshare"), hosts.two_hosts():
        pass
    assert main(["bench", "distributed", "--ranks", "two"]) == 2
