"""PET as standardised uptake values by body weight (SUVbw, g/ml), from the tags of its DICOM files.

The rules are those of the Quantitative Imaging Biomarkers Alliance (FDG-PET/CT profile, vendor-neutral computation
of SUV): SUV = activity concentration x body weight / dose, the dose decayed to the time to which the images are
corrected.
"""

from __future__ import annotations

from pathlib import Path

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.tag import Tag

from preprocessing.case import BadFile
from preprocessing.readers.dicom_headers import PARSE_ERRORS, code_text, quiet
from preprocessing.readers.suv_times import scan_start, seconds_since_injection

_PHILIPS = (0x7053, "Philips PET Private Group")
_COUNTS_TO_SUV, _COUNTS_TO_BQML = 0x00, 0x09
_LOWEST_BQ = 1e5  # no patient is scanned with less: below, the dose is in another unit


def suv_factor(file: str, slice_file: Path) -> float:
    """What the rescaled values of a PET series are to be multiplied with to become SUVbw.

    1 where they already are (units GML). From weight, dose and times for Bq/ml (BQML), and for counts (CNTS) where
    Philips gives a factor.

    Args:
        file: what to call the series in messages.
        slice_file: the image of the series that was acquired first.

    Raises:
        BadFile: the unit is none of these, or a tag is missing or makes no sense; it says which.
    """
    try:
        with quiet():
            return _factor(file, pydicom.dcmread(slice_file, stop_before_pixels=True))
    except PARSE_ERRORS:
        raise BadFile(file, "PET: a tag that SUV needs (weight, dose, half-life, dates, times) is malformed") from None


def _factor(file: str, pet: pydicom.Dataset) -> float:
    units = code_text(pet.get("Units"))
    if units == "GML":
        kind = code_text(pet.get("SUVType") or "BW")
        if kind != "BW":
            raise BadFile(file, f"PET: the SUV is normalised by {kind}, not by body weight (BW)")
        return 1.0
    if units == "BQML":
        return 1000 * _weight_per_dose(file, pet)
    if units == "CNTS":
        to_suv, to_bqml = _philips(pet, _COUNTS_TO_SUV), _philips(pet, _COUNTS_TO_BQML)
        if to_suv:
            return to_suv
        if to_bqml:
            return to_bqml * 1000 * _weight_per_dose(file, pet)
    raise BadFile(file, f"PET: the units are {units}; only BQML and GML can be turned into SUV")


def _weight_per_dose(file: str, pet: pydicom.Dataset) -> float:
    """kg a Bq of the injected dose at the time to which the values are decay-corrected."""
    _require(file, pet, "PatientWeight", "DecayCorrection")
    correction = code_text(pet.DecayCorrection)
    if correction not in ("START", "ADMIN"):
        raise BadFile(file, f"PET: DecayCorrection is {correction}; SUV needs images corrected to START or ADMIN")
    drug = (pet.get("RadiopharmaceuticalInformationSequence") or [pydicom.Dataset()])[0]
    _require(file, drug, "RadionuclideTotalDose")
    dose = float(drug.RadionuclideTotalDose)
    if dose < _LOWEST_BQ:
        raise BadFile(file, f"PET: RadionuclideTotalDose is {dose:g} where Bq are meant (is it in MBq?)")
    if correction == "START":
        _require(file, drug, "RadionuclideHalfLife")
        half_life = float(drug.RadionuclideHalfLife)
        start = scan_start(pet, half_life)
        if start is None:
            raise _missing(file, "SeriesTime")
        if not drug.get("RadiopharmaceuticalStartDateTime"):
            _require(file, drug, "RadiopharmaceuticalStartTime")
        dose *= 2 ** (-seconds_since_injection(file, drug, start, half_life) / half_life)
    return float(pet.PatientWeight) / dose


def _require(file: str, tags: pydicom.Dataset, *names: str) -> None:
    absent = [name for name in names if not tags.get(name)]
    if absent:
        raise _missing(file, *absent)


def _missing(file: str, *names: str) -> BadFile:
    tags = " and ".join(f"{name} {Tag(tag_for_keyword(name) or 0)}" for name in names)
    return BadFile(file, f"PET: Bq/ml cannot be turned into SUV without {tags}")


def _philips(pet: pydicom.Dataset, element: int) -> float:
    """A private factor, 0 where it is not given."""
    try:
        return float(pet.private_block(*_PHILIPS)[element].value or 0)
    except KeyError:
        return 0.0
