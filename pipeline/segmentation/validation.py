"""DSC of the labelled validation cases on the canvas, each worker taking its share of the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from pipeline.segmentation.canvas import Canvas
from pipeline.segmentation.regions import region_masks
from pipeline.segmentation.threshold import ThresholdCounts
from pipeline.training.loader import PatchLoader
from pipeline.training.precision import Autocast
from pipeline.training.session import Session, sum_over_workers

_BATCH = 32


class Validation:
    """Holds which samples belong to which case; `dsc(model)` judges.

    Args:
        session: this worker's place in the group.
        loader: reads samples by index.
        canvas: their shape as images.
        samples: int [n], indices into the cache.
        names: case of each sample.
        classes: regions, name -> label ids.
        autocast: number format of the forward pass.
    """

    def __init__(
        self,
        session: Session,
        loader: PatchLoader,
        canvas: Canvas,
        samples: np.ndarray,
        names: Sequence[str],
        classes: Mapping[str, Sequence[int]],
        autocast: Autocast,
    ) -> None:
        self._session, self._loader, self._canvas = session, loader, canvas
        self._classes, self._autocast = classes, autocast
        unique, number = np.unique(np.asarray(names, str), return_inverse=True)
        self.cases = len(unique)
        mine = slice(session.rank, None, session.workers)
        self._samples, self._case = np.asarray(samples)[mine], number[mine]

    @torch.no_grad()
    def dsc(self, model: nn.Module) -> np.ndarray:
        """float64 [cases, regions, thresholds], NaN where a case lacks the region; the same on all workers."""
        counts = ThresholdCounts(self.cases, len(self._classes), self._session.device)
        model.eval()
        for start in range(0, len(self._samples), _BATCH):
            part = slice(start, start + _BATCH)
            image, label, real = self._canvas.pixels(self._loader.gather(self._samples[part]))
            with self._autocast():
                probability = model(image, real).float().sigmoid() * real
            case = torch.as_tensor(self._case[part], device=self._session.device)
            counts.add(case, probability, region_masks(label, self._classes))
        model.train()
        for tensor in counts.tensors:
            sum_over_workers(self._session, tensor)
        return counts.dsc()
