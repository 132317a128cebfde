"""HPM: the model predicts how hard each patch is to reconstruct, and a growing share of the masks goes to the hardest
(Wang et al., Hard Patches Mining, arXiv 2304.05919)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.masking import MaskPlan, choose_mask, keyed_uniform
from pipeline.methods.base import Shape
from pipeline.methods.mae import NOISE, Mae
from pipeline.models.image_level import at_least_one
from pipeline.models.mae import TokenDecoder, masked_mean, patch_means
from pipeline.models.momentum import follow, slow_copy, within
from pipeline.training.loader import Batch
from preprocessing.settings import Settings

if TYPE_CHECKING:
    from pipeline.config import Config


class HpmOptions(Settings):
    """HPM (arXiv 2304.05919): masks from predicted losses, easy to hard."""

    ratio: float = Field(0.75, ge=0.05, le=0.95, description="Share of the real patches that are masked.")
    hard_start: float = Field(
        0.0, ge=0, le=1, description="Share of the masked patches that are the hardest, at the beginning."
    )
    hard_end: float = Field(0.5, ge=0, le=1, description="The same at the end; it moves in a straight line.")
    momentum: float = Field(0.999, ge=0, lt=1, description="Momentum of the teacher that predicts before masking.")
    memory: float = Field(
        0.03,
        gt=0,
        le=1,
        description="Share of the training that the teacher looks back over at most; it lowers the "
        "momentum of a short training.",
    )
    relative: float = Field(
        0.05,
        gt=0,
        description="Weight of the relative loss. The paper's 1 is for images divided by their standard deviation "
        "(about .22 of the range), whose squared errors are 20 times those of intensities in [0, 1].",
    )


class Hpm(Mae):
    """Reconstruction loss plus that of predicting which of two masked patches is harder (the paper's relative loss).

    A teacher, the running mean of encoder and loss predictor, ranks the patches of the whole image. The strength of a
    step is the share of its masked patches that are the teacher's hardest; the others are random.
    """

    Options = HpmOptions

    options: HpmOptions

    def __init__(self, config: Config, shape: Shape, options: HpmOptions) -> None:
        super().__init__(config, shape, options)
        self.predictor = TokenDecoder(config.model.width, config.decoder, 1)
        self.teacher_encoder, self.teacher_predictor = slow_copy(self.encoder), slow_copy(self.predictor)

    def strength(self, progress: float) -> float:
        """Share of the masked patches that are the hardest, easy to hard."""
        return self.options.hard_start + (self.options.hard_end - self.options.hard_start) * progress

    @torch.no_grad()
    def difficulty(self, batch: Batch) -> Tensor:
        """The teacher's predicted difficulty of each patch of the whole image, float32 [b, N]."""
        real = at_least_one(batch.real_tokens)
        everywhere = torch.arange(real.shape[1], device=real.device).expand(len(real), -1)
        plan = MaskPlan(everywhere, real, torch.zeros_like(real))
        encoded = self.teacher_encoder(batch.patches, self.coords, real)
        return self.teacher_predictor(encoded, self.coords, plan).squeeze(-1).float()

    def plan(self, batch: Batch, ratio: float, strength: float, seed: int) -> MaskPlan:
        """The batch's masks: the hardest patches first as far as their share goes, then random ones."""
        real = batch.real_tokens
        noise = keyed_uniform(seed, batch.position, real.shape[1], NOISE)
        difficulty = self.difficulty(batch).masked_fill(~real, -torch.inf)
        rank = difficulty.argsort(dim=1, descending=True, stable=True).argsort(1)
        hard = rank < (real.sum(1, keepdim=True) * ratio * strength).round()
        return choose_mask(real, hard.float(), noise, ratio, 2.0)  # the noise is below 1: hard ones come first

    def loss(self, batch: Batch, plan: MaskPlan) -> Tensor:
        """Reconstruction loss plus the loss predictor's, float32 [b]."""
        pixels = self.pixels(batch)
        encoded = self.autoencoder.encode(batch.patches, self.coords, plan)
        error = self.errors(self.autoencoder.decoder(encoded, self.coords, plan), batch)
        predicted = self.predictor(encoded, self.coords, plan).squeeze(-1).float()
        relative = relative_loss(predicted, patch_means(error.detach(), pixels), plan.masked)
        return masked_mean(error, plan.masked, pixels) + self.options.relative * relative

    def after_update(self, progress: float, steps: int) -> None:
        """The teacher follows."""
        momentum = within(self.options.momentum, steps, self.options.memory)
        follow(self.teacher_encoder, self.encoder, momentum)
        follow(self.teacher_predictor, self.predictor, momentum)


def relative_loss(predicted: Tensor, error: Tensor, masked: Tensor) -> Tensor:
    """Binary cross-entropy of "patch i is harder than patch j" over all pairs of masked patches, float32 [b].

    Args:
        predicted: float32 [b, N], predicted difficulty.
        error: float32 [b, N], the reconstruction error as it is.
        masked: bool [b, N]; a pair of equal errors says nothing.
    """
    harder = error[:, :, None] - error[:, None, :]
    pair = (masked[:, :, None] & masked[:, None, :] & (harder != 0)).float()
    logits = predicted[:, :, None] - predicted[:, None, :]
    each = F.binary_cross_entropy_with_logits(logits, (harder > 0).float(), reduction="none")
    return (each * pair).sum((1, 2)) / pair.sum((1, 2)).clamp(min=1)
