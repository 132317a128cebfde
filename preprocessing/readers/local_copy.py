"""Files as libraries want them that read from the local disk only; what lies elsewhere is copied for the time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePath

from upath import UPath

from preprocessing.case import BadFile
from preprocessing.object_store import fresh, is_local, reaching


@contextmanager
def opening(file: str) -> Iterator[None]:
    """Turn what a file system says into a BadFile.

    Raises:
        BadFile: the file is not there or cannot be opened.
        StoreError: its store cannot be reached or refuses, which says nothing about the file.
    """
    try:
        with reaching(file):
            yield
    except FileNotFoundError:
        raise BadFile(file, "the file does not exist") from None
    except IsADirectoryError:
        raise BadFile(file, "is a folder, not a file") from None
    except OSError as error:
        raise BadFile(file, f"cannot be opened: {error.strerror or error}") from error


def read_content(file: str) -> bytes:
    """All bytes of a local or remote file.

    Raises:
        BadFile: it does not exist, cannot be opened, or is empty.
    """
    with opening(file):
        content = fresh(UPath(file)).read_bytes()
    if not content:
        raise BadFile(file, "the file is empty (0 bytes)")
    return content


@contextmanager
def local_folder(folder: str) -> Iterator[Path]:
    """The folder itself, or a temporary copy of the files that lie directly in it.

    Raises:
        BadFile: there is no such folder.
    """
    path = fresh(UPath(folder))
    with opening(folder):
        if not path.is_dir():
            raise BadFile(folder, "there is no such folder")
    if is_local(path):
        yield Path(path.path)
        return
    with tempfile.TemporaryDirectory() as temporary:
        with opening(folder), ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda file: path.fs.get_file(file, f"{temporary}/{PurePath(file).name}"), _files_in(path)))
        yield Path(temporary)


def _files_in(folder: UPath) -> list[str]:
    """Files that lie directly in a store's folder."""
    return [entry["name"] for entry in folder.fs.ls(folder.path, detail=True) if entry["type"] == "file"]
