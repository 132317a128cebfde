"""The comparison table: arms of the method over several seeds, as runs that share one cache and can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field
from rich.console import Console
from rich.table import Table
from upath import UPath

from pipeline.configuration.overrides import with_fields
from pipeline.runfolder import RunFolder
from pipeline.training.history import read_history
from preprocessing.settings import Settings
from preprocessing.storage import write_text

RANDOM = {"mask.strength.family": "constant", "mask.strength.start": 0.0, "mask.strength.end": 0.0}
FIXED = {
    "mask.ratio.family": "constant",
    "mask.ratio.start": 0.75,
    "mask.ratio.end": 0.75,
    "mask.feedback.signal": "none",
}
ARMS: dict[str, dict[str, Any]] = {
    "mps_ams": {},
    "mps_only": FIXED,
    "ams_only": RANDOM,
    "random_75": FIXED | RANDOM,
    "scratch": {"pretrain.method": "scratch"},
}
METRICS = ("dsc", "ppv", "sen", "hd95")


class BenchmarkSettings(Settings):
    """Which runs the table is made of."""

    seeds: tuple[int, ...] = Field(
        (0, 1, 2), min_length=1, description="Seeds; each has its own split, initial weights and order."
    )
    arms: tuple[str, ...] = Field(
        tuple(ARMS), min_length=1, description=f"What is compared: {', '.join(ARMS)}, in the order of the table."
    )


def cells(config: Any) -> Iterator[tuple[str, int, Any]]:
    """Arm, seed and configuration of every run; seeds outermost, so that an interrupted table compares all arms.

    The search is left out, and the configuration's own schedule is what is compared: a schedule chosen on one
    seed's labelled cases must not be judged on another seed's test cases.
    """
    root = UPath(config.run.dir)
    cache = config.cache.dir or str(root / "cache")
    for seed in config.benchmark.seeds:
        for arm in config.benchmark.arms:
            fields = {
                "run.dir": str(root / "cells" / f"seed_{seed}" / arm),
                "run.seed": seed,
                "cache.dir": cache,
                "search.enabled": False,
            }
            yield arm, seed, with_fields(config, fields | ARMS[arm])


def benchmark(config: Any, run_cell: Callable[[Any], None]) -> pd.DataFrame:
    """Run every cell that is not finished, and write table.csv and table.md after each.

    Args:
        config: with the arms and seeds.
        run_cell: scans to test metrics for one configuration; returns at once for what is done.

    Returns:
        one row a cell: arm, seed, metrics, samples seen, share of visible patches, seconds.
    """
    root = UPath(config.run.dir)
    rows: list[dict[str, Any]] = []
    for arm, seed, cell in cells(config):
        print(f"benchmark: {arm}, seed {seed}", flush=True)
        run_cell(cell)
        rows.append({"arm": arm, "seed": seed, **_facts(RunFolder(cell.run.dir))})
        table = pd.DataFrame(rows)
        write_text(root / "table.csv", table.to_csv(index=False))
        write_text(root / "table.md", markdown(table))
    Console().print(_rich(summary(table)))
    return table


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row an arm, in the order of the table: n, mean and standard deviation of the metrics, and what it cost.

    `gain` is the mean over seeds of the difference in DSC to `scratch` with the same seed, where that was run.
    """
    base = table[table["arm"] == "scratch"].set_index("seed")["dsc"]
    rows = []
    for arm, part in table.groupby("arm", sort=False):
        row: dict[str, Any] = {"arm": arm, "n": len(part)}
        for metric in METRICS:
            row[metric] = _spread(part[metric])
        gain = (part.set_index("seed")["dsc"] - base).dropna()
        row["gain"] = _spread(gain) if len(gain) and arm != "scratch" else ""
        row["samples"] = int(part["samples_seen"].mean())
        row["visible"] = f"{part['visible'].mean():.2f}" if part["visible"].notna().any() else ""
        row["pretrain s"] = f"{part['pretrain_seconds'].mean():.0f}"
        row["finetune s"] = f"{part['finetune_seconds'].mean():.0f}"
        rows.append(row)
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """The summary as a Markdown table."""
    lines = summary(table).astype(str)
    head = "| " + " | ".join(lines.columns) + " |\n|" + "---|" * len(lines.columns) + "\n"
    return head + "".join("| " + " | ".join(row) + " |\n" for row in lines.to_numpy())


def _facts(folder: RunFolder) -> dict[str, Any]:
    metrics = folder.read_metrics()
    records = read_history(folder.root / "pretrain")
    shares = [1 - record["masked"] for record in records if record["masked"] is not None]
    seconds = {stage: (folder.stage_record(stage) or {}).get("seconds", 0.0) for stage in ("pretrain", "finetune")}
    return {
        **{name: metrics["segmentation"]["test"][name] for name in METRICS},
        "samples_seen": records[-1]["samples_seen"] if records else 0,
        "visible": float(np.mean(shares)) if shares else None,
        **{f"{stage}_seconds": value for stage, value in seconds.items()},
    }


def _spread(values: pd.Series) -> str:
    values = values.dropna()
    if values.empty:
        return ""
    return f"{values.mean():.3f} ± {values.std():.3f}" if len(values) > 1 else f"{values.mean():.3f}"


def _rich(table: pd.DataFrame) -> Table:
    shown = Table(*table.columns)
    for row in table.astype(str).to_numpy():
        shown.add_row(*row)
    return shown
