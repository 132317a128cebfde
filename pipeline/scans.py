"""Which scans a prediction is made of: a file, a folder searched to the bottom, a data set's layout or a table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from upath import UPath

from preprocessing.case import Case, Rejection
from preprocessing.errors import ConfigError
from preprocessing.layouts import LAYOUTS, DataSettings
from preprocessing.object_store import fresh, is_local, reaching
from preprocessing.readers.dicom_headers import DICOM_ENDINGS, is_dicom
from preprocessing.readers.images import READERS
from preprocessing.readers.volumes import READERS as VOLUME_READERS

T = TypeVar("T")
_Found = tuple[list[Case], list[Rejection]]  # scans, and what cannot be one
_NAMELESS = re.compile(r"^(?!DICOMDIR$)[^.]*(\.\d+)*$", re.IGNORECASE)  # no ending, or the last number of a UID
_MASK = re.compile(r"_mask(_\d+)?$")  # of BUSI's naming


def find_scans(source: str, data: DataSettings, modalities: int, output: UPath | None = None) -> _Found:
    """The scans to segment, labels or not, and what cannot be one.

    Args:
        source: `predict.input`.
        data: its layout and modalities are used where a scan has several.
        modalities: what the segmenter takes.
        output: folder of the results; what a former run left there is no scan, unless a table names it.

    Raises:
        ConfigError: the input is not set, does not exist, is the output, or holds nothing of a known format.
    """
    if not source:
        raise ConfigError("predict.input is not set: give a folder of scans or one file, predict.input=FOLDER")
    path = UPath(source)
    with reaching(source):
        if path.suffix.lower() in (".csv", ".parquet"):
            manifest = data.model_copy(update={"layout": "manifest", "manifest": path.name})
            return _wanted(_laid_out(manifest, path.parent), data)
        if modalities > 1 and path.is_dir():
            return _wanted(_laid_out(data, path, output), data)
        if data.modalities and data.layout != "manifest" and path.is_dir():
            with suppress(ConfigError):  # files of the one modality alone are no scans of the layout
                found = _laid_out(data, path, output)
                if len(found[0][0].images) > 1:  # one of a scan's modalities is not every file of it
                    return _wanted(found, data)
        return find_files(source, output), []


def _laid_out(data: DataSettings, root: UPath, output: UPath | None = None) -> _Found:
    if not root.is_dir():
        raise ConfigError(f"predict.input: there is no folder {root}")
    if data.layout not in LAYOUTS:
        raise ConfigError(f"data.layout: there is no layout {data.layout!r}, there are {', '.join(LAYOUTS)}")
    cases, rejected = LAYOUTS[data.layout](data.model_copy(update={"root": str(root)}))
    results = _results(root, output)
    cases = _without(cases, lambda case: next(iter(case.images.values())), results)
    if not cases:
        raise ConfigError(f"predict.input: no scan in the layout {data.layout!r} under {root}")
    return cases, _without(rejected, lambda rejection: rejection.file, results)


def _wanted(found: _Found, data: DataSettings) -> _Found:
    """With the modalities that were asked for, as far as a scan has them (a segmenter says what it lacks), and without
    masks, which have no say in a prediction."""
    cases, rejected = found
    kept = [[name for name in case.images if name in data.modalities or not data.modalities] for case in cases]
    return [
        replace(case, images={name: case.images[name] for name in names}, labels=())
        for case, names in zip(cases, kept, strict=True)
    ], rejected


def find_files(source: str, output: UPath | None = None) -> list[Case]:
    """Every image or volume under a folder (masks of BUSI's naming aside), or the one file or DICOM folder given.

    The case is the path without its ending. What lies under `output` is no scan.

    Raises:
        ConfigError: as in `find_scans`.
    """
    root = UPath(source)
    if root.is_file() or ("#" in root.name and not root.is_dir()):
        return [_case(_stem(root.name), root)]
    if not root.is_dir():
        raise ConfigError(f"predict.input: there is no folder or file {source}")
    everything = list(fresh(root).rglob("*"))
    series = {file.parent for file in everything if file.suffix.lower() in DICOM_ENDINGS}
    for file in everything:  # of a scanner's export, where files may be called IM0001 or 1.2.840.113619
        if file.parent not in series and _NAMELESS.search(file.name) and is_dicom(file):
            series.add(file.parent)
    files = [file for file in everything if _ending(file.name) and file.parent not in series]
    masks = {file for file in files if _MASK.search(_stem(file.name))}
    files = _without(sorted([*files, *series], key=str), str, _results(root, output))
    if aside := masks.intersection(files):
        print(f"predict: {len(aside)} files called *_mask are taken for masks and left alone", flush=True)
    files = [file for file in files if file not in aside]
    if not files:
        known = ", ".join([*READERS, *VOLUME_READERS])
        raise ConfigError(f"predict.input: no image under {source}; known endings are {known}")
    relative = [file.path.removeprefix(root.path).lstrip("/") or root.absolute().name for file in files]
    stems = [_stem(name) for name in relative]
    counts = Counter(stems)
    twice = {stem for stem in stems if counts[stem] > 1}  # a.png beside a.jpg
    return [
        _case(name if stem in twice else stem, file) for stem, name, file in zip(stems, relative, files, strict=True)
    ]


def _results(root: UPath, output: UPath | None) -> UPath | None:
    """The output as it is met in a search below the root; None where it lies elsewhere.

    Raises:
        ConfigError: it is the root.
    """
    if output is None:
        return None
    own, searched = _place(output), _place(root)
    if own == searched:
        raise ConfigError(
            f"predict.output = {output}: is the folder of predict.input, so that a second run would take the masks "
            f"for scans; give another one, such as predict.output={root / 'predictions'}"
        )
    return root / own.removeprefix(searched) if own.startswith(searched) else None


def _place(folder: UPath) -> str:
    """Path of a folder, / at its end, the same however it is spelt."""
    return str(UPath(folder.path).resolve() if is_local(folder) else folder).rstrip("/") + "/"


def _without(items: Sequence[T], file_of: Callable[[T], str], results: UPath | None) -> list[T]:
    """The items whose file does not lie in the folder of the results; says how many do."""
    if results is None:
        return list(items)
    kept = [item for item in items if not UPath(file_of(item)).is_relative_to(results)]
    if len(kept) < len(items):
        print(f"predict: {len(items) - len(kept)} files left out, for they lie in the output {results}", flush=True)
    return kept


def _ending(name: str) -> str:
    found = [ending for ending in (*READERS, *VOLUME_READERS) if name.lower().endswith(ending)]
    return max(found, key=len, default="")


def _stem(name: str) -> str:
    return name[: len(name) - len(_ending(name))]


def _case(name: str, file: UPath) -> Case:
    return Case(id=name, group=name, stratum="", images={"image": str(file)}, labels=())
