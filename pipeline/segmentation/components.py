"""Connected components of a mask: their sizes, and the smallest one worth keeping, chosen on validation cases.

Voxels that share a face, an edge or a corner belong together (full connectivity: 8 neighbours in 2D, 26 in 3D).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil

import numpy as np
from scipy.ndimage import generate_binary_structure, label

from pipeline.segmentation.threshold import Choice


def label_components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number of its component for every voxel, int [*spatial], from 1, 0 outside; and how many there are.

    Args:
        mask: bool [*spatial].
    """
    labels, count = label(mask, generate_binary_structure(mask.ndim, mask.ndim))
    return labels, int(count)


def remove_small(mask: np.ndarray, least: int) -> np.ndarray:
    """A mask without its small components, which may be all of it.

    Args:
        mask: bool [*spatial].
        least: voxels that a component needs to stay; up to 1 all stay.

    Returns:
        bool [*spatial], a new array.
    """
    if least <= 1:
        return mask.copy()
    labels, count = label_components(mask)
    return np.concatenate([[False], _count(labels, count) >= least])[labels]


def least_voxels(size: float, voxel: float) -> int:
    """How many voxels a component of at least `size` has; both in one unit (ml, share of the image).

    Raises:
        ValueError: the size is negative, or a voxel has no size.
    """
    if size < 0 or not voxel > 0:
        raise ValueError(f"no component can have at least {size:g} where a voxel has {voxel:g}")
    return ceil(size / voxel - 1e-6)  # 0.3 ml are 3 voxels of 0.1 ml, not 4


def choose_least_size(cases: Iterable[tuple[np.ndarray, np.ndarray, float]], candidates: Sequence[float]) -> float:
    """The size below which components are best removed; 0 keeps everything.

    A case with a lesion counts its DSC. One without counts 1 where nothing is left and 0 otherwise: a finding in a
    scan without lesion costs as much as a lesion missed. But lesions are not given up for clean scans: only sizes
    come into question at which no case loses all that was found of its lesion, and the cases with a lesion lose no more
    than one standard error in the mean (a loss in one case alone is just that, however large). Among those within one
    standard error of the best mean over all cases, the smallest is taken, by the rule that `choose_thresholds` goes
    by: a few cases cannot justify removing more.

    Args:
        cases: predicted mask bool [*spatial], annotated mask bool [*spatial], and the size of a voxel; taken one at a
            time.
        candidates: sizes to try, in the voxels' unit; 0 is always tried.

    Returns:
        one of the candidates, or 0; 0 without any case.

    Raises:
        ValueError: as in `least_voxels`.
    """
    sizes = sorted({0.0, *map(float, candidates)})
    with_lesion: list[list[float]] = []
    without: list[list[float]] = []
    for mask, target, voxel in cases:
        scores = _scores(mask, target, [least_voxels(size, voxel) for size in sizes])
        (with_lesion if target.any() else without).append(scores)
    found = [n for n in range(len(sizes)) if not any(case[n] == 0 < case[0] for case in with_lesion)]
    harmless = _as_good_as_the_best(with_lesion, found)
    return sizes[_as_good_as_the_best(with_lesion + without, harmless)[0]]


def _as_good_as_the_best(scores: Sequence[Sequence[float]], tried: Sequence[int]) -> Sequence[int]:
    """Those of the tried columns that fall short of the best of them by one standard error at most; scores by case.

    All of them where there is no case.
    """
    if not scores:
        return tried
    choices = {number: Choice((), tuple(case[number] for case in scores)) for number in tried}
    best = max(choices.values(), key=lambda choice: float(np.mean(choice.cases)))
    return [number for number, choice in choices.items() if choice.as_good_as(best)]


def _scores(mask: np.ndarray, target: np.ndarray, least: Sequence[int]) -> list[float]:
    """What a case counts for each size in voxels; its components are found once."""
    labels, count = label_components(mask)
    voxels, shared = _count(labels, count), _count(labels[target], count)
    lesion = int(target.sum())
    scores = []
    for size in least:
        kept = voxels >= size
        left = int(voxels[kept].sum())
        scores.append(2 * int(shared[kept].sum()) / (left + lesion) if lesion else float(left == 0))
    return scores


def _count(labels: np.ndarray, count: int) -> np.ndarray:
    """int64 [count], how often each component's number occurs."""
    return np.bincount(labels.ravel(), minlength=count + 1)[1:]
