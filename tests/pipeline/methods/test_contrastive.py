"""SimCLR, BYOL and SwAV against loops written from the papers' formulas."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.methods.byol import distance
from pipeline.methods.simclr import nt_xent
from pipeline.methods.swav import sinkhorn
from pipeline.models.image_level import GlobalBatchNorm, image_vector
from pipeline.models.momentum import rising, within
from tests.pipeline.methods.samples import losses, method, samples, views


def test_nt_xent_equals_a_naive_loop():
    first, second = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)), torch.randn(5, 6)
    found = nt_xent(first, second, torch.arange(5), 5, 0.2)
    z = [row / row.norm() for pair in zip(first, second, strict=True) for row in pair]  # views of a sample side by side

    def pair_loss(i, j):
        similar = [math.exp(float(z[i] @ z[k]) / 0.2) for k in range(10)]
        return -math.log(similar[j] / sum(similar[k] for k in range(10) if k != i))

    for row in range(5):
        expected = (pair_loss(2 * row, 2 * row + 1) + pair_loss(2 * row + 1, 2 * row)) / 2
        assert float(found[row]) == pytest.approx(expected, rel=1e-4)


def test_sinkhorn_equals_a_naive_loop_and_shares_the_batch_equally():
    scores = (torch.rand(12, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1) * 0.5
    q = [[math.exp(float(scores[b, k]) / 0.3) for b in range(12)] for k in range(4)]
    for _ in range(3):
        q = [[value / sum(row) / 4 for value in row] for row in q]
        columns = [sum(q[k][b] for k in range(4)) for b in range(12)]
        q = [[q[k][b] / columns[b] / 12 for b in range(12)] for k in range(4)]
    np.testing.assert_allclose(sinkhorn(scores, 0.3, 3).numpy(), 12 * np.array(q).T, rtol=1e-4)
    codes = sinkhorn(scores, 0.3, 200)
    torch.testing.assert_close(codes.sum(1), torch.ones(12))
    torch.testing.assert_close(codes.sum(0), torch.full((4,), 3.0), rtol=1e-3, atol=1e-3)


def test_swav_predicts_the_other_views_assignment():
    model = method("swav")
    batches = views(model)
    with torch.no_grad():
        found = losses(model, batches).loss
        z = [model.head(image_vector(model.encoder, b.patches, model.coords, b.valid >= 128)) for b in batches]
        c = model.prototypes / model.prototypes.norm(dim=1, keepdim=True)
        scores = [(v / v.norm(dim=1, keepdim=True)) @ c.T for v in z]
        codes = [sinkhorn(s, 0.05, 3) for s in scores]
    for row in range(8):
        total = 0.0
        for here, there in ((0, 1), (1, 0)):
            raised = [math.exp(float(s) / 0.1) for s in scores[here][row]]
            total -= sum(float(codes[there][row, k]) * math.log(raised[k] / sum(raised)) for k in range(4))
        assert float(found[row]) == pytest.approx(total / 2, rel=1e-3)


def test_byols_distance_is_that_of_the_normalised_vectors():
    p, t = torch.randn(4, 6), torch.randn(4, 6)
    for row in range(4):
        apart = p[row] / p[row].norm() - t[row] / t[row].norm()
        assert float(distance(p, t)[row]) == pytest.approx(float(apart.square().sum()), rel=1e-4, abs=1e-6)


def test_byols_target_follows_by_the_formula_and_gets_no_gradient():
    model = method("byol")
    assert torch.equal(model.target_encoder.embed.weight, model.encoder.embed.weight)
    with torch.no_grad():
        for parameter in [*model.encoder.parameters(), *model.projector.parameters()]:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    target = {name: value.clone() for name, value in model.state_dict().items() if name.startswith("target_")}
    losses(model, views(model)).loss.sum().backward()
    assert all(p.grad is None for part in (model.target_encoder, model.target_projector) for p in part.parameters())
    model.after_update(0.25, 1_000_000)
    momentum = 1 - (1 - 0.996) * (math.cos(math.pi * 0.25) + 1) / 2
    for name, before in target.items():
        online = model.state_dict()[name.removeprefix("target_")]
        expected = momentum * before + (1 - momentum) * online
        torch.testing.assert_close(model.state_dict()[name], expected, rtol=1e-5, atol=1e-6)
    assert (rising(0.996, 0.0), rising(0.996, 1.0)) == (pytest.approx(0.996), 1.0)
    assert [within(0.996, steps, 0.05) for steps in (1, 400, 5_000, 10**6)] == pytest.approx([0.9, 0.95, 0.996, 0.996])


def test_each_view_predicts_the_target_of_the_other():
    model = method("byol")
    batches = views(model)

    def vector(encoder, batch):
        return image_vector(encoder, batch.patches, model.coords, batch.valid >= 128)

    with torch.no_grad():
        p = [model.predictor(model.projector(vector(model.encoder, b))) for b in batches]
        t = [model.target_projector(vector(model.target_encoder, b)) for b in batches]
        expected = distance(p[0], t[1]) + distance(p[1], t[0])
        torch.testing.assert_close(losses(model, batches).loss, expected)


def test_batch_normalisation_is_torchs():
    x, torchs = torch.randn(9, 5) * 3 + 1, nn.BatchNorm1d(5)
    torch.testing.assert_close(GlobalBatchNorm(5)(x), torchs(x), rtol=1e-4, atol=1e-5)


def test_an_images_vector_is_the_mean_of_its_real_tokens():
    model, batch = method("simclr"), samples()
    real = batch.valid >= 128
    found = image_vector(model.encoder, batch.patches, model.coords, real)
    encoded = model.encoder(batch.patches, model.coords, real)
    for row in range(8):
        mean = torch.stack([encoded[row, t] for t in range(real.shape[1]) if real[row, t]]).mean(0)
        torch.testing.assert_close(found[row], mean)
