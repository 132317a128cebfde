"""Geometry on batches of patch tokens: which pixels are real, which patches are lesion."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.training.loader import Batch
from preprocessing.patchify import patchify

CANDIDATE = 128  # least `valid` of a patch that is at most half padding


def real_pixels(box: Tensor, size: tuple[int, ...], patch: tuple[int, ...]) -> Tensor:
    """Pixels inside each sample's real area.

    Args:
        box: int [b, 2d], starts then stops along the axes.
        size, patch: canvas and patch in pixels.

    Returns:
        bool [b, N, P].
    """
    dims = len(size)
    inside = torch.ones(len(box), 1, *size, dtype=torch.bool, device=box.device)
    for axis, length in enumerate(size):
        place = torch.arange(length, device=box.device)
        along = (place >= box[:, axis, None]) & (place < box[:, dims + axis, None])  # [b, length]
        inside &= along.view(len(box), 1, *[length if a == axis else 1 for a in range(dims)])
    return patchify(inside, patch)


def real_of(batch: Batch, size: tuple[int, ...], patch: tuple[int, ...]) -> Tensor:
    """Real pixels bool [b, N, P] of a batch: those of its views where such were drawn, else those inside the boxes."""
    return real_pixels(batch.box, size, patch) if batch.real is None else batch.real


def lesion_patches(label: Tensor, valid: Tensor) -> Tensor:
    """bool [b, N]: candidates of which more than half the pixels are lesion (label uint8 [b, N, P])."""
    return ((label > 0).float().mean(-1) > 0.5) & (valid >= CANDIDATE)
