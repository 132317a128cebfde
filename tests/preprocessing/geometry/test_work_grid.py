from __future__ import annotations

from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from preprocessing.case import BadFile
from preprocessing.geometry.field_of_view import check_same_grid
from preprocessing.geometry.interpolation import linear, vote
from preprocessing.geometry.resampling import label_onto, onto, restore_labels, restore_probability
from preprocessing.geometry.volume import Volume, VoxelGrid
from preprocessing.geometry.work_grid import WorkGrid, crop_to, plan_grid

FLIP_XY = np.diag([-1.0, -1.0, 1.0])  # RAS to LPS, which ITK has
spacings = st.tuples(*[st.sampled_from([0.5, 0.9765625, 1.0, 1.7, 3.27])] * 3)
shapes = st.tuples(*[st.integers(2, 12)] * 3)
permutations = st.permutations(range(3))
flips = st.tuples(*[st.sampled_from([-1, 1])] * 3)
angles = st.tuples(*[st.integers(-20, 20).map(lambda n: n / 50)] * 3)  # radians
origins = st.tuples(*[st.floats(-200, 200)] * 3)


def affine_of(
    spacing, permutation=(0, 1, 2), flip=(1, 1, 1), angle=(0.0, 0.0, 0.0), centre=(0.0, 0.0, 0.0), shape=None
):
    """Axes of the array -> world; the middle of the array lies at `centre` when a shape is given."""
    affine = np.eye(4)
    turned = Rotation.from_euler("xyz", angle).as_matrix() @ np.diag(flip)
    affine[:3, :3] = turned[:, list(permutation)] * np.asarray(spacing)
    affine[:3, 3] = centre
    if shape is not None:
        affine[:3, 3] -= affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


@st.composite
def grids(draw, angle=angles, centre=origins):
    shape = draw(shapes)
    turned, middle = draw(angle), draw(centre)
    return VoxelGrid(shape, affine_of(draw(spacings), draw(permutations), draw(flips), turned, middle, shape))


@st.composite
def pairs(draw):
    """Two grids whose middles lie a few mm apart, parallel or not."""
    first_angle = draw(angles)
    second_angle = first_angle if draw(st.booleans()) else draw(angles)
    middle = np.array(draw(origins))
    near = middle + draw(st.tuples(*[st.floats(-2, 2)] * 3))
    return draw(grids(st.just(first_angle), st.just(middle))), draw(grids(st.just(second_angle), st.just(near)))


def volume(values, grid, file="image.nii.gz"):
    return Volume(values, grid, file, str(values.dtype))


def noise(grid, seed=0, order="F"):
    return volume(np.asarray(np.random.default_rng(seed).random(grid.shape, np.float32), order=order), grid)


def work_grid_of(grid):
    """A grid of any orientation to resample onto."""
    return WorkGrid(grid, grid.shape, grid.affine)


def indices_in(affine, grid):
    """float64 [*grid.shape, 3], index in `affine` of each voxel of the grid, one matrix product a voxel."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1).astype(float)
    return nib.affines.apply_affine(np.linalg.inv(affine) @ grid.affine, index)


def world(grid):
    return nib.affines.apply_affine(grid.affine, np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1))


def depth_in(other, grid):
    """float64 [*grid.shape]: how many voxels within the outermost voxel centres of `other`; negative beyond."""
    index = indices_in(other.affine, grid)
    return np.minimum(index, np.array(other.shape) - 1 - index).min(axis=-1)


def dice(a, b):
    return 2 * np.sum((a > 0) & (b > 0)) / (np.sum(a > 0) + np.sum(b > 0))


@settings(max_examples=60)
@given(grids(), st.one_of(st.none(), spacings), st.sampled_from(["reference", "common"]))
def test_working_axes_run_to_the_head_the_back_and_the_left_and_stay_parallel(grid, spacing, extent):
    plan = plan_grid([noise(grid)], spacing, extent)
    assert nib.aff2axcodes(plan.affine) == ("S", "P", "L")
    cosines = np.linalg.solve(grid.affine, plan.affine)[:3, :3]
    assert (np.abs(cosines) > 1e-9).sum() == 3
    if spacing is not None:
        assert plan.voxels.spacing == pytest.approx(spacing, rel=0.01 / min(grid.shape))
    assert plan.source.shape == grid.shape
    assert np.array_equal(plan.source.affine, grid.affine)


@settings(max_examples=40)
@given(grids(), spacings)
def test_the_grid_covers_the_reference_and_little_more(grid, spacing):
    plan = plan_grid([noise(grid)], spacing, "reference")
    # every voxel centre of each lies in the other's field of view
    assert depth_in(plan.voxels, grid).min() > -0.52
    assert depth_in(grid, plan.voxels).min() > -0.52 * max(1, max(spacing) / min(grid.spacing))
    extent = np.sort(np.array(grid.shape) * grid.spacing)
    covered = np.array(plan.shape) * plan.voxels.spacing
    assert (np.sort(covered) > extent - 0.05 * max(spacing)).all()
    inverse = np.linalg.solve(plan.affine, grid.affine)
    middle = nib.affines.apply_affine(inverse, (np.array(grid.shape) - 1) / 2)
    assert middle == pytest.approx((np.array(plan.shape) - 1) / 2, abs=1e-6)


@settings(max_examples=40)
@given(grids(), st.sampled_from("FC"), st.integers(0, 99))
def test_without_spacing_the_voxels_of_the_file_come_through_bit_for_bit(grid, order, seed):
    image = noise(grid, seed, order)
    labels = np.random.default_rng(seed).integers(0, 4, grid.shape, np.uint8)
    plan = plan_grid([image], None, "reference")
    # nibabel's own reorientation
    to_work = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(grid.affine), nib.orientations.axcodes2ornt("SPL")
    )
    expected = nib.orientations.apply_orientation(image.values, to_work)
    assert np.array_equal(onto(image, plan, -1.0), expected)
    assert np.array_equal(restore_probability(expected[None], plan)[0], image.values)
    placed = label_onto(volume(labels, grid), plan)
    assert np.array_equal(placed, nib.orientations.apply_orientation(labels, to_work))
    assert np.array_equal(restore_labels(placed, plan), labels)


@settings(max_examples=60)
@given(pairs(), st.tuples(*[st.floats(-1, 1)] * 3))
def test_a_linear_function_of_the_world_is_reproduced(pair, slope):
    source, target = pair
    middle = source.affine[:3, 3]
    image = volume(((world(source) - middle) @ np.array(slope)).astype(np.float32), source)
    placed = onto(image, work_grid_of(target), np.nan)
    inside = depth_in(source, target) > 1e-6
    expected = (world(target) - middle) @ np.array(slope)
    # positions that are a thousandth of a voxel from voxels of the file count as those voxels
    a_voxel = np.abs(np.array(slope) @ source.affine[:3, :3]).sum()
    assert np.allclose(placed[inside], expected[inside], atol=1e-3 * max(1, a_voxel))
    assert np.isnan(placed[depth_in(source, target) < -0.5 - 0.011 * max(1, 3.27 / 0.5)]).all()


@settings(max_examples=60)
@given(pairs(), st.sampled_from("FC"))
def test_both_ways_of_interpolation_agree_with_scipy(pair, order):
    source, target = pair
    image = noise(source, order=order)
    matrix = np.linalg.inv(source.affine) @ target.affine
    expected = ndimage.affine_transform(
        image.values, matrix[:3, :3], matrix[:3, 3], target.shape, order=1, mode="nearest"
    )
    depth = depth_in(source, target)
    expected[depth < -0.5] = -7
    sure = np.abs(depth + 0.5) > 0.1  # on the border itself either is right
    assert np.allclose(linear(image.values, matrix, target.shape, -7.0)[sure], expected[sure], atol=4e-3)


@settings(max_examples=40)
@given(pairs())
def test_interpolation_agrees_with_itk_in_world_coordinates(pair):
    source, target = pair
    image = noise(source)
    itk = sitk.GetImageFromArray(image.values.transpose(2, 1, 0))
    itk.SetSpacing(source.spacing)
    itk.SetOrigin((FLIP_XY @ source.affine[:3, 3]).tolist())
    itk.SetDirection((FLIP_XY @ (source.affine[:3, :3] / source.spacing)).ravel().tolist())
    resample = sitk.ResampleImageFilter()
    resample.SetSize(target.shape)
    resample.SetOutputSpacing(target.spacing)
    resample.SetOutputOrigin((FLIP_XY @ target.affine[:3, 3]).tolist())
    resample.SetOutputDirection((FLIP_XY @ (target.affine[:3, :3] / target.spacing)).ravel().tolist())
    expected = sitk.GetArrayFromImage(resample.Execute(itk)).transpose(2, 1, 0)
    interior = depth_in(source, target) > 1e-6
    placed = onto(image, work_grid_of(target), 0.0)
    assert np.allclose(placed[interior], expected[interior], atol=4e-3)


@settings(max_examples=40)
@given(pairs(), st.integers(0, 99))
def test_labels_are_the_class_with_most_membership(pair, seed):
    source, target = pair
    labels = np.zeros(source.shape, np.uint8)  # a few labelled voxels anywhere
    rng = np.random.default_rng(seed)
    for _ in range(4):
        labels[tuple(rng.integers(0, source.shape))] = rng.choice([1, 2, 4])
    matrix = np.linalg.inv(source.affine) @ target.affine
    index = indices_in(source.affine, target)
    within = depth_in(source, target) > -0.4
    beyond = depth_in(source, target) < -0.6
    classes = np.array([0, 1, 2, 4])
    low = np.floor(np.clip(index, 0, np.array(source.shape) - 1)).astype(int)
    part = np.clip(index, 0, np.array(source.shape) - 1) - low
    membership = np.zeros((4, *target.shape))
    for corner in product((0, 1), repeat=3):  # trilinear by its definition
        at = np.minimum(low + corner, np.array(source.shape) - 1)
        weight = np.prod(np.where(corner, part, 1 - part), axis=-1)
        membership += weight * (labels[tuple(np.moveaxis(at, -1, 0))] == classes[:, None, None, None])
    ordered = np.sort(membership, axis=0)
    decided = within & (ordered[-1] - ordered[-2] > 0.02)
    voted = vote(labels, matrix, target.shape)
    assert np.array_equal(voted[decided], classes[membership.argmax(axis=0)][decided])
    assert (voted[beyond] == 0).all()


def test_a_tie_goes_to_the_lower_class():
    labels = np.zeros((4, 1, 1), np.uint8)
    labels[:, 0, 0] = [0, 3, 1, 0]
    halfway = np.eye(4)
    halfway[0, 3] = 0.5
    assert vote(labels, halfway, (4, 1, 1)).ravel().tolist() == [0, 1, 0, 0]


def test_voxels_beyond_the_field_of_view_are_told_apart_and_its_edge_is_extended_by_half_a_voxel():
    image = np.arange(4, dtype=np.float32).reshape(4, 1, 1) + 10
    for turn in (np.eye(4), affine_of((1, 1, 1), angle=(0.0, 0.0, 1e-3))):  # both ways
        matrix = turn.copy()
        matrix[:3, :3] = turn[:3, :3] @ np.diag([0.3, 1, 1])
        matrix[0, 3] = -1.0
        found = linear(image, matrix, (20, 1, 1), -5.0).ravel()
        # positions -1, -0.7, -0.4, -0.1, 0.2, ... 3.2, 3.5 is the border, 3.8
        assert found[:5] == pytest.approx([-5, -5, 10, 10, 10.2], abs=1e-3)
        assert found[14] == pytest.approx(13)
        assert (found[16:] == -5).all()


def test_the_extent_is_the_references_or_what_is_common():
    ct = noise(VoxelGrid((40, 40, 20), affine_of((1, 1, 3), flip=(-1, -1, 1))))  # x 0..-39, z 0..57
    moved = affine_of((4, 4, 3), flip=(-1, -1, 1), centre=(-9.5, 2.3, 9.2))
    pet = noise(VoxelGrid((12, 8, 30), moved))
    shape = {extent: plan_grid([ct, pet], None, extent).shape for extent in ("reference", "common")}
    # along x the PET reaches from -7.5 to -55.5 mm to the left, along y from 4.3 to -27.7, along z from 7.7 to 97.7
    assert shape == {"reference": (20, 40, 40), "common": (17, 28, 32)}
    common = plan_grid([ct, pet], None, "common")
    assert np.array_equal(onto(ct, common, -1.0), ct.values.transpose(2, 1, 0)[3:, :28, 8:])
    assert (onto(pet, common, -1.0) >= 0).all()
    assert (onto(pet, plan_grid([ct, pet], None, "reference"), -1.0) < 0).any()
    coarse = plan_grid([ct, pet], (5, 2, 2), "common")
    assert coarse.shape == (11, 15, 16)  # 50.8, 28.2 and 32 mm
    assert coarse.voxels.spacing == pytest.approx((5, 2, 2))
    assert (onto(pet, coarse, -1.0) >= 0).all()
    by_label = plan_grid([ct, pet], None, "reference", reference=1)
    assert by_label.source.shape == (12, 8, 30)
    assert by_label.shape == (30, 8, 12)


def test_a_crop_is_the_crop_of_the_whole_and_goes_back_to_its_place():
    grid = VoxelGrid((9, 11, 7), affine_of((1, 1.5, 3), (1, 2, 0), (-1, 1, -1), (0.1, -0.2, 0.3)))
    image = noise(grid)
    whole = plan_grid([image], (2, 1, 1.2), "reference")
    part = crop_to(whole, (1, 2, 3), (4, 7, 6))
    window = (slice(1, 4), slice(2, 7), slice(3, 6))
    assert np.allclose(onto(image, part, 0.0), onto(image, whole, 0.0)[window], atol=1e-6)
    inside = depth_in(part.voxels, grid) > 0
    placed = np.zeros((2, *whole.shape), np.float32)
    placed[1][window] = np.random.default_rng(1).random(part.shape)
    back = restore_probability(placed[:, *window], part)
    assert back.shape == (2, *grid.shape)
    assert np.allclose(back[:, inside], restore_probability(placed, whole)[:, inside], atol=1e-6)
    assert (back[:, depth_in(part.voxels, grid) < -0.6] == 0).all()
    with pytest.raises(ValueError, match="cannot crop"):
        crop_to(whole, (0, 0, 0), (1, 1, 99))


def lesions(grid, seed=0):
    """uint8 [*grid.shape]: balls of 6 to 14 mm radius, class 2 within class 1."""
    rng = np.random.default_rng(seed)
    at = world(grid)
    low, high = at.reshape(-1, 3).min(axis=0), at.reshape(-1, 3).max(axis=0)
    labels = np.zeros(grid.shape, np.uint8)
    for radius in (6, 9, 14):
        centre = rng.uniform(low + (high - low) * 0.3, high - (high - low) * 0.3)
        distance = np.linalg.norm(at - centre, axis=-1)
        labels[distance < radius] = 1
        labels[distance < radius / 2] = 2
    return labels


@pytest.mark.parametrize(
    "grid",
    [
        VoxelGrid(
            (90, 80, 26), affine_of((0.8, 0.8, 3), flip=(-1, -1, 1), angle=(0.3, 0.1, -0.2), centre=(5, 9, -700))
        ),
        VoxelGrid((80, 26, 80), affine_of((0.9, 3.5, 0.9), (2, 0, 1), (1, -1, -1), (0.1, 0.2, 0.1))),
        VoxelGrid((80, 90, 75), affine_of((1, 1, 1), flip=(-1, -1, 1), centre=(0, 239, 0))),
    ],
    ids=["axial oblique", "sagittal oblique", "isotropic"],
)
def test_lesions_survive_the_way_there_and_back(grid):
    labels = lesions(grid)
    plan = plan_grid([volume(labels, grid)], (1, 1, 1), "reference")
    placed = label_onto(volume(labels, grid), plan)
    back = restore_labels(placed, plan)
    assert back.shape == labels.shape
    assert dice(back, labels) >= 0.97
    assert dice(back == 2, labels == 2) >= 0.94
    cover = onto(volume((labels > 0).astype(np.float32), grid), plan, 0.0)
    whole = label_onto(volume((labels > 0).astype(np.uint8), grid), plan)
    decided = np.abs(cover - 0.5) > 1e-3
    assert np.array_equal(whole[decided] > 0, cover[decided] > 0.5)
    millilitres = np.sum(placed > 0) * plan.voxels.voxel_ml
    assert millilitres == pytest.approx(np.sum(labels > 0) * grid.voxel_ml, rel=0.03)


def _real(file: Path) -> Volume:
    image = nib.load(file)
    return volume(np.asarray(image.dataobj).astype(np.uint8), VoxelGrid(image.shape, image.affine), str(file))


def test_real_tumours_survive_the_way_there_and_back(petct_root):
    files = sorted((petct_root / "labelsTr").glob("*.nii.gz"))
    assert files
    for file in files:
        label = _real(file)
        plan = plan_grid([label], (1, 1, 1), "reference")
        assert dice(restore_labels(label_onto(label, plan), plan), label.values) >= 0.97


def test_real_brain_tumours_survive_the_way_there_and_back(brats_root):
    files = sorted(brats_root.rglob("*_seg.nii.gz"))
    assert files
    for file in files:
        label = _real(file)
        own = plan_grid([label], (1, 1, 1), "reference")
        assert np.array_equal(restore_labels(label_onto(label, own), own), label.values)


def test_a_mask_on_another_grid_is_refused_with_numbers():
    grid = VoxelGrid((8, 9, 5), affine_of((1, 1, 3)))
    image = noise(grid)
    check_same_grid(image, volume(np.zeros(grid.shape, np.uint8), grid, "mask.nii.gz"))
    shorter = volume(np.zeros((8, 9, 4), np.uint8), VoxelGrid((8, 9, 4), grid.affine), "mask.nii.gz")
    with pytest.raises(BadFile, match=r"mask.nii.gz: the mask has 8 x 9 x 4 voxels, the image 8 x 9 x 5"):
        check_same_grid(image, shorter)
    scaled = grid.affine @ np.diag([1, 1, 1.1, 1])  # the last slice lies 4 x 0.3 mm off, the first one in place
    with pytest.raises(BadFile, match=r"up to 1\.20 mm away from the image \(0\.1 mm .*1\.000 x 1\.000 x 3\.300 mm"):
        check_same_grid(image, volume(np.zeros(grid.shape, np.uint8), VoxelGrid(grid.shape, scaled), "mask.nii.gz"))
    check_same_grid(image, volume(np.zeros(grid.shape, np.uint8), VoxelGrid(grid.shape, scaled)), tolerance_mm=1.3)


def test_fields_of_view_that_do_not_overlap_are_refused_with_numbers():
    ct = noise(VoxelGrid((8, 9, 5), affine_of((1, 1, 3), flip=(-1, -1, 1))))
    above = VoxelGrid((8, 9, 5), affine_of((1, 1, 3), flip=(-1, -1, 1), centre=(0, 0, 100)))
    pet = volume(ct.values, above, "pet.nii.gz")
    reason = r"pet.nii.gz: .* from inferior to superior it reaches from 98\.5 to 113\.5 mm, .* from -1\.5 to 13\.5 mm"
    for extent in ("reference", "common"):
        with pytest.raises(BadFile, match=reason):
            plan_grid([ct, pet], None, extent)
    with pytest.raises(BadFile, match=reason):
        plan_grid([ct, pet], None, "reference")
    plan_grid([ct, ct], None, "reference")
    # each overlaps the reference, the two have nothing in common
    ends = [
        volume(ct.values, VoxelGrid((8, 9, 5), affine_of((1, 1, 3), flip=(-1, -1, 1), centre=(0, 0, z))))
        for z in (12, -12)
    ]
    with pytest.raises(BadFile, match="what the images before it have in common"):
        plan_grid([ct, *ends], None, "common")
    # less than a voxel in common, between two slices of the reference
    sliver = noise(VoxelGrid((8, 9, 1), affine_of((1, 1, 0.5), flip=(-1, -1, 1), centre=(0, 0, 1.5))))
    with pytest.raises(BadFile, match=r"0\.50 mm"):
        plan_grid([ct, sliver], None, "common")
