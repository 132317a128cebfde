"""Volumes onto the working grid, and what was predicted there back onto the grid of the file."""

from __future__ import annotations

import numpy as np

from preprocessing.geometry.interpolation import linear, vote
from preprocessing.geometry.volume import Volume
from preprocessing.geometry.work_grid import WorkGrid


def onto(volume: Volume, grid: WorkGrid, outside: float) -> np.ndarray:
    """An image on the working grid, linear between its voxels.

    Args:
        volume: float32 image on a grid of its own.
        grid: the working grid.
        outside: value beyond the field of view of the volume; up to half a voxel beyond its outermost voxel centres
            the edge is extended.

    Returns:
        float32 [*grid.shape]. Where both grids have the same voxels the values are those of the file, bit for bit.
    """
    return np.ascontiguousarray(linear(volume.values, _between(volume.grid.affine, grid.affine), grid.shape, outside))


def label_onto(volume: Volume, grid: WorkGrid) -> np.ndarray:
    """A label map on the working grid, class 0 beyond its field of view.

    The membership of each class is interpolated and the largest wins, a tie going to the lower class: that keeps
    surfaces where they are, which the nearest voxel would move by up to half a voxel.

    Args:
        volume: uint8 class ids on a grid of their own.
        grid: the working grid.

    Returns:
        uint8 [*grid.shape].
    """
    matrix = _between(volume.grid.affine, grid.affine)
    return np.ascontiguousarray(vote(volume.values, matrix, grid.shape))


def restore_probability(probability: np.ndarray, grid: WorkGrid) -> np.ndarray:
    """Probabilities of R regions on the working grid, [R, *grid.shape], on the grid of the file.

    Returns:
        float32 [R, *grid.source.shape], axes in the file's order, each region in the memory order of NIfTI (first
        axis fastest); 0 beyond the working grid.
    """
    matrix = _between(grid.affine, grid.source.affine)
    result = np.empty((len(probability), *grid.source.shape[::-1]), np.float32).transpose(0, 3, 2, 1)
    for restored, region in zip(result, probability, strict=True):
        restored[:] = linear(region, matrix, grid.source.shape, 0)
    return result


def restore_labels(labels: np.ndarray, grid: WorkGrid) -> np.ndarray:
    """Class ids on the working grid, uint8 [*grid.shape], on the grid of the file, as `label_onto` does it.

    Returns:
        uint8 [*grid.source.shape], axes in the file's order; 0 beyond the working grid.
    """
    return vote(labels, _between(grid.affine, grid.source.affine), grid.source.shape)


def _between(values: np.ndarray, result: np.ndarray) -> np.ndarray:
    """float64 [4, 4], index on the grid with affine `result` -> index on that with affine `values`."""
    return np.linalg.solve(values, result)
