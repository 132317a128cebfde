"""How much an arm's mean DSC changes from training to training: initial weights, order, masks, labelled cases.

Two arms of the same seed and fold are tested on the same cases, so that what the cases do to both cancels. If their
difference changes more between trainings than the test cases explain, the rest is chance in training. It is estimated
over all pairs of arms with the same share of labels together, by moments: a comparison of three seeds alone could not
tell it, and more labels leave less to chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

KEYS = ["seed", "fold"]


@dataclass(frozen=True)
class TrainingNoise:
    """Chance in training with one share of labels, taken to be the same for all arms.

    Attributes:
        total: variance of one training's mean DSC, less what arms and trainings come to in the mean (the residual of a
            layout of two ways); NaN where it cannot be told.
        cases: the part of it that the test cases explain.
        freedom: degrees of freedom that the total has.
    """

    total: float = math.nan
    cases: float = math.nan
    freedom: int = 0

    @property
    def known(self) -> bool:
        """Whether the estimate means anything: one degree of freedom leaves chance as large as DSC itself open."""
        return self.freedom > 1

    @property
    def variance(self) -> float:
        """What is left for chance in training; NaN where it cannot be told."""
        return max(0.0, self.total - self.cases) if self.known else math.nan

    def plausible(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Variances [count] that the estimate leaves open; 0 where it is unknown.

        The total's are those of a variance known with so many degrees of freedom (scaled inverse chi-square), more
        than the cases' part each: an estimate of 0 from a few trainings is no proof that there is no chance in them.
        """
        if not self.known or self.total <= 0:
            return np.zeros(count)
        most = stats.chi2.cdf(self.freedom * self.total / self.cases, self.freedom) if self.cases > 0 else 1.0
        square = stats.chi2.ppf(most * rng.uniform(size=count), self.freedom)
        return np.maximum(0.0, self.freedom * self.total / square - self.cases)


def training_noise(scores: pd.DataFrame) -> dict[float, TrainingNoise]:
    """Chance in training by share of labels, each estimated from all arms with it.

    Args:
        scores: columns arm, seed, fold, labels, case, group, dsc; NaN (no lesion) is no score.

    Returns:
        unknown for a share with less than three trainings of two arms, or two of three.
    """
    known = scores[scores["dsc"].notna()]
    return {float(labels): _noise(part) for labels, part in known.groupby("labels")}


def _noise(scores: pd.DataFrame) -> TrainingNoise:
    """Of one share of labels."""
    wide = scores.pivot(index=[*KEYS, "case", "group"], columns="arm", values="dsc")
    training = wide.groupby(level=KEYS).ngroup().to_numpy()
    group = wide.groupby(level="group").ngroup().to_numpy()
    trained: set[tuple[str, int]] = set()
    sums, weights = np.zeros(2), 0
    for first, second in combinations(wide.columns, 2):
        trainings, parts = _variances((wide[first] - wide[second]).to_numpy(float), training, group)
        if len(trainings) > 1:
            sums, weights = sums + (len(trainings) - 1) * parts, weights + len(trainings) - 1
            trained |= {(arm, number) for arm in (first, second) for number in trainings}
    if not trained:
        return TrainingNoise()
    arms, times = (len(set(names)) for names in zip(*trained, strict=True))
    freedom = len(trained) - arms - times + 1  # arms x trainings less their means
    total, cases = sums / weights / 2  # a difference has the chance of two trainings
    return TrainingNoise(float(total), float(cases), freedom)


def _variances(differences: np.ndarray, training: np.ndarray, group: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Trainings of a pair of arms, and the variance of its mean difference over them: in all, and by cases alone.

    Args:
        differences: [N] in DSC of each run of a case; NaN where one of the arms lacks it.
        training: [N] number of its training.
        group: [N] number of its case's group.
    """
    trainings, means, deviations = [], [], []
    for number in range(training.max() + 1):
        here = (training == number) & ~np.isnan(differences)
        sizes = np.bincount(group[here], minlength=group.max() + 1)
        groups, cases = (sizes > 0).sum(), sizes.sum()
        if groups < 2:  # no telling how much the cases explain
            continue
        mean = differences[here].mean()
        away = np.bincount(group[here], differences[here] - mean, minlength=len(sizes)) / cases
        trainings.append(number)
        means.append(mean)
        deviations.append(away * math.sqrt(groups / (groups - 1)))
    count = len(trainings)
    if count < 2:
        return trainings, np.zeros(2)
    covariance = np.array(deviations) @ np.array(deviations).T  # by cases alone; those of several trainings go together
    by_cases = (np.trace(covariance) - covariance.sum() / count) / (count - 1)
    return trainings, np.array([np.var(means, ddof=1), by_cases])
