"""What every pretraining method must keep to; a new line in METHODS is tested at once."""

from dataclasses import replace

import pytest
import torch

from pipeline.methods import METHODS, Masking
from pipeline.training.learner import Learner
from pipeline.training.loader import rows_of
from pipeline.training.session import LocalSession
from tests.pipeline.methods.samples import NAMES, config_with, losses, method, samples, views

WHOLE = [name for name in NAMES if METHODS[name].whole_batch]
SINGLE = [name for name in NAMES if not METHODS[name].whole_batch]
MASKING = [name for name in NAMES if issubclass(METHODS[name], Masking)]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_loss_a_sample_whose_gradient_reaches_all_that_is_trained(name, dims):
    model = method(name, dims)
    result = losses(model, views(model, dims))
    assert result.loss.shape == (8,)
    assert result.loss.isfinite().all()
    assert (result.masked is None) == (model.ratio(0.5) is None)
    result.loss.sum().backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad != (p.grad is not None)]
    assert not without  # two workers would wait for such a gradient for ever
    assert model.encoder.embed.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_padding_is_neither_seen_nor_reconstructed(name, dims):
    model = method(name, dims)
    batches = views(model, dims)
    for batch in batches:
        assert not batch.real_tokens.all()
    result = losses(model, batches)
    changed = [replace(b, patches=torch.where(b.real_tokens[..., None], b.patches, 100.0)) for b in batches]
    again = losses(model, changed)
    torch.testing.assert_close(result.loss, again.loss, rtol=1e-4, atol=1e-5)
    if result.masked is not None:
        assert not (result.masked & ~batches[0].real_tokens).any()


@pytest.mark.parametrize("name", MASKING)
def test_pixels_of_padding_within_masked_patches_are_left_out_of_the_loss(name):
    model = method(name)
    (batch,) = views(model)
    result = losses(model, [batch], progress=0.0)
    padded = (result.masked & (batch.valid < 255))[..., None] & ~batch.real
    assert padded[0].any()
    padded[1:] = False  # one sample alone: what it hides, others may show
    changed = replace(batch, patches=torch.where(padded, 0.5, batch.patches))
    again = losses(model, [changed], progress=0.0)
    torch.testing.assert_close(result.loss[0], again.loss[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_without_any_real_token_breaks_nothing(name):
    model = method(name)
    batches = views(model)
    for batch in batches:
        batch.real[3], batch.valid[3], batch.patches[3] = False, 0, 0.0
    loss = losses(model, batches).loss
    assert loss.isfinite().all()
    loss.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", SINGLE)
def test_where_a_step_may_be_split_a_sample_stands_for_itself(name):
    model = method(name)
    batches = views(model)
    loss = losses(model, batches).loss
    rows = torch.tensor([1, 4, 6])
    part = losses(model, [rows_of(batch, rows) for batch in batches]).loss
    torch.testing.assert_close(part, loss[rows], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WHOLE)
def test_where_a_step_must_stay_whole_parts_are_a_mistake(name):
    with pytest.raises(ValueError, match=rf"{name} \(pretrain.method\).*accumulate=1"):
        config_with(pretrain__method=name, pretrain__accumulate=2)
    with pytest.raises(ValueError, match=rf"{name} \(benchmark.arms, {name}\)"):
        config_with(benchmark__arms=("mps_ams", name), pretrain__accumulate=2)
    assert config_with(pretrain__accumulate=2).pretrain.accumulate == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_and_the_place_in_the_training_decide(name):
    model = method(name)
    one, again, later = (losses(model, views(model, first=first)) for first in (0, 0, 8))
    assert torch.equal(one.loss, again.loss)
    if one.masked is not None:
        assert not torch.equal(one.masked, later.masked)


@pytest.mark.parametrize("name", NAMES)
def test_in_half_precision_the_loss_is_about_the_same(name):
    model = method(name)
    batches = views(model)
    whole = losses(model, batches, 0.0).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = losses(model, batches, 0.0).loss
    half.sum().backward()
    torch.testing.assert_close(half.float().mean(), whole.mean(), rtol=0.1, atol=0.05)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", MASKING)
def test_as_much_is_masked_as_is_said(name):
    model = method(name)
    batch = samples(count=32, padding=0)
    masked = model.plan(batch, model.ratio(0.5), model.strength(0.5) or 0.0, 0).masked
    assert float(masked.float().mean()) == pytest.approx(model.ratio(0.5), abs=0.1)
    assert model.reconstruct(batch, model.plan(batch, model.ratio(0.5), 0.0, 0)).shape == batch.patches.shape


def train(model, batches, steps, folder):
    """As many steps with the same masks, and the loss of each."""
    config = config_with(pretrain__lr=3e-3)
    learner = Learner(LocalSession(folder), model, config.pretrain, config.resources)
    found = []
    for step in range(steps):
        loss = losses(model, batches, 0.0).loss.mean()
        learner.backward(loss)
        learner.update()
        model.after_update(step / steps, steps)
        found.append(float(loss.detach()))
    return found


@pytest.mark.parametrize("name", MASKING)
def test_it_learns_the_hidden_parts_of_eight_phantoms_by_heart(name, tmp_path):
    wide = {"model__width": 64, "model__heads": 4, "decoder__width": 64, "decoder__heads": 4}
    model, batch = method(name, **wide), samples()
    # the same masks for all, or the mask would tell which image it is
    batch = replace(batch, position=torch.zeros_like(batch.position), scores=batch.scores[:1].expand(8, -1))
    train(model, [batch], 600, tmp_path)
    with torch.no_grad():
        plan = model.plan(batch, model.ratio(0.0), model.strength(0.0) or 0.0, 3)
        found = model.reconstruct(batch, plan)
    hidden = plan.masked[..., None] & batch.real
    truth = batch.patches[hidden]
    error = (found[hidden] - truth).square().mean() / truth.var()
    assert error < 0.3  # 1: no better than the best constant


@pytest.mark.parametrize("name", [name for name in NAMES if name not in MASKING])
def test_it_learns_to_tell_eight_phantoms_apart(name, tmp_path):
    model = method(name)
    found = train(model, views(model), 200, tmp_path)
    assert sum(found[-5:]) / 5 < 0.05 * found[0]
