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


def command(folder: Path) -> list[str]:
    fields = FIELDS | FRESH | {"data.root": str(folder / "scans"), "run.dir": str(folder / "run")}
    words = [f"{name}={json.dumps(value)}" for name, value in fields.items()]
    config = folder / "killed.yaml"
    config.write_text("data: {layout: busi}\n")
    return [sys.executable, "-m", "jobs.run", str(config), *words]


def run_whole(folder: Path) -> None:
    done = subprocess.run(command(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def kill_during(folder: Path, begun: Path, delay: float) -> None:
    """Start the run and end its driver, and nothing else, `delay` seconds after the file `begun` appears."""
    driver = subprocess.Popen(
        command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
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
    assert got["data"] == expected["data"]
    for metric in ("dsc", "ppv", "sen"):
        value = expected["segmentation"]["test"][metric]
        assert got["segmentation"]["test"][metric] == pytest.approx(value, abs=TOLERANCE)
