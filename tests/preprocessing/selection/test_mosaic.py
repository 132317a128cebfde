import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.cache_settings import CacheSettings
from preprocessing.geometry.patchify import patchify
from preprocessing.prepare import Prepared
from preprocessing.samples import samples_of
from preprocessing.selection.mosaic import Mosaic


@settings(max_examples=30, deadline=None)
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
