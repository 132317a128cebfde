"""Tables as CSV: those that users write by hand, every cell as text, as it was meant, and those of this project, whose
names are text whatever they look like."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Collection

import pandas as pd


def read_csv(content: bytes, strip: bool = True) -> pd.DataFrame:
    """All cells as text, "" where there is nothing: a case may be called 007. A hand may leave blanks around ("p1 " is
    p1), which are left out unless `strip` is off.

    Empty cells beyond the header, of rows that end in a comma, are left out.

    Raises:
        pandas.errors.EmptyDataError: there is nothing in it.
        pandas.errors.ParserError: it is no table, or a row has more cells than the header.
        UnicodeDecodeError: it is no text in UTF-8.
    """
    rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    columns = len(next(rows, []))
    try:
        for number, row in enumerate(rows, start=2):  # as a spreadsheet counts them
            if more := [cell for cell in row[columns:] if cell.strip()]:
                raise pd.errors.ParserError(f"row {number} has more cells than the header: {more[0]}")
    except csv.Error as error:  # such as a cell that is longer than any name
        raise pd.errors.ParserError(str(error)) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.ParserWarning)  # of the empty cells
        # without index_col pandas would take the first column for a name of the rows, and shift the others
        table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, index_col=False)
    return stripped(table) if strip else table


def read_results(content: bytes, names: Collection[str]) -> pd.DataFrame:
    """A table that this project wrote: the columns in `names`, where there are such, are text just as it stands (a case
    may be called 007, NA or "a "), the others what they look like.

    Raises:
        pandas.errors.EmptyDataError, pandas.errors.ParserError, UnicodeDecodeError: as `read_csv`.
    """
    text = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, usecols=lambda name: name in names)
    return pd.read_csv(io.BytesIO(content)).assign(**{str(name): text[name] for name in text})


def stripped(table: pd.DataFrame) -> pd.DataFrame:
    """A table of text without blanks around cells and column names."""
    return table.rename(columns=str.strip).apply(lambda column: column.str.strip())
