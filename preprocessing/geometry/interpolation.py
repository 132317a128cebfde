"""Linear interpolation from the voxels of one grid to those of another, in array indices.

Grids with parallel axes are resampled axis by axis: two neighbours and a weight for each position of an axis, plane
after plane, so that no more than the result and a few planes are held. Where nothing changes along an axis its values
are copied, bit for bit. Other grids go through ITK, which holds a copy of the values besides. The interpolation is
pointwise: a coarser grid samples the finer one, it does not average it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import SimpleITK as sitk

PARALLEL = 0.01  # voxels that an axis may drift over the whole grid and still count as parallel
ON_VOXEL = 1e-3  # voxels; positions that are all this near to voxel centres are the voxels themselves
_TIE = 1e-5  # memberships that differ by less are equal but for rounding


def linear(values: np.ndarray, matrix: np.ndarray, shape: Sequence[int], outside: float) -> np.ndarray:
    """Values between voxels, linear in each axis.

    Within half a voxel beyond the outermost centres, up to the border of the field of view, the edge is extended.

    Args:
        values: [a, b, c], any real dtype; fastest when planes of the axis that is slowest in memory lie in one piece.
        matrix: float64 [4, 4], index of the result -> index of `values`.
        shape: of the result.
        outside: value beyond the field of view.

    Returns:
        float32 [*shape]; its memory order follows that of `values`.
    """
    axes = _parallel(matrix, shape)
    if axes is None:
        return _oblique(np.asarray(values, np.float32), matrix, shape, outside)
    order = _slowest_first(values)
    neighbours = [_neighbours(matrix, shape, i, axes[i], values.shape[i]) for i in order]
    result = _by_planes(values.transpose(order), neighbours, outside)
    return result.transpose(np.argsort([axes[i] for i in order]))


def vote(labels: np.ndarray, matrix: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Class whose membership, interpolated linearly, is largest, a tie going to the lower class; 0 beyond the field
    of view.

    Classes are taken one by one, within the box that the labelled voxels can reach: memory is that of a few maps of
    the box, whatever the number of classes.

    Args:
        labels: uint8 class ids [a, b, c].
        matrix: float64 [4, 4], index of the result -> index of `labels`.
        shape: of the result.

    Returns:
        uint8 [*shape].
    """
    result = np.zeros(shape, np.uint8)
    box = bounding_box(labels != 0)
    window = box and _reached(box, matrix, shape)
    if not box or not window:
        return result
    inner, size = matrix @ translation([side.start for side in window]), [side.stop - side.start for side in window]
    classes = np.unique(labels[box])
    best = linear(labels == 0, inner, size, 1)
    winner = result[window]
    for label in classes[classes > 0]:
        membership = linear(labels == label, inner, size, 0)
        wins = membership > best + _TIE
        winner[wins] = label
        np.copyto(best, membership, where=wins)
    return result


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box that holds the true voxels of a bool mask; None when there are none."""
    axes = range(mask.ndim)
    lines = [np.flatnonzero(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    if not len(lines[0]):
        return None
    return tuple(slice(int(line[0]), int(line[-1]) + 1) for line in lines)


def translation(shift: Sequence[float] | np.ndarray) -> np.ndarray:
    """float64 [4, 4] that adds `shift`."""
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    return matrix


@dataclass(frozen=True)
class _Neighbours:
    """For each position of an axis of the result: the voxels before and after, the latter's weight, and whether the
    position lies within the field of view."""

    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray
    inside: np.ndarray

    def along(self, plane: np.ndarray, axis: int) -> np.ndarray:
        if not self.weight.any():
            same = len(self.low) == plane.shape[axis] and (np.diff(self.low) == 1).all()
            return plane if same else plane.take(self.low, axis)
        before = plane.take(self.low, axis)
        after = plane.take(self.high, axis)
        after -= before
        after *= self.weight[:, None] if axis == 0 else self.weight
        after += before
        return after


def _neighbours(matrix: np.ndarray, shape: Sequence[int], axis: int, target: int, size: int) -> _Neighbours:
    """Along an axis of the values, of `size` voxels, that is axis `target` of the result."""
    step = matrix[axis, target]
    position = step * np.arange(shape[target]) + matrix[axis, 3]
    rounded = np.round(position)
    if np.abs(position - rounded).max() < ON_VOXEL:
        position = rounded
    inside = _within(position, size, step)
    position = np.clip(position, 0, size - 1)
    low = np.floor(position).astype(np.intp)
    return _Neighbours(low, np.minimum(low + 1, size - 1), (position - low).astype(np.float32), inside)


def _within(position: np.ndarray, size: int, step: float) -> np.ndarray:
    # a result that covers the field of view does so to a hundredth of its own voxels
    margin = 0.5 + 0.01 * max(1.0, abs(step))
    return (position >= -margin) & (position <= size - 1 + margin)


def _parallel(matrix: np.ndarray, shape: Sequence[int]) -> list[int] | None:
    """Axis of the result that each axis of the values is parallel to; None when they are not parallel."""
    slopes = np.abs(matrix[:3, :3])
    axes: list[int] = np.argmax(slopes, axis=1).tolist()
    if sorted(axes) != [0, 1, 2]:
        return None
    slopes[np.arange(3), axes] = 0
    return axes if (slopes @ (np.asarray(shape) - 1)).max() < PARALLEL else None


def _slowest_first(values: np.ndarray) -> list[int]:
    """Axes in the order of memory: planes of the first are then read in one piece."""
    return sorted(range(values.ndim), key=lambda axis: -abs(values.strides[axis]))


def _by_planes(values: np.ndarray, neighbours: Sequence[_Neighbours], outside: float) -> np.ndarray:
    first, rows, columns = neighbours
    result = np.empty([len(n.low) for n in neighbours], np.float32)
    inside = _crossed(rows.inside, columns.inside)

    def resampled(index: int) -> np.ndarray:
        plane = rows.along(np.asarray(values[index], np.float32), 0)
        plane = columns.along(plane, 1)
        return plane if inside.all() else np.where(inside, plane, np.float32(outside))

    planes: dict[int, np.ndarray] = {}
    for plane, low, high, weight, within in zip(
        result, first.low.tolist(), first.high.tolist(), first.weight, first.inside, strict=True
    ):
        if not within:
            plane[:] = outside
            continue
        needed = {low, high} if weight else {low}
        planes = {index: planes[index] if index in planes else resampled(index) for index in needed}
        if weight:
            np.subtract(planes[high], planes[low], out=plane)
            plane *= weight
            plane += planes[low]
        else:
            plane[:] = planes[low]
    return result


def _oblique(values: np.ndarray, matrix: np.ndarray, shape: Sequence[int], outside: float) -> np.ndarray:
    """[*shape] in the dtype of `values`. ITK extends edges by half a voxel, as `linear` does."""
    order = _slowest_first(values)
    rows = order[::-1]  # ITK names axes from the fastest to the slowest
    resample = sitk.ResampleImageFilter()
    resample.SetTransform(sitk.AffineTransform(matrix[rows, 2::-1].ravel().tolist(), matrix[rows, 3].tolist()))
    resample.SetSize([int(size) for size in reversed(shape)])
    resample.SetInterpolator(sitk.sitkLinear)
    resample.SetDefaultPixelValue(outside)
    resample.SetNumberOfThreads(1)  # a worker has one core
    return sitk.GetArrayFromImage(resample.Execute(sitk.GetImageFromArray(values.transpose(order))))


def _reached(box: Sequence[slice], matrix: np.ndarray, shape: Sequence[int]) -> tuple[slice, ...] | None:
    """Window of the result that voxels in a box can reach, with a voxel to spare; None when there is none."""
    sides = [(side.start - 1, side.stop) for side in box]
    corners = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 3)
    back = np.linalg.inv(matrix)
    corners = corners @ back[:3, :3].T + back[:3, 3]
    start = np.clip(np.floor(corners.min(axis=0)).astype(int) - 1, 0, shape)
    stop = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 2, 0, shape)
    if (start >= stop).any():
        return None
    return tuple(slice(a, b) for a, b in zip(start.tolist(), stop.tolist(), strict=True))


def _crossed(*axes: np.ndarray) -> np.ndarray:
    """bool, one axis for each of `axes`: true where all of them are."""
    return reduce(np.logical_and.outer, axes)
