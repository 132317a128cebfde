import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.schedule import RatioSettings, ScheduleSettings, round_to_level, value_at

MOVING = ["linear", "cosine", "step", "exponential", "sigmoid"]


@pytest.mark.parametrize("family", MOVING)
@given(
    start=st.floats(0, 1), end=st.floats(0, 1), warmup=st.floats(0, 0.45), hold=st.floats(0, 0.45), p=st.floats(0, 1)
)
def test_a_schedule_stays_between_its_ends_and_keeps_warmup_and_hold(family, start, end, warmup, hold, p):
    schedule = ScheduleSettings(family=family, start=start, end=end, warmup=warmup, hold=hold)
    low, high = min(start, end), max(start, end)
    assert low - 1e-9 <= value_at(schedule, p) <= high + 1e-9
    assert value_at(schedule, warmup) == pytest.approx(start)
    assert value_at(schedule, 1 - hold) == pytest.approx(end, abs=1e-6)
    assert value_at(schedule, 1.0) == pytest.approx(end, abs=1e-6)


@pytest.mark.parametrize("family", MOVING)
def test_a_schedule_never_turns_back(family):
    schedule = ScheduleSettings(family=family, start=0.2, end=0.9)
    values = [value_at(schedule, i / 200) for i in range(201)]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(values))


@pytest.mark.parametrize(
    ("family", "progress", "share"),
    [
        ("linear", 0.25, 0.25),
        ("cosine", 0.25, (1 - math.cos(math.pi / 4)) / 2),
        ("sigmoid", 0.5, 0.5),
        ("step", 0.26, 1 / 3),
        ("step", 0.24, 0.0),
        ("exponential", 0.1, (1 - math.exp(-1)) / (1 - math.exp(-10))),
    ],
)
def test_values_computed_by_hand(family, progress, share):
    schedule = ScheduleSettings(family=family, start=1.0, end=3.0, steps=4, steepness=10)
    assert value_at(schedule, progress) == pytest.approx(1 + 2 * share)


def test_constant_ignores_the_end():
    assert value_at(ScheduleSettings(family="constant", start=0.4, end=0.9), 1.0) == 0.4


def test_piecewise_joins_its_points_by_straight_lines():
    schedule = ScheduleSettings(family="piecewise", points=((0.2, 0.5), (0.6, 0.9), (0.8, 0.7)))
    assert [value_at(schedule, p) for p in (0, 0.2, 0.4, 0.7, 1)] == pytest.approx([0.5, 0.5, 0.7, 0.8, 0.7])


def test_ratios_take_few_values():
    schedule = RatioSettings(family="cosine", start=0.25, end=0.75)
    values = {round_to_level(value_at(schedule, i / 1000), schedule.level) for i in range(1001)}
    assert len(values) == 11
    assert min(values) == 0.25
    assert max(values) == 0.75


@pytest.mark.parametrize("level", [0.05, 0.07, 0.1, 0.25, 0.3, 0.5])
def test_a_rounded_ratio_is_the_nearest_multiple_that_is_a_ratio(level):
    multiples = [level * n for n in range(1, 20) if 0.05 - 1e-9 <= level * n <= 0.95 + 1e-9]
    for value in np.linspace(0.05, 0.95, 181):
        found = round_to_level(value, level)
        assert min(abs(found - m) for m in multiples) < 1e-6
        assert abs(found - value) <= min(abs(m - value) for m in multiples) + 1e-6


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"start": 1.2}, "less than or equal to 0.95"),
        ({"warmup": 0.6, "hold": 0.5}, "leave no share"),
        ({"family": "piecewise"}, "at least two points"),
        ({"family": "piecewise", "points": ((0.5, 0.5), (0.2, 0.6))}, "rising progress"),
        ({"family": "piecewise", "points": ((0, 0.5), (1, 1.5))}, "within 0.05..0.95"),
    ],
)
def test_impossible_ratios_are_refused(wrong, words):
    with pytest.raises(ValidationError, match=words):
        RatioSettings(**wrong)
