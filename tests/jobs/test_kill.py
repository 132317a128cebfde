"""A driver killed at a random moment of a stage, and the same command again: it ends like an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from upath import UPath

from pipeline.training.history import read_history
from tests.cluster.judge import counts
from tests.tiny import FIELDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

FRESH = {
    "pretrain.epochs": 12,
    "finetune.epochs": 8,
    "data.phantoms": 24,
    "search.grace": 2,  # no trial is stopped early: what remains of the search is a function of the seed
    "model.depth": 4,
    "model.width": 48,
}
TIMES = ("seconds", "samples_per_second", "data_wait_fraction")
TOLERANCE = 0.02  # of a metric; on one machine nothing but timing differs


TABLE = {  # two cells a seed, one after the other
    "benchmark.seeds": [0, 1],
    "benchmark.arms": ["random_75", "scratch"],
    "benchmark.reference": "random_75",
    "resources.cpus_per_worker": os.cpu_count(),
}


def command(folder: Path, job: str) -> list[str]:
    fields = FIELDS | FRESH | {"data.root": str(folder / "scans"), "run.dir": str(folder / "run")}
    fields |= TABLE if job == "benchmark" else {}
    words = [f"{name}={json.dumps(value)}" for name, value in fields.items()]
    config = folder / "killed.yaml"
    config.write_text("data: {layout: busi}\n")
    return [sys.executable, "-m", f"jobs.{job}", str(config), *words]


def run_whole(folder: Path, job: str = "run") -> None:
    done = subprocess.run(command(folder, job), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def kill_during(folder: Path, begun: Path, delay: float, job: str = "run") -> None:
    """Start the job and end its driver, and nothing else, `delay` seconds after the file `begun` appears."""
    driver = subprocess.Popen(
        command(folder, job), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.time() + 300
        while not begun.exists():
            assert driver.poll() is None, "the run ended before the stage began"
            assert time.time() < deadline
            time.sleep(0.05)
        time.sleep(delay)
    finally:
        children = psutil.Process(driver.pid).children(recursive=True)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    _, alive = psutil.wait_procs(children, timeout=240)
    assert not alive, f"processes of a dead driver live on: {alive}"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run_whole(folder)
    return folder / "run"


STAGES = {
    "preprocess": ("cache/owner.json", 4.0),
    "search": ("search/stage.json", 15.0),
    "pretrain": ("pretrain/history.jsonl", 3.0),
    "finetune": ("finetune/history.jsonl", 3.0),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_ends_like_an_undisturbed_one(stage, undisturbed, tmp_path):
    begun, longest = STAGES[stage]
    kill_during(tmp_path, tmp_path / "run" / begun, random.Random(stage).uniform(0, longest))
    run_whole(tmp_path)
    run = tmp_path / "run"
    pd.testing.assert_frame_equal(pd.read_csv(run / "splits.csv"), pd.read_csv(undisturbed / "splits.csv"))
    assert (run / "search" / "best.yaml").read_text() == (undisturbed / "search" / "best.yaml").read_text()
    for trained in ("pretrain", "finetune"):
        got, expected = (
            [{k: v for k, v in record.items() if k not in TIMES} for record in read_history(UPath(root) / trained)]
            for root in (run, undisturbed)
        )
        assert [r["samples_seen"] for r in got] == [r["samples_seen"] for r in expected]
        assert [r.get("ratio") for r in got] == [r.get("ratio") for r in expected]
        assert [r["loss"] for r in got] == pytest.approx([r["loss"] for r in expected], rel=1e-3)
    got, expected = (json.loads((root / "metrics.json").read_text()) for root in (run, undisturbed))
    assert counts(got["data"]) == counts(expected["data"])
    for metric in ("dsc", "ppv", "sen"):
        value = expected["segmentation"]["test"][metric]
        assert got["segmentation"]["test"][metric] == pytest.approx(value, abs=TOLERANCE)


def test_a_table_that_is_killed_in_its_middle_ends_like_an_undisturbed_one(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    run_whole(whole, "benchmark")
    third = killed / "run" / "cells" / "seed_1" / "random_75" / "pretrain" / "history.jsonl"
    kill_during(killed, third, 0.5, "benchmark")
    trained = {file: file.stat().st_mtime_ns for file in killed.rglob("seed_0/*/finetune/segmenter/*.safetensors")}
    assert len(trained) == 2
    assert len(pd.read_csv(killed / "run" / "table.csv")) == 2
    run_whole(killed, "benchmark")
    assert trained == {file: file.stat().st_mtime_ns for file in trained}
    got, expected = (pd.read_csv(folder / "run" / "table.csv") for folder in (killed, whole))
    same = ["arm", "seed", "labels", "samples_seen", "visible", "pretrain_flops"]
    pd.testing.assert_frame_equal(got[same], expected[same])
    for metric in ("dsc", "ppv", "sen"):
        assert got[metric].tolist() == pytest.approx(expected[metric].tolist(), abs=TOLERANCE)
    assert "All runs are in it." in (killed / "run" / "table.md").read_text()
