"""From a batch of patch tokens back to images: what convolutions and augmentation work on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipeline.training.loader import Batch
from preprocessing.geometry.patchify import unpatchify


@dataclass(frozen=True)
class Canvas:
    """Shape of every sample as an image: canvas and patch in pixels, channels."""

    size: tuple[int, ...]
    patch: tuple[int, ...]
    channels: int

    def pixels(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Image float32 [b, C, *size], label uint8 [b, 1, *size] and real pixels bool [b, 1, *size]."""
        image = unpatchify(batch.patches, self.size, self.patch, self.channels)
        label = unpatchify(batch.label, self.size, self.patch, 1)
        real = unpatchify(batch.real, self.size, self.patch, 1)
        return image, label, real
