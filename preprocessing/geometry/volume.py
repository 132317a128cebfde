"""A volume in memory: values on a grid of voxels that an affine places in the patient.

World coordinates are millimetres in RAS+ for every format, as nibabel has them: x grows to the patient's right, y to
the front, z to the head. What a format says in LPS is turned when it is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class VoxelGrid:
    """Where voxels lie.

    Attributes:
        shape: voxels along the three array axes.
        affine: float64 [4, 4], array index (i, j, k, 1) -> world millimetres, RAS+.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along each array axis, in mm."""
        a, b, c = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(a), float(b), float(c)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


@dataclass(frozen=True)
class Volume:
    """One modality, or one label map, of one scan.

    Attributes:
        values: float32 [*grid.shape] for an image, uint8 class ids for a label map.
        grid: of the file, axes in the file's own order.
        file: path or URI that it came from.
        dtype: of the file's values, as numpy names it ("int16").
        header: what must be kept to write a file like it: NIfTI's qform and sform codes and units; {} otherwise.
    """

    values: np.ndarray
    grid: VoxelGrid
    file: str
    dtype: str
    header: dict[str, int] = field(default_factory=dict)
