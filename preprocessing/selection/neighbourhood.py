"""Operations on a grid of patches that respect padding, for 2 or 3 axes: masked means, shifts, rays, flooding.

Values are [B, C, *grid], masks and weights [B, 1, *grid]. Nothing outside the mask ever reaches a value inside.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def directions(dims: int) -> list[tuple[int, ...]]:
    """The steps to all neighbours that touch, corners included: 8 in 2D, 26 in 3D."""
    return [step for step in itertools.product((-1, 0, 1), repeat=dims) if any(step)]


def _pool(values: Tensor, width: int) -> Tensor:
    dims = values.ndim - 2
    padded = F.pad(values, [width // 2] * 2 * dims)  # the pools' own padding refuses grids smaller than the width
    return (F.avg_pool2d, F.avg_pool3d)[dims - 2](padded, width, stride=1)


def masked_mean(values: Tensor, weight: Tensor, width: int) -> Tensor:
    """Weighted mean over the neighbourhood of `width` (odd) patches along each axis; 0 where it holds no weight."""
    if width == 1:
        return values * (weight > 0)
    total = _pool(weight, width)
    return torch.where(total > 0, _pool(values * weight, width) / total.clamp_min(1e-6), 0.0)


def masked_scatter(values: Tensor, weight: Tensor, width: int) -> Tensor:
    """Weighted standard deviation over the neighbourhood of `width` patches."""
    variance = masked_mean(values**2, weight, width) - masked_mean(values, weight, width) ** 2
    return variance.clamp_min(0).sqrt()


def smooth(values: Tensor, weight: Tensor, rounds: int) -> Tensor:
    """Mix every patch half and half with the mean of its 3x3 (3x3x3) neighbourhood, `rounds` times."""
    for _ in range(rounds):
        values = 0.5 * values + 0.5 * masked_mean(values, weight, 3)
    return values


def shift(values: Tensor, step: Sequence[int], fill: float) -> Tensor:
    """The value one step further along each axis; `fill` where that lies outside the grid."""
    shape = values.shape[-len(step) :]
    shifted = torch.full_like(values, fill)
    whole = [slice(None)] * (values.ndim - len(step))
    to = [slice(max(0, -s), n - max(0, s)) for s, n in zip(step, shape, strict=True)]
    source = [slice(max(0, s), n - max(0, -s)) for s, n in zip(step, shape, strict=True)]
    shifted[(*whole, *to)] = values[(*whole, *source)]
    return shifted


def ray_maxima(values: Tensor, mask: Tensor, reach: int, empty: float) -> Tensor:
    """The largest value met on the way from each patch in each direction.

    Args:
        values: [B, C, *grid].
        mask: bool [B, 1, *grid], patches that count.
        reach: length of the way in patches, the patch itself not included.
        empty: the result where no patch of the way counts.

    Returns:
        [directions, B, C, *grid], sorted in ascending order along the first axis.
    """
    inside = torch.where(mask, values, empty)
    rays = []
    for step in directions(values.ndim - 2):
        there, best = inside, torch.full_like(values, empty)
        for _ in range(reach):
            there = shift(there, step, empty)
            best = torch.maximum(best, there)
        rays.append(best)
    return torch.stack(rays).sort(0).values


def basin_depth(height: Tensor, mask: Tensor) -> Tensor:
    """How deep the water would stand if the landscape were flooded and could run off over its border.

    Depth of x = (over all paths from x to the outside of the mask, the least maximum of the height) - height(x):
    greyscale reconstruction by erosion from the border (Vincent 1993). Steps run along the axes.
    """
    dims = height.ndim - 2
    level = torch.where(mask, torch.inf, -torch.inf).expand_as(height)
    floor = torch.where(mask, height, -torch.inf)
    steps = [step for step in directions(dims) if sum(map(abs, step)) == 1]
    while True:
        lowest = torch.stack([shift(level, step, -torch.inf) for step in steps]).amin(0)
        lower = torch.where(mask, torch.maximum(floor, torch.minimum(level, lowest)), -torch.inf)
        if torch.equal(lower, level):
            return torch.where(mask, level - height, 0.0)
        level = lower
