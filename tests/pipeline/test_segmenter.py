"""The segmenter: shapes in two and three dimensions, padding hidden from the encoder, edges at full resolution."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.encoder import Encoder, EncoderSettings
from pipeline.models.segmenter import Segmenter, SegmenterSettings, strides
from preprocessing.geometry.patchify import grid_coords, patchify

SMALL = EncoderSettings(width=24, depth=2, heads=2)


def build(
    patch: tuple[int, ...], channels: int = 1, regions: int = 1, convs: int = 1, image_levels: int = 0
) -> Segmenter:
    torch.manual_seed(0)
    encoder = Encoder(SMALL, channels * math.prod(patch), len(patch))
    settings = SegmenterSettings(stem=4, width=16, convs=convs, image_levels=image_levels)
    return Segmenter(encoder, settings, patch, channels, regions)


@pytest.mark.parametrize(
    ("size", "patch"),
    [((32, 48), (8, 8)), ((18, 20), (6, 5)), ((7, 7), (7, 1)), ((4, 16, 24), (2, 8, 8)), ((8, 8, 8), (4, 4, 4))],
)
@pytest.mark.parametrize("image_levels", [0, 1, 2, 99])
def test_logits_at_every_pixel_and_gradients_everywhere(
    size: tuple[int, ...], patch: tuple[int, ...], image_levels: int
) -> None:
    model = build(patch, channels=2, regions=3, image_levels=image_levels)
    image = torch.rand(2, 2, *size)
    logits = model(image, torch.ones(2, 1, *size, dtype=torch.bool))
    assert logits.shape == (2, 3, *size)
    logits.square().sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # attention does not depend on what is added to all keys alike
    assert [name for name in still if "qkv.bias" not in name] == []


def test_each_step_has_as_many_convolutions_as_set_and_one_stride() -> None:
    model = build((8, 8), channels=2, convs=3)
    for step, block in zip([(1, 1), *model.steps], model.stem, strict=True):
        convs = [layer for layer in block if isinstance(layer, torch.nn.Conv2d)]
        assert [conv.stride for conv in convs] == [step, (1, 1), (1, 1)]
    assert all(sum(isinstance(x, torch.nn.Conv2d) for x in block) == 3 for block in [model.join, *model.climb])
    image = torch.rand(1, 2, 16, 24)
    assert model(image, torch.ones(1, 1, 16, 24, dtype=torch.bool)).shape == (1, 1, 16, 24)


@given(st.lists(st.integers(1, 24), min_size=1, max_size=3))
def test_strides_multiply_to_the_patch(patch: list[int]) -> None:
    steps = strides(tuple(patch))
    for axis, length in enumerate(patch):
        assert math.prod(step[axis] for step in steps) == length
        assert all(is_prime_or_one(step[axis]) for step in steps)


def is_prime_or_one(number: int) -> bool:
    return all(number % factor for factor in range(2, number))


def test_thick_slices_take_their_steps_last() -> None:
    assert strides((2, 8, 8)) == [(1, 2, 2), (1, 2, 2), (2, 2, 2)]


def test_what_lies_in_padding_patches_does_not_reach_the_encoder() -> None:
    model = build((8, 8)).eval()
    real = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    real[..., 24:] = False
    image = torch.rand(1, 1, 32, 32)
    other = torch.where(real, image, torch.rand_like(image))
    with torch.no_grad():
        (tokens,), (same,) = model.token_maps(image, real), model.token_maps(other, real)
    assert torch.allclose(tokens[..., :3], same[..., :3], atol=1e-6)
    assert not tokens[..., 3].any()


def test_tokens_lie_where_their_patches_are() -> None:
    """A change inside one patch changes that patch's embedding alone, at its place on the grid."""
    model = build((4, 4)).eval()
    model.encoder.blocks = torch.nn.ModuleList()  # without attention tokens stay apart
    real = torch.ones(1, 1, 8, 16, dtype=torch.bool)
    image = torch.rand(1, 1, 8, 16)
    changed = image.clone()
    changed[0, 0, 6, 9] += 1  # patch (1, 2)
    with torch.no_grad():
        different = (model.token_maps(image, real)[0] - model.token_maps(changed, real)[0]).abs().sum(1)[0] > 0
    assert different.nonzero().tolist() == [[1, 2]]


def test_one_pixel_matters_at_that_pixel() -> None:
    """The stem works at full resolution: the logits answer to a single pixel more there than a patch away."""
    model = build((8, 8)).eval()
    real = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    image = torch.rand(1, 1, 32, 32, requires_grad=True)
    model(image, real)[0, 0, 13, 17].backward()
    assert image.grad is not None
    near = image.grad[0, 0, 12:15, 16:19].abs().mean()
    assert near > 3 * image.grad[0, 0].abs().mean()


def test_below_its_image_levels_the_decoder_sees_tokens_alone() -> None:
    """As UNETR with one level: convolutions of the image at full resolution, tokens of ever deeper blocks below."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderSettings(width=24, depth=6, heads=2), 16 * 16, 2)
    unetr, part = (
        Segmenter(encoder, SegmenterSettings(image_levels=levels), (16, 16), 1, 1).eval() for levels in (1, 3)
    )
    assert (unetr.depths, len(unetr.stem), len(unetr.enlarge)) == ([2, 3, 5, 6], 1, 3)
    assert (part.depths, len(part.stem), len(part.enlarge)) == ([5, 6], 3, 1)
    image, real = torch.rand(1, 1, 64, 64), torch.ones(1, 1, 64, 64, dtype=torch.bool)
    tokens = encoder.stages(patchify(image, (16, 16)), torch.as_tensor(grid_coords((4, 4))), [0, 2, 6])
    whole = encoder(patchify(image, (16, 16)), torch.as_tensor(grid_coords((4, 4))))
    assert torch.equal(tokens[2], whole)
    assert not torch.allclose(tokens[0], tokens[1])
    for model, reach in ((unetr, 5), (part, 32)):
        for parent in list(model.modules()):  # whose statistics reach everywhere
            for name, child in list(parent.named_children()):
                if isinstance(child, torch.nn.GroupNorm):
                    setattr(parent, name, torch.nn.Identity())
        model.token_maps = lambda *_, m=model: [torch.zeros(1, 24, 4, 4) for _ in m.depths]
        changed = image.clone()
        changed[..., 32, 32] += 5
        with torch.no_grad():
            differs = (model(image, real) - model(changed, real)).abs()[0, 0] > 0
        assert differs.any(0).sum() <= reach
        assert differs[32, 32]
