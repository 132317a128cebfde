"""What a pretraining method is: an encoder, and the loss of a batch at a point of the training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from pipeline.masking import MaskPlan
from pipeline.models.encoder import Encoder
from pipeline.training.loader import Batch
from preprocessing.cache import PatchCache
from preprocessing.geometry.patchify import grid_coords
from preprocessing.settings import Settings

if TYPE_CHECKING:
    from pipeline.config import Config


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
        return math.prod(self.patch)

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
    """Base of the pretraining methods; `forward` must give one loss a sample, so that sums over workers are exact.

    A method is made from the configuration, the samples' shape and its own `Options`. What it must remember between
    steps are parameters and buffers, which are in every checkpoint; those without `requires_grad` are not trained.

    Attributes:
        Options: its own settings, `methods.<name>.*` in the configuration.
        views: random views that it wants of each sample.
        scheduled: whether `mask.*` (schedules, feedback, search) steers it, instead of its own options.
        whole_batch: whether a sample's loss depends on the others of the step, so that a step cannot be split.
        encoder: what pretraining is for.
    """

    Options: ClassVar[type[Settings]] = Settings
    views: ClassVar[int] = 1
    scheduled: ClassVar[bool] = False
    whole_batch: ClassVar[bool] = False

    encoder: Encoder
    coords: Tensor

    def __init__(self, config: Config, shape: Shape, options: Any) -> None:
        super().__init__()
        self.config, self.shape, self.options = config, shape, options
        self.register_buffer("coords", shape.coords(), persistent=False)

    def new_encoder(self) -> Encoder:
        """An encoder as configured, with random weights."""
        return Encoder(self.config.model, self.shape.token_dim, self.shape.dims)

    @classmethod
    def selects(cls, config: Config) -> bool:
        """Whether it reads lesion scores."""
        return False

    def ratio(self, progress: float) -> float | None:
        """Share of the real patches that it masks at a progress in [0, 1]; None: it does not mask."""
        return None

    def strength(self, progress: float) -> float | None:
        """How strictly it chooses the masked patches, in its own terms; None: it does not choose."""
        return None

    def forward(self, views: Sequence[Batch], ratio: float, strength: float, seed: int) -> StepResult:
        """Loss of each sample.

        Args:
            views: as many views of the same samples as the method wants.
            ratio, strength: of this step; 0 where the method has none.
            seed: the run's seed; all chance is keyed by it and the samples' global positions.
        """
        raise TypeError(f"{type(self).__name__} must define forward")

    def after_update(self, progress: float, steps: int) -> None:
        """Called after each optimiser update, with the training's progress in [0, 1] at that step and its steps."""


class Masking(Method):
    """A method that masks patches and reconstructs them, which can be drawn."""

    def plan(self, batch: Batch, ratio: float, strength: float, seed: int) -> MaskPlan:
        """The batch's masks."""
        raise TypeError(f"{type(self).__name__} must define plan")

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor:
        """Predicted patches [b, N, D], in the intensities of the batch."""
        raise TypeError(f"{type(self).__name__} must define reconstruct")

    def pixels(self, batch: Batch) -> Tensor:
        """bool [b, N, D], pixels that are not padding, in every channel."""
        return batch.real if self.shape.channels == 1 else batch.real.repeat(1, 1, self.shape.channels)
