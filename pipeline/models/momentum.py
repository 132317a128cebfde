"""A slow copy of a module: it follows the module's weights after each update and is never trained itself."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def slow_copy(module: M) -> M:
    """A copy without gradients; its weights are part of the state that a checkpoint holds."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(slow: nn.Module, module: nn.Module, momentum: float) -> None:
    """Move the slow weights: slow = momentum * slow + (1 - momentum) * module's."""
    for target, weight in zip(slow.parameters(), module.parameters(), strict=True):
        target.lerp_(weight, 1.0 - momentum)


def rising(start: float, progress: float) -> float:
    """Momentum that rises from `start` to 1 by half a cosine over a progress in [0, 1] (BYOL, section 3.2)."""
    return 1.0 - (1.0 - start) * (math.cos(math.pi * progress) + 1.0) / 2.0
