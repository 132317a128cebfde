from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.training.augment import AugmentSettings
from pipeline.training.loader import LoaderSettings, PatchLoader, rows_of
from pipeline.training.views import Views
from preprocessing.geometry.patchify import patchify, unpatchify
from tests.pipeline.fake_cache import FakeCache

STILL = AugmentSettings(
    flip=(0,), rotate=0, scale=0, stretch=0, shift=0, elastic=0, brightness=0, contrast=0, gamma=0, noise=0, blur=0
)
SHAPES = [((32, 24), (8, 4), 2), ((8, 8, 12), (4, 2, 4), 1)]


def whole_batch(size, patch, channels, samples=6):
    cache = FakeCache(samples, 3, size, patch, channels)
    scores = np.random.default_rng(0).random((samples, cache.tokens)).astype("f4")
    loader = PatchLoader(cache, np.arange(samples), LoaderSettings(), 0, samples, scores=scores)
    batch = loader.gather(np.arange(samples))
    inside = torch.zeros(samples, 1, *size, dtype=torch.bool)
    inside[(..., *(slice(1, s - 2) for s in size))] = True
    real = patchify(inside, patch)
    return cache, replace(batch, real=real, label=batch.label * real)  # no label on padding


@pytest.mark.parametrize(("size", "patch", "channels"), SHAPES)
def test_without_ranges_a_view_is_the_sample(size, patch, channels):
    _, batch = whole_batch(size, patch, channels)
    seen = Views(size, patch, channels, STILL, seed=0)(batch)
    real = batch.real
    assert torch.equal(seen.real, real)
    torch.testing.assert_close(seen.patches, batch.patches * real.repeat(1, 1, channels), atol=1e-5, rtol=0)
    assert torch.equal(seen.label, batch.label)
    torch.testing.assert_close(seen.scores, batch.scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "patch", "channels"), SHAPES)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_certain_flip_mirrors_pixels_scores_and_padding(size, patch, channels, axis):
    cache, batch = whole_batch(size, patch, channels)
    chance = tuple(float(a == axis) for a in range(len(size)))
    seen = Views(size, patch, channels, STILL.model_copy(update={"flip": chance}), seed=0)(batch)
    real = unpatchify(batch.real, size, patch, 1)
    for name, count in (("patches", channels), ("label", 1)):
        before, after = (unpatchify(getattr(b, name), size, patch, count) for b in (batch, seen))
        torch.testing.assert_close(after, (before * real).flip(2 + axis), atol=1e-5, rtol=0)
    assert torch.equal(unpatchify(seen.real, size, patch, 1), real.flip(2 + axis))
    before, after = (b.scores.view(-1, *cache.grid) for b in (batch, seen))
    torch.testing.assert_close(after, before.flip(1 + axis), atol=1e-5, rtol=0)


def test_scores_follow_the_pixels_that_they_belong_to():
    """With the patch means for scores, the scores of a zoomed and shifted smooth image are its own patch means."""
    size, patch = (64, 64), (4, 4)
    _, batch = whole_batch(size, patch, 1)
    y, x = torch.meshgrid(torch.linspace(0, 3, 64), torch.linspace(0, 3, 64), indexing="ij")
    image = (0.5 + 0.4 * torch.sin(y) * torch.cos(x)).expand(6, 1, 64, 64)
    patches = patchify(image, patch)
    batch = replace(batch, patches=patches, real=torch.ones_like(batch.real), scores=patches.mean(-1))
    moving = STILL.model_copy(update={"scale": 0.4, "rotate": 20.0, "shift": 0.1, "share": 1.0})
    seen = Views(size, patch, 1, moving, seed=3)(batch)
    inside = seen.real.all(-1)
    assert 0.3 < inside.float().mean() < 1
    assert (seen.patches.mean(-1) - seen.scores).abs()[inside].max() < 0.03
    assert (seen.patches.mean(-1) - batch.scores).abs()[inside].max() > 0.1


def test_a_view_turns_in_millimetres():
    """A disc in mm, an ellipse of pixels 2 x 1 mm large, stays one whatever the angle."""
    size, patch = (32, 64), (4, 4)
    _, batch = whole_batch(size, patch, 1)
    y, x = torch.meshgrid(2 * (torch.arange(32) - 15.5), torch.arange(64) - 31.5, indexing="ij")
    disc = (y.square() + x.square() < 24**2).expand(6, 1, *size).to(torch.uint8)
    batch = replace(batch, label=patchify(disc, patch), real=torch.ones_like(batch.real))
    turning = STILL.model_copy(update={"rotate": 180.0, "share": 1.0})
    changed = [
        (unpatchify(Views(size, patch, 1, turning, 3, spacing)(batch).label, size, patch, 1) != disc).float().mean()
        for spacing in ((2.0, 1.0), None)
    ]
    assert changed[0] < 0.02
    assert changed[1] > 0.1


def test_valid_is_the_share_of_real_pixels_and_padding_is_black():
    size, patch = (32, 24), (8, 4)
    _, batch = whole_batch(size, patch, 1)
    seen = Views(size, patch, 1, STILL.model_copy(update={"shift": 0.4, "share": 1.0}), seed=1)(batch)
    expected = (seen.real.float().mean(-1) * 255).round()
    assert torch.equal(seen.valid.float(), expected)
    assert (seen.patches[~seen.real] == 0).all()


def test_a_view_depends_on_seed_and_position_alone():
    size, patch, channels = SHAPES[0]
    _, batch = whole_batch(size, patch, channels)
    views = Views(size, patch, channels, AugmentSettings(), seed=5)
    whole = views(batch)
    parts = [views(rows_of(batch, torch.tensor(rows))) for rows in ([0, 2, 4], [1, 3, 5])]
    for number, rows in enumerate(([0, 2, 4], [1, 3, 5])):
        assert torch.equal(parts[number].patches, whole.patches[rows])
        assert torch.equal(parts[number].scores, whole.scores[rows])
    assert not torch.equal(replace(views, seed=6)(batch).patches, whole.patches)
