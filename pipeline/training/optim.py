"""AdamW's parameter groups with layer-wise learning-rate decay, and the learning rate as a function of progress."""

from __future__ import annotations

import math
from typing import Any

from torch import nn


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for AdamW: no weight decay on norms, biases and other 1-D tensors; lower rates deeper in the encoder.

    A layer's rate is `lr * layer_decay ** distance` (BEiT, arXiv 2106.08254): distance 0 outside `encoder.*`, 1 for the
    last block and its norm, growing to the patch embedding. With a decay of 1 every parameter gets `lr`.

    Args:
        model: parameters named `encoder.embed.*`, `encoder.blocks.<i>.*` and `encoder.norm.*` form the encoder.
        lr: the base rate.
        weight_decay: for tensors of two and more axes.
        layer_decay: in (0, 1].

    Returns:
        Groups with params, lr, scale (the group's rate over `lr`, for a schedule), weight_decay and encoder (whether it
        is part of it); those nearest the output first.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    blocks = 1 + max((_block(name) for name, _ in named), default=-1)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in named:
        distance, decayed = _distance(name, blocks), parameter.ndim > 1
        scale = layer_decay**distance
        group = groups.setdefault(
            (distance, decayed),
            {
                "params": [],
                "lr": lr * scale,
                "scale": scale,
                "weight_decay": weight_decay if decayed else 0.0,
                "encoder": distance > 0,
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def _block(name: str) -> int:
    parts = name.split(".")
    at = parts.index("encoder") if "encoder" in parts else len(parts)
    return int(parts[at + 2]) if parts[at + 1 : at + 2] == ["blocks"] else -1


def _distance(name: str, blocks: int) -> int:
    parts = name.split(".")
    if "encoder" not in parts:
        return 0
    part = parts[parts.index("encoder") + 1]
    if part == "norm":
        return 1
    return blocks - _block(name)  # the embedding counts as block -1


def learning_rate(progress: float, base: float, warmup: float, final: float = 0.0) -> float:
    """Linear warm-up, then half a cosine down (Loshchilov & Hutter, arXiv 1608.03983).

    Args:
        progress: share of the training that is done, in [0, 1].
        base: the highest rate, reached at progress `warmup`.
        warmup: share of the training, in [0, 1).
        final: rate at progress 1.
    """
    if progress < warmup:
        return base * progress / warmup
    done = min(1.0, (progress - warmup) / (1.0 - warmup))
    return final + (base - final) * 0.5 * (1.0 + math.cos(math.pi * done))
