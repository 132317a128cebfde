"""Segmentation metrics of one case, and their mean over a test set.

Definitions, for a predicted region A and an annotated region B of one case:
    DSC  = 2 |A & B| / (|A| + |B|)          PPV = |A & B| / |A|          Sen = |A & B| / |B|
    HD95 = the larger of the two 95th percentiles of the distances between the borders of A and of B
           (linear interpolation; a border pixel is one that a step along an axis leads out of the region)
    lesion-wise Sen = the share of the lesions, connected components of B, that A touches by a pixel at least;
           components below a least size are no lesions, but belong to B for all other metrics
A case with a lesion and an empty prediction counts 0 in all but HD95, which is the diagonal of its image, the largest
distance possible: to find nothing must not be rewarded. Cases without lesion have none of these metrics; they give
the false-positive rate, the share of them in which anything at all was predicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.spatial import KDTree

from pipeline.segmentation.components import label_components

METRICS = ("dsc", "ppv", "sen", "hd95", "lesion_sen")  # what has a mean over the lesion cases
_DENSE = 0.2  # share of border pixels


@dataclass(frozen=True)
class CaseMetrics:
    """Metrics of one region of one case; NaN where the case has no lesion.

    Attributes:
        dsc, ppv, sen: in [0, 1].
        hd95: in the unit of the spacing (pixels where none is known).
        lesion_sen: share of the lesions that were found, in [0, 1]; NaN too where all of them are below the least size.
        lesion, predicted: pixels annotated and predicted.
        lesions: connected components annotated (full connectivity: pixels that share a corner belong together) that
            have the least size.
    """

    dsc: float
    ppv: float
    sen: float
    hd95: float
    lesion_sen: float
    lesion: int
    predicted: int
    lesions: int


def case_metrics(
    prediction: np.ndarray, target: np.ndarray, spacing: Sequence[float] | None = None, least: int = 0
) -> CaseMetrics:
    """Compare a predicted with an annotated region.

    Args:
        prediction, target: bool [*spatial], of the same shape, two or three axes.
        spacing: size of a pixel along each axis; 1 by default.
        least: pixels that an annotated component needs to be a lesion; see `components.least_voxels`.
    """
    prediction, target = np.asarray(prediction, bool), np.asarray(target, bool)
    lesion, predicted = int(target.sum()), int(prediction.sum())
    if lesion == 0:
        return CaseMetrics(nan, nan, nan, nan, nan, lesion, predicted, 0)
    labels, components = label_components(target)
    counted = np.bincount(labels[target], minlength=components + 1)[1:] >= least
    found = np.bincount(labels[prediction], minlength=components + 1)[1:] > 0
    lesions = int(counted.sum())
    lesion_sen = float(found[counted].mean()) if lesions else nan
    if predicted == 0:
        extent = np.asarray(target.shape) * (np.ones(target.ndim) if spacing is None else np.asarray(spacing))
        return CaseMetrics(0.0, 0.0, 0.0, float(np.linalg.norm(extent)), lesion_sen, lesion, predicted, lesions)
    shared = int((prediction & target).sum())
    return CaseMetrics(
        dsc=2 * shared / (lesion + predicted),
        ppv=shared / predicted,
        sen=shared / lesion,
        hd95=hausdorff95(prediction, target, spacing),
        lesion_sen=lesion_sen,
        lesion=lesion,
        predicted=predicted,
        lesions=lesions,
    )


def hausdorff95(first: np.ndarray, second: np.ndarray, spacing: Sequence[float] | None = None) -> float:
    """HD95 of two regions bool [*spatial], neither of them empty, in the unit of the spacing."""
    around = _bounds(first | second)
    one, two = _border(first[around]), _border(second[around])
    return float(max(np.percentile(_distances(*pair, spacing), 95) for pair in ((one, two), (two, one))))


def _distances(pixels: np.ndarray, others: np.ndarray, spacing: Sequence[float] | None) -> np.ndarray:
    """From each pixel of one border to the nearest of the other; borders as bool [*spatial].

    A search tree takes time by the number of border pixels, a distance map by that of all pixels, those between a
    lesion and a false positive far from it included: the map is faster only where the prediction is noise.
    """
    if np.count_nonzero(pixels) + np.count_nonzero(others) > _DENSE * pixels.size:
        return distance_transform_edt(~others, sampling=spacing)[pixels]
    scale = np.ones(pixels.ndim) if spacing is None else np.asarray(spacing, float)
    return KDTree(np.argwhere(others) * scale).query(np.argwhere(pixels) * scale)[0]


def _bounds(region: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around a region that is not empty, and one pixel more on each side where the image has one."""
    axes = range(region.ndim)
    used = (np.flatnonzero(region.any(axis=tuple(a for a in axes if a != axis))) for axis in axes)
    return tuple(slice(max(int(places[0]) - 1, 0), int(places[-1]) + 2) for places in used)


def _border(region: np.ndarray) -> np.ndarray:
    return region & ~binary_erosion(region)  # beyond the image is outside


def summarise(cases: Iterable[CaseMetrics]) -> dict[str, float | int | None]:
    """Mean of each metric over the cases with a lesion, and the false-positive rate over those without.

    Returns:
        dsc, ppv, sen, hd95, lesion_sen (None without a case that has it), cases, lesions (the sum over them),
        false_positive_rate (None without a lesion-free case), lesion_free_cases.
    """
    cases = list(cases)
    lesion = [case for case in cases if case.lesion]
    free = [case for case in cases if not case.lesion]
    values = {name: [value for case in lesion if not isnan(value := getattr(case, name))] for name in METRICS}
    means: dict[str, float | int | None] = {
        name: float(np.mean(known)) if known else None for name, known in values.items()
    }
    false = float(np.mean([case.predicted > 0 for case in free])) if free else None
    lesions = sum(case.lesions for case in lesion)
    counts = {"cases": len(lesion), "lesions": lesions}
    return {**means, **counts, "false_positive_rate": false, "lesion_free_cases": len(free)}
