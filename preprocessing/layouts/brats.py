"""The layouts of BraTS (Menze et al. 2015, Bakas et al. 2017, Baid et al. 2021): four MRI modalities of a glioma.

2017 to 2021: `NAME_t1.nii.gz`, `_t1ce`, `_t2`, `_flair`, `_seg`; since 2023: `NAME-t1n.nii.gz`, `-t1c`, `-t2w`,
`-t2f`, `-seg`. Usually a folder holds one subject, at any depth below the root. Copies of the data are understood too
that hold all subjects in one folder, whose files are called otherwise than their folder, or where each file lies in a
folder that bears its name (`BraTS2021_00000_flair.nii/00000057_brain_flair.nii`).

Label values: 1 is the core that does not enhance (necrosis above all), 2 oedema; the enhancing tumour is 4 until 2021
and 3 since 2023, and no file has both, so that `finetune.classes` of configs/brats.yaml serves all years. It does not
serve the gliomas after treatment of 2024, where 4 is the cavity that surgery left.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from upath import UPath

from preprocessing.case import Case, Rejection
from preprocessing.errors import ConfigError
from preprocessing.layouts.scans import LABEL, Scan, first_copy, nifti_name, to_cases, walk

_ENDINGS = {
    "t1": "_t1.nii.gz or -t1n.nii.gz",
    "t1ce": "_t1ce.nii.gz or -t1c.nii.gz",
    "t2": "_t2.nii.gz or -t2w.nii.gz",
    "flair": "_flair.nii.gz or -t2f.nii.gz",
}
_PARTS = {
    "t1": "t1", "t1n": "t1",
    "t1ce": "t1ce", "t1c": "t1ce",
    "t2": "t2", "t2w": "t2",
    "flair": "flair", "t2f": "flair",
    "seg": LABEL, "segm": LABEL,  # one subject of 2020 came with W39_1998.09.19_Segm.nii
}  # fmt: skip
_FILE = re.compile(rf"^(?:(?P<name>.+)[_-])?(?P<part>{'|'.join(_PARTS)})$", re.IGNORECASE)
_SUBJECT = re.compile(r"^brats(\d\d_.+_\d+|20\d\d_\d+|-[a-z]+-\d+-\d+)$", re.IGNORECASE)
_TIME_POINT = re.compile(r"^(brats-[a-z]+-\d+)-\d+$", re.IGNORECASE)  # BraTS-GLI-00001-000
# the same patients came back every year: Brats18_CBICA_ABM_1 as BraTS19_CBICA_ABM_1, Brats17_TCIA_607_1 as
# Brats18_TCIA02_607_1; they were numbered anew in 2020
_YEARLY = re.compile(r"^brats1[789]_(?P<site>tcia(?=\d*_)|[^_]+)\d*_(?P<patient>.+)_\d+$", re.IGNORECASE)
_GRADES = ("HGG", "LGG")

_Parts = dict[str, list[UPath]]  # copies of each modality, and of the label


def find(root: str) -> tuple[list[Case], list[Rejection]]:
    """One case a subject and time point, modalities always t1, t1ce, t2, flair; the group is the patient.

    The stratum is HGG or LGG where a folder above is called so, else "". Subjects without a label map are unlabelled.
    A subject that lacks a modality, a label map without images, and a second copy of a subject in another folder are
    rejected; of `.nii` and `.nii.gz` side by side the latter is taken.

    Raises:
        ConfigError: no file below the root is called as BraTS calls them.
    """
    top = UPath(root)
    subjects: dict[UPath, dict[str, _Parts]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    others = 0
    for folder, files in walk(top):
        matches = {file: match for file in files if (match := _FILE.match(nifti_name(file)))}
        others += len(files) - len(matches)
        wrapper = None if folder == top else _FILE.match(nifti_name(folder) or folder.name)
        home = folder.parent if wrapper else folder
        alone = len({nifti_name(file) for file in matches}) == 1
        for file, match in matches.items():
            name = match["name"] or ""
            if wrapper and wrapper["name"] and alone and not _SUBJECT.match(name):
                name = wrapper["name"]
            subjects[home][name][_PARTS[match["part"].lower()]].append(file)
    if not subjects:
        raise ConfigError(
            f"data.root: no file below {root} is called as BraTS calls them, NAME_t1.nii.gz or NAME-t1n.nii.gz; "
            f"there are {others} NIfTI files of other names"
        )
    above = len(top.parts) - 1  # the root's own name counts
    scans = [
        _scan(name, folder.parts[above:], parts)
        for folder, names in subjects.items()
        for name, parts in _by_subject(folder, names)
    ]
    return to_cases(scans, _ENDINGS)


def _by_subject(folder: UPath, names: dict[str, _Parts]) -> Iterator[tuple[str, _Parts]]:
    """Subjects in one folder: the folder's own where it is called like one and no two others lie in it."""
    own = str(folder.name)
    twice = any(sum(part in parts for parts in names.values()) > 1 for part in _ENDINGS)
    if _SUBJECT.match(own) and not twice and sum(_SUBJECT.match(name) is not None for name in names) < 2:
        merged: _Parts = defaultdict(list)
        for parts in names.values():
            for part, files in parts.items():
                merged[part] += files
        yield own, merged
        return
    for name, parts in names.items():
        yield name or own, parts


def _scan(name: str, parents: Sequence[str], parts: _Parts) -> Scan:
    grades = [parent.upper() for parent in parents if parent.upper() in _GRADES]
    files = {part: first_copy(files) for part, files in parts.items()}
    return Scan(name, name.lower(), _patient(name), grades[-1] if grades else "", files)


def _patient(name: str) -> str:
    """BraTS-GLI-00001 for BraTS-GLI-00001-000, CBICA_ABM for Brats18_CBICA_ABM_1, else the name itself."""
    time_point, yearly = _TIME_POINT.match(name), _YEARLY.match(name)
    if yearly:
        return f"{yearly['site']}_{yearly['patient']}"
    return time_point[1] if time_point else name
