from __future__ import annotations

import numpy as np
import pytest

from preprocessing.intensity import normalise


def test_percentiles_become_0_and_1_in_each_channel():
    image = np.stack([np.arange(101.0).reshape(1, 101), 1000 + 2 * np.arange(101.0).reshape(1, 101)]).astype(np.float32)
    result = normalise(image, 10, 90)
    assert np.allclose(result[0], np.clip((np.arange(101) - 10) / 80, 0, 1))
    assert np.allclose(result[0], result[1])


def test_a_few_bright_pixels_on_an_empty_ground_are_kept():
    image = np.zeros((1, 40, 40), np.float32)
    image[0, 3, 3] = 7
    assert normalise(image, 0.5, 99.5).max() == 1


@pytest.mark.parametrize(("value", "message"), [(np.nan, "not finite"), (np.inf, "not finite"), (5.0, "constant")])
def test_unusable_intensities_are_refused(value, message):
    image = np.full((1, 4, 4), 5, np.float32)
    image[0, 0, 0] = value
    with pytest.raises(ValueError, match=message):
        normalise(image, 1, 99)
