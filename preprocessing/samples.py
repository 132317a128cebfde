"""From a prepared case to samples on the canvas: the image itself, slices of a volume, or crops of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from preprocessing.cache_settings import CacheSettings
from preprocessing.geometry.letterbox import letterbox, place_image, place_label
from preprocessing.geometry.windows import windows
from preprocessing.prepare import Prepared


@dataclass(frozen=True)
class Sample:
    """What becomes one row of the cache.

    Attributes:
        image: float32 [C, *canvas] within [0, 1], 0 on padding.
        label: uint8 [*canvas]; None when unlabelled.
        real: bool [*canvas].
        frame: int32 [2d], where the whole image or body lies on the canvas (starts, then stops); may reach beyond it.
        geometry: JSON, where on the working grid the sample comes from.
    """

    image: np.ndarray
    label: np.ndarray | None
    real: np.ndarray
    frame: np.ndarray
    geometry: str


def samples_of(prepared: Prepared, settings: CacheSettings) -> Iterator[Sample]:
    """All samples of a case, in order."""
    work, dims = prepared.real.ndim, len(settings.size)
    if work == dims == 2:
        yield _letterboxed(prepared, settings.size, (...,), {})
        return
    places: list[tuple[Any, ...]]
    if dims == 2:
        places = [_slice(settings.axis, number) for number in range(prepared.real.shape[settings.axis])]
    else:
        places = _crops(prepared.real.shape, settings)
    for place in (places[n] for n in _kept(prepared.real, places, settings)):
        if dims == 2:
            at = {"axis": settings.axis, "slice": place[settings.axis]}
            yield _letterboxed(prepared, settings.size, place, at)
        else:
            yield _crop(prepared, settings.size, place)


def _slice(axis: int, number: int) -> tuple[Any, ...]:
    return tuple(number if a == axis else slice(None) for a in range(3))


def _crops(shape: Sequence[int], settings: CacheSettings) -> list[tuple[Any, ...]]:
    """Crops that cover the volume, a whole number of patches apart: where they overlap their patches are the same."""
    cells = [-(-n // p) for n, p in zip(shape, settings.patch, strict=True)]
    corners = windows(cells, settings.grid, settings.overlap)
    starts = [[max(0, a) * p for a, p in zip(corner, settings.patch, strict=True)] for corner in corners]
    return [tuple(slice(a, a + n) for a, n in zip(start, settings.size, strict=True)) for start in starts]


def _kept(real: np.ndarray, places: Sequence[tuple[Any, ...]], settings: CacheSettings) -> list[int]:
    """Numbers of the places worth a sample, in order: those with foreground, evenly spread, and a few empty ones.

    Labels have no say in it: the samples serve the pretraining, which must not know them.
    """
    filled = [float(real[place].mean()) >= settings.least_foreground for place in places]
    most = settings.most_samples or len(places)
    kept = _spread([n for n, found in enumerate(filled) if found], most)
    allowed = min(round(settings.empty * len(kept)), most - len(kept))
    kept += _spread([n for n, found in enumerate(filled) if not found], allowed)
    # a scan that is small for its canvas may have no filled place: better one sample than a case that is lost
    return sorted(kept) or [len(places) // 2]


def _spread(numbers: Sequence[int], most: int) -> list[int]:
    """At most so many of the numbers, evenly spread."""
    if len(numbers) <= most:
        return list(numbers)
    if most == 1:
        return [numbers[len(numbers) // 2]]
    return [numbers[round(i)] for i in np.linspace(0, len(numbers) - 1, max(most, 0))]


def _letterboxed(prepared: Prepared, size: Sequence[int], place: tuple[Any, ...], at: dict[str, int]) -> Sample:
    image, real = prepared.image[(slice(None), *place)], prepared.real[place]
    geometry = letterbox(real.shape, size)
    label = None if prepared.label is None else place_label(prepared.label[place], geometry)
    return Sample(
        place_image(image, geometry),
        label,
        place_label(real.astype(np.uint8), geometry).astype(bool),
        geometry.box,
        json.dumps({**asdict(geometry), **at}),
    )


def _crop(prepared: Prepared, size: Sequence[int], place: tuple[Any, ...]) -> Sample:
    """A crop of the working grid at its own scale; where the volume is smaller than the canvas it is centred."""
    inner = [min(p.stop, n) - p.start for p, n in zip(place, prepared.real.shape, strict=True)]
    start = [max(0, c - n) // 2 for c, n in zip(size, prepared.real.shape, strict=True)]
    there: tuple[Any, ...] = tuple(slice(a, a + n) for a, n in zip(start, inner, strict=True))

    def placed(values: np.ndarray) -> np.ndarray:
        canvas = np.zeros((*values.shape[:-3], *size), values.dtype)
        canvas[(..., *there)] = values[(..., *place)]
        return canvas

    corner = [a - p.start for a, p in zip(start, place, strict=True)]  # of the working grid, on the canvas
    frame = np.array([*corner, *(c + n for c, n in zip(corner, prepared.real.shape, strict=True))], np.int32)
    return Sample(
        placed(prepared.image),
        None if prepared.label is None else placed(prepared.label),
        placed(prepared.real),
        frame,
        json.dumps({"corner": corner}),
    )
