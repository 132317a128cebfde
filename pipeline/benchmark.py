"""The comparison table: arms of the method over seeds, folds and shares of labels, as runs that share one cache and
can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import ray
from upath import UPath

from pipeline.benchmark_cells import Cell, cells, equal_compute
from pipeline.measure.flops import step_cost
from pipeline.methods import Shape
from pipeline.report.comparison import METRICS, markdown, planned, summary
from pipeline.report.comparison_page import write_page
from pipeline.runfolder import RunFolder
from pipeline.training.history import read_history
from pipeline.training.offers import groups_at_once
from preprocessing.cache import PatchCache
from preprocessing.errors import RunError
from preprocessing.splits import Splits, make_splits
from preprocessing.storage import write_text

Job = Callable[[Any], None]


def benchmark(config: Any, prepare: Job, run_cell: Job, pretrain_cell: Job) -> pd.DataFrame:
    """Run every cell that is not finished, several at once, and write the table as they end.

    Args:
        config: with the arms, seeds, folds and shares of labels.
        prepare: makes what the cells of one seed and fold share (cache, scores), so that they need not wait for each
            other.
        run_cell: scans to test metrics for one configuration, on a worker; returns at once for what is done.
        pretrain_cell: the same up to the pretrained encoder.

    Returns:
        one row a cell: arm, seed, fold, labels, metrics, samples seen, share of visible patches, FLOPs, seconds.

    Raises:
        ConfigError: an arm's settings are no valid ones.
        RunError: a cell failed; the others were finished first.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(_run)  # its training asks for what it needs
    every = cells(config)
    prepare(every[0].config)
    cache = PatchCache.open(every[0].config.cache.dir)
    shape, root = Shape.of(cache), UPath(config.run.dir)
    if config.benchmark.equal == "compute":
        every = cells(config, equal_compute(config, shape))
    tested = _test_groups(every, cache)
    print(planned(config.benchmark, _scores(every), tested), flush=True)
    started: dict[int, ray.ObjectRef] = {}
    running: dict[ray.ObjectRef, int] = {}
    ended: set[int] = set()
    failures: list[str] = []

    def collect(most: int) -> None:
        """Wait until no more than `most` cells run."""
        while len(running) > most:
            (ref,), _ = ray.wait(list(running))
            number = running.pop(ref)
            try:
                ray.get(ref)
            except RunError as error:
                failures.append(f"{every[number]}: {getattr(error, 'cause', error)}")
                continue
            ended.add(number)
            if every[number].counted:
                table = _write([every[n] for n in sorted(ended)], config, shape, tested)
                dsc = table["dsc"].iloc[sum(every[n].counted for n in ended if n < number)]
                print(f"benchmark: {len(ended)} of {len(every)}, {every[number]}: DSC {dsc:.3f}", flush=True)

    before = None
    for number, cell in enumerate(every):
        if (cell.seed, cell.fold) != before:
            prepare(cell.config)
            before = (cell.seed, cell.fold)
        collect(groups_at_once(cell.config.resources) - 1)
        # a cell that starts from another's encoder waits for it, and fails with it
        first = None if cell.needs is None else started[cell.needs]
        started[number] = task.remote(run_cell if cell.counted else pretrain_cell, cell.config, first)
        running[started[number]] = number
    collect(0)
    if failures:
        raise RunError("some cells of the table failed:\n" + "\n".join(failures))
    table = _write(every, config, shape, tested)
    print(markdown(summary(table, _scores(every), config.benchmark, tested)))
    print(f"benchmark: {root / 'benchmark.html'}")
    return table


def _run(job: Job, cell: Any, first: Any) -> None:
    job(cell)


def _write(finished: Sequence[Cell], config: Any, shape: Shape, tested: Sequence[str]) -> pd.DataFrame:
    root, homes = UPath(config.run.dir), {_place(cell): cell for cell in finished if cell.needs is None}
    rows = [_row(cell, homes.get(_place(cell), cell), shape) for cell in finished if cell.counted]
    table = pd.DataFrame(rows)
    lines = summary(table, _scores(finished), config.benchmark, tested)
    write_text(root / "table.csv", table.to_csv(index=False))
    write_text(root / "table.md", markdown(lines))
    write_page(root, table, lines, planned(config.benchmark, _scores(finished), tested))
    return table


def _place(cell: Cell) -> tuple[str, int, int]:
    return cell.arm, cell.seed, cell.fold


def _row(cell: Cell, home: Cell, shape: Shape) -> dict[str, Any]:
    """Metrics of a cell, and what the pretraining that it starts from had cost."""
    own, pretrained = (RunFolder(c.config.run.dir, say=lambda _: None) for c in (cell, home))
    metrics = own.read_metrics()["segmentation"]["test"]
    records = read_history(pretrained.root / "pretrain") if home.config.pretrains else []
    shares = [1 - record["masked"] for record in records if record["masked"] is not None]
    ratios = [record["ratio"] for record in records if record["ratio"] is not None]
    samples = records[-1]["samples_seen"] if records else 0
    cost = step_cost(home.config, shape, float(np.mean(ratios)) if ratios else None) if records else None
    seconds = {
        "pretrain_seconds": (pretrained.stage_record("pretrain") or {}).get("seconds", 0.0) if records else 0.0,
        "finetune_seconds": (own.stage_record("finetune") or {}).get("seconds", 0.0),
    }
    return {
        "arm": cell.arm,
        "seed": cell.seed,
        "fold": cell.fold,
        "labels": cell.labels,
        **{name: metrics[name] for name in METRICS},
        "samples_seen": samples,
        "visible": float(np.mean(shares)) if shares else None,
        "flops_first": cost.first if cost else 0.0,
        "flops_mean": cost.mean if cost else 0.0,
        "pretrain_flops": cost.mean * samples if cost else 0.0,
        **seconds,
    }


def _scores(found: Sequence[Cell]) -> pd.DataFrame:
    """DSC of each test case of the finished cells, mean over regions, with the case's group."""
    parts = []
    for cell in found:
        folder = UPath(cell.config.run.dir)
        file = folder / "evaluate" / "cases.csv"
        if not cell.counted or not file.exists():
            continue
        splits = Splits.read(str(folder / "splits.csv"))
        cases = pd.read_csv(file, dtype={"case": str}).groupby("case", as_index=False)["dsc"].mean()
        place = {"arm": cell.arm, "seed": cell.seed, "fold": cell.fold, "labels": cell.labels}
        parts.append(cases.assign(group=cases["case"].map(splits.group), **place))
    columns = ["case", "dsc", "group", "arm", "seed", "fold", "labels"]
    return pd.concat(parts) if parts else pd.DataFrame(columns=columns)


def _test_groups(every: Sequence[Cell], cache: PatchCache) -> list[str]:
    """The group of each case with a lesion that will be tested in any seed and fold."""
    lesion = set(cache.cases.loc[cache.cases["lesion_pixels"] > 0, "case"])
    groups: dict[str, str] = {}
    for cell in {(cell.seed, cell.fold): cell.config for cell in every}.values():
        splits = make_splits(cache.cases, cell.data, cell.run.seed)
        groups |= {case: splits.group(case) for case in splits.labelled("test") if case in lesion}
    return list(groups.values())
