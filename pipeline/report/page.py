"""One self-contained report.html a run: no script, no font, no picture is loaded from anywhere."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from upath import UPath

from pipeline.report import figures
from pipeline.report.checks import attention
from pipeline.report.data import SEARCHES, ReportData, collect
from pipeline.report.wording import duration, number, setting
from preprocessing.storage import write_text

SHARES = ("0.1", "0.25", "0.5", "0.75")
_TRIALS_SHOWN = 25
_TRIAL_COLUMNS = ("trial", "stage", "seed", "dsc", "epochs")
_TEST_METRICS = (("dsc", "DSC"), ("ppv", "PPV"), ("sen", "Sensitivity"), ("hd95", "HD95"))


def write_report(root: str) -> str:
    """Write `report.html` into a run's folder from what its stages have left there; returns its path."""
    path = UPath(root) / "report.html"
    write_text(path, render(collect(root)))
    return str(path)


def render(data: ReportData) -> str:
    """The report as HTML; a stage that has not run is said to be missing."""
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "png": _png, "duration": duration, "setting": setting}
    return environment.get_template("report.html").render(
        data=data,
        metrics=data.metrics,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        notes=attention(data),
        names=dict(_TEST_METRICS) | {"lesion_sen": "Lesion-wise sensitivity"},
        headline=_headline(data),
        strata=_strata(data.cases),
        labels=_labels(data.cases),
        hit_rates=_hit_rates(data),
        searches={name: _trials(data, name) for name in SEARCHES},
        scored=_scored(data.scored),
        charts=_charts(data),
    )


def _headline(data: ReportData) -> list[tuple[str, str, str]]:
    """(name, value, remark) of the numbers at the top."""
    test = (data.metrics.get("segmentation") or {}).get("test") or {}
    rows = [(label, number(test.get(key), 1 if key == "hd95" else 3), "test") for key, label in _TEST_METRICS]
    selection = data.metrics.get("selection") or {}
    rate, chance = ((selection.get(key) or {}).get("0.25") for key in ("lesion_hit_rate", "random"))
    rows.append(("Hit rate at 25 %", number(rate, 2), f"random {number(chance, 2)}"))
    used = _labels(data.cases)
    rows.append(("Labels used", number(sum(used.values()) if used else None), "train and validation"))
    return rows


def _strata(cases: pd.DataFrame) -> dict[str, Any] | None:
    """Cases by stratum and split, with sums."""
    if "split" not in cases:
        return None
    table = cases.assign(stratum=cases["stratum"].fillna("") if "stratum" in cases else "")
    counts = pd.crosstab(table["stratum"], table["split"])
    order = [split for split in ("train", "val", "test", "unlabelled", "excluded") if split in counts]
    counts = counts[order + [split for split in counts if split not in order]]
    rows = [(name or "all", [int(n) for n in row], int(row.sum())) for name, row in counts.iterrows()]
    return {"splits": list(counts), "rows": rows, "sums": [int(n) for n in counts.sum()], "all": len(table)}


def _labels(cases: pd.DataFrame) -> dict[str, int]:
    """Labels used for training and for choosing, by split."""
    if "labelled_used" not in cases:
        return {}
    used = cases.loc[cases["labelled_used"].astype(bool), "split"]
    return {split: int((used == split).sum()) for split in ("train", "val") if (used == split).any()}


def _hit_rates(data: ReportData) -> list[tuple[str, list[float | None]]]:
    selection = data.metrics.get("selection") or {}
    rule = selection.get("no_clusters_rule", "a rule")
    names = {"lesion_hit_rate": "selection", "no_clusters": f"{rule}, no clusters", "random": "random"}
    return [
        (label, [(selection[key] or {}).get(s) for s in SHARES]) for key, label in names.items() if key in selection
    ]


def _trials(data: ReportData, search: str) -> dict[str, Any] | None:
    """The best trials of a search, with the fields that were searched, and what was chosen."""
    trials = data.trials.get(search, pd.DataFrame())
    if "dsc" not in trials or trials["dsc"].isna().all():
        return None
    shown = [name for name in trials if not trials[name].isna().all()]
    searched = [name for name in shown if name not in _TRIAL_COLUMNS]
    columns = [name for name in _TRIAL_COLUMNS if name in shown] + searched
    rows = trials[columns].head(_TRIALS_SHOWN).astype(object).values.tolist()
    best = (data.metrics.get(search) or {}).get("best") or {}
    wanted = [str(best.get(name, "nan")) for name in searched]  # as the table has a field that a trial lacks
    return {
        "columns": columns,
        "rows": rows,
        "chosen_rows": [n for n, row in enumerate(rows) if [str(value) for value in row[-len(searched) :]] == wanted],
        "count": len(trials),
        "searched": searched,
        "again": "stage" in trials and (trials["stage"] == "finalists").any(),
        "chosen": best,
        "chart": _inline(figures.search(trials[trials["dsc"].notna()], searched), "svg+xml"),
    }


def _scored(scored: pd.DataFrame) -> dict[str, Any] | None:
    if "dsc" not in scored:
        return None
    worst_first = scored.sort_values("dsc")
    return {"columns": list(scored), "rows": worst_first.astype(object).values.tolist()}


def _charts(data: ReportData) -> dict[str, Markup]:
    charts = {}
    if (data.metrics.get("selection") or {}).get("lesion_hit_rate"):
        charts["hit_rates"] = figures.hit_rates(data.metrics["selection"])
    if data.pretrain:
        charts["pretraining"] = figures.pretraining(data.pretrain)
    if data.finetune:
        charts["finetuning"] = figures.finetuning(data.finetune)
    if "dsc" in data.scored and data.scored["dsc"].notna().any():
        charts["dsc"] = figures.dsc_distribution(data.scored)
    return {name: _inline(svg, "svg+xml") for name, svg in charts.items()}


def _png(png: bytes) -> Markup:
    return _inline(png, "png")


def _inline(picture: bytes, kind: str) -> Markup:
    return Markup(f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}")
