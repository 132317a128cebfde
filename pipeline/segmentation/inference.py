"""From a case's files to probabilities: read, normalised and placed exactly as the cache was made, then restored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from upath import UPath

from pipeline.segmentation.segmenter_file import SegmenterCard, load_segmenter
from pipeline.training.precision import Autocast, Precision
from preprocessing.case import BadFile, Case, Rejection
from preprocessing.geometry import Geometry, letterbox, place_image, place_label, restore, valid_area
from preprocessing.intensity import normalise
from preprocessing.readers import read_case
from preprocessing.settings import Settings

Resolution = Literal["source", "canvas"]


class InferenceSettings(Settings):
    """How a trained segmenter is applied."""

    mirror: bool = Field(True, description="Average with the prediction on the mirror image (last axis).")
    batch: int = Field(16, ge=1, description="Images segmented at a time.")


@dataclass(frozen=True)
class Segmented:
    """One case's result at the chosen resolution.

    Attributes:
        case: what was segmented.
        image: float32 [C, *size], normalised intensities.
        label: uint8 [*size] class ids; None when unlabelled.
        probability: float32 [R, *size].
    """

    case: Case
    image: np.ndarray
    label: np.ndarray | None
    probability: np.ndarray


class Predictor:
    """A trained segmenter, applied to files.

    Args:
        checkpoint: its folder or URI.
        settings: how it is applied.
        device, precision: where and in which number format.

    Raises:
        RunError: there is no such segmenter.
    """

    def __init__(
        self,
        checkpoint: UPath | str,
        settings: InferenceSettings,
        device: torch.device | str = "cpu",
        precision: Precision = "auto",
    ) -> None:
        self.device, self.settings = torch.device(device), settings
        self.model, self.card = load_segmenter(checkpoint, self.device)
        self._autocast = Autocast(precision, self.device)

    def segment(self, cases: Iterable[Case], resolution: Resolution = "source") -> Iterator[Segmented | Rejection]:
        """Each case's result in turn; a case that cannot be read or does not fit becomes a Rejection.

        Args:
            cases: any number; a few are in memory at a time.
            resolution: results at the image's own size, or on the model's canvas.
        """
        remaining = iter(cases)
        while some := list(islice(remaining, self.settings.batch)):
            read = [_read(case, self.card) for case in some]
            good = [item for item in read if not isinstance(item, Rejection)]
            probabilities = iter(self._probabilities(good))
            for item in read:
                yield item if isinstance(item, Rejection) else _result(item, next(probabilities), resolution)

    def masks(self, probability: np.ndarray) -> np.ndarray:
        """bool [R, *size] from float [R, *size]: above each region's threshold."""
        thresholds = np.asarray(self.card.thresholds, np.float32)
        return probability > thresholds.reshape(-1, *[1] * (probability.ndim - 1))

    @torch.no_grad()
    def _probabilities(self, read: Sequence[_Read]) -> np.ndarray:
        if not read:
            return np.zeros((0,), np.float32)
        size = self.card.size
        image = torch.from_numpy(np.stack([place_image(item.image, item.geometry) for item in read]))
        real = torch.from_numpy(np.stack([valid_area(item.geometry) for item in read])).view(-1, 1, *size)
        # the cache keeps float16: the same rounding here, so that canvas results equal those on the cache
        image, real = image.half().float().to(self.device), real.to(self.device)
        with self._autocast():
            probability = self.model(image, real).float().sigmoid()
            if self.settings.mirror:
                mirrored = self.model(image.flip(-1), real.flip(-1)).float().sigmoid().flip(-1)
                probability = (probability + mirrored) / 2
        return (probability * real).cpu().numpy()


@dataclass(frozen=True)
class _Read:
    case: Case
    image: np.ndarray
    label: np.ndarray | None
    geometry: Geometry


def _read(case: Case, card: SegmenterCard) -> _Read | Rejection:
    first = next(iter(case.images.values()))
    if len(case.images) != card.channels:
        return Rejection(case.id, first, f"has {len(case.images)} modalities, the segmenter takes {card.channels}")
    try:
        image, label = read_case(case, len(card.size))
        return _Read(case, normalise(image, card.low, card.high), label, letterbox(image.shape[1:], card.size))
    except BadFile as bad:
        return Rejection(case.id, bad.file, bad.reason)
    except ValueError as error:
        return Rejection(case.id, first, str(error))


def _result(read: _Read, probability: np.ndarray, resolution: Resolution) -> Segmented:
    if resolution == "source":
        return Segmented(read.case, read.image, read.label, restore(probability, read.geometry))
    label = None if read.label is None else place_label(read.label, read.geometry)
    return Segmented(read.case, place_image(read.image, read.geometry), label, probability)
