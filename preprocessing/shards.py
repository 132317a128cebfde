"""One shard of the patch cache: from the files of a few cases to one Parquet file. Knows nothing of Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from preprocessing.cache import FINGERPRINT_KEY
from preprocessing.cache_settings import CacheSettings
from preprocessing.case import BadFile, Case, Rejection
from preprocessing.duplicates import signature
from preprocessing.geometry.patchify import patchify
from preprocessing.lock import check_owner
from preprocessing.object_store import open_parts, reaching
from preprocessing.prepare import prepare
from preprocessing.readers.volumes import is_volume_file
from preprocessing.samples import Sample, samples_of
from preprocessing.schema import patch_schema
from preprocessing.storage import replacing

REPORT_KEY = b"report"


@dataclass(frozen=True)
class Shard:
    """What is to be written: a file of the cache and the cases that go into it."""

    root: str
    file: str
    cases: tuple[Case, ...]
    settings: CacheSettings
    dims: int
    fingerprint: str
    lock: str
    token: str  # of the lock's owner, on whose behalf this is written


@dataclass
class ShardReport:
    """What was written: rows of each row group, facts about each case kept, and the cases left out."""

    file: str
    row_groups: list[int]
    cases: list[dict[str, Any]]
    rejected: list[Rejection]

    def to_json(self) -> str:
        """The report as text, for the file's footer and for transport."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ShardReport:
        """Inverse of `to_json`."""
        fields = json.loads(text)
        return cls(**{**fields, "rejected": [Rejection(**r) for r in fields["rejected"]]})


def write_shard(shard: Shard) -> ShardReport:
    """Write the shard.

    Memory: one case and one row group at a time.

    Raises:
        RunError: another writer took the lock over, or a store refuses or cannot be reached.
        OSError: the file cannot be written.
    """
    path = UPath(shard.root) / shard.file
    report = ShardReport(shard.file, [], [], [])
    schema = patch_schema(shard.dims)
    with replacing(path) as temporary:
        with (
            temporary.open("wb") as stream,
            pq.ParquetWriter(
                stream, schema, compression="zstd", compression_level=shard.settings.compression, use_dictionary=False
            ) as writer,
        ):
            for group in _row_groups(shard, report):
                writer.write_table(pa.Table.from_pylist(group, schema), row_group_size=len(group))
                report.row_groups.append(len(group))
            writer.add_key_value_metadata(
                {FINGERPRINT_KEY: shard.fingerprint.encode(), REPORT_KEY: report.to_json().encode()}
            )
        check_owner(shard.lock, shard.token)
    return report


def case_rows(case: Case, settings: CacheSettings) -> tuple[Iterator[dict[str, Any]], dict[str, Any]]:
    """Rows of `patch_schema`, made one by one, and the facts about a case.

    Raises:
        BadFile: a file cannot be used.
    """
    prepared = prepare(case, settings)
    phash, thumbnail = signature(prepared.image)
    facts = {
        "case": case.id,
        "source_size": list(prepared.source_size),
        "lesion_pixels": 0 if prepared.label is None else int(np.count_nonzero(prepared.label)),
        "phash": phash.hex(),
        "thumbnail": thumbnail.hex(),
    }
    rows = (
        {"sample": number, "case": case.id, **_columns(sample, settings)}
        for number, sample in enumerate(samples_of(prepared, settings))
    )
    return rows, facts


def _columns(sample: Sample, settings: CacheSettings) -> dict[str, Any]:
    patch = settings.patch
    real = patchify(sample.real[None], patch)
    return {
        "patches": patchify(sample.image, patch).astype("<f2").tobytes(),
        "real": np.packbits(real).tobytes(),
        "valid": np.round(255 * real.mean(axis=1)).astype(np.uint8).tobytes(),
        "label": None if sample.label is None else patchify(sample.label[None], patch).tobytes(),
        "frame": sample.frame.tolist(),
        "lesion": 0 if sample.label is None else int(np.count_nonzero(sample.label)),
        "geometry": sample.geometry,
    }


def _row_groups(shard: Shard, report: ShardReport) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = rows_per_group(shard.settings, len(shard.cases[0].images))
    for case in shard.cases:
        try:
            rows, facts = case_rows(case, shard.settings)
        except BadFile as bad:
            report.rejected.append(Rejection(case.id, bad.file, bad.reason))
            continue
        report.cases.append(facts)
        for row in rows:
            group.append(row)
            if len(group) == size:
                yield group
                group = []
    if group:
        yield group


def rows_per_group(settings: CacheSettings, channels: int) -> int:
    """Samples in one row group."""
    return max(1, settings.row_group_kb * 1024 // settings.sample_bytes(channels))


def plan(cases: Sequence[Case], settings: CacheSettings, channels: int) -> list[tuple[Case, ...]]:
    """Deal the cases, in their order, to shards: at least 16 of them where that fills row groups, for parallel work."""
    fitting = max(1, settings.shard_mb * 2**20 // settings.sample_bytes(channels))
    group = rows_per_group(settings, channels)
    wanted = -(-len(cases) // 16)
    if is_volume_file(next(iter(cases[0].images.values()))):  # each fills row groups by itself
        return [tuple(cases[i : i + min(4, wanted)]) for i in range(0, len(cases), min(4, wanted))]
    count = max(1, min(fitting, -(-wanted // group) * group))
    return [tuple(cases[i : i + count]) for i in range(0, len(cases), count)]


def standing(shard: Shard) -> ShardReport | None:
    """The report of the shard where it was written already, so that a run that was killed goes on; else None."""
    try:
        with reaching(shard.root), open_parts(UPath(shard.root) / shard.file) as stream:
            facts = pq.read_metadata(stream).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    if facts.get(FINGERPRINT_KEY, b"").decode() != shard.fingerprint:
        return None
    return ShardReport.from_json(facts[REPORT_KEY].decode())
