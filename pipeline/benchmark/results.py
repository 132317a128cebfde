"""What the finished runs of a comparison table give: a row each, and the DSC of each test case.

Both lie beside the table as CSV files, so that tables made elsewhere can be counted in (`benchmark.include`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from upath import UPath

from pipeline.benchmark.cells import Cell
from pipeline.measure.flops import Costs
from pipeline.report.comparison import METRICS
from pipeline.runfolder import RunFolder
from pipeline.training.history import read_history
from preprocessing.errors import ConfigError
from preprocessing.splits import Splits
from preprocessing.storage import write_text
from preprocessing.text_table import read_results

TABLE_FILE, SCORES_FILE = "table.csv", "scores.csv"
PLACE = ["arm", "seed", "fold", "labels"]
_NAMES = ("arm", "case", "group")
ROW = [*PLACE, *METRICS, "probe_dsc", "samples_seen", "visible", "flops_first", "flops_mean", "pretrain_flops"]
ROW += ["pretrain_seconds", "finetune_seconds"]


@dataclass(frozen=True)
class Results:
    """Of finished cells.

    Attributes:
        rows: one a cell: arm, seed, fold, labels, metrics, the probe's last DSC, samples seen, share of visible
            patches, FLOPs, seconds.
        scores: one a test case of a cell: case, dsc (mean over regions), group, arm, seed, fold, labels.
    """

    rows: pd.DataFrame
    scores: pd.DataFrame

    @classmethod
    def of(cls, finished: Sequence[Cell], costs: Costs) -> Results:
        """What the cells left in their folders; `costs` of their samples."""
        homes = {_place(cell): cell for cell in finished if cell.needs is None}
        counted = [cell for cell in finished if cell.counted]
        rows = [_row(cell, homes.get(_place(cell), cell), costs) for cell in counted]
        scores = scores_of(counted)
        # of several regions a case counts with those that it has, in the arms' differences too
        means = scores.groupby(PLACE)["dsc"].mean().to_dict()
        for row in rows:
            row["dsc"] = means.get(tuple(row[name] for name in PLACE), row["dsc"])
        return cls(pd.DataFrame(rows, columns=ROW), scores)

    @classmethod
    def read(cls, folder: str) -> Results:
        """A table's files.

        Raises:
            ConfigError: one of the files is missing or is no such table.
        """
        found = []
        for name, columns in ((TABLE_FILE, ROW), (SCORES_FILE, [*PLACE, "case", "dsc", "group"])):
            file = UPath(folder) / name
            if not file.exists():
                raise ConfigError(f"benchmark.include = {folder}: there is no {name}; give the run.dir of a table")
            try:
                table = read_results(file.read_bytes(), _NAMES)
            except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
                raise ConfigError(f"benchmark.include = {folder}: {name} is no table ({error})") from None
            if missing := sorted(set(columns) - set(table)):
                raise ConfigError(f"benchmark.include = {folder}: {name} has no column {', '.join(missing)}")
            try:
                numbers = table[[column for column in columns if column not in _NAMES]].apply(pd.to_numeric)
            except ValueError as error:
                raise ConfigError(f"benchmark.include = {folder}: {name} needs numbers ({error})") from None
            found.append(table[columns].assign(**numbers))
        _check_cases(folder, found[1])
        rows, scores = (set(table[PLACE].itertuples(index=False, name=None)) for table in found)
        if lacking := sorted(rows - scores):
            raise ConfigError(f"benchmark.include = {folder}: {SCORES_FILE} has no case of {lacking[0]}")
        return cls(*found)

    def with_others(self, others: Sequence[Results]) -> Results:
        """With the cells of other tables; at the same place the earlier one stands."""
        every = [self, *others]
        first: dict[tuple[Any, ...], int] = {}
        for number, results in enumerate(every):
            for place in results.rows[PLACE].itertuples(index=False, name=None):
                first.setdefault(place, number)

        def own(table: pd.DataFrame, number: int) -> pd.DataFrame:
            places = table[PLACE].itertuples(index=False, name=None)
            return table[[first.get(place) == number for place in places]]

        kept = [(own(results.rows, n), own(results.scores, n)) for n, results in enumerate(every)]
        rows, scores = ([part for part in parts if len(part)] for parts in zip(*kept, strict=True))
        return Results(pd.concat(rows) if rows else self.rows, pd.concat(scores) if scores else self.scores)

    def places(self) -> set[tuple[Any, ...]]:
        """Arm, seed, fold and share of labels of each row."""
        return set(self.rows[PLACE].itertuples(index=False, name=None))

    def in_order(self, arms: Sequence[str]) -> Results:
        """With the rows of these arms first, in their order, seed by seed."""
        number = {arm: n for n, arm in enumerate(arms)}

        def key(column: pd.Series) -> pd.Series:
            return column.map(lambda arm: number.get(arm, len(number))) if column.name == "arm" else column

        return Results(*(t.sort_values(PLACE, key=key, kind="stable") for t in (self.rows, self.scores)))

    def write(self, root: UPath) -> None:
        """Both files into a folder that is there; DSC of cases to five places."""
        write_text(root / TABLE_FILE, self.rows.to_csv(index=False))
        write_text(
            root / SCORES_FILE, self.scores.assign(dsc=self.scores["dsc"].astype(float).round(5)).to_csv(index=False)
        )


def finished(cell: Cell) -> bool:
    """Whether a run has its test metrics, maybe of other settings."""
    metrics = RunFolder(cell.config.run.dir, say=lambda _: None).read_metrics()
    return "test" in metrics.get("segmentation", {})


def _check_cases(folder: str, scores: pd.DataFrame) -> None:
    """That each run has one score of each case that the others of its seed and fold have."""
    where = f"benchmark.include = {folder}: {SCORES_FILE} has"
    if (twice := scores.duplicated([*PLACE, "case"])).any():
        raise ConfigError(f"{where} two scores of {', '.join(map(str, scores[twice].iloc[0][[*PLACE, 'case']]))}")
    for _, part in scores.groupby(["seed", "fold"]):
        tested = {place: frozenset(own["case"]) for place, own in part.groupby(PLACE)}
        every = frozenset().union(*tested.values())
        for place, cases in tested.items():
            if lacking := sorted(every - cases):
                raise ConfigError(f"{where} no score of case {lacking[0]} of {place}, which other runs have")


def _place(cell: Cell) -> tuple[str, int, int]:
    return cell.arm, cell.seed, cell.fold


def _row(cell: Cell, home: Cell, costs: Costs) -> dict[str, Any]:
    """Metrics of a cell, and what the pretraining that it starts from had cost; NaN for an encoder from elsewhere."""
    own, pretrained = (RunFolder(c.config.run.dir, say=lambda _: None) for c in (cell, home))
    metrics = own.read_metrics()["segmentation"]["test"]
    records = read_history(pretrained.root / "pretrain") if home.config.pretrains else []
    shares = [1 - record["masked"] for record in records if record["masked"] is not None]
    ratios = [record["ratio"] for record in records if record["ratio"] is not None]
    probes = [record["probe_dsc"] for record in records if record.get("probe_dsc") is not None]
    nothing = math.nan if home.config.finetune.encoder else 0.0
    samples = records[-1]["samples_seen"] if records else nothing
    cost = costs(home.config, float(np.mean(ratios)) if ratios else None) if records else None
    seconds = {
        "pretrain_seconds": (pretrained.stage_record("pretrain") or {}).get("seconds", 0.0) if records else nothing,
        "finetune_seconds": (own.stage_record("finetune") or {}).get("seconds", 0.0),
    }
    return {
        "arm": cell.arm,
        "seed": cell.seed,
        "fold": cell.fold,
        "labels": cell.labels,
        **{name: metrics[name] for name in METRICS},
        "probe_dsc": probes[-1] if probes else None,
        "samples_seen": samples,
        "visible": float(np.mean(shares)) if shares else None,
        "flops_first": cost.first if cost else nothing,
        "flops_mean": cost.mean if cost else nothing,
        "pretrain_flops": cost.mean * samples if cost else nothing,
        **seconds,
    }


def scores_of(found: Sequence[Cell]) -> pd.DataFrame:
    """DSC of each test case of the finished cells, mean over regions, with the case's group."""
    parts = []
    for cell in found:
        folder = UPath(cell.config.run.dir)
        file = folder / "evaluate" / "cases.csv"
        if not cell.counted or not file.exists():
            continue
        splits = Splits.read(str(folder / "splits.csv"))
        cases = read_results(file.read_bytes(), _NAMES).groupby("case", as_index=False)["dsc"].mean()
        place = {"arm": cell.arm, "seed": cell.seed, "fold": cell.fold, "labels": cell.labels}
        parts.append(cases.assign(group=cases["case"].map(splits.group), **place))
    columns = ["case", "dsc", "group", *PLACE]
    return pd.concat(parts) if parts else pd.DataFrame(columns=columns)
