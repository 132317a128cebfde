"""How much an arm's mean DSC changes from training to training: initial weights, order, masks, labelled cases.

Two arms of the same seed and fold are tested on the same cases, so that what the cases do to both cancels. If their
difference changes more between trainings than the test cases explain, the rest is chance in training. It is estimated
over all pairs of arms of a table together, by moments: a comparison of three seeds alone could not tell it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

KEYS = ["seed", "fold"]


@dataclass(frozen=True)
class TrainingNoise:
    """Chance in training, taken to be the same for all arms.

    Attributes:
        variance: of one training's mean DSC; NaN where it cannot be told.
        freedom: degrees of freedom that the estimate has.
    """

    variance: float = math.nan
    freedom: int = 0

    @property
    def known(self) -> bool:
        return self.freedom > 0


def training_noise(scores: pd.DataFrame) -> TrainingNoise:
    """Estimated from all arms of a table.

    Args:
        scores: columns arm, seed, fold, labels, case, group, dsc; NaN (no lesion) is no score.

    Returns:
        unknown, unless two arms share two trainings.
    """
    excess, weights, freedom = 0.0, 0, 0
    for _, part in scores[scores["dsc"].notna()].groupby("labels"):
        wide = part.pivot(index=[*KEYS, "case", "group"], columns="arm", values="dsc")
        training = wide.groupby(level=KEYS).ngroup().to_numpy()
        group = wide.groupby(level="group").ngroup().to_numpy()
        trained: set[tuple[str, int]] = set()
        for first, second in combinations(wide.columns, 2):
            trainings, more = _excess((wide[first] - wide[second]).to_numpy(float), training, group)
            if len(trainings) > 1:
                excess, weights = excess + (len(trainings) - 1) * more, weights + len(trainings) - 1
                trained |= {(arm, number) for arm in (first, second) for number in trainings}
        if trained:  # arms x trainings less their means, as in a layout of two ways
            arms, times = (len(set(names)) for names in zip(*trained, strict=True))
            freedom += len(trained) - arms - times + 1
    if freedom <= 0:
        return TrainingNoise()
    return TrainingNoise(max(0.0, excess / weights / 2), freedom)  # a difference has the chance of two trainings


def _excess(differences: np.ndarray, training: np.ndarray, group: np.ndarray) -> tuple[list[int], float]:
    """Trainings of a pair of arms, and the variance of its mean difference over them that the cases do not explain.

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
        return trainings, 0.0
    covariance = np.array(deviations) @ np.array(deviations).T  # by cases alone; those of several trainings go together
    explained = (np.trace(covariance) - covariance.sum() / count) / (count - 1)
    return trainings, float(np.var(means, ddof=1) - explained)
