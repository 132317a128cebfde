"""What the training images are like: the standardisation of pixels and tokens, fixed before a training starts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.models.token_segmenter import TokenSegmenter
from pipeline.segmentation.canvas import Canvas
from pipeline.training.loader import Batch, PatchLoader

_SAMPLES, _AT_ONCE = 256, 8


def pixel_statistics(loader: PatchLoader, canvas: Canvas) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over the real pixels of some training samples: float [C] each.

    They are the same samples on any number of workers and after any restart.
    """
    moments = _Moments(canvas.channels)
    for batch in _some(loader):
        image, _, real = canvas.pixels(batch)
        moments.add(image.movedim(1, -1)[real[:, 0]])
    return moments.mean_and_deviation()


@torch.no_grad()
def standardise_tokens(model: TokenSegmenter, loader: PatchLoader, canvas: Canvas) -> None:
    """Set by which a segmenter standardises each feature of its encoder's tokens: those of some training samples.

    What a pretrained encoder puts out differs in scale by a factor of thirty between methods, and much of it is the
    same for all tokens: the convolutions would see one method's tokens and not another's.
    """
    stages = [_Moments(model.encoder.settings.width) for _ in model.depths]
    for batch in _some(loader):
        image, _, real = canvas.pixels(batch)
        attend = model.attended(real)
        for moments, tokens in zip(stages, model.stages(image, attend), strict=True):
            moments.add(tokens[attend])
    for level, moments in enumerate(stages):
        mean, deviation = moments.mean_and_deviation()
        model.token_mean[level] = mean
        model.token_scale[level] = torch.where(deviation > 0, deviation, torch.ones_like(deviation))


class _Moments:
    """Mean and standard deviation of rows that come in parts."""

    def __init__(self, columns: int) -> None:
        self._sums = torch.zeros(3, columns).double()  # of 1, the values and their squares

    def add(self, rows: Tensor) -> None:
        """Count float [N, columns] in; what is not finite is left out: the loss will tell whose it is."""
        rows = rows.double().cpu()
        rows = rows[rows.isfinite().all(1)]
        self._sums += torch.stack([torch.full_like(self._sums[0], len(rows)), rows.sum(0), rows.square().sum(0)])

    def mean_and_deviation(self) -> tuple[Tensor, Tensor]:
        """float [columns] each."""
        count, total, squares = self._sums
        mean = total / count.clamp(min=1.0)
        variance = (squares / count.clamp(min=1.0) - mean.square()).clamp(min=0.0)
        return mean.float(), variance.sqrt().float()


def _some(loader: PatchLoader) -> Iterator[Batch]:
    samples = loader.some(_SAMPLES)
    for part in np.array_split(samples, max(1, -(-len(samples) // _AT_ONCE))):
        yield loader.gather(part)
