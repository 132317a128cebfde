"""SwAV: a view predicts to which prototypes the other view of the sample is assigned, when all prototypes get an equal
share of the batch (Caron et al., arXiv 2006.09882)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.methods.base import Method, Shape, StepResult
from pipeline.models.image_level import head, image_vector
from pipeline.training.global_batch import places, whole
from pipeline.training.loader import Batch
from preprocessing.settings import Settings

if TYPE_CHECKING:
    from pipeline.config import Config


class SwavOptions(Settings):
    """SwAV (arXiv 2006.09882): swapped assignments to prototypes; two whole views, no multi-crop, no queue."""

    prototypes: int = Field(
        0, ge=0, description="Prototypes; 0: three for every four samples of a step (the paper: 3000 for 4096)."
    )
    temperature: float = Field(0.1, gt=0, description="Temperature of the softmax over prototypes.")
    epsilon: float = Field(0.05, gt=0, description="Smoothness of the assignments (entropy of Sinkhorn-Knopp).")
    iterations: int = Field(3, ge=1, description="Iterations of Sinkhorn-Knopp.")
    hidden: int = Field(2048, ge=2, description="Hidden width of the projection head.")
    features: int = Field(128, ge=2, description="Features that are compared with the prototypes.")


class Swav(Method):
    """The swapped prediction loss (eq. 1 and 2) with assignments over the global batch (eq. 3 to 5).

    Prototypes are normalised where they are used, and learn from the first step on (the paper freezes them for the
    first epoch).
    """

    Options = SwavOptions
    views = 2
    whole_batch = True

    def __init__(self, config: Config, shape: Shape, options: SwavOptions) -> None:
        super().__init__(config, shape, options)
        self.encoder = self.new_encoder()
        self.head = head(config.model.width, options.hidden, options.features, normalise=True)
        prototypes = options.prototypes or max(2, round(0.75 * config.pretrain.batch))
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, options.features), dim=1))

    def forward(self, views: Sequence[Batch], ratio: float, strength: float, seed: int) -> StepResult:
        features = [
            self.head(image_vector(self.encoder, view.patches, self.coords, view.real_tokens)) for view in views
        ]
        with torch.autocast(self.prototypes.device.type, enabled=False):
            prototypes = F.normalize(self.prototypes, dim=1)
            first, second = (F.normalize(z.float(), dim=1) @ prototypes.T for z in features)
            position = views[0].position
            loss = self._predict(first, second, position) + self._predict(second, first, position)
        return StepResult(loss / 2, None)

    def _predict(self, scores: Tensor, swapped: Tensor, position: Tensor) -> Tensor:
        """Cross-entropy [b] of the assignments that the other view's scores [b, K] come to."""
        options: SwavOptions = self.options
        batch = self.config.pretrain.batch
        every = whole(swapped.detach(), position, batch)
        codes = sinkhorn(every, options.epsilon, options.iterations)[places(position, batch)]
        return -(codes * F.log_softmax(scores / options.temperature, dim=1)).sum(1)


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Assignments of samples to prototypes that share the batch equally (Cuturi, arXiv 1306.0895).

    Args:
        scores: float32 [B, K], similarities of all samples to all prototypes.
        epsilon: weight of the entropy.
        iterations: alternating normalisations, the samples' last.

    Returns:
        float32 [B, K]; rows sum to 1, columns to B / K where the iterations have converged.
    """
    samples, prototypes = scores.shape
    codes = ((scores - scores.max()) / epsilon).exp()
    for _ in range(iterations):
        codes = codes / codes.sum(0, keepdim=True).clamp(min=1e-30) / prototypes
        codes = codes / codes.sum(1, keepdim=True).clamp(min=1e-30) / samples
    return codes * samples
