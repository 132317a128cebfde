"""BYOL: one view predicts what a slow copy of the network makes of the other view (Grill et al., arXiv 2006.07733)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.methods.base import Method, Shape, StepResult
from pipeline.models.encoder import Encoder
from pipeline.models.image_level import head, image_vector
from pipeline.models.momentum import follow, rising, slow_copy, within
from pipeline.training.loader import Batch
from preprocessing.settings import Settings

if TYPE_CHECKING:
    from pipeline.config import Config


class ByolOptions(Settings):
    """BYOL (arXiv 2006.07733): a momentum target, no negatives."""

    momentum: float = Field(
        0.996, ge=0, lt=1, description="Momentum of the target at the beginning; it rises to 1 by half a cosine."
    )
    memory: float = Field(
        0.03,
        gt=0,
        le=1,
        description="Share of the training that the target looks back over at most; it lowers the "
        "momentum of a short training.",
    )
    hidden: int = Field(4096, ge=2, description="Hidden width of projector and predictor.")
    features: int = Field(256, ge=2, description="Features that are compared.")


class Byol(Method):
    """The symmetric loss of section 3.1; batch normalisation in the heads is over the global batch, as in the paper."""

    Options = ByolOptions
    views = 2
    whole_batch = True

    def __init__(self, config: Config, shape: Shape, options: ByolOptions) -> None:
        super().__init__(config, shape, options)
        self.encoder = self.new_encoder()
        self.projector = head(config.model.width, options.hidden, options.features, normalise=True)
        self.predictor = head(options.features, options.hidden, options.features, normalise=True)
        self.target_encoder, self.target_projector = slow_copy(self.encoder), slow_copy(self.projector)

    def forward(self, views: Sequence[Batch], ratio: float, strength: float, seed: int) -> StepResult:
        online = [self.predictor(self._project(self.encoder, self.projector, view)) for view in views]
        with torch.no_grad():
            target = [self._project(self.target_encoder, self.target_projector, view) for view in views]
        return StepResult(distance(online[0], target[1]) + distance(online[1], target[0]), None)

    def after_update(self, progress: float, steps: int) -> None:
        """The target follows (eq. 1), the more slowly the further the training has come."""
        momentum = rising(within(self.options.momentum, steps, self.options.memory), progress)
        follow(self.target_encoder, self.encoder, momentum)
        follow(self.target_projector, self.projector, momentum)

    def _project(self, encoder: Encoder, projector: nn.Module, view: Batch) -> Tensor:
        return projector(image_vector(encoder, view.patches, self.coords, view.real_tokens))


def distance(predicted: Tensor, target: Tensor) -> Tensor:
    """Squared distance of the normalised vectors [b, F], 2 - 2 cos (eq. 2): float32 [b]."""
    return 2 - 2 * F.cosine_similarity(predicted.float(), target.float(), dim=1)
