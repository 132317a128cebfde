"""Masks for new scans: of images at their own size, of volumes on the scan's own grid."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from pydantic import Field
from upath import UPath

from pipeline.segmentation.display import planes
from pipeline.segmentation.inference import InferenceSettings, Predictor, Segmented
from pipeline.segmentation.mask_files import write_nifti, write_png
from preprocessing.case import Case, Rejection
from preprocessing.errors import ConfigError
from preprocessing.layouts import LAYOUTS, DataSettings
from preprocessing.object_store import fresh, reaching
from preprocessing.readers.images import READERS
from preprocessing.readers.volumes import READERS as VOLUME_READERS
from preprocessing.storage import make_folder, write_text

T = TypeVar("T")
_DICOM = (".dcm", ".ima")
_MASK = re.compile(r"_mask(_\d+)?$")  # of BUSI's naming
_TINT = np.array([255.0, 96.0, 0.0])  # colour-blind safe on grey
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


def find_scans(source: str, data: DataSettings, modalities: int, output: UPath | None = None) -> list[Case]:
    """The scans to segment, labels or not.

    Args:
        source: `predict.input`.
        data: its layout and modalities are used where a scan has several.
        modalities: what the segmenter takes.
        output: folder of the results; what a former run left there is no scan, unless a table names it.

    Raises:
        ConfigError: the input is not set, does not exist, is the output, or holds nothing of a known format.
    """
    if not source:
        raise ConfigError("predict.input is not set: give a folder of scans or one file, predict.input=FOLDER")
    path = UPath(source)
    with reaching(source):
        if path.suffix.lower() in (".csv", ".parquet"):
            return _laid_out(data.model_copy(update={"layout": "manifest", "manifest": path.name}), path.parent)
        if modalities > 1 and path.is_dir():
            return _laid_out(data, path, output)
        return find_files(source, output)


def _laid_out(data: DataSettings, root: UPath, output: UPath | None = None) -> list[Case]:
    if not root.is_dir():
        raise ConfigError(f"predict.input: there is no folder {root}")
    if data.layout not in LAYOUTS:
        raise ConfigError(f"data.layout: there is no layout {data.layout!r}, there are {', '.join(LAYOUTS)}")
    cases, rejected = LAYOUTS[data.layout](data.model_copy(update={"root": str(root)}))
    results = _results(root, output)
    cases = _without(cases, lambda case: next(iter(case.images.values())), results)
    for rejection in _without(rejected, lambda rejection: rejection.file, results):
        print(f"predict: {rejection.case} set aside: {rejection.file}: {rejection.reason}", flush=True)
    if not cases:
        raise ConfigError(f"predict.input: no scan in the layout {data.layout!r} under {root}")
    return [replace(case, labels=()) for case in cases]  # a mask has no say in a prediction


def find_files(source: str, output: UPath | None = None) -> list[Case]:
    """Every image or volume under a folder (masks of BUSI's naming aside), or the one file or DICOM folder given.

    The case is the path without its ending. What lies under `output` is no scan.

    Raises:
        ConfigError: as in `find_scans`.
    """
    root = UPath(source)
    if root.is_file() or ("#" in root.name and not root.is_dir()):
        return [_case(_stem(root.name), root)]
    if not root.is_dir():
        raise ConfigError(f"predict.input: there is no folder or file {source}")
    everything = list(fresh(root).rglob("*"))
    series = {file.parent for file in everything if file.suffix.lower() in _DICOM}
    files = [file for file in everything if _ending(file.name) and file.parent not in series]
    masks = {file for file in files if _MASK.search(_stem(file.name))}
    files = _without(sorted([*files, *series], key=str), str, _results(root, output))
    if aside := masks.intersection(files):
        print(f"predict: {len(aside)} files called *_mask are taken for masks and left alone", flush=True)
    files = [file for file in files if file not in aside]
    if not files:
        known = ", ".join([*READERS, *VOLUME_READERS])
        raise ConfigError(f"predict.input: no image under {source}; known endings are {known}")
    relative = [file.path.removeprefix(root.path).lstrip("/") or root.absolute().name for file in files]
    stems = [_stem(name) for name in relative]
    counts = Counter(stems)
    twice = {stem for stem in stems if counts[stem] > 1}  # a.png beside a.jpg
    return [
        _case(name if stem in twice else stem, file) for stem, name, file in zip(stems, relative, files, strict=True)
    ]


def _results(root: UPath, output: UPath | None) -> UPath | None:
    """The output as it is met in a search below the root; None where it lies elsewhere.

    Raises:
        ConfigError: it is the root.
    """
    if output is None:
        return None
    own, searched = _place(output), _place(root)
    if own == searched:
        raise ConfigError(
            f"predict.output = {output}: is the folder of predict.input, so that a second run would take the masks "
            f"for scans; give another one, such as predict.output={root / 'predictions'}"
        )
    return root / own.removeprefix(searched) if own.startswith(searched) else None


def _place(folder: UPath) -> str:
    """Path of a folder, / at its end, the same however it is spelt."""
    local = folder.protocol in ("", "file")
    return str(UPath(folder.path).resolve() if local else folder).rstrip("/") + "/"


def _without(items: Sequence[T], file_of: Callable[[T], str], results: UPath | None) -> list[T]:
    """The items whose file does not lie in the folder of the results; says how many do."""
    if results is None:
        return list(items)
    kept = [item for item in items if not UPath(file_of(item)).is_relative_to(results)]
    if len(kept) < len(items):
        print(f"predict: {len(items) - len(kept)} files left out, for they lie in the output {results}", flush=True)
    return kept


def _ending(name: str) -> str:
    found = [ending for ending in (*READERS, *VOLUME_READERS) if name.lower().endswith(ending)]
    return max(found, key=len, default="")


def _stem(name: str) -> str:
    return name[: len(name) - len(_ending(name))]


def _case(name: str, file: UPath) -> Case:
    return Case(id=name, group=name, stratum="", images={"image": str(file)}, labels=())


def predict(
    predictor: Predictor,
    cases: Iterable[Case],
    settings: PredictSettings,
    folder: UPath,
    progress: Callable[[int], None] | None = None,
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

    Returns:
        What predictions.csv holds, and the cases that could not be read.
    """
    rows: list[dict[str, Any]] = []
    rejected: list[Rejection] = []
    regions = list(predictor.card.classes)
    make_folder(folder)
    for done, found in enumerate(predictor.segment(cases), start=1):
        if isinstance(found, Rejection):
            rejected.append(found)
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
        name = found.case.id if len(regions) == 1 else f"{found.case.id}_{region}"
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
