"""Stops a training whose loss is not finite, and names the cases of the batch where it began."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.training.loader import PatchLoader
from pipeline.training.session import Session, sum_over_workers
from preprocessing.cache import PatchCache
from preprocessing.errors import RunError

_EVERY = 10  # steps between looks: each look waits for the device


class LossWatch:
    """All workers see the same losses and stop together.

    Args:
        title: of the stage, for the message; section: of its settings.
        session, loader, cache: to tell the batch's cases.
        batch: samples of a step over all workers.
    """

    def __init__(
        self, title: str, section: str, session: Session, loader: PatchLoader, cache: PatchCache, batch: int
    ) -> None:
        self._title, self._section, self._session = title, section, session
        self._loader, self._cache, self._batch = loader, cache, batch
        self._recent: list[tuple[int, Tensor]] = []

    def add(self, first: int, loss: Tensor) -> None:
        """Take a step's loss, a scalar on the device; looks now and then.

        Args:
            first: global position of the batch's first sample.

        Raises:
            RunError: see `check`.
        """
        self._recent.append((first, loss))
        if len(self._recent) >= _EVERY:
            self.check()

    def check(self) -> None:
        """Look at all losses since the last look.

        Raises:
            RunError: one is not finite.
        """
        if not self._recent:
            return
        bad = torch.stack([~loss.isfinite() for _, loss in self._recent]).float()
        wrong = sum_over_workers(self._session, bad).nonzero()
        if len(wrong):
            first = self._recent[int(wrong[0, 0])][0]
            samples = self._loader.sample_at(np.arange(first, first + self._batch))
            cases = sorted(set(self._cache.samples["case"].iloc[samples]))
            raise RunError(
                f"{self._title}: the loss is not finite at global sample {first}; look at the cases of that batch: "
                f"{', '.join(cases)}. If they are sound, lower {self._section}.lr or set resources.precision=fp32"
            )
        self._recent.clear()
