"""Synthetic DICOM series, and what is said of one that cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from preprocessing.case import BadFile
from preprocessing.readers.volumes import read_volume

ROWS, COLUMNS, SLICES = 12, 16, 6
STORED = np.random.default_rng(0).integers(-500, 2000, (COLUMNS, ROWS, SLICES)).astype(np.int16)  # [i, j, k]
AXIAL = (1, 0, 0, 0, 1, 0)
CT, PT = "1.2.826.0.1.1", "1.2.826.0.1.2"
CLASSES = {"CT": CTImageStorage, "PT": PositronEmissionTomographyImageStorage, "MR": MRImageStorage}
NAME = "Doe^Jane"


def write(path, pixels, position, **tags):
    """One image; `pixels` [column, row]."""
    modality = tags.get("Modality", "CT")
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = CLASSES.get(modality, SecondaryCaptureImageStorage), generate_uid()
    image.PatientName, image.Modality, image.SeriesInstanceUID = NAME, modality, CT
    image.Columns, image.Rows = pixels.shape
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.PixelSpacing, image.ImageOrientationPatient = [2.0, 1.5], list(AXIAL)
    image.RescaleSlope, image.RescaleIntercept = "1", "0"
    image.PixelData = pixels.T.astype("<i2").tobytes()
    if position is not None:
        image.ImagePositionPatient = [float(f"{x:.10g}") for x in position]
    for name, value in tags.items():
        if value is None:
            delattr(image, name)
        else:
            setattr(image, name, value)
    return save(path, image)


def save(path, image):
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.save_as(path, enforce_file_format=True)
    return path


def series(folder, positions=None, each=None, stored=STORED, **tags):
    """Images in a folder; names and instance numbers are in another order than the slices.

    `each[k]` are the tags of slice k alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    positions = [(-20.0, -30.0, 12.0 + 3 * k) for k in range(SLICES)] if positions is None else positions
    names = np.random.default_rng(1).permutation(len(positions))
    for k, position in enumerate(positions):
        own = {**tags, **(each[k] if each else {})}
        write(folder / f"{tags.get('Modality', 'CT')}{names[k]:03d}.dcm", stored[..., k % SLICES], position, **own)
    return str(folder)


def reason(path, read=read_volume):
    with pytest.raises(BadFile) as caught:
        read(path)
    assert caught.value.file == path
    assert "\n" not in caught.value.reason
    assert "Doe" not in caught.value.reason
    return caught.value.reason


ACTIVITY = np.abs(STORED)


def drug(**tags):
    """400 MBq at 08:00 with a half-life of one hour."""
    item = Dataset()
    given = {
        "RadionuclideTotalDose": 400e6,
        "RadionuclideHalfLife": 3600.0,
        "RadiopharmaceuticalStartTime": "080000",
        **tags,
    }
    for name, value in given.items():
        if value is not None:
            setattr(item, name, value)
    return item


def pet(folder, injected=None, each=None, **tags):
    """70 kg, scanned at 10:00."""
    given = {
        "Units": "BQML",
        "DecayCorrection": "START",
        "PatientWeight": 70.0,
        "SeriesDate": "20200301",
        "SeriesTime": "100000",
        "AcquisitionDate": "20200301",
        "AcquisitionTime": "100000",
        "RadiopharmaceuticalInformationSequence": Sequence([drug(**(injected or {}))]),
        **tags,
    }
    given = {name: value for name, value in given.items() if value is not None}
    return series(folder, each=each, stored=ACTIVITY, Modality="PT", SeriesInstanceUID=PT, **given)
