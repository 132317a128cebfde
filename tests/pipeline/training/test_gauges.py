"""A training's numbers, as a Prometheus that scrapes the node would get them."""

from __future__ import annotations

import re
import time
import urllib.request

import ray

from pipeline.training.gauges import Gauges


def show(record: dict) -> None:
    Gauges({"run": "busi", "stage": "pretrain"}).show(record)
    time.sleep(12)  # they are collected every ten seconds while the process lives


def scraped() -> str:
    (node,) = ray.nodes()
    with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=5) as answer:
        return answer.read().decode()


def test_the_newest_numbers_are_scraped_with_their_labels(ray_session):
    shown = ray.remote(num_cpus=0)(show).remote({"loss": 0.25, "epoch": 3, "note": "x", "val_dsc": None})
    deadline, found = time.time() + 30, ""
    while 'run="busi"' not in found and time.time() < deadline:
        time.sleep(1)
        found = scraped()
    ray.get(shown)
    lines = re.findall(r"^ray_mps_ams_(\w+)\{(.*)\} ([\d.]+)$", found, re.MULTILINE)
    mine = {name: value for name, labels, value in lines if 'run="busi"' in labels and 'stage="pretrain"' in labels}
    assert mine == {"loss": "0.25", "epoch": "3.0"}
