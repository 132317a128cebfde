"""How far a run is, by what its folder says: shards of the cache, epochs in the histories."""

from __future__ import annotations

import json
from pathlib import Path

STAGES = ("preprocess", "search", "pretrain", "finetune")


def marks(run: Path, stage: str, trial: str = "") -> int:
    """Shards (preprocess), validations (finetune) or epochs that stand; of all trials of the search or of one."""
    if stage == "preprocess":
        return len(list((run / "cache").glob("patches-*.parquet")))
    if stage == "search":
        folder = run / "search" / "trials"
        return _lines(folder / trial) if trial else sum(map(_lines, folder.glob("*")))
    return _lines(run / stage)


def stage_of(run: Path) -> str:
    """The stage that is in progress; "" between two of them, before the first and after the last."""
    for stage in STAGES:
        if begun(run, stage) and not over(run, stage):
            return stage
    return ""


def begun(run: Path, stage: str) -> bool:
    return (run / ("cache/owner.json" if stage == "preprocess" else f"{stage}/stage.json")).exists()


def over(run: Path, stage: str) -> bool:
    if stage == "preprocess":
        return (run / "cache" / "manifest.json").exists()
    try:
        return json.loads((run / stage / "stage.json").read_text())["done"]
    except FileNotFoundError:
        return False


def _lines(folder: Path) -> int:
    try:
        return len((folder / "history.jsonl").read_text().splitlines())
    except FileNotFoundError:
        return 0
