"""The smallest component worth keeping, chosen on whole validation cases once a segmenter is trained."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from upath import UPath

from pipeline.segmentation.components import choose_least_size
from pipeline.segmentation.inference import Predictor, Segmented
from pipeline.segmentation.regions import region_masks
from pipeline.segmentation.segmenter_file import set_least_sizes
from preprocessing.case import Case
from preprocessing.geometry.interpolation import bounding_box

CANDIDATES = {
    "share": (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02),  # of a 2D image
    "ml": (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
}


def choose_least_sizes(predictor: Predictor, cases: Iterable[Case], segmenter: UPath) -> tuple[float, ...]:
    """Choose for each region and write it into the segmenter's card.

    Args:
        predictor: the trained segmenter, which removes nothing so far.
        cases: labelled validation cases; one that cannot be read is left out, as in training.
        segmenter: its folder.

    Returns:
        Millilitres for volumes, shares of the whole for 2D images, one a region.
    """
    kept: list[list[tuple[np.ndarray, np.ndarray, float]]] = [[] for _ in predictor.card.classes]
    unit = "share"
    for found in predictor.segment(cases):
        if not isinstance(found, Segmented) or found.label is None:
            continue
        unit = found.unit
        truth = region_masks(found.label[None], predictor.card.classes, axis=0)
        for region, (mask, target) in enumerate(zip(predictor.masks(found), truth, strict=True)):
            # what is outside of both has no say, and whole volumes would fill the memory
            box = bounding_box(mask | target) or (slice(0, 1),) * mask.ndim
            kept[region].append((mask[box].copy(), target[box].copy(), found.pixel))
    sizes = tuple(choose_least_size(region, CANDIDATES[unit]) for region in kept)
    set_least_sizes(segmenter, sizes, unit)
    return sizes
