"""The table of hit rates for every rule, with clusters and without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from preprocessing.cache import PatchCache
from preprocessing.selection import baselines
from preprocessing.selection.feature_graph import feature_table
from preprocessing.selection.feature_table import FeatureTable
from preprocessing.selection.hitrate import SHARES, HitRate, LesionPatches, ranked_hit_rate, read_lesion_patches
from preprocessing.selection.rules import RULES
from preprocessing.selection.selection import (
    SelectionSettings,
    cluster_scores,
    fit_selection,
    score_patches,
    smoothed_scores,
    training_patches,
)

_PLACE = ("place3", "place5", "centrality")  # the features that the project began with


def selection_table(
    cache: PatchCache,
    train_cases: Sequence[str],
    test_cases: Sequence[str],
    settings: SelectionSettings,
    out_dir: str,
    seed: int,
) -> pd.DataFrame:
    """Hit rates on the test cases of rankings that were fitted on the training cases.

    No ranking but the one that says so uses labels. Ray must have been initialised, see `score_cache`.

    Args:
        settings: the row "as configured"; the other rows change its rule, features or assignment.

    Returns:
        one row a ranking, columns 0.1, 0.25, 0.5, 0.75 and cases.
    """
    train, test = cache.sample_indices(train_cases), cache.sample_indices(test_cases)
    names = tuple(dict.fromkeys((*settings.columns(cache.modalities), *_PLACE)))
    table = feature_table(cache, train_cases, names, settings.polarities(cache.channels), out_dir)
    truth = read_lesion_patches(cache, test)
    scores = {"random": baselines.random_scores(table, seed)}
    for k, first in ((2, "small"), (4, "small"), (3, "dark")):
        name = f"k-means of each image's pixels, k={k}, {first} clusters first"
        scores[name] = baselines.pixel_kmeans(cache, k, "small" if first == "small" else "dark", seed)
    scores["no clusters: centrality"] = baselines.rank_sum(table, ("centrality",))
    scores["no clusters: rank-sum of place3, centrality"] = baselines.rank_sum(table)
    scores["no clusters: the features of the rule `lesion`"] = baselines.evidence_sum(table, train)
    smoothed = smoothed_scores(baselines.evidence_sum(table, train), table, settings.smoothing)
    scores["no clusters: the features of the rule `lesion`, smoothed"] = smoothed
    if cache.channels > 1:
        for modality in cache.modalities:
            scores[f"no clusters: brightness of {modality}"] = baselines.brightness(table, modality)
    plain = settings.model_copy(update={"rule": "lesion", "location_prior": 0.0})
    variants: dict[str, dict[str, Any]] = {f"clusters, rule {rule}": {"rule": rule} for rule in RULES}
    variants |= {
        "clusters of place3, place5, centrality, rule place_central": {"rule": "place_central", "features": _PLACE},
        "clusters, rule lesion, location prior 1": {"location_prior": 1.0},
        "clusters, rule lesion, hard, one code book": {"assign": "hard", "codebooks": 1},
        "clusters, rule lesion, no smoothing": {"smoothing": 0},
    }
    for name, change in variants.items():
        scores[name] = _fitted(table, train, plain.model_copy(update=change), seed)
    scores["as configured"] = _fitted(table, train, settings, seed)
    scores["same clusters, ranked by the training labels"] = _by_labels(cache, table, train, settings, seed)
    return pd.DataFrame({name: _row(ranked_hit_rate(s[test], truth)) for name, s in scores.items()}).T


def _row(rate: HitRate) -> dict[str, float]:
    return {**{str(share): rate.rates.get(share, float("nan")) for share in SHARES}, "cases": rate.cases}


def _fitted(table: FeatureTable, train: np.ndarray, settings: SelectionSettings, seed: int) -> np.ndarray:
    return score_patches(fit_selection(table, train, settings, seed), table, settings)[0]


def _by_labels(
    cache: PatchCache, table: FeatureTable, train: np.ndarray, settings: SelectionSettings, seed: int
) -> np.ndarray:
    truth: LesionPatches = read_lesion_patches(cache, train)
    lesion = np.zeros(table.valid.shape, np.float32)
    lesion[train] = truth.lesion
    chosen = training_patches(table, train, settings, seed)
    points = table.values.reshape(-1, len(table.names))[chosen][:, table.columns(settings.clustered())]
    share = torch.from_numpy(lesion.reshape(-1)[chosen])
    books = cluster_scores(
        torch.from_numpy(points.astype(np.float32)),
        lambda membership: (membership.T @ share) / membership.sum(0).clamp_min(1e-6),
        settings,
        seed,
    )
    return score_patches(books, table, settings)[0]
