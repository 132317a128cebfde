"""A cheap look at what the frozen encoder knows: ridge regression from its tokens to the pixels of the lesion.

Closed form, deterministic, seconds long: it is the search's objective and the curve by which a user sees when to
stop. Labelled training and validation cases are held out in turn, a fold at a time, so that the few labels give the
least noisy figure; test cases are never read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.models.encoder import Encoder
from pipeline.training.loader import Batch, PatchLoader

THRESHOLDS = np.geomspace(0.01, 0.6, 16)  # rare lesions pull a regression to values near zero


class Probe:
    """Holds the labelled samples; `dsc(encoder)` fits and judges.

    Args:
        loader: reads samples by index through its cache.
        samples: int [n], labelled samples.
        groups: group of each sample; a group is never split between folds.
        coords: float [N, d], patch centres in patches.
        folds: number of folds, at most the number of groups.
        ridge: penalty relative to the mean variance of the features.
    """

    def __init__(
        self,
        loader: PatchLoader,
        samples: np.ndarray,
        groups: Sequence[str],
        coords: Tensor,
        folds: int = 5,
        ridge: float = 0.01,
    ) -> None:
        self._batch: Batch = loader.gather(np.asarray(samples))
        self._coords, self._ridge = coords, ridge
        names = sorted(set(groups))
        folds = min(folds, len(names))
        fold_of = {name: number % folds for number, name in enumerate(names)}
        self._fold = torch.tensor([fold_of[group] for group in groups])
        self._folds = folds

    @property
    def usable(self) -> bool:
        """Whether there are at least two groups and any lesion to find."""
        return self._folds >= 2 and bool((self._batch.label > 0).any())

    @torch.no_grad()
    def dsc(self, encoder: Encoder) -> float:
        """Mean DSC over the held-out samples with lesion, on the canvas, in [0, 1]."""
        was_training = encoder.training
        encoder.eval()
        features = self._features(encoder)
        encoder.train(was_training)
        lesion = (self._batch.label > 0).float()
        found = []
        for fold in range(self._folds):
            held = (self._fold == fold).to(features.device)
            weights = self._fit(features[~held], lesion[~held], self._real[~held])
            threshold = self._best_threshold(features[~held] @ weights, lesion[~held])
            found.append(sample_dsc(features[held] @ weights > threshold, lesion[held]))
        return float(torch.cat(found).nanmean())

    @property
    def _real(self) -> Tensor:
        return self._batch.real_tokens

    def _features(self, encoder: Encoder) -> Tensor:
        """float32 [n, N, width + 1]: standardised tokens and a constant; zero on padding."""
        parts = []
        for rows in torch.arange(len(self._batch.patches)).split(64):
            parts.append(encoder(self._batch.patches[rows], self._coords, self._real[rows]).float())
        tokens = torch.cat(parts)
        real = self._real
        spread, mean = torch.std_mean(tokens[real], dim=0)
        tokens = (tokens - mean) / (spread + 1e-6)
        tokens = torch.cat([tokens, torch.ones_like(tokens[..., :1])], -1)
        return tokens * real[..., None]

    def _fit(self, features: Tensor, lesion: Tensor, real: Tensor) -> Tensor:
        x, y = features[real].double(), lesion[real].double()
        gram = x.T @ x
        penalty = torch.eye(len(gram), dtype=gram.dtype, device=gram.device) * self._ridge * len(x)
        penalty[-1, -1] = 0.0  # the constant is free
        return torch.linalg.solve(gram + penalty, x.T @ y).float()

    @staticmethod
    def _best_threshold(predicted: Tensor, lesion: Tensor) -> float:
        scores = [float(sample_dsc(predicted > t, lesion).nanmean()) for t in THRESHOLDS]
        return float(THRESHOLDS[int(np.argmax(scores))])


def sample_dsc(predicted: Tensor, lesion: Tensor) -> Tensor:
    """DSC of each sample [n] from [n, N, P] masks; NaN for samples without lesion, which have none."""
    overlap = (predicted * lesion).sum((1, 2))
    size = lesion.sum((1, 2))
    dsc = 2 * overlap / (predicted.sum((1, 2)) + size).clamp(min=1)
    return torch.where(size > 0, dsc, torch.nan)
