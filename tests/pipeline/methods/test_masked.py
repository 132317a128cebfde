"""The masked-image methods against loops written from the papers' formulas."""

import itertools
import math

import pytest
import torch

from pipeline.methods.hpm import relative_loss
from pipeline.methods.mps_ams import category_loss, hardness
from pipeline.training.loader import rows_of
from tests.pipeline.methods.samples import SHAPES, config_with, losses, method, samples

SEED = 3
RANDOM = {"mask__strength__start": 0.0, "mask__strength__end": 0.0}


def naive_mean(error, masked, real, channels=1):
    """Mean of error(t, i) over the real pixels of one sample's masked patches."""
    pixels = len(real[0])
    each = [
        error(t, channel * pixels + i)
        for t in range(len(masked))
        if masked[t]
        for channel in range(channels)
        for i in range(pixels)
        if real[t][i]
    ]
    return sum(each) / len(each) if each else 0.0


def tokens_of_the_encoder(model, call):
    """How many tokens each block of the encoder was given."""
    seen = []
    hooks = [b.register_forward_pre_hook(lambda _m, args: seen.append(args[0].shape[1])) for b in model.encoder.blocks]
    call()
    for hook in hooks:
        hook.remove()
    return set(seen)


@pytest.mark.parametrize("dims", [2, 3])
@torch.no_grad()
def test_mae_is_the_squared_error_of_what_the_encoder_did_not_see(dims):
    model, batch = method("mae", dims), samples(dims)
    plan = model.plan(batch, 0.75, 0.0, SEED)
    predicted, loss = model.predict(batch, plan), losses(model, [batch]).loss
    for row in (0, 5):
        expected = naive_mean(
            lambda t, i, row=row: float(predicted[row, t, i] - batch.patches[row, t, i]) ** 2,
            plan.masked[row].tolist(), batch.real[row].tolist(), SHAPES[dims].channels,
        )  # fmt: skip
        assert float(loss[row]) == pytest.approx(expected, rel=1e-4)
    changed = torch.where(plan.masked[..., None], 7.0, batch.patches)
    before, after = (model.autoencoder.encode(p, model.coords, plan)[plan.attend] for p in (batch.patches, changed))
    assert torch.equal(before, after)
    tokens = plan.masked.shape[1]
    assert tokens_of_the_encoder(model, lambda: losses(model, [batch])) == {round(tokens / 4)}


@pytest.mark.parametrize("dims", [2, 3])
def test_simmim_is_the_absolute_error_and_its_encoder_works_on_all_tokens(dims):
    model, batch = method("simmim", dims), samples(dims)
    plan = model.plan(batch, 0.6, 0.0, SEED)
    result = losses(model, [batch])
    with torch.no_grad():
        predicted = model.reconstruct(batch, plan)
    for row in (0, 5):
        expected = naive_mean(
            lambda t, i, row=row: abs(float(predicted[row, t, i] - batch.patches[row, t, i])),
            plan.masked[row].tolist(), batch.real[row].tolist(), SHAPES[dims].channels,
        )  # fmt: skip
        assert float(result.loss[row].detach()) == pytest.approx(expected, rel=1e-4)
    assert tokens_of_the_encoder(model, lambda: losses(model, [batch])) == {plan.masked.shape[1]}
    batch.patches.requires_grad_(True)
    model.reconstruct(batch, plan)[plan.masked].sum().backward()
    reached = batch.patches.grad.abs().sum(-1) > 0
    assert torch.equal(reached, batch.real_tokens & ~plan.masked)  # neither masked patches nor padding
    result.loss.sum().backward()
    assert model.mask_token.grad.abs().sum() > 0


def subset_loss(model, batch, row, visible, masked):
    """Masked autoencoding of one sample whose encoder is given the visible tokens and no others."""
    keep = torch.tensor([t for t in range(len(visible)) if visible[t]])
    encoder, decoder = model.encoder, model.autoencoder.decoder
    encoded = encoder(batch.patches[row : row + 1, keep], model.coords[keep])
    shown = [t for t in range(len(visible)) if visible[t] or masked[t]]
    from pipeline.models.encoder import position_encoding

    x = torch.stack([decoder.mask_token] * len(shown))[None].clone()
    for number, t in enumerate(keep.tolist()):
        x[0, shown.index(t)] = decoder.bridge(encoded[0, number])
    x = x + position_encoding(model.coords[shown], x.shape[-1])
    for block in decoder.blocks:
        x = block(x)
    predicted = decoder.project(decoder.norm(x))[0]
    place = {t: number for number, t in enumerate(shown)}
    return naive_mean(
        lambda t, i: float(predicted[place[t], i] - batch.patches[row, t, i]) ** 2,
        masked, batch.real[row].tolist(), model.shape.channels,
    )  # fmt: skip


@pytest.mark.parametrize("dims", [2, 3])
@torch.no_grad()
def test_mixmim_reconstructs_either_image_from_its_own_part_of_the_mixture(dims):
    model, batch = method("mixmim", dims), samples(dims)
    result, real = losses(model, [batch]), batch.real_tokens
    assert tokens_of_the_encoder(model, lambda: losses(model, [batch])) == {real.shape[1]}
    for row in (0, 6):
        other = (row + 4) % 8
        masked = result.masked[row]
        own = subset_loss(model, batch, row, (real[row] & ~masked).tolist(), masked.tolist())
        seen = real[row] & ~masked
        partner = subset_loss(model, batch, other, (real[other] & ~seen).tolist(), (real[other] & seen).tolist())
        assert float(result.loss[row]) == pytest.approx((own + partner) / 2, rel=1e-3)


@pytest.mark.parametrize(("dims", "grid"), [(2, (4, 6)), (2, (5, 3)), (3, (4, 2, 4)), (3, (3, 2, 5))])
def test_um_mae_shows_one_patch_a_block_and_masks_a_share_of_those_again(dims, grid):
    from dataclasses import replace

    from pipeline.methods import Shape, build_method

    patch = (2,) * dims
    shape = Shape(1, tuple(g * p for g, p in zip(grid, patch, strict=True)), patch)
    model = build_method("um_mae", config_with(), shape)
    tokens, count = math.prod(grid), 40
    real = torch.rand(count, tokens, generator=torch.Generator().manual_seed(0)) < 0.8
    batch = replace(samples(2, count), valid=real.to(torch.uint8) * 255, patches=torch.zeros(count, tokens, 2**dims))
    plan = model.plan(batch, 0.0, 0.0, SEED)
    places = list(itertools.product(*(range(g) for g in grid)))
    blocks = {}
    for token, place in enumerate(places):
        blocks.setdefault(tuple(c // 2 for c in place), []).append(token)
    assert plan.keep.shape == (count, len(blocks))
    chosen = set()
    for row in range(count):
        seen = plan.keep[row][plan.attend[row]].tolist()
        for block in blocks.values():
            candidates = [t for t in block if real[row, t]]
            found = [t for t in block if t in seen]
            assert len(found) == bool(candidates)
            assert set(found) <= set(candidates)
            chosen |= {(tuple(block), t) for t in found}
        assert set(plan.masked[row].nonzero().flatten().tolist()) == {t for t in range(tokens) if real[row, t]} - set(
            seen
        )
        replaced = plan.keep[row][plan.replaced[row]].tolist()
        assert set(replaced) <= set(seen)
        assert len(replaced) == min(round(len(seen) * 0.25), len(seen) - 1)
    assert len(chosen) == sum(len(block) for block in blocks.values())  # any patch of a block may stay


@torch.no_grad()
def test_um_mae_is_the_squared_error_of_what_no_block_kept():
    model, batch = method("um_mae"), samples()
    plan = model.plan(batch, 0.0, 0.0, SEED)
    predicted, found = model.predict(batch, plan), model.loss(batch, plan)
    real = batch.real.any(-1)
    for row in (0, 5):
        kept = {int(t) for t, there in zip(plan.keep[row], plan.attend[row], strict=True) if there}
        assert plan.replaced[row].any()  # masked a second time, and no part of the loss
        masked = [bool(real[row, t]) and t not in kept for t in range(24)]
        expected = naive_mean(
            lambda t, i, row=row: float(predicted[row, t, i] - batch.patches[row, t, i]) ** 2,
            masked, batch.real[row].tolist(),
        )  # fmt: skip
        assert float(found[row]) == pytest.approx(expected, rel=1e-4)


def test_um_mae_does_not_see_what_is_masked_a_second_time():
    model, batch = method("um_mae"), samples()
    plan = model.plan(batch, 0.0, 0.0, SEED)
    again = torch.zeros_like(plan.masked).scatter(1, plan.keep, plan.replaced)
    assert again.any()
    batch.patches.requires_grad_(True)
    model.predict(batch, plan).sum().backward()
    assert not (batch.patches.grad.abs().sum(-1) > 0)[again].any()
    assert (batch.patches.grad.abs().sum(-1) > 0).any()


def test_hpms_relative_loss_equals_a_naive_loop():
    predicted, error, masked = torch.randn(2, 7), torch.rand(2, 7), torch.rand(2, 7) < 0.7
    found = relative_loss(predicted, error, masked)
    for row in range(2):
        each = []
        for i, j in itertools.permutations([t for t in range(7) if masked[row, t]], 2):
            p = 1 / (1 + math.exp(-float(predicted[row, i] - predicted[row, j])))
            each.append(-math.log(p) if error[row, i] > error[row, j] else -math.log(1 - p))
        assert float(found[row]) == pytest.approx(sum(each) / len(each), rel=1e-4)


def test_hpm_masks_the_hardest_first_and_more_of_them_towards_the_end(monkeypatch):
    model, batch = method("hpm"), samples(count=40, padding=0)
    difficulty = torch.rand(40, 24, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(model, "difficulty", lambda _: difficulty)
    assert [model.strength(p) for p in (0.0, 0.5, 1.0)] == [0.0, 0.25, 0.5]
    order = difficulty.argsort(1, descending=True)
    assert torch.equal(model.plan(batch, 0.75, 0.0, SEED).masked, method("mae").plan(batch, 0.75, 0.0, SEED).masked)
    half = model.plan(batch, 0.75, 0.5, SEED).masked.gather(1, order[:, 9:])
    assert 0.5 < float(half[:, :9].float().mean()) < 0.7  # 9 of the other 15 at random, not the next hardest
    for share, expected in ((0.0, 0), (0.25, 4), (0.5, 9), (1.0, 18)):  # of 18 masked ones
        plan = model.plan(batch, 0.75, share, SEED)
        assert (plan.masked.sum(1) == 18).all()
        assert plan.masked.gather(1, order[:, : round(18 * share)]).all()
        rest = plan.masked.gather(1, order[:, expected:]).float().mean()
        assert float(rest) == pytest.approx((18 - expected) / (24 - expected), abs=1e-6)


def test_hpms_teacher_follows_and_is_not_trained():
    model, batch = method("hpm"), samples()
    with torch.no_grad():
        model.encoder.embed.weight.add_(1.0)
    before = model.teacher_encoder.embed.weight.clone()
    losses(model, [batch]).loss.sum().backward()
    assert model.teacher_encoder.embed.weight.grad is None
    model.after_update(0.5, 1_000_000)
    expected = 0.999 * before + 0.001 * model.encoder.embed.weight
    torch.testing.assert_close(model.teacher_encoder.embed.weight, expected.detach())
    model.after_update(0.5, 1_000)  # a thirtieth of them: 30 steps
    expected += (model.encoder.embed.weight - expected) / 30
    torch.testing.assert_close(model.teacher_encoder.embed.weight, expected.detach())


@torch.no_grad()
def test_hpms_loss_is_the_reconstructions_and_a_share_of_the_relative_one():
    batch = samples()
    found = {weight: method("hpm", methods__hpm__relative=weight) for weight in (0.05, 1.0)}
    plan = found[1.0].plan(batch, 0.75, 0.0, SEED)
    predicted = found[1.0].predict(batch, plan)
    little, whole = (model.loss(batch, plan) for model in found.values())
    for row in (0, 5):
        plain = naive_mean(
            lambda t, i, row=row: float(predicted[row, t, i] - batch.patches[row, t, i]) ** 2,
            plan.masked[row].tolist(), batch.real[row].tolist(),
        )  # fmt: skip
        relative = float(whole[row]) - plain
        assert float(little[row]) - plain == pytest.approx(0.05 * relative, rel=1e-2, abs=1e-6)
        assert relative > 0.3  # .69 by chance


@torch.no_grad()
def test_amlps_hard_patches_weigh_more():
    batch = samples()
    plain, weighted = method("mps_ams"), method("mps_ams", methods__mps_ams__hard_patches=2.0)
    assert torch.equal(losses(plain, [batch]).loss, losses(method("mps_ams", seed=0), [batch]).loss)
    found, masked = losses(weighted, [batch]).loss, losses(weighted, [batch]).masked
    plan = weighted.plan(batch, weighted.ratio(0.5), weighted.strength(0.5), SEED)
    predicted = weighted.predict(batch, plan)
    for row in (0, 5):
        tokens = [t for t in range(24) if masked[row, t]]
        pixels = {t: [i for i in range(32) if batch.real[row, t, i]] for t in tokens}
        square = {t: [float(predicted[row, t, i] - batch.patches[row, t, i]) ** 2 for i in pixels[t]] for t in tokens}
        mean = {t: sum(square[t]) / len(square[t]) for t in tokens}
        raised = {t: (mean[t] / (sum(mean.values()) / len(tokens))) ** 2 for t in tokens}
        weight = {t: raised[t] * len(tokens) / sum(raised.values()) for t in tokens}
        total = sum(weight[t] * value for t in tokens for value in square[t])
        assert float(found[row]) == pytest.approx(total / sum(map(len, pixels.values())), rel=1e-4)
    assert (found > losses(plain, [batch]).loss).all()


def test_amlps_categories_are_those_of_the_clusters_refined_by_hardness():
    logits, scores, masked = torch.randn(2, 6), torch.randn(2, 6), torch.tensor([[True] * 4 + [False] * 2] * 2)
    error = torch.rand(2, 6)
    found = category_loss(logits, scores, hardness(error, masked), masked)
    for row in range(2):
        mean = sum(float(error[row, t]) for t in range(4)) / 4
        each = []
        for t in range(4):
            p = 1 / (1 + math.exp(-float(logits[row, t])))
            each.append(-math.log(p if scores[row, t] > 0 and error[row, t] > mean else 1 - p))
        assert float(found[row]) == pytest.approx(sum(each) / 4, rel=1e-4)


def test_amlps_category_loss_is_added_with_its_weight_and_reads_scores():
    batch = samples()
    model = method("mps_ams", methods__mps_ams__category=0.5, **RANDOM)
    assert type(model).selects(model.config)
    assert not type(model).selects(config_with(**RANDOM))
    double = method("mps_ams", methods__mps_ams__category=1.0, **RANDOM)
    plain = method("mps_ams", **RANDOM)
    half, whole, none = (losses(m, [batch]).loss.detach() for m in (model, double, plain))
    torch.testing.assert_close(whole - none, 2 * (half - none), rtol=1e-4, atol=1e-6)
    assert (half > none).all()
    other = rows_of(batch, torch.arange(8))
    other.scores = -batch.scores
    assert not torch.equal(losses(model, [other]).loss, losses(model, [batch]).loss)
