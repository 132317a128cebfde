"""The segmentation loss against a naive loop over samples, regions and pixels."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.segmentation.losses import segmentation_loss


def naive(logits: torch.Tensor, target: torch.Tensor, real: torch.Tensor, weight: float, smooth: float) -> list[float]:
    losses = []
    for sample in range(len(logits)):
        total = 0.0
        for region in range(logits.shape[1]):
            overlap = probable = lesion = entropy = pixels = 0.0
            flat = zip(logits[sample, region].flatten(), target[sample, region].flatten(), real[sample, 0].flatten())  # noqa: B905
            for logit, truth, is_real in flat:
                if not is_real:
                    continue
                p, t = 1 / (1 + math.exp(-float(logit))), float(truth)
                overlap, probable, lesion, pixels = overlap + p * t, probable + p, lesion + t, pixels + 1
                entropy -= t * math.log(p) + (1 - t) * math.log(1 - p)
            dice = 1 - (2 * overlap + smooth) / (probable + lesion + smooth)
            total += weight * dice + (1 - weight) * entropy / pixels
        losses.append(total / logits.shape[1])
    return losses


@pytest.mark.parametrize("shape", [(2, 1, 5, 4), (3, 2, 3, 4), (2, 3, 2, 3, 4)])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_loss_is_the_formula(shape: tuple[int, ...], weight: float) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    logits = torch.randn(shape, generator=generator) * 2
    target = torch.rand(shape, generator=generator) < 0.3
    real = torch.rand((shape[0], 1, *shape[2:]), generator=generator) < 0.8
    found = segmentation_loss(logits, target, real, dice_weight=weight, smooth=0.7)
    assert found.tolist() == pytest.approx(naive(logits, target, real, weight, 0.7), rel=1e-4)


def test_padding_has_no_part_in_it() -> None:
    logits = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    real = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    real[..., 3] = False
    target[..., 1:] = True
    loss = segmentation_loss(logits, target, real)
    changed = torch.where(real, logits, torch.tensor(99.0))
    assert torch.allclose(loss, segmentation_loss(changed, target ^ ~real, real))
    loss.sum().backward()
    assert logits.grad is not None
    assert not logits.grad[..., 3].any()
    assert logits.grad[..., :3].all()


def test_lesion_free_and_wholly_padded_samples_are_finite() -> None:
    logits = torch.full((2, 1, 4, 4), -20.0)
    real = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    real[1] = False
    loss = segmentation_loss(logits, torch.zeros_like(real), real)
    assert loss.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
