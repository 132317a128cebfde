import pytest
import torch

from pipeline.training.noise_scale import NoiseScale


def test_the_noise_scale_of_known_gradients():
    """Per-sample gradients g ~ N(m, s^2 I): tr(S) / |G|^2 = dim s^2 / |m|^2."""
    torch.manual_seed(0)
    model, batch, spread = torch.nn.Linear(100, 1, bias=False), 32, 0.5
    mean = torch.full((1, 100), 0.1)
    meter = NoiseScale()
    for _ in range(3000):
        gradients = mean + spread * torch.randn(batch, 1, 100)
        first = [gradients[: batch // 2].sum(0) / batch]
        model.weight.grad = gradients.mean(0)
        meter.halves(model, first, batch)
    assert meter.take() == pytest.approx(100 * spread**2 / 1.0, rel=0.1)
    assert meter.take() is None
