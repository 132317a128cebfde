"""SimMIM: the encoder sees mask tokens in place of the masked patches, one linear layer predicts their pixels
(Xie et al., arXiv 2111.09886)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.masking import MaskPlan, choose_mask, keyed_uniform
from pipeline.methods.base import Masking, Shape, StepResult
from pipeline.methods.mae import NOISE
from pipeline.models.encoder import init_weights
from pipeline.models.image_level import at_least_one
from pipeline.models.mae import masked_mean
from pipeline.training.loader import Batch
from preprocessing.settings import Settings

if TYPE_CHECKING:
    from pipeline.config import Config


class SimMimOptions(Settings):
    """SimMIM (arXiv 2111.09886): mask tokens within the encoder, a linear head, l1 loss."""

    ratio: float = Field(0.6, ge=0.05, le=0.95, description="Share of the real patches that are masked.")


class SimMim(Masking):
    """The mean absolute error over the real pixels of the masked patches (eq. 1).

    The paper masks squares of 32 pixels whatever the backbone's patch; here a mask is made of single patches.
    """

    Options = SimMimOptions

    def __init__(self, config: Config, shape: Shape, options: SimMimOptions) -> None:
        super().__init__(config, shape, options)
        self.encoder = self.new_encoder()
        self.mask_token = nn.Parameter(torch.zeros(config.model.width))
        self.head = nn.Linear(config.model.width, shape.token_dim)
        init_weights(self.head)
        nn.init.normal_(self.mask_token, std=0.02)

    def ratio(self, progress: float) -> float:
        """The same throughout."""
        return self.options.ratio

    def plan(self, batch: Batch, ratio: float, strength: float, seed: int) -> MaskPlan:
        """The batch's masks: a function of seed, global position and ratio."""
        noise = keyed_uniform(seed, batch.position, batch.valid.shape[1], NOISE)
        return choose_mask(batch.real_tokens, None, noise, ratio, 0.0)

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor:
        """Predicted patches [b, N, D]; only the masked ones mean anything."""
        embedded = self.encoder.embed(batch.patches)
        tokens = torch.where(plan.masked[..., None], self.mask_token.to(embedded.dtype), embedded)
        return self.head(self.encoder.transform(tokens, self.coords, at_least_one(batch.real_tokens)))

    def forward(self, views: Sequence[Batch], ratio: float, strength: float, seed: int) -> StepResult:
        (batch,) = views
        plan = self.plan(batch, ratio, strength, seed)
        error = (self.reconstruct(batch, plan).float() - batch.patches.float()).abs()
        return StepResult(masked_mean(error, plan.masked, self.pixels(batch)), plan.masked)
