"""Layouts of data sets: each module turns a folder into cases. A new layout is a module and a line in LAYOUTS."""

from __future__ import annotations

import difflib
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydantic import Field
from upath import UPath

from preprocessing.case import Case, Rejection
from preprocessing.duplicates import DuplicateSettings
from preprocessing.errors import ConfigError
from preprocessing.given_splits import find_leaks, read_given
from preprocessing.layouts import brats, busi, hecktor, manifest
from preprocessing.object_store import fresh, is_local, reaching
from preprocessing.phantoms.ultrasound import write_busi_phantoms
from preprocessing.phantoms.volumes import write_brats_phantoms, write_hecktor_phantoms
from preprocessing.splits import SplitSettings
from preprocessing.storage import absolute, write_text

LAYOUTS: dict[str, Callable[[DataSettings], tuple[list[Case], list[Rejection]]]] = {
    "busi": lambda data: busi.find(absolute(data.root)),
    "hecktor": lambda data: hecktor.find(absolute(data.root)),
    "brats": lambda data: brats.find(absolute(data.root)),
    "manifest": lambda data: manifest.find(absolute(data.root), data.manifest, data.modalities),
}


class DataSettings(SplitSettings, DuplicateSettings):
    """Where the scans are, and how they are grouped and split."""

    root: str = Field("", description="Folder or URI of the data set.")
    layout: str = Field("busi", description=f"How its files are laid out: {', '.join(LAYOUTS)}.")
    manifest: str = Field(
        "manifest.csv", description="Table of the manifest layout, CSV or Parquet, as a path inside data.root."
    )
    modalities: tuple[str, ...] = Field(
        (),
        description="Modalities to use, in this order: of the layout's, or columns of the manifest. Empty: all that "
        "the layout has; `image`, or every column that is not reserved.",
    )
    phantoms: int = Field(
        0,
        ge=0,
        description="Phantoms to write to data.root, in the layout's own form (not that of manifest), where that "
        "folder is missing.",
    )
    dims: int = Field(2, ge=2, le=3, description="Spatial axes of an image.")


_UNFINISHED = ".unfinished"
_PHANTOMS = "PHANTOMS.txt"
_PHANTOMS_TEXT = "Scans in this folder are phantoms, made up by a program. No figure that they give is evidence.\n"

PHANTOMS: dict[str, Callable[[str, int, int], None]] = {
    "busi": write_busi_phantoms,
    "hecktor": write_hecktor_phantoms,
    "brats": write_brats_phantoms,
}


def load_cases(data: DataSettings) -> tuple[list[Case], list[Rejection]]:
    """The cases of the data set, sorted by id, and those that the layout cannot make a case of.

    Raises:
        ConfigError: no root or a missing one, an unknown layout, mistakes in the manifest or in
            data.splits (a leak names its pairs), or no case found.
        StoreError: the store of a URI refuses or cannot be reached.
    """
    root = UPath(data.root)
    if not is_local(root):
        root.fs.invalidate_cache()  # each folder is listed once, and anew for each call
    with reaching(data.root):
        return _load(data)


def _load(data: DataSettings) -> tuple[list[Case], list[Rejection]]:
    mistakes = []
    if data.layout not in LAYOUTS:
        near = difflib.get_close_matches(data.layout, LAYOUTS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        mistakes.append(f"data.layout: there is no layout {data.layout!r}, there are {', '.join(LAYOUTS)}{hint}")
    if data.phantoms and data.root and data.layout in PHANTOMS and _lacks_phantoms(UPath(data.root)):
        _write_phantoms(data)
    if not data.root:
        mistakes.append("data.root is not set: give the folder of the scans, data.root=FOLDER")
    elif not UPath(data.root).is_dir():
        mistakes.append(f"data.root: there is no folder {data.root}{_nearest(UPath(data.root))}")
    if mistakes:
        raise ConfigError(mistakes)
    cases, rejected = LAYOUTS[data.layout](data)
    if not cases:
        first = "".join(f"; {r.file}: {r.reason}" for r in rejected[:3])
        raise ConfigError(f"data.root: no case found under {data.root} in the layout {data.layout!r}{first}")
    twice = sorted(name for name, count in Counter(case.id for case in cases).items() if count > 1)
    if twice:
        raise ConfigError(f"data.root: more than one scan is called {', '.join(twice[:5])}; give each its own name")
    if data.modalities:
        cases = _with_modalities(cases, data.modalities)
    if data.splits:
        given = read_given(data.splits, [case.id for case in cases] + [rejection.case for rejection in rejected])
        cases = [replace(case, split=given.get(case.id, "")) for case in cases]
    leaks = find_leaks([c.id for c in cases], [c.group for c in cases], [c.split for c in cases])
    if leaks:
        raise ConfigError(leaks)
    return sorted(cases, key=lambda case: case.id), rejected


def has_phantoms(root: str) -> bool:
    """Whether scans under a data root are made up, in whole or in part, so that no figure of it is evidence."""
    return (UPath(root) / _PHANTOMS).exists()


def _with_modalities(cases: list[Case], wanted: tuple[str, ...]) -> list[Case]:
    lacking = [name for name in wanted if any(name not in case.images for case in cases)]
    if lacking:
        known = ", ".join(cases[0].images)
        raise ConfigError(f"data.modalities: not every case has {', '.join(lacking)}; {cases[0].id} has {known}")
    return [replace(case, images={name: case.images[name] for name in wanted}) for case in cases]


def _lacks_phantoms(root: UPath) -> bool:
    return not root.exists() or (not is_local(root) and (root / _UNFINISHED).exists())


def _write_phantoms(data: DataSettings) -> None:
    """Into a folder beside the root, renamed when all are there, so that a kill leaves no root with some.

    A store cannot rename: there a mark says that some are lacking, and they are written again, the same ones.
    """
    if not is_local(UPath(data.root)):
        write_text(UPath(data.root) / _UNFINISHED, "")
        _write_all(data, data.root)
        fresh(UPath(data.root) / _UNFINISHED).unlink()
        return
    root = Path(data.root)
    part = root.with_name(f"{root.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    _write_all(data, str(part))
    part.rename(root)


def _write_all(data: DataSettings, root: str) -> None:
    PHANTOMS[data.layout](root, data.phantoms, 0)
    write_text(UPath(root) / _PHANTOMS, _PHANTOMS_TEXT)


def _nearest(path: UPath) -> str:
    """A hint at a folder of a similar name beside the missing one."""
    if not path.parent.is_dir():
        return ""
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir() if p.is_dir()], 1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""
