"""One case from its files to normalised values on one grid: what is patchified for training and shown to a segmenter.

The same function serves the cache, evaluation and prediction, so that a segmenter sees new scans as it saw its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from upath import UPath

from preprocessing.cache_settings import CacheSettings
from preprocessing.case import BadFile, Case
from preprocessing.geometry.field_of_view import check_same_grid
from preprocessing.geometry.foreground import foreground_box, foreground_mask
from preprocessing.geometry.resampling import label_onto, onto, restore_labels
from preprocessing.geometry.volume import Volume
from preprocessing.geometry.work_grid import WorkGrid, crop_to, plan_grid
from preprocessing.intensity import IntensitySettings, normalise
from preprocessing.object_store import fresh, reaching
from preprocessing.readers.dicom import series_folder
from preprocessing.readers.images import READERS as IMAGES
from preprocessing.readers.images import read_case
from preprocessing.readers.volumes import is_volume_file, read_label_volume, read_volume


@dataclass(frozen=True)
class Prepared:
    """A case in memory; [*work] is the image itself in 2D, the working grid of a volume.

    Attributes:
        image: float32 [C, *work] within [0, 1]; 0 outside the foreground.
        label: uint8 [*work] class ids; None when unlabelled.
        real: bool [*work], the foreground.
        source_label: uint8, the label on the reference file's grid; None when unlabelled.
        grid: the working grid of a volume; None for a 2D image.
        source_size: voxels or pixels of the reference file along its own axes.
    """

    image: np.ndarray
    label: np.ndarray | None
    real: np.ndarray
    source_label: np.ndarray | None
    grid: WorkGrid | None
    source_size: tuple[int, ...]


def prepare(case: Case, settings: CacheSettings) -> Prepared:
    """Read, resample and normalise.

    Raises:
        BadFile: a file cannot be used, or those of the case do not fit together.
    """
    if any(is_volume_file(file) for file in case.images.values()):
        return _volume(case, settings)
    _check_image(next(iter(case.images.values())), len(settings.size))
    values, label = read_case(case, 2)
    image = _normalised(case, values, None, settings)
    return Prepared(image, label, np.ones(values.shape[1:], bool), label, None, values.shape[1:])


def _check_image(file: str, dims: int) -> None:
    """What was not taken for a volume must be an image, where images will do."""
    image = UPath(file).suffix.lower() in IMAGES
    if image and dims == 2:
        return  # there or not, its reader will tell
    with reaching(file):
        if not fresh(UPath(series_folder(file))).exists():
            raise BadFile(file, "there is no such file or folder")
    if image:
        raise BadFile(file, "is a 2D image, data.dims is 3")
    if dims == 3:
        read_volume(file)  # says which formats it knows


def _volume(case: Case, settings: CacheSettings) -> Prepared:
    volumes = [read_volume(file) for file in case.images.values()]
    reference = _reference(case, settings)
    grid = plan_grid(volumes, settings.spacing or None, settings.extent, reference)
    label = _read_label(case, volumes, settings.label_values)
    # outside a modality's field of view lies what is lowest in it: air, no uptake; in skull-stripped MRI nothing
    outside = [0.0 if settings.foreground == "mri" else float(volume.values.min()) for volume in volumes]
    values = np.stack([onto(volume, grid, value) for volume, value in zip(volumes, outside, strict=True)])
    real = foreground_mask(values, settings.foreground, reference)
    if not real.any():
        raise BadFile(volumes[reference].file, f"there is no foreground ({settings.foreground}) in the volume")
    start, stop = foreground_box(real)
    inner = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    grid, real = crop_to(grid, start, stop), real[inner]
    image = _normalised(case, values[(slice(None), *inner)], real, settings) * real
    placed = None if label is None else label_onto(label, grid)
    source_label = None if label is None else _on_reference(label, volumes[reference])
    return Prepared(image, placed, real, source_label, grid, grid.source.shape)


def _on_reference(label: Volume, reference: Volume) -> np.ndarray:
    """Class ids uint8 on the reference's own grid, which predictions return to; as they are if drawn on it."""
    same = label.values.shape == reference.values.shape and np.allclose(label.grid.affine, reference.grid.affine)
    own = plan_grid([reference], None, "reference")
    return label.values if same else restore_labels(label_onto(label, own), own)


def _reference(case: Case, settings: CacheSettings) -> int:
    names = list(case.images)
    if settings.reference and settings.reference not in names:
        file = next(iter(case.images.values()))
        raise BadFile(file, f"cache.reference is {settings.reference}, the case has {', '.join(names)}")
    return names.index(settings.reference) if settings.reference else 0


def _read_label(case: Case, volumes: list[Volume], allowed: tuple[int, ...]) -> Volume | None:
    """The union of the label files, on the grid of whichever modality they were drawn on."""
    labels = [read_label_volume(file) for file in case.labels]
    for label in labels:
        strange = sorted(set(np.unique(label.values).tolist()) - {0, *allowed}) if allowed else []
        if strange:
            known = ", ".join(map(str, allowed))
            raise BadFile(label.file, f"holds the class ids {strange}, cache.label_values names {known}")
        on = [v for v in volumes if v.values.shape == label.values.shape] or volumes[:1]
        closest = min(on, key=lambda volume: float(np.abs(volume.grid.affine - label.grid.affine).max()))
        check_same_grid(closest, label)
        check_same_grid(labels[0], label)
    for label in labels[1:]:
        np.maximum(labels[0].values, label.values, out=labels[0].values)
    return labels[0] if labels else None


def _normalised(case: Case, values: np.ndarray, real: np.ndarray | None, settings: CacheSettings) -> np.ndarray:
    channels = []
    for (modality, file), channel in zip(case.images.items(), values, strict=True):
        limits = settings.intensity.get(modality, IntensitySettings())
        try:
            channels.append(normalise(channel, limits, real))
        except ValueError as error:
            raise BadFile(file, str(error)) from None
    return np.stack(channels)
