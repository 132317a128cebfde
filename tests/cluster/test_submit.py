"""`ray job submit` to a real head on loopback: report, exit status and log, and a stop that can be resumed."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.cluster.head import BIN, environment, free_port, started
from tests.tiny import FIELDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Environment of a client of a running head: its address and token."""
    home = tmp_path_factory.mktemp("home")
    # without this file a dashboard looks for a cloud's metadata service
    (home / "ray_bootstrap_config.yaml").write_text("{}\n")
    here, dashboard = environment(home), free_port()
    words = ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--num-cpus=2"]
    words += ["--object-store-memory=400000000", f"--temp-dir={tmp_path_factory.mktemp('r')}"]
    with started(free_port(), words, here) as process:
        client = here | {"RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"}
        deadline = time.time() + 90
        while job(client, "submit", "--", "true").returncode:  # the job server is up before it can start a job
            assert process.poll() is None
            assert time.time() < deadline, "the head takes no job"
            time.sleep(1)
        yield client


def job(head, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "ray", "job", *words], env=head, cwd=ROOT, capture_output=True, text=True, check=False)


def entry(*words: str, **fields) -> list[str]:
    given = FIELDS | {"data.phantoms": 24, "search.enabled": False} | fields
    return [
        "--",
        "python",
        "-m",
        "jobs.run",
        "configs/demo.yaml",
        *(f"{k}={json.dumps(v)}" for k, v in given.items()),
        *words,
    ]


def test_scans_caches_runs_and_the_version_history_stay_behind(head):
    count = "import os; print('names', sorted(os.listdir())); "
    count += "print('bytes', sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk('.') for f in files))"
    said = job(head, "submit", "--working-dir", ".", "--", "python", "-c", count).stdout
    assert int(re.search(r"bytes (\d+)", said)[1]) < 5e6
    names = ast.literal_eval(re.search(r"names (\[.*\])", said)[1])
    assert {"jobs", "pipeline", "configs"} <= set(names)
    assert not {".git", ".venv", "runs", "build"} & set(names)


def test_a_submitted_run_leaves_its_report_and_a_readable_log(head, tmp_path):
    places = {"run.dir": str(tmp_path / "run"), "data.root": str(tmp_path / "scans")}
    done = job(head, "submit", "--working-dir", ".", *entry(**places))
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert "pretrain: done in" in said
    assert "TrainingReport" not in said
    assert "succeeded" in said
    assert "<html" in (tmp_path / "run" / "report.html").read_text()
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["segmentation"]["test"]["cases"] > 0
    written = "".join(path.read_text() for path in (tmp_path / "run").rglob("*.yaml")) + said
    assert head["RAY_AUTH_TOKEN"] not in written


def test_a_mistake_ends_the_job_with_its_message(head, tmp_path):
    done = job(head, "submit", "--working-dir", ".", *entry(**{"run.dir": "runs/lost", "mask.ratio.start": 1.2}))
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "mask.ratio.start = 1.2" in said
    assert "run.dir = runs/lost: relative to the job's working directory" in said
    assert "Traceback" not in said


def test_a_stopped_job_goes_on_when_it_is_submitted_again(head, tmp_path):
    places = {"run.dir": str(tmp_path / "run"), "data.root": str(tmp_path / "scans"), "pretrain.epochs": 30}
    name = "to-be-stopped"
    assert (
        job(head, "submit", "--no-wait", "--submission-id", name, "--working-dir", ".", *entry(**places)).returncode
        == 0
    )
    deadline = time.time() + 300
    while len(list((tmp_path / "run" / "pretrain" / "train").glob("checkpoint_*"))) < 2:
        assert time.time() < deadline
        time.sleep(0.2)
    job(head, "stop", name)
    while "was stopped" not in (told := job(head, "status", name)).stdout + told.stderr:
        assert time.time() < deadline
        time.sleep(1)
    done = job(head, "submit", "--working-dir", ".", *entry(**places))
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "pretrain: goes on in" in done.stdout + done.stderr
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "run" / "pretrain" / "history.jsonl").open()]
    assert epochs == list(range(1, 31))
