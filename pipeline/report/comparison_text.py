"""The comparison table in words, and as its readers see it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.report.comparison import METRICS, Place, comparisons
from pipeline.report.statistics import expected, independent_cases
from pipeline.report.training_noise import TrainingNoise, training_noise

if TYPE_CHECKING:
    from pipeline.benchmark.settings import BenchmarkSettings


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


def planned(settings: BenchmarkSettings, scores: pd.DataFrame, plan: Plan) -> str:
    """A sentence on what the table will be able to tell.

    From `benchmark.expected_sd` and `expected_chance`, else from the runs that are finished, and the number of test
    cases (near-duplicates as one); arms and shares of included tables count as comparisons too.
    """
    pairs = comparisons(scores, settings.reference)
    averaged = [cases.groupby("case")["difference"].mean() for cases in pairs.values()]
    known = [cases.var(ddof=1) for cases in averaged if len(cases) > 1]
    chances = [noise.variance for noise in training_noise(scores).values() if noise.known]
    worth = independent_cases(plan.tested)
    told = outlook(
        settings,
        worth,
        {*plan.places, *pairs},
        plan.trainings,
        math.sqrt(float(np.mean(known))) if known else 0.0,
        math.sqrt(max(chances)) if chances else None,
    )
    return f"benchmark: {len(plan.tested)} test cases with a lesion, worth {worth:.0f} independent ones: {told}"


def outlook(
    settings: BenchmarkSettings,
    cases: float,
    places: Collection[Place],
    trainings: int,
    deviation: float = 0.0,
    chance: float | None = None,
) -> str:
    """How wide the intervals of a table will be.

    Args:
        settings: reference, aim, and what was set to plan by, which goes before what was found.
        cases: independent test cases.
        places: arm and share of labels of each row.
        trainings: of an arm with one share of labels.
        deviation: standard deviation of a case's difference that was found; 0: none yet.
        chance: standard deviation of one training's mean DSC that was found; None: it cannot be told yet.
    """
    deviation = settings.expected_sd or deviation
    if not deviation:
        return "how wide the intervals will be is not known (set benchmark.expected_sd to plan)"
    chance = settings.expected_chance or chance
    number = sum(arm != settings.reference for arm, _ in places)
    # arms x trainings less their means, with each share of labels
    freedom = number / max(1, len({labels for _, labels in places})) * (trainings - 1)
    if freedom < 2:
        likely, besides = expected(deviation, cases, number), ", about these trainings,"
    elif chance is None:
        likely, besides = expected(deviation, cases, number), " (more by chance in training, not known yet)"
    else:
        likely, besides = expected(deviation, cases, number, chance * math.sqrt(2 / trainings), freedom), ""
    return (
        f"intervals of about ±{likely.half_width:.3f} DSC{besides} are expected, so that {settings.aim:g} "
        f"{'can' if settings.aim >= likely.half_width else 'CANNOT'} be told from zero; {likely.detectable:.3f} could, "
        "four times in five"
    )


def chance_told(noise: Mapping[float, TrainingNoise]) -> str:
    """A sentence on the part that chance in training has in the intervals."""
    known = {labels: part for labels, part in noise.items() if part.known}
    if not known:
        return "Chance in training is not in the intervals: it cannot be told from so few trainings."
    moves = ", ".join(
        f"{math.sqrt(part.variance):.3f} with {labels:.0%} of the labels ({part.freedom} degrees of freedom)"
        for labels, part in known.items()
    )
    rest = ", ".join(f"{labels:.0%}" for labels in noise if labels not in known)
    lacking = f"; with {rest} it cannot be told, and is not in them" if rest else ""
    return (
        f"Chance in training moves an arm's mean DSC by {moves} (standard deviation of one training, by all pairs of "
        f"arms); the intervals hold it, as badly as it is known{lacking}."
    )


def spread_over(rows: pd.DataFrame) -> str:
    """A sentence on what the standard deviations are taken over."""
    if rows["seed"].nunique() > 1:
        folds = ", each the mean of its folds" if rows["fold"].nunique() > 1 else ""
        return f"n: seeds; ±: standard deviation over them{folds}."
    return "n: folds of the one seed; ±: standard deviation over them." if rows["fold"].nunique() > 1 else ""


def lacking(missing: Sequence[str]) -> str:
    """A sentence on the runs that the table still lacks, by name."""
    if not missing:
        return "All runs are in it."
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    are = "run is" if len(missing) == 1 else "runs are"
    return f"{len(missing)} {are} not in it yet: {'; '.join(missing[:5])}{more}."


def readable(found: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The summary as text, a column for each that has something to say; see `pipeline.report.comparison.summary`."""
    text: dict[str, pd.Series] = {"arm": found["arm"], "labels": found["labels"].map("{:g}".format), "n": found["n"]}
    for metric in METRICS:
        text[metric] = _spread(found, metric)
    compared = found["difference"].notna()
    text[f"DSC less {reference}"] = (
        _told(found["difference"], "{:+.3f} [") + _told(found["low"], "{:+.3f}, ") + _told(found["high"], "{:+.3f}]")
    )
    text["by seed"] = found["by_seed"].where(compared, "")
    text |= {"p": _told(found["p"], "{:.3g}")}
    text |= {name: _told(found[name], "{:.0f}") for name in ("cases", "trainings")}
    text["verdict"] = found["verdict"].where(compared, "")
    if found["probe_dsc"].notna().any():
        text["probe DSC"] = _spread(found, "probe_dsc")
    text["samples"], text["visible"] = _told(found["samples_seen"], "{:.0f}"), _told(found["visible"], "{:.2f}")
    for name, column in (("FLOPs a sample", "flops_mean"), ("pretrain FLOPs", "pretrain_flops")):
        text[name] = found[column].map(lambda flops: "" if np.isnan(flops) else f"{flops:.2e}" if flops else "0")
    for name, column in (("pretrain s", "pretrain_seconds"), ("finetune s", "finetune_seconds")):
        text[name] = _told(found[column], "{:.0f}")
    return pd.DataFrame(text)


def markdown(lines: pd.DataFrame) -> str:
    """Text as a Markdown table."""
    text = lines.astype(str)
    head = "| " + " | ".join(text.columns) + " |\n|" + "---|" * len(text.columns) + "\n"
    return head + "".join("| " + " | ".join(row) + " |\n" for row in text.to_numpy())


def _told(values: pd.Series, form: str) -> pd.Series:
    """Numbers as text; nothing where there is none."""
    return values.map(lambda value: "" if np.isnan(value) else form.format(value))


def _spread(found: pd.DataFrame, metric: str) -> pd.Series:
    """Mean and standard deviation."""
    return _told(found[metric], "{:.3f}") + _told(found[f"{metric}_sd"], " ± {:.3f}")
