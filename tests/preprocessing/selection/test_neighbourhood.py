from __future__ import annotations

import heapq
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.selection.neighbourhood import (
    basin_depth,
    directions,
    masked_mean,
    masked_scatter,
    ray_maxima,
    shift,
    smooth,
)

GRIDS = [(5, 7), (3, 4, 5)]


def _case(grid: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weight = np.where(rng.random(grid) < 0.75, rng.uniform(0.5, 1, grid), 0)
    return rng.random(grid).astype(np.float32), weight.astype(np.float32)


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values)[None, None]


@pytest.mark.parametrize("grid", GRIDS)
@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), width=st.sampled_from([1, 3, 5]))
def test_masked_mean_and_scatter_equal_a_loop(grid: tuple[int, ...], seed: int, width: int) -> None:
    values, weight = _case(grid, seed)
    mean = masked_mean(_tensor(values), _tensor(weight), width)[0, 0].numpy()
    scatter = masked_scatter(_tensor(values), _tensor(weight), width)[0, 0].numpy()
    for at in np.ndindex(grid):
        near = tuple(slice(max(0, i - width // 2), i + width // 2 + 1) for i in at)
        if weight[near].sum() == 0:
            assert mean[at] == 0
            continue
        truth = np.average(values[near], weights=weight[near])
        assert mean[at] == pytest.approx(truth, abs=1e-5)
        spread = np.sqrt(np.average((values[near] - truth) ** 2, weights=weight[near]))
        assert scatter[at] == pytest.approx(spread, abs=2e-3)


@pytest.mark.parametrize("grid", GRIDS)
@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), reach=st.integers(1, 4))
def test_ray_maxima_equal_a_loop(grid: tuple[int, ...], seed: int, reach: int) -> None:
    values, weight = _case(grid, seed)
    rays = ray_maxima(_tensor(values), _tensor(weight) > 0, reach, -3.0)[:, 0, 0].numpy()
    for at in np.ndindex(grid):
        truth = []
        for step in itertools.product((-1, 0, 1), repeat=len(grid)):
            if not any(step):
                continue
            way = [tuple(i + r * s for i, s in zip(at, step, strict=True)) for r in range(1, reach + 1)]
            seen = [values[p] for p in way if all(0 <= i < n for i, n in zip(p, grid, strict=True)) and weight[p] > 0]
            truth.append(max(seen, default=-3.0))
        np.testing.assert_allclose(rays[(slice(None), *at)], sorted(truth))


def _flood(height: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Depth by priority flood: from the lowest shore inwards, each cell stands at least as high as the way in."""
    grid = height.shape
    steps = [tuple(s if a == axis else 0 for a in range(len(grid))) for axis in range(len(grid)) for s in (-1, 1)]
    level: dict[tuple[int, ...], float] = {}
    heap: list[tuple[float, tuple[int, ...]]] = []

    def around(at: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [tuple(i + s for i, s in zip(at, step, strict=True)) for step in steps]

    def is_real(at: tuple[int, ...]) -> bool:
        return all(0 <= i < n for i, n in zip(at, grid, strict=True)) and bool(real[at])

    for at in np.ndindex(grid):
        if real[at] and not all(is_real(near) for near in around(at)):
            heapq.heappush(heap, (float(height[at]), at))
    while heap:
        water, at = heapq.heappop(heap)
        if at not in level:
            level[at] = water
            for near in around(at):
                if is_real(near) and near not in level:
                    heapq.heappush(heap, (max(water, float(height[near])), near))
    return np.array([level.get(at, height[at]) - height[at] for at in np.ndindex(grid)]).reshape(grid)


@pytest.mark.parametrize("grid", [(8, 9), (5, 6, 6)])
@pytest.mark.parametrize("seed", range(4))
def test_basin_depth_equals_a_priority_flood(grid: tuple[int, ...], seed: int) -> None:
    values, _ = _case(grid, seed)
    real = np.random.default_rng(seed).random(grid) < 0.95
    depth = basin_depth(_tensor(values), torch.from_numpy(real)[None, None])[0, 0].numpy()
    assert depth.max() > 0
    np.testing.assert_allclose(depth, _flood(values, real), atol=1e-6)


def test_basin_runs_off_into_padding_and_holds_within_a_ring() -> None:
    height = torch.ones(1, 1, 7, 7)
    height[..., 2:5, 2:5] = 0.2
    mask = torch.ones(1, 1, 7, 7, dtype=torch.bool)
    depth = basin_depth(height, mask)
    assert depth[0, 0, 3, 3] == pytest.approx(0.8)
    assert depth[0, 0, 0, 0] == 0
    mask[..., 5:, :] = False  # padding now touches the hollow
    assert basin_depth(height, mask).abs().max() == 0


@pytest.mark.parametrize(("dims", "count"), [(2, 8), (3, 26)])
def test_directions(dims: int, count: int) -> None:
    assert len(set(directions(dims))) == count


def test_shift_and_smooth() -> None:
    values = torch.arange(12.0).reshape(1, 1, 3, 4)
    moved = shift(values, (1, -1), -1.0)[0, 0]
    assert moved.tolist() == [[-1, 4, 5, 6], [-1, 8, 9, 10], [-1, -1, -1, -1]]
    weight = torch.ones_like(values)
    weight[..., 0, :] = 0
    once = smooth(values, weight, 1)
    assert torch.equal(smooth(values, weight, 0), values)
    assert once[0, 0, 2, 0] == pytest.approx(0.5 * 8 + 0.5 * np.mean([4, 5, 8, 9]))
