from __future__ import annotations

import numpy as np
import pytest
import torch

from preprocessing.geometry.patchify import patchify
from preprocessing.selection.features import PatchGrid, check_name, features, patch_moments
from preprocessing.selection.statistics import PopulationStatistics, relative_place

NAMES = ["place", "place3", "image", "depth3", "surround", "enclosure", "enclosure_weak", "place_enclosure"]
NAMES += ["basin", "scatter3", "texture3", "centrality"]


def _grid(grid: tuple[int, ...], channels: int = 1, padding: bool = True, seed: int = 0) -> PatchGrid:
    generator = torch.Generator().manual_seed(seed)
    shape = (3, channels, *grid)
    weight = torch.ones(3, 1, *grid)
    if padding:
        weight[:, :, :1] = 0
        weight[:, :, -1:] = 0.6
    flat = PopulationStatistics(*(torch.full((channels, *[4] * len(grid)), value) for value in (0.5, 0.2)))
    box = torch.tensor([[8, *[0] * (len(grid) - 1), *(8 * n for n in grid)]] * 3)
    mean, spread = (torch.rand(shape, generator=generator) for _ in range(2))
    return PatchGrid(mean, spread, weight, relative_place(box, grid, [8] * len(grid)), flat)


def test_moments_count_real_pixels_only() -> None:
    image = np.random.default_rng(0).uniform(0.2, 1, (2, 3, 16, 16)).astype(np.float32)
    real = np.ones((16, 16), bool)
    real[:3] = False
    image *= real
    valid = torch.from_numpy(np.round(255 * patchify(real[None].astype(np.float32), (8, 8)).mean(-1)).astype(np.uint8))
    mean, spread = patch_moments(torch.from_numpy(patchify(image, (8, 8))), valid.expand(2, -1), 3)
    for sample, channel, row, column in np.ndindex(2, 3, 2, 2):
        pixels = image[sample, channel, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        pixels = pixels[real[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]]
        assert mean[sample, channel, 2 * row + column] == pytest.approx(pixels.mean(), abs=5e-3)
        assert spread[sample, channel, 2 * row + column] == pytest.approx(pixels.std(), abs=1e-2)


@pytest.mark.parametrize("grid", [(6, 7), (4, 5, 6)])
@pytest.mark.parametrize("polarity", ["dark", "bright", "both"])
def test_padding_has_no_influence_and_shapes_are_right(grid: tuple[int, ...], polarity: str) -> None:
    before = _grid(grid, channels=2)
    noise = torch.where(before.candidate, 0, 5.0)
    after = PatchGrid(before.mean + noise, before.spread + noise, before.weight, before.place, before.population)
    first, second = (features(g, NAMES, [polarity] * 2) for g in (before, after))
    assert first.shape == (3, np.prod(grid), len(NAMES))
    assert torch.isfinite(first).all()
    torch.testing.assert_close(first, second)
    assert (first[~before.candidate.flatten(1)] == 0).all()


def test_simple_features_equal_a_loop() -> None:
    grid = _grid((6, 7))
    table = features(grid, ["place", "image", "depth", "surround", "centrality"], ["dark"]).reshape(3, 6, 7, -1)
    for sample, row, column in ((0, 1, 0), (1, 3, 3), (2, 5, 6)):
        weight, mean = grid.weight[sample, 0], grid.mean[sample, 0]
        own = mean[row, column]
        average = (mean * weight).sum() / weight.sum()
        sd = (((mean - average) ** 2 * weight).sum() / weight.sum()).sqrt()
        level = (mean[row] * weight[row]).sum() / weight[row].sum()
        near = (slice(max(0, row - 2), row + 3), slice(max(0, column - 2), column + 3))
        around = (mean[near] * weight[near]).sum() / weight[near].sum()
        place = grid.place[sample, :, row, column]
        truth = [(0.5 - own) / 0.2, (average - own) / sd, level - own, around - own, -(place - 0.5).norm()]
        assert table[sample, row, column].tolist() == pytest.approx([float(t) for t in truth], abs=1e-4)


@pytest.mark.parametrize(("polarity", "inside", "outside"), [("dark", 0.1, 0.8), ("bright", 0.9, 0.2)])
def test_a_lesion_is_enclosed_and_a_band_is_not(polarity: str, inside: float, outside: float) -> None:
    grid = _grid((9, 9), padding=False)
    lesion, band = torch.full((1, 1, 9, 9), outside), torch.full((1, 1, 9, 9), outside)
    lesion[..., 3:6, 3:6] = inside
    band[..., 3:6, :] = inside
    for name in ("enclosure", "enclosure_weak", "place_enclosure", "basin"):
        values = [
            features(PatchGrid(m, m, grid.weight[:1], grid.place[:1], grid.population), [name], [polarity])
            for m in (lesion, band)
        ]
        assert int(values[0].argmax()) in {r * 9 + c for r in range(3, 6) for c in range(3, 6)}
        assert values[0][0, 40, 0] > values[1][0, 40, 0] or not name.endswith(("weak", "basin"))
        assert values[0][0, 40, 0] > 0


def test_enclosure_is_the_height_over_the_fourth_weakest_of_eight_directions() -> None:
    grid = _grid((9, 9), padding=False, seed=3)
    value = features(grid, ["enclosure", "enclosure_weak"], ["dark"]).reshape(3, 9, 9, 2)[1, 4, 4]
    mean = grid.mean[1, 0]
    rays = []
    for dy, dx in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        rays.append(max(float(mean[4 + r * dy, 4 + r * dx]) for r in range(1, 5)))
    own = float(mean[4, 4])
    assert value.tolist() == pytest.approx([sorted(rays)[3] - own, sorted(rays)[1] - own], abs=1e-5)


def test_both_is_the_larger_reading_and_channels_are_averaged() -> None:
    grid = _grid((6, 6), channels=2)
    names = ["place", "enclosure"]
    one = {p: features(grid, names, [p, p]) for p in ("dark", "bright", "both")}
    mixed = features(grid, names, ["dark", "bright"])

    def channel(number: int, polarity: str) -> torch.Tensor:
        population = PopulationStatistics(*(t[number : number + 1] for t in (grid.population.mean, grid.population.sd)))
        mean, spread = (t[:, number : number + 1] for t in (grid.mean, grid.spread))
        return features(PatchGrid(mean, spread, grid.weight, grid.place, population), names, [polarity])

    torch.testing.assert_close(mixed, (channel(0, "dark") + channel(1, "bright")) / 2)
    both = [torch.maximum(channel(c, "dark"), channel(c, "bright")) for c in (0, 1)]
    torch.testing.assert_close(one["both"], (both[0] + both[1]) / 2)


@pytest.mark.parametrize("name", ["plaice", "place4", "place33", "", "3"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"there are|must be odd"):
        check_name(name)
