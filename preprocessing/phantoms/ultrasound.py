"""Phantoms that look like breast ultrasound, in BUSI's own layout on disk: for the demo and for tests without data.

Layers of tissue with bright fibres, attenuation with depth, shadows, log-compressed speckle; lesions are darker than
their surroundings and blurred at the edge, smooth and with enhancement behind them (benign) or jagged and with a
shadow behind them (malignant). Contrast, place and size of the lesions roughly follow what was measured on BUSI:
darker than a ring around them by about a quarter of the range, at a third of the depth, 1 to 25 % of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates
from upath import UPath

from preprocessing.storage import make_folder

SHARES = {"benign": 0.55, "malignant": 0.3, "normal": 0.15}
_COPY_EVERY = 20  # one in so many images is seen a second time, as near-duplicates are in BUSI
_TWO_LESIONS = 0.08  # share of benign images with two lesions, each with a mask file of its own


@dataclass(frozen=True)
class Phantom:
    """An image, uint8 [H, W], and one mask, bool [H, W], for each lesion."""

    image: np.ndarray
    masks: list[np.ndarray]


def write_busi_phantoms(root: str, count: int, seed: int) -> None:
    """Write `count` images with their masks below root/{benign,malignant,normal}; the same bytes for the same seed."""
    rng = np.random.default_rng(seed)
    kinds = _kinds(count)
    last: dict[str, Phantom] = {}
    numbers = dict.fromkeys(SHARES, 0)
    for index, kind in enumerate(kinds):
        copied = index % _COPY_EVERY == _COPY_EVERY - 1 and kind in last
        phantom = _again(last[kind], rng) if copied else make_phantom(kind, rng)
        last[kind] = phantom
        numbers[kind] += 1
        _write(UPath(root) / kind, f"{kind} ({numbers[kind]})", phantom)


def make_phantom(kind: str, rng: np.random.Generator) -> Phantom:
    """One phantom of a kind: "benign", "malignant" or "normal"."""
    width = int(rng.integers(190, 257))
    shape = (round(width * rng.uniform(0.65, 0.95)), width)
    depth, across = np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij")
    echo = _tissue(depth, across, rng)
    masks: list[np.ndarray] = []
    lesions = 0 if kind == "normal" else 2 if kind == "benign" and rng.random() < _TWO_LESIONS else 1
    for number in range(lesions):
        mask = _lesion_shape(depth, across, kind, rng, side=number if lesions == 2 else None)
        if masks:
            mask &= ~masks[0]
        echo = _insert(echo, mask, kind, rng)
        masks.append(mask)
    echo *= np.exp(-rng.uniform(1.5, 3.0) * depth) * _shadows(depth, across, rng)
    return Phantom(_speckled(echo, rng), masks)


def _tissue(depth: np.ndarray, across: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Echo of skin, fat, gland and muscle, between wavy borders."""
    echo = np.full(depth.shape, 0.9)
    levels = [(rng.uniform(0.02, 0.04), 0.5), (rng.uniform(0.12, 0.22), 0.85), (rng.uniform(0.6, 0.8), 0.55)]
    for border, value in levels:
        wave = sum(
            rng.uniform(0, 0.02 / k) * np.sin(2 * np.pi * k * across + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3)
        )
        below = 1 / (1 + np.exp(-(depth - border - wave) / 0.008))
        echo = echo * (1 - below) + value * rng.uniform(0.85, 1.15) * below
        echo += 0.25 * np.exp(-(((depth - border - wave) / 0.006) ** 2))  # a bright line between layers
    # fibres are the zero lines of a smooth, flat noise, and more of them lie in some places than in others
    fibres = np.exp(-((_noise(depth.shape, (2.5, 16), rng) / 0.25) ** 2))
    density = np.clip(0.5 + 0.6 * _noise(depth.shape, (14, 24), rng), 0, None)
    mottle = np.exp(0.3 * _noise(depth.shape, (4, 9), rng))
    return np.clip(0.7 * echo * mottle * (1 + 1.2 * fibres * density), 0.06, None)


def _lesion_shape(
    depth: np.ndarray, across: np.ndarray, kind: str, rng: np.random.Generator, side: int | None
) -> np.ndarray:
    """bool [H, W]: an ellipse, wider than high if benign, whose radius varies with the angle."""
    height, width = depth.shape
    radius = np.exp(rng.uniform(np.log(0.075), np.log(0.26))) if side is None else rng.uniform(0.06, 0.1)
    flat = rng.uniform(0.55, 0.85) if kind == "benign" else rng.uniform(0.75, 1.1)
    middle = np.clip(rng.normal(0.48, 0.14), 0.22, 0.78) if side is None else (0.28, 0.72)[side]
    y = (depth - np.clip(rng.normal(0.36, 0.09), 0.24, 0.58)) * height / width
    x = across - middle
    tilt = rng.uniform(-0.3, 0.3)
    u, v = x * np.cos(tilt) + y * np.sin(tilt), (y * np.cos(tilt) - x * np.sin(tilt)) / flat
    angle = np.arctan2(v, u)
    orders, roughness = ((2, 3), 0.06) if kind == "benign" else ((2, 3, 4, 6, 9, 13), 0.16)
    edge = 1 + sum(
        roughness * (2 / k) ** 0.7 * rng.uniform(0.3, 1) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in orders
    )
    return np.hypot(u, v) < radius * edge


def _insert(echo: np.ndarray, mask: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Darken the lesion, softly at its edge, and brighten or darken what lies behind it."""
    inside = gaussian_filter(mask.astype(float), rng.uniform(0.8, 1.6) if kind == "benign" else rng.uniform(1.5, 3))
    level = rng.uniform(0.09, 0.33) if rng.random() < 0.85 else rng.uniform(0.33, 0.45)  # some are hardly darker
    lesion = np.median(echo[mask]) * level * np.exp(0.3 * _noise(mask.shape, (3, 4), rng))
    behind = (np.cumsum(mask, axis=0) > 0) & ~mask
    strength = rng.uniform(1.1, 1.5) if kind == "benign" else rng.uniform(0.45, 0.85)
    tail = gaussian_filter(behind.astype(float), (2, 4))
    return (echo * (1 - inside) + lesion * inside) * strength ** (tail * (1 - inside))


def _shadows(depth: np.ndarray, across: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Columns that lose echo from some depth on, and the sides where the probe has poor contact."""
    kept = np.ones(depth.shape)
    for _ in range(rng.integers(0, 3)):
        column = np.exp(-(((across - rng.uniform(0, 1)) / rng.uniform(0.02, 0.06)) ** 2))
        start = 1 / (1 + np.exp(-(depth - rng.uniform(0.1, 0.6)) / 0.04))
        kept *= 1 - rng.uniform(0.2, 0.5) * column * start
    edge = np.minimum(across, 1 - across)
    return kept * (1 - rng.uniform(0, 0.4) * np.exp(-edge / 0.05))


def _speckled(echo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Interference of many scatterers (Rayleigh amplitude, wider than deep), compressed logarithmically to uint8.

    Three looks are averaged, as scanners do (compounding).
    """
    looks = [np.hypot(*(_noise(echo.shape, (0.7, 1.4), rng) for _ in range(2))) for _ in range(3)]
    amplitude = np.mean(looks, axis=0)
    decibel = 20 * np.log10(np.maximum(echo * amplitude / amplitude.mean(), 1e-4))
    return np.clip(255 * (decibel + 31) / 36, 0, 255).astype(np.uint8)


def _noise(shape: tuple[int, ...], smooth: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of standard deviation 1, smoothed over so many pixels down and across."""
    noise = gaussian_filter(rng.standard_normal(shape), smooth)
    return noise / noise.std()


def _again(phantom: Phantom, rng: np.random.Generator) -> Phantom:
    """The same view a moment later: shifted by a pixel or two, a little brighter or darker, with new noise."""
    shift = rng.uniform(-1.5, 1.5, 2)
    grid = np.indices(phantom.image.shape) + shift[:, None, None]
    moved = map_coordinates(phantom.image.astype(np.float32), grid, order=1, mode="nearest")
    noisy = rng.uniform(0.9, 1.1) * moved + rng.normal(0, 4, moved.shape)
    masks = [map_coordinates(mask.astype(np.float32), grid, order=1) > 0.5 for mask in phantom.masks]
    return Phantom(np.clip(noisy, 0, 255).astype(np.uint8), masks)


def _kinds(count: int) -> list[str]:
    """Kinds in turn, always the one that lags most behind its share."""
    kinds: list[str] = []
    for n in range(1, count + 1):
        kinds.append(max(SHARES, key=lambda kind: SHARES[kind] * n - kinds.count(kind)))
    return kinds


def _write(folder: UPath, name: str, phantom: Phantom) -> None:
    make_folder(folder)
    masks = phantom.masks or [np.zeros(phantom.image.shape, bool)]
    files = {f"{name}.png": phantom.image}
    files |= {f"{name}_mask{f'_{i}' if i else ''}.png": mask for i, mask in enumerate(masks)}
    for file, values in files.items():
        with (folder / file).open("wb") as stream:
            Image.fromarray(values).save(stream, format="PNG")
