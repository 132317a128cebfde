"""What a cache was made from: the content of every file and the settings that matter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from upath import UPath

from preprocessing.case import Case
from preprocessing.readers.dicom import series_folder
from preprocessing.schema import INPUTS, SCHEMA_VERSION
from preprocessing.storage import write_text

MEMO_FILE = "hashes.json"


def digest_files(cases: Sequence[Case], memo_file: UPath | None = None) -> dict[str, str]:
    """Digest of every file of the cases.

    Local files are hashed by content. Digests are remembered in `memo_file` with size and modification time, so
    that a second run only looks at those. Files in an object store go by the store's own checksum (its ETag). A
    file that is missing has the digest "missing": that is noticed later, and is data.
    """
    memo = _load(memo_file)
    files = sorted({file for case in cases for file in case.files})
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(files, pool.map(lambda file: _digest(file, memo.get(file)), files), strict=True))
    if memo_file is not None and found != memo:
        memo_file.parent.mkdir(parents=True, exist_ok=True)
        write_text(memo_file, json.dumps(found))
    return {file: entry[-1] for file, entry in found.items()}


def fingerprint_of(cases: Sequence[Case], digests: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """One fingerprint for cases (their ids, files and roles) and settings. Paths do not count, only content."""
    parts = [
        [case.id, [[name, digests[file]] for name, file in case.images.items()], [digests[f] for f in case.labels]]
        for case in cases
    ]
    return digest_of([SCHEMA_VERSION, settings, parts])


def digest_of(values: Any) -> str:
    """Digest of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def inputs_table(cases: Sequence[Case], digests: Mapping[str, str]) -> pa.Table:
    """`schema.INPUTS`: what the fingerprint was made from, so that a later run can say what changed."""
    rows = [(case.id, file, digests[file]) for case in cases for file in case.files]
    columns = list(zip(*rows, strict=True)) if rows else [(), (), ()]
    return pa.table(dict(zip(INPUTS.names, map(list, columns), strict=True)), schema=INPUTS)


def what_changed(
    before: Mapping[str, Any], after: Mapping[str, Any], inputs_before: pa.Table, inputs_after: pa.Table
) -> str:
    """One line that says which setting or file made an existing cache out of date."""
    changes = [
        f"cache.{name} was {before.get(name)}, is {after.get(name)}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    old, new = _by_file(inputs_before), _by_file(inputs_after)
    for what, keys in (
        ("changed", [key for key in new if key in old and new[key] != old[key]]),
        ("new", [key for key in new if key not in old]),
        ("gone", [key for key in old if key not in new]),
    ):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            changes.append(f"{what}: {keys[0][1]} of case {keys[0][0]}{more}")
    return "; ".join(changes) or "the order or the roles of the files changed"


def _by_file(table: pa.Table) -> dict[tuple[str, str], str]:
    return {(row["case"], UPath(row["file"]).name): row["digest"] for row in table.to_pylist()}


def _digest(file: str, known: Sequence[Any] | None) -> list[Any]:
    folder, path = series_folder(file), UPath(file)
    try:
        if not path.is_file() and UPath(folder).is_dir():  # a DICOM series; what follows the # says which
            return _digest_series(UPath(folder), file.removeprefix(folder), known)
        if path.protocol not in ("", "file"):
            return [0, 0, str(path.fs.ukey(path.path))]
        status = path.stat()
        if known is not None and list(known[:2]) == [status.st_size, status.st_mtime_ns]:
            return list(known)
        with open(path.path, "rb") as stream:
            return [status.st_size, status.st_mtime_ns, hashlib.file_digest(stream, "sha256").hexdigest()]
    except FileNotFoundError:
        return [0, 0, "missing"]
    except OSError as error:
        return [0, 0, f"unreadable: {error.strerror}"]


def _digest_series(folder: UPath, choice: str, known: Sequence[Any] | None) -> list[Any]:
    files = sorted((file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")), key=str)
    local = folder.protocol in ("", "file")
    seen = digest_of([[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]) if local else ""
    if local and known is not None and list(known[:2]) == ["folder", seen]:
        return list(known)
    return ["folder", seen, digest_of([choice, [[file.name, _digest(str(file), None)[-1]] for file in files]])]


def _load(memo_file: UPath | None) -> dict[str, list[Any]]:
    try:
        memo = json.loads(memo_file.read_text()) if memo_file is not None else {}
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return memo if isinstance(memo, dict) else {}
