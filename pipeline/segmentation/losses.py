"""The segmentation loss: soft Dice (Milletari et al., arXiv 1606.04797) plus binary cross-entropy, a region at a time.

Regions may overlap (whole tumour, tumour core), hence a sigmoid for each rather than one softmax.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def segmentation_loss(
    logits: Tensor, target: Tensor, real: Tensor, dice_weight: float = 0.5, smooth: float = 1.0
) -> Tensor:
    """Loss of each sample, the mean over its regions; padding has no part in it.

    Per region, over the real pixels:
        dice_weight * (1 - (2 sum p t + s) / (sum p + sum t + s)) + (1 - dice_weight) * mean BCE(p, t)

    A loss per sample (not over the batch) makes the mean over a global batch independent of how workers share it.

    Args:
        logits: float [B, R, *spatial], one channel a region.
        target: float or bool [B, R, *spatial].
        real: bool [B, 1, *spatial], False on padding.
        dice_weight: share of the Dice term, in [0, 1].
        smooth: s, in pixels; keeps the loss of a sample without lesion defined.

    Returns:
        float32 [B].
    """
    logits, target = logits.float().flatten(2), target.float().flatten(2)
    weight = real.float().flatten(2)
    probability = logits.sigmoid() * weight
    target = target * weight
    overlap = (probability * target).sum(-1)
    dice = 1 - (2 * overlap + smooth) / (probability.sum(-1) + target.sum(-1) + smooth)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight
    entropy = entropy.sum(-1) / weight.sum(-1).clamp(min=1.0)
    return torch.lerp(entropy, dice, dice_weight).mean(1)
