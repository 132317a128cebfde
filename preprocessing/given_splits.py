"""Splits that come from outside, in a file or with the data set: reading them, and what may be wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from upath import UPath

from preprocessing.errors import ConfigError, shortened
from preprocessing.text_table import read_csv

PARTS = ("train", "val", "test")
SPLITS = (*PARTS, "unlabelled", "excluded")


def read_given(path: str, known: Iterable[str]) -> dict[str, str]:
    """Split of each case from a CSV with columns case and split.

    Raises:
        ConfigError: the file is missing, lacks a column, or names a split or a case that does not exist.
    """
    table, names = read_columns(path, ("case", "split")), set(known)
    mistakes = shortened(
        [f"data.splits: {path}: case {c} has the split {s!r}, there are {', '.join(SPLITS)}"
         for c, s in zip(table["case"], table["split"], strict=True) if s not in SPLITS]
    )  # fmt: skip
    mistakes += shortened([f"data.splits: {path}: there is no case {c}" for c in table["case"] if c not in names])
    mistakes += shortened(
        [f"data.splits: {path}: case {c} is named twice" for c in table["case"][table["case"].duplicated()]]
    )
    if mistakes:
        raise ConfigError(mistakes)
    return dict(zip(table["case"], table["split"], strict=True))


def find_leaks(cases: Sequence[str], groups: Sequence[str], splits: Sequence[str]) -> list[str]:
    """A sentence for each pair of one group (a patient, or near-duplicate images) that the splits part."""
    table = pd.DataFrame({"case": list(cases), "group": list(groups), "split": list(splits)})
    # what is pretrained on without its label is trained on all the same
    table["part"] = table["split"].replace("unlabelled", "train")
    table = table[table["part"].isin(PARTS)].drop_duplicates(["group", "part"])
    leaks = []
    for group, members in table[table["group"].duplicated(keep=False)].groupby("group"):
        first, *others = members.itertuples(index=False)
        leaks += [
            f"the given split leaks: {first.case} ({first.split}) and {other.case} ({other.split}) are of one "
            f"group, {group} (same patient, or near-duplicate images)"
            for other in others
        ]
    return shortened(leaks)


def find_left_out(cases: pd.Series, labelled: np.ndarray, given: np.ndarray) -> list[str]:
    """A sentence for each labelled case (str, bool, str, one of each a case) without a split."""
    return shortened(
        [f"the given split leaves out the labelled case {case}" for case in cases[labelled & (given == "")]]
    )


def read_columns(path: str, columns: Sequence[str], strip: bool = True) -> pd.DataFrame:
    """All columns as text, as `read_csv` reads them.

    Raises:
        ConfigError: no such file, or a column is missing.
    """
    try:
        table = read_csv(UPath(path).read_bytes(), strip)
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"data.splits: there is no file {path}") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ConfigError(f"data.splits: {path} is no CSV file: {error}") from None
    missing = [name for name in columns if name not in table]
    if missing:
        raise ConfigError(f"data.splits: {path} lacks the column(s) {', '.join(missing)}; it has {', '.join(table)}")
    return table
