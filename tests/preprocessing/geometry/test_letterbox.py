from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.geometry.letterbox import (
    Geometry,
    letterbox,
    place_image,
    place_label,
    resample,
    restore,
)

sides = st.integers(2, 3).flatmap(
    lambda d: st.tuples(
        st.lists(st.integers(1, 45), min_size=d, max_size=d), st.lists(st.integers(4, 40), min_size=d, max_size=d)
    )
)


def real_area(geometry):
    area = np.zeros(geometry.canvas, bool)
    area[geometry.real] = True
    return area


@settings(max_examples=40)
@given(sides)
def test_the_image_lies_inside_centred_and_keeps_its_aspect_ratio(sides):
    source, canvas = sides
    geometry = letterbox(source, canvas)
    scale = min(c / s for s, c in zip(source, canvas, strict=True))
    for s, c, start, stop in zip(source, canvas, geometry.start, geometry.stop, strict=True):
        assert 0 <= start < stop <= c
        assert abs(start - (c - stop)) <= 1
        assert abs((stop - start) - s * scale) <= max(0.5, 1 - s * scale) + 1e-9
    assert any(n == c for n, c in zip(geometry.inner, canvas, strict=True))
    assert Geometry.from_json(geometry.to_json()) == geometry
    assert real_area(geometry).sum() == np.prod(geometry.inner)


@settings(max_examples=40)
@given(sides, st.integers(0, 9))
def test_constants_and_ranges_survive_the_way_there_and_back(sides, seed):
    source, canvas = sides
    geometry = letterbox(source, canvas)
    image = np.random.default_rng(seed).random((1, *source)).astype(np.float32)
    placed = place_image(image, geometry)
    assert placed.shape == (1, *canvas)
    assert (placed[0][~real_area(geometry)] == 0).all()
    back = restore(placed, geometry)
    assert back.shape == image.shape
    assert back.min() >= image.min() - 1e-5
    assert back.max() <= image.max() + 1e-5
    assert restore(place_image(np.full((1, *source), 0.7), geometry), geometry) == pytest.approx(0.7, abs=1e-5)


def test_shrinking_is_the_area_average():
    image = np.random.default_rng(0).random((3, 12, 8)).astype(np.float32)
    expected = image.reshape(3, 4, 3, 4, 2).mean(axis=(2, 4))
    assert np.allclose(resample(image, (4, 4)), expected, atol=1e-6)
    # 5 pixels on 2: the middle one counts half on each side
    assert np.allclose(resample(np.array([0.0, 1, 2, 3, 4]), (2,)), [(0 + 1 + 1) / 2.5, (1 + 3 + 4) / 2.5])


@pytest.mark.parametrize("mode", [("bilinear", (7, 5), (15, 20)), ("trilinear", (3, 4, 5), (7, 9, 11))])
def test_enlarging_agrees_with_torch(mode):
    name, old, new = mode
    image = np.random.default_rng(0).random((2, *old)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(image)[None], new, mode=name, align_corners=False)[0]
    assert np.allclose(resample(image, new), expected.numpy(), atol=1e-5)


def test_shrinking_does_not_alias_thin_lines():
    lines = np.zeros((1, 256, 256), np.float32)
    lines[:, ::4] = 1
    assert resample(lines, (64, 64)) == pytest.approx(0.25, abs=1e-5)


def test_a_label_takes_the_class_that_covers_most_of_a_pixel():
    label = np.zeros((4, 4), np.uint8)
    label[:2, :2] = [[2, 2], [2, 1]]
    label[:2, 2:] = [[1, 1], [0, 0]]  # a tie goes to the lower class
    label[2:, 2:] = 3
    assert place_label(label, letterbox((4, 4), (2, 2))).tolist() == [[2, 0], [0, 3]]
    nearly_even = np.repeat(np.uint8([1, 2]), [45, 55]).reshape(10, 10)
    assert place_label(nearly_even, letterbox((10, 10), (1, 1))).tolist() == [[2]]


@settings(max_examples=40)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(0, 5))
def test_a_mask_comes_back_within_a_pixel_of_its_edge(height, width, seed):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    centre, radius = (height / 2 + rng.uniform(-1, 1), width / 2 + rng.uniform(-1, 1)), min(height, width) / 3
    distance = np.hypot(y - centre[0], x - centre[1])
    geometry = letterbox((height, width), (64, 64))
    placed = place_label((distance < radius).astype(np.uint8), geometry)
    back = restore(placed.astype(np.float32), geometry) > 0.5
    assert back[distance < radius - 1.5].all()
    assert not back[distance > radius + 1.5].any()


def test_axes_must_agree():
    with pytest.raises(ValueError, match="cannot place"):
        letterbox((4, 4), (8, 8, 8))
