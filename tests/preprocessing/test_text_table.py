"""Names survive a table, whatever they look like."""

from __future__ import annotations

import pandas as pd
import pytest

from preprocessing.splits import Splits
from preprocessing.text_table import read_csv, read_results

ODD = ["NA", "None", "007", "1e5", "benign (1) ", "null", 'a "b", c', "nan"]


def test_names_of_results_are_text_and_numbers_are_numbers() -> None:
    table = pd.DataFrame({"case": ODD, "dsc": [0.5, None, 1, 0, 0.25, 0.5, 0.5, 0.5], "group": ODD[::-1], "n": 3})
    found = read_results(table.to_csv(index=False).encode(), ("case", "group", "stratum"))
    pd.testing.assert_frame_equal(found, table)
    pd.testing.assert_frame_equal(read_results(b"n,m\n1,2\n", ("case",)), pd.DataFrame({"n": [1], "m": [2]}))


def test_splits_are_read_as_they_were_written(tmp_path) -> None:
    table = pd.DataFrame({"case": ODD, "group": ODD, "split": "train", "labelled_used": [True, False] * 4})
    Splits(table).write(str(tmp_path / "splits.csv"))
    pd.testing.assert_frame_equal(Splits.read(str(tmp_path / "splits.csv")).table, table)


def test_what_is_no_table_is_told_in_one_way() -> None:
    for content in (b"a,b\n1,2,3\n", b"a,b\n" + b"x" * 200_000 + b",2\n"):
        with pytest.raises(pd.errors.ParserError):
            read_csv(content)


@pytest.mark.parametrize(("strip", "case"), [(True, "p1"), (False, " p1 ")])
def test_blanks_that_a_hand_left(strip, case) -> None:
    assert read_csv(b"case,split\n p1 ,train\n", strip)["case"].tolist() == [case]
