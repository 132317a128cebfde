"""The comparison table: arms of the method over several seeds, as runs that share one cache and can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import ray
from upath import UPath

from pipeline.benchmark_settings import ARMS
from pipeline.configuration.overrides import with_fields
from pipeline.report.comparison import METRICS, markdown
from pipeline.runfolder import RunFolder
from pipeline.training.history import read_history
from pipeline.training.offers import groups_at_once
from preprocessing.errors import RunError
from preprocessing.storage import write_text


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
                # one core each, and several cells at once: a small model gains little from a second core
                "resources.cpus_per_worker": config.resources.cpus_per_worker or 1,
            }
            yield arm, seed, with_fields(config, fields | ARMS[arm])


def benchmark(config: Any, prepare: Callable[[Any], None], run_cell: Callable[[Any], None]) -> pd.DataFrame:
    """Run every cell that is not finished, several at once, and write table.csv and table.md as they end.

    Args:
        config: with the arms and seeds.
        prepare: makes what the cells of one seed share (cache, scores), so that they need not wait for each other.
        run_cell: scans to test metrics for one configuration, on a worker; returns at once for what is done.

    Returns:
        one row a cell: arm, seed, metrics, samples seen, share of visible patches, seconds.

    Raises:
        RunError: a cell failed; the others were finished first.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(_run)  # its training asks for what it needs
    every = list(cells(config))
    running: dict[ray.ObjectRef, int] = {}
    ended: set[int] = set()
    failures: list[str] = []

    def collect(most: int) -> None:
        """Wait until no more than `most` cells run."""
        while len(running) > most:
            (ref,), _ = ray.wait(list(running))
            number = running.pop(ref)
            arm, seed, _cell = every[number]
            try:
                ray.get(ref)
            except RunError as error:
                failures.append(f"{arm}, seed {seed}: {getattr(error, 'cause', error)}")
                continue
            ended.add(number)
            table = _write([every[n] for n in sorted(ended)], UPath(config.run.dir))
            row = table[(table["arm"] == arm) & (table["seed"] == seed)].iloc[0]
            print(f"benchmark: {len(ended)} of {len(every)}, {arm}, seed {seed}: DSC {row['dsc']:.3f}", flush=True)

    seed_before = None
    for number, (_arm, seed, cell) in enumerate(every):
        if seed != seed_before:
            prepare(cell)
            seed_before = seed
        collect(groups_at_once(cell.resources) - 1)
        running[task.remote(run_cell, cell)] = number
    collect(0)
    if failures:
        raise RunError("some cells of the table failed:\n" + "\n".join(failures))
    table = _write(every, UPath(config.run.dir))
    print(markdown(table))
    return table


def _run(run_cell: Callable[[Any], None], cell: Any) -> None:
    run_cell(cell)


def _write(finished: list[tuple[str, int, Any]], root: UPath) -> pd.DataFrame:
    rows = [{"arm": arm, "seed": seed, **_facts(RunFolder(cell.run.dir))} for arm, seed, cell in finished]
    table = pd.DataFrame(rows)
    write_text(root / "table.csv", table.to_csv(index=False))
    write_text(root / "table.md", markdown(table))
    return table


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
