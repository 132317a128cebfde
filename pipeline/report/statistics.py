"""Whether one method segments better than another on the same test cases, with honest uncertainty.

Paired: the difference in DSC on a test case of the same seed and fold. Intervals are simultaneous over all comparisons
of a table (max-t, Westfall & Young 1993; Romano & Wolf, Econometrica 2005): cases are resampled by group, so that
near-duplicates and a case's runs in several seeds stay together, the same resample for all comparisons; each difference
is divided by its standard error, and the 95 % quantile of the largest is the factor of all intervals. Hence all
intervals of a table hold together with 95 %, and comparisons that go together are not punished as by Bonferroni.
P-values are Wilcoxon's signed-rank test on the groups' means, adjusted by Holm's method; they know of cases only.

Chance in training (`training_noise`) is part of the standard errors and of the resamples where a table can tell it;
where it cannot, with one training of each arm, an interval is about these trainings and not about the methods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from pipeline.report.training_noise import KEYS, TrainingNoise

CONFIDENCE = 0.95
RESAMPLES = 10_000
BETTER, WORSE, ALIKE, UNDECIDED, UNDECIDABLE = "better", "worse", "alike", "undecided", "cannot be decided"
POWER = 0.8  # how often a difference is found that is called detectable


@dataclass(frozen=True)
class Interval:
    """A mean difference and its interval; infinite where too few groups differ to resample."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Expected:
    """Half of the width that an interval is expected to have, and the true difference that would leave zero out of it
    four times in five."""

    half_width: float
    detectable: float


def paired(scores: pd.DataFrame, arm: str, reference: str) -> pd.DataFrame:
    """The test cases of both arms, in each seed and fold that both were trained in.

    Args:
        scores: columns arm, seed, fold, labels, case, group, dsc; of one share of labels. NaN (no lesion) is no score.

    Returns:
        one row a case and training: case, group, training (its name), difference (arm less reference).
    """
    keys = [*KEYS, "case"]
    known = scores[scores["dsc"].notna()]
    first, second = known[known["arm"] == arm], known[known["arm"] == reference]
    both = first.merge(second[[*keys, "dsc"]], on=keys, suffixes=("", "_reference"), validate="1:1")
    training = [" ".join(map(str, place)) for place in zip(*(both[name] for name in ("labels", *KEYS)), strict=True)]
    both = both.assign(difference=both["dsc"] - both["dsc_reference"], training=training)
    return both[["case", "group", "training", "difference"]]


def simultaneous(
    comparisons: Sequence[pd.DataFrame],
    noises: Sequence[TrainingNoise] = (),
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Interval]:
    """Intervals of the mean differences, all of which hold together with the given confidence.

    Args:
        comparisons: as from `paired`, with the same reference; each may have cases of its own.
        noises: chance in the trainings of each comparison; none, or unknown: an interval is about these trainings.
        confidence: of all intervals together.
        resamples: of the groups, with replacement, and of the trainings' chance.
        seed: of the resampling.
    """
    groups = sorted({group for cases in comparisons for group in cases["group"]})
    if not groups:
        return [Interval(math.nan, -math.inf, math.inf) for _ in comparisons]
    by_group = [cases.groupby("group")["difference"].agg(["sum", "size"]).reindex(groups) for cases in comparisons]
    sums, sizes = (np.stack([part[name].fillna(0.0) for part in by_group], 1) for name in ("sum", "size"))  # [G, M]
    once = np.ones((1, len(groups)))
    means, case_errors = (values[0] for values in _mean_and_error(once, sums, sizes))
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=resamples).astype(float)
    drawn, drawn_errors = _mean_and_error(counts, sums, sizes)
    away = drawn - means
    with np.errstate(divide="ignore", invalid="ignore"):
        hollow = np.isnan(away) | ((drawn_errors == 0) & (np.abs(away) > 1e-12))
    # a comparison whose resamples often have no spread has no interval, and must not take the others' with it
    enough = ((sizes > 0).sum(0) > 1) & (hollow.mean(0) <= (1 - confidence) / len(comparisons))
    chances, variances = _chances(comparisons, noises, resamples, rng)
    away = away + chances
    errors = np.sqrt(case_errors**2 + variances)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(np.abs(away) <= 1e-12, 0.0, np.abs(away) / np.sqrt(drawn_errors**2 + variances))
    t = np.where(np.isnan(t), np.inf, t)  # a resample without a case of the comparison says nothing
    known = (errors > 0) & enough
    factor = np.quantile(t[:, known].max(1), confidence, method="higher") if known.any() else 0.0
    alike = (errors == 0) & ((sizes > 0).sum(0) > 1)  # all differ by the same, mostly not at all
    widths = np.where(known, factor * np.where(known, errors, 0.0), np.where(alike, 0.0, np.inf))
    return [Interval(float(m), float(m - w), float(m + w)) for m, w in zip(means, widths, strict=True)]


def _chances(
    comparisons: Sequence[pd.DataFrame], noises: Sequence[TrainingNoise], resamples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What chance in training does to each comparison's mean difference: [B, M] resamples, and [M] a typical variance.

    How large that chance is, is not known either: each resample has one of the variances that the estimate leaves open.
    """
    if not noises:
        return np.zeros((resamples, len(comparisons))), np.zeros(len(comparisons))
    shares = _shares(comparisons)
    open_to = {noise: noise.plausible(rng, resamples) for noise in dict.fromkeys(noises)}
    deviations = np.sqrt(np.stack([open_to[noise] for noise in noises], 1))  # [B, M]
    squares = (shares**2).sum(1)  # of the arm's trainings; the reference's are as many
    own = rng.normal(0, 1, deviations.shape) * np.sqrt(squares)
    # the reference's chance is in all comparisons of its trainings
    reference = rng.normal(0, 1, (resamples, shares.shape[1])) @ shares.T
    return deviations * (own - reference), 2 * np.median(deviations, 0) ** 2 * squares


def _shares(comparisons: Sequence[pd.DataFrame]) -> np.ndarray:
    """[M, T] share of each training in each comparison's mean."""
    parts = [cases["training"].value_counts(normalize=True) for cases in comparisons]
    return pd.concat(parts, axis=1).fillna(0.0).to_numpy().T


def _mean_and_error(counts: np.ndarray, sums: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[B, M] mean over cases and its standard error with groups as the units, under weights [B, G] of the groups."""
    groups = (sizes > 0).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = counts @ sizes
        mean = (counts @ sums) / total
        squares = counts @ sums**2 - 2 * mean * (counts @ (sums * sizes)) + mean**2 * (counts @ sizes**2)
        squares = np.where(squares > 1e-12 * (counts @ sums**2), squares, 0.0)  # rounding
        return mean, np.sqrt(squares * groups / np.maximum(groups - 1, 1)) / total


def wilcoxon(cases: pd.DataFrame) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test on the groups' mean differences; 1 where none differs."""
    means = cases.groupby("group")["difference"].mean()
    means = means[means.abs() > 0]
    return float(stats.wilcoxon(means).pvalue) if len(means) else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm, Scand. J. Statist. 1979)."""
    order = np.argsort(p_values)
    scaled = np.asarray(p_values, float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return adjusted.tolist()


def independent_cases(groups: Sequence[str]) -> float:
    """How many independent cases the cases of these groups are worth, if a group's cases all tell the same."""
    sizes = np.unique(np.asarray(groups, str), return_counts=True)[1].astype(float)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if len(sizes) else 0.0


def expected(
    deviation: float,
    cases: float,
    comparisons: int,
    chance: float = 0.0,
    freedom: float = math.inf,
    confidence: float = CONFIDENCE,
) -> Expected:
    """Half of an interval's width that is to be expected, by Student's t and Bonferroni.

    The intervals themselves, which hold that the chance is badly known, came out 6 to 20 % wider in simulated tables of
    six arms and three seeds, the more so the fewer the cases.

    Args:
        deviation: standard deviation of the cases' differences.
        cases: independent test cases.
        comparisons: of the table.
        chance: standard deviation that chance in training gives a comparison's mean difference.
        freedom: degrees of freedom with which that chance will be known.
        confidence: of all intervals together.
    """
    if cases <= 1 or freedom <= 0:
        return Expected(math.inf, math.inf)
    by_cases, by_chance = deviation**2 / cases, chance**2
    total = by_cases + by_chance
    # Welch and Satterthwaite's degrees of freedom of the sum
    whole = total**2 / (by_cases**2 / (cases - 1) + by_chance**2 / freedom) if total else cases - 1
    factor = float(stats.t.ppf(1 - (1 - confidence) / (2 * max(1, comparisons)), whole))
    half = factor * math.sqrt(total)
    return Expected(half, half * (1 + float(stats.norm.ppf(POWER)) / factor))


def verdict(interval: Interval, aim: float) -> str:
    """One word on a comparison: better or worse; alike (zero and no difference of `aim` is in the interval); else
    undecided, or that it cannot be decided by an interval so wide.

    Args:
        interval: of the difference.
        aim: difference that would matter.
    """
    if interval.low > 0:
        return BETTER
    if interval.high < 0:
        return WORSE
    if -aim < interval.low and interval.high < aim:
        return ALIKE
    return UNDECIDABLE if aim < (interval.high - interval.low) / 2 else UNDECIDED
