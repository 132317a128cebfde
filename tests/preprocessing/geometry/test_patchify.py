from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.geometry.patchify import grid_coords, grid_of, patchify, unpatchify

axes = st.integers(2, 3).flatmap(
    lambda d: st.tuples(
        st.lists(st.integers(1, 4), min_size=d, max_size=d), st.lists(st.integers(1, 4), min_size=d, max_size=d)
    )
)


@settings(max_examples=40)
@given(axes, st.integers(1, 3), st.lists(st.integers(1, 2), max_size=2))
def test_unpatchify_is_the_exact_inverse(axes, channels, lead):
    grid, patch = axes
    size = [g * p for g, p in zip(grid, patch, strict=True)]
    image = np.arange(np.prod([*lead, channels, *size])).reshape(*lead, channels, *size)
    patches = patchify(image, patch)
    assert patches.shape == (*lead, np.prod(grid), channels * np.prod(patch))
    assert np.array_equal(unpatchify(patches, size, patch, channels), image)
    as_torch = patchify(torch.from_numpy(image), patch)
    assert np.array_equal(as_torch.numpy(), patches)
    assert np.array_equal(unpatchify(as_torch, size, patch, channels).numpy(), image)


@pytest.mark.parametrize(("size", "patch"), [((4, 6), (2, 3)), ((4, 2, 6), (2, 1, 3))])
def test_order_of_tokens_and_pixels_equals_a_naive_loop(size, patch):
    image = np.random.default_rng(0).random((2, *size))
    patches = patchify(image, patch)
    for token, place in enumerate(np.ndindex(*grid_of(size, patch))):
        corner = tuple(slice(g * p, (g + 1) * p) for g, p in zip(place, patch, strict=True))
        assert np.array_equal(patches[token], image[(slice(None), *corner)].ravel())


def test_coordinates_follow_the_tokens():
    assert grid_coords((2, 3)).tolist() == [[0.5, 0.5], [0.5, 1.5], [0.5, 2.5], [1.5, 0.5], [1.5, 1.5], [1.5, 2.5]]
    assert grid_coords((2, 2, 2)).shape == (8, 3)
    assert grid_coords((2, 3)).dtype == np.float32


def test_a_patch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="does not divide"):
        patchify(np.zeros((1, 5, 4)), (2, 2))
