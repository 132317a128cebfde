"""FLOPs of a pretraining step against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.measure import flops
from pipeline.measure.flops import step_cost
from pipeline.methods.base import Method, Shape, StepResult
from tests.pipeline.methods.samples import NAMES, SHAPES, config_with

SHAPE = Shape(1, (32, 32), (8, 8))  # 16 patches of 64 pixels


class Linear(Method):
    """One linear layer over every patch."""

    def __init__(self, config, shape, options) -> None:
        super().__init__(config, shape, options)
        self.layer = nn.Linear(shape.token_dim, 10)

    def forward(self, views, ratio, strength, seed) -> StepResult:
        return StepResult(self.layer(views[0].patches).sum((1, 2)), None)


def test_a_linear_layer_costs_two_operations_a_weight_and_as_many_for_its_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flops, "build_method", lambda _, config, shape: Linear(config, shape, None))
    cost = step_cost(config_with(), SHAPE)
    assert cost.first == cost.mean == 2 * (2 * 16 * 64 * 10)  # the input needs no gradient


def encoder(tokens: int, width: int, depth: int, patch: int) -> int:
    """Multiply-adds of a plain transformer's forward pass; a hidden layer of four widths."""
    block = tokens * width * (3 * width + width + 8 * width) + 2 * tokens * tokens * width
    return tokens * patch * width + depth * block


def test_a_masked_autoencoder_by_hand() -> None:
    """Sum of encoder over the visible and decoder over all patches; backward twice that, but for the first layer."""
    config = config_with(methods__mae__ratio=0.75, pretrain__method="mae")
    wide, narrow, patches, visible, pixels = 16, 12, 16, 4, 64
    embedding = visible * pixels * wide
    joint = visible * wide * narrow
    blocks = encoder(visible, wide, 2, 0) + encoder(patches, narrow, 1, 0)
    least = 2 * (2 * embedding + 3 * (joint + blocks))  # without the last layer
    outputs = (12 * narrow * pixels, 16 * narrow * pixels)  # at the masked patches, or at all
    assert step_cost(config, SHAPE).mean in [least + 2 * 3 * last for last in outputs]


@pytest.mark.parametrize("name", NAMES)
def test_every_method_can_be_counted(name: str) -> None:
    before = torch.random.get_rng_state()
    cost = step_cost(config_with(pretrain__method=name), SHAPES[2])
    assert cost.first > 0
    assert cost.mean > 0
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_rising_ratio_costs_less_on_the_mean_than_at_first_and_a_measured_mean_counts() -> None:
    config = config_with(mask__ratio__family="linear", mask__ratio__start=0.25, mask__ratio__end=0.75)
    cost = step_cost(config, SHAPE)
    assert cost.first > cost.mean
    assert step_cost(config, SHAPE, mean_ratio=0.25).mean == cost.first
    half = config_with(mask__ratio__family="constant", mask__ratio__start=0.5, mask__ratio__end=0.5)
    assert cost.mean == step_cost(half, SHAPE).mean
