"""The demo as it ships, from no scans to a report."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_demo_segments_and_its_selection_finds_lesions(tmp_path):
    words = [f"data.root={tmp_path / 'scans'}", f"run.dir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.run", "configs/demo.yaml", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["segmentation"]["test"]["dsc"] >= 0.7
    assert metrics["selection"]["lesion_hit_rate"]["0.25"] >= 0.8
    assert metrics["selection"]["random"]["0.25"] == pytest.approx(0.25, abs=0.05)
    assert "There are phantoms among the scans" in (tmp_path / "run" / "report.html").read_text()
