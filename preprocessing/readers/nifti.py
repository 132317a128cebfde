"""NIfTI-1 and NIfTI-2 in one file, zipped or not (nifti.nimh.nih.gov), through nibabel."""

from __future__ import annotations

import gzip
import zlib

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError, ImageDataError
from nibabel.wrapstruct import WrapStructError

from preprocessing.case import BadFile
from preprocessing.geometry.volume import Volume, VoxelGrid
from preprocessing.readers.grid_checks import spatial_shape
from preprocessing.readers.local_copy import read_content

_KINDS = (nibabel.Nifti1Image, nibabel.Nifti2Image)
_ERRORS = (HeaderDataError, ImageDataError, WrapStructError, ValueError, OverflowError, OSError)
_TO_MM = {1: 1000.0, 3: 0.001}  # codes of metres and micrometres
_MM = 2
_SPACE_BITS = 7


def read_nifti(file: str) -> Volume:
    """A volume from a NIfTI file, scl_slope and scl_inter applied.

    Raises:
        BadFile: the file is missing, empty, cut short, no NIfTI, of colours or complex numbers, or not 3D.
    """
    content = _unzipped(file, read_content(file))
    if not any(content[:348]):
        raise BadFile(file, "the header holds only zeros: the file was never written to its end")
    kind = next((k for k in _KINDS if k.header_class.may_contain_header(content[:540])), None)
    if kind is None:
        raise BadFile(file, "is not a NIfTI file: it does not begin with a NIfTI header")
    try:
        header = kind.header_class(content[: kind.header_class.template_dtype.itemsize], check=False)
        shape = spatial_shape(file, header.get_data_shape())
        dtype = header.get_data_dtype()
        _check_header(file, header, len(content))
        image = kind.from_bytes(content)
        values = image.get_fdata("unchanged", np.float32).reshape(shape, order="F")
    except KeyError as error:
        raise BadFile(file, f"the header is damaged: it names an unknown type of values ({error})") from None
    except _ERRORS as error:
        raise BadFile(file, f"the header is damaged: {error}") from error
    units = int(header["xyzt_units"])
    affine = np.asarray(image.affine, np.float64)
    if units & _SPACE_BITS in _TO_MM:
        affine = np.diag([*[_TO_MM[units & _SPACE_BITS]] * 3, 1.0]) @ affine
        units = units & ~_SPACE_BITS | _MM
    codes = {name: int(header[name]) for name in ("qform_code", "sform_code")}
    return Volume(values, VoxelGrid(shape, affine), file, dtype.name, {**codes, "xyzt_units": units})


def _unzipped(file: str, content: bytes) -> bytes:
    if content[:2] != b"\x1f\x8b":  # some .nii.gz were never zipped, some .nii were
        return content
    try:
        return gzip.decompress(content)
    except EOFError:
        raise BadFile(file, f"the zipped file is cut short: it ends after {len(content)} bytes") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadFile(file, f"the zipped file is damaged: {error}") from error


def _check_header(file: str, header: nibabel.Nifti1Header, length: int) -> None:
    dtype, shape = header.get_data_dtype(), header.get_data_shape()
    if dtype.kind not in "iuf":
        raise BadFile(file, "the voxels are colours or complex numbers, not grey values")
    needed = int(header["vox_offset"]) + dtype.itemsize * int(np.prod(shape, dtype=object))
    if length < needed:
        raise BadFile(file, f"the file is cut short: its header promises {needed} bytes, there are {length}")
    if not header["sform_code"] and not header["pixdim"][1:4].all():  # nibabel would take them as 1 mm
        raise BadFile(file, "the header gives a voxel size of 0 mm, so that the affine has determinant 0")
