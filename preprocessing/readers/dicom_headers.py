"""Which image series lie in a folder of DICOM files, by their headers alone (DICOM PS3.3).

Only the tags named here are read, none of them says who the patient is. Where a file is damaged, a tag may hold what
belongs to another one, so that messages never repeat what cannot be parsed.
"""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import UID, MediaStorageDirectoryStorage
from upath import UPath

from preprocessing.case import BadFile

_TAGS = [
    *("AcquisitionDate", "AcquisitionTime", "BitsAllocated", "Columns", "ImageOrientationPatient"),
    *("ImagePositionPatient", "ImageType", "Modality", "NumberOfFrames", "PhotometricInterpretation"),
    *("PixelRepresentation", "PixelSpacing", "Rows", "SamplesPerPixel", "SeriesInstanceUID"),
]
_NO_IMAGES = ("SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "RTRECORD", "REG", "SR", "PR", "KO", "DOC")
DICOM_ENDINGS = (".dcm", ".ima")
_UID = re.compile(r"[0-9.]{1,64}")
_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")
# what pydicom raises on damaged or exotic files, found by feeding it such; the last but one is its own exception for
# encodings that it cannot decode: caught here, raised nowhere in this project
PARSE_ERRORS = (
    *(ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, EOFError, OSError),
    *(NotImplementedError, BytesLengthException),
)


@dataclass(frozen=True)
class Slice:
    """What the header of one file says; an absent tag is an empty value.

    Attributes:
        file: on the local disk.
        series: SeriesInstanceUID.
        modality: "CT", "PT", "MR", ...
        size: columns, rows.
        spacing: between rows, between columns, in mm, as DICOM orders them.
        position: of the first pixel's centre, LPS mm.
        orientation: direction of the rows, then of the columns, LPS.
        frames: images in the file.
        monochrome: whether low values are dark (MONOCHROME2).
        dtype: of the stored values, as numpy names it.
        acquired: AcquisitionDate and AcquisitionTime; they sort by time.
    """

    file: Path
    series: str
    modality: str
    size: tuple[int, int]
    spacing: tuple[float, ...]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    frames: int
    monochrome: bool
    dtype: str
    acquired: str


def is_dicom(path: UPath) -> bool:
    """Whether a path is a file that says so of itself, whatever its name (PS3.10, 7.1)."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def choose_series(file: str, folder: Path, choice: str) -> list[Slice]:
    """The slices of the one image series that is meant, in no particular order.

    What is no image of the patient is passed over: segmentations, structures, doses, plans, reports, documents,
    localizers, colour pictures, and files that are not DICOM.

    Args:
        file: what to call the folder in messages.
        folder: on the local disk; its subfolders are not looked at.
        choice: a modality or a SeriesInstanceUID; "" where there is only one image series.

    Raises:
        BadFile: no series or more than one remains, or a DICOM file is damaged.
    """
    series: dict[str, list[Slice]] = defaultdict(list)
    others: Counter[str] = Counter()
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            header = _header(file, path)
            if header is not None:
                found = _slice(file, path, header)
                if found is None:
                    others[code_text(header.get("Modality"))] += 1
                else:
                    series[found.series].append(found)
    for uid in list(series):  # pictures that lie nowhere in the patient, such as screenshots
        if not any(s.position or s.frames > 1 for s in series[uid]):
            others[series[uid][0].modality] += len(series.pop(uid))
    if not series:
        raise BadFile(file, _nothing(folder, others))
    chosen = [s for uid, s in series.items() if choice in ("", uid) or choice.upper() == s[0].modality]
    if len(chosen) == 1:
        return chosen[0]
    if not chosen:
        raise BadFile(file, f"has no image series {choice}; it holds {_listing(series.values())}")
    how = "choose one by its series UID" if choice else "choose one by its modality or series UID"
    raise BadFile(file, f"{len(chosen)} image series, {how} after FOLDER#: {_listing(chosen)}")


@contextmanager
def quiet() -> Iterator[None]:
    """Without pydicom's warnings and log: they repeat the values that they complain of."""
    log = logging.getLogger("pydicom")
    before, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        log.disabled = before


def code_text(value: object) -> str:
    """The value of a coded tag such as Modality, as it may be shown."""
    text = str(value or "").strip()
    return text if _CODE.fullmatch(text) else "unreadable" if text else "not given"


def _header(file: str, path: Path) -> pydicom.Dataset | None:
    """The tags of a DICOM file; None if it is another kind of file."""
    try:
        with quiet():
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
        sort = UID(str(header.file_meta.get("MediaStorageSOPClassUID", "")))
        whole = "Modality" in header or sort == MediaStorageDirectoryStorage
        if "Rows" not in header and (not whole or sort.name.endswith("Image Storage")):
            raise BadFile(file, f"{path.name} is damaged or cut short: its header ends too early")
        return header
    except InvalidDicomError:
        if path.suffix.lower() in DICOM_ENDINGS:
            raise BadFile(file, f"{path.name} is no DICOM file ({path.stat().st_size} bytes)") from None
        return None
    except PARSE_ERRORS:
        raise BadFile(file, f"the DICOM header of {path.name} is damaged") from None


def _slice(file: str, path: Path, header: pydicom.Dataset) -> Slice | None:
    """None if the object is no grey image of the patient."""
    try:
        with quiet():
            tag = {name: header.get(name) for name in _TAGS}
            modality = code_text(tag["Modality"])
            colour = (tag["SamplesPerPixel"] or 1) != 1
            if not tag["Rows"] or colour or modality in _NO_IMAGES or "LOCALIZER" in _values(tag["ImageType"]):
                return None
            sign = "" if tag["PixelRepresentation"] else "u"
            return Slice(
                file=path,
                series=_uid(tag["SeriesInstanceUID"]),
                modality=modality,
                size=(int(tag["Columns"]), int(tag["Rows"])),
                spacing=_numbers(tag["PixelSpacing"], 2),
                position=_numbers(tag["ImagePositionPatient"], 3),
                orientation=_numbers(tag["ImageOrientationPatient"], 6),
                frames=int(tag["NumberOfFrames"] or 1),
                monochrome=tag["PhotometricInterpretation"] == "MONOCHROME2",
                dtype=f"{sign}int{int(tag['BitsAllocated'])}",
                acquired=f"{tag['AcquisitionDate'] or ''}{tag['AcquisitionTime'] or ''}",
            )
    except PARSE_ERRORS:
        raise BadFile(file, f"the DICOM header of {path.name} is damaged") from None


def _values(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | int | float) else list(value)


def _numbers(value: Any, count: int) -> tuple[float, ...]:
    numbers = tuple(float(number) for number in _values(value))
    if len(numbers) not in (0, count) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"not {count} numbers")
    return numbers


def _uid(value: Any) -> str:
    if not _UID.fullmatch(str(value)):
        raise ValueError("not a UID")
    return str(value)


def _listing(series: Iterable[Sequence[Slice]]) -> str:
    """Modality, number of images and UID of each."""
    lines = [(s[0].modality, f"{len(s)} image{'s' * (len(s) > 1)}", s[0].series) for s in series]
    return "; ".join(", ".join(line) for line in sorted(lines))


def _nothing(folder: Path, others: Counter[str]) -> str:
    if others:
        seen = ", ".join(f"{name}: {number}" for name, number in sorted(others.items()))
        return f"none of its DICOM objects is an image of the patient ({seen})"
    inside = sorted(path.name for path in folder.iterdir() if path.is_dir())
    hint = f"; it has the subfolder{'s' * (len(inside) > 1)} {', '.join(inside[:5])}" if inside else ""
    return f"no DICOM file lies in the folder{hint}"
