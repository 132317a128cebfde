"""The comparison table as its readers see it: one row an arm and share of labels, with differences to the reference."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.report.statistics import (
    Interval,
    detectable,
    expected_half_width,
    holm,
    independent_cases,
    paired,
    simultaneous,
    verdict,
    wilcoxon,
)
from pipeline.report.training_noise import KEYS, TrainingNoise, training_noise

if TYPE_CHECKING:
    from pipeline.benchmark.settings import BenchmarkSettings

METRICS = ("dsc", "ppv", "sen", "hd95")
Place = tuple[str, float]  # arm, share of labels


@dataclass(frozen=True)
class Plan:
    """What a table is going to hold.

    Attributes:
        tested: the group of each case that is to be tested.
        places: arm and share of labels of each row.
        trainings: of an arm with one share of labels: seeds x folds.
    """

    tested: Sequence[str]
    places: Collection[Place]
    trainings: int = 1


def differences(pairs: dict[Place, pd.DataFrame], noise: TrainingNoise) -> dict[Place, Interval]:
    """Mean difference of each comparison, with intervals that hold for all of them together."""
    return dict(zip(pairs, simultaneous(list(pairs.values()), noise), strict=True))


def summary(
    table: pd.DataFrame,
    pairs: dict[Place, pd.DataFrame],
    intervals: dict[Place, Interval],
    settings: BenchmarkSettings,
) -> pd.DataFrame:
    """One row an arm and share of labels, in the order of the table.

    Args:
        table: one row a cell, see `pipeline.benchmark.table`.
        pairs: the paired cases of each comparison with the reference, see `comparisons`.
        intervals: their mean differences, see `differences`.
        settings: reference and aim.
    """
    p_values = dict(zip(pairs, holm([wilcoxon(cases) for cases in pairs.values()]), strict=True))
    rows = []
    for (arm, labels), part in table.groupby(["arm", "labels"], sort=False):
        row: dict[str, Any] = {"arm": arm, "labels": f"{labels:g}", "n": len(part)}
        row |= {metric: _spread(part, metric) for metric in METRICS}
        row |= dict.fromkeys((f"DSC less {settings.reference}", "by seed", "p", "cases", "trainings", "verdict"), "")
        if (arm, labels) in pairs:
            found, cases = intervals[arm, labels], pairs[arm, labels]
            row[f"DSC less {settings.reference}"] = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
            trainings = _trainings_of_both(table, arm, settings.reference, labels)
            row |= {
                "by seed": ", ".join(f"{mean:+.3f}" for mean in trainings.groupby("seed")["difference"].mean()),
                "p": f"{p_values[arm, labels]:.3g}",
                "cases": cases["case"].nunique(),
                "trainings": len(trainings),
            }
            row["verdict"] = verdict(found, settings.aim) + (" (one training)" if len(trainings) == 1 else "")
        if table["probe_dsc"].notna().any():
            row["probe DSC"] = _spread(part, "probe_dsc")
        row["samples"] = _whole(part["samples_seen"])
        row["visible"] = f"{part['visible'].mean():.2f}" if part["visible"].notna().any() else ""
        row["FLOPs a sample"] = _flops(part["flops_mean"])
        row["pretrain FLOPs"] = _flops(part["pretrain_flops"])
        row["pretrain s"], row["finetune s"] = _whole(part["pretrain_seconds"]), _whole(part["finetune_seconds"])
        rows.append(row)
    return pd.DataFrame(rows)


def comparisons(scores: pd.DataFrame, reference: str) -> dict[Place, pd.DataFrame]:
    """The paired cases of each arm and share of labels with the reference, where there are any."""
    found = {}
    for (labels, arm), _ in scores.groupby(["labels", "arm"], sort=False):
        cases = paired(scores[scores["labels"] == labels], str(arm), reference) if arm != reference else []
        if len(cases):
            found[str(arm), float(labels)] = cases
    return found


def planned(settings: BenchmarkSettings, scores: pd.DataFrame, plan: Plan) -> str:
    """A sentence on what the table will be able to tell.

    From `benchmark.expected_sd`, else from the differences of the runs that are finished, and the number of test cases
    (near-duplicates as one); arms and shares of included tables count as comparisons too.
    """
    pairs, noise = comparisons(scores, settings.reference), training_noise(scores)
    averaged = [cases.groupby("case")["difference"].mean() for cases in pairs.values()]
    known = [cases.var(ddof=1) for cases in averaged if len(cases) > 1]
    deviation = settings.expected_sd or (math.sqrt(float(np.mean(known))) if known else math.nan)
    number = sum(arm != settings.reference for arm, _ in {*plan.places, *pairs})
    worth = independent_cases(plan.tested)
    text = f"benchmark: {len(plan.tested)} test cases with a lesion, worth {worth:.0f} independent ones"
    if math.isnan(deviation):
        return f"{text}; how wide the intervals will be is not known (set benchmark.expected_sd to plan)"
    chance = math.sqrt(2 * noise.variance / plan.trainings) if noise.known else 0.0
    half = expected_half_width(deviation, worth, number, chance)
    least = detectable(half, worth, number)
    besides = "" if noise.known or plan.trainings == 1 else " (more by chance in training, not known yet)"
    return (
        f"{text}: intervals of about ±{half:.3f} DSC{besides} are expected, so that {settings.aim:g} "
        f"{'can' if settings.aim >= least else 'CANNOT'} be told from zero; {least:.3f} could, four times in five"
    )


def chance_told(noise: TrainingNoise) -> str:
    """A sentence on the part that chance in training has in the intervals."""
    if not noise.known:
        return "Chance in training is not in the intervals: it cannot be told from one training of each arm."
    return (
        f"Chance in training moves an arm's mean DSC by {math.sqrt(noise.variance):.3f} (standard deviation of one "
        "training, by all pairs of arms); the intervals hold it."
    )


def spread_over(rows: pd.DataFrame) -> str:
    """A sentence on what the standard deviations are taken over."""
    if rows["seed"].nunique() > 1:
        folds = ", each the mean of its folds" if rows["fold"].nunique() > 1 else ""
        return f"±: standard deviation over seeds{folds}."
    return "±: standard deviation over the folds of one seed." if rows["fold"].nunique() > 1 else ""


def lacking(missing: Sequence[str]) -> str:
    """A sentence on the runs that the table still lacks, by name."""
    if not missing:
        return "All runs are in it."
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    are = "run is" if len(missing) == 1 else "runs are"
    return f"{len(missing)} {are} not in it yet: {'; '.join(missing[:5])}{more}."


def markdown(lines: pd.DataFrame) -> str:
    """The summary as a Markdown table."""
    text = lines.astype(str)
    head = "| " + " | ".join(text.columns) + " |\n|" + "---|" * len(text.columns) + "\n"
    return head + "".join("| " + " | ".join(row) + " |\n" for row in text.to_numpy())


def _trainings_of_both(table: pd.DataFrame, arm: str, reference: str, labels: float) -> pd.DataFrame:
    """Seeds and folds in which both were tested, with the difference of their mean DSC."""
    of = table[table["labels"] == labels].groupby("arm")[[*KEYS, "dsc"]]
    both = of.get_group(arm).merge(of.get_group(reference), on=KEYS, suffixes=("", "_reference"))
    both = both.assign(difference=pd.to_numeric(both["dsc"]) - pd.to_numeric(both["dsc_reference"]))
    return both[both["difference"].notna()]  # a fold without a lesion tells nothing


def _flops(values: pd.Series) -> str:
    mean = values.mean()  # NaN: an encoder from elsewhere
    return "" if np.isnan(mean) else f"{mean:.2e}" if mean else "0"


def _whole(values: pd.Series) -> str:
    return "" if values.isna().all() else f"{values.mean():.0f}"


def _spread(part: pd.DataFrame, metric: str) -> str:
    """Mean and standard deviation over seeds, a seed's folds being averaged; over the folds where there is one seed."""
    values = pd.to_numeric(part[metric])
    if part["seed"].nunique() > 1:
        values = values.groupby(part["seed"]).mean()
    values = values.dropna()
    if values.empty:
        return ""
    return f"{values.mean():.3f} ± {values.std():.3f}" if len(values) > 1 else f"{values.mean():.3f}"
