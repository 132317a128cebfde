"""A phantom that looks like the four MRI modalities of BraTS: a brain without its skull, and a glioma in it.

As in patients, no modality shows everything: oedema is bright on FLAIR, but so is a rim around the ventricles; the
living tumour is bright on T1 with contrast medium (t1ce), but so are vessels; the necrotic core looks like fluid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from preprocessing.geometry.volume import VoxelGrid
from preprocessing.phantoms.shapes import Axes, axes_of, ellipsoid, grow, make_lump, make_ripple, smooth_noise

SHAPE, SPACING = (64, 64, 48), 2.5
CORE, OEDEMA, ENHANCING = 1, 2, 4  # label ids until 2021

MODALITIES = ("t1", "t1ce", "t2", "flair")
# brightness in each modality, relative to white matter on T1
_TISSUES: dict[str, tuple[float, float, float, float]] = {
    "outside": (0, 0, 0, 0),
    "white": (1.0, 1.0, 0.5, 0.6),
    "grey": (0.74, 0.76, 0.68, 0.78),
    "fluid": (0.3, 0.3, 1.35, 0.2),
    "vessel": (0.6, 1.5, 0.45, 0.5),
    "rim": (0.85, 0.85, 0.75, 1.05),  # white matter around the ventricles, in the elderly
    "oedema": (0.72, 0.74, 1.05, 1.15),
    "core": (0.45, 0.47, 1.2, 0.72),  # necrotic, in high-grade gliomas
    "solid": (0.6, 0.66, 1.1, 1.05),  # does not enhance, in low-grade gliomas
    "enhancing": (0.66, 1.55, 0.9, 0.98),
}
_ID = {name: i for i, name in enumerate(_TISSUES)}


@dataclass(frozen=True)
class Mri:
    """images int16 [X, Y, Z] by modality, 0 outside the brain; label uint8 0, 1, 2, 4; one grid for all."""

    images: dict[str, np.ndarray]
    label: np.ndarray
    grid: VoxelGrid


def make_mri(rng: np.random.Generator, grade: str, growth: float = 1.0) -> Mri:
    """One scan of a patient with a glioma of grade "HGG" or "LGG".

    The same generator state with another growth gives the same patient at another time: the tumour is so many times
    as wide, and the scanner's noise and gain are others.
    """
    affine = np.diag([-SPACING, -SPACING, SPACING, 1.0])
    affine[1, 3] = SPACING * (SHAPE[1] - 1)  # as BraTS has it, whose voxels are 1 mm
    grid = VoxelGrid(SHAPE, affine)
    middle = tuple(float(v) for v in affine[:3, :3] @ (np.array(SHAPE) - 1) / 2 + affine[:3, 3])
    axes = axes_of(grid, (middle[0], middle[1], middle[2]))
    tissue = _brain(axes, rng)
    label = _tumour(tissue, axes, grade, growth, rng)
    scan = np.random.default_rng([int(rng.integers(2**31)), round(1000 * growth)])
    return Mri(_scanned(tissue, axes, scan), label, grid)


def _brain(axes: Axes, rng: np.random.Generator) -> np.ndarray:
    """uint8 [X, Y, Z] ids of tissues."""
    x, y, z = axes
    half = (rng.uniform(58, 64), rng.uniform(70, 76), rng.uniform(50, 55))
    warp = 0.03 * make_ripple(rng, 60).on(axes)
    radius = ellipsoid((x, y, z), (0, 0, -4), half) * (1 + warp)
    inside = (radius < 1) & (z > -38 + 0.004 * y**2 - 10 * (y < -20))  # flat below, lower at the cerebellum
    folds = smooth_noise(SHAPE, 1.3, rng)
    depth = radius + 0.08 * folds
    tissue = np.where(inside, np.where(depth < 0.83, _ID["white"], _ID["grey"]), 0).astype(np.uint8)
    gaps = np.abs(smooth_noise(SHAPE, 1.7, rng))
    tissue[inside & (gaps < 0.2) & (radius > 0.78)] = _ID["fluid"]
    tissue[inside & (np.abs(x + 60 * warp) < 1.6) & (radius > 0.55) & (z > -10)] = _ID["fluid"]  # between the halves
    tissue[inside & (gaps < 0.08) & (radius > 0.9) & (folds > 0)] = _ID["vessel"]
    sinus = (np.hypot(x, (radius - 0.97) * 60) < 3.5) & (z > 0)
    tissue[inside & sinus] = _ID["vessel"]
    bent = np.abs(x) - 9 - 0.006 * (y + 5) ** 2  # horns that part at both ends
    wide = rng.uniform(0.8, 1.5)
    ventricle = ellipsoid((bent, y, z), (0, -2, 6), (5 * wide, 34, 8 * wide)) * (1 + 2 * warp)
    ageing = rng.uniform(1.0, 1.7)
    deep = ellipsoid((np.abs(x), y, z), (19, 4, -6), (9, 17, 11)) * (1 + 2 * warp)
    tissue[inside & (deep < 1)] = _ID["grey"]
    tissue[inside & (ventricle < ageing) & (tissue == _ID["white"]) & (folds > -0.7)] = _ID["rim"]
    tissue[inside & (ventricle < 1)] = _ID["fluid"]
    return tissue


def _tumour(tissue: np.ndarray, axes: Axes, grade: str, growth: float, rng: np.random.Generator) -> np.ndarray:
    """Paint a tumour into the tissues, and return its label."""
    label = np.zeros(SHAPE, np.uint8)
    side, high = rng.choice((-1, 1)), grade == "HGG"
    centre = (float(side * rng.uniform(18, 36)), float(rng.uniform(-34, 34)), float(rng.uniform(-6, 18)))
    lump = grow(make_lump(rng, centre, rng.uniform(10, 17), 0.2), growth)
    width = float(np.mean(lump.radii)) * (rng.uniform(1.5, 2.1) if high else rng.uniform(1.0, 1.25))
    around = make_lump(rng, centre, width, 0.3)
    rim, patch = rng.uniform(0.5, 0.75), make_lump(rng, centre, rng.uniform(4, 7), 0.2)
    enhances = high or rng.random() < 0.4
    level = lump.level(axes)
    # oedema follows the white matter and spares the cortex
    swollen = (around.level(axes) < 1) & np.isin(tissue, [_ID["white"], _ID["rim"]])
    grown = (level < 1) & (tissue != _ID["outside"])
    living = grown & enhances & ((level > rim) if high else (patch.level(axes) < 1))
    for where, name, value in (
        (swollen, "oedema", OEDEMA),
        (grown, "core" if high else "solid", CORE),
        (living, "enhancing", ENHANCING),
    ):
        tissue[where], label[where] = _ID[name], value
    return label


def _scanned(tissue: np.ndarray, axes: Axes, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What a scanner makes of the tissues: blur, uneven sensitivity, noise (Rician), and a gain of its own."""
    brain = tissue != _ID["outside"]
    weight = np.maximum(gaussian_filter(brain.astype(np.float32), 0.5), 1e-3)
    texture = 1 + 0.05 * smooth_noise(SHAPE, 1.5, rng)
    images = {}
    for number, name in enumerate(MODALITIES):
        bright = np.array([values[number] for values in _TISSUES.values()], np.float32)
        bright[1:] *= rng.uniform(0.94, 1.06, len(bright) - 1)
        values = bright[tissue] * texture
        values = gaussian_filter(values, 0.5) / weight  # no dark edge where the skull was
        values *= np.exp(0.1 * make_ripple(rng, 180).on(axes))
        noise = rng.uniform(0.025, 0.045) * rng.standard_normal((2, *SHAPE), np.float32)
        values = rng.uniform(200, 600) * np.hypot(values + noise[0], noise[1])
        images[name] = np.where(brain, np.clip(values, 1, 32767).round(), 0).astype(np.int16)
    return images
