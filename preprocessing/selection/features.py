"""Patch features by name: what a patch is like among its neighbours, in its image, and for its place.

A name is a word and, for some, the odd width of the neighbourhood that is averaged first: `enclosure`, `place3`. With a
modality before it, `PT.level3`, it looks at that modality alone, else it is the mean over all. All are written for
bright lesions; `polarity` turns the image over for dark ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from preprocessing.selection.neighbourhood import basin_depth, masked_mean, masked_scatter, ray_maxima
from preprocessing.selection.statistics import PopulationStatistics

Polarity = Literal["dark", "bright", "both"]

_NAME = re.compile(r"(?:(?P<modality>\w+)\.)?(?P<feature>[a-z_]+?)(?P<width>\d*)")

# an enclosing ray: at this share of the directions from the least enclosing one (index 3 of 8 in 2D, 9 of 26 in 3D)
_TYPICAL, _WEAK, _HALF = 3 / 8, 1 / 8, 1 / 2
# enclosing ways are compared by negated brightness, from -1 to 0. Outside the image it counts as one full range below
# the lowest, so that a patch at the border is hardly enclosed; on BUSI this gains one to three points of hit rate over
# ways that simply end there.
_OUTSIDE = -2.0


@dataclass(frozen=True)
class PatchGrid:
    """Samples as grids of patch statistics; B samples, C channels, d axes.

    Attributes:
        mean: float32 [B, C, *grid], mean of a patch's real pixels.
        spread: float32 [B, C, *grid], their standard deviation.
        weight: float32 [B, 1, *grid], share of real pixels of a candidate patch, 0 for every other.
        place: float32 [B, d, *grid], see `statistics.relative_place`.
        population: what is usual at a place.
    """

    mean: Tensor
    spread: Tensor
    weight: Tensor
    place: Tensor
    population: PopulationStatistics

    @property
    def candidate(self) -> Tensor:
        """bool [B, 1, *grid]."""
        return self.weight > 0

    def averaged(self, width: int) -> Tensor:
        """Mean over the neighbourhood, [B, C, *grid]."""
        return masked_mean(self.mean, self.weight, width)

    def turned_over(self) -> PatchGrid:
        """The negative of the images: dark for bright."""
        population = PopulationStatistics(1 - self.population.mean, self.population.sd)
        return replace(self, mean=1 - self.mean, population=population)


def patch_moments(patches: Tensor, valid: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch's real pixels.

    Args:
        patches: [B, N, D] with zeros as padding, channel-major within a patch.
        valid: uint8 [B, N], 255 * share of real pixels.
        channels: C.

    Returns:
        two float32 [B, C, N]; 0 where nothing is real.
    """
    pixels = patches.float().unflatten(-1, (channels, -1))
    share = (valid.float() / 255).clamp_min(1e-3).unsqueeze(-1)
    mean = pixels.mean(-1) / share
    variance = (pixels**2).mean(-1) / share - mean**2
    return mean.movedim(-1, 1), variance.clamp_min(0).sqrt().movedim(-1, 1)


def _within_image(grid: PatchGrid, values: Tensor) -> Tensor:
    axes = list(range(2, values.ndim))
    total = grid.weight.sum(axes, keepdim=True).clamp_min(1e-6)
    mean = (values * grid.weight).sum(axes, keepdim=True) / total
    variance = ((values - mean) ** 2 * grid.weight).sum(axes, keepdim=True) / total
    return (values - mean) / variance.sqrt().clamp_min(1e-4)


def _depth(grid: PatchGrid, width: int) -> Tensor:
    axes = list(range(3, grid.mean.ndim))  # the first axis of ultrasound is depth
    total = grid.weight.sum(axes, keepdim=True)
    level = (grid.mean * grid.weight).sum(axes, keepdim=True) / total.clamp_min(1e-6)
    return masked_mean(grid.mean - level, grid.weight, width)


def _deviation(grid: PatchGrid) -> Tensor:
    return grid.population.deviation(grid.mean, grid.place).clamp(-5, 5)


def _enclosure(grid: PatchGrid, values: Tensor, share: float) -> Tensor:
    # bright lesion: how far it stands above the lowest ground on the way, in the weaker of the directions
    reach = max(2, max(values.shape[2:]) // 2)
    rays = ray_maxima(-values, grid.candidate, reach, _OUTSIDE)
    return rays[int(share * len(rays))] + values


def _surrounded(grid: PatchGrid, values: Tensor) -> Tensor:
    # the dark core of a bright lesion is as bright as what surrounds it in at least half of the directions
    rays = ray_maxima(values, grid.candidate, max(2, max(values.shape[2:]) // 2), 0.0)
    return torch.maximum(values, rays[int(_HALF * len(rays))])


def _centrality(grid: PatchGrid, width: int) -> Tensor:
    return -(grid.place - 0.5).square().sum(1, keepdim=True).sqrt()


_FEATURES: dict[str, Callable[[PatchGrid, int], Tensor]] = {
    # difference to what is usual at the same place of the training images
    "place": lambda g, w: masked_mean(_deviation(g), g.weight, w),
    # brightness as it is: what intensities in physical units (SUV) mean
    "level": lambda g, w: g.averaged(w),
    "surrounded": lambda g, w: _surrounded(g, g.averaged(w)),
    # brightness within the image
    "image": lambda g, w: _within_image(g, g.averaged(w)),
    # brightness relative to patches of the same depth (first axis)
    "depth": _depth,
    # centre against surround
    "surround": lambda g, w: g.averaged(w) - g.averaged(2 * w + 3),
    # height over the lowest ground on the way in each direction: background reaches the border, lesions do not
    "enclosure": lambda g, w: _enclosure(g, g.averaged(w), _TYPICAL),
    "enclosure_weak": lambda g, w: _enclosure(g, g.averaged(w), _WEAK),
    # the same for the difference to what is usual at a place
    "place_enclosure": lambda g, w: _enclosure(g, masked_mean(_deviation(g) / 10 + 0.5, g.weight, w), _TYPICAL),
    # depth of the basin (height of the dome) that cannot run off over the image's border
    "basin": lambda g, w: basin_depth(1 - g.averaged(w), g.candidate),
    # how patch means vary nearby, and pixels within a patch
    "scatter": lambda g, w: masked_scatter(g.mean, g.weight, w),
    "texture": lambda g, w: masked_mean(g.spread, g.weight, w),
    # nearness to the centre of the real area; depends on no pixel
    "centrality": _centrality,
}


def check_name(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: there is no such feature.
    """
    match = _NAME.fullmatch(name)
    if match is None or match["feature"] not in _FEATURES:
        raise ValueError(
            f"no patch feature {name!r}; there are {', '.join(_FEATURES)} (a width may follow: place3; a modality may "
            "stand before: PT.place3)"
        )
    if match["width"] and (int(match["width"]) % 2 == 0 or int(match["width"]) > 31):
        raise ValueError(f"the width of {name!r} must be odd and at most 31")
    return name


def modality_of(name: str) -> str:
    """The modality that a feature looks at; "" for the mean over all."""
    match = _NAME.fullmatch(check_name(name))
    return (match["modality"] or "") if match else ""


def features(
    grid: PatchGrid, names: Sequence[str], polarity: Sequence[Polarity], modalities: Sequence[str] = ()
) -> Tensor:
    """Features of every patch, one a name: of the modality that it names, else the mean over all.

    Args:
        grid: the samples.
        names: features, see `check_name`.
        polarity: of each channel: whether lesions are darker or brighter than their surroundings; "both" takes
            the larger of the two readings.
        modalities: names of the channels.

    Returns:
        float32 [B, N, F]; 0 outside candidates.
    """
    views = {"bright": grid, "dark": grid.turned_over()}
    needed = {sign for p in polarity for sign in (("bright", "dark") if p == "both" else (p,))}
    columns = []
    for name in names:
        match = _NAME.fullmatch(check_name(name))
        assert match is not None
        feature, width = _FEATURES[match["feature"]], int(match["width"] or 1)
        readings = {sign: feature(views[sign], width) for sign in sorted(needed)}
        if "both" in polarity:
            readings["both"] = torch.maximum(readings["bright"], readings["dark"])
        per_channel = [
            readings[sign][:, channel if readings[sign].shape[1] > 1 else 0] for channel, sign in enumerate(polarity)
        ]
        if match["modality"]:
            columns.append(per_channel[list(modalities).index(match["modality"])])
        else:
            columns.append(torch.stack(per_channel).mean(0))
    stacked = torch.stack(columns, -1) * grid.candidate[:, 0, ..., None]
    return stacked.reshape(len(stacked), math.prod(stacked.shape[1:-1]), len(names))
