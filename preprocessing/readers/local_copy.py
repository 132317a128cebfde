"""Files as libraries want them that read from the local disk only; what lies elsewhere is copied for the time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upath import UPath

from preprocessing.case import BadFile


@contextmanager
def opening(file: str) -> Iterator[None]:
    """Turn what a file system says into a BadFile."""
    try:
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
        content = UPath(file).read_bytes()
    if not content:
        raise BadFile(file, "the file is empty (0 bytes)")
    return content


@contextmanager
def local_folder(folder: str) -> Iterator[Path]:
    """The folder itself, or a temporary copy of the files that lie directly in it.

    Raises:
        BadFile: there is no such folder.
    """
    path = UPath(folder)
    with opening(folder):
        if not path.is_dir():
            raise BadFile(folder, "there is no such folder")
    if path.protocol in ("", "file"):
        yield Path(path.path)
        return
    with tempfile.TemporaryDirectory() as temporary:
        with opening(folder):
            for source in path.iterdir():
                if source.is_file():
                    (Path(temporary) / source.name).write_bytes(source.read_bytes())
        yield Path(temporary)
