"""The comparison table: arms of the method over seeds, folds and shares of labels, as runs that share one cache and
can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import ray
from upath import UPath

from pipeline.benchmark_cells import Cell, cells, equal_compute
from pipeline.benchmark_included import read_included, write_settings
from pipeline.benchmark_results import ROW, Results, scores_of
from pipeline.methods import Shape
from pipeline.report.comparison import markdown, planned, summary
from pipeline.report.comparison_page import write_page
from pipeline.training.offers import groups_at_once
from preprocessing.cache import PatchCache
from preprocessing.errors import RunError
from preprocessing.splits import make_splits
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
        ConfigError: an arm's settings are no valid ones, or a table to be included is not there or another one.
        RunError: a cell failed; the others were finished first.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(_run)  # its training asks for what it needs
    every = cells(config)
    others = read_included(config)
    prepare(every[0].config)
    write_settings(config, UPath(config.run.dir))
    cache = PatchCache.open(every[0].config.cache.dir)
    shape = Shape.of(cache)
    if config.benchmark.equal == "compute":
        every = cells(config, equal_compute(config, shape))
    tested = _test_groups(every, cache)
    known = Results(pd.DataFrame(columns=ROW), scores_of(every)).with_others(others)
    print(planned(config.benchmark, known.scores, tested), flush=True)
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
                results = Results.of([every[n] for n in sorted(ended)], shape)
                _write(results, others, config, tested)
                dsc = results.rows["dsc"].iloc[sum(every[n].counted for n in ended if n < number)]
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
    results = Results.of(every, shape)
    print(markdown(_write(results, others, config, tested)))
    print(f"benchmark: {UPath(config.run.dir) / 'benchmark.html'}")
    return results.rows


def _run(job: Job, cell: Any, first: Any) -> None:
    job(cell)


def _write(results: Results, others: Sequence[Results], config: Any, tested: Sequence[str]) -> pd.DataFrame:
    """The table's files; returns the rows that a reader sees."""
    root, whole = UPath(config.run.dir), results.with_others(others)
    lines = summary(whole.rows, whole.scores, config.benchmark, tested)
    whole.write(root)
    write_text(root / "table.md", markdown(lines))
    write_page(root, whole.rows, lines, planned(config.benchmark, whole.scores, tested))
    return lines


def _test_groups(every: Sequence[Cell], cache: PatchCache) -> list[str]:
    """The group of each case with a lesion that will be tested in any seed and fold."""
    lesion = set(cache.cases.loc[cache.cases["lesion_pixels"] > 0, "case"])
    groups: dict[str, str] = {}
    for cell in {(cell.seed, cell.fold): cell.config for cell in every}.values():
        splits = make_splits(cache.cases, cell.data, cell.run.seed)
        groups |= {case: splits.group(case) for case in splits.labelled("test") if case in lesion}
    return list(groups.values())
