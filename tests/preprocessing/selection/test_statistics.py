from __future__ import annotations

import numpy as np
import pytest
import torch

from preprocessing.selection.statistics import StatisticsSum, relative_place


@pytest.mark.parametrize(("grid", "patch"), [((4, 6), (8, 4)), ((2, 3, 4), (2, 4, 8))])
def test_relative_place_equals_a_loop(grid: tuple[int, ...], patch: tuple[int, ...]) -> None:
    d = len(grid)
    box = torch.tensor([[*[0] * d, *(g * p for g, p in zip(grid, patch, strict=True))], [*[3] * d, *[7] * d]])
    place = relative_place(box, grid, patch)
    for sample, at in ((s, a) for s in range(2) for a in np.ndindex(grid)):
        for axis in range(d):
            start, stop = int(box[sample, axis]), int(box[sample, d + axis])
            centre = (at[axis] + 0.5) * patch[axis]
            assert place[(sample, axis, *at)] == pytest.approx(np.clip((centre - start) / (stop - start), 0, 1))


def test_statistics_are_means_at_a_place_and_ignore_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(200, 2, 12, 12, generator=generator) + torch.linspace(0, 3, 12)[:, None]
    place = relative_place(torch.tensor([[0, 0, 96, 96]]), (12, 12), (8, 8))
    weight = torch.ones(200, 12, 12)
    weight[:, :, 9:] = 0
    values[..., 9:] = 1e3  # padding must not matter
    sums = StatisticsSum(2, (4, 4))
    for value, w in zip(values, weight, strict=True):
        sums.add(value, w, place[0])
    population = sums.finish()
    assert population.mean.shape == population.sd.shape == (2, 4, 4)
    assert population.mean.max() < 5
    # a bin of three rows, smoothed over its neighbours: the middle two rows of bins average nine rows of patches
    assert population.mean[0, 1, 0] == pytest.approx(values[:, 0, :9, :6].mean().item(), abs=1e-4)
    assert population.sd[0, 1, 0] == pytest.approx(values[:, 0, :9, :6].std(correction=0).item(), abs=1e-3)
    deviation = population.deviation(values, place.expand(200, -1, -1, -1))
    truth = (values[7, 1, 4, 2] - population.mean[1, 1, 0]) / population.sd[1, 1, 0]
    assert deviation[7, 1, 4, 2] == pytest.approx(truth.item(), rel=1e-5)


def test_an_empty_place_takes_the_overall_statistics() -> None:
    sums = StatisticsSum(1, (8,) * 2)
    place = torch.full((2, 4, 4), 0.01)
    sums.add(torch.arange(16.0).reshape(1, 4, 4), torch.ones(4, 4), place)
    population = sums.finish()
    assert population.mean[0, 7, 7] == pytest.approx(7.5)
    assert torch.isfinite(population.sd).all()


def test_patches_count_by_their_share_of_real_pixels() -> None:
    sums = StatisticsSum(1, (1, 1))
    values, weight = torch.tensor([[[1.0, 3.0], [9.0, 50.0]]]), torch.tensor([[1.0, 0.5], [0.25, 0.0]])
    sums.add(values, weight, torch.full((2, 2, 2), 0.5))
    mean = np.average([1, 3, 9], weights=[1, 0.5, 0.25])
    sd = np.sqrt(np.average((np.array([1, 3, 9]) - mean) ** 2, weights=[1, 0.5, 0.25]))
    population = sums.finish()
    assert population.mean.item() == pytest.approx(mean)
    assert population.sd.item() == pytest.approx(sd)
