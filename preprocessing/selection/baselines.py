"""Rankings without clusters of the data set, to compare with: each gives scores [S, N], higher first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from preprocessing.cache import CANDIDATE, PatchBatch, PatchCache
from preprocessing.selection.feature_table import FeatureTable
from preprocessing.selection.kmeans import lloyd, seed_centres, squared_distances
from preprocessing.selection.rules import RULES, rule_features, rule_weights


def random_scores(table: FeatureTable, seed: int) -> np.ndarray:
    """Uniform noise."""
    return np.random.default_rng(seed).random(table.valid.shape, np.float32)


def rank_sum(table: FeatureTable, names: tuple[str, ...] = ("place3", "centrality")) -> np.ndarray:
    """Sum of each image's ranks (0 to 1) of the features: by default place-relative darkness and centrality."""
    total = np.zeros(table.valid.shape, np.float32)
    for column in table.columns(names):
        values = np.where(table.candidate, table.values[..., column].astype(np.float32), np.inf)
        ranks = values.argsort(1, kind="stable").argsort(1, kind="stable")
        total += ranks / np.maximum(table.candidate.sum(1, keepdims=True), 1)
    return total


def brightness(table: FeatureTable, modality: str) -> np.ndarray:
    """Mean brightness of a patch in one modality, higher first."""
    return table.values[..., table.names.index(f"{modality}.level")].astype(np.float32)


def evidence_sum(table: FeatureTable, train: np.ndarray) -> np.ndarray:
    """What the rule `lesion` would say of each patch by itself: the weighted sum of its standardised features."""
    weights = rule_weights(RULES["lesion"])
    names = rule_features(RULES["lesion"])
    values = table.values[..., table.columns(names)].astype(np.float32)
    training = values[train][table.candidate[train]]
    standard = ((values - training.mean(0)) / training.std(0).clip(1e-6)).clip(-4, 4)
    return standard @ np.array([weights[name] for name in names], np.float32)


def pixel_kmeans(cache: PatchCache, k: int, first: Literal["small", "dark"], seed: int) -> np.ndarray:
    """k-means of each image's own pixels, the naive reading of the method.

    Args:
        k: clusters of an image.
        first: which of its clusters come first, the smaller or the darker ones.

    Returns:
        float32 [S, N]: mean over a patch's pixels of how early their cluster comes, 0 to k - 1.
    """
    scores = np.zeros((len(cache.samples), cache.tokens), np.float32)
    for batch in _blocks(cache):
        scores[batch.sample] = _pixel_clusters(batch, cache.channels, k, first, seed)
    return scores


def _blocks(cache: PatchCache) -> Iterator[PatchBatch]:
    return (cache.read_block(number) for number in range(len(cache.blocks)))


def _pixel_clusters(batch: PatchBatch, channels: int, k: int, first: str, seed: int) -> np.ndarray:
    pixels = torch.tensor(batch.patches).float().unflatten(-1, (channels, -1)).movedim(2, -1)  # [B, N, P, C]
    points = pixels.flatten(1, 2)
    real = (torch.tensor(batch.valid) >= CANDIDATE).float()
    weight = real[..., None].expand(pixels.shape[:3]).flatten(1).contiguous()
    generator = torch.Generator().manual_seed(seed)
    centres, _ = lloyd(points, seed_centres(points, weight, k, generator), weight, iterations=25)
    label = squared_distances(points, centres).argmin(-1)
    size = torch.zeros(centres.shape[:2]).scatter_add_(1, label, weight)
    order = (size if first == "small" else centres.mean(-1)).argsort(1, descending=True)
    early = order.argsort(1).float().gather(1, label)  # the last in order comes first: it has the highest score
    return early.unflatten(1, pixels.shape[1:3]).mean(-1).numpy()
