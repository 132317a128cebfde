"""A phantom that looks like CT and FDG-PET of a head and neck, with a tumour, lymph nodes, or both.

As in patients, most of what is bright on PET is a lesion, but not all: brain, tonsils, glands and brown fat take up as
much. As in patients, lesions hardly differ from muscle on CT, and a node that is large need not be malignant. Some
lesions have a necrotic centre that takes up little, so that uptake alone does not find all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from preprocessing.geometry.volume import VoxelGrid
from preprocessing.phantoms.petct_anatomy import ID, TISSUES, Patient
from preprocessing.phantoms.shapes import Point, axes_of, smooth_noise

CT_SHAPE, CT_SPACING = (80, 80, 40), (2.0, 2.0, 3.0)
PT_SHAPE, PT_SPACING = (44, 44, 33), (4.0, 4.0, 4.0)

_FINE = 2  # a voxel of PET is the mean of so many points along each side
_PET_BLUR = 2.6  # mm, standard deviation of the scanner's point spread (6 mm full width at half maximum)


@dataclass(frozen=True)
class PetCt:
    """ct, int16 HU, and label, uint8 0 to 2, lie on ct_grid; pt, float32 SUV, on pt_grid."""

    ct: np.ndarray
    pt: np.ndarray
    label: np.ndarray
    ct_grid: VoxelGrid
    pt_grid: VoxelGrid


def make_petct(rng: np.random.Generator) -> PetCt:
    """One patient. The grids differ in spacing, origin and field of view; their axes run left, back and up."""
    patient = Patient(rng)
    place = (float(rng.uniform(-40, 40)), float(rng.uniform(-40, 40)), float(rng.uniform(-900, -200)))
    ct_grid = _grid(CT_SHAPE, CT_SPACING, place, rng.uniform(-2, 2, 3))
    pt_grid = _grid(PT_SHAPE, PT_SPACING, place, rng.uniform(-2, 2, 3) - (0, 0, 5))
    ct, label = _ct(patient, ct_grid, place, rng)
    return PetCt(ct, _pet(patient, pt_grid, place, rng), label, ct_grid, pt_grid)


def _grid(shape: tuple[int, int, int], spacing: Point, place: Point, jitter: np.ndarray) -> VoxelGrid:
    """Voxels that begin at the right front of the patient and at the lower end."""
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    for axis in (0, 1):
        affine[axis, 3] = place[axis] + spacing[axis] * (shape[axis] - 1) / 2 + jitter[axis]
    affine[2, 3] = place[2] + jitter[2]
    return VoxelGrid(shape, affine.round(3))


def _ct(patient: Patient, grid: VoxelGrid, place: Point, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    axes = axes_of(grid, place)
    tissue = patient.tissues(axes)
    hu = np.array([hu for hu, _ in TISSUES.values()], np.float32)
    hu[ID["vessel"]] += patient.contrast
    values, label = hu[tissue], np.zeros(grid.shape, np.uint8)
    values[tissue > ID["support"]] += 10 * smooth_noise(grid.shape, 2.5, rng)[tissue > ID["support"]]
    for lesion in patient.lesions:
        inside, necrotic = patient.extent(lesion, tissue, axes)
        values[inside] = lesion.hu + 0.3 * patient.contrast * rng.uniform(0, 1)
        values[necrotic] = rng.uniform(25, 45)
        label[inside] = lesion.label
    values = gaussian_filter(values, 0.55) + rng.uniform(9, 16) * smooth_noise(grid.shape, 0.5, rng)
    return np.clip(values, -1024, 3071).round().astype(np.int16), label


def _pet(patient: Patient, grid: VoxelGrid, place: Point, rng: np.random.Generator) -> np.ndarray:
    fine = _refined(grid)
    axes = axes_of(fine, place)
    tissue = patient.tissues(axes)
    uptake = np.array([suv for _, suv in TISSUES.values()], np.float32)
    for name in ("brain", "gland", "tonsil", "brown fat"):
        uptake[ID[name]] *= rng.uniform(0.7, 1.4)
    values = uptake[tissue]
    values[tissue == ID["brain"]] *= (1 + 0.35 * patient.folds.on(axes))[tissue == ID["brain"]].clip(0.3)
    for lesion in patient.lesions:
        inside, necrotic = patient.extent(lesion, tissue, axes)
        values[inside] = lesion.uptake
        values[necrotic] = 0.25 * lesion.uptake
    values = gaussian_filter(values, _PET_BLUR / np.array(fine.spacing))
    x, y, z = grid.shape
    values = values.reshape(x, _FINE, y, _FINE, z, _FINE).mean(axis=(1, 3, 5))
    # counting statistics: the variance grows with the activity
    noisy = values + 0.13 * np.sqrt(values + 0.02) * smooth_noise(values.shape, 0.6, rng)
    return np.clip(noisy, 0, None).astype(np.float32)


def _refined(grid: VoxelGrid) -> VoxelGrid:
    """The same field of view with smaller voxels."""
    affine = grid.affine.copy()
    affine[:3, :3] /= _FINE
    affine[:3, 3] -= np.diagonal(affine)[:3] * (_FINE - 1) / 2
    x, y, z = grid.shape
    return VoxelGrid((x * _FINE, y * _FINE, z * _FINE), affine)
