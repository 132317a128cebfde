"""MixMIM (MixMAE): the masked tokens of an image are replaced by another image's, and both images are reconstructed
from the mixture (Liu et al., arXiv 2205.13137).

Tokens attend within their own image only (the paper's masked self-attention; its mix embeddings are left out). On a
plain transformer without windows this makes a mixture two masked autoencodings in one sequence, with complementary
masks: what is left of the paper's idea is that no token of the encoder is spent on a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from pipeline.masking import MaskPlan
from pipeline.methods.base import StepResult
from pipeline.methods.mae import Mae
from pipeline.models.mae import masked_mean
from pipeline.training.global_batch import places, whole
from pipeline.training.loader import Batch
from preprocessing.settings import Settings


class MixMimOptions(Settings):
    """MixMIM (arXiv 2205.13137): two images mixed, both reconstructed."""

    ratio: float = Field(
        0.5, ge=0.05, le=0.95, description="Share of an image's real patches that another image's replace."
    )


class MixMim(Mae):
    """A sample's loss is the mean of the two images' reconstruction losses (the paper's dual reconstruction).

    A sample's partner stands half a global batch further on: a function of its position alone, which other workers
    hold where there are several, so that a step cannot be split into parts.
    """

    Options = MixMimOptions
    whole_batch = True

    def forward(self, views: Sequence[Batch], ratio: float, strength: float, seed: int) -> StepResult:
        (batch,) = views
        other = self.partners(batch)
        own_plan, other_plan = mixture(batch, other, self.plan(batch, ratio, strength, seed))
        encoded = self.encode(batch, other, own_plan, other_plan)
        losses = [
            masked_mean(
                self.errors(self.autoencoder.decoder(encoded, self.coords, plan), image),
                plan.masked,
                self.pixels(image),
            )
            for image, plan in ((batch, own_plan), (other, other_plan))
        ]
        return StepResult((losses[0] + losses[1]) / 2, own_plan.masked)

    def encode(self, batch: Batch, other: Batch, own_plan: MaskPlan, other_plan: MaskPlan) -> Tensor:
        """Encoded tokens of the mixtures, float [b, N, width]; none looks at the other image's or at padding."""
        mixed = torch.where(own_plan.attend[..., None], batch.patches, other.patches)
        alike = torch.eye(mixed.shape[1], dtype=torch.bool, device=mixed.device)  # padding looks at itself
        for plan in (own_plan, other_plan):
            alike = alike | (plan.attend[:, :, None] & plan.attend[:, None, :])
        return self.encoder.transform(self.encoder.embed(mixed), self.coords, alike)

    def partners(self, batch: Batch) -> Batch:
        """For each sample the one half a global batch further on, round about: its patches, real pixels and valid."""
        size = self.config.pretrain.batch
        real = batch.real.to(torch.uint8)  # what can be summed over workers
        patches, real, valid = (whole(v, batch.position, size) for v in (batch.patches, real, batch.valid))
        partner = (places(batch.position, size) + len(patches) // 2) % len(patches)
        return replace(batch, patches=patches[partner], real=real[partner].bool(), valid=valid[partner])


def mixture(batch: Batch, other: Batch, plan: MaskPlan) -> tuple[MaskPlan, MaskPlan]:
    """What of either image is seen in the mixture and what must be reconstructed, over all N places.

    Args:
        batch, other: the samples and their partners.
        plan: the samples' masks; the partners are seen wherever the samples are not.
    """
    seen, other_real = batch.real_tokens & ~plan.masked, other.real_tokens
    everywhere = torch.arange(seen.shape[1], device=seen.device).expand(len(seen), -1)
    return (
        MaskPlan(everywhere, seen, plan.masked),
        MaskPlan(everywhere, other_real & ~seen, other_real & seen),
    )
