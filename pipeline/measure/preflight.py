"""What can be known before anything is started: inputs, sizes, resources, storage, an estimate of time.

Nothing here starts Ray or writes a file, but phantoms where a configuration asks for some that are not there yet; a
cluster that the run would join is not asked.
"""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from rich.table import Table
from rich.text import Text
from upath import UPath

from pipeline.checkpoint import checkpoint_mistakes, read_meta
from pipeline.measure.estimate import model_of, parameters
from pipeline.measure.places import uri_mistakes, vanishing_mistakes
from pipeline.measure.times import Amount, run_times
from pipeline.predict import output_folder
from pipeline.report.wording import number
from pipeline.scans import find_scans
from preprocessing.case import BadFile, Case, Rejection
from preprocessing.errors import ConfigError, RunError
from preprocessing.layouts import load_cases
from preprocessing.object_store import fresh, is_local
from preprocessing.prepare import prepare
from preprocessing.readers.volumes import is_volume_file
from preprocessing.samples import samples_of

if TYPE_CHECKING:
    from pipeline.config import Config

_COMPRESSION = 2.5  # zstd on float16 patches of ultrasound; measured 2.6 to 3.5
_GIB = 2**30
_BUSY = 0.25  # of the cores: with so many at work for others the threads that measure wait for each other
Times = Callable[[Any, Amount], list[tuple[str, str]]]


@dataclass
class Preflight:
    """Facts by section, in the order in which they are shown."""

    facts: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, section: str, name: str, value: str) -> None:
        """One line of the report."""
        self.facts.setdefault(section, []).append((name, value))

    def table(self) -> Table:
        """The facts for a terminal or a log."""
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for section, facts in self.facts.items():
            table.add_row(Text(section, style="bold"), "")
            for name, value in facts:
                table.add_row(Text(f"  {name}"), Text(value))
        return table


def input_mistakes(config: Config, needs: Sequence[str]) -> list[str]:
    """Every mistake about inputs and resources that can be found at once and cheaply.

    Args:
        config: checked for itself already.
        needs: "data" (the data set), "checkpoint" (where one is named), "predict" (images to segment).
    """
    mistakes = _resource_mistakes(config)
    if unusable := uri_mistakes(config, needs):  # nothing can be looked at there
        return [*mistakes, *unusable]
    mistakes += vanishing_mistakes(config, needs)
    if len(config.cache.size) != config.data.dims:
        mistakes.append(
            f"cache.size = {list(config.cache.size)}: data.dims = {config.data.dims} needs {config.data.dims} numbers"
        )
    run = UPath(config.run.dir)
    if run.exists() and not run.is_dir():
        mistakes.append(f"run.dir = {config.run.dir}: is a file; give a folder")
    if "data" in needs:
        mistakes += _told(lambda: load_cases(config.data))
        if encoder := config.finetune.encoder:
            mistakes += checkpoint_mistakes("finetune.encoder", encoder, "encoder", config.cache.patch)
    if "checkpoint" in needs and config.checkpoint:
        mistakes += checkpoint_mistakes("checkpoint", config.checkpoint, "segmenter")
    if "predict" in needs:
        output = output_folder(config.predict, config.run.dir)
        mistakes += _told(lambda: find_scans(config.predict.input, config.data, _modalities(config), output))
    return mistakes


def _modalities(config: Config) -> int:
    """What the segmenter takes; 1 where it is not trained yet, or cannot be read, which is told where it is needed."""
    try:
        return len(read_meta(config.segmenter_dir, "segmenter")["modalities"])
    except RunError:
        return 1


def preflight(
    config: Config, times: Times = run_times, needs: Sequence[str] = ("data",)
) -> tuple[Preflight, list[str]]:
    """The report of a dry run, and the mistakes that would stop the run.

    Args:
        config: checked already, with its inputs.
        times: tells how long the job would take.
        needs: of the job, as for `input_mistakes`; one that needs no data set is not asked what training would take.
    """
    report, mistakes = Preflight(), _resource_mistakes(config)
    if "data" not in needs:
        _describe_scans(report, config)
        _describe_resources(report, config)
        return report, mistakes
    cases: list[Case] = []
    rejected: list[Rejection] = []
    channels = 1
    try:
        cases, rejected = load_cases(config.data)
        channels = len(cases[0].images)
    except ConfigError as error:
        mistakes += error.mistakes
    _describe_data(report, config, cases, rejected)
    each = _samples_a_case(config, cases)
    samples = each * len(cases)
    _describe_samples(report, config, samples, channels)
    model = model_of(config, channels)
    report.add(
        "model", "parameters", f"{number(parameters(model.encoder))} encoder, {number(parameters(model))} in all"
    )
    _describe_resources(report, config)
    mistakes += _describe_storage(report, config, samples, channels)
    if samples:
        _describe_others(report)
        splits = Counter(case.split for case in cases if case.labels)
        labelled = splits.total()
        given = {split: count / labelled for split, count in splits.items()} if any(splits) else None
        amount = Amount(samples, each * labelled, channels, labelled, given)
        for name, value in times(config, amount):
            report.add("time", name, value)
    return report, mistakes


def _samples_a_case(config: Config, cases: list[Case]) -> int:
    """1 of an image; of volumes what the middle one gives, a labelled one where there is any."""
    some = [case for case in cases if case.labels] or cases
    if not some or not is_volume_file(next(iter(some[0].images.values()))):
        return 1
    try:
        return sum(1 for _ in samples_of(prepare(some[len(some) // 2], config.cache), config.cache))
    except BadFile:  # the run will tell
        return max(1, config.cache.most_samples)


def _told(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except ConfigError as error:
        return error.mistakes
    return []


def _describe_scans(report: Preflight, config: Config) -> None:
    output = output_folder(config.predict, config.run.dir)
    scans, aside = find_scans(config.predict.input, config.data, _modalities(config), output)
    there = "" if fresh(UPath(config.segmenter_dir)).is_dir() else " (not there yet)"
    report.add("scans", "to segment", f"{number(len(scans))} in {config.predict.input}")
    for rejection in aside[:3]:
        report.add("scans", "set aside", f"{rejection.case}: {rejection.file}: {rejection.reason}")
    if len(aside) > 3:
        report.add("scans", "set aside", f"and {number(len(aside) - 3)} more")
    report.add("scans", "results", str(output))
    report.add("scans", "segmenter", config.segmenter_dir + there)


def _describe_data(report: Preflight, config: Config, cases: list[Case], rejected: list[Rejection]) -> None:
    labelled = sum(bool(case.labels) for case in cases)
    strata = Counter(case.stratum for case in cases if case.stratum)
    files = [len(case.files) for case in cases]
    report.add("data", "root", f"{config.data.root} (layout {config.data.layout})")
    report.add("data", "cases", f"{number(len(cases))}, {number(labelled)} of them labelled")
    if labelled and config.data.label_fraction < 1:
        share = f"{config.data.label_fraction:.0%} of those in training and validation (data.label_fraction)"
        report.add("data", "labels used", share)
    if strata:
        report.add("data", "by class", ", ".join(f"{name} {count}" for name, count in sorted(strata.items())))
    if files:
        each = f"{min(files)}" if min(files) == max(files) else f"{min(files)} to {max(files)}"
        report.add("data", "files", f"{number(sum(files))}, {each} a case")
    report.add("data", "left out", f"{len(rejected)}" + "".join(f"\n{r.case}: {r.reason}" for r in rejected[:3]))


def _describe_samples(report: Preflight, config: Config, samples: int, channels: int) -> None:
    tokens = math.prod(config.cache.grid)
    grid, patch = (" x ".join(map(str, numbers)) for numbers in (config.cache.grid, config.cache.patch))
    report.add("samples", "samples", number(samples))
    report.add("samples", "patches a sample", f"{tokens} ({grid} patches of {patch} pixels)")
    decoded = samples * config.cache.sample_bytes(channels) / 2**20
    fits = "fits" if decoded <= config.loader.memory_mb else "streams, since more than"
    report.add("samples", "in memory", f"{decoded:.0f} MiB, {fits} loader.memory_mb = {config.loader.memory_mb}")


def _describe_resources(report: Preflight, config: Config) -> None:
    asked = config.resources
    each = f"{asked.cpus_per_worker} cores" if asked.cpus_per_worker else "an even share of the cores"
    report.add("resources", "asked for", f"{asked.workers} worker(s), {each} each, GPU: {asked.gpu}")
    gpus = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "none"
    memory = psutil.virtual_memory()
    report.add(
        "resources",
        "this machine",
        f"{_cores()} cores, {memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB memory free, GPU: {gpus}",
    )
    if _address(config):
        report.add("resources", "cluster", f"{_address(config)}, not asked by a dry run")


def _describe_others(report: Preflight) -> None:
    cores = os.cpu_count() or 1  # the load is the whole machine's, whatever cores this process may use
    if (busy := psutil.getloadavg()[0]) > _BUSY * cores and not torch.cuda.is_available():
        told = f"{busy:.1f} of {cores} cores in the last minute: the times below are too long, several times maybe; "
        told += "ask again on a quiet machine, a minute after the last dry run"
        report.add("time", "at work already", told)


def _describe_storage(report: Preflight, config: Config, samples: int, channels: int) -> list[str]:
    cache = config.cache_dir
    report.add("storage", "run.dir", f"{config.run.dir} ({_sharing(config.run.dir)})")
    if config.cache.dir:
        report.add("storage", "cache.dir", f"{cache} ({_sharing(cache)})")
    need = samples * config.cache.sample_bytes(channels) / _COMPRESSION
    if not is_local(UPath(cache)):
        report.add("storage", "cache", f"about {need / _GIB:.2f} GiB")
        return []
    free = shutil.disk_usage(_existing(Path(cache))).free
    report.add("storage", "cache", f"about {need / _GIB:.2f} GiB, {free / _GIB:.1f} GiB free")
    if need > free:
        return [f"{cache}: the cache needs about {need / _GIB:.1f} GiB and {free / _GIB:.1f} GiB are free"]
    return []


def _resource_mistakes(config: Config) -> list[str]:
    """Demands that this machine can never meet: Ray would wait for them for ever."""
    if _address(config):
        return []
    asked, cores, gpus = config.resources, _cores(), torch.cuda.device_count()
    mistakes = []
    if asked.gpu == "yes" and gpus < asked.workers:
        mistakes.append(
            f"resources.gpu = yes: {asked.workers} worker(s) need a GPU each and this machine has {gpus}; "
            "set resources.gpu=no, or join a cluster with run.address"
        )
    needed = asked.workers * max(asked.cpus_per_worker, 1)
    if needed > cores:
        mistakes.append(
            f"resources.workers = {asked.workers} with resources.cpus_per_worker = {asked.cpus_per_worker}: "
            f"needs {needed} cores and this machine has {cores}"
        )
    trial = config.search
    if config.searches or trial.finetune:
        if trial.cpus_per_trial > cores:
            mistakes.append(f"search.cpus_per_trial = {trial.cpus_per_trial}: this machine has {cores} cores")
        if asked.gpu != "no" and gpus and trial.gpus_per_trial > gpus:
            mistakes.append(f"search.gpus_per_trial = {trial.gpus_per_trial:g}: this machine has {gpus} GPU(s)")
    return mistakes


def _address(config: Config) -> str:
    address = config.run.address or os.environ.get("RAY_ADDRESS", "")
    return "" if address == "local" else address


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sharing(path: str) -> str:
    return "this machine only, unless a shared mount" if is_local(UPath(path)) else "shared by all nodes"


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
