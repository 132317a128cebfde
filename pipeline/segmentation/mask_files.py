"""Writing masks and probabilities: PNG for images, NIfTI on the scan's own grid for volumes."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping

import nibabel as nib
import numpy as np
from PIL import Image
from upath import UPath

from preprocessing.geometry.volume import VoxelGrid
from preprocessing.storage import make_folder


def write_png(path: UPath, values: np.ndarray) -> None:
    """A grey (uint8 or uint16 [H, W]) or colour (uint8 [H, W, 3]) picture; folders are made."""
    make_folder(path.parent)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    path.write_bytes(buffer.getvalue())


def write_nifti(path: UPath, values: np.ndarray, grid: VoxelGrid, header: Mapping[str, int]) -> None:
    """A volume [*grid.shape] as .nii.gz that a viewer lays on top of the scan; folders are made.

    Args:
        path: file or URI.
        values: of the dtype to be stored.
        grid: of the scan's file, axes in its own order.
        header: `Volume.header` of the scan: its qform and sform codes; without them both say scanner coordinates.
    """
    make_folder(path.parent)
    image = nib.Nifti1Image(values, grid.affine)
    image.set_qform(grid.affine, int(header.get("qform_code", 1)) or 1)
    image.set_sform(grid.affine, int(header.get("sform_code", 1)) or 1)
    image.header.set_xyzt_units("mm")
    path.write_bytes(gzip.compress(image.to_bytes(), 6, mtime=0))
