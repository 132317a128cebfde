"""What other workers hold of a step's global batch, with gradients, for losses that compare samples with each other.

A step's B samples stand at the global positions k*B .. k*B + B - 1, so `position % B` is a sample's place in the whole
whatever the number of workers, and the whole comes out in the same order everywhere. Each worker adds up the losses of
its own samples only; the sums' gradients are exact because the backward pass of a sum over workers is that sum again.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Sum(torch.autograd.Function):
    """Sum over the workers, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def alone() -> bool:
    """Whether this process trains without others."""
    return not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)


def sum_everywhere(values: Tensor) -> Tensor:
    """Element-wise sum over all workers, differentiable; all of them call it together."""
    return values if alone() else _Sum.apply(values)


def places(position: Tensor, batch: int) -> Tensor:
    """Where this worker's samples stand in `whole`: int64 [b].

    Args:
        position: int64 [b], global sample positions.
        batch: samples of a step over all workers, B.
    """
    return torch.arange(len(position), device=position.device) if alone() else position % batch


def whole(values: Tensor, position: Tensor, batch: int) -> Tensor:
    """The rows of all workers in the order of their positions, differentiable: [b, ...] to [B, ...].

    A process alone gets its own rows back, however many.
    """
    if alone():
        return values
    empty = values.new_zeros(batch, *values.shape[1:])
    return sum_everywhere(empty.index_copy(0, places(position, batch), values))
