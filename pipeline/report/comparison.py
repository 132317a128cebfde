"""The comparison table in numbers: one row an arm and share of labels, with differences to the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.report.statistics import Interval, holm, paired, simultaneous, verdict, wilcoxon
from pipeline.report.training_noise import KEYS, TrainingNoise

if TYPE_CHECKING:
    from pipeline.benchmark.settings import BenchmarkSettings

METRICS = ("dsc", "ppv", "sen", "hd95")
_MEANS = ("samples_seen", "visible", "flops_mean", "pretrain_flops", "pretrain_seconds", "finetune_seconds")
Place = tuple[str, float]  # arm, share of labels


def differences(pairs: dict[Place, pd.DataFrame], noise: Mapping[float, TrainingNoise]) -> dict[Place, Interval]:
    """Mean difference of each comparison, with intervals that hold for all of them together.

    Args:
        pairs: the paired cases of each comparison, see `comparisons`.
        noise: chance in training by share of labels.
    """
    noises = [noise.get(labels, TrainingNoise()) for _, labels in pairs]
    return dict(zip(pairs, simultaneous(list(pairs.values()), noises), strict=True))


def summary(
    table: pd.DataFrame,
    pairs: Mapping[Place, pd.DataFrame],
    intervals: Mapping[Place, Interval],
    noise: Mapping[float, TrainingNoise],
    settings: BenchmarkSettings,
) -> pd.DataFrame:
    """One row an arm and share of labels, in the order of the table.

    Args:
        table: one row a cell, see `pipeline.benchmark.results`.
        pairs: the paired cases of each comparison with the reference, see `comparisons`.
        intervals: their mean differences, see `differences`.
        noise: chance in training by share of labels.
        settings: reference and aim.

    Returns:
        arm and labels; n, the number of seeds, and the mean and the standard deviation (`_sd`) over them of each metric
        and of the probe's DSC, a seed's folds being averaged (where there is one seed: over its folds); difference,
        low, high, by_seed (differences, as text), p (Holm's), cases, trainings (of both) and verdict of the comparison;
        means over all runs of samples seen, share of visible patches, FLOPs and seconds. NaN: there is none.
    """
    p_values = dict(zip(pairs, holm([wilcoxon(cases) for cases in pairs.values()]), strict=True))
    rows = []
    for (arm, labels), part in table.groupby(["arm", "labels"], sort=False):
        row: dict[str, Any] = {"arm": arm, "labels": labels, "n": len(_repeated(part, part["dsc"]))}
        for metric in (*METRICS, "probe_dsc"):
            values = _repeated(part, part[metric]).dropna()
            row |= {metric: values.mean(), f"{metric}_sd": values.std()}
        if (arm, labels) in pairs:
            found = intervals[arm, labels]
            trainings = _trainings_of_both(table, str(arm), settings.reference, float(labels))
            by_seed = trainings.groupby("seed")["difference"].mean()
            row |= {
                "difference": found.mean,
                "low": found.low,
                "high": found.high,
                "by_seed": ", ".join(f"{mean:+.3f}" for mean in by_seed),
                "p": p_values[arm, labels],
                "cases": pairs[arm, labels]["case"].nunique(),
                "trainings": len(trainings),
                "verdict": verdict(found, settings.aim) + _about(noise.get(float(labels)), len(trainings)),
            }
        rows.append(row | {name: pd.to_numeric(part[name]).mean() for name in _MEANS})
    columns = ["difference", "low", "high", "by_seed", "p", "cases", "trainings", "verdict"]
    found = pd.DataFrame(rows)
    return found.assign(**{name: math.nan for name in columns if name not in found})


def comparisons(scores: pd.DataFrame, reference: str) -> dict[Place, pd.DataFrame]:
    """The paired cases of each arm and share of labels with the reference, where there are any."""
    found = {}
    for (labels, arm), _ in scores.groupby(["labels", "arm"], sort=False):
        cases = paired(scores[scores["labels"] == labels], str(arm), reference) if arm != reference else []
        if len(cases):
            found[str(arm), float(labels)] = cases
    return found


def _trainings_of_both(table: pd.DataFrame, arm: str, reference: str, labels: float) -> pd.DataFrame:
    """Seeds and folds in which both were tested, with the difference of their mean DSC."""
    of = table[table["labels"] == labels].groupby("arm")[[*KEYS, "dsc"]]
    both = of.get_group(arm).merge(of.get_group(reference), on=KEYS, suffixes=("", "_reference"))
    both = both.assign(difference=pd.to_numeric(both["dsc"]) - pd.to_numeric(both["dsc_reference"]))
    return both[both["difference"].notna()]  # a fold without a lesion tells nothing


def _about(noise: TrainingNoise | None, trainings: int) -> str:
    """Marks a verdict that is about trainings and not about methods."""
    if noise and noise.known:
        return ""
    return " (one training)" if trainings == 1 else " (these trainings)"


def _repeated(part: pd.DataFrame, values: pd.Series) -> pd.Series:
    """What a standard deviation is taken over: a value a seed, its folds being averaged, or a fold of the one seed."""
    values = pd.to_numeric(values)
    return values.groupby(part["seed"]).mean() if part["seed"].nunique() > 1 else values
