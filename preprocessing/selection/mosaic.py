"""Crops of one volume put together on its grid of patches, so that a patch's surroundings do not end at a crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Mosaic:
    """Where crops that lie a whole number of patches apart belong (see `samples`).

    Args:
        frames: int [n, 2d], where the volume lies on each crop's canvas (`PatchBatch.frame`).
        grid: patches along each axis of a crop.
        patch: voxels along each axis of a patch.

    Attributes:
        grid: patches along each axis of the whole.
        frame: int32 [1, 2d], where the volume lies on the whole, in voxels.
    """

    def __init__(self, frames: np.ndarray, grid: Sequence[int], patch: Sequence[int]) -> None:
        dims = len(grid)
        first = frames[:, :dims].max(0)  # of the crop that is first along each axis
        self._offset = (first - frames[:, :dims]) // np.asarray(patch)
        self._cell = tuple(grid)
        self.grid = tuple(int(n) for n in self._offset.max(0) + np.asarray(grid))
        self.frame = np.concatenate([first, first + frames[0, dims:] - frames[0, :dims]]).astype(np.int32)[None]

    def assemble(self, crops: Tensor) -> Tensor:
        """[1, C, *whole] from [n, C, *grid]; 0 where there is no crop. Crops agree where they overlap."""
        whole = crops.new_zeros((1, crops.shape[1], *self.grid))
        for crop, place in zip(crops, self._places(), strict=True):
            whole[(0, slice(None), *place)] = crop
        return whole

    def cut(self, whole: Tensor) -> Tensor:
        """[n, N, F] from [1, N of the whole, F]: the crops' own patches in their order."""
        field = whole[0].unflatten(0, self.grid)
        return torch.stack([field[place].flatten(0, len(self.grid) - 1) for place in self._places()])

    def _places(self) -> list[tuple[Any, ...]]:
        return [
            tuple(slice(int(a), int(a) + n) for a, n in zip(offset, self._cell, strict=True)) for offset in self._offset
        ]
