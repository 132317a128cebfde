"""Augmentation: known transformations, image and label moved together, chance keyed by position."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import affine_transform
from torch import Tensor

from pipeline.training import augment as module
from pipeline.training.augment import AugmentSettings, augment, sampling_grid, warp

OFF = {
    "flip": (0.0, 0.0),
    "rotate": 0.0,
    "scale": 0.0,
    "stretch": 0.0,
    "shift": 0.0,
    "elastic": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "gamma": 0.0,
    "noise": 0.0,
    "blur": 0.0,
    "share": 1.0,
}
SIZES = [(12, 20), (6, 10, 8)]


def batch(size: tuple[int, ...], count: int = 4, channels: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(count, channels, *size, generator=generator) * 0.8 + 0.1
    label = torch.randint(0, 4, (count, 1, *size), generator=generator, dtype=torch.uint8)
    real = torch.ones(count, 1, *size, dtype=torch.bool)
    return image, label, real, torch.arange(100, 100 + count)


@pytest.mark.parametrize("size", SIZES)
def test_everything_off_changes_nothing(size: tuple[int, ...]) -> None:
    image, label, real, position = batch(size)
    real[..., -2:] = False
    image = image * real
    new_image, new_label, new_real = augment(image, label, real, position, 0, AugmentSettings(**OFF))
    assert torch.allclose(new_image, image, atol=1e-5)
    assert torch.equal(new_label, label)
    assert torch.equal(new_real, real)
    assert new_label.dtype == torch.uint8


@pytest.mark.parametrize("size", SIZES)
def test_flip_mirrors_image_label_and_padding(size: tuple[int, ...]) -> None:
    image, label, real, position = batch(size)
    real[..., -3:] = False
    image = image * real
    found = augment(image, label, real, position, 0, AugmentSettings(**{**OFF, "flip": (0.0, 1.0)}))
    assert torch.allclose(found[0], image.flip(-1), atol=1e-5)
    assert torch.equal(found[1], label.flip(-1))
    assert torch.equal(found[2], real.flip(-1))


def test_rotation_turns_pixels_not_normalised_coordinates() -> None:
    """On a canvas that is not square, a disc stays a disc and every distance is kept."""
    size = (40, 64)
    y, x = torch.meshgrid(torch.arange(40) - 19.5, torch.arange(64) - 31.5, indexing="ij")
    disc = (y.square() + x.square() < 14**2)[None, None].to(torch.uint8).repeat(8, 1, 1, 1)
    spot = torch.zeros(8, 1, *size)
    spot[:, :, 19:21, 43:45] = 1.0  # 12 pixels from the centre
    real = torch.ones_like(disc, dtype=torch.bool)
    settings = AugmentSettings(**{**OFF, "rotate": 180.0})
    image, label, _ = augment(spot, disc, real, torch.arange(8), 3, settings)
    assert (label != disc).float().mean() < 0.01
    mass = image.sum((1, 2, 3))
    assert torch.allclose(mass, torch.full_like(mass, 4.0), rtol=0.1)
    distance = (image[:, 0] * (y.square() + x.square()).sqrt()).sum((1, 2)) / mass
    assert torch.allclose(distance, torch.full_like(distance, 12.0), atol=0.1)
    angle = torch.atan2((image[:, 0] * y).sum((1, 2)), (image[:, 0] * x).sum((1, 2)))
    assert angle.max() - angle.min() > 2  # each sample turns by its own angle


def quarter_turn(monkeypatch: pytest.MonkeyPatch, image: Tensor, plane: int, spacing: tuple[float, ...]) -> Tensor:
    """A volume [*size] turned by 90 degrees in one of its planes: (0, 1), (0, 2), (1, 2)."""
    turns = [1.0 if n == plane else 0.5 for n in range(3)]
    monkeypatch.setattr(module, "keyed_uniform", lambda *_: torch.tensor([[0.0, *[0.5] * 10, *turns]]))
    ranges = AugmentSettings(**{**OFF, "rotate": 90.0})
    grid = sampling_grid(torch.arange(1), tuple(image.shape), 0, ranges, spacing)
    inside = torch.ones(1, 1, *image.shape, dtype=torch.bool)
    return warp(image[None, None], inside, inside, grid)[0][0, 0]


def test_a_quarter_turn_of_slices_two_millimetres_apart_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """6 mm up become 6 mm to the side: 3 voxels of 2 mm, and 6 of 1 mm."""
    image = torch.zeros(9, 17, 17)
    image[4 - 3, 8, 8] = 1.0
    turned = quarter_turn(monkeypatch, image, 0, (2.0, 1.0, 1.0))
    assert [tuple(at) for at in turned.gt(0.99).nonzero().tolist()] in ([(4, 8 - 6, 8)], [(4, 8 + 6, 8)])


@pytest.mark.parametrize(("plane", "axes"), [(0, (0, 1)), (1, (0, 2)), (2, (1, 2))])
def test_a_quarter_turn_is_that_of_scipy(monkeypatch: pytest.MonkeyPatch, plane: int, axes: tuple[int, int]) -> None:
    spacing = np.array([3.0, 1.0, 1.5])
    image = torch.rand(10, 16, 14, generator=torch.Generator().manual_seed(2)) + 0.1
    turn = np.eye(3)
    turn[np.ix_(axes, axes)] = [[0, -1], [1, 0]]
    matrix = np.diag(1 / spacing) @ turn @ np.diag(spacing)
    centre = (np.array(image.shape) - 1) / 2
    expected = affine_transform(image.numpy(), matrix, centre - matrix @ centre, order=1, cval=np.nan)
    inside = np.isfinite(expected)
    assert 0.1 < inside.mean() < 1
    turned = quarter_turn(monkeypatch, image, plane, tuple(spacing)).numpy()
    np.testing.assert_allclose(turned[inside], expected[inside], atol=1e-4)


@settings(max_examples=30)
@given(st.sampled_from(SIZES), st.tuples(*[st.floats(0.5, 5)] * 3), st.integers(0, 99))
def test_any_turn_is_rigid_in_millimetres(size: tuple[int, ...], spacing: tuple[float, ...], seed: int) -> None:
    mm = torch.tensor(spacing[: len(size)], dtype=torch.float64)
    ranges = AugmentSettings(**{**OFF, "rotate": 180.0})
    grid = sampling_grid(torch.arange(3), size, seed, ranges, spacing[: len(size)]).double()
    places = grid.flip(-1) * torch.tensor(size) / 2 * mm  # axes in array order, in mm
    origin = places[(slice(None), *[0] * len(size))]
    steps = [places[(slice(None), *[int(a == axis) for a in range(len(size))])] - origin for axis in range(len(size))]
    moved = torch.stack(steps, -1) / mm  # where a millimetre along each axis goes
    unit = torch.eye(len(size), dtype=torch.float64).expand_as(moved)
    torch.testing.assert_close(moved @ moved.mT, unit, atol=2e-4, rtol=0)
    assert (moved.det() > 0).all()
    assert (moved - unit).abs().amax((1, 2)).max() > 0.05


@pytest.mark.parametrize("size", SIZES)
def test_geometry_moves_image_and_label_by_the_same_grid(size: tuple[int, ...]) -> None:
    """Where the label is the image (a smooth one, rounded), it stays so after any warp."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(4, 1, *[3] * len(size), generator=generator)
    smooth = F.interpolate(coarse, size=size, mode="bilinear" if len(size) == 2 else "trilinear")
    settings = AugmentSettings(
        **{**OFF, "flip": (0.5, 0.5), "rotate": 30.0, "scale": 0.3, "stretch": 0.2, "shift": 0.1, "elastic": 0.03}
    )
    real = torch.ones(smooth.shape, dtype=torch.bool)
    image, label, moved = augment(smooth, (smooth * 200).to(torch.uint8), real, torch.arange(4), 5, settings)
    difference = (image - label.float() / 200)[moved].abs()
    assert difference.mean() < 0.05
    assert (image - smooth).abs().mean() > 0.05  # something did move


def test_what_comes_in_from_outside_is_padding() -> None:
    image, label, real, position = batch((16, 16))
    settings = AugmentSettings(**{**OFF, "shift": 0.5})
    moved_image, moved_label, moved_real = augment(image, label + 1, real, position, 0, settings)
    assert not moved_real.all()
    assert not moved_image[~moved_real.expand_as(moved_image)].any()
    assert torch.equal(moved_label > 0, moved_real)  # the label is nowhere 0 inside


@pytest.mark.parametrize("size", SIZES)
def test_result_is_a_function_of_seed_and_position_alone(size: tuple[int, ...]) -> None:
    image, label, real, position = batch(size)
    settings = AugmentSettings()
    whole = augment(image, label, real, position, 7, settings)
    rows = torch.tensor([2, 0])
    part = augment(image[rows], label[rows], real[rows], position[rows], 7, settings)
    for a, b in zip(whole, part, strict=True):
        assert torch.allclose(a[rows].float(), b.float(), atol=1e-6)
    for seed, moved in ((8, position), (7, position + 1000)):
        other = augment(image, label, real, moved, seed, settings)
        assert not torch.allclose(whole[0], other[0])


def test_intensity_leaves_label_and_range_alone() -> None:
    image, label, real, position = batch((24, 24), count=32)
    loud = {"brightness": 0.3, "contrast": 1.0, "gamma": 1.0, "noise": 0.3, "blur": 2.0}
    found, same, still = augment(image, label, real, position, 0, AugmentSettings(**{**OFF, **loud}))
    assert torch.equal(same, label)
    assert torch.equal(still, real)
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found - image).abs().flatten(1).mean(1).min() > 0.005  # every sample is changed


def test_contrast_turns_about_the_mean_of_each_channel() -> None:
    image = torch.rand(8, 2, 12, 12, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.2
    image[:, 1] += 0.4  # a PET is not lifted by a CT
    real = torch.ones(8, 1, 12, 12, dtype=torch.bool)
    settings = AugmentSettings(**{**OFF, "contrast": 1.5})
    found, _, _ = augment(image, real.to(torch.uint8), real, torch.arange(8), 0, settings)
    assert (found - image).abs().max() > 0.005
    torch.testing.assert_close(found.mean((2, 3)), image.mean((2, 3)))


@pytest.mark.parametrize("size", [(21, 21), (15, 15, 15)])
def test_blur_is_a_gaussian(size: tuple[int, ...]) -> None:
    image = torch.zeros(16, 1, *size)
    image[(slice(None), 0, *[n // 2 for n in size])] = 1.0
    real = torch.ones_like(image, dtype=torch.bool)
    settings = AugmentSettings(**{**OFF, "blur": 1.0})
    blurred, _, _ = augment(image, real.to(torch.uint8), real, torch.arange(16), 0, settings)
    assert torch.allclose(blurred.flatten(1).sum(1), torch.ones(16), atol=1e-3)
    axis = torch.arange(size[0]) - size[0] // 2
    for dim in range(len(size)):
        others = [d for d in range(1, blurred.ndim) if d != dim + 2]
        spread = (blurred.sum(others) * axis.square()).sum(1)  # variance along this axis
        assert spread.max() <= 1.01
        assert spread.max() > 0.6


def test_share_is_the_chance_to_be_moved() -> None:
    settings = AugmentSettings(**{**OFF, "rotate": 40.0, "share": 0.25})
    grid = sampling_grid(torch.arange(800), (4, 4), 0, settings)
    still = sampling_grid(torch.arange(1), (4, 4), 0, AugmentSettings(**OFF))
    moved = ((grid - still).abs().amax((1, 2, 3)) > 1e-3).float().mean()
    assert 0.2 < moved < 0.3
