"""Phantoms of PET/CT and MRI as files, in the layouts of HECKTOR and BraTS: for the demo and for tests without data."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
from upath import UPath

from preprocessing.phantoms.mri import ENHANCING, make_mri
from preprocessing.phantoms.petct import make_petct
from preprocessing.storage import make_folder

_UNLABELLED_EVERY = 6  # one case in so many has no label
_CENTRES = ("PHA", "PHB", "PHC")
_ENDINGS_2018 = {"t1": "_t1", "t1ce": "_t1ce", "t2": "_t2", "flair": "_flair", "label": "_seg"}
_ENDINGS_2023 = {"t1": "-t1n", "t1ce": "-t1c", "t2": "-t2w", "flair": "-t2f", "label": "-seg"}
_ENHANCING_2023 = 3
_GROWTH = 1.25  # between the two time points of a patient


def write_hecktor_phantoms(root: str, count: int, seed: int) -> None:
    """Write `count` patients in HECKTOR 2022's layout; the same bytes for the same seed.

    Those without a label are in imagesTs, as in the challenge. Any one case does not depend on `count`.
    """
    for index in range(count):
        phantom = make_petct(np.random.default_rng([seed, index]))
        name = f"{_CENTRES[index % len(_CENTRES)]}-{index + 1:03d}"
        part = "Ts" if _is_unlabelled(index) else "Tr"
        images = UPath(root) / f"images{part}"
        _write(images / f"{name}__CT.nii.gz", phantom.ct, phantom.ct_grid.affine)
        _write(images / f"{name}__PT.nii.gz", phantom.pt, phantom.pt_grid.affine)
        if part == "Tr":
            _write(UPath(root) / "labelsTr" / f"{name}.nii.gz", phantom.label, phantom.ct_grid.affine)


def write_brats_phantoms(root: str, count: int, seed: int) -> None:
    """Write `count` scans in BraTS's layouts; the same bytes for the same seed.

    Half have the names and label values of 2018, in folders HGG and LGG; half those of 2023, where one patient in
    three is scanned twice. Any one case does not depend on `count`.
    """
    for index in range(count):
        block, place = divmod(index, 4)
        if place < 2:
            grade = "LGG" if (2 * block + place) % 3 == 2 else "HGG"
            name, growth, endings = f"Brats18_PHANTOM_{index + 1:03d}_1", 1.0, _ENDINGS_2018
            folder = UPath(root) / "MICCAI_BraTS_2018_Data_Training" / grade / name
            patient = index
        else:
            patient = index - 1 if _is_second_scan(index) else index
            grade = "LGG" if block % 4 == 3 else "HGG"
            second = patient != index
            name, endings = f"BraTS-PHA-{patient + 1:05d}-{int(second):03d}", _ENDINGS_2023
            growth = _GROWTH if second else 1.0
            folder = UPath(root) / "BraTS2023_TrainingData" / name
        scan = make_mri(np.random.default_rng([seed, patient]), grade, growth)
        files = dict(scan.images)
        if not _is_unlabelled(index):
            is_new = endings is _ENDINGS_2023
            files["label"] = np.where(is_new & (scan.label == ENHANCING), _ENHANCING_2023, scan.label).astype(np.uint8)
        for part, values in files.items():
            _write(folder / f"{name}{endings[part]}.nii.gz", values, scan.grid.affine)


def _is_unlabelled(index: int) -> bool:
    return index % _UNLABELLED_EVERY == _UNLABELLED_EVERY - 1


def _is_second_scan(index: int) -> bool:
    return index % 8 == 3


def _write(file: UPath, values: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(values, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    make_folder(file.parent)
    file.write_bytes(gzip.compress(image.to_bytes(), 1, mtime=0))  # no time stamp: the same bytes every time
