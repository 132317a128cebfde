"""Writing so that a reader never sees half a file."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from preprocessing.errors import RunError

TEMPORARY = ".writing-"  # prefix of files that a killed writer may leave behind
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


@contextmanager
def replacing(path: UPath) -> Iterator[UPath]:
    """A temporary name beside `path` to write to; renamed to `path` at the end, removed on failure.

    An object store shows an object only when its upload has ended, so that there `path` itself is given.
    """
    if path.protocol not in ("", "file"):
        yield path
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


def absolute(uri: str) -> str:
    """A local path from the root on, since workers have working directories of their own; a URI as it is."""
    path = UPath(uri)
    return str(path.absolute()) if path.protocol in ("", "file") else uri


@contextmanager
def writing_to(folder: str, needed_bytes: int) -> Iterator[None]:
    """Turn a full disk, or a folder that may not be written, into a message that says where and what to do.

    Raises:
        RunError: the disk, the quota or the file size limit was reached, or writing is not allowed.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise full_disk(folder, needed_bytes, error) from error
        if error.errno in _FORBIDDEN:
            raise RunError(f"cannot write to {folder} ({error}): choose another folder or change its rights") from error
        raise


def full_disk(folder: str, needed_bytes: int, error: OSError | str) -> RunError:
    """The message for a full disk."""
    return RunError(
        f"no space left in {folder} ({error}): up to {needed_bytes / 2**20:.0f} MiB are needed there. "
        "Free space, or point cache.dir or run.dir to another disk, and run the same command again; "
        "what was finished is kept"
    )
