"""Writing so that a reader never sees half a file."""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from preprocessing.errors import RunError
from preprocessing.object_store import fresh, is_local, putting, reaching

TEMPORARY = ".writing-"  # prefix of files that a killed writer may leave behind
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


@contextmanager
def replacing(path: UPath) -> Iterator[UPath]:
    """A temporary name beside `path` to write to; renamed to `path` at the end, removed on failure.

    For an object store it is a name on the local disk, uploaded at the end: a stream to the store would be closed, and
    with that put in place, by a failure as well.

    Raises:
        StoreError: the store refuses or cannot be reached.
    """
    if not is_local(path):
        with tempfile.TemporaryDirectory(prefix="upload-") as folder:
            part = UPath(folder) / path.name
            yield part
            with putting(path):
                path.fs.put_file(part.path, path.path)
        return
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}"
    try:
        yield temporary
        os.replace(temporary.path, path.path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: UPath, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_table(path: UPath, table: pa.Table) -> None:
    """Write a Parquet file atomically."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        pq.write_table(table, stream, compression="zstd")


def make_folder(path: UPath) -> None:
    """Make a folder and those above it. An object store needs none, and its driver would make a missing bucket."""
    if is_local(path):
        path.mkdir(parents=True, exist_ok=True)


def remove_folder(folder: UPath, last: str) -> None:
    """Remove a folder with all that is in it.

    Args:
        folder: path or URI.
        last: file in it that goes last, so that a removal that was interrupted is known as such.
    """
    if is_local(folder):
        for entry in folder.iterdir():
            if entry.name != last:
                entry.fs.rm(entry.path, recursive=True)
        folder.fs.rm(folder.path, recursive=True)
        return
    folder, mark = fresh(folder), folder / last
    with putting(mark):
        others = [file for file in folder.fs.find(folder.path) if file != mark.path]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(folder.fs.rm_file, others))
        folder.fs.rm_file(mark.path)


def absolute(uri: str) -> str:
    """A local path from the root on, since workers have working directories of their own; a URI as it is."""
    path = UPath(uri)
    return str(path.absolute()) if is_local(path) else uri


@contextmanager
def writing_to(folder: str, needed_bytes: int) -> Iterator[None]:
    """Turn a full disk, or a folder that may not be written, into a message that says where and what to do.

    Raises:
        RunError: the disk, the quota or the file size limit was reached, or writing is not allowed; a store refuses or
            cannot be reached.
    """
    try:
        with reaching(folder):
            yield
    except OSError as error:
        if error.errno in FULL:
            raise full_disk(folder, needed_bytes, error) from error
        if error.errno in _FORBIDDEN:
            raise RunError(f"cannot write to {folder} ({error}): choose another folder or change its rights") from error
        raise


def full_disk(folder: str, needed_bytes: int, error: OSError | str) -> RunError:
    """The message for a full disk."""
    if not is_local(UPath(folder)):
        return RunError(
            f"no space left in {tempfile.gettempdir()} ({error}), where files are kept until they are uploaded to "
            f"{folder}. Free space, or point TMPDIR to another disk, and run the same command again"
        )
    return RunError(
        f"no space left in {folder} ({error}): up to {needed_bytes / 2**20:.0f} MiB are needed there. "
        "Free space, or point cache.dir or run.dir to another disk, and run the same command again; "
        "what was finished is kept"
    )
