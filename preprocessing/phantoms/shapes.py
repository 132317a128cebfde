"""Shapes and fields that phantoms of volumes are made of, in millimetres, whatever grid they are drawn on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from preprocessing.geometry.volume import VoxelGrid

Axes = tuple[np.ndarray, np.ndarray, np.ndarray]  # x [X, 1, 1], y [1, Y, 1], z [1, 1, Z] in mm
Point = tuple[float, float, float]


def axes_of(grid: VoxelGrid, origin: Point = (0.0, 0.0, 0.0)) -> Axes:
    """Places of the voxels' centres as seen from `origin`; the grid's axes must be parallel to the world's."""
    steps, first = np.diagonal(grid.affine)[:3], grid.affine[:3, 3] - np.asarray(origin)
    x, y, z = ((first[i] + steps[i] * np.arange(n)).astype(np.float32) for i, n in enumerate(grid.shape))
    return x[:, None, None], y[None, :, None], z[None, None, :]


def ellipsoid(axes: Axes, centre: Point, radii: Point) -> np.ndarray:
    """float32 [X, Y, Z]: 0 at the centre, 1 on the surface, growing linearly outwards."""
    x, y, z = ((axis - c) / r for axis, c, r in zip(axes, centre, radii, strict=True))
    return np.sqrt(x * x + y * y + z * z)


@dataclass(frozen=True)
class Lump:
    """An ellipsoid with dents and bumps.

    Attributes:
        centre, radii: in mm.
        waves: [n, 5]; along a vector (3 numbers), from a phase on, the radius swings by an amplitude.
    """

    centre: Point
    radii: Point
    waves: np.ndarray

    def level(self, axes: Axes) -> np.ndarray:
        """float32 [X, Y, Z]: 0 at the centre, 1 on the surface, infinite at three radii and beyond."""
        level = np.full([axis.size for axis in axes], np.inf, np.float32)
        near = [
            np.flatnonzero(np.abs(axis.ravel() - c) < 3 * r)
            for axis, c, r in zip(axes, self.centre, self.radii, strict=True)
        ]
        x, y, z = (axis.ravel()[n] - c for axis, n, c in zip(axes, near, self.centre, strict=True))
        box: Axes = (x[:, None, None], y[None, :, None], z[None, None, :])
        distance = ellipsoid(box, (0.0, 0.0, 0.0), self.radii)
        length = np.maximum(ellipsoid(box, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), 1e-3)
        edge = np.ones_like(distance)
        for *along, phase, amplitude in self.waves:
            swing = sum(axis * a for axis, a in zip(box, along, strict=True)) / length
            edge += amplitude * np.cos(swing + phase)
        level[np.ix_(*near)] = distance / edge
        return level


def make_lump(rng: np.random.Generator, centre: Point, radius: float, roughness: float) -> Lump:
    """A lump of about this radius, at most a third longer than wide."""
    radii = radius * rng.uniform(0.85, 1.15, 3)
    waves = [
        [*(order * _direction(rng)), rng.uniform(0, 2 * np.pi), roughness * 2 / order * rng.uniform(0.3, 1)]
        for order in (2, 3, 4, 6)
    ]
    return Lump(centre, (float(radii[0]), float(radii[1]), float(radii[2])), np.array(waves, np.float32))


def grow(lump: Lump, factor: float) -> Lump:
    """The same form, larger or smaller."""
    a, b, c = lump.radii
    return Lump(lump.centre, (a * factor, b * factor, c * factor), lump.waves)


@dataclass(frozen=True)
class Ripple:
    """A smooth field without end, of about unit size: waves in all directions, the same on every grid.

    Attributes:
        waves: [n, 4], of each a wave vector in rad/mm (3) and a phase.
    """

    waves: np.ndarray

    def on(self, axes: Axes) -> np.ndarray:
        """float32 [X, Y, Z]; mean 0, standard deviation about 1."""
        x, y, z = axes
        along = self.waves[:, 0] * x.ravel()[:, None]
        across = self.waves[:, 1] * y[..., None] + self.waves[:, 2] * z[..., None] + self.waves[:, 3]
        # cos(a + b) = cos a cos b - sin a sin b: short lists of cosines, and one sum of products
        first = np.concatenate([np.cos(along), -np.sin(along)], axis=1)
        second = np.concatenate([np.cos(across), np.sin(across)], axis=-1)[0]
        field = np.einsum("xw,yzw->xyz", first, second)  # not by BLAS, whose rounding varies with its threads
        return field * np.float32(np.sqrt(2 / len(self.waves)))


def make_ripple(rng: np.random.Generator, wavelength: float, waves: int = 8) -> Ripple:
    """A ripple whose waves are about so many mm long."""
    vectors = [
        [*(2 * np.pi / (wavelength * rng.uniform(0.7, 1.5)) * _direction(rng)), rng.uniform(0, 2 * np.pi)]
        for _ in range(waves)
    ]
    return Ripple(np.array(vectors, np.float32))


def smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """float32 [*shape]: Gaussian noise of standard deviation 1, smoothed over so many voxels."""
    noise = rng.standard_normal(shape, np.float32)
    if sigma:
        noise = gaussian_filter(noise, sigma, truncate=3)
    return noise / noise.std()


def _direction(rng: np.random.Generator) -> np.ndarray:
    vector = rng.standard_normal(3)
    return vector / np.linalg.norm(vector)
