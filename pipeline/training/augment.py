"""Augmentation on the device: every sample of a batch gets its own transformation in a few vectorised steps.

All chance comes from a hash of (seed, global sample position), so that a restart, or another number of workers,
repeats it. Image, label and the map of real pixels go through one sampling grid: the image linearly, the others by
the nearest pixel. What is drawn in from beyond the canvas is padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.masking import keyed_uniform
from preprocessing.settings import Settings

_GEOMETRY, _INTENSITY, _NOISE, _ELASTIC = 11, 12, 13, 14  # streams of the keyed numbers; masks use the low ones
_BLUR_REACH = 3  # pixels to each side


class AugmentSettings(Settings):
    """Ranges of the random transformations; 0 switches one off."""

    flip: tuple[float, ...] = Field(
        (0.0, 0.5),
        description="Chance of a flip along each spatial axis; with fewer numbers than axes they stand for the last.",
    )
    rotate: float = Field(15.0, ge=0, le=180, description="Largest rotation in degrees, to either side, in each plane.")
    scale: float = Field(0.25, ge=0, lt=4, description="Largest zoom: the factor lies in [1 / (1 + x), 1 + x].")
    stretch: float = Field(0.1, ge=0, lt=4, description="Largest zoom of one axis relative to the others.")
    shift: float = Field(0.1, ge=0, le=0.5, description="Largest shift along an axis, as a share of the canvas.")
    elastic: float = Field(0.03, ge=0, le=0.2, description="Largest elastic displacement, as a share of the canvas.")
    elastic_grid: int = Field(4, ge=2, description="Control points of the elastic displacement along an axis.")
    brightness: float = Field(0.1, ge=0, le=1, description="Largest value added to the intensities (range [0, 1]).")
    contrast: float = Field(0.25, ge=0, lt=4, description="Largest contrast factor: it lies in [1 / (1 + x), 1 + x].")
    gamma: float = Field(0.4, ge=0, lt=4, description="Largest exponent: it lies in [1 / (1 + x), 1 + x].")
    noise: float = Field(0.05, ge=0, le=1, description="Largest standard deviation of the added Gaussian noise.")
    blur: float = Field(1.0, ge=0, le=3, description="Largest standard deviation of the Gaussian blur, in pixels.")
    share: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Chance of a sample to be transformed in place (flips aside, which have their own), and again in "
        "intensity.",
    )


def augment(
    image: Tensor,
    label: Tensor,
    real: Tensor,
    position: Tensor,
    seed: int,
    settings: AugmentSettings,
    spacing: Sequence[float] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Transform a batch at random.

    Args:
        image: float [B, C, *spatial], d = 2 or 3 spatial axes, intensities in [0, 1].
        label: uint8 [B, 1, *spatial], class ids.
        real: bool [B, 1, *spatial], False on padding.
        position: int64 [B], global sample positions, the key of the chance.
        seed: the run's seed.
        settings: ranges.
        spacing: size of a pixel along each axis, in one unit: turns keep distances in it; 1 by default.

    Returns:
        image, label and real, transformed, of the same shapes and dtypes; the image is 0 on padding.
    """
    grid = sampling_grid(position, image.shape[2:], seed, settings, spacing)
    image, label, real = warp(image, label, real, grid)
    image = vary_intensity(image, position, seed, settings)
    return image * real, label, real


def warp(image: Tensor, label: Tensor, real: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sample image (linearly), label and real pixels (nearest) at a grid of `grid_sample`, float [B, *spatial, d]."""
    stacked = torch.cat([label.float(), real.float()], dim=1)
    nearest = F.grid_sample(stacked, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    image = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    moved_real = nearest[:, 1:] > 0.5
    return image * moved_real, nearest[:, :1].to(label.dtype), moved_real


def sampling_grid(
    position: Tensor,
    size: torch.Size | tuple[int, ...],
    seed: int,
    settings: AugmentSettings,
    spacing: Sequence[float] | None = None,
) -> Tensor:
    """Where each sample's pixels come from: float [B, *size, d], normalised coordinates, the last axis first."""
    batch, dims = len(position), len(size)
    pixel = torch.tensor(spacing or [1.0] * dims, dtype=torch.float32, device=position.device)
    planes = [(a, b) for a in range(dims) for b in range(a + 1, dims)]
    draw = keyed_uniform(seed, position, 2 + 3 * dims + len(planes), _GEOMETRY)
    chosen, zoom, flips, stretch, shift, turns = draw.split([1, 1, dims, dims, dims, len(planes)], dim=1)
    active = (chosen < settings.share).float()

    factor = _log_range(zoom, settings.scale) * _log_range(stretch, settings.stretch)
    factor = factor**active  # 1 where a sample is left in place
    chance = torch.tensor(_per_axis(settings.flip, dims), device=position.device)
    sign = torch.where(flips < chance, -1.0, 1.0)
    matrix = torch.diag_embed(sign / factor)  # [B, d, d], in pixels, axes in array order
    for plane, (a, b) in enumerate(planes):
        angle = math.radians(settings.rotate) * (2 * turns[:, plane] - 1) * active[:, 0]
        turn = torch.eye(dims, device=position.device).repeat(batch, 1, 1)
        turn[:, a, a] = turn[:, b, b] = angle.cos()
        turn[:, a, b], turn[:, b, a] = -angle.sin(), angle.sin()
        matrix = turn * pixel[None, :] / pixel[:, None] @ matrix  # a turn in mm: S^-1 R S, S = diag(spacing)

    half = torch.tensor([n / 2 for n in size], device=position.device)
    matrix = matrix * half[None, None, :] / half[None, :, None]  # pixels to [-1, 1] on both sides
    offset = 2 * settings.shift * (2 * shift - 1) * active
    theta = torch.cat([matrix, offset[..., None]], dim=2).flip(1)  # grid_sample has the last axis first
    theta = torch.cat([theta[..., :dims].flip(2), theta[..., dims:]], dim=2)
    grid = F.affine_grid(theta, [batch, 1, *size], align_corners=False)
    if settings.elastic == 0:
        return grid
    return grid + _elastic(position, size, seed, settings) * active.view(-1, *[1] * (dims + 1))


def _elastic(position: Tensor, size: torch.Size | tuple[int, ...], seed: int, settings: AugmentSettings) -> Tensor:
    dims, points = len(size), settings.elastic_grid
    draw = keyed_uniform(seed, position, dims * points**dims, _ELASTIC)
    coarse = (2 * draw - 1).view(-1, dims, *[points] * dims) * 2 * settings.elastic
    mode = "bicubic" if dims == 2 else "trilinear"
    return F.interpolate(coarse, size=tuple(size), mode=mode, align_corners=True).movedim(1, -1)


def vary_intensity(image: Tensor, position: Tensor, seed: int, settings: AugmentSettings) -> Tensor:
    """Blur, gamma, contrast, brightness and noise, drawn anew for every sample of float [B, C, *size]."""
    shape = [-1] + [1] * (image.ndim - 1)
    draw = keyed_uniform(seed, position, 6, _INTENSITY)
    chosen, bright, contrast, gamma, noise, blur = (column.view(shape) for column in draw.unbind(1))
    changed = _blur(image, settings.blur * blur) if settings.blur > 0 else image
    changed = changed.clamp(0, 1) ** _log_range(gamma, settings.gamma)
    mean = changed.mean(tuple(range(2, image.ndim)), keepdim=True)  # of each channel: PET has another than CT
    changed = (changed - mean) * _log_range(contrast, settings.contrast) + mean
    changed = changed + settings.brightness * (2 * bright - 1)
    if settings.noise > 0:
        changed = changed + settings.noise * noise * _gaussian(image, position, seed)
    return torch.where(chosen < settings.share, changed.clamp(0, 1), image)


def _gaussian(image: Tensor, position: Tensor, seed: int) -> Tensor:
    uniform = keyed_uniform(seed, position, image[0].numel(), _NOISE)
    return torch.erfinv((2 * uniform - 1).clamp(-1 + 2**-22, 1 - 2**-22)).view(image.shape) * math.sqrt(2)


def _blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, one sigma a sample ([B, 1, ...], pixels), axis by axis as a grouped convolution."""
    batch, channels, *size = image.shape
    reach = torch.arange(-_BLUR_REACH, _BLUR_REACH + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (reach / sigma.view(-1, 1).clamp(min=1e-3)).square())
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)  # [B * C, taps]
    convolve = F.conv2d if len(size) == 2 else F.conv3d
    x = image.reshape(1, batch * channels, *size)
    for axis in range(len(size)):
        taps = [-1, 1] + [1] * len(size)
        taps[2 + axis] = 2 * _BLUR_REACH + 1
        pad = [0] * (2 * len(size))
        start = 2 * (len(size) - 1 - axis)
        pad[start] = pad[start + 1] = _BLUR_REACH
        x = convolve(F.pad(x, pad, mode="replicate"), kernel.view(taps), groups=batch * channels)
    return x.view(image.shape)


def _log_range(uniform: Tensor, largest: float) -> Tensor:
    """Uniform [0, 1) to [1 / (1 + largest), 1 + largest), even in its logarithm."""
    return torch.exp((2 * uniform - 1) * math.log1p(largest))


def _per_axis(values: tuple[float, ...], dims: int) -> list[float]:
    return ([0.0] * dims + list(values))[-dims:]
