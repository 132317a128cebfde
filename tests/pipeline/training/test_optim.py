"""Parameter groups and the learning rate, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pipeline.models.encoder import Encoder, EncoderSettings
from pipeline.training.optim import learning_rate, parameter_groups


class Wrapped(nn.Module):
    """An encoder of two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder(EncoderSettings(width=12, depth=2, heads=3), token_dim=4, dims=2)
        self.head = nn.Linear(12, 1)


def test_every_parameter_once_with_the_rate_of_its_layer() -> None:
    model = Wrapped()
    groups = parameter_groups(model, lr=0.1, weight_decay=0.05, layer_decay=0.5)
    found = {id(p): group for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    rate = {name: found[id(p)]["lr"] for name, p in model.named_parameters()}
    assert rate["head.weight"] == rate["head.bias"] == pytest.approx(0.1)
    assert rate["encoder.norm.weight"] == rate["encoder.blocks.1.qkv.weight"] == pytest.approx(0.05)
    assert rate["encoder.blocks.0.qkv.weight"] == pytest.approx(0.025)
    assert rate["encoder.embed.weight"] == rate["encoder.embed.bias"] == pytest.approx(0.0125)
    assert all(group["encoder"] == (group["scale"] < 1) for group in groups)
    decay = {name: found[id(p)]["weight_decay"] for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert decay[name] == (0.05 if parameter.ndim > 1 else 0.0), name
    torch.optim.AdamW(groups)


def test_no_layer_decay_gives_every_layer_the_base_rate() -> None:
    groups = parameter_groups(Wrapped(), lr=0.3, weight_decay=0.0)
    assert {group["lr"] for group in groups} == {0.3}


def test_frozen_parameters_are_left_out() -> None:
    model = Wrapped()
    model.encoder.requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(model, 0.1, 0.0)) == 2


def test_learning_rate_by_hand() -> None:
    assert learning_rate(0.0, base=2.0, warmup=0.1) == 0.0
    assert learning_rate(0.05, base=2.0, warmup=0.1) == pytest.approx(1.0)
    assert learning_rate(0.1, base=2.0, warmup=0.1) == pytest.approx(2.0)
    assert learning_rate(0.55, base=2.0, warmup=0.1, final=1.0) == pytest.approx(1.5)
    assert learning_rate(1.0, base=2.0, warmup=0.1, final=0.5) == pytest.approx(0.5)
    assert learning_rate(0.0, base=2.0, warmup=0.0) == 2.0
    assert learning_rate(0.25, base=1.0, warmup=0.0) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
