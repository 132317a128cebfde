"""The Ray Data graph that computes the features of all patches once, so that many rules can be tried on them.

Patch moments are computed where the blocks of the cache are read; what is usual at a place is summed over the
training samples; then features are computed from the moments, which stay materialised in between. The crops of a
volume are put together for that: what surrounds a patch does not end where a crop does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import ray
import torch
from ray.data import DataContext
from upath import UPath

from preprocessing.cache import PatchCache
from preprocessing.errors import RunError
from preprocessing.fingerprint import digest_of
from preprocessing.out_of_memory import killed_worker_told
from preprocessing.selection.feature_table import FeatureTable, read_features, volumes_of, write_features
from preprocessing.selection.features import PatchGrid, Polarity, features, modality_of, patch_moments
from preprocessing.selection.hitrate import candidates
from preprocessing.selection.mosaic import Mosaic
from preprocessing.selection.statistics import PopulationStatistics, StatisticsSum, relative_place
from preprocessing.storage import make_folder

VERSION = 2  # of the features' definitions
_BINS = 16  # places along each axis; BUSI's lesions are larger than a sixteenth of the image


def feature_table(
    cache: PatchCache, train_cases: Iterable[str], names: Sequence[str], polarity: Sequence[Polarity], out_dir: str
) -> FeatureTable:
    """Compute the features of all patches, or read them where they were computed before.

    Args:
        train_cases: the cases that what is usual at a place is taken from; no other case has any influence on it.
        names: see `features.check_name`.
        polarity: one a channel.
        out_dir: folder or URI; the table is features-<fingerprint>.parquet in it.

    Raises:
        RunError: there is no training sample in the cache, or a feature names a modality that it does not have.
    """
    unknown = [name for name in names if modality_of(name) not in ("", *cache.modalities)]
    if unknown:
        raise RunError(
            f"selection: there is no modality for {', '.join(unknown)}; the scans have {', '.join(cache.modalities)}"
        )
    train = cache.sample_indices(train_cases)
    if not len(train):
        raise RunError(
            f"the patch cache at {cache.root} holds no training case; the selection has nothing to learn from"
        )
    cases = sorted(set(cache.samples["case"].to_numpy()[train]))
    fingerprint = digest_of([VERSION, cache.fingerprint, cases, list(names), list(polarity), _BINS])
    path = UPath(out_dir) / f"features-{fingerprint[:12]}.parquet"
    if path.exists():
        table = read_features(path, cache, names)
        if table.fingerprint == fingerprint:
            return table
    values, valid = _compute(cache, train, names, polarity)
    table = FeatureTable(tuple(names), cache.grid, values, valid, cache.case_numbers, fingerprint, volumes_of(cache))
    make_folder(path.parent)
    write_features(path, table)
    return table


def _compute(
    cache: PatchCache, train: np.ndarray, names: Sequence[str], polarity: Sequence[Polarity]
) -> tuple[np.ndarray, np.ndarray]:
    context = DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    with killed_worker_told("measuring features"), DataContext.current(context):
        moments = ray.data.from_items(_units(cache)).map(partial(_moments, cache=cache)).materialize()
        population = _population(cache, train, moments)
        task = partial(_features, cache=cache, population=population, names=list(names), polarity=list(polarity))
        rows = moments.map(task).iter_rows()
        values = np.zeros((len(cache.samples), cache.tokens, len(names)), np.float16)
        valid = np.zeros(values.shape[:2], np.uint8)
        for row in rows:  # in any order: each row says which samples it holds
            sample = np.frombuffer(row["sample"], np.int64)
            values[sample] = np.frombuffer(row["features"], np.float16).reshape(len(sample), *values.shape[1:])
            valid[sample] = np.frombuffer(row["valid"], np.uint8).reshape(len(sample), -1)
    return values, valid


def _units(cache: PatchCache) -> list[dict[str, bytes]]:
    """What is worked on at a time: a block of images or slices; all crops of a volume."""
    kind = cache.case_numbers if cache.dims == 3 else cache.samples["block"].to_numpy()
    parts = [np.flatnonzero(kind == number).astype(np.int64) for number in np.unique(kind)]
    return [{"sample": part.tobytes()} for part in parts]


def _moments(row: dict[str, Any], cache: PatchCache) -> dict[str, Any]:
    batch = cache.read(np.frombuffer(row["sample"], np.int64))
    mean, spread = patch_moments(torch.tensor(batch.patches), torch.tensor(batch.valid), cache.channels)
    arrays = {"sample": batch.sample, "mean": mean.numpy(), "spread": spread.numpy()}
    arrays |= {"valid": batch.valid, "frame": batch.frame}
    return {name: values.tobytes() for name, values in arrays.items()}


def _unpack(row: dict[str, Any], cache: PatchCache) -> tuple[np.ndarray, dict[str, torch.Tensor], Mosaic | None]:
    """Numbers of the samples, and moments of their patches: of each sample, or of the volume that they are crops of."""
    sample = np.frombuffer(row["sample"], np.int64)

    def array(name: str, dtype: type, *shape: int) -> torch.Tensor:
        return torch.tensor(np.frombuffer(row[name], dtype).reshape(len(sample), *shape))

    frame, grid = array("frame", np.int32, 2 * cache.dims), cache.grid
    valid = array("valid", np.uint8, 1, *grid)
    parts = {
        "mean": array("mean", np.float32, cache.channels, *grid),
        "spread": array("spread", np.float32, cache.channels, *grid),
        "weight": torch.where(torch.from_numpy(candidates(valid.numpy())), valid.float() / 255, 0.0),
    }
    mosaic = Mosaic(frame.numpy(), grid, cache.patch) if cache.dims == 3 else None
    if mosaic is not None:
        parts = {name: mosaic.assemble(values) for name, values in parts.items()}
        frame, grid = torch.from_numpy(mosaic.frame), mosaic.grid
    return sample, {**parts, "place": relative_place(frame, grid, cache.patch)}, mosaic


def _population(cache: PatchCache, train: np.ndarray, moments: ray.data.Dataset) -> PopulationStatistics:
    sums = StatisticsSum(cache.channels, [_BINS] * cache.dims)
    wanted = set(train.tolist())
    for row in moments.iter_rows():
        sample, parts, mosaic = _unpack(row, cache)
        for position in range(len(parts["mean"])):
            # the crops of a volume are trained on together or not at all
            if int(sample[0 if mosaic else position]) in wanted:
                mean, weight, place = (parts[name][position] for name in ("mean", "weight", "place"))
                sums.add(mean, weight[0], place)
    return sums.finish()


def _features(
    row: dict[str, Any],
    cache: PatchCache,
    population: PopulationStatistics,
    names: list[str],
    polarity: list[Polarity],
) -> dict[str, Any]:
    _, parts, mosaic = _unpack(row, cache)
    values = features(PatchGrid(population=population, **parts), names, polarity, cache.modalities)
    values = values if mosaic is None else mosaic.cut(values)
    packed = values.numpy().astype(np.float16).tobytes()
    return {"sample": row["sample"], "valid": row["valid"], "features": packed}
