from __future__ import annotations

import os
from pathlib import Path

import pytest
from upath import UPath

from preprocessing.errors import ConfigError
from preprocessing.layouts import DataSettings, brats, hecktor, load_cases
from preprocessing.phantoms.volumes import write_hecktor_phantoms

MODALITIES = ["t1", "t1ce", "t2", "flair"]
OLD = ("_t1", "_t1ce", "_t2", "_flair", "_seg")
NEW = ("-t1n", "-t1c", "-t2w", "-t2f", "-seg")


def touch(root, *names):
    """Empty files: the layouts know files by their names and do not open them."""
    for name in names:
        file = Path(root) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def subject(root, folder, endings=OLD, suffix=".nii.gz", name=None):
    touch(root, *(f"{folder}/{name or os.path.basename(folder)}{ending}{suffix}" for ending in endings))


def inside(root, file):
    return os.path.relpath(file, root)


def refused(find, root):
    with pytest.raises(ConfigError) as caught:
        find(str(root))
    return caught.value.mistakes[0]


# HECKTOR


def test_hecktor_2022(tmp_path):
    for name in ("CHUM-001", "MDA-002"):
        touch(tmp_path, *(f"imagesTr/{name}__{part}.nii.gz" for part in ("PT", "CT")), f"labelsTr/{name}.nii.gz")
    touch(tmp_path, "imagesTs/USZ-003__CT.nii.gz", "imagesTs/USZ-003__PT.nii.gz", "hecktor2022_endpoint_training.csv")
    touch(tmp_path, "imagesTr/._CHUM-001__CT.nii.gz")  # left by a Mac
    touch(tmp_path, "imagesTr/CHUM-001__dosimetry_CT.nii.gz")  # for radiotherapy
    cases, rejected = load_cases(DataSettings(root=str(tmp_path), layout="hecktor"))
    assert not rejected
    assert [(c.id, c.group, c.stratum, c.split) for c in cases] == [
        ("CHUM-001", "CHUM-001", "CHUM", ""),
        ("MDA-002", "MDA-002", "MDA", ""),
        ("USZ-003", "USZ-003", "USZ", ""),
    ]
    assert [list(c.images) for c in cases] == [["CT", "PT"]] * 3
    assert [inside(tmp_path, file) for file in cases[0].files] == [
        "imagesTr/CHUM-001__CT.nii.gz",
        "imagesTr/CHUM-001__PT.nii.gz",
        "labelsTr/CHUM-001.nii.gz",
    ]
    assert cases[2].labels == ()


@pytest.mark.parametrize("folder", ["", "hecktor_nii/", "CHUM001/", "hecktor_nii/CHUM001/", "Hecktor_NII/chum001/"])
@pytest.mark.parametrize("label", ["gtvt", "ct_gtvt"])
def test_hecktor_2020_and_2021(tmp_path, folder, label):
    touch(tmp_path, *(f"{folder}CHUM001_{part}.nii.gz" for part in ("ct", "pt", label)))
    cases, rejected = hecktor.find(str(tmp_path))
    assert not rejected
    assert [(c.id, c.group, c.stratum) for c in cases] == [("CHUM001", "CHUM001", "CHUM")]
    assert [inside(tmp_path, file) for file in cases[0].files] == [
        f"{folder}CHUM001_{part}.nii.gz" for part in ("ct", "pt", label)
    ]


def test_hecktor_2025_has_a_folder_a_patient_and_other_volumes_beside_the_scan(tmp_path):
    names = ("CHUM-001__CT", "CHUM-001__PT", "CHUM-001", "CHUM-001__CTPlanning", "CHUM-001__dosimetry_CT")
    touch(tmp_path, *(f"CHUM-001/{name}.nii.gz" for name in names), "CHUM-002/CHUM-002__CT.nii.gz")
    cases, rejected = hecktor.find(str(tmp_path))
    assert [inside(tmp_path, file) for file in cases[0].files] == [f"CHUM-001/{name}.nii.gz" for name in names[:3]]
    assert [r.case for r in rejected] == ["CHUM-002"]


def test_hecktor_names_in_any_capitals_and_spelling(tmp_path):
    touch(tmp_path, "IMAGESTR/Chum-001__ct.NII.GZ", "IMAGESTR/chum-001__Pt.nii", "labelstr/CHUM_001.nii.gz")
    touch(tmp_path, "IMAGESTR/MDA_01_2__CT.nii", "IMAGESTR/MDA_01_2__PT.nii", "IMAGESTR/readme.txt")
    cases, rejected = hecktor.find(str(tmp_path))
    assert not rejected
    assert [(c.id, c.stratum, len(c.labels)) for c in cases] == [("Chum-001", "CHUM", 1), ("MDA_01_2", "MDA", 0)]


def test_hecktor_takes_one_of_two_copies_and_tells_of_a_second_one_elsewhere(tmp_path):
    touch(tmp_path, *(f"imagesTr/MDA-001__{part}" for part in ("CT.nii", "CT.nii.gz", "PT.nii.gz", "PT.nii")))
    touch(tmp_path, *(f"hecktor_nii/MDA001_{part}.nii.gz" for part in ("ct", "pt", "gtvt")))
    cases, rejected = hecktor.find(str(tmp_path))
    assert [(c.id, len(c.labels)) for c in cases] == [("MDA001", 1)]  # the one with a label
    assert [(r.case, inside(tmp_path, r.file)) for r in rejected] == [("MDA-001", "imagesTr/MDA-001__CT.nii.gz")]
    assert f"is a copy of the case in {tmp_path / 'hecktor_nii'}" in rejected[0].reason


def test_hecktor_rejects_what_is_not_complete(tmp_path):
    touch(tmp_path, "imagesTr/A-1__CT.nii.gz", "labelsTr/A-1.nii.gz")
    touch(tmp_path, "imagesTr/B-2__PT.nii.gz", "labelsTr/C-3.nii.gz")
    cases, rejected = hecktor.find(str(tmp_path))
    assert not cases
    assert [(r.case, inside(tmp_path, r.file), r.reason) for r in rejected] == [
        ("A-1", "imagesTr/A-1__CT.nii.gz", "not all modalities are there; missing: PT (A-1__PT.nii.gz)"),
        ("B-2", "imagesTr/B-2__PT.nii.gz", "not all modalities are there; missing: CT (B-2__CT.nii.gz)"),
        (
            "C-3",
            "labelsTr/C-3.nii.gz",
            "the label has no images; missing: CT (C-3__CT.nii.gz), PT (C-3__PT.nii.gz)",
        ),
    ]


@pytest.mark.parametrize(
    ("files", "root", "hint"),
    [
        (["a/b/imagesTr/X-1__CT.nii.gz"], ".", "a/b"),
        (["a/hecktor_nii/X1_ct.nii.gz"], ".", "a"),
        (["a/nifti/X1_ct.nii.gz"], ".", "a/nifti"),
        (["a/X-1/X-1_ct.nii.gz"], ".", "a"),
        (["imagesTr/X-1__CT.nii.gz", "labelsTr/X-1.nii.gz"], "imagesTr", "."),  # labels would be overlooked
        (["a/b/c/d/imagesTr/X-1__CT.nii.gz"], ".", None),  # too deep to be sought
        (["imagesTr/slice.png", "scan.nii.gz"], ".", None),
    ],
)
def test_hecktor_hints_at_the_folder_that_is_meant(tmp_path, files, root, hint):
    touch(tmp_path, *files)
    message = refused(hecktor.find, tmp_path / root)
    assert message.startswith("data.root: ")
    assert message.partition("; did you mean ")[2] == (f"{tmp_path / hint}?" if hint else "")


def test_hecktor_on_real_names(petct_root):
    cases, rejected = load_cases(DataSettings(root=str(petct_root), layout="hecktor"))
    assert not rejected
    assert len(cases) == 16
    for case in cases:
        assert (case.stratum, list(case.images), len(case.labels)) == ("STS", ["CT", "PT"], 1)
        assert all(os.path.isfile(file) and case.id in file for file in case.files)


# BraTS


def test_brats_finds_subjects_at_any_depth_whatever_the_year(tmp_path):
    subject(tmp_path, "MICCAI_BraTS_2018_Data_Training/HGG/Brats18_CBICA_ABM_1")
    subject(tmp_path, "MICCAI_BraTS_2018_Data_Training/LGG/Brats18_2013_2_1", suffix=".nii")
    subject(tmp_path, "BraTS20_Training_001", ("_T1", "_t1CE", "_T2", "_Flair", "_Seg"), ".NII")
    subject(tmp_path, "a/b/c/BraTS-GLI-00001-000", ("-t1n", "-T1C", "-t2W", "-t2f", "-seg"))
    subject(tmp_path, "a/b/c/BraTS-GLI-00001-001", NEW[:4])
    touch(tmp_path, "a/survival.csv", "__MACOSX/HGG/Brats18_X_Y_1/Brats18_X_Y_1_t1.nii.gz")
    cases, rejected = load_cases(DataSettings(root=str(tmp_path), layout="brats"))
    assert not rejected
    assert {c.id: (c.group, c.stratum, len(c.labels)) for c in cases} == {
        "Brats18_CBICA_ABM_1": ("CBICA_ABM", "HGG", 1),
        "Brats18_2013_2_1": ("2013_2", "LGG", 1),
        "BraTS20_Training_001": ("BraTS20_Training_001", "", 1),
        "BraTS-GLI-00001-000": ("BraTS-GLI-00001", "", 1),
        "BraTS-GLI-00001-001": ("BraTS-GLI-00001", "", 0),
    }
    by_id = {c.id: c for c in cases}
    folder = "a/b/c/BraTS-GLI-00001-000/BraTS-GLI-00001-000"
    assert {name: inside(tmp_path, file) for name, file in by_id["BraTS-GLI-00001-000"].images.items()} == {
        "t1": f"{folder}-t1n.nii.gz",
        "t1ce": f"{folder}-T1C.nii.gz",
        "t2": f"{folder}-t2W.nii.gz",
        "flair": f"{folder}-t2f.nii.gz",
    }
    assert all(list(c.images) == MODALITIES for c in cases)


def test_brats_years_share_patients(tmp_path):
    subject(tmp_path, "2017/HGG/Brats17_TCIA_607_1")
    subject(tmp_path, "2018/HGG/Brats18_TCIA02_607_1")
    subject(tmp_path, "2018/LGG/Brats18_cbica_abm_1")
    subject(tmp_path, "2019/LGG/BraTS19_CBICA_ABM_1")
    cases, rejected = brats.find(str(tmp_path))
    assert not rejected
    assert sorted(case.group for case in cases) == ["TCIA_607", "TCIA_607", "cbica_abm", "cbica_abm"]


@pytest.mark.parametrize("root", [".", "HGG", "HGG/Brats18_A_B_1"])
def test_brats_grade_from_the_root_itself(tmp_path, root):
    subject(tmp_path, "HGG/Brats18_A_B_1")
    (case,), _ = brats.find(str(tmp_path / root))
    assert case.stratum == ("" if root.endswith("_1") else "HGG")


def test_brats_takes_the_published_one_of_two_copies(tmp_path):
    for suffix in (".nii", ".nii.gz"):
        subject(tmp_path, "x/Brats18_A_B_1", suffix=suffix)
    touch(tmp_path, "x/Brats18_C_D_1/Brats18_C_D_1_t1.nii")
    subject(tmp_path, "x/Brats18_C_D_1", OLD[1:])
    cases, rejected = brats.find(str(tmp_path))
    assert not rejected
    assert [case.id for case in cases] == ["Brats18_A_B_1", "Brats18_C_D_1"]
    assert all(file.endswith(".nii.gz") for file in cases[0].files)
    assert cases[1].images["t1"].endswith("_t1.nii")


def test_brats_tells_of_a_second_copy_in_another_folder(tmp_path):
    subject(tmp_path, "a/Brats18_A_B_1", OLD[:3])
    subject(tmp_path, "b/BRATS18_A_B_1", OLD[:4])
    subject(tmp_path, "c/Brats18_A_B_1")
    subject(tmp_path, "d/Brats18_A_B_1")
    cases, rejected = brats.find(str(tmp_path))
    assert [inside(tmp_path, case.labels[0])[0] for case in cases] == ["c"]  # the first complete one with a label
    assert [inside(tmp_path, r.file)[0] for r in rejected] == ["d", "b", "a"]
    assert all(f"is a copy of the case in {tmp_path / 'c'}" in r.reason for r in rejected)


def test_brats_rejects_what_is_not_complete(tmp_path):
    subject(tmp_path, "Brats18_A_B_1", ("_t1", "_t2", "_seg"))
    subject(tmp_path, "BraTS-GLI-00002-000", ("-t1n", "-t1c", "-t2f"))
    subject(tmp_path, "Brats18_C_D_1", ("_seg",))
    cases, rejected = brats.find(str(tmp_path))
    assert not cases
    reasons = {r.case: r.reason for r in rejected}
    assert list(reasons) == ["BraTS-GLI-00002-000", "Brats18_A_B_1", "Brats18_C_D_1"]
    assert reasons["BraTS-GLI-00002-000"] == (
        "not all modalities are there; missing: t2 (BraTS-GLI-00002-000_t2.nii.gz or -t2w.nii.gz)"
    )
    assert "t1ce (Brats18_A_B_1_t1ce.nii.gz or -t1c.nii.gz), flair (" in reasons["Brats18_A_B_1"]
    assert reasons["Brats18_C_D_1"].startswith("the label has no images; missing: t1 (")


def test_brats_files_called_otherwise_than_their_folder(tmp_path):
    subject(tmp_path, "BraTS20_Training_355", OLD[:4], ".nii")
    touch(tmp_path, "BraTS20_Training_355/W39_1998.09.19_Segm.nii")
    for part in OLD:
        stem = "00000057_final" if part == "_seg" else "00000057_brain"
        touch(tmp_path, f"BraTS2021_00000/BraTS2021_00000{part}.nii/{stem}{part}.nii")  # wrapped by an unpacker
        touch(tmp_path, f"flat/BraTS2021_00007{part}/{stem}{part}.nii")
        touch(tmp_path, f"BraTS2021_00001/{stem}{part}.nii.gz")
        touch(tmp_path, f"patient 7/{part[1:]}.nii.gz")
    cases, rejected = brats.find(str(tmp_path))
    assert not rejected
    assert {c.id: len(c.labels) for c in cases} == {
        "BraTS20_Training_355": 1,
        "BraTS2021_00000": 1,
        "BraTS2021_00001": 1,
        "BraTS2021_00007": 1,
        "patient 7": 1,
    }
    for case in cases:
        assert all(Path(file).is_file() and case.id in file for file in case.files)


def test_brats_all_subjects_in_one_folder_are_not_mixed(tmp_path):
    subject(tmp_path, "BraTS2021_00001", name="BraTS2021_00001")
    subject(tmp_path, "BraTS2021_00001", OLD[:2], name="BraTS2021_00002")  # strayed into the folder of another
    subject(tmp_path, "BraTS-GLI-00003-000", OLD[:4], name="BraTS2021_00003")
    subject(tmp_path, "BraTS-GLI-00003-000", OLD[4:], name="BraTS2021_00004")
    for name in ("BraTS2021_00005", "BraTS2021_00006"):
        subject(tmp_path, "BraTS2021_Training_Data", name=name)
        for part in OLD:
            touch(tmp_path, f"by modality/{part[1:]}/{name}7{part}.nii.gz")
    cases, rejected = brats.find(str(tmp_path))
    assert [(c.id, len(c.labels)) for c in cases] == [
        ("BraTS2021_00001", 1), ("BraTS2021_00003", 0), ("BraTS2021_00005", 1), ("BraTS2021_000057", 1),
        ("BraTS2021_00006", 1), ("BraTS2021_000067", 1),
    ]  # fmt: skip
    assert [r.case for r in rejected] == ["BraTS2021_00002", "BraTS2021_00004"]
    for case in cases:
        assert all(case.id + "_" in os.path.basename(file) for file in case.files)


def test_brats_derived_images_do_not_replace_a_subjects_own(tmp_path):
    subject(tmp_path, "BraTS2021_00008")
    touch(tmp_path, "BraTS2021_00008/BraTS2021_00008_reg_t1.nii.gz")
    (case,), rejected = brats.find(str(tmp_path))
    assert os.path.basename(case.images["t1"]) == "BraTS2021_00008_t1.nii.gz"
    assert [r.case for r in rejected] == ["BraTS2021_00008_reg"]


def test_brats_folders_a_modality(tmp_path):
    for name in ("first", "second"):
        touch(tmp_path, *(f"study{part}/{name}{part}.nii.gz" for part in OLD))
    cases, rejected = brats.find(str(tmp_path))
    assert not rejected
    assert [case.id for case in cases] == ["first", "second"]
    assert all(f"/{case.id}_" in file for case in cases for file in case.files)


def test_brats_follows_links_once(tmp_path):
    subject(tmp_path, "store/Brats18_A_B_1")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "store")
    (tmp_path / "root" / "again").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "root")
    cases, rejected = brats.find(str(tmp_path / "root"))
    assert (len(cases), len(rejected)) == (1, 0)


def test_brats_root_without_brats_files(tmp_path):
    touch(tmp_path, "a/CHUM-001__CT.nii.gz", "a/t1.png", "flair.dcm")
    assert "there are 1 NIfTI files of other names" in refused(brats.find, tmp_path)
    assert "there are 0" in refused(brats.find, tmp_path / "nowhere")


def test_brats_on_real_names(brats_root):
    cases, rejected = load_cases(DataSettings(root=str(brats_root), layout="brats"))
    assert not rejected
    assert [(c.id, c.group, c.stratum, len(c.labels)) for c in cases] == [
        ("BraTS19_CBICA_ABM_1", "CBICA_ABM", "HGG", 1),
        ("Brats18_TCIA02_607_1", "TCIA_607", "HGG", 1),
    ]
    for case in cases:
        assert list(case.images) == MODALITIES
        for name, file in case.images.items():
            assert file.endswith(f"_{name}.nii.gz")


@pytest.mark.parametrize("layout", [brats, hecktor])
def test_a_folder_that_may_not_be_read_is_told(tmp_path, monkeypatch, layout):
    subject(tmp_path, "Brats18_A_B_1")
    (tmp_path / "locked").mkdir()
    kind = type(UPath(tmp_path))
    read = kind.iterdir

    def iterdir(folder):  # as for a user without rights; the superuser may read everything
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return read(folder)

    monkeypatch.setattr(kind, "iterdir", iterdir)
    assert f"the folder {tmp_path / 'locked'} may not be read" in refused(layout.find, tmp_path)


def test_some_modalities_of_a_layout_in_an_order_of_ones_own(tmp_path):
    write_hecktor_phantoms(str(tmp_path / "scans"), 3, 0)
    data = DataSettings(root=str(tmp_path / "scans"), layout="hecktor", modalities=("PT",))
    cases, _ = load_cases(data)
    assert {tuple(case.images) for case in cases} == {("PT",)}
    with pytest.raises(ConfigError, match="not every case has MR; PHA-001 has CT, PT"):
        load_cases(data.model_copy(update={"modalities": ("CT", "MR")}))
