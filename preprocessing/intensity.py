"""Intensities of one image to [0, 1], from its own percentiles: nothing is fitted over the data set."""

from __future__ import annotations

import numpy as np


def normalise(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map the percentiles `low` and `high` of each channel to 0 and 1, and clip.

    Args:
        image: float32 [C, *size], real pixels only.
        low, high: percentiles, 0 <= low < high <= 100.

    Returns:
        float32 [C, *size] within [0, 1].

    Raises:
        ValueError: a value is not finite, or a channel is constant.
    """
    if not np.isfinite(image).all():
        raise ValueError(f"{int((~np.isfinite(image)).sum())} pixels are not finite (NaN or infinite)")
    result = np.empty_like(image, dtype=np.float32)
    for channel, values in enumerate(image):
        bottom, top = np.percentile(values, [low, high])
        if bottom == top:  # a few bright pixels on an empty ground
            bottom, top = values.min(), values.max()
        if bottom == top:
            raise ValueError(f"the image is constant (every pixel is {bottom:g})")
        result[channel] = np.clip((values - bottom) / (top - bottom), 0, 1)
    return result
