"""Search with Ray Tune: over mask schedules by short pretrainings, each judged by the probe on its frozen encoder,
and over the settings of fine-tuning, judged by the validation DSC.

Trials share one cache and one score table a rule, and train in their own process. The best few are run again
with fresh seeds before one is chosen, since a single training's figure is noisy.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import pandas as pd
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator
from upath import UPath

from pipeline.configuration.overrides import field_value, with_fields
from pipeline.finetune import FinetuneTask, finetune_loop
from pipeline.finetune_settings import FinetuneSettings
from pipeline.pretrain import PretrainTask, pretrain_loop
from pipeline.search_settings import SearchSettings
from pipeline.training.offers import check_trial, demand
from pipeline.training.pickled import check_owner_of_pickles
from pipeline.training.session import Session, TuneSession
from preprocessing.errors import RunError
from preprocessing.fingerprint import digest_of

Task = TypeVar("Task", PretrainTask, FinetuneTask)


@dataclass(frozen=True)
class Study(Generic[Task]):
    """What is searched.

    Attributes:
        loop: trains one trial, as it trains a run.
        metric: field of the loop's records, higher is better.
        epochs: of a trial; grace: epochs before asha may stop one; every: epochs between reports.
        fields: what differs from a run: dotted field -> value.
    """

    loop: Callable[[Task, Session], None]
    metric: str
    epochs: int
    grace: int
    every: int
    fields: Mapping[str, Any]


def schedule_study(settings: SearchSettings) -> Study[PretrainTask]:
    """Short pretrainings, judged by the probe."""
    fields = {
        "pretrain.epochs": settings.epochs,
        "pretrain.probe_every": settings.probe_every,
        "pretrain.checkpoint_every": settings.probe_every,
        "pretrain.patience": 0,
        "pretrain.pictures": 0,
        "resources.workers": 1,
    }
    return Study(pretrain_loop, "probe_dsc", settings.epochs, settings.grace, settings.probe_every, fields)


def finetune_study(settings: FinetuneSettings) -> Study[FinetuneTask]:
    """Whole fine-tunings (they are short), judged by the validation DSC."""
    fields = {"finetune.patience": 0, "resources.workers": 1}
    every = settings.validate_every
    return Study(finetune_loop, "val_dsc", settings.epochs, max(every, settings.epochs // 3), every, fields)


@dataclass(frozen=True)
class Space:
    """Dotted fields and their distributions; `mutations` is what pbt changes while a trial runs."""

    fields: Mapping[str, Any]
    mutations: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Choice:
    """What the search came to.

    Attributes:
        fields: dotted field -> value, to be put over the configuration.
        dsc: theirs, the mean over the finalists' fresh seeds where there are any.
        table: one row a trial: trial, stage ("search" or "finalists"), seed, dsc, epochs, and the searched fields.
    """

    fields: dict[str, Any]
    dsc: float
    table: pd.DataFrame


def search(task: Task, study: Study[Task], space: Space) -> Choice:
    """Find the fields whose training is judged best.

    Args:
        task: the training as configured; its folder receives the trials.
        study: how a trial trains and is judged.
        space: what may vary.

    Raises:
        RunError: no trial came to a result.
    """
    settings = task.config.search
    task = replace(task, config=with_fields(task.config, study.fields))
    if settings.scheduler == "pbt":
        fields = {path: tune.choice(list(values)) for path, values in space.mutations.items()}
        task, space = _momentary(task), Space(fields, space.mutations)
    own = {path: field_value(task.config, path) for path in space.fields}
    trials: list[_Trial] = _run(
        task, study, "search", space.fields, settings.trials, _scheduler(settings, study, space), own
    )
    if settings.scheduler == "pbt":
        trials = [replace(trial, fields=_as_piecewise(trial) if trial.trail else trial.fields) for trial in trials]
    best = _ranked(trials)[: settings.finalists]
    if settings.repeats == 0 or len(best) == 1:
        return Choice(best[0].fields, best[0].dsc, _table(trials))
    candidates = [trial.fields for trial in best]
    grid = {
        "candidate": tune.grid_search(list(range(len(candidates)))),
        "seed": tune.grid_search([task.config.run.seed + 1000 + n for n in range(settings.repeats)]),
    }
    # others than before, since a failed trial came to a result meanwhile, must not get these ones' figures
    name = f"finalists-{digest_of(candidates)[:8]}"
    again: list[_Trial] = _run(task, study, name, grid, 1, None, None, candidates)
    means = [_mean([t.dsc for t in again if t.fields == fields]) for fields in candidates]
    return Choice(candidates[means.index(max(means))], max(means), _table([*trials, *again]))


@dataclass(frozen=True)
class _Trial:
    name: str
    stage: str
    seed: int
    dsc: float
    epochs: int
    fields: dict[str, Any]
    trail: Sequence[tuple[float, float, float]] = ()


def _ranked(trials: Iterable[_Trial]) -> list[_Trial]:
    """The best first, those that were stopped early after those that beat them; among equals by name, since a search
    that goes on lists its trials in another order."""
    return sorted(trials, key=lambda trial: (-trial.epochs, -trial.dsc, trial.name))


def _momentary(task: Task) -> Task:
    """Ratio and strength are what `start` says at the moment, so that a population can change them on the way."""
    constant = {"mask.ratio.family": "constant", "mask.strength.family": "constant", "mask.feedback.signal": "none"}
    return replace(task, config=with_fields(task.config, constant))


def _trial(
    config: dict[str, Any], task: Task, study: Study[Task], candidates: Sequence[dict[str, Any]], threads: int
) -> None:
    """One training in this process."""
    torch.set_num_threads(threads)
    fields = dict(config)
    if candidates:
        fields = candidates[fields.pop("candidate")] | {"run.seed": fields.pop("seed")}
    folder = UPath(task.folder) / "trials" / tune.get_context().get_trial_name()
    study.loop(replace(task, config=with_fields(task.config, fields), folder=str(folder)), TuneSession(study.metric))


def _run(
    task: Task,
    study: Study[Task],
    name: str,
    space: Mapping[str, Any],
    samples: int,
    scheduler: TrialScheduler | None,
    first: dict[str, Any] | None,
    candidates: Sequence[dict[str, Any]] = (),
) -> list[_Trial]:
    """One Tune experiment, resumed where it was interrupted; trials without a result are left out, and said."""
    settings = task.config.search
    _, gpu = demand(task.config.resources)
    needs = {"CPU": settings.cpus_per_trial} | ({"GPU": settings.gpus_per_trial} if gpu else {})
    check_trial(settings.cpus_per_trial, settings.gpus_per_trial if gpu else 0)
    trainable = tune.with_resources(
        tune.with_parameters(_trial, task=task, study=study, candidates=candidates, threads=settings.cpus_per_trial),
        needs,
    )
    folder = UPath(task.folder) / name
    if tune.Tuner.can_restore(str(folder)):
        check_owner_of_pickles(folder)
        tuner = tune.Tuner.restore(str(folder), trainable=trainable, resume_unfinished=True, resume_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=dict(space),
            tune_config=tune.TuneConfig(
                metric=study.metric,
                mode="max",
                num_samples=samples,
                scheduler=scheduler,
                search_alg=BasicVariantGenerator(
                    points_to_evaluate=None if first is None else [first], random_state=task.config.run.seed
                ),
                max_concurrent_trials=settings.concurrent or None,
                trial_name_creator=lambda trial: f"{name}_{trial.trial_id.split('_')[-1]}",
                trial_dirname_creator=lambda trial: f"{name}_{trial.trial_id.split('_')[-1]}",
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=task.folder,
                failure_config=tune.FailureConfig(max_failures=max(0, task.config.resources.max_failures)),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=4),
                verbose=0,
            ),
        )
    with _seeded(task.config.run.seed):  # the population's draws are Python's own
        results = tuner.fit()
    trials, failed = [], []
    for result in (results[number] for number in range(len(results))):
        # what a trial reported before it failed is no result of its fields
        if result.error is not None or result.metrics is None or study.metric not in result.metrics:
            failed.append(f"{UPath(result.path).name} ({_reason(result.error)})")
            continue
        fields = dict(result.config or {})
        seed = fields.pop("seed", task.config.run.seed)
        if candidates:
            fields = dict(candidates[fields.pop("candidate")])
        metrics = result.metrics
        trials.append(
            _Trial(
                UPath(result.path).name,
                "finalists" if candidates else "search",
                seed,
                metrics[study.metric],
                metrics["epoch"],
                fields,
                metrics.get("trail", ()),
            )
        )
    if not trials:
        raise RunError(f"{name}: no trial came to a result; the first: {failed[0] if failed else 'there is none'}")
    if failed:
        print(f"{name}: {len(failed)} trial(s) came to no result and are left out: {'; '.join(failed)}", flush=True)
    return trials


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Python's own chance fixed for a while."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


def _reason(error: Exception | None) -> str:
    """The last line of what a trial failed with."""
    lines = str(error).strip().splitlines() if error else []
    return lines[-1].strip() if lines else "it reported nothing"


def _scheduler(settings: SearchSettings, study: Study[Any], space: Space) -> TrialScheduler:
    if settings.scheduler == "asha":
        return ASHAScheduler(time_attr="epoch", max_t=study.epochs, grace_period=study.grace, reduction_factor=2)
    return PopulationBasedTraining(
        time_attr="epoch",
        perturbation_interval=study.every,
        hyperparam_mutations={path: list(values) for path, values in space.mutations.items()},
        synch=True,  # two trials at a time could not exchange anything otherwise
    )


def _as_piecewise(trial: _Trial) -> dict[str, Any]:
    """The schedule that a population discovered, as one that can be replayed."""
    ratio = tuple((p, r) for p, r, _ in trial.trail)
    strength = tuple((p, s) for p, _, s in trial.trail)
    return {
        "mask.feedback.signal": "none",  # it is the schedule that was found which is to be replayed
        "mask.ratio.family": "piecewise",
        "mask.ratio.points": ratio,
        "mask.strength.family": "piecewise",
        "mask.strength.points": strength,
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("-inf")


def _table(trials: Sequence[_Trial]) -> pd.DataFrame:
    rows = [
        {"trial": t.name, "stage": t.stage, "seed": t.seed, "dsc": t.dsc, "epochs": t.epochs, **t.fields}
        for t in _ranked(trials)
    ]
    return pd.DataFrame(rows)
