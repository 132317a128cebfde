"""From no machine: the job asks, machines come, it runs, machines go."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import FIELDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def drill(folder, **fields):
    """A small run of the demo on a cluster without workers: what was told of the machines, and the job's words."""
    given = FIELDS | {"data.phantoms": 24, "search.enabled": False, "resources.gpu": "no"} | fields
    given |= {"run.dir": str(folder / "run"), "data.root": str(folder / "scans")}
    words = [f"{name}={json.dumps(value)}" for name, value in given.items()]
    command = [sys.executable, "-m", "jobs.run", "configs/demo.yaml", *words]
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.autoscaling", str(folder / "home"), "--", *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_machines_come_for_a_run_and_go_when_it_is_done(tmp_path):
    told, said = drill(tmp_path, **{"resources.workers": 2})
    assert told["status"] == 0, said[-3000:]
    assert told["before"] == 0 < told["most"]
    assert told["after"] == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["segmentation"]["test"]["cases"] > 0


def test_what_no_machine_offers_is_refused_at_once(tmp_path):
    told, said = drill(tmp_path, **{"resources.workers": 40, "pretrain.batch": 80, "finetune.batch": 80})
    assert told["status"] == 1
    assert "40 training worker(s) with 1 core(s) each will never fit" in said
    assert not (tmp_path / "run" / "cache").exists()
