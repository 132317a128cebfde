"""Geometry on batches of patch tokens: which pixels are real, mirror images, which patches are lesion."""

from __future__ import annotations

from dataclasses import replace

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


def lesion_patches(label: Tensor, valid: Tensor) -> Tensor:
    """bool [b, N]: candidates of which more than half the pixels are lesion (label uint8 [b, N, P])."""
    return ((label > 0).float().mean(-1) > 0.5) & (valid >= CANDIDATE)


class Mirror:
    """Mirrors samples of a batch along one axis, tokens and the pixels inside them alike."""

    def __init__(self, size: tuple[int, ...], patch: tuple[int, ...], channels: int, axis: int) -> None:
        self._axis, self._length = axis, size[axis]
        self._size, self._patch = size, patch
        pixels = int(torch.tensor(patch).prod())
        numbers = torch.arange(int(torch.tensor(size).prod())).view(1, *size)
        source = patchify(numbers.flip(1 + axis), patch)  # where each pixel of the mirrored patches comes from
        home = torch.empty(numbers.numel(), 2, dtype=torch.int64)
        straight = patchify(numbers, patch)
        tokens = torch.arange(straight.shape[0])[:, None].expand_as(straight)
        home[straight.flatten()] = torch.stack([tokens, torch.arange(pixels).expand_as(straight)], -1).flatten(0, 1)
        self._token = home[source[:, 0], 0]
        inside = home[source[0], 1]
        self._pixel = inside
        self._values = (torch.arange(channels)[:, None] * pixels + inside[None]).flatten()

    def __call__(self, batch: Batch, chosen: Tensor) -> Batch:
        """Mirror the samples where `chosen` (bool [b]) is set; everything keeps its shape."""
        token = self._token.to(batch.patches.device)

        def flip(values: Tensor, inside: Tensor | None = None) -> Tensor:
            mirrored = values[:, token]
            if inside is not None:
                mirrored = mirrored[..., inside.to(values.device)]
            return torch.where(chosen.view(-1, *[1] * (values.dim() - 1)), mirrored, values)

        dims = len(self._size)
        box = batch.box.clone()
        box[:, self._axis] = self._length - batch.box[:, dims + self._axis]
        box[:, dims + self._axis] = self._length - batch.box[:, self._axis]
        return replace(
            batch,
            patches=flip(batch.patches, self._values),
            valid=flip(batch.valid),
            label=flip(batch.label, self._pixel),
            box=torch.where(chosen[:, None], box, batch.box),
            scores=None if batch.scores is None else flip(batch.scores),
        )
