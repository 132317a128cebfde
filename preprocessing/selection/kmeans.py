"""k-means for many problems at once, in torch: k-means++ seeding, Lloyd's iterations, hard and soft assignment.

The leading axis R holds independent problems: restarts of one, images of their own, or both. A point of weight 0
does not exist, which is how problems of different sizes share a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK = 2**24  # distances held in memory at once


@dataclass(frozen=True)
class Clusters:
    """The best of all restarts.

    Attributes:
        centres: float32 [k, F].
        inertia: sum of squared distances to the nearest centre.
        width: mean squared distance to the nearest centre: the natural scale of a soft assignment.
    """

    centres: Tensor
    inertia: float
    width: float


def squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """[R, M, k] for points [R, M, F] and centres [R, k, F]."""
    cross = torch.bmm(points, centres.transpose(1, 2))
    norms = points.square().sum(-1)[..., None] + centres.square().sum(-1)[:, None]
    return (norms - 2 * cross).clamp_min(0)


def seed_centres(points: Tensor, weight: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k-means++ (Arthur and Vassilvitskii 2007): each further centre is drawn in proportion to its squared distance.

    Args:
        points: [R, M, F]; weight: [R, M] >= 0, some of it positive in every problem.

    Returns:
        [R, k, F]. Where a problem has fewer than k distinct points, centres repeat.
    """
    rows = torch.arange(len(points))
    chosen = torch.multinomial(weight, 1, generator=generator)[:, 0]
    centres = [points[rows, chosen]]
    nearest = torch.full_like(weight, torch.inf)
    for _ in range(k - 1):
        nearest = torch.minimum(nearest, (points - centres[-1][:, None]).square().sum(-1))
        chances = nearest * weight
        chances = torch.where(chances.sum(1, keepdim=True) > 0, chances, weight)
        centres.append(points[rows, torch.multinomial(chances, 1, generator=generator)[:, 0]])
    return torch.stack(centres, 1)


def lloyd(
    points: Tensor, centres: Tensor, weight: Tensor, iterations: int, tolerance: float = 1e-4
) -> tuple[Tensor, Tensor]:
    """Lloyd's iterations until no problem's centres move, or `iterations` are done.

    Args:
        points: [R, M, F]; weight: [R, M].
        centres: [R, k, F] to start from.
        tolerance: centres stand when the sum of their squared moves is below this share of the mean variance.

    Returns:
        centres [R, k, F] and inertia [R] with them. A cluster that loses its last point keeps its centre.
    """
    total = weight.sum(1).clamp_min(1e-12)[:, None, None]
    middle = (points * weight[..., None]).sum(1, keepdim=True) / total
    variance = ((points - middle) ** 2 * weight[..., None]).sum(1, keepdim=True) / total
    still = tolerance * variance.mean((1, 2))
    for _ in range(iterations):
        sums, counts, _ = _accumulate(points, centres, weight)
        moved = torch.where(counts[..., None] > 0, sums / counts.clamp_min(1e-12)[..., None], centres)
        moves = (moved - centres).square().sum((1, 2))
        centres = moved
        if bool((moves <= still).all()):
            break
    return centres, _accumulate(points, centres, weight)[2]


def _accumulate(points: Tensor, centres: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums [R, k, F] and counts [R, k] of each cluster's points, and the inertia [R]."""
    sums, counts = torch.zeros_like(centres), torch.zeros_like(centres[..., 0])
    inertia = torch.zeros_like(counts[:, 0])
    step = max(1, _CHUNK // (len(points) * centres.shape[1]))
    for part, shares in zip(points.split(step, 1), weight.split(step, 1), strict=True):
        nearest, label = squared_distances(part, centres).min(-1)
        member = torch.zeros(*label.shape, centres.shape[1], dtype=points.dtype, device=points.device)
        member.scatter_(2, label[..., None], shares[..., None])
        sums += torch.bmm(member.transpose(1, 2), part)
        counts += member.sum(1)
        inertia += (nearest * shares).sum(1)
    return sums, counts, inertia


def kmeans(points: Tensor, k: int, restarts: int, iterations: int, generator: torch.Generator) -> Clusters:
    """Cluster points [M, F] into at most k clusters (M if that is fewer); the best of `restarts` by inertia.

    Raises:
        ValueError: there are no points.
    """
    if not len(points):
        raise ValueError("k-means needs at least one point")
    k = min(k, len(points))
    batch = points[None].expand(restarts, *points.shape)
    weight = torch.ones(batch.shape[:2], dtype=points.dtype, device=points.device)
    centres, inertia = lloyd(batch, seed_centres(batch, weight, k, generator), weight, iterations)
    best = int(inertia.argmin())
    return Clusters(centres[best], float(inertia[best]), max(float(inertia[best]) / len(points), 1e-12))


def soft_assign(points: Tensor, clusters: Clusters, temperature: float) -> Tensor:
    """[M, k], rows sum to 1: exp(-distance² / (temperature * width)), normalised. Temperature 0 is hard."""
    distances = squared_distances(points[None], clusters.centres[None])[0]
    if temperature == 0:
        return torch.nn.functional.one_hot(distances.argmin(-1), len(clusters.centres)).to(points.dtype)
    return (-distances / (temperature * clusters.width)).softmax(-1)
