import nibabel as nib
import numpy as np
import pytest
from upath import UPath

from pipeline.segmentation.cleaning import choose_least_sizes
from pipeline.segmentation.segmenter_file import load_segmenter
from tests.pipeline.segmentation.test_inference import predictor
from tests.pipeline.segmentation.test_volumes import SETTINGS, TURNED, scan


def with_false_finding(folder, name, corner):
    """A scan with two lesions of 3 ml, and a bright block of 8 voxels that is none."""
    case, mask = scan(folder, name, TURNED)
    image = nib.load(case.images["image"])
    values = np.asarray(image.dataobj).copy()
    a, b, c = corner
    assert not mask[a : a + 2, b : b + 2, c : c + 2].any()
    values[a : a + 2, b : b + 2, c : c + 2] = 1000
    nib.save(nib.Nifti1Image(values, TURNED), case.images["image"])
    return case


def test_the_size_that_leaves_the_lesions_and_drops_the_rest_is_stored(tmp_path):
    cases = [with_false_finding(tmp_path / "scans", f"c{n}", (2 + n, 2, 2)) for n in range(4)]
    model = predictor(tmp_path / "model", cache=SETTINGS[3])
    (size,) = choose_least_sizes(model, cases, UPath(tmp_path / "model"))
    voxel = abs(np.linalg.det(TURNED[:3, :3])) / 1000
    assert 4 * voxel < size <= 3.0
    assert load_segmenter(tmp_path / "model")[1].least_sizes == pytest.approx((size,))


def test_nothing_is_removed_where_nothing_is_wrong(tmp_path):
    case, _ = scan(tmp_path / "scans", "a", TURNED)
    model = predictor(tmp_path / "model", cache=SETTINGS[2])
    assert choose_least_sizes(model, [case], UPath(tmp_path / "model")) == (0.0,)
