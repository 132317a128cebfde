"""Masks for new images, at each image's own size."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import Field
from upath import UPath

from pipeline.segmentation.inference import InferenceSettings, Predictor, Segmented
from preprocessing.case import Case, Rejection
from preprocessing.errors import ConfigError
from preprocessing.readers import READERS

_TINT = np.array([255.0, 96.0, 0.0])  # colour-blind safe on grey


class PredictSettings(InferenceSettings):
    """What to segment and what to write."""

    input: str = Field("", description="Folder or URI of images (searched to the bottom), or one image file.")
    output: str = Field("", description="Folder or URI for the results; empty means <run.dir>/predictions.")
    probabilities: bool = Field(False, description="Also write each probability as a 16-bit PNG, 65535 = 1.")
    overlays: bool = Field(True, description="Also write each image with its mask tinted.")


def find_images(source: str) -> list[Case]:
    """Every image under a folder (masks of BUSI's naming aside), or the one file; the case is the path without ending.

    Raises:
        ConfigError: the input is not set, does not exist, or holds no image of a known format.
    """
    if not source:
        raise ConfigError("predict.input is not set: give a folder of images or one image, predict.input=FOLDER")
    root = UPath(source)
    if root.is_file():
        return [_case(root.stem, root)]
    if not root.is_dir():
        raise ConfigError(f"predict.input: there is no folder or file {source}")
    files = sorted((file for file in root.rglob("*") if file.suffix.lower() in READERS), key=str)
    files = [file for file in files if "_mask" not in file.stem]
    if not files:
        raise ConfigError(f"predict.input: no image under {source}; known endings are {', '.join(READERS)}")
    relative = [file.path.removeprefix(root.path).lstrip("/") for file in files]
    stems = [name[: len(name) - len(UPath(name).suffix)] for name in relative]
    twice = {stem for stem in stems if stems.count(stem) > 1}  # a.png beside a.jpg
    return [
        _case(name if stem in twice else stem, file) for stem, name, file in zip(stems, relative, files, strict=True)
    ]


def _case(name: str, file: UPath) -> Case:
    return Case(id=name, group=name, stratum="", images={"image": str(file)}, labels=())


def predict(
    predictor: Predictor,
    cases: Iterable[Case],
    settings: PredictSettings,
    folder: UPath,
    progress: Callable[[int], None] | None = None,
) -> tuple[pd.DataFrame, list[Rejection]]:
    """Segment images and write, for each case and region:

    masks/<case>.png (0 and 255; <case>_<region>.png where there are several regions), with the options
    probabilities/<case>.png and overlays/<case>.png; then predictions.csv (case, file, region, pixels of the lesion,
    share of the image, highest probability) and rejected.csv (case, file, reason).

    Args:
        predictor: the segmenter; 2D.
        cases: images of any size; several modalities where the segmenter was trained on several.
        settings: what to write.
        folder: where to.
        progress: called with the number of cases done.

    Returns:
        What predictions.csv holds, and the cases that could not be read.
    """
    rows: list[dict[str, Any]] = []
    rejected: list[Rejection] = []
    regions = list(predictor.card.classes)
    folder.mkdir(parents=True, exist_ok=True)
    for done, found in enumerate(predictor.segment(cases), start=1):
        if isinstance(found, Rejection):
            rejected.append(found)
        else:
            rows += _write(found, predictor.masks(found.probability), regions, settings, folder)
        if progress is not None:
            progress(done)
    table = pd.DataFrame(rows, columns=["case", "file", "region", "lesion_pixels", "lesion_share", "max_probability"])
    reasons = pd.DataFrame([asdict(r) for r in rejected], columns=["case", "file", "reason"])
    (folder / "predictions.csv").write_text(table.to_csv(index=False))
    (folder / "rejected.csv").write_text(reasons.to_csv(index=False))
    return table, rejected


def _write(
    found: Segmented, masks: np.ndarray, regions: Sequence[str], settings: PredictSettings, folder: UPath
) -> list[dict[str, Any]]:
    rows = []
    for region, mask, probability in zip(regions, masks, found.probability, strict=True):
        name = found.case.id if len(regions) == 1 else f"{found.case.id}_{region}"
        _png(folder / "masks" / f"{name}.png", mask.astype(np.uint8) * 255)
        if settings.probabilities:
            _png(folder / "probabilities" / f"{name}.png", np.round(probability.clip(0, 1) * 65535).astype(np.uint16))
        if settings.overlays:
            _png(folder / "overlays" / f"{name}.png", overlay(found.image[0], mask))
        rows.append(
            {
                "case": found.case.id,
                "file": next(iter(found.case.images.values())),
                "region": region,
                "lesion_pixels": int(mask.sum()),
                "lesion_share": float(mask.mean()),
                "max_probability": float(probability.max()),
            }
        )
    return rows


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image float [H, W] in [0, 1] with the mask bool [H, W] tinted: uint8 [H, W, 3]."""
    grey = np.repeat(image[..., None] * 255.0, 3, axis=2)
    tinted = np.where(mask[..., None], 0.65 * grey + 0.35 * _TINT, grey)
    return np.round(tinted.clip(0, 255)).astype(np.uint8)


def _png(path: UPath, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    path.write_bytes(buffer.getvalue())
