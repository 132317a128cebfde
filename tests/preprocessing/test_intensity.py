from __future__ import annotations

import numpy as np
import pytest

from preprocessing.intensity import IntensitySettings, normalise

VALUES = np.arange(101, dtype=np.float32).reshape(1, 101)


def test_percentiles_become_0_and_1():
    settings = IntensitySettings(low=10, high=90)
    assert np.allclose(normalise(VALUES, settings), np.clip((VALUES - 10) / 80, 0, 1))
    assert np.allclose(normalise(1000 + 2 * VALUES, settings), normalise(VALUES, settings))


def test_a_window_is_in_the_files_own_unit():
    hounsfield = np.array([-1000.0, -160, 40, 240, 3000], np.float32)
    result = normalise(hounsfield, IntensitySettings(kind="window", low=-160, high=240))
    assert result.tolist() == [0, 0, 0.5, 1, 1]


def test_a_logarithmic_scale_has_equal_steps_for_equal_factors():
    uptake = np.array([0.0, 1, 3, 7, 15, 40], np.float32)  # 1 + SUV doubles
    result = normalise(uptake, IntensitySettings(kind="log", low=0, high=15))
    assert np.allclose(result, [0, 0.25, 0.5, 0.75, 1, 1])


def test_standard_deviations_are_those_of_the_foreground():
    values = np.array([0.0, 0, 0, 0, 10, 20, 30], np.float32)  # foreground: mean 20, standard deviation 8.165
    result = normalise(values, IntensitySettings(kind="zscore", low=-2, high=2), values > 0)
    assert np.allclose(result[4:], 0.5 + np.array([-10, 0, 10]) / (4 * np.std([10, 20, 30])))


def test_a_few_bright_pixels_on_an_empty_ground_are_kept():
    image = np.zeros((40, 40), np.float32)
    image[3, 3] = 7
    assert normalise(image, IntensitySettings()).max() == 1


@pytest.mark.parametrize(("value", "message"), [(np.nan, "not finite"), (np.inf, "not finite"), (5.0, "constant")])
def test_unusable_intensities_are_refused(value, message):
    image = np.full((4, 4), 5, np.float32)
    image[0, 0] = value
    with pytest.raises(ValueError, match=message):
        normalise(image, IntensitySettings(low=1, high=99))


def test_an_image_without_foreground_is_refused():
    with pytest.raises(ValueError, match="no foreground"):
        normalise(VALUES, IntensitySettings(), np.zeros(VALUES.shape, bool))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"low": 99.9}, "low .* must be below high"),
        ({"high": 120}, "percentiles lie within 0..100"),
        ({"kind": "window", "low": 3, "high": 3}, "low .* must be below high"),
    ],
)
def test_impossible_limits_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        IntensitySettings(**fields)
