"""Kills spoil nothing: the short form of `make chaos`, and what its own parts promise."""

import json
import subprocess
import sys

import pytest

from tests.cluster.judge import Verdict, _history, counts
from tests.cluster.plan import A_RUN, VICTIMS, plan
from tests.cluster.spot import ROOT
from tests.cluster.table import write_table


def test_thirty_kills_hit_every_victim_of_every_stage():
    planned = plan(0, 30)
    assert planned == plan(0, 30) != plan(1, 30)
    assert [kill.number for kill in planned] == list(range(30))
    hit = {(kill.stage, kill.victim) for kill in planned}
    assert hit == {(stage, victim) for stage, victims in VICTIMS.items() for victim in victims}
    for run in range(10):
        stages = [kill.stage for kill in planned if kill.run == run]
        assert len(stages) == A_RUN
        assert stages == sorted(set(stages), key=list(VICTIMS).index)


def history(folder, epochs, losses=None):
    folder.mkdir()
    records = [{"epoch": e, "samples_seen": 8 * e, "ratio": 0.5, "loss": (losses or {}).get(e, 1.0)} for e in epochs]
    (folder / "history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.mark.parametrize(
    ("epochs", "losses", "spoilt"),
    [
        ([1, 2, 3], {3: 1.001}, False),
        ([1, 2, 3], {3: 1.1}, True),
        ([1, 2, 3], {3: float("nan")}, True),
        ([1, 2, 2, 3], {}, True),  # counted twice
        ([1, 3], {}, True),  # lost
    ],
)
def test_an_epoch_that_is_lost_doubled_or_changed_is_seen(tmp_path, epochs, losses, spoilt):
    verdict = Verdict()
    _history(verdict, "pretrain", history(tmp_path / "got", epochs, losses), history(tmp_path / "expected", [1, 2, 3]))
    assert bool(verdict.differences) is spoilt


def test_a_kill_may_cost_time_but_no_case():
    data = {"cases": 48, "rejected": 1, "preprocess_seconds": 4.6, "splits": {"train": 25}}
    assert counts(data | {"preprocess_seconds": 19.0}) == counts(data)
    for spoilt in ({"cases": 47}, {"rejected": 2}, {"splits": {"train": 24}}):
        assert counts(data | spoilt) != counts(data)


def test_kills_of_a_run_that_was_cut_short_do_not_count(tmp_path):
    kill = {
        "run": "run-00",
        "stage": "pretrain",
        "done": 3,
        "of": 9,
        "victim": "driver",
        "outcome": "o",
        "seconds": 1.0,
    }
    kills = [kill | {"number": 0, "began": 1.0}, kill | {"number": 0, "began": 2.0}]
    ended = {"run": "run-00", "began": 2.0, "seconds": 9.0, "loss": 0.0, "metric": 0.0, "differences": []}
    runs = [{"run": "undisturbed", "seconds": 5.0}, ended]
    for name, lines in (("kills", kills), ("runs", runs)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = write_table(tmp_path)
    assert (summary.landed, summary.spoilt) == (1, 0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_three_kills_spoil_nothing(tmp_path):
    words = [sys.executable, "-m", "tests.cluster.chaos", "--kills", "3", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len((tmp_path / "kills.csv").read_text().splitlines()) == 4
