"""Features of all patches of a cache, and how they are stored: one Parquet file, named by its fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from preprocessing.cache import PatchCache
from preprocessing.selection.hitrate import candidates
from preprocessing.selection.mosaic import Mosaic
from preprocessing.storage import replacing

_KEY = b"fingerprint"


@dataclass(frozen=True)
class FeatureTable:
    """Features of all patches of a cache.

    Attributes:
        names: the F features.
        grid: patches along each axis.
        values: float16 [S, N, F]; 0 outside candidates.
        valid: uint8 [S, N], share of real pixels, 255 = all.
        case: int64 [S], number of each sample's case.
        fingerprint: of the cache, the training cases and the features' definitions.
        volumes: where the samples are crops, the samples int64 of each volume and how they lie in it; else empty.
    """

    names: tuple[str, ...]
    grid: tuple[int, ...]
    values: np.ndarray
    valid: np.ndarray
    case: np.ndarray
    fingerprint: str
    volumes: tuple[tuple[np.ndarray, Mosaic], ...] = ()

    @property
    def candidate(self) -> np.ndarray:
        """bool [S, N]: at most half padding."""
        return candidates(self.valid)

    def columns(self, names: Sequence[str]) -> list[int]:
        """Positions of the given features."""
        return [self.names.index(name) for name in names]


def volumes_of(cache: PatchCache) -> tuple[tuple[np.ndarray, Mosaic], ...]:
    """`FeatureTable.volumes` of a cache."""
    if cache.dims != 3:
        return ()
    order = np.argsort(cache.case_numbers, kind="stable")
    crops = np.split(order, np.flatnonzero(np.diff(cache.case_numbers[order])) + 1)
    return tuple((samples, Mosaic(cache.frames[samples], cache.grid, cache.patch)) for samples in crops)


def write_features(path: UPath, table: FeatureTable) -> None:
    columns = {
        "features": pa.array([v.tobytes() for v in table.values], pa.binary()),
        "valid": pa.array([v.tobytes() for v in table.valid], pa.binary()),
    }
    written = pa.table(columns).replace_schema_metadata({_KEY: table.fingerprint.encode()})
    with replacing(path) as temporary, temporary.open("wb") as stream:
        pq.write_table(written, stream, compression="zstd", row_group_size=256)


def read_features(path: UPath, cache: PatchCache, names: Sequence[str]) -> FeatureTable:
    with path.open("rb") as stream:
        table = pq.read_table(stream)
    fingerprint = (table.schema.metadata or {}).get(_KEY, b"").decode()
    shape = (len(table), cache.tokens, len(names))
    values = np.empty(shape, np.float16)
    valid = np.empty(shape[:2], np.uint8)
    for row, (packed, share) in enumerate(zip(table["features"], table["valid"], strict=True)):
        values[row] = np.frombuffer(packed.as_buffer(), np.float16).reshape(shape[1:])
        valid[row] = np.frombuffer(share.as_buffer(), np.uint8)
    return FeatureTable(tuple(names), cache.grid, values, valid, cache.case_numbers, fingerprint, volumes_of(cache))
