"""What the training images are like: the standardisation of pixels and tokens, fixed before a training starts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.models.segmenter import Segmenter
from pipeline.segmentation.canvas import Canvas
from pipeline.training.loader import Batch, PatchLoader

_SAMPLES, _AT_ONCE = 256, 8


def pixel_statistics(loader: PatchLoader, canvas: Canvas) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over the real pixels of some training samples: float [C] each.

    They are the same samples on any number of workers and after any restart.
    """
    count, total, squares = 0.0, torch.zeros(canvas.channels).double(), torch.zeros(canvas.channels).double()
    for batch in _some(loader):
        image, _, real = canvas.pixels(batch)
        pixels = image.movedim(1, -1)[real[:, 0]].double().cpu()  # [N, C]
        pixels = pixels[pixels.isfinite().all(1)]  # the loss will tell whose the others are
        count, total, squares = count + len(pixels), total + pixels.sum(0), squares + pixels.square().sum(0)
    mean = total / max(count, 1.0)
    variance = (squares / max(count, 1.0) - mean.square()).clamp(min=0.0)
    return mean.float(), variance.sqrt().float()


@torch.no_grad()
def standardise_tokens(model: Segmenter, loader: PatchLoader, canvas: Canvas) -> None:
    """Set by which a segmenter standardises each feature of its encoder's tokens: those of some training samples.

    What a pretrained encoder puts out differs in scale by a factor of thirty between methods, and much of it is the
    same for all tokens: the convolutions would see one method's tokens and not another's.
    """
    sums = [torch.zeros(3, model.encoder.settings.width).double() for _ in model.depths]
    for batch in _some(loader):
        image, _, real = canvas.pixels(batch)
        attend = model.attended(real)
        for parts, stage in zip(sums, model.stages(image, attend), strict=True):
            tokens = stage[attend].double().cpu()
            tokens = tokens[tokens.isfinite().all(1)]
            parts += torch.stack([torch.full_like(parts[0], len(tokens)), tokens.sum(0), tokens.square().sum(0)])
    for level, (count, total, squares) in enumerate(sums):
        mean = total / count.clamp(min=1.0)
        deviation = (squares / count.clamp(min=1.0) - mean.square()).clamp(min=0.0).sqrt()
        model.token_mean[level] = mean.float()
        model.token_scale[level] = torch.where(deviation > 0, deviation, torch.ones_like(deviation)).float()


def _some(loader: PatchLoader) -> Iterator[Batch]:
    samples = loader.some(_SAMPLES)
    for part in np.array_split(samples, max(1, -(-len(samples) // _AT_ONCE))):
        yield loader.gather(part)
