"""The harness itself, without Ray: a stand-in for a run that goes on where it was killed, or does not."""

import subprocess
import sys

import psutil
import pytest

from tests.cluster import disturb
from tests.cluster.disturb import Disturbance, Stuck
from tests.cluster.plan import Kill
from tests.cluster.small_run import Driver

STAND_IN = """
import json, pathlib, sys, time
run, broken = pathlib.Path(sys.argv[1]), sys.argv[2] == "broken"
def put(file, text):
    part = run / "part"
    part.write_text(text)
    part.replace(file)
for stage in ("pretrain", "finetune"):
    mark, history = run / stage / "stage.json", run / stage / "history.jsonl"
    mark.parent.mkdir(parents=True, exist_ok=True)
    if mark.exists() and json.loads(mark.read_text())["done"]:
        continue
    put(mark, '{"done": false}')
    done = len(history.read_text().splitlines()) if history.exists() else 0
    if done and broken:
        sys.exit(1)
    for epoch in range(max(0, done - 2), 15):
        time.sleep(0.05)
        put(history, "{}\\n" * (epoch + 1))
    put(mark, '{"done": true}')
"""


class StandIn(Driver):
    broken = "whole"

    def _start(self):
        self._words = [sys.executable, "-c", STAND_IN, str(self.log.with_suffix("")), self.broken]
        super()._start()


class OneWorker:
    """A cluster with one process, titled as Ray titles it."""

    def __init__(self):
        self.worker = subprocess.Popen(["bash", "-c", "exec -a ray::RayTrainWorker.run sleep 100"])

    def family(self):
        return [psutil.Process(self.worker.pid)]


@pytest.fixture
def cluster():
    one = OneWorker()
    yield one
    one.worker.kill()
    one.worker.wait()


def kills(*planned):
    return [Kill(n, 0, stage, victim, at, 0.0, 0.0, 0.0) for n, (stage, victim, at) in enumerate(planned)]


def test_each_kill_lands_in_its_stage_and_the_command_is_given_again(cluster, tmp_path):
    run = tmp_path / "run"
    driver = StandIn(tmp_path, run, "")
    disturbance = Disturbance(cluster, driver, run, {"pretrain": 15, "finetune": 15})
    planned = kills(("pretrain", "train worker", 0.2), ("pretrain", "driver", 0.6), ("finetune", "driver", 0.3))
    told = list(disturbance.kills(planned))
    disturbance.finish()
    assert cluster.worker.poll() is not None
    assert [(kill["stage"], kill["outcome"]) for kill in told] == [
        ("pretrain", "goes on by itself"),
        ("pretrain", "the same command goes on"),
        ("finetune", "the same command goes on"),
    ]
    assert all(kill.at * 15 - 1 <= facts["done"] < 15 for kill, facts in zip(planned, told, strict=True))
    assert driver.statuses == [-9, -9]


def test_a_kill_that_comes_after_its_stage_is_no_kill(cluster, tmp_path):
    run = tmp_path / "run"
    for stage in ("pretrain", "finetune"):
        (run / stage).mkdir(parents=True)
        (run / stage / "stage.json").write_text('{"done": true}')
    driver = StandIn(tmp_path, run, "")
    disturbance = Disturbance(cluster, driver, run, {"pretrain": 15})
    assert not list(disturbance.kills(kills(("pretrain", "driver", 0.5))))
    disturbance.finish()
    assert driver.commands == 1


def test_a_run_that_does_not_go_on_is_told(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(disturb, "LONGEST_S", 5.0)
    monkeypatch.setattr(StandIn, "broken", "broken")
    monkeypatch.setattr(StandIn, "MOST", 3)
    run, told = tmp_path / "run", []
    disturbance = Disturbance(cluster, StandIn(tmp_path, run, ""), run, {"pretrain": 15})
    with pytest.raises(Stuck, match="given 4 times"):
        told += disturbance.kills(kills(("pretrain", "driver", 0.3)))
    assert run.exists()
