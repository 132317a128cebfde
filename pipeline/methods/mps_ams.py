"""MPS-AMS: masked autoencoding with masked patches selection under an adaptive masking ratio (arXiv 2302.13699).

AMLP (arXiv 2309.04312), by the same authors, adds two losses, which are options here and off by default. Only its
abstract was available to us: it names a reconstruction loss that attends to hard patches, and a loss that refines the
patches' categories by how hard they are to reconstruct. The formulas below are assumptions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.masking import MaskPlan, choose_mask, keyed_uniform
from pipeline.methods.base import Shape
from pipeline.methods.mae import NOISE, Mae
from pipeline.models.mae import masked_mean, patch_means
from pipeline.schedule import round_to_level, value_at
from pipeline.training.loader import Batch
from preprocessing.settings import Settings

if TYPE_CHECKING:
    from pipeline.config import Config

_COIN = 2  # stream of the keyed noise


class MpsAmsOptions(Settings):
    """MPS-AMS (arXiv 2302.13699), masked as `mask.*` says; AMLP's two losses (arXiv 2309.04312)."""

    hard_patches: float = Field(
        0.0,
        ge=0,
        le=4,
        description="AMLP's reconstruction loss: a masked patch weighs its error, relative to the sample's masked "
        "patches, to this power; 0: all weigh the same.",
    )
    category: float = Field(
        0.0, ge=0, description="Weight of AMLP's category-consistency loss beside the reconstruction loss; 0: off."
    )


class MpsAms(Mae):
    """Selection and schedule are switched off by `mask.strength` = 0 and a constant `mask.ratio`."""

    Options = MpsAmsOptions
    scheduled = True

    options: MpsAmsOptions

    def __init__(self, config: Config, shape: Shape, options: MpsAmsOptions) -> None:
        super().__init__(config, shape, options)
        self.category = nn.Linear(config.decoder.width, 1) if options.category else None

    @classmethod
    def selects(cls, config: Config) -> bool:
        """Whether masks or categories follow the lesion scores."""
        options: MpsAmsOptions = config.methods.mps_ams  # type: ignore[attr-defined]
        return config.mask.selects or options.category > 0

    def ratio(self, progress: float) -> float:
        """The schedule's ratio, rounded to the few values that it may take."""
        return round_to_level(value_at(self.config.mask.ratio, progress), self.config.mask.ratio.level)

    def strength(self, progress: float) -> float:
        """The schedule's selection strength."""
        return value_at(self.config.mask.strength, progress)

    def plan(self, batch: Batch, ratio: float, strength: float, seed: int) -> MaskPlan:
        """The batch's masks: a function of seed, global position, scores, ratio and strength."""
        noise = keyed_uniform(seed, batch.position, batch.valid.shape[1], NOISE)
        scores = batch.scores if strength else None
        if scores is not None and self.config.mask.random_share:
            coin = keyed_uniform(seed, batch.position, 1, _COIN)
            scores = scores * (coin >= self.config.mask.random_share)
        return choose_mask(batch.real_tokens, scores, noise, ratio, strength)

    def loss(self, batch: Batch, plan: MaskPlan) -> Tensor:
        """Reconstruction loss of each sample, float32 [b], with AMLP's additions where they are on."""
        if not self.options.hard_patches and self.category is None:
            return super().loss(batch, plan)
        decoder, pixels = self.autoencoder.decoder, self.pixels(batch)
        encoded = self.autoencoder.encode(batch.patches, self.coords, plan)
        tokens = decoder.tokens(encoded, self.coords, plan)
        error = self.errors(decoder.project(tokens), batch)
        hard = hardness(patch_means(error.detach(), pixels), plan.masked)
        loss = masked_mean(error * relative_weight(hard, plan.masked, self.options.hard_patches), plan.masked, pixels)
        if self.category is None:
            return loss
        logits = self.category(tokens).squeeze(-1).float()
        scores = torch.zeros_like(hard) if batch.scores is None else batch.scores
        return loss + self.options.category * category_loss(logits, scores, hard, plan.masked)


def hardness(error: Tensor, masked: Tensor) -> Tensor:
    """Each patch's error over the mean of its sample's masked patches: float32 [b, N], of error [b, N]."""
    mean = (error * masked).sum(1, keepdim=True) / masked.sum(1, keepdim=True).clamp(min=1)
    return error / mean.clamp(min=1e-12)


def relative_weight(hard: Tensor, masked: Tensor, power: float) -> Tensor:
    """Weights hard ** power with mean 1 over a sample's masked patches: float32 [b, N, 1]."""
    weight = hard.pow(power) * masked
    return (weight * masked.sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1e-12))[..., None]


def category_loss(logits: Tensor, scores: Tensor, hard: Tensor, masked: Tensor) -> Tensor:
    """Binary cross-entropy of the predicted categories over each sample's masked patches, float32 [b].

    A patch is called lesion where the clusters say so (its score [b, N] is above the case's mean, 0) and it is harder
    to reconstruct than the sample's masked patches are on average (hard [b, N] above 1).
    """
    lesion = ((scores > 0) & (hard > 1)).float()
    each = F.binary_cross_entropy_with_logits(logits, lesion, reduction="none") * masked
    return each.sum(1) / masked.sum(1).clamp(min=1)
