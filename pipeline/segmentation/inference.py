"""From a case's files to probabilities: read, normalised and placed exactly as the cache was made, then restored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from upath import UPath

from pipeline.segmentation.components import least_voxels, remove_small
from pipeline.segmentation.segmenter_file import load_segmenter
from pipeline.segmentation.sliding_window import blend
from pipeline.training.precision import Autocast, Precision
from preprocessing.case import BadFile, Case, Rejection
from preprocessing.geometry.letterbox import letterbox, place_image, place_label, restore
from preprocessing.geometry.resampling import restore_probability
from preprocessing.geometry.volume import VoxelGrid
from preprocessing.prepare import Prepared, prepare
from preprocessing.readers.volumes import is_volume_file
from preprocessing.settings import NO_INFLUENCE, Settings

Resolution = Literal["source", "canvas"]


class InferenceSettings(Settings):
    """How a trained segmenter is applied."""

    mirror: bool = Field(True, description="Average with the prediction on the mirror image (last axis).")
    batch: int = Field(
        16, ge=1, description="Images, slices or windows segmented at a time.", json_schema_extra=NO_INFLUENCE
    )
    overlap: float = Field(0.5, ge=0, lt=1, description="Share by which the windows over a volume overlap, at least.")


@dataclass(frozen=True)
class Segmented:
    """One case's result at the chosen resolution.

    Attributes:
        case: what was segmented.
        image: float32 [C, *size], normalised intensities.
        label: uint8 [*size] class ids; None when unlabelled.
        probability: float32 [R, *size].
        grid: where the voxels of a volume lie; None for a 2D image.
        header: of the scan's file, see `Volume.header`.
    """

    case: Case
    image: np.ndarray
    label: np.ndarray | None
    probability: np.ndarray
    grid: VoxelGrid | None = None
    header: dict[str, int] = field(default_factory=dict)

    @property
    def pixel(self) -> float:
        """Size of a pixel in `unit`: millilitres of a voxel; the share of a 2D image."""
        return 1.0 / self.image[0].size if self.grid is None else self.grid.voxel_ml

    @property
    def unit(self) -> str:
        """What `pixel` counts: "ml" or "share"."""
        return "share" if self.grid is None else "ml"


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
            cases: any number; a few images, or one volume, are in memory at a time.
            resolution: results at the image's own size and the scan's own grid, or on the model's canvas (of volumes:
                the working grid).
        """
        for volumes, some in groupby(map(self._wanted, cases), _is_volume):
            segment = self._volumes if volumes else self._images
            yield from segment(some, resolution)

    def masks(self, found: Segmented) -> np.ndarray:
        """bool [R, *size]: above each region's threshold, without components that are smaller than its least size."""
        card = self.card
        sizes = card.least_sizes if found.unit == card.least_unit else (0.0,) * len(card.classes)
        return np.stack(
            [
                remove_small(probability > threshold, least_voxels(least, found.pixel))
                for probability, threshold, least in zip(found.probability, card.thresholds, sizes, strict=True)
            ]
        )

    def _images(self, cases: Iterator[Case], resolution: Resolution) -> Iterator[Segmented | Rejection]:
        size = self.card.size
        while some := list(islice(cases, self.settings.batch)):
            read = [self._prepare(case) for case in some]
            planes = [(p.image, p.real) for p in read if isinstance(p, Prepared)]
            probabilities = iter(self._planes(planes))
            for case, item in zip(some, read, strict=True):
                if isinstance(item, Rejection):
                    yield item
                    continue
                geometry, probability = letterbox(item.real.shape, size), next(probabilities)
                if resolution == "source":
                    yield Segmented(case, item.image, item.label, restore(probability, geometry))
                else:
                    label = None if item.label is None else place_label(item.label, geometry)
                    yield Segmented(case, place_image(item.image, geometry), label, probability)

    def _volumes(self, cases: Iterator[Case], resolution: Resolution) -> Iterator[Segmented | Rejection]:
        for case in cases:
            item = self._prepare(case)
            if isinstance(item, Rejection):
                yield item
                continue
            assert item.grid is not None
            probability = self._by_slices(item) if len(self.card.size) == 2 else self._by_windows(item)
            if resolution == "source":
                image, probability = (restore_probability(values, item.grid) for values in (item.image, probability))
                yield Segmented(case, image, item.source_label, probability, item.grid.source, item.grid.source_header)
            else:
                yield Segmented(case, item.image, item.label, probability, item.grid.voxels)

    def _wanted(self, case: Case) -> Case:
        """The case with the modalities that the segmenter takes, in its order; as it is where it lacks one."""
        wanted, images = self.card.modalities, case.images
        if len(wanted) == len(images) == 1:  # a lone image is what the segmenter takes, whatever it is called
            return replace(case, images={wanted[0]: next(iter(images.values()))})
        if not set(wanted) <= set(images):
            return case
        return replace(case, images={name: images[name] for name in wanted})

    def _prepare(self, case: Case) -> Prepared | Rejection:
        wanted, first = self.card.modalities, next(iter(case.images.values()))
        if tuple(case.images) != wanted:
            there = ", ".join(case.images)
            return Rejection(case.id, first, f"has the modalities {there}; the segmenter takes {', '.join(wanted)}")
        try:
            return prepare(case, self.card.cache)
        except BadFile as bad:
            return Rejection(case.id, bad.file, bad.reason)

    def _by_windows(self, prepared: Prepared) -> np.ndarray:
        """float32 [R, *work] of a volume, crop by crop."""
        stacked = torch.from_numpy(np.concatenate([prepared.image, prepared.real[None]]))

        def predict(windows: Tensor, _: Tensor) -> Tensor:  # what lies beyond the volume is 0, hence not foreground
            return self._forward(windows[:, :-1], windows[:, -1:] > 0.5)

        settings, regions = self.settings, len(self.card.classes)
        return blend(predict, stacked, self.card.size, settings.overlap, settings.batch, regions).numpy()

    def _by_slices(self, prepared: Prepared) -> np.ndarray:
        """float32 [R, *work] of a volume, slice by slice."""
        axis = self.card.cache.axis
        image, real = np.moveaxis(prepared.image, 1 + axis, 1), np.moveaxis(prepared.real, axis, 0)
        geometry = letterbox(real.shape[1:], self.card.size)
        result = np.empty((len(self.card.classes), *real.shape), np.float32)
        for first in range(0, len(real), self.settings.batch):
            numbers = range(first, min(first + self.settings.batch, len(real)))
            for number, probability in zip(
                numbers, self._planes([(image[:, n], real[n]) for n in numbers]), strict=True
            ):
                result[:, number] = restore(probability, geometry) * real[number]
        return np.moveaxis(result, 1, 1 + axis)

    def _planes(self, planes: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """float32 [n, R, *canvas] of images [C, *size] with their real pixels [*size], which may differ in size."""
        if not planes:
            return np.zeros((0,), np.float32)
        placed = [(letterbox(real.shape, self.card.size), image, real) for image, real in planes]
        images = np.stack([place_image(image, geometry) for geometry, image, _ in placed])
        reals = np.stack([place_label(real.astype(np.uint8), geometry) for geometry, _, real in placed])
        return self._forward(torch.from_numpy(images), torch.from_numpy(reals[:, None]).bool()).numpy()

    @torch.no_grad()
    def _forward(self, image: Tensor, real: Tensor) -> Tensor:
        """float32 [B, R, *canvas] on the CPU, 0 outside the real pixels."""
        # the cache keeps float16: the same rounding here, so that canvas results equal those on the cache
        image, real = image.half().float().to(self.device), real.to(self.device)
        with self._autocast():
            probability = self.model(image, real).float().sigmoid()
            if self.settings.mirror:
                mirrored = self.model(image.flip(-1), real.flip(-1)).float().sigmoid().flip(-1)
                probability = (probability + mirrored) / 2
        return (probability * real).cpu()


def _is_volume(case: Case) -> bool:
    return is_volume_file(next(iter(case.images.values())))
