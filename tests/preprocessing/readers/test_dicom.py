from __future__ import annotations

import warnings

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless, RTStructureSetStorage
from upath import UPath

from preprocessing.case import BadFile
from preprocessing.readers.volumes import read_label_volume, read_volume
from tests.preprocessing.readers.dicom_files import (
    COLUMNS,
    CT,
    NAME,
    PT,
    ROWS,
    SLICES,
    STORED,
    pet,
    reason,
    save,
    series,
    write,
)


def test_slices_are_sorted_by_where_they_lie(tmp_path):
    each = [{"InstanceNumber": n} for n in (4, 1, 6, 2, 5, 3)]
    volume = read_volume(series(tmp_path / "ct", each=each))
    assert np.array_equal(volume.values, STORED)
    assert volume.values.dtype == np.float32
    assert volume.dtype == "int16"
    assert volume.grid.shape == (COLUMNS, ROWS, SLICES)
    # by hand: 1.5 mm between columns, 2 between rows, 3 between slices; LPS turned to RAS
    assert volume.grid.affine.tolist() == [[-1.5, 0, 0, 20], [0, -2, 0, 30], [0, 0, 3, 12], [0, 0, 0, 1]]


@pytest.mark.parametrize("flipped", [False, True])
def test_an_oblique_series_lies_where_simpleitk_sees_it(tmp_path, flipped):
    angle = np.radians(25)
    row, column = np.array([np.cos(angle), np.sin(angle), 0]), np.array([0, 0, -1.0])
    if flipped:
        row = -row
    step = 2.5 * np.cross(row, column)
    orientation = [f"{x:.10f}" for x in (*row, *column)]
    folder = series(
        tmp_path / "mr", [k * step + 5 for k in range(SLICES)], Modality="MR", ImageOrientationPatient=orientation
    )
    volume = read_volume(folder)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(folder))
    for index in [(0, 0, 0), (15, 0, 0), (0, 11, 0), (0, 0, 5), (7, 3, 2)]:
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        assert volume.grid.affine @ (*index, 1) == pytest.approx((-x, -y, z, 1), abs=1e-6)
        assert volume.values[index] == image.GetPixel(index)


def test_a_tilted_gantry_gives_a_sheared_affine(tmp_path):
    volume = read_volume(series(tmp_path / "ct", [(0, 0.5 * k, 3.0 * k) for k in range(SLICES)]))
    assert volume.grid.affine[:3, 2] == pytest.approx([0, -0.5, 3])
    assert volume.grid.voxel_ml == pytest.approx(1.5 * 2 * 3 / 1000)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_each_slice_has_its_own_rescale_slope_and_intercept(tmp_path, modality):
    scales = [(1, 0), (0.5, -1024), (2, 7), (0.0001, 0), (3, 1), (1, 1)]
    each = [{"RescaleSlope": str(a), "RescaleIntercept": str(b)} for a, b in scales]
    volume = read_volume(series(tmp_path / "a", each=each, Modality=modality))
    for k, (slope, intercept) in enumerate(scales):
        assert volume.values[..., k] == pytest.approx(STORED[..., k] * slope + intercept, rel=1e-6)


def test_a_compressed_series(tmp_path):
    folder = series(tmp_path / "ct")
    for file in (tmp_path / "ct").iterdir():
        image = pydicom.dcmread(file)
        image.compress(RLELossless)
        image.save_as(file)
    assert np.array_equal(read_volume(folder).values, STORED)


def test_several_series_in_one_folder(tmp_path):
    folder = series(tmp_path / "both")
    series(tmp_path / "both", stored=STORED[:, :, ::-1], Modality="PT", SeriesInstanceUID=PT, Units="GML")
    listed = f"CT, 6 images, {CT}; PT, 6 images, {PT}"
    assert reason(folder) == f"2 image series, choose one by its modality or series UID after FOLDER#: {listed}"
    assert np.array_equal(read_volume(f"{folder}#CT").values, STORED)
    assert np.array_equal(read_volume(f"{folder}#pt").values, STORED[:, :, ::-1])
    assert np.array_equal(read_volume(f"{folder}#{PT}").values, STORED[:, :, ::-1])
    assert reason(f"{folder}#MR") == f"has no image series MR; it holds {listed}"
    for file in (tmp_path / "both").glob("CT*"):
        image = pydicom.dcmread(file)
        image.Modality = "PT"
        image.save_as(file)
    assert "2 image series, choose one by its series UID" in reason(f"{folder}#PT")


def test_a_folder_whose_name_holds_a_number_sign(tmp_path):
    folder = series(tmp_path / "case#3")
    assert np.array_equal(read_volume(folder).values, STORED)
    assert np.array_equal(read_volume(f"{folder}#CT").values, STORED)


def test_what_is_no_image_of_the_patient_is_passed_over(tmp_path):
    folder = tmp_path / "ct"
    path = series(folder)
    (folder / "notes.txt").write_text("not DICOM")
    (folder / "._CT000.dcm").write_bytes(b"of another system")
    (folder / "old").mkdir()
    structures = Dataset()
    structures.SOPClassUID, structures.SOPInstanceUID, structures.Modality = RTStructureSetStorage, "1.2.3", "RTSTRUCT"
    save(folder / "rs.dcm", structures)
    write(folder / "scout.dcm", STORED[..., 0], (0, 0, 0), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write(folder / "seg.dcm", STORED[..., 0], (0, 0, 0), Modality="SEG")
    write(
        folder / "screen.dcm",
        STORED[..., 0],
        None,
        Modality="OT",
        SeriesInstanceUID="1.9",
        ImageOrientationPatient=None,
    )
    write(folder / "colour.dcm", STORED[:, :4, 0], (0, 0, 0), SamplesPerPixel=3)
    assert np.array_equal(read_volume(path).values, STORED)


def test_folders_without_an_image_series(tmp_path):
    (tmp_path / "empty").mkdir()
    assert reason(str(tmp_path / "empty")) == "no DICOM file lies in the folder"
    (tmp_path / "study" / "CT").mkdir(parents=True)
    (tmp_path / "study" / "readme.txt").write_text("see the subfolders")
    assert reason(str(tmp_path / "study")) == "no DICOM file lies in the folder; it has the subfolder CT"
    (tmp_path / "seg").mkdir()
    write(tmp_path / "seg" / "a.dcm", STORED[..., 0], (0, 0, 0), Modality="SEG")
    assert reason(str(tmp_path / "seg")) == "none of its DICOM objects is an image of the patient (SEG: 1)"
    assert reason(str(tmp_path / "none")) == "the file does not exist"
    assert reason(f"{tmp_path / 'none'}#CT") == "the file does not exist"


def z(*values):
    return [(0, 0, value) for value in values]


@pytest.mark.parametrize(
    ("positions", "said"),
    [
        (z(9, 12, 18, 21), "slice missing between z = 12.0 and 18.0 mm (expected every 3.0 mm)"),
        (
            z(0, 3, 15, 18, 24),
            "3 slices missing between z = 3.0 and 15.0 mm (expected every 3.0 mm), and 1 more such places",
        ),
        (z(0, 3, 7, 10), "uneven slice distance between z = 3.0 and 7.0 mm (expected every 3.0 mm)"),
        (z(0, 3, 3, 6), "more than one image at z = 3.0 mm: several series in one"),
        (z(0, 0, 3, 3, 6, 6), "more than one image at z = 0.0 mm (and at 2 more positions): several series in one"),
        (
            [(0, 0, 0), (0, 0, 3), (2, 0, 6), (0, 0, 9)],
            "the slices are not evenly placed: one lies 2.00 mm off the line",
        ),
        (z(0), "the series has a single image"),
    ],
)
def test_slices_that_form_no_grid(tmp_path, positions, said):
    assert said in reason(series(tmp_path / "ct", positions))


def test_a_missing_slice_of_a_series_that_runs_downwards_or_across(tmp_path):
    down = series(tmp_path / "down", z(0, 3, 9, 12), ImageOrientationPatient=[1, 0, 0, 0, -1, 0])
    assert "slice missing between z = 9.0 and 3.0 mm" in reason(down)
    across = series(
        tmp_path / "across", [(x, 0, 0) for x in (0, 3, 9, 12)], ImageOrientationPatient=[0, 1, 0, 0, 0, -1]
    )
    assert "between the positions along the slice normal -9.0 and -3.0 mm" in reason(across)


def test_small_roundings_of_positions_are_no_missing_slice(tmp_path):
    """3.27 mm written with one decimal."""
    heights = [round(3.27 * k, 1) for k in range(SLICES)]
    assert read_volume(series(tmp_path / "ct", z(*heights))).grid.spacing[2] == pytest.approx(3.27, abs=0.02)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"PixelSpacing": [2.0, 1.6]}, "the slices differ in spacing: 2 1.5 and 2 1.6"),
        ({"ImageOrientationPatient": [0.6, 0.8, 0, -0.8, 0.6, 0]}, "differ in orientation: 1 0 0 0 1 0 and 0.6 0.8 0"),
        ({"PixelSpacing": None}, "1 of 6 images do not say their spacing"),
        ({"ImagePositionPatient": None}, "1 of 6 images do not say their position"),
        ({"NumberOfFrames": 40}, "a file holds 40 images (multi-frame DICOM)"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "not MONOCHROME2"),
        ({"Rows": None}, "is damaged or cut short: its header ends too early"),
        ({"SeriesInstanceUID": NAME}, "is damaged"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_one_slice_unlike_the_others(tmp_path, tags, said):
    assert said in reason(series(tmp_path / "ct", each=[tags if k == 2 else {} for k in range(SLICES)]))


def test_a_slice_of_another_size(tmp_path):
    folder = series(tmp_path / "ct", z(0, 3, 6, 9))
    write(tmp_path / "ct" / "last.dcm", STORED[:10, :, 0], (0, 0, 12))
    assert reason(folder) == "the slices differ in size: 16 12 and 10 12"


def test_an_orientation_that_is_none(tmp_path):
    folder = series(tmp_path / "ct", ImageOrientationPatient=[1, 0, 0, 1, 0, 0])
    assert reason(folder) == "the image orientation 1 0 0 1 0 0 is no pair of perpendicular directions"


def test_damaged_files(tmp_path):
    folder = series(tmp_path / "ct")
    file = tmp_path / "ct" / "CT003.dcm"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    assert reason(folder) == "the pixels of CT003.dcm cannot be read: it is damaged"
    file.write_bytes(b"")
    assert reason(folder) == "CT003.dcm is no DICOM file (0 bytes)"
    for length in range(132, len(whole) - 400, 40):
        file.write_bytes(whole[:length])
        assert "CT003.dcm" in reason(folder)


def test_no_message_repeats_what_a_damaged_header_holds(tmp_path, capfd, caplog):
    """Wrong lengths let one tag's value run into the next ones, which may be the patient's name."""
    folder = series(tmp_path / "ct", z(0, 3))
    file = tmp_path / "ct" / "CT000.dcm"
    whole = file.read_bytes()
    start = whole.index(b"Doe^Jane") - 60
    said = []
    for at in range(start, start + 160, 2):
        file.write_bytes(whole[:at] + b"\x41" + whole[at + 1 :])
        try:
            read_volume(folder)
        except BadFile as error:
            said.append(str(error))
    out = capfd.readouterr()
    assert len(said) > 20
    assert "Doe" not in "".join([*said, out.out, out.err, caplog.text])


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_neither_message_nor_log_repeats_a_name_in_the_wrong_tag(tmp_path, caplog):
    folders = [
        series(tmp_path / "uid", SeriesInstanceUID=NAME),
        series(tmp_path / "modality", Modality=NAME, SeriesInstanceUID=PT),
        pet(tmp_path / "units", Units=NAME),
        pet(tmp_path / "time", {"RadiopharmaceuticalStartTime": NAME}),
    ]
    series(tmp_path / "modality")
    caplog.clear()  # pydicom has complained while writing
    with warnings.catch_warnings(record=True) as told:
        assert "is damaged" in reason(folders[0])
        assert "CT, 6 images, 1.2.826.0.1.1; unreadable, 6 images, 1.2.826.0.1.2" in reason(folders[1])
        assert "the units are unreadable" in reason(folders[2])
        assert "is malformed" in reason(folders[3])
    assert "Doe" not in caplog.text + str([str(warning.message) for warning in told])


def test_a_series_from_a_remote_file_system(tmp_path):
    series(tmp_path / "ct")
    remote = UPath("memory://dicom/ct")
    remote.mkdir(parents=True, exist_ok=True)
    for file in (tmp_path / "ct").iterdir():
        (remote / file.name).write_bytes(file.read_bytes())
    for path in ("memory://dicom/ct", "memory://dicom/ct#CT"):
        volume = read_volume(path)
        assert np.array_equal(volume.values, STORED)
        assert volume.file == path
    assert reason("memory://dicom/none") == "the file does not exist"


def test_a_label_map_as_a_series(tmp_path):
    assert np.array_equal(read_label_volume(series(tmp_path / "l", stored=STORED % 4)).values, STORED % 4)
    assert "class ids are whole numbers" in reason(series(tmp_path / "ct"), read_label_volume)


@pytest.mark.parametrize(("modality", "folder", "tolerance"), [("CT", "CT", 0), ("PT", "PET", 2e-6)])
def test_the_real_series_equal_their_nifti(petct_root, dicom_root, modality, folder, tolerance):
    """Every voxel of the NIfTI file lies within 0.001 voxels of one of the series, and has its value."""
    expected = read_volume(str(petct_root / "imagesTr" / f"STS-003__{modality}.nii.gz"))
    volume = read_volume(str(dicom_root / folder / "image"))
    index = np.indices(expected.grid.shape).reshape(3, -1)
    there = np.linalg.inv(volume.grid.affine) @ expected.grid.affine @ np.vstack([index, np.ones(index.shape[1])])
    nearest = there[:3].round().astype(int)
    assert np.abs(there[:3] - nearest).max() < 1e-3
    assert np.abs(volume.values[tuple(nearest)] - expected.values[tuple(index)]).max() <= tolerance
    assert volume.values.size == expected.values.size
