"""The comparison table: arms of the method over seeds, folds and shares of labels, as runs that share one cache and
can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import ray
from ray.exceptions import RayError
from upath import UPath

from pipeline.benchmark.cells import Cell, cells, check_compute, check_encoders, check_folds, equal_compute, without
from pipeline.benchmark.included import check_cases, read_included, write_settings
from pipeline.benchmark.results import PLACE, Results, finished, scores_of
from pipeline.measure.flops import Costs
from pipeline.methods import Shape
from pipeline.report.comparison import comparisons, differences, summary
from pipeline.report.comparison_page import write_page
from pipeline.report.comparison_text import Plan, chance_told, lacking, markdown, planned, readable, spread_over
from pipeline.report.training_noise import KEYS, training_noise
from pipeline.training.offers import groups_at_once
from preprocessing.cache import PatchCache
from preprocessing.errors import ConfigError, RunError
from preprocessing.splits import make_splits
from preprocessing.storage import write_text

Job = Callable[[Any], None]


def planned_cells(config: Any) -> tuple[list[Cell], list[Results]]:
    """Every run of the table, and the included tables; what is wrong with them shows before anything is started.

    Raises:
        ConfigError: an arm's settings are no valid ones, or the encoder that it starts from or a table to be included
            is not there, or the table is another one.
    """
    check_encoders(config)
    every, others = cells(config), read_included(config)
    check_compute(config)
    return every, others


def benchmark(config: Any, prepare: Job, run_cell: Job, pretrain_cell: Job) -> pd.DataFrame:
    """Run every cell that is neither finished nor in an included table, several at once, and write the table as they
    end.

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
        RunError: a cell failed, also where its process was lost; the others were finished first.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(_run)  # its training asks for what it needs
    every, others = planned_cells(config)
    prepare(every[0].config)
    cache = PatchCache.open(every[0].config.cache.dir)
    check_cases(config, cache.cases)
    check_folds(config, cache.cases)
    costs = Costs(Shape.of(cache))
    if config.benchmark.equal == "compute":
        every = cells(config, equal_compute(config, costs))
    table = _Table(config, every, others, cache.cases)
    every = without(every, set().union(*(other.places() for other in others)))
    print(table.planned(table.known()), flush=True)
    # a run that had been finished is soon told again; until all are the table as it was is the better one
    before = {number for number, cell in enumerate(every) if cell.counted and finished(cell)}
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
            except (RunError, ConfigError, RayError) as error:
                failures.append(f"{every[number]}: {getattr(error, 'cause', error)}")
                continue
            ended.add(number)
            if every[number].counted:
                results = Results.of([every[n] for n in sorted(ended)], costs)
                if before <= ended:
                    table.write(results)
                dsc = results.rows["dsc"].iloc[sum(every[n].counted for n in ended if n < number)]
                told = "no lesion to test on" if pd.isna(dsc) else f"DSC {dsc:.3f}"
                print(f"benchmark: {len(ended)} of {len(every)}, {every[number]}: {told}", flush=True)

    prepared = None
    for number, cell in enumerate(every):
        if (cell.seed, cell.fold) != prepared:
            prepare(cell.config)
            prepared = (cell.seed, cell.fold)
        collect((config.benchmark.concurrent or groups_at_once(cell.config.resources)) - 1)
        # a cell that starts from another's encoder waits for it, and fails with it
        first = None if cell.needs is None else started[cell.needs]
        started[number] = task.remote(run_cell if cell.counted else pretrain_cell, cell.config, first)
        running[started[number]] = number
    collect(0)
    if failures:
        if any(every[number].counted for number in ended):
            table.write(Results.of([every[n] for n in sorted(ended)], costs))
        raise RunError(
            "some cells of the table failed; the same command tries them again, and the others are in "
            f"{UPath(config.run.dir) / 'benchmark.html'}:\n" + "\n".join(failures)
        )
    results = Results.of(every, costs)
    print(markdown(table.write(results)))
    print(f"benchmark: {UPath(config.run.dir) / 'benchmark.html'}")
    return results.rows


def _run(job: Job, cell: Any, first: Any) -> None:
    job(cell)


class _Table:
    """The table's files, which grow with every finished cell."""

    def __init__(self, config: Any, every: Sequence[Cell], others: Sequence[Results], cases: pd.DataFrame) -> None:
        self._config, self._every, self._others, self._cases = config, every, others, cases
        self._root = UPath(config.run.dir)
        self._tested = _test_groups(every, cases)
        self._places = {(cell.arm, cell.labels) for cell in every if cell.counted}
        self._trainings = {(cell.seed, cell.fold) for cell in every if cell.counted}

    def known(self) -> pd.DataFrame:
        """Scores of what was finished before, here and elsewhere, to plan by."""
        parts = [part for part in (scores_of(self._every), *(other.scores for other in self._others)) if len(part)]
        if not parts:
            return scores_of([])
        return pd.concat(parts).drop_duplicates([*PLACE, "case"])  # at the same place the earlier one stands

    def planned(self, scores: pd.DataFrame) -> str:
        """What the table can tell, in a sentence."""
        return planned(self._config.benchmark, scores, self._plan(scores))

    def write(self, results: Results) -> pd.DataFrame:
        """Write all files; returns the rows that a reader sees."""
        whole = results.with_others(self._others).in_order(self._config.benchmark.arms)
        chosen = self._config.benchmark
        pairs = comparisons(whole.scores, chosen.reference)
        noise = training_noise(whole.scores)
        intervals = differences(pairs, noise)
        found = summary(whole.rows, pairs, intervals, noise, chosen)
        lines = readable(found, chosen.reference)
        places = whole.places()
        missing = [str(cell) for cell in self._every if cell.counted and cell.place not in places]
        told = (f"{self.planned(whole.scores)}.", spread_over(whole.rows), chance_told(noise), lacking(missing))
        note = " ".join(filter(None, told))
        write_settings(self._config, self._cases, self._root)
        whole.write(self._root)
        write_text(self._root / "table.md", f"{markdown(lines)}\n{note}\n")
        write_text(self._root / "summary.csv", found.to_csv(index=False))
        write_page(self._root, found, lines, intervals, chosen.reference, note)
        return lines

    def _plan(self, scores: pd.DataFrame) -> Plan:
        """With what was tested in included tables."""
        found = scores[scores["dsc"].notna()]
        groups = dict(zip(found["case"], found["group"], strict=True)) | self._tested
        trainings = {tuple(place) for place in found[KEYS].to_numpy().tolist()} | self._trainings
        return Plan(list(groups.values()), self._places, len(trainings))


def _test_groups(every: Sequence[Cell], cases: pd.DataFrame) -> dict[str, str]:
    """The group of each case with a lesion that will be tested in any seed and fold."""
    lesion = set(cases.loc[cases["lesion_pixels"] > 0, "case"])
    groups: dict[str, str] = {}
    for cell in {(cell.seed, cell.fold): cell.config for cell in every}.values():
        splits = make_splits(cases, cell.data, cell.run.seed)
        groups |= {case: splits.group(case) for case in splits.labelled("test") if case in lesion}
    return groups
