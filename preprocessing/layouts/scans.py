"""What layouts of volumes share: NIfTI files below a folder, and scans of several modalities made into cases.

Files are known by their names alone and not opened here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from upath import UPath

from preprocessing.case import Case, Rejection
from preprocessing.errors import ConfigError
from preprocessing.object_store import is_local

LABEL = "label"  # the key of the label map among a scan's files
_ENDINGS = (".nii.gz", ".nii")
_NO_DATA = ("__MACOSX", "lost+found")  # folders that archives and file systems leave behind


@dataclass(frozen=True)
class Scan:
    """The files of one scan, complete or not.

    Attributes:
        name: id of the case; key: the same for every copy of one scan, however its name is spelt.
        group: patient; stratum: class to stratify by, "" when unknown.
        files: modality, or LABEL, -> file; never empty.
    """

    name: str
    key: str
    group: str
    stratum: str
    files: Mapping[str, UPath]


def nifti_name(file: UPath) -> str:
    """Name without its ending `.nii` or `.nii.gz`, whatever its capitals; "" for any other file."""
    for ending in _ENDINGS:
        if file.name.lower().endswith(ending):
            return str(file.name[: -len(ending)])
    return ""


def first_copy(files: Iterable[UPath]) -> UPath:
    """One of several files of the same content: `.nii.gz`, as it is published, before what was unpacked from it."""
    return min(files, key=lambda file: (not file.name.lower().endswith(".gz"), str(file)))


def list_folder(folder: UPath) -> tuple[list[UPath], list[UPath]]:
    """NIfTI files and folders in a folder, sorted by name, without hidden ones (such as a Mac's `._NAME`).

    Raises:
        ConfigError: the folder may not be read.
    """
    files, folders = [], []
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: str(entry.name))
    except PermissionError:
        raise ConfigError(f"data.root: the folder {folder} may not be read; change its rights") from None
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _NO_DATA:
            continue
        if entry.is_dir():
            folders.append(entry)
        elif nifti_name(entry):
            files.append(entry)
    return files, folders


def walk(root: UPath, depth: int | None = None) -> Iterator[tuple[UPath, list[UPath]]]:
    """Each folder below the root, the root first and near ones before deep ones, with its NIfTI files.

    Links to folders are followed; a folder that is reached twice is visited once.
    """
    queue, seen = deque([(root, 0)] if root.is_dir() else []), set()
    while queue:
        folder, level = queue.popleft()
        place = str(folder.resolve()) if is_local(folder) else str(folder)
        if place in seen:
            continue
        seen.add(place)
        files, folders = list_folder(folder)
        yield folder, files
        if depth is None or level < depth:
            queue.extend((inside, level + 1) for inside in folders)


def to_cases(scans: Iterable[Scan], endings: Mapping[str, str]) -> tuple[list[Case], list[Rejection]]:
    """One case a scan. A scan that lacks a modality, and every copy but the most complete one, is rejected.

    Args:
        scans: in any order; endings: modality -> how its file is called after the name, in the order of the channels.
    """
    cases, rejected, taken = [], [], dict[str, UPath]()
    groups: dict[str, str] = {}  # one spelling for each patient, whatever the capitals
    for scan in sorted(scans, key=lambda scan: _most_complete_first(scan, endings)):
        file = next(scan.files[name] for name in (*endings, LABEL) if name in scan.files)
        missing = [name for name in endings if name not in scan.files]
        if scan.key in taken:
            reason = f"is a copy of the case in {taken[scan.key]}, which is used"
            rejected.append(Rejection(scan.name, str(file), reason))
            continue
        taken[scan.key] = file.parent
        if missing:
            sought = ", ".join(f"{name} ({scan.name}{endings[name]})" for name in missing)
            what = "the label has no images" if len(missing) == len(endings) else "not all modalities are there"
            rejected.append(Rejection(scan.name, str(file), f"{what}; missing: {sought}"))
            continue
        images = {name: str(scan.files[name]) for name in endings}
        labels = (str(scan.files[LABEL]),) if LABEL in scan.files else ()
        group = groups.setdefault(scan.group.lower(), scan.group)
        cases.append(Case(scan.name, group, scan.stratum, images, labels))
    return cases, rejected


def _most_complete_first(scan: Scan, endings: Mapping[str, str]) -> tuple[str, bool, bool, str]:
    incomplete = any(name not in scan.files for name in endings)
    return scan.key, incomplete, LABEL not in scan.files, min(str(file) for file in scan.files.values())
