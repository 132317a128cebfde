"""The runs of the comparison table: arms x seeds x folds x shares of labels, as configurations.

One pretraining serves all shares of labels of an arm, seed and fold: it does not look at labels, and the splits are the
same but for which labels may be used. It is that of the run with the configured share, from whose encoder the others
start (`finetune.encoder`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from upath import UPath

from pipeline.checkpoint import checkpoint_mistakes
from pipeline.configuration.mistakes import explain
from pipeline.configuration.overrides import field_value, with_fields
from pipeline.measure.flops import Costs
from pipeline.methods import METHODS
from pipeline.schedule import round_to_level
from preprocessing.errors import ConfigError
from preprocessing.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config import Config


@dataclass(frozen=True)
class Cell:
    """One run of the table.

    Attributes:
        arm, seed, fold, labels: its place in the table.
        config: of the run.
        counted: whether it is a row of the table, or only pretrains for others.
        needs: number of the cell whose encoder it starts from.
    """

    arm: str
    seed: int
    fold: int
    labels: float
    config: Any
    counted: bool = True
    needs: int | None = None

    @property
    def place(self) -> tuple[str, int, int, float]:
        """Its place in the table: arm, seed, fold and share of labels."""
        return self.arm, self.seed, self.fold, self.labels

    def __str__(self) -> str:
        return f"{self.arm}, seed {self.seed}, fold {self.fold}, labels {self.labels:g}"


def cells(config: Config, epochs: Mapping[str, int] | None = None) -> list[Cell]:
    """Every run; seeds outermost, so that an interrupted table compares all arms, and encoders before their users.

    The search is left out, and the configuration's own schedule is what is compared: a schedule chosen on one
    seed's labelled cases must not be judged on another seed's test cases.

    Args:
        config: with the arms, seeds, folds and shares.
        epochs: of an arm's pretraining, where they are neither the configured ones nor its own.

    Raises:
        ConfigError: an arm's settings are no valid ones or those of another arm, or all arms would start from the same
            encoder or be judged by the same segmenter.
    """
    chosen, data = config.benchmark, config.data
    if config.checkpoint:
        raise ConfigError(f"checkpoint = {config.checkpoint} would be judged in place of every arm; leave it out")
    if config.finetune.encoder:
        raise ConfigError(
            "finetune.encoder is set, so that no arm would pretrain; give it to an arm of its own: "
            f"benchmark.fields={{transfer: {{finetune.encoder: {config.finetune.encoder}}}}}"
        )
    found: list[Cell] = []
    for seed in chosen.seeds:
        for fold in chosen.folds or (data.fold,):
            shares = chosen.label_fractions or (data.label_fraction,)
            homes: dict[str, int] = {}
            for labels in sorted(set(shares) | {data.label_fraction}, key=lambda share: share != data.label_fraction):
                for arm in chosen.arms:
                    place = (arm, seed, fold, labels)
                    cell = _cell(config, *place, (epochs or {}).get(arm))
                    if labels == data.label_fraction:
                        if labels in shares or cell.pretrains:
                            homes[arm] = len(found)
                            found.append(Cell(*place, cell, counted=labels in shares))
                        continue
                    needs = homes[arm] if cell.pretrains else None
                    if needs is not None:
                        encoder = str(UPath(found[needs].config.run.dir) / "pretrain" / "encoder")
                        cell = with_fields(cell, {"finetune.encoder": encoder})
                    found.append(Cell(*place, cell, needs=needs))
    _check_differ(found)
    return found


def without(every: Sequence[Cell], places: Collection[tuple[Any, ...]]) -> list[Cell]:
    """The cells at other places; one there whose encoder another needs stays, only to pretrain."""
    needed = {cell.needs for cell in every if cell.place not in places}
    left = [number for number, cell in enumerate(every) if cell.place not in places or number in needed]
    return [
        replace(
            every[number],
            counted=every[number].counted and every[number].place not in places,
            needs=None if (home := every[number].needs) is None else left.index(home),
        )
        for number in left
    ]


def _check_differ(every: Sequence[Cell]) -> None:
    """That no two arms of a place are the same, which would be trained twice and compared with themselves."""
    first: dict[str, str] = {}
    mistakes = []
    for cell in every:  # the settings hold seed, fold and share of labels
        same = first.setdefault(_as_trained(cell.config), cell.arm)
        if same != cell.arm:
            constant = cell.config.mask.ratio.family == "constant"  # of both
            schedule = "mask.ratio.family=linear mask.ratio.start=0.6 mask.ratio.end=0.85"
            cure = f", or let the constant masking ratio move, as by {schedule}" if constant else ""
            mistakes.append(f"benchmark.arms: {cell.arm} is the same as {same} here; leave one out{cure}")
    if mistakes:
        raise ConfigError(list(dict.fromkeys(mistakes)))


def _as_trained(config: Config) -> str:
    """What a run depends on: nothing that its method ignores, and random masks at one ratio are MAE's."""
    settings = config.model_dump(mode="json", exclude={"run": {"dir"}, "segmenter": True})
    method, mask = config.pretrain.method, config.mask
    own = settings.pop("methods").get(method, {})
    scheduled = method in METHODS and METHODS[method].scheduled
    fixed = mask.ratio.family == "constant" and mask.feedback.signal == "none" and not mask.selects
    if method == "mps_ams" and fixed and not any(own.values()):  # without AMLP's losses
        method, own, scheduled = "mae", {"ratio": round_to_level(mask.ratio.start, mask.ratio.level)}, False
    if not scheduled:
        settings = {name: section for name, section in settings.items() if name not in ("mask", "selection")}
    settings["pretrain"] |= {"method": method}
    return json.dumps([settings, own, config.segmenter.used()])


def _cell(config: Config, arm: str, seed: int, fold: int, labels: float, epochs: int | None) -> Config:
    root, data = UPath(config.run.dir), config.data
    folder = f"seed_{seed}"  # what is as configured is not named: tables that were begun with seeds alone go on
    folder += f"_fold_{fold}" if fold != data.fold else ""
    folder += f"_labels_{labels:g}" if labels != data.label_fraction else ""
    fields = {
        "run.dir": str(root / "cells" / folder / arm),
        "run.seed": seed,
        "cache.dir": config.cache_dir,
        "data.fold": fold,
        "data.label_fraction": labels,
        "search.enabled": False,
        # one core each, and several cells at once: a small model gains little from a second core
        "resources.cpus_per_worker": config.resources.cpus_per_worker or 1,
        **({} if epochs is None else {"pretrain.epochs": epochs}),
        **config.benchmark.arm(arm),
    }
    try:
        found = with_fields(config, fields)
        for path in config.benchmark.arm(arm):
            if isinstance(section := field_value(config, path), Settings):
                name = f"{path}.{next(iter(type(section).model_fields))}"
                why = f"{path} is a section, of which one field would reset all others; name each, as {name}"
                raise ConfigError(f"benchmark.fields, {arm}: {why}")
        return _with_steps(found, labels / data.label_fraction)
    except KeyError as error:
        raise ConfigError(f"benchmark.fields, {arm}: there is no setting {error.args[0]}") from None
    except ValidationError as error:
        told = explain(error.errors(), type(config), {}).values()
        raise ConfigError([f"benchmark arm {arm}: {mistake}" for mistake in told]) from None


def _with_steps(cell: Config, times: float) -> Config:
    """With as many steps of fine-tuning, and as often validated, though there are so many times the labels."""
    if cell.benchmark.finetuning == "epochs" or times == 1:
        return cell
    names = ("finetune.epochs", "finetune.validate_every")
    every = (cell.finetune.epochs, cell.finetune.validate_every)
    return with_fields(cell, {name: max(1, round(now / times)) for name, now in zip(names, every, strict=True)})


def check_compute(config: Config) -> None:
    """That there is a compute to be equal to, where that is wanted.

    Raises:
        ConfigError: the reference is no arm of the table, or does not pretrain.
    """
    reference = config.benchmark.reference
    if config.benchmark.equal == "compute" and reference not in _own(config):
        raise ConfigError(f"benchmark.equal = compute: the reference {reference} must be a pretrained arm of the table")


def check_encoders(config: Config) -> None:
    """That the encoders that arms start from are there, and are encoders of this program for these patches.

    Raises:
        ConfigError: they are not; all mistakes.
    """
    mistakes = []
    for arm in config.benchmark.arms:
        encoder = config.benchmark.arm(arm).get("finetune.encoder")
        if encoder:
            field = f"benchmark.fields, {arm}: finetune.encoder"
            mistakes += checkpoint_mistakes(field, encoder, "encoder", config.cache.patch)
    if mistakes:
        raise ConfigError(mistakes)


def check_folds(config: Config, cases: pd.DataFrame) -> None:
    """That the folds differ.

    Args:
        cases: `PatchCache.cases`.

    Raises:
        ConfigError: several folds are to be tested of splits that are given with the cases.
    """
    if len(config.benchmark.folds) > 1 and (cases["split_given"] != "").any():
        raise ConfigError("benchmark.folds: the manifest gives the splits, so that every fold would be the same")


def equal_compute(config: Config, costs_of: Costs) -> dict[str, int]:
    """Epochs of each pretrained arm whose FLOPs come nearest to the reference's, at least one; an arm's own setting
    goes before them."""
    reference, own = config.benchmark.reference, _own(config)
    costs = {arm: costs_of(cell).mean for arm, cell in own.items()}
    total = costs[reference] * own[reference].pretrain.epochs
    return {arm: max(1, round(total / cost)) for arm, cost in costs.items()}


def _own(config: Config) -> dict[str, Any]:
    """Configuration of each arm that pretrains, of its first cell."""
    found: dict[str, Any] = {}
    for cell in cells(config):
        if cell.config.pretrains:
            found.setdefault(cell.arm, cell.config)
    return found
