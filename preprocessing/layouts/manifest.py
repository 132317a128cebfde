"""Any data set, from a table: CSV or Parquet with the columns case, group, image (or one a modality), label, split.

Only `case` and an image column are required. Paths are relative to data.root and may not leave it; a label cell may
name several masks, separated by ";"; an empty one means unlabelled. `stratum` is the class to stratify by.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from preprocessing.case import Case, Rejection
from preprocessing.errors import ConfigError, shortened
from preprocessing.given_splits import SPLITS
from preprocessing.object_store import is_local
from preprocessing.readers.dicom import series_folder
from preprocessing.text_table import read_csv, stripped

RESERVED = ("case", "group", "stratum", "label", "split")


def find(root: str, manifest: str, modalities: Sequence[str]) -> tuple[list[Case], list[Rejection]]:
    """One case a row.

    Args:
        root: data.root; manifest: path of the table inside it; modalities: its image columns, () to guess.

    Raises:
        ConfigError: all mistakes of the table at once.
    """
    table = _read(root, manifest)
    columns = _image_columns(table, manifest, modalities)
    mistakes = _column_mistakes(table, manifest, columns)
    if mistakes:
        raise ConfigError(mistakes)
    _tell_unused(table, manifest, columns)
    inside = _Inside(root)
    rows: list[str] = []
    cases = []
    for number, row in enumerate(table.to_dict("records"), start=2):  # as a spreadsheet counts them
        where = f"{manifest}, row {number} (case {row['case'] or '?'})"
        cells = [(name, row[name]) for name in columns]
        masks = [part.strip() for part in row.get("label", "").split(";") if part.strip()]
        if not row["case"]:
            rows.append(f"{where}: the case has no name")
        if row["case"].startswith("/") or ".." in row["case"].replace("\\", "/").split("/"):
            rows.append(f"{where}: a case's name may not begin with / or hold ..: results are filed under it")
        if row.get("split", "") not in ("", *SPLITS):
            rows.append(f"{where}: split is {row['split']!r}, there are {', '.join(SPLITS)}")
        rows += [f"{where}: column {name} is empty" for name, cell in cells if not cell]
        for name, cell in [*cells, *(("label", mask) for mask in masks)]:
            mistake = inside.mistake(cell) if cell else ""
            if mistake:
                rows.append(f"{where}: column {name}: {mistake}")
        images = {name: inside.path(cell) for name, cell in cells}
        labels = tuple(inside.path(mask) for mask in masks)
        group = row.get("group", "") or row["case"]
        cases.append(Case(row["case"], group, row.get("stratum", ""), images, labels, row.get("split", "")))
    twice = table["case"][table["case"].duplicated() & (table["case"] != "")].unique()
    mistakes = shortened(rows) + shortened([f"{manifest}: case {case} is named more than once" for case in twice])
    if mistakes:
        raise ConfigError(mistakes)
    return cases, []


class _Inside:
    """Paths below the root, and below nothing else, whatever `..` and links say."""

    def __init__(self, root: str) -> None:
        self._root = UPath(root)
        self._local = is_local(self._root)
        self._real = self._root.resolve()
        self._listed: dict[UPath, set[str]] = {}

    def path(self, cell: str) -> str:
        return str(self._root / cell)

    def mistake(self, cell: str) -> str:
        """Why the cell cannot be used, "" if it can."""
        escapes = "://" in cell or cell.startswith("/") or ".." in cell.replace("\\", "/").split("/")
        path = None if escapes else self._root / cell
        if path is None or (self._local and not path.resolve().is_relative_to(self._real)):
            return f"{cell} leaves data.root; paths must be relative and stay inside"
        folder = UPath(series_folder(str(path)))  # a folder is a DICOM series
        there = path.is_file() or folder.is_dir() if self._local else self._lists(path) or self._lists(folder)
        return "" if there else f"there is no file or folder {cell} in data.root"

    def _lists(self, path: UPath) -> bool:
        """Whether the path is in a store; each folder is listed once, to ask for each file alone takes far longer."""
        folder = path.parent
        if folder not in self._listed:
            self._listed[folder] = {str(entry.name) for entry in folder.iterdir()} if folder.is_dir() else set()
        return path.name in self._listed[folder]


def _read(root: str, manifest: str) -> pd.DataFrame:
    """The table with every cell as text, empty where there is nothing."""
    path = UPath(root) / manifest
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".parquet":
            table = pq.read_table(io.BytesIO(content)).to_pandas()
            return stripped(table.astype(object).where(table.notna(), "").astype(str))
        return read_csv(content)
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"data.manifest: there is no file {path}") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise ConfigError(f"data.manifest: {path} cannot be read as a table: {error}") from None


def _image_columns(table: pd.DataFrame, manifest: str, modalities: Sequence[str]) -> list[str]:
    if modalities:
        missing = [name for name in modalities if name not in table]
        if missing:
            raise ConfigError(
                [f"data.modalities: {manifest} has no column {name}{_near(name, table)}" for name in missing]
            )
        return list(modalities)
    return ["image"] if "image" in table else [name for name in table if name not in RESERVED]


def _column_mistakes(table: pd.DataFrame, manifest: str, columns: Sequence[str]) -> list[str]:
    mistakes = []
    if "case" not in table:
        mistakes.append(f"{manifest}: the column case is missing{_near('case', table)}")
    if not columns:
        mistakes.append(f"{manifest}: there is no image column; name one image, or one for each modality")
    for name in table:  # a mistyped column would silently drop all labels
        near = difflib.get_close_matches(name, (*RESERVED, "image"), 1, 0.75)
        if near and name not in (*RESERVED, "image") and near[0] not in table:
            mistakes.append(f"{manifest}: column {name!r} is not known; did you mean {near[0]!r}?")
    if not len(table):
        mistakes.append(f"{manifest}: the table has no rows")
    return mistakes


def _tell_unused(table: pd.DataFrame, manifest: str, columns: Sequence[str]) -> None:
    """A column of labels under a name of one's own would be overlooked otherwise."""
    if unused := [name for name in table if name not in (*RESERVED, *columns)]:
        print(f"data.manifest: {manifest}: the column(s) {', '.join(unused)} are not used", flush=True)


def _near(name: str, table: pd.DataFrame) -> str:
    near = difflib.get_close_matches(name, list(table), 1)
    return f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(map(str, table))}"
