from __future__ import annotations

import pytest
from pydantic import ValidationError

from preprocessing.cache_settings import CacheSettings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": (128, 130), "patch": (8, 12)}, r"nearest sizes that do: \[128, 120\] or \[128, 132\]"),
        ({"size": (4, 4), "patch": (8, 8)}, r"nearest sizes that do: \[8, 8\]"),
        ({"size": (128, 128, 64)}, "both have 2 or both have 3 numbers"),
        ({"size": (128,), "patch": (8,)}, "both have 2 or both have 3 numbers"),
        ({"size": (0, 8)}, "must be positive"),
        ({"intensity": {"CT": {"low": 99.9}}}, "low .* must be below high"),
        ({"spacing": (1.0, 1.0)}, "must be 3 positive numbers"),
        ({"max_rejected": 1.2}, "less than or equal to 1"),
    ],
)
def test_mistakes_say_what_would_do(fields, message):
    with pytest.raises(ValidationError, match=message):
        CacheSettings(**fields)


def test_three_dimensions_are_accepted():
    assert CacheSettings(size=(64, 64, 32), patch=(16, 16, 8)).grid == (4, 4, 4)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (1, 1)),
        ({"spacing": (3, 1, 2)}, (1, 2)),
        ({"spacing": (3, 1, 2), "axis": 1}, (3, 2)),
        ({"spacing": (3, 1, 2), "axis": 2}, (3, 1)),
        ({"spacing": (3, 1, 2), "size": (8, 8, 8), "patch": (4, 4, 4)}, (3, 1, 2)),
        ({"size": (8, 8, 8), "patch": (4, 4, 4)}, (1, 1, 1)),
    ],
)
def test_the_pixels_of_a_sample_in_mm(fields, expected):
    assert CacheSettings(**fields).pixel_spacing == expected
