"""Masked autoencoder over patch tokens, for any number of spatial axes (He et al., arXiv 2111.06377)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.masking import MaskPlan
from pipeline.models.encoder import Block, Encoder, init_weights, position_encoding
from preprocessing.settings import Settings


class DecoderSettings(Settings):
    """The light transformer that reconstructs, and what it reconstructs."""

    width: int = Field(96, ge=8, description="Features of a token in the reconstruction decoder.")
    depth: int = Field(2, ge=1, description="Transformer blocks of the reconstruction decoder.")
    heads: int = Field(3, ge=1, description="Attention heads of the reconstruction decoder.")
    target: Literal["plain", "normalised"] = Field(
        "plain",
        description="Reconstruct pixels as they are, or standardised within each patch (which fails on speckle).",
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> DecoderSettings:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide the decoder's width {self.width}")
        return self


class MaskedAutoencoder(nn.Module):
    """Encoder on the visible tokens, mask tokens put in the gaps, decoder, linear projection to pixels."""

    def __init__(self, encoder: Encoder, settings: DecoderSettings) -> None:
        super().__init__()
        self.encoder, self.settings = encoder, settings
        self.bridge = nn.Linear(encoder.settings.width, settings.width)
        self.mask_token = nn.Parameter(torch.zeros(settings.width))
        self.blocks = nn.ModuleList(Block(settings.width, settings.heads, 4.0) for _ in range(settings.depth))
        self.norm = nn.LayerNorm(settings.width)
        self.project = nn.Linear(settings.width, encoder.token_dim)
        for part in (self.bridge, self.blocks, self.project):
            part.apply(init_weights)
        nn.init.normal_(self.mask_token, std=0.02)

    def reconstruct(self, patches: Tensor, coords: Tensor, plan: MaskPlan) -> Tensor:
        """Predicted patches [B, N, D]; only those in `plan.masked` are trained to mean anything."""
        batch, tokens, dim = patches.shape
        visible = patches.gather(1, plan.keep[..., None].expand(-1, -1, dim))
        encoded = self.bridge(self.encoder(visible, coords[plan.keep], plan.attend))
        # unattended places of `keep` are padding: they stay mask tokens and are hidden from the decoder
        encoded = torch.where(plan.attend[..., None], encoded, self.mask_token.to(encoded.dtype))
        full = self.mask_token.to(encoded.dtype).expand(batch, tokens, -1)
        x = full.scatter(1, plan.keep[..., None].expand_as(encoded), encoded)
        x = x + position_encoding(coords, self.settings.width)
        present = plan.masked.scatter(1, plan.keep, plan.attend | plan.masked.gather(1, plan.keep))
        for block in self.blocks:
            x = block(x, present)
        return self.project(self.norm(x))

    def forward(self, patches: Tensor, coords: Tensor, plan: MaskPlan, pixels: Tensor) -> Tensor:
        """Reconstruction loss of each sample.

        Args:
            patches: float [B, N, D].
            coords: float [N, d], patch centres in patches.
            plan: what is visible and what is masked.
            pixels: bool [B, N, D], pixels that are not padding.

        Returns:
            float32 [B]: mean squared error over the real pixels of the sample's masked patches.
        """
        predicted = self.reconstruct(patches, coords, plan).float()
        target = normalise_patches(patches) if self.settings.target == "normalised" else patches
        weight = (plan.masked[..., None] & pixels).float()
        error = (predicted - target.float()).square() * weight
        return error.sum((1, 2)) / weight.sum((1, 2)).clamp(min=1.0)


def normalise_patches(patches: Tensor) -> Tensor:
    """Each patch [..., D] to mean 0 and standard deviation 1 (MAE's per-patch normalised target)."""
    patches = patches.float()
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()
