import pytest
import torch

from pipeline.masking import choose_mask
from pipeline.models.encoder import Encoder, EncoderSettings, position_encoding
from pipeline.models.mae import DecoderSettings, MaskedAutoencoder, normalise_patches

SMALL = EncoderSettings(width=24, depth=2, heads=2)


def build(dims=2, token_dim=16, target="plain"):
    torch.manual_seed(0)
    encoder = Encoder(SMALL, token_dim, dims)
    return MaskedAutoencoder(encoder, DecoderSettings(width=12, depth=1, heads=2, target=target))


def inputs(tokens=20, token_dim=16, dims=2, real_tokens=20):
    torch.manual_seed(1)
    real = torch.arange(tokens).expand(3, -1) < real_tokens
    plan = choose_mask(real, None, torch.rand(3, tokens), 0.5, 0.0)
    return torch.rand(3, tokens, token_dim), torch.rand(tokens, dims) * 8, plan, real


@pytest.mark.parametrize("dims", [2, 3])
def test_the_loss_equals_a_naive_loop(dims):
    model = build(dims)
    patches, coords, plan, _real = inputs(dims=dims, real_tokens=15)
    pixels = torch.rand(3, 20, 16) < 0.8
    loss = model(patches, coords, plan, pixels)
    predicted = model.reconstruct(patches, coords, plan).detach()
    for row in range(3):
        errors = [
            float((predicted[row, t, i] - patches[row, t, i]) ** 2)
            for t in range(20)
            for i in range(16)
            if plan.masked[row, t] and pixels[row, t, i]
        ]
        assert float(loss[row].detach()) == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_the_encoder_sees_visible_patches_only():
    model = build()
    patches, coords, plan, _ = inputs()
    changed = torch.where(plan.masked[..., None], torch.rand_like(patches), patches)
    assert torch.equal(model.reconstruct(patches, coords, plan), model.reconstruct(changed, coords, plan))


def test_padding_changes_nothing():
    model = build()
    patches, coords, plan, real = inputs(real_tokens=12)
    changed = torch.where(real[..., None], patches, torch.rand_like(patches) * 100)
    before, after = (model.reconstruct(p, coords, plan)[:, :12] for p in (patches, changed))
    torch.testing.assert_close(before, after)


def test_without_padding_attention_masks_change_nothing():
    encoder = Encoder(SMALL, 16, 2)
    patches, coords = torch.rand(2, 9, 16), torch.rand(9, 2)
    torch.testing.assert_close(
        encoder(patches, coords), encoder(patches, coords, torch.ones(2, 9, dtype=torch.bool)), rtol=1e-4, atol=1e-5
    )


def test_tokens_are_a_set_with_places():
    encoder = Encoder(SMALL, 16, 3)
    patches, coords, order = torch.rand(1, 9, 16), torch.rand(9, 3) * 5, torch.randperm(9)
    torch.testing.assert_close(encoder(patches[:, order], coords[order]), encoder(patches, coords)[:, order])


def test_positions_tell_all_places_apart():
    grid = torch.cartesian_prod(torch.arange(16.0), torch.arange(16.0)) + 0.5
    encoded = position_encoding(grid, 64)
    distance = torch.cdist(encoded, encoded) + torch.eye(len(grid)) * 10
    assert distance.min() > 0.1


def test_normalised_targets_have_mean_zero_and_spread_one():
    torch.manual_seed(0)
    patches, pixels = torch.rand(2, 5, 64) * 7 + 3, torch.rand(2, 5, 64) > 0.4
    patches[~pixels] = 0.0  # padding has no part in it
    normalised = normalise_patches(patches, pixels)
    for patch, real in zip(normalised.flatten(0, 1), pixels.flatten(0, 1), strict=True):
        assert float(patch[real].mean()) == pytest.approx(0, abs=1e-5)
        assert float(patch[real].std()) == pytest.approx(1, abs=1e-3)


def test_normalised_predictions_come_back_as_pixels():
    patches, pixels = torch.rand(2, 5, 16), torch.rand(2, 5, 16) > 0.4
    model = build(target="normalised")
    back = model.in_intensities(model.target(patches, pixels), patches, pixels)
    torch.testing.assert_close(back, patches)


def test_it_overfits_eight_images():
    torch.manual_seed(0)
    model = MaskedAutoencoder(
        Encoder(EncoderSettings(width=48, depth=2, heads=2), 16, 2), DecoderSettings(width=48, depth=1, heads=2)
    )
    base = torch.rand(8, 16, 1).expand(-1, -1, 16) * torch.rand(1, 1, 16)
    coords, real = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)) + 0.5, torch.ones(8, 16, dtype=torch.bool)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    plan = choose_mask(real, None, torch.rand(8, 16), 0.5, 0.0)
    for _ in range(150):
        loss = model(base, coords, plan, torch.ones_like(base, dtype=torch.bool)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]
