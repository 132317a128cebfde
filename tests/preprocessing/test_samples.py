"""What becomes a sample, against the prepared case that it comes from."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.cache_settings import CacheSettings
from preprocessing.prepare import Prepared
from preprocessing.samples import samples_of


def prepared(shape, lesion=None, body=None, channels=2, seed=0):
    rng = np.random.default_rng(seed)
    real = np.zeros(shape, bool)
    real[body or tuple(slice(None) for _ in shape)] = True
    label = None
    if lesion is not None:
        label = np.zeros(shape, np.uint8)
        label[lesion] = 2
    return Prepared(rng.random((channels, *shape), np.float32) * real, label, real, label, None, shape)


def test_an_image_is_one_sample():
    case = prepared((20, 30), lesion=(slice(3, 6), slice(2, 9)))
    (sample,) = samples_of(case, CacheSettings(size=(20, 30), patch=(5, 5)))
    assert np.array_equal(sample.image, case.image)
    assert np.array_equal(sample.label, case.label)
    assert sample.real.all()
    assert sample.frame.tolist() == [0, 0, 20, 30]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_run_along_the_axis(axis):
    case = prepared((6, 8, 10), lesion=(slice(2, 4), slice(1, 5), slice(3, 9)))
    plane = [n for a, n in enumerate((6, 8, 10)) if a != axis]
    found = list(samples_of(case, CacheSettings(size=plane, patch=(2, 2), axis=axis)))
    assert len(found) == case.real.shape[axis]
    for number, sample in enumerate(found):
        assert np.array_equal(sample.image, np.take(case.image, number, 1 + axis))
        assert np.array_equal(sample.label, np.take(case.label, number, axis))
        assert json.loads(sample.geometry)["slice"] == number


@settings(max_examples=40)
@given(st.tuples(*[st.integers(1, 14)] * 3), st.tuples(*[st.integers(1, 4)] * 3), st.floats(0, 0.8))
def test_crops_are_cut_where_their_frame_says_and_cover_the_volume(shape, half, overlap):
    size = tuple(2 * h for h in half)
    case = prepared(shape, lesion=(slice(0, 1),) * 3)
    covered = np.zeros(shape, int)
    found = list(samples_of(case, CacheSettings(size=size, patch=(2, 2, 2), overlap=overlap)))
    for sample in found:
        corner, stop = sample.frame[:3], sample.frame[3:]
        assert tuple(stop - corner) == shape
        for place in np.ndindex(size):
            source = tuple(int(p - c) for p, c in zip(place, corner, strict=True))
            inside = all(0 <= s < n for s, n in zip(source, shape, strict=True))
            assert sample.real[place] == inside
            if inside:
                assert np.array_equal(sample.image[(slice(None), *place)], case.image[(slice(None), *source)])
                assert sample.label[place] == case.label[source]
                covered[source] += 1
    assert covered.min() >= 1


def test_empty_slices_are_capped_and_labels_have_no_say():
    body = (slice(4, 9), slice(None), slice(None))
    for lesion in (None, (slice(1, 2), slice(0, 3), slice(0, 3))):
        case = prepared((20, 8, 8), lesion=lesion, body=body)

        def numbers(case=case, **fields):
            chosen = CacheSettings(size=(8, 8), patch=(2, 2), **fields)
            return [json.loads(sample.geometry)["slice"] for sample in samples_of(case, chosen)]

        assert numbers() == [4, 5, 6, 7, 8]
        assert len(numbers(empty=0.4)) == 5 + 2
        assert len(numbers(empty=1.0)) == 10
        assert numbers(most_samples=3) == [4, 6, 8]
        assert numbers(most_samples=1) == [6]


def test_a_case_without_a_filled_slice_keeps_one():
    case = prepared((9, 8, 8), body=(slice(4, 5), slice(0, 1), slice(0, 1)))
    assert len(list(samples_of(case, CacheSettings(size=(8, 8), patch=(2, 2), least_foreground=0.5)))) == 1
