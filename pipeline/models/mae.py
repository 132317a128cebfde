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


class TokenDecoder(nn.Module):
    """Mask tokens put in the gaps between encoded tokens, a light transformer, a linear projection.

    Args:
        inputs: features of an encoded token.
        settings: width, depth and heads.
        outputs: values to predict for each patch.
    """

    def __init__(self, inputs: int, settings: DecoderSettings, outputs: int) -> None:
        super().__init__()
        self.settings = settings
        self.bridge = nn.Linear(inputs, settings.width)
        self.mask_token = nn.Parameter(torch.zeros(settings.width))
        self.blocks = nn.ModuleList(Block(settings.width, settings.heads, 4.0) for _ in range(settings.depth))
        self.norm = nn.LayerNorm(settings.width)
        self.project = nn.Linear(settings.width, outputs)
        for part in (self.bridge, self.blocks, self.project):
            part.apply(init_weights)
        nn.init.normal_(self.mask_token, std=0.02)

    def tokens(self, encoded: Tensor, coords: Tensor, plan: MaskPlan) -> Tensor:
        """Decoded tokens float [B, N, settings.width] of encoded ones, float [B, K, inputs], that stand at `plan.keep`;
        those that are neither attended nor masked (padding) are hidden from the others."""
        encoded = self.bridge(encoded)
        # unattended places of `keep` are padding: they stay mask tokens and are hidden from the decoder
        encoded = torch.where(plan.attend[..., None], encoded, self.mask_token.to(encoded.dtype))
        full = self.mask_token.to(encoded.dtype).expand(len(encoded), plan.masked.shape[1], -1)
        x = full.scatter(1, plan.keep[..., None].expand_as(encoded), encoded)
        x = x + position_encoding(coords, self.settings.width)
        present = plan.masked.scatter(1, plan.keep, plan.attend | plan.masked.gather(1, plan.keep))
        for block in self.blocks:
            x = block(x, present)
        return self.norm(x)

    def forward(self, encoded: Tensor, coords: Tensor, plan: MaskPlan) -> Tensor:
        """Predictions float [B, N, outputs], see `tokens`."""
        return self.project(self.tokens(encoded, coords, plan))


class MaskedAutoencoder(nn.Module):
    """Encoder on the visible tokens and a decoder to the pixels of the masked ones."""

    def __init__(self, encoder: Encoder, settings: DecoderSettings) -> None:
        super().__init__()
        self.encoder, self.settings = encoder, settings
        self.decoder = TokenDecoder(encoder.settings.width, settings, encoder.token_dim)

    def encode(self, patches: Tensor, coords: Tensor, plan: MaskPlan) -> Tensor:
        """Encoded visible tokens, float [B, K, width]."""
        visible = patches.gather(1, plan.keep[..., None].expand(-1, -1, patches.shape[-1]))
        return self.encoder(visible, coords[plan.keep], plan.attend)

    def reconstruct(self, patches: Tensor, coords: Tensor, plan: MaskPlan) -> Tensor:
        """Predicted patches [B, N, D]; only those in `plan.masked` are trained to mean anything."""
        return self.decoder(self.encode(patches, coords, plan), coords, plan)

    def target(self, patches: Tensor, pixels: Tensor) -> Tensor:
        """What is predicted of patches [..., D] with real `pixels` [..., D], as configured."""
        return normalise_patches(patches, pixels) if self.settings.target == "normalised" else patches

    def in_intensities(self, predicted: Tensor, patches: Tensor, pixels: Tensor) -> Tensor:
        """Predictions [..., D] as pixels; normalised ones put back to each patch's own mean and spread."""
        if self.settings.target == "plain":
            return predicted
        mean, spread = _moments(patches, pixels)
        return predicted * spread + mean

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
        return masked_mean((predicted - self.target(patches, pixels).float()).square(), plan.masked, pixels)


def masked_mean(error: Tensor, masked: Tensor, pixels: Tensor) -> Tensor:
    """Mean of pixel errors float32 [B, N, D] over the real `pixels` [B, N, D] of the `masked` patches [B, N]:
    float32 [B], 0 where there are none."""
    weight = (masked[..., None] & pixels).float()
    return (error * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1.0)


def patch_means(error: Tensor, pixels: Tensor) -> Tensor:
    """Mean of pixel errors float32 [B, N, D] over each patch's real `pixels`: float32 [B, N]."""
    weight = pixels.float()
    return (error * weight).sum(2) / weight.sum(2).clamp(min=1.0)


def normalise_patches(patches: Tensor, pixels: Tensor) -> Tensor:
    """Each patch [..., D] to mean 0 and standard deviation 1 over its real `pixels` [..., D] (MAE's normalised target).

    The others, padding, mean nothing afterwards.
    """
    mean, spread = _moments(patches, pixels)
    return (patches.float() - mean) / spread


def _moments(patches: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch's real pixels, float32 [..., 1]; of an even patch almost 0."""
    weight = pixels.float()
    count = weight.sum(-1, keepdim=True)
    mean = (patches * weight).sum(-1, keepdim=True) / count.clamp(min=1.0)
    squares = ((patches - mean).square() * weight).sum(-1, keepdim=True)
    return mean, (squares / (count - 1).clamp(min=1.0) + 1e-6).sqrt()
