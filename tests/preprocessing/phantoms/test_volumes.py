from __future__ import annotations

import hashlib

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from sklearn.metrics import average_precision_score, roc_auc_score

from preprocessing.geometry.volume import VoxelGrid
from preprocessing.layouts import DataSettings, brats, hecktor, load_cases
from preprocessing.phantoms.mri import CORE, ENHANCING, OEDEMA, make_mri
from preprocessing.phantoms.shapes import Ripple, axes_of, grow, make_lump, make_ripple
from preprocessing.phantoms.volumes import write_brats_phantoms, write_hecktor_phantoms

MODALITIES = ["t1", "t1ce", "t2", "flair"]


def digest(root):
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*.nii.gz")}


def read(file):
    image = nib.load(file)
    return np.asarray(image.dataobj), image.affine


@pytest.fixture(scope="module")
def petct_phantoms(tmp_path_factory):
    root = tmp_path_factory.mktemp("petct")
    write_hecktor_phantoms(str(root), 6, 1)
    return root


@pytest.fixture(scope="module")
def brats_phantoms(tmp_path_factory):
    root = tmp_path_factory.mktemp("brats")
    write_brats_phantoms(str(root), 6, 1)
    return root


@pytest.fixture(scope="module")
def patients(petct_phantoms):
    """Of each labelled patient: ct, pt, label and the affines of ct and pt."""
    cases, _ = hecktor.find(str(petct_phantoms))
    return [(*read(c.images["CT"]), *read(c.images["PT"]), *read(c.labels[0])) for c in cases if c.labels]


@pytest.mark.parametrize(("write", "count"), [(write_hecktor_phantoms, 1), (write_brats_phantoms, 3)])
def test_they_depend_on_the_seed_alone(petct_phantoms, brats_phantoms, tmp_path, write, count):
    write(str(tmp_path / "again"), count, 1)
    write(str(tmp_path / "other"), 1, 2)
    again, other = digest(tmp_path / "again"), digest(tmp_path / "other")
    first = digest(petct_phantoms if write is write_hecktor_phantoms else brats_phantoms)
    assert len(again) >= 3 * count
    assert again.items() <= first.items()  # and a case not on how many there are
    assert other.keys() <= first.keys()
    assert not other.items() & first.items()


@pytest.mark.parametrize("layout", ["hecktor", "brats"])
def test_a_missing_root_is_filled_with_them(tmp_path, layout):
    root = tmp_path / "scans"
    cases, rejected = load_cases(DataSettings(root=str(root), layout=layout, phantoms=1))
    assert (len(cases), len(rejected)) == (1, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]


def test_petct_is_in_hecktors_layout(petct_phantoms):
    cases, rejected = hecktor.find(str(petct_phantoms))
    assert not rejected
    assert [(c.id, c.stratum, len(c.labels)) for c in cases] == [
        ("PHA-001", "PHA", 1), ("PHA-004", "PHA", 1), ("PHB-002", "PHB", 1), ("PHB-005", "PHB", 1),
        ("PHC-003", "PHC", 1), ("PHC-006", "PHC", 0),
    ]  # fmt: skip
    assert "imagesTs" in cases[-1].images["CT"]


def test_pet_and_ct_lie_on_different_grids_that_show_the_same_place(patients):
    for ct, ct_affine, pt, pt_affine, label, label_affine in patients:
        assert label.shape == ct.shape
        np.testing.assert_array_equal(label_affine, ct_affine)
        assert (np.diagonal(ct_affine)[:3] * (-1, -1, 1) > 0).all()  # voxels run left, back and up
        assert (np.diagonal(pt_affine)[:3] * (-1, -1, 1) > np.diagonal(ct_affine)[:3] * (-1, -1, 1)).all()
        assert np.abs(pt_affine[:3, 3] - ct_affine[:3, 3]).min() > 1
        # the corners of the CT lie within the field of view of the PET
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in ct.shape])).reshape(3, -1)
        index = np.linalg.inv(pt_affine) @ ct_affine @ np.vstack([corners, np.ones(8)])
        assert (index[:3] >= -0.5).all()
        assert (index[:3] <= np.array(pt.shape)[:, None] - 0.5).all()
        # and the body, which is what takes up the tracer, covers the same ground
        seen = at_ct(pt, pt_affine, ct, ct_affine)
        body = ct > -300
        overlap = 2 * (body & (seen > 0.25)).sum() / (body.sum() + (seen > 0.25).sum())
        assert overlap > 0.93


def test_petct_values_are_those_of_patients(patients):
    for ct, _, pt, _, label, _ in patients:
        assert (ct.dtype, pt.dtype, label.dtype) == (np.int16, np.float32, np.uint8)
        assert -1024 <= ct.min() < -950
        assert 500 < ct.max() < 1500
        assert -120 < np.median(ct[(ct > -200) & (ct < -50)]) < -60  # fat
        assert 0 <= pt.min() < 0.02
        assert 5 < pt.max() < 25
        inside = ct[label > 0].astype(float)
        assert 20 < np.median(inside) < 120  # soft tissue, with or without contrast medium
        assert set(np.unique(label)) <= {0, 1, 2}
        assert 0.5 < 0.012 * np.count_nonzero(label) < 60  # millilitres


def test_uptake_finds_most_of_the_lesions_and_ct_few(patients):
    found, by_ct, precision, recall = [], [], [], []
    for ct, ct_affine, pt, pt_affine, label, _ in patients:
        seen, lesion = at_ct(pt, pt_affine, ct, ct_affine), label > 0
        body = ct > -300
        found.append(roc_auc_score(lesion[body], seen[body]))
        by_ct.append(roc_auc_score(lesion[body], ct[body]))
        precision.append(average_precision_score(lesion[body], seen[body]))
        recall.append((seen[lesion] > 4).mean())
    assert min(found) > 0.9
    assert max(found) < 0.999
    assert np.mean(by_ct) < 0.85
    assert 0.05 < np.mean(precision) < 0.7  # brain, tonsils and glands are as bright
    assert 0.4 < np.mean(recall) < 0.95


def at_ct(pt, pt_affine, ct, ct_affine):
    """PET at the CT's voxels."""
    index = np.indices(ct.shape).reshape(3, -1)
    place = np.linalg.inv(pt_affine) @ ct_affine @ np.vstack([index, np.ones(index.shape[1])])
    return map_coordinates(pt, place[:3], order=1, mode="nearest").reshape(ct.shape)


def test_mri_is_in_the_layouts_of_brats(brats_phantoms):
    cases, rejected = brats.find(str(brats_phantoms))
    assert not rejected
    assert len(cases) == 6
    old = [case for case in cases if case.id.startswith("Brats18")]
    new = [case for case in cases if case.id.startswith("BraTS-PHA")]
    assert (len(old), len(new)) == (4, 2)
    assert {case.stratum for case in old} == {"HGG", "LGG"}
    assert {case.stratum for case in new} == {""}
    assert [(c.id, c.group) for c in new] == [
        ("BraTS-PHA-00003-000", "BraTS-PHA-00003"),
        ("BraTS-PHA-00003-001", "BraTS-PHA-00003"),
    ]
    assert sum(not case.labels for case in cases) == 1


def test_mri_is_what_brats_has_less_its_resolution(brats_phantoms):
    for case in brats.find(str(brats_phantoms))[0]:
        images = {name: read(file) for name, file in case.images.items()}
        brain = images["t1"][0] > 0
        assert 0.15 < brain.mean() < 0.6
        for values, affine in images.values():
            assert values.dtype == np.int16
            np.testing.assert_array_equal(values > 0, brain)  # exactly 0 where the skull was
            assert (np.sign(np.diagonal(affine)) == (-1, -1, 1, 1)).all()
            np.testing.assert_array_equal(affine, images["t1"][1])
        for label in map(read, case.labels):
            np.testing.assert_array_equal(label[1], images["t1"][1])
            assert set(np.unique(label[0])) <= ({0, 1, 2, 4} if case.id.startswith("Brats18") else {0, 1, 2, 3})
            assert not label[0][~brain].any()
            assert 4 < label[0].astype(bool).sum() * 2.5**3 / 1000 < 250  # millilitres


def test_each_part_of_a_tumour_is_bright_where_it_is_in_patients():
    for seed in range(2):
        scan = make_mri(np.random.default_rng(seed), "HGG")
        tissue = {part: {m: np.median(scan.images[m][scan.label == part]) for m in MODALITIES} for part in (1, 2, 4)}
        brain = {m: np.median(scan.images[m][(scan.images[m] > 0) & (scan.label == 0)]) for m in MODALITIES}
        assert tissue[OEDEMA]["flair"] > 1.3 * brain["flair"]
        assert tissue[OEDEMA]["t2"] > 1.3 * brain["t2"]
        assert tissue[ENHANCING]["t1ce"] > 1.25 * brain["t1ce"]
        assert tissue[ENHANCING]["t1"] < brain["t1"]
        assert tissue[CORE]["t1ce"] < 0.8 * brain["t1ce"]
        bright = scan.images["t1ce"] > tissue[ENHANCING]["t1ce"]
        assert (scan.label[bright] == 0).any()  # vessels


def test_low_grade_tumours_enhance_little_or_not():
    shares = []
    for seed in range(3):
        label = make_mri(np.random.default_rng(seed), "LGG").label
        shares.append((label == ENHANCING).sum() / (label > 0).sum())
    assert max(shares) < 0.25
    assert min(shares) == 0


def test_the_second_scan_is_of_the_same_brain_with_a_larger_tumour():
    first, second = (make_mri(np.random.default_rng(3), "HGG", growth) for growth in (1.0, 1.25))
    core = [np.isin(scan.label, (CORE, ENHANCING)) for scan in (first, second)]
    assert (core[1] | ~core[0]).all()
    assert 1.5 < core[1].sum() / core[0].sum() < 2.1  # 1.25 cubed, less what the brain's edge cuts off
    apart = (first.label == 0) & (second.label == 0) & (first.images["t1"] > 0)
    pair = first.images["t1"][apart], second.images["t1"][apart]
    assert 0.7 < np.corrcoef(*pair)[0, 1] < 0.999


def test_shapes_are_the_same_on_every_grid():
    coarse = axes_of(VoxelGrid((9, 8, 7), np.diag([-4.0, -4.0, 6.0, 1.0])), (-16.0, -14.0, 18.0))
    fine = axes_of(VoxelGrid((17, 15, 13), np.diag([-2.0, -2.0, 3.0, 1.0])), (-16.0, -14.0, 18.0))
    rng = np.random.default_rng(0)
    lump, ripple = make_lump(rng, (1.0, -2.0, 3.0), 8.0, 0.2), make_ripple(rng, 20)
    for field in (lump.level, ripple.on):
        np.testing.assert_allclose(field(coarse), field(fine)[::2, ::2, ::2], atol=1e-4)
    np.testing.assert_allclose(grow(lump, 2.0).level(fine)[8, 7, 6], lump.level(fine)[8, 7, 6] / 2, rtol=1e-4)


def test_a_ripple_is_a_sum_of_cosines_and_a_lump_an_ellipsoid_with_waves():
    ripple = Ripple(np.array([[0.1, -0.2, 0.3, 0.4], [0.3, 0.0, 0.1, 2.0]], np.float32))
    lump = make_lump(np.random.default_rng(1), (2.0, 1.0, -3.0), 6.0, 0.2)
    axes = axes_of(VoxelGrid((6, 5, 4), np.diag([3.0, 2.0, 4.0, 1.0])), (4.0, 3.0, 9.0))
    field, level = ripple.on(axes), lump.level(axes)
    for index in np.ndindex(6, 5, 4):
        point = np.array([3.0, 2.0, 4.0]) * index - (4, 3, 9)
        naive = sum(np.cos(wave[:3] @ point + wave[3]) for wave in ripple.waves)
        assert field[index] == pytest.approx(naive, abs=1e-4)
        offset = point - lump.centre
        away = offset / max(np.linalg.norm(offset), 1e-3)
        edge = 1 + sum(wave[4] * np.cos(wave[:3] @ away + wave[3]) for wave in lump.waves)
        naive = np.sqrt(np.sum((offset / lump.radii) ** 2)) / edge
        assert level[index] == pytest.approx(naive, rel=1e-3) or (naive > 2 and np.isinf(level[index]))
