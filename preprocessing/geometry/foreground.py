"""Where the patient is in a scan: mask and box of the voxels that are worth keeping."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage

from preprocessing.geometry.interpolation import bounding_box

Kind = Literal["mri", "ct", "none"]
BODY = -500.0  # HU; between lung and air on one side and every soft tissue on the other
_IN_SLICE = ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)[:, None, None]


def foreground_mask(values: np.ndarray, kind: Kind, ct: int = 0) -> np.ndarray:
    """Voxels that show the patient.

    - "mri": any modality differs from 0, the background of skull-stripped scans.
    - "ct": the body, the largest connected part above -500 HU with the holes of each axial slice (lungs, bowel gas)
      filled; table and clothes are left out where they do not touch it.
    - "none": everything.

    Args:
        values: float32 [C, z, y, x] on the working grid.
        kind: what was scanned.
        ct: index of the modality that is the CT, in HU.

    Returns:
        bool [z, y, x], which may be all false.
    """
    if kind == "none":
        return np.ones(values.shape[1:], bool)
    if kind == "mri":
        mask = values[0] != 0
        for modality in values[1:]:
            mask |= modality != 0
        return mask
    parts, number = ndimage.label(values[ct] > BODY)
    if number == 0:
        return parts > 0
    # plane by plane: a count of the whole would hold it in 64 bits
    sizes = sum((np.bincount(plane.ravel(), minlength=number + 1) for plane in parts), np.zeros(number + 1, np.int64))
    body = parts == sizes[1:].argmax() + 1
    del parts
    return _filled(body)


def foreground_box(mask: np.ndarray) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The smallest box that holds the foreground, as (start, stop) for `work_grid.crop_to`.

    Args:
        mask: bool [z, y, x]; all of it when nothing is true.
    """
    box = bounding_box(mask)
    if box is None:
        return (0, 0, 0), mask.shape
    (a, d), (b, e), (c, f) = ((side.start, side.stop) for side in box)
    return (a, b, c), (d, e, f)


def _filled(mask: np.ndarray) -> np.ndarray:
    """With the holes of each slice of the first axis filled: gaps that do not reach the border of the slice."""
    gaps, number = ndimage.label(~mask, _IN_SLICE)
    open_gap = np.zeros(number + 1, bool)
    for border in (gaps[:, 0], gaps[:, -1], gaps[:, :, 0], gaps[:, :, -1]):
        open_gap[border.ravel()] = True
    open_gap[0] = False  # the mask itself
    return ~open_gap[gaps]
