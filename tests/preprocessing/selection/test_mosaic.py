import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.cache_settings import CacheSettings
from preprocessing.geometry.patchify import patchify
from preprocessing.prepare import Prepared
from preprocessing.samples import samples_of
from preprocessing.selection.feature_table import FeatureTable, volumes_of
from preprocessing.selection.mosaic import Mosaic
from preprocessing.selection.neighbourhood import smooth
from preprocessing.selection.selection import smoothed_scores
from tests.preprocessing.tiny_cache import write_cache


@settings(max_examples=30)
@given(st.tuples(*[st.integers(3, 30)] * 3), st.floats(0, 0.7))
def test_crops_put_together_are_the_patches_of_the_volume(shape, overlap):
    patch, size = (2, 3, 4), (6, 9, 8)
    rng = np.random.default_rng(0)
    real = np.ones(shape, bool)
    case = Prepared(rng.random((2, *shape), np.float32), None, real, None, None, shape)
    samples = list(samples_of(case, CacheSettings(size=size, patch=patch, overlap=overlap)))
    frames = np.stack([sample.frame for sample in samples])
    crops = torch.tensor(np.stack([patchify(sample.image, patch).mean(-1).reshape(1, 3, 3, 2) for sample in samples]))
    mosaic = Mosaic(frames, (3, 3, 2), patch)
    whole = mosaic.assemble(crops)
    # the volume padded by hand to the mosaic's size
    before = mosaic.frame[0, :3]
    padded = np.zeros((2, *(g * p for g, p in zip(mosaic.grid, patch, strict=True))), np.float32)
    inside = tuple(slice(b, b + n) for b, n in zip(before, shape, strict=True))
    padded[(slice(None), *inside)] = case.image
    expected = patchify(padded, patch).mean(-1).reshape(mosaic.grid)
    assert np.allclose(whole[0, 0], expected, atol=1e-6)
    assert np.array_equal(mosaic.frame[0, 3:] - before, shape)
    again = mosaic.cut(whole[0].flatten(1).T[None])
    assert torch.equal(again, crops.flatten(2).transpose(1, 2))


@settings(max_examples=20)
@given(st.tuples(*[st.integers(3, 30)] * 3), st.floats(0, 0.7), st.integers(1, 3))
def test_scores_are_smoothed_across_the_borders_of_crops(shape, overlap, rounds):
    """Two volumes in a cache whose blocks mix them: what comes out is the field of each, smoothed as one."""
    patch, size, grid = (2, 3, 4), (6, 9, 8), (3, 3, 2)
    chosen = CacheSettings(size=size, patch=patch, overlap=overlap)
    rng = np.random.default_rng(0)
    frames, case, scores, expected = [], [], [], []
    for number in range(2):
        prepared = Prepared(np.ones((1, *shape), np.float32), None, np.ones(shape, bool), None, None, shape)
        crops = np.stack([sample.frame for sample in samples_of(prepared, chosen)])
        mosaic = Mosaic(crops, grid, patch)
        field = torch.from_numpy(rng.normal(size=(1, 1, *mosaic.grid)).astype(np.float32))
        scores.append(mosaic.cut(field.flatten(2).mT)[..., 0].numpy())
        expected.append(mosaic.cut(smooth(field, torch.ones_like(field), rounds).flatten(2).mT)[..., 0].numpy())
        frames.append(crops)
        case += [number] * len(crops)
    order = rng.permutation(len(case))
    scores, expected, frames, case = (np.concatenate(x)[order] for x in (scores, expected, frames, [case]))
    volumes = tuple((rows, Mosaic(frames[rows], grid, patch)) for rows in (np.flatnonzero(case == n) for n in (0, 1)))
    valid = np.full(scores.shape, 255, np.uint8)
    table = FeatureTable((), grid, np.zeros((*scores.shape, 0), np.float16), valid, case, "", volumes)
    np.testing.assert_allclose(smoothed_scores(scores, table, rounds), expected, atol=1e-5)


def test_the_crops_of_a_cache_lie_where_their_frames_say(tmp_path):
    images = np.zeros((3, 1, 4, 4, 4), np.float32)
    boxes = np.array([[0, 0, 0, 4, 4, 8], [0, 0, 0, 4, 4, 4], [0, 0, -4, 4, 4, 4]], np.int32)
    cache = write_cache(tmp_path / "cache", images, images[:, 0].astype(np.uint8), (2, 2, 2), boxes, rows=2)
    cache.samples["case"] = ["a", "b", "a"]
    (first, one), (second, other) = volumes_of(cache)
    assert (first.tolist(), second.tolist()) == ([0, 2], [1])
    assert (one.grid, other.grid) == ((2, 2, 4), (2, 2, 2))
    flat = write_cache(tmp_path / "flat", images[..., 0], images[:, 0, ..., 0].astype(np.uint8), (2, 2))
    assert volumes_of(flat) == ()
