"""From the source grid to the fixed canvas and back: aspect ratio kept, the rest padded and known as padding.

Resampling is separable and exact: along each axis a matrix of weights, areas of overlap when shrinking (no
aliasing), linear interpolation between pixel centres when enlarging. It serves any number of spatial axes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Geometry:
    """Where the source image lies on the canvas.

    Attributes:
        source: size of the source image in pixels, one number an axis.
        canvas: size of the canvas in pixels.
        start, stop: the area [start, stop) of the canvas that shows the image.
    """

    source: tuple[int, ...]
    canvas: tuple[int, ...]
    start: tuple[int, ...]
    stop: tuple[int, ...]

    @property
    def inner(self) -> tuple[int, ...]:
        """Size of the image on the canvas, in pixels."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def box(self) -> np.ndarray:
        """int32 [2d]: start, then stop."""
        return np.array([*self.start, *self.stop], np.int32)

    def to_json(self) -> str:
        """The geometry as text, for the cache."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Geometry:
        """Inverse of `to_json`."""
        return cls(**{name: tuple(values) for name, values in json.loads(text).items()})

    @property
    def real(self) -> tuple[Any, ...]:
        """The real area of the canvas: an index of its spatial axes, whatever axes come before them."""
        return (..., *(slice(a, b) for a, b in zip(self.start, self.stop, strict=True)))


def letterbox(source: Sequence[int], canvas: Sequence[int]) -> Geometry:
    """The largest centred placement of the source on the canvas that keeps the aspect ratio.

    Raises:
        ValueError: the two have different numbers of axes, or an axis is empty.
    """
    if len(source) != len(canvas) or min(*source, *canvas) < 1:
        raise ValueError(f"cannot place an image of size {tuple(source)} on a canvas of {tuple(canvas)}")
    scale = min(c / s for s, c in zip(source, canvas, strict=True))
    inner = [min(c, max(1, round(s * scale))) for s, c in zip(source, canvas, strict=True)]
    start = tuple((c - n) // 2 for c, n in zip(canvas, inner, strict=True))
    stop = tuple(a + n for a, n in zip(start, inner, strict=True))
    return Geometry(tuple(source), tuple(canvas), start, stop)


def place_image(image: np.ndarray, geometry: Geometry) -> np.ndarray:
    """float32 [C, *source] -> float32 [C, *canvas], padding 0."""
    canvas = np.zeros((*image.shape[: -len(geometry.canvas)], *geometry.canvas), np.float32)
    canvas[geometry.real] = resample(image, geometry.inner)
    return canvas


def place_label(label: np.ndarray, geometry: Geometry) -> np.ndarray:
    """uint8 class ids [*source] -> uint8 [*canvas]: each pixel takes the class that covers most of it, padding 0."""
    canvas = np.zeros(geometry.canvas, np.uint8)
    classes = np.unique(label)
    if len(classes) == 1:
        canvas[geometry.real] = classes[0]
        return canvas
    covers = np.stack([resample(label == c, geometry.inner) for c in classes])
    # a tie goes to the lower class, whatever the rounding of the sums
    canvas[geometry.real] = classes[np.argmax(covers > covers.max(axis=0) - 1e-5, axis=0)]
    return canvas


def restore(values: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Predicted values [..., *canvas], such as probabilities, at the source's own size: float32 [..., *source]."""
    return resample(values[geometry.real], geometry.source)


def resample(values: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """[..., *old] -> float32 [..., *size]; area average along an axis that shrinks, linear along one that grows."""
    result = np.asarray(values, np.float32)
    first = result.ndim - len(size)
    for axis, new in enumerate(size, start=first):
        if result.shape[axis] != new:
            weights = _weights(result.shape[axis], new)
            result = np.moveaxis(np.moveaxis(result, axis, -1) @ weights, -1, axis)
    return np.ascontiguousarray(result)


@lru_cache(maxsize=256)
def _weights(old: int, new: int) -> np.ndarray:
    """float32 [old, new]; each column sums to 1."""
    if new < old:
        edges = np.arange(new + 1) * (old / new)
        pixel = np.arange(old)[:, None]
        overlap = np.minimum(pixel + 1, edges[1:]) - np.maximum(pixel, edges[:-1])
        weights = np.clip(overlap, 0, None)
    else:
        centre = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
        weights = np.clip(1 - np.abs(np.arange(old)[:, None] - centre), 0, None)
    return (weights / weights.sum(axis=0)).astype(np.float32)
