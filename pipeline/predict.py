"""Masks for new scans: of images at their own size, of volumes on the scan's own grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field
from upath import UPath

from pipeline.segmentation.display import planes
from pipeline.segmentation.inference import InferenceSettings, Predictor, Segmented
from pipeline.segmentation.mask_files import write_nifti, write_png
from preprocessing.case import Case, Rejection
from preprocessing.storage import make_folder, write_text

_TINT = np.array([255.0, 96.0, 0.0])  # colour-blind safe on grey
_KINDS = ("masks", "probabilities", "overlays")
COLUMNS = ["case", "file", "region", "lesion_pixels", "lesion_share", "lesion_ml", "max_probability"]


class PredictSettings(InferenceSettings):
    """What to segment and what to write."""

    input: str = Field(
        "",
        description="One file, a folder or URI of them (searched to the bottom), a folder in data.layout where scans "
        "have several modalities, or a table as of the manifest layout (.csv, .parquet; paths relative to its folder).",
    )
    output: str = Field(
        "", description="Folder or URI for the results, not that of the input; empty means <run.dir>/predictions."
    )
    probabilities: bool = Field(
        False, description="Also write each probability: 16-bit PNG, 65535 = 1; float32 NIfTI for volumes."
    )
    overlays: bool = Field(True, description="Also write each image with its mask tinted.")


def output_folder(settings: PredictSettings, run: UPath | str) -> UPath:
    """Where the results go, `run` being the run's folder."""
    return UPath(settings.output) if settings.output else UPath(run) / "predictions"


def predict(
    predictor: Predictor,
    cases: Iterable[Case],
    settings: PredictSettings,
    folder: UPath,
    progress: Callable[[int], None] | None = None,
    aside: Sequence[Rejection] = (),
) -> tuple[pd.DataFrame, list[Rejection]]:
    """Segment scans and write what was found.

    Of an image: masks/<case>.png (0 and 255; <case>_<region>.png where there are several regions), with the options
    probabilities/<case>.png and overlays/<case>.png. Of a volume: masks/<case>.nii.gz on the scan's own grid, region
    number r (1, 2 ... in the order of finetune.classes; where regions overlap the later one), with the options
    probabilities/<case>_<region>.nii.gz and overlays/<case>.png, the slice with most lesion. Then predictions.csv
    (COLUMNS: lesion_ml for volumes) and rejected.csv (case, file, reason).

    Args:
        predictor: the segmenter.
        cases: scans of any size with the modalities that the segmenter was trained on.
        settings: what to write.
        folder: where to.
        progress: called with the number of cases done.
        aside: scans that were found to be none before.

    Returns:
        What predictions.csv holds, and the scans that were set aside or could not be read.
    """
    rows: list[dict[str, Any]] = []
    rejected = list(aside)
    regions = list(predictor.card.classes)
    make_folder(folder)
    for rejection in aside:
        _remove_former(rejection.case, regions, folder)
    for done, found in enumerate(predictor.segment(cases), start=1):
        if isinstance(found, Rejection):
            rejected.append(found)
            _remove_former(found.case, regions, folder)
        else:
            masks = predictor.masks(found)
            (_write_image if found.grid is None else _write_volume)(found, masks, regions, settings, folder)
            rows += _rows(found, masks, regions)
        if progress is not None:
            progress(done)
    table = pd.DataFrame(rows, columns=COLUMNS)
    reasons = pd.DataFrame([asdict(r) for r in rejected], columns=["case", "file", "reason"])
    write_text(folder / "predictions.csv", table.to_csv(index=False))
    write_text(folder / "rejected.csv", reasons.to_csv(index=False))
    return table, rejected


def _remove_former(case: str, regions: Sequence[str], folder: UPath) -> None:
    """What a former run wrote of a case that cannot be read any more."""
    images = [f"{kind}/{_name(case, region, regions)}.png" for kind in _KINDS for region in regions]
    volumes = [f"masks/{case}.nii.gz", f"overlays/{case}.png"]
    volumes += [f"probabilities/{case}_{region}.nii.gz" for region in regions]
    for file in (*images, *volumes):
        (folder / file).unlink(missing_ok=True)


def _name(case: str, region: str, regions: Sequence[str]) -> str:
    """Of an image's files."""
    return case if len(regions) == 1 else f"{case}_{region}"


def _rows(found: Segmented, masks: np.ndarray, regions: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "case": found.case.id,
            "file": next(iter(found.case.images.values())),
            "region": region,
            "lesion_pixels": int(mask.sum()),
            "lesion_share": float(mask.mean()),
            "lesion_ml": None if found.grid is None else float(mask.sum()) * found.grid.voxel_ml,
            "max_probability": float(probability.max()),
        }
        for region, mask, probability in zip(regions, masks, found.probability, strict=True)
    ]


def _write_image(
    found: Segmented, masks: np.ndarray, regions: Sequence[str], settings: PredictSettings, folder: UPath
) -> None:
    for region, mask, probability in zip(regions, masks, found.probability, strict=True):
        name = _name(found.case.id, region, regions)
        write_png(folder / "masks" / f"{name}.png", mask.astype(np.uint8) * 255)
        if settings.probabilities:
            values = np.round(probability.clip(0, 1) * 65535).astype(np.uint16)
            write_png(folder / "probabilities" / f"{name}.png", values)
        if settings.overlays:
            write_png(folder / "overlays" / f"{name}.png", overlay(found.image[0], mask))


def _write_volume(
    found: Segmented, masks: np.ndarray, regions: Sequence[str], settings: PredictSettings, folder: UPath
) -> None:
    assert found.grid is not None
    numbers = np.zeros(masks.shape[1:], np.uint8)
    for number, mask in enumerate(masks, start=1):
        numbers[mask] = number
    name = found.case.id
    write_nifti(folder / "masks" / f"{name}.nii.gz", numbers, found.grid, found.header)
    if settings.probabilities:
        for region, probability in zip(regions, found.probability, strict=True):
            write_nifti(folder / "probabilities" / f"{name}_{region}.nii.gz", probability, found.grid, found.header)
    if settings.overlays:
        lesion = numbers > 0
        image, shown = planes(lesion, found.grid, found.image[0], lesion)
        write_png(folder / "overlays" / f"{name}.png", overlay(image, shown))


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image float [H, W] in [0, 1] with the mask bool [H, W] tinted: uint8 [H, W, 3]."""
    grey = np.repeat(image[..., None] * 255.0, 3, axis=2)
    tinted = np.where(mask[..., None], 0.65 * grey + 0.35 * _TINT, grey)
    return np.round(tinted.clip(0, 255)).astype(np.uint8)
