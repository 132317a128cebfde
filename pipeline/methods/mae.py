"""MAE: the encoder sees a random share of the patches, a light decoder reconstructs the others (arXiv 2111.06377)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from torch import Tensor

from pipeline.masking import MaskPlan, choose_mask, keyed_uniform
from pipeline.methods.base import Masking, Shape, StepResult
from pipeline.models.mae import MaskedAutoencoder
from pipeline.training.loader import Batch
from preprocessing.settings import Settings

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.models.encoder import Encoder

NOISE = 1  # stream of the keyed noise that random masks come from


class MaeOptions(Settings):
    """MAE (arXiv 2111.06377): random masks at a fixed ratio."""

    ratio: float = Field(0.75, ge=0.05, le=0.95, description="Share of the real patches that are masked.")


class Mae(Masking):
    """Mean squared error over the real pixels of the masked patches; what a variant changes is a method to override.

    The reconstruction target is `decoder.target`, the same for every method (the paper prefers normalised patches).
    """

    Options: ClassVar[type[Settings]] = MaeOptions

    def __init__(self, config: Config, shape: Shape, options: Any) -> None:
        super().__init__(config, shape, options)
        self.autoencoder = MaskedAutoencoder(self.new_encoder(), config.decoder)

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        """The encoder that pretraining is for."""
        return self.autoencoder.encoder

    def ratio(self, progress: float) -> float | None:
        """The same throughout."""
        return self.options.ratio

    def plan(self, batch: Batch, ratio: float, strength: float, seed: int) -> MaskPlan:
        """The batch's masks: a function of seed, global position and ratio."""
        noise = keyed_uniform(seed, batch.position, batch.valid.shape[1], NOISE)
        return choose_mask(batch.real_tokens, None, noise, ratio, 0.0)

    def predict(self, batch: Batch, plan: MaskPlan) -> Tensor:
        """Predicted targets [b, N, D]; only the masked ones mean anything."""
        return self.autoencoder.reconstruct(batch.patches, self.coords, plan)

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor:
        """Predicted patches [b, N, D], in the intensities of the batch."""
        return self.autoencoder.in_intensities(self.predict(batch, plan), batch.patches, self.pixels(batch))

    def errors(self, predicted: Tensor, batch: Batch) -> Tensor:
        """Squared error of each pixel, float32 [b, N, D]."""
        return (predicted.float() - self.autoencoder.target(batch.patches, self.pixels(batch)).float()).square()

    def loss(self, batch: Batch, plan: MaskPlan) -> Tensor:
        """Loss of each sample, float32 [b]."""
        return self.autoencoder(batch.patches, self.coords, plan, self.pixels(batch))

    def forward(self, views: Sequence[Batch], ratio: float, strength: float, seed: int) -> StepResult:
        (batch,) = views
        plan = self.plan(batch, ratio, strength, seed)
        return StepResult(self.loss(batch, plan), plan.masked)
