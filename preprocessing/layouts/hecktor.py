"""The layouts of HECKTOR (Oreiller et al. 2022, Andrearczyk et al. 2023): CT and FDG-PET of head-and-neck tumours.

2022: `imagesTr/ID__CT.nii.gz`, `ID__PT.nii.gz`, `labelsTr/ID.nii.gz`, and imagesTs without labels. 2020 and 2021:
`ID_ct.nii.gz`, `ID_pt.nii.gz`, `ID_gtvt.nii.gz` (or `ID_ct_gtvt.nii.gz`) in the root, in hecktor_nii, or in a folder
a patient there. Since 2025 a folder a patient holds `ID__CT.nii.gz`, `ID__PT.nii.gz` and the label `ID.nii.gz`.
CT and PT have grids of their own; the label lies on that of the CT: 1 is the primary tumour (GTVp), 2 the lymph nodes
(GTVn, none before 2022).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from upath import UPath

from preprocessing.case import Case, Rejection
from preprocessing.errors import ConfigError
from preprocessing.layouts.scans import LABEL, Scan, first_copy, list_folder, nifti_name, to_cases, walk

_ENDINGS = {"CT": "__CT.nii.gz", "PT": "__PT.nii.gz"}
_PARTS = {"ct": "CT", "pt": "PT", "gtvt": LABEL, "ct_gtvt": LABEL}
_FILE = re.compile(r"^(?P<id>[^_]+(?:_[^_]+)*?)_{1,2}(?P<part>ct_gtvt|gtvt|ct|pt)$", re.IGNORECASE)
_CENTRE = re.compile(r"^[^\W\d_]*")
_DEPTH = 3  # how far below the root a hint is sought

_Found = tuple[str, str, UPath]  # id as spelt, "CT", "PT" or LABEL, file


def find(root: str) -> tuple[list[Case], list[Rejection]]:
    """One case a patient, modalities CT then PT; the centre (CHUM of CHUM-001) is the stratum, the id the group.

    Images without a label are unlabelled. A patient who lacks CT or PT is rejected, and so is a label without images
    and a second copy of a patient. CHUM-001, chum_001 and CHUM001 are one patient.

    Raises:
        ConfigError: the root holds none of the forms above.
    """
    top = UPath(root)
    scans = list(_scans(top)) if top.is_dir() else []
    if not scans:
        raise ConfigError(
            f"data.root: {root} holds neither imagesTr with ID__CT.nii.gz (HECKTOR 2022) nor ID_ct.nii.gz itself, "
            f"in hecktor_nii or in a folder a patient (2020, 2021){_hint(top)}"
        )
    return to_cases(scans, _ENDINGS)


def _scans(root: UPath) -> Iterator[Scan]:
    """Every scan in the root, in all forms."""
    files, folders = list_folder(root)
    named = {str(folder.name).lower(): folder for folder in folders}
    for end in ("tr", "ts"):
        images, labels = (_files(named, f"{kind}{end}") for kind in ("images", "labels"))
        yield from _gather([*_images(images), *((nifti_name(file), LABEL, file) for file in labels)])
    if not _is_part_of_2022(root):  # there the labels would be overlooked
        yield from _gather(_images(files))
    if "hecktor_nii" in named:
        files, inside = list_folder(named["hecktor_nii"])
        yield from _gather(_images(files))
        folders += inside
    for folder in folders:
        yield from _gather(_patient(folder))


def _files(named: dict[str, UPath], name: str) -> list[UPath]:
    return list_folder(named[name])[0] if name in named else []


def _images(files: Iterable[UPath]) -> Iterator[_Found]:
    """Files whose name ends with a modality, or with the name of the label of 2020 and 2021."""
    for file in files:
        match = _FILE.match(nifti_name(file))
        if match:
            yield match["id"], _PARTS[match["part"].lower()], file


def _patient(folder: UPath) -> list[_Found]:
    """Files in a folder that is called like its patient."""
    files = list_folder(folder)[0]
    found = [*_images(files), *((nifti_name(file), LABEL, file) for file in files)]
    return [entry for entry in found if _key(entry[0]) == _key(folder.name)]


def _gather(found: Iterable[_Found]) -> Iterator[Scan]:
    patients: dict[str, dict[str, list[tuple[UPath, str]]]] = defaultdict(lambda: defaultdict(list))
    for spelt, part, file in found:
        patients[_key(spelt)][part].append((file, spelt))
    for key, parts in patients.items():
        files = {part: first_copy(file for file, _ in copies) for part, copies in parts.items()}
        leading = next(part for part in (*_ENDINGS, LABEL) if part in files)
        name = dict(parts[leading])[files[leading]]
        centre = _CENTRE.match(name)
        yield Scan(name, key, name, centre[0].upper() if centre else "", files)


def _key(spelt: str) -> str:
    return re.sub(r"[-_ ]", "", spelt).lower()


def _is_part_of_2022(folder: UPath) -> bool:
    return re.fullmatch(r"(images|labels)t[rs]", str(folder.name).lower()) is not None


def _hint(root: UPath) -> str:
    """The nearest folder that would do: below the root, or above it where the root is imagesTr itself."""
    nearby = [root.parent] if _is_part_of_2022(root) else []
    nearby += [folder for folder, _ in walk(root, _DEPTH)]
    return next((f"; did you mean {folder}?" for folder in nearby if any(_scans(folder))), "")
