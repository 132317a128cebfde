"""Intensities of one modality of one case to [0, 1]: by its own statistics or by physical limits.

Nothing is fitted over the data set, so that no case has any influence on another.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from preprocessing.settings import Settings

Kind = Literal["percentiles", "window", "log", "zscore"]


class IntensitySettings(Settings):
    """How a modality's values become 0 to 1; what lies beyond `low` and `high` is clipped."""

    kind: Kind = Field(
        "percentiles",
        description="percentiles: low and high are percentiles of the image's own foreground (ultrasound); window: "
        "values in the file's unit (CT in HU); log: the same on a logarithmic scale from low upwards (PET in SUV); "
        "zscore: standard deviations from the foreground's mean (MRI).",
    )
    low: float = Field(0.5, description="What becomes 0.")
    high: float = Field(99.5, description="What becomes 1.")

    @model_validator(mode="after")
    def _ordered(self) -> IntensitySettings:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.kind == "percentiles" and not 0 <= self.low < self.high <= 100:
            raise ValueError(f"percentiles lie within 0..100, they are {self.low:g} and {self.high:g}")
        return self


def normalise(values: np.ndarray, settings: IntensitySettings, foreground: np.ndarray | None = None) -> np.ndarray:
    """Map one modality to [0, 1].

    Args:
        values: float32 [*size].
        settings: the modality's limits.
        foreground: bool [*size], where statistics are taken; None: everywhere.

    Returns:
        float32 [*size] within [0, 1].

    Raises:
        ValueError: a value is not finite, or the foreground is empty or constant.
    """
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise ValueError(f"{bad} pixels are not finite (NaN or infinite)")
    inside = values if foreground is None else values[foreground]
    if not inside.size:
        raise ValueError("the image has no foreground: every pixel counts as background")
    if inside.min() == inside.max():
        raise ValueError(f"the image is constant (every pixel is {inside.min():g})")
    low, high = _limits(inside, settings)
    share = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    if settings.kind == "log":  # equal steps for equal factors above a unit of uptake
        span = np.float32(high - low)
        return np.log1p(share * span) / np.log1p(span)
    return share


def _limits(inside: np.ndarray, settings: IntensitySettings) -> tuple[float, float]:
    if settings.kind == "percentiles":
        low, high = np.percentile(inside, [settings.low, settings.high])
        # a few bright pixels on an empty ground have equal percentiles
        return (low, high) if low < high else (inside.min(), inside.max())
    if settings.kind == "zscore":
        mean, sd = float(inside.mean(dtype=np.float64)), float(inside.std(dtype=np.float64))
        return mean + settings.low * sd, mean + settings.high * sd
    return settings.low, settings.high
