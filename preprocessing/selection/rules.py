"""Rules that rank clusters by how likely they hold lesions, without labels.

A rule is a weight for each of a cluster's statistics: the mean of a patch feature over its members (standardised
over the training patches), or `size`, the logarithm of its share of all patches.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SIZE = "size"

RULES: dict[str, dict[str, float]] = {
    "lesion": {"enclosure": 1, "enclosure_weak": 1, "place_enclosure": 1, "basin": 1, "scatter3": 1},
    "enclosed": {"enclosure": 1},
    "place": {"place3": 1},
    "image": {"image": 1},
    "central": {"centrality": 1},
    "place_central": {"place3": 1, "centrality": 1},
    "small": {SIZE: -1},
}


def rule_weights(rule: Mapping[str, float], location_prior: float = 0.0) -> dict[str, float]:
    """The rule's weights, with the location prior as further weight of `centrality`."""
    weights = dict(rule)
    if location_prior:
        weights["centrality"] = weights.get("centrality", 0.0) + location_prior
    return weights


def rule_features(rule: Mapping[str, float], location_prior: float = 0.0) -> list[str]:
    """The patch features that a rule looks at."""
    return [name for name in rule_weights(rule, location_prior) if name != SIZE]


def rank_clusters(weights: Mapping[str, float], evidence: Tensor, membership: Tensor) -> Tensor:
    """Score of every cluster.

    Args:
        weights: of `rule_weights`.
        evidence: [M, E], standardised features in the order of the weights, `size` left out.
        membership: [M, k], rows sum to 1.

    Returns:
        [k], mean 0 and standard deviation 1 over the clusters: higher is more lesion-like.
    """
    share = membership.mean(0)
    factors = torch.tensor([w for name, w in weights.items() if name != SIZE], dtype=evidence.dtype)
    means = (membership.T @ evidence) / (share * len(membership)).clamp_min(1e-6)[:, None]
    score = means @ factors + weights.get(SIZE, 0.0) * share.clamp_min(1e-9).log()
    return (score - score.mean()) / score.std(correction=0).clamp_min(1e-6)
