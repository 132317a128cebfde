"""Whether a disturbed run ended with the undisturbed one's results: nothing lost, nothing counted twice."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

LOSS, METRIC = 0.02, 0.02  # tolerated: of a loss, relative; of a metric in [0, 1], absolute
EXACT = ("epoch", "samples_seen", "ratio", "strength", "lr")
METRICS = ("dsc", "ppv", "sen")


@dataclass
class Verdict:
    """What differs; and the largest deviations, which different orders of sums explain, of losses and of metrics."""

    differences: list[str] = field(default_factory=list)
    loss: float = 0.0
    metric: float = 0.0

    def same(self, what: str, got: Any, expected: Any) -> None:
        if got != expected:
            self.differences.append(f"{what}: {_short(got)}, undisturbed {_short(expected)}")

    def near_loss(self, what: str, got: float, expected: float) -> None:
        deviation = abs(got - expected) / max(abs(expected), 1e-12)
        self.loss = max(self.loss, deviation)
        if not deviation <= LOSS:
            self.differences.append(f"{what}: {got:g}, undisturbed {expected:g}")

    def near_metric(self, what: str, got: float, expected: float) -> None:
        if math.isnan(got) and math.isnan(expected):
            return
        self.metric = max(self.metric, abs(got - expected))
        if not abs(got - expected) <= METRIC:
            self.differences.append(f"{what}: {got:g}, undisturbed {expected:g}")


def judge(run: Path, undisturbed: Path) -> Verdict:
    """Compare two finished runs' folders."""
    verdict = Verdict()
    for file in ("splits.csv", "search/best.yaml"):
        verdict.same(file, (run / file).read_text(), (undisturbed / file).read_text())
    _cache(verdict, run / "cache", undisturbed / "cache")
    for stage in ("pretrain", "finetune"):
        _history(verdict, stage, run / stage, undisturbed / stage)
    _search(verdict, run / "search", undisturbed / "search")
    got, expected = (json.loads((folder / "metrics.json").read_text()) for folder in (run, undisturbed))
    verdict.same("counts of the data", counts(got["data"]), counts(expected["data"]))
    verdict.same("samples seen", got["pretrain"]["samples_seen"], expected["pretrain"]["samples_seen"])
    for name in METRICS:
        verdict.near_metric(f"test {name}", *(metrics["segmentation"]["test"][name] for metrics in (got, expected)))
    return verdict


def counts(data: dict[str, Any]) -> dict[str, Any]:
    """All that is said of the data but how long it took, which a kill may well change."""
    return {name: value for name, value in data.items() if name != "preprocess_seconds"}


def _cache(verdict: Verdict, got: Path, expected: Path) -> None:
    """Manifest, shards, cases, rejected cases and scores, value by value."""
    verdict.same("cache manifest", *(json.loads((cache / "manifest.json").read_text()) for cache in (got, expected)))
    names = [sorted(str(file.relative_to(cache)) for file in cache.rglob("*.parquet")) for cache in (got, expected)]
    verdict.same("files of the cache", *names)
    for name in set(names[0]) & set(names[1]):
        if not pq.read_table(got / name).equals(pq.read_table(expected / name)):
            verdict.differences.append(f"cache/{name}: its content differs")
    left = [file.name for file in got.iterdir() if file.name.startswith((".writing-", "owner.json"))]
    verdict.same("left behind in the cache", left, [])


def _history(verdict: Verdict, what: str, got: Path, expected: Path) -> None:
    """Every epoch once, in order, with the same position, ratio and rate, and nearly the same loss."""
    records, others = (_read(folder / "history.jsonl") for folder in (got, expected))
    for name in EXACT:
        verdict.same(f"{what} {name}", *([record.get(name) for record in part] for part in (records, others)))
    for record, other in zip(records, others, strict=False):
        verdict.near_loss(f"{what} loss of epoch {record['epoch']}", record["loss"], other["loss"])


def _search(verdict: Verdict, got: Path, expected: Path) -> None:
    tables = [pd.read_csv(folder / "trials.csv").sort_values("trial", ignore_index=True) for folder in (got, expected)]
    verdict.same("trials", *(table.drop(columns="dsc").to_csv(index=False) for table in tables))
    for (_, row), (_, other) in zip(tables[0].iterrows(), tables[1].iterrows(), strict=False):
        verdict.near_metric(f"dsc of {row['trial']}", row["dsc"], other["dsc"])
    trials = [sorted(folder.name for folder in (part / "trials").iterdir()) for part in (got, expected)]
    verdict.same("folders of trials", *trials)
    for name in set(trials[0]) & set(trials[1]):
        _history(verdict, name, got / "trials" / name, expected / "trials" / name)


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."
