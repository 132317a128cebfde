"""Schedules of the masking ratio and of the selection strength (the adaptive masking strategy, AMS).

A schedule is a function of progress = global samples seen / samples in all, never of a worker's steps. The
paper's own formula is not known to us; the families here are what the search chooses from.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from preprocessing.settings import Settings

LOWEST, HIGHEST = 0.05, 0.95  # of a masking ratio
Family = Literal["constant", "linear", "cosine", "step", "exponential", "sigmoid", "piecewise"]


class ScheduleSettings(Settings):
    """A value that moves from `start` to `end` while progress goes from `warmup` to `1 - hold`."""

    family: Family = Field("constant", description="Shape of the way from start to end (constant: stays at start).")
    start: float = Field(0.0, ge=0, description="Value at the beginning and through the warm-up.")
    end: float = Field(0.0, ge=0, description="Value at the end and through the hold.")
    warmup: float = Field(0.0, ge=0, lt=1, description="Share of the training that stays at the start value.")
    hold: float = Field(0.0, ge=0, lt=1, description="Share of the training that stays at the end value.")
    steps: int = Field(4, ge=2, description="Number of levels of the step family, start and end included.")
    steepness: float = Field(10.0, gt=0, description="Steepness of the sigmoid and exponential families.")
    points: tuple[tuple[float, float], ...] = Field(
        (), description="Pairs (progress, value) of the piecewise family, joined by straight lines."
    )

    @model_validator(mode="after")
    def _consistent(self) -> ScheduleSettings:
        if self.warmup + self.hold >= 1:
            raise ValueError(f"warmup {self.warmup} and hold {self.hold} leave no share to move in; lower one")
        if self.family == "piecewise":
            if len(self.points) < 2:
                raise ValueError("the piecewise family needs at least two points [progress, value]")
            places = [p for p, _ in self.points]
            if any(b <= a for a, b in pairwise(places)) or places[0] < 0 or places[-1] > 1:
                raise ValueError(f"points must have rising progress within 0..1, not {places}")
        return self


class RatioSettings(ScheduleSettings):
    """The masking ratio's schedule: share of the real patches hidden from the encoder."""

    start: float = Field(
        0.75, ge=LOWEST, le=HIGHEST, description="Masking ratio at the beginning and through the warm-up."
    )
    end: float = Field(0.75, ge=LOWEST, le=HIGHEST, description="Masking ratio at the end and through the hold.")
    level: float = Field(
        0.05,
        gt=0,
        le=0.5,
        description="The ratio is rounded to multiples of this, so that compiled graphs are reused.",
    )

    @model_validator(mode="after")
    def _points_are_ratios(self) -> RatioSettings:
        wrong = [value for _, value in self.points if not LOWEST <= value <= HIGHEST]
        if wrong:
            raise ValueError(f"masking ratios must lie within {LOWEST}..{HIGHEST}, not {wrong}")
        return self


def value_at(schedule: ScheduleSettings, progress: float) -> float:
    """The schedule's value at a progress in [0, 1] (clamped to it)."""
    progress = min(max(progress, 0.0), 1.0)
    if schedule.family == "constant":
        return schedule.start
    if schedule.family == "piecewise":
        return _interpolate(schedule.points, progress)
    moving = 1.0 - schedule.warmup - schedule.hold
    t = min(max((progress - schedule.warmup) / moving, 0.0), 1.0)
    return schedule.start + (schedule.end - schedule.start) * _way(schedule, t)


def round_to_level(value: float, level: float) -> float:
    """The nearest multiple of `level` that is a ratio: the few values that one may take."""
    lowest, highest = math.ceil(LOWEST / level - 1e-9), math.floor(HIGHEST / level + 1e-9)
    return round(min(max(round(value / level), lowest), highest) * level, 6)


def _way(schedule: ScheduleSettings, t: float) -> float:
    """Share of the way from start to end after the share t of the moving part; 0 at 0 and 1 at 1."""
    k = schedule.steepness
    match schedule.family:
        case "linear":
            return t
        case "cosine":
            return (1 - math.cos(math.pi * t)) / 2
        case "step":
            return min(math.floor(t * schedule.steps), schedule.steps - 1) / (schedule.steps - 1)
        case "exponential":  # quick at first, saturating
            return -math.expm1(-k * t) / -math.expm1(-k)
        case "sigmoid":  # rescaled so that the ends are exact
            low, high = 1 / (1 + math.exp(k / 2)), 1 / (1 + math.exp(-k / 2))
            return (1 / (1 + math.exp(-k * (t - 0.5))) - low) / (high - low)
        case family:
            raise ValueError(f"unknown schedule family: {family}")


def _interpolate(points: tuple[tuple[float, float], ...], progress: float) -> float:
    if progress <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if progress <= x1:
            return y0 + (y1 - y0) * (progress - x0) / (x1 - x0)
    return points[-1][1]
