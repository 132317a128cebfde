"""Running out of memory, told as what it is and with the settings that need less."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from preprocessing.errors import RunError

_ALLOCATOR = ("can't allocate memory", "not enough memory")  # torch's own words; on CPU it has no class for them


class MemoryShortage(RunError):
    """One process had no memory left; another try may find more."""


@contextmanager
def memory_told(section: str, accumulate: int, splits: bool = True) -> Iterator[None]:
    """Turn every form of "no memory left" in a training into one message.

    Args:
        section: of the training's settings.
        accumulate: parts of a worker's batch as configured.
        splits: whether a batch may be computed in parts at all.

    Raises:
        MemoryShortage: the block ran out of memory, of the GPU's or of the machine's.
    """
    remedy = (
        f"raise {section}.accumulate (now {accumulate}), which computes the same batch in more parts"
        if splits
        else f"lower {section}.batch, since this method needs a step in one piece"
    )
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryShortage(
            f"the GPU's memory is too small ({str(error).partition('. ')[0]}); {remedy}, or make the model smaller"
        ) from error
    except (RuntimeError, OSError, MemoryError) as error:
        if not _is_shortage(error):
            raise
        raise MemoryShortage(
            f"the machine's memory is too small; {remedy}, or lower loader.memory_mb or the number of workers"
        ) from error


def _is_shortage(error: RuntimeError | OSError | MemoryError) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or any(words in str(error) for words in _ALLOCATOR)
