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
    """A threshold for each region, and the DSC there.

    Attributes:
        thresholds: one a region.
        cases: DSC of each lesion case, the mean over its regions; () without any.
    """

    thresholds: tuple[float, ...]
    cases: tuple[float, ...] = ()

    @property
    def dsc(self) -> float | None:
        """Mean DSC over the lesion cases; None without any."""
        return float(np.mean(self.cases)) if self.cases else None

    def as_good_as(self, other: Choice, errors: float = 1.0) -> bool:
        """Whether this falls short of the other, on the same cases, by no more than so many standard errors."""
        return len(self.cases) == 0 or _within_error(np.array(other.cases) - np.array(self.cases), errors)


def choose_thresholds(dsc: np.ndarray) -> Choice:
    """The threshold of each region: of those within two standard errors of the best, the nearest to half the best DSC.

    A few validation cases cannot tell neighbouring thresholds apart (after Breiman's one-standard-error rule; the
    standard error is of the difference to the best, case by case; within one of them nine cases were seen to choose
    .7 by chance). Where they cannot, theory can: of all thresholds on a calibrated probability, half the best DSC that
    is to be had is the one that has it (Lipton et al., arXiv 1402.1892). An unsure segmenter, whose best is .5, should
    be cut at .25 and not at .5.

    Args:
        dsc: float [cases, R, thresholds], NaN where a case lacks the region.
    """
    chosen = []
    for region in range(dsc.shape[1]):
        values = dsc[~np.isnan(dsc[:, region, 0]), region]
        if not len(values):
            chosen.append(THRESHOLDS.index(DEFAULT))
            continue
        means = values.mean(0)
        good = [n for n in range(len(THRESHOLDS)) if _within_error(values[:, means.argmax()] - values[:, n], 2.0)]
        chosen.append(min(good, key=lambda n: (abs(THRESHOLDS[n] - means.max() / 2), -means[n])))
    reached = dsc[:, np.arange(len(chosen)), chosen]  # [cases, regions]
    reached = np.nanmean(reached[~np.isnan(reached).all(1)], axis=1)
    return Choice(tuple(THRESHOLDS[n] for n in chosen), tuple(map(float, reached)))


def _within_error(loss: np.ndarray, errors: float = 1.0) -> bool:
    """Whether a loss, case by case, is at most so many standard errors of its mean."""
    error = loss.std(ddof=1) / np.sqrt(len(loss)) if len(loss) > 1 else 0.0
    return bool(loss.mean() <= errors * error + 1e-12)
