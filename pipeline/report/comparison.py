"""The comparison table as its readers see it: one row an arm, in Markdown."""

from __future__ import annotations

from typing import Any

import pandas as pd

METRICS = ("dsc", "ppv", "sen", "hd95")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row an arm, in the order of the table: n, mean and standard deviation of the metrics, and what it cost.

    `gain` is the mean over seeds of the difference in DSC to `scratch` with the same seed, where that was run.
    """
    base = table[table["arm"] == "scratch"].set_index("seed")["dsc"]
    rows = []
    for arm, part in table.groupby("arm", sort=False):
        row: dict[str, Any] = {"arm": arm, "n": len(part)}
        for metric in METRICS:
            row[metric] = _spread(part[metric])
        gain = (part.set_index("seed")["dsc"] - base).dropna()
        row["gain"] = _spread(gain) if len(gain) and arm != "scratch" else ""
        row["samples"] = int(part["samples_seen"].mean())
        row["visible"] = f"{part['visible'].mean():.2f}" if part["visible"].notna().any() else ""
        row["pretrain s"] = f"{part['pretrain_seconds'].mean():.0f}"
        row["finetune s"] = f"{part['finetune_seconds'].mean():.0f}"
        rows.append(row)
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """The summary as a Markdown table."""
    lines = summary(table).astype(str)
    head = "| " + " | ".join(lines.columns) + " |\n|" + "---|" * len(lines.columns) + "\n"
    return head + "".join("| " + " | ".join(row) + " |\n" for row in lines.to_numpy())


def _spread(values: pd.Series) -> str:
    values = values.dropna()
    if values.empty:
        return ""
    return f"{values.mean():.3f} ± {values.std():.3f}" if len(values) > 1 else f"{values.mean():.3f}"
