"""A worker of Ray Data that was killed for want of memory, told in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import OutOfMemoryError, WorkerCrashedError

from preprocessing.errors import RunError


@contextmanager
def killed_worker_told(doing: str) -> Iterator[None]:
    """Around the use of a Ray data set.

    Args:
        doing: what its workers do.

    Raises:
        RunError: a worker was killed; with what to do.
    """
    try:
        yield
    except (OutOfMemoryError, WorkerCrashedError) as error:
        raise RunError(
            f"preprocessing ran out of memory: a worker was killed while {doing}. Give the run fewer CPUs "
            f"or more memory, or lower cache.row_group_kb, and run the same command again ({type(error).__name__})"
        ) from error
