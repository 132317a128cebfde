from __future__ import annotations

import hashlib

import numpy as np
import pytest

from preprocessing.layouts import DataSettings, load_cases
from preprocessing.phantoms.ultrasound import SHARES, make_phantom, write_busi_phantoms
from preprocessing.readers.images import read_case


def digest(root):
    return [(p.name, hashlib.sha256(p.read_bytes()).hexdigest()) for p in sorted(root.rglob("*.png"))]


def test_they_are_written_in_busis_layout_and_depend_on_the_seed_alone(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_busi_phantoms(str(tmp_path / name), 20, seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")
    cases, rejected = load_cases(DataSettings(root=str(tmp_path / "a")))
    assert not rejected
    assert len(cases) == 20
    for kind, share in SHARES.items():
        assert sum(case.stratum == kind for case in cases) == pytest.approx(20 * share, abs=1)
    for case in cases:
        image, label = read_case(case, 2)
        assert image.shape[1:] == label.shape
        assert label.any() == (case.stratum != "normal")


@pytest.mark.parametrize("kind", ["benign", "malignant"])
def test_lesions_are_darker_than_their_surroundings_as_in_busi(kind):
    differences = []
    for seed in range(20):
        phantom = make_phantom(kind, np.random.default_rng(seed))
        mask = np.logical_or.reduce(phantom.masks)
        rows, columns = np.nonzero(mask)
        frame = (slice(max(0, rows.min() - 8), rows.max() + 8), slice(max(0, columns.min() - 8), columns.max() + 8))
        around = ~mask[frame]
        differences.append(phantom.image[frame][around].mean() - phantom.image[mask].mean())
    assert 25 < np.median(differences) < 110
    assert min(differences) > 5
