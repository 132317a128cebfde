"""What a cache was made from: the content of every file and the settings that matter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from upath import UPath

from preprocessing.case import Case
from preprocessing.object_store import fresh, is_local, reaching
from preprocessing.readers.dicom import series_folder
from preprocessing.readers.itk import data_files
from preprocessing.schema import INPUTS, SCHEMA_VERSION
from preprocessing.storage import make_folder, write_text

if TYPE_CHECKING:
    from preprocessing.cache import PatchCache

MEMO_FILE = "hashes.json"
# What a store keeps of an object, the best first; without any of them the content is read. S3's ETag is the MD5 of what
# was put in one piece and a digest of digests of what came in parts; encrypted with a key of one's own it is no digest
# at all, but still changes with the content. Google keeps no MD5 of composed objects, Azure's etag is a version.
_CHECKSUMS = ("ETag", "md5Hash", "crc32c", "etag")
_LISTED = "listed"  # digests of several objects by what the store keeps of each begin so


def digest_files(cases: Sequence[Case], memo_file: UPath | None = None) -> dict[str, str]:
    """Digest of every file of the cases.

    Local files are hashed by content. Digests are remembered in `memo_file` with size and modification time, so
    that a second run only looks at those. Files in an object store go by what it keeps of each object, see
    `_CHECKSUMS`; each folder is listed once and nothing is downloaded. So the same file on a disk and in a store has
    two digests. A file that is missing has the digest "missing": that is noticed later, and is data.

    Raises:
        StoreError: the store of a URI refuses or cannot be reached.
    """
    memo = _load(memo_file)
    files = sorted({file for case in cases for file in case.files})
    listings = _Listings()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(listings.entries, {UPath(file).parent for file in files if not is_local(UPath(file))}))
        digests = pool.map(lambda file: _digest(file, memo.get(file), listings), files)
        found = dict(zip(files, digests, strict=True))
    if memo_file is not None and found != memo:
        make_folder(memo_file.parent)
        write_text(memo_file, json.dumps(found))
    return {file: entry[-1] for file, entry in found.items()}


def fingerprint_of(cases: Sequence[Case], digests: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """One fingerprint for cases (their ids, files and roles) and settings. Paths do not count, only content."""
    parts = [
        [case.id, [[name, digests[file]] for name, file in case.images.items()], [digests[f] for f in case.labels]]
        for case in cases
    ]
    return digest_of([SCHEMA_VERSION, settings, parts])


def content_without_labels(cache: PatchCache, cases: Iterable[str]) -> str:
    """Digest of all that a cache holds but for the labels of the given cases: what a training depends on that reads
    none of these."""
    hidden = set(cases)
    rows = [
        [case, json.loads(images), [] if case in hidden else json.loads(labels)]
        for case, images, labels in cache.cases[["case", "images", "labels"]].itertuples(index=False, name=None)
    ]
    known = [
        [case, [[name, cache.digests[file]] for name, file in images.items()], [cache.digests[file] for file in labels]]
        for case, images, labels in rows
    ]
    return digest_of([SCHEMA_VERSION, cache.manifest["settings"], known])


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


class _Listings:
    """What stores say of the objects in their folders, each folder asked for once."""

    def __init__(self) -> None:
        self._entries: dict[UPath, dict[str, Mapping[str, Any]]] = {}

    def entries(self, folder: UPath) -> dict[str, Mapping[str, Any]]:
        """Entry by name, as `ls` of fsspec gives it; empty where there is no such folder."""
        if folder not in self._entries:
            listed: list[Mapping[str, Any]] = []
            with reaching(str(folder)), suppress(FileNotFoundError):
                listed = fresh(folder).fs.ls(folder.path, detail=True)
            self._entries[folder] = {entry["name"].rpartition("/")[2]: entry for entry in listed}
        return self._entries[folder]

    def digest(self, file: str) -> str:
        """Of an object, or of a folder with a DICOM series; what follows the # says which."""
        entry = self.entries(UPath(file).parent).get(UPath(file).name)
        if entry is not None and entry["type"] == "file":
            with reaching(file):
                parts = [self.digest(str(part)) for part in data_files(file)]
            own = _checksum(UPath(file), entry)
            return f"{_LISTED} {digest_of([own, parts])}" if parts else own
        folder = series_folder(file)
        inside = {
            name: _checksum(UPath(folder) / name, entry)
            for name, entry in sorted(self.entries(UPath(folder)).items())
            if entry["type"] == "file" and name and not name.startswith(".")
        }
        return f"{_LISTED} {digest_of([file.removeprefix(folder), list(inside.items())])}" if inside else "missing"


def _checksum(path: UPath, entry: Mapping[str, Any]) -> str:
    name = next((name for name in _CHECKSUMS if entry.get(name)), None)
    if name is None:
        with reaching(str(path)):
            return hashlib.sha256(fresh(path).read_bytes()).hexdigest()
    return f"{name} {str(entry[name]).strip(chr(34))} {entry['size']}"


def _digest(file: str, known: Sequence[Any] | None, listings: _Listings) -> list[Any]:
    if not is_local(UPath(file)):
        return [0, 0, listings.digest(file)]
    folder, path = series_folder(file), UPath(file)
    try:
        if not path.is_file() and UPath(folder).is_dir():  # a DICOM series; what follows the # says which
            return _digest_series(UPath(folder), file.removeprefix(folder), known, listings)
        files = [path, *data_files(file)]
        states = [part.stat() for part in files]
        seen = [sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)]
        if known is not None and list(known[:2]) == seen:
            return list(known)
        digests = [_content_digest(part) for part in files]
        return [*seen, digests[0] if len(digests) == 1 else digest_of(digests)]
    except FileNotFoundError:
        return [0, 0, "missing"]
    except OSError as error:
        return [0, 0, f"unreadable: {error.strerror}"]


def _content_digest(path: UPath) -> str:
    with open(path.path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest_series(folder: UPath, choice: str, known: Sequence[Any] | None, listings: _Listings) -> list[Any]:
    files = sorted((file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")), key=str)
    seen = digest_of([[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files])
    if known is not None and list(known[:2]) == ["folder", seen]:
        return list(known)
    inside = sorted(_digest(str(file), None, listings)[-1] for file in files)  # whatever they are called
    return ["folder", seen, digest_of([choice, inside])]


def _load(memo_file: UPath | None) -> dict[str, list[Any]]:
    try:
        memo = json.loads(fresh(memo_file).read_text()) if memo_file is not None else {}
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return memo if isinstance(memo, dict) else {}
