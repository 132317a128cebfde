"""Fields of view of the files of one case, compared: do they overlap, and do mask and image agree?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import nibabel as nib
import numpy as np

from preprocessing.case import BadFile
from preprocessing.geometry.volume import Volume, VoxelGrid

Extent = Literal["reference", "common"]
AXES = ("S", "P", "L")  # the directions in which the working axes grow, as nibabel names them
_AXIS_NAMES = ("from inferior to superior", "from anterior to posterior", "from right to left")


def oriented(grid: VoxelGrid) -> VoxelGrid:
    """The same voxels with the axes permuted and flipped to the nearest of inferior -> superior, anterior -> posterior,
    right -> left. None is turned."""
    order = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(grid.affine), nib.orientations.axcodes2ornt(AXES)
    )
    z, y, x = (grid.shape[i] for i in np.argsort(order[:, 0]))
    return VoxelGrid((z, y, x), grid.affine @ nib.orientations.inv_ornt_aff(order, grid.shape))


def extent_box(
    volumes: Sequence[Volume], frame: VoxelGrid, extent: Extent, reference: int
) -> tuple[np.ndarray, np.ndarray]:
    """Borders of the field of view of the reference, or of what is common to all volumes.

    Each volume counts with the box along the axes of `frame` that holds it.

    Returns:
        First and last border, float64 [3] each, in indices of `frame`: a voxel reaches from -0.5 to 0.5 about its own.

    Raises:
        BadFile: a volume does not overlap the reference, or not what is common to those before it.
    """
    low, high = _box(volumes[reference].grid, frame)
    boxes = [_box(volume.grid, frame) for volume in volumes]
    for volume, box in zip(volumes, boxes, strict=True):
        _refuse_apart(volume, box, (low, high), frame, "the reference image")
    if extent == "common":
        for volume, box in zip(volumes, boxes, strict=True):
            _refuse_apart(volume, box, (low, high), frame, "what the images before it have in common")
            low, high = np.maximum(low, box[0]), np.minimum(high, box[1])
    return low, high


def check_same_grid(image: Volume, label: Volume, tolerance_mm: float = 0.1) -> None:
    """An image and its mask must have the same voxels.

    Raises:
        BadFile: of the mask: its shape is another, or a corner lies further than the tolerance from the image's.
    """
    if image.grid.shape != label.grid.shape:
        sizes = [" x ".join(map(str, volume.grid.shape)) for volume in (label, image)]
        raise BadFile(label.file, f"the mask has {sizes[0]} voxels, the image {sizes[1]}")
    last = np.array(image.grid.shape) - 1
    apart = np.linalg.norm(
        _corners(image.grid.affine, np.zeros(3), last) - _corners(label.grid.affine, np.zeros(3), last), axis=1
    ).max()
    if not apart <= tolerance_mm:
        raise BadFile(
            label.file,
            f"the mask lies up to {apart:.2f} mm away from the image ({tolerance_mm:g} mm are allowed): "
            f"{_placement(label.grid)} against {_placement(image.grid)}",
        )


def _box(grid: VoxelGrid, frame: VoxelGrid) -> tuple[np.ndarray, np.ndarray]:
    """First and last border of the box along the axes of `frame` that holds the voxels, in indices of `frame`."""
    corners = _corners(np.linalg.solve(frame.affine, grid.affine), np.full(3, -0.5), np.array(grid.shape) - 0.5)
    return corners.min(axis=0), corners.max(axis=0)


def _corners(affine: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """float64 [8, 3], where the affine takes the corners of a box."""
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), axis=-1).reshape(-1, 3)
    return corners @ affine[:3, :3].T + affine[:3, 3]


def _refuse_apart(
    volume: Volume,
    box: tuple[np.ndarray, np.ndarray],
    other: tuple[np.ndarray, np.ndarray],
    frame: VoxelGrid,
    name: str,
) -> None:
    apart = np.maximum(box[0], other[0]) >= np.minimum(box[1], other[1])
    if apart.any():
        axis = int(np.argmax(apart))
        a, b, c, d = (_along(frame, axis, border[axis]) for border in (*box, *other))
        raise BadFile(
            volume.file,
            f"its field of view does not overlap that of {name}: {_AXIS_NAMES[axis]} it reaches from {a:.1f} to "
            f"{b:.1f} mm, {name} from {c:.1f} to {d:.1f} mm",
        )


def _along(frame: VoxelGrid, axis: int, index: float) -> float:
    """World position of an index of an axis, in mm along the direction of that axis."""
    direction = frame.affine[:3, axis]
    return float(direction @ (frame.affine[:3, 3] + index * direction) / np.linalg.norm(direction))


def _placement(grid: VoxelGrid) -> str:
    spacing = " x ".join(f"{mm:.3f}" for mm in grid.spacing)
    origin = ", ".join(f"{mm:.2f}" for mm in grid.affine[:3, 3])
    axes = "".join(code or "?" for code in nib.orientations.aff2axcodes(grid.affine))
    return f"voxels of {spacing} mm from ({origin}) along {axes}"
