"""The working grid of a case: one grid for all of its files, parallel to the reference file's own axes.

Its axes run from inferior to superior, anterior to posterior and right to left, whatever the order of the file: a
slice [y, x] shows as radiologists look at it. Axes are permuted and flipped, never turned: an oblique scan stays on
its own axes, so that it is interpolated along them alone, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from preprocessing.case import BadFile
from preprocessing.geometry.field_of_view import Extent, extent_box, oriented
from preprocessing.geometry.interpolation import translation
from preprocessing.geometry.volume import Volume, VoxelGrid

_WHOLE = 0.01  # voxels; what a field of view may exceed a whole number of voxels by


@dataclass(frozen=True, eq=False)
class WorkGrid:
    """Where the working voxels lie, and the file to go back to.

    Attributes:
        source: grid of the reference file, axes in the file's own order.
        source_header: of the reference file, as `Volume.header`.
        shape: working voxels (z, y, x).
        affine: float64 [4, 4], working index (z, y, x, 1) -> world millimetres, RAS+; its axes grow to S, P, L.
    """

    source: VoxelGrid
    shape: tuple[int, int, int]
    affine: np.ndarray
    source_header: dict[str, int] = field(default_factory=dict)

    @property
    def voxels(self) -> VoxelGrid:
        """The working voxels, without the way back."""
        return VoxelGrid(self.shape, self.affine)


def plan_grid(
    volumes: Sequence[Volume], spacing: Sequence[float] | None, extent: Extent, reference: int = 0
) -> WorkGrid:
    """The working grid of a case.

    Along an axis that keeps the reference's spacing the voxels are the reference's own, or continue them, so that
    nothing is interpolated. Along the others they are centred in the field of view and cover it.

    Args:
        volumes: the modalities of the case; add the label map where it is to be the reference.
        spacing: mm along the working axes (z, y, x); None keeps the reference's own.
        extent: field of view of the "reference", or what is "common" to all; those of the others are the boxes along
            the working axes that hold them.
        reference: index of the volume whose axes are kept, and to whose grid predictions return.

    Raises:
        BadFile: a field of view does not overlap that of the reference, or nothing is common to all.
    """
    base = volumes[reference]
    own = oriented(base.grid)
    low, high = extent_box(volumes, own, extent, reference)
    step = np.ones(3) if spacing is None else np.asarray(spacing, np.float64) / own.spacing
    first, count = (low + high) / 2, np.ones(3)
    for i in range(3):
        if abs(step[i] - 1) * (high[i] - low[i]) < _WHOLE:
            step[i] = 1
            first[i] = np.ceil(low[i] - _WHOLE)
            count[i] = np.floor(high[i] + _WHOLE) - first[i] + 1
        else:
            count[i] = max(np.ceil((high[i] - low[i]) / step[i] - _WHOLE), 1)
            first[i] -= (count[i] - 1) / 2 * step[i]
    if count.min() < 1:
        thin = float(((high - low) * own.spacing).min())
        raise BadFile(base.file, f"the field of view common to all images is {thin:.2f} mm thin, less than a voxel")
    z, y, x = count.astype(int).tolist()
    affine = own.affine @ translation(first) @ np.diag([*step, 1.0])
    return WorkGrid(base.grid, (z, y, x), affine, dict(base.header))


def crop_to(grid: WorkGrid, start: Sequence[int], stop: Sequence[int]) -> WorkGrid:
    """The working voxels [start, stop) of each axis as a grid of their own; the way back stays that of the whole.

    Raises:
        ValueError: the box is empty or not within the grid.
    """
    if not all(0 <= a < b <= n for a, b, n in zip(start, stop, grid.shape, strict=True)):
        raise ValueError(f"cannot crop a grid of {grid.shape} voxels to {tuple(start)} - {tuple(stop)}")
    z, y, x = (int(b - a) for a, b in zip(start, stop, strict=True))
    affine = grid.affine @ translation(start)
    return WorkGrid(grid.source, (z, y, x), affine, dict(grid.source_header))
