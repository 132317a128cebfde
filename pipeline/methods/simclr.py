"""SimCLR: two views of a sample are to be more alike than either is to any other sample
(Chen et al., arXiv 2002.05709)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.methods.base import Method, Shape, StepResult
from pipeline.models.image_level import head, image_vector
from pipeline.training.global_batch import places, whole
from pipeline.training.loader import Batch
from preprocessing.settings import Settings

if TYPE_CHECKING:
    from pipeline.config import Config


class SimClrOptions(Settings):
    """SimCLR (arXiv 2002.05709): contrast with all other samples of a step."""

    temperature: float = Field(0.1, gt=0, description="Temperature of the softmax over similarities.")
    features: int = Field(128, ge=2, description="Features that are compared.")


class SimClr(Method):
    """NT-Xent (eq. 1) over the global batch, on a two-layer head as wide as the encoder (g in section 2.1)."""

    Options = SimClrOptions
    views = 2
    whole_batch = True

    def __init__(self, config: Config, shape: Shape, options: SimClrOptions) -> None:
        super().__init__(config, shape, options)
        self.encoder = self.new_encoder()
        self.head = head(config.model.width, config.model.width, options.features, normalise=False)

    def forward(self, views: Sequence[Batch], ratio: float, strength: float, seed: int) -> StepResult:
        first, second = (
            self.head(image_vector(self.encoder, view.patches, self.coords, view.real_tokens)) for view in views
        )
        loss = nt_xent(first, second, views[0].position, self.config.pretrain.batch, self.options.temperature)
        return StepResult(loss, None)


def nt_xent(first: Tensor, second: Tensor, position: Tensor, batch: int, temperature: float) -> Tensor:
    """Normalised-temperature cross-entropy of each sample, the mean of its two views' (eq. 1): float32 [b].

    Args:
        first, second: float [b, F], features of the two views of this worker's samples.
        position: int64 [b], their global positions.
        batch: samples of a step over all workers; all of them but the sample itself are negatives, in both views.
        temperature: of the softmax.
    """
    with torch.autocast(first.device.type, enabled=False):
        first, second = (F.normalize(z.float(), dim=1) for z in (first, second))
        every = torch.cat([whole(z, position, batch) for z in (first, second)])
        place, half = places(position, batch), len(every) // 2
        losses = []
        for anchors, itself, positive in ((first, place, place + half), (second, place + half, place)):
            logits = anchors @ every.T / temperature
            logits = logits.scatter(1, itself[:, None], -torch.inf)
            losses.append(F.cross_entropy(logits, positive, reduction="none"))
        return (losses[0] + losses[1]) / 2
