"""The Ray Data graph that turns cases into a patch cache, and the rules for reusing one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import DataContext
from upath import UPath

from preprocessing.cache import (
    CASES_FILE,
    INPUTS_FILE,
    LOOKS,
    MANIFEST,
    REJECTED_FILE,
    SAMPLES_FILE,
    PatchCache,
    check_version,
    read_manifest,
    read_table,
    samples_of,
)
from preprocessing.cache_settings import CacheSettings
from preprocessing.case import Case, Rejection
from preprocessing.duplicates import VOLUMES, find_pairs, merge_groups
from preprocessing.errors import ConfigError, RunError
from preprocessing.fingerprint import MEMO_FILE, digest_files, digest_of, fingerprint_of, inputs_table, what_changed
from preprocessing.layouts import DataSettings
from preprocessing.lock import OwnedLock, check_owner
from preprocessing.object_store import fresh
from preprocessing.out_of_memory import killed_worker_told
from preprocessing.readers.volumes import is_volume_file
from preprocessing.schema import CASES, REJECTED, SCHEMA_VERSION
from preprocessing.shards import Shard, ShardReport, plan, standing, write_shard
from preprocessing.storage import FULL, TEMPORARY, absolute, full_disk, make_folder, write_table, write_text, writing_to

LOCK_FILE = "owner.json"
Progress = Callable[[int, int], None]  # cases done, cases in all


def build_cache(
    cases: Sequence[Case],
    rejected: Sequence[Rejection],
    data: DataSettings,
    settings: CacheSettings,
    cache_dir: str,
    progress: Progress | None = None,
    log: Callable[[str], None] = print,
) -> PatchCache:
    """Make the cache, or open it where it stands and was made from the same files and settings.

    Ray must have been initialised by the caller. A run that was killed goes on with the shards that are missing.

    Args:
        cases, rejected: of `load_cases`.
        data: its dims and its thresholds for near-duplicates are used.
        settings: canvas, patches, intensities, storage.
        cache_dir: folder or URI.
        progress: called as shards are finished.
        log: takes a line that says what is done and why.

    Raises:
        ConfigError: dims, canvas and modalities do not fit together.
        RunError: too many cases are rejected, the disk is full, memory is short, another process writes the cache,
            or it is of another version.
    """
    cases = sorted(cases, key=lambda case: case.id)
    channels = check_shapes(cases, data.dims, settings)
    cache_dir = absolute(cache_dir)
    root, lock_file = fresh(UPath(cache_dir)), str(UPath(cache_dir) / LOCK_FILE)
    volumes = is_volume_file(next(iter(cases[0].images.values())))
    each = max(1, settings.most_samples) if volumes else 1  # without a cap nobody knows before they are read
    needed = len(cases) * each * settings.sample_bytes(channels)
    content = {"dims": data.dims, "channels": channels, **settings.content()}
    tables = _tables(cases, rejected, data)
    with writing_to(cache_dir, needed):
        make_folder(root)
        digests = digest_files(cases, root / MEMO_FILE)
        fingerprint = fingerprint_of(cases, digests, content)
        inputs = inputs_table(cases, digests)
        # looked at without the lock: many runs may read one cache at the same time
        if _stands(cache_dir, fingerprint, tables, settings, log):
            return PatchCache.open(cache_dir)
        with OwnedLock(lock_file, f"the patch cache {cache_dir}") as lock:
            if _stands(cache_dir, fingerprint, tables, settings, log):
                return PatchCache.open(cache_dir)  # made by another run in the meantime
            manifest = read_manifest(cache_dir)
            if manifest is not None:
                log(f"patch cache: made again, since {_why(root, manifest, fingerprint, content, inputs)}")
                (root / MANIFEST).unlink()
            shards = [
                Shard(
                    cache_dir, f"patches-{i:05d}.parquet", part, settings, data.dims, fingerprint, lock_file, lock.token
                )
                for i, part in enumerate(plan(cases, settings, channels))
            ]
            wanted = {shard.file for shard in shards}
            _sweep(root, wanted)
            reports = _run(shards, needed, progress)
            _sweep(root, wanted)  # a worker that was killed meanwhile left a part of a shard
            left_out = [*rejected, *(rejection for report in reports for rejection in report.rejected)]
            kept = _cases_table(cases, reports, data)
            manifest = {
                "schema_version": SCHEMA_VERSION,
                "fingerprint": fingerprint,
                "settings": content,
                "tables": tables,
                **{name: content[name] for name in ("dims", "channels", "size", "patch")},
                "samples": sum(sum(report.row_groups) for report in reports),
                "cases": kept.num_rows,
                "rejected": len(left_out),
                "shards": [
                    {"file": report.file, "rows": sum(report.row_groups), "row_groups": report.row_groups}
                    for report in reports
                ],
            }
            write_table(root / REJECTED_FILE, pa.Table.from_pylist([asdict(r) for r in left_out], REJECTED))
            refuse_many(left_out, manifest, settings)
            write_table(root / CASES_FILE, kept)
            write_table(root / SAMPLES_FILE, samples_of(cache_dir, [r.file for r in reports if sum(r.row_groups)]))
            write_table(root / INPUTS_FILE, inputs)
            check_owner(lock_file, lock.token)
            write_text(root / MANIFEST, json.dumps(manifest, indent=1))
    return PatchCache.open(cache_dir)


def check_shapes(cases: Sequence[Case], dims: int, settings: CacheSettings) -> int:
    """Number of channels.

    Raises:
        ConfigError: axes of canvas and images differ, or cases differ in their modalities.
    """
    mistakes = []
    if len(settings.size) != dims:
        mistakes.append(f"cache.size has {len(settings.size)} numbers, data.dims is {dims}: they must agree")
    modalities = list(cases[0].images) if cases else []
    mistakes += [
        f"case {case.id} has the modalities {list(case.images)}, case {cases[0].id} has {modalities}: they must agree"
        for case in cases
        if list(case.images) != modalities
    ][:10]
    # entries for modalities that are not used do no harm; one beside a modality that lacks its own is a slip of the pen
    named = {
        "cache.reference": [settings.reference] * bool(settings.reference),
        "cache.intensity": list(settings.intensity) if set(modalities) - set(settings.intensity) else [],
    }
    mistakes += [
        f"{field} names {name!r}, the scans have {', '.join(modalities)}"
        for field, names in named.items()
        for name in names
        if cases and name not in modalities
    ]
    if not cases:
        mistakes.append("there is no case to preprocess")
    if mistakes:
        raise ConfigError(mistakes)
    return len(modalities)


def _stands(cache_dir: str, fingerprint: str, tables: str, settings: CacheSettings, log: Callable[[str], None]) -> bool:
    """Whether a whole cache of these inputs is there; too many rejected cases stop the run as when it was made."""
    manifest = read_manifest(cache_dir)
    if manifest is None:
        return False
    check_version(cache_dir, manifest)
    if manifest["fingerprint"] != fingerprint or manifest["tables"] != tables:
        return False
    log(f"patch cache: {cache_dir} is up to date ({manifest['samples']} samples)")
    rejected = PatchCache.open(cache_dir).rejected
    refuse_many([Rejection(*row) for row in rejected.itertuples(index=False)], manifest, settings)
    return True


def refuse_many(rejected: Sequence[Rejection], manifest: dict[str, Any], settings: CacheSettings) -> None:
    """Stop where too large a share of the cases was left out, or nothing is left.

    Raises:
        RunError: naming the first ones.
    """
    found = manifest["cases"] + manifest["rejected"]
    if manifest["samples"] and len(rejected) <= settings.max_rejected * found:
        return
    first = "".join(f"\n  {r.case}: {r.file}: {r.reason}" for r in rejected[:5])
    more = f"\n  and {len(rejected) - 5} more, see {REJECTED_FILE} in the cache" if len(rejected) > 5 else ""
    raise RunError(
        f"{len(rejected)} of {found} cases cannot be used, cache.max_rejected allows a share of "
        f"{settings.max_rejected:g}. Mend the files or raise cache.max_rejected:{first}{more}"
    )


def _run(shards: Sequence[Shard], needed: int, progress: Progress | None) -> list[ShardReport]:
    """Write the shards that do not stand yet, in parallel; the reports of all, in order."""
    with ThreadPoolExecutor(LOOKS) as pool:
        found = pool.map(standing, shards)
        reports = {shard.file: report for shard, report in zip(shards, found, strict=True) if report is not None}
    missing = [shard for shard in shards if shard.file not in reports]
    sizes = {shard.file: len(shard.cases) for shard in shards}

    def tell() -> None:
        if progress is not None:
            progress(sum(sizes[file] for file in reports), sum(sizes.values()))

    tell()
    if missing:
        common = replace(missing[0], cases=())  # what all have in common travels once, cases with their row
        rows = [{"file": shard.file, "cases": [case.to_json() for case in shard.cases]} for shard in missing]
        context = DataContext.get_current().copy()
        context.enable_progress_bars = context.print_on_execution_start = False
        with killed_worker_told("reading images"), DataContext.current(context):
            plan_rows = ray.data.from_items(rows, override_num_blocks=len(rows))
            for row in plan_rows.map(partial(_shard_row, common=common), num_cpus=1).iter_rows():
                if row["full"]:
                    raise full_disk(common.root, needed, row["full"])
                if row["lost"]:
                    raise RunError(row["lost"])
                report = ShardReport.from_json(row["report"])
                reports[report.file] = report
                tell()
    return [reports[shard.file] for shard in shards]


def _shard_row(row: dict[str, Any], common: Shard) -> dict[str, Any]:
    shard = replace(common, file=row["file"], cases=tuple(Case.from_json(text) for text in row["cases"]))
    result = {"report": "", "full": "", "lost": ""}
    try:
        return {**result, "report": write_shard(shard).to_json()}
    except RunError as error:
        return {**result, "lost": str(error)}
    except OSError as error:
        if error.errno not in FULL:
            raise
        return {**result, "full": str(error)}


def _cases_table(cases: Sequence[Case], reports: Sequence[ShardReport], data: DataSettings) -> pa.Table:
    facts = {fact["case"]: fact for report in reports for fact in report.cases}
    kept = [case for case in cases if case.id in facts]
    signatures = [(bytes.fromhex(facts[c.id]["phash"]), bytes.fromhex(facts[c.id]["thumbnail"])) for c in kept]
    volume = np.array([is_volume_file(next(iter(case.images.values()))) for case in kept], bool)
    pairs = [
        some[find_pairs([signatures[n] for n in some], settings)]
        for some, settings in ((np.flatnonzero(~volume), data), (np.flatnonzero(volume), VOLUMES))
    ]
    groups = merge_groups([case.group for case in kept], np.concatenate(pairs))
    rows = [
        {
            "case": case.id,
            "group": group,
            "stratum": case.stratum,
            "split_given": case.split,
            "labelled": bool(case.labels),
            "images": json.dumps(case.images),
            "labels": json.dumps(case.labels),
            "source_size": facts[case.id]["source_size"],
            "lesion_pixels": facts[case.id]["lesion_pixels"],
            "phash": signature[0],
            "thumbnail": signature[1],
        }
        for case, group, signature in zip(kept, groups, signatures, strict=True)
    ]
    return pa.Table.from_pylist(rows, CASES)


def _tables(cases: Sequence[Case], rejected: Sequence[Rejection], data: DataSettings) -> str:
    """What the table of cases depends on beside the files."""
    given = [[case.group, case.stratum, case.split, *case.files] for case in cases]
    return digest_of(
        [data.duplicate_threshold, data.duplicate_correlation, given, [asdict(rejection) for rejection in rejected]]
    )


def _why(root: UPath, manifest: dict[str, Any], fingerprint: str, content: dict[str, Any], inputs: pa.Table) -> str:
    if manifest["fingerprint"] == fingerprint:
        return "the groups, strata, splits or places of its cases changed (the patches are kept)"
    return what_changed(manifest["settings"], content, read_table(root / INPUTS_FILE), inputs)


def _sweep(root: UPath, wanted: set[str]) -> None:
    """Remove what a killed writer or a former, larger cache left behind."""
    for path in root.iterdir():
        if path.name.startswith(TEMPORARY) or (path.name.startswith("patches-") and path.name not in wanted):
            path.unlink(missing_ok=True)
