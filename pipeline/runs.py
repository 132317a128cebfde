"""Whole runs and single stages, as `jobs/` calls them: a locked folder, a Ray cluster, stages in order, a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.benchmark import table
from pipeline.config import Config
from pipeline.configuration.resolve import dump
from pipeline.runfolder import RunFolder
from pipeline.stages import Pipeline
from pipeline.training.cluster import joined
from pipeline.training.offers import demand
from pipeline.training.sharing import check_shared
from preprocessing.errors import ConfigError
from preprocessing.storage import write_text

CONFIG_FILE = "config.yaml"


@contextmanager
def opened(config: Config) -> Iterator[Pipeline]:
    """The run's folder, locked, its resolved configuration written, and a Ray cluster joined or started."""
    folder = RunFolder(config.run.dir)
    with folder.locked() as token, joined(config.run.address):
        demand(config.resources)  # what will never fit is told before any work
        check_shared({"run.dir": str(folder.root), "cache.dir": config.cache_dir}, {"data.root": config.data.root})
        write_text(folder.root / CONFIG_FILE, dump(config))
        yield Pipeline(config, folder, token)


STAGES = (
    Pipeline.preprocess,
    Pipeline.search,
    Pipeline.pretrain,
    Pipeline.search_finetune,
    Pipeline.finetune,
    Pipeline.evaluate,
)


def run(config: Config) -> None:
    """Everything, scans to report.

    Raises:
        ConfigError: another run's segmenter is given, whose figures would pass for this run's.
    """
    if config.checkpoint:
        raise ConfigError(
            f"checkpoint = {config.checkpoint}: jobs.run trains and judges a segmenter of its own; give it to "
            "jobs.evaluate or jobs.predict"
        )
    with opened(config) as pipeline:
        for stage in STAGES:
            stage(pipeline)
        pipeline.report()


def benchmark(config: Config) -> None:
    """Every cell of the comparison table, on one cluster."""
    table.planned_cells(config)  # a mistake need not wait for Ray
    with joined(config.run.address):
        table.benchmark(config, preprocess, run, pretrain)


def _single(*stages: Callable[[Pipeline], None]) -> Callable[[Config], None]:
    def job(config: Config) -> None:
        with opened(config) as pipeline:
            for stage in stages:
                stage(pipeline)
            pipeline.report()

    return job


preprocess = _single(Pipeline.preprocess)
search = _single(Pipeline.preprocess, Pipeline.search)
pretrain = _single(Pipeline.preprocess, Pipeline.pretrain)
finetune = _single(Pipeline.finetune)
evaluate = _single(Pipeline.evaluate)


def predict(config: Config) -> None:
    """Masks for new images; needs no cluster and no data set."""
    Pipeline(config, RunFolder(config.run.dir), "").predict()
