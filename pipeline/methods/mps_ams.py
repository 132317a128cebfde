"""MPS-AMS: masked autoencoding with masked patches selection under an adaptive masking ratio (arXiv 2302.13699)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.masking import MaskPlan, choose_mask, keyed_uniform
from pipeline.methods.base import Masking, Shape, StepResult
from pipeline.models.encoder import Encoder
from pipeline.models.mae import MaskedAutoencoder
from pipeline.training.loader import Batch
from preprocessing.cache import CANDIDATE

if TYPE_CHECKING:
    from pipeline.config import Config

_NOISE, _COIN = 1, 2  # streams of the keyed noise


class MpsAms(Masking):
    """Selection and schedule are switched off by `mask.strength` = 0 and a constant `mask.ratio`."""

    coords: Tensor

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__()
        self.shape, self.random_share = shape, config.mask.random_share
        self.autoencoder = MaskedAutoencoder(Encoder(config.model, shape.token_dim, shape.dims), config.decoder)
        self.register_buffer("coords", shape.coords(), persistent=False)

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        """The encoder that pretraining is for."""
        return self.autoencoder.encoder

    def plan(self, batch: Batch, ratio: float, strength: float, seed: int) -> MaskPlan:
        """The batch's masks: a function of seed, global position, scores, ratio and strength."""
        noise = keyed_uniform(seed, batch.position, batch.valid.shape[1], _NOISE)
        scores = batch.scores if strength else None
        if scores is not None and self.random_share:
            coin = keyed_uniform(seed, batch.position, 1, _COIN)
            scores = scores * (coin >= self.random_share)
        return choose_mask(batch.valid >= CANDIDATE, scores, noise, ratio, strength)

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor:
        """Predicted patches [b, N, D]; with normalised targets put back to each patch's own mean and spread."""
        predicted = self.autoencoder.reconstruct(batch.patches, self.coords, plan)
        if self.autoencoder.settings.target == "normalised":
            spread, mean = torch.std_mean(batch.patches, dim=-1, keepdim=True)
            return predicted * spread + mean
        return predicted

    def forward(self, batch: Batch, ratio: float, strength: float, seed: int) -> StepResult:
        plan = self.plan(batch, ratio, strength, seed)
        pixels = batch.real.repeat(1, 1, self.shape.channels)
        return StepResult(self.autoencoder(batch.patches, self.coords, plan, pixels), plan.masked)
