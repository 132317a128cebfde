"""A slow copy of a module: it follows the module's weights after each update and is never trained itself."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)
_QUICKEST = 0.9  # momentum


def slow_copy(module: M) -> M:
    """A copy without gradients; its weights are part of the state that a checkpoint holds."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(slow: nn.Module, module: nn.Module, momentum: float) -> None:
    """Move the slow weights: slow = momentum * slow + (1 - momentum) * module's."""
    for target, weight in zip(slow.parameters(), module.parameters(), strict=True):
        target.lerp_(weight, 1.0 - momentum)


def within(momentum: float, steps: int, share: float) -> float:
    """The momentum, or a lower one where it would look back over more than a share of the training's steps.

    The papers' momenta are for hundreds of thousands of steps: in a training of a thousand, .999 would leave a slow
    copy that is a third random weights to the end. It is .9 at least, since a copy must be slow (BYOL, table 5a).
    """
    return min(momentum, max(_QUICKEST, 1.0 - 1.0 / (share * steps)))


def rising(start: float, progress: float) -> float:
    """Momentum that rises from `start` to 1 by half a cosine over a progress in [0, 1] (BYOL, section 3.2)."""
    return 1.0 - (1.0 - start) * (math.cos(math.pi * progress) + 1.0) / 2.0
