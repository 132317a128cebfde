"""From injection to scan, by the dates and times in the tags of PET, whose meaning differs by vendor.

After QIBA's vendor-neutral computation of SUV, as in `preprocessing.readers.suv`.
"""

from __future__ import annotations

import math
from datetime import date, datetime, time, timedelta

import pydicom
from pydicom.valuerep import DA, DT, TM

from preprocessing.case import BadFile

_GE, _GE_SCAN_START = (0x0009, "GEMS_PETD_01"), 0x0D
_NO_DATE = date(2000, 1, 1)  # where all dates were removed
_HALF_LIVES = 10  # after these there is nothing to be scanned
_DAY_S = 86400.0


def scan_start(pet: pydicom.Dataset, half_life: float) -> datetime | None:
    """The time to which DecayCorrection START refers; None where no tag says it.

    It is the series' time, unless the series was made after the acquisition (derived later, or sent anew). Then it is
    GE's private tag, or is computed back from the frame reference time, or is the first acquisition.

    Args:
        pet: tags of the image that was acquired first; half_life: of the radionuclide, in s.
    """
    series, acquired = _moment(pet, "Series"), _moment(pet, "Acquisition")
    if acquired is None or (series is not None and series <= acquired):
        return series
    try:
        return _datetime(pet.private_block(*_GE)[_GE_SCAN_START].value)
    except KeyError:
        reference, frame = (float(pet.get(name) or 0) / 1000 for name in ("FrameReferenceTime", "ActualFrameDuration"))
    if not reference or not frame:
        return acquired
    decay = math.log(2) / half_life
    # when, within the frame, the count rate equals its average over the frame
    average = math.log(decay * frame / -math.expm1(-decay * frame)) / decay
    return acquired + timedelta(seconds=average - reference)


def seconds_since_injection(file: str, drug: pydicom.Dataset, start: datetime, half_life: float) -> float:
    """Seconds from the injection to the start of the scan.

    De-identified dates may disagree, and some scanners give none. Then the times of day decide, over midnight if need
    be, as long as a scan on any later day could see nothing.

    Args:
        drug: item of the RadiopharmaceuticalInformationSequence; start: of the scan; half_life: in s.

    Raises:
        BadFile: the times make no sense together.
    """
    longest = _HALF_LIVES * half_life
    exact = _datetime(drug.get("RadiopharmaceuticalStartDateTime"))
    elapsed = -1.0 if exact is None else (start - exact).total_seconds()
    if 0 <= elapsed <= longest:
        return elapsed
    if longest > _DAY_S:
        needed = "RadiopharmaceuticalStartDateTime, before the scan"
        raise BadFile(file, f"PET: with a half-life of {half_life / 3600:.1f} h, SUV needs {needed}")
    clock = _time(drug.get("RadiopharmaceuticalStartTime")) or (exact.time() if exact else time())
    elapsed = (start - datetime.combine(start.date(), clock)).total_seconds() % _DAY_S
    if elapsed > longest:
        lies = f"{elapsed / 3600:.1f} h before the scan, over {_HALF_LIVES} half-lives of {half_life / 60:.0f} min"
        raise BadFile(file, f"PET: the injection lies {lies}: the times are wrong")
    return elapsed


def _moment(pet: pydicom.Dataset, what: str) -> datetime | None:
    clock = _time(pet.get(f"{what}Time"))
    day = DA(str(pet.get(f"{what}Date") or pet.get("StudyDate") or ""))
    return None if clock is None else datetime.combine(day or _NO_DATE, clock)


def _time(value: object) -> time | None:
    return TM(str(value)) if value else None


def _datetime(value: object) -> datetime | None:
    """Local time; an offset from UTC is dropped, the other tags have none."""
    text = value.decode("ascii") if isinstance(value, bytes) else str(value or "")
    found = DT(text.strip("\0 "))
    return found.replace(tzinfo=None) if found else None
