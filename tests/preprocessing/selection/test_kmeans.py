from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from preprocessing.selection.kmeans import kmeans, lloyd, seed_centres, soft_assign, squared_distances


def nearest(points: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    return torch.cdist(points, centres).argmin(1)


def _points(seed: int, m: int = 400, f: int = 3) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.normal(size=(m, f)) + 4 * rng.integers(0, 3, (m, 1))).astype(np.float32))


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 9), f=st.integers(1, 5))
def test_squared_distances_equal_the_definition(seed: int, k: int, f: int) -> None:
    points, centres = _points(seed, 30, f), _points(seed + 1, k, f)
    truth = (points[:, None] - centres[None]).square().sum(-1)
    torch.testing.assert_close(squared_distances(points[None], centres[None])[0], truth, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("k", [2, 5, 12])
@pytest.mark.parametrize("seed", range(3))
def test_equals_scikit_learn_from_the_same_start(k: int, seed: int) -> None:
    points = _points(seed)
    start = points[np.random.default_rng(seed).choice(len(points), k, replace=False)]
    theirs = KMeans(k, init=start.numpy(), n_init=1, max_iter=100, tol=1e-8, algorithm="lloyd").fit(points.numpy())
    weight = torch.ones(1, len(points))
    centres, inertia = lloyd(points[None], start[None], weight, iterations=100, tolerance=1e-8)
    assert float(inertia[0]) == pytest.approx(theirs.inertia_, rel=1e-4)
    np.testing.assert_allclose(centres[0].numpy(), theirs.cluster_centers_, atol=1e-3)
    assert (nearest(points, centres[0]).numpy() == theirs.labels_).mean() > 0.995


def test_a_whole_fit_is_as_good_as_scikit_learn() -> None:
    points = _points(3, 1500, 4)
    theirs = KMeans(10, n_init=8, random_state=0).fit(points.numpy())
    ours = kmeans(points, 10, restarts=8, iterations=60, generator=torch.Generator().manual_seed(0))
    assert ours.inertia < 1.03 * theirs.inertia_


def test_problems_of_a_batch_do_not_mix_and_weight_zero_does_not_exist() -> None:
    first, second = _points(0, 100), _points(1, 60)
    padded = torch.cat([second, torch.full((40, 3), 1e3)])
    weight = torch.ones(2, 100)
    weight[1, 60:] = 0
    start = torch.stack([first[:4], second[:4]])
    centres, inertia = lloyd(torch.stack([first, padded]), start, weight, 50)
    for row, points in enumerate((first, second)):
        alone, its_inertia = lloyd(points[None], start[row : row + 1], torch.ones(1, len(points)), 50)
        torch.testing.assert_close(centres[row], alone[0], atol=1e-4, rtol=1e-4)
        assert float(inertia[row]) == pytest.approx(float(its_inertia[0]), rel=1e-4)


def test_seeding_takes_far_points_and_skips_weight_zero() -> None:
    groups = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    points = groups.repeat(50, 1)[None] + 0.01 * torch.randn(1, 150, 2, generator=torch.Generator().manual_seed(0))
    points = torch.cat([points, torch.full((1, 10, 2), 1e4)], 1)
    weight = torch.ones(1, 160)
    weight[:, 150:] = 0
    centres = seed_centres(points, weight, 3, torch.Generator().manual_seed(1))[0]
    assert sorted(squared_distances(centres[None], groups[None])[0].argmin(1).tolist()) == [0, 1, 2]
    assert float(centres.max()) < 1e3


def test_seeded_and_best_of_restarts() -> None:
    points = _points(5)

    def fit(seed: int, restarts: int) -> tuple[torch.Tensor, float]:
        clusters = kmeans(points, 7, restarts, 40, torch.Generator().manual_seed(seed))
        return clusters.centres, clusters.inertia

    assert torch.equal(fit(1, 3)[0], fit(1, 3)[0])
    assert not torch.equal(fit(1, 3)[0], fit(2, 3)[0])
    assert fit(1, 10)[1] <= np.mean([fit(seed, 1)[1] for seed in range(8)])


def test_fewer_points_than_clusters_and_no_point() -> None:
    generator = torch.Generator().manual_seed(0)
    assert kmeans(torch.ones(3, 2), 8, 2, 5, generator).centres.shape == (3, 2)
    with pytest.raises(ValueError, match="at least one point"):
        kmeans(torch.zeros(0, 2), 3, 1, 5, generator)


def test_soft_assignment_equals_a_loop_and_turns_hard() -> None:
    points = _points(0, 50)
    clusters = kmeans(points, 4, 2, 20, torch.Generator().manual_seed(0))
    soft = soft_assign(points, clusters, 2.0)
    for point, row in zip(points, soft, strict=True):
        distance = ((point - clusters.centres) ** 2).sum(1)
        share = torch.exp(-(distance - distance.min()) / (2 * clusters.width))
        torch.testing.assert_close(row, share / share.sum(), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(soft_assign(points, clusters, 1e-4), soft_assign(points, clusters, 0), atol=1e-3, rtol=0)
    assert torch.equal(soft_assign(points, clusters, 0).argmax(1), nearest(points, clusters.centres))
