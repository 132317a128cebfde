"""What is usual at a place: mean and spread over the training images, in a frame relative to the real image area.

In ultrasound the same grey is unusual at one depth and ordinary at another, and images are cropped differently, so
that places are compared in coordinates from 0 to 1 over the real area rather than over the canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from preprocessing.selection.neighbourhood import masked_mean


def relative_place(frame: Tensor, grid: Sequence[int], patch: Sequence[int]) -> Tensor:
    """Where patch centres lie in the real image area.

    Args:
        frame: [B, 2d], where the image or body lies on the canvas, in pixels (starts, then stops).
        grid: patches along each axis.
        patch: pixels along each axis of a patch.

    Returns:
        float32 [B, d, *grid], 0 at the frame's start and 1 at its stop, clamped (padding).
    """
    d = len(grid)
    axes = [(torch.arange(n, dtype=torch.float32) + 0.5) * p for n, p in zip(grid, patch, strict=True)]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    start, stop = (part.float().reshape(len(frame), d, *[1] * d) for part in (frame[:, :d], frame[:, d:]))
    return ((centres - start) / (stop - start).clamp_min(1)).clamp(0, 1)


@dataclass(frozen=True)
class PopulationStatistics:
    """Mean and standard deviation of patch means at each place.

    Attributes:
        mean: float32 [C, *bins].
        sd: float32 [C, *bins].
    """

    mean: Tensor
    sd: Tensor

    def deviation(self, values: Tensor, place: Tensor) -> Tensor:
        """Standardised difference to what is usual at the same place: [B, C, *grid] for values of that shape."""
        bins = self.mean.shape[1:]
        where = _bin_of(place, bins)
        mean, sd = (table.flatten(1)[:, where].movedim(0, 1) for table in (self.mean, self.sd))
        return (values - mean) / sd


class StatisticsSum:
    """Collects population statistics one sample at a time.

    Sums are float64 and taken in the order of the samples, so that they do not depend on how the cache is cut in
    blocks, nor on any sample that is not added.
    """

    def __init__(self, channels: int, bins: Sequence[int]) -> None:
        self._bins = tuple(bins)
        self._count = np.zeros(int(np.prod(self._bins)))
        self._total = np.zeros((channels, self._count.size))
        self._square = np.zeros_like(self._total)

    def add(self, values: Tensor, weight: Tensor, place: Tensor) -> None:
        """Add one sample: values [C, *grid], weight [*grid] (0 leaves a patch out), place [d, *grid]."""
        where = _bin_of(place[None], self._bins)[0].flatten().numpy()
        shares = weight.flatten().double().numpy()
        self._count += np.bincount(where, shares, self._count.size)
        for channel, value in enumerate(values.flatten(1).double().numpy()):
            self._total[channel] += np.bincount(where, shares * value, self._count.size)
            self._square[channel] += np.bincount(where, shares * value**2, self._count.size)

    def finish(self) -> PopulationStatistics:
        """Statistics of all samples added, smoothed over neighbouring bins; an empty bin takes the overall ones."""
        count = torch.from_numpy(self._count).reshape(1, 1, *self._bins)

        def smoothed(total: np.ndarray) -> Tensor:
            sums = torch.from_numpy(total).reshape(1, -1, *self._bins)
            overall = (sums.flatten(2).sum(-1) / count.sum().clamp_min(1e-6)).reshape(1, -1, *[1] * len(self._bins))
            near = masked_mean(sums / count.clamp_min(1e-6), count, 3)
            return torch.where(masked_mean(torch.ones_like(count), count, 3) > 0, near, overall)[0]

        mean = smoothed(self._total)
        sd = (smoothed(self._square) - mean**2).clamp_min(1e-8).sqrt()
        return PopulationStatistics(mean.float(), sd.float())


def _bin_of(place: Tensor, bins: Sequence[int]) -> Tensor:
    """int64 [B, *grid]: row-major index of the bin that a place [B, d, *grid] falls in."""
    index = torch.zeros_like(place[:, 0], dtype=torch.int64)
    for axis, n in enumerate(bins):
        index = index * n + (place[:, axis] * n).long().clamp(0, n - 1)
    return index
