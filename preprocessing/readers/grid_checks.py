"""What a format says of where its voxels lie, checked, and turned to RAS+."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preprocessing.case import BadFile
from preprocessing.geometry.volume import VoxelGrid

_LARGEST_MM = 100.0  # of a voxel's edge: beyond, the unit must be wrong
_SMALLEST_MM = 1e-4
_FLAT = 1e-3  # of the volume of a voxel over that of a brick with the same edges


def spatial_shape(file: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """The three spatial axes of an array; further axes must have length 1.

    Raises:
        BadFile: the array is 2D, a single slice, or has more than one image along a fourth axis.
    """
    size = " x ".join(map(str, shape))
    kept = [int(n) for n in shape[:3]]
    if len(shape) > 3 and any(n != 1 for n in shape[3:]):
        raise BadFile(file, f"has {len(shape)} axes ({size}), a volume has 3: split the series into single volumes")
    if len(kept) < 3:
        raise BadFile(file, f"has {len(kept)} axes ({size or 'no size'}), a volume has 3")
    if min(kept) < 2:
        raise BadFile(file, f"is a single slice ({size}), a volume has at least 2 along each axis")
    return kept[0], kept[1], kept[2]


def grid_from_lps(shape: tuple[int, int, int], steps: np.ndarray, origin: np.ndarray) -> VoxelGrid:
    """A grid from what DICOM and ITK say in LPS.

    Args:
        shape: voxels along the array axes.
        steps: float [3, 3], column a is the way from a voxel to its neighbour along array axis a, in mm.
        origin: float [3], centre of voxel (0, 0, 0), in mm.
    """
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = steps, origin
    return VoxelGrid(shape, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def check_grid(file: str, grid: VoxelGrid) -> None:
    """Whether an image can lie in a patient like that.

    Raises:
        BadFile: the affine is not finite or flattens the voxels, or a voxel's size is out of all measure.
    """
    if not np.isfinite(grid.affine).all():
        raise BadFile(file, "the affine holds values that are not finite (NaN or infinite)")
    with np.errstate(over="ignore"):
        edges = grid.spacing
    spacing = " x ".join(f"{edge:.4g}" for edge in edges)
    if max(edges) > _LARGEST_MM or 0 < min(edges) < _SMALLEST_MM:
        raise BadFile(file, f"the voxels are {spacing} mm, which no scanner makes")
    # a determinant far below the product of the edges: they lie in one plane
    if min(edges) == 0 or 1000 * grid.voxel_ml < _FLAT * np.prod(edges):
        raise BadFile(file, f"the affine has determinant 0: the voxels ({spacing} mm) have no volume")
