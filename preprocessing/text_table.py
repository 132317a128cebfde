"""Tables that users write by hand, as CSV: every cell as text, as it was meant."""

from __future__ import annotations

import csv
import io
import warnings

import pandas as pd


def read_csv(content: bytes) -> pd.DataFrame:
    """All cells as text, without blanks around them ("p1 " is p1), "" where there is nothing: a case may be called 007.

    Empty cells beyond the header, of rows that end in a comma, are left out.

    Raises:
        pandas.errors.EmptyDataError: there is nothing in it.
        pandas.errors.ParserError: it is no table, or a row has more cells than the header.
        UnicodeDecodeError: it is no text in UTF-8.
    """
    rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    columns = len(next(rows, []))
    for number, row in enumerate(rows, start=2):  # as a spreadsheet counts them
        if more := [cell for cell in row[columns:] if cell.strip()]:
            raise pd.errors.ParserError(f"row {number} has more cells than the header: {more[0]}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.ParserWarning)  # of the empty cells
        # without index_col pandas would take the first column for a name of the rows, and shift the others
        table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, index_col=False)
    return stripped(table)


def stripped(table: pd.DataFrame) -> pd.DataFrame:
    """A table of text without blanks around cells and column names."""
    return table.rename(columns=str.strip).apply(lambda column: column.str.strip())
