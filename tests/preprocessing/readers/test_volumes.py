from __future__ import annotations

import gzip
from contextlib import suppress

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from upath import UPath

from preprocessing.case import BadFile
from preprocessing.readers.volumes import is_volume_file, read_label_volume, read_volume

ENDINGS = ("nii", "nii.gz", "nrrd", "nhdr", "mha", "mhd")
SHAPE = (5, 4, 3)
VALUES = np.random.default_rng(0).normal(0, 300, SHAPE).round().astype(np.int16)


def itk_image(values, spacing=(0.8, 1.5, 3.0), angles=(0.3, -0.5, 0.8), origin=(-120.0, 33.5, 710.25)):
    """`values` [i, j, k] as an oblique, anisotropic image."""
    image = sitk.GetImageFromArray(values.T)
    image.SetSpacing(spacing)
    image.SetDirection(Rotation.from_euler("xyz", angles).as_matrix().ravel())
    image.SetOrigin(origin)
    return image


def nifti(path, values, affine=None, kind=nibabel.Nifti1Image):
    nibabel.save(kind(values, np.diag([1.0, 2.0, 3.0, 1.0]) if affine is None else affine), path)
    return str(path)


def reason(file, read=read_volume):
    with pytest.raises(BadFile) as caught:
        read(str(file))
    assert caught.value.file == str(file)
    assert "\n" not in caught.value.reason
    return caught.value.reason


def header_of(path, offset, content):
    """Overwrite bytes of a file."""
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(content)] = content
    path.write_bytes(raw)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    spacing=st.tuples(*[st.floats(0.2, 8)] * 3),
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    origin=st.tuples(*[st.floats(-900, 900)] * 3),
    mirrored=st.booleans(),
)
def test_every_format_gives_the_world_that_simpleitk_sees(tmp_path, spacing, angles, origin, mirrored):
    image = itk_image(VALUES, spacing, angles, origin)
    if mirrored:  # left-handed voxel axes
        image.SetDirection((np.reshape(image.GetDirection(), (3, 3)) * [1, -1, 1]).ravel())
    for ending in ENDINGS:
        sitk.WriteImage(image, tmp_path / f"scan.{ending}")
        volume = read_volume(str(tmp_path / f"scan.{ending}"))
        assert volume.grid.shape == volume.values.shape == SHAPE
        assert volume.values.dtype == np.float32
        assert volume.dtype == "int16"
        assert volume.grid.spacing == pytest.approx(spacing, rel=1e-5)
        for index in [(0, 0, 0), (4, 0, 0), (0, 3, 0), (0, 0, 2), (2, 1, 1)]:
            x, y, z = image.TransformIndexToPhysicalPoint(index)
            # 1e-3 mm: NIfTI stores the affine in float32
            assert volume.grid.affine @ (*index, 1) == pytest.approx((-x, -y, z, 1), abs=1e-3)
            assert volume.values[index] == image.GetPixel(index)


def test_a_voxel_in_the_right_front_upper_corner_of_the_patient(tmp_path):
    """Worked out by hand: ITK's x grows to the left and y to the back, ours to the right and to the front."""
    sitk.WriteImage(itk_image(VALUES, (1, 2, 3), (0, 0, 0), (10, 20, 30)), tmp_path / "scan.nrrd")
    volume = read_volume(str(tmp_path / "scan.nrrd"))
    assert volume.grid.affine.tolist() == [[-1, 0, 0, -10], [0, -2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]]


def test_nifti_keeps_its_header_codes_and_applies_its_slope(tmp_path):
    image = nibabel.Nifti1Image(VALUES, np.diag([-1.0, 2.0, 3.0, 1.0]))
    image.header.set_slope_inter(0.5, -7)
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 4)
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(tmp_path / "scan.nii.gz")
    with gzip.open(tmp_path / "scan.nii.gz") as stream:  # nibabel scales when it writes: look at what is stored
        stored = np.frombuffer(stream.read()[352:], "<i2").reshape(SHAPE, order="F")
    volume = read_volume(str(tmp_path / "scan.nii.gz"))
    assert np.array_equal(volume.values, stored * 0.5 - 7)
    assert volume.header == {"qform_code": 1, "sform_code": 4, "xyzt_units": 2 | 8}
    assert volume.dtype == "int16"


def test_nifti_2_zipped_without_saying_so_and_big_endian(tmp_path):
    expected = VALUES.astype(np.float32)
    nifti(tmp_path / "two.nii", VALUES, kind=nibabel.Nifti2Image)
    (tmp_path / "zipped.nii").write_bytes(gzip.compress((tmp_path / "two.nii").read_bytes()))
    big = nibabel.Nifti1Image(VALUES, np.eye(4), nibabel.Nifti1Header(endianness=">"))
    big.to_filename(tmp_path / "big.nii")
    (tmp_path / "plain.nii.gz").write_bytes((tmp_path / "big.nii").read_bytes())
    for name in ("two.nii", "zipped.nii", "big.nii", "plain.nii.gz"):
        assert np.array_equal(read_volume(str(tmp_path / name)).values, expected)


def test_nifti_in_micrometres_becomes_millimetres(tmp_path):
    image = nibabel.Nifti1Image(VALUES, np.diag([50.0, 60.0, 70.0, 1.0]))
    image.header.set_xyzt_units("micron")
    image.to_filename(tmp_path / "mouse.nii")
    volume = read_volume(str(tmp_path / "mouse.nii"))
    assert volume.grid.spacing == pytest.approx((0.05, 0.06, 0.07))
    assert volume.header["xyzt_units"] == 2


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "mha"])
def test_a_fourth_axis_of_one_image_is_dropped(tmp_path, ending):
    if ending == "nii.gz":
        nifti(tmp_path / "scan.nii.gz", VALUES[..., None])
    else:
        sitk.WriteImage(sitk.JoinSeries([itk_image(VALUES)]), tmp_path / f"scan.{ending}")
    volume = read_volume(str(tmp_path / f"scan.{ending}"))
    assert np.array_equal(volume.values, VALUES)
    assert volume.grid.affine.shape == (4, 4)


@pytest.mark.parametrize("ending", ENDINGS)
def test_volumes_from_a_remote_file_system(tmp_path, ending):
    sitk.WriteImage(itk_image(VALUES), tmp_path / f"scan.{ending}")
    remote = UPath("memory://volumes")
    remote.mkdir(exist_ok=True)
    for file in tmp_path.iterdir():
        (remote / file.name).write_bytes(file.read_bytes())
    there, here = read_volume(f"memory://volumes/scan.{ending}"), read_volume(str(tmp_path / f"scan.{ending}"))
    assert np.array_equal(there.values, here.values)
    assert np.array_equal(there.grid.affine, here.grid.affine)
    assert there.file == f"memory://volumes/scan.{ending}"
    assert reason(f"memory://volumes/none.{ending}") == "the file does not exist"


def test_a_remote_header_may_not_name_a_file_elsewhere():
    UPath("memory://volumes").mkdir(exist_ok=True)
    UPath("memory://volumes/far.mhd").write_bytes(b"ObjectType = Image\nElementDataFile = ../other/scan.raw\n")
    assert "its data file must lie beside it" in reason("memory://volumes/far.mhd")


def test_volumes_are_known_by_their_ending_or_as_a_folder(tmp_path):
    for name in ("a.nii", "a.NII.GZ", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"):
        assert is_volume_file(name)
    assert is_volume_file(str(tmp_path))
    assert is_volume_file(f"{tmp_path}#CT")
    for name in ("a.png", "a.gz", "a.dcm", "nii", str(tmp_path / "missing")):
        assert not is_volume_file(name)


def test_labels_of_any_type_that_holds_whole_numbers(tmp_path):
    ids = np.arange(60).reshape(SHAPE) % 5
    ids[0, 0, 0] = 255
    for dtype in (np.uint8, np.int16, np.float32, np.float64):
        volume = read_label_volume(nifti(tmp_path / "seg.nii.gz", ids.astype(dtype)))
        assert volume.values.dtype == np.uint8
        assert np.array_equal(volume.values, ids)
    sitk.WriteImage(itk_image(ids.astype(np.uint8)), tmp_path / "seg.nrrd")
    assert np.array_equal(read_label_volume(str(tmp_path / "seg.nrrd")).values, ids)
    assert not read_label_volume(nifti(tmp_path / "none.nii", np.zeros(SHAPE, np.uint8))).values.any()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([0.5, 1.25], "holds 0.5, 1.25:"),
        ([-1, 300], "holds -1, 300:"),
        ([256], "holds 256:"),
        (np.arange(7) + 0.5, "holds 0.5, 1.5, 2.5, 3.5, 4.5, ...:"),
    ],
)
def test_labels_that_are_no_class_ids(tmp_path, wrong, said):
    values = np.ones(SHAPE, np.float32)
    values.flat[: len(wrong)] = wrong
    file = nifti(tmp_path / "seg.nii.gz", values)
    assert said in reason(file, read_label_volume)
    assert reason(file, read_label_volume).endswith("class ids are whole numbers from 0 to 255")


@pytest.mark.parametrize("ending", ENDINGS)
def test_missing_empty_and_foreign_files(tmp_path, ending):
    file = tmp_path / f"scan.{ending}"
    assert reason(file) == "the file does not exist"
    file.write_bytes(b"")
    assert reason(file) == "the file is empty (0 bytes)"
    file.write_bytes(b"this is a letter to the clinic " * 20)
    assert "does not begin with such a header" in reason(file) or "is not a NIfTI file" in reason(file)
    file.write_bytes(bytes(1000))
    assert "does not begin with such a header" in reason(file) or "holds only zeros" in reason(file)
    file.unlink()
    file.mkdir()
    assert "is a folder" in reason(file)


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_that_are_cut_short(tmp_path, ending):
    image = itk_image(np.random.default_rng(1).normal(size=(30, 20, 10)).astype(np.float32))
    sitk.WriteImage(image, tmp_path / f"scan.{ending}")
    file = tmp_path / f"scan.{ending}"
    values = next((tmp_path / f"scan.{e}" for e in ("raw", "zraw") if (tmp_path / f"scan.{e}").exists()), file)
    whole = values.read_bytes()
    for length in (len(whole) // 2, len(whole) - 3):
        values.write_bytes(whole[:length])
        assert "cut short" in reason(file)
    if values != file:
        values.unlink()
        assert "data file scan.raw does not exist" in reason(file)


def test_a_cut_nifti_says_how_much_is_there(tmp_path):
    file = nifti(tmp_path / "scan.nii", VALUES)
    (tmp_path / "scan.nii").write_bytes((tmp_path / "scan.nii").read_bytes()[:400])
    assert reason(file) == "the file is cut short: its header promises 472 bytes, there are 400"  # 352 + 60 x 2


def test_a_damaged_gzip(tmp_path):
    nifti(tmp_path / "scan.nii.gz", VALUES)
    header_of(tmp_path / "scan.nii.gz", 60, b"\xff\xff\xff\xff")
    assert "the zipped file is damaged" in reason(tmp_path / "scan.nii.gz")


def test_a_header_with_an_unknown_type_of_values(tmp_path):
    nifti(tmp_path / "scan.nii", VALUES)
    header_of(tmp_path / "scan.nii", 70, b"\x63\x00")
    assert "unknown type of values (99)" in reason(tmp_path / "scan.nii")


def test_wrong_numbers_of_axes(tmp_path):
    series = np.zeros((4, 4, 3, 6), np.float32)
    assert "has 4 axes (4 x 4 x 3 x 6), a volume has 3" in reason(nifti(tmp_path / "a.nii", series))
    assert "has 2 axes (4 x 4)" in reason(nifti(tmp_path / "b.nii", series[..., 0, 0]))
    assert "single slice (4 x 4 x 1)" in reason(nifti(tmp_path / "c.nii", series[..., :1, 0]))
    sitk.WriteImage(sitk.GetImageFromArray(VALUES[..., 0]), tmp_path / "d.mha")
    assert "has 2 axes (4 x 5)" in reason(tmp_path / "d.mha")


def test_colours_are_no_volume(tmp_path):
    rgb = np.zeros(SHAPE, [(c, "u1") for c in "RGB"])
    assert "colours" in reason(nifti(tmp_path / "a.nii", rgb))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 4, 4, 3), np.uint8), isVector=True), tmp_path / "b.nrrd")
    assert "3 numbers a voxel" in reason(tmp_path / "b.nrrd")


def test_values_that_are_not_finite_are_counted(tmp_path):
    values = VALUES.astype(np.float32)
    values[0, 0, :2] = np.nan
    values[1, 1, 1] = -np.inf
    for read in (read_volume, read_label_volume):
        assert "3 of 60 voxels are not finite" in reason(nifti(tmp_path / "a.nii", values), read)


def test_a_blank_image(tmp_path):
    assert reason(nifti(tmp_path / "a.nii", np.full(SHAPE, -1000, np.int16))).endswith("every voxel is -1000")


def test_affines_that_place_nothing_in_space(tmp_path):
    flat = np.diag([1.0, 2.0, 3.0, 1.0])
    flat[:3, 2] = flat[:3, 0]  # slices stacked along the rows
    assert "determinant 0" in reason(nifti(tmp_path / "flat.nii", VALUES, flat))
    nifti(tmp_path / "zero.nii", VALUES)
    header_of(tmp_path / "zero.nii", 312, bytes(16))  # srow_z
    assert "determinant 0" in reason(tmp_path / "zero.nii")
    assert "1000 x 2000 x 3000 mm" in reason(nifti(tmp_path / "huge.nii", VALUES, np.diag([1e3, 2e3, 3e3, 1])))
    nifti(tmp_path / "nan.nii", VALUES)
    header_of(tmp_path / "nan.nii", 280, np.float32(np.nan).tobytes())  # srow_x
    assert "affine holds values that are not finite" in reason(tmp_path / "nan.nii")
    image = nibabel.Nifti1Image(VALUES, np.diag([1.0, 2.0, 3.0, 1.0]))
    image.set_sform(None, 0)
    image.set_qform(image.affine, 1)
    image.to_filename(tmp_path / "edges.nii")
    assert read_volume(str(tmp_path / "edges.nii")).grid.spacing == (1, 2, 3)
    header_of(tmp_path / "edges.nii", 76 + 8, bytes(4))  # pixdim[2]
    assert "determinant 0" in reason(tmp_path / "edges.nii")


def test_formats_that_are_not_known(tmp_path):
    (tmp_path / "scan.dcm").write_bytes(b"x")
    assert "the format .dcm is not known as a volume; known are .nii, .nii.gz," in reason(tmp_path / "scan.dcm")
    assert reason(tmp_path / "scan.xyz") == "the file does not exist"


def test_bytes_at_random_never_raise_anything_else(tmp_path):
    rng = np.random.default_rng(0)
    nifti(tmp_path / "a.nii", VALUES)
    sitk.WriteImage(itk_image(VALUES), tmp_path / "a.nrrd")
    for file, length in ((tmp_path / "a.nii", 348), (tmp_path / "a.nrrd", 500)):
        whole = file.read_bytes()
        for _ in range(60):
            header_of(file, int(rng.integers(length)), rng.bytes(2))
            with suppress(BadFile):
                read_volume(str(file))
            file.write_bytes(whole)


def test_real_volumes_read_as_nibabel_reads_them(brats_root, petct_root):
    files = [*sorted(brats_root.glob("*/*ABM*/*_[fs]*.nii.gz")), *sorted(petct_root.glob("*/STS-003*"))]
    assert len(files) == 5
    for file in files:
        label = "seg" in file.name or file.parent.name == "labelsTr"
        volume = (read_label_volume if label else read_volume)(str(file))
        image = nibabel.load(file)
        assert np.array_equal(volume.values, image.get_fdata(dtype=np.float32))
        assert np.array_equal(volume.grid.affine, image.affine)
        if label:
            assert set(np.unique(volume.values)) <= {0, 1, 2, 4}
