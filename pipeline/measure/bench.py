"""What the pipeline costs, measured: reading against memory, choosing masks against a step, caching."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from upath import UPath

from pipeline.configuration.overrides import with_fields
from pipeline.measure.large_cache import enlarged
from pipeline.methods.mps_ams import MpsAms
from pipeline.pretrain import Pretraining, PretrainTask
from pipeline.runs import opened
from pipeline.stages import Pipeline
from pipeline.training.loader import Batch
from pipeline.training.session import LocalSession
from preprocessing.errors import RunError
from preprocessing.storage import write_text

if TYPE_CHECKING:
    from pipeline.config import Config

_STEPS, _ROUNDS = 8, 5
_SMALL_MEMORY_MB = 16


@dataclass(frozen=True)
class Figure:
    """One measurement; target is a bound such as ">=0.95", "" where there is none."""

    value: float
    unit: str
    target: str = ""

    @property
    def met(self) -> bool:
        """Whether the value keeps the target."""
        if not self.target:
            return True
        bound = float(self.target[2:])
        return self.value >= bound if self.target.startswith(">=") else self.value <= bound


def reading(task: PretrainTask) -> dict[str, Figure]:
    """Training from the cache beside the same steps on tensors held in memory, in turns, on the same model."""
    with tempfile.TemporaryDirectory() as folder:
        training = Pretraining(task, LocalSession(Path(folder)))
        size = training.settings.batch
        held = list(islice(training.loader.batches(0, 10**9), _STEPS))
        stream = training.loader.batches(0, 10**9)
        for batch in held:  # both at their working speed: allocator, threads, file cache
            training._step(batch, 0)
            training._step(next(stream), 0)
        memory, cache, waited = [], [], 0.0
        for _ in range(_ROUNDS):
            memory.append(_seconds(training, cycle(held)))
            before = training.loader.waited
            cache.append(_seconds(training, stream))
            waited += training.loader.waited - before
        stream.close()  # type: ignore[attr-defined]
    ratio = statistics.median(m / c for m, c in zip(memory, cache, strict=True))
    return {
        "throughput": Figure(_STEPS * size * _ROUNDS / sum(cache), "samples/s"),
        "throughput over memory": Figure(ratio, "ratio", ">=0.95"),
        "data wait": Figure(waited / sum(cache), "share of time", "<=0.05"),
    }


def choosing(task: PretrainTask) -> dict[str, Figure]:
    """The time of a training step that goes into choosing its masks."""
    with tempfile.TemporaryDirectory() as folder:
        training = Pretraining(task, LocalSession(Path(folder)))
        model = training.learner.model
        assert isinstance(model, MpsAms)
        batch = next(iter(training.loader.batches(0, training.settings.batch)))
        if batch.scores is None:
            batch = replace(batch, scores=torch.randn(batch.valid.shape))
        step = _median(lambda: training._step(batch, training.settings.batch), 10)
        mask = _median(lambda: model.plan(batch, 0.75, 0.3, 0), 50)
    return {
        "mask choice": Figure(mask / step, "share of a step", "<=0.01"),
        "mask choice time": Figure(mask * 1000, "ms"),
        "step": Figure(step * 1000, "ms"),
    }


def _seconds(training: Pretraining, batches: Iterator[Batch]) -> float:
    began = time.perf_counter()
    for batch in islice(batches, _STEPS):
        training._step(batch, 0)
    return time.perf_counter() - began


def _median(call: Callable[[], object], times: int) -> float:
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def bench(config: Config) -> None:
    """Preprocess the configured data set, measure, print the tables, write RUN_DIR/bench.json and selection.csv.

    Raises:
        RunError: a target is missed.
    """
    untimed = {
        "pretrain.method": "mps_ams",
        "pretrain.probe_every": 0,
        "pretrain.pictures": 0,
        "pretrain.noise_every": 0,
    }
    config = with_fields(config, untimed)
    with opened(config) as pipeline:
        pipeline.preprocess()
        task = pipeline.pretrain_task()
        figures = pipeline_figures(pipeline)
        rules = pipeline.selection_table()
    figures |= choosing(task) | reading(task)
    with tempfile.TemporaryDirectory() as folder:
        large = reading(enlarged(task, folder, memory_mb=_SMALL_MEMORY_MB, times=4.0))
    figures |= {f"{name}, cache 4 x memory": figure for name, figure in large.items()}
    root = UPath(config.run.dir)
    write_text(root / "bench.json", json.dumps({name: vars(figure) for name, figure in figures.items()}, indent=1))
    write_text(root / "selection.csv", rules.to_csv(index_label="ranking"))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(_rules(rules), _table(figures))
    missed = [name for name, figure in figures.items() if not figure.met]
    if missed:
        raise RunError(f"targets missed: {', '.join(missed)}")


def pipeline_figures(pipeline: Pipeline) -> dict[str, Figure]:
    """What preprocessing left in the metrics, and how long opening the cache again takes."""
    began = time.perf_counter()
    _ = Pipeline(pipeline.config, pipeline.folder, pipeline.token).cache  # as the next run opens it, scans and all
    again = time.perf_counter() - began
    selection = pipeline.folder.read_metrics().get("selection", {})
    figures = {"cache reused": Figure(again, "s", "<=10")}
    for name in ("lesion_hit_rate", "no_clusters", "random"):
        if name in selection:
            figures[f"{name} at 25 %"] = Figure(selection[name]["0.25"], "share of lesion patches")
    return figures


def _rules(rules: pd.DataFrame) -> Table:
    table = Table("hit rate of a ranking on the test cases, at", *rules.columns)
    for name, row in rules.iterrows():
        table.add_row(str(name), *(f"{value:.3f}" if value < 1.0001 else f"{value:.0f}" for value in row))
    return table


def _table(figures: dict[str, Figure]) -> Table:
    table = Table("what", "value", "unit", "target", "")
    for name, figure in figures.items():
        verdict = "" if not figure.target else "met" if figure.met else "MISSED"
        table.add_row(name, f"{figure.value:.4g}", figure.unit, figure.target, verdict)
    return table
