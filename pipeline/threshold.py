"""DSC of every validation case at every threshold, from counts that can be summed over batches and workers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(2, 19))  # .1 to .9
DEFAULT = 0.5


class ThresholdCounts:
    """Overlap and sizes for each case, region and threshold; a case may have several samples (slices, crops).

    Args:
        cases, regions: how many there are.
        device: where the counts are kept.
    """

    def __init__(self, cases: int, regions: int, device: torch.device) -> None:
        self.overlap = torch.zeros(cases, regions, len(THRESHOLDS), dtype=torch.float64, device=device)
        self.predicted = torch.zeros_like(self.overlap)
        self.lesion = torch.zeros(cases, regions, 1, dtype=torch.float64, device=device)

    def add(self, case: Tensor, probability: Tensor, target: Tensor) -> None:
        """Count one batch.

        Args:
            case: int64 [b], number of each sample's case.
            probability: float [b, R, *spatial].
            target: bool [b, R, *spatial].
        """
        probability, target = probability.flatten(2), target.flatten(2)
        self.lesion.index_add_(0, case, target.sum(-1, keepdim=True).double())
        for number, threshold in enumerate(THRESHOLDS):
            chosen = probability > threshold
            self.predicted[..., number].index_add_(0, case, chosen.sum(-1).double())
            self.overlap[..., number].index_add_(0, case, (chosen & target).sum(-1).double())

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """What is to be summed over workers."""
        return self.overlap, self.predicted, self.lesion

    def dsc(self) -> np.ndarray:
        """float64 [cases, R, thresholds]; NaN for cases without that region."""
        dsc = 2 * self.overlap / (self.predicted + self.lesion).clamp(min=1)
        return torch.where(self.lesion > 0, dsc, torch.nan).cpu().numpy()


@dataclass(frozen=True)
class Choice:
    """A threshold for each region, and the mean DSC over the lesion cases (and regions) there; None without any."""

    thresholds: tuple[float, ...]
    dsc: float | None


def choose_thresholds(dsc: np.ndarray) -> Choice:
    """The threshold of each region: among those within one standard error of the best, the nearest to 0.5.

    A few validation cases cannot tell neighbouring thresholds apart; the rule (Breiman's one-standard-error rule)
    leaves 0.5 only for a gain that they can tell. The standard error is of the difference to the best, case by case.

    Args:
        dsc: float [cases, R, thresholds], NaN where a case lacks the region.
    """
    chosen, reached = [], []
    for region in range(dsc.shape[1]):
        values = dsc[~np.isnan(dsc[:, region, 0]), region]
        if not len(values):
            chosen.append(DEFAULT)
            continue
        means = values.mean(0)
        loss = values[:, [means.argmax()]] - values
        error = loss.std(0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.zeros(len(means))
        good = np.flatnonzero(loss.mean(0) <= error + 1e-12)
        best = min(good, key=lambda number: (abs(THRESHOLDS[number] - DEFAULT), -means[number]))
        chosen.append(THRESHOLDS[best])
        reached.append(float(means[best]))
    return Choice(tuple(chosen), float(np.mean(reached)) if reached else None)
