"""A random view of every sample of a batch: zoomed, shifted, mirrored; tokens, labels and lesion scores alike.

A few hundred scans seen hundreds of times are learnt by heart; views of them are not. The lesion scores go through
the same sampling grid as the pixels, so that patches selection works on whatever the view shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.training.augment import AugmentSettings, sampling_grid, vary_intensity, warp
from pipeline.training.loader import Batch
from preprocessing.geometry.patchify import grid_of, patchify, unpatchify

_NEXT_VIEW = 0x3C6EF372  # between the seeds of a sample's views; runs have small seeds, so none repeats another's


@dataclass(frozen=True)
class Views:
    """Draws views; all chance is keyed by seed and global sample position.

    Attributes:
        size, patch: canvas and patch in pixels.
        channels: of the image.
        settings: ranges; with none set the views show the samples as they are.
        seed: the run's seed.
        spacing: size of a pixel along each axis, as in `augment`.
    """

    size: tuple[int, ...]
    patch: tuple[int, ...]
    channels: int
    settings: AugmentSettings
    seed: int
    spacing: tuple[float, ...] | None = None

    def __call__(self, batch: Batch, number: int = 0) -> Batch:
        """The batch with patches, valid, label, real and scores of the views; every shape and dtype is kept.

        Args:
            batch: the samples.
            number: which of several views of the same samples; each has chance of its own.
        """
        seed = self.seed + number * _NEXT_VIEW
        image = unpatchify(batch.patches, self.size, self.patch, self.channels)
        label = unpatchify(batch.label, self.size, self.patch, 1)
        real = unpatchify(batch.real, self.size, self.patch, 1)
        grid = sampling_grid(batch.position, self.size, seed, self.settings, self.spacing)
        image, label, real = warp(image, label, real, grid)
        image = vary_intensity(image, batch.position, seed, self.settings) * real
        pixels = patchify(real, self.patch)
        return replace(
            batch,
            patches=patchify(image, self.patch),
            valid=(pixels.float().mean(-1) * 255).round().to(torch.uint8),
            label=patchify(label, self.patch),
            real=pixels,
            scores=None if batch.scores is None else self._scores(batch.scores, grid),
        )

    def _scores(self, scores: Tensor, grid: Tensor) -> Tensor:
        """Scores float [b, N] read off where each patch of the view comes from, linearly between patch centres."""
        cells = grid_of(self.size, self.patch)
        pool = F.avg_pool2d if len(cells) == 2 else F.avg_pool3d
        centres = pool(grid.movedim(-1, 1), self.patch).movedim(1, -1)
        field = scores.view(-1, 1, *cells)
        seen = F.grid_sample(field, centres, mode="bilinear", padding_mode="border", align_corners=False)
        return seen.view(-1, prod(cells))
