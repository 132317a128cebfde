"""Regions to segment, from class ids: they may overlap (whole tumour, tumour core), so each is a mask of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Array = TypeVar("Array", np.ndarray, Tensor)


def region_masks(label: Array, classes: Mapping[str, Sequence[int]], axis: int = 1) -> Array:
    """One mask a region.

    Args:
        label: uint8 class ids, with an axis of length 1 (or none) where the regions go.
        classes: name -> ids; no ids stand for every id but 0.
        axis: where the masks are stacked; an axis of length 1 there is replaced.

    Returns:
        bool, of the label's shape with `axis` as long as `classes`.
    """
    masks = [_any_of(label, ids) for ids in classes.values()]
    if isinstance(label, Tensor):
        return torch.cat(masks, dim=axis)
    return np.concatenate(masks, axis=axis)


def _any_of(label: Array, ids: Sequence[int]) -> Array:
    if not ids:
        return label > 0
    found = label == ids[0]
    for number in ids[1:]:
        found = found | (label == number)
    return found
