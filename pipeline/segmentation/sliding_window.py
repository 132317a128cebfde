"""Volumes larger than the network's input: overlapping windows, blended so that the middle of a window counts most.

A network knows least about the voxels at the border of its window, so every window's result is weighted by a
Gaussian around its centre (sigma = 1/8 of the window; nnU-Net, Isensee et al. 2021). The weighted mean is kept up to
date window by window (West 1979), so that memory holds one result whatever the number of windows, and windows that
agree give exactly what they agree on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from preprocessing.geometry.windows import windows

_SIGMA = 1 / 8  # of the window
_LEAST_WEIGHT = 1e-3  # a corner would have 1e-11 in 3D; as MONAI has it

Area = tuple[Any, ...]  # an index of the spatial axes, whatever axes come before them


def importance(size: Sequence[int]) -> Tensor:
    """float32 [*size], weight of each voxel of a window: 1 at its centre, nowhere less than 0.001."""
    weight = torch.ones(())
    for window in size:
        offset = torch.arange(window, dtype=torch.float32) - (window - 1) / 2
        weight = weight[..., None] * torch.exp(-0.5 * (offset / (_SIGMA * window)) ** 2)
    return weight.clamp(min=_LEAST_WEIGHT)


@torch.no_grad()
def blend(
    predict: Callable[[Tensor, Tensor], Tensor],
    image: Tensor,
    size: Sequence[int],
    overlap: float,
    batch: int,
    regions: int,
) -> Tensor:
    """Predict a whole volume (or image) window by window.

    Memory: the result and one weight a voxel, on the image's device, and one batch of windows. `predict` may work on
    another device; what it returns is brought back.

    Args:
        predict: from windows float32 [b, C, *size] and their real voxels bool [b, 1, *size] to values float
            [b, R, *size], b <= batch. Voxels beyond the volume are 0 in the one and False in the other.
        image: float32 [C, *shape].
        size, overlap: as in `windows`.
        batch: windows predicted at a time.
        regions: R.

    Returns:
        float32 [R, *shape].

    Raises:
        ValueError: as in `windows`, or `predict` returns another shape.
    """
    shape = image.shape[1:]
    corners = windows(shape, size, overlap)
    importances = importance(size).to(image.device)
    mean, weight = image.new_zeros((regions, *shape)), image.new_zeros(shape)
    for first in range(0, len(corners), batch):
        areas = [_areas(corner, size, shape) for corner in corners[first : first + batch]]
        values = predict(*_cut(image, areas, size))
        if values.shape != (len(areas), regions, *size):
            expected = (len(areas), regions, *size)
            raise ValueError(f"the prediction of {len(areas)} windows is {tuple(values.shape)}, expected {expected}")
        for value, (inside, within) in zip(values, areas, strict=True):
            share = importances[within]
            weight[inside] += share
            mean[inside] += (value[within].to(mean) - mean[inside]) * (share / weight[inside])
    return mean


def _areas(corner: Sequence[int], size: Sequence[int], shape: Sequence[int]) -> tuple[Area, Area]:
    """What a window shows of the volume: where that lies in the volume, and where in the window."""
    inside = [slice(max(a, 0), min(a + w, n)) for a, w, n in zip(corner, size, shape, strict=True)]
    within = [slice(s.start - a, s.stop - a) for s, a in zip(inside, corner, strict=True)]
    return (..., *inside), (..., *within)


def _cut(image: Tensor, areas: Sequence[tuple[Area, Area]], size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Windows [b, C, *size] and their real voxels bool [b, 1, *size]."""
    cut = image.new_zeros((len(areas), len(image), *size))
    real = torch.zeros((len(areas), 1, *size), dtype=torch.bool, device=image.device)
    for number, (inside, within) in enumerate(areas):
        cut[number][within] = image[inside]
        real[number][within] = True
    return cut, real
