"""What a pretraining method is: an encoder, and the loss of a batch at a point of the training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.masking import MaskPlan
from pipeline.models.encoder import Encoder
from pipeline.training.loader import Batch
from preprocessing.cache import PatchCache
from preprocessing.geometry.patchify import grid_coords


@dataclass(frozen=True)
class Shape:
    """Shape of every sample: channels, canvas and patch, in pixels."""

    channels: int
    size: tuple[int, ...]
    patch: tuple[int, ...]

    @classmethod
    def of(cls, cache: PatchCache) -> Shape:
        """The shape of a cache's samples."""
        return cls(cache.channels, tuple(cache.size), tuple(cache.patch))

    @property
    def dims(self) -> int:
        """Spatial axes, 2 or 3."""
        return len(self.size)

    @property
    def grid(self) -> tuple[int, ...]:
        """Patches along each axis."""
        return tuple(s // p for s, p in zip(self.size, self.patch, strict=True))

    @property
    def pixels(self) -> int:
        """Pixels of a patch, P."""
        return int(torch.tensor(self.patch).prod())

    @property
    def token_dim(self) -> int:
        """Values of a patch, D = channels x pixels."""
        return self.channels * self.pixels

    def coords(self) -> Tensor:
        """float32 [N, d], patch centres in patches."""
        return torch.as_tensor(grid_coords(self.grid))


@dataclass(frozen=True)
class StepResult:
    """Loss of each sample, float [b], and the masked patches, bool [b, N], where the method masks."""

    loss: Tensor
    masked: Tensor | None


class Method(nn.Module):
    """Base of the pretraining methods; `forward` must give one loss a sample, so that sums over workers are exact."""

    encoder: Encoder

    def forward(self, batch: Batch, ratio: float, strength: float, seed: int) -> StepResult:
        """Loss of a batch at a masking ratio and a selection strength."""
        raise TypeError(f"{type(self).__name__} must define forward")


class Masking(Method):
    """A method that masks patches and reconstructs them, which can be drawn."""

    shape: Shape

    def plan(self, batch: Batch, ratio: float, strength: float, seed: int) -> MaskPlan:
        """The batch's masks."""
        raise TypeError(f"{type(self).__name__} must define plan")

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor:
        """Predicted patches [b, N, D], in the intensities of the batch."""
        raise TypeError(f"{type(self).__name__} must define reconstruct")
