"""Volumes from files and folders. Formats are known by their ending; a new one is a new entry in READERS.

A folder is a DICOM series; `FOLDER#CT` or `FOLDER#UID` chooses among several.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from upath import UPath

from preprocessing.case import BadFile
from preprocessing.geometry.volume import Volume
from preprocessing.object_store import fresh, reaching
from preprocessing.readers import images
from preprocessing.readers.dicom import read_series, series_folder
from preprocessing.readers.grid_checks import check_grid, spatial_shape
from preprocessing.readers.itk import read_itk
from preprocessing.readers.nifti import read_nifti

READERS: dict[str, Callable[[str], Volume]] = {
    ".nii": read_nifti,
    ".nii.gz": read_nifti,
    ".nrrd": read_itk,
    ".nhdr": read_itk,
    ".mha": read_itk,
    ".mhd": read_itk,
}

_SHOWN = 5


def is_volume_file(path: str) -> bool:
    """Whether the path, by its ending or as a folder, is one that `read_volume` would try."""
    if any(path.lower().endswith(ending) for ending in images.READERS):
        return False  # an image: no need to ask a store whether it is a folder
    return _reader(path) is not None


def read_volume(file: str) -> Volume:
    """An image: values float32 in the array axes of the file, affine to RAS+ millimetres.

    CT comes in HU, PET from DICOM in SUV by body weight, everything else in the file's own unit.

    Args:
        file: path or URI of a file, or of a folder with a DICOM series.

    Raises:
        BadFile: the file is missing, damaged, of an unknown format or not 3D; its affine places no volume in space;
            a value is not finite; the image is constant.
    """
    volume = _read(file)
    lowest, highest = volume.values.min(), volume.values.max()
    if lowest == highest:
        raise BadFile(file, f"the image is blank: every voxel is {lowest:g}")
    return volume


def read_label_volume(file: str) -> Volume:
    """A label map: values uint8 class ids; it may be constant, and stored as any type that holds whole numbers.

    Raises:
        BadFile: as in `read_volume`, or a value is no class id.
    """
    volume = _read(file)
    with np.errstate(invalid="ignore"):
        ids = volume.values.astype(np.uint8)
    wrong = np.unique(volume.values[ids != volume.values])
    if wrong.size:
        some = ", ".join(f"{value:g}" for value in wrong[:_SHOWN]) + (", ..." if wrong.size > _SHOWN else "")
        raise BadFile(file, f"the label map holds {some}: class ids are whole numbers from 0 to 255")
    return replace(volume, values=ids)


def _read(file: str) -> Volume:
    reader = _reader(file)
    if reader is None:
        raise BadFile(file, _unknown(file))
    volume = reader(file)
    spatial_shape(file, volume.values.shape)
    check_grid(file, volume.grid)
    bad = volume.values.size - int(np.count_nonzero(np.isfinite(volume.values)))
    if bad:
        raise BadFile(file, f"{bad} of {volume.values.size} voxels are not finite (NaN or infinite)")
    return volume


def _reader(path: str) -> Callable[[str], Volume] | None:
    endings = [ending for ending in READERS if path.lower().endswith(ending)]
    if endings:
        return READERS[max(endings, key=len)]
    with reaching(path):
        return read_series if fresh(UPath(series_folder(path))).is_dir() else None


def _unknown(file: str) -> str:
    path = fresh(UPath(series_folder(file)))
    if not path.exists():
        return "the file does not exist"
    known = f"known are {', '.join(READERS)} and folders of DICOM files"
    return f"the format {path.suffix.lower() or 'without ending'} is not known as a volume; {known}"
