"""UM-MAE: one patch of each small block stays visible, and some of those are masked again
(Li et al., arXiv 2205.10063)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.masking import MaskPlan, keyed_uniform
from pipeline.methods.base import Shape
from pipeline.methods.mae import NOISE, Mae
from pipeline.models.mae import masked_mean
from pipeline.training.loader import Batch
from preprocessing.geometry.patchify import patchify
from preprocessing.settings import Settings

if TYPE_CHECKING:
    from pipeline.config import Config

_SECOND = 3  # stream of the keyed noise
_EDGE = 2  # patches of a block along each axis


class UmMaeOptions(Settings):
    """UM-MAE (arXiv 2205.10063): uniform sampling of one patch in 2 x 2 (2 x 2 x 2), then secondary masking."""

    secondary: float = Field(
        0.25, ge=0, lt=1, description="Share of the sampled patches that the encoder sees as a mask token."
    )


@dataclass(frozen=True)
class UniformPlan(MaskPlan):
    """As `MaskPlan`; `replaced`, bool [B, K], are the kept places whose patch the encoder does not see: they hold the
    mask token, and are not reconstructed."""

    replaced: Tensor


class UmMae(Mae):
    """Uniform sampling fixes the ratio: 3/4 of the patches in 2D, 7/8 in 3D; the encoder sees a share less of the rest.

    The paper makes this for transformers with windows, which need a regular grid of tokens; the plain encoder here does
    not, so that only its masks are compared. The loss is over what uniform sampling left out, as in the authors'
    implementation: what is masked a second time makes the task harder and is not reconstructed.
    """

    Options = UmMaeOptions

    options: UmMaeOptions

    def __init__(self, config: Config, shape: Shape, options: UmMaeOptions) -> None:
        super().__init__(config, shape, options)
        self.mask_token = nn.Parameter(torch.zeros(config.model.width))
        nn.init.normal_(self.mask_token, std=0.02)

    def ratio(self, progress: float) -> float:
        """What uniform sampling comes to."""
        return 1.0 - 1.0 / _EDGE**self.shape.dims

    def plan(self, batch: Batch, ratio: float, strength: float, seed: int) -> UniformPlan:
        """The batch's masks: a function of seed and global position; a block of padding alone shows nothing."""
        real = batch.real_tokens
        noise, second = (keyed_uniform(seed, batch.position, real.shape[1], stream) for stream in (NOISE, _SECOND))
        # numbers of the tokens by block, N beyond the grid's border
        place = torch.arange(real.shape[1], device=real.device).view(1, 1, *self.shape.grid)
        blocks = _in_blocks(place, real.shape[1])[0]  # [K, 2^d]
        order = F.pad(noise.masked_fill(~real, 2.0), (0, 1), value=3.0)[:, blocks]  # real, then padding, then beyond
        keep = blocks.expand_as(order).gather(2, order.argmin(2, keepdim=True)).squeeze(2)
        attend = real.gather(1, keep)
        rank = second.gather(1, keep).masked_fill(~attend, 2.0).argsort(1).argsort(1)
        shown = attend.sum(1, keepdim=True)
        replaced = attend & (rank < torch.minimum((shown * self.options.secondary).round(), shown - 1))
        attend = attend | ~attend.any(1, keepdim=True)  # attention needs a token even where all is padding
        kept = torch.zeros_like(real).scatter(1, keep, attend)
        return UniformPlan(keep, attend, real & ~kept, replaced)

    def predict(self, batch: Batch, plan: MaskPlan) -> Tensor:
        """Predicted targets [b, N, D]; only the masked ones mean anything."""
        assert isinstance(plan, UniformPlan)
        visible = self.encoder.embed(batch.patches.gather(1, plan.keep[..., None].expand(-1, -1, self.shape.token_dim)))
        tokens = torch.where(plan.replaced[..., None], self.mask_token.to(visible.dtype), visible)
        encoded = self.encoder.transform(tokens, self.coords[plan.keep], plan.attend)
        return self.autoencoder.decoder(encoded, self.coords, plan)

    def loss(self, batch: Batch, plan: MaskPlan) -> Tensor:
        """Mean squared error over the real pixels of the masked patches, float32 [b]."""
        return masked_mean(self.errors(self.predict(batch, plan), batch), plan.masked, self.pixels(batch))


def _in_blocks(values: Tensor, beyond: int) -> Tensor:
    """Values [B, 1, *grid] by block, [B, K, 2^d]; where the grid's edge is odd a block reaches `beyond` it."""
    grid = values.shape[2:]
    missing = [part for size in reversed(grid) for part in (0, size % _EDGE)]
    return patchify(F.pad(values, missing, value=beyond), (_EDGE,) * len(grid))
