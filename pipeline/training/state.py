"""Optimiser and model state as plain named tensors, so that a checkpoint needs no pickle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_MODEL, _OPTIMISER, _AVERAGE = "model.", "optimiser.", "average."


def pack(model: nn.Module, optimiser: torch.optim.Optimizer, average: nn.Module | None = None) -> dict[str, Tensor]:
    """All tensors of a training under prefixed names."""
    tensors = {_MODEL + name: value for name, value in model.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"{_OPTIMISER}{number}.{name}": value for name, value in state.items() if torch.is_tensor(value)}
    if average is not None:
        tensors |= {_AVERAGE + name: value for name, value in average.state_dict().items()}
    return tensors


def unpack(
    tensors: dict[str, Tensor], model: nn.Module, optimiser: torch.optim.Optimizer, average: nn.Module | None = None
) -> None:
    """Put packed tensors back in place; the settings of the optimiser stay those of the configuration."""
    model.load_state_dict(with_prefix(tensors, _MODEL))
    state: dict[int, dict[str, Any]] = {}
    for name, value in with_prefix(tensors, _OPTIMISER).items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    if average is not None:
        average.load_state_dict(with_prefix(tensors, _AVERAGE))


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
