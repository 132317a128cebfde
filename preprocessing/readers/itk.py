"""NRRD and MetaImage, through SimpleITK."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from upath import UPath

from preprocessing.case import BadFile
from preprocessing.geometry.volume import Volume
from preprocessing.object_store import fresh, is_local
from preprocessing.readers.grid_checks import grid_from_lps, spatial_shape
from preprocessing.readers.local_copy import opening, read_content

_DATA_FILE = re.compile(rb"^(?:data ?file\s*:|ElementDataFile\s*=)\s*(.+?)\s*$", re.MULTILINE | re.IGNORECASE)
_HEADER_BYTES = 2**16
_HEADERS = (".mhd", ".nhdr")  # beside their data


def read_itk(file: str) -> Volume:
    """A volume from NRRD (.nrrd, or .nhdr beside its data) or MetaImage (.mha, or .mhd beside its data).

    Raises:
        BadFile: a file is missing, empty, cut short, of another format, of colours or complex numbers, or not 3D.
    """
    with _local(file) as path:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
            shape = spatial_shape(file, reader.GetSize())
            kind = reader.GetPixelIDValue()
            if kind not in _dtypes():
                number = reader.GetNumberOfComponents()
                raise BadFile(file, f"holds {number} numbers a voxel (colours or vectors), not grey values")
            reader.SetOutputPixelType(sitk.sitkFloat32)
            image = reader.Execute()
        except RuntimeError as error:
            raise BadFile(file, _reason(file, str(error))) from error
    # SimpleITK's arrays have the last axis first
    values = sitk.GetArrayFromImage(image).T.reshape(shape, order="F")
    axes = image.GetDimension()
    directions = np.reshape(image.GetDirection(), (axes, axes))[:3, :3]
    grid = grid_from_lps(shape, directions * image.GetSpacing()[:3], np.array(image.GetOrigin()[:3]))
    return Volume(values, grid, file, _dtypes()[kind])


def _dtypes() -> dict[int, str]:
    """Of grey voxels, as SimpleITK and as numpy names them."""
    names = ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64")
    return {getattr(sitk, f"sitk{name}"): name.lower() for name in names}


@contextmanager
def _local(file: str) -> Iterator[Path]:
    """The file where SimpleITK can read it, with the data file that its header names."""
    path = UPath(file)
    if is_local(path):
        with opening(file), path.open("rb") as stream:
            if not stream.read(1):
                raise BadFile(file, "the file is empty (0 bytes)")
        yield Path(path.path)
        return
    with tempfile.TemporaryDirectory() as folder:
        content = read_content(file)
        (Path(folder) / path.name).write_bytes(content)
        data = _data_file(content)
        if data:
            if "/" in data or "\\" in data:
                raise BadFile(file, "its data file must lie beside it, the header names another folder")
            (Path(folder) / data).write_bytes(read_content(str(path.parent / data)))
        yield Path(folder) / path.name


def data_files(file: str) -> list[UPath]:
    """Where the values of a volume lie whose header is a file of its own; none elsewhere."""
    path = UPath(file)
    if path.suffix.lower() not in _HEADERS:
        return []
    name = _data_file(fresh(path).read_bytes())
    return [path.parent / name] if name else []


def _data_file(content: bytes) -> str:
    """Name of the file that holds the values, "" where they follow the header."""
    found = _DATA_FILE.search(content[:_HEADER_BYTES])
    name = found[1].decode(errors="replace") if found else ""
    return "" if name.upper() in ("LOCAL", "LIST") else name


def _reason(file: str, message: str) -> str:
    if "Unable to determine ImageIO" in message:
        return "is neither NRRD nor MetaImage: it does not begin with such a header"
    path = UPath(file)
    if path.suffix.lower() in _HEADERS:
        with opening(file):
            data = _data_file(path.read_bytes())
        if data and not (path.parent / data).exists():
            return f"its data file {data} does not exist"
    return "cannot be read: the file is damaged or cut short"
