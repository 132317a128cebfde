"""Judging a segmenter: metrics of every labelled case, their summary, and the best, median and worst cases drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field
from upath import UPath

from pipeline.report.panels import segmentation_panel
from pipeline.segmentation.components import least_voxels
from pipeline.segmentation.display import planes
from pipeline.segmentation.inference import InferenceSettings, Predictor, Resolution, Segmented
from pipeline.segmentation.metrics import METRICS, CaseMetrics, case_metrics, summarise
from pipeline.segmentation.regions import region_masks
from preprocessing.case import Case, Rejection
from preprocessing.errors import RunError
from preprocessing.storage import make_folder

_MEASURED = [field.name for field in fields(CaseMetrics)]
COLUMNS = ["case", "stratum", "region", *_MEASURED]


class EvaluateSettings(InferenceSettings):
    """How test cases are judged."""

    resolution: Resolution = Field(
        "source", description="Compare at the image's own size (source), or on the model's canvas (canvas)."
    )
    least_lesion: float = Field(
        0.0,
        ge=0,
        description="An annotated component below this is no lesion for the lesion-wise sensitivity: ml of a volume, "
        "share of a 2D image; 0: each is one.",
    )
    pictures: int = Field(3, ge=0, description="Cases drawn of each kind: best, median and worst DSC.")


@dataclass(frozen=True)
class Evaluation:
    """Result over a set of cases.

    Attributes:
        cases: one row a case and region, columns as in COLUMNS; metrics are NaN where the case lacks the region.
        rejected: cases that could not be read.
        summary: dsc, ppv, sen, hd95, lesion_sen, cases, lesions, false_positive_rate, lesion_free_cases and
            resolution; with several regions their mean (no lesions: a lesion may be in several of them), and
            `regions` with the same for each.
    """

    cases: pd.DataFrame
    rejected: list[Rejection]
    summary: dict[str, Any]


def evaluate(
    predictor: Predictor,
    cases: Iterable[Case],
    settings: EvaluateSettings,
    folder: UPath | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Segment labelled cases and compare.

    Args:
        predictor: the segmenter.
        cases: unlabelled ones are passed over.
        settings: resolution, least lesion and pictures.
        folder: receives cases.csv, rejected.csv and pictures/; None writes nothing.
        progress: called with the number of cases done.

    Raises:
        RunError: not one labelled case could be read.
    """
    classes = predictor.card.classes
    labelled = [case for case in cases if case.labels]
    rows: list[dict[str, Any]] = []
    rejected: list[Rejection] = []
    for done, found in enumerate(predictor.segment(labelled, settings.resolution), start=1):
        if isinstance(found, Rejection):
            rejected.append(found)
        else:
            rows += _compare(found, predictor, settings.least_lesion)
        if progress is not None:
            progress(done)
    if not rows:
        first = f"; the first of {len(rejected)} that cannot be used: {rejected[0]}" if rejected else ""
        raise RunError(f"evaluation: there is no labelled case to compare with{first}")
    table = pd.DataFrame(rows, columns=COLUMNS)
    summary = _summary(table, list(classes)) | {"rejected": len(rejected), "resolution": settings.resolution}
    if folder is not None:
        make_folder(folder)
        (folder / "cases.csv").write_text(table.to_csv(index=False))
        reasons = pd.DataFrame([asdict(r) for r in rejected], columns=["case", "file", "reason"])
        (folder / "rejected.csv").write_text(reasons.to_csv(index=False))
        _draw(predictor, labelled, table, settings, folder / "pictures")
    return Evaluation(table, rejected, summary)


def _compare(found: Segmented, predictor: Predictor, least_lesion: float) -> list[dict[str, Any]]:
    assert found.label is not None
    truth = region_masks(found.label[None], predictor.card.classes, axis=0)
    predicted, spacing = predictor.masks(found), None if found.grid is None else found.grid.spacing
    least, case = least_voxels(least_lesion, found.pixel), {"case": found.case.id, "stratum": found.case.stratum}
    return [
        {**case, "region": region, **asdict(case_metrics(p, t, spacing, least))}
        for region, p, t in zip(predictor.card.classes, predicted, truth, strict=True)
    ]


def _summary(table: pd.DataFrame, regions: list[str]) -> dict[str, Any]:
    parts = {}
    for region in regions:
        rows = table[table["region"] == region]
        parts[region] = summarise(CaseMetrics(*row) for row in rows[_MEASURED].itertuples(index=False, name=None))
    if len(parts) == 1:
        return dict(parts[regions[0]])
    lesion = table.groupby("case")["lesion"].sum() > 0
    return {
        **{name: _mean([part[name] for part in parts.values()]) for name in (*METRICS, "false_positive_rate")},
        "cases": int(lesion.sum()),
        "lesion_free_cases": int((~lesion).sum()),
        "regions": parts,
    }


def _mean(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _draw(
    predictor: Predictor, cases: list[Case], table: pd.DataFrame, settings: EvaluateSettings, folder: UPath
) -> None:
    """Outlines of truth and prediction on a few cases of the first region; 3D ones at the lesion's largest slice."""
    by_id = {case.id: case for case in cases}
    for kind, row in _shown(table, settings.pictures):
        found = next(predictor.segment([by_id[row["case"]]], settings.resolution))
        if isinstance(found, Rejection) or found.label is None:
            continue
        truth = region_masks(found.label[None], predictor.card.classes, axis=0)[0]
        predicted = predictor.masks(found)[0]
        image, truth, predicted = planes(truth, found.grid, found.image[0], truth, predicted)
        caption = f"{kind}: {row['case']}, DSC {row['dsc']:.2f}, PPV {row['ppv']:.2f}, Sen {row['sen']:.2f}"
        name = "".join(c if c.isalnum() or c in "-_" else "_" for c in f"{kind}_{row['case']}")
        make_folder(folder)
        (folder / f"{name}.png").write_bytes(segmentation_panel(image, truth, predicted, caption))


def _shown(table: pd.DataFrame, count: int) -> list[tuple[str, pd.Series]]:
    """Best, median and worst lesion cases of the first region; none twice."""
    ranked = table[(table["region"] == table["region"].iloc[0]) & table["dsc"].notna()]
    ranked = ranked.sort_values(["dsc", "case"], ascending=[False, True]).reset_index(drop=True)
    middle = max(0, (len(ranked) - count) // 2)
    places = {
        "best": range(count),
        "median": range(middle, middle + count),
        "worst": range(len(ranked) - count, len(ranked)),
    }
    shown: dict[int, str] = {}
    for kind, rows in places.items():
        for row in rows:
            if 0 <= row < len(ranked):
                shown.setdefault(row, kind)
    return [(kind, ranked.loc[row]) for row, kind in shown.items()]
