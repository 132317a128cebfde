"""What can be drawn of a result: 2D as it is, of a volume the axial slice with most of a region."""

from __future__ import annotations

import nibabel.orientations as nio
import numpy as np

from preprocessing.geometry.volume import VoxelGrid

_SHOWN = nio.axcodes2ornt(("S", "P", "L"))  # slices; rows to the back; columns to the patient's left


def planes(region: np.ndarray, grid: VoxelGrid | None, *values: np.ndarray) -> list[np.ndarray]:
    """The same plane of every array.

    Args:
        region: bool [*size]; the plane is where it is largest, the middle one where it is empty.
        grid: where the voxels of a volume lie; None for a 2D image.
        values: arrays [*size].

    Returns:
        [H, W] of each of `values`.
    """
    if grid is None:
        return list(values)
    turn = nio.ornt_transform(nio.io_orientation(grid.affine), _SHOWN)
    area = nio.apply_orientation(region, turn).sum(axis=(1, 2))
    number = int(area.argmax()) if area.any() else len(area) // 2
    return [nio.apply_orientation(array, turn)[number] for array in values]
