from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import zoom

from preprocessing.cache_settings import CacheSettings
from preprocessing.case import Case
from preprocessing.duplicates import VOLUMES, DuplicateSettings, find_pairs, merge_groups, signature
from preprocessing.intensity import IntensitySettings, normalise
from preprocessing.layouts import brats
from preprocessing.phantoms.ultrasound import make_phantom
from preprocessing.phantoms.volumes import write_brats_phantoms
from preprocessing.prepare import prepare
from preprocessing.readers.images import read_image


def signed(image):
    return signature(normalise(image.astype(np.float32), IntensitySettings())[None])


def pairs(images, **fields):
    return find_pairs([signed(image) for image in images], DuplicateSettings(**fields)).tolist()


def test_a_changed_copy_is_found_and_another_patient_is_not():
    rng = np.random.default_rng(0)
    images = [make_phantom("benign", np.random.default_rng(i)).image for i in range(30)]
    first = images[3].astype(float)
    images += [
        first * 0.7 + 20,  # darker
        first + rng.normal(0, 8, first.shape),
        zoom(first, 0.6, order=1),  # saved smaller
        first[3:-3, 4:],  # cropped a little
    ]
    family = [3, 30, 31, 32, 33]
    assert pairs(images) == [[a, b] for i, a in enumerate(family) for b in family[i + 1 :]]


def test_the_threshold_decides():
    image = make_phantom("benign", np.random.default_rng(0)).image.astype(float)
    images = [image, image, image + np.random.default_rng(1).normal(0, 20, image.shape)]
    assert pairs(images, duplicate_threshold=0) == [[0, 1]]
    assert len(pairs(images)) == 3
    assert pairs(images, duplicate_correlation=1) == [[0, 1]]


def test_an_empty_list_has_no_pairs():
    assert find_pairs([], DuplicateSettings()).shape == (0, 2)


def test_chains_merge_with_the_groups_that_they_touch():
    groups = ["p2", "p1", "p1", "p3", "p4", "p5"]
    assert merge_groups(groups, np.array([[0, 1], [2, 3]])) == ["p1", "p1", "p1", "p1", "p4", "p5"]
    assert merge_groups(groups, np.zeros((0, 2), int)) == groups


def test_pairs_across_blocks_of_rows(monkeypatch):
    monkeypatch.setattr("preprocessing.duplicates._ROWS", 4)
    images = [make_phantom("normal", np.random.default_rng(i)).image for i in range(9)]
    assert pairs([*images, images[1], images[8]]) == [[1, 9], [8, 10]]


def test_known_duplicates_of_busi(busi_root):
    names = ["benign (433)", "malignant (145)", "benign (435)", "benign (1)",
             "malignant (6)", "malignant (8)", "normal (31)", "benign (4)"]  # fmt: skip
    images = [read_image(str(busi_root / name.split()[0] / f"{name}.png")) for name in names]
    assert pairs(images) == [[0, 1], [0, 2], [1, 2], [4, 5]]


@pytest.mark.slow
def test_busi_holds_over_100_groups_of_near_duplicates(busi_root):
    from preprocessing.layouts import DataSettings, load_cases

    cases, _ = load_cases(DataSettings(root=str(busi_root)))
    signatures = [signature(prepare(Case(c.id, "", "", c.images, ()), CacheSettings()).image) for c in cases]
    found = merge_groups([c.id for c in cases], find_pairs(signatures, DuplicateSettings()))
    _, sizes = np.unique(found, return_counts=True)
    assert (sizes > 1).sum() == 109
    assert sizes.max() <= 10


def test_heads_look_alike_and_only_the_same_scan_is_a_copy(tmp_path):
    write_brats_phantoms(str(tmp_path), 6, 0)
    settings = CacheSettings(foreground="mri")
    images = [prepare(case, settings).image for case in brats.find(str(tmp_path))[0]]
    noisy = np.clip(images[2] + np.random.default_rng(0).normal(0, 0.01, images[2].shape), 0, 1).astype(np.float32)
    signatures = [signature(image) for image in [*images, noisy]]
    assert find_pairs(signatures, VOLUMES).tolist() == [[2, len(images)]]
