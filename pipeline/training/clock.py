"""How long an epoch took and waited for data, also one that a restart cut in two."""

from __future__ import annotations

import time
from typing import TypedDict

from pipeline.training.loader import PatchLoader


class Spent(TypedDict):
    """Of the epoch in progress: samples over all workers, seconds, and seconds of them that waited for data."""

    samples: int
    seconds: float
    waited: float


class EpochClock:
    """Started with each epoch; a checkpoint within one carries what was spent, so that the whole epoch is told.

    Args:
        loader: counts the waiting.
    """

    def __init__(self, loader: PatchLoader) -> None:
        self._loader = loader
        self._before = Spent(samples=0, seconds=0.0, waited=0.0)

    def start(self, position: int, before: Spent | None = None) -> None:
        """Begin an epoch at a global position, or go on in one of which `before` was spent already."""
        self._before = before or Spent(samples=0, seconds=0.0, waited=0.0)
        self._first, self._began, self._loader.waited = position, time.perf_counter(), 0.0

    def spent(self, position: int) -> Spent:
        """Up to this position."""
        return Spent(
            samples=self._before["samples"] + position - self._first,
            seconds=self._before["seconds"] + time.perf_counter() - self._began,
            waited=self._before["waited"] + self._loader.waited,
        )

    def record(self, position: int) -> dict[str, float]:
        """The fields of an epoch's record: seconds, samples_per_second, data_wait_fraction."""
        spent = self.spent(position)
        return {
            "seconds": spent["seconds"],
            "samples_per_second": spent["samples"] / spent["seconds"],
            "data_wait_fraction": spent["waited"] / spent["seconds"],
        }
