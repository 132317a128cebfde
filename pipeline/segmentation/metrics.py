"""Segmentation metrics of one case, and their mean over a test set.

Definitions, for a predicted region A and an annotated region B of one case:
    DSC  = 2 |A & B| / (|A| + |B|)          PPV = |A & B| / |A|          Sen = |A & B| / |B|
    HD95 = the larger of the two 95th percentiles of the distances between the borders of A and of B
           (linear interpolation; a border pixel is one that a step along an axis leads out of the region)
A case with a lesion and an empty prediction counts DSC = PPV = Sen = 0, and HD95 = the diagonal of its image, the
largest distance possible: to find nothing must not be rewarded. Cases without lesion have none of these metrics;
they give the false-positive rate, the share of them in which anything at all was predicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt


@dataclass(frozen=True)
class CaseMetrics:
    """Metrics of one region of one case; NaN where the case has no lesion.

    Attributes:
        dsc, ppv, sen: in [0, 1].
        hd95: in the unit of the spacing (pixels where none is known).
        lesion, predicted: pixels annotated and predicted.
    """

    dsc: float
    ppv: float
    sen: float
    hd95: float
    lesion: int
    predicted: int


def case_metrics(prediction: np.ndarray, target: np.ndarray, spacing: Sequence[float] | None = None) -> CaseMetrics:
    """Compare a predicted with an annotated region.

    Args:
        prediction, target: bool [*spatial], of the same shape, two or three axes.
        spacing: size of a pixel along each axis; 1 by default.
    """
    prediction, target = np.asarray(prediction, bool), np.asarray(target, bool)
    lesion, predicted = int(target.sum()), int(prediction.sum())
    if lesion == 0:
        return CaseMetrics(nan, nan, nan, nan, lesion, predicted)
    if predicted == 0:
        extent = np.asarray(target.shape) * (np.ones(target.ndim) if spacing is None else np.asarray(spacing))
        return CaseMetrics(0.0, 0.0, 0.0, float(np.linalg.norm(extent)), lesion, predicted)
    shared = int((prediction & target).sum())
    return CaseMetrics(
        dsc=2 * shared / (lesion + predicted),
        ppv=shared / predicted,
        sen=shared / lesion,
        hd95=hausdorff95(prediction, target, spacing),
        lesion=lesion,
        predicted=predicted,
    )


def hausdorff95(first: np.ndarray, second: np.ndarray, spacing: Sequence[float] | None = None) -> float:
    """HD95 of two regions bool [*spatial], neither of them empty, in the unit of the spacing."""
    first_border, second_border = _border(first), _border(second)
    there = distance_transform_edt(~second_border, sampling=spacing)[first_border]
    back = distance_transform_edt(~first_border, sampling=spacing)[second_border]
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def _border(region: np.ndarray) -> np.ndarray:
    return region & ~binary_erosion(region)  # beyond the image is outside


def summarise(cases: Iterable[CaseMetrics]) -> dict[str, float | int | None]:
    """Mean of each metric over the cases with a lesion, and the false-positive rate over those without.

    Returns:
        dsc, ppv, sen, hd95 (None without a lesion case), cases, false_positive_rate (None without a lesion-free
        case), lesion_free_cases.
    """
    cases = list(cases)
    lesion = [case for case in cases if case.lesion]
    free = [case for case in cases if not case.lesion]
    means: dict[str, float | int | None] = {
        name: float(np.mean([getattr(case, name) for case in lesion])) if lesion else None
        for name in ("dsc", "ppv", "sen", "hd95")
    }
    false = float(np.mean([case.predicted > 0 for case in free])) if free else None
    return {**means, "cases": len(lesion), "false_positive_rate": false, "lesion_free_cases": len(free)}
