"""The whole pipeline with scans, cache, checkpoints and run on an object store, and a kill there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.s3_server import elsewhere, names
from tests.tiny import FIELDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parents[2]


def command(bucket: str) -> list[str]:
    given = FIELDS | {"data.phantoms": 24, "search.trials": 2, "pretrain.epochs": 12}
    given |= {"data.root": f"{bucket}/scans", "run.dir": f"{bucket}/runs/demo"}
    return [sys.executable, "-m", "jobs.run", "configs/demo.yaml", *(f"{k}={json.dumps(v)}" for k, v in given.items())]


def run(bucket: str, *words: str) -> str:
    done = subprocess.run([*command(bucket), *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def test_a_run_on_an_object_store_survives_its_driver(bucket):
    store, folder = elsewhere(f"{bucket}/runs/demo")
    driver = subprocess.Popen(
        command(bucket), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.time() + 400
        while not store.glob(f"{folder}/pretrain/train/checkpoint_*/model.safetensors"):
            assert driver.poll() is None, "the run ended before it pretrained"
            assert time.time() < deadline
            time.sleep(0.5)
    finally:
        children = psutil.Process(driver.pid).children(recursive=True)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        psutil.wait_procs(children, timeout=240)
    said = run(bucket)
    assert "search: already done" in said
    assert "pretrain: goes on" in said
    assert b"<html" in store.cat_file(f"{folder}/report.html")
    metrics = json.loads(store.cat_file(f"{folder}/metrics.json"))
    assert metrics["segmentation"]["test"]["cases"] > 0
    epochs = [json.loads(line)["epoch"] for line in store.cat_file(f"{folder}/pretrain/history.jsonl").splitlines()]
    assert epochs == list(range(1, 13))
    assert not any("owner" in name for name in names(f"{bucket}/runs/demo"))  # the lock is given back
    again = run(bucket)
    assert all(f"{stage}: already done" in again for stage in ("search", "pretrain", "finetune", "evaluate"))
