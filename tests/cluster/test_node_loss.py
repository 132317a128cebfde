"""A node that is taken away: a checkpoint after the notice, and the same training on what is left."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.traced import steps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_preempted_node_costs_no_more_than_the_steps_since_the_notice(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.node_loss", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert not told["failures"]
    assert told["checkpoint_s"] < 20  # before the machine goes
    records = [json.loads(line) for line in (tmp_path / "elastic" / "history.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(1, 401))
    seen = steps(tmp_path / "elastic")  # checks that what was seen twice was the same
    assert sorted(seen) == list(range(len(seen)))
