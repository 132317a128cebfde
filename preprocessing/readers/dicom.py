"""A DICOM series as one volume: slices in the order in which they lie, in real units (PS3.3, C.7.6.2 and C.11.1).

Headers are read with pydicom, pixels with SimpleITK, whose GDCM knows the compressed forms and applies each slice's
own rescale slope and intercept.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import numpy as np
import SimpleITK as sitk
from upath import UPath

from preprocessing.case import BadFile
from preprocessing.geometry.volume import Volume, VoxelGrid
from preprocessing.object_store import fresh
from preprocessing.readers.dicom_headers import Slice, choose_series
from preprocessing.readers.grid_checks import grid_from_lps
from preprocessing.readers.local_copy import local_folder
from preprocessing.readers.suv import suv_factor

_UNEVEN = 0.1  # of the slice distance, by which a slice may lie off its place
_SAME_MM = 1e-3
_SAME_DIRECTION = 1e-4
_PERPENDICULAR = 1e-3


def series_folder(path: str) -> str:
    """The folder of `FOLDER`, `FOLDER#CT` or `FOLDER#SERIES_UID`."""
    return _split(path)[0]


def read_series(path: str) -> Volume:
    """The volume of a series: CT in HU, PET in SUV by body weight, other modalities with their rescale slope applied.

    Args:
        path: folder, or URI of one; with several image series, `#` and a modality or SeriesInstanceUID after it.

    Returns:
        values float32 [columns, rows, slices]; slices run along the cross product of the row's and the column's
        direction. A tilted gantry gives a sheared affine.

    Raises:
        BadFile: there is no image series or more than one; a file is damaged; images differ in size, spacing or
            orientation; a slice is missing or doubled; PET cannot be turned into SUV.
    """
    folder, choice = _split(path)
    with local_folder(folder) as local:
        slices, grid = arrange(path, choose_series(path, local, choice))
        values = _pixels(path, slices)
        if slices[0].modality == "PT":
            values *= np.float32(suv_factor(path, min(slices, key=attrgetter("acquired")).file))
    return Volume(values, grid, path, slices[0].dtype)


def arrange(file: str, slices: Sequence[Slice]) -> tuple[list[Slice], VoxelGrid]:
    """The slices in order, and the grid that they form.

    Raises:
        BadFile: they form none.
    """
    _check_alike(file, slices)
    first = slices[0]
    row, column = np.reshape(first.orientation, (2, 3))
    if abs(row @ row - 1) + abs(column @ column - 1) + abs(row @ column) > _PERPENDICULAR:
        raise BadFile(file, f"the image orientation {_text(first.orientation)} is no pair of perpendicular directions")
    normal = np.cross(row, column)
    along = np.array([s.position for s in slices]) @ normal
    order = np.argsort(along, kind="stable")
    _check_even(file, along[order], normal)
    places = np.array([slices[i].position for i in order])
    step = (places[-1] - places[0]) / (len(places) - 1)
    off = np.linalg.norm(places - places[0] - np.arange(len(places))[:, None] * step, axis=1)
    if off.max() > _UNEVEN * np.linalg.norm(step):
        raise BadFile(file, f"the slices are not evenly placed: one lies {off.max():.2f} mm off the line of the others")
    steps = np.column_stack([row * first.spacing[1], column * first.spacing[0], step])
    return [slices[i] for i in order], grid_from_lps((*first.size, len(slices)), steps, places[0])


def _split(path: str) -> tuple[str, str]:
    head, mark, choice = path.rpartition("#")
    chosen = mark and "/" not in choice and not fresh(UPath(path)).is_dir()  # a folder's own name may hold a #
    return (head, choice) if chosen else (path, "")


def _check_alike(file: str, slices: Sequence[Slice]) -> None:
    frames = max(s.frames for s in slices)
    if frames > 1:
        raise BadFile(file, f"a file holds {frames} images (multi-frame DICOM): export it with one image a file")
    if len(slices) < 2:
        raise BadFile(file, "the series has a single image, a volume has at least 2 slices")
    if not all(s.monochrome for s in slices):
        raise BadFile(file, "the images are not MONOCHROME2: their values cannot be told from their display")
    for name in ("position", "orientation", "spacing"):
        missing = sum(not getattr(s, name) for s in slices)
        if missing:
            raise BadFile(file, f"{missing} of {len(slices)} images do not say their {name}")
    for name, tolerance in (("size", 0.0), ("spacing", _SAME_MM), ("orientation", _SAME_DIRECTION)):
        values = np.array([getattr(s, name) for s in slices], np.float64)
        apart = np.abs(values - values[0]).max(axis=1)
        if apart.max() > tolerance:
            other = values[apart.argmax()]
            raise BadFile(file, f"the slices differ in {name}: {_text(values[0])} and {_text(other)}")


def _check_even(file: str, along: np.ndarray, normal: np.ndarray) -> None:
    """`along`: ascending positions in mm along the normal."""
    gaps = np.diff(along)
    upright = abs(normal[2]) > 1 - _PERPENDICULAR
    where = "z =" if upright else "the positions along the slice normal"
    shown = along * np.sign(normal[2]) if upright else along
    doubled = np.flatnonzero(gaps < _SAME_MM)
    if doubled.size:
        more = f" (and at {doubled.size - 1} more positions)" if doubled.size > 1 else ""
        raise BadFile(file, f"more than one image at {where} {shown[doubled[0]]:.1f} mm{more}: several series in one")
    expected = float(np.percentile(gaps, 50, method="lower"))
    uneven = np.flatnonzero(np.abs(gaps - expected) > _UNEVEN * expected)
    if not uneven.size:
        return
    k = uneven[0]
    between = f"between {where} {shown[k]:.1f} and {shown[k + 1]:.1f} mm (expected every {expected:.1f} mm)"
    missing = round(gaps[k] / expected) - 1
    what = "slice missing" if missing == 1 else f"{missing} slices missing" if missing > 1 else "uneven slice distance"
    more = f", and {uneven.size - 1} more such places" if uneven.size > 1 else ""
    raise BadFile(file, f"{what} {between}{more}")


def _pixels(file: str, slices: Sequence[Slice]) -> np.ndarray:
    """float32 [columns, rows, slices], rescaled."""
    try:
        return _read([str(s.file) for s in slices])
    except RuntimeError:
        for s in slices:  # SimpleITK does not say which one
            try:
                _read([str(s.file)])
            except RuntimeError as error:
                raise BadFile(file, f"the pixels of {s.file.name} cannot be read: it is damaged") from error
        raise BadFile(file, "the pixels of the slices cannot be read together") from None


def _read(files: list[str]) -> np.ndarray:
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)
    reader.SetFileNames(files)
    return sitk.GetArrayFromImage(reader.Execute()).T


def _text(numbers: Sequence[float] | np.ndarray) -> str:
    return " ".join(f"{number:g}" for number in numbers)
