"""Clustering again, part way through the pretraining, on what the encoder itself makes of the patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from upath import UPath

from pipeline.checkpoint import load_weights, save_weights
from pipeline.training.loader import PatchLoader
from preprocessing.selection.scores import open_features, scores_from_tokens

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.models.encoder import Encoder
    from preprocessing.cache import PatchCache

_BATCH = 64


@torch.no_grad()
def refresh_scores(
    config: Config,
    cache: PatchCache,
    loader: PatchLoader,
    encoder: Encoder,
    coords: torch.Tensor,
    cases: list[str],
    features: str,
    folder: UPath,
) -> None:
    """Score the pretraining samples by clusters of the encoder's tokens, and keep the scores in `folder`.

    Args:
        config: its selection says how to cluster and to rank.
        cache, loader: the samples; only those of `cases` are read.
        encoder, coords: the encoder as it is now, and the patch centres.
        cases: all that may be fitted on.
        features: folder of the patch features, which the rule ranks the new clusters by.
        folder: receives the scores.
    """
    samples = cache.sample_indices(cases)
    tokens = np.zeros((len(cache.samples), cache.tokens, encoder.settings.width), np.float16)
    encoder.eval()
    for start in range(0, len(samples), _BATCH):
        batch = loader.gather(samples[start : start + _BATCH])
        tokens[batch.sample] = encoder(batch.patches, coords, batch.real_tokens).half().cpu().numpy()
    encoder.train()
    table = open_features(cache, cases, config.selection, features)
    scores = scores_from_tokens(tokens, table, samples, config.selection, config.run.seed)
    save_weights(folder, {"scores": torch.from_numpy(scores)}, {"kind": "scores"})


def refreshed_scores(folder: UPath) -> np.ndarray:
    """float32 [S, N], as `refresh_scores` left them; samples that it did not read have none (0)."""
    return load_weights(folder, "scores")[0]["scores"].numpy()
