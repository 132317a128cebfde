"""Volumes from files to masks: an oracle network finds bright lesions, so that only geometry can go wrong."""

from __future__ import annotations

import gzip
from unittest.mock import ANY

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation
from upath import UPath

from pipeline.evaluate import EvaluateSettings, evaluate
from pipeline.predict import PredictSettings, predict
from pipeline.scans import find_scans
from pipeline.segmentation.display import planes
from preprocessing.cache_settings import CacheSettings
from preprocessing.case import Case, Rejection
from preprocessing.errors import ConfigError
from preprocessing.geometry.volume import VoxelGrid
from preprocessing.intensity import IntensitySettings
from preprocessing.layouts import DataSettings
from preprocessing.readers.volumes import read_volume
from tests.pipeline.segmentation.test_inference import predictor
from tests.preprocessing.readers.dicom_files import STORED, series

BRIGHT = {"kind": "window", "low": 0, "high": 1000}
SETTINGS = {
    2: CacheSettings(size=(64, 64), patch=(8, 8), spacing=(2, 1, 1), intensity={"image": BRIGHT}),
    3: CacheSettings(size=(8, 32, 32), patch=(4, 8, 8), spacing=(2, 1, 1), intensity={"image": BRIGHT}),
}
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", (12, -8, 20), degrees=True).as_matrix() * (0.9, 1.1, 2.8)
OBLIQUE[:3, 3] = -30, 14, 55
TURNED = np.array([[0, 0, -3.0, 40], [-1.2, 0, 0, 20], [0, 1.1, 0, -60], [0, 0, 0, 1]], float)


def scan(folder, name, affine, shape=(44, 40, 18)):
    """A grey volume with two bright balls in millimetres, and its mask; returns the case and the mask."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    centres = [affine[:3, :3] @ np.array(at) + affine[:3, 3] for at in ((15, 14, 6), (29, 26, 11))]
    mask = np.any([np.linalg.norm(world - centre, axis=-1) < 9 for centre in centres], axis=0)
    values = np.where(mask, 1000, 0) + np.random.default_rng(0).normal(0, 20, shape)
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("", values.astype(np.int16)), ("_label", mask.astype(np.uint8))):
        image = nib.Nifti1Image(array, affine)
        image.set_sform(affine, 2)
        nib.save(image, folder / f"{name}{kind}.nii.gz")
    files = {"image": str(folder / f"{name}.nii.gz")}
    return Case(name, name, "", files, (str(folder / f"{name}_label.nii.gz"),)), mask


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("affine", [OBLIQUE, TURNED], ids=["oblique", "turned"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_mask_lies_on_its_scan(tmp_path, affine, dims):
    case, truth = scan(tmp_path / "scans", "a", affine)
    model = predictor(tmp_path / "model", cache=SETTINGS[dims])
    table, rejected = predict(model, [case], PredictSettings(probabilities=True), UPath(tmp_path / "out"))
    assert rejected == []
    source, written = nib.load(case.images["image"]), nib.load(tmp_path / "out" / "masks" / "a.nii.gz")
    assert np.array_equal(source.affine, written.affine)
    assert written.get_data_dtype() == np.uint8
    assert int(written.header["sform_code"]) == 2
    assert dice(np.asarray(written.dataobj) > 0, truth) > 0.97
    by_itk = [sitk.ReadImage(str(f)) for f in (case.images["image"], tmp_path / "out" / "masks" / "a.nii.gz")]
    for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(*(getattr(image, what)() for image in by_itk), atol=1e-4)
    (row,) = table.to_dict("records")
    voxel = abs(np.linalg.det(affine[:3, :3])) / 1000
    assert row["lesion_ml"] == pytest.approx(row["lesion_pixels"] * voxel)
    assert row["lesion_ml"] == pytest.approx(2 * 4 / 3 * np.pi * 0.9**3, rel=0.06)
    assert (tmp_path / "out" / "overlays" / "a.png").stat().st_size > 0
    probability = nib.load(tmp_path / "out" / "probabilities" / "a_lesion.nii.gz").get_fdata()
    assert probability.shape == truth.shape


def test_evaluation_counts_in_millimetres_on_the_scans_own_grid(tmp_path):
    case, truth = scan(tmp_path / "scans", "a", TURNED)
    model = predictor(tmp_path / "model", cache=SETTINGS[2])
    result = evaluate(model, [case], EvaluateSettings(), UPath(tmp_path / "out"))
    (row,) = result.cases.to_dict("records")
    assert row["lesion"] == truth.sum()
    assert row["dsc"] > 0.97
    assert row["lesions"] == 2
    assert row["lesion_sen"] == 1
    assert row["hd95"] < 3.1  # one slice; in voxels it would be 1
    assert len(list((tmp_path / "out" / "pictures").glob("*.png"))) == 1


def test_the_least_lesion_of_a_volume_is_in_millilitres(tmp_path):
    """Two balls of 3.05 ml, and a speck of 4 voxels of 0.004 ml each."""
    case, truth = scan(tmp_path / "scans", "a", TURNED)
    truth[1, 1:5, 1] = True
    nib.save(nib.Nifti1Image(truth.astype(np.uint8), TURNED), case.labels[0])
    model = predictor(tmp_path / "model", cache=SETTINGS[2])
    found = {}
    for least in (0, 0.015, 0.017, 4):
        (row,) = evaluate(model, [case], EvaluateSettings(least_lesion=least, pictures=0)).cases.to_dict("records")
        found[least] = (row["lesions"], row["lesion_sen"])
        assert row["lesion"] == truth.sum()
    assert found == {0: (3, pytest.approx(2 / 3)), 0.015: (3, pytest.approx(2 / 3)), 0.017: (2, 1), 4: (0, ANY)}


def test_small_components_are_removed_by_millilitres(tmp_path):
    case, _ = scan(tmp_path / "scans", "a", TURNED)
    kept = predictor(tmp_path / "a", cache=SETTINGS[2], least_sizes=(2.0,), least_unit="ml")
    gone = predictor(tmp_path / "b", cache=SETTINGS[2], least_sizes=(4.0,), least_unit="ml")
    found = next(iter(kept.segment([case])))
    assert kept.masks(found).any()
    assert not gone.masks(found).any()
    other = predictor(tmp_path / "c", cache=SETTINGS[2], least_sizes=(0.5,), least_unit="share")
    assert other.masks(found).any()  # half of an image says nothing of a volume


def test_a_mask_on_another_grid_is_rejected_with_the_numbers(tmp_path):
    case, mask = scan(tmp_path / "scans", "a", TURNED)
    moved = TURNED.copy()
    moved[0, 3] += 5
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), moved), case.labels[0])
    (found,) = predictor(tmp_path / "model", cache=SETTINGS[2]).segment([case])
    assert isinstance(found, Rejection)
    assert "5" in found.reason
    assert "mm" in found.reason


def test_scans_of_several_modalities_come_from_a_layout_or_a_table(tmp_path):
    for name in ("A-1__CT", "A-1__PT"):
        scan(tmp_path / "imagesTr", name, TURNED, (8, 8, 8))
    data = DataSettings(layout="hecktor")
    (case,) = find_scans(str(tmp_path), data, 2)[0]
    assert list(case.images) == ["CT", "PT"]
    (case,) = find_scans(str(tmp_path), data.model_copy(update={"modalities": ("PT",)}), 1)[0]
    assert list(case.images) == ["PT"]
    table = {"case": ["x"], "CT": ["imagesTr/A-1__CT.nii.gz"], "PT": ["imagesTr/A-1__PT.nii.gz"]}
    pd.DataFrame(table).to_csv(tmp_path / "scans.csv", index=False)
    (case,) = find_scans(str(tmp_path / "scans.csv"), DataSettings(modalities=("PT", "CT")), 2)[0]
    assert [file.rsplit("/", 1)[1] for file in case.images.values()] == ["A-1__PT.nii.gz", "A-1__CT.nii.gz"]
    (tmp_path / "imagesTr" / "A-1__CT.nii.gz").rename(tmp_path / "other.nii.gz")
    found = find_scans(str(tmp_path / "imagesTr"), data.model_copy(update={"modalities": ("PT",)}), 1)[0]
    assert "A-1__PT" in [case.id for case in found]  # no scan of the layout without its CT
    for name in ("A-2__CT", "A-2__PT"):
        scan(tmp_path / "imagesTr", name, TURNED, (8, 8, 8))
    (case,), (rejection,) = find_scans(str(tmp_path), data, 2)
    assert (case.id, rejection.case) == ("A-2", "A-1")
    for name in ("A-2__CT", "A-2__PT"):
        (tmp_path / "imagesTr" / f"{name}.nii.gz").unlink()
        (tmp_path / "imagesTr" / f"{name}_label.nii.gz").unlink()
    (tmp_path / "other.nii.gz").rename(tmp_path / "imagesTr" / "A-1__CT.nii.gz")
    found = find_scans(str(tmp_path / "imagesTr"), DataSettings(), 1)[0]
    assert [case.id for case in found] == ["A-1__CT", "A-1__CT_label", "A-1__PT", "A-1__PT_label"]


def test_results_are_no_scans_of_a_layout_but_a_table_may_name_them(tmp_path):
    for patient in ("A-1", "B-1"):
        for name in ("CT", "PT"):
            scan(tmp_path / patient, f"{patient}__{name}", TURNED, (8, 8, 8))
    data, output = DataSettings(layout="hecktor"), UPath(tmp_path / "B-1")
    assert [case.id for case in find_scans(str(tmp_path), data, 2)[0]] == ["A-1", "B-1"]
    assert [case.id for case in find_scans(str(tmp_path), data, 2, output)[0]] == ["A-1"]
    with pytest.raises(ConfigError, match=r"predict\.output"):
        find_scans(str(tmp_path), data, 2, UPath(tmp_path))[0]
    (tmp_path / "scans.csv").write_text("case,image\nb,B-1/B-1__CT.nii.gz\n")
    assert [case.id for case in find_scans(str(tmp_path / "scans.csv"), DataSettings(), 1, output)[0]] == ["b"]


def test_what_is_drawn_is_axial_with_the_front_up():
    """A voxel at the patient's front left, near the head, is in the upper right of the slice that shows it."""
    values = np.zeros((5, 6, 7))
    grid = VoxelGrid((5, 6, 7), np.diag([-1.0, 1, 1, 1]))  # array axes grow to L, A, S
    values[4, 5, 6] = 1
    (shown,) = planes(values > 0, grid, values)
    assert shown.shape == (6, 5)
    assert np.argwhere(shown).tolist() == [[0, 4]]


def test_modalities_are_taken_by_name(tmp_path):
    """A scan with more modalities than the segmenter knows, in another order."""
    case, truth = scan(tmp_path / "scans", "a", TURNED)
    dark, _ = scan(tmp_path / "dark", "a", TURNED)
    image = nib.load(dark.images["image"])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], TURNED), dark.images["image"])
    model = predictor(tmp_path / "model", cache=SETTINGS[2], modalities=("image",))
    both = Case("b", "b", "", {"other": dark.images["image"], "image": case.images["image"]}, ())
    found = next(iter(model.segment([both])))
    assert dice(model.masks(found)[0], truth) > 0.97
    lacking = Case("c", "c", "", {"CT": case.images["image"], "PT": case.images["image"]}, ())
    (rejected,) = model.segment([lacking])
    assert rejected.reason == "has the modalities CT, PT; the segmenter takes image"


def test_a_label_drawn_on_another_modality_is_compared_on_the_references_grid(tmp_path):
    """PET with its label on a coarser grid; the CT is the reference that predictions return to."""
    case, truth = scan(tmp_path / "scans", "ct", TURNED)
    coarse = TURNED @ np.diag([2, 2, 1, 1])
    coarse[:3, 3] += TURNED[:3, :3] @ (0.5, 0.5, 0)
    small = truth.reshape(22, 2, 20, 2, 18).mean((1, 3))
    nib.save(nib.Nifti1Image((small * 1000).astype(np.int16), coarse), tmp_path / "pet.nii.gz")
    nib.save(nib.Nifti1Image((small > 0.5).astype(np.uint8), coarse), tmp_path / "label.nii.gz")
    files = {"image": case.images["image"], "PT": str(tmp_path / "pet.nii.gz")}
    both = Case("b", "b", "", files, (str(tmp_path / "label.nii.gz"),))
    settings = SETTINGS[2].model_copy(update={"intensity": dict.fromkeys(["image", "PT"], IntensitySettings(**BRIGHT))})
    model = predictor(tmp_path / "model", cache=settings, modalities=("image", "PT"))
    found = next(iter(model.segment([both])))
    assert found.label.shape == truth.shape == found.probability.shape[1:]
    assert dice(found.label > 0, truth) > 0.9
    (row,) = evaluate(model, [both], EvaluateSettings()).cases.to_dict("records")
    assert row["dsc"] > 0.9


def test_folders_of_series_and_files_side_by_side_are_all_found(tmp_path):
    for patient in ("p1", "p2"):
        series(tmp_path / "scans" / patient)
    (tmp_path / "scans" / "p2" / "preview.png").touch()
    scan(tmp_path / "scans", "a", TURNED, (8, 8, 8))
    found = find_scans(str(tmp_path / "scans"), DataSettings(), 1)[0]
    assert [case.id for case in found] == ["a", "a_label", "p1", "p2"]


def test_dicom_files_are_known_by_what_they_hold_where_their_names_tell_nothing(tmp_path):
    for folder, name in (("p1", "IM{:04}"), ("p2/CT", "1.2.840.113619.{}"), ("p3", "IM{:04}")):
        series(made := tmp_path / "scans" / folder)
        for number, file in enumerate(sorted(made.iterdir())):
            file.rename(file.with_name(name.format(number)))
    (tmp_path / "scans" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")  # the index of an export is no series
    (tmp_path / "scans" / "README").write_text("an export")
    for file in (tmp_path / "scans" / "p3").iterdir():
        file.write_bytes(file.read_bytes()[132:])
    (tmp_path / "scans" / "p3" / "notes.txt").write_bytes(bytes(128) + b"DICM")
    found = find_scans(str(tmp_path / "scans"), DataSettings(), 1)[0]
    assert [case.id for case in found] == ["p1", "p2/CT"]
    assert read_volume(found[1].images["image"]).values.shape == STORED.shape
    (whole,) = find_scans(str(tmp_path / "scans" / "p1"), DataSettings(), 1)[0]
    assert whole.id == "p1"


def test_nothing_of_the_patient_is_in_what_is_written_of_a_dicom_series(tmp_path):
    series(tmp_path / "scans" / "p1", PatientID="MRN0017", InstitutionName="St Elsewhere")
    (tmp_path / "scans" / "p2").mkdir()
    (tmp_path / "scans" / "p2" / "a.dcm").write_bytes(b"Doe^Jane MRN0017 St Elsewhere")  # damaged
    model = predictor(tmp_path / "model", cache=SETTINGS[2])
    cases = find_scans(str(tmp_path / "scans"), DataSettings(), 1)[0]
    _, rejected = predict(model, cases, PredictSettings(probabilities=True), UPath(tmp_path / "out"))
    assert [rejection.case for rejection in rejected] == ["p2"]
    written = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert {"p1.nii.gz", "p1.png", "predictions.csv", "rejected.csv"} <= {file.name for file in written}
    for file in written:
        content = file.read_bytes()
        content = gzip.decompress(content) if file.suffix == ".gz" else content
        assert not [word for word in (b"Doe", b"Jane", b"MRN0017", b"Elsewhere") if word in content], file


def test_a_mask_has_no_say_in_a_prediction(tmp_path):
    case, _ = scan(tmp_path / "scans", "a", TURNED)
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), TURNED), case.labels[0])
    (tmp_path / "scans" / "t.csv").write_text("case,image,label\na,a.nii.gz,a_label.nii.gz\n")
    model = predictor(tmp_path / "model", cache=SETTINGS[2])
    scans = find_scans(str(tmp_path / "scans" / "t.csv"), DataSettings(), 1)[0]
    table, rejected = predict(model, scans, PredictSettings(overlays=False), UPath(tmp_path / "out"))
    assert rejected == []
    assert len(table) == 1
