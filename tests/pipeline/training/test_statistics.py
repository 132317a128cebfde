"""Standardisation of pixels and tokens, against numpy over all pixels and against weights folded by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.config import Config
from pipeline.methods import METHODS, Shape, build_method
from pipeline.models.encoder import Encoder, EncoderSettings, PatchEmbedding, standardise
from pipeline.models.segmenter import Segmenter, SegmenterSettings
from pipeline.segmentation.canvas import Canvas
from pipeline.training.loader import LoaderSettings, PatchLoader
from pipeline.training.statistics import pixel_statistics, standardise_tokens
from tests.pipeline.fake_cache import FakeCache

CANVAS = Canvas((32, 32), (8, 8), 2)


@pytest.fixture
def loader() -> PatchLoader:
    cache = FakeCache(samples=30, size=CANVAS.size, patch=CANVAS.patch, channels=CANVAS.channels)
    real = np.random.default_rng(1).random((30, 16, 64)) < np.linspace(0.1, 1, 16)[:, None]  # a patch is padding or not
    valid, bits = np.rint(255 * real.mean(-1)).astype(np.uint8), np.packbits(real.reshape(30, -1), axis=1)
    cache.whole = replace(cache.whole, real=bits, valid=valid)
    return PatchLoader(cache, np.arange(3, 23), LoaderSettings(), 0, 4)


def test_pixels_are_those_of_the_loaders_real_pixels(loader: PatchLoader) -> None:
    image, _, real = CANVAS.pixels(loader.gather(np.arange(3, 23)))
    mean, deviation = pixel_statistics(loader, CANVAS)
    for channel in range(2):
        pixels = image[:, channel][real[:, 0]].double()
        assert float(mean[channel]) == pytest.approx(float(pixels.mean()), rel=1e-5)
        assert float(deviation[channel]) == pytest.approx(float(pixels.std(correction=0)), rel=1e-4)


def test_standardising_is_the_same_as_other_weights() -> None:
    torch.manual_seed(0)
    plain, other = PatchEmbedding(2 * 64, 16), PatchEmbedding(2 * 64, 16)
    other.load_state_dict(plain.state_dict())
    mean, deviation = torch.tensor([0.3, 0.7]), torch.tensor([0.2, 0.0])
    standardise(other, mean, deviation)
    centre, scale = mean.repeat_interleave(64), torch.tensor([0.2, 1.0]).repeat_interleave(64)  # a constant channel
    patches = torch.rand(3, 5, 128)
    folded = F.linear(patches, plain.weight / scale, plain.bias - plain.weight @ (centre / scale))
    torch.testing.assert_close(other(patches), folded)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "scratch"])
def test_every_encoder_of_a_method_is_standardised(method: str) -> None:
    sizes = {"model": {"width": 24, "depth": 2, "heads": 2}, "decoder": {"width": 12, "heads": 2}}
    model = build_method(method, Config(pretrain={"method": method}, **sizes), Shape(2, (32, 32), (8, 8)))
    standardise(model, torch.tensor([0.3, 0.7]), torch.tensor([0.2, 0.5]))
    encoders = [module for module in model.modules() if isinstance(module, Encoder)]
    assert encoders
    for encoder in encoders:  # slow copies too
        assert encoder.embed.mean[[0, 63, 64]].tolist() == pytest.approx([0.3, 0.3, 0.7])
        assert encoder.state_dict()["embed.scale"][[0, 127]].tolist() == pytest.approx([0.2, 0.5])


@pytest.mark.parametrize("image_levels", [0, 1])
def test_a_segmenters_convolutions_see_standardised_tokens(loader: PatchLoader, image_levels: int) -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderSettings(width=24, depth=3, heads=2), 2 * 64, 2)
    torch.nn.init.constant_(encoder.norm.bias, 7.0)  # what is the same in all tokens
    model = Segmenter(encoder, SegmenterSettings(stem=4, width=16, image_levels=image_levels), (8, 8), 2, 1)
    standardise_tokens(model, loader, CANVAS)
    image, _, real = CANVAS.pixels(loader.gather(np.arange(3, 23)))
    attend = model.attended(real)
    with torch.no_grad():
        maps = model.token_maps(image, real)
    assert len(maps) == (3 if image_levels else 1)
    for tokens in maps:
        seen = tokens.flatten(2).transpose(1, 2)[attend]
        torch.testing.assert_close(seen.mean(0), torch.zeros(24), atol=1e-4, rtol=0)
        torch.testing.assert_close(seen.std(0, correction=0), torch.ones(24), atol=1e-3, rtol=0)
