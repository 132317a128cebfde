"""One vector an image, and the heads that contrastive methods put on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.encoder import Encoder, init_weights
from pipeline.training.global_batch import sum_everywhere


def at_least_one(real: Tensor) -> Tensor:
    """bool [B, N], real tokens that may be looked at; all of a sample that has none, since attention needs some."""
    return real | ~real.any(1, keepdim=True)


def image_vector(encoder: Encoder, patches: Tensor, coords: Tensor, real: Tensor) -> Tensor:
    """Mean of an image's real encoded tokens: float32 [B, width].

    Args:
        encoder: sees all tokens; none looks at padding.
        patches: float [B, N, D].
        coords: float [N, d], patch centres in patches.
        real: bool [B, N], tokens that are not padding.
    """
    seen = at_least_one(real)
    weight = seen[..., None].float()
    return (encoder(patches, coords, seen).float() * weight).sum(1) / weight.sum(1)


class GlobalBatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy, arXiv 1502.03167) by the statistics of the step's whole global batch.

    It keeps no running statistics: the heads that it stands in are thrown away after pretraining.
    """

    def __init__(self, width: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalise float [b, width] over all workers' rows; float32."""
        x = x.float()
        sums = sum_everywhere(torch.cat([x.sum(0), x.new_tensor([len(x)])]))
        mean, rows = sums[:-1] / sums[-1], sums[-1]
        variance = sum_everywhere((x - mean).square().sum(0)) / rows
        return (x - mean) / (variance + self.epsilon).sqrt() * self.weight + self.bias


def head(inputs: int, hidden: int, outputs: int, normalise: bool) -> nn.Sequential:
    """Two linear layers with a ReLU between them, and batch normalisation before it where asked."""
    norm = [GlobalBatchNorm(hidden)] if normalise else []
    layers = nn.Sequential(nn.Linear(inputs, hidden), *norm, nn.ReLU(), nn.Linear(hidden, outputs))
    return layers.apply(init_weights)
