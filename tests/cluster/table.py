"""What came of the kills, as CSV and as a Markdown table with its sums."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

UNITS = {"preprocess": "shards", "finetune": "validations"}
SPOILT = "SPOILT"


@dataclass(frozen=True)
class Summary:
    """Kills of runs that came to their end, runs that ended otherwise than the undisturbed one, and the table."""

    landed: int
    spoilt: int
    text: str


def write_table(folder: Path) -> Summary:
    """Write kills.csv and kills.md from what the trials left; kills of runs without a verdict do not count."""
    runs, kills = (_read(folder / name) for name in ("runs.jsonl", "kills.jsonl"))
    disturbed = runs[runs["run"] != "undisturbed"] if len(runs) else runs
    if not len(disturbed) or not len(kills):
        return Summary(0, 0, "no run came to its end")
    # a run that was cut short and begun anew has kills of both beginnings
    table = kills.merge(disturbed[["run", "began", "differences"]], on=["run", "began"]).sort_values("number")
    table["result"] = ["the same" if not found else SPOILT for found in table["differences"]]
    columns = ["run", "stage", "done", "of", "victim", "outcome", "seconds", "result"]
    table[columns].to_csv(folder / "kills.csv", index=False)
    spoilt = int((disturbed["differences"].map(len) > 0).sum())
    text = "\n".join([_sums(table, disturbed, runs, spoilt), "", *_rows(table)]) + "\n"
    (folder / "kills.md").write_text(text)
    return Summary(len(table), spoilt, text)


def _rows(table: pd.DataFrame) -> list[str]:
    lines = ["| run | stage | at the kill | victim | outcome | s to recover | the run's results |"]
    lines.append("|---|---|---|---|---|---|---|")
    for kill in table.itertuples():
        progress = f"{kill.done} of {kill.of} {UNITS.get(str(kill.stage), 'epochs')}"
        words = [kill.run, kill.stage, progress, kill.victim, kill.outcome, f"{kill.seconds:.0f}", kill.result]
        lines.append(f"| {' | '.join(map(str, words))} |")
    return lines


def _sums(table: pd.DataFrame, disturbed: pd.DataFrame, runs: pd.DataFrame, spoilt: int) -> str:
    alone = runs.loc[runs["run"] == "undisturbed", "seconds"].iloc[0]
    alike = "all of which ended with the undisturbed run's results"
    return (
        f"{len(table)} kills in {len(disturbed)} runs, "
        f"{alike if not spoilt else f'{spoilt} of which ended with other results'}. "
        f"Largest deviation of a loss {disturbed['loss'].max():.2g} (relative), of a metric "
        f"{disturbed['metric'].max():.2g}. Seconds to recover: median {table['seconds'].median():.0f}, "
        f"longest {table['seconds'].max():.0f}; a run took {disturbed['seconds'].median():.0f} s (median), "
        f"undisturbed {alone:.0f} s."
    )


def _read(file: Path) -> pd.DataFrame:
    lines = file.read_text().splitlines() if file.exists() else []
    return pd.DataFrame([json.loads(line) for line in lines])
